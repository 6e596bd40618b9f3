package authserver_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// A sign-up reserves neither its username nor its address. The first of many that is verified gets them.
func TestSignUpsOfOneNameAtOnceAreVerifiedOnce(t *testing.T) {
	t.Parallel()
	c := start(t, 3)
	variants := map[string]func(u *user, i int){
		"the same username": func(u *user, i int) { u.username = "the.same.username" },
		"the same username in other cases": func(u *user, i int) {
			u.username = mixedCase("another.same.username", i)
		},
		"the same address":                func(u *user, i int) { u.email = "the.same@mailbox.example.org" },
		"the same address in other cases": func(u *user, i int) { u.email = mixedCase("another.same@mailbox.example.org", i) },
		"the same of both": func(u *user, i int) {
			u.username, u.email = mixedCase("both.the.same", i), mixedCase("both@mailbox.example.org", 19-i)
		},
	}
	for name, vary := range variants {
		t.Run(name, func(t *testing.T) {
			people := make([]user, 20)
			replies := atOnce(len(people), func(i int) *testenv.Reply {
				people[i] = newPerson()
				vary(&people[i], i)
				return c.any(i).post("/users", people[i].signUpBody())
			})
			if got := statuses(replies); got[http.StatusCreated] != len(people) {
				t.Fatalf("got %v, want twenty 201", got)
			}
			proofs := atOnce(len(people), func(i int) *testenv.Reply {
				return c.any(i).post("/users/verify-user", body{"code": replies[i].Text("code"), "password": people[i].password})
			})
			got := statuses(proofs)
			if got[http.StatusOK] != 1 || got[http.StatusConflict]+got[http.StatusBadRequest] != len(people)-1 {
				t.Errorf("got %v, want one 200, and else 409 and 400", got)
			}
			late := newPerson()
			vary(&late, 3)
			want(t, http.StatusConflict, c.any(0).post("/users", late.signUpBody()), "an account has the name or address")
		})
	}
	if n := column(t, c.db, "SELECT count(*) FROM users"); n[0] != "5" {
		t.Errorf("there are %s accounts, not 5", n)
	}
	if n := column(t, c.db, "SELECT count(*) FROM codes"); n[0] != "38" { // of the sign-ups that can choose another username
		t.Errorf("there are %s codes, not 38", n)
	}
}

// mixedCase returns s with some letters in upper case, depending on i.
func mixedCase(s string, i int) string {
	letters := []byte(s)
	for at := range letters {
		if (i>>(at%5))&1 == 1 {
			letters[at] = strings.ToUpper(string(letters[at]))[0]
		}
	}
	return string(letters)
}

func TestSignUpAfterADeletionIsANewAccount(t *testing.T) {
	t.Parallel()
	c := start(t, 2)
	first := c.nodes[0].newUser()
	recovery := c.nodes[0].recoveryCode(first)
	want(t, http.StatusNoContent, c.nodes[0].deleteUser(first.access))
	want(t, http.StatusUnauthorized, c.nodes[1].deleteUser(first.access), "the second deletion")

	reply := want(t, http.StatusCreated, c.nodes[1].post("/users", first.signUpBody()), "the name is free again")
	if reply.Text("id") == first.id {
		t.Error("the new account has the old one's id")
	}
	c.dead("tokens of the deleted account", first.tokens)
	want(t, http.StatusBadRequest, c.nodes[0].resetPassword(recovery, "a brand new password"),
		"the code of the deleted account")
	want(t, http.StatusForbidden, c.nodes[0].trySignIn(first.username, first.password), "the new account is not verified")
}

func TestSignUpIgnoresParametersThatItDoesNotHave(t *testing.T) {
	t.Parallel()
	_, n := single(t)
	b := newPerson().signUpBody(body{
		"id": "00000000-0000-4000-8000-000000000000", "is_verified": "true", "verified": "true", "email_verified_at": "2020-01-01",
		"password_hash": "$2a$04$abc", "created_at": "2001-01-01T00:00:00Z", "role": "admin", "SCOPE": "admin",
		"\u017fcope": "admin", "Username": "someone.else",
	})
	reply := want(t, http.StatusCreated, n.post("/users", b))
	if reply.Text("id") == b["id"] {
		t.Error("the caller chose the id")
	}
	want(t, http.StatusForbidden, n.trySignIn(b["username"], b["password"]), "the caller is not verified")
	tk := n.mustVerify(reply.Text("code"))

	b = body{"first_name": "Another first name", "email": "other@mailbox.example.org", "scope": "admin", "id": b["id"],
		"is_verified": "false", "password": "another password"}
	reply = want(t, http.StatusOK, n.changeProfile(tk.access, b))
	if reply.Text("first_name") != "Another first name" {
		t.Errorf("the first name did not change: %v", reply)
	}
	for _, name := range []string{"email", "scope", "id"} {
		if reply.Text(name) == b[name] {
			t.Errorf("PUT /users changed the %s: %v", name, reply)
		}
	}
	if reply.Text("is_verified") != "true" || reply.Text("scope") != "profile email" {
		t.Errorf("got %v", reply)
	}
}

var optionalNames = []string{"username", "first_name", "last_name"}

// subsets returns the 2^n subsets of a list.
func subsets(list []string) [][]string {
	all := [][]string{nil}
	for _, one := range list {
		for _, s := range slices.Clone(all) {
			all = append(all, append(slices.Clone(s), one))
		}
	}
	return all
}

// fieldsOf returns the member fields of an error.
func fieldsOf(r *testenv.Reply) map[string]string {
	var reply struct {
		Fields map[string]string `json:"fields"`
	}
	_ = json.Unmarshal(r.Body, &reply) // a reply without JSON has no fields
	return reply.Fields
}

// Each name is required or not, and is absent, empty or given: all combinations.
func TestSignUpRequiresOnlyTheConfiguredNames(t *testing.T) {
	t.Parallel()
	for _, required := range subsets(optionalNames) {
		setting := strings.Join(required, ",")
		if setting == "" {
			setting = "none"
		}
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			_, n := single(t, env{"SIGNUP_REQUIRED": setting})
			for combination := range 27 {
				b := newPerson().signUpBody()
				wrong := map[string]string{}
				for i, name := range optionalNames {
					fault := ""
					switch combination / []int{1, 3, 9}[i] % 3 {
					case 0:
						delete(b, name)
						fault = "missing"
					case 1:
						b[name] = ""
						fault = "empty"
					}
					if fault != "" && slices.Contains(required, name) {
						wrong[name] = fault
					}
				}
				status := http.StatusCreated
				if len(wrong) > 0 {
					status = http.StatusBadRequest
				}
				reply := want(t, status, n.post("/users", b), b)
				if got := fieldsOf(reply); !maps.Equal(got, wrong) {
					t.Errorf("%v: the fields are %v, want %v", b, got, wrong)
				}
			}

			var document struct {
				Components struct {
					Schemas map[string]struct {
						Required []string `json:"required"`
					} `json:"schemas"`
				} `json:"components"`
			}
			n.Do(http.MethodGet, "/openapi.json", nil, nil).JSON(t, &document)
			got := slices.Sorted(slices.Values(document.Components.Schemas["SignUpRequest"].Required))
			if all := slices.Sorted(slices.Values(append([]string{"email", "password"}, required...))); !slices.Equal(got, all) {
				t.Errorf("the OpenAPI document requires %v, want %v", got, all)
			}
		})
	}
}

func TestAccountWithoutAUsername(t *testing.T) {
	t.Parallel()
	_, n := single(t, env{"SIGNUP_REQUIRED": "none"})
	other := n.newUser()

	u := newPerson()
	sent := want(t, http.StatusCreated, n.post("/users", body{"email": u.email, "password": u.password}))
	u.id = sent.Text("id")
	// A username may be sent with the code. If it is taken, the code is still valid without it.
	taken := want(t, http.StatusConflict, n.post("/users/verify-user", body{"code": sent.Text("code"), "username": other.username}))
	if taken.Text("reason") != "username_taken" || fieldsOf(taken)["username"] != "taken" {
		t.Errorf("a taken username: %v", taken)
	}
	empty := want(t, http.StatusBadRequest, n.post("/users/verify-user", body{"code": sent.Text("code"), "username": ""}))
	if fieldsOf(empty)["username"] != "empty" {
		t.Errorf("an empty username: %v", empty)
	}
	u.tokens = n.mustVerify(sent.Text("code"))

	nameless := func(why, access string) {
		t.Helper()
		profile := want(t, http.StatusOK, n.profile(access), why)
		for _, member := range []string{"username", "first_name", "last_name", "name"} {
			if !strings.Contains(string(profile.Body), `"`+member+`":""`) {
				t.Errorf("%s: the profile has no empty %s: %s", why, member, profile.Body)
			}
		}
		claims := claimsOf(t, access)
		for _, name := range []string{"username", "name"} {
			if value, has := claims[name]; has {
				t.Errorf("%s: the token's %s is %v", why, name, value)
			}
		}
		state := want(t, http.StatusOK, n.introspect(access), why)
		if state.Text("active") != "true" || strings.Contains(string(state.Body), `"username"`) {
			t.Errorf("%s: introspection returns %s", why, state.Body)
		}
	}
	nameless("after the verification", u.access)
	nameless("after a sign-in by email", tokensOf(want(t, http.StatusOK, n.trySignIn(strings.ToLower(u.email), u.password))).access)
	nameless("after a renewal", tokensOf(want(t, http.StatusOK, n.renew(u.refresh))).access)
	for _, login := range []string{u.id, strings.ToUpper(u.id), ""} {
		// try would record the login as a secret, but an id may be in the logs.
		want(t, http.StatusUnauthorized, n.Do(http.MethodPost, "/tokens/signin", nil, map[string]string{"username": login,
			"password": u.password}), login)
	}
	want(t, http.StatusConflict, n.post("/users", body{"email": u.email, "password": u.password}), "the address is taken")

	// Two such accounts can exist.
	second := newPerson()
	sent = want(t, http.StatusCreated, n.post("/users", body{"email": second.email, "password": second.password}))
	want(t, http.StatusOK, n.verify(sent.Text("code")))

	// A username can be taken later, and removed again.
	change := func(status int, b body) *testenv.Reply {
		t.Helper()
		return want(t, status, n.changeProfile(u.access, b), b)
	}
	change(http.StatusConflict, body{"username": other.username})
	if got := change(http.StatusOK, body{"username": "Ada", "first_name": "Ada"}); got.Text("username") != "Ada" || got.Text("name") != "Ada" {
		t.Errorf("the profile is %v", got)
	}
	named := claimsOf(t, tokensOf(want(t, http.StatusOK, n.trySignIn("ada", u.password))).access)
	if named["username"] != "Ada" || named["name"] != "Ada" {
		t.Errorf("the claims are %v", named)
	}
	change(http.StatusOK, body{"username": "", "first_name": " "})
	want(t, http.StatusUnauthorized, n.trySignIn("ada", u.password), "the username is gone")

	want(t, http.StatusUnauthorized, n.changePassword(u.access, "wrong one", "another of mine"))
	want(t, http.StatusNoContent, n.changePassword(u.access, u.password, "another of mine"))
	code := n.recoveryCode(u)
	want(t, http.StatusNoContent, n.resetPassword(code, "a third one of mine"))
	nameless("after a recovery", tokensOf(want(t, http.StatusOK, n.trySignIn(u.email, "a third one of mine"))).access)
}

// A username that a gateway requires cannot be removed, and one that it did not
// require can still be missing when it does.
func TestProfileKeepsNamesThatAreRequired(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"SIGNUP_REQUIRED": "none"})
	u := newPerson()
	sent := want(t, http.StatusCreated, c.nodes[0].post("/users", body{"email": u.email, "password": u.password}))
	want(t, http.StatusOK, c.nodes[0].verify(sent.Text("code")))

	strict := c.addReady(1)
	access := tokensOf(want(t, http.StatusOK, strict.trySignIn(u.email, u.password))).access
	if got := want(t, http.StatusOK, strict.profile(access)).Text("username"); got != "" {
		t.Errorf("the username is %q", got)
	}
	reply := want(t, http.StatusBadRequest, strict.changeProfile(access, body{"username": "",
		"first_name": " ", "last_name": ""}))
	if got := fieldsOf(reply); !maps.Equal(got, map[string]string{"username": "empty", "first_name": "empty", "last_name": "empty"}) {
		t.Errorf("the fields are %v", got)
	}
	want(t, http.StatusOK, strict.changeProfile(access, body{"first_name": "Ada"}))
}

func TestSignUpWithOnlyEmailAndPasswordInPublic(t *testing.T) {
	t.Parallel()
	_, n := single(t, public, env{"SIGNUP_REQUIRED": "none"})
	u := newPerson()
	want(t, http.StatusAccepted, n.post("/users", body{"email": u.email, "password": u.password}))
	m := n.mail(identity.MailVerification, u.email)
	if m.Username != "" {
		t.Errorf("the mail contains the username %s", m.Username)
	}
	access := n.mustVerify(m.Code).access
	if got := want(t, http.StatusOK, n.profile(access)); got.Text("username") != "" || got.Text("email") != u.email {
		t.Errorf("the profile is %v", got)
	}
}

func TestSignUpNamesEveryWrongParameter(t *testing.T) {
	t.Parallel()
	_, n := single(t)
	reply := want(t, http.StatusBadRequest, n.post("/users", body{
		"username": "not a name", "email": "no address", "password": "short", "first_name": "",
	}))
	description := reply.Text("error_description")
	for _, named := range []string{"username: may hold", "email: must be", "password: is shorter",
		"first_name: is empty", "last_name: is missing"} {
		if !strings.Contains(description, named) {
			t.Errorf("%q does not say %q", description, named)
		}
	}
}
