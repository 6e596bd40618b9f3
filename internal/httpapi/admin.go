package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/span"
)

// Administration does what administrators ask for: *admin.Service.
type Administration interface {
	Users(ctx context.Context, f admin.Filter, c admin.Cursor, limit int) (admin.Page[admin.User], error)
	User(ctx context.Context, id string) (admin.User, error)
	Create(ctx context.Context, in admin.NewUser, c admin.Change) (admin.Invitation, error)
	RequirePasswordChange(ctx context.Context, ref admin.Ref, c admin.Change) (admin.Invitation, error)
	ResendVerification(ctx context.Context, ref admin.Ref, c admin.Change) (admin.Invitation, error)
	Update(ctx context.Context, ref admin.Ref, p admin.Patch, c admin.Change) (admin.User, error)
	Suspend(ctx context.Context, ref admin.Ref, c admin.Change) (admin.User, error)
	Unsuspend(ctx context.Context, ref admin.Ref, c admin.Change) (admin.User, error)
	Remove(ctx context.Context, ref admin.Ref, c admin.Change) error
	Sessions(ctx context.Context, userID string) ([]identity.OwnSession, error)
	EndSessions(ctx context.Context, userID string, c admin.Change) (ended int, err error)
	EndSession(ctx context.Context, userID, sessionID string, c admin.Change) error
	Export(ctx context.Context, userID string) (admin.Export, error)
	Events(ctx context.Context, f admin.EventFilter, c admin.Cursor, limit int) (admin.Page[admin.Event], error)
	Ring(ctx context.Context) (admin.Ring, error)
	Rotate(ctx context.Context, c admin.Change) (ring admin.Ring, changed bool, err error)
	RevokeKey(ctx context.Context, id string, c admin.Change) (ring admin.Ring, changed bool, err error)
}

// Admin serves the routes of administrators, on a listener of their own. They are few and trusted, so net/http is
// enough: its ServeMux has parameters within a path.
type Admin struct {
	service Administration
	rights  admin.Authorizer
	ready   func() error
	log     *slog.Logger
	tracer  span.Tracer // nil: traces are off
	mux     *http.ServeMux
	routes  []string // such as "GET /admin/users"
	served  *prometheus.CounterVec
}

// Metrics returns the metrics of these routes.
func (a *Admin) Metrics() prometheus.Collector { return a.served }

// adminRoute is a method and path of administrators, and the right that it needs.
type adminRoute struct {
	method string
	path   string
	need   admin.Right
	handle func(*adminExchange) error
	query  []string
}

// NewAdmin returns the handler of the routes of administrators. While ready returns an error, that is the reply.
// tracer may be nil.
func NewAdmin(
	service Administration, rights admin.Authorizer, ready func() error, log *slog.Logger, tracer span.Tracer,
) *Admin {
	a := &Admin{service: service, rights: rights, ready: ready, log: log, tracer: tracer, mux: http.NewServeMux(), served: newAdminMetrics()}
	users := []string{"id", "email", "username", "email_prefix", "username_prefix", "state", "created_after", "limit", "cursor"}
	routes := []adminRoute{
		{"GET", "/admin/openapi.json", admin.Right{}, a.openAPI, nil},
		{"GET", "/admin/users", admin.Right{Resource: admin.Users, Verb: admin.List}, a.users, users},
		{"POST", "/admin/users", admin.Right{Resource: admin.Users, Verb: admin.Create}, a.create, nil},
		{"GET", "/admin/users/{id}", admin.Right{Resource: admin.Users, Verb: admin.Get}, a.user, nil},
		{"PATCH", "/admin/users/{id}", admin.Right{Resource: admin.Users, Verb: admin.Update}, a.update, nil},
		{"DELETE", "/admin/users/{id}", admin.Right{Resource: admin.Users, Verb: admin.Delete}, a.remove, nil},
		{"POST", "/admin/users/{id}/suspend", admin.Right{Resource: admin.Users, Verb: admin.Update}, a.suspend, nil},
		{"POST", "/admin/users/{id}/unsuspend", admin.Right{Resource: admin.Users, Verb: admin.Update}, a.unsuspend, nil},
		{"POST", "/admin/users/{id}/require-password-change", admin.Right{Resource: admin.Users, Verb: admin.Update}, a.requirePassword, nil},
		{"POST", "/admin/users/{id}/resend-verification", admin.Right{Resource: admin.Users, Verb: admin.Update}, a.resend, nil},
		{"POST", "/admin/users/{id}/sign-out", admin.Right{Resource: admin.Sessions, Verb: admin.Delete}, a.signOut, nil},
		{"GET", "/admin/users/{id}/sessions", admin.Right{Resource: admin.Sessions, Verb: admin.List}, a.sessions, nil},
		{"DELETE", "/admin/users/{id}/sessions/{sid}", admin.Right{Resource: admin.Sessions, Verb: admin.Delete}, a.endSession, nil},
		{"GET", "/admin/events", admin.Right{Resource: admin.Events, Verb: admin.List}, a.events,
			[]string{"user", "event", "actor", "limit", "cursor"}},
		{"GET", "/admin/keys", admin.Right{Resource: admin.SigningKeys, Verb: admin.List}, a.keys, nil},
		{"POST", "/admin/keys/rotate", admin.Right{Resource: admin.SigningKeys, Verb: admin.Update}, a.rotate, nil},
		{"POST", "/admin/keys/{kid}/revoke", admin.Right{Resource: admin.SigningKeys, Verb: admin.Update}, a.revoke, nil},
		{"GET", "/admin/users/{id}/export", admin.Right{Resource: admin.Users, Verb: admin.Get}, a.export, nil},
	}
	paths := map[string][]string{}
	for _, r := range routes {
		a.routes = append(a.routes, r.method+" "+r.path)
		a.mux.Handle(r.method+" "+r.path, a.handler(r))
		paths[r.path] = append(paths[r.path], r.method)
		if r.method == http.MethodGet {
			paths[r.path] = append(paths[r.path], http.MethodHead)
		}
	}
	for path, methods := range paths {
		a.mux.Handle(path, a.handler(adminRoute{path: path, handle: func(*adminExchange) error {
			return errMethod(strings.Join(methods, ", "))
		}}))
	}
	a.mux.Handle("/", a.unknown())
	return a
}

// unknown is the handler of paths that do not exist.
func (a *Admin) unknown() http.Handler {
	return a.handler(adminRoute{handle: func(*adminExchange) error {
		f := errNoRoute()
		f.description = "this path does not exist on the port of administrators"
		return f
	}})
}

// ServeHTTP implements http.Handler.
func (a *Admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "//") || strings.Contains(r.URL.EscapedPath(), "%") || strings.Contains(r.URL.Path, "/.") {
		// A ServeMux redirects to a clean path, and would send the credential there.
		a.unknown().ServeHTTP(w, r)
		return
	}
	a.mux.ServeHTTP(w, r)
}

// adminExchange is one request of an administrator.
type adminExchange struct {
	w     http.ResponseWriter
	r     *http.Request
	id    string
	query url.Values
	actor admin.Actor

	credential string

	status int
	failed *failure
}

func (a *Admin) handler(route adminRoute) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		x := &adminExchange{w: w, r: r, id: requestID([]byte(r.Header.Get("X-Request-Id")))}
		h := w.Header()
		h.Set("X-Request-Id", x.id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", replyPolicy)
		h.Set("Cache-Control", "no-store")
		trace := a.beginTrace(x, start) //nolint:contextcheck // the exchange has the request's
		defer func() {                  //nolint:contextcheck // the exchange has the request's
			if p := recover(); p != nil {
				x.fail(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			}
			a.record(x.r.Context(), x, route, time.Since(start))
			if trace != nil {
				trace.End(serverSpan(cmp.Or(route.method, otherMethod), route.path, x.status, start))
			}
		}()
		if err := a.serve(x, route); err != nil { //nolint:contextcheck // the exchange has the request's
			x.fail(err)
		}
	})
}

func (a *Admin) serve(x *adminExchange, route adminRoute) error {
	if route.need == (admin.Right{}) { // no such path or method, or the document
		return route.handle(x)
	}
	field := x.r.Header.Values("Authorization")
	if len(field) == 0 {
		return &failure{
			status: http.StatusUnauthorized, code: codeUnauthenticated, reason: reasonTokenMissing,
			description: "a credential of an administrator is required: send it as Authorization: Bearer",
		}
	}
	credential, ok := bearer([]byte(strings.Join(field, ", ")))
	if !ok {
		return errBadHeader()
	}
	x.credential = credential
	if err := a.authorize(x, route.need); err != nil {
		return err
	}
	if err := a.ready(); err != nil {
		return err
	}
	var err error
	if x.query, err = adminQuery(x.r.URL.RawQuery, route.query); err != nil {
		return err
	}
	address, _ := netip.ParseAddrPort(x.r.RemoteAddr)
	ctx := identity.WithCaller(x.r.Context(), identity.Caller{RequestID: x.id, Address: address.Addr().Unmap()})
	x.r = x.r.WithContext(ctx)
	for _, name := range []string{"id", "sid"} {
		if value := x.r.PathValue(name); value != "" && !identity.IsUUID(value) {
			f := errNoID()
			f.description = name + ": must be a UUID in lower case"
			return f
		}
	}
	return route.handle(x)
}

// authorize returns an error unless the caller has a right.
func (a *Admin) authorize(x *adminExchange, need admin.Right) error {
	actor, err := a.rights.Authorize(x.r.Context(), x.credential, need)
	if err != nil {
		return errRight(err, need)
	}
	x.actor = actor
	return nil
}

// errRight is the reply to a caller without a right. It says what an administrator can know: who they are, and what
// they lack.
func errRight(err error, need admin.Right) *failure {
	f := &failure{cause: err}
	switch {
	case errors.Is(err, admin.ErrUnauthenticated):
		f.status, f.code, f.reason = http.StatusUnauthorized, codeUnauthenticated, reasonAdminCredential
		f.description = "the credential is unknown or has expired"
	case errors.Is(err, admin.ErrForbidden):
		f.status, f.code, f.reason = http.StatusForbidden, codeForbidden, reasonRightMissing
		f.description = "your credential lacks the right " + need.String()
	default:
		f.status, f.code, f.reason, f.retryAfter = http.StatusServiceUnavailable, codeInternal, reasonRightUndecided, time.Second
		f.description = "it cannot be decided now whether you may do this; try again"
	}
	if refusal, ok := errors.AsType[*admin.Refusal](err); ok {
		f.description = refusal.Message
	}
	return f
}

// adminQuery returns the parameters of a query. An unknown or repeated one is an error: a filter that is ignored would
// list too much.
func adminQuery(raw string, known []string) (url.Values, error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return nil, invalid(http.StatusBadRequest, reasonQueryMalformed, "the query is malformed")
	}
	for name, values := range query {
		var fault identity.Fault
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			fault = identity.Fault{Reason: identity.FieldUnrecognized, Text: "this route has no parameters in the query"}
		case !slices.Contains(known, name):
			fault = identity.Fault{Reason: identity.FieldUnrecognized, Text: "is not a parameter of this route: write " + strings.Join(known, ", ")}
		case len(values) > 1:
			fault = identity.Fault{Reason: identity.FieldMalformed, Text: "occurs twice"}
		case values[0] == "":
			fault = identity.Fault{Reason: identity.FieldEmpty, Text: "is empty"}
		default:
			continue
		}
		return nil, invalidFields([]identity.Problem{{Parameter: printable(name), Fault: fault}})
	}
	return query, nil
}

// printable returns a name that a client chose, for a message.
func printable(name string) string {
	if len(name) > 40 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "a parameter"
	}
	return name
}

func (x *adminExchange) fail(err error) {
	f := failureOf(err)
	if f.reason == admin.ReasonAccountChanged {
		f.status = http.StatusPreconditionFailed
	}
	x.failed = f
	h := x.w.Header()
	if f.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", challenge(f.reason == reasonAdminCredential, "invalid_token"))
	}
	if f.allow != "" {
		h.Set("Allow", f.allow)
	}
	if f.retryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(wholeSeconds(f.retryAfter), 10))
	}
	_ = x.reply(f.status, errorReply{Code: f.code, Description: f.description, Reason: f.reason, Fields: f.fields})
}

func (x *adminExchange) reply(status int, body any) error {
	if x.status != 0 {
		return nil // a reply was begun before a panic
	}
	x.status = status
	if body == nil {
		x.w.WriteHeader(status)
		return nil
	}
	var text bytes.Buffer
	if err := json.MarshalWrite(&text, body); err != nil {
		return err
	}
	x.w.Header().Set("Content-Type", "application/json")
	x.w.WriteHeader(status)
	_, err := x.w.Write(text.Bytes())
	return err
}

// record counts a request and writes its log line. That names the actor, and no query.
func (a *Admin) record(ctx context.Context, x *adminExchange, route adminRoute, took time.Duration) {
	attrs := []slog.Attr{
		slog.String("request_id", x.id), slog.String("method", x.r.Method), slog.String("route", route.path),
		slog.Int("status", x.status), slog.Duration("duration", took),
	}
	if x.actor.Name != "" {
		attrs = append(attrs, slog.String("actor", x.actor.Name))
	}
	if f := x.failed; f != nil && f.cause != nil {
		level := slog.LevelInfo
		if x.status >= 500 {
			level = slog.LevelError
		}
		a.log.LogAttrs(ctx, level, "request failed",
			slog.String("request_id", x.id), slog.Int("status", x.status), slog.Any("cause", f.cause))
	}
	a.log.LogAttrs(ctx, slog.LevelInfo, "admin request", attrs...)
	a.served.WithLabelValues(cmp.Or(route.method, "other"), cmp.Or(route.path, "other"), strconv.Itoa(x.status)).Inc()
}
