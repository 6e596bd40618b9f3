package authserver_test

import (
	"net/http"
	"strings"
	"testing"

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
