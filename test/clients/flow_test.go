package clients

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// client is the interface that an adapter in this package gives each generated client. An error reply is returned as a
// reason.
type client interface {
	SignUp(ctx context.Context, p person) (id, code string, err error)
	NewVerificationCode(ctx context.Context, email string) (code string, err error)
	Verify(ctx context.Context, code string) (tokens, error)
	SignIn(ctx context.Context, username, password string) (tokens, error)
	Username(ctx context.Context, access string) (string, error)
	Rename(ctx context.Context, access, firstName string) (name string, err error)
	Sessions(ctx context.Context, access string) ([]session, error)
	EndSession(ctx context.Context, access, id string) error
	Renew(ctx context.Context, refresh string, form bool) (tokens, error)
	SignOut(ctx context.Context, refresh string, form bool) error
	Revoke(ctx context.Context, token string, form bool) error
	Introspect(ctx context.Context, token string, form bool) (active bool, subject string, err error)
	RequestEmailChange(ctx context.Context, access, email string) (code string, err error)
	ChangeEmail(ctx context.Context, access, code, email string) (string, error)
	ChangePassword(ctx context.Context, access, old, password string) error
	ForgotPassword(ctx context.Context, email string) (code string, err error)
	ResetPassword(ctx context.Context, code, password string) error
	Delete(ctx context.Context, access string) error
	// Keys returns the ids of the access keys and of the refresh keys, and reports whether each key has a PEM.
	Keys(ctx context.Context) (access, refresh []string, pem bool, err error)
	// AccessKeys returns the ids and the entity tag of the reply. It sends the known tag, and returns no ids if the
	// keys have not changed.
	AccessKeys(ctx context.Context, known string) (ids []string, tag string, err error)
	// Metadata returns the issuer and the URL of its keys, as OpenID Connect and as OAuth find them.
	Metadata(ctx context.Context) (openID, oauth [2]string, err error)
	// Documents returns the version of the OpenAPI document, and the page that shows it.
	Documents(ctx context.Context) (version, page string, err error)
}

type person struct{ username, email, password string }

type tokens struct{ access, refresh string }

type session struct {
	id      string
	current bool
	opened  time.Time
}

// reason is the reason in an error reply of the gateway.
type reason string

func (r reason) Error() string { return string(r) }

// walk performs every operation that the gateway offers its users.
func walk(t *testing.T, c client, name string) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ok := func(step string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	}
	refused := func(step string, err error, want reason) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %s", step, err, want)
		}
	}

	p := person{username: name, email: name + "@example.com", password: "correct horse battery staple"}
	id, _, err := c.SignUp(ctx, p)
	ok("sign up", err)
	_, err = c.SignIn(ctx, p.username, p.password)
	refused("sign in before the proof", err, "email_not_verified")
	code, err := c.NewVerificationCode(ctx, p.email)
	ok("another code", err)
	first, err := c.Verify(ctx, code)
	ok("verify", err)
	_, err = c.Verify(ctx, code)
	refused("verify again", err, "code_expired_or_used")
	_, _, err = c.SignUp(ctx, p)
	refused("sign up again", err, "invalid_fields")
	_, err = c.SignIn(ctx, p.username, "another one")
	refused("sign in with a wrong password", err, "wrong_credentials")
	second, err := c.SignIn(ctx, p.email, p.password)
	ok("sign in", err)

	username, err := c.Username(ctx, second.access)
	ok("profile", err)
	if username != p.username {
		t.Errorf("the profile is of %q", username)
	}
	renamed, err := c.Rename(ctx, second.access, "Augusta Ada")
	ok("change the name", err)
	if renamed != "Augusta Ada Lovelace" {
		t.Errorf("the new name is %q", renamed)
	}

	sessions, err := c.Sessions(ctx, second.access)
	ok("sessions", err)
	// Sessions that were opened in the same second are in no particular order.
	if len(sessions) == 2 && sessions[0].current {
		slices.Reverse(sessions)
	}
	if len(sessions) != 2 || sessions[0].current || !sessions[1].current || time.Since(sessions[0].opened).Abs() > time.Hour {
		t.Fatalf("the sessions are %+v", sessions)
	}
	ok("end the first session", c.EndSession(ctx, second.access, sessions[0].id))
	refused("end it again", c.EndSession(ctx, second.access, sessions[0].id), "session_not_found")
	_, err = c.Renew(ctx, first.refresh, false)
	refused("renew the first session", err, "session_ended")

	for _, form := range []bool{false, true} {
		second, err = c.Renew(ctx, second.refresh, form)
		ok("renew", err)
		active, subject, err := c.Introspect(ctx, second.access, form)
		ok("introspect", err)
		if !active || subject != id {
			t.Errorf("introspection says %t, %s; the user is %s", active, subject, id)
		}
	}

	p.email = "countess-" + p.email
	code, err = c.RequestEmailChange(ctx, second.access, p.email)
	ok("ask for another address", err)
	email, err := c.ChangeEmail(ctx, second.access, code, p.email)
	ok("change the address", err)
	if email != p.email {
		t.Errorf("the new address is %q", email)
	}

	refused("change the password to the same", c.ChangePassword(ctx, second.access, p.password, p.password), "password_unchanged")
	ok("change the password", c.ChangePassword(ctx, second.access, p.password, "a new and better one"))
	code, err = c.ForgotPassword(ctx, p.email)
	ok("forgot the password", err)
	ok("set a password by the code", c.ResetPassword(ctx, code, p.password))
	_, err = c.Username(ctx, second.access)
	refused("profile of an ended session", err, "session_ended")

	for _, form := range []bool{false, true} {
		third, err := c.SignIn(ctx, p.username, p.password)
		ok("sign in again", err)
		ok("sign out", c.SignOut(ctx, third.refresh, form))
		active, _, err := c.Introspect(ctx, third.refresh, form)
		ok("introspect what was signed out", err)
		if active {
			t.Error("a session that was signed out is active")
		}
		_, err = c.Renew(ctx, third.refresh, form)
		refused("renew what was signed out", err, "session_ended")
	}

	for _, form := range []bool{false, true} {
		third, err := c.SignIn(ctx, p.username, p.password)
		ok("sign in to revoke", err)
		ok("revoke", c.Revoke(ctx, third.access, form))
		_, err = c.Renew(ctx, third.refresh, form)
		refused("renew what was revoked", err, "session_ended")
	}

	openID, oauth, err := c.Metadata(ctx)
	ok("metadata", err)
	if openID != oauth || openID[1] != openID[0]+"/.well-known/jwks.json" {
		t.Errorf("the metadata is %q and %q", openID, oauth)
	}
	access, refresh, pem, err := c.Keys(ctx)
	ok("all keys", err)
	ids, tag, err := c.AccessKeys(ctx, "")
	ok("access keys", err)
	if !pem || len(refresh) == 0 || len(ids) == 0 || !slices.Equal(access, ids) {
		t.Errorf("the keys are %q and %q (pem: %t), and the key set has %q", access, refresh, pem, ids)
	}
	if ids, _, err = c.AccessKeys(ctx, tag); err != nil || ids != nil {
		t.Errorf("keys that have not changed: %q, %v", ids, err)
	}
	version, page, err := c.Documents(ctx)
	ok("the documents", err)
	if version != "3.1.0" || len(page) == 0 {
		t.Errorf("OpenAPI %q, and a page of %d bytes", version, len(page))
	}

	last, err := c.SignIn(ctx, p.username, p.password)
	ok("sign in once more", err)
	ok("delete the account", c.Delete(ctx, last.access))
	_, err = c.SignIn(ctx, p.username, p.password)
	refused("sign in to a deleted account", err, "wrong_credentials")
}
