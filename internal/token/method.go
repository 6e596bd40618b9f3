package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/auth-gateway/auth-gateway/keys"
)

// methodOf is the only place that maps an algorithm to code. The algorithm always comes from a key, never from a token.
func methodOf(a keys.Algorithm) jwt.SigningMethod {
	switch a {
	case keys.ES256:
		return deterministicES256{jwt.SigningMethodES256}
	case keys.RS256:
		return jwt.SigningMethodRS256
	case keys.EdDSA:
		return jwt.SigningMethodEdDSA
	}
	panic("token: no method for " + string(a)) // package keys defines no other
}

// deterministicES256 is ES256 with deterministic signatures (RFC 6979); those of golang-jwt
// have a random part. Verification is the same.
type deterministicES256 struct{ *jwt.SigningMethodECDSA }

// Sign returns R || S, 32 octets each (RFC 7518, section 3.4).
func (deterministicES256) Sign(text string, key any) ([]byte, error) {
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, jwt.ErrInvalidKeyType
	}
	digest := sha256.Sum256([]byte(text))
	der, err := private.Sign(nil, digest[:], crypto.SHA256) // nil: RFC 6979
	if err != nil {
		return nil, err
	}
	// Parse the Ecdsa-Sig-Value (RFC 3279, section 2.2.3) from the standard library. Its
	// integers have no leading zeros.
	var sequence cryptobyte.String
	var r, s []byte
	input := cryptobyte.String(der)
	if !input.ReadASN1(&sequence, asn1.SEQUENCE) || !sequence.ReadASN1Integer(&r) || !sequence.ReadASN1Integer(&s) ||
		len(r) > 32 || len(s) > 32 {
		return nil, errors.New("token: the ECDSA signature has an unexpected form")
	}
	signature := make([]byte, 64)
	copy(signature[32-len(r):], r)
	copy(signature[64-len(s):], s)
	return signature, nil
}
