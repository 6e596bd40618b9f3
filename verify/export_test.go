package verify

import (
	"encoding/asn1"
	"math/big"
	"time"
)

// KeyForTest returns the only key of a set.
func KeyForTest(jwks []byte) (*key, error) {
	set, err := parseKeySet(Document{Issuer: "x", JWKS: jwks})
	if err != nil {
		return nil, err
	}
	return set.keys[set.ids()[0]], nil
}

// SignatureForTest runs the checks before those of the claims.
func SignatureForTest(k *key, token string) bool {
	first, last, err := split(token)
	if err != nil {
		return false
	}
	text, err := decodePart("the header", token[:first], []byte(token[:first]))
	if err != nil {
		return false
	}
	h := parseHeader(text)
	signature, failure := strict.DecodeString(token[last+1:])
	return failure == nil && !h.malformed && !h.critical && h.algorithm == k.algorithm && k.verify([]byte(token[:last]), signature)
}

// HeadersForTest returns how many headers are cached.
func (v *Verifier) HeadersForTest() int {
	if all := v.keeper.set.Load().headers.Load(); all != nil {
		return len(*all)
	}
	return 0
}

// DERForTest encodes R || S.
func DERForTest(signature []byte) []byte { return appendDER(nil, signature) }

// MarshalDERForTest encodes R and S with the standard library.
func MarshalDERForTest(r, s *big.Int) []byte {
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	if err != nil {
		panic(err)
	}
	return der
}

// ValidForTest reports whether a text is strict JSON.
func ValidForTest(text string) bool {
	s := scanner{data: text}
	s.skip(0)
	s.end()
	return !s.bad
}

// TextForTest reads a JSON string.
func TextForTest(text string) (string, bool) {
	s := scanner{data: text}
	read := s.text()
	s.end()
	return read, !s.bad
}

// WithMounts makes a directory source that reads the mounts of the process from another file.
func WithMounts(path, mounts string) Source {
	s := FromDir(path)
	s.open = func(environment) loader { return (&directory{path: path, mounts: mounts}).loader() }
	return s
}

// Ended is a set of ended sessions.
type Ended struct{ set endedSet }

// Add adds sessions that end at a time.
func (e *Ended) Add(until, now time.Time, ids ...string) {
	var entries []endedEntry
	for _, id := range ids {
		entries = append(entries, endedEntry{newEndedID(id), uint32(until.Unix())})
	}
	e.set.add(entries, uint32(now.Unix()))
}

// Has reports whether a session has ended.
func (e *Ended) Has(id string) bool { return e.set.has(id) }

// Len returns the number of sessions.
func (e *Ended) Len() int { return e.set.len() }

// Forget drops what ended before a time.
func (e *Ended) Forget(now time.Time) { e.set.forget(uint32(now.Unix())) }
