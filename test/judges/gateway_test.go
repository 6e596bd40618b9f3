package judges

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
)

const (
	// patience allows for the first downloads on a busy machine.
	patience = 5 * time.Minute
	password = "correct horse battery staple"
)

func TestMain(m *testing.M) { kubernetestest.Main(m) }

// gateway is a running server of its own database, whose keys are published for a second before they may sign.
type gateway struct {
	t        *testing.T
	url      string // of the API
	issuer   string
	program  string
	env      []string
	server   *os.Process
	log      testenv.Output
	username string
	refresh  string // the refresh token of the user
}

// startGateway starts a server and signs a user up. Settings have the form NAME=value.
func startGateway(t *testing.T, settings ...string) *gateway {
	t.Helper()
	if testing.Short() {
		t.Skip("this test builds and starts the server")
	}
	database := testenv.Must(localpostgres.Start(t.Context(), localpostgres.Options{}))(t)
	t.Cleanup(func() {
		if err := database.Stop(); err != nil {
			t.Error(err)
		}
	})
	testenv.NoError(t, database.CreateDatabase(t.Context(), "auth"))
	port := testenv.FreePort(t)
	g := &gateway{t: t, url: fmt.Sprintf("http://127.0.0.1:%d", port), program: testenv.Program(t, "./cmd/authserver")}
	g.issuer = g.url
	g.env = append(os.Environ(),
		"HOST=127.0.0.1", "PORT="+strconv.Itoa(port), "METRICS_PORT="+strconv.Itoa(testenv.FreePort(t)),
		"ISSUER="+g.url, "SALT_ROUNDS=4", "KEY_PUBLISH_LEAD=1s", "LOG_LEVEL=warn",
		"ACCESS_PASSPHRASE=a passphrase for access keys", "REFRESH_PASSPHRASE=a passphrase for refresh keys",
		"DB_HOST="+database.Host(), "DB_PORT="+strconv.Itoa(database.Port()), "DB_USER="+database.User(),
		"DB_PASSWORD="+database.Password(), "DB_NAME=auth", "DB_SSLMODE=disable")
	for _, setting := range settings {
		if issuer, found := strings.CutPrefix(setting, "ISSUER="); found {
			g.issuer = issuer
		}
	}
	g.env = append(g.env, settings...)
	server := exec.Command(g.program)
	server.Env, server.Stdout, server.Stderr = g.env, &g.log, &g.log
	testenv.NoError(t, server.Start())
	g.server = server.Process
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = server.Wait()
		if t.Failed() {
			t.Logf("the server's log:\n%s", &g.log)
		}
	})
	testenv.Eventually(t, patience, "the server has keys", func() error {
		_, err := g.keys()
		return err
	})
	g.signUp()
	return g
}

// command runs a command of the server's program, such as keys rotate, and returns its output.
func (g *gateway) command(args ...string) string {
	g.t.Helper()
	command := exec.Command(g.program, args...)
	command.Env = g.env
	out, err := command.CombinedOutput()
	if err != nil {
		g.t.Fatalf("authserver %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// call sends a JSON body and decodes the reply into out, if it is not nil.
func (g *gateway) call(method, path string, body map[string]string, out any) {
	g.t.Helper()
	sent, err := json.Marshal(body)
	if err != nil {
		g.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, bytes.NewReader(sent))
	if err != nil {
		g.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(reply.Body)
	if err != nil || reply.StatusCode >= 300 {
		g.t.Fatalf("%s %s: %s %s %v", method, path, reply.Status, text, err)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(text, out); err != nil {
		g.t.Fatalf("%s %s: %v\n%s", method, path, err, text)
	}
}

type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

func (g *gateway) signUp() {
	g.t.Helper()
	g.username = "ada"
	var code struct{ Code string }
	g.call("POST", "/users", map[string]string{
		"username": g.username, "email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace", "password": password,
	}, &code)
	var t tokens
	g.call("POST", "/users/verify-user", map[string]string{"code": code.Code}, &t)
	g.refresh = t.Refresh
}

func (g *gateway) signIn() (t tokens) {
	g.t.Helper()
	g.call("POST", "/tokens/signin", map[string]string{"username": g.username, "password": password}, &t)
	return t
}

// accessToken returns a new access token of the user's first session.
func (g *gateway) accessToken() string {
	g.t.Helper()
	var t tokens
	g.call("POST", "/tokens", map[string]string{"refresh_token": g.refresh}, &t)
	g.refresh = t.Refresh
	return t.Access
}

// keys returns the ids of the published access keys.
func (g *gateway) keys() (ids []string, err error) {
	ctx, cancel := context.WithTimeout(g.t.Context(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", g.url+"/.well-known/jwks.json", nil)
	if err != nil {
		return nil, err
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = reply.Body.Close() }()
	var set struct{ Keys []struct{ Kid string } }
	if err := json.NewDecoder(reply.Body).Decode(&set); err != nil {
		return nil, err
	}
	for _, key := range set.Keys {
		ids = append(ids, key.Kid)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s without keys", reply.Status)
	}
	return ids, nil
}
