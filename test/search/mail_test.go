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
	"github.com/auth-gateway/auth-gateway/internal/testenv/smtpsink"
)

// postOffice empties the outbox when it is told to, with the parts of the server
// that do it: the domain takes the mail and makes its code, the templates put it
// into words, and SMTP hands it to a server, which reads what came over the wire.
type postOffice struct {
	t         testing.TB
	accounts  *identity.Service
	templates *sending.Templates
	conn      sending.Conn

	mu  sync.Mutex
	got []letter
}

// letter is a mail as its reader has it.
type letter struct{ to, subject, text string }

func openPostOffice(t testing.TB, g *gateway) *postOffice {
	t.Helper()
	p := &postOffice{t: t}
	if g.exposure != "public" {
		return p
	}
	c := g.settings
	p.accounts = identity.New(identity.Policy{
		Exposure: identity.ExposurePublic, VerificationTTL: c.VerificationCodeExpiry, RecoveryTTL: c.RecoveryCodeExpiry,
		KeepAudit: true, SendsMail: true, LimitMails: identity.Rate(c.LimitMails),
	}, identity.Dependencies{Store: g.store, Now: g.clock.Now})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := smtpsink.Sink{Receive: p.receive}.Server()
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	number, _ := strconv.Atoi(port)
	transport, err := sending.NewSMTP(sending.SMTPOptions{Host: host, Port: number, TLS: sending.TLSMode("none"), From: c.MailFrom, Hello: "auth.test",
		Password: func() string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	if p.templates, err = sending.LoadTemplates(sending.TemplateOptions{Service: "auth.test"}); err != nil {
		t.Fatal(err)
	}
	p.conn = transport.Open()
	t.Cleanup(p.conn.Close)
	return p
}

// deliver sends all that waits, and gives what was received, in its order.
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

// post is how a backend of exposure internal mails a code: to the address that it
// was given, as any library of mail writes it.
func (p *postOffice) post(to, code string) {
	at := strings.LastIndex(to, "@")
	domain, err := idna.Lookup.ToASCII(to[at+1:])
	if err != nil {
		return // it cannot be sent
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, letter{to: to[:at+1] + domain, subject: "Your code", text: code + "\n"})
}

// aCode is a code alone in its line, in groups or in one piece.
var aCode = regexp.MustCompile(`(?m)^[ \t]*([A-Z2-7]{2,}(?:[ -][A-Z2-7]+)*)[ \t]*\r?$`)

// code gives the code of a mail as it is shown there; empty where it has none.
func (l letter) code() string {
	for _, found := range aCode.FindAllStringSubmatch(l.text, -1) {
		if len(plain(found[1])) == 26 {
			return found[1]
		}
	}
	return ""
}

// plain is a code as the server made it.
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
