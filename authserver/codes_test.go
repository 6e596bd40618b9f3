package authserver_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// redeem tries a code for each of the three purposes, for a user who may try
// them all.
var redeem = map[string]func(n *node, by user, code string) *apitest.Reply{
	"verification": func(n *node, _ user, code string) *apitest.Reply {
		return n.post("/users/verify-user", body{"code": code})
	},
	"recovery": func(n *node, _ user, code string) *apitest.Reply {
		return n.post("/users/change-password", body{"code": code, "password": "a password that is new"})
	},
	"email change": func(n *node, by user, code string) *apitest.Reply {
		return n.as(by.access, http.MethodPost, "/users/change-email", body{"code": code, "email": "new." + by.email})
	},
}

// issue makes a live code of each purpose, each with the user whose it is.
var issue = map[string]func(n *node) (user, string){
	"verification": func(n *node) (user, string) {
		u, code := n.signUp()
		return u, code
	},
	"recovery": func(n *node) (user, string) {
		u := n.newUser()
		return u, n.recoveryCode(u)
	},
	"email change": func(n *node) (user, string) {
		u := n.newUser()
		return u, n.emailCode(u.access, "")
	},
}

func succeeded(r *apitest.Reply) bool {
	return r.Status == http.StatusOK || r.Status == http.StatusNoContent
}

func TestACodeIsGoodForItsOwnPurposeAlone(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	n := c.nodes[0]
	bystander := n.newUser()
	for made, issue := range issue {
		for used, try := range redeem {
			owner, code := issue(n)
			by := owner
			if owner.access == "" {
				by = bystander // only a signed-in user can change an address
			}
			reply := try(n, by, code)
			if made == used {
				if !succeeded(reply) {
					t.Errorf("a %s code: %v", made, reply)
				}
				continue
			}
			want(t, http.StatusBadRequest, reply, "a", made, "code as one for", used)
			if reply := redeem[made](n, by, code); !succeeded(reply) {
				t.Errorf("a %s code was burnt by trying it for %s: %v", made, used, reply)
			}
		}
	}
}

func TestACodeIsGoodOnceAndEveryCodeThatIsNotGetsTheSameAnswer(t *testing.T) {
	t.Parallel()
	c := start(t, 2)
	n := c.nodes[0]
	for purpose, issue := range issue {
		try := redeem[purpose]
		u, code := issue(n)
		if reply := try(n, u, code); !succeeded(reply) {
			t.Errorf("a %s code: %v", purpose, reply)
			continue
		}
		if u.access == "" || purpose == "recovery" {
			u = n.newUser()
		}
		used := want(t, http.StatusBadRequest, try(c.nodes[1], u, code), "a used code for", purpose)

		_, other := issue(n)
		postgrestest.Exec(t, c.db, "UPDATE codes SET expires_at = now()")
		expired := try(n, u, other)
		unknown := try(n, u, strings.Repeat("A", len(code)))
		wrongPurpose := func() *apitest.Reply {
			if purpose == "verification" {
				return try(n, u, n.recoveryCode(u))
			}
			_, code := n.signUp()
			return try(n, u, code)
		}()
		for about, reply := range map[string]*apitest.Reply{"expired": expired, "unknown": unknown, "for another purpose": wrongPurpose} {
			if reply.Status != used.Status || !bytes.Equal(reply.Body, used.Body) || len(reply.Header) != len(used.Header) {
				t.Errorf("%s: a code that is %s gets %v, a used one %v", purpose, about, reply, used)
			}
		}
	}
}

func TestOfFiftyUsesOfACodeAtOnceOneSucceeds(t *testing.T) {
	t.Parallel()
	c := start(t, 3, env{"HASHING_MAX_WAIT": "5s"})
	for purpose, issue := range issue {
		u, code := issue(c.nodes[0])
		replies := atOnce(50, func(i int) *apitest.Reply { return redeem[purpose](c.any(i), u, code) })
		var won int
		for _, r := range replies {
			switch {
			case succeeded(r):
				won++
			case r.Status != http.StatusBadRequest:
				t.Errorf("%s: got %v", purpose, r)
			}
		}
		if won != 1 {
			t.Errorf("%s: %d of 50 succeeded: %v", purpose, won, statuses(replies))
		}
	}
}

func TestACodeOfOneIsNoUseToAnotherAndIsNotBurntByThem(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	n := c.nodes[0]
	ada, eve := n.newUser(), n.newUser()

	code := n.recoveryCode(ada)
	reset := body{"code": code, "id": eve.id, "password": "a password of eve's choice"}
	want(t, http.StatusBadRequest, n.post("/users/change-password", reset), "ada's code with eve's id")
	want(t, http.StatusOK, n.profile(eve.access), "eve is as she was")
	want(t, http.StatusOK, n.trySignIn(eve.username, eve.password), "eve is as she was")
	reset["id"] = ada.id
	want(t, http.StatusNoContent, n.post("/users/change-password", reset), "ada's own code still holds")

	ada.password = reset["password"]
	ada.tokens = n.signIn(ada)
	code = n.emailCode(ada.access, "")
	change := body{"code": code, "email": "moved." + ada.email}
	want(t, http.StatusBadRequest, n.as(eve.access, http.MethodPost, "/users/change-email", change), "ada's code with eve's token")
	if got := n.profile(eve.access).Text("email"); got != eve.email {
		t.Errorf("eve's address is %q now", got)
	}
	want(t, http.StatusOK, n.as(ada.access, http.MethodPost, "/users/change-email", change), "ada's own code still holds")
}

func TestACodeForOneAddressIsNoUseForAnother(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	n := c.nodes[0]
	u, other := n.newUser(), n.newUser()
	code := n.emailCode(u.access, "announced."+u.email)
	use := func(email string) *apitest.Reply {
		return n.as(u.access, http.MethodPost, "/users/change-email", body{"code": code, "email": email})
	}
	want(t, http.StatusBadRequest, use("another."+u.email))
	reply := want(t, http.StatusOK, use("announced."+u.email))
	if reply.Text("is_verified") != "true" {
		t.Errorf("the address was proved, and is not verified: %v", reply)
	}

	code = n.emailCode(u.access, "")
	if want(t, http.StatusConflict, use(other.email)); t.Failed() {
		return
	}
	reply = want(t, http.StatusOK, use("anything."+u.email), "a code survives an address that is taken")
	if reply.Text("is_verified") != "false" {
		t.Errorf("the address is verified without a proof: %v", reply)
	}
}

func TestOfTwoWhoMoveToOneAddressOneDoes(t *testing.T) {
	t.Parallel()
	c := start(t, 3)
	for range 10 {
		target := newPerson().email
		movers := []user{c.nodes[0].newUser(), c.nodes[1].newUser()}
		codes := []string{c.nodes[0].emailCode(movers[0].access, target), c.nodes[1].emailCode(movers[1].access, target)}
		replies := atOnce(2, func(i int) *apitest.Reply {
			return c.any(i).as(movers[i].access, http.MethodPost, "/users/change-email", body{"code": codes[i], "email": target})
		})
		if got := statuses(replies); got[http.StatusOK] != 1 || got[http.StatusConflict]+got[http.StatusBadRequest] != 1 {
			t.Errorf("got %v", replies)
		}
	}
}

func TestASecondCodeTakesThePlaceOfTheFirst(t *testing.T) {
	t.Parallel()
	n := start(t, 1).nodes[0]
	u, first := n.signUp()
	second := want(t, http.StatusOK, n.post("/users/verification-code", body{"email": u.email})).Text("code")
	want(t, http.StatusBadRequest, redeem["verification"](n, u, first))
	u.tokens = tokensOf(want(t, http.StatusOK, redeem["verification"](n, u, second)))
	for purpose, ask := range map[string]func() string{
		"recovery":     func() string { return n.recoveryCode(u) },
		"email change": func() string { return n.emailCode(u.access, "") },
	} {
		first, second := ask(), ask()
		want(t, http.StatusBadRequest, redeem[purpose](n, u, first), "the first of", purpose)
		if reply := redeem[purpose](n, u, second); !succeeded(reply) {
			t.Errorf("the second of %s: %v", purpose, reply)
		}
		// A new address that is not proved changes nothing about recovery.
		if purpose == "recovery" {
			u.password = "a password that is new"
			u.tokens = n.signIn(u)
		}
	}
}

func TestOutstandingCodesDieWithWhatTheyWereFor(t *testing.T) {
	t.Parallel()
	n := start(t, 1).nodes[0]
	changes := map[string]func(u user){
		"a changed password": func(u user) {
			want(t, http.StatusNoContent, n.as(u.access, http.MethodPost, "/users/change-password",
				body{"old_password": u.password, "password": "the second password"}))
		},
		"a changed address": func(u user) {
			target := "elsewhere." + u.email
			want(t, http.StatusOK, n.as(u.access, http.MethodPost, "/users/change-email",
				body{"code": n.emailCode(u.access, target), "email": target}))
		},
		"a deleted account": func(u user) {
			want(t, http.StatusNoContent, n.as(u.access, http.MethodDelete, "/users", nil))
		},
	}
	for name, change := range changes {
		u := n.newUser()
		code := n.recoveryCode(u)
		change(u)
		want(t, http.StatusBadRequest, redeem["recovery"](n, u, code), "a recovery code after", name)
	}
}

func TestWhatIsNearlyACodeIsNone(t *testing.T) {
	t.Parallel()
	n := start(t, 1).nodes[0]
	u, code := n.signUp()
	for _, wrong := range []string{
		"", " ", code + "=", code + "." + code, code[1:], code[:len(code)-1],
		"%", "_", code[:len(code)-1] + "%", code[:len(code)-1] + "_", strings.Repeat(code, 2), "null", "0", "'; DROP TABLE codes; --",
	} {
		if wrong == code {
			continue
		}
		want(t, http.StatusBadRequest, n.post("/users/verify-user", body{"code": wrong}), fmt.Sprintf("%q", wrong))
	}
	for _, wrong := range []string{"null", "0", "true", "[]", "{}", `["` + code + `"]`} {
		want(t, http.StatusBadRequest, n.Do(http.MethodPost, "/users/verify-user", nil, `{"code":`+wrong+`}`), wrong)
	}
	// But people type it, and copy it with what stands around it.
	want(t, http.StatusOK, redeem["verification"](n, u, " "+strings.ToLower(code[:13])+"-"+code[13:]+"\n"), "none of them burnt it")
}

func TestAVerificationProvesTheAddressAndEndsWhatAnImpostorOpened(t *testing.T) {
	t.Parallel()
	c := start(t, 2)
	n := c.nodes[0]
	// A stranger signs up with the address of a user, who then resets the password.
	impostor, stolen := n.signUp()
	want(t, http.StatusForbidden, n.trySignIn(impostor.username, impostor.password), "not verified yet")
	code := n.recoveryCode(impostor)
	want(t, http.StatusNoContent, redeem["recovery"](n, impostor, code))
	want(t, http.StatusUnauthorized, n.trySignIn(impostor.username, impostor.password), "the impostor's password")
	want(t, http.StatusBadRequest, redeem["verification"](c.nodes[1], impostor, stolen), "the impostor's code")
	want(t, http.StatusOK, n.trySignIn(impostor.email, "a password that is new"), "the owner")
}
