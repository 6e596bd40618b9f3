package httpapi

import (
	"context"
	"net/http"
	"net/url"
	"strings"
)

// The paths of documents for consumers of tokens.
const (
	pathKeys     = "/.well-known/jwks.json"
	pathOpenID   = "/.well-known/openid-configuration"       // OpenID Connect Discovery 1.0, section 4
	pathMetadata = "/.well-known/oauth-authorization-server" // RFC 8414, section 3
)

func (s *Server) serveMetadata(_ context.Context, x *exchange) error {
	x.replyDocument(s.metadata)
	return nil
}

// aliases are the other paths of these documents if the issuer has a path. OpenID Connect
// appends the well-known path to that of the issuer, and RFC 8414 inserts it before. A proxy
// may remove the issuer's path from a request or pass it on.
func (s *Server) aliases(issuer string) []route {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil
	}
	prefix := strings.TrimSuffix(u.EscapedPath(), "/")
	if prefix == "" {
		return nil
	}
	var all []route
	for path, handle := range map[string]handler{
		prefix + pathKeys: s.accessKeys, prefix + pathOpenID: s.serveMetadata, prefix + pathMetadata: s.serveMetadata,
		pathOpenID + prefix: s.serveMetadata, pathMetadata + prefix: s.serveMetadata,
	} {
		all = append(all, route{http.MethodGet, path, handle, noBody, anyone, ""})
	}
	return all
}
