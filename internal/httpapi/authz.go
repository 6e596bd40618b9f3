package httpapi

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/token"
)

// Authz decides requests for proxies, at /authz/NAME, without the database.
type Authz struct {
	Policies []Policy
	Tokens   ClaimsVerifier
	Ended    EndedSessions
	Now      func() time.Time
	OwnPort  bool // ServeAuthz serves it, not Serve
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
	// Verified reports whether VerifyClaims remembers the token, and so verifies no signature.
	Verified(text string) bool
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

	// authzHeadLimit is headLimit for the port of decisions. It is what Envoy accepts from clients by default (60 KiB),
	// and NGINX (four buffers of 8 KiB), and what they add.
	authzHeadLimit = 64 << 10

	// authzShare is the part of CONNECTION_MEMORY and of the descriptors that this port has for itself.
	authzShare = 4

	// verifyWait is how long a decision waits until fewer signatures are being verified.
	verifyWait = 500 * time.Millisecond
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

// result is the result of a decision.
type result uint8

const (
	none result = iota // the request did not ask for one
	allowed
	anonymous
	unauthenticated
	forbidden
	overloaded
	unavailable
	unknown   // there is no such policy
	malformed // the request is not well-formed HTTP, or on a port of its own it does not ask for a decision
)

var resultNames = map[result]string{
	allowed: "allowed", anonymous: "anonymous", unauthenticated: "unauthenticated", forbidden: "forbidden",
	overloaded: "overloaded", unavailable: "unavailable", unknown: "unknown", malformed: "malformed",
}

// authz is the state of the route.
type authz struct {
	Authz
	policies map[string]*policyState
	other    [malformed + 1]prometheus.Counter // results without a policy
	duration prometheus.Histogram

	// verifying has room for the signatures that are verified at once. One takes a tenth of a millisecond, more than the rest
	// of a decision. If each connection of a flood verified one, requests for the API would wait behind all of them for
	// a thread of the runtime. They now wait behind as many as there are threads.
	verifying chan struct{}

	// waiting counts the decisions that wait for that. If they needed all memory for connections, others would be closed
	// without an answer, so they have half of it.
	waiting    atomic.Int64
	maxWaiting int64

	// Of its own port, if it has one.
	conns *connections
	http  *fasthttp.Server
}

// policyState is a policy and its counters.
type policyState struct {
	Policy
	results [malformed + 1]prometheus.Counter
}

func newAuthz(o *Authz, registerer prometheus.Registerer) *authz {
	if o == nil || len(o.Policies) == 0 {
		return nil
	}
	decisions, duration := newAuthzMetrics(registerer)
	a := &authz{Authz: *o, policies: map[string]*policyState{}, duration: duration,
		verifying: make(chan struct{}, runtime.GOMAXPROCS(0))}
	for r := unknown; r <= malformed; r++ {
		a.other[r] = decisions.WithLabelValues("", resultNames[r])
	}
	for _, p := range o.Policies {
		state := &policyState{Policy: p}
		for r := allowed; r <= unavailable; r++ {
			state.results[r] = decisions.WithLabelValues(p.Name, resultNames[r])
		}
		a.policies[p.Name] = state
	}
	return a
}

// policyIn reports whether a request asks for a decision, and by which policy. Proxies append the
// path of their client to it. Nothing after the name of the policy is read.
func policyIn(target []byte) (policy []byte, ok bool) {
	uri, ok := originForm(target)
	if !ok || !bytes.HasPrefix(uri, []byte(authzPrefix)) {
		return nil, false
	}
	rest := uri[len(authzPrefix):]
	if end := bytes.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	return rest, true
}

// serveAuthz handles a request on the port of decisions.
func (s *Server) serveAuthz(ctx *fasthttp.RequestCtx) {
	policy, ok := policyIn(ctx.Request.Header.RequestURI())
	if ok {
		s.decide(ctx, policy)
		return
	}
	x := s.begin(ctx, requestID(ctx.Request.Header.PeekCanonical(fieldRequestID)), ctx.Time())
	defer x.finish()
	x.beginTrace()
	f := errNoRoute()
	f.description = "this port serves only /authz/ and the name of a policy"
	x.refuse(malformed, f)
}

// unreadableAuthz is unreadable for the port of decisions.
func (s *Server) unreadableAuthz(ctx *fasthttp.RequestCtx, err error) {
	x := s.begin(ctx, newRequestID(), time.Now())
	defer x.finish()
	x.result = malformed
	x.failToRead(err, authzHeadLimit)
	x.identify(token.Claims{})
}

// decide answers a proxy.
func (s *Server) decide(ctx *fasthttp.RequestCtx, name []byte) {
	x := s.begin(ctx, requestID(ctx.Request.Header.PeekCanonical(fieldRequestID)), ctx.Time())
	defer x.finish()
	x.beginTrace()
	x.path, x.result = authzRoute, malformed // until it is known
	if f := validateFraming(&ctx.Request.Header); f != nil {
		x.refuse(malformed, f)
		return
	}
	policy := s.authz.policies[string(name)]
	if policy == nil {
		x.refuse(unknown, &failure{
			status: http.StatusNotFound, code: codeNotFound, reason: reasonPathNotFound,
			description: "AUTHZ_POLICIES has no policy of this name",
		})
		return
	}
	x.policy = policy
	field := ctx.Request.Header.Peek("Authorization")
	claims, result, denied := s.authz.decide(policy.Policy, field)
	if denied == nil {
		x.result = result
		x.identify(claims)
		x.http.Response.SetStatusCode(http.StatusOK)
		return
	}
	x.tokenSent = len(field) > 0
	x.refuse(result, denied.failure)
	if denied.challenge != "" {
		x.http.Response.Header.Set("WWW-Authenticate", denied.challenge)
	}
}

// refuse answers a proxy with a failure.
func (x *exchange) refuse(r result, f *failure) {
	x.result = r
	x.fail(f)
	x.identify(token.Claims{})
}

// recordDecision counts a decision. A line for each would double the logs of the proxy, so only what the operator has to
// look at is logged above debug.
func (x *exchange) recordDecision(took time.Duration) {
	a, ctx, log, status := x.server.authz, x.context(context.Background()), x.server.log, x.http.Response.StatusCode()
	a.duration.Observe(took.Seconds())
	name, counter := "", a.other[x.result]
	if x.policy != nil {
		name, counter = x.policy.Name, x.policy.results[x.result]
	}
	if counter == nil { // a panic
		counter = a.other[malformed]
	}
	counter.Inc()
	x.logFailure(status)
	level := slog.LevelDebug
	if x.result >= unavailable {
		level = slog.LevelInfo
	}
	if log.Enabled(ctx, level) {
		log.LogAttrs(ctx, level, "decision",
			slog.String("request_id", x.id), slog.String("method", x.method()), slog.String("route", x.path),
			slog.String("policy", name), slog.String("result", resultNames[x.result]), slog.Int("status", status),
			slog.Duration("duration", took))
	}
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

// errTooMany means that too many signatures were being verified.
var errTooMany = errors.New("too many signatures are being verified")

// verify verifies a token, and never waits for long: the error is then errTooMany. A token that was verified before is
// never refused for the load that others cause.
func (a *authz) verify(text string) (token.Claims, error) {
	if a.Tokens.Verified(text) {
		return a.Tokens.VerifyClaims(text)
	}
	select {
	case a.verifying <- struct{}{}:
	default:
		defer a.waiting.Add(-1)
		if a.waiting.Add(1) > a.maxWaiting {
			return token.Claims{}, errTooMany
		}
		wait := time.NewTimer(verifyWait)
		defer wait.Stop()
		select {
		case a.verifying <- struct{}{}:
		case <-wait.C:
			return token.Claims{}, errTooMany
		}
	}
	defer func() { <-a.verifying }()
	return a.Tokens.VerifyClaims(text)
}

// decide applies a policy to an Authorization field. A token that is not valid is refused even
// where none is needed: its sender wants to be known.
func (a *authz) decide(p Policy, field []byte) (claims token.Claims, r result, denied *denial) {
	refused := func(reason identity.Reason, text string) (token.Claims, result, *denial) {
		return token.Claims{}, unauthenticated, &denial{failure: &failure{
			status: http.StatusUnauthorized, code: codeUnauthenticated, reason: reason, description: text,
		}}
	}
	failed := func(r result, reason identity.Reason, text string) (token.Claims, result, *denial) {
		return token.Claims{}, r, &denial{failure: &failure{
			status: http.StatusServiceUnavailable, code: codeInternal, reason: reason, description: text, retryAfter: time.Second,
		}}
	}
	if len(field) == 0 {
		if p.Anonymous {
			return token.Claims{}, anonymous, nil
		}
		return refused(reasonTokenMissing, "an access token is required: send it as Authorization: Bearer")
	}
	text, ok := bearer(field)
	if !ok {
		return refused(reasonAuthorizationMalformed, errBadHeader().description)
	}
	claims, err := a.verify(text)
	switch {
	case errors.Is(err, errTooMany):
		return failed(overloaded, identity.ReasonOverloaded, "too many tokens are being verified; try again later")
	case errors.Is(err, token.ErrNoKeys):
		return failed(unavailable, identity.ReasonKeysNotLoaded, "the signing keys are not loaded yet")
	case errors.Is(err, token.ErrExpired):
		return refused(identity.ReasonTokenExpired, "the token has expired")
	case errors.Is(err, token.ErrWrongKind):
		return refused(identity.ReasonTokenWrongKind, "this is a refresh token; send an access token")
	case err != nil:
		return refused(identity.ReasonTokenInvalid, "the token is not valid here")
	case p.Audience != "" && !slices.Contains(claims.Audience, p.Audience):
		return refused(identity.ReasonTokenInvalid, "the token is for another audience")
	}
	age, loaded := a.Ended.Age()
	switch {
	case !loaded || p.FailClosed && age > maxEndingsAge:
		return failed(unavailable, identity.ReasonEndingsNotLoaded, "it is not known which sessions have ended")
	case a.Ended.Ended(claims.SessionID):
		return refused(identity.ReasonSessionEnded, "the session of the token has ended; sign in again")
	case p.MaxAge > 0 && a.Now().Sub(claims.AuthTime) > p.MaxAge:
		_, r, denied = refused(identity.ReasonTokenExpired, "the sign-in is too long ago; sign in again")
		// RFC 9470 section 3.
		denied.challenge = challenge(true, "insufficient_user_authentication") +
			", max_age=" + strconv.FormatInt(int64(p.MaxAge/time.Second), 10)
		return token.Claims{}, r, denied
	case !p.allows(strings.Fields(claims.Scope)):
		needed := strings.Join(append(slices.Clone(p.Scopes), p.AnyScope...), " ")
		return token.Claims{}, forbidden, &denial{
			failure: &failure{
				status: http.StatusForbidden, code: codeForbidden, reason: identity.ReasonScopeMissing,
				description: "the access token lacks a scope that this needs",
			},
			challenge: challenge(true, "insufficient_scope") + `, scope="` + needed + `"`,
		}
	}
	return claims, allowed, nil
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
