package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

const another = "another of mine"

func TestARecoveryCodeSetsAPasswordOnceAndEndsWhatWasOpen(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	change := must(w.RequestEmailChange(tokens.AccessToken, ""))(w)
	code := must(w.ForgotPassword(strings.ToUpper(p.email)))(w)
	w.equal("user of the code", code.UserID, p.id)
	w.equal("lifetime of the code", code.ExpiresIn, time.Hour)
	w.equal("asking ends no session: the session is alive", w.alive(tokens), true)

	w.ok(w.ResetPassword(code.Text, p.id, another))
	w.equal("the session is alive", w.alive(tokens), false)
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	w.fails(w.ResetPassword(code.Text, "", "a third of mine"), identity.Invalid, wrongCode)
	p.password = another
	tokens = w.signIn(p)
	w.fails(errOf(w.ChangeEmail(tokens.AccessToken, change.Text, "new@mail.example")), identity.Invalid, wrongCode)
	w.equal("resets audited", w.audited("password reset"), 1)
}

func TestARecoveryCodeHoldsForAnHourAndOnlyTheLast(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	first := must(w.ForgotPassword(p.email))(w)
	second := must(w.ForgotPassword(p.email))(w)
	w.fails(w.ResetPassword(first.Text, "", another), identity.Invalid, wrongCode)
	w.pass(time.Hour)
	w.fails(w.ResetPassword(second.Text, "", another), identity.Invalid, wrongCode)
}

func TestAResetNamesEveryParameterThatIsWrongAndUsesNothingUp(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	other, _ := w.verified("edsger")
	code := must(w.ForgotPassword(p.email))(w)
	none := strings.Repeat("A", 26)
	const badID, tooShort = "id: must be a UUID in lower case, as it was answered at sign-up", "password: is shorter than 8 characters"
	const personal = "password: must not be your username or email address"
	hashed := w.hasher.Stats().Done
	for _, c := range []struct{ what, code, id, password, message string }{
		{"no such code", none, "", another, wrongCode},
		{"no code at all", "", "", another, wrongCode},
		{"another's id", code.Text, other.id, another, wrongCode},
		{"another's id and a bad password", code.Text, other.id, "short", wrongCode + "; " + tooShort},
		{"another's id and the owner's name", code.Text, other.id, p.email, wrongCode},
		{"no code and a bad password", none, "", "short", wrongCode + "; " + tooShort},
		{"a bad id", code.Text, "x", another, badID},
		{"an id in capitals", code.Text, strings.ToUpper(p.id), another, badID},
		{"an id without dashes", code.Text, strings.ReplaceAll(p.id, "-", ""), another, badID},
		{"everything", "x", "x", "x", badID + "; " + wrongCode + "; " + tooShort},
		{"a bad id and a bad password", code.Text, "x", "short", badID + "; " + tooShort},
		{"the email as password", code.Text, p.id, p.email, personal},
		{"a common password", code.Text, p.id, "iloveyou", "password: is one of the most common passwords; choose another"},
		{"a NUL", code.Text, p.id, another + "\x00", "password: holds a NUL character"},
		{"257 characters", code.Text, p.id, strings.Repeat("x", 257), "password: is longer than 256 characters"},
	} {
		t.Run(c.what, func(*testing.T) { w.fails(w.ResetPassword(c.code, c.id, c.password), identity.Invalid, c.message) })
	}
	w.equal("number of hashes", w.hasher.Stats().Done-hashed, int64(0))
	w.fails(w.ResetPassword(code.Text, p.id, p.password), identity.Invalid, samePassword)
	w.equal("the session is alive", w.alive(tokens), true)
	w.ok(w.ResetPassword(code.Text, p.id, strings.Repeat("😀", 64)))
	p.password = strings.Repeat("😀", 64)
	w.signIn(p)
	w.signIn(other)
}

func TestAResetVerifiesTheAddressAndKillsTheVerificationCode(t *testing.T) {
	w := newWorld(t)
	p, verification := w.unverified("grace") // the sign-up is a stranger's, with the reader's address
	code := must(w.ForgotPassword(p.email))(w)
	w.ok(w.ResetPassword(code.Text, "", another))
	w.fails(errOf(w.VerifyUser(verification)), identity.Invalid, wrongCode)
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	p.password = another
	u := must(w.Profile(w.signIn(p).AccessToken))(w)
	w.equal("the address is verified", u.EmailVerified, true)
}

func TestAResetNeverRevivesWhoIsSuspended(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	w.ok(w.memory.Suspend(t.Context(), p.id, true))
	code := must(w.ForgotPassword(p.email))(w)
	w.ok(w.ResetPassword(code.Text, "", another))
	w.fails(errOf(w.SignIn(p.username, another)), identity.Unauthenticated, wrongCredentials)
}

func TestAChangeOfPasswordKeepsTheSessionThatMadeItAndNoOther(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	other := w.signIn(p)
	recovery := must(w.ForgotPassword(p.email))(w)
	change := must(w.RequestEmailChange(tokens.AccessToken, ""))(w)

	w.ok(w.ChangePassword(tokens.AccessToken, p.password, another))
	w.equal("the session is alive", w.alive(tokens), true)
	w.equal("the other session is alive", w.alive(other), false)
	w.fails(errOf(w.Renew(other.RefreshToken)), identity.Unauthenticated, endedSession)
	w.fails(w.ResetPassword(recovery.Text, "", "a third of mine"), identity.Invalid, wrongCode)
	w.fails(errOf(w.ChangeEmail(tokens.AccessToken, change.Text, "new@mail.example")), identity.Invalid, wrongCode)
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	p.password = another
	w.signIn(p)
	w.equal("changes audited", w.audited("password changed"), 1)
}

func TestAChangeOfPasswordSaysWhatIsWrongWithIt(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	for _, c := range []struct {
		what, old, password string
		kind                identity.Kind
		message             string
	}{
		{"no old password", "", another, identity.Unauthenticated, wrongOld},
		{"a wrong old password", "wrong guess", another, identity.Unauthenticated, wrongOld},
		{"an old password that no account can have", strings.Repeat("x", 257), another, identity.Unauthenticated, wrongOld},
		{"a NUL after the old password", p.password + "\x00", another, identity.Unauthenticated, wrongOld},
		{"a short one", p.password, "short", identity.Invalid, "password: is shorter than 8 characters"},
		{"the email", p.password, p.email, identity.Invalid, "password: must not be your username or email address"},
		{"the same", p.password, p.password, identity.Invalid, samePassword},
	} {
		t.Run(c.what, func(*testing.T) {
			w.fails(w.ChangePassword(tokens.AccessToken, c.old, c.password), c.kind, c.message)
		})
	}
	w.signIn(p)
	w.equal("failures counted", w.audited("password refused"), 1) // a password that no account can have does not count
}

func TestAStolenTokenIsNoWayRoundTheThrottle(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	for range 5 {
		w.fails(w.ChangePassword(tokens.AccessToken, "wrong guess", another), identity.Unauthenticated, wrongOld)
	}
	for range 5 {
		w.fails(errOf(w.SignIn(p.username, "wrong guess")), identity.Unauthenticated, wrongCredentials)
	}
	w.throttled(p.username, p.password, time.Second)
	hashed := w.hasher.Stats().Done
	w.fails(w.ChangePassword(tokens.AccessToken, p.password, another), identity.RateLimited, tooManyWrong)
	w.equal("number of hashes", w.hasher.Stats().Done-hashed, int64(0))
	w.pass(time.Second)
	w.ok(w.ChangePassword(tokens.AccessToken, p.password, another))
	p.password = another
	w.signIn(p)
}

func TestOfManyGuessesAtTheOldPasswordAtOnceNoneBeyondTheThrottleIsToldToBeRight(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	w.fail(p.username, 9)
	tokens = w.renew(tokens.RefreshToken)
	w.pass(time.Minute)
	c := must(w.memory.FindCredentials(t.Context(), identity.Login{CanonicalUsername: p.username}))(w)
	w.store.before["FindPassword"] = func() { // a failure is counted before the second call
		w.store.before["FindPassword"] = func() { w.ok(w.memory.CountFailure(t.Context(), c.ThrottleKey, identity.Event{})) }
	}
	w.fails(w.ChangePassword(tokens.AccessToken, p.password, another), identity.Unauthenticated, wrongOld)
	w.pass(time.Minute)
	w.ok(w.ChangePassword(tokens.AccessToken, p.password, another))
}

func TestAPasswordChangedMeanwhileIsNotChangedAgain(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	w.store.before["ChangePassword"] = func() {
		w.ok(w.ChangePassword(tokens.AccessToken, p.password, "a third of mine"))
	}
	w.fails(w.ChangePassword(tokens.AccessToken, p.password, another), identity.Unauthenticated, wrongOld)
	p.password = "a third of mine"
	w.signIn(p)
	w.equal("the session is alive", w.alive(tokens), true)
}

// Replicas with different costs renew each other's hashes as long as both run.
func TestAPasswordIsChangedWhileSignInsRenewItsHash(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	costs := []*identity.Service{w.replica(w.newHasher(cost + 1)), w.replica(w.newHasher(cost)), w.replica(w.newHasher(cost + 1))}
	var renew func()
	renew = func() {
		if len(costs) == 0 {
			return
		}
		service := costs[0]
		costs = costs[1:]
		must(w.tokens(service.SignIn(t.Context(), p.username, p.password)))(w)
		w.store.before["ChangePassword"] = renew
	}
	w.store.before["ChangePassword"] = renew
	w.ok(w.ChangePassword(tokens.AccessToken, p.password, another))
	w.equal("the costs that were not tried", len(costs), 0)
	w.equal("changes audited", w.audited("password changed"), 1)
	w.equal("the session is alive", w.alive(tokens), true)
	p.password = another
	w.signIn(p)
}

func TestASessionThatEndsWhileItChangesThePasswordIsToldSo(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	other := w.signIn(p)
	w.store.before["ChangePassword"] = func() {
		w.ok(w.ChangePassword(other.AccessToken, p.password, "a third of mine"))
	}
	w.fails(w.ChangePassword(tokens.AccessToken, p.password, another), identity.Unauthenticated, endedSession)
}
