package identity_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/token"
)

func TestWhereTheDataIsOutOfReachNothingSucceedsAndNothingElseIsTold(t *testing.T) {
	away := &identity.Error{Kind: identity.Unavailable, Message: "the database is away", Cause: errors.New("refused")}
	name := "x"
	type call = func(w *world, p person, tokens identity.Tokens, codes map[identity.Purpose]string) error
	for _, c := range []struct {
		what    string
		methods string // in each of these calls the outage may begin
		do      call
	}{
		{"SignUp", "CreateSignUp", func(w *world, _ person, _ identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.SignUp(signUpOf("barbara"))
			return err
		}},
		{"SignIn", "FindCredentials OpenSession", func(w *world, p person, _ identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.SignIn(p.username, p.password)
			return err
		}},
		{"SignIn with a wrong password", "FindCredentials CountFailure", func(w *world, p person, _ identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.SignIn(p.username, "wrong guess")
			return err
		}},
		{"Renew", "AdvanceSession", func(w *world, _ person, tokens identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.Renew(tokens.RefreshToken)
			return err
		}},
		{"SignOut", "EndSession", func(w *world, _ person, tokens identity.Tokens, _ map[identity.Purpose]string) error {
			return w.service.SignOut(w.Context(), tokens.RefreshToken)
		}},
		{"Sessions", "FindOwnSessions", func(w *world, _ person, tokens identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.service.Sessions(w.Context(), tokens.AccessToken)
			return err
		}},
		{"EndSession", "EndOwnSession", func(w *world, _ person, tokens identity.Tokens, _ map[identity.Purpose]string) error {
			return w.service.EndSession(w.Context(), tokens.AccessToken, w.Introspect(tokens.AccessToken).SessionID)
		}},
		{"Introspect", "FindSession", func(w *world, _ person, tokens identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.service.Introspect(w.Context(), tokens.AccessToken)
			return err
		}},
		{"VerifyUser", "RedeemVerification", func(w *world, _ person, _ identity.Tokens, codes map[identity.Purpose]string) error {
			_, err := w.VerifyUser(codes[identity.Verification])
			return err
		}},
		{"VerifyUser with a password", "FindClaims RedeemVerification", func(w *world, _ person, _ identity.Tokens, codes map[identity.Purpose]string) error {
			_, err := w.Prove(codes[identity.Verification], password)
			return err
		}},
		{"SignIn before the proof", "FindSignUps", func(w *world, _ person, _ identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.SignIn("edsger", password)
			return err
		}},
		{"NewVerificationCode", "IssueCode", func(w *world, p person, _ identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.NewVerificationCode(p.email)
			return err
		}},
		{"ForgotPassword", "IssueCode", func(w *world, p person, _ identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.ForgotPassword(p.email)
			return err
		}},
		{"ResetPassword", "FindRecovery RedeemRecovery", func(w *world, _ person, _ identity.Tokens, codes map[identity.Purpose]string) error {
			return w.ResetPassword(codes[identity.Recovery], "", another)
		}},
		{"ChangePassword", "FindPassword ChangePassword", func(w *world, p person, tokens identity.Tokens, _ map[identity.Purpose]string) error {
			return w.ChangePassword(tokens.AccessToken, p.password, another)
		}},
		{"Profile", "FindUser", func(w *world, _ person, tokens identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.Profile(tokens.AccessToken)
			return err
		}},
		{"UpdateProfile", "UpdateUser", func(w *world, _ person, tokens identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.service.UpdateProfile(w.Context(), tokens.AccessToken, identity.ProfileUpdate{FirstName: &name})
			return err
		}},
		{"DeleteUser", "DeleteUser", func(w *world, _ person, tokens identity.Tokens, _ map[identity.Purpose]string) error {
			return w.service.DeleteUser(w.Context(), tokens.AccessToken)
		}},
		{"RequestEmailChange", "IssueEmailChange", func(w *world, _ person, tokens identity.Tokens, _ map[identity.Purpose]string) error {
			_, err := w.RequestEmailChange(tokens.AccessToken, "")
			return err
		}},
		{"ChangeEmail", "RedeemEmailChange", func(w *world, _ person, tokens identity.Tokens, codes map[identity.Purpose]string) error {
			_, err := w.ChangeEmail(tokens.AccessToken, codes[identity.EmailChange], "new@mail.example")
			return err
		}},
		{"ClaimMail", "ClaimMail", func(w *world, _ person, _ identity.Tokens, _ map[identity.Purpose]string) error {
			_, _, err := w.service.ClaimMail(w.Context(), time.Minute)
			return err
		}},
	} {
		for method := range strings.FieldsSeq(c.methods) {
			t.Run(c.what+", at "+method, func(t *testing.T) {
				w := newWorld(t, rotating)
				p, tokens := w.verified("grace")
				_, verification := w.unverified("edsger")
				recovery := must(w.ForgotPassword(p.email))(w)
				change := must(w.RequestEmailChange(tokens.AccessToken, ""))(w)
				codes := map[identity.Purpose]string{
					identity.Verification: verification, identity.Recovery: recovery.Text, identity.EmailChange: change.Text,
				}
				audit := w.audit.String()
				stats := w.service.Stats()
				w.store.before[method] = func() { w.memory.Break(away) }
				if err := c.do(w, p, tokens, codes); !errors.Is(err, away) || identity.KindOf(err) != identity.Unavailable {
					t.Errorf("the error is %v", err)
				}
				w.equal("audit trail", w.audit.String(), audit)
				w.equal("counters", w.service.Stats(), stats)
				w.memory.Break(nil)
				w.equal("when the data is back, the session is alive", w.alive(tokens), true)
				w.signIn(p)
			})
		}
	}
}

func TestBeforeThereAreKeysNoTokenIsCalledWrongAndNoCodeIsUsedUp(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	_, code := w.unverified("edsger")
	loaded := w.service
	w.service = identity.New(w.policy, identity.Dependencies{
		Store: w.store, Tokens: token.New(token.Config{Issuer: issuer, Now: w.Now}), Hasher: w.hasher, Now: w.Now,
	})
	const message = "the signing keys are not loaded yet"
	w.fails(errOf(w.Profile(tokens.AccessToken)), identity.Unavailable, message)
	w.fails(errOf(w.Renew(tokens.RefreshToken)), identity.Unavailable, message)
	w.fails(w.service.SignOut(t.Context(), tokens.RefreshToken), identity.Unavailable, message)
	w.fails(errOf(w.service.Introspect(t.Context(), tokens.AccessToken)), identity.Unavailable, message)
	w.store.take()
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unavailable, message)
	w.fails(errOf(w.VerifyUser(code)), identity.Unavailable, message)
	w.equal("calls of the store", w.store.take(), "")
	w.service = loaded
	must(w.VerifyUser(code))(w)
}
