package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
)

// The algorithms of the gateway.
const (
	es256 = "ES256"
	rs256 = "RS256"
	eddsa = "EdDSA"
)

// strict refuses trailing bits that are not zero, which would allow several spellings of the same bytes (RFC 4648,
// section 3.5).
var strict = base64.RawURLEncoding.Strict()

// keySet is everything that depends on one document of a source. It never changes, except for its caches.
type keySet struct {
	issuer     string
	generation int64
	document   Document
	keys       map[string]*key   // by kid
	unusable   map[string]string // why a key of the set is not used, by kid

	// headers caches the headers of tokens that these keys signed, by their encoded text. All tokens of a key have
	// the same header.
	headers atomic.Pointer[map[string]*key]
	checked *tokenCache // nil if there is none
}

// key is a public key and the only algorithm that it verifies.
type key struct {
	id, algorithm string
	ecdsa         *ecdsa.PublicKey
	rsa           *rsa.PublicKey
	ed25519       ed25519.PublicKey
}

// maxSignature is the length of the longest signature, of an RSA key of 8192 bits.
const (
	maxSignature = 1024
	maxRSABits   = 8 * maxSignature
	minRSABits   = 2048
)

// signatureSize returns the length of a signature.
func (k *key) signatureSize() int {
	if k.rsa != nil {
		return k.rsa.Size()
	}
	return 64
}

// verify reports whether the signature of a text is that of the key.
func (k *key) verify(text, signature []byte) bool {
	switch {
	case len(signature) != k.signatureSize():
		return false
	case k.ed25519 != nil:
		return ed25519.Verify(k.ed25519, text, signature)
	case k.rsa != nil:
		digest := sha256.Sum256(text)
		return rsa.VerifyPKCS1v15(k.rsa, crypto.SHA256, digest[:], signature) == nil
	}
	digest := sha256.Sum256(text)
	var der [72]byte
	return ecdsa.VerifyASN1(k.ecdsa, digest[:], appendDER(der[:0], signature))
}

// appendDER appends the Ecdsa-Sig-Value (RFC 3279, section 2.2.3) of R || S (RFC 7518, section 3.4), which the standard
// library verifies.
func appendDER(der, signature []byte) []byte {
	der = append(der, 0x30, 0)
	for _, n := range [][]byte{signature[:32], signature[32:]} {
		for len(n) > 1 && n[0] == 0 {
			n = n[1:]
		}
		der = append(der, 2, byte(len(n)))
		if n[0] >= 0x80 {
			der[len(der)-1]++
			der = append(der, 0)
		}
		der = append(der, n...)
	}
	der[1] = byte(len(der) - 2)
	return der
}

// maxHeaders is how many headers a set caches. A key has one.
const maxHeaders = 32

// remember caches the header of a token whose signature is valid, so only the gateway can fill the cache.
func (s *keySet) remember(header string, k *key) {
	old := s.headers.Load()
	all := map[string]*key{strings.Clone(header): k}
	if old != nil {
		if len(*old) >= maxHeaders {
			return
		}
		maps.Copy(all, *old)
	}
	s.headers.CompareAndSwap(old, &all) // if another token was faster, the next one is remembered
}

// ids returns the IDs of the keys, in order.
func (s *keySet) ids() []string { return slices.Sorted(maps.Keys(s.keys)) }

// jwk is a public key in JSON (RFC 7517). The private members are read to refuse them.
type jwk struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	Y         string `json:"y"`
	N         string `json:"n"`
	E         string `json:"e"`
	D         string `json:"d"`
	K         string `json:"k"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	ID        string `json:"kid"`
}

// maxKeys limits the keys of a set. The gateway publishes at most a dozen.
const maxKeys = 100

// parseKeySet reads the JWK Set of a document. It ignores keys that it cannot use, as RFC 7517, section 5, asks.
func parseKeySet(d Document) (*keySet, *Error) {
	if err := looksLikeKeySet(d.JWKS); err != nil {
		return nil, err
	}
	var set struct {
		Keys    *[]jwk          `json:"keys"`
		KeyType string          `json:"kty"`
		Access  json.RawMessage `json:"access_token"`
	}
	if err := json.Unmarshal(d.JWKS, &set); err != nil {
		return nil, mistake(ReasonNotAKeySet, "the keys are not a JWK Set (RFC 7517): %v", err)
	}
	switch {
	case set.Keys == nil && set.Access != nil:
		return nil, mistake(ReasonNotAKeySet, "the keys are those of /tokens/keys; use /.well-known/jwks.json")
	case set.Keys == nil && set.KeyType != "":
		return nil, mistake(ReasonNotAKeySet, `the keys are a single JWK; a JWK Set is {"keys": [ … ]}`)
	case set.Keys == nil:
		return nil, mistake(ReasonNotAKeySet, "the keys are JSON but not a JWK Set: there is no member keys")
	case len(*set.Keys) == 0:
		return nil, mistake(ReasonEmptyKeySet, "the key set is empty, so no token can be verified")
	case len(*set.Keys) > maxKeys:
		return nil, mistake(ReasonTooLarge, "the key set has %d keys; the limit is %d", len(*set.Keys), maxKeys)
	}
	s := &keySet{issuer: d.Issuer, generation: d.Generation, document: d, keys: map[string]*key{}, unusable: map[string]string{}}
	var why string
	for _, j := range *set.Keys {
		if j.D != "" || j.K != "" {
			return nil, mistake(ReasonPrivateKey,
				"the key set has the private or symmetric key %s; publish only public keys, and replace this one now", quote(j.ID))
		}
		_, twice := s.keys[j.ID]
		k, reason := j.parse()
		switch {
		case twice:
			return nil, mistake(ReasonAmbiguousKeySet, "the key set has two keys with the kid %s", quote(j.ID))
		case slices.Contains(d.Revoked, j.ID):
			s.unusable[j.ID], why = "it was revoked", "every key was revoked"
		case reason != "":
			s.unusable[j.ID], why = reason, "the key "+quote(j.ID)+": "+reason
		default:
			s.keys[k.id] = k
		}
	}
	if len(s.keys) == 0 {
		return nil, mistake(ReasonNoUsableKey, "the key set has no key that can be used: %s", why)
	}
	return s, nil
}

// looksLikeKeySet names what is not even JSON.
func looksLikeKeySet(text []byte) *Error {
	text = bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")))
	switch {
	case len(text) == 0:
		return mistake(ReasonEmptyKeySet, "the key set is an empty text")
	case bytes.HasPrefix(text, []byte("-----BEGIN")):
		return mistake(ReasonPEM, "the keys are PEM; a JWK Set (jwks.json) is needed")
	case text[0] == '<':
		return mistake(ReasonHTML, "the keys are an HTML or XML page, such as a sign-in page or the error of a proxy, not a JWK Set")
	case text[0] != '{':
		return mistake(ReasonNotAKeySet, "the keys are not a JSON object, so they are not a JWK Set")
	}
	return nil
}

// parse returns the key, or why it cannot be used.
func (j jwk) parse() (*key, string) {
	k := &key{id: j.ID}
	var err error
	switch {
	case j.ID == "":
		return nil, "it has no kid"
	case j.Use != "" && j.Use != "sig":
		return nil, "its use is not sig"
	case j.KeyType == "EC" && j.Curve == "P-256":
		k.algorithm = es256
		k.ecdsa, err = j.parseEC()
	case j.KeyType == "RSA":
		k.algorithm = rs256
		k.rsa, err = j.parseRSA()
	case j.KeyType == "OKP" && j.Curve == "Ed25519":
		k.algorithm = eddsa
		var x []byte
		if x, err = decode(j.X, ed25519.PublicKeySize); err == nil {
			k.ed25519 = x
		}
	default:
		return nil, "it is neither EC with P-256, nor RSA, nor OKP with Ed25519"
	}
	if err != nil {
		return nil, err.Error()
	}
	if j.Algorithm != "" && j.Algorithm != k.algorithm {
		return nil, "its alg is " + quote(j.Algorithm) + ", and such a key is used with " + k.algorithm
	}
	return k, ""
}

func (j jwk) parseEC() (*ecdsa.PublicKey, error) {
	x, errX := decode(j.X, 32)
	y, errY := decode(j.Y, 32)
	if errX != nil || errY != nil {
		return nil, fmt.Errorf("x and y are not 32 bytes in base64url")
	}
	if _, err := ecdh.P256().NewPublicKey(slices.Concat([]byte{4}, x, y)); err != nil {
		return nil, fmt.Errorf("the point is not on P-256")
	}
	return &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).SetBytes(x), Y: new(big.Int).SetBytes(y)}, nil
}

func (j jwk) parseRSA() (*rsa.PublicKey, error) {
	n, errN := decode(j.N, 0)
	e, errE := decode(j.E, 0)
	if errN != nil || errE != nil || len(e) == 0 || len(e) > 4 {
		return nil, fmt.Errorf("n and e are not numbers in base64url")
	}
	k := &rsa.PublicKey{N: new(big.Int).SetBytes(n)}
	for _, b := range e {
		k.E = k.E<<8 | int(b)
	}
	switch bits := k.N.BitLen(); {
	case bits < minRSABits || bits > maxRSABits:
		return nil, fmt.Errorf("its modulus has %d bits; RSA keys of %d to %d bits are used", bits, minRSABits, maxRSABits)
	case k.E < 3 || k.E > 1<<31-1 || k.E%2 == 0 || k.N.Bit(0) == 0:
		return nil, fmt.Errorf("its modulus or exponent is not that of an RSA key")
	}
	return k, nil
}

// decode decodes base64url. A length of 0 accepts any.
func decode(text string, length int) ([]byte, error) {
	b, err := strict.DecodeString(text)
	if err == nil && length != 0 && len(b) != length {
		err = fmt.Errorf("the key does not have %d bytes", length)
	}
	return b, err
}
