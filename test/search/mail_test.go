package search

import (
	"context"
	"errors"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/idna"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	sending "github.com/auth-gateway/auth-gateway/internal/mail"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/smtpsink"
)

// postOffice sends the queued mails on demand with the parts of the server: the domain claims the mail and creates its
// code, the templates render it, and SMTP sends it to a sink, which parses it.
type postOffice struct {
	t         testing.TB
	accounts  *identity.Service
	templates *sending.Templates
	conn      sending.Conn

	mu  sync.Mutex
	got []letter
}

// letter is a mail as its recipient reads it.
type letter struct{ to, subject, text string }

func openPostOffice(t testing.TB, g *gateway) *postOffice {
	t.Helper()
	p := &postOffice{t: t}
	if g.exposure != "public" {
		return p
	}
	c := g.settings
	p.accounts = identity.New(identity.Policy{
		Exposure: identity.ExposurePublic, VerificationTTL: c.VerificationCodeExpiry, RecoveryTTL: c.RecoveryCodeExpiry, InvitationTTL: c.InvitationCodeExpiry,
		KeepAudit: true, SendsMail: true, LimitMails: identity.Rate(c.LimitMails),
	}, identity.Dependencies{Store: g.store, Now: g.clock.Now})
	listener := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	server := smtpsink.Sink{Receive: p.receive}.Server()
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	number, _ := strconv.Atoi(port)
	transport := testenv.Must(sending.NewSMTP(sending.SMTPOptions{Host: host, Port: number, TLS: sending.TLSMode("none"),
		From: c.MailFrom, Hello: "auth.test",
		Password: func() string { return "" }}))(t)
	p.templates = testenv.Must(sending.LoadTemplates(sending.TemplateOptions{Service: "auth.test"}))(t)
	p.conn = transport.Open()
	t.Cleanup(p.conn.Close)
	return p
}

// deliver sends all queued mails, and returns the received ones in order.
func (p *postOffice) deliver() []letter {
	for p.accounts != nil && p.sendOne() {
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.got
	p.got = nil
	return got
}

func (p *postOffice) sendOne() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m, found, err := p.accounts.ClaimMail(ctx, time.Minute)
	if err != nil {
		p.t.Fatal(err)
	}
	if !found {
		return false
	}
	content, err := p.templates.Render(m)
	if err != nil {
		p.t.Fatal(err)
	}
	var refused *sending.MailError
	switch err := p.conn.Send(ctx, m, content); {
	case err == nil:
		err = p.accounts.FinishMail(ctx, m.Ref, identity.MailOutcome{Result: identity.MailSent})
		if err != nil {
			p.t.Fatal(err)
		}
	case errors.As(err, &refused) && refused.Permanent:
		if err := p.accounts.FinishMail(ctx, m.Ref, identity.MailOutcome{Result: identity.MailGivenUp}); err != nil {
			p.t.Fatal(err)
		}
	default:
		p.t.Fatal(err)
	}
	return true
}

// post mails a code like a backend of exposure internal: to the given address, encoded as mail libraries do.
func (p *postOffice) post(to, code string) {
	at := strings.LastIndex(to, "@")
	domain, err := idna.Lookup.ToASCII(to[at+1:])
	if err != nil {
		return // there is no mail to this address
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, letter{to: to[:at+1] + domain, subject: "Your code", text: code + "\n"})
}

// aCode matches a code on its own line, in groups or in one piece.
var aCode = regexp.MustCompile(`(?m)^[ \t]*([A-Z2-7]{2,}(?:[ -][A-Z2-7]+)*)[ \t]*\r?$`)

// code returns the code of a mail as it is shown, or "".
func (l letter) code() string {
	for _, found := range aCode.FindAllStringSubmatch(l.text, -1) {
		if len(plain(found[1])) == 26 {
			return found[1]
		}
	}
	return ""
}

// plain returns a code as the server created it.
func plain(code string) string {
	return strings.ToUpper(strings.NewReplacer(" ", "", "-", "", "\n", "").Replace(code))
}

func (p *postOffice) receive(m smtpsink.Mail) error {
	content, err := smtpsink.Read(m.Raw)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, to := range m.To {
		p.got = append(p.got, letter{to: to, subject: content.Subject, text: content.Text})
	}
	return nil
}
