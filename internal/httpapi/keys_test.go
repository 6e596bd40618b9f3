package httpapi_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"regexp"
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
			s := start(t, func(o *httpapi.Options) { o.Keys = newSource(newRing(t, algorithm)) })
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
	ring := newSource(theRing())
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
	next := newRing(t, keys.ES256)
	ring.Store(&next)
	after := s.Do("GET", "/tokens/keys", header("If-None-Match", before.Header.Get("ETag")), nil)
	if after.Status != 200 || string(after.Body) == string(before.Body) {
		t.Errorf("after a change of the ring: %v", after)
	}
	ring.Store(&keys.Ring{})
	testenv.Expect(t, s.Do("GET", "/tokens/keys", nil, nil), 503, "not loaded")
}

func TestKeysNeedNeitherTheDomainNorABody(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) { o.TrustedCallerKey = "a key of the trusted caller" })
	testenv.Expect(t, s.Do("GET", "/tokens/keys", header("Content-Encoding", "gzip", "Authorization", "nonsense"), "[]"), 200)
	s.wantCall(t, "")
}

func TestDocsPageLoadsNothingFromOtherHosts(t *testing.T) {
	t.Parallel()
	s := start(t)
	page := s.Do("GET", "/docs", nil, nil)
	testenv.Expect(t, page, 200)
	if policy := page.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy,
		"default-src 'none'; script-src 'self'; ") || strings.Contains(policy, "http") {
		t.Errorf("the policy is %q", policy)
	}
	if strings.Contains(string(page.Body), "<script>") || strings.Contains(string(page.Body), "http") {
		t.Error("the page contains a script, or a URL of another host")
	}
	links := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(string(page.Body), -1)
	if len(links) != 5 {
		t.Errorf("the page has %d links", len(links))
	}
	for _, link := range links {
		reply := s.Do("GET", "/"+link[1], nil, nil)
		testenv.Expect(t, reply, 200)
		if strings.HasPrefix(link[1], "docs/") && reply.Header.Get("Cache-Control") != "public, max-age=86400" {
			t.Errorf("%s has Cache-Control %q", link[1], reply.Header.Get("Cache-Control"))
		}
	}
}

func TestDocsAssetsAreCompressedOnRequest(t *testing.T) {
	t.Parallel()
	s := start(t)
	for path, mark := range map[string]string{
		"/docs/swagger-ui.css": ".swagger-ui", "/docs/swagger-ui-bundle.js": "SwaggerUIBundle",
		"/docs/init.js": "SwaggerUIBundle", "/docs/favicon-32x32.png": "PNG",
	} {
		plain := s.Do("GET", path, header("Accept-Encoding", "identity"), nil)
		testenv.Expect(t, plain, 200, mark)
		packed := s.Do("GET", path, header("Accept-Encoding", "br, gzip"), nil)
		if zipped := packed.Header.Get("Content-Encoding") == "gzip"; zipped != strings.Contains(path, "swagger-ui") ||
			zipped && len(packed.Body)*2 > len(plain.Body) {
			t.Errorf("%s: %d bytes plain, %d packed", path, len(plain.Body), len(packed.Body))
		}
		tag := packed.Header.Get("ETag")
		testenv.Expect(t, s.Do("GET", path, header("If-None-Match", tag, "Accept-Encoding", "gzip"), nil), 304)
	}
}
