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

// WebhookOptions says who takes the mail.
type WebhookOptions struct {
	URL    string
	Secret func() string // base64, with or without whsec_
}

// Webhook posts mails to a URL, signed after the Standard Webhooks specification.
type Webhook struct {
	url    string
	host   string // a URL's path and query may hold a secret, and are never shown
	signer *standardwebhooks.Webhook
	client *http.Client
	now    func() time.Time
}

var _ Transport = (*Webhook)(nil)

// NewWebhook checks what can be checked without the other side.
func NewWebhook(o WebhookOptions) (*Webhook, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" {
		return nil, errors.New("the URL of the webhook is none: write an absolute one")
	}
	signer, err := standardwebhooks.NewWebhook(o.Secret())
	if err != nil {
		return nil, errors.New("what the webhook is signed with is not base64: write the output of `openssl rand -base64 32`")
	}
	return &Webhook{
		url: o.URL, host: u.Host, signer: signer, now: time.Now,
		client: &http.Client{
			Timeout: webhookTimeout,
			// A code goes where it was sent to, and nowhere else.
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

// webhookBody is what is posted; docs/mail.md has it for those who read it.
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

// Open gives a line; the connections below are shared.
func (w *Webhook) Open() Conn { return webhookConn{w} }

type webhookConn struct{ hook *Webhook }

// Ready has nothing to look at: HTTP has no question that is not a request.
func (webhookConn) Ready(context.Context) (certain bool, err error) { return false, nil }

// Close leaves the connections to the other lines; they are closed when they idle.
func (l webhookConn) Close() { l.hook.client.CloseIdleConnections() }

// Send posts one mail.
func (l webhookConn) Send(ctx context.Context, m identity.Message, letter Letter) error {
	return l.hook.post(ctx, m, letter)
}

func (w *Webhook) post(ctx context.Context, m identity.Message, letter Letter) error {
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
		return &MailError{Transport: w.host, Step: "writing the mail", Permanent: true, Err: errors.New("it cannot be written as JSON")}
	}
	// Each taking is a message of its own, with a code of its own. The number of the
	// attempt would not do: one that was returned uncharged has the number of the
	// next, and a receiver would take the mail whose code holds for a copy of the
	// one whose code does not.
	id := fmt.Sprintf("mail_%d_%d", m.Ref.ID, m.Ref.Taken)
	signature, err := w.signer.Sign(id, now, body)
	if err != nil {
		return &TransportError{Transport: w.host, Step: "signing the mail", Err: errors.New("it cannot be signed")}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return &TransportError{Transport: w.host, Step: "posting the mail", Err: errors.New("the URL is none")}
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

// judge tells whose trouble a status is. What a receiver answers to a mail that it
// will never take is 400, 410, 413 or 422; all else that is not 2xx would be answered to
// another mail too.
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
	return &TransportError{Transport: w.host, Step: "posting the mail", Reply: reply, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), w.now())}
}

// retryAfter reads RFC 9110 section 10.2.3, up to a bound: what a receiver gets wrong
// must not stop the mail for a day.
func retryAfter(field string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.Atoi(field); err == nil {
		wait = time.Duration(min(max(seconds, 0), int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(field); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// withoutURL takes the URL out of an error of net/http: a secret may stand in it.
func withoutURL(err error) error {
	var u *url.Error
	if !errors.As(err, &u) {
		return errors.New("it cannot be reached")
	}
	switch {
	case errors.Is(u.Err, context.Canceled):
		return errStopped
	case u.Timeout():
		return errTooSlow
	}
	return u.Err
}
