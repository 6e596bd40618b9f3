package httpapi

import (
	"context"
	"net/http"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// handler answers the requests of a route.
type handler func(context.Context, *exchange) error

// route is a method and path of the API.
type route struct {
	method string
	path   string // exact; "{id}" at its end matches any UUID, and there are no other patterns
	handle handler
	body   bodyKind
	trust  trust
	limit  identity.LimitClass // by client address; empty: no limit
}

// isDocument reports whether every caller gets the same reply: its handler waits for nothing, and needs neither
// parameters nor to know the caller.
func (r route) isDocument() bool {
	return r.method == http.MethodGet && r.body == noBody && r.trust == anyone && r.limit == ""
}

// routes lists all routes of the API. Health and metrics are on a separate port and cannot be reached here.
func (s *Server) routes() []route {
	return []route{
		{"POST", "/users", s.signUp, jsonBody, revealsCode, identity.LimitSignUp},
		{"GET", "/users", s.profile, jsonBody, anyone, ""},
		{"PUT", "/users", s.updateProfile, jsonBody, anyone, ""},
		{"DELETE", "/users", s.deleteUser, jsonBody, anyone, ""},
		{"GET", "/users/data", s.userData, jsonBody, anyone, ""},
		{"GET", "/users/sessions", s.sessions, jsonBody, anyone, ""},
		{"DELETE", "/users/sessions/{id}", s.endSession, jsonBody, anyone, ""},
		{"POST", "/users/verify-user", s.verifyUser, jsonBody, anyone, identity.LimitCodes},
		{"POST", "/users/verification-code", s.newVerificationCode, jsonBody, revealsCode, identity.LimitCodes},
		{"POST", "/users/forgot-password", s.forgotPassword, jsonBody, revealsCode, identity.LimitCodes},
		{"POST", "/users/change-password", s.changePassword, jsonBody, anyone, identity.LimitCodes},
		{"POST", "/users/change-email-request", s.requestEmailChange, jsonBody, revealsCode, identity.LimitCodes},
		{"POST", "/users/change-email", s.changeEmail, jsonBody, anyone, identity.LimitCodes},

		{"POST", "/tokens/signin", s.signIn, jsonBody, anyone, identity.LimitSignIn},
		{"POST", "/tokens", s.renew, jsonOrForm, anyone, ""},
		{"DELETE", "/tokens", s.signOut, jsonOrForm, anyone, ""},
		{"POST", "/tokens/revoke", s.revoke, jsonOrForm, anyone, ""},
		{"POST", "/tokens/introspect", s.introspect, jsonOrForm, trustedOnly, ""},
		{"GET", "/sessions/ended", s.endedSessions, noBody, keyHolders, ""},
		{"GET", "/tokens/keys", s.allKeys, noBody, anyone, ""},
		{"GET", pathKeys, s.accessKeys, noBody, anyone, ""},
		{"GET", pathOpenID, s.serveMetadata, noBody, anyone, ""},
		{"GET", pathMetadata, s.serveMetadata, noBody, anyone, ""},

		{"GET", "/openapi.json", s.serveOpenAPI, noBody, anyone, ""},
		{"GET", "/docs", s.docs, noBody, anyone, ""},
		{"GET", "/docs/init.js", s.docsAsset, noBody, anyone, ""},
		{"GET", "/docs/swagger-ui.css", s.docsAsset, noBody, anyone, ""},
		{"GET", "/docs/swagger-ui-bundle.js", s.docsAsset, noBody, anyone, ""},
		{"GET", "/docs/favicon-32x32.png", s.docsAsset, noBody, anyone, ""},
	}
}

// shortcuts redirect people to the documentation page. They are not part of the API.
func (s *Server) shortcuts() []route {
	return []route{
		{"GET", "/", s.toDocs, noBody, anyone, ""},
		{"GET", "/docs/", s.toDocs, noBody, anyone, ""},
	}
}

// bodyKind is how the parameters of a route may be sent.
type bodyKind int

const (
	noBody     bodyKind = iota // no parameters; a body is ignored
	jsonBody                   // a JSON object
	jsonOrForm                 // or a form, as sent by OAuth 2 clients (RFC 6749 appendix B)
)

// trust is who may use a route if TRUSTED_CALLER_KEY is set.
type trust int

const (
	anyone      trust = iota
	revealsCode       // the reply contains a one-time code, unless codes are sent by mail
	trustedOnly
	keyHolders // as trustedOnly; if the API is public, the key must be set
)
