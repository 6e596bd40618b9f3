package mail

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/webhook"
)

const webhookTimeout = 30 * time.Second

// WebhookOptions configure a Webhook.
type WebhookOptions struct {
	URL    string
	Secret func() string // base64, with or without whsec_
}

// Webhook posts mails to a URL, signed after the Standard Webhooks specification.
type Webhook struct{ client *webhook.Client }

var (
	_ Transport = (*Webhook)(nil)
	_ Conn      = (*Webhook)(nil)
)

// NewWebhook returns a transport. It checks the options, but does not connect.
func NewWebhook(o WebhookOptions) (*Webhook, error) {
	client, err := webhook.New(webhook.Options{URL: o.URL, Secret: o.Secret, Timeout: webhookTimeout})
	if err != nil {
		return nil, err
	}
	return &Webhook{client: client}, nil
}

// webhookData is the member data of the posted document; docs/mail.md describes it.
type webhookData struct {
	Purpose   identity.MessagePurpose `json:"purpose"`
	To        string                  `json:"to"`
	Username  string                  `json:"username,omitempty"`
	Language  string                  `json:"language,omitempty"`
	Code      string                  `json:"code,omitempty"`
	ExpiresIn int64                   `json:"expires_in,omitempty"` // seconds
	Link      string                  `json:"link,omitempty"`
	Subject   string                  `json:"subject"`
	Text      string                  `json:"text"`
	HTML      string                  `json:"html,omitempty"`
}

// Open returns the Webhook itself: all workers share the HTTP connections.
func (w *Webhook) Open() Conn { return w }

// Ready is never certain: HTTP has no probe that is not a request.
func (*Webhook) Ready(context.Context) (certain bool, err error) { return false, nil }

// Close closes idle HTTP connections; other workers may still use the rest.
func (w *Webhook) Close() { w.client.Close() }

// Send posts one mail.
func (w *Webhook) Send(ctx context.Context, m identity.Message, letter Letter) error {
	return w.judge(w.client.Post(ctx, webhook.Message{
		// Each claim is a separate message with a separate code. The number of the attempt
		// cannot identify it: a claim that was returned has the same number as the next one,
		// and a receiver would take the mail with the valid code for a copy of the other.
		ID:   fmt.Sprintf("mail_%d_%d", m.Ref.ID, m.Ref.Taken),
		Type: "mail." + string(m.Purpose), Timestamp: time.Now().UTC(),
		Data: webhookData{
			Purpose: m.Purpose, To: m.To, Username: m.Username, Language: m.Language,
			Code: m.Code, ExpiresIn: int64(m.TTL / time.Second), Link: letter.Link,
			Subject: letter.Subject, Text: letter.Text, HTML: letter.HTML,
		},
	}))
}

// judge says whether an answer is about this mail or about all mails. A receiver answers 400, 410, 413 or 422 to a mail
// that it will never accept. It would answer any other failure to other mails too.
func (w *Webhook) judge(err error) error {
	if err == nil {
		return nil
	}
	const step = "posting the mail"
	e, ok := errors.AsType[*webhook.Error](err)
	if !ok {
		return &MailError{Transport: w.client.Host, Step: step, Permanent: true, Err: err}
	}
	reply := Reply{Code: e.Status}
	switch e.Status {
	case http.StatusBadRequest, http.StatusGone, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return &MailError{Transport: w.client.Host, Step: step, Reply: reply, Permanent: true}
	case http.StatusConflict, http.StatusTooEarly:
		return &MailError{Transport: w.client.Host, Step: step, Reply: reply}
	}
	return &TransportError{Transport: w.client.Host, Step: step, Reply: reply, RetryAfter: e.RetryAfter, Err: e.Err}
}
