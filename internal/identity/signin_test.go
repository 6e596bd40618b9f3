package identity_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func TestSignInByUsernameOrEmailInAnyCaseOpensASession(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	for _, login := range []string{"grace", "GRACE", p.email, strings.ToUpper(p.email)} {
		f.store.take()
		tokens := must(f.SignIn(login, p.password))(f)
		f.equal("calls of the store", f.store.take(), "FindCredentials OpenSession")
		f.equal("the tokens", tokens, identity.Tokens{
			AccessToken: tokens.AccessToken, ExpiresIn: 15 * time.Minute,
			RefreshToken: tokens.RefreshToken, RefreshExpiresIn: 7 * 24 * time.Hour, Scope: "profile email",
		})
		f.equal("the session is alive", f.alive(tokens), true)
	}
	f.equal("sign-ins audited", f.audited("signed in"), 4)
	f.equal("sessions opened", f.service.Stats().SessionsOpened, uint64(5))
}

func TestSignInThatFailsHasOneAnswerAndOneAmountOfWork(t *testing.T) {
	f := newFixture(t, public)
	p, _ := f.verified("grace")
	suspended, _ := f.verified("barbara")
	f.ok(f.memory.Suspend(t.Context(), suspended.id, true))
	for _, c := range []struct{ what, login, password string }{
		{"a wrong password", p.username, "wrong guess"},
		{"a wrong password by email", p.email, "wrong guess"},
		{"a long wrong password", p.username, strings.Repeat("wrong", 50)},
		{"an unknown username", "nobody", p.password},
		{"an unknown email", "nobody@mail.example", p.password},
		{"suspended, and the right password", suspended.username, suspended.password},
		{"suspended, and a wrong password", suspended.username, "wrong guess"},
	} {
		t.Run(c.what, func(t *testing.T) {
			f.store.take()
			hashed := f.hasher.Stats().Done
			tokens, err := f.SignIn(c.login, c.password)
			f.fails(err, identity.Unauthenticated, wrongCredentials)
			f.equal("the tokens returned", tokens, identity.Tokens{})
			f.equal("calls of the store", f.store.take(), "FindCredentials CountFailure")
			f.equal("number of hashes", f.hasher.Stats().Done-hashed, int64(1))
			e, _ := errors.AsType[*identity.Error](err)
			f.equal("the cause", e.Cause, nil)
		})
	}
	f.equal("refusals audited", f.audited("password refused"), 7)
}

func TestSignInWithImpossibleCredentialsIsRefusedWithoutWork(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	f.store.take()
	hashed := f.hasher.Stats().Done
	for _, c := range [][2]string{
		{"", p.password}, {"a b", p.password}, {"grace@", p.password}, {strings.Repeat("g", 1<<20), p.password},
		{"0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22", p.password},
		{p.username, ""}, {p.username, strings.Repeat("x", 257)}, {p.username, p.password + "\x00"}, {"nobody", ""},
	} {
		f.fails(errOf(f.SignIn(c[0], c[1])), identity.Unauthenticated, wrongCredentials)
	}
	f.equal("calls of the store", f.store.take(), "")
	f.equal("number of hashes", f.hasher.Stats().Done-hashed, int64(0))
}

func TestSignInInPublicReadsNoWaitingSignUp(t *testing.T) {
	f := newFixture(t, public)
	p, code := f.unverified("grace")
	f.store.take()
	for _, login := range []string{p.username, p.email} {
		hashed := f.hasher.Stats().Done
		f.fails(errOf(f.SignIn(login, p.password)), identity.Unauthenticated, wrongCredentials)
		f.equal("calls of the store", f.store.take(), "FindCredentials CountFailure")
		f.equal("number of hashes", f.hasher.Stats().Done-hashed, int64(1))
	}
	must(f.VerifyUser(code))(f)
	f.signIn(p)
}

// The throttle of a login stays when a sign-up with that login begins. An attacker who guesses passwords therefore
// cannot reset it, and cannot use it to find out whether an account exists.
func TestThrottleIsNotResetByASignUp(t *testing.T) {
	for _, exposure := range []func(*identity.Policy){public, mailing} {
		f := newFixture(t, exposure)
		f.fail("grace", 10)
		f.unverified("grace")
		f.throttled("grace", password, time.Second)
	}
}

func TestThrottleConfirmsNoConcurrentGuessOfASignUp(t *testing.T) {
	f := newFixture(t)
	p, _ := f.unverified("grace")
	f.fail(p.username, 9)
	f.store.before["FindSignUps"] = func() { // other guesses arrive at the same time
		c := must(f.memory.FindCredentials(t.Context(), identity.Login{CanonicalUsername: "grace"}))(f)
		f.ok(f.memory.CountFailure(t.Context(), c.ThrottleKey, identity.Event{}))
	}
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	f.throttled(p.username, p.password, 2*time.Second)
}

func TestSignInIgnoresSpacesAroundTheLogin(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	for _, login := range []string{" grace", "grace ", "\tGrace\r\n", " " + p.email + " "} {
		must(f.SignIn(login, p.password))(f)
	}
}

func TestSignInReportsAnUnverifiedAddressOnlyWithThePassword(t *testing.T) {
	f := newFixture(t)
	p, code := f.unverified("grace")
	f.fails(errOf(f.SignIn(p.username, "wrong guess")), identity.Unauthenticated, wrongCredentials)
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Forbidden, notVerified)
	f.equal("sessions opened", f.service.Stats().SessionsOpened, uint64(0))
	must(f.VerifyUser(code))(f)
	f.signIn(p)
}

// fail signs in with a wrong password so many times, each after the throttle's wait.
func (f *fixture) fail(login string, times int) {
	f.Helper()
	for range times {
		f.pass(time.Minute)
		f.fails(errOf(f.SignIn(login, "wrong guess")), identity.Unauthenticated, wrongCredentials)
	}
}

// throttled signs in with the right password before the throttle's wait has ended.
func (f *fixture) throttled(login, password string, wait time.Duration) {
	f.Helper()
	f.store.take()
	hashed := f.hasher.Stats().Done
	_, err := f.SignIn(login, password)
	f.fails(err, identity.RateLimited, tooManyWrong)
	e, _ := errors.AsType[*identity.Error](err)
	f.equal("Retry-After", e.RetryAfter, wait)
	asked := strings.TrimSuffix(f.store.take(), " RecordEvent") // recorded once a minute; see refusals_test.go
	f.equal("calls of the store", asked, "FindCredentials")
	f.equal("number of hashes", f.hasher.Stats().Done-hashed, int64(0))
}

func TestThrottleIsTheSameWithAndWithoutAnAccount(t *testing.T) {
	for _, login := range []string{"grace", "grace@mail.example", "barbara", "nobody", "nobody@mail.example"} {
		t.Run(login, func(t *testing.T) {
			f := newFixture(t)
			f.verified("grace")
			suspended, _ := f.verified("barbara")
			f.ok(f.memory.Suspend(t.Context(), suspended.id, true))

			f.fail(login, 10)
			for _, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
				wait := time.Duration(seconds) * time.Second
				f.throttled(login, password, wait)
				f.pass(wait - time.Millisecond)
				f.throttled(login, password, time.Millisecond) // an attempt that is too early does not count
				f.pass(time.Millisecond)
				f.fails(errOf(f.SignIn(login, "wrong guess")), identity.Unauthenticated, wrongCredentials)
			}
		})
	}
}

// Failures with the username and failures with the address are counted separately. Otherwise a stranger could find out
// whether an account exists and which username and address belong together.
func TestThrottleCountsAllSpellingsOfALoginTogether(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	for _, login := range []string{"grace", "GRACE", " grace", "Grace", "gRACE"} {
		f.fail(login, 2)
	}
	f.throttled(p.username, p.password, time.Second)
	f.fail(p.email, 5)
	f.fail(strings.ToUpper(p.email), 5)
	f.throttled(p.email, p.password, time.Second)
	_, err := f.SignIn("nobody", "wrong guess") // another login has its own throttle
	f.fails(err, identity.Unauthenticated, wrongCredentials)

	f.fail("NOBODY", 9)
	f.throttled("nobody", "wrong guess", time.Second)
}

func TestThrottleLetsTheOwnerInAfterAHundredFailures(t *testing.T) {
	for _, byRecovery := range []bool{false, true} {
		f := newFixture(t)
		p, _ := f.verified("grace")
		f.fail(p.username, 100)
		f.throttled(p.username, p.password, time.Minute)
		if byRecovery {
			code := must(f.ForgotPassword(p.email))(f)
			p.password = "another of mine"
			f.keep(p.password)
			f.ok(f.service.ResetPassword(from(home), code.Text, "", p.password))
		} else {
			f.pass(time.Minute)
			f.ok(f.signInFrom(home, p.username, p.password))
		}
		for range 2 { // the network is known now, so failures of strangers do not affect it
			f.ok(f.signInFrom(home, p.username, p.password))
			f.fails(f.signInFrom(home, p.username, "wrong guess"), identity.Unauthenticated, wrongCredentials)
		}
	}
}

func TestThrottleThatCannotCountAnswersNoGuess(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	away := &identity.Error{Kind: identity.Unavailable, Message: "the database is down"}
	f.store.before["CountFailure"] = func() { f.memory.Break(away) }
	f.fails(errOf(f.SignIn(p.username, "wrong guess")), identity.Unavailable, "the database is down")
}

func TestSignInWithAPasswordThatWasChangedMeanwhileOpensNothing(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	f.store.before["OpenSession"] = func() {
		f.ok(f.ChangePassword(tokens.AccessToken, p.password, "another of mine"))
	}
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
}

func TestThrottleConfirmsNoConcurrentGuess(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	f.fail(p.username, 9)
	f.store.before["OpenSession"] = func() { // other guesses arrive at the same time
		c := must(f.memory.FindCredentials(t.Context(), identity.Login{CanonicalUsername: "grace"}))(f)
		f.ok(f.memory.CountFailure(t.Context(), c.ThrottleKey, identity.Event{}))
	}
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
}

// costOf returns the cost of the stored hash of a password.
func (f *fixture) costOf(p person) int {
	f.Helper()
	c := must(f.memory.FindCredentials(f.Context(), identity.Login{CanonicalUsername: p.username}))(f)
	return must(bcrypt.Cost([]byte(c.PasswordHash)))(f)
}

func TestSignInRenewsAHashOfAnotherCost(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	f.service = f.replica(f.newHasher(cost + 1))
	f.fails(errOf(f.SignIn(p.username, "wrong guess")), identity.Unauthenticated, wrongCredentials)
	f.equal("the cost after a wrong password", f.costOf(p), cost)
	f.store.take()
	f.signIn(p)
	f.equal("calls of the store", f.store.take(), "FindCredentials OpenSession")
	f.equal("the cost", f.costOf(p), cost+1)
	f.signIn(p)
}

func TestSignInRenewsAHashTwiceAtOnce(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	f.service = f.replica(f.newHasher(cost + 1))
	f.store.before["OpenSession"] = func() { f.signIn(p) }
	f.signIn(p)
	f.equal("the cost", f.costOf(p), cost+1)
}

func TestSignInSucceedsWhileAReplicaOfAnotherCostRenewsTheHash(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	other := f.replica(f.newHasher(cost + 1))
	f.store.before["OpenSession"] = func() {
		must(f.tokens(other.SignIn(t.Context(), p.username, p.password)))(f)
	}
	f.signIn(p) // this sign-in has no hash to renew
	f.equal("the cost", f.costOf(p), cost+1)
}

func TestSignInThatRenewsAHashFailsAfterAChangeOfPassword(t *testing.T) {
	for _, c := range []struct {
		what      string
		meanwhile func(f *fixture, p person, tokens identity.Tokens)
		then      string // the calls of the store afterwards
	}{
		{"another password", func(f *fixture, p person, tokens identity.Tokens) {
			f.ok(f.ChangePassword(tokens.AccessToken, p.password, "another of mine"))
		}, "FindCredentials RecordEvent"},
		{"suspended", func(f *fixture, p person, _ identity.Tokens) {
			f.ok(f.memory.Suspend(f.Context(), p.id, true))
		}, "FindCredentials RecordEvent"},
		{"too many failures", func(f *fixture, p person, _ identity.Tokens) {
			c := must(f.memory.FindCredentials(f.Context(), identity.Login{CanonicalUsername: p.username}))(f)
			f.ok(f.memory.CountFailure(f.Context(), c.ThrottleKey, identity.Event{}))
		}, "FindCredentials RecordEvent"},
		{"deleted, and its name and password taken by another", func(f *fixture, p person, tokens identity.Tokens) {
			f.ok(f.service.DeleteUser(f.Context(), tokens.AccessToken))
			f.verified(p.username)
		}, "FindCredentials RecordEvent"},
	} {
		t.Run(c.what, func(t *testing.T) {
			f := newFixture(t)
			p, tokens := f.verified("grace")
			f.fail(p.username, 9)
			f.service = f.replica(f.newHasher(cost + 1))
			f.store.before["OpenSession"] = func() {
				c.meanwhile(f, p, tokens)
				f.store.take()
			}
			f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
			f.equal("later calls of the store", f.store.take(), c.then)
		})
	}
}

func TestSignInThatIsRejectedCountsAsNoFailure(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	f.store.take()
	left := identity.WithCaller(t.Context(), identity.Caller{Connected: func() bool { return false }})
	f.equal("the kind", identity.KindOf(errOf(f.service.SignIn(left, p.username, p.password))), identity.Overloaded)
	f.equal("calls of the store", f.store.take(), "FindCredentials")
	f.hasher.Close()
	f.equal("the kind of a sign-in after Close", identity.KindOf(errOf(f.SignIn(p.username, p.password))), identity.Overloaded)
	f.equal("the kind of a sign-up", identity.KindOf(errOf(f.SignUp(signUpOf("edsger")))), identity.Overloaded)
}

func TestSignInEndsTheOldestSessionsBeyondTheLimit(t *testing.T) {
	f := newFixture(t)
	p, first := f.verified("grace")
	all := []identity.Tokens{first}
	for range 24 {
		f.pass(time.Second)
		all = append(all, f.signIn(p))
	}
	for i, tokens := range all {
		f.equal("a session is alive", f.alive(tokens), i >= 15)
	}
}

func TestTrailNamesTheRequestAndTheClientsAddress(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	ctx := identity.WithCaller(context.Background(), identity.Caller{
		RequestID: "request-7", Address: netip.MustParseAddr("192.0.2.43"),
	})
	must(f.service.SignIn(ctx, p.username, p.password))(f)
	if lines := f.audit.String(); strings.Count(lines, `"request_id":"request-7","address":"192.0.2.43"`) != 1 ||
		!strings.Contains(lines, `"user":"`+p.id+`"`) {
		t.Error(lines)
	}
}
