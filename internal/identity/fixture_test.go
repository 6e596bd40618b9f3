package identity_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/identity/identitytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	issuer   = "https://auth.example"
	password = "correct horse battery"
	cost     = 4 // the minimum of bcrypt
)

var ring = sync.OnceValues(func() (*keys.Opened, error) {
	ring := keystest.New(&testing.T{}, keystest.Policy(), keystest.Passphrases(), start)
	return keys.Open(ring, keystest.Passphrases())
})

// fixture is one gateway with its dependencies and its clock. At the end of a test it checks that the audit trail
// contains no secret and no personal data that passed through its methods.
type fixture struct {
	*testing.T
	*testenv.Clock
	policy  identity.Policy
	leeway  time.Duration // when the service checks tokens
	memory  *identitytest.Store
	store   *spy
	hasher  *identity.Hasher
	former  identity.FormerSystem // optional
	service *identity.Service

	audit   bytes.Buffer
	seen    int // events that refusals has returned
	private map[string]bool
}

func (f *fixture) pass(d time.Duration) { f.Advance(d) }

// newFixture creates a gateway with exposure internal. The test may change the policy first.
func newFixture(t *testing.T, change ...func(*identity.Policy)) *fixture {
	t.Helper()
	f := &fixture{T: t, Clock: testenv.NewClock(start), private: map[string]bool{}}
	f.policy = identity.Policy{
		Issuer: issuer, Audience: []string{"https://api.example"},
		Exposure: identity.ExposureInternal, SignUpScopes: "profile email",
		AccessTTL: 15 * time.Minute, RefreshTTL: 7 * 24 * time.Hour,
		SessionLifetime: 30 * 24 * time.Hour, SessionsPerUser: 10,
		Rotation: identity.RotateWhenNeeded, ReuseGrace: time.Minute,
		VerificationTTL: 24 * time.Hour, RecoveryTTL: time.Hour,
		KeepAudit: true, MinPasswordLength: 8, PasswordBlocklist: true, ServiceNames: []string{"auth.example", "Auth Gateway"},
	}
	for _, c := range change {
		c(&f.policy)
	}
	f.memory = identitytest.NewStore(f.Now)
	f.store = &spy{Store: f.memory, before: map[string]func(){}}
	f.memory.OnCall = f.store.note
	f.hasher = f.newHasher(cost)
	f.service = f.replica(f.hasher)
	t.Cleanup(f.auditHoldsNothingPrivate)
	t.Cleanup(f.logAndTableAgree)
	return f
}

func (f *fixture) newHasher(cost int) *identity.Hasher {
	h := identity.NewHasher(identity.HasherOptions{Cost: cost, Threads: 2, MaxWait: time.Minute})
	f.Cleanup(h.Close)
	return h
}

// replica returns another gateway with the same data and the same keys.
func (f *fixture) replica(h *identity.Hasher) *identity.Service {
	f.Helper()
	opened := must(ring())(f)
	tokens := token.New(token.Config{
		Issuer: f.policy.Issuer, Audience: f.policy.Audience, AccessTTL: f.policy.AccessTTL, Leeway: f.leeway, Now: f.Now,
	})
	tokens.Use(opened)
	return identity.New(f.policy, identity.Dependencies{
		Store: f.store, Tokens: tokens, Hasher: h, Former: f.former,
		Audit: slog.New(slog.NewJSONHandler(&f.audit, nil)), Now: f.Now,
	})
}

// public sets the exposure to public.
func public(p *identity.Policy) {
	p.Exposure = identity.ExposurePublic
	mailing(p)
}

// mailing makes the gateway send mail.
func mailing(p *identity.Policy) { p.SendsMail = true }

// mail sends the only mail in the outbox, and returns it without its reference and age. It
// fails the test if there is no mail, or more than one.
func (f *fixture) mail() identity.Message {
	f.Helper()
	m, ok, err := f.service.ClaimMail(f.Context(), time.Minute)
	f.ok(err)
	if !ok {
		f.Fatal("no mail is due")
	}
	f.keep(m.To, m.Username, m.Code)
	f.ok(f.finish(m, identity.MailSent, 0))
	f.noMail()
	m.Ref, m.Age = identity.MailRef{}, 0
	return m
}

// finish ends the claim of a mail with this result.
func (f *fixture) finish(m identity.Message, r identity.MailResult, after time.Duration) error {
	return f.service.FinishMail(f.Context(), m.Ref, identity.MailOutcome{Result: r, After: after})
}

// noMail fails the test if a mail is in the outbox.
func (f *fixture) noMail() {
	f.Helper()
	m, ok, err := f.service.ClaimMail(f.Context(), time.Minute)
	f.ok(err)
	if ok {
		f.Errorf("a mail is in the outbox: %+v", m)
	}
	queued, _, err := f.service.CountMails(f.Context())
	f.ok(err)
	f.equal("mails in the outbox", queued, 0)
}

// rotating makes every renewal rotate the refresh token.
func rotating(p *identity.Policy) { p.Rotation = identity.RotateAlways }

// keep records texts that the audit trail must not contain.
func (f *fixture) keep(secrets ...string) {
	for _, s := range secrets {
		if s != "" {
			f.private[s] = true
		}
	}
}

func (f *fixture) auditHoldsNothingPrivate() {
	text := f.audit.String()
	for secret := range f.private {
		if strings.Contains(text, secret) {
			f.Errorf("the audit trail contains %q:\n%s", secret, text)
		}
	}
}

// logAndTableAgree fails the test unless the log and the Store have the same events with the
// same members. It runs at the end of every test.
func (f *fixture) logAndTableAgree() {
	var logged, stored []string
	for line := range strings.Lines(f.audit.String()) {
		var members map[string]any
		f.ok(json.Unmarshal([]byte(line), &members))
		delete(members, "time")
		delete(members, "level")
		logged = append(logged, fmt.Sprint(members))
	}
	events := must(f.memory.Events(f.Context()))(f)
	for _, e := range events {
		members := map[string]any{"msg": string(e.Name)}
		address := ""
		if e.Address.IsValid() {
			address = e.Address.String()
		}
		for name, value := range map[string]string{"user": e.UserID, "session": e.SessionID, "request_id": e.RequestID, "address": address} {
			if value != "" {
				members[name] = value
			}
		}
		for _, d := range e.Details {
			members[d.Key] = d.Value
		}
		stored = append(stored, fmt.Sprint(members))
	}
	slices.Sort(logged) // concurrent calls may log in another order
	slices.Sort(stored)
	if f.policy.KeepAudit && !slices.Equal(logged, stored) || !f.policy.KeepAudit && stored != nil {
		f.Errorf("the log contains\n%s\nbut the table contains\n%s", strings.Join(logged, "\n"), strings.Join(stored, "\n"))
	}
}

// audited returns the number of lines of the audit trail with this event.
func (f *fixture) audited(event string) int {
	return strings.Count(f.audit.String(), `"msg":"`+event+`"`)
}

// The following methods call the service, and keep the secrets and personal data of each call.

func (f *fixture) SignUp(in identity.SignUp) (identity.Code, error) {
	f.keep(in.Username, in.Email, in.FirstName, in.LastName, in.Password)
	code, err := f.service.SignUp(f.Context(), in)
	f.keep(code.Text)
	return code, err
}

func (f *fixture) SignIn(username, password string) (identity.Tokens, error) {
	f.keep(username, password)
	return f.tokens(f.service.SignIn(f.Context(), username, password))
}

func (f *fixture) Renew(refresh string) (identity.Tokens, error) {
	return f.tokens(f.service.Renew(f.Context(), refresh))
}

func (f *fixture) VerifyUser(code string) (identity.Tokens, error) {
	return f.tokens(f.service.VerifyUser(f.Context(), identity.Proof{Code: code}))
}

// Prove proves an address with the password that was chosen at sign-up.
func (f *fixture) Prove(code, password string) (identity.Tokens, error) {
	f.keep(password)
	return f.tokens(f.service.VerifyUser(f.Context(), identity.Proof{Code: code, Password: &password}))
}

func (f *fixture) tokens(t identity.Tokens, err error) (identity.Tokens, error) {
	f.keep(t.AccessToken, t.RefreshToken)
	return t, err
}

func (f *fixture) NewVerificationCode(email string) (identity.Code, error) {
	f.keep(email)
	code, err := f.service.NewVerificationCode(f.Context(), email)
	f.keep(code.Text)
	return code, err
}

func (f *fixture) ForgotPassword(email string) (identity.Code, error) {
	f.keep(email)
	code, err := f.service.ForgotPassword(f.Context(), email)
	f.keep(code.Text)
	return code, err
}

func (f *fixture) ResetPassword(code, id, password string) error {
	f.keep(code, password)
	return f.service.ResetPassword(f.Context(), code, id, password)
}

func (f *fixture) ChangePassword(access, old, password string) error {
	f.keep(old, password)
	return f.service.ChangePassword(f.Context(), access, old, password)
}

func (f *fixture) RequestEmailChange(access, email string) (identity.Code, error) {
	f.keep(email)
	code, err := f.service.RequestEmailChange(f.Context(), access, email)
	f.keep(code.Text)
	return code, err
}

func (f *fixture) ChangeEmail(access, code, email string) (identity.User, error) {
	f.keep(code, email)
	return f.service.ChangeEmail(f.Context(), access, code, email)
}

func (f *fixture) Profile(access string) (identity.User, error) {
	return f.service.Profile(f.Context(), access)
}

func (f *fixture) Introspect(text string) identity.Introspection {
	f.Helper()
	return must(f.service.Introspect(f.Context(), text))(f)
}

// person is an account with the data that its owner knows.
type person struct{ id, username, email, password string }

func signUpOf(username string) identity.SignUp {
	return identity.SignUp{
		Username: username, Email: username + "@mail.example",
		FirstName: "Grace", LastName: "Hopper", Password: password,
	}
}

// unverified signs a person up, and returns the code that proves the address, from the response or from the mail.
func (f *fixture) unverified(username string) (person, string) {
	f.Helper()
	in := signUpOf(username)
	code := must(f.SignUp(in))(f)
	if f.policy.Exposure == identity.ExposurePublic {
		code.Text = f.mail().Code
	}
	waiting := must(f.memory.FindSignUps(f.Context(), identity.Login{CanonicalEmail: strings.ToLower(in.Email)}))(f)
	return person{waiting[0].ID, username, in.Email, in.Password}, code.Text
}

// verified creates an account with a session.
func (f *fixture) verified(username string) (person, identity.Tokens) {
	f.Helper()
	p, code := f.unverified(username)
	tokens := must(f.VerifyUser(code))(f)
	return p, tokens
}

func (f *fixture) signIn(p person) identity.Tokens {
	f.Helper()
	return must(f.SignIn(p.username, p.password))(f)
}

func (f *fixture) renew(refresh string) identity.Tokens {
	f.Helper()
	return must(f.Renew(refresh))(f)
}

// alive reports whether the session of an access token is alive.
func (f *fixture) alive(t identity.Tokens) bool {
	f.Helper()
	_, err := f.Profile(t.AccessToken)
	if err != nil && identity.KindOf(err) != identity.Unauthenticated {
		f.Fatal(err)
	}
	return err == nil
}

// must and errOf are short names for testenv.Must and testenv.Err.
func must[T any](value T, err error) func(testing.TB) T { return testenv.Must(value, err) }

var errOf = testenv.Err

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// fails checks that err is an *identity.Error with this kind and this message.
func (f *fixture) fails(err error, kind identity.Kind, message string) {
	f.Helper()
	e, ok := errors.AsType[*identity.Error](err)
	if !ok {
		f.Fatalf("the error is %v; want one of kind %v", err, kind)
	}
	if e.Kind != kind || e.Message != message {
		f.Errorf("the error is %v %q; want %v %q", e.Kind, e.Message, kind, message)
	}
}

func (f *fixture) equal(what string, got, want any) {
	f.Helper()
	if got != want {
		f.Errorf("%s: got %v; want %v", what, got, want)
	}
}

// These are messages to callers.
const (
	wrongCredentials = "the username or the password is wrong"
	wrongToken       = "the token is invalid, expired or revoked"
	endedSession     = "the session of the token has ended; sign in again"
	expiredToken     = "the token has expired; renew an access token with POST /tokens, and sign in again if the refresh token has expired"
	wrongCode        = "code: is invalid, expired or used already"
	wrongOld         = "old_password: is wrong"
	passwordNeeded   = "password: is needed, since several sign-ups wait for this address; send the one that you chose when you signed up"
	wrongClaim       = "password: is not the one of a sign-up that waits for this address; the code still holds"
	samePassword     = "password: must differ from the old one"
	notVerified      = "the email address is not verified yet; redeem the code that was sent to it, or ask for a new one"
	tooManyWrong     = "too many wrong passwords; try again later"
	noSession        = "you have no session with this id, or it has ended"
	malformedEmail   = "email: must be an address like name@example.com"
)
