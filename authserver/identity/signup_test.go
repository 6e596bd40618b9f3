package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

func TestASignUpMakesAnAccountAsGivenThatItsCodeVerifies(t *testing.T) {
	w := newWorld(t)
	code, err := w.SignUp(identity.SignUp{
		Username: "Grace", Email: "Grace@Mail.Example", FirstName: " Grace ", LastName: "Hopper", Password: password,
	})
	w.ok(err)
	w.equal("the life of the code", code.ExpiresIn, 24*time.Hour)
	w.equal("the length of the code", len(code.Text), 26)
	tokens, err := w.VerifyUser(code.Text)
	w.ok(err)
	u, err := w.Profile(tokens.AccessToken)
	w.ok(err)
	w.equal("the account", u, identity.User{
		ID: code.UserID, Username: "Grace", Email: "Grace@Mail.Example", FirstName: "Grace", LastName: "Hopper",
		Scope: "profile email", EmailVerified: true, CreatedAt: start, UpdatedAt: start,
	})
	w.equal("accounts audited", w.audited("account created")+w.audited("email verified"), 2)
	w.equal("sessions opened", w.service.Stats().SessionsOpened, uint64(1))
	w.noMail() // where callers see codes
}

func TestASignUpNamesEveryParameterThatIsWrong(t *testing.T) {
	w := newWorld(t)
	_, err := w.SignUp(identity.SignUp{Username: "a b", Email: "x", FirstName: "\x00", Password: "short", Scope: `"`})
	w.fails(err, identity.Invalid, strings.Join([]string{
		"username: may hold only letters (a-z), digits, '.', '_' and '-'",
		malformedEmail,
		"first_name: holds control characters",
		"last_name: is empty",
		"password: is shorter than 8 characters",
		"scope: must be tokens of printable ASCII without quotes and backslashes, separated by spaces",
	}, "; "))
	w.equal("what the store was asked", w.store.take(), "")
}

func TestASignUpNamesAllThatIsTakenWithoutCase(t *testing.T) {
	for _, c := range []struct{ what, username, email, message string }{
		{"the username", "GRACE", "other@mail.example", "username: is taken"},
		{"the email", "other", "GRACE@mail.EXAMPLE", "email: is taken"},
		{"both", "Grace", "Grace@mail.example", "username: is taken; email: is taken"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			w.unverified("grace")
			in := signUpOf(c.username)
			in.Email = c.email
			_, err := w.SignUp(in)
			w.fails(err, identity.Conflict, c.message)
		})
	}
}

func TestAPasswordThatIsToBeSet(t *testing.T) {
	const tooShort, tooLong = "password: is shorter than 8 characters", "password: is longer than 256 characters"
	const personal, service = "password: must not be your username or email address", "password: must not be the name of this service"
	const common = "password: is one of the most common passwords; choose another"
	for _, c := range []struct{ what, password, wrong string }{
		{"7 characters", "xk4!qpz", tooShort},
		{"8 characters", "xk4!qpzw", ""},
		{"7 characters of four bytes", strings.Repeat("😀", 7), tooShort},
		{"8 characters of four bytes", strings.Repeat("😀", 8), ""},
		{"8 characters that are 7 once composed", "xk4!qpe\u0301", tooShort},
		{"64 characters of four bytes", strings.Repeat("😀", 64), ""},
		{"spaces", "        ", ""},
		{"spaces around", "  xk4!qpz  ", ""},
		{"73 bytes", strings.Repeat("x", 73), ""},
		{"256 characters", strings.Repeat("x", 256), ""},
		{"256 characters of four bytes", strings.Repeat("😀", 256), ""},
		{"257 characters", strings.Repeat("x", 257), tooLong},
		{"nothing", "", tooShort},
		{"a NUL", "xk4!qpz\x00w", "password: holds a NUL character"},
		{"a common one", "password", common},
		{"a common one in capitals", "PASSWORD", common},
		{"the username", "Grace.Hopper", personal},
		{"the username in another case", "grace.HOPPER", personal},
		{"the email", "g.b.hopper@mail.example", personal},
		{"what stands before the @", "G.B.Hopper", personal},
		{"the name of the service", "auth gateway", service},
		{"the host of the service", "AUTH.example", service},
		{"more than the username", "Grace.Hopper1906", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			in := signUpOf("Grace.Hopper")
			in.Email, in.Password = "g.b.hopper@mail.example", c.password
			code, err := w.SignUp(in)
			if c.wrong != "" {
				w.fails(err, identity.Invalid, c.wrong)
				return
			}
			w.ok(err)
			_, err = w.VerifyUser(code.Text)
			w.ok(err)
			_, err = w.SignIn("Grace.Hopper", c.password)
			w.ok(err)
			for what, other := range map[string]string{
				"more": c.password + "x", "less": c.password[:len(c.password)-1], "trimmed": strings.TrimSpace(c.password), "in capitals": strings.ToUpper(c.password),
			} {
				if _, err := w.SignIn("Grace.Hopper", other); other != c.password && err == nil {
					w.Error("so does ", what)
				}
			}
		})
	}
}

func TestTheBlocklistCanBeTurnedOff(t *testing.T) {
	w := newWorld(t, func(p *identity.Policy) { p.PasswordBlocklist = false })
	in := signUpOf("grace")
	in.Password = "password"
	_, err := w.SignUp(in)
	w.ok(err)
}

// decomposed and composed are one text, typed on two keyboards.
const decomposed, composed = "cafe\u0301 noir", "caf\u00e9 noir"

func TestAPasswordIsTheSameHoweverItIsTyped(t *testing.T) {
	for _, typed := range [][2]string{{decomposed, composed}, {composed, decomposed}} {
		w := newWorld(t)
		in := signUpOf("grace")
		in.Password = typed[0]
		code, err := w.SignUp(in)
		w.ok(err)
		tokens, err := w.VerifyUser(code.Text)
		w.ok(err)
		_, err = w.SignIn("grace", typed[1])
		w.ok(err)
		w.fails(w.ChangePassword(tokens.AccessToken, typed[1], typed[0]), identity.Invalid, samePassword)
		w.ok(w.ChangePassword(tokens.AccessToken, typed[1], "another of mine"))
		reset, err := w.ForgotPassword(in.Email)
		w.ok(err)
		w.ok(w.ResetPassword(reset.Text, "", typed[0]))
		_, err = w.SignIn("grace", typed[1])
		w.ok(err)
	}
}

func TestWhereCallersAreTrustedTheyChooseTheScope(t *testing.T) {
	for asked, want := range map[string]string{"": "profile email", "admin  profile admin": "admin profile"} {
		w := newWorld(t)
		in := signUpOf("grace")
		in.Scope = asked
		code, err := w.SignUp(in)
		w.ok(err)
		tokens, err := w.VerifyUser(code.Text)
		w.ok(err)
		w.equal("the scope", tokens.Scope, want)
	}
}

func TestThePublicChoosesAmongTheScopesOnOffer(t *testing.T) {
	for asked, want := range map[string]string{"": "profile email", "email": "email", "email profile": "email profile"} {
		w := newWorld(t, public)
		in := signUpOf("grace")
		in.Scope = asked
		_, err := w.SignUp(in)
		w.ok(err)
		tokens, err := w.VerifyUser(w.mail().Code)
		w.ok(err)
		w.equal("the scope", tokens.Scope, want)
	}
	for _, asked := range []string{"admin", "profile admin"} {
		w := newWorld(t, public)
		in := signUpOf("grace")
		in.Scope = asked
		_, err := w.SignUp(in)
		w.fails(err, identity.Invalid, "scope: may hold only profile, email")
	}
}

func TestAVerificationCodeHoldsOnceForADayAndOnlyTheLast(t *testing.T) {
	w := newWorld(t)
	p, code := w.unverified("grace")
	for _, other := range []string{
		"", strings.ToLower(code), " " + code, code + " ", code[:25], code + "A", "%", "_", "null", "0", strings.Repeat("A", 26), strings.Repeat("%", 26),
	} {
		_, err := w.VerifyUser(other)
		w.fails(err, identity.Invalid, wrongCode)
	}
	again, err := w.NewVerificationCode(p.email)
	w.ok(err)
	_, err = w.VerifyUser(code)
	w.fails(err, identity.Invalid, wrongCode)
	w.pass(24*time.Hour - time.Second)
	_, err = w.VerifyUser(again.Text)
	w.ok(err)
	_, err = w.VerifyUser(again.Text)
	w.fails(err, identity.Invalid, wrongCode)
	_, err = w.NewVerificationCode(p.email)
	w.fails(err, identity.Conflict, "email: is verified already")

	_, late := w.unverified("edsger")
	w.pass(24 * time.Hour)
	_, err = w.VerifyUser(late)
	w.fails(err, identity.Invalid, wrongCode)
}

func TestACodeIsGoodForItsOwnPurposeAlone(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	other, verification := w.unverified("edsger")
	recovery, err := w.ForgotPassword(p.email)
	w.ok(err)
	change, err := w.RequestEmailChange(tokens.AccessToken, "")
	w.ok(err)

	for _, code := range []string{recovery.Text, change.Text} {
		_, err := w.VerifyUser(code)
		w.fails(err, identity.Invalid, wrongCode)
	}
	for _, code := range []string{verification, change.Text} {
		w.fails(w.ResetPassword(code, "", "another of mine"), identity.Invalid, wrongCode)
	}
	for _, code := range []string{verification, recovery.Text} {
		_, err := w.ChangeEmail(tokens.AccessToken, code, "new@mail.example")
		w.fails(err, identity.Invalid, wrongCode)
	}
	// None was used up by that.
	_, err = w.ChangeEmail(tokens.AccessToken, change.Text, "new@mail.example")
	w.ok(err)
	_, err = w.VerifyUser(verification)
	w.ok(err)
	recovery, err = w.ForgotPassword(other.email)
	w.ok(err)
	w.ok(w.ResetPassword(recovery.Text, "", "another of mine"))
}

func TestAnUnknownAddressIsToldWhereCallersAreTrusted(t *testing.T) {
	w := newWorld(t)
	for _, ask := range []func(string) (identity.Code, error){w.NewVerificationCode, w.ForgotPassword} {
		_, err := ask("nobody@mail.example")
		w.fails(err, identity.NotFound, "email: no account has this address")
		_, err = ask("x")
		w.fails(err, identity.Invalid, malformedEmail)
	}
}

func TestASuspendedAccountIsNotVerifiedAndItsCodeStillHolds(t *testing.T) {
	w := newWorld(t)
	p, code := w.unverified("grace")
	w.ok(w.memory.Suspend(t.Context(), p.id, true))
	_, err := w.VerifyUser(code)
	w.fails(err, identity.Forbidden, "the account is suspended")
	w.ok(w.memory.Suspend(t.Context(), p.id, false))
	_, err = w.VerifyUser(code)
	w.ok(err)
}
