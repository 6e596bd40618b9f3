package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Claims are the claims that consumers of access tokens use.
type Claims struct {
	jwt.Claims

	Scope    string `json:"scope"`
	Username string `json:"username"`
}

// KeySource returns the keys that currently verify.
type KeySource interface {
	Key(kid string) (jose.JSONWebKey, error)
}

// leeway allows for clock differences between nodes. It is less than the remaining life of a token at its renewal, so
// it does not hide a key that was removed too early.
const leeway = 2 * time.Second

// Verify verifies an access token like a service. It shares no code with the gateway, so it does not share its bugs.
func Verify(token, issuer string, keys KeySource) (Claims, error) {
	var c Claims
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA})
	if err != nil {
		return c, err
	}
	head := parsed.Headers[0]
	key, err := keys.Key(head.KeyID)
	if err != nil {
		return c, err
	}
	if typ := head.ExtraHeaders[jose.HeaderType]; head.Algorithm != key.Algorithm || typ != "at+jwt" {
		return c, fmt.Errorf("the token has type %v and algorithm %s, and its key has algorithm %s", typ, head.Algorithm, key.Algorithm)
	}
	if err := parsed.Claims(key, &c); err != nil {
		return c, err
	}
	return c, c.ValidateWithLeeway(jwt.Expected{Issuer: issuer, AnyAudience: jwt.Audience{issuer}, Time: time.Now()}, leeway)
}

// Directory reads public keys from a mounted ConfigMap.
type Directory struct {
	path  string
	every time.Duration

	mu   sync.Mutex
	set  jose.JSONWebKeySet
	read time.Time
}

// NewDirectory returns a source that rereads the keys in a folder after the given time.
func NewDirectory(path string, every time.Duration) *Directory {
	return &Directory{path: path, every: every}
}

// Key implements KeySource.
func (d *Directory) Key(kid string) (jose.JSONWebKey, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); now.Sub(d.read) >= d.every {
		var set jose.JSONWebKeySet
		text, err := os.ReadFile(filepath.Join(d.path, "jwks.json"))
		if err == nil {
			err = json.Unmarshal(text, &set)
		}
		switch {
		case err == nil:
			d.set, d.read = set, now
		case d.read.IsZero(): // later errors are ignored: the keys that were read stay in use
			return jose.JSONWebKey{}, fmt.Errorf("jwks.json: %w", err)
		}
	}
	return only(d.set, kid)
}

func only(set jose.JSONWebKeySet, kid string) (jose.JSONWebKey, error) {
	found := set.Key(kid)
	if len(found) != 1 {
		return jose.JSONWebKey{}, fmt.Errorf("%d keys have the kid %q, of %d", len(found), kid, len(set.Keys))
	}
	return found[0], nil
}

// cooldown is the minimum time between two fetches for an unknown kid.
const cooldown = 3 * time.Second

// URL is a JWKS that is fetched and cached, as JOSE libraries do.
type URL struct {
	url    string
	keep   time.Duration
	client *http.Client

	mu        sync.Mutex
	set       jose.JSONWebKeySet
	fetched   time.Time
	tried     time.Time
	surprises int // times that a kid was not in the cached JWKS
}

// NewURL returns a source that refetches the keys after the given time.
func NewURL(url string, keep time.Duration, client *http.Client) *URL {
	return &URL{url: url, keep: keep, client: client}
}

// Key implements KeySource. If the keys cannot be fetched, the cached ones are used: a short outage of the gateway must
// not end every session.
func (u *URL) Key(kid string) (jose.JSONWebKey, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var failure error
	if now := time.Now(); now.Sub(u.fetched) >= u.keep && now.Sub(u.tried) >= cooldown {
		failure = u.fetch(now)
	}
	key, err := only(u.set, kid)
	if err != nil && !u.fetched.IsZero() && time.Since(u.tried) >= cooldown {
		u.surprises++
		failure = u.fetch(time.Now())
		key, err = only(u.set, kid)
	}
	if err != nil {
		return key, errors.Join(err, failure)
	}
	return key, nil
}

func (u *URL) fetch(now time.Time) error {
	u.tried = now
	ctx, cancel := context.WithTimeout(context.Background(), oneTry)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := u.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", u.url, response.Status)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil {
		return err
	}
	u.set, u.fetched = set, now
	return nil
}

func (u *URL) surprised() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.surprises
}
