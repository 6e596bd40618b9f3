// Package gatewaytest runs whole servers, over a database of postgrestest, in the process of a test.
package gatewaytest

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// Values of the settings that Environ returns.
const (
	Issuer            = "http://auth.test"
	AccessPassphrase  = "the passphrase of access tokens"
	RefreshPassphrase = "the passphrase of refresh tokens"
)

// Settings are environment variables of a server.
type Settings map[string]string

// Unset is the value of a variable that is not set.
const Unset = "\x00unset"

// Environ returns the settings of a server with cheap hashes. Later changes override earlier ones.
func Environ(db postgres.Config, changes ...Settings) Settings {
	s := Settings{
		"HOST": "127.0.0.1", "PORT": "1", "METRICS_PORT": "2", "ISSUER": Issuer,
		"ACCESS_PASSPHRASE": AccessPassphrase, "REFRESH_PASSPHRASE": RefreshPassphrase,
		"SALT_ROUNDS": "4", "LOG_LEVEL": "debug",
		"DB_HOST": db.Host, "DB_PORT": strconv.Itoa(db.Port), "DB_NAME": db.Database,
		"DB_USER": db.User, "DB_PASSWORD": db.Password, "DB_SSLMODE": "disable",
	}
	for _, change := range changes {
		maps.Copy(s, change)
	}
	return s
}

// Lookup returns a variable, as os.LookupEnv does.
func (s Settings) Lookup(name string) (string, bool) {
	value, ok := s[name]
	return value, ok && value != Unset
}

// With returns a copy with changes.
func (s Settings) With(changes Settings) Settings {
	s = maps.Clone(s)
	maps.Copy(s, changes)
	return s
}

// Load reads the settings.
func (s Settings) Load(t testing.TB) config.Config {
	t.Helper()
	return testenv.Must(config.Load(s.Lookup, os.ReadFile))(t)
}

// Server is a server that runs, or has ended.
type Server struct {
	*authserver.Server

	API, Ops     string             // the URLs of its two ports
	Authz, Admin string             // and of those of decisions and of administrators, if there are any
	Cancel       context.CancelFunc // asks it to end
	Done         <-chan struct{}    // is closed when Run has returned

	result error // of Run
}

// Start runs a server on free ports until the test ends it. It returns an error if Run ends before the server listens.
func Start(t testing.TB, settings config.Config, options authserver.Options) (*Server, error) {
	t.Helper()
	settings.Port = 0
	for try := 1; ; try++ {
		// Port 0 would turn metrics off. Another process can take the free port before the server does.
		settings.MetricsPort = testenv.FreePort(t)
		for _, port := range []*int{&settings.AuthzPort, &settings.AdminPort} {
			if *port != 0 {
				*port = testenv.FreePort(t)
			}
		}
		s, err := run(settings, options)
		if err == nil || try == 5 || !strings.Contains(err.Error(), "cannot listen") {
			return s, err
		}
	}
}

func run(settings config.Config, options authserver.Options) (*Server, error) {
	server, err := authserver.New(settings, options)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s := &Server{Server: server, Cancel: cancel, Done: done}
	go func() {
		defer close(done)
		s.result = server.Run(ctx)
	}()
	select {
	case at := <-server.Listening():
		s.API, s.Ops = "http://"+at.API, "http://"+at.Ops
		if at.Authz != "" {
			s.Authz = "http://" + at.Authz
		}
		if at.Admin != "" {
			s.Admin = "http://" + at.Admin
		}
		return s, nil
	case <-done:
		cancel()
		return nil, s.result
	}
}

// Result returns what Run has returned.
func (s *Server) Result() error {
	<-s.Done
	return s.result
}

// End ends the server and returns the result of Run.
func (s *Server) End() error {
	s.Cancel()
	select {
	case <-s.Done:
		return s.result
	case <-time.After(20 * time.Second):
		return errors.New("a server did not end within 20 s")
	}
}

// Probe sends a request to the operations port. Without an answer the status is 0.
func (s *Server) Probe(path string) (status int, body string) {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get(s.Ops + path)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(text)
}
