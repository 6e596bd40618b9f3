package mail

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	netmail "net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const password = "correct horse battery staple"

// authority creates a self-signed certificate for localhost and 127.0.0.1, and a CA file that contains it.
func authority(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key := testenv.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der := testenv.Must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	testenv.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// received is a mail that the server accepted.
type received struct {
	from, to string
	content  []byte
}

// post is an SMTP server. Its hooks can refuse a command, delay it or drop the connection.
type post struct {
	*gosmtp.Server
	addr       *net.TCPAddr
	mechanisms []string
	onMail     func(c *gosmtp.Conn, n int) error // n is the number of the connection
	onRcpt     func(c *gosmtp.Conn, to string) error
	onData     func(c *gosmtp.Conn, r io.Reader) error

	connections atomic.Int64
	secured     atomic.Int64 // mails received over TLS
	authed      atomic.Int64

	mu    sync.Mutex
	mails []received
}

func (p *post) taken() []received {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]received(nil), p.mails...)
}

type session struct {
	post     *post
	conn     *gosmtp.Conn
	n        int
	from, to string
}

func (p *post) NewSession(c *gosmtp.Conn) (gosmtp.Session, error) {
	return &session{post: p, conn: c, n: int(p.connections.Add(1))}, nil
}

func (s *session) Reset()        { s.from, s.to = "", "" }
func (s *session) Logout() error { return nil }
func (s *session) Mail(from string, _ *gosmtp.MailOptions) error {
	s.from = from
	if s.post.onMail != nil {
		return s.post.onMail(s.conn, s.n)
	}
	return nil
}

func (s *session) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	s.to = to
	if s.post.onRcpt != nil {
		return s.post.onRcpt(s.conn, to)
	}
	return nil
}

func (s *session) Data(r io.Reader) error {
	if s.post.onData != nil {
		if err := s.post.onData(s.conn, r); err != nil {
			return err
		}
	}
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if _, ok := s.conn.TLSConnectionState(); ok {
		s.post.secured.Add(1)
	}
	s.post.mu.Lock()
	defer s.post.mu.Unlock()
	s.post.mails = append(s.post.mails, received{s.from, s.to, content})
	return nil
}

func (s *session) AuthMechanisms() []string { return s.post.mechanisms }

func (s *session) Auth(mech string) (sasl.Server, error) {
	check := func(user, pass string) error {
		if user != "ada" || pass != password {
			return &gosmtp.SMTPError{Code: 535, EnhancedCode: gosmtp.EnhancedCode{5, 7, 8}, Message: "no " + user + " " + pass}
		}
		s.post.authed.Add(1)
		return nil
	}
	switch mech {
	case sasl.Plain:
		return sasl.NewPlainServer(func(_, user, pass string) error { return check(user, pass) }), nil
	case "LOGIN":
		return &loginServer{check: check}, nil
	case "CRAM-MD5":
		return &cramServer{check: check}, nil
	}
	return nil, gosmtp.ErrAuthUnknownMechanism
}

type loginServer struct {
	check func(user, pass string) error
	said  []string
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	if response != nil {
		l.said = append(l.said, string(response))
	}
	switch len(l.said) {
	case 0:
		return []byte("Username:"), false, nil
	case 1:
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(l.said[0], l.said[1])
}

type cramServer struct{ check func(user, pass string) error }

func (c *cramServer) Next(response []byte) (challenge []byte, done bool, err error) {
	const sent = "<1.2@example.com>"
	if response == nil {
		return []byte(sent), false, nil
	}
	mac := hmac.New(md5.New, []byte(password))
	_, _ = mac.Write([]byte(sent))
	user, digest, _ := strings.Cut(string(response), " ")
	if digest != hex.EncodeToString(mac.Sum(nil)) {
		return nil, true, c.check(user, "")
	}
	return nil, true, c.check(user, password)
}

// open starts the SMTP server at addr.
func (p *post) open(t *testing.T, addr string, implicit bool) {
	t.Helper()
	listener := testenv.Must(net.Listen("tcp", addr))(t)
	p.addr = listener.Addr().(*net.TCPAddr)
	certificates := p.Server
	p.Server = gosmtp.NewServer(p)
	p.Domain, p.AllowInsecureAuth = "post.example.com", true
	p.ErrorLog = log.New(io.Discard, "", 0)
	if certificates != nil {
		p.TLSConfig = certificates.TLSConfig
	}
	if implicit {
		listener = tls.NewListener(listener, p.TLSConfig)
	}
	var done sync.WaitGroup
	server := p.Server
	done.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		_ = server.Close()
		_ = listener.Close() // in case Serve has not started yet
		done.Wait()
	})
}

func (p *post) options() SMTPOptions {
	return SMTPOptions{
		Host: "127.0.0.1", Port: p.addr.Port, TLS: NoTLS, From: "Auth Gateway <no-reply@example.com>", Hello: "auth.example.com",
		Password: func() string { return password },
	}
}

func transport(t *testing.T, o SMTPOptions) *SMTP {
	t.Helper()
	return testenv.Must(NewSMTP(o))(t)
}

func conn(t *testing.T, s *SMTP) Conn {
	t.Helper()
	l := s.Open()
	t.Cleanup(l.Close)
	return l
}

func sendOne(t *testing.T, l Conn, m identity.Message) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return l.Send(ctx, m, render(t, mustTemplates(t, TemplateOptions{}), m))
}

// mustBeTransportError and mustBeMailError also check that errors contain no secrets.
func mustBeTransportError(t *testing.T, err error, code int, words ...string) {
	t.Helper()
	var e *TransportError
	if !errors.As(err, &e) || e.Reply.Code != code {
		t.Fatalf("%v (%T) is not a TransportError with %d", err, err, code)
	}
	mustTellNothing(t, err, words...)
}

func mustBeMailError(t *testing.T, err error, code int, permanent bool) {
	t.Helper()
	var e *MailError
	if !errors.As(err, &e) || e.Reply.Code != code || e.Permanent != permanent {
		t.Fatalf("%v (%T) is not a MailError with %d, permanent: %v", err, err, code, permanent)
	}
	mustTellNothing(t, err)
}

func mustTellNothing(t *testing.T, err error, words ...string) {
	t.Helper()
	m := aMessage(1)
	for _, secret := range []string{m.To, m.Code, password, "YWRh"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error contains %q: %v", secret, err)
		}
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not contain %q: %v", word, err)
		}
	}
}

func TestSMTPSendsAWellFormedMail(t *testing.T) {
	p := &post{}
	p.open(t, "127.0.0.1:0", false)
	m := aMessage(7)
	m.To = "ada@xn--bcher-kva.example"
	testenv.NoError(t, sendOne(t, conn(t, transport(t, p.options())), m))
	got := p.taken()
	if len(got) != 1 || got[0].from != "no-reply@example.com" || got[0].to != "ada@xn--bcher-kva.example" {
		t.Fatalf("the envelope is %+v", got)
	}
	parsed := testenv.Must(netmail.ReadMessage(bytes.NewReader(got[0].content)))(t)
	for field, want := range map[string]string{
		"From": `"Auth Gateway" <no-reply@example.com>`, "To": "<ada@xn--bcher-kva.example>",
		"Auto-Submitted": "auto-generated", "Mime-Version": "1.0", "Subject": "Confirm your email address for auth.example.com",
	} {
		if value := parsed.Header.Get(field); value != want {
			t.Errorf("%s is %q; want %q", field, value, want)
		}
	}
	if at, err := parsed.Header.Date(); err != nil || time.Since(at).Abs() > time.Hour {
		t.Errorf("the date is %v, error %v", at, err)
	}
	if id := parsed.Header.Get("Message-Id"); !strings.HasSuffix(id, "@example.com>") {
		t.Errorf("the Message-Id is %q", id)
	}
	for _, field := range []string{"X-Mailer", "User-Agent", "Bcc"} {
		if value, there := parsed.Header[field]; there {
			t.Errorf("the mail has a %s header: %q", field, value)
		}
	}
	kind, parameters, err := mime.ParseMediaType(parsed.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("the content type is %s, error %v", kind, err)
	}
	letter := render(t, mustTemplates(t, TemplateOptions{}), m)
	parts := multipart.NewReader(parsed.Body, parameters["boundary"])
	for _, want := range []struct{ kind, text string }{{"text/plain", letter.Text}, {"text/html", letter.HTML}} {
		part := testenv.Must(parts.NextRawPart())(t)
		kind, parameters, _ := mime.ParseMediaType(part.Header.Get("Content-Type"))
		if kind != want.kind || !strings.EqualFold(parameters["charset"], "utf-8") {
			t.Errorf("a part is %s %v; want %s", kind, parameters, want.kind)
		}
		text, err := io.ReadAll(quotedprintable.NewReader(part))
		if err != nil || strings.ReplaceAll(string(text), "\r\n", "\n") != want.text {
			t.Errorf("the %s part (error %v) is\n%s\nwant\n%s", kind, err, text, want.text)
		}
	}
	if _, err := parts.NextRawPart(); !errors.Is(err, io.EOF) {
		t.Errorf("another part follows, or an error: %v", err)
	}
	for n, wire := range strings.Split(string(got[0].content), "\r\n") {
		if len(wire) > 998 || strings.ContainsFunc(wire, func(r rune) bool { return r > '~' || r == '\r' || r == '\n' }) {
			t.Errorf("line %d is not allowed in a mail: %q", n+1, wire)
		}
	}
}

func TestSMTPEncodesASubjectInAnyScript(t *testing.T) {
	p := &post{}
	p.open(t, "127.0.0.1:0", false)
	subject := strings.Repeat("Grüße 你好 ", 20) + "end"
	err := conn(t, transport(t, p.options())).Send(t.Context(), aMessage(1), Letter{Subject: subject, Text: "."})
	if err != nil {
		t.Fatal(err)
	}
	parsed := testenv.Must(netmail.ReadMessage(bytes.NewReader(p.taken()[0].content)))(t)
	if read, err := new(mime.WordDecoder).DecodeHeader(parsed.Header.Get("Subject")); err != nil || read != subject {
		t.Errorf("the subject is %q, error %v", read, err)
	}
	if body, _ := io.ReadAll(parsed.Body); strings.TrimSpace(string(body)) != "." {
		t.Errorf("a line with only a dot became %q", body)
	}
}

func TestSMTPUsesTheConfiguredTLSAndAuthentication(t *testing.T) {
	certificate, ca := authority(t)
	for _, c := range []struct {
		name     string
		mode     TLSMode
		user     string
		offered  []string
		serverIs string // "", starttls, implicit
		host     string
		want     string // text of the error; "": success
	}{
		{"STARTTLS", StartTLS, "", nil, "starttls", "localhost", ""},
		{"implicit TLS", ImplicitTLS, "", nil, "implicit", "127.0.0.1", ""},
		{"PLAIN over STARTTLS", StartTLS, "ada", []string{"PLAIN", "LOGIN"}, "starttls", "127.0.0.1", ""},
		{"LOGIN over implicit TLS", ImplicitTLS, "ada", []string{"LOGIN"}, "implicit", "localhost", ""},
		{"CRAM-MD5 before PLAIN", StartTLS, "ada", []string{"PLAIN", "CRAM-MD5"}, "starttls", "127.0.0.1", ""},
		{"PLAIN to this machine without TLS", NoTLS, "ada", []string{"PLAIN"}, "", "127.0.0.1", ""},
		{"no STARTTLS where it is asked for", StartTLS, "", nil, "", "127.0.0.1", "does not offer STARTTLS"},
		{"another user", StartTLS, "eve", []string{"PLAIN"}, "starttls", "127.0.0.1", "authenticating: it replied 535 5.7.8"},
		{"another user by LOGIN", StartTLS, "eve", []string{"LOGIN"}, "starttls", "127.0.0.1", "authenticating: it replied 535 5.7.8"},
		{"a way to sign in that we do not know", StartTLS, "ada", []string{"GSSAPI"}, "starttls", "127.0.0.1", "SCRAM-SHA-256"},
		{"TLS to who speaks none", ImplicitTLS, "", nil, "", "127.0.0.1", "TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &post{mechanisms: c.offered}
			if c.serverIs != "" {
				p.Server = &gosmtp.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}
			}
			p.open(t, "127.0.0.1:0", c.serverIs == "implicit")
			o := p.options()
			o.TLS, o.Username, o.Host, o.CAFile = c.mode, c.user, c.host, ca
			err := sendOne(t, conn(t, transport(t, o)), aMessage(1))
			if c.want != "" {
				var e *TransportError
				if !errors.As(err, &e) || len(p.taken()) > 0 {
					t.Fatalf("the error is %v (%T), and %d mails were sent", err, err, len(p.taken()))
				}
				mustTellNothing(t, err, c.want)
				return
			}
			if err != nil || len(p.taken()) != 1 {
				t.Fatalf("the error is %v, and %d mails were sent", err, len(p.taken()))
			}
			if (c.mode != NoTLS) != (p.secured.Load() == 1) || (c.user != "") != (p.authed.Load() == 1) {
				t.Errorf("mails over TLS: %d, sign-ins: %d", p.secured.Load(), p.authed.Load())
			}
		})
	}
}

func TestSMTPSendsNothingToAServerWithAWrongCertificate(t *testing.T) {
	certificate, ca := authority(t)
	_, otherCA := authority(t)
	for _, mode := range []TLSMode{StartTLS, ImplicitTLS} {
		p := &post{Server: &gosmtp.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}, mechanisms: []string{"PLAIN"}}
		p.open(t, "127.0.0.1:0", mode == ImplicitTLS)
		o := p.options()
		o.TLS, o.Username = mode, "ada"
		for _, file := range []string{"", otherCA} {
			o.CAFile = file
			mustBeTransportError(t, sendOne(t, conn(t, transport(t, o)), aMessage(1)), 0, "certificate")
		}
		o.CAFile = ca
		l := conn(t, transport(t, o))
		testenv.NoError(t, os.Truncate(ca, 0))
		mustBeTransportError(t, sendOne(t, l, aMessage(1)), 0, ca, "PEM")
		if p.authed.Load() != 0 || len(p.taken()) != 0 {
			t.Error("the client sent a password or a mail")
		}
		certificate, ca = authority(t)
	}
}

func TestSMTPSendsNoPasswordInPlainTextToAnotherHost(t *testing.T) {
	// The host name is that of another machine, and is not resolved.
	p := &post{mechanisms: []string{"PLAIN", "LOGIN"}}
	p.open(t, "127.0.0.1:0", false)
	o := p.options()
	o.Username = "ada"
	s := transport(t, o)
	s.options.Host = "mail.example.com"
	mustBeTransportError(t, sendOne(t, conn(t, s), aMessage(1)), 0, "without TLS", "use STARTTLS")
	if p.authed.Load() != 0 {
		t.Error("the password was sent")
	}
	p.mechanisms = []string{"PLAIN", "CRAM-MD5"}
	if err := sendOne(t, conn(t, s), aMessage(1)); err != nil || p.authed.Load() != 1 {
		t.Errorf("the client did not use CRAM-MD5, which keeps the password secret: %v", err)
	}
}

func smtpError(code int, enhanced gosmtp.EnhancedCode) *gosmtp.SMTPError {
	// Some servers repeat the recipient in their replies.
	return &gosmtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: "<ada@example.com> no ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
}

func TestSMTPRefusalIsATransportErrorOrAMailError(t *testing.T) {
	for _, c := range []struct {
		name      string
		stage     string
		code      int
		enhanced  gosmtp.EnhancedCode
		transport bool
		permanent bool
		text      string
	}{
		{"sender for now", "mail", 451, gosmtp.EnhancedCode{4, 3, 0}, true, false, "451 4.3.0"},
		{"sender for good", "mail", 550, gosmtp.EnhancedCode{5, 7, 1}, true, false, "550 5.7.1"},
		{"recipient for now", "rcpt", 450, gosmtp.EnhancedCode{4, 2, 0}, false, false, "450 4.2.0"},
		{"recipient for good", "rcpt", 550, gosmtp.EnhancedCode{5, 1, 1}, false, true, "550 5.1.1"},
		{"recipient, closing", "rcpt", 421, gosmtp.EnhancedCode{4, 7, 0}, true, false, "421 4.7.0"},
		{"recipient before signing in", "rcpt", 530, gosmtp.EnhancedCode{5, 7, 0}, true, false, "530 5.7.0"},
		{"mail for now", "data", 452, gosmtp.EnhancedCode{4, 3, 1}, false, false, "452 4.3.1"},
		{"mail for good", "data", 554, gosmtp.EnhancedCode{5, 6, 0}, false, true, "554 5.6.0"},
		{"mail, closing", "data", 421, gosmtp.EnhancedCode{4, 3, 2}, true, false, "421 4.3.2"},
		{"without an enhanced code", "rcpt", 550, gosmtp.NoEnhancedCode, false, true, "replied 550"},
	} {
		t.Run(c.name, func(t *testing.T) {
			refusal := smtpError(c.code, c.enhanced)
			var willing atomic.Bool
			refuse := func() error {
				if willing.Load() {
					return nil
				}
				return refusal
			}
			p := &post{}
			switch c.stage {
			case "mail":
				p.onMail = func(*gosmtp.Conn, int) error { return refuse() }
			case "rcpt":
				p.onRcpt = func(*gosmtp.Conn, string) error { return refuse() }
			case "data":
				p.onData = func(_ *gosmtp.Conn, r io.Reader) error {
					if willing.Load() {
						return nil
					}
					_, _ = io.Copy(io.Discard, r)
					return refuse()
				}
			}
			p.open(t, "127.0.0.1:0", false)
			l := conn(t, transport(t, p.options()))
			err := sendOne(t, l, aMessage(1))
			if c.transport {
				mustBeTransportError(t, err, c.code, c.text)
			} else {
				mustBeMailError(t, err, c.code, c.permanent)
				mustTellNothing(t, err, c.text)
			}
			willing.Store(true)
			if err := sendOne(t, l, aMessage(2)); err != nil || len(p.taken()) != 1 {
				t.Errorf("the next mail: error %v, %d mails received", err, len(p.taken()))
			}
			if !c.transport && p.connections.Load() != 1 {
				t.Errorf("a refused mail closed the connection: %d connections", p.connections.Load())
			}
		})
	}
}

func TestSMTPBrokenConnectionIsJudgedByItsStep(t *testing.T) {
	drop := func(c *gosmtp.Conn) error { _ = c.Conn().Close(); return errors.New("gone") }
	for _, c := range []struct {
		name      string
		set       func(p *post)
		transport bool
	}{
		{"at the sender", func(p *post) { p.onMail = func(c *gosmtp.Conn, _ int) error { return drop(c) } }, true},
		{"at the recipient", func(p *post) { p.onRcpt = func(c *gosmtp.Conn, _ string) error { return drop(c) } }, false},
		{"in the middle of the mail", func(p *post) {
			p.onData = func(c *gosmtp.Conn, r io.Reader) error {
				_, _ = io.ReadFull(r, make([]byte, 100))
				return drop(c)
			}
		}, false},
		{"before the reply to the mail", func(p *post) {
			p.onData = func(c *gosmtp.Conn, r io.Reader) error {
				_, _ = io.Copy(io.Discard, r)
				return drop(c)
			}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &post{}
			c.set(p)
			p.open(t, "127.0.0.1:0", false)
			err := sendOne(t, conn(t, transport(t, p.options())), aMessage(1))
			if c.transport {
				mustBeTransportError(t, err, 0)
			} else {
				mustBeMailError(t, err, 0, false)
			}
		})
	}
}

// speaking starts a server that passes each connection to talk, to simulate behaviour that
// the SMTP server of these tests does not have.
func speaking(t *testing.T, talk func(net.Conn)) *net.TCPAddr {
	t.Helper()
	listener := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			done.Go(func() {
				defer func() { _ = conn.Close() }()
				talk(conn)
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); done.Wait() })
	return listener.Addr().(*net.TCPAddr)
}

func TestSMTPServerThatDoesNotSpeakSMTPIsATransportError(t *testing.T) {
	untilClosed := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	for _, c := range []struct {
		name string
		talk func(net.Conn)
		code int
		want string
	}{
		{"who refuses at the greeting", func(c net.Conn) { _, _ = io.WriteString(c, "554 ada@example.com\r\n") }, 554, "greeting: it replied 554"},
		{"who is busy", func(c net.Conn) { _, _ = io.WriteString(c, "421 4.3.2 later\r\n") }, 421, "421 4.3.2"},
		{"who closes", func(net.Conn) {}, 0, "closed the connection"},
		{"who speaks HTTP", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 ada@example.com\r\n\r\n"); untilClosed(c) }, 0, "not SMTP"},
		{"who says nothing", untilClosed, 0, "took too long"},
		{"who says it a letter at a time", func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, "2"); err != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		}, 0, "took too long"},
		{"who never answers EHLO", func(c net.Conn) { _, _ = io.WriteString(c, "220 x\r\n"); untilClosed(c) }, 0, "took too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &post{addr: speaking(t, c.talk)}
			s := transport(t, p.options())
			if strings.Contains(c.want, "too long") {
				s.connect = 100 * time.Millisecond
			}
			certain, err := conn(t, s).Ready(t.Context())
			if certain {
				t.Error("the transport reports that it is ready")
			}
			mustBeTransportError(t, err, c.code, c.want)
		})
	}
}

func TestSMTPSendThatIsCanceledEndsAtOnce(t *testing.T) {
	reached, released := make(chan struct{}), make(chan struct{})
	p := &post{onData: func(_ *gosmtp.Conn, r io.Reader) error {
		_, _ = io.Copy(io.Discard, r)
		close(reached)
		<-released // like a tarpit
		return nil
	}}
	p.open(t, testenv.FreeAddress(t), false)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-reached; cancel() }()
	err := conn(t, transport(t, p.options())).Send(ctx, aMessage(1), Letter{Subject: "x", Text: "x"})
	close(released)
	mustBeMailError(t, err, 0, false)
	mustTellNothing(t, err, "ending the mail", "stopping")
}

func TestSMTPOutboxIsEmptiedWhenTheServerIsBack(t *testing.T) {
	listener := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	p := &post{addr: listener.Addr().(*net.TCPAddr)}
	_ = listener.Close()
	b := newBox()
	b.fill(50)
	d := New(Options{
		Outbox: b, Transport: transport(t, p.options()), Templates: mustTemplates(t, TemplateOptions{}),
		Workers: 3, GiveUpAfter: time.Hour, Log: silent(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { d.Run(ctx) })
	wait := func(until func() bool) {
		for !until() {
			time.Sleep(5 * time.Millisecond)
		}
	}
	wait(func() bool { return d.Stats().Paused })
	if b.taken != 0 {
		t.Errorf("%d mails were claimed while the transport was paused", b.taken)
	}
	p.open(t, p.addr.String(), false)
	wait(func() bool { return b.left() == 0 })
	cancel()
	running.Wait()
	if len(p.taken()) != 50 || p.connections.Load() > 3 || d.Stats().Paused {
		t.Errorf("%d mails over %d connections, stats %+v", len(p.taken()), p.connections.Load(), d.Stats())
	}
}

func TestSMTPConnectionServesManyMails(t *testing.T) {
	p := &post{}
	p.open(t, "127.0.0.1:0", false)
	l := conn(t, transport(t, p.options()))
	for n := range int64(20) {
		testenv.NoError(t, sendOne(t, l, aMessage(n)))
	}
	if len(p.taken()) != 20 || p.connections.Load() != 1 {
		t.Errorf("%d mails over %d connections", len(p.taken()), p.connections.Load())
	}
}

func TestSMTPConnectionThatDiedIsReplaced(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(c *gosmtp.Conn) error
	}{
		{"closed", func(c *gosmtp.Conn) error { _ = c.Conn().Close(); return nil }},
		{"refused with 421 after some mails", func(*gosmtp.Conn) error { return smtpError(421, gosmtp.EnhancedCode{4, 7, 0}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mails atomic.Int64
			p := &post{onMail: func(conn *gosmtp.Conn, n int) error {
				if mails.Add(1); n == 1 && mails.Load() > 1 {
					return c.end(conn)
				}
				return nil
			}}
			p.open(t, "127.0.0.1:0", false)
			l := conn(t, transport(t, p.options()))
			for n := range int64(3) {
				testenv.NoError(t, sendOne(t, l, aMessage(n)))
			}
			if len(p.taken()) != 3 || p.connections.Load() != 2 {
				t.Errorf("%d mails over %d connections", len(p.taken()), p.connections.Load())
			}
		})
	}
}

func TestSMTPIdleConnectionIsClosedWithQuit(t *testing.T) {
	quit := make(chan string, 1)
	p := &post{addr: speaking(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "220 x\r\n")
		var said strings.Builder
		buffer := make([]byte, 512)
		for {
			n, err := c.Read(buffer)
			if err != nil {
				quit <- said.String()
				return
			}
			said.Write(buffer[:n])
			reply := "250 ok\r\n"
			if strings.HasPrefix(string(buffer[:n]), "QUIT") {
				reply = "221 bye\r\n"
			}
			_, _ = io.WriteString(c, reply)
		}
	})}
	s := transport(t, p.options())
	s.idle = time.Millisecond
	if certain, err := conn(t, s).Ready(t.Context()); err != nil || !certain {
		t.Fatal(certain, err)
	}
	if said := <-quit; !strings.HasSuffix(said, "QUIT\r\n") {
		t.Errorf("the client sent %q; want QUIT at the end", said)
	}
}

func TestSMTPServerThatIsBackIsUsedAgain(t *testing.T) {
	p := &post{}
	p.open(t, testenv.FreeAddress(t), false)
	s := transport(t, p.options())
	l := conn(t, s)
	testenv.NoError(t, sendOne(t, l, aMessage(1)))
	_ = p.Close()
	mustBeTransportError(t, sendOne(t, l, aMessage(2)), 0, "connecting")
	p.open(t, p.addr.String(), false)
	if err := sendOne(t, l, aMessage(3)); err != nil || len(p.taken()) != 2 {
		t.Errorf("error %v, %d mails received", err, len(p.taken()))
	}
}

func TestSMTPSenderThatIsInvalidIsRefused(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "ca.pem")
	for name, o := range map[string]SMTPOptions{
		"no address":    {Host: "x", Port: 25, From: "nobody"},
		"no ASCII":      {Host: "x", Port: 25, From: "übung@example.com"},
		"a file":        {Host: "x", Port: 25, From: "a@example.com", CAFile: missing, TLS: StartTLS},
		"a name inside": {Host: "x", Port: 25, From: "a@exa mple.com"},
	} {
		if _, err := NewSMTP(o); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestSMTPRecipientThatBreaksTheProtocolIsRefused(t *testing.T) {
	p := &post{}
	p.open(t, "127.0.0.1:0", false)
	l := conn(t, transport(t, p.options()))
	for _, to := range []string{
		"ada", "a\r\nRCPT TO:<eve@example.net>@example.com", "übung@example.com", "ada@exa\r\nmple.com",
		"ada@", "ada@bücher.example", "ada@EXAMPLE.com",
	} {
		m := aMessage(1)
		m.To = to
		mustBeMailError(t, l.Send(t.Context(), m, Letter{Subject: "x", Text: "x"}), 0, true)
	}
	m := aMessage(1)
	m.To = "o'brien+x@example.com"
	if err := sendOne(t, l, m); err != nil || p.taken()[0].to != m.To {
		t.Errorf("error %v, received %+v", err, p.taken())
	}
}
