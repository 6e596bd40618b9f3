package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/makerun"
)

// patience limits each wait. A browser is slow on a busy machine.
const patience = time.Minute

// fixture is a running make run and a browser. All tests share it, and each test signs up its own users.
type fixture struct {
	*makerun.Server

	browser context.Context
}

var shared struct {
	sync.Once

	fixture *fixture
}

func TestMain(m *testing.M) { testenv.Main(m) }

func start(t *testing.T) *fixture {
	t.Helper()
	if testing.Short() {
		t.Skip("this test builds the server and starts a browser")
	}
	if chromium() == "" {
		t.Skip("chromium is not installed")
	}
	shared.Do(func() {
		f := &fixture{Server: makerun.Start(t, "public",
			"ACCESS_TOKEN_EXPIRY=4", // so that pages renew while a test looks
			// All requests of these tests come from one address.
			"LIMIT_SIGNIN=1000/5m", "LIMIT_SIGNUP=1000/5m", "LIMIT_CODES=1000/5m")}
		f.startBrowser(t)
		shared.fixture = f
	})
	if shared.fixture == nil {
		t.Fatal("make run or the browser did not start; the first test reports the reason")
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the output of make run:\n%s", shared.fixture)
		}
	})
	return shared.fixture
}

// chromium returns the path of the browser, or "".
func chromium() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			return found
		}
	}
	return ""
}

func (f *fixture) startBrowser(t *testing.T) {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium()), chromedp.Flag("disable-dev-shm-usage", true))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // chromium refuses to run as root otherwise
	}
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	browser, cancel := chromedp.NewContext(allocator)
	testenv.AtExit(t, func() error { cancel(); cancelAllocator(); return nil })
	testenv.NoError(t, chromedp.Do(browser))
	f.browser = browser
}

// tab is a page in the browser, with a record of what it did.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	requests []request
	wrong    []string
}

type request struct {
	method, url, referer string // the method of a preflight is OPTIONS
}

// open opens a page in its own tab, like a link in another program.
func (f *fixture) open(t *testing.T, url string) *tab {
	t.Helper()
	p := watch(t, f.browser)
	p.do(chromedp.Navigate(url))
	return p
}

// watch opens a tab, or attaches to the one that the options name, and records what it does from the start.
func watch(t *testing.T, parent context.Context, options ...chromedp.ContextOption) *tab {
	t.Helper()
	p := &tab{t: t}
	ctx, cancel := chromedp.NewContext(parent, append(options, chromedp.WithListener(p.observe))...)
	t.Cleanup(cancel)
	p.ctx = ctx
	// The tab lives as long as the context of this first call, so the context has no deadline.
	testenv.NoError(t, chromedp.Do(ctx))
	_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	for _, domain := range []cdp.Command[cdp.Empty, cdp.Empty]{runtime.Enable, log.Enable, audits.Enable} {
		if err == nil {
			_, err = chromedp.Call(ctx, domain, cdp.Empty{})
		}
	}
	testenv.NoError(t, err)
	return p
}

// expected matches the console messages of the browser about replies with an error status, which the tests expect.
var expected = regexp.MustCompile(`^Failed to load resource: the server responded with a status of 4\d\d `)

func (p *tab) observe(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		referer, _ := e.Request.Headers["Referer"].(string)
		p.requests = append(p.requests, request{e.Request.Method, e.Request.URL, referer})
	case *runtime.EventExceptionThrown:
		p.wrong = append(p.wrong, fmt.Sprintf("an exception: %s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
	case *runtime.EventConsoleAPICalled:
		p.wrong = append(p.wrong, fmt.Sprintf("the page writes to the console: %s %v", e.Type, e.Args))
	case *log.EventEntryAdded:
		if !expected.MatchString(e.Entry.Text) {
			p.wrong = append(p.wrong, fmt.Sprintf("the browser writes to the console: %s", e.Entry.Text))
		}
	case *audits.EventIssueAdded:
		if csp := e.Issue.Details.ContentSecurityPolicyIssueDetails; csp != nil {
			p.wrong = append(p.wrong, fmt.Sprintf("its policy is violated: %s %s", csp.ContentSecurityPolicyViolationType, csp.ViolatedDirective))
		}
	}
}

// do performs actions with a time limit.
func (p *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatalf("%v; the page shows\n%s", err, p.evaluate("document.body.innerText"))
	}
}

func (p *tab) click(selector string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS(selector)))
}

// fill fills in fields of a form, given as names and texts, and submits it.
func (p *tab) fill(form string, fields ...string) {
	p.t.Helper()
	base := fmt.Sprintf("form[name=%s] ", form)
	for i := 0; i < len(fields); i += 2 {
		at := fmt.Sprintf("%sinput[name=%s]", base, fields[i])
		p.do(chromedp.WaitVisible(chromedp.CSS(at)))
		p.evaluate(fmt.Sprintf("document.querySelector(%q).select()", at)) // so typing replaces the old text
		p.do(chromedp.SendKeys(chromedp.CSS(at), fields[i+1]))
	}
	p.click(base + "button")
}

// see waits until the page shows a text.
func (p *tab) see(text string) {
	p.t.Helper()
	p.until("the page shows "+strconv.Quote(text), func() bool {
		return strings.Contains(p.evaluate("document.body.innerText"), text)
	})
}

// evaluate returns the value of an expression as text.
func (p *tab) evaluate(expression string) string {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	byPerson := func(e *runtime.EvaluateParams) { yes := true; e.UserGesture = &yes }
	value, err := chromedp.Run(ctx, chromedp.Evaluate[any](expression, chromedp.EvalAwaitPromise, byPerson))
	if err != nil {
		return err.Error() // the page may be navigating
	}
	return fmt.Sprint(value)
}

func (p *tab) until(what string, holds func() bool) {
	p.t.Helper()
	testenv.Eventually(p.t, patience, what, func() error {
		if !holds() {
			return fmt.Errorf("the page shows\n%s", p.evaluate("document.body.innerText"))
		}
		return nil
	})
}

// sent counts the requests of a method whose URL ends with end.
func (p *tab) sent(method, end string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, r := range p.requests {
		if r.method == method && strings.HasSuffix(r.url, end) {
			n++
		}
	}
	return n
}

// behaved checks that nothing went wrong in the tab, and that the secret is in no URL and not in the history.
func (p *tab) behaved(secret string) {
	p.t.Helper()
	history := testenv.Must(chromedp.Run(p.ctx, chromedp.NavigationEntries()))(p.t)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, wrong := range p.wrong {
		p.t.Error(wrong)
	}
	if secret == "" {
		return
	}
	for _, e := range history.Entries {
		if strings.Contains(e.URL, secret) {
			p.t.Errorf("the history has %s", e.URL)
		}
	}
	for _, r := range p.requests {
		if strings.Contains(r.url, secret) || strings.Contains(r.referer, secret) {
			p.t.Errorf("a code is in the URL or the Referer of %s %s", r.method, r.url)
		}
	}
}

// mailedLink waits for a mail to the address with a link of this kind, and returns the newest link.
func (f *fixture) mailedLink(t *testing.T, to, kind string) (link, code string) {
	t.Helper()
	p := f.open(t, f.Mailbox)
	p.until("there is a mail to "+to+" with a link #"+kind, func() bool {
		for _, mail := range strings.Fields(p.evaluate(fmt.Sprintf(
			`[...document.querySelectorAll("tbody tr")].filter((row) => row.cells[1]?.textContent === %q).map((row) => row.querySelector("a").href).join(" ")`, to))) {
			if !strings.HasPrefix(mail, f.Mailbox) {
				break // the error of evaluate: the page was navigating
			}
			p.do(chromedp.Navigate(mail))
			link = p.evaluate(fmt.Sprintf(`document.querySelector("pre a[href*='#%s=']")?.href ?? ""`, kind))
			if _, after, found := strings.Cut(link, "#"+kind+"="); found {
				code = after
				return true
			}
		}
		p.do(chromedp.Navigate(f.Mailbox))
		return false
	})
	p.behaved("")
	return link, code
}
