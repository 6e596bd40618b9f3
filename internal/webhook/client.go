package webhook

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
)

const (
	connectTimeout = 15 * time.Second
	idleTimeout    = 10 * time.Second
	maxRetryAfter  = 10 * time.Minute
	maxReply       = 64 << 10 // bytes that are read of a reply
)

// Options configure a Client.
type Options struct {
	URL     string
	Secret  func() string // base64, with or without whsec_
	Timeout time.Duration // of a message, with the connection and the reply
}

// A Client posts messages to one URL. It may be used by several goroutines.
type Client struct {
	// Host is that of the URL, for errors and the log. Path and query may contain a secret.
	Host string

	url    string
	signer *standardwebhooks.Webhook
	http   *http.Client
}

// New returns a Client. It checks the options, but does not connect.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" {
		return nil, errors.New("the URL of the webhook is invalid: write an absolute one")
	}
	signer, err := standardwebhooks.NewWebhook(o.Secret())
	if err != nil {
		return nil, errors.New("the secret of the webhook is not base64: write the output of `openssl rand -base64 32`")
	}
	return &Client{
		Host: u.Host, url: o.URL, signer: signer,
		http: &http.Client{
			Timeout: o.Timeout,
			// A message is not sent anywhere else: redirects are not followed.
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

// Close closes idle connections. The Client may be used again.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Message is one message. Type, Timestamp and Data are its JSON.
type Message struct {
	ID        string    `json:"-"` // a receiver drops a message whose ID it has seen
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      any       `json:"data"`
}

// Error means that the receiver has not accepted a message.
type Error struct {
	Status     int           // that it answered; 0: it did not answer
	RetryAfter time.Duration // as it asked, up to ten minutes; 0: it did not
	Err        error         // contains no URL and no data; nil if Status says it
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Err.Error()
	}
	return fmt.Sprintf("it answered %d", e.Status)
}

func (e *Error) Unwrap() error { return e.Err }

// Errors of messages that got no answer.
var (
	ErrTooSlow = errors.New("it took too long")
	ErrStopped = errors.New("the gateway is stopping")
)

// Post posts a message. It returns nil if the receiver has accepted it, with a 2xx. *Error.
func (c *Client) Post(ctx context.Context, m Message) error {
	_, err := c.Ask(ctx, m)
	return err
}

// Ask is Post for a message that has an answer. It returns the first 64 KiB of the reply.
func (c *Client) Ask(ctx context.Context, m Message) (answer []byte, err error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("a message of the type %s cannot be encoded as JSON", m.Type) // the cause may contain its data
	}
	now := time.Now()
	signature, err := c.signer.Sign(m.ID, now, body)
	if err != nil {
		return nil, &Error{Err: errors.New("the message cannot be signed")}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, &Error{Err: errors.New("the URL is invalid")}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(standardwebhooks.HeaderWebhookID, m.ID)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)

	resp, err := c.http.Do(req)
	if err != nil {
		return nil, &Error{Err: withoutURL(err)}
	}
	defer func() { _ = resp.Body.Close() }()
	answer, _ = io.ReadAll(io.LimitReader(resp.Body, maxReply)) // also so that the connection can be used again
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return answer, nil
	}
	return nil, &Error{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), now)}
}

// retryAfter parses Retry-After (RFC 9110 section 10.2.3) up to a limit: a mistake of the
// receiver must not stop all messages for a day.
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
		return ErrStopped
	case u.Timeout():
		return ErrTooSlow
	}
	return u.Err
}
