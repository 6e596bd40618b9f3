package httpapi_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

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
