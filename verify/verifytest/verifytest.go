// Package verifytest is a gateway for the tests of services that verify its tokens: it signs tokens of any shape,
// rotates and revokes keys, ends sessions, and is a source of keys in memory, over HTTP and as a mounted directory.
//
//	issuer := verifytest.NewIssuer(t)
//	v, err := verify.New(ctx, issuer.Source(), verify.Audience(verifytest.Audience))
//	request.Header.Set("Authorization", "Bearer "+issuer.Token(verifytest.Claim("scope", "orders:read")))
package verifytest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/verify"
)

// The algorithms of the gateway.
const (
	ES256 = "ES256"
	RS256 = "RS256"
	EdDSA = "EdDSA"
)

// Audience is the audience of tokens, unless Claim sets another.
const Audience = "https://shop.example.com"

// Lifetime is the lifetime of tokens, unless Claim sets another.
const Lifetime = 15 * time.Minute

// Issuer is a gateway. It is safe for concurrent use. Token and Sign can be called in fuzz targets.
type Issuer struct {
	t    testing.TB
	name string

	mu         sync.Mutex
	algorithm  string
	typ        string
	generation int64
	keys       []*key // the last one signs
	revoked    []string
	now        func() time.Time
	server     *httptest.Server
	dirs       []string
	ended      []ended
	changed    chan struct{} // closed when a session ends
	requests   map[string]int
	callerKey  string
	outage     bool
}

type key struct {
	id, algorithm string
	signer        crypto.Signer
}

type ended struct {
	Kind  string `json:"kind"`
	ID    string `json:"id"`
	Until int64  `json:"until"`
}

// Option configures NewIssuer.
type Option func(*Issuer)

// Algorithm sets the algorithm of keys: ES256, RS256 or EdDSA. The default is ES256.
func Algorithm(algorithm string) Option { return func(i *Issuer) { i.algorithm = algorithm } }

// Name sets the issuer. The default is https://auth.example.com, or the URL of the server if URL is called first.
func Name(issuer string) Option { return func(i *Issuer) { i.name = issuer } }

// Type sets the typ of tokens, as the gateway's ACCESS_TOKEN_TYP does. The default is at+jwt.
func Type(typ string) Option { return func(i *Issuer) { i.typ = typ } }

// Clock sets the clock. The default is time.Now.
func Clock(now func() time.Time) Option { return func(i *Issuer) { i.now = now } }

// CallerKey is the key without which ended sessions are not reported.
func CallerKey(key string) Option { return func(i *Issuer) { i.callerKey = key } }

// NewIssuer returns an issuer with one key, which ends with the test.
func NewIssuer(t testing.TB, options ...Option) *Issuer {
	t.Helper()
	i := &Issuer{
		t: t, algorithm: ES256, typ: "at+jwt", now: time.Now, changed: make(chan struct{}), requests: map[string]int{},
	}
	for _, o := range options {
		o(i)
	}
	i.Rotate()
	return i
}

// Rotate makes a new key, which signs from now on. The former keys still verify. It returns the ID of the new key.
func (i *Issuer) Rotate() string {
	i.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	k := &key{algorithm: i.algorithm}
	var err error
	switch i.algorithm {
	case ES256:
		k.signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RS256:
		k.signer, err = rsa.GenerateKey(rand.Reader, 2048)
	case EdDSA:
		_, k.signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("%s is not an algorithm of the gateway", i.algorithm)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	id := sha256.Sum256([]byte(fmt.Sprint(k.jwk())))
	k.id = encode(id[:])
	i.keys = append(i.keys, k)
	i.publish()
	return k.id
}

// RotateTo is Rotate with another algorithm.
func (i *Issuer) RotateTo(algorithm string) string {
	i.t.Helper()
	i.mu.Lock()
	i.algorithm = algorithm
	i.mu.Unlock()
	return i.Rotate()
}

// Drop removes all keys except the one that signs, as the gateway does when their tokens have expired.
func (i *Issuer) Drop() {
	i.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = i.keys[len(i.keys)-1:]
	i.publish()
}

// Revoke removes a key and reports it as revoked. If it signed, a new key signs.
func (i *Issuer) Revoke(id string) {
	i.t.Helper()
	i.mu.Lock()
	var kept []*key
	for _, k := range i.keys {
		if k.id != id {
			kept = append(kept, k)
		}
	}
	i.keys, i.revoked = kept, append(i.revoked, id)
	i.end("kid", id)
	i.publish()
	empty := len(kept) == 0
	i.mu.Unlock()
	if empty {
		i.Rotate()
	}
}

// KeyID returns the ID of the key that signs.
func (i *Issuer) KeyID() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys[len(i.keys)-1].id
}

// End ends a session, which consumers with verify.WithRevocations learn.
func (i *Issuer) End(session string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.end("sid", session)
}

func (i *Issuer) end(kind, id string) {
	i.ended = append(i.ended, ended{kind, id, i.now().Add(Lifetime).Unix()})
	close(i.changed)
	i.changed = make(chan struct{})
}

// Outage makes the server answer 503, or ends that.
func (i *Issuer) Outage(on bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.outage = on
	close(i.changed) // no request waits through an outage
	i.changed = make(chan struct{})
}

// Requests returns how many requests the server has had for a path.
func (i *Issuer) Requests(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.requests[path]
}

// Name returns the issuer.
func (i *Issuer) Name() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.issuer()
}

func (i *Issuer) issuer() string {
	if i.name == "" {
		return "https://auth.example.com"
	}
	return i.name
}

// JWKS returns the public keys as a JWK Set.
func (i *Issuer) JWKS() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.jwks()
}

func (i *Issuer) jwks() []byte {
	all := []map[string]any{}
	for _, k := range i.keys {
		all = append(all, k.jwk())
	}
	return i.marshal(map[string]any{"keys": all})
}

func (i *Issuer) marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

func (k *key) jwk() map[string]any {
	j := map[string]any{"use": "sig", "alg": k.algorithm}
	if k.id != "" {
		j["kid"] = k.id
	}
	switch p := k.signer.Public().(type) {
	case *ecdsa.PublicKey:
		j["kty"], j["crv"] = "EC", "P-256"
		j["x"], j["y"] = encode(p.X.FillBytes(make([]byte, 32))), encode(p.Y.FillBytes(make([]byte, 32)))
	case *rsa.PublicKey:
		j["kty"], j["n"], j["e"] = "RSA", encode(p.N.Bytes()), encode(big.NewInt(int64(p.E)).Bytes())
	case ed25519.PublicKey:
		j["kty"], j["crv"], j["x"] = "OKP", "Ed25519", encode(p)
	}
	return j
}

// Source returns a source in memory.
func (i *Issuer) Source() verify.Source {
	return verify.FromFunc(func(context.Context) (verify.Document, error) {
		i.mu.Lock()
		defer i.mu.Unlock()
		return verify.Document{Issuer: i.issuer(), JWKS: i.jwks(), Generation: i.generation}, nil
	})
}

// Dir returns a directory like one into which the ConfigMap NAME-public-keys is mounted. It follows all changes.
func (i *Issuer) Dir() string {
	i.t.Helper()
	dir := i.t.TempDir()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.dirs = append(i.dirs, dir)
	i.publish()
	return dir
}

// publish writes the directories, as the kubelet does: all files into a new directory, then one link to it.
func (i *Issuer) publish() {
	i.generation++
	for _, dir := range i.dirs {
		WriteVolume(i.t, dir, map[string][]byte{
			"jwks.json": i.jwks(),
			"jwks":      i.jwks(),
			"keys.json": i.marshal(map[string]any{"issuer": i.issuer(), "generation": i.generation, "revoked": i.revoked}),
		})
	}
}

// WriteVolume replaces the files of a directory at once, as the kubelet replaces those of a mounted ConfigMap.
func WriteVolume(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	version, err := os.MkdirTemp(dir, "..2026_") //nolint:usetesting // the name and place are those of the kubelet
	check(err)
	for name, content := range files {
		check(os.WriteFile(filepath.Join(version, name), content, 0o600))
	}
	data := filepath.Join(dir, "..data")
	former, _ := os.Readlink(data)
	check(os.Symlink(filepath.Base(version), data+"_tmp"))
	check(os.Rename(data+"_tmp", data))
	for name := range files {
		link := filepath.Join(dir, name)
		if _, err := os.Lstat(link); err != nil {
			check(os.Symlink(filepath.Join("..data", name), link))
		}
	}
	if former != "" {
		check(os.RemoveAll(filepath.Join(dir, former)))
	}
}

// TokenOption changes a token.
type TokenOption func(header, claims map[string]any)

// Claim sets a claim.
func Claim(name string, value any) TokenOption {
	return func(_, claims map[string]any) { claims[name] = value }
}

// Header sets a member of the header.
func Header(name string, value any) TokenOption {
	return func(header, _ map[string]any) { header[name] = value }
}

// Without removes a claim.
func Without(name string) TokenOption {
	return func(_, claims map[string]any) { delete(claims, name) }
}

// Token returns a token that a service for Audience accepts, unless the options change that.
func (i *Issuer) Token(options ...TokenOption) string {
	i.mu.Lock()
	k, issuer, typ, now := i.keys[len(i.keys)-1], i.issuer(), i.typ, i.now().Unix()
	i.mu.Unlock()
	header := map[string]any{"alg": k.algorithm, "kid": k.id, "typ": typ}
	claims := map[string]any{
		"iss": issuer, "sub": "3f1c2a52-6f2d-4d9e-9b1a-0d6d3c1f5a77", "aud": []string{Audience}, "client_id": "auth-gateway",
		"exp": now + int64(Lifetime/time.Second), "iat": now, "jti": randomID(), "auth_time": now,
		"sid": "9d1f7d3e-51a4-4a58-8f7c-2b9a5c1d4e60", "scope": "profile email",
		"username": "ada", "name": "Ada Lovelace", "email": "ada@example.com", "email_verified": true,
	}
	for _, o := range options {
		o(header, claims)
	}
	return i.sign(k, i.marshal(header), i.marshal(claims))
}

// Sign returns a token with any header and payload, such as JSON that is not strict. The key that signs signs it.
func (i *Issuer) Sign(header, payload []byte) string {
	i.mu.Lock()
	k := i.keys[len(i.keys)-1]
	i.mu.Unlock()
	return i.sign(k, header, payload)
}

func (i *Issuer) sign(k *key, header, payload []byte) string {
	text := encode(header) + "." + encode(payload)
	return text + "." + encode(k.sign(i.t, text))
}

func (k *key) sign(t testing.TB, text string) []byte {
	digest := sha256.Sum256([]byte(text))
	var signature []byte
	var err error
	switch s := k.signer.(type) {
	case *ecdsa.PrivateKey:
		var r, v *big.Int
		if r, v, err = ecdsa.Sign(rand.Reader, s, digest[:]); err == nil {
			signature = append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...)
		}
	case *rsa.PrivateKey:
		signature, err = rsa.SignPKCS1v15(rand.Reader, s, crypto.SHA256, digest[:])
	case ed25519.PrivateKey:
		signature = ed25519.Sign(s, []byte(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// Forge returns a token that is signed with a shared secret, or not at all if the secret is nil.
func Forge(header, payload string, secret []byte) string {
	text := encode([]byte(header)) + "." + encode([]byte(payload))
	if secret == nil {
		return text + "."
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

func randomID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // it never fails on supported systems
	return encode(id)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// URL starts a server with the metadata, the keys and the ended sessions, and returns its URL, which is the issuer
// unless Name sets another.
func (i *Issuer) URL() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.server == nil {
		i.server = httptest.NewServer(http.HandlerFunc(i.serve))
		i.t.Cleanup(func() {
			i.server.CloseClientConnections() // a Verifier that was not closed keeps a request open
			i.server.Close()
		})
		if i.name == "" {
			i.name = i.server.URL
		}
	}
	return i.server.URL
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.requests[r.URL.Path]++
	outage := i.outage
	jwks, issuer := i.jwks(), i.issuer()
	i.mu.Unlock()
	if outage {
		http.Error(w, "outage", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=60")
	var body []byte
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		body = i.marshal(map[string]any{"issuer": issuer, "jwks_uri": issuer + "/.well-known/jwks.json"})
	case "/.well-known/jwks.json":
		body = jwks
	case "/sessions/ended":
		i.serveEnded(w, r)
		return
	default:
		http.NotFound(w, r)
		return
	}
	digest := sha256.Sum256(body)
	etag := `"` + encode(digest[:8]) + `"`
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(body)
}

// pageSize is small, so that tests see several pages.
const pageSize = 1000

// serveEnded answers with the entries after the cursor, which is a number here, and waits if there is none.
func (i *Issuer) serveEnded(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	after, _ := strconv.Atoi(r.URL.Query().Get("after"))
	seconds, _ := strconv.Atoi(r.URL.Query().Get("wait"))
	timer := time.NewTimer(time.Duration(seconds) * time.Second)
	defer timer.Stop()
	for waiting := true; ; {
		i.mu.Lock()
		changed, wrongKey := i.changed, i.callerKey != "" && r.Header.Get("X-Caller-Key") != i.callerKey
		outage := i.outage
		end := min(len(i.ended), after+pageSize)
		page := append([]ended{}, i.ended[min(after, end):end]...)
		more := end < len(i.ended)
		i.mu.Unlock()
		switch {
		case wrongKey:
			http.Error(w, "wrong key", http.StatusUnauthorized)
			return
		case outage:
			http.Error(w, "outage", http.StatusServiceUnavailable)
			return
		case len(page) > 0 || !waiting || seconds == 0:
			_, _ = w.Write(i.marshal(map[string]any{"ended": page, "next": strconv.Itoa(max(end, after)), "more": more}))
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			waiting = false
		case <-r.Context().Done():
			return
		}
	}
}
