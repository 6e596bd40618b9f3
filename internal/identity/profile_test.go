package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func TestProfileIsReadInOneStatementWithTheScope(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	f.store.take()
	u := must(f.Profile(tokens.AccessToken))(f)
	f.equal("user", u.ID, p.id)
	f.equal("calls of the store", f.store.take(), "FindUser")

	in := signUpOf("edsger")
	in.Scope = "profiles e-mail"
	code := must(f.SignUp(in))(f)
	tokens = must(f.VerifyUser(code.Text))(f)
	f.fails(errOf(f.Profile(tokens.AccessToken)), identity.Forbidden, `the token lacks the scope "profile"`)
	f.fails(errOf(f.RequestEmailChange(tokens.AccessToken, "")), identity.Forbidden, `the token lacks the scope "email"`)
}

func TestUpdateProfileChangesOnlyTheNamesThatAreGiven(t *testing.T) {
	username, first, last := "Amazing.Grace", " Brewster ", "Murray"
	f := newFixture(t)
	p, tokens := f.verified("grace")
	before := must(f.Profile(tokens.AccessToken))(f)
	f.keep(username, last)
	for _, c := range []struct {
		what   string
		update identity.ProfileUpdate
		expect func(u *identity.User)
	}{
		{"the first name", identity.ProfileUpdate{FirstName: &first}, func(u *identity.User) { u.FirstName = "Brewster" }},
		{"the last name", identity.ProfileUpdate{LastName: &last}, func(u *identity.User) { u.LastName = last }},
		{"the username", identity.ProfileUpdate{Username: &username}, func(u *identity.User) { u.Username = username }},
	} {
		f.pass(time.Minute)
		want := before
		c.expect(&want)
		want.UpdatedAt = f.Now()
		got := must(f.service.UpdateProfile(t.Context(), tokens.AccessToken, c.update))(f)
		f.equal(c.what, got, want)
		before = want
	}
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	must(f.SignIn(strings.ToUpper(username), p.password))(f)
	in := signUpOf("grace") // the username is free again
	in.Email = "another@mail.example"
	must(f.SignUp(in))(f)
}

func TestUpdateProfileNamesEverythingThatIsWrong(t *testing.T) {
	f := newFixture(t)
	_, tokens := f.verified("grace")
	f.verified("edsger")
	at, blank, taken, own := "a@b", " ", "EDSGER", "GRACE"
	for _, c := range []struct {
		what    string
		update  identity.ProfileUpdate
		kind    identity.Kind
		message string
	}{
		{"nothing given", identity.ProfileUpdate{}, identity.Invalid, "username, first_name, last_name: give at least one of them"},
		{
			"all wrong", identity.ProfileUpdate{Username: &at, FirstName: &blank, LastName: &blank}, identity.Invalid,
			"username: may hold only letters (a-z), digits, '.', '_' and '-'; first_name: is empty; last_name: is empty",
		},
		{"a name that is taken", identity.ProfileUpdate{Username: &taken}, identity.Conflict, "username: is taken"},
	} {
		t.Run(c.what, func(t *testing.T) {
			f.fails(errOf(f.service.UpdateProfile(t.Context(), tokens.AccessToken, c.update)), c.kind, c.message)
		})
	}
	must(f.service.UpdateProfile(t.Context(), tokens.AccessToken, identity.ProfileUpdate{Username: &own}))(f)
}

func TestDeleteUserLeavesNothingThatIsValid(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	other := f.signIn(p)
	recovery := must(f.ForgotPassword(p.email))(f)
	f.fail(p.username, 5)
	tokens, other = f.renew(tokens.RefreshToken), f.renew(other.RefreshToken)
	f.ok(f.service.DeleteUser(t.Context(), tokens.AccessToken))

	gone := func() {
		t.Helper()
		f.fails(f.service.DeleteUser(t.Context(), tokens.AccessToken), identity.Unauthenticated, endedSession)
		for _, tokens := range []identity.Tokens{tokens, other} {
			f.equal("the session is alive", f.alive(tokens), false)
			f.fails(errOf(f.Renew(tokens.RefreshToken)), identity.Unauthenticated, endedSession)
			f.ok(f.service.SignOut(t.Context(), tokens.RefreshToken))
		}
		f.fails(f.ResetPassword(recovery.Text, "", another), identity.Invalid, wrongCode)
		f.equal("deletions audited", f.audited("account deleted"), 1)
	}
	gone()
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	f.fails(errOf(f.ForgotPassword(p.email)), identity.NotFound, "email: no account has this address")

	again, _ := f.verified("grace") // another user with the same username and address
	f.equal("the new account has the old id", again.id == p.id, false)
	gone()
	f.signIn(again)
}

func TestDeleteUserVoidsCodesForTheNextAccountOfTheSameName(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	recovery := must(f.ForgotPassword(p.email))(f)
	f.ok(f.service.DeleteUser(t.Context(), f.signIn(p).AccessToken))
	_, verification := f.unverified("grace")
	f.fails(f.ResetPassword(recovery.Text, "", another), identity.Invalid, wrongCode)
	must(f.VerifyUser(verification))(f)
}

func TestChangeEmailWithACodeForAnAddressProvesOnlyThatAddress(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	code := must(f.RequestEmailChange(tokens.AccessToken, "New@mail.example"))(f)
	f.equal("lifetime of the code", code.ExpiresIn, time.Hour)
	f.equal("user of the code", code.UserID, p.id)
	f.fails(errOf(f.ChangeEmail(tokens.AccessToken, code.Text, "other@mail.example")), identity.Invalid, wrongCode)
	u := must(f.ChangeEmail(tokens.AccessToken, code.Text, "new@MAIL.example"))(f)
	f.equal("the address", u.Email, "new@MAIL.example")
	f.equal("it is verified", u.EmailVerified, true)
	f.fails(errOf(f.ChangeEmail(tokens.AccessToken, code.Text, "new@mail.example")), identity.Invalid, wrongCode)
	f.fails(errOf(f.SignIn(p.email, p.password)), identity.Unauthenticated, wrongCredentials)
	must(f.SignIn("new@mail.example", p.password))(f)
	f.equal("changes audited", f.audited("email changed"), 1)
}

func TestChangeEmailWithACodeForAnyAddressProvesNone(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	verified := func() bool {
		u := must(f.Profile(tokens.AccessToken))(f)
		return u.EmailVerified
	}
	code := must(f.RequestEmailChange(tokens.AccessToken, ""))(f)
	must(f.ChangeEmail(tokens.AccessToken, code.Text, "new@mail.example"))(f)
	f.equal("the address is verified", verified(), false)
	f.signIn(p)
	_, err := f.SignIn("new@mail.example", p.password) // only the proved address can be used to sign in
	f.fails(err, identity.Unauthenticated, wrongCredentials)
	must(f.SignIn(p.email, p.password))(f)
	recovery := must(f.ForgotPassword(p.email))(f)
	f.equal("user of the code", recovery.UserID, p.id)
	f.fails(errOf(f.ForgotPassword("new@mail.example")), identity.NotFound, "email: no account has this address")

	proof := must(f.NewVerificationCode("new@mail.example"))(f)
	tokens = must(f.VerifyUser(proof.Text))(f)
	f.equal("the address is verified", verified(), true)
}

func TestChangeEmailNamesEverythingThatIsWrong(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	other, others := f.verified("edsger")
	code := must(f.RequestEmailChange(tokens.AccessToken, ""))(f)
	recovery := must(f.ForgotPassword(p.email))(f)
	for _, c := range []struct {
		what, access, code, email string
		kind                      identity.Kind
		message                   string
	}{
		{"everything", tokens.AccessToken, "x", "x", identity.Invalid, wrongCode + "; " + malformedEmail},
		{"the address", tokens.AccessToken, code.Text, "", identity.Invalid, "email: is empty"},
		{"the code", tokens.AccessToken, strings.Repeat("A", 26), "new@mail.example", identity.Invalid, wrongCode},
		{"another's code", others.AccessToken, code.Text, "new@mail.example", identity.Invalid, wrongCode},
		{"an address that is taken", tokens.AccessToken, code.Text, strings.ToUpper(other.email), identity.Conflict, "email: is taken"},
	} {
		t.Run(c.what, func(*testing.T) {
			f.fails(errOf(f.ChangeEmail(c.access, c.code, c.email)), c.kind, c.message)
		})
	}
	f.fails(errOf(f.RequestEmailChange(tokens.AccessToken, "x")), identity.Invalid, malformedEmail)
	f.fails(errOf(f.RequestEmailChange(tokens.AccessToken, other.email)), identity.Conflict, "email: is taken")

	_, err := f.ChangeEmail(tokens.AccessToken, code.Text, "new@mail.example") // the code has not been used
	f.ok(err)
	// The recovery code was sent to the previous address.
	f.fails(f.ResetPassword(recovery.Text, "", another), identity.Invalid, wrongCode)
}

func TestChangeEmailRefusesAnAddressThatWasTakenMeanwhile(t *testing.T) {
	f := newFixture(t)
	_, tokens := f.verified("grace")
	_, others := f.verified("edsger")
	mine := must(f.RequestEmailChange(tokens.AccessToken, "new@mail.example"))(f)
	theirs := must(f.RequestEmailChange(others.AccessToken, "new@mail.example"))(f)
	must(f.ChangeEmail(tokens.AccessToken, mine.Text, "new@mail.example"))(f)
	f.fails(errOf(f.ChangeEmail(others.AccessToken, theirs.Text, "new@mail.example")), identity.Conflict, "email: is taken")
}
