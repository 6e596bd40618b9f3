package httpapi

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"sync"

	swaggerui "github.com/swaggest/swgui/v5/static"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

var (
	//go:embed openapi.json
	openAPIDocument []byte

	//go:embed openapi-admin.json
	adminOpenAPIDocument []byte

	//go:embed docs/index.html
	docsPage []byte

	//go:embed docs/init.js
	docsScript []byte
)

// OpenAPI returns the description of the API as /openapi.json serves it if sign-up requires all names.
func OpenAPI() []byte { return bytes.Clone(openAPIDocument) }

// AdminOpenAPI returns the description of the routes of administrators, as their port serves it.
func AdminOpenAPI() []byte { return bytes.Clone(adminOpenAPIDocument) }

// docsPolicy allows the page only its own scripts and calls to this server. Swagger UI sets styles
// on elements, and uses data URLs for icons.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// assetsMaxAge is one day. Assets change only with a release, and may then be outdated for a day.
const assetsMaxAge = "public, max-age=86400"

// openAPIOf returns the description of the API of a gateway with optional names at sign-up, so that
// generated clients can omit them.
func openAPIOf(optional identity.OptionalNames) []byte {
	if optional == (identity.OptionalNames{}) {
		return openAPIDocument
	}
	required := `"required": ["email", "password"`
	for _, name := range []struct {
		parameter parameter
		optional  bool
	}{{paramUsername, optional.Username}, {paramFirstName, optional.FirstName}, {paramLastName, optional.LastName}} {
		if !name.optional {
			required += `, "` + name.parameter.String() + `"`
		}
	}
	list := regexp.MustCompile(`("SignUpRequest": \{\s*"type": "object",\s*)"required": \[[^\]]*`)
	return list.ReplaceAll(openAPIDocument, []byte("${1}"+required))
}

func (s *Server) serveOpenAPI(_ context.Context, x *exchange) error {
	x.http.Response.Header.SetContentType("application/json")
	x.http.Response.SetBodyRaw(s.openAPI)
	return nil
}

func (s *Server) docs(_ context.Context, x *exchange) error {
	x.http.Response.Header.Set("Content-Security-Policy", docsPolicy)
	x.http.Response.Header.SetContentType("text/html; charset=utf-8")
	x.http.Response.SetBodyRaw(docsPage)
	return nil
}

// toDocs redirects from "/" and "/docs/" to the page. The location is relative, so that it also works
// behind a proxy's path prefix.
func (s *Server) toDocs(_ context.Context, x *exchange) error {
	to := "docs"
	if x.path != "/" {
		to = "../docs"
	}
	x.http.Response.Header.Set("Location", to)
	x.http.Response.SetStatusCode(http.StatusFound)
	return nil
}

func (s *Server) docsAsset(_ context.Context, x *exchange) error {
	assets, err := docsAssets()
	if err != nil {
		return err
	}
	a := assets[path.Base(x.path)]
	h := &x.http.Response.Header
	h.Set("Cache-Control", assetsMaxAge)
	h.SetContentType(a.contentType)
	if a.gzipped {
		h.Set("Vary", "Accept-Encoding")
	}
	if x.unchanged(a.etag) {
		return nil
	}
	body := a.body
	switch {
	case !a.gzipped:
	case x.http.Request.Header.HasAcceptEncoding("gzip"):
		h.Set("Content-Encoding", "gzip")
	default:
		if body, err = a.inflate(); err != nil {
			return err
		}
	}
	x.http.Response.SetBodyRaw(body)
	return nil
}

// asset is a file of the documentation page.
type asset struct {
	document
	contentType string
	gzipped     bool                   // the body is compressed
	inflate     func() ([]byte, error) // for clients without gzip
}

// docsAssets are loaded at the first request, because most replicas never serve them.
var docsAssets = sync.OnceValues(func() (map[string]asset, error) {
	assets := map[string]asset{"init.js": {document: newDocument(docsScript), contentType: "text/javascript; charset=utf-8"}}
	for _, f := range []struct{ name, packed, contentType string }{
		{"swagger-ui.css", "swagger-ui.css.gz", "text/css; charset=utf-8"},
		{"swagger-ui-bundle.js", "swagger-ui-bundle.js.gz", "text/javascript; charset=utf-8"},
		{"favicon-32x32.png", "favicon-32x32.png", "image/png"},
	} {
		body, err := swaggerui.FS.ReadFile(f.packed)
		if err != nil {
			return nil, fmt.Errorf("httpapi: swagger ui: %w", err)
		}
		assets[f.name] = asset{
			document: newDocument(body), contentType: f.contentType, gzipped: f.name != f.packed,
			inflate: sync.OnceValues(func() ([]byte, error) { return inflate(body) }),
		}
	}
	return assets, nil
})

func inflate(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("httpapi: swagger ui: %w", err)
	}
	return io.ReadAll(r)
}
