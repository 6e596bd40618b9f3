package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// signer signs with the key of a release, as cosign does: ECDSA over SHA-256, in ASN.1.
type signer struct {
	key    *ecdsa.PrivateKey
	public []byte // as PEM
}

// The variables with the passphrase of the key. The first is that of cosign.
const (
	passwordVariable     = "COSIGN_PASSWORD"
	passwordFileVariable = "RELEASE_KEY_PASSWORD_FILE"
)

// loadSigner reads a private key: one of `cosign generate-key-pair`, or one without a passphrase in PKCS #8 or SEC 1.
func loadSigner(path string) (*signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("the key in %s: %w", path, err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return &signer{key: key, public: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})}, nil
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(text)
	if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam writes it first
		block, _ = pem.Decode(rest)
	}
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	content := block.Bytes
	switch block.Type {
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(content)
	case "PRIVATE KEY":
	case "ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY":
		password, err := password()
		if err != nil {
			return nil, err
		}
		if content, err = encrypted.Decrypt(content, password); err != nil {
			return nil, errors.New("it does not open with the passphrase in " + passwordVariable + " or " + passwordFileVariable)
		}
	default:
		return nil, fmt.Errorf("it is of the kind %q: make one with cosign generate-key-pair, or bring yours into its form "+
			"with cosign import-key-pair", block.Type)
	}
	key, err := x509.ParsePKCS8PrivateKey(content)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is %T: a release is signed with ECDSA, which cosign generate-key-pair makes", key)
	}
	return ec, nil
}

func password() ([]byte, error) {
	path := os.Getenv(passwordFileVariable)
	if path == "" {
		return []byte(os.Getenv(passwordVariable)), nil
	}
	text, err := os.ReadFile(path)
	line, _, _ := strings.Cut(string(text), "\n")
	return []byte(strings.TrimSuffix(line, "\r")), err
}

// sign returns a deterministic signature (RFC 6979), so that two releases of one commit are equal.
func (s *signer) sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	return s.key.Sign(nil, digest[:], crypto.SHA256)
}

func encoded(signature []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(nil, signature), '\n')
}

// Sign and KeyID let the library for DSSE envelopes use the key.
func (s *signer) Sign(_ context.Context, data []byte) ([]byte, error) { return s.sign(data) }
func (s *signer) KeyID() (string, error)                              { return "", nil }
