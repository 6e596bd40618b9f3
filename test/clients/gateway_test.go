package clients

import (
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/makerun"
)

const (
	callerKey = "the key of the one trusted caller"

	// patience allows for the first downloads on a busy machine.
	patience = 5 * time.Minute
)

var shared struct {
	sync.Once

	url string
}

func TestMain(m *testing.M) { testenv.Main(m) }

// gateway returns the URL of the server that all tests share. The first test that asks for it starts make run.
func gateway(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("this test builds and starts the server")
	}
	shared.Do(func() { shared.url = makerun.Start(t, "internal", "TRUSTED_CALLER_KEY="+callerKey).URL })
	if shared.url == "" {
		t.Fatal("make run did not start; the first test reports the reason")
	}
	return shared.url
}
