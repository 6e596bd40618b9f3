package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func TestSignUpMakesAnAccountThatItsCodeVerifies(t *testing.T) {
	f := newFixture(t)
	code := must(f.SignUp(identity.SignUp{
		Username: "Grace", Email: "Grace@Mail.Example", FirstName: " Grace ", LastName: "Hopper", Password: password,
	}))(f)
	f.equal("lifetime of the code", code.ExpiresIn, 24*time.Hour)
	f.equal("the length of the code", len(code.Text), 26)
	tokens := must(f.VerifyUser(code.Text))(f)
	u := must(f.Profile(tokens.AccessToken))(f)
	f.equal("the account", u, identity.User{
		ID: code.UserID, Username: "Grace", Email: "Grace@Mail.Example", FirstName: "Grace", LastName: "Hopper",
		Scope: "profile email", EmailVerified: true, Metadata: "{}", CreatedAt: start, UpdatedAt: start,
	})
	f.equal("sign-ups and proofs audited", f.audited("signed up")+f.audited("email verified"), 2)
	f.equal("sessions opened", f.service.Stats().SessionsOpened, uint64(1))
	f.noMail() // callers receive codes in the response
}

func TestSignUpNamesEveryWrongParameter(t *testing.T) {
	f := newFixture(t)
	_, err := f.SignUp(identity.SignUp{Username: "a b", Email: "x", FirstName: "\x00", Password: "short", Scope: `"`})
	f.fails(err, identity.Invalid, strings.Join([]string{
		"username: may hold only letters (a-z), digits, '.', '_' and '-'",
		malformedEmail,
		"first_name: holds control characters",
		"last_name: is empty",
		"password: is shorter than 8 characters",
		"scope: must be tokens of printable ASCII without quotes and backslashes, separated by spaces",
	}, "; "))
	f.equal("calls of the store", f.store.take(), "")
}

func TestSignUpNamesEverythingThatIsTakenWithoutCase(t *testing.T) {
	for _, c := range []struct{ what, username, email, message string }{
		{"the username", "GRACE", "other@mail.example", "username: is taken"},
		{"the email", "other", "GRACE@mail.EXAMPLE", "email: is taken"},
		{"both", "Grace", "Grace@mail.example", "username: is taken; email: is taken"},
	} {
		t.Run(c.what, func(t *testing.T) {
			f := newFixture(t)
			f.verified("grace")
			in := signUpOf(c.username)
			in.Email = c.email
			f.fails(errOf(f.SignUp(in)), identity.Conflict, c.message)
		})
	}
}

func TestPasswordThatIsSetIsChecked(t *testing.T) {
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
			f := newFixture(t)
			in := signUpOf("Grace.Hopper")
			in.Email, in.Password = "g.b.hopper@mail.example", c.password
			code, err := f.SignUp(in)
			if c.wrong != "" {
				f.fails(err, identity.Invalid, c.wrong)
				return
			}
			f.ok(err)
			must(f.VerifyUser(code.Text))(f)
			must(f.SignIn("Grace.Hopper", c.password))(f)
			for what, other := range map[string]string{
				"more": c.password + "x", "less": c.password[:len(c.password)-1], "trimmed": strings.TrimSpace(c.password), "in capitals": strings.ToUpper(c.password),
			} {
				if _, err := f.SignIn("Grace.Hopper", other); other != c.password && err == nil {
					f.Error("the account also accepts this variant of the password: ", what)
				}
			}
		})
	}
}

func TestPasswordBlocklistCanBeTurnedOff(t *testing.T) {
	f := newFixture(t, func(p *identity.Policy) { p.PasswordBlocklist = false })
	in := signUpOf("grace")
	in.Password = "password"
	must(f.SignUp(in))(f)
}

// decomposed and composed are the same text, typed on two keyboards.
const decomposed, composed = "cafe\u0301 noir", "caf\u00e9 noir"

func TestPasswordIsTheSameFromEveryKeyboard(t *testing.T) {
	for _, typed := range [][2]string{{decomposed, composed}, {composed, decomposed}} {
		f := newFixture(t)
		in := signUpOf("grace")
		in.Password = typed[0]
		code := must(f.SignUp(in))(f)
		tokens := must(f.VerifyUser(code.Text))(f)
		must(f.SignIn("grace", typed[1]))(f)
		f.fails(f.ChangePassword(tokens.AccessToken, typed[1], typed[0]), identity.Invalid, samePassword)
		f.ok(f.ChangePassword(tokens.AccessToken, typed[1], "another of mine"))
		reset := must(f.ForgotPassword(in.Email))(f)
		f.ok(f.ResetPassword(reset.Text, "", typed[0]))
		must(f.SignIn("grace", typed[1]))(f)
	}
}

func TestSignUpByATrustedCallerChoosesTheScope(t *testing.T) {
	for asked, want := range map[string]string{"": "profile email", "admin  profile admin": "admin profile"} {
		f := newFixture(t)
		in := signUpOf("grace")
		in.Scope = asked
		code := must(f.SignUp(in))(f)
		tokens := must(f.VerifyUser(code.Text))(f)
		f.equal("the scope", tokens.Scope, want)
	}
}

func TestSignUpInPublicChoosesAmongTheOfferedScopes(t *testing.T) {
	for asked, want := range map[string]string{"": "profile email", "email": "email", "email profile": "email profile"} {
		f := newFixture(t, public)
		in := signUpOf("grace")
		in.Scope = asked
		must(f.SignUp(in))(f)
		tokens := must(f.VerifyUser(f.mail().Code))(f)
		f.equal("the scope", tokens.Scope, want)
	}
	for _, asked := range []string{"admin", "profile admin"} {
		f := newFixture(t, public)
		in := signUpOf("grace")
		in.Scope = asked
		f.fails(errOf(f.SignUp(in)), identity.Invalid, "scope: may hold only profile, email")
	}
}

func TestVerifyUserTakesTheLastCodeOnceForADay(t *testing.T) {
	f := newFixture(t)
	p, code := f.unverified("grace")
	for _, other := range []string{
		"", code[:25], code + "A", "%", "_", "null", "0", strings.Repeat("A", 26), strings.Repeat("%", 26), code + "." + strings.Repeat(" ", 500),
	} {
		f.fails(errOf(f.VerifyUser(other)), identity.Invalid, wrongCode)
	}
	again := must(f.NewVerificationCode(p.email))(f)
	f.fails(errOf(f.VerifyUser(code)), identity.Invalid, wrongCode)
	f.pass(24*time.Hour - time.Second)
	must(f.VerifyUser(again.Text))(f)
	f.fails(errOf(f.VerifyUser(again.Text)), identity.Invalid, wrongCode)
	f.fails(errOf(f.NewVerificationCode(p.email)), identity.Conflict, "email: is verified already")

	_, late := f.unverified("edsger")
	f.pass(24 * time.Hour)
	f.fails(errOf(f.VerifyUser(late)), identity.Invalid, wrongCode)
}

func TestCodeIsValidOnlyForItsPurpose(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	other, verification := f.unverified("edsger")
	recovery := must(f.ForgotPassword(p.email))(f)
	change := must(f.RequestEmailChange(tokens.AccessToken, ""))(f)

	for _, code := range []string{recovery.Text, change.Text} {
		f.fails(errOf(f.VerifyUser(code)), identity.Invalid, wrongCode)
	}
	for _, code := range []string{verification, change.Text} {
		f.fails(f.ResetPassword(code, "", "another of mine"), identity.Invalid, wrongCode)
	}
	for _, code := range []string{verification, recovery.Text} {
		f.fails(errOf(f.ChangeEmail(tokens.AccessToken, code, "new@mail.example")), identity.Invalid, wrongCode)
	}
	// All codes are still valid.
	must(f.ChangeEmail(tokens.AccessToken, change.Text, "new@mail.example"))(f)
	must(f.VerifyUser(verification))(f)
	recovery = must(f.ForgotPassword(other.email))(f)
	f.ok(f.ResetPassword(recovery.Text, "", "another of mine"))
}

func TestCodeRequestReportsAnUnknownAddressToATrustedCaller(t *testing.T) {
	f := newFixture(t)
	for _, ask := range []func(string) (identity.Code, error){f.NewVerificationCode, f.ForgotPassword} {
		f.fails(errOf(ask("nobody@mail.example")), identity.NotFound, "email: no account has this address")
		f.fails(errOf(ask("x")), identity.Invalid, malformedEmail)
	}
}

func TestSuspensionThatIsLiftedRestoresNothing(t *testing.T) {
	f := newFixture(t, rotating)
	p, tokens := f.verified("grace")
	recovery := must(f.ForgotPassword(p.email))(f)
	change := must(f.RequestEmailChange(tokens.AccessToken, ""))(f)
	for _, suspended := range []bool{true, false} {
		f.ok(f.memory.Suspend(t.Context(), p.id, suspended))
		f.equal("the session is alive", f.alive(tokens), false)
		f.equal("the kind", identity.KindOf(errOf(f.Renew(tokens.RefreshToken))), identity.Unauthenticated)
		f.fails(f.ResetPassword(recovery.Text, "", another), identity.Invalid, wrongCode)
	}
	f.fails(errOf(f.ChangeEmail(f.signIn(p).AccessToken, change.Text, "new@mail.example")), identity.Invalid, wrongCode)
}

// Users type codes, or paste them with surrounding characters.
func TestCodeIsAcceptedAsPeopleWriteIt(t *testing.T) {
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
		f := newFixture(t)
		p, code := f.unverified("grace")
		f.keep(write(code))
		tokens := must(f.VerifyUser(write(code)))(f)
		recovery := must(f.ForgotPassword(p.email))(f)
		change := must(f.RequestEmailChange(tokens.AccessToken, ""))(f)
		must(f.ChangeEmail(tokens.AccessToken, write(change.Text), "new@mail.example"))(f)
		f.fails(f.ResetPassword(write(recovery.Text), "", another), identity.Invalid, wrongCode) // the change has voided it
		recovery = must(f.ForgotPassword(p.email))(f)
		f.ok(f.ResetPassword(write(recovery.Text), "", another))
	}
}

// A stranger signs up with the address of the owner of a mailbox, before or after the owner
// does. Only the owner can prove the address, with the owner's own password.
func TestVerifyUserNeverProvesAStrangersPassword(t *testing.T) {
	for _, exposure := range []func(*identity.Policy){public, func(*identity.Policy) {}} {
		for _, strangerFirst := range []bool{true, false} {
			f := newFixture(t, exposure)
			codes := map[string]string{}
			signUp := func(name, secret string) {
				in := signUpOf(name)
				in.Email, in.Password = "owner@mail.example", secret
				code := must(f.SignUp(in))(f)
				if code.Text == "" {
					code.Text = f.mail().Code
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
				f.fails(errOf(f.VerifyUser(code)), identity.Invalid, passwordNeeded)
				f.fails(errOf(f.Prove(code, "neither of the two")), identity.Invalid, wrongClaim)
				f.fails(errOf(f.Prove(code, "")), identity.Invalid, wrongClaim)
			}
			tokens, err := f.Prove(codes[names[0]], password) // either code works
			f.ok(err)
			u := must(f.Profile(tokens.AccessToken))(f)
			f.equal("user of the account", u.Username, "owner")
			for _, code := range codes {
				f.fails(errOf(f.Prove(code, theirs)), identity.Invalid, wrongCode)
			}
			for _, login := range []string{"owner@mail.example", "mallory", "owner"} {
				f.fails(errOf(f.SignIn(login, theirs)), identity.Unauthenticated, wrongCredentials)
			}
			must(f.SignIn("owner@mail.example", password))(f)
		}
	}
}

func TestVerifyUserTakesEitherMailOfARepeatedSignUp(t *testing.T) {
	f := newFixture(t, public)
	_, first := f.unverified("grace")
	_, second := f.unverified("grace")
	f.fails(errOf(f.VerifyUser(second)), identity.Invalid, passwordNeeded)
	must(f.Prove(first, password))(f)
	must(f.SignIn("grace", password))(f)
}

func TestVerifyUserWithAnotherUsernameIfItWasTakenMeanwhile(t *testing.T) {
	for _, exposure := range []func(*identity.Policy){public, func(*identity.Policy) {}} {
		f := newFixture(t, exposure)
		in := signUpOf("grace")
		in.Email = "other@mail.example"
		code := must(f.SignUp(in))(f)
		if code.Text == "" {
			code.Text = f.mail().Code
		}
		f.verified("grace")
		for range 2 {
			f.fails(errOf(f.VerifyUser(code.Text)), identity.Conflict, "username: is taken")
		}
		bad, taken, free := "a b", "GRACE", "Grace2"
		f.keep(free)
		_, err := f.service.VerifyUser(t.Context(), identity.Proof{Code: code.Text, Username: &bad})
		f.fails(err, identity.Invalid, "username: may hold only letters (a-z), digits, '.', '_' and '-'")
		_, err = f.service.VerifyUser(t.Context(), identity.Proof{Code: code.Text, Username: &taken})
		f.fails(err, identity.Conflict, "username: is taken")
		tokens := must(f.tokens(f.service.VerifyUser(t.Context(), identity.Proof{Code: code.Text, Username: &free})))(f)
		u := must(f.Profile(tokens.AccessToken))(f)
		f.equal("the username", u.Username, free)
	}
}

func TestResetPasswordOfASignUpMakesAnAccount(t *testing.T) {
	f := newFixture(t)
	p, code := f.unverified("grace")
	recovery := must(f.ForgotPassword(p.email))(f)
	f.equal("user of the code", recovery.UserID, p.id)
	f.ok(f.ResetPassword(recovery.Text, p.id, another))
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	f.fails(errOf(f.VerifyUser(code)), identity.Invalid, wrongCode)
	p.password = another
	f.signIn(p)
}
