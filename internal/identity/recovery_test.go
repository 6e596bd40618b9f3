package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

const another = "another of mine"

func TestResetPasswordWorksOnceAndEndsAllSessions(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	change := must(f.RequestEmailChange(tokens.AccessToken, ""))(f)
	code := must(f.ForgotPassword(strings.ToUpper(p.email)))(f)
	f.equal("user of the code", code.UserID, p.id)
	f.equal("lifetime of the code", code.ExpiresIn, time.Hour)
	f.equal("asking ends no session: the session is alive", f.alive(tokens), true)

	f.ok(f.ResetPassword(code.Text, p.id, another))
	f.equal("the session is alive", f.alive(tokens), false)
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	f.fails(f.ResetPassword(code.Text, "", "a third of mine"), identity.Invalid, wrongCode)
	p.password = another
	tokens = f.signIn(p)
	f.fails(errOf(f.ChangeEmail(tokens.AccessToken, change.Text, "new@mail.example")), identity.Invalid, wrongCode)
	f.equal("resets audited", f.audited("password reset"), 1)
}

func TestResetPasswordTakesTheLastCodeForAnHour(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	first := must(f.ForgotPassword(p.email))(f)
	second := must(f.ForgotPassword(p.email))(f)
	f.fails(f.ResetPassword(first.Text, "", another), identity.Invalid, wrongCode)
	f.pass(time.Hour)
	f.fails(f.ResetPassword(second.Text, "", another), identity.Invalid, wrongCode)
}

func TestResetPasswordNamesEveryWrongParameterAndKeepsTheCode(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	other, _ := f.verified("edsger")
	code := must(f.ForgotPassword(p.email))(f)
	none := strings.Repeat("A", 26)
	const badID, tooShort = "id: must be a UUID in lower case, as it was answered at sign-up", "password: is shorter than 8 characters"
	const personal = "password: must not be your username or email address"
	hashed := f.hasher.Stats().Done
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
		t.Run(c.what, func(*testing.T) { f.fails(f.ResetPassword(c.code, c.id, c.password), identity.Invalid, c.message) })
	}
	f.equal("number of hashes", f.hasher.Stats().Done-hashed, int64(0))
	f.fails(f.ResetPassword(code.Text, p.id, p.password), identity.Invalid, samePassword)
	f.equal("the session is alive", f.alive(tokens), true)
	f.ok(f.ResetPassword(code.Text, p.id, strings.Repeat("😀", 64)))
	p.password = strings.Repeat("😀", 64)
	f.signIn(p)
	f.signIn(other)
}

func TestResetPasswordVerifiesTheAddressAndVoidsTheVerificationCode(t *testing.T) {
	f := newFixture(t)
	p, verification := f.unverified("grace") // the sign-up is a stranger's, with the reader's address
	code := must(f.ForgotPassword(p.email))(f)
	f.ok(f.ResetPassword(code.Text, "", another))
	f.fails(errOf(f.VerifyUser(verification)), identity.Invalid, wrongCode)
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	p.password = another
	u := must(f.Profile(f.signIn(p).AccessToken))(f)
	f.equal("the address is verified", u.EmailVerified, true)
}

func TestResetPasswordLeavesASuspendedAccountSuspended(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	f.ok(f.memory.Suspend(t.Context(), p.id, true))
	code := must(f.ForgotPassword(p.email))(f)
	f.ok(f.ResetPassword(code.Text, "", another))
	f.fails(errOf(f.SignIn(p.username, another)), identity.Unauthenticated, wrongCredentials)
}

func TestChangePasswordKeepsOnlyTheSessionThatMadeIt(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	other := f.signIn(p)
	recovery := must(f.ForgotPassword(p.email))(f)
	change := must(f.RequestEmailChange(tokens.AccessToken, ""))(f)

	f.ok(f.ChangePassword(tokens.AccessToken, p.password, another))
	f.equal("the session is alive", f.alive(tokens), true)
	f.equal("the other session is alive", f.alive(other), false)
	f.fails(errOf(f.Renew(other.RefreshToken)), identity.Unauthenticated, endedSession)
	f.fails(f.ResetPassword(recovery.Text, "", "a third of mine"), identity.Invalid, wrongCode)
	f.fails(errOf(f.ChangeEmail(tokens.AccessToken, change.Text, "new@mail.example")), identity.Invalid, wrongCode)
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	p.password = another
	f.signIn(p)
	f.equal("changes audited", f.audited("password changed"), 1)
}

func TestChangePasswordNamesWhatIsWrong(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
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
			f.fails(f.ChangePassword(tokens.AccessToken, c.old, c.password), c.kind, c.message)
		})
	}
	f.signIn(p)
	f.equal("failures counted", f.audited("password refused"), 1) // a password that no account can have does not count
}

func TestThrottleCountsGuessesWithAStolenToken(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	for range 5 {
		f.fails(f.ChangePassword(tokens.AccessToken, "wrong guess", another), identity.Unauthenticated, wrongOld)
	}
	for range 5 {
		f.fails(errOf(f.SignIn(p.username, "wrong guess")), identity.Unauthenticated, wrongCredentials)
	}
	f.throttled(p.username, p.password, time.Second)
	hashed := f.hasher.Stats().Done
	f.fails(f.ChangePassword(tokens.AccessToken, p.password, another), identity.RateLimited, tooManyWrong)
	f.equal("number of hashes", f.hasher.Stats().Done-hashed, int64(0))
	f.pass(time.Second)
	f.ok(f.ChangePassword(tokens.AccessToken, p.password, another))
	p.password = another
	f.signIn(p)
}

func TestThrottleConfirmsNoConcurrentGuessOfAnOldPassword(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	f.fail(p.username, 9)
	tokens = f.renew(tokens.RefreshToken)
	f.pass(time.Minute)
	c := must(f.memory.FindCredentials(t.Context(), identity.Login{CanonicalUsername: p.username}))(f)
	f.store.before["FindPassword"] = func() { // a failure is counted before the second call
		f.store.before["FindPassword"] = func() { f.ok(f.memory.CountFailure(t.Context(), c.ThrottleKey, identity.Event{})) }
	}
	f.fails(f.ChangePassword(tokens.AccessToken, p.password, another), identity.Unauthenticated, wrongOld)
	f.pass(time.Minute)
	f.ok(f.ChangePassword(tokens.AccessToken, p.password, another))
}

func TestChangePasswordFailsIfThePasswordWasChangedMeanwhile(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	f.store.before["ChangePassword"] = func() {
		f.ok(f.ChangePassword(tokens.AccessToken, p.password, "a third of mine"))
	}
	f.fails(f.ChangePassword(tokens.AccessToken, p.password, another), identity.Unauthenticated, wrongOld)
	p.password = "a third of mine"
	f.signIn(p)
	f.equal("the session is alive", f.alive(tokens), true)
}

// Replicas with different costs renew each other's hashes as long as both run.
func TestChangePasswordSucceedsWhileSignInsRenewItsHash(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	costs := []*identity.Service{f.replica(f.newHasher(cost + 1)), f.replica(f.newHasher(cost)), f.replica(f.newHasher(cost + 1))}
	var renew func()
	renew = func() {
		if len(costs) == 0 {
			return
		}
		service := costs[0]
		costs = costs[1:]
		must(f.tokens(service.SignIn(t.Context(), p.username, p.password)))(f)
		f.store.before["ChangePassword"] = renew
	}
	f.store.before["ChangePassword"] = renew
	f.ok(f.ChangePassword(tokens.AccessToken, p.password, another))
	f.equal("the costs that were not tried", len(costs), 0)
	f.equal("changes audited", f.audited("password changed"), 1)
	f.equal("the session is alive", f.alive(tokens), true)
	p.password = another
	f.signIn(p)
}

func TestChangePasswordFailsIfTheSessionEndedMeanwhile(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	other := f.signIn(p)
	f.store.before["ChangePassword"] = func() {
		f.ok(f.ChangePassword(other.AccessToken, p.password, "a third of mine"))
	}
	f.fails(f.ChangePassword(tokens.AccessToken, p.password, another), identity.Unauthenticated, endedSession)
}
