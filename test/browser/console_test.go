package browser

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/nodejs"
)

var screenshots = flag.String("screenshots", "", "folder for the screenshots of the documentation")

// screen is what the person looks at.
type screen struct {
	name   string
	width  int64
	height int64
	scheme string
}

// show makes the tab look like a screen.
func (p *tab) show(s screen) {
	p.t.Helper()
	_, err := chromedp.Call(p.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: s.width, Height: s.height, DeviceScaleFactor: 1, Mobile: s.width < 600,
	})
	testenv.NoError(p.t, err)
	_, err = chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: s.scheme}},
	})
	testenv.NoError(p.t, err)
}

// press sends keys to what has the focus.
func (p *tab) press(keys string) {
	p.t.Helper()
	p.do(chromedp.KeyEvent(keys))
}

// tabTo moves the focus with the Tab key until it is on an element with this text.
func (p *tab) tabTo(text string) {
	p.t.Helper()
	for range 40 {
		p.press(kb.Tab)
		if strings.HasPrefix(p.evaluate("document.activeElement.innerText"), text) {
			return
		}
	}
	p.t.Fatalf("the Tab key never leads to %q", text)
}

// picture judges the page by the rules of axe and by its width, and takes a screenshot for the documentation.
func (p *tab) picture(axe string, s screen, name string) {
	p.t.Helper()
	p.evaluate(axe)
	found := p.evaluate(`axe.run(document, {preload: false}).then((r) => JSON.stringify(
		r.violations.map((v) => [v.impact, v.id, v.nodes.map((n) => n.target.join(" ") + ": " + n.failureSummary).join("; ")])))`)
	var violations [][]string
	if err := json.Unmarshal([]byte(found), &violations); err != nil {
		p.t.Fatalf("axe says %s", found)
	}
	for _, v := range violations {
		p.t.Errorf("%s, %s: %s", name, s.name, strings.Join(v, ", "))
	}
	if wide := p.evaluate("document.documentElement.scrollWidth"); wide != fmt.Sprint(s.width) {
		p.t.Errorf("%s, %s: the page is %s pixels wide", name, s.name, wide)
	}
	if *screenshots != "" && slices.Contains([]string{"account", "keys", "state"}, name) {
		image := testenv.Must(chromedp.Run(p.ctx, chromedp.FullScreenshot(100)))(p.t)
		testenv.NoError(p.t, os.WriteFile(filepath.Join(*screenshots, "console-"+name+"-"+s.name+".png"), image, 0o644))
	}
}

// TestConsoleByKeyboard finds a person, ends their sessions and rotates the keys without a mouse, on a phone and on a desk.
func TestConsoleByKeyboard(t *testing.T) {
	f := start(t)
	nodejs.Path(t)
	nodejs.Install(t, "node")
	axe := string(testenv.Must(os.ReadFile("node/node_modules/axe-core/axe.min.js"))(t))
	for i, s := range []screen{{"phone", 390, 844, "dark"}, {"desk", 1280, 800, "light"}} {
		t.Run(s.name, func(t *testing.T) {
			name := fmt.Sprintf("grace%d", i)
			mailed := f.signUp(t, name)
			p := f.open(t, f.Console)
			p.show(s)
			p.see("Key of an administrator")
			p.picture(axe, s, "sign-in")
			p.press("agadmin_wrong" + kb.Enter)
			p.see("This key is unknown or has expired.")
			p.picture(axe, s, "sign-in-refused")
			begin := time.Now()
			p.press(f.Key + kb.Enter)
			p.see("Find an account")
			p.see("key:developer")
			p.picture(axe, s, "accounts")
			p.press(name + "@example" + kb.Enter) // the field has the focus
			p.see("End all sessions")
			p.see("Chrome on Linux")
			p.picture(axe, s, "account")
			p.tabTo("End all sessions")
			p.press(kb.Enter)
			p.see("All sessions have ended.")
			p.see("This account has no session.")
			t.Logf("an account was found and its sessions ended after %s", time.Since(begin).Round(10*time.Millisecond))
			mailed.do(chromedp.Reload())
			mailed.see("Sign in")

			p.tabTo("Suspend…")
			p.press(kb.Enter)
			p.press(kb.Tab)
			p.press("abuse, ticket 17")
			p.press(kb.Enter)
			p.see("The account is suspended")
			p.see("“abuse, ticket 17”")
			p.picture(axe, s, "suspended")
			p.tabTo("Delete…")
			p.press(kb.Enter)
			p.press(kb.Tab)
			p.press("someone" + kb.Enter)
			p.see("The account was not deleted")
			p.picture(axe, s, "problem")

			p.do(chromedp.Navigate(f.Console + "/events"))
			p.see("account suspended")
			p.picture(axe, s, "events")
			p.do(chromedp.Navigate(f.Console + "/keys"))
			p.see("Rotate the keys")
			p.tabTo("Rotate the keys")
			p.press(kb.Enter)
			p.see("A rotation ") // has begun, or is in progress since the other screen
			p.see("Published")
			p.picture(axe, s, "keys")
			p.tabTo("Revoke a key…")
			p.press(kb.Enter)
			p.see("For a key that was stolen.")
			p.press(kb.Tab) // the keys
			p.press(kb.Tab)
			p.press("some other kid" + kb.Enter)
			p.see("The key was not revoked")
			p.do(chromedp.Navigate(f.Console + "/state"))
			p.see("This server")
			p.see("differs by")
			p.picture(axe, s, "state")
			p.do(chromedp.Navigate(f.Console + "/users?q=zz-of-this-name"))
			p.see("No account has a username")
			p.picture(axe, s, "empty")
			p.tabTo("Sign out")
			p.press(kb.Enter)
			p.see("Key of an administrator")
			p.behaved(f.Key)
		})
	}
}
