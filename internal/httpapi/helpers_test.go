package httpapi_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

const (
	userID    = apitest.ExampleID
	codeText  = "MX6T3QO5J2KZ4VD7WAL2NFE3RY"
	goodToken = "an.access.token"
)

// accounts replaces the domain. It records its calls, and returns what the test sets.
type accounts struct {
	mu    sync.Mutex
	calls []string

	err    error                                        // the result, if do is nil
	do     func(ctx context.Context, call string) error // called instead
	mailed bool                                         // codes are sent by mail

	admit  func(ctx context.Context, class identity.LimitClass) (identity.Allowance, error) // nil: no limits
	writes func(kind string) (identity.Allowance, error)                                    // nil: no limits
}

func (a *accounts) called(ctx context.Context, method string, args ...string) error {
	call := method + "(" + strings.Join(args, ", ") + ")"
	a.mu.Lock()
	a.calls = append(a.calls, call)
	a.mu.Unlock()
	if a.do != nil {
		return a.do(ctx, call)
	}
	return a.err
}

// last returns the latest call and deletes all.
func (a *accounts) last() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.calls) == 0 {
		return ""
	}
	defer func() { a.calls = nil }()
	return a.calls[len(a.calls)-1]
}

func (a *accounts) code() identity.Code {
	if a.mailed {
		return identity.Code{}
	}
	return identity.Code{UserID: userID, Text: codeText, ExpiresIn: 15 * time.Minute}
}

func theTokens() identity.Tokens {
	return identity.Tokens{
		AccessToken: "a.b.c", ExpiresIn: 15 * time.Minute, RefreshToken: "d.e.f",
		RefreshExpiresIn: 7 * 24 * time.Hour, Scope: "profile email",
	}
}

func theUser() identity.User {
	east := time.FixedZone("east", 3600)
	return identity.User{
		ID: userID, Username: "ada", Email: "ada@example.com", FirstName: "Ada", LastName: "Lovelace",
		Scope: "profile email", EmailVerified: true,
		CreatedAt: time.Date(2026, 1, 2, 4, 4, 5, 0, east), UpdatedAt: time.Date(2026, 1, 2, 3, 4, 5, 600e6, time.UTC),
	}
}

func (a *accounts) Admit(ctx context.Context, class identity.LimitClass) (identity.Allowance, error) {
	if a.admit == nil {
		return identity.Allowance{Allowed: true}, nil
	}
	return a.admit(ctx, class)
}

func (a *accounts) AdmitChange(context.Context, string) (identity.Allowance, error) {
	return a.admitWrite("change")
}

func (a *accounts) AdmitEnding(context.Context, string) (identity.Allowance, error) {
	return a.admitWrite("ending")
}

func (a *accounts) admitWrite(kind string) (identity.Allowance, error) {
	if a.writes == nil {
		return identity.Allowance{Allowed: true}, nil
	}
	return a.writes(kind)
}

func (a *accounts) CheckSignUp(identity.SignUp) []identity.Problem { return nil }

func (a *accounts) SignUp(ctx context.Context, s identity.SignUp) (identity.Code, error) {
	return a.code(), a.called(ctx, "SignUp", s.Username, s.Email, s.FirstName, s.LastName, s.Password, s.Scope)
}

func (a *accounts) VerifyUser(ctx context.Context, p identity.Proof) (identity.Tokens, error) {
	args := []string{p.Code}
	for _, given := range []*string{p.Password, p.Username} {
		if given != nil {
			args = append(args, *given)
		}
	}
	return theTokens(), a.called(ctx, "VerifyUser", args...)
}

func (a *accounts) NewVerificationCode(ctx context.Context, email string) (identity.Code, error) {
	return a.code(), a.called(ctx, "NewVerificationCode", email)
}

func (a *accounts) Profile(ctx context.Context, token string) (identity.User, error) {
	return theUser(), a.called(ctx, "Profile", token)
}

func (a *accounts) UpdateProfile(ctx context.Context, token string, p identity.ProfileUpdate) (identity.User, error) {
	show := func(s *string) string {
		if s == nil {
			return "-"
		}
		return *s
	}
	return theUser(), a.called(ctx, "UpdateProfile", token, show(p.Username), show(p.FirstName), show(p.LastName))
}

func (a *accounts) DeleteUser(ctx context.Context, token string) error {
	return a.called(ctx, "DeleteUser", token)
}

func (a *accounts) ForgotPassword(ctx context.Context, email string) (identity.Code, error) {
	return a.code(), a.called(ctx, "ForgotPassword", email)
}

func (a *accounts) ResetPassword(ctx context.Context, code, id, password string) error {
	return a.called(ctx, "ResetPassword", code, id, password)
}

func (a *accounts) ChangePassword(ctx context.Context, token, old, password string) error {
	return a.called(ctx, "ChangePassword", token, old, password)
}

func (a *accounts) RequestEmailChange(ctx context.Context, token, email string) (identity.Code, error) {
	return a.code(), a.called(ctx, "RequestEmailChange", token, email)
}

func (a *accounts) ChangeEmail(ctx context.Context, token, code, email string) (identity.User, error) {
	return theUser(), a.called(ctx, "ChangeEmail", token, code, email)
}

func (a *accounts) SignIn(ctx context.Context, username, password string) (identity.Tokens, error) {
	return theTokens(), a.called(ctx, "SignIn", username, password)
}

func (a *accounts) Renew(ctx context.Context, token string) (identity.Tokens, error) {
	return theTokens(), a.called(ctx, "Renew", token)
}

func (a *accounts) SignOut(ctx context.Context, token string) error {
	return a.called(ctx, "SignOut", token)
}

func (a *accounts) Revoke(ctx context.Context, token string) error {
	return a.called(ctx, "Revoke", token)
}

func (a *accounts) Sessions(ctx context.Context, token string) ([]identity.OwnSession, error) {
	u := theUser()
	return []identity.OwnSession{
		{ID: userID, OpenedAt: u.CreatedAt, RefreshedAt: u.UpdatedAt, ExpiresAt: u.CreatedAt.Add(time.Hour), UserAgent: "curl/8", Current: true},
	}, a.called(ctx, "Sessions", token)
}

func (a *accounts) export(ctx context.Context, userID string) (admin.Export, error) {
	u := theUser()
	return admin.Export{
		User: admin.ExportedUser{
			ID: userID, Username: u.Username, Email: u.Email, Roles: []string{}, Metadata: jsontext.Value("{}"),
			CreatedAt: u.CreatedAt.UTC(), UpdatedAt: u.UpdatedAt,
		},
		Sessions: []admin.ExportedSession{}, Codes: []admin.ExportedCode{}, Networks: []admin.ExportedNetwork{},
		Mails: []admin.ExportedMail{}, Events: []admin.ExportedEvent{},
	}, a.called(ctx, "Export", userID)
}

func (a *accounts) EndSession(ctx context.Context, token, id string) error {
	return a.called(ctx, "EndSession", token, id)
}

func (a *accounts) Introspect(ctx context.Context, token string) (identity.Introspection, error) {
	err := a.called(ctx, "Introspect", token)
	switch {
	case strings.HasPrefix(token, "dead"):
		return identity.Introspection{}, err
	case strings.HasPrefix(token, "refresh"):
		return identity.Introspection{
			Active: true, TokenType: "refresh_token", Scope: "profile", Subject: userID, SessionID: userID,
			Issuer: "https://auth.example", Audience: []string{"https://auth.example"}, TokenID: "session.3", ClientID: "shop",
			IssuedAt: time.Unix(1767225600, 0), ExpiresAt: time.Unix(1767226500, 0),
		}, err
	}
	return identity.Introspection{
		Active: true, TokenType: "access_token", Scope: "profile", Username: "ada", Subject: userID, SessionID: userID,
		Issuer: "https://auth.example", Audience: []string{"https://api.example"}, TokenID: "unique", ClientID: "shop",
		IssuedAt: time.Unix(1767225600, 0), ExpiresAt: time.Unix(1767226500, 0),
	}, err
}

// source publishes a ring.
type source struct{ atomic.Pointer[keys.Ring] }

func newSource(r keys.Ring) *source {
	s := new(source)
	s.Store(&r)
	return s
}

func (s *source) Ring() *keys.Ring { return s.Load() }

// newRing returns a ring with a signing key of each use.
func newRing(tb testing.TB, algorithm keys.Algorithm) keys.Ring {
	tb.Helper()
	policy := keys.Policy{
		Algorithm: algorithm, PublishLead: 10 * time.Minute,
		Lifetimes: map[keys.Use]time.Duration{keys.Access: time.Minute, keys.Refresh: time.Hour},
	}
	return keystest.New(tb, policy, keystest.Passphrases(), time.Now())
}

var theRing = sync.OnceValue(func() keys.Ring { return newRing(&testing.T{}, keys.ES256) })

// running is a tested server and a client of it.
type running struct {
	*httpapi.Server
	*testenv.Client
	accounts *accounts
	address  string
	served   chan error
}

// start runs a server on its own port until the test ends.
func start(t testing.TB, changes ...func(*httpapi.Options)) *running {
	t.Helper()
	fake := &accounts{}
	options := httpapi.Options{
		Accounts: fake, Export: fake.export, Keys: newSource(theRing()), Exposure: identity.ExposureInternal,
		Issuer: "https://auth.example", Metadata: config.Config{Issuer: "https://auth.example"}.Metadata(),
	}
	for _, change := range changes {
		change(&options)
	}
	listener := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	r := &running{
		Server: httpapi.New(options), accounts: fake, address: listener.Addr().String(), served: make(chan error, 1),
	}
	r.Client = apitest.New(t, "http://"+r.address)
	go func() { r.served <- r.Serve(listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.Shutdown(ctx) // a test may leave a connection open
	})
	return r
}

// wantCall reports an error unless this is the latest call of the domain. "" means that there was no call.
func (r *running) wantCall(t testing.TB, want string) {
	t.Helper()
	if call := r.accounts.last(); call != want {
		t.Errorf("the domain was called with %q, want %q", call, want)
	}
}

// dial opens a connection, which is closed at the end of the test.
func (r *running) dial(t testing.TB) net.Conn {
	t.Helper()
	c := testenv.Must(net.Dial("tcp", r.address))(t)
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func object(pairs ...string) map[string]string {
	o := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		o[pairs[i]] = pairs[i+1]
	}
	return o
}

// signUpBody returns all parameters of a sign-up, with changes.
func signUpBody(changes ...string) map[string]string {
	return object(append([]string{"username", "ada", "email", "ada@example.com", "first_name", "Ada", "last_name", "Lovelace",
		"password", "correct horse"}, changes...)...)
}
