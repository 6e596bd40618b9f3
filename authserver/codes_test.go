package authserver_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// redeem tries a code for each of the three purposes.
var redeem = map[string]func(n *node, by user, code string) *testenv.Reply{
	"verification": func(n *node, _ user, code string) *testenv.Reply { return n.verify(code) },
	"recovery": func(n *node, _ user, code string) *testenv.Reply {
		return n.resetPassword(code, "a password that is new")
	},
	"email change": func(n *node, by user, code string) *testenv.Reply {
		return n.changeEmail(by.access, code, "new."+by.email)
	},
}

// issue creates a valid code of each purpose for a new user.
var issue = map[string]func(n *node) (user, string){
	"verification": func(n *node) (user, string) { return n.signUp() },
	"recovery": func(n *node) (user, string) {
		u := n.newUser()
		return u, n.recoveryCode(u)
	},
	"email change": func(n *node) (user, string) {
		u := n.newUser()
		return u, n.emailCode(u.access, "")
	},
}

func succeeded(r *testenv.Reply) bool {
	return r.Status == http.StatusOK || r.Status == http.StatusNoContent
}

func TestCodeServesOnlyItsPurpose(t *testing.T) {
	t.Parallel()
	_, n := single(t)
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
				t.Errorf("a %s code after it was tried for %s: %v", made, used, reply)
			}
		}
	}
}

func TestCodeWorksOnceAndAllInvalidCodesGetOneAnswer(t *testing.T) {
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
		wrongPurpose := func() *testenv.Reply {
			if purpose == "verification" {
				return try(n, u, n.recoveryCode(u))
			}
			_, code := n.signUp()
			return try(n, u, code)
		}()
		for about, reply := range map[string]*testenv.Reply{"expired": expired, "unknown": unknown, "for another purpose": wrongPurpose} {
			if reply.Status != used.Status || !bytes.Equal(reply.Body, used.Body) || len(reply.Header) != len(used.Header) {
				t.Errorf("%s: a code that is %s gets %v, a used one %v", purpose, about, reply, used)
			}
		}
	}
}

func TestCodeUsedFiftyTimesAtOnceSucceedsOnce(t *testing.T) {
	t.Parallel()
	c := start(t, 3, env{"HASHING_MAX_WAIT": "5s"})
	for purpose, issue := range issue {
		u, code := issue(c.nodes[0])
		replies := atOnce(50, func(i int) *testenv.Reply { return redeem[purpose](c.any(i), u, code) })
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

func TestCodeOfOneUserIsInvalidForAnotherAndStaysValid(t *testing.T) {
	t.Parallel()
	_, n := single(t)
	ada, eve := n.newUser(), n.newUser()

	code := n.recoveryCode(ada)
	reset := body{"code": code, "id": eve.id, "password": "a password of eve's choice"}
	want(t, http.StatusBadRequest, n.post("/users/change-password", reset), "ada's code with eve's id")
	want(t, http.StatusOK, n.profile(eve.access), "eve has not changed")
	want(t, http.StatusOK, n.trySignIn(eve.username, eve.password), "eve's password has not changed")
	reset["id"] = ada.id
	want(t, http.StatusNoContent, n.post("/users/change-password", reset), "ada's own code is still valid")

	ada.password = reset["password"]
	ada.tokens = n.signIn(ada)
	code = n.emailCode(ada.access, "")
	change := body{"code": code, "email": "moved." + ada.email}
	want(t, http.StatusBadRequest, n.as(eve.access, http.MethodPost, "/users/change-email", change), "ada's code with eve's token")
	if got := n.profile(eve.access).Text("email"); got != eve.email {
		t.Errorf("eve's address is %q now", got)
	}
	want(t, http.StatusOK, n.as(ada.access, http.MethodPost, "/users/change-email", change), "ada's own code is still valid")
}

func TestCodeForOneAddressIsInvalidForAnother(t *testing.T) {
	t.Parallel()
	_, n := single(t)
	u, other := n.newUser(), n.newUser()
	code := n.emailCode(u.access, "announced."+u.email)
	use := func(email string) *testenv.Reply {
		return n.changeEmail(u.access, code, email)
	}
	want(t, http.StatusBadRequest, use("another."+u.email))
	reply := want(t, http.StatusOK, use("announced."+u.email))
	if reply.Text("is_verified") != "true" {
		t.Errorf("the address is not verified: %v", reply)
	}

	code = n.emailCode(u.access, "")
	want(t, http.StatusConflict, use(other.email))
	reply = want(t, http.StatusOK, use("anything."+u.email), "the code is still valid after a taken address")
	if reply.Text("is_verified") != "false" {
		t.Errorf("the address is verified without a code that was sent to it: %v", reply)
	}
}

func TestEmailChangeOfTwoUsersToOneAddressSucceedsOnce(t *testing.T) {
	t.Parallel()
	c := start(t, 3)
	for range 10 {
		target := newPerson().email
		movers := []user{c.nodes[0].newUser(), c.nodes[1].newUser()}
		codes := []string{c.nodes[0].emailCode(movers[0].access, target), c.nodes[1].emailCode(movers[1].access, target)}
		replies := atOnce(2, func(i int) *testenv.Reply {
			return c.any(i).changeEmail(movers[i].access, codes[i], target)
		})
		if got := statuses(replies); got[http.StatusOK] != 1 || got[http.StatusConflict]+got[http.StatusBadRequest] != 1 {
			t.Errorf("got %v", replies)
		}
	}
}

func TestCodeReplacesThePreviousOne(t *testing.T) {
	t.Parallel()
	_, n := single(t)
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
		if purpose == "recovery" {
			u.password = "a password that is new"
			u.tokens = n.signIn(u)
		}
	}
}

func TestCodesBecomeInvalidWithTheirReason(t *testing.T) {
	t.Parallel()
	_, n := single(t)
	changes := map[string]func(u user){
		"a changed password": func(u user) {
			want(t, http.StatusNoContent, n.changePassword(u.access, u.password, "the second password"))
		},
		"a changed address": func(u user) {
			target := "elsewhere." + u.email
			want(t, http.StatusOK, n.changeEmail(u.access, n.emailCode(u.access, target), target))
		},
		"a deleted account": func(u user) { want(t, http.StatusNoContent, n.deleteUser(u.access)) },
	}
	for name, change := range changes {
		u := n.newUser()
		code := n.recoveryCode(u)
		change(u)
		want(t, http.StatusBadRequest, redeem["recovery"](n, u, code), "a recovery code after", name)
	}
}

func TestCodeThatIsNearlyRightIsInvalid(t *testing.T) {
	t.Parallel()
	_, n := single(t)
	u, code := n.signUp()
	for _, wrong := range []string{
		"", " ", code + "=", code + "." + code, code[1:], code[:len(code)-1],
		"%", "_", code[:len(code)-1] + "%", code[:len(code)-1] + "_", strings.Repeat(code, 2), "null", "0", "'; DROP TABLE codes; --",
	} {
		want(t, http.StatusBadRequest, n.verify(wrong), fmt.Sprintf("%q", wrong))
	}
	for _, wrong := range []string{"null", "0", "true", "[]", "{}", `["` + code + `"]`} {
		want(t, http.StatusBadRequest, n.Do(http.MethodPost, "/users/verify-user", nil, `{"code":`+wrong+`}`), wrong)
	}
	// Users type codes, and copy them with the text around them.
	want(t, http.StatusOK, redeem["verification"](n, u, " "+strings.ToLower(code[:13])+"-"+code[13:]+"\n"), "the code is still valid")
}

func TestVerificationInvalidatesTheSignUpOfAnImpostor(t *testing.T) {
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
