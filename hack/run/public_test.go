package main

import (
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/smtp"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/smtpsink"
)

// setting returns the value of a setting of the started server.
func (r running) setting(t *testing.T, name string) string {
	t.Helper()
	value := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(r.String())
	if value == nil {
		t.Fatalf("%s is not in\n%s", name, r)
	}
	return value[1]
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	response := testenv.Must(http.Get(url))(t)
	defer response.Body.Close()
	body := testenv.Must(io.ReadAll(response.Body))(t)
	return response, string(body)
}

// deliver sends a mail as the server would.
func deliver(t *testing.T, address, to, mail string) error {
	t.Helper()
	return smtp.SendMail(address, nil, "no-reply@example.com", []string{to}, []byte(strings.ReplaceAll(mail, "\n", "\r\n")))
}

const verification = `From: Auth Gateway <no-reply@example.com>
To: ada@example.com
Subject: =?utf-8?q?Best=C3=A4tigen_Sie?=
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary=x

--x
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Folgen Sie dem Link: http://localhost:8026/#verify=3DABCDEFGHIJKLMNOPQRSTUVWXY2
oder schreiben Sie den Code
ABCDEFGHIJKLMNOPQRSTUVWXY2
--x
Content-Type: text/html; charset=utf-8

<p onclick="alert('1')">Folgen Sie <a href="http://localhost:8026/#verify=ABCDEFGHIJKLMNOPQRSTUVWXY2">dem Link</a></p><script>alert("2")</script></iframe>
--x--
`

func TestPublicExposureServesAnApplicationAndAMailbox(t *testing.T) {
	t.Setenv(serverVariable, "serve")
	t.Setenv("EXPOSURE", "public")
	t.Setenv("SIGNUP_REQUIRED", "username,last_name")
	r := startReady(t, os.Args[0], t.TempDir())
	greeting := regexp.MustCompile(`(?s)\n  mail +(\S+), and in this terminal\n.*Open the example application[^:]*:\n\n  (\S+)\n`)
	greeted := greeting.FindStringSubmatch(r.String())
	if greeted == nil {
		t.Fatalf("the URLs of the mailbox and the application are missing:\n%s", r)
	}
	box, app := greeted[1], greeted[2]

	gateway := "http://localhost:" + r.setting(t, "PORT")
	for name, want := range map[string]string{
		"EXPOSURE": "public", "LIMIT_MAILS": "off", "SMTP_HOST": "localhost", "SMTP_TLS": "none", "CORS_ALLOWED_ORIGINS": app,
		"MAIL_LINK_VERIFICATION":   app + "/#verify={code}",
		"MAIL_LINK_PASSWORD_RESET": app + "/#reset={code}",
		"MAIL_LINK_EMAIL_CHANGE":   app + "/#email={code}",
		"MAIL_LINK_INVITATION":     app + "/#reset={code}",
	} {
		if got := r.setting(t, name); got != want {
			t.Errorf("%s is %q, not %q", name, got, want)
		}
	}
	if _, body := get(t, app+"/config.json"); body != `{"gateway":"`+gateway+`","signup_required":"username,last_name"}` {
		t.Errorf("the application's config.json is %s", body)
	}
	response, page := get(t, app+"/")
	if policy := response.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy,
		"default-src 'none'; script-src 'self'; style-src 'self'; ") ||
		!strings.Contains(policy, " connect-src 'self' "+gateway+";") || strings.Contains(policy, "unsafe") {
		t.Errorf("the application's policy is %q", policy)
	}
	for _, link := range regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if response, _ := get(t, app+"/"+link[1]); response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", link[1], response.Status)
		}
	}

	if _, list := get(t, box); !strings.Contains(list, "There is none yet") {
		t.Errorf("the list without mail is\n%s", list)
	}
	testenv.NoError(t, deliver(t, "localhost:"+r.setting(t, "SMTP_PORT"), "ada@example.com", verification))
	r.WaitFor(t, patience, "Mail to ada@example.com: Bestätigen Sie\n"+
		"  link  http://localhost:8026/#verify=ABCDEFGHIJKLMNOPQRSTUVWXY2\n"+
		"  code  ABCDEFGHIJKLMNOPQRSTUVWXY2\n"+
		"  all   "+box+"/mails/1\n")
	if _, list := get(t, box); !strings.Contains(list, `<a href="/mails/1">Bestätigen Sie</a>`) {
		t.Errorf("the list with a mail is\n%s", list)
	}
	if response, _ := get(t, box+"/mails/2"); response.StatusCode != http.StatusNotFound {
		t.Errorf("a missing mail: %s", response.Status)
	}
	r.finish(t)
	for _, url := range []string{box, app} {
		if response, err := http.Get(url); err == nil {
			response.Body.Close()
			t.Errorf("%s still answers", url)
		}
	}
}

func TestSettingsOfTheCallerAreKept(t *testing.T) {
	t.Setenv(serverVariable, "serve")
	own := map[string]string{
		"EXPOSURE": "public", "SMTP_HOST": "smtp.example.com", "SMTP_PORT": "2525", "SMTP_TLS": "implicit", "MAIL_FROM": "me@example.com",
		"LIMIT_MAILS": "7/1h", "CORS_ALLOWED_ORIGINS": "http://localhost:3000", "MAIL_LINK_VERIFICATION": "http://localhost:3000/#{code}",
	}
	for name, value := range own {
		t.Setenv(name, value)
	}
	r := startReady(t, os.Args[0], t.TempDir())
	for name, want := range own {
		if got := r.setting(t, name); got != want {
			t.Errorf("%s is %q, not %q", name, got, want)
		}
	}
	if strings.Contains(r.String(), "SMTP server") {
		t.Errorf("mail goes elsewhere, but the output is\n%s", r)
	}
	r.finish(t)
}

// listening starts a mailbox, and returns it with its output and the address at which it accepts mail.
func listening(t *testing.T) (m *mailbox, out *testenv.Output, address string) {
	t.Helper()
	out = &testenv.Output{}
	m = &mailbox{out: out, url: "http://localhost"}
	l := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	server := m.smtpServer()
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = closing{l, server}.Close() })
	return m, out, l.Addr().String()
}

func (m *mailbox) receive(t *testing.T, raw string) {
	t.Helper()
	testenv.NoError(t, m.add(smtpsink.Mail{From: "a@example.com", To: []string{"b@example.com"}, Raw: []byte(raw)}))
}

func (m *mailbox) ask(host, path string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodGet, path, nil)
	request.Host = host
	w := httptest.NewRecorder()
	m.handler().ServeHTTP(w, request)
	return w
}

func TestMailboxDeletesTheOldestAndRefusesTheLargest(t *testing.T) {
	t.Parallel()
	m, _, address := listening(t)
	for i := range mostMails + 5 {
		m.receive(t, fmt.Sprintf("Subject: number %d\r\n\r\ntext", i+1))
	}
	mails := m.newestFirst()
	if len(mails) != mostMails || mails[0].Subject != "number 105" || mails[mostMails-1].Subject != "number 6" {
		t.Errorf("%d mails, from %q to %q", len(mails), mails[0].Subject, mails[len(mails)-1].Subject)
	}
	if m.ask("localhost:8025", "/mails/5").Code != http.StatusNotFound || m.ask("localhost:8025", "/mails/6").Code != http.StatusOK {
		t.Error("the pages do not match the stored mails")
	}
	line := strings.Repeat("x", 70) + "\n"
	if err := deliver(t, address, "b@example.com", "Subject: large\n\n"+strings.Repeat(line,
		largestMail/len(line)+1)); err == nil || !strings.HasPrefix(err.Error(), "552 ") {
		t.Errorf("a mail that is too large: %v", err)
	}
	if err := deliver(t, address, "b@example.com", "Subject: small\n\ntext"); err != nil || m.newestFirst()[0].Subject != "small" {
		t.Errorf("%v, %q", err, m.newestFirst()[0].Subject)
	}
}

func TestMailboxPageRunsNothingOfAMail(t *testing.T) {
	t.Parallel()
	m, out, address := listening(t)
	hostile := strings.Replace(verification, "=?utf-8?q?Best=C3=A4tigen_Sie?=", "=?utf-8?q?=1B]0;<script>alert(3)</script>?=", 1)
	testenv.NoError(t, deliver(t, address, "ada@example.com", hostile))
	if strings.ContainsRune(out.String(), '\x1b') {
		t.Errorf("the output controls the terminal: %q", out)
	}
	for _, path := range []string{"/", "/mails/1"} {
		w := m.ask("localhost:8025", path)
		body := w.Body.String()
		if policy := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; ") ||
			strings.Contains(policy, "script-src") {
			t.Errorf("%s: the policy is %q", path, policy)
		}
		if w.Code != http.StatusOK || strings.Contains(body, "<script") || strings.Contains(body, "onclick=\"") {
			t.Errorf("%s: %d\n%s", path, w.Code, body)
		}
	}
	page := m.ask("localhost:8025", "/mails/1").Body.String()
	frame := regexp.MustCompile(`<iframe sandbox title="[^"]*" srcdoc="([^"]*)"></iframe>`).FindStringSubmatch(page)
	if frame == nil {
		t.Fatalf("the frame is missing, or is allowed to do something:\n%s", page)
	}
	if shown := html.UnescapeString(frame[1]); shown != m.newestFirst()[0].HTML {
		t.Errorf("the frame shows %q", shown)
	}
	if !strings.Contains(page,
		`<a href="http://localhost:8026/#verify=ABCDEFGHIJKLMNOPQRSTUVWXY2" target="_blank" rel="noopener noreferrer">`) {
		t.Errorf("the link in the text is not a link on the page:\n%s", page)
	}
}

func TestMailboxAnswersOnlyToItsOwnName(t *testing.T) {
	t.Parallel()
	m, _, _ := listening(t)
	for name, want := range map[string]int{
		"localhost:8025": http.StatusOK, "127.0.0.1:8025": http.StatusOK, "[::1]:8025": http.StatusOK,
		"evil.example:8025": http.StatusMisdirectedRequest, "localhost.evil.example:8025": http.StatusMisdirectedRequest,
		"evil.example": http.StatusMisdirectedRequest,
	} {
		if w := m.ask(name, "/"); w.Code != want {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

func TestMailboxShowsBrokenMail(t *testing.T) {
	t.Parallel()
	m, _, _ := listening(t)
	for _, raw := range []string{"no header at all", "", "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n",
		"Content-Type: text/plain; charset=no-such\r\n\r\nstill read"} {
		m.receive(t, raw)
		c := m.newestFirst()[0]
		if !strings.Contains(c.Text, raw[strings.LastIndex(raw, "\n")+1:]) {
			t.Errorf("%q is shown as %q", raw, c.Text)
		}
		if w := m.ask("localhost:1", fmt.Sprintf("/mails/%d", c.ID)); w.Code != http.StatusOK {
			t.Errorf("%q: %d", raw, w.Code)
		}
	}
}
