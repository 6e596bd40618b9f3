package keys

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testPassphrase = "correct horse battery staple ∞"

// openssl runs the program that every consumer of the files has. It is not
// optional: that it reads what we write is part of the contract.
func openssl(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("openssl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
	return out
}

func write(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func samePair(t *testing.T, a Algorithm, got, want crypto.Signer) {
	t.Helper()
	if err := checkPair(a, got, want.Public()); err != nil {
		t.Error(err)
	}
}

func TestOpenSSLOpensWhatWeSeal(t *testing.T) {
	for _, a := range []Algorithm{ES256, RS256, EdDSA} {
		t.Run(string(a), func(t *testing.T) {
			private, err := generate(a)
			if err != nil {
				t.Fatal(err)
			}
			encrypted, err := realFactory.encrypt(private, testPassphrase)
			if err != nil {
				t.Fatal(err)
			}
			plain := openssl(t, "pkey", "-in", write(t, "sealed.pem", encrypted), "-passin", "pass:"+testPassphrase)
			block, _ := pem.Decode(plain)
			if block == nil {
				t.Fatalf("openssl wrote %s", plain)
			}
			parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			samePair(t, a, parsed.(crypto.Signer), private)

			e, err := parseEncrypted(encrypted)
			if err != nil {
				t.Fatal(err)
			}
			opened, err := e.open(testPassphrase)
			if err != nil {
				t.Fatal(err)
			}
			samePair(t, a, opened, private)
		})
	}
}

func TestWeOpenWhatOpenSSLSeals(t *testing.T) {
	for name, args := range map[string][]string{
		"PBKDF2 by default": {"-v2", "aes-256-cbc"},
		"PBKDF2 as ours":    {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256", "-iter", "600000"},
		"PBKDF2, SHA-512":   {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512", "-iter", "1000"},
		"PBKDF2, SHA-384":   {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA384"},
		"scrypt":            {"-v2", "aes-256-cbc", "-scrypt"},
		"scrypt, N=2^14":    {"-v2", "aes-256-cbc", "-scrypt", "-scrypt_N", "16384", "-scrypt_r", "8", "-scrypt_p", "5"},
	} {
		t.Run(name, func(t *testing.T) {
			private, err := generate(ES256)
			if err != nil {
				t.Fatal(err)
			}
			der, _ := x509.MarshalPKCS8PrivateKey(private)
			plain := write(t, "plain.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
			encrypted := openssl(t, append([]string{"pkcs8", "-topk8", "-in", plain, "-passout", "pass:" + testPassphrase}, args...)...)
			e, err := parseEncrypted(encrypted)
			if err != nil {
				t.Fatal(err)
			}
			opened, err := e.open(testPassphrase)
			if err != nil {
				t.Fatal(err)
			}
			samePair(t, ES256, opened, private)
			if _, err := e.open("another"); !errors.Is(err, errLocked) {
				t.Errorf("with another passphrase: %v", err)
			}
		})
	}
}

func TestSealingTwiceGivesOtherBytes(t *testing.T) {
	private, _ := generate(EdDSA)
	a, _ := modelFactory.encrypt(private, testPassphrase)
	b, _ := modelFactory.encrypt(private, testPassphrase)
	if bytes.Equal(a, b) {
		t.Error("the salt is not fresh")
	}
	if _, err := modelFactory.encrypt(private, ""); err == nil {
		t.Error("sealed with nothing")
	}
}

// A bad file is refused for what it is, and costs nothing.
func TestSealedFilesThatAreRefused(t *testing.T) {
	private, _ := generate(ES256)
	good, _ := modelFactory.encrypt(private, testPassphrase)
	block, _ := pem.Decode(good)
	der, _ := x509.MarshalPKCS8PrivateKey(private)
	asPEM := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}) }
	with := func(kdfOID asn1.ObjectIdentifier, kdf any, iv []byte, data []byte) []byte {
		t.Helper()
		k, err := identifier(kdfOID, kdf)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := identifier(oidAES256, iv)
		scheme, _ := identifier(oidPBES2, pbes2Params{KDF: k, Encryption: c})
		der, err := asn1.Marshal(encryptedPrivateKeyInfo{Algorithm: scheme, Data: data})
		if err != nil {
			t.Fatal(err)
		}
		return asPEM(der)
	}
	prf, _ := identifier(oidSHA256, asn1.NullRawValue)
	sha1, _ := identifier(asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 7}, asn1.NullRawValue)
	salt, iv, data := make([]byte, 16), make([]byte, 16), make([]byte, 32)

	for name, text := range map[string][]byte{
		"empty":           {},
		"no PEM":          []byte("hello"),
		"cut short":       good[:len(good)/2],
		"a byte missing":  good[:len(good)-30],
		"cut in the DER":  asPEM(block.Bytes[:len(block.Bytes)-1]),
		"trailing DER":    asPEM(append(bytes.Clone(block.Bytes), 0)),
		"two blocks":      append(bytes.Clone(good), good...),
		"a header":        pem.EncodeToMemory(&pem.Block{Type: pemType, Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: block.Bytes}),
		"not sealed":      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"too long":        append(bytes.Clone(good), bytes.Repeat([]byte("\n"), maxEncrypted)...),
		"no rounds":       with(oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 0, PRF: prf}, iv, data),
		"negative rounds": with(oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: -1, PRF: prf}, iv, data),
		"endless rounds":  with(oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 2_000_000_000, PRF: prf}, iv, data),
		"SHA-1":           with(oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 600_000, PRF: sha1}, iv, data),
		"default PRF":     with(oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 600_000}, iv, data),
		"no salt":         with(oidPBKDF2, pbkdf2Params{Rounds: 600_000, PRF: prf}, iv, data),
		"key of 16 bytes": with(oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 600_000, KeyLength: 16, PRF: prf}, iv, data),
		"short IV":        with(oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 600_000, PRF: prf}, iv[:8], data),
		"no data":         with(oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 600_000, PRF: prf}, iv, nil),
		"half a block":    with(oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 600_000, PRF: prf}, iv, data[:24]),
		"scrypt N huge":   with(oidScrypt, scryptParams{Salt: salt, N: 1 << 30, R: 8, P: 1}, iv, data),
		"scrypt N odd":    with(oidScrypt, scryptParams{Salt: salt, N: 12345, R: 8, P: 1}, iv, data),
		"scrypt N zero":   with(oidScrypt, scryptParams{Salt: salt, N: 0, R: 8, P: 1}, iv, data),
		"scrypt r huge":   with(oidScrypt, scryptParams{Salt: salt, N: 1 << 14, R: 1 << 30, P: 1}, iv, data),
		"scrypt p huge":   with(oidScrypt, scryptParams{Salt: salt, N: 1 << 14, R: 8, P: 1 << 30}, iv, data),
		"scrypt too much": with(oidScrypt, scryptParams{Salt: salt, N: 1 << 17, R: 8, P: 4}, iv, data),
		"another KDF":     with(asn1.ObjectIdentifier{1, 2, 3}, salt, iv, data),
	} {
		begin := time.Now()
		if _, err := parseEncrypted(text); err == nil {
			t.Errorf("%s: taken", name)
		}
		if d := time.Since(begin); d > 100*time.Millisecond {
			t.Errorf("%s: took %v", name, d)
		}
	}
}

// The bounds on what opening may cost are bounds in time, too.
func TestTheMostExpensiveFileThatIsTakenOpensInSeconds(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	derive, err := parseKDF(must(identifier(oidScrypt, scryptParams{Salt: make([]byte, 16), N: maxScryptN, R: 8, P: 2})))
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, err := derive(testPassphrase); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func FuzzParseSealed(f *testing.F) {
	private, _ := generate(ES256)
	good, _ := modelFactory.encrypt(private, testPassphrase)
	f.Add(good)
	f.Add(good[:100])
	f.Add([]byte(strings.Replace(string(good), "M", "N", 1)))
	block, _ := pem.Decode(good)
	for i := 0; i < len(block.Bytes); i += 7 {
		changed := bytes.Clone(block.Bytes)
		changed[i] ^= 0x41
		f.Add(pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: changed}))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := parseEncrypted(text)
		if err != nil {
			if e.derive != nil {
				t.Error("an error, and a way to go on")
			}
			return
		}
		if len(e.data)%16 != 0 || len(e.iv) != 16 {
			t.Errorf("%d bytes, IV of %d", len(e.data), len(e.iv))
		}
		// Not derived: within the bounds that may rightly take a second. What
		// comes after the derivation is below.
		e.derive = func(string) ([]byte, error) { return make([]byte, keySize), nil }
		if _, err := e.open("x"); err == nil {
			t.Skip("a key under a key of zeros; well done")
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	private, _ := generate(ES256)
	for b.Loop() {
		_, _ = realFactory.encrypt(private, testPassphrase)
	}
}
