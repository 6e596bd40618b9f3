package identitytest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// Suspender suspends accounts. A Store under test implements it, or its test does,
// because identity.Store has no method for it.
type Suspender interface {
	Suspend(ctx context.Context, userID string, suspended bool) error
}

// TestStore runs the contract of identity.Store. Each subtest calls newStore for an empty
// store and a function that advances the store's own clock. Subtests run in parallel.
func TestStore(t *testing.T, newStore func(t *testing.T) (store identity.Store, advance func(time.Duration))) {
	for _, group := range [][]sentence{
		accountSentences, namelessSentences, signUpSentences, claimSentences, codeSentences, emailChangeSentences,
		sessionSentences, raceSentences, auditSentences, mailSentences, outboxSentences, limitSentences, networkSentences,
	} {
		for _, s := range group {
			t.Run(s.text, func(t *testing.T) {
				t.Parallel()
				store, advance := newStore(t)
				s.check(&suite{
					T:       t,
					Store:   store,
					advance: advance,
					now:     time.Now().UTC().Truncate(time.Second),
				})
			})
		}
	}
}

// sentence is one statement of the contract.
type sentence struct {
	text  string
	check func(s *suite)
}

// suite is one subtest with its store. now is the clock of the callers, which decides whether a session is alive.
type suite struct {
	*testing.T
	identity.Store
	advance func(time.Duration)
	now     time.Time
	seen    int           // number of events that recorded has returned
	limit   identity.Rate // of mails to a recipient
}

// noEvent and noRecord write nothing besides the change.
var (
	noEvent  identity.Event
	noRecord identity.Record
)

// Values that most subtests share.
const (
	passwordHash = "hash of the password"
	otherHash    = "hash of another password"
	codeTTL      = time.Hour
	refreshTTL   = 7 * 24 * time.Hour
	lifetime     = 30 * 24 * time.Hour
	keep         = 10
	failureLimit = 10
	scope        = "profile email"
)

// newSignUp returns a valid sign-up with this name.
func newSignUp(name string) identity.NewSignUp {
	return identity.NewSignUp{
		ID:       newID(),
		Username: name, CanonicalUsername: name,
		Email: name + "@example.com", CanonicalEmail: name + "@example.com",
		FirstName: "Ada", LastName: "Lovelace",
		Scope: scope, PasswordHash: passwordHash,
	}
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func newCode(p identity.Purpose) identity.NewCode {
	return identity.NewCode{Purpose: p, Hash: newHash(), TTL: codeTTL}
}

func newHash() identity.CodeHash { return sha256.Sum256([]byte(rand.Text())) }

// signUp stores a sign-up and returns its code.
func (s *suite) signUp(n identity.NewSignUp) identity.CodeHash {
	s.Helper()
	c := newCode(identity.Verification)
	s.ok(s.CreateSignUp(s.Context(), n, c, noEvent))
	return c.Hash
}

// prove turns a sign-up, the only one for its address, into an account.
func (s *suite) prove(n identity.NewSignUp) identity.User {
	s.Helper()
	opened := s.newSession()
	u := must(s.RedeemVerification(s.Context(), identity.ClaimProof{Code: s.signUp(n)}, opened, noRecord))(s)
	must(s.EndSession(s.Context(), s.ref(opened.ID, u), noEvent))(s)
	return u
}

// create makes an account without a session.
func (s *suite) create(name string) identity.User {
	s.Helper()
	return s.prove(newSignUp(name))
}

// newSession returns a session without a user, as RedeemVerification takes it.
func (s *suite) newSession() identity.NewSession {
	return identity.NewSession{
		ID: newID(), OpenedAt: s.now, ExpiresAt: s.now.Add(refreshTTL), EndsAt: s.now.Add(lifetime), Keep: keep,
	}
}

// session returns a session of a user, opened now.
func (s *suite) session(u identity.User) identity.NewSession {
	return identity.NewSession{
		ID: newID(), UserID: u.ID, Scope: scope, Keep: keep,
		OpenedAt: s.now, ExpiresAt: s.now.Add(refreshTTL), EndsAt: s.now.Add(lifetime),
		PasswordHash: passwordHash, FailureLimit: failureLimit,
		ThrottleKey: s.credentials(u).ThrottleKey, Forgive: true,
	}
}

// open opens a session.
func (s *suite) open(u identity.User) identity.SessionRef {
	s.Helper()
	n := s.session(u)
	s.ok(s.OpenSession(s.Context(), n, noEvent))
	return s.ref(n.ID, u)
}

func (s *suite) ref(sessionID string, u identity.User) identity.SessionRef {
	return identity.SessionRef{ID: sessionID, UserID: u.ID, Now: s.now}
}

// renew moves a session to the generation after this one, now.
func (s *suite) renew(ref identity.SessionRef, generation int64) identity.Session {
	s.Helper()
	renewal := identity.Renewal{RefreshedAt: s.now, Lifetime: refreshTTL}
	session, advanced, err := s.AdvanceSession(s.Context(), ref, generation, renewal)
	s.ok(err)
	equal(s, advanced, true)
	return session
}

// issue issues a code for an account.
func (s *suite) issue(u identity.User, p identity.Purpose) identity.CodeHash {
	s.Helper()
	c := newCode(p)
	owner := must(s.IssueCode(s.Context(), u.Email, c, noEvent))(s)
	equal(s, owner, u.ID)
	return c.Hash
}

// issueEmailChange issues a code for an address to the user of a session.
func (s *suite) issueEmailChange(ref identity.SessionRef, target string) identity.CodeHash {
	s.Helper()
	c := newCode(identity.EmailChange)
	c.Target = target
	s.ok(s.IssueEmailChange(s.Context(), ref, c, noEvent))
	return c.Hash
}

func (s *suite) credentials(u identity.User) identity.Credentials {
	s.Helper()
	return must(s.FindCredentials(s.Context(), identity.Login{CanonicalEmail: u.Email}))(s)
}

// change redeems an email-change code.
func (s *suite) change(ref identity.SessionRef, h identity.CodeHash, email string) (identity.User, error) {
	s.Helper()
	return s.RedeemEmailChange(s.Context(), ref, identity.EmailRedemption{
		Code: h, Email: email, CanonicalEmail: strings.ToLower(email), RefuseTaken: true,
	}, noRecord)
}

// recover redeems a recovery code of an account.
func (s *suite) recover(u identity.User, h identity.CodeHash, newHash string, from identity.Network) error {
	return s.RedeemRecovery(s.Context(), h, identity.Claim{ID: u.ID}, newHash, from, noRecord)
}

func (s *suite) fail(u identity.User, times int) {
	s.Helper()
	for range times {
		s.ok(s.CountFailure(s.Context(), s.credentials(u).ThrottleKey, noEvent))
	}
}

func (s *suite) suspend(u identity.User, suspended bool) {
	s.Helper()
	hook, ok := s.Store.(Suspender)
	if !ok {
		s.Skip("this store cannot suspend accounts")
	}
	s.ok(hook.Suspend(s.Context(), u.ID, suspended))
}

// pass advances both clocks.
func (s *suite) pass(d time.Duration) {
	s.now = s.now.Add(d)
	s.advance(d)
}

func (s *suite) isAlive(ref identity.SessionRef) bool {
	s.Helper()
	ref.Now = s.now
	_, err := s.FindSession(s.Context(), ref)
	if errors.Is(err, identity.ErrNoSession) {
		return false
	}
	s.ok(err)
	return true
}

func (s *suite) alive(ref identity.SessionRef) {
	s.Helper()
	if !s.isAlive(ref) {
		s.Error("the session has ended")
	}
}

func (s *suite) ended(ref identity.SessionRef) {
	s.Helper()
	if s.isAlive(ref) {
		s.Error("the session is alive")
	}
}

// must and errOf are short names for testenv.Must and testenv.Err.
func must[T any](value T, err error) func(testing.TB) T { return testenv.Must(value, err) }

var errOf = testenv.Err

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) is(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("the error is %v; want %v", err, want)
	}
}

func (s *suite) taken(err error, want identity.TakenError) {
	s.Helper()
	got, ok := errors.AsType[*identity.TakenError](err)
	if !ok {
		s.Errorf("the error is %v; want a *TakenError", err)
	} else if *got != want {
		s.Errorf("taken is %+v; want %+v", *got, want)
	}
}

// equal compares two values with ==.
func equal[T comparable](s *suite, got, want T) {
	s.Helper()
	if got != want {
		s.Errorf("got\n%+v, want\n%+v", got, want)
	}
}

// atOnce runs the functions concurrently, released by one signal, and waits for all.
func atOnce(functions ...func()) {
	start := make(chan struct{})
	var group sync.WaitGroup
	for _, f := range functions {
		group.Go(func() {
			<-start
			f()
		})
	}
	close(start)
	group.Wait()
}

// winners runs f n times concurrently and counts the successes. Every other outcome must
// be the error lost or, if lost is nil, a *TakenError.
func (s *suite) winners(n int, lost error, f func(i int) error) int {
	s.Helper()
	errs := make([]error, n)
	functions := make([]func(), n)
	for i := range functions {
		functions[i] = func() { errs[i] = f(i) }
	}
	atOnce(functions...)
	won := 0
	for _, err := range errs {
		_, taken := errors.AsType[*identity.TakenError](err)
		switch {
		case err == nil:
			won++
		case lost == nil && taken:
		default:
			if lost == nil || !errors.Is(err, lost) {
				s.Errorf("one of the concurrent calls: %v", err)
			}
		}
	}
	return won
}
