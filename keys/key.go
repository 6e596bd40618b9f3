package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/auth-gateway/auth-gateway/keys/internal/pbes2"
)

// Use is what a key signs. A key has one use for life: a token of one use must never
// verify as the other (RFC 8725, section 3.12).
type Use string

// The uses of a key, and the kinds of token.
const (
	Access  Use = "access"
	Refresh Use = "refresh"
)

// Uses returns every use, in the order in which Next looks at them.
func Uses() []Use { return []Use{Access, Refresh} }

// setting returns the name of the setting with the passphrase of a use. Errors name it.
func (u Use) setting() string {
	switch u {
	case Access:
		return "ACCESS_PASSPHRASE"
	case Refresh:
		return "REFRESH_PASSPHRASE"
	}
	return "the passphrase"
}

// Algorithm is a JWS algorithm (RFC 7518, section 3.1; RFC 8037). A key is used with
// exactly one, which the key determines and never the token.
type Algorithm string

// The algorithms that a key may have.
const (
	ES256 Algorithm = "ES256" // ECDSA, P-256, SHA-256
	RS256 Algorithm = "RS256" // RSASSA-PKCS1-v1_5, SHA-256; new keys have 3072 bits
	EdDSA Algorithm = "EdDSA" // Ed25519
)

func (a Algorithm) known() bool { return a == ES256 || a == RS256 || a == EdDSA }

// Phase is a phase in the life of a key; doc.go shows the transitions.
type Phase string

// The phases of a key's life.
const (
	Generated Phase = "Generated" // to be published, but not yet seen everywhere
	Published Phase = "Published" // verifiers have it; it does not sign yet
	Signing   Phase = "Signing"   // exactly one key of each use
	Retiring  Phase = "Retiring"  // verifies until the last token that it may have signed expires
	Revoked   Phase = "Revoked"   // not trusted; kept so that its history can be shown
)

// Public returns the phase that consumers and people see. They get a key in the
// phases Generated and Published alike, so both are Published to them.
func (p Phase) Public() Phase {
	if p == Generated {
		return Published
	}
	return p
}

// Key is a key pair. Its private half exists only in encrypted form.
type Key struct {
	ID        string // RFC 7638 thumbprint of the public half (SHA-256, base64url); the "kid"
	Use       Use
	Algorithm Algorithm
	Phase     Phase
	Public    crypto.PublicKey // *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey

	// Encrypted is the private half as PEM "ENCRYPTED PRIVATE KEY" (PKCS #8). It is
	// nil once the key no longer signs (Retiring, Revoked).
	Encrypted []byte

	Created     time.Time // when the key was generated
	PhaseSince  time.Time // when its current phase began
	RemoveAfter time.Time // Retiring, Revoked: when it may be removed; zero in other phases

	// MaxTokenLifetime is the longest lifetime of a token signed by this key: the
	// longest that was configured while it was Signing. It is zero before.
	MaxTokenLifetime time.Duration

	// Reencrypted is set if the passphrase has changed since the key was generated. A
	// copy under the former passphrase may exist, so the key is replaced.
	Reencrypted bool

	// DeadlineSeen is set after the deadline of the current wait (the lead, or
	// RemoveAfter) has passed once; see the rule deadlineReached.
	DeadlineSeen bool
}

// verifies reports whether tokens signed with the key are valid.
func (k Key) verifies() bool { return k.waits() || k.Phase == Signing || k.Phase == Retiring }

// waits reports whether the key is to sign later.
func (k Key) waits() bool { return k.Phase == Generated || k.Phase == Published }

// needsPrivate reports whether the key signs, now or later.
func (k Key) needsPrivate() bool { return k.waits() || k.Phase == Signing }

// Sizes of RSA keys in bits. RFC 7518, section 3.3, forbids less than 2048. With more
// than 8192, an attacker could choose how expensive each verification is.
const (
	rsaBits    = 3072
	rsaMinBits = 2048
	rsaMaxBits = 8192
	rsaMinE    = 65537
)

// keyFactory creates keys. Tests replace it, because a simulation of years cannot pay
// for a real derivation at each step.
type keyFactory struct {
	generate func(Algorithm) (crypto.Signer, error)
	rounds   int // of PBKDF2, when a private half is encrypted
}

var realFactory = keyFactory{generate: generate, rounds: pbes2.Rounds}

// generate creates a private key.
func generate(a Algorithm) (crypto.Signer, error) {
	switch a {
	case ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RS256:
		return rsa.GenerateKey(rand.Reader, rsaBits)
	case EdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return nil, fmt.Errorf("keys: algorithm %q is not one of ES256, RS256, EdDSA", string(a))
}

// checkPublic rejects a public half that does not match the algorithm or is too weak.
func checkPublic(a Algorithm, public crypto.PublicKey) error {
	switch a {
	case ES256:
		p, ok := public.(*ecdsa.PublicKey)
		if !ok {
			return fmt.Errorf("an ES256 key must be an elliptic curve key, but is %T", public)
		}
		if p.Curve != elliptic.P256() {
			return fmt.Errorf("an ES256 key must be on the curve P-256, but is on %s", p.Params().Name)
		}
		if _, err := p.ECDH(); err != nil { // off the curve, or the point at infinity
			return errors.New("the elliptic curve point is not on P-256")
		}
		return nil
	case RS256:
		p, ok := public.(*rsa.PublicKey)
		if !ok {
			return fmt.Errorf("an RS256 key must be an RSA key, but is %T", public)
		}
		if bits := p.N.BitLen(); bits < rsaMinBits || bits > rsaMaxBits {
			return fmt.Errorf("an RSA key must have %d to %d bits, but has %d", rsaMinBits, rsaMaxBits, bits)
		}
		if p.E < rsaMinE || p.E%2 == 0 || p.N.Bit(0) == 0 {
			return fmt.Errorf("the RSA modulus and exponent must be odd, and the exponent at least %d, but it is %d",
				rsaMinE, p.E)
		}
		return nil
	case EdDSA:
		p, ok := public.(ed25519.PublicKey)
		if !ok || len(p) != ed25519.PublicKeySize {
			return fmt.Errorf("an EdDSA key must be an Ed25519 key, but is %T", public)
		}
		return nil
	}
	return fmt.Errorf("algorithm %q is not one of ES256, RS256, EdDSA", string(a))
}

// thumbprint computes the RFC 7638 thumbprint: SHA-256 over the required members of the JWK in lexical order, without
// white space. The members are base64url, so they need no escaping.
func thumbprint(public crypto.PublicKey) string {
	var text string
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		x, y := coordinates(p)
		text = `{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`
	case *rsa.PublicKey:
		n, e := modulus(p)
		text = `{"e":"` + e + `","kty":"RSA","n":"` + n + `"}`
	case ed25519.PublicKey:
		text = `{"crv":"Ed25519","kty":"OKP","x":"` + encode(p) + `"}`
	}
	sum := sha256.Sum256([]byte(text))
	return encode(sum[:])
}

// encode encodes base64url without padding (RFC 7515, section 2).
func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// coordinates returns the point as base64url. Leading zeros stay: RFC 7518, section
// 6.2.1.2, requires the full size of a coordinate, 32 octets.
func coordinates(p *ecdsa.PublicKey) (x, y string) {
	point, err := p.Bytes() // 0x04 || X || Y
	if err != nil {         // checkPublic rejects such a key first
		return "", ""
	}
	return encode(point[1:33]), encode(point[33:65])
}

// modulus returns n and e as base64url of the shortest big-endian form (RFC 7518, sections 6.3.1.1 and 6.3.1.2).
func modulus(p *rsa.PublicKey) (n, e string) {
	return encode(p.N.Bytes()), encode(big.NewInt(int64(p.E)).Bytes())
}

// newKey creates a key pair and encrypts its private half.
func newKey(factory keyFactory, use Use, a Algorithm, passphrase string, now time.Time) (Key, error) {
	private, err := factory.generate(a)
	if err != nil {
		return Key{}, fmt.Errorf("keys: generating an %s %s key: %w", a, use, err)
	}
	encrypted, err := pbes2.Encrypt(private, passphrase, factory.rounds)
	if err != nil {
		return Key{}, fmt.Errorf("keys: encrypting a new %s key: %w", use, err)
	}
	return Key{
		ID:         thumbprint(private.Public()),
		Use:        use,
		Algorithm:  a,
		Public:     private.Public(),
		Encrypted:  encrypted,
		Created:    now,
		PhaseSince: now,
	}, nil
}

// checkPair signs and verifies once. A private half that does not match the public
// half in the ring would sign tokens that no verifier accepts.
func checkPair(a Algorithm, private crypto.Signer, public crypto.PublicKey) error {
	half, ok := public.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !half.Equal(private.Public()) {
		return errors.New("the private half does not match the public half in ring.json")
	}
	message, options := []byte("self-test of a signing key"), crypto.SignerOpts(crypto.Hash(0))
	if a != EdDSA { // which signs the message itself
		digest := sha256.Sum256(message)
		message, options = digest[:], crypto.SHA256
	}
	signature, err := private.Sign(rand.Reader, message, options)
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	good := false
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(p, message, signature)
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(p, crypto.SHA256, message, signature) == nil
	case ed25519.PublicKey:
		good = ed25519.Verify(p, message, signature)
	}
	if !good {
		return fmt.Errorf("self-test: a signature of the %s key does not verify", a)
	}
	return nil
}

// marshalPublic returns the SubjectPublicKeyInfo (RFC 5280, section 4.1).
func marshalPublic(public crypto.PublicKey) ([]byte, error) { return x509.MarshalPKIXPublicKey(public) }
