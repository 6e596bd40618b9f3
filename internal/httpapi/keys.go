package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"

	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/keys"
)

// documentMaxAge is how long a cache may keep the keys and the metadata. A new key is published
// KEY_PUBLISH_LEAD (minutes) before it signs, so every cache is refreshed in time.
var documentMaxAge = []byte("public, max-age=60")

// publishedKeys are the documents of one ring.
type publishedKeys struct {
	ring   *keys.Ring
	all    document // of /tokens/keys
	access document // of /.well-known/jwks.json
}

// document is a body that seldom changes, with its entity tag.
type document struct {
	body, etag []byte
}

// newDocument returns a document with a weak entity tag, because the tag is the same with and without
// compression (RFC 9110 section 8.8.1).
func newDocument(body []byte) document {
	digest := sha256.Sum256(body)
	return document{body, []byte(`W/"` + base64.RawURLEncoding.EncodeToString(digest[:16]) + `"`)}
}

// publish returns the documents of the current ring. It creates them only when the ring changes.
func (s *Server) publish() (*publishedKeys, error) {
	ring := s.keys.Ring()
	if len(ring.Keys) == 0 {
		return nil, &identity.Error{
			Kind: identity.Unavailable, Reason: identity.ReasonKeysNotLoaded,
			Message: "the signing keys are not loaded yet",
		}
	}
	if p := s.published.Load(); p != nil && p.ring == ring {
		return p, nil
	}
	all, err := json.Marshal(struct {
		Access  keys.JWKSet `json:"access_token"`
		Refresh keys.JWKSet `json:"refresh_token"`
	}{keys.JWKS(*ring, keys.Access, true), keys.JWKS(*ring, keys.Refresh, true)})
	if err != nil {
		return nil, err
	}
	access, err := json.Marshal(keys.JWKS(*ring, keys.Access, false))
	if err != nil {
		return nil, err
	}
	p := &publishedKeys{ring: ring, all: newDocument(all), access: newDocument(access)}
	s.published.Store(p)
	return p, nil
}

func (s *Server) allKeys(_ context.Context, x *exchange) error {
	return x.replyKeys(func(p *publishedKeys) document { return p.all })
}

func (s *Server) accessKeys(_ context.Context, x *exchange) error {
	return x.replyKeys(func(p *publishedKeys) document { return p.access })
}

func (x *exchange) replyKeys(of func(*publishedKeys) document) error {
	p, err := x.server.publish()
	if err == nil {
		x.replyDocument(of(p))
	}
	return err
}

func (x *exchange) replyDocument(d document) {
	x.http.Response.Header.SetCanonical(fieldCacheControl, documentMaxAge)
	if x.unchanged(d.etag) {
		return
	}
	x.http.Response.Header.SetContentType("application/json")
	x.http.Response.SetBodyRaw(d.body)
}

// unchanged replies 304 if the caller already has this version (RFC 9110 section 13.1.2, with weak comparison).
func (x *exchange) unchanged(etag []byte) bool {
	x.http.Response.Header.SetCanonical(fieldETag, etag)
	match := x.http.Request.Header.PeekCanonical(fieldIfNoneMatch)
	if len(match) == 0 {
		return false
	}
	for tag := range bytes.SplitSeq(match, []byte(",")) {
		tag = bytes.TrimPrefix(bytes.TrimSpace(tag), []byte("W/"))
		if bytes.Equal(tag, bytes.TrimPrefix(etag, []byte("W/"))) || string(tag) == "*" {
			x.http.Response.SetStatusCode(fasthttp.StatusNotModified)
			return true
		}
	}
	return false
}
