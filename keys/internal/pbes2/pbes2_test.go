package pbes2

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
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

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const testPassphrase = "correct horse battery staple ∞"

// openssl runs openssl. Without openssl the test fails, because the contract is that openssl can read these files.
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
	testenv.NoError(t, os.WriteFile(path, text, 0o600))
	return path
}

func generate(t testing.TB, algorithm string) crypto.Signer {
	t.Helper()
	var private crypto.Signer
	var err error
	switch algorithm {
	case "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "RS256":
		private, err = rsa.GenerateKey(rand.Reader, 3072)
	case "EdDSA":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func samePair(t *testing.T, got, want crypto.Signer) {
	t.Helper()
	if private, ok := got.(interface{ Equal(crypto.PrivateKey) bool }); !ok || !private.Equal(want) {
		t.Error("the private keys differ")
	}
}

func TestEncryptWritesWhatOpenSSLOpens(t *testing.T) {
	for _, algorithm := range []string{"ES256", "RS256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			private := generate(t, algorithm)
			encrypted := testenv.Must(Encrypt(private, testPassphrase, Rounds))(t)
			plain := openssl(t, "pkey", "-in", write(t, "encrypted.pem", encrypted), "-passin", "pass:"+testPassphrase)
			block, _ := pem.Decode(plain)
			if block == nil {
				t.Fatalf("openssl wrote %s", plain)
			}
			parsed := testenv.Must(x509.ParsePKCS8PrivateKey(block.Bytes))(t)
			samePair(t, parsed.(crypto.Signer), private)

			e := testenv.Must(Parse(encrypted))(t)
			opened := testenv.Must(e.Decrypt(testPassphrase))(t)
			samePair(t, opened, private)
		})
	}
}

func TestDecryptOpensWhatOpenSSLWrites(t *testing.T) {
	for name, args := range map[string][]string{
		"PBKDF2 by default": {"-v2", "aes-256-cbc"},
		"PBKDF2 as ours":    {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256", "-iter", "600000"},
		"PBKDF2, SHA-512":   {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512", "-iter", "1000"},
		"PBKDF2, SHA-384":   {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA384"},
		"scrypt":            {"-v2", "aes-256-cbc", "-scrypt"},
		"scrypt, N=2^14":    {"-v2", "aes-256-cbc", "-scrypt", "-scrypt_N", "16384", "-scrypt_r", "8", "-scrypt_p", "5"},
	} {
		t.Run(name, func(t *testing.T) {
			private := generate(t, "ES256")
			der, _ := x509.MarshalPKCS8PrivateKey(private)
			plain := write(t, "plain.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
			encrypted := openssl(t, append([]string{"pkcs8", "-topk8", "-in", plain, "-passout", "pass:" + testPassphrase}, args...)...)
			e := testenv.Must(Parse(encrypted))(t)
			opened := testenv.Must(e.Decrypt(testPassphrase))(t)
			samePair(t, opened, private)
			if _, err := e.Decrypt("another"); !errors.Is(err, ErrPassphrase) {
				t.Errorf("with another passphrase: %v", err)
			}
		})
	}
}

func TestEncryptTwiceGivesOtherBytes(t *testing.T) {
	private := generate(t, "EdDSA")
	a, _ := Encrypt(private, testPassphrase, 1)
	b, _ := Encrypt(private, testPassphrase, 1)
	if bytes.Equal(a, b) {
		t.Error("the salt is not fresh")
	}
	if _, err := Encrypt(private, "", 1); err == nil {
		t.Error("encrypted with an empty passphrase")
	}
}

// A bad file is refused before anything is derived.
func TestParseRefusesBadFiles(t *testing.T) {
	private := generate(t, "ES256")
	good, _ := Encrypt(private, testPassphrase, 1)
	block, _ := pem.Decode(good)
	der, _ := x509.MarshalPKCS8PrivateKey(private)
	asPEM := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}) }
	with := func(kdfOID asn1.ObjectIdentifier, kdf any, iv []byte, data []byte) []byte {
		t.Helper()
		k := testenv.Must(identifier(kdfOID, kdf))(t)
		c, _ := identifier(oidAES256, iv)
		scheme, _ := identifier(oidPBES2, pbes2Params{KDF: k, Encryption: c})
		der := testenv.Must(asn1.Marshal(encryptedPrivateKeyInfo{Algorithm: scheme, Data: data}))(t)
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
		"not encrypted":   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
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
		if _, err := Parse(text); err == nil {
			t.Errorf("%s: the file was accepted", name)
		}
		if d := time.Since(begin); d > 100*time.Millisecond {
			t.Errorf("%s: Parse took %v", name, d)
		}
	}
}

// The most expensive parameters that Parse accepts take seconds, not minutes.
func TestDecryptTakesSecondsAtMost(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	derive, err := parseKDF(must(identifier(oidScrypt, scryptParams{Salt: make([]byte, 16), N: maxScryptN, R: 8, P: 2})))
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	testenv.NoError(t, testenv.Err(derive(testPassphrase)))
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("the derivation took %v", d)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func FuzzParse(f *testing.F) {
	private := generate(f, "ES256")
	good, _ := Encrypt(private, testPassphrase, 1)
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
		e, err := Parse(text)
		if err != nil {
			if e.derive != nil {
				t.Error("Parse returned an error and a usable key")
			}
			return
		}
		if len(e.data)%16 != 0 || len(e.iv) != 16 {
			t.Errorf("%d bytes of data, an IV of %d bytes", len(e.data), len(e.iv))
		}
		// A derivation within the limits may take a second, so it is replaced here.
		e.derive = func(string) ([]byte, error) { return make([]byte, keySize), nil }
		if _, err := e.Decrypt("x"); err == nil {
			t.Skip("the fuzzer found a private key that is encrypted with a key of zeros")
		}
	})
}

func BenchmarkEncrypt(b *testing.B) {
	private := generate(b, "ES256")
	for b.Loop() {
		_, _ = Encrypt(private, testPassphrase, Rounds)
	}
}
