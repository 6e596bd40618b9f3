package identity_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/token"
)

func TestOutageOfTheStoreFailsEveryCallAndRevealsNothing(t *testing.T) {
	away := &identity.Error{Kind: identity.Unavailable, Message: "the database is down", Cause: errors.New("refused")}
	name := "x"
	type account struct {
		*fixture
		person
		tokens identity.Tokens
		codes  map[identity.Purpose]string
	}
	type call = func(f account) error
	for _, c := range []struct {
		what    string
		methods string // in each of these calls the outage may begin
		do      call
	}{
		{"SignUp", "CreateSignUp", func(f account) error { return errOf(f.SignUp(signUpOf("barbara"))) }},
		{"SignIn", "FindCredentials OpenSession", func(f account) error { return errOf(f.SignIn(f.username, f.password)) }},
		{"SignIn with a wrong password", "FindCredentials CountFailure", func(f account) error {
			_, err := f.SignIn(f.username, "wrong guess")
			return err
		}},
		{"Renew", "AdvanceSession", func(f account) error { return errOf(f.Renew(f.tokens.RefreshToken)) }},
		{"SignOut", "EndSession", func(f account) error { return f.service.SignOut(f.Context(), f.tokens.RefreshToken) }},
		{"Sessions", "FindOwnSessions", func(f account) error {
			_, err := f.service.Sessions(f.Context(), f.tokens.AccessToken)
			return err
		}},
		{"EndSession", "EndOwnSession", func(f account) error {
			return f.service.EndSession(f.Context(), f.tokens.AccessToken, f.Introspect(f.tokens.AccessToken).SessionID)
		}},
		{"Introspect", "FindSession", func(f account) error {
			_, err := f.service.Introspect(f.Context(), f.tokens.AccessToken)
			return err
		}},
		{"VerifyUser", "RedeemVerification", func(f account) error { return errOf(f.VerifyUser(f.codes[identity.Verification])) }},
		{"VerifyUser with a password", "FindClaims RedeemVerification", func(f account) error {
			_, err := f.Prove(f.codes[identity.Verification], password)
			return err
		}},
		{"SignIn before the proof", "FindSignUps", func(f account) error { return errOf(f.SignIn("edsger", password)) }},
		{"NewVerificationCode", "IssueCode", func(f account) error { return errOf(f.NewVerificationCode(f.email)) }},
		{"ForgotPassword", "IssueCode", func(f account) error { return errOf(f.ForgotPassword(f.email)) }},
		{"ResetPassword", "FindRecovery RedeemRecovery", func(f account) error {
			return f.ResetPassword(f.codes[identity.Recovery], "", another)
		}},
		{"ChangePassword", "FindPassword ChangePassword", func(f account) error {
			return f.ChangePassword(f.tokens.AccessToken, f.password, another)
		}},
		{"Profile", "FindUser", func(f account) error { return errOf(f.Profile(f.tokens.AccessToken)) }},
		{"UpdateProfile", "UpdateUser", func(f account) error {
			_, err := f.service.UpdateProfile(f.Context(), f.tokens.AccessToken, identity.ProfileUpdate{FirstName: &name})
			return err
		}},
		{"DeleteUser", "DeleteUser", func(f account) error { return f.service.DeleteUser(f.Context(), f.tokens.AccessToken) }},
		{"RequestEmailChange", "IssueEmailChange", func(f account) error {
			_, err := f.RequestEmailChange(f.tokens.AccessToken, "")
			return err
		}},
		{"ChangeEmail", "RedeemEmailChange", func(f account) error {
			_, err := f.ChangeEmail(f.tokens.AccessToken, f.codes[identity.EmailChange], "new@mail.example")
			return err
		}},
		{"ClaimMail", "ClaimMail", func(f account) error {
			_, _, err := f.service.ClaimMail(f.Context(), time.Minute)
			return err
		}},
	} {
		for method := range strings.FieldsSeq(c.methods) {
			t.Run(c.what+", at "+method, func(t *testing.T) {
				f := newFixture(t, rotating)
				p, tokens := f.verified("grace")
				_, verification := f.unverified("edsger")
				recovery := must(f.ForgotPassword(p.email))(f)
				change := must(f.RequestEmailChange(tokens.AccessToken, ""))(f)
				codes := map[identity.Purpose]string{
					identity.Verification: verification, identity.Recovery: recovery.Text, identity.EmailChange: change.Text,
				}
				audit := f.audit.String()
				stats := f.service.Stats()
				f.store.before[method] = func() { f.memory.Break(away) }
				if err := c.do(account{f, p, tokens, codes}); !errors.Is(err, away) || identity.KindOf(err) != identity.Unavailable {
					t.Errorf("the error is %v", err)
				}
				f.equal("audit trail", f.audit.String(), audit)
				f.equal("counters", f.service.Stats(), stats)
				f.memory.Break(nil)
				f.equal("when the data is back, the session is alive", f.alive(tokens), true)
				f.signIn(p)
			})
		}
	}
}

func TestKeysThatAreNotLoadedInvalidateNoTokenAndUseUpNoCode(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	_, code := f.unverified("edsger")
	loaded := f.service
	f.service = identity.New(f.policy, identity.Dependencies{
		Store: f.store, Tokens: token.New(token.Config{Issuer: issuer, Now: f.Now}), Hasher: f.hasher, Now: f.Now,
	})
	const message = "the signing keys are not loaded yet"
	f.fails(errOf(f.Profile(tokens.AccessToken)), identity.Unavailable, message)
	f.fails(errOf(f.Renew(tokens.RefreshToken)), identity.Unavailable, message)
	f.fails(f.service.SignOut(t.Context(), tokens.RefreshToken), identity.Unavailable, message)
	f.fails(errOf(f.service.Introspect(t.Context(), tokens.AccessToken)), identity.Unavailable, message)
	f.store.take()
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unavailable, message)
	f.fails(errOf(f.VerifyUser(code)), identity.Unavailable, message)
	f.equal("calls of the store", f.store.take(), "")
	f.service = loaded
	must(f.VerifyUser(code))(f)
}
