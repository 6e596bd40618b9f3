package keys

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/crypto/scrypt"
)

// The form of a sealed private half is PKCS #8 EncryptedPrivateKeyInfo (RFC
// 5958, section 3) under PBES2 (RFC 8018, section 6.2): what `openssl pkey`
// reads and `openssl pkcs8 -topk8` writes. The standard library parses the
// plain form only, so the framing is here; every primitive is its own.
const (
	pemType = "ENCRYPTED PRIVATE KEY"

	// sealRounds of PBKDF2-HMAC-SHA-256, as OWASP recommends. A derivation takes
	// a fraction of a second.
	encryptionRounds = 600_000
	saltSize         = 16
	keySize          = 32 // AES-256

	// Bounds when opening: a file must not be able to cost minutes or gigabytes.
	maxRounds     = 5_000_000
	maxSalt       = 1024
	maxScryptN    = 1 << 17
	maxScryptWork = 1 << 21 // N*r*p; 2^17*8*1 is half of it
	maxScryptMem  = 1 << 20 // N*r; 128 times this is 128 MiB
	maxEncrypted  = 16 << 10
)

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11} // RFC 7914, section 7
	oidSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}        // id-hmacWithSHA256
	oidSHA384 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 10}
	oidSHA512 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 11}
	oidAES256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42} // aes256-CBC-PAD
)

type encryptedPrivateKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type pbes2Params struct {
	KDF        pkix.AlgorithmIdentifier
	Encryption pkix.AlgorithmIdentifier
}

type pbkdf2Params struct {
	Salt      []byte
	Rounds    int
	KeyLength int                      `asn1:"optional"`
	PRF       pkix.AlgorithmIdentifier `asn1:"optional"`
}

type scryptParams struct {
	Salt      []byte
	N, R, P   int
	KeyLength int `asn1:"optional"`
}

// workshop makes and seals private halves. It is a seam for one reason: a
// simulation of years cannot pay for a real derivation at each step.
type keyFactory struct {
	generate func(Algorithm) (crypto.Signer, error)
	rounds   int
}

var realFactory = keyFactory{generate: generate, rounds: encryptionRounds}

// seal encrypts a private half under a passphrase with a fresh salt and IV.
func (factory keyFactory) encrypt(private crypto.Signer, passphrase string) ([]byte, error) {
	if passphrase == "" {
		return nil, errors.New("the passphrase is empty")
	}
	plain, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	defer clear(plain)

	salt, iv := make([]byte, saltSize), make([]byte, aes.BlockSize)
	rand.Read(salt) // never fails: crypto/rand ends the process where the system has no randomness
	rand.Read(iv)
	key, err := pbkdf2.Key(sha256.New, passphrase, salt, factory.rounds, keySize)
	if err != nil {
		return nil, err
	}
	data := pad(plain)
	if err := crypt(key, iv, data, cipher.NewCBCEncrypter); err != nil {
		return nil, err
	}

	kdf, err := identifier(oidPBKDF2, pbkdf2Params{
		Salt: salt, Rounds: factory.rounds,
		PRF: pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue},
	})
	if err != nil {
		return nil, err
	}
	encryption, err := identifier(oidAES256, iv)
	if err != nil {
		return nil, err
	}
	scheme, err := identifier(oidPBES2, pbes2Params{KDF: kdf, Encryption: encryption})
	if err != nil {
		return nil, err
	}
	der, err := asn1.Marshal(encryptedPrivateKeyInfo{Algorithm: scheme, Data: data})
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

func identifier(oid asn1.ObjectIdentifier, parameters any) (pkix.AlgorithmIdentifier, error) {
	der, err := asn1.Marshal(parameters)
	if err != nil {
		return pkix.AlgorithmIdentifier{}, err
	}
	return pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.RawValue{FullBytes: der}}, nil
}

// pad adds PKCS #7 padding (RFC 8018, section 6.1.1, step 4) in a new slice.
func pad(plain []byte) []byte {
	n := aes.BlockSize - len(plain)%aes.BlockSize
	return append(append(make([]byte, 0, len(plain)+n), plain...), bytes.Repeat([]byte{byte(n)}, n)...)
}

// crypt runs AES-CBC over data in place.
func crypt(key, iv, data []byte, mode func(cipher.Block, []byte) cipher.BlockMode) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	mode(block, iv).CryptBlocks(data, data)
	return nil
}

// envelope is a sealed private half whose framing has been checked: what is
// left to know is whether a passphrase opens it.
type encryptedKey struct {
	derive func(passphrase string) ([]byte, error)
	iv     []byte
	data   []byte
}

// errShut is the one outcome of every wrong passphrase. A damaged ciphertext
// cannot be told from it, and need not be.
var errLocked = errors.New("the passphrase does not open it")

// parseSealed checks the framing of a sealed private half and the bounds of its
// parameters, at no cost worth mentioning.
func parseEncrypted(text []byte) (encryptedKey, error) {
	if len(text) > maxEncrypted {
		return encryptedKey{}, fmt.Errorf("it is longer than %d bytes", maxEncrypted)
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return encryptedKey{}, errors.New("it is not PEM, or is cut short")
	}
	if block.Type != pemType {
		return encryptedKey{}, fmt.Errorf("its PEM type is %.40q where %q is needed; seal it with: openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -iter 600000", block.Type, pemType)
	}
	if len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return encryptedKey{}, errors.New("there is more in it than one PEM block")
	}
	var info encryptedPrivateKeyInfo
	if err := unmarshal(block.Bytes, &info); err != nil {
		return encryptedKey{}, fmt.Errorf("it is not a PKCS #8 EncryptedPrivateKeyInfo, or is cut short: %w", err)
	}
	if !info.Algorithm.Algorithm.Equal(oidPBES2) {
		return encryptedKey{}, fmt.Errorf("it is sealed with scheme %v where PBES2 is needed", info.Algorithm.Algorithm)
	}
	var scheme pbes2Params
	if err := unmarshal(info.Algorithm.Parameters.FullBytes, &scheme); err != nil {
		return encryptedKey{}, fmt.Errorf("its PBES2 parameters do not parse: %w", err)
	}
	e := encryptedKey{data: info.Data}
	if !scheme.Encryption.Algorithm.Equal(oidAES256) {
		return encryptedKey{}, fmt.Errorf("it is encrypted with %v where AES-256-CBC is needed", scheme.Encryption.Algorithm)
	}
	if err := unmarshal(scheme.Encryption.Parameters.FullBytes, &e.iv); err != nil || len(e.iv) != aes.BlockSize {
		return encryptedKey{}, errors.New("its AES-256-CBC initialization vector is not 16 bytes")
	}
	if len(e.data) == 0 || len(e.data)%aes.BlockSize != 0 {
		return encryptedKey{}, errors.New("its ciphertext is not whole AES blocks")
	}
	var err error
	e.derive, err = parseKDF(scheme.KDF)
	return e, err
}

func parseKDF(kdf pkix.AlgorithmIdentifier) (func(string) ([]byte, error), error) {
	switch {
	case kdf.Algorithm.Equal(oidPBKDF2):
		var p pbkdf2Params
		if err := unmarshal(kdf.Parameters.FullBytes, &p); err != nil {
			return nil, fmt.Errorf("its PBKDF2 parameters do not parse: %w", err)
		}
		var prf func() hash.Hash
		switch {
		case p.PRF.Algorithm.Equal(oidSHA256):
			prf = sha256.New
		case p.PRF.Algorithm.Equal(oidSHA384):
			prf = sha512.New384
		case p.PRF.Algorithm.Equal(oidSHA512):
			prf = sha512.New
		default: // absent means HMAC-SHA-1
			return nil, errors.New("its PBKDF2 does not use HMAC with SHA-256, SHA-384 or SHA-512")
		}
		if p.Rounds < 1 || p.Rounds > maxRounds {
			return nil, fmt.Errorf("its PBKDF2 rounds must be 1 to %d, and are %d", maxRounds, p.Rounds)
		}
		if err := checkDerivation(p.Salt, p.KeyLength); err != nil {
			return nil, err
		}
		return func(passphrase string) ([]byte, error) {
			return pbkdf2.Key(prf, passphrase, p.Salt, p.Rounds, keySize)
		}, nil
	case kdf.Algorithm.Equal(oidScrypt):
		var p scryptParams
		if err := unmarshal(kdf.Parameters.FullBytes, &p); err != nil {
			return nil, fmt.Errorf("its scrypt parameters do not parse: %w", err)
		}
		// Each factor is bounded before any product is formed, so none overflows.
		if p.N < 2 || p.N > maxScryptN || p.N&(p.N-1) != 0 || p.R < 1 || p.R > 64 || p.P < 1 || p.P > 64 ||
			p.N*p.R > maxScryptMem || p.N*p.R*p.P > maxScryptWork {
			return nil, fmt.Errorf("its scrypt parameters N=%d r=%d p=%d are out of bounds (N a power of two up to %d, 128*N*r up to 128 MiB)", p.N, p.R, p.P, maxScryptN)
		}
		if err := checkDerivation(p.Salt, p.KeyLength); err != nil {
			return nil, err
		}
		return func(passphrase string) ([]byte, error) {
			return scrypt.Key([]byte(passphrase), p.Salt, p.N, p.R, p.P, keySize)
		}, nil
	}
	return nil, fmt.Errorf("its key derivation %v is neither PBKDF2 nor scrypt", kdf.Algorithm)
}

func checkDerivation(salt []byte, keyLength int) error {
	if len(salt) < 8 || len(salt) > maxSalt {
		return fmt.Errorf("its salt must have 8 to %d bytes, and has %d", maxSalt, len(salt))
	}
	if keyLength != 0 && keyLength != keySize {
		return fmt.Errorf("its derived key must have %d bytes for AES-256, and has %d", keySize, keyLength)
	}
	return nil
}

// unmarshal is asn1.Unmarshal that takes no trailing bytes.
func unmarshal(der []byte, into any) error {
	rest, err := asn1.Unmarshal(der, into)
	if err == nil && len(rest) > 0 {
		err = errors.New("trailing bytes")
	}
	return err
}

// open tries a passphrase. It costs one derivation.
func (e encryptedKey) open(passphrase string) (crypto.Signer, error) {
	key, err := e.derive(passphrase)
	if err != nil {
		return nil, errLocked
	}
	plain := bytes.Clone(e.data)
	defer clear(plain)
	if err := crypt(key, e.iv, plain, cipher.NewCBCDecrypter); err != nil {
		return nil, errLocked
	}
	// There is no oracle to hide here: whoever can submit ciphertexts and see
	// the outcome has the file and can guess at leisure.
	n := int(plain[len(plain)-1])
	if n < 1 || n > aes.BlockSize || !bytes.Equal(plain[len(plain)-n:], bytes.Repeat([]byte{byte(n)}, n)) {
		return nil, errLocked
	}
	parsed, err := x509.ParsePKCS8PrivateKey(plain[:len(plain)-n])
	if err != nil {
		return nil, errLocked
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("it holds a key that cannot sign")
	}
	return private, nil
}
