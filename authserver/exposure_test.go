package authserver_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

const callerKey = "the key of the trusted caller"

func TestTrustedCallerOnlySeesCodesChoosesScopesAndIntrospects(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"TRUSTED_CALLER_KEY": callerKey})
	c.logs.secrets(body{"token": callerKey})
	n := c.nodes[0]
	trusted := http.Header{"X-Caller-Key": {callerKey}}

	// Package httpapi tests each route and each wrong key. The users of codes and tokens need no key.
	u := newPerson()
	reply := want(t, http.StatusCreated, n.try(http.MethodPost, "/users", trusted, u.signUpBody()))
	u.tokens = n.mustVerify(reply.Text("code"))
	want(t, http.StatusOK, n.profile(u.access))
	want(t, http.StatusOK, n.renew(u.refresh))
	want(t, http.StatusOK, n.trySignIn(u.username, u.password))
	want(t, http.StatusOK, n.try(http.MethodPost, "/tokens/introspect", trusted, body{"token": u.access}))
	want(t, http.StatusForbidden, n.introspect(u.access))
	for _, wrong := range []string{"", "wrong", callerKey + "x", callerKey[1:], strings.ToUpper(callerKey)} {
		want(t, http.StatusForbidden, n.try(http.MethodPost, "/users", http.Header{"X-Caller-Key": {wrong}}, newPerson().signUpBody()), wrong)
	}
	want(t, http.StatusForbidden, n.post("/users", newPerson().signUpBody()), "no key")
	if signups := column(t, c.db, "SELECT id::text FROM signups"); len(signups) != 0 {
		t.Errorf("%d refused sign-ups were stored", len(signups))
	}
}

func TestIntrospectionDescribesOnlyLiveTokens(t *testing.T) {
	t.Parallel()
	c := start(t, 2)
	n := c.nodes[0]
	u := n.newUser()
	for kind, token := range map[string]string{"access_token": u.access, "refresh_token": u.refresh} {
		r := want(t, http.StatusOK, n.try(http.MethodPost, "/tokens/introspect", nil, url.Values{"token": {token},
			"token_type_hint": {"access_token"}}))
		if r.Text("active") != "true" || r.Text("sub") != u.id || r.Text("iss") != issuer || r.Text("token_use") != kind {
			t.Errorf("%s: %v", kind, r)
		}
	}
	want(t, http.StatusNoContent, n.signOut(u.refresh))
	for _, token := range []string{u.access, u.refresh, "garbage"} {
		if r := want(t, http.StatusOK, c.nodes[1].introspect(token)); string(r.Body) != `{"active":false}` {
			t.Errorf("got %v", r)
		}
	}
}

func TestCORSAllowsTheOriginsOfTheSettings(t *testing.T) {
	t.Parallel()
	_, n := single(t, env{"CORS_ALLOWED_ORIGINS": "https://app.example.com,http://localhost:3000"})
	for origin, status := range map[string]int{
		"https://app.example.com": http.StatusNoContent, "http://localhost:3000": http.StatusNoContent,
		"https://other.example.com": http.StatusMethodNotAllowed,
	} {
		preflight := http.Header{"Origin": {origin}, "Access-Control-Request-Method": {http.MethodPost}}
		want(t, status, n.try(http.MethodOptions, "/tokens/signin", preflight, nil), origin)
	}
}

// All sign-ins that fail get the same reply.
func TestSignInRevealsNoAccounts(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	u := n.newUser()
	unverified, _ := n.signUp()
	suspended := n.newUser()
	postgrestest.Exec(t, c.db, "UPDATE users SET suspended_at = now() WHERE username = $1", suspended.username)
	first := n.trySignIn(u.username, "a wrong password")
	for about, r := range map[string]*testenv.Reply{
		"unknown":                          n.trySignIn("unknown.user", "a wrong password"),
		"an unknown address":               n.trySignIn("unknown@mailbox.example.org", "a wrong password"),
		"no name at all":                   n.trySignIn("no name, at all", "a wrong password"),
		"an address, wrong password":       n.trySignIn(u.email, "a wrong password"),
		"not verified, wrong password":     n.trySignIn(unverified.username, "a wrong password"),
		"suspended, wrong password":        n.trySignIn(suspended.username, "a wrong password"),
		"suspended, right password":        n.trySignIn(suspended.username, suspended.password),
		"an impossible password":           n.trySignIn(u.username, "x"),
		"a password that is longer":        n.trySignIn(u.username, u.password+"x"),
		"a password in capital letters":    n.trySignIn(u.username, mixedCase(u.password, 31)),
		"a password with a space after it": n.trySignIn(u.username, u.password+" "),
	} {
		want(t, http.StatusUnauthorized, r, about)
		if string(r.Body) != string(first.Body) || len(r.Header) != len(first.Header) ||
			r.Header.Get("WWW-Authenticate") != first.Header.Get("WWW-Authenticate") {
			t.Errorf("%s: %v %v, not %v %v", about, r, r.Header, first, first.Header)
		}
	}
	// The delay after ten failures is the same for known and unknown names.
	for _, login := range []string{u.username, "another.unknown.user"} {
		var last *testenv.Reply
		for range 12 {
			last = n.trySignIn(login, "a wrong password")
		}
		want(t, http.StatusTooManyRequests, last, login)
	}
}

// Only the composition of Unicode characters makes no difference.
func TestPasswordBytesAllCount(t *testing.T) {
	t.Parallel()
	_, n := single(t)
	long := func(n int, last string) string {
		return strings.Repeat("every byte of it counts ", 11)[:n-len(last)] + last
	}
	for _, p := range []struct{ set, right, wrong string }{
		{long(72, "a"), long(72, "a"), long(73, "b")},
		{long(73, "a"), long(73, "a"), long(73, "b")},
		{long(256, "a"), long(256, "a"), long(256, "b")},
		{"caf\u00e9 au lait", "cafe\u0301 au lait", "cafe au lait"},
		{"  spaces count  ", "  spaces count  ", "spaces count"},
		{"🔑🔑🔑🔑🔑🔑🔑🔑", "🔑🔑🔑🔑🔑🔑🔑🔑", "🔑🔑🔑🔑🔑🔑🔑🔒"},
	} {
		u := newPerson()
		reply := want(t, http.StatusCreated, n.post("/users", u.signUpBody(body{"password": p.set})))
		want(t, http.StatusOK, n.verify(reply.Text("code")))
		want(t, http.StatusOK, n.trySignIn(u.username, p.right), p.right)
		want(t, http.StatusUnauthorized, n.trySignIn(u.username, p.wrong), p.wrong)
	}
	for _, refused := range []string{"", "short", "password1", "qwertyuiop", long(257, "a"), "nul\x00nul\x00nul"} {
		want(t, http.StatusBadRequest, n.post("/users", newPerson().signUpBody(body{"password": refused})), refused)
	}
	u := newPerson()
	for _, refused := range []string{u.username, u.email} {
		want(t, http.StatusBadRequest, n.post("/users", u.signUpBody(body{"password": refused})), refused)
	}
}

func TestPasswordHashOfAnotherCostIsRenewedAtSignIn(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	u := c.nodes[0].newUser()
	c.stop()
	c.addReady(1, env{"SALT_ROUNDS": "5"})
	before := column(t, c.db, "SELECT password_hash FROM users")
	c.nodes[0].signIn(u)
	after := column(t, c.db, "SELECT password_hash FROM users")
	if before[0] == after[0] {
		t.Error("the hash is still the old one")
	}
	c.nodes[0].signIn(u)
	if again := column(t, c.db, "SELECT password_hash FROM users"); again[0] != after[0] {
		t.Error("the hash was renewed again")
	}
	c.alive("through all that", u.access)
}

// public are the settings of a gateway for browsers and apps. No mail server listens at its address: tests call SendMail.
var public = env{
	"EXPOSURE": "public", "SMTP_HOST": "127.0.0.1", "SMTP_PORT": "1", "SMTP_TLS": "none", "MAIL_FROM": "no-reply@auth.test",
	"LIMIT_SIGNIN": "off", "LIMIT_SIGNUP": "off", "LIMIT_CODES": "off", "LIMIT_MAILS": "100/1h",
}

// mails claims all mails in the outbox.
func (n *node) mails() (list []identity.Message) {
	n.t.Helper()
	for {
		m, ok, err := n.SendMail(n.t.Context())
		testenv.NoError(n.t, err)
		if !ok {
			return list
		}
		n.logs.secrets(body{"code": m.Code, "email": m.To, "username": m.Username})
		list = append(list, m)
	}
}

// mail claims the only mail in the outbox.
func (n *node) mail(about identity.MessagePurpose, to string) identity.Message {
	n.t.Helper()
	list := n.mails()
	if len(list) != 1 || list[0].Purpose != about || list[0].To != strings.ToLower(to) {
		n.t.Fatalf("the mails are %+v, want one %s to %s", list, about, to)
	}
	return list[0]
}

// publicUser signs up and verifies the address with the mailed code.
func (n *node) publicUser() user {
	n.t.Helper()
	u := newPerson()
	want(n.t, http.StatusAccepted, n.post("/users", u.signUpBody()))
	code := n.mail(identity.MailVerification, u.email).Code
	u.tokens = n.mustVerify(code)
	return u
}

// Whether or not an account exists, a route of exposure public sends the same statements and the same reply.
func TestPublicExposureRevealsNoAccounts(t *testing.T) {
	t.Parallel()
	c, n := single(t, public)
	asking, verified, suspended, unverified, unknown := n.publicUser(), n.publicUser(), n.publicUser(), newPerson(), newPerson()
	want(t, http.StatusAccepted, n.post("/users", unverified.signUpBody()))
	postgrestest.Exec(t, c.db, "UPDATE users SET suspended_at = now() WHERE username = $1", suspended.username)
	n.mails()
	people := []struct {
		kind string
		user
	}{{"unknown", unknown}, {"unverified", unverified}, {"verified", verified}, {"suspended", suspended}}

	type answer struct {
		reply *testenv.Reply
		sent  []string
	}
	first := map[string]answer{}
	ask := func(about, path string, header http.Header, b body) {
		t.Helper()
		var a answer
		a.sent = n.statements.during(func() { a.reply = want(t, http.StatusAccepted, n.try(http.MethodPost, path, header, b), path, about) })
		a.reply.Header.Del("X-Request-Id")
		a.reply.Header.Del("Date")
		statements := 1
		if header.Get("Authorization") != "" { // one more counts the requests of the user
			statements = 2
			a.reply.Header.Del("RateLimit") // it contains the remaining requests
		}
		if len(a.sent) != statements {
			t.Errorf("%s, %s: %d statements are sent, want %d", path, about, len(a.sent), statements)
		}
		f, ok := first[path]
		if !ok {
			first[path] = a
			return
		}
		if string(a.reply.Body) != string(f.reply.Body) || fmt.Sprint(a.reply.Header) != fmt.Sprint(f.reply.Header) {
			t.Errorf("%s, %s: got %v %v, the first got %v %v", path, about, a.reply, a.reply.Header, f.reply, f.reply.Header)
		}
		if !slices.Equal(a.sent, f.sent) {
			t.Errorf("%s, %s: the statements differ from the first:\n%s", path, about, strings.Join(a.sent, "\n"))
		}
	}
	for _, p := range people {
		ask(p.kind, "/users/verification-code", nil, body{"email": p.email})
		ask(p.kind, "/users/forgot-password", nil, body{"email": p.email})
		ask("to the address of "+p.kind, "/users/change-email-request", testenv.Bearer(asking.access), body{"email": p.email})
	}
	ask("to any address", "/users/change-email-request", testenv.Bearer(asking.access), body{})
	ask("to the own address", "/users/change-email-request", testenv.Bearer(asking.access), body{"email": asking.email})

	// The mails, in the order of the requests.
	var got, wanted []string
	for _, m := range n.mails() {
		got = append(got, fmt.Sprintf("%s to %s, with a code: %v", m.Purpose, m.To, m.Code != ""))
	}
	expect := func(about identity.MessagePurpose, to string, code bool) {
		wanted = append(wanted, fmt.Sprintf("%s to %s, with a code: %v", about, strings.ToLower(to), code))
	}
	expect(identity.MailEmailChange, unknown.email, true)
	expect(identity.MailVerification, unverified.email, true)
	expect(identity.MailRecovery, unverified.email, true)
	expect(identity.MailEmailChange, unverified.email, true) // a sign-up does not reserve its address
	for _, u := range []user{verified, suspended} {
		expect(identity.MailRecovery, u.email, true)
		expect(identity.MailEmailTaken, u.email, false)
	}
	expect(identity.MailEmailChange, asking.email, true)
	expect(identity.MailEmailChange, asking.email, true)
	if !slices.Equal(got, wanted) {
		t.Errorf("the mails are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wanted, "\n"))
	}

	for _, p := range people {
		byAddress, byName := newPerson(), newPerson()
		byAddress.email, byName.username = mixedCase(p.email, 3), mixedCase(p.username, 5)
		ask("the address of "+p.kind, "/users", nil, byAddress.signUpBody())
		hasAccount := p.kind == "verified" || p.kind == "suspended"
		n.mail(map[bool]identity.MessagePurpose{false: identity.MailVerification, true: identity.MailEmailTaken}[hasAccount], byAddress.email)
		ask("the username of "+p.kind, "/users", nil, byName.signUpBody())
		// A taken username is reported when the address is verified.
		status, code := http.StatusOK, n.mail(identity.MailVerification, byName.email).Code
		if hasAccount {
			status = http.StatusConflict
		}
		want(t, status, n.verify(code))
	}
}

func TestPublicExposureWorksWithTheCodesOfMails(t *testing.T) {
	t.Parallel()
	c := start(t, 2, public)
	n, other := c.nodes[0], c.nodes[1]
	u := newPerson()
	german := http.Header{"Accept-Language": {"de-CH, de;q=0.9"}}
	want(t, http.StatusAccepted, n.try(http.MethodPost, "/users", german, u.signUpBody()))
	m := other.mail(identity.MailVerification, u.email) // any replica sends it
	if m.Username != u.username || m.Language != "de-CH, de;q=0.9" || m.TTL <= 0 {
		t.Errorf("the mail is %+v", m)
	}
	u.tokens = n.mustVerify(m.Code)
	u.id = column(t, c.db, "SELECT id::text FROM users")[0]

	want(t, http.StatusAccepted, n.post("/users/forgot-password", body{"email": u.email}))
	m = n.mail(identity.MailRecovery, u.email)
	if m.Language != "de-CH, de;q=0.9" {
		t.Errorf("the mail is in %q", m.Language)
	}
	u.password = "the second password"
	want(t, http.StatusNoContent, other.resetPassword(m.Code, u.password))
	n.mail(identity.MailPasswordChanged, u.email)
	u.tokens = n.signIn(u)
	want(t, http.StatusNoContent, n.changePassword(u.access, u.password, "the third password"))
	n.mail(identity.MailPasswordChanged, u.email)

	target := "elsewhere." + u.email
	want(t, http.StatusAccepted, n.as(u.access, http.MethodPost, "/users/change-email-request", body{"email": target}))
	m = n.mail(identity.MailEmailChange, target)
	reply := want(t, http.StatusOK, n.changeEmail(u.access, m.Code, target))
	if reply.Text("is_verified") != "true" {
		t.Errorf("the address is not verified: %v", reply)
	}
	n.mail(identity.MailEmailChanged, u.email)

	got := column(t, c.db, `SELECT concat_ws(' ', event, details->>'purpose', CASE WHEN request_id IS NULL THEN 'by no request' END,
		CASE WHEN details ? 'mail' THEN 'in a mail' END) FROM audit_events WHERE user_id = $1 ORDER BY id`, u.id)
	wanted := []string{
		"signed up", "code issued verification by no request in a mail", "email verified",
		"code issued recovery by no request in a mail", "password reset", "signed in", "password changed",
		"code issued email_change by no request in a mail", "email changed",
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("the trail is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wanted, "\n"))
	}
}

func TestPublicExposureLimitsTheMailsToOneAddress(t *testing.T) {
	t.Parallel()
	c := start(t, 2, public, env{"LIMIT_MAILS": "3/1h"})
	u := c.nodes[0].publicUser()
	replies := atOnce(20, func(i int) *testenv.Reply {
		return c.any(i).post("/users/forgot-password", body{"email": mixedCase(u.email, i)})
	})
	if got := statuses(replies); got[http.StatusAccepted] != 20 {
		t.Errorf("got %v", got)
	}
	list := c.nodes[0].mails()
	for range 20 {
		want(t, http.StatusAccepted, c.any(len(list)).post("/users/forgot-password", body{"email": u.email}))
		list = append(list, c.any(len(list)).mails()...)
	}
	if len(list) != 3 {
		t.Errorf("%d mails are sent, want 3", len(list))
	}
	want(t, http.StatusNoContent, c.nodes[0].resetPassword(list[len(list)-1].Code, "the second password"))
	c.nodes[1].mail(identity.MailPasswordChanged, u.email) // notices are not counted
}

func TestInternalExposureMailsNoticesOfChanges(t *testing.T) {
	t.Parallel()
	_, n := single(t, public, env{"EXPOSURE": "internal"})
	u := n.newUser()
	want(t, http.StatusNoContent, n.changePassword(u.access, u.password, "the second password"))
	n.mail(identity.MailPasswordChanged, u.email)
	target := "elsewhere." + u.email
	want(t, http.StatusOK, n.changeEmail(u.access, n.emailCode(u.access,
		target), target))
	n.mail(identity.MailEmailChanged, u.email)
}
