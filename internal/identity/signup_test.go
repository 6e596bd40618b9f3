package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func TestASignUpMakesAnAccountAsGivenThatItsCodeVerifies(t *testing.T) {
	w := newWorld(t)
	code := must(w.SignUp(identity.SignUp{
		Username: "Grace", Email: "Grace@Mail.Example", FirstName: " Grace ", LastName: "Hopper", Password: password,
	}))(w)
	w.equal("lifetime of the code", code.ExpiresIn, 24*time.Hour)
	w.equal("the length of the code", len(code.Text), 26)
	tokens := must(w.VerifyUser(code.Text))(w)
	u := must(w.Profile(tokens.AccessToken))(w)
	w.equal("the account", u, identity.User{
		ID: code.UserID, Username: "Grace", Email: "Grace@Mail.Example", FirstName: "Grace", LastName: "Hopper",
		Scope: "profile email", EmailVerified: true, CreatedAt: start, UpdatedAt: start,
	})
	w.equal("sign-ups and proofs audited", w.audited("signed up")+w.audited("email verified"), 2)
	w.equal("sessions opened", w.service.Stats().SessionsOpened, uint64(1))
	w.noMail() // callers receive codes in the response
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
	w.equal("calls of the store", w.store.take(), "")
}

func TestASignUpNamesAllThatIsTakenWithoutCase(t *testing.T) {
	for _, c := range []struct{ what, username, email, message string }{
		{"the username", "GRACE", "other@mail.example", "username: is taken"},
		{"the email", "other", "GRACE@mail.EXAMPLE", "email: is taken"},
		{"both", "Grace", "Grace@mail.example", "username: is taken; email: is taken"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			w.verified("grace")
			in := signUpOf(c.username)
			in.Email = c.email
			w.fails(errOf(w.SignUp(in)), identity.Conflict, c.message)
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
			must(w.VerifyUser(code.Text))(w)
			must(w.SignIn("Grace.Hopper", c.password))(w)
			for what, other := range map[string]string{
				"more": c.password + "x", "less": c.password[:len(c.password)-1], "trimmed": strings.TrimSpace(c.password), "in capitals": strings.ToUpper(c.password),
			} {
				if _, err := w.SignIn("Grace.Hopper", other); other != c.password && err == nil {
					w.Error("the account also accepts this variant of the password: ", what)
				}
			}
		})
	}
}

func TestTheBlocklistCanBeTurnedOff(t *testing.T) {
	w := newWorld(t, func(p *identity.Policy) { p.PasswordBlocklist = false })
	in := signUpOf("grace")
	in.Password = "password"
	must(w.SignUp(in))(w)
}

// decomposed and composed are the same text, typed on two keyboards.
const decomposed, composed = "cafe\u0301 noir", "caf\u00e9 noir"

func TestAPasswordIsTheSameHoweverItIsTyped(t *testing.T) {
	for _, typed := range [][2]string{{decomposed, composed}, {composed, decomposed}} {
		w := newWorld(t)
		in := signUpOf("grace")
		in.Password = typed[0]
		code := must(w.SignUp(in))(w)
		tokens := must(w.VerifyUser(code.Text))(w)
		must(w.SignIn("grace", typed[1]))(w)
		w.fails(w.ChangePassword(tokens.AccessToken, typed[1], typed[0]), identity.Invalid, samePassword)
		w.ok(w.ChangePassword(tokens.AccessToken, typed[1], "another of mine"))
		reset := must(w.ForgotPassword(in.Email))(w)
		w.ok(w.ResetPassword(reset.Text, "", typed[0]))
		must(w.SignIn("grace", typed[1]))(w)
	}
}

func TestWhereCallersAreTrustedTheyChooseTheScope(t *testing.T) {
	for asked, want := range map[string]string{"": "profile email", "admin  profile admin": "admin profile"} {
		w := newWorld(t)
		in := signUpOf("grace")
		in.Scope = asked
		code := must(w.SignUp(in))(w)
		tokens := must(w.VerifyUser(code.Text))(w)
		w.equal("the scope", tokens.Scope, want)
	}
}

func TestThePublicChoosesAmongTheScopesOnOffer(t *testing.T) {
	for asked, want := range map[string]string{"": "profile email", "email": "email", "email profile": "email profile"} {
		w := newWorld(t, public)
		in := signUpOf("grace")
		in.Scope = asked
		must(w.SignUp(in))(w)
		tokens := must(w.VerifyUser(w.mail().Code))(w)
		w.equal("the scope", tokens.Scope, want)
	}
	for _, asked := range []string{"admin", "profile admin"} {
		w := newWorld(t, public)
		in := signUpOf("grace")
		in.Scope = asked
		w.fails(errOf(w.SignUp(in)), identity.Invalid, "scope: may hold only profile, email")
	}
}

func TestAVerificationCodeHoldsOnceForADayAndOnlyTheLast(t *testing.T) {
	w := newWorld(t)
	p, code := w.unverified("grace")
	for _, other := range []string{
		"", code[:25], code + "A", "%", "_", "null", "0", strings.Repeat("A", 26), strings.Repeat("%", 26), code + "." + strings.Repeat(" ", 500),
	} {
		w.fails(errOf(w.VerifyUser(other)), identity.Invalid, wrongCode)
	}
	again := must(w.NewVerificationCode(p.email))(w)
	w.fails(errOf(w.VerifyUser(code)), identity.Invalid, wrongCode)
	w.pass(24*time.Hour - time.Second)
	must(w.VerifyUser(again.Text))(w)
	w.fails(errOf(w.VerifyUser(again.Text)), identity.Invalid, wrongCode)
	w.fails(errOf(w.NewVerificationCode(p.email)), identity.Conflict, "email: is verified already")

	_, late := w.unverified("edsger")
	w.pass(24 * time.Hour)
	w.fails(errOf(w.VerifyUser(late)), identity.Invalid, wrongCode)
}

func TestACodeIsGoodForItsOwnPurposeAlone(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	other, verification := w.unverified("edsger")
	recovery := must(w.ForgotPassword(p.email))(w)
	change := must(w.RequestEmailChange(tokens.AccessToken, ""))(w)

	for _, code := range []string{recovery.Text, change.Text} {
		w.fails(errOf(w.VerifyUser(code)), identity.Invalid, wrongCode)
	}
	for _, code := range []string{verification, change.Text} {
		w.fails(w.ResetPassword(code, "", "another of mine"), identity.Invalid, wrongCode)
	}
	for _, code := range []string{verification, recovery.Text} {
		w.fails(errOf(w.ChangeEmail(tokens.AccessToken, code, "new@mail.example")), identity.Invalid, wrongCode)
	}
	// All codes are still valid.
	must(w.ChangeEmail(tokens.AccessToken, change.Text, "new@mail.example"))(w)
	must(w.VerifyUser(verification))(w)
	recovery = must(w.ForgotPassword(other.email))(w)
	w.ok(w.ResetPassword(recovery.Text, "", "another of mine"))
}

func TestAnUnknownAddressIsToldWhereCallersAreTrusted(t *testing.T) {
	w := newWorld(t)
	for _, ask := range []func(string) (identity.Code, error){w.NewVerificationCode, w.ForgotPassword} {
		w.fails(errOf(ask("nobody@mail.example")), identity.NotFound, "email: no account has this address")
		w.fails(errOf(ask("x")), identity.Invalid, malformedEmail)
	}
}

func TestASuspensionThatIsLiftedGivesNothingBack(t *testing.T) {
	w := newWorld(t, rotating)
	p, tokens := w.verified("grace")
	recovery := must(w.ForgotPassword(p.email))(w)
	change := must(w.RequestEmailChange(tokens.AccessToken, ""))(w)
	for _, suspended := range []bool{true, false} {
		w.ok(w.memory.Suspend(t.Context(), p.id, suspended))
		w.equal("the session is alive", w.alive(tokens), false)
		w.equal("the kind", identity.KindOf(errOf(w.Renew(tokens.RefreshToken))), identity.Unauthenticated)
		w.fails(w.ResetPassword(recovery.Text, "", another), identity.Invalid, wrongCode)
	}
	w.fails(errOf(w.ChangeEmail(w.signIn(p).AccessToken, change.Text, "new@mail.example")), identity.Invalid, wrongCode)
}

// Users type codes, or paste them with surrounding characters.
func TestACodeIsTakenAsPeopleWriteIt(t *testing.T) {
	for _, write := range []func(string) string{
		strings.ToLower,
		func(code string) string { return "  " + code + "\r\n" },
		func(code string) string {
			return code[:5] + "-" + code[5:10] + "-" + code[10:15] + "-" + code[15:20] + "-" + code[20:]
		},
		func(code string) string { return strings.Join(strings.Split(code, ""), " ") },
		func(code string) string {
			return code[:13] + "\u2011" + code[13:20] + "\u00a0" + strings.ToLower(code[20:]) + "\u200b"
		},
	} {
		w := newWorld(t)
		p, code := w.unverified("grace")
		w.keep(write(code))
		tokens := must(w.VerifyUser(write(code)))(w)
		recovery := must(w.ForgotPassword(p.email))(w)
		change := must(w.RequestEmailChange(tokens.AccessToken, ""))(w)
		must(w.ChangeEmail(tokens.AccessToken, write(change.Text), "new@mail.example"))(w)
		w.fails(w.ResetPassword(write(recovery.Text), "", another), identity.Invalid, wrongCode) // the change has voided it
		recovery = must(w.ForgotPassword(p.email))(w)
		w.ok(w.ResetPassword(write(recovery.Text), "", another))
	}
}

// A stranger signs up with the address of the owner of a mailbox, before or after the owner
// does. Only the owner can prove the address, with the owner's own password.
func TestTheReaderOfAMailboxNeverProvesAStrangersPassword(t *testing.T) {
	for _, exposure := range []func(*identity.Policy){public, func(*identity.Policy) {}} {
		for _, strangerFirst := range []bool{true, false} {
			w := newWorld(t, exposure)
			codes := map[string]string{}
			signUp := func(name, secret string) {
				in := signUpOf(name)
				in.Email, in.Password = "owner@mail.example", secret
				code := must(w.SignUp(in))(w)
				if code.Text == "" {
					code.Text = w.mail().Code
				}
				codes[name] = code.Text
			}
			const theirs = "the stranger's choice"
			names := []string{"mallory", "owner"}
			if !strangerFirst {
				names = []string{"owner", "mallory"}
			}
			for _, name := range names {
				signUp(name, map[string]string{"owner": password, "mallory": theirs}[name])
			}
			for _, code := range codes {
				w.fails(errOf(w.VerifyUser(code)), identity.Invalid, passwordNeeded)
				w.fails(errOf(w.Prove(code, "neither of the two")), identity.Invalid, wrongClaim)
				w.fails(errOf(w.Prove(code, "")), identity.Invalid, wrongClaim)
			}
			tokens, err := w.Prove(codes[names[0]], password) // either code works
			w.ok(err)
			u := must(w.Profile(tokens.AccessToken))(w)
			w.equal("user of the account", u.Username, "owner")
			for _, code := range codes {
				w.fails(errOf(w.Prove(code, theirs)), identity.Invalid, wrongCode)
			}
			for _, login := range []string{"owner@mail.example", "mallory", "owner"} {
				w.fails(errOf(w.SignIn(login, theirs)), identity.Unauthenticated, wrongCredentials)
			}
			must(w.SignIn("owner@mail.example", password))(w)
		}
	}
}

func TestASignUpThatIsMadeTwiceIsProvedByEitherMail(t *testing.T) {
	w := newWorld(t, public)
	_, first := w.unverified("grace")
	_, second := w.unverified("grace")
	w.fails(errOf(w.VerifyUser(second)), identity.Invalid, passwordNeeded)
	must(w.Prove(first, password))(w)
	must(w.SignIn("grace", password))(w)
}

func TestAUsernameThatWasTakenMeanwhileIsChosenAnewWithTheSameCode(t *testing.T) {
	for _, exposure := range []func(*identity.Policy){public, func(*identity.Policy) {}} {
		w := newWorld(t, exposure)
		in := signUpOf("grace")
		in.Email = "other@mail.example"
		code := must(w.SignUp(in))(w)
		if code.Text == "" {
			code.Text = w.mail().Code
		}
		w.verified("grace")
		for range 2 {
			w.fails(errOf(w.VerifyUser(code.Text)), identity.Conflict, "username: is taken")
		}
		bad, taken, free := "a b", "GRACE", "Grace2"
		w.keep(free)
		_, err := w.service.VerifyUser(t.Context(), identity.Proof{Code: code.Text, Username: &bad})
		w.fails(err, identity.Invalid, "username: may hold only letters (a-z), digits, '.', '_' and '-'")
		_, err = w.service.VerifyUser(t.Context(), identity.Proof{Code: code.Text, Username: &taken})
		w.fails(err, identity.Conflict, "username: is taken")
		tokens := must(w.tokens(w.service.VerifyUser(t.Context(), identity.Proof{Code: code.Text, Username: &free})))(w)
		u := must(w.Profile(tokens.AccessToken))(w)
		w.equal("the username", u.Username, free)
	}
}

func TestARecoveryOfASignUpMakesAnAccountOfItsReaders(t *testing.T) {
	w := newWorld(t)
	p, code := w.unverified("grace")
	recovery := must(w.ForgotPassword(p.email))(w)
	w.equal("user of the code", recovery.UserID, p.id)
	w.ok(w.ResetPassword(recovery.Text, p.id, another))
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	w.fails(errOf(w.VerifyUser(code)), identity.Invalid, wrongCode)
	p.password = another
	w.signIn(p)
}
