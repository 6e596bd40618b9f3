package moving

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/webhook"
)

// FormerSystem asks a service of the owner whether a password is right in the system that the accounts come from.
// docs/moving-in.md describes the question and the answer.
type FormerSystem struct{ client *webhook.Client }

var _ identity.FormerSystem = (*FormerSystem)(nil)

// NewFormerSystem checks the URL and the key that signs, but does not connect.
func NewFormerSystem(url string, secret func() string) (*FormerSystem, error) {
	client, err := webhook.New(webhook.Options{URL: url, Secret: secret, Timeout: 10 * time.Second}) // callers wait for less
	if err != nil {
		return nil, err
	}
	return &FormerSystem{client}, nil
}

// Close closes idle connections.
func (f *FormerSystem) Close() { f.client.Close() }

// CheckPassword implements identity.FormerSystem. The answer must be explicit: a page of a proxy, or a reply without a
// body, says nothing about a password.
func (f *FormerSystem) CheckPassword(ctx context.Context, email, password string) (right bool, err error) {
	body, err := f.client.Ask(ctx, webhook.Message{
		ID: "password_" + rand.Text(), Type: "password.check", Timestamp: time.Now().UTC(),
		Data: struct {
			Email    string `json:"email"`
			Password string `json:"password"`
		}{email, password},
	})
	if err != nil {
		return false, fmt.Errorf("%s was asked about a password: %w", f.client.Host, err)
	}
	var answer struct {
		Correct *bool `json:"correct"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Correct == nil { // the error may quote the body
		return false, fmt.Errorf(`%s was asked about a password: its reply is neither {"correct": true} nor {"correct": false}`, f.client.Host)
	}
	return *answer.Correct, nil
}
