package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is for what gives no signal. On a busy machine a browser is slow.
const patience = time.Minute

// rig is make run, and a browser.
type rig struct {
	gateway, mailbox, app string // URLs
	browser               context.Context
}

var greeting = regexp.MustCompile(`(?s)Auth Gateway runs at (\S+)\n.*its mail +(\S+), and here\n.*:\n\n  (\S+)\n\nCtrl-C stops it`)

// TestMain ends what the tests have shared.
func TestMain(m *testing.M) {
	code := m.Run()
	for _, end := range slices.Backward(ends) {
		if err := end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if code != 0 {
		fmt.Fprintf(os.Stderr, "make run said\n%s\n", said)
	}
	os.Exit(code)
}

var (
	ends []func() error
	said = new(output) // what make run did

	shared = sync.OnceValues(func() (*rig, error) {
		r := new(rig)
		return r, errors.Join(r.startBrowser(), r.run())
	})
)

// start gives what all tests share; each has persons of its own.
func start(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the server, and starts a browser")
	}
	if chromium() == "" {
		t.Skip("there is no chromium")
	}
	r, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) run() error {
	dir, err := os.MkdirTemp("", "browser")
	if err != nil {
		return err
	}
	ends = append(ends, func() error { return os.RemoveAll(dir) })
	for _, program := range []string{"./cmd/authserver", "./hack/run"} {
		build := exec.Command("go", "build", "-o", dir+"/", program)
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", program, err, out)
		}
	}
	// Where we are root, PostgreSQL runs as somebody else, who has to get there.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	run := exec.Command(filepath.Join(dir, "run"), "-server", filepath.Join(dir, "authserver"), "-dir", filepath.Join(dir, "local"))
	run.Env = append(os.Environ(), "EXPOSURE=public", "SALT_ROUNDS=4",
		"ACCESS_TOKEN_EXPIRY=4", // so that pages renew while a test looks
		// All that these tests do comes from one address.
		"LIMIT_SIGNIN=1000/5m", "LIMIT_SIGNUP=1000/5m", "LIMIT_CODES=1000/5m")
	for _, name := range []string{"PORT", "METRICS_PORT", "SMTP_PORT", "MAILBOX_PORT", "APP_PORT"} {
		port, err := freePort()
		if err != nil {
			return err
		}
		run.Env = append(run.Env, name+"="+port)
	}
	run.Stdout, run.Stderr = said, said
	run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := run.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- run.Wait() }()
	ends = append(ends, func() error {
		_ = run.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		if err := <-ended; err != nil {
			return fmt.Errorf("make run ended: %w", err)
		}
		return nil
	})
	for deadline := time.Now().Add(10 * patience); ; time.Sleep(50 * time.Millisecond) { // PostgreSQL may have to be installed
		if at := greeting.FindStringSubmatch(said.String()); at != nil {
			r.gateway, r.mailbox, r.app = at[1], at[2], at[3]
			return nil
		}
		select {
		case err := <-ended:
			ended <- err
			return errors.New("make run ended before it was ready")
		default:
		}
		if time.Now().After(deadline) {
			return errors.New("make run does not get ready")
		}
	}
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port, l.Close()
}

// output collects what a program says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// chromium gives the browser's program; "" where there is none.
func chromium() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			return found
		}
	}
	return ""
}

func (r *rig) startBrowser() error {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium()), chromedp.Flag("disable-dev-shm-usage", true))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // chromium refuses root without
	}
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	ends = append(ends, func() error { cancel(); return nil })
	r.browser, cancel = chromedp.NewContext(allocator)
	ends = append(ends, func() error { cancel(); return nil })
	return chromedp.Do(r.browser)
}

// tab is a page in the browser, and what it did.
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

// open opens a page in a tab of its own, as a link in another program would.
func (r *rig) open(t *testing.T, url string) *tab {
	t.Helper()
	p := watch(t, r.browser)
	p.do(chromedp.Navigate(url))
	return p
}

// watch takes part in a tab, a new one where the options name none, from before it
// does anything.
func watch(t *testing.T, parent context.Context, options ...chromedp.ContextOption) *tab {
	t.Helper()
	p := &tab{t: t}
	ctx, cancel := chromedp.NewContext(parent, append(options, chromedp.WithListener(p.observe))...)
	t.Cleanup(cancel)
	p.ctx = ctx
	// The tab lives as long as the context of this first call: no deadline.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	for _, domain := range []cdp.Command[cdp.Empty, cdp.Empty]{runtime.Enable, log.Enable, audits.Enable} {
		if err == nil {
			_, err = chromedp.Call(ctx, domain, cdp.Empty{})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// expected are the errors that a browser writes of every reply that is one; the
// test expects these replies. It tells of them by their status.
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
		p.wrong = append(p.wrong, fmt.Sprintf("it writes into the console: %s %v", e.Type, e.Args))
	case *log.EventEntryAdded:
		if !expected.MatchString(e.Entry.Text) {
			p.wrong = append(p.wrong, fmt.Sprintf("the browser writes into the console: %s", e.Entry.Text))
		}
	case *audits.EventIssueAdded:
		if csp := e.Issue.Details.ContentSecurityPolicyIssueDetails; csp != nil {
			p.wrong = append(p.wrong, fmt.Sprintf("its policy is violated: %s %s", csp.ContentSecurityPolicyViolationType, csp.ViolatedDirective))
		}
	}
}

// do does what a person would, who does not wait for ever.
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

// fill fills in fields of a form, a name and a text each, and sends it.
func (p *tab) fill(form string, fields ...string) {
	p.t.Helper()
	base := fmt.Sprintf("form[name=%s] ", form)
	for i := 0; i < len(fields); i += 2 {
		at := fmt.Sprintf("%sinput[name=%s]", base, fields[i])
		p.do(chromedp.WaitVisible(chromedp.CSS(at)))
		p.evaluate(fmt.Sprintf("document.querySelector(%q).select()", at)) // what is typed replaces what is there
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

// evaluate gives the value of an expression, as text.
func (p *tab) evaluate(expression string) string {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	byPerson := func(e *runtime.EvaluateParams) { yes := true; e.UserGesture = &yes }
	value, err := chromedp.Run(ctx, chromedp.Evaluate[any](expression, chromedp.EvalAwaitPromise, byPerson))
	if err != nil {
		return err.Error() // the page may be on its way to another
	}
	return fmt.Sprint(value)
}

func (p *tab) until(what string, holds func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("it does not come to this: %s. The page shows\n%s", what, p.evaluate("document.body.innerText"))
		}
	}
}

// sent counts the requests of a method whose URL ends so.
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

// behaved checks what has to hold of all that a tab did: nothing went wrong, and
// the secret is in no URL, in the address bar no more than in the history.
func (p *tab) behaved(secret string) {
	p.t.Helper()
	history, err := chromedp.Run(p.ctx, chromedp.NavigationEntries())
	if err != nil {
		p.t.Fatal(err)
	}
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

// mailedLink waits for a mail to the address with a link of this kind, and gives
// the link of the newest.
func (r *rig) mailedLink(t *testing.T, to, kind string) (link, code string) {
	t.Helper()
	p := r.open(t, r.mailbox)
	p.until("there is a mail to "+to+" with a link #"+kind, func() bool {
		for _, mail := range strings.Fields(p.evaluate(fmt.Sprintf(
			`[...document.querySelectorAll("tbody tr")].filter((row) => row.cells[1]?.textContent === %q).map((row) => row.querySelector("a").href).join(" ")`, to))) {
			if !strings.HasPrefix(mail, r.mailbox) {
				break // not a URL, but that the page was on its way
			}
			p.do(chromedp.Navigate(mail))
			link = p.evaluate(fmt.Sprintf(`document.querySelector("pre a[href*='#%s=']")?.href ?? ""`, kind))
			if _, after, found := strings.Cut(link, "#"+kind+"="); found {
				code = after
				return true
			}
		}
		p.do(chromedp.Navigate(r.mailbox))
		return false
	})
	p.behaved("")
	return link, code
}
