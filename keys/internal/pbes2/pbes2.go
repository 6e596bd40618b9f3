// Package pbes2 encrypts and decrypts private keys in the form that openssl uses: PKCS #8 EncryptedPrivateKeyInfo (RFC
// 5958, section 3) under PBES2 (RFC 8018, section 6.2). `openssl pkey` reads it and `openssl pkcs8 -topk8` writes it.
// The standard library parses only the plain form, so the framing is here; every primitive comes from the standard
// library or golang.org/x/crypto.
package pbes2

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

// Rounds of PBKDF2-HMAC-SHA-256, as OWASP recommends. A derivation takes a fraction of a second.
const Rounds = 600_000

// Cost is a number of rounds.
type Cost int

const (
	pemType  = "ENCRYPTED PRIVATE KEY"
	saltSize = 16
	keySize  = 32 // AES-256

	// Limits when decrypting: a file must not cost minutes or gigabytes.
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

// Encrypt encrypts a private key under a passphrase, with a fresh salt and IV, and returns it as PEM. The key is
// derived with the given number of PBKDF2 rounds: Rounds, except in tests.
func Encrypt(private crypto.Signer, passphrase string, rounds int) ([]byte, error) {
	if passphrase == "" {
		return nil, errors.New("the passphrase is empty")
	}
	plain, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	defer clear(plain)

	salt, iv := make([]byte, saltSize), make([]byte, aes.BlockSize)
	rand.Read(salt) // never fails: crypto/rand ends the process if the system has no randomness
	rand.Read(iv)
	key, err := pbkdf2.Key(sha256.New, passphrase, salt, rounds, keySize)
	if err != nil {
		return nil, err
	}
	data := pad(plain)
	if err := crypt(key, iv, data, cipher.NewCBCEncrypter); err != nil {
		return nil, err
	}

	kdf, err := identifier(oidPBKDF2, pbkdf2Params{
		Salt: salt, Rounds: rounds,
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

// Key is an encrypted private key whose framing has been checked. Only a passphrase is missing.
type Key struct {
	derive func(passphrase string) ([]byte, error)
	iv     []byte
	data   []byte
}

// ErrPassphrase is the error of every wrong passphrase. A damaged ciphertext cannot be distinguished from one.
var ErrPassphrase = errors.New("the passphrase does not decrypt it")

// Parse checks the framing of an encrypted private key and the limits of its parameters. It is cheap.
func Parse(text []byte) (Key, error) {
	if len(text) > maxEncrypted {
		return Key{}, fmt.Errorf("it is longer than %d bytes", maxEncrypted)
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return Key{}, errors.New("it is not PEM, or is truncated")
	}
	if block.Type != pemType {
		return Key{}, fmt.Errorf("its PEM type is %.40q and must be %q; encrypt it with: "+
			"openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -iter 600000", block.Type, pemType)
	}
	if len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return Key{}, errors.New("it has more than one PEM block")
	}
	var info encryptedPrivateKeyInfo
	if err := unmarshal(block.Bytes, &info); err != nil {
		return Key{}, fmt.Errorf("it is not a PKCS #8 EncryptedPrivateKeyInfo, or is truncated: %w", err)
	}
	if !info.Algorithm.Algorithm.Equal(oidPBES2) {
		return Key{}, fmt.Errorf("it is encrypted with scheme %v; the scheme must be PBES2", info.Algorithm.Algorithm)
	}
	var scheme pbes2Params
	if err := unmarshal(info.Algorithm.Parameters.FullBytes, &scheme); err != nil {
		return Key{}, fmt.Errorf("its PBES2 parameters do not parse: %w", err)
	}
	k := Key{data: info.Data}
	if !scheme.Encryption.Algorithm.Equal(oidAES256) {
		return Key{}, fmt.Errorf("it is encrypted with %v; the cipher must be AES-256-CBC", scheme.Encryption.Algorithm)
	}
	if err := unmarshal(scheme.Encryption.Parameters.FullBytes, &k.iv); err != nil || len(k.iv) != aes.BlockSize {
		return Key{}, errors.New("its AES-256-CBC initialization vector is not 16 bytes")
	}
	if len(k.data) == 0 || len(k.data)%aes.BlockSize != 0 {
		return Key{}, errors.New("its ciphertext is not a whole number of AES blocks")
	}
	var err error
	k.derive, err = parseKDF(scheme.KDF)
	return k, err
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
			return nil, fmt.Errorf("its PBKDF2 rounds must be 1 to %d, but are %d", maxRounds, p.Rounds)
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
			return nil, fmt.Errorf("its scrypt parameters N=%d r=%d p=%d are out of bounds "+
				"(N must be a power of two up to %d, and 128*N*r at most 128 MiB)", p.N, p.R, p.P, maxScryptN)
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
		return fmt.Errorf("its salt must have 8 to %d bytes, but has %d", maxSalt, len(salt))
	}
	if keyLength != 0 && keyLength != keySize {
		return fmt.Errorf("its derived key must have %d bytes for AES-256, but has %d", keySize, keyLength)
	}
	return nil
}

// unmarshal is asn1.Unmarshal, but rejects trailing bytes.
func unmarshal(der []byte, into any) error {
	rest, err := asn1.Unmarshal(der, into)
	if err == nil && len(rest) > 0 {
		err = errors.New("trailing bytes")
	}
	return err
}

// Decrypt tries a passphrase. It costs one derivation.
func (k Key) Decrypt(passphrase string) (crypto.Signer, error) {
	derived, err := k.derive(passphrase)
	if err != nil {
		return nil, ErrPassphrase
	}
	plain := bytes.Clone(k.data)
	defer clear(plain)
	if err := crypt(derived, k.iv, plain, cipher.NewCBCDecrypter); err != nil {
		return nil, ErrPassphrase
	}
	// A padding oracle is no concern: a caller who can submit ciphertexts has the file and can guess offline.
	n := int(plain[len(plain)-1])
	if n < 1 || n > aes.BlockSize || !bytes.Equal(plain[len(plain)-n:], bytes.Repeat([]byte{byte(n)}, n)) {
		return nil, ErrPassphrase
	}
	parsed, err := x509.ParsePKCS8PrivateKey(plain[:len(plain)-n])
	if err != nil {
		return nil, ErrPassphrase
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key in it cannot sign")
	}
	return private, nil
}
