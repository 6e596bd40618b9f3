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

// world is one gateway with its dependencies and its clock. At the end of a test it checks
// that the audit trail contains no secret and no personal data that passed through its
// methods.
type world struct {
	*testing.T
	*testenv.Clock
	policy  identity.Policy
	leeway  time.Duration // when the service checks tokens
	memory  *identitytest.Store
	store   *spy
	hasher  *identity.Hasher
	service *identity.Service

	audit   bytes.Buffer
	seen    int // events that refusals has returned
	private map[string]bool
}

func (w *world) pass(d time.Duration) { w.Advance(d) }

// newWorld creates a gateway with exposure internal. The test may change the policy first.
func newWorld(t *testing.T, change ...func(*identity.Policy)) *world {
	t.Helper()
	w := &world{T: t, Clock: testenv.NewClock(start), private: map[string]bool{}}
	w.policy = identity.Policy{
		Issuer: issuer, Audience: []string{"https://api.example"},
		Exposure: identity.ExposureInternal, SignUpScopes: "profile email",
		AccessTTL: 15 * time.Minute, RefreshTTL: 7 * 24 * time.Hour,
		SessionLifetime: 30 * 24 * time.Hour, SessionsPerUser: 10,
		Rotation: identity.RotateWhenNeeded, ReuseGrace: time.Minute,
		VerificationTTL: 24 * time.Hour, RecoveryTTL: time.Hour,
		KeepAudit: true, MinPasswordLength: 8, PasswordBlocklist: true, ServiceNames: []string{"auth.example", "Auth Gateway"},
	}
	for _, c := range change {
		c(&w.policy)
	}
	w.memory = identitytest.NewStore(w.Now)
	w.store = &spy{Store: w.memory, before: map[string]func(){}}
	w.memory.OnCall = w.store.note
	w.hasher = w.newHasher(cost)
	w.service = w.replica(w.hasher)
	t.Cleanup(w.auditHoldsNothingPrivate)
	t.Cleanup(w.logAndTableAgree)
	return w
}

func (w *world) newHasher(cost int) *identity.Hasher {
	h := identity.NewHasher(identity.HasherOptions{Cost: cost, Threads: 2, MaxWait: time.Minute})
	w.Cleanup(h.Close)
	return h
}

// replica returns another gateway with the same data and the same keys.
func (w *world) replica(h *identity.Hasher) *identity.Service {
	w.Helper()
	opened := must(ring())(w)
	tokens := token.New(token.Config{
		Issuer: w.policy.Issuer, Audience: w.policy.Audience, AccessTTL: w.policy.AccessTTL, Leeway: w.leeway, Now: w.Now,
	})
	tokens.Use(opened)
	return identity.New(w.policy, identity.Dependencies{
		Store: w.store, Tokens: tokens, Hasher: h,
		Audit: slog.New(slog.NewJSONHandler(&w.audit, nil)), Now: w.Now,
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
func (w *world) mail() identity.Message {
	w.Helper()
	m, ok, err := w.service.ClaimMail(w.Context(), time.Minute)
	w.ok(err)
	if !ok {
		w.Fatal("no mail is due")
	}
	w.keep(m.To, m.Username, m.Code)
	w.ok(w.finish(m, identity.MailSent, 0))
	w.noMail()
	m.Ref, m.Age = identity.MailRef{}, 0
	return m
}

// finish ends the claim of a mail with this result.
func (w *world) finish(m identity.Message, r identity.MailResult, after time.Duration) error {
	return w.service.FinishMail(w.Context(), m.Ref, identity.MailOutcome{Result: r, After: after})
}

// noMail fails the test if a mail is in the outbox.
func (w *world) noMail() {
	w.Helper()
	m, ok, err := w.service.ClaimMail(w.Context(), time.Minute)
	w.ok(err)
	if ok {
		w.Errorf("a mail is in the outbox: %+v", m)
	}
	queued, _, err := w.service.CountMails(w.Context())
	w.ok(err)
	w.equal("mails in the outbox", queued, 0)
}

// rotating makes every renewal rotate the refresh token.
func rotating(p *identity.Policy) { p.Rotation = identity.RotateAlways }

// keep records texts that the audit trail must not contain.
func (w *world) keep(secrets ...string) {
	for _, s := range secrets {
		if s != "" {
			w.private[s] = true
		}
	}
}

func (w *world) auditHoldsNothingPrivate() {
	text := w.audit.String()
	for secret := range w.private {
		if strings.Contains(text, secret) {
			w.Errorf("the audit trail contains %q:\n%s", secret, text)
		}
	}
}

// logAndTableAgree fails the test unless the log and the Store have the same events with the
// same members. It runs at the end of every test.
func (w *world) logAndTableAgree() {
	var logged, stored []string
	for line := range strings.Lines(w.audit.String()) {
		var members map[string]any
		w.ok(json.Unmarshal([]byte(line), &members))
		delete(members, "time")
		delete(members, "level")
		logged = append(logged, fmt.Sprint(members))
	}
	events := must(w.memory.Events(w.Context()))(w)
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
	if w.policy.KeepAudit && !slices.Equal(logged, stored) || !w.policy.KeepAudit && stored != nil {
		w.Errorf("the log contains\n%s\nbut the table contains\n%s", strings.Join(logged, "\n"), strings.Join(stored, "\n"))
	}
}

// audited returns the number of lines of the audit trail with this event.
func (w *world) audited(event string) int {
	return strings.Count(w.audit.String(), `"msg":"`+event+`"`)
}

// The following methods call the service, and keep the secrets and personal data of each
// call.

func (w *world) SignUp(in identity.SignUp) (identity.Code, error) {
	w.keep(in.Username, in.Email, in.FirstName, in.LastName, in.Password)
	code, err := w.service.SignUp(w.Context(), in)
	w.keep(code.Text)
	return code, err
}

func (w *world) SignIn(username, password string) (identity.Tokens, error) {
	w.keep(username, password)
	return w.tokens(w.service.SignIn(w.Context(), username, password))
}

func (w *world) Renew(refresh string) (identity.Tokens, error) {
	return w.tokens(w.service.Renew(w.Context(), refresh))
}

func (w *world) VerifyUser(code string) (identity.Tokens, error) {
	return w.tokens(w.service.VerifyUser(w.Context(), identity.Proof{Code: code}))
}

// Prove proves an address with the password that was chosen at sign-up.
func (w *world) Prove(code, password string) (identity.Tokens, error) {
	w.keep(password)
	return w.tokens(w.service.VerifyUser(w.Context(), identity.Proof{Code: code, Password: &password}))
}

func (w *world) tokens(t identity.Tokens, err error) (identity.Tokens, error) {
	w.keep(t.AccessToken, t.RefreshToken)
	return t, err
}

func (w *world) NewVerificationCode(email string) (identity.Code, error) {
	w.keep(email)
	code, err := w.service.NewVerificationCode(w.Context(), email)
	w.keep(code.Text)
	return code, err
}

func (w *world) ForgotPassword(email string) (identity.Code, error) {
	w.keep(email)
	code, err := w.service.ForgotPassword(w.Context(), email)
	w.keep(code.Text)
	return code, err
}

func (w *world) ResetPassword(code, id, password string) error {
	w.keep(code, password)
	return w.service.ResetPassword(w.Context(), code, id, password)
}

func (w *world) ChangePassword(access, old, password string) error {
	w.keep(old, password)
	return w.service.ChangePassword(w.Context(), access, old, password)
}

func (w *world) RequestEmailChange(access, email string) (identity.Code, error) {
	w.keep(email)
	code, err := w.service.RequestEmailChange(w.Context(), access, email)
	w.keep(code.Text)
	return code, err
}

func (w *world) ChangeEmail(access, code, email string) (identity.User, error) {
	w.keep(code, email)
	return w.service.ChangeEmail(w.Context(), access, code, email)
}

func (w *world) Profile(access string) (identity.User, error) {
	return w.service.Profile(w.Context(), access)
}

func (w *world) Introspect(text string) identity.Introspection {
	w.Helper()
	return must(w.service.Introspect(w.Context(), text))(w)
}

// person is an account with the data that its owner knows.
type person struct{ id, username, email, password string }

func signUpOf(username string) identity.SignUp {
	return identity.SignUp{
		Username: username, Email: username + "@mail.example",
		FirstName: "Grace", LastName: "Hopper", Password: password,
	}
}

// unverified signs a person up, and returns the code that proves the address, from the
// response or from the mail.
func (w *world) unverified(username string) (person, string) {
	w.Helper()
	in := signUpOf(username)
	code := must(w.SignUp(in))(w)
	if w.policy.Exposure == identity.ExposurePublic {
		code.Text = w.mail().Code
	}
	waiting := must(w.memory.FindSignUps(w.Context(), identity.Login{CanonicalEmail: strings.ToLower(in.Email)}))(w)
	return person{waiting[0].ID, username, in.Email, in.Password}, code.Text
}

// verified creates an account with a session.
func (w *world) verified(username string) (person, identity.Tokens) {
	w.Helper()
	p, code := w.unverified(username)
	tokens := must(w.VerifyUser(code))(w)
	return p, tokens
}

func (w *world) signIn(p person) identity.Tokens {
	w.Helper()
	return must(w.SignIn(p.username, p.password))(w)
}

func (w *world) renew(refresh string) identity.Tokens {
	w.Helper()
	return must(w.Renew(refresh))(w)
}

// alive reports whether the session of an access token is alive.
func (w *world) alive(t identity.Tokens) bool {
	w.Helper()
	_, err := w.Profile(t.AccessToken)
	if err != nil && identity.KindOf(err) != identity.Unauthenticated {
		w.Fatal(err)
	}
	return err == nil
}

// must and errOf are short names for testenv.Must and testenv.Err.
func must[T any](value T, err error) func(testing.TB) T { return testenv.Must(value, err) }

var errOf = testenv.Err

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// fails checks that err is an *identity.Error with this kind and this message.
func (w *world) fails(err error, kind identity.Kind, message string) {
	w.Helper()
	e, ok := errors.AsType[*identity.Error](err)
	if !ok {
		w.Fatalf("the error is %v; want one of kind %v", err, kind)
	}
	if e.Kind != kind || e.Message != message {
		w.Errorf("the error is %v %q; want %v %q", e.Kind, e.Message, kind, message)
	}
}

func (w *world) equal(what string, got, want any) {
	w.Helper()
	if got != want {
		w.Errorf("%s: got %v; want %v", what, got, want)
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
