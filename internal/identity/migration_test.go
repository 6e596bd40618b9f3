package identity_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

const (
	notChecked     = "the password cannot be checked at the moment; try again later"
	formerPassword = "Known Elsewhere 1999!"
)

// former is the system that accounts come from. All its passwords are formerPassword.
type former struct {
	mu           sync.Mutex
	asked        []question
	now, most    int // questions at once
	away         error
	saysYes      bool   // to any password
	beforeAnswer func() // may be nil
}

type question struct{ email, password string }

func (s *former) CheckPassword(ctx context.Context, email, password string) (bool, error) {
	s.mu.Lock()
	s.asked = append(s.asked, question{email, password})
	s.now++
	s.most = max(s.most, s.now)
	before, away, yes := s.beforeAnswer, s.away, s.saysYes
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.now--
	}()
	if before != nil {
		before()
	}
	if errors.Is(away, context.DeadlineExceeded) {
		<-ctx.Done()
		return false, ctx.Err()
	}
	return yes || password == formerPassword, away
}

// take returns what was asked since the last take.
func (s *former) take() []question {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.asked = nil }()
	return s.asked
}

// newMigration returns a gateway with a former system that knows the password of the account grace.
func newMigration(t *testing.T, change ...func(*identity.Policy)) (*fixture, *former, person) {
	t.Helper()
	f, s := newFixture(t, change...), &former{}
	f.former = s
	f.service = f.replica(f.hasher)
	return f, s, f.marked("grace")
}

// marked creates an account whose password only the former system knows.
func (f *fixture) marked(username string) person {
	f.Helper()
	p, _ := f.verified(username)
	f.memory.SetPasswordHash(p.id, hashes.Migrating)
	p.password = formerPassword
	return p
}

// stored returns what is stored of the password of an account.
func (f *fixture) stored(p person) string {
	f.Helper()
	return must(f.memory.FindCredentials(f.Context(), identity.Login{CanonicalUsername: p.username}))(f).PasswordHash
}

func TestMigrationAsksOnceAndStoresTheHash(t *testing.T) {
	for _, login := range []string{"Grace", " grace@mail.example "} {
		f, s, p := newMigration(t, public)
		f.store.take()
		tokens := must(f.SignIn(login, p.password))(f)
		f.equal("calls of the store", f.store.take(), "FindCredentials TakeLimit OpenSession")
		f.equal("the session is alive", f.alive(tokens), true)
		if asked := s.take(); len(asked) != 1 || asked[0] != (question{p.email, p.password}) {
			t.Errorf("the former system was asked %q", asked)
		}
		f.equal("the cost of what is stored", f.costOf(p), cost)
		f.store.take()
		f.signIn(p)
		f.equal("calls of the store at the next sign-in", f.store.take(), "FindCredentials OpenSession")
		f.equal("questions at the next sign-in", len(s.take()), 0)
		stats, ok := f.service.MigrationStats()
		f.equal("counts", stats, identity.MigrationStats{Migrated: 1})
		f.equal("there are counts", ok, true)
	}
}

// attempt is a sign-in that fails, and the address that the former system is asked about.
type attempt struct{ login, password, email string }

// attempts are sign-ins that fail, of all kinds. The passwords of those that are not marked are right elsewhere.
func attempts(f *fixture, p person) map[string]attempt {
	f.Helper()
	own, _ := f.verified("barbara")
	none, _ := f.verified("edsger")
	f.memory.SetPasswordHash(none.id, hashes.None)
	suspended := f.marked("donald")
	f.ok(f.memory.Suspend(f.Context(), suspended.id, true))
	away, _ := f.verified("alan")
	f.ok(f.memory.Suspend(f.Context(), away.id, true))
	return map[string]attempt{
		"marked": {p.username, "wrong guess", p.email}, "marked, by address": {p.email, "wrong guess", p.email},
		"an own hash": {own.username, formerPassword, own.email}, "no password": {none.username, formerPassword, none.email},
		"unknown":              {"nobody", formerPassword, "nobody@unknown.invalid"},
		"an unknown address":   {"nobody@mail.example", formerPassword, "nobody@mail.example"},
		"marked and suspended": {suspended.username, formerPassword, suspended.email},
		"suspended":            {away.username, away.password, away.email},
	}
}

// A stranger sees no difference between an account that is marked, one that is not, and none: in the answer, in the
// statements, in the hashing, and in whether the former system is asked. It learns no password of others.
func TestMigrationAsksForEverySignInThatFails(t *testing.T) {
	for _, yes := range []bool{false, true} {
		f, s, p := newMigration(t, public)
		for what, a := range attempts(f, p) {
			s.saysYes = yes && !strings.HasPrefix(what, "marked,") && what != "marked"
			f.store.take()
			hashed := f.hasher.Stats().Done
			f.fails(errOf(f.SignIn(a.login, a.password)), identity.Unauthenticated, wrongCredentials)
			f.equal(what+": calls of the store", f.store.take(), "FindCredentials TakeLimit CountFailure")
			f.equal(what+": hashes", f.hasher.Stats().Done-hashed, int64(1))
			asked := s.take()
			if len(asked) != 1 || asked[0].email != a.email {
				t.Fatalf("%s: the former system was asked %q", what, asked)
			}
			if typed := asked[0].password == a.password; typed != (what == "marked" || what == "marked, by address") {
				t.Errorf("%s: the former system gets the password that was typed: %v", what, typed)
			}
		}
		f.equal("what is stored", f.stored(p), hashes.Migrating)
		stats, _ := f.service.MigrationStats()
		f.equal("counts", stats, identity.MigrationStats{Refused: 8})
	}
}

// The password that is sent for others has the form of the one that was typed, and none of its characters but by chance.
func TestMigrationSendsALookalikeForOthers(t *testing.T) {
	f, s, _ := newMigration(t)
	const typed, times = "Pässwörd 12, 漢字 🔑 and so on", 20
	seen, differ := map[string]bool{}, map[int]bool{}
	for n := range times {
		f.fails(errOf(f.SignIn(fmt.Sprint("nobody", n), typed)), identity.Unauthenticated, wrongCredentials)
		sent := s.take()[0].password
		seen[sent] = true
		if len(sent) != len(typed) {
			t.Fatalf("%q has another length", sent)
		}
		runes := []rune(sent)
		for i, r := range []rune(typed) {
			differ[i] = differ[i] || r != runes[i]
			if r < unicode.MaxASCII && (unicode.IsLower(r) != unicode.IsLower(runes[i]) || unicode.IsUpper(r) != unicode.IsUpper(runes[i]) ||
				unicode.IsDigit(r) != unicode.IsDigit(runes[i])) || len(string(r)) != len(string(runes[i])) {
				t.Errorf("%q has another form", sent)
			}
		}
	}
	f.equal("different ones", len(seen), times)
	for i, r := range []rune(typed) {
		if !differ[i] {
			t.Errorf("the character %d of the password, %c, is always sent", i, r)
		}
	}
}

func TestMigrationThatHasNoAnswerCountsNoFailure(t *testing.T) {
	f, s, p := newMigration(t, public)
	all := attempts(f, p)
	all["marked, and the right password"] = attempt{p.username, p.password, p.email}
	s.away = errors.New("connection refused")
	for what, a := range all {
		f.store.take()
		err := errOf(f.SignIn(a.login, a.password))
		f.fails(err, identity.Overloaded, notChecked)
		e, _ := errors.AsType[*identity.Error](err)
		f.equal(what+": Retry-After", e.RetryAfter, 5*time.Second)
		f.equal(what+": the cause", e.Cause, s.away)
		f.equal(what+": calls of the store", f.store.take(), "FindCredentials TakeLimit")
	}
	other, _ := f.verified("margaret")
	f.signIn(other) // those whose password is here notice nothing
	f.equal("the questions are those of sign-ins that fail", len(s.take()), len(all))
	f.equal("refusals audited", f.audited("password refused"), 0)
	s.away = nil
	f.signIn(p)
}

// An outage gives no more guesses than the throttle does, for any account or none, and shows none of them.
func TestMigrationWithoutAnswersBoundsGuesses(t *testing.T) {
	f, s, p := newMigration(t, public)
	all := attempts(f, p)
	s.away = errors.New("connection refused")
	for what, a := range all {
		for range 20 {
			f.fails(errOf(f.SignIn(a.login, a.password)), identity.Overloaded, notChecked)
		}
		s.take()
		err := errOf(f.SignIn(a.login, a.password))
		f.fails(err, identity.RateLimited, tooManyWrong)
		e, _ := errors.AsType[*identity.Error](err)
		f.equal(what+": Retry-After", e.RetryAfter, time.Minute)
		f.equal(what+": questions", len(s.take()), 0)
	}
	f.pass(time.Minute)
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Overloaded, notChecked)
	f.pass(time.Minute)
	s.away = nil
	f.signIn(p)
}

// The limit of questions refuses no caller whom the throttle admits.
func TestMigrationIsThrottledAsEverySignIn(t *testing.T) {
	f, s, p := newMigration(t)
	for range 10 {
		f.fails(errOf(f.SignIn(p.username, "wrong guess")), identity.Unauthenticated, wrongCredentials)
	}
	f.equal("questions", len(s.take()), 10)
	for _, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60} {
		wait := time.Duration(seconds) * time.Second
		f.throttled(p.username, p.password, wait)
		f.equal("questions during the wait", len(s.take()), 0)
		f.pass(wait)
		f.fails(errOf(f.SignIn(p.username, "wrong guess")), identity.Unauthenticated, wrongCredentials)
		f.equal("questions after the wait", len(s.take()), 1)
	}
	f.pass(time.Minute)
	f.signIn(p)
}

func TestMigrationEndsWhenNoAccountIsMarked(t *testing.T) {
	f, s, p := newMigration(t)
	wrong := func(login, calls string, questions int) {
		t.Helper()
		f.store.take()
		f.fails(errOf(f.SignIn(login, "wrong guess")), identity.Unauthenticated, wrongCredentials)
		f.equal("calls of the store", strings.Replace(f.store.take(), "FindSignUps ", "", 1), calls)
		f.equal("questions", len(s.take()), questions)
	}
	f.service.SetMigrating(false)
	wrong("nobody", "FindCredentials CountFailure", 0)
	wrong(p.username, "FindCredentials TakeLimit CountFailure", 1) // it was imported a moment ago
	wrong("nobody", "FindCredentials TakeLimit CountFailure", 1)
	f.service.SetMigrating(false)
	f.service.SetMigrating(true)
	wrong("nobody", "FindCredentials TakeLimit CountFailure", 1)
	f.former = nil
	f.service = f.replica(f.hasher)
	wrong(p.username, "FindCredentials CountFailure", 0)
	if _, ok := f.service.MigrationStats(); ok {
		t.Error("there are counts without a former system")
	}
}

func TestMigrationYieldsToAPasswordThatIsSetMeanwhile(t *testing.T) {
	f, s, p := newMigration(t)
	code := must(f.ForgotPassword(p.email))(f)
	s.beforeAnswer = func() { f.ok(f.ResetPassword(code.Text, "", another)) }
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	s.beforeAnswer = nil
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	p.password = another
	f.signIn(p)
}

// The username of an account here may be the login of another person there, and an address that is not proved may be
// theirs. Their password must not open the account.
func TestMigrationAsksAboutTheProvedAddress(t *testing.T) {
	f, s, _ := newMigration(t)
	p, tokens := f.verified("barbara")
	code := must(f.RequestEmailChange(tokens.AccessToken, ""))(f)
	must(f.ChangeEmail(tokens.AccessToken, code.Text, "theirs@mail.example"))(f)
	f.memory.SetPasswordHash(p.id, hashes.Migrating)
	f.fails(errOf(f.SignIn(p.username, formerPassword)), identity.Unauthenticated, wrongCredentials)
	if asked := s.take(); len(asked) != 1 || asked[0].email != "barbara@unknown.invalid" || asked[0].password == formerPassword {
		t.Errorf("the former system was asked %q", asked)
	}
	must(f.SignIn(p.email, formerPassword))(f)
	if asked := s.take(); len(asked) != 1 || asked[0] != (question{p.email, formerPassword}) {
		t.Errorf("the former system was asked %q", asked)
	}
}

// Two sign-ins at once are both answered, and one hash is stored.
func TestMigrationStoresOneOfTwoHashes(t *testing.T) {
	f, s, p := newMigration(t)
	var both, done sync.WaitGroup
	both.Add(2)
	s.beforeAnswer = func() { both.Done(); both.Wait() }
	for range 2 {
		done.Go(func() {
			tokens, err := f.service.SignIn(f.Context(), p.username, p.password)
			if err != nil || tokens.AccessToken == "" {
				t.Error(err)
			}
		})
	}
	done.Wait()
	first := f.stored(p)
	s.beforeAnswer = nil
	f.signIn(p)
	f.equal("what is stored stays", f.stored(p), first)
	f.equal("its cost", f.costOf(p), cost)
}

// Sign-ins that wait for a former system that does not answer delay no other sign-in, and end.
func TestMigrationIsBoundedInTimeAndNumber(t *testing.T) {
	f, s, p := newMigration(t, public)
	other, _ := f.verified("barbara")
	s.away = context.DeadlineExceeded
	release := make(chan struct{})
	s.beforeAnswer = func() { <-release }
	var waiting sync.WaitGroup
	begun := time.Now()
	for i := range 40 {
		login := strings.Repeat("x", i+1) // each has a limit of its own
		waiting.Go(func() {
			if _, err := f.service.SignIn(f.Context(), login, "wrong guess"); identity.KindOf(err) != identity.Overloaded {
				t.Error(err)
			}
		})
	}
	for reached := false; !reached; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		reached = s.now == 16
		s.mu.Unlock()
		if time.Since(begun) > time.Minute {
			t.Fatalf("%d questions at once", s.most)
		}
	}
	f.signIn(other) // while all questions wait
	close(release)
	released := time.Now()
	waiting.Wait()
	if took := time.Since(released); took > time.Minute {
		t.Errorf("they waited %v", took)
	}
	f.equal("questions at once", s.most, 16)
	s.away, s.beforeAnswer = nil, nil
	f.signIn(p)
}

// What an administrator or a migration stores meanwhile decides, not what the former system has said.
func TestMigrationOfAnAccountThatIsSuspendedMeanwhileOpensNothing(t *testing.T) {
	f, s, p := newMigration(t)
	s.beforeAnswer = func() { f.ok(f.memory.Suspend(t.Context(), p.id, true)) }
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	f.equal("what is stored", f.stored(p), hashes.Migrating)
}
