package browser

import (
	"fmt"
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

// signUp signs a user up on the page, and leaves them signed in.
func (f *fixture) signUp(t *testing.T, name string) *tab {
	t.Helper()
	return f.signUpWith(t, name, name+"@example.com")
}

func (f *fixture) signUpWith(t *testing.T, name, email string) *tab {
	t.Helper()
	p := f.open(t, f.App)
	p.requestSignUp(name, email, password)
	p.behaved("")

	link, code := f.mailedLink(t, email, "verify")
	mailed := f.open(t, link)
	mailed.see("Confirm your email address")
	if at := mailed.evaluate("location.href"); at != f.App+"/" {
		t.Errorf("the address bar shows %s", at)
	}
	mailed.click("form[name=verify] button")
	mailed.see("Your email address is confirmed. You are signed in.")
	mailed.see(email)
	mailed.see("Ada Lovelace")
	mailed.behaved(code)
	return mailed
}

// requestSignUp fills in the form for a new account.
func (p *tab) requestSignUp(username, email, password string) {
	p.t.Helper()
	p.see("Sign in")
	p.click("#sign-in button[data-show=sign-up]")
	p.fill("sign-up", "username", username, "email", email, "first_name", "Ada", "last_name", "Lovelace", "password", password)
	p.see("Check your inbox")
}

func (p *tab) signIn(name, password string) {
	p.t.Helper()
	p.fill("sign-in", "username", name, "password", password)
}

func TestAPersonSignsUpByMailComesBackAndRecovers(t *testing.T) {
	f := start(t)
	p := f.signUp(t, "ada")
	if p.sent(http.MethodOptions, f.URL+"/users/verify-user") == 0 {
		t.Error("the browser sent no preflight request: do the application and the gateway have the same origin?")
	}

	p.click("#sign-out")
	p.see("You are signed out.")
	if kept := p.evaluate("sessionStorage.length + localStorage.length + document.cookie.length"); kept != "0" {
		t.Errorf("after the sign-out the browser still stores data (%s)", kept)
	}
	p.signIn("ada", "not her password")
	p.see("is wrong")
	p.signIn(" ada@example.com ", password) // with spaces, as users paste it
	p.see("Your account")
	p.do(chromedp.Reload())
	p.see("Your account")

	p.click("#sign-out")
	p.see("You are signed out.")
	p.click("#sign-in button[data-show=forgot]")
	p.fill("forgot", "email", "ada@example.com")
	p.see("we have sent an email")
	link, code := f.mailedLink(t, "ada@example.com", "reset")
	p.do(chromedp.Navigate(link)) // in the same tab, where only the fragment changes
	p.see("Choose a new password")
	p.fill("reset", "password", newPassword)
	p.see("Your password is changed")
	p.signIn("ada", password)
	p.see("is wrong")
	p.signIn("ada", newPassword)
	p.see("Your account")
	p.behaved(code)

	// A link works once.
	again := f.open(t, link)
	again.fill("reset", "password", "another one still")
	again.see("This code is wrong, has expired or was used before.")
	// After an invalid code the user can go on.
	again.click("#reset button[data-show=forgot]")
	again.fill("forgot", "email", "ada@example.com")
	again.see("we have sent an email")
	again.behaved(code)
}

func TestAPersonMovesToAnotherAddress(t *testing.T) {
	f := start(t)
	p := f.signUp(t, "grace")
	p.open("request-email")
	p.fill("request-email", "email", "hopper@example.com")
	p.see("We have sent an email to hopper@example.com")
	link, code := f.mailedLink(t, "hopper@example.com", "email")
	// The mail program opens a new tab, which is not signed in.
	mailed := f.open(t, link)
	mailed.see("Sign in to confirm your new address.")
	mailed.signIn("grace", password)
	mailed.see("Confirm your new address")
	mailed.fill("email", "email", "hopper@example.com")
	mailed.see("Your email address is changed.")
	if address := mailed.evaluate(`document.getElementById("profile-email").textContent`); address != "hopper@example.com" {
		t.Errorf("the profile shows %s", address)
	}
	mailed.behaved(code)
	p.behaved(code)
}

func TestSessionsAreRenewedSeenAndEnded(t *testing.T) {
	f := start(t)
	p := f.signUp(t, "joan")
	// An access token is replaced before it expires, when it is needed.
	p.until("the page renews its token", func() bool {
		p.click("#reload")
		return p.sent(http.MethodPost, "/tokens") > 0
	})
	p.see("Your account")

	other := f.open(t, f.App)
	other.signIn("joan", password)
	other.see("Your account")
	// A copy of a tab has a copy of its sessionStorage, and must not use it for renewal.
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
	p.see("is signed out.")
	other.click("#reload")
	other.see("Your session has ended. Sign in again.")
	p.click("#reload")
	p.see("Your account")
	p.behaved("")
	other.behaved("")
	copied.behaved("")
}

// open opens the part of the page that holds a form.
func (p *tab) open(form string) {
	p.t.Helper()
	p.click(fmt.Sprintf("details:has(form[name=%s]) summary", form))
}

func TestAPersonChangesTheirAccountAndDeletesIt(t *testing.T) {
	f := start(t)
	p := f.signUp(t, "katherine")
	if said := p.evaluate(`document.getElementById("sessions").innerText`); !strings.Contains(said, "Chrome on ") ||
		!strings.Contains(said, "This device") || strings.Contains(said, "Mozilla") {
		t.Errorf("the list of devices is %s", said)
	}
	p.open("profile")
	p.fill("profile", "last_name", "Johnson")
	p.see("Your profile is saved.")
	p.see("Ada Johnson")
	p.open("password")
	p.fill("password", "old_password", "not her password", "password", newPassword)
	p.see("This is not your current password.")
	p.fill("password", "old_password", password, "password", newPassword)
	p.see("Your password is changed. Your other devices are signed out.")
	// An application's own API gets a valid token; here the gateway is the API.
	own := `import("./gateway.js").then(async ({ Gateway }) => {
		const gateway = new Gateway("` + f.URL + `");
		await gateway.signIn("katherine ", "` + newPassword + `");
		const reply = await gateway.fetch("` + f.URL + `/users", { headers: { Accept: "application/json" } });
		return [(await reply.json()).last_name, (await gateway.accessToken()).split(".").length].join(" ");
	})`
	q := f.open(t, f.App)
	q.see("Sign in")
	if got := q.evaluate(own); got != "Johnson 3" {
		t.Errorf("a call to the application's own API: %s", got)
	}
	p.open("delete")
	p.fill("delete", "confirmation", "somebody@example.com")
	p.see("Nothing was deleted.")
	p.fill("delete", "confirmation", "Katherine@example.com")
	p.see("Your account is deleted.")
	p.signIn("katherine", newPassword)
	p.see("is wrong")
	p.behaved("")
	q.behaved("")
}

// asks waits until the page shows a text, and checks that the form that confirms an address asks for a field.
func (p *tab) asks(field, text string) {
	p.t.Helper()
	p.see(text)
	at := fmt.Sprintf("form[name=verify] input[name=%s]", field)
	if p.evaluate(fmt.Sprintf(`document.querySelector(%q).checkVisibility() && `+
		`document.activeElement === document.querySelector(%q)`, at, at)) != "true" {
		p.t.Errorf("the page does not ask for the %s:\n%s", field, p.evaluate("document.body.innerText"))
	}
}

func TestThePageAsksForWhatACodeAloneDoesNotSay(t *testing.T) {
	f := start(t)
	// Another user signs up with the owner's address first, then the owner does. Meanwhile a third user takes the
	// username.
	stranger, p := f.open(t, f.App), f.open(t, f.App)
	stranger.requestSignUp("evelyn", "hedy@example.com", "what a stranger chose")
	p.requestSignUp("hedy", "hedy@example.com", password)
	f.signUpWith(t, "hedy", "another.hedy@example.com")
	_, code := f.mailedLink(t, "hedy@example.com", "verify")

	p.click("#mailbox button[data-show=verify]")
	p.fill("verify", "code", "of no use")
	p.see("This code is wrong, has expired or was used before.")
	p.fill("verify", "code", " "+strings.ToLower(code[:5]+"-"+code[5:10]+" "+code[10:])+" ")
	p.asks("password", "Enter the password that you chose when you signed up.")
	p.fill("verify", "password", "not her password")
	p.asks("password", "This is not the password that you chose when you signed up.")
	p.fill("verify", "password", password)
	p.asks("username", "This username is taken. Choose another one.")
	p.fill("verify", "username", "hedy.lamarr")
	p.see("Your email address is confirmed. You are signed in.")
	p.see("hedy.lamarr")
	p.behaved(code)

	// The code is used up now, and the user can still go on.
	p.do(chromedp.Navigate(f.App + "/#verify=" + code))
	p.see("Confirm your email address")
	p.click("form[name=verify] button")
	p.see("This code is wrong, has expired or was used before.")
	p.click("#verify button[data-show=mailbox]")
	p.see("Didn't get the email?")
}

func TestWhatIsWrongIsShownBesideTheInput(t *testing.T) {
	f := start(t)
	p := f.open(t, f.App)
	p.see("Sign in")
	p.click("#sign-in button[data-show=sign-up]")
	p.fill("sign-up", "username", "a b", "email", "a@example", "first_name", "Ada", "last_name", "Lovelace", "password", "password")
	p.see("Many people use this password.")
	shown := `[...document.querySelectorAll("form[name=sign-up] .fault")]` +
		`.map((fault) => fault.parentElement.querySelector("input").name).join(" ")`
	if got := p.evaluate(shown); got != "username password" && got != "username email password" {
		t.Errorf("errors are shown beside the fields %s", got)
	}
	if got := p.evaluate(`document.getElementById("error").textContent`); got != "" {
		t.Errorf("the page also shows %s", got)
	}
	p.fill("sign-up", "username", "abc", "email", "abc@example.com", "password", password)
	p.see("Check your inbox")
	p.behaved("")
}

func TestSessionsAreNamedAfterBrowserAndSystem(t *testing.T) {
	f := start(t)
	p := f.open(t, f.App)
	p.see("Sign in")
	for agent, want := range map[string]string{
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0":                                                           "Firefox on Windows",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15":                      "Safari on Mac",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1":    "Safari on iPhone",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/138.0 Mobile/15E148 Safari/604.1":     "Chrome on iPhone",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36 Edg/138.0.0.0":              "Edge on Windows",
		"Mozilla/5.0 (Linux; Android 14; SM-S921B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/27.0 Chrome/125.0.0.0 Mobile Safari/537.36": "Samsung Internet on Android",
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36 OPR/122.0.0.0":                        "Opera on Linux",
		"curl/8.5.0": "curl", "": "Unknown device",
	} {
		if got := p.evaluate(fmt.Sprintf(`import("./useragent.js").then(({ describe }) => describe(%q))`, agent)); got != want {
			t.Errorf("%s: %s, want %s", agent, got, want)
		}
	}
}

func TestWhoTriesTooOftenIsToldHowLongToWait(t *testing.T) {
	f := start(t)
	p := f.open(t, f.App)
	p.see("Sign in")
	p.until("the gateway refuses to try more passwords", func() bool {
		p.signIn("nobody.of.this.name", "a wrong password")
		p.until("it answers", func() bool { return p.evaluate(`document.getElementById("error").textContent`) != "" })
		return strings.Contains(p.evaluate(`document.getElementById("error").textContent`), "Try again in ")
	})
	// Then the page lets the user try again.
	p.until("the button can be pressed again", func() bool {
		return p.evaluate(`document.querySelector("form[name=sign-in] button").disabled`) == "false"
	})
	p.behaved("")
}

func TestAPageOfAnotherOriginReadsNothing(t *testing.T) {
	f := start(t)
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
	}))
	defer stranger.Close()
	own, other := f.open(t, f.App), f.open(t, stranger.URL)
	own.see("Sign in")
	for _, call := range []string{
		"fetch('" + f.URL + "/.well-known/jwks.json')",
		"fetch('" + f.URL + "/users', {headers: {Authorization: 'Bearer x'}})",
		"fetch('" + f.URL + "/tokens/signin', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{}'})",
		"fetch('" + f.URL + "/tokens', {method: 'POST', headers: {'Content-Type': 'application/x-www-form-urlencoded'}, body: 'refresh_token=x'})",
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
