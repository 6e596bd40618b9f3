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
)

// Kind is what a key signs. A key belongs to one kind for life: a token of one
// kind must never verify as the other (RFC 8725, section 3.12).
type Use string

// The two kinds of token, and so of key.
const (
	Access  Use = "access"
	Refresh Use = "refresh"
)

// Kinds lists every kind, in the order in which Next looks at them.
func Uses() []Use { return []Use{Access, Refresh} }

// setting is the name of the setting that holds the passphrase of a kind; it is
// named in errors, so that whoever reads them knows where to look.
func (k Use) setting() string {
	switch k {
	case Access:
		return "ACCESS_PASSPHRASE"
	case Refresh:
		return "REFRESH_PASSPHRASE"
	}
	return "the passphrase"
}

// Algorithm is a JWS algorithm (RFC 7518, section 3.1; RFC 8037). A key is used
// with exactly one, which the key says and never the token.
type Algorithm string

// The algorithms that a key may have.
const (
	ES256 Algorithm = "ES256" // ECDSA, P-256, SHA-256
	RS256 Algorithm = "RS256" // RSASSA-PKCS1-v1_5, SHA-256; new keys have 3072 bits
	EdDSA Algorithm = "EdDSA" // Ed25519
)

func (a Algorithm) known() bool { return a == ES256 || a == RS256 || a == EdDSA }

// Phase is where a key is in its life; doc.go shows the transitions.
type Phase string

// The phases of a key's life.
const (
	Published Phase = "Published" // verifiers get it; nobody signs with it yet
	Signing   Phase = "Signing"   // exactly one of each kind
	Retiring  Phase = "Retiring"  // verifies until the last token that it can have signed is dead
	Revoked   Phase = "Revoked"   // trusted by nobody; remembered so that it can be told what happened
)

// Key is a pair of one kind. The private half exists only sealed.
type Key struct {
	ID        string // RFC 7638 thumbprint of the public half (SHA-256, base64url); the "kid"
	Use       Use
	Algorithm Algorithm
	Phase     Phase
	Public    crypto.PublicKey // *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey

	// Sealed is the private half as PEM "ENCRYPTED PRIVATE KEY" (PKCS #8). Nil
	// once nobody has to sign with it any more (Retiring, Revoked).
	Encrypted []byte

	Created     time.Time // when it was generated
	PhaseSince  time.Time // when its present phase began
	RemoveAfter time.Time // Retiring, Revoked: when it is looked at again to be forgotten; else zero

	// Longest is the longest lifetime that a token signed by this key can have:
	// the longest that was configured while it was Signing. Zero before.
	MaxTokenLifetime time.Duration

	// Resealed says that the passphrase has changed since the key was generated,
	// so that a copy under the former one may exist. Such a key is replaced.
	Reencrypted bool

	// Confirmed says that the end of this wait (the lead, or Until) has been
	// reached once already; see the rule deadlineReached.
	DeadlineSeen bool
}

// verifies says whether tokens signed with the key are to be believed.
func (k Key) verifies() bool {
	return k.Phase == Published || k.Phase == Signing || k.Phase == Retiring
}

// needsPrivate says whether somebody signs with the key, now or later.
func (k Key) needsPrivate() bool { return k.Phase == Published || k.Phase == Signing }

// Sizes of RSA keys in bits. Less than 2048 is refused by RFC 7518, section
// 3.3; more than 8192 makes each verification a cost that an attacker chooses.
const (
	rsaBits    = 3072
	rsaMinBits = 2048
	rsaMaxBits = 8192
	rsaMinE    = 65537
)

// generate makes a new private half.
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

// checkPublic refuses a public half that does not fit the algorithm, or that is
// too weak to be trusted.
func checkPublic(a Algorithm, public crypto.PublicKey) error {
	switch a {
	case ES256:
		p, ok := public.(*ecdsa.PublicKey)
		if !ok {
			return fmt.Errorf("an ES256 key must be an elliptic curve key, and this is %T", public)
		}
		if p.Curve != elliptic.P256() {
			return fmt.Errorf("an ES256 key must be on the curve P-256, and this is on %s", p.Params().Name)
		}
		if _, err := p.ECDH(); err != nil { // off the curve, or the point at infinity
			return errors.New("the elliptic curve point is not on P-256")
		}
		return nil
	case RS256:
		p, ok := public.(*rsa.PublicKey)
		if !ok {
			return fmt.Errorf("an RS256 key must be an RSA key, and this is %T", public)
		}
		if bits := p.N.BitLen(); bits < rsaMinBits || bits > rsaMaxBits {
			return fmt.Errorf("an RSA key must have %d to %d bits, and this has %d", rsaMinBits, rsaMaxBits, bits)
		}
		if p.E < rsaMinE || p.E%2 == 0 || p.N.Bit(0) == 0 {
			return fmt.Errorf("the RSA modulus and exponent must be odd and the exponent at least %d; the exponent is %d", rsaMinE, p.E)
		}
		return nil
	case EdDSA:
		p, ok := public.(ed25519.PublicKey)
		if !ok || len(p) != ed25519.PublicKeySize {
			return fmt.Errorf("an EdDSA key must be an Ed25519 key, and this is %T", public)
		}
		return nil
	}
	return fmt.Errorf("algorithm %q is not one of ES256, RS256, EdDSA", string(a))
}

// thumbprint computes the RFC 7638 thumbprint: SHA-256 over the required
// members of the JWK in lexical order, without white space. The members are
// base64url and so need no escaping.
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

// encode is base64url without padding (RFC 7515, section 2).
func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// coordinates gives the point as base64url. Leading zeros stay: RFC 7518,
// section 6.2.1.2, wants the full size of a coordinate, 32 octets.
func coordinates(p *ecdsa.PublicKey) (x, y string) {
	point, err := p.Bytes() // 0x04 || X || Y
	if err != nil {         // refused by checkPublic before anything is kept
		return "", ""
	}
	return encode(point[1:33]), encode(point[33:65])
}

// modulus gives n and e as base64url of the shortest big-endian form (RFC 7518,
// sections 6.3.1.1 and 6.3.1.2).
func modulus(p *rsa.PublicKey) (n, e string) {
	return encode(p.N.Bytes()), encode(big.NewInt(int64(p.E)).Bytes())
}

// newKey makes a pair and seals its private half.
func newKey(factory keyFactory, use Use, a Algorithm, passphrase string, now time.Time) (Key, error) {
	private, err := factory.generate(a)
	if err != nil {
		return Key{}, fmt.Errorf("keys: generating an %s %s key: %w", a, use, err)
	}
	encrypted, err := factory.encrypt(private, passphrase)
	if err != nil {
		return Key{}, fmt.Errorf("keys: sealing a new %s key: %w", use, err)
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

// checkPair signs and verifies once. A private half that does not belong to the
// public one in the ring would sign tokens that nobody can verify.
func checkPair(a Algorithm, private crypto.Signer, public crypto.PublicKey) error {
	half, ok := public.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !half.Equal(private.Public()) {
		return errors.New("the private half does not belong to the public half in ring.json")
	}
	message := []byte("self-test of a signing key")
	digest := sha256.Sum256(message)
	good := false
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		signature, err := private.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return fmt.Errorf("self-test: %w", err)
		}
		good = ecdsa.VerifyASN1(p, digest[:], signature)
	case *rsa.PublicKey:
		signature, err := private.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return fmt.Errorf("self-test: %w", err)
		}
		good = rsa.VerifyPKCS1v15(p, crypto.SHA256, digest[:], signature) == nil
	case ed25519.PublicKey:
		signature, err := private.Sign(rand.Reader, message, crypto.Hash(0))
		if err != nil {
			return fmt.Errorf("self-test: %w", err)
		}
		good = ed25519.Verify(p, message, signature)
	}
	if !good {
		return fmt.Errorf("self-test: a signature of the %s key does not verify", a)
	}
	return nil
}

// marshalPublic gives the SubjectPublicKeyInfo (RFC 5280, section 4.1).
func marshalPublic(public crypto.PublicKey) ([]byte, error) { return x509.MarshalPKIXPublicKey(public) }
