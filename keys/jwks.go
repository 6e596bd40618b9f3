package keys

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// JWK is the public half of a key (RFC 7517, section 4). It has no field for a private
// member, so none can be published.
type JWK struct {
	KeyType   string    `json:"kty"`
	Curve     string    `json:"crv,omitempty"`
	X         string    `json:"x,omitempty"`
	Y         string    `json:"y,omitempty"`
	N         string    `json:"n,omitempty"`
	E         string    `json:"e,omitempty"`
	Use       string    `json:"use"` // always "sig"
	Algorithm Algorithm `json:"alg"`
	ID        string    `json:"kid"`           // RFC 7638 thumbprint
	PEM       string    `json:"pem,omitempty"` // SubjectPublicKeyInfo; not in RFC 7517, for clients without a JOSE library
}

// JWKSet is a set of keys (RFC 7517, section 5).
type JWKSet struct {
	Keys []JWK `json:"keys"`
}

// JWKS returns the public halves that verify tokens of a use: every phase except
// Revoked. With withPEM each also has its "pem".
func JWKS(ring Ring, use Use, withPEM bool) JWKSet {
	set := JWKSet{Keys: []JWK{}}
	for _, k := range ring.Keys {
		if k.Use == use && k.verifies() {
			j := jwk(k)
			if withPEM {
				j.PEM = string(publicPEM(k))
			}
			set.Keys = append(set.Keys, j)
		}
	}
	return set
}

func jwk(k Key) JWK {
	j := JWK{Use: "sig", Algorithm: k.Algorithm, ID: k.ID}
	switch p := k.Public.(type) {
	case *ecdsa.PublicKey:
		j.KeyType, j.Curve = "EC", "P-256"
		j.X, j.Y = coordinates(p)
	case *rsa.PublicKey:
		j.KeyType = "RSA"
		j.N, j.E = modulus(p)
	case ed25519.PublicKey: // RFC 8037, section 2
		j.KeyType, j.Curve, j.X = "OKP", "Ed25519", encode(p)
	}
	return j
}

func publicPEM(k Key) []byte {
	der, err := marshalPublic(k.Public)
	if err != nil { // see Ring.marshal
		panic("keys: " + err.Error())
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// PublicDocumentFile is the name of the PublicDocument in PublicFiles.
const PublicDocumentFile = "keys.json"

// PublicDocument is keys.json: the published state of a ring, for people and for monitoring.
type PublicDocument struct {
	Issuer     string        `json:"issuer"`
	Generation int64         `json:"generation"`
	Keys       []PublicState `json:"keys"`

	// Revoked lists the IDs of revoked keys, including remembered ones that are no longer in the ring.
	Revoked []string `json:"revoked,omitempty"`
}

// ErrRolledBack is in the chain of an error of PublicDocument.Check.
var ErrRolledBack = errors.New("an older key ring was restored")

// Check compares a ring with the published state, which may be that of a newer ring. It returns an error if the ring
// must not be used, because it would trust a revoked key, or sign with a key that verifiers cannot get. If the document
// is older than the ring, only its revoked keys count.
func (d PublicDocument) Check(ring Ring) error {
	phases := map[string]Phase{}
	for _, k := range d.Keys {
		phases[k.ID] = k.Phase
	}
	for _, k := range ring.Keys {
		switch {
		case k.verifies() && (phases[k.ID] == Revoked || slices.Contains(d.Revoked, k.ID)):
			return fmt.Errorf("keys: %w: the %s key %s is %s in the ring, generation %d, but was revoked by generation %d",
				ErrRolledBack, k.Use, k.ID, k.Phase.Public(), ring.Generation, d.Generation)
		case k.Phase == Signing && ring.Generation < d.Generation && phases[k.ID] != Signing:
			return fmt.Errorf("keys: %w: the %s key %s signs in the ring, generation %d, but no longer by generation %d",
				ErrRolledBack, k.Use, k.ID, ring.Generation, d.Generation)
		}
	}
	return nil
}

// PublicState is one key of a PublicDocument.
type PublicState struct {
	ID        string     `json:"kid"`
	Use       Use        `json:"kind"`
	Algorithm Algorithm  `json:"algorithm"`
	Phase     Phase      `json:"phase"`
	Since     time.Time  `json:"since"`
	Until     *time.Time `json:"until,omitempty"`
}

// PublicFiles returns the files that consumers mount: the access keys as jwks.json and one <kid>.pem each, and
// keys.json with the phase of every key of both uses, the issuer, and the generation of the ring. jwks has the same
// bytes as jwks.json: Envoy Gateway reads a ConfigMap's entry of that name. No other file is a JWK Set. The same ring
// gives the same bytes. revoked lists the IDs of remembered keys that were revoked before.
func PublicFiles(ring Ring, issuer string, revoked ...string) map[string][]byte {
	files := publicPEMs(ring, Access)
	set := document(JWKS(ring, Access, false))
	files["jwks"], files["jwks.json"] = set, set
	files[PublicDocumentFile] = document(publicDocument(ring, issuer, revoked))
	return files
}

// RefreshPublicFiles returns the refresh keys, as refresh.jwks.json and one <kid>.pem each. Only the gateway verifies
// refresh tokens, so they are apart from the files for consumers.
func RefreshPublicFiles(ring Ring) map[string][]byte {
	files := publicPEMs(ring, Refresh)
	files["refresh.jwks.json"] = document(JWKS(ring, Refresh, false))
	return files
}

func publicPEMs(ring Ring, use Use) map[string][]byte {
	files := map[string][]byte{}
	for _, k := range ring.Keys {
		if k.Use == use && k.verifies() {
			files[PublicFile(k.ID)] = publicPEM(k)
		}
	}
	return files
}

func publicDocument(ring Ring, issuer string, revoked []string) PublicDocument {
	states := []PublicState{}
	for _, k := range ring.Keys {
		state := PublicState{ID: k.ID, Use: k.Use, Algorithm: k.Algorithm, Phase: k.Phase.Public(), Since: whole(k.PhaseSince)}
		if !k.RemoveAfter.IsZero() {
			until := whole(k.RemoveAfter)
			state.Until = &until
		}
		states = append(states, state)
	}
	return PublicDocument{issuer, ring.Generation, states, ring.AllRevoked(revoked)}
}

// AllRevoked returns the given IDs of revoked keys, followed by those that are new in this ring.
func (r Ring) AllRevoked(before []string) []string {
	all := slices.Clone(before)
	for _, k := range r.Keys {
		if k.Phase == Revoked && !slices.Contains(all, k.ID) {
			all = append(all, k.ID)
		}
	}
	return all
}

// PublicFile returns the name under which the public half of a key is published.
func PublicFile(id string) string { return id + pemSuffix }

func document(v any) []byte {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil { // cannot happen with strings, numbers and times of a ring
		panic("keys: " + err.Error())
	}
	return append(text, '\n')
}
