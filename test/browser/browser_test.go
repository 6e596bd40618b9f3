package browser

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

const (
	password    = "note G of 1843"
	newPassword = "the engine weaves"
)

// signUp signs a person up on the page, and leaves them signed in there.
func (r *rig) signUp(t *testing.T, name string) *tab {
	t.Helper()
	p := r.open(t, r.app)
	p.see("Sign in")
	p.click("#sign-in button[data-show=sign-up]")
	p.fill("sign-up", "username", name, "email", name+"@example.com", "first_name", "Ada", "last_name", "Lovelace", "password", password)
	p.see("Look into your mailbox")
	p.behaved("")

	link, code := r.mailedLink(t, name+"@example.com", "verify")
	mailed := r.open(t, link)
	mailed.see("Verify your address")
	if at := mailed.evaluate("location.href"); at != r.app+"/" {
		t.Errorf("the address bar shows %s", at)
	}
	mailed.click("form[name=verify] button")
	mailed.see("Your address is verified, and you are signed in.")
	mailed.see(name + "@example.com")
	mailed.see("Ada Lovelace")
	mailed.behaved(code)
	return mailed
}

func (p *tab) signIn(name, password string) {
	p.t.Helper()
	p.fill("sign-in", "username", name, "password", password)
}

func TestAPersonSignsUpByMailComesBackAndRecovers(t *testing.T) {
	r := start(t)
	p := r.signUp(t, "ada")
	if p.sent(http.MethodOptions, r.gateway+"/users/verify-user") == 0 {
		t.Error("the browser asked for nothing beforehand: is the application of the gateway's own origin?")
	}

	p.click("#sign-out")
	p.see("You are signed out.")
	if kept := p.evaluate("sessionStorage.length + localStorage.length + document.cookie.length"); kept != "0" {
		t.Errorf("after signing out there is still something kept: %s", kept)
	}
	p.signIn("ada", "not her password")
	p.see("is wrong")
	p.signIn("ada@example.com", password)
	p.see("Your account")
	p.do(chromedp.Reload())
	p.see("Your account")

	p.click("#sign-out")
	p.see("You are signed out.")
	p.click("#sign-in button[data-show=forgot]")
	p.fill("forgot", "email", "ada@example.com")
	p.see("we have sent it a mail")
	link, code := r.mailedLink(t, "ada@example.com", "reset")
	p.do(chromedp.Navigate(link)) // in the same tab, where only the fragment changes
	p.see("Choose a new password")
	p.fill("reset", "password", newPassword)
	p.see("Your password is changed")
	p.signIn("ada", password)
	p.see("is wrong")
	p.signIn("ada", newPassword)
	p.see("Your account")
	p.behaved(code)

	// A link is good for one time.
	again := r.open(t, link)
	again.fill("reset", "password", "another one still")
	again.see("code:")
	again.behaved(code)
}

func TestAPersonMovesToAnotherAddress(t *testing.T) {
	r := start(t)
	p := r.signUp(t, "grace")
	p.fill("request-email", "email", "hopper@example.com")
	p.see("We have sent a mail to hopper@example.com")
	link, code := r.mailedLink(t, "hopper@example.com", "email")
	// The mail program opens a tab of its own, which is not signed in.
	mailed := r.open(t, link)
	mailed.see("Sign in to confirm your new address.")
	mailed.signIn("grace", password)
	mailed.see("Confirm your new address")
	mailed.fill("email", "email", "hopper@example.com")
	mailed.see("Your address is changed.")
	if address := mailed.evaluate(`document.getElementById("profile-email").textContent`); address != "hopper@example.com" {
		t.Errorf("the profile shows %s", address)
	}
	mailed.behaved(code)
	p.behaved(code)
}

func TestSessionsAreRenewedSeenAndEnded(t *testing.T) {
	r := start(t)
	p := r.signUp(t, "joan")
	// An access token is replaced before its end, whenever one is needed.
	p.until("the page renews its token", func() bool {
		p.click("#reload")
		return p.sent(http.MethodPost, "/tokens") > 0
	})
	p.see("Your account")

	other := r.open(t, r.app)
	other.signIn("joan", password)
	other.see("Your account")
	// A copy of a tab has a copy of its sessionStorage, and must not renew with it.
	popup := chromedp.WaitNewTarget(p.ctx, func(info *target.Info) bool { return info.URL != "" })
	p.evaluate(`void open(location.href)`)
	copied := watch(t, p.ctx, chromedp.WithTargetID(<-popup))
	copied.see("Forgot your password?")
	if kept := copied.evaluate("sessionStorage.length"); kept != "0" {
		t.Errorf("the copy of a tab keeps its session")
	}

	p.click("#reload")
	p.until("the page lists both sessions", func() bool {
		return p.evaluate(`document.querySelectorAll("#sessions li").length`) == "2"
	})
	p.click("#sessions button")
	p.see("That session has ended.")
	other.click("#reload")
	other.see("Your session has ended. Sign in again.")
	p.click("#reload")
	p.see("Your account")
	p.behaved("")
	other.behaved("")
	copied.behaved("")
}

func TestWhoTriesTooOftenIsToldHowLongToWait(t *testing.T) {
	r := start(t)
	p := r.open(t, r.app)
	p.see("Sign in")
	p.until("the gateway refuses to try more passwords", func() bool {
		p.signIn("nobody.of.this.name", "a wrong password")
		p.until("it answers", func() bool { return p.evaluate(`document.getElementById("error").textContent`) != "" })
		return strings.Contains(p.evaluate(`document.getElementById("error").textContent`), "Try again in ")
	})
	// And then the page itself lets them try again.
	p.until("the button can be pressed again", func() bool {
		return p.evaluate(`document.querySelector("form[name=sign-in] button").disabled`) == "false"
	})
	p.behaved("")
}

func TestAPageOfAnotherOriginReadsNothing(t *testing.T) {
	r := start(t)
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
	}))
	defer stranger.Close()
	own, other := r.open(t, r.app), r.open(t, stranger.URL)
	own.see("Sign in")
	for _, call := range []string{
		"fetch('" + r.gateway + "/.well-known/jwks.json')",
		"fetch('" + r.gateway + "/users', {headers: {Authorization: 'Bearer x'}})",
		"fetch('" + r.gateway + "/tokens/signin', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{}'})",
		"fetch('" + r.gateway + "/tokens', {method: 'POST', headers: {'Content-Type': 'application/x-www-form-urlencoded'}, body: 'refresh_token=x'})",
	} {
		read := call + ".then((reply) => reply.text()).then(() => 'read', () => 'refused')"
		if got := own.evaluate(read); got != "read" {
			t.Errorf("the application: %s: %s", call, got)
		}
		if got := other.evaluate(read); got != "refused" {
			t.Errorf("another page: %s: %s", call, got)
		}
	}
}
