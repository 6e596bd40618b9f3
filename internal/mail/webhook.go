package mail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

const (
	webhookTimeout = 30 * time.Second
	maxRetryAfter  = 10 * time.Minute
)

// WebhookOptions configure a Webhook.
type WebhookOptions struct {
	URL    string
	Secret func() string // base64, with or without whsec_
}

// Webhook posts mails to a URL, signed after the Standard Webhooks specification.
type Webhook struct {
	url    string
	host   string // path and query may contain a secret and are never logged
	signer *standardwebhooks.Webhook
	client *http.Client
	now    func() time.Time
}

var (
	_ Transport = (*Webhook)(nil)
	_ Conn      = (*Webhook)(nil)
)

// NewWebhook returns a transport. It checks the options, but does not connect.
func NewWebhook(o WebhookOptions) (*Webhook, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" {
		return nil, errors.New("the URL of the webhook is invalid: write an absolute one")
	}
	signer, err := standardwebhooks.NewWebhook(o.Secret())
	if err != nil {
		return nil, errors.New("the secret of the webhook is not base64: write the output of `openssl rand -base64 32`")
	}
	return &Webhook{
		url: o.URL, host: u.Host, signer: signer, now: time.Now,
		client: &http.Client{
			Timeout: webhookTimeout,
			// A code is not sent anywhere else: redirects are not followed.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				Proxy:               http.ProxyFromEnvironment,
				MaxIdleConnsPerHost: 64, // as many as there may be workers
				IdleConnTimeout:     idleTimeout,
				TLSHandshakeTimeout: connectTimeout,
				ForceAttemptHTTP2:   true,
			},
		},
	}, nil
}

// webhookBody is the posted document; docs/mail.md describes it.
type webhookBody struct {
	Type      string      `json:"type"`
	Timestamp time.Time   `json:"timestamp"`
	Data      webhookData `json:"data"`
}

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
func (w *Webhook) Close() { w.client.CloseIdleConnections() }

// Send posts one mail.
func (w *Webhook) Send(ctx context.Context, m identity.Message, letter Letter) error {
	now := w.now().UTC()
	body, err := json.Marshal(webhookBody{
		Type: "mail." + string(m.Purpose), Timestamp: now,
		Data: webhookData{
			Purpose: m.Purpose, To: m.To, Username: m.Username, Language: m.Language,
			Code: m.Code, ExpiresIn: int64(m.TTL / time.Second), Link: letter.Link,
			Subject: letter.Subject, Text: letter.Text, HTML: letter.HTML,
		},
	})
	if err != nil {
		return &MailError{Transport: w.host, Step: "writing the mail", Permanent: true, Err: errors.New("it cannot be encoded as JSON")}
	}
	// Each claim is a separate message with a separate code. The number of the attempt
	// cannot identify it: a claim that was returned has the same number as the next one,
	// and a receiver would take the mail with the valid code for a copy of the other.
	id := fmt.Sprintf("mail_%d_%d", m.Ref.ID, m.Ref.Taken)
	signature, err := w.signer.Sign(id, now, body)
	if err != nil {
		return &TransportError{Transport: w.host, Step: "signing the mail", Err: errors.New("it cannot be signed")}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return &TransportError{Transport: w.host, Step: "posting the mail", Err: errors.New("the URL is invalid")}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)

	resp, err := w.client.Do(req)
	if err != nil {
		return &TransportError{Transport: w.host, Step: "posting the mail", Err: withoutURL(err)}
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	return w.judge(resp)
}

// judge says whether a status is about this mail or about all mails. A receiver answers 400, 410, 413 or 422 to a mail
// that it will never accept. It would answer any other failure to other mails too.
func (w *Webhook) judge(resp *http.Response) error {
	reply := Reply{Code: resp.StatusCode}
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode <= 299:
		return nil
	case resp.StatusCode == http.StatusBadRequest, resp.StatusCode == http.StatusGone,
		resp.StatusCode == http.StatusRequestEntityTooLarge, resp.StatusCode == http.StatusUnprocessableEntity:
		return &MailError{Transport: w.host, Step: "posting the mail", Reply: reply, Permanent: true}
	case resp.StatusCode == http.StatusConflict, resp.StatusCode == http.StatusTooEarly:
		return &MailError{Transport: w.host, Step: "posting the mail", Reply: reply}
	}
	return &TransportError{
		Transport: w.host, Step: "posting the mail", Reply: reply,
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"), w.now()),
	}
}

// retryAfter parses Retry-After (RFC 9110 section 10.2.3) up to a limit: a mistake of the
// receiver must not stop all mail for a day.
func retryAfter(field string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.Atoi(field); err == nil {
		wait = time.Duration(min(max(seconds, 0), int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(field); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// withoutURL removes the URL from an error of net/http, because it may contain a secret.
func withoutURL(err error) error {
	u, ok := errors.AsType[*url.Error](err)
	switch {
	case !ok:
		return errors.New("it cannot be reached")
	case errors.Is(u.Err, context.Canceled):
		return errStopped
	case u.Timeout():
		return errTooSlow
	}
	return u.Err
}
