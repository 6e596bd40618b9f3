package console

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Administration does what administrators ask for: *admin.Service.
type Administration interface {
	Users(ctx context.Context, f admin.Filter, c admin.Cursor, limit int) (admin.Page[admin.User], error)
	User(ctx context.Context, id string) (admin.User, error)
	Create(ctx context.Context, in admin.NewUser, c admin.Change) (admin.Invitation, error)
	Suspend(ctx context.Context, ref admin.Ref, c admin.Change) (admin.User, error)
	Unsuspend(ctx context.Context, ref admin.Ref, c admin.Change) (admin.User, error)
	Remove(ctx context.Context, ref admin.Ref, c admin.Change) error
	Sessions(ctx context.Context, userID string) ([]identity.OwnSession, error)
	EndSessions(ctx context.Context, userID string, c admin.Change) (ended int, err error)
	EndSession(ctx context.Context, userID, sessionID string, c admin.Change) error
	Events(ctx context.Context, f admin.EventFilter, c admin.Cursor, limit int) (admin.Page[admin.Event], error)
	Ring(ctx context.Context) (admin.Ring, error)
	Rotate(ctx context.Context, c admin.Change) (ring admin.Ring, changed bool, err error)
	RevokeKey(ctx context.Context, id string, c admin.Change) (ring admin.Ring, changed bool, err error)
}

// Config is what a Console needs.
type Config struct {
	Service Administration
	Rights  admin.Authorizer
	Ready   func() error // while it returns an error, that is the reply
	State   func(context.Context) State
	Log     *slog.Logger
	Now     func() time.Time
}

// Path is where the console is.
const Path = "/console"

const (
	cookieName = "auth-gateway-console"

	// policy allows no script, and nothing from elsewhere.
	policy = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

//go:embed templates/*.html
var templates embed.FS

//go:embed style.css
var style []byte

// Console serves the pages.
type Console struct {
	Config

	sessions *sessions
	pages    map[string]*template.Template
	handler  http.Handler
}

// usesConsole is the right without which there is nothing to see.
var usesConsole = admin.Right{Resource: admin.Users, Verb: admin.List}

// New returns a Console.
func New(c Config) *Console {
	o := &Console{Config: c, sessions: newSessions(c.Now), pages: map[string]*template.Template{}}
	for _, name := range []string{"sign-in", "users", "user", "invite", "invited", "events", "keys", "state", "problem"} {
		o.pages[name] = template.Must(template.New("layout.html").Funcs(functions).
			ParseFS(templates, "templates/layout.html", "templates/"+name+".html"))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path+"/style.css", o.style)
	mux.Handle("POST "+Path+"/code", o.open(o.makeCode))
	mux.Handle("GET "+Path+"/enter", o.open(o.enter))
	mux.Handle("GET "+Path+"/sign-in", o.open(o.askCredential))
	mux.Handle("POST "+Path+"/sign-in", o.open(o.signIn))
	mux.Handle("POST "+Path+"/sign-out", o.open(o.signOut))
	for pattern, page := range map[string]struct {
		need   admin.Right
		handle func(*visit) error
	}{
		"GET /{$}":        {usesConsole, func(v *visit) error { return v.redirect("/users") }},
		"GET /users":      {usesConsole, o.users},
		"GET /users/{id}": {admin.Right{Resource: admin.Users, Verb: admin.Get}, o.user},
		"GET /events":     {admin.Right{Resource: admin.Events, Verb: admin.List}, o.events},

		"GET /keys":         {admin.Right{Resource: admin.SigningKeys, Verb: admin.List}, o.keys},
		"POST /keys/rotate": {admin.Right{Resource: admin.SigningKeys, Verb: admin.Update}, o.rotate},
		"POST /keys/revoke": {admin.Right{Resource: admin.SigningKeys, Verb: admin.Update}, o.revoke},
		"GET /state":        {usesConsole, o.state},

		"GET /invite":  {admin.Right{Resource: admin.Users, Verb: admin.Create}, o.askInvited},
		"POST /invite": {admin.Right{Resource: admin.Users, Verb: admin.Create}, o.invite},

		"POST /users/{id}/suspend":            {admin.Right{Resource: admin.Users, Verb: admin.Update}, o.suspend},
		"POST /users/{id}/unsuspend":          {admin.Right{Resource: admin.Users, Verb: admin.Update}, o.unsuspend},
		"POST /users/{id}/delete":             {admin.Right{Resource: admin.Users, Verb: admin.Delete}, o.remove},
		"POST /users/{id}/sign-out":           {admin.Right{Resource: admin.Sessions, Verb: admin.Delete}, o.endSessions},
		"POST /users/{id}/sessions/{sid}/end": {admin.Right{Resource: admin.Sessions, Verb: admin.Delete}, o.endSession},
	} {
		method, path, _ := strings.Cut(pattern, " ")
		mux.Handle(method+" "+Path+path, o.open(o.signedIn(page.need, page.handle)))
	}
	mux.Handle("GET "+Path, http.RedirectHandler(Path+"/", http.StatusSeeOther))
	mux.Handle("/", o.open(func(*visit) error { return &problem{status: http.StatusNotFound, title: "There is no such page"} }))
	// A form of another site must not reach a page: besides the cookie, which is never sent with such a request, the
	// browser says where the request comes from.
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(o.open(func(*visit) error {
		return &problem{status: http.StatusForbidden, title: "This form was sent from another site"}
	}))
	o.handler = protection.Handler(mux)
	return o
}

// ServeHTTP implements http.Handler.
func (o *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { o.handler.ServeHTTP(w, r) }

// Enter returns a path that opens the console once with a credential, within a minute.
func (o *Console) Enter(credential string) string {
	return Path + "/enter?code=" + o.sessions.code(credential)
}

// visit is one request.
type visit struct {
	console *Console
	w       http.ResponseWriter
	r       *http.Request

	session    string // empty: not signed in
	credential string
	actor      admin.Actor
	status     int
}

// problem is a page that says what is wrong.
type problem struct {
	status int
	title  string
	text   string
	cause  error
}

func (p *problem) Error() string { return p.title }

func (o *Console) open(handle func(*visit) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		v := &visit{console: o, w: w, r: r}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin") // the browser needs it to say where a form comes from
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		defer func() { //nolint:contextcheck // the visit has the request's
			if p := recover(); p != nil {
				v.fail(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			}
			attrs := []slog.Attr{
				slog.String("method", r.Method), slog.String("route", r.Pattern), slog.Int("status", v.status),
				slog.Duration("duration", time.Since(start)),
			}
			if v.actor.Name != "" {
				attrs = append(attrs, slog.String("actor", v.actor.Name))
			}
			o.Log.LogAttrs(v.r.Context(), slog.LevelInfo, "console request", attrs...)
		}()
		if err := handle(v); err != nil {
			v.fail(err) //nolint:contextcheck // the visit has the request's
		}
	})
}

// signedIn lets an administrator in who has a session and the right.
func (o *Console) signedIn(need admin.Right, handle func(*visit) error) func(*visit) error {
	return func(v *visit) error {
		if cookie, err := v.r.Cookie(cookieName); err == nil {
			v.session = cookie.Value
		}
		var ok bool
		if v.credential, ok = o.sessions.credential(v.session); !ok {
			return v.redirect("/sign-in")
		}
		err := v.authorize(need)
		if errors.Is(err, admin.ErrUnauthenticated) {
			o.sessions.end(v.session)
			return v.redirect("/sign-in?ended")
		}
		if err != nil {
			return err
		}
		if err := o.Ready(); err != nil {
			return err
		}
		address, _ := netip.ParseAddrPort(v.r.RemoteAddr)
		ctx := identity.WithCaller(v.r.Context(), identity.Caller{Address: address.Addr().Unmap()})
		v.r = v.r.WithContext(ctx)
		for _, name := range []string{"id", "sid"} {
			if value := v.r.PathValue(name); value != "" && !identity.IsUUID(value) {
				return &problem{status: http.StatusNotFound, title: "There is no such account or session"}
			}
		}
		return handle(v)
	}
}

// authorize returns a page if the administrator lacks a right, and sets the actor if they have it.
func (v *visit) authorize(need admin.Right) error {
	actor, err := v.console.Rights.Authorize(v.r.Context(), v.credential, need)
	switch {
	case err == nil:
		v.actor = actor
		return nil
	case errors.Is(err, admin.ErrUnauthenticated):
		return err
	case errors.Is(err, admin.ErrForbidden):
		return &problem{
			status: http.StatusForbidden, title: "You may not do this", cause: err,
			text: refusal(err, "It needs the right "+need.String()+", which your credential does not have."),
		}
	}
	return &problem{
		status: http.StatusServiceUnavailable, title: "It cannot be decided now whether you may do this", cause: err,
		text: refusal(err, "The system that knows your rights does not answer. Try again in a moment."),
	}
}

// refusal returns what an Authorizer says about a refusal, or else a text.
func refusal(err error, text string) string {
	if r, ok := errors.AsType[*admin.Refusal](err); ok && r.Message != "" {
		return r.Message
	}
	return text
}

// may reports whether to offer something. The request that does it is authorized again.
func (v *visit) may(resource admin.Resource, verb admin.Verb) bool {
	_, err := v.console.Rights.Authorize(v.r.Context(), v.credential, admin.Right{Resource: resource, Verb: verb})
	return err == nil
}

func (v *visit) fail(err error) {
	p, ok := errors.AsType[*problem](err)
	if !ok {
		p = problemOf(err)
	}
	if p.cause != nil {
		level := slog.LevelInfo
		if p.status >= http.StatusInternalServerError {
			level = slog.LevelError
		}
		v.console.Log.LogAttrs(v.r.Context(), level, "request failed", slog.Int("status", p.status), slog.Any("cause", p.cause))
	}
	if p.status == http.StatusServiceUnavailable {
		v.w.Header().Set("Retry-After", "1")
	}
	v.status = p.status
	_ = v.show("problem", p.title, map[string]any{"Text": p.text})
}

func problemOf(err error) *problem {
	told, _ := errors.AsType[*identity.Error](err)
	switch {
	case told == nil:
		return &problem{http.StatusInternalServerError, "Something went wrong", "The log of the server has the cause.", err}
	case told.Reason == admin.ReasonAccountChanged:
		return &problem{
			http.StatusConflict, "The account has changed", "It has changed since the page was loaded. Go back, look again, and decide.", nil,
		}
	case told.Reason == admin.ReasonKeysBusy:
		return &problem{http.StatusServiceUnavailable, "Not now", told.Message, err}
	case told.Kind == identity.NotFound:
		return &problem{http.StatusNotFound, "There is no such account, session or key", "It may have been deleted, or have ended.", nil}
	case told.Kind == identity.Conflict:
		return &problem{http.StatusConflict, "This is not possible", told.Message, nil}
	case told.Kind == identity.Invalid:
		return &problem{http.StatusBadRequest, "The request is not valid", told.Message, nil}
	case told.Kind == identity.RateLimited, told.Kind == identity.Overloaded:
		return &problem{http.StatusServiceUnavailable, "Not now", told.Message, err}
	case told.Kind == identity.Unavailable:
		return &problem{http.StatusServiceUnavailable, "The database cannot be reached", "Nothing was changed. Try again in a moment.", err}
	}
	return &problem{http.StatusInternalServerError, "Something went wrong", "The log of the server has the cause.", err}
}

// show renders a page.
func (v *visit) show(name, title string, data map[string]any) error {
	data["Title"], data["Actor"], data["Path"] = title, v.actor.Name, Path
	var page bytes.Buffer
	if err := v.console.pages[name].Execute(&page, data); err != nil {
		return err
	}
	if v.status == 0 {
		v.status = http.StatusOK
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(v.status)
	_, _ = v.w.Write(page.Bytes()) // the browser may have gone
	return nil
}

// redirect sends the browser to another page of the console.
func (v *visit) redirect(to string) error {
	v.status = http.StatusSeeOther
	http.Redirect(v.w, v.r, Path+to, v.status)
	return nil
}

func (o *Console) style(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(style)
}

func (o *Console) askCredential(v *visit) error {
	_, ended := v.r.URL.Query()["ended"]
	return v.show("sign-in", "Sign in", map[string]any{"Ended": ended})
}

func (o *Console) signIn(v *visit) error {
	v.credential = strings.TrimSpace(v.r.PostFormValue("credential"))
	err := v.authorize(usesConsole)
	if errors.Is(err, admin.ErrUnauthenticated) {
		v.status = http.StatusUnauthorized
		return v.show("sign-in", "Sign in", map[string]any{"Refused": true})
	}
	if err != nil {
		return err
	}
	v.remember(o.sessions.open(v.credential))
	return v.redirect("/users")
}

// makeCode gives a program a code with which a browser opens the console once. The program sends its credential as it
// does to the other routes of administrators.
func (o *Console) makeCode(v *visit) error {
	credential, ok := strings.CutPrefix(v.r.Header.Get("Authorization"), "Bearer ")
	v.credential = credential
	if err := v.authorize(usesConsole); !ok || err != nil {
		if !ok || errors.Is(err, admin.ErrUnauthenticated) {
			v.w.Header().Set("WWW-Authenticate", "Bearer")
			return &problem{status: http.StatusUnauthorized, title: "The credential is unknown or has expired", cause: err}
		}
		return err
	}
	v.status = http.StatusOK
	v.w.Header().Set("Content-Type", "application/json")
	return json.MarshalWrite(v.w, map[string]any{"path": o.Enter(credential), "expires_in": int(codeLife.Seconds())})
}

func (o *Console) enter(v *visit) error {
	credential, ok := o.sessions.redeem(v.r.URL.Query().Get("code"))
	if !ok {
		return v.redirect("/sign-in?ended")
	}
	v.remember(o.sessions.open(credential))
	return v.redirect("/users")
}

func (v *visit) remember(id string) {
	http.SetCookie(v.w, &http.Cookie{ //nolint:gosec // it is Secure where there is TLS
		Name: cookieName, Value: id, Path: Path, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: v.r.TLS != nil || v.r.Header.Get("X-Forwarded-Proto") == "https",
	})
}

func (o *Console) signOut(v *visit) error {
	if cookie, err := v.r.Cookie(cookieName); err == nil {
		o.sessions.end(cookie.Value)
	}
	http.SetCookie(v.w, &http.Cookie{ //nolint:gosec // it removes the cookie
		Name: cookieName, Path: Path, MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	return v.redirect("/sign-in")
}
