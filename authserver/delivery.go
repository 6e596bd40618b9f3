package authserver

import (
	"fmt"
	"net/netip"
	"net/url"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/events"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/mail"
	"github.com/auth-gateway/auth-gateway/internal/span"
)

// newDeliverer returns the sender of the mail in the outbox, or nil if no way to send mail is
// set. It reads and tests the templates, so that a mistake in them is reported at start.
func newDeliverer(c config.Config, accounts *identity.Service, o Options, tracer span.Tracer) (*mail.Deliverer, error) {
	if !c.SendsMail() {
		return nil, nil
	}
	templates, err := mail.LoadTemplates(mail.TemplateOptions{
		Dir: c.MailTemplatesDir, Service: c.ServiceName,
		Links: map[identity.MessagePurpose]string{
			identity.MailVerification: c.MailLinkVerification,
			identity.MailRecovery:     c.MailLinkPasswordReset,
			identity.MailEmailChange:  c.MailLinkEmailChange,
			identity.MailInvitation:   c.MailLinkInvitation,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", config.EnvMailTemplatesDir, err)
	}
	transport, err := newTransport(c)
	if err != nil {
		return nil, err
	}
	return mail.New(mail.Options{
		Outbox: accounts, Transport: transport, Templates: templates,
		Workers: c.SMTPConnections, GiveUpAfter: c.MailGiveUpAfter, Log: o.Log, Tracer: tracer,
	}), nil
}

// newEventSender returns the sender of the events of accounts, or nil if no receiver is set.
func newEventSender(c config.Config, queue events.Queue, o Options, tracer span.Tracer) (*events.Sender, error) {
	if c.EventWebhookURL == "" {
		return nil, nil
	}
	receiver, err := events.NewReceiver(c.EventWebhookURL, c.EventWebhookSecret.Reveal)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", config.EnvEventWebhookURL, err)
	}
	return events.New(events.Options{Queue: queue, Receiver: receiver, Log: o.Log.With("receiver", receiver.Host), Tracer: tracer}), nil
}

func newTransport(c config.Config) (mail.Transport, error) {
	if c.MailWebhookURL != "" {
		hook, err := mail.NewWebhook(mail.WebhookOptions{URL: c.MailWebhookURL, Secret: c.MailWebhookSecret.Reveal})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", config.EnvMailWebhookURL, err)
		}
		return hook, nil
	}
	server, err := mail.NewSMTP(mail.SMTPOptions{
		Host: c.SMTPHost, Port: c.SMTPPort, TLS: mail.TLSMode(c.SMTPTLS), CAFile: c.SMTPCAFile,
		Username: c.SMTPUsername, Password: c.SMTPPassword.Reveal, From: c.MailFrom, Hello: helloName(c.Issuer),
	})
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", config.EnvMailFrom, config.EnvSMTPCAFile, err)
	}
	return server, nil
}

// issuerHost returns the host of an issuer.
func issuerHost(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil || u.Hostname() == "" {
		return issuer
	}
	return u.Hostname()
}

// helloName returns the name of the gateway in the SMTP dialog. An address is written in
// brackets (RFC 5321 section 4.1.3).
func helloName(issuer string) string {
	name := issuerHost(issuer)
	address, err := netip.ParseAddr(name)
	switch {
	case err != nil:
		return name
	case address.Is6():
		return "[IPv6:" + name + "]"
	default:
		return "[" + name + "]"
	}
}
