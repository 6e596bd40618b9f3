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

func TestSigningInByUsernameOrEmailInAnyCaseOpensASession(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	for _, login := range []string{"grace", "GRACE", p.email, strings.ToUpper(p.email)} {
		w.store.take()
		tokens := must(w.SignIn(login, p.password))(w)
		w.equal("calls of the store", w.store.take(), "FindCredentials OpenSession")
		w.equal("the tokens", tokens, identity.Tokens{
			AccessToken: tokens.AccessToken, ExpiresIn: 15 * time.Minute,
			RefreshToken: tokens.RefreshToken, RefreshExpiresIn: 7 * 24 * time.Hour, Scope: "profile email",
		})
		w.equal("the session is alive", w.alive(tokens), true)
	}
	w.equal("sign-ins audited", w.audited("signed in"), 4)
	w.equal("sessions opened", w.service.Stats().SessionsOpened, uint64(5))
}

func TestWhateverIsWrongWithASignInTheAnswerAndTheWorkAreTheSame(t *testing.T) {
	w := newWorld(t, public)
	p, _ := w.verified("grace")
	suspended, _ := w.verified("barbara")
	w.ok(w.memory.Suspend(t.Context(), suspended.id, true))
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
			w.store.take()
			hashed := w.hasher.Stats().Done
			tokens, err := w.SignIn(c.login, c.password)
			w.fails(err, identity.Unauthenticated, wrongCredentials)
			w.equal("the tokens returned", tokens, identity.Tokens{})
			w.equal("calls of the store", w.store.take(), "FindCredentials CountFailure")
			w.equal("number of hashes", w.hasher.Stats().Done-hashed, int64(1))
			e, _ := errors.AsType[*identity.Error](err)
			w.equal("the cause", e.Cause, nil)
		})
	}
	w.equal("refusals audited", w.audited("password refused"), 7)
}

func TestWhatNobodyCanHaveIsRefusedWithoutWork(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	w.store.take()
	hashed := w.hasher.Stats().Done
	for _, c := range [][2]string{
		{"", p.password}, {"a b", p.password}, {"grace@", p.password}, {strings.Repeat("g", 1<<20), p.password},
		{"0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22", p.password},
		{p.username, ""}, {p.username, strings.Repeat("x", 257)}, {p.username, p.password + "\x00"}, {"nobody", ""},
	} {
		w.fails(errOf(w.SignIn(c[0], c[1])), identity.Unauthenticated, wrongCredentials)
	}
	w.equal("calls of the store", w.store.take(), "")
	w.equal("number of hashes", w.hasher.Stats().Done-hashed, int64(0))
}

func TestInPublicASignUpThatWaitsIsNotLookedAt(t *testing.T) {
	w := newWorld(t, public)
	p, code := w.unverified("grace")
	w.store.take()
	for _, login := range []string{p.username, p.email} {
		hashed := w.hasher.Stats().Done
		w.fails(errOf(w.SignIn(login, p.password)), identity.Unauthenticated, wrongCredentials)
		w.equal("calls of the store", w.store.take(), "FindCredentials CountFailure")
		w.equal("number of hashes", w.hasher.Stats().Done-hashed, int64(1))
	}
	must(w.VerifyUser(code))(w)
	w.signIn(p)
}

// The throttle of a login stays when a sign-up with that login begins. An attacker who
// guesses passwords therefore cannot reset it, and cannot use it to find out whether an
// account exists.
func TestASignUpDoesNotResetTheThrottleOfItsLogin(t *testing.T) {
	for _, exposure := range []func(*identity.Policy){public, mailing} {
		w := newWorld(t, exposure)
		w.fail("grace", 10)
		w.unverified("grace")
		w.throttled("grace", password, time.Second)
	}
}

func TestOfManyGuessesAtASignUpAtOnceNoneBeyondTheThrottleIsToldToBeRight(t *testing.T) {
	w := newWorld(t)
	p, _ := w.unverified("grace")
	w.fail(p.username, 9)
	w.store.before["FindSignUps"] = func() { // other guesses arrive at the same time
		c := must(w.memory.FindCredentials(t.Context(), identity.Login{CanonicalUsername: "grace"}))(w)
		w.ok(w.memory.CountFailure(t.Context(), c.ThrottleKey, identity.Event{}))
	}
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	w.throttled(p.username, p.password, 2*time.Second)
}

func TestALoginIsTakenWithoutTheSpacesAroundIt(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	for _, login := range []string{" grace", "grace ", "\tGrace\r\n", " " + p.email + " "} {
		must(w.SignIn(login, p.password))(w)
	}
}

func TestThatAnAddressIsNotVerifiedIsToldOnlyToWhoKnowsThePassword(t *testing.T) {
	w := newWorld(t)
	p, code := w.unverified("grace")
	w.fails(errOf(w.SignIn(p.username, "wrong guess")), identity.Unauthenticated, wrongCredentials)
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Forbidden, notVerified)
	w.equal("sessions opened", w.service.Stats().SessionsOpened, uint64(0))
	must(w.VerifyUser(code))(w)
	w.signIn(p)
}

// fail signs in with a wrong password so many times, each after the throttle's wait.
func (w *world) fail(login string, times int) {
	w.Helper()
	for range times {
		w.pass(time.Minute)
		w.fails(errOf(w.SignIn(login, "wrong guess")), identity.Unauthenticated, wrongCredentials)
	}
}

// throttled signs in with the right password before the throttle's wait has ended.
func (w *world) throttled(login, password string, wait time.Duration) {
	w.Helper()
	w.store.take()
	hashed := w.hasher.Stats().Done
	_, err := w.SignIn(login, password)
	w.fails(err, identity.RateLimited, tooManyWrong)
	e, _ := errors.AsType[*identity.Error](err)
	w.equal("Retry-After", e.RetryAfter, wait)
	asked := strings.TrimSuffix(w.store.take(), " RecordEvent") // recorded once a minute; see refusals_test.go
	w.equal("calls of the store", asked, "FindCredentials")
	w.equal("number of hashes", w.hasher.Stats().Done-hashed, int64(0))
}

func TestTheThrottleIsTheSameForWhoeverExistsAndWhoeverDoesNot(t *testing.T) {
	for _, login := range []string{"grace", "grace@mail.example", "barbara", "nobody", "nobody@mail.example"} {
		t.Run(login, func(t *testing.T) {
			w := newWorld(t)
			w.verified("grace")
			suspended, _ := w.verified("barbara")
			w.ok(w.memory.Suspend(t.Context(), suspended.id, true))

			w.fail(login, 10)
			for _, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
				wait := time.Duration(seconds) * time.Second
				w.throttled(login, password, wait)
				w.pass(wait - time.Millisecond)
				w.throttled(login, password, time.Millisecond) // an attempt that is too early does not count
				w.pass(time.Millisecond)
				w.fails(errOf(w.SignIn(login, "wrong guess")), identity.Unauthenticated, wrongCredentials)
			}
		})
	}
}

// Failures with the username and failures with the address are counted separately.
// Otherwise a stranger could find out whether an account exists and which username and
// address belong together.
func TestFailuresAreCountedTogetherHoweverALoginIsWritten(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	for _, login := range []string{"grace", "GRACE", " grace", "Grace", "gRACE"} {
		w.fail(login, 2)
	}
	w.throttled(p.username, p.password, time.Second)
	w.fail(p.email, 5)
	w.fail(strings.ToUpper(p.email), 5)
	w.throttled(p.email, p.password, time.Second)
	_, err := w.SignIn("nobody", "wrong guess") // another login has its own throttle
	w.fails(err, identity.Unauthenticated, wrongCredentials)

	w.fail("NOBODY", 9)
	w.throttled("nobody", "wrong guess", time.Second)
}

func TestAfterAHundredFailuresTheOwnerGetsInBothWays(t *testing.T) {
	for _, byRecovery := range []bool{false, true} {
		w := newWorld(t)
		p, _ := w.verified("grace")
		w.fail(p.username, 100)
		w.throttled(p.username, p.password, time.Minute)
		if byRecovery {
			code := must(w.ForgotPassword(p.email))(w)
			p.password = "another of mine"
			w.keep(p.password)
			w.ok(w.service.ResetPassword(from(home), code.Text, "", p.password))
		} else {
			w.pass(time.Minute)
			w.ok(w.signInFrom(home, p.username, p.password))
		}
		for range 2 { // the network is known now, so failures of strangers do not affect it
			w.ok(w.signInFrom(home, p.username, p.password))
			w.fails(w.signInFrom(home, p.username, "wrong guess"), identity.Unauthenticated, wrongCredentials)
		}
	}
}

func TestAFailureThatCannotBeCountedIsNoFreeGuess(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	away := &identity.Error{Kind: identity.Unavailable, Message: "the database is away"}
	w.store.before["CountFailure"] = func() { w.memory.Break(away) }
	w.fails(errOf(w.SignIn(p.username, "wrong guess")), identity.Unavailable, "the database is away")
}

func TestAPasswordThatWasChangedWhileItWasCheckedOpensNothing(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	w.store.before["OpenSession"] = func() {
		w.ok(w.ChangePassword(tokens.AccessToken, p.password, "another of mine"))
	}
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
}

func TestOfManyGuessesAtOnceNoneBeyondTheThrottleIsToldToBeRight(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	w.fail(p.username, 9)
	w.store.before["OpenSession"] = func() { // other guesses arrive at the same time
		c := must(w.memory.FindCredentials(t.Context(), identity.Login{CanonicalUsername: "grace"}))(w)
		w.ok(w.memory.CountFailure(t.Context(), c.ThrottleKey, identity.Event{}))
	}
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
}

// costOf returns the cost of the stored hash of a password.
func (w *world) costOf(p person) int {
	w.Helper()
	c := must(w.memory.FindCredentials(w.Context(), identity.Login{CanonicalUsername: p.username}))(w)
	return must(bcrypt.Cost([]byte(c.PasswordHash)))(w)
}

func TestAHashOfAnotherCostIsRenewedAtTheNextSignIn(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	w.service = w.replica(w.newHasher(cost + 1))
	w.fails(errOf(w.SignIn(p.username, "wrong guess")), identity.Unauthenticated, wrongCredentials)
	w.equal("the cost after a wrong password", w.costOf(p), cost)
	w.store.take()
	w.signIn(p)
	w.equal("calls of the store", w.store.take(), "FindCredentials OpenSession")
	w.equal("the cost", w.costOf(p), cost+1)
	w.signIn(p)
}

func TestWhereTwoSignInsRenewAHashAtOnceBothHold(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	w.service = w.replica(w.newHasher(cost + 1))
	w.store.before["OpenSession"] = func() { w.signIn(p) }
	w.signIn(p)
	w.equal("the cost", w.costOf(p), cost+1)
}

func TestASignInHoldsWhileAReplicaOfAnotherCostRenewsTheHash(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	other := w.replica(w.newHasher(cost + 1))
	w.store.before["OpenSession"] = func() {
		must(w.tokens(other.SignIn(t.Context(), p.username, p.password)))(w)
	}
	w.signIn(p) // this sign-in has no hash to renew
	w.equal("the cost", w.costOf(p), cost+1)
}

func TestWhereAHashIsToBeRenewedAChangeMeanwhileIsNoWayIn(t *testing.T) {
	for _, c := range []struct {
		what      string
		meanwhile func(w *world, p person, tokens identity.Tokens)
		then      string // the calls of the store afterwards
	}{
		{"another password", func(w *world, p person, tokens identity.Tokens) {
			w.ok(w.ChangePassword(tokens.AccessToken, p.password, "another of mine"))
		}, "FindCredentials RecordEvent"},
		{"suspended", func(w *world, p person, _ identity.Tokens) {
			w.ok(w.memory.Suspend(w.Context(), p.id, true))
		}, "FindCredentials RecordEvent"},
		{"too many failures", func(w *world, p person, _ identity.Tokens) {
			c := must(w.memory.FindCredentials(w.Context(), identity.Login{CanonicalUsername: p.username}))(w)
			w.ok(w.memory.CountFailure(w.Context(), c.ThrottleKey, identity.Event{}))
		}, "FindCredentials RecordEvent"},
		{"deleted, and its name and password taken by another", func(w *world, p person, tokens identity.Tokens) {
			w.ok(w.service.DeleteUser(w.Context(), tokens.AccessToken))
			w.verified(p.username)
		}, "FindCredentials RecordEvent"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			p, tokens := w.verified("grace")
			w.fail(p.username, 9)
			w.service = w.replica(w.newHasher(cost + 1))
			w.store.before["OpenSession"] = func() {
				c.meanwhile(w, p, tokens)
				w.store.take()
			}
			w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
			w.equal("later calls of the store", w.store.take(), c.then)
		})
	}
}

func TestSignInThatIsRejectedCountsAsNoFailure(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	w.store.take()
	left := identity.WithCaller(t.Context(), identity.Caller{Connected: func() bool { return false }})
	w.equal("the kind", identity.KindOf(errOf(w.service.SignIn(left, p.username, p.password))), identity.Overloaded)
	w.equal("calls of the store", w.store.take(), "FindCredentials")
	w.hasher.Close()
	w.equal("the kind of a sign-in after Close", identity.KindOf(errOf(w.SignIn(p.username, p.password))), identity.Overloaded)
	w.equal("the kind of a sign-up", identity.KindOf(errOf(w.SignUp(signUpOf("edsger")))), identity.Overloaded)
}

func TestAPersonHasOnlySoManySessions(t *testing.T) {
	w := newWorld(t)
	p, first := w.verified("grace")
	all := []identity.Tokens{first}
	for range 24 {
		w.pass(time.Second)
		all = append(all, w.signIn(p))
	}
	for i, tokens := range all {
		w.equal("a session is alive", w.alive(tokens), i >= 15)
	}
}

func TestTheAuditTrailNamesTheRequestAndTheClientsAddress(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	ctx := identity.WithCaller(context.Background(), identity.Caller{
		RequestID: "request-7", Address: netip.MustParseAddr("192.0.2.43"),
	})
	must(w.service.SignIn(ctx, p.username, p.password))(w)
	if lines := w.audit.String(); strings.Count(lines, `"request_id":"request-7","address":"192.0.2.43"`) != 1 ||
		!strings.Contains(lines, `"user":"`+p.id+`"`) {
		t.Error(lines)
	}
}
