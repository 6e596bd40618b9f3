package httpapi

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/token"
)

// Authz decides requests for proxies, at /authz/NAME, without the database.
type Authz struct {
	Policies []Policy
	Tokens   ClaimsVerifier
	Ended    EndedSessions
	Now      func() time.Time
}

// Policy is what a request needs. Package config documents the fields.
type Policy struct {
	Name       string
	Scopes     []string
	AnyScope   []string
	Audience   string
	MaxAge     time.Duration
	Anonymous  bool
	FailClosed bool
}

// ClaimsVerifier verifies access tokens: *token.Service.
type ClaimsVerifier interface {
	VerifyClaims(text string) (token.Claims, error)
}

// EndedSessions knows, in memory, which sessions have ended: *endings.Feed.
type EndedSessions interface {
	Ended(session string) bool
	// Age returns how old that knowledge is. It is false if there is none.
	Age() (age time.Duration, loaded bool)
}

const (
	authzPrefix = "/authz/"
	authzRoute  = "/authz/{policy}"

	// maxEndingsAge is how old the knowledge of ended sessions may be for a policy that fails closed.
	maxEndingsAge = 30 * time.Second
)

// The fields that say who the user is. Every answer has all of them, because a proxy that copies
// them to a request replaces only those that the answer has: others could be the client's own.
const (
	fieldSubject  = "X-Auth-Subject"
	fieldUsername = "X-Auth-Username"
	fieldEmail    = "X-Auth-Email"
	fieldName     = "X-Auth-Name"
	fieldScope    = "X-Auth-Scope"
	fieldSession  = "X-Auth-Session"
)

// authz is the state of the route.
type authz struct {
	Authz
	policies  map[string]Policy
	decisions *prometheus.CounterVec
}

func newAuthz(o *Authz, registerer prometheus.Registerer) *authz {
	if o == nil || len(o.Policies) == 0 {
		return nil
	}
	a := &authz{Authz: *o, policies: map[string]Policy{}, decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "http_authz_decisions_total",
		Help: "Decisions for proxies, by policy and result: allowed, anonymous, unauthenticated, forbidden, or " +
			"unavailable.",
	}, []string{"policy", "result"})}
	for _, p := range o.Policies {
		a.policies[p.Name] = p
	}
	if registerer != nil {
		registerer.MustRegister(a.decisions)
	}
	return a
}

// isAuthz reports whether a request asks for a decision, and by which policy. Proxies append the
// path of their client to it. Nothing after the name of the policy is read.
func (s *Server) isAuthz(target []byte) (policy string, ok bool) {
	uri, ok := originForm(target)
	if s.authz == nil || !ok || !bytes.HasPrefix(uri, []byte(authzPrefix)) {
		return "", false
	}
	rest := uri[len(authzPrefix):]
	if end := bytes.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	return string(rest), true
}

// decide answers a proxy.
func (x *exchange) decide(name string) {
	x.path = authzRoute
	policy, known := x.server.authz.policies[name]
	if !known {
		x.identify(token.Claims{})
		x.fail(&failure{
			status: http.StatusNotFound, code: codeNotFound, reason: reasonPathNotFound,
			description: "AUTHZ_POLICIES has no policy of this name",
		})
		return
	}
	claims, result, f := x.server.authz.decide(policy, x.http.Request.Header.Peek("Authorization"))
	x.server.authz.decisions.WithLabelValues(name, result).Inc()
	if f == nil {
		x.identify(claims)
		x.http.Response.SetStatusCode(http.StatusOK)
		return
	}
	x.tokenSent = len(x.http.Request.Header.Peek("Authorization")) > 0
	x.fail(f.failure)
	if f.challenge != "" {
		x.http.Response.Header.Set("WWW-Authenticate", f.challenge)
	}
	x.identify(token.Claims{})
}

// identify sets the fields that say who the user is.
func (x *exchange) identify(c token.Claims) {
	h := &x.http.Response.Header
	for _, f := range [...]struct{ name, value string }{
		{fieldSubject, c.Subject}, {fieldUsername, c.Username}, {fieldEmail, c.Email}, {fieldName, c.Name},
		{fieldScope, c.Scope}, {fieldSession, c.SessionID},
	} {
		h.Set(f.name, fieldValue(f.value))
	}
}

// fieldValue percent-encodes what is not printable ASCII, and the percent sign, so that the value
// is one line whose bytes every proxy passes on.
func fieldValue(text string) string {
	const digits = "0123456789ABCDEF"
	if strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' || r == '%' }) < 0 {
		return text
	}
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '%' {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// denial is a failure with its challenge. An empty challenge leaves that of the failure.
type denial struct {
	*failure
	challenge string
}

// decide applies a policy to an Authorization field. A token that is not valid is refused even
// where none is needed: its sender wants to be known.
func (a *authz) decide(p Policy, field []byte) (claims token.Claims, result string, denied *denial) {
	unauthenticated := func(reason identity.Reason, text string) (token.Claims, string, *denial) {
		return token.Claims{}, "unauthenticated", &denial{failure: &failure{
			status: http.StatusUnauthorized, code: codeUnauthenticated, reason: reason, description: text,
		}}
	}
	unavailable := func(reason identity.Reason, text string) (token.Claims, string, *denial) {
		return token.Claims{}, "unavailable", &denial{failure: &failure{
			status: http.StatusServiceUnavailable, code: codeInternal, reason: reason, description: text, retryAfter: time.Second,
		}}
	}
	if len(field) == 0 {
		if p.Anonymous {
			return token.Claims{}, "anonymous", nil
		}
		return unauthenticated(reasonTokenMissing, "an access token is required: send it as Authorization: Bearer")
	}
	text, ok := bearer(field)
	if !ok {
		return unauthenticated(reasonAuthorizationMalformed, errBadHeader().description)
	}
	claims, err := a.Tokens.VerifyClaims(text)
	switch {
	case errors.Is(err, token.ErrNoKeys):
		return unavailable(identity.ReasonKeysNotLoaded, "the signing keys are not loaded yet")
	case errors.Is(err, token.ErrExpired):
		return unauthenticated(identity.ReasonTokenExpired, "the token has expired")
	case errors.Is(err, token.ErrWrongKind):
		return unauthenticated(identity.ReasonTokenWrongKind, "this is a refresh token; send an access token")
	case err != nil:
		return unauthenticated(identity.ReasonTokenInvalid, "the token is not valid here")
	case p.Audience != "" && !slices.Contains(claims.Audience, p.Audience):
		return unauthenticated(identity.ReasonTokenInvalid, "the token is for another audience")
	}
	age, loaded := a.Ended.Age()
	switch {
	case !loaded || p.FailClosed && age > maxEndingsAge:
		return unavailable(identity.ReasonEndingsNotLoaded, "it is not known which sessions have ended")
	case a.Ended.Ended(claims.SessionID):
		return unauthenticated(identity.ReasonSessionEnded, "the session of the token has ended; sign in again")
	case p.MaxAge > 0 && a.Now().Sub(claims.AuthTime) > p.MaxAge:
		_, result, denied = unauthenticated(identity.ReasonTokenExpired, "the sign-in is too long ago; sign in again")
		// RFC 9470 section 3.
		denied.challenge = challenge(true, "insufficient_user_authentication") +
			", max_age=" + strconv.FormatInt(int64(p.MaxAge/time.Second), 10)
		return token.Claims{}, result, denied
	case !p.allows(strings.Fields(claims.Scope)):
		needed := strings.Join(append(slices.Clone(p.Scopes), p.AnyScope...), " ")
		return token.Claims{}, "forbidden", &denial{
			failure: &failure{
				status: http.StatusForbidden, code: codeForbidden, reason: identity.ReasonScopeMissing,
				description: "the access token lacks a scope that this needs",
			},
			challenge: challenge(true, "insufficient_scope") + `, scope="` + needed + `"`,
		}
	}
	return claims, "allowed", nil
}

// allows reports whether scopes are enough.
func (p Policy) allows(has []string) bool {
	for _, scope := range p.Scopes {
		if !slices.Contains(has, scope) {
			return false
		}
	}
	return len(p.AnyScope) == 0 || slices.ContainsFunc(p.AnyScope, func(s string) bool { return slices.Contains(has, s) })
}
