package mail

import (
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// aMessage returns a message with a code.
func aMessage(id int64) identity.Message {
	return identity.Message{
		Ref: identity.MailRef{ID: id, Attempt: 1}, Purpose: identity.MailVerification,
		To: "ada@example.com", Username: "ada", Code: "ABCDEFGHIJKLMNOPQRSTUVWXYZ", TTL: 15 * time.Minute,
	}
}

func mustTemplates(t testing.TB, o TemplateOptions) *Templates {
	t.Helper()
	if o.Service == "" {
		o.Service = "auth.example.com"
	}
	return testenv.Must(LoadTemplates(o))(t)
}
