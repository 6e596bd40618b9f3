package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func TestAProfileIsReadInOneStatementByWhoHasTheScope(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	w.store.take()
	u := must(w.Profile(tokens.AccessToken))(w)
	w.equal("user", u.ID, p.id)
	w.equal("calls of the store", w.store.take(), "FindUser")

	in := signUpOf("edsger")
	in.Scope = "profiles e-mail"
	code := must(w.SignUp(in))(w)
	tokens = must(w.VerifyUser(code.Text))(w)
	w.fails(errOf(w.Profile(tokens.AccessToken)), identity.Forbidden, `the token lacks the scope "profile"`)
	w.fails(errOf(w.RequestEmailChange(tokens.AccessToken, "")), identity.Forbidden, `the token lacks the scope "email"`)
}

func TestOnlyTheNamesThatAreGivenChange(t *testing.T) {
	username, first, last := "Amazing.Grace", " Brewster ", "Murray"
	w := newWorld(t)
	p, tokens := w.verified("grace")
	before := must(w.Profile(tokens.AccessToken))(w)
	w.keep(username, last)
	for _, c := range []struct {
		what   string
		update identity.ProfileUpdate
		expect func(u *identity.User)
	}{
		{"the first name", identity.ProfileUpdate{FirstName: &first}, func(u *identity.User) { u.FirstName = "Brewster" }},
		{"the last name", identity.ProfileUpdate{LastName: &last}, func(u *identity.User) { u.LastName = last }},
		{"the username", identity.ProfileUpdate{Username: &username}, func(u *identity.User) { u.Username = username }},
	} {
		w.pass(time.Minute)
		want := before
		c.expect(&want)
		want.UpdatedAt = w.Now()
		got := must(w.service.UpdateProfile(t.Context(), tokens.AccessToken, c.update))(w)
		w.equal(c.what, got, want)
		before = want
	}
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	must(w.SignIn(strings.ToUpper(username), p.password))(w)
	in := signUpOf("grace") // the username is free again
	in.Email = "another@mail.example"
	must(w.SignUp(in))(w)
}

func TestAChangeOfNamesSaysAllThatIsWrongWithIt(t *testing.T) {
	w := newWorld(t)
	_, tokens := w.verified("grace")
	w.verified("edsger")
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
			w.fails(errOf(w.service.UpdateProfile(t.Context(), tokens.AccessToken, c.update)), c.kind, c.message)
		})
	}
	must(w.service.UpdateProfile(t.Context(), tokens.AccessToken, identity.ProfileUpdate{Username: &own}))(w)
}

func TestWhoIsDeletedLeavesNothingThatHolds(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	other := w.signIn(p)
	recovery := must(w.ForgotPassword(p.email))(w)
	w.fail(p.username, 5)
	tokens, other = w.renew(tokens.RefreshToken), w.renew(other.RefreshToken)
	w.ok(w.service.DeleteUser(t.Context(), tokens.AccessToken))

	gone := func() {
		t.Helper()
		w.fails(w.service.DeleteUser(t.Context(), tokens.AccessToken), identity.Unauthenticated, endedSession)
		for _, tokens := range []identity.Tokens{tokens, other} {
			w.equal("the session is alive", w.alive(tokens), false)
			w.fails(errOf(w.Renew(tokens.RefreshToken)), identity.Unauthenticated, endedSession)
			w.ok(w.service.SignOut(t.Context(), tokens.RefreshToken))
		}
		w.fails(w.ResetPassword(recovery.Text, "", another), identity.Invalid, wrongCode)
		w.equal("deletions audited", w.audited("account deleted"), 1)
	}
	gone()
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	w.fails(errOf(w.ForgotPassword(p.email)), identity.NotFound, "email: no account has this address")

	again, _ := w.verified("grace") // another user with the same username and address
	w.equal("the new account has the old id", again.id == p.id, false)
	gone()
	w.signIn(again)
}

func TestTheCodeOfADeletedAccountDoesNotVerifyTheNextOfItsName(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	recovery := must(w.ForgotPassword(p.email))(w)
	w.ok(w.service.DeleteUser(t.Context(), w.signIn(p).AccessToken))
	_, verification := w.unverified("grace")
	w.fails(w.ResetPassword(recovery.Text, "", another), identity.Invalid, wrongCode)
	must(w.VerifyUser(verification))(w)
}

func TestACodeForAnAddressProvesItAndIsGoodForNoOther(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	code := must(w.RequestEmailChange(tokens.AccessToken, "New@mail.example"))(w)
	w.equal("lifetime of the code", code.ExpiresIn, time.Hour)
	w.equal("user of the code", code.UserID, p.id)
	w.fails(errOf(w.ChangeEmail(tokens.AccessToken, code.Text, "other@mail.example")), identity.Invalid, wrongCode)
	u := must(w.ChangeEmail(tokens.AccessToken, code.Text, "new@MAIL.example"))(w)
	w.equal("the address", u.Email, "new@MAIL.example")
	w.equal("it is verified", u.EmailVerified, true)
	w.fails(errOf(w.ChangeEmail(tokens.AccessToken, code.Text, "new@mail.example")), identity.Invalid, wrongCode)
	w.fails(errOf(w.SignIn(p.email, p.password)), identity.Unauthenticated, wrongCredentials)
	must(w.SignIn("new@mail.example", p.password))(w)
	w.equal("changes audited", w.audited("email changed"), 1)
}

func TestACodeForAnyAddressProvesNone(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	verified := func() bool {
		u := must(w.Profile(tokens.AccessToken))(w)
		return u.EmailVerified
	}
	code := must(w.RequestEmailChange(tokens.AccessToken, ""))(w)
	must(w.ChangeEmail(tokens.AccessToken, code.Text, "new@mail.example"))(w)
	w.equal("the address is verified", verified(), false)
	w.signIn(p)
	_, err := w.SignIn("new@mail.example", p.password) // only the proved address can be used to sign in
	w.fails(err, identity.Unauthenticated, wrongCredentials)
	must(w.SignIn(p.email, p.password))(w)
	recovery := must(w.ForgotPassword(p.email))(w)
	w.equal("user of the code", recovery.UserID, p.id)
	w.fails(errOf(w.ForgotPassword("new@mail.example")), identity.NotFound, "email: no account has this address")

	proof := must(w.NewVerificationCode("new@mail.example"))(w)
	tokens = must(w.VerifyUser(proof.Text))(w)
	w.equal("the address is verified", verified(), true)
}

func TestAChangeOfAddressSaysAllThatIsWrongWithIt(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	other, others := w.verified("edsger")
	code := must(w.RequestEmailChange(tokens.AccessToken, ""))(w)
	recovery := must(w.ForgotPassword(p.email))(w)
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
			w.fails(errOf(w.ChangeEmail(c.access, c.code, c.email)), c.kind, c.message)
		})
	}
	w.fails(errOf(w.RequestEmailChange(tokens.AccessToken, "x")), identity.Invalid, malformedEmail)
	w.fails(errOf(w.RequestEmailChange(tokens.AccessToken, other.email)), identity.Conflict, "email: is taken")

	_, err := w.ChangeEmail(tokens.AccessToken, code.Text, "new@mail.example") // the code has not been used
	w.ok(err)
	// The recovery code was sent to the previous address.
	w.fails(w.ResetPassword(recovery.Text, "", another), identity.Invalid, wrongCode)
}

func TestAnAddressTakenMeanwhileIsNotHadTwice(t *testing.T) {
	w := newWorld(t)
	_, tokens := w.verified("grace")
	_, others := w.verified("edsger")
	mine := must(w.RequestEmailChange(tokens.AccessToken, "new@mail.example"))(w)
	theirs := must(w.RequestEmailChange(others.AccessToken, "new@mail.example"))(w)
	must(w.ChangeEmail(tokens.AccessToken, mine.Text, "new@mail.example"))(w)
	w.fails(errOf(w.ChangeEmail(others.AccessToken, theirs.Text, "new@mail.example")), identity.Conflict, "email: is taken")
}
