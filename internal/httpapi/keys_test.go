package httpapi_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
)

type jwk map[string]any

type jwks struct {
	Keys []jwk `json:"keys"`
}

// Row J26.
func TestKeysArePublicHalvesWithTheirThumbprints(t *testing.T) {
	t.Parallel()
	for algorithm, members := range map[keys.Algorithm][]string{
		keys.ES256: {"crv", "kty", "x", "y"}, keys.RS256: {"e", "kty", "n"}, keys.EdDSA: {"crv", "kty", "x"},
	} {
		t.Run(string(algorithm), func(t *testing.T) {
			t.Parallel()
			s := start(t, func(o *httpapi.Options) { o.Keys = &source{ring: newRing(t, algorithm)} })
			var all struct {
				Access  jwks `json:"access_token"`
				Refresh jwks `json:"refresh_token"`
			}
			s.Do("GET", "/tokens/keys", nil, nil).JSON(t, &all)
			var access jwks
			s.Do("GET", "/.well-known/jwks.json", nil, nil).JSON(t, &access)
			if len(all.Access.Keys) != 1 || len(all.Refresh.Keys) != 1 || len(access.Keys) != 1 {
				t.Fatalf("%v %v", all, access)
			}
			if access.Keys[0]["kid"] != all.Access.Keys[0]["kid"] || access.Keys[0]["kid"] == all.Refresh.Keys[0]["kid"] {
				t.Error("the well-known set is not the access set")
			}
			for _, k := range []jwk{all.Access.Keys[0], all.Refresh.Keys[0], access.Keys[0]} {
				var thumb []string
				for _, m := range members {
					thumb = append(thumb, fmt.Sprintf(`%q:%q`, m, k[m]))
				}
				digest := sha256.Sum256([]byte("{" + strings.Join(thumb, ",") + "}"))
				if k["kid"] != base64.RawURLEncoding.EncodeToString(digest[:]) || k["use"] != "sig" || k["alg"] != string(algorithm) {
					t.Errorf("%v", k)
				}
				for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k", "oth"} {
					if k[private] != nil {
						t.Errorf("the private member %s is published", private)
					}
				}
				if text, ok := k["pem"].(string); ok {
					if block, rest := pem.Decode([]byte(text)); block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 {
						t.Errorf("pem is %q", text)
					}
				}
			}
		})
	}
}

func TestKeysAreCachedAndFollowTheRing(t *testing.T) {
	t.Parallel()
	ring := &source{ring: theRing()}
	s := start(t, func(o *httpapi.Options) { o.Keys = ring })
	for _, path := range []string{"/tokens/keys", "/.well-known/jwks.json"} {
		first := s.Do("GET", path, nil, nil)
		tag := first.Header.Get("ETag")
		if first.Status != 200 || tag == "" || first.Header.Get("Cache-Control") != "public, max-age=60" {
			t.Errorf("%s got %v %v", path, first, first.Header)
		}
		for match, status := range map[string]int{
			tag: 304, strings.TrimPrefix(tag, "W/"): 304, `"x", ` + tag + `,"y"`: 304, "*": 304,
			`"x"`: 200, "": 200, tag + "x": 200, strings.Trim(tag, `W/"`): 200,
		} {
			reply := s.Do("GET", path, header("If-None-Match", match), nil)
			if reply.Status != status || reply.Header.Get("ETag") != tag {
				t.Errorf("%s with If-None-Match: %s got %v", path, match, reply)
			}
		}
	}
	before := s.Do("GET", "/tokens/keys", nil, nil)
	ring.set(newRing(t, keys.ES256))
	after := s.Do("GET", "/tokens/keys", header("If-None-Match", before.Header.Get("ETag")), nil)
	if after.Status != 200 || string(after.Body) == string(before.Body) {
		t.Errorf("after a change of the ring: %v", after)
	}
	ring.set(keys.Ring{})
	testenv.Expect(t, s.Do("GET", "/tokens/keys", nil, nil), 503, "not loaded")
}

func TestKeysNeedNeitherTheDomainNorABody(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) { o.TrustedCallerKey = "a key of the trusted caller" })
	testenv.Expect(t, s.Do("GET", "/tokens/keys", header("Content-Encoding", "gzip", "Authorization", "nonsense"), "[]"), 200)
	s.wantCall(t, "")
}
