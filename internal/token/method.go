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

// methodOf is the one place where an algorithm becomes code. There is no way
// from a token to it: only from a key.
func methodOf(a keys.Algorithm) jwt.SigningMethod {
	switch a {
	case keys.ES256:
		return deterministicES256{jwt.SigningMethodES256}
	case keys.RS256:
		return jwt.SigningMethodRS256
	case keys.EdDSA:
		return jwt.SigningMethodEdDSA
	}
	panic("token: no method for " + string(a)) // package keys knows no other
}

// deterministicES256 is ES256 whose signatures follow from key and message (RFC
// 6979), where golang-jwt's have a random part. Verification is the same.
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
	// Ecdsa-Sig-Value (RFC 3279, section 2.2.3), as the standard library just
	// wrote it: the integers come without leading zeros.
	var sequence cryptobyte.String
	var r, s []byte
	input := cryptobyte.String(der)
	if !input.ReadASN1(&sequence, asn1.SEQUENCE) || !sequence.ReadASN1Integer(&r) || !sequence.ReadASN1Integer(&s) ||
		len(r) > 32 || len(s) > 32 {
		return nil, errors.New("token: an ECDSA signature of an unexpected form")
	}
	signature := make([]byte, 64)
	copy(signature[32-len(r):], r)
	copy(signature[64-len(s):], s)
	return signature, nil
}
