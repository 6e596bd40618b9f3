package judges

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/nodejs"
)

// TestServicesOfTheREADMEAreProtected runs the services that the README shows. Both listen on the port that is in the
// README, one after the other.
func TestServicesOfTheREADMEAreProtected(t *testing.T) {
	t.Parallel()
	g := startGateway(t)
	access := g.accessToken()
	readme := testenv.Must(os.ReadFile(filepath.Join(testenv.Root(), "README.md")))(t)
	for _, service := range []struct {
		dir, file string
		command   []string
	}{
		{"service-go", "main.go", []string{"go", "run", "."}},
		{"service-node", "server.mjs", []string{"node", "server.mjs"}},
	} {
		t.Run(service.dir, func(t *testing.T) {
			dir := filepath.Join(testenv.Root(), "examples", service.dir)
			source := testenv.Must(os.ReadFile(filepath.Join(dir, service.file)))(t)
			if !strings.Contains(spaces(string(readme)), spaces(body(string(source)))) {
				t.Errorf("the README does not show %s/%s as it is", service.dir, service.file)
			}
			path := os.Getenv("PATH")
			if service.command[0] == "node" {
				path = nodejs.Path(t)
				nodejs.Install(t, dir)
			}
			said := &testenv.Output{}
			command := exec.Command("/bin/sh", append([]string{"-c", `exec "$@"`, "sh"}, append(service.command, g.issuer)...)...)
			command.Dir, command.Stdout, command.Stderr = dir, said, said
			command.Env = append(os.Environ(), "PATH="+path)
			command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go run starts another process
			testenv.NoError(t, command.Start())
			t.Cleanup(func() {
				_ = syscall.Kill(-command.Process.Pid, syscall.SIGTERM)
				_ = command.Wait()
			})
			ask := func(authorization string) (status int, text string, err error) {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost:9000/", nil)
				if err != nil {
					return 0, "", err
				}
				if authorization != "" {
					request.Header.Set("Authorization", authorization)
				}
				reply, err := http.DefaultClient.Do(request)
				if err != nil {
					return 0, "", err
				}
				defer func() { _ = reply.Body.Close() }()
				content, err := io.ReadAll(reply.Body)
				if want := "Bearer"; reply.StatusCode == http.StatusUnauthorized && !strings.HasPrefix(reply.Header.Get("WWW-Authenticate"), want) {
					err = fmt.Errorf("401 with the challenge %q", reply.Header.Get("WWW-Authenticate"))
				}
				return reply.StatusCode, string(bytes.TrimSpace(content)), err
			}
			testenv.Eventually(t, patience, "the service admits a user", func() error {
				status, text, err := ask("Bearer " + access)
				if err == nil && (status != http.StatusOK || text != "hello, "+g.username) {
					err = fmt.Errorf("%d %s\n%s", status, text, said)
				}
				return err
			})
			for _, wrong := range []string{"", "Bearer", "Bearer " + g.refresh, "Basic " + access, "Bearer " + access + "x"} {
				if status, text, err := ask(wrong); err != nil || status != http.StatusUnauthorized {
					t.Errorf("with %.12q: %d %s %v", wrong, status, text, err)
				}
			}
		})
	}
}

// body returns a Go program's main, or else the whole text.
func body(source string) string {
	if _, main, found := strings.Cut(source, "func main() {\n"); found {
		return strings.TrimSuffix(strings.TrimSpace(main), "}")
	}
	return source
}

var space = regexp.MustCompile(`\s+`)

func spaces(text string) string { return strings.TrimSpace(space.ReplaceAllString(text, " ")) }
