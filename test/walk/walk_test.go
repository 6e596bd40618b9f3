package walk

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/makerun"
)

const root = "../.."

// patience allows for the first downloads of an example's libraries on a busy machine.
const patience = 5 * time.Minute

func TestMain(m *testing.M) { testenv.Main(m) }

func start(t *testing.T, exposure string) *makerun.Server {
	t.Helper()
	if testing.Short() {
		t.Skip("this test builds and starts the server")
	}
	need(t, "bash", "curl")
	s := makerun.Start(t, exposure)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the output of make run:\n%s", s)
		}
	})
	return s
}

func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
}

// run starts a program, and returns a function that ends it and its children.
func run(t *testing.T, o *testenv.Output, environ []string, dir, program string, arguments ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(program, arguments...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = environ, dir, o, o
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	testenv.NoError(t, cmd.Start())
	return func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
	}
}

var shell = regexp.MustCompile("(?s)```sh\n(.*?)```")

// blocks returns the shell blocks under a heading of a document.
func blocks(t *testing.T, document, title string) []string {
	t.Helper()
	content := testenv.Must(os.ReadFile(filepath.Join(root, document)))(t)
	_, after, found := strings.Cut(string(content), "\n## "+title+"\n")
	if !found {
		t.Fatalf("%s has no heading %q", document, title)
	}
	after, _, _ = strings.Cut(after, "\n## ")
	var all []string
	for _, block := range shell.FindAllStringSubmatch(after, -1) {
		all = append(all, block[1])
	}
	return all
}

// shellSession is a shell into which a test pastes text.
type shellSession struct {
	*testenv.Output

	in interface{ Write([]byte) (int, error) }
}

func openShell(t *testing.T, environ ...string) shellSession {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "bash")
	s := shellSession{Output: &testenv.Output{}}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = root, append(os.Environ(), environ...), s.Output, s.Output
	in := testenv.Must(cmd.StdinPipe())(t)
	s.in = in
	testenv.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return s
}

func (s shellSession) paste(t *testing.T, text string) {
	t.Helper()
	testenv.NoError(t, testenv.Err(s.in.Write([]byte(text))))
}

var person = regexp.MustCompile(`(?:ada|grace)-\d+@example\.com`)

func TestReadmeWorksTwiceInEachExposure(t *testing.T) {
	for _, exposure := range []string{"internal", "public"} {
		t.Run(exposure, func(t *testing.T) {
			r := start(t, exposure)
			for range 2 {
				s := openShell(t)
				for _, block := range blocks(t, "README.md", "From zero to a verified token") {
					block = strings.ReplaceAll(block, "http://localhost:8080", r.URL)
					if strings.Contains(block, "read -r") && exposure == "public" {
						s.paste(t, "echo $name@example.com\n")
						s.WaitFor(t, patience, "@example.com\n")
						block += r.MailedCode(t, person.FindString(s.String())) + "\n"
					}
					s.paste(t, block)
				}
				s.paste(t, "echo finished\n")
				s.WaitFor(t, patience, "finished\n")
				if text := s.String(); !regexp.MustCompile(`verified: [0-9a-f-]{36} profile email\n`).MatchString(text) ||
					strings.Count(text, `"refresh_token"`) != 2 ||
					!strings.Contains(text, `"is_verified":true`) {
					t.Errorf("the output of the shell:\n%s", text)
				}
			}
		})
	}
}

func TestExampleBackendsWorkAsTyped(t *testing.T) {
	r := start(t, "internal")
	all := blocks(t, "docs/quick-start.md", "A backend of your own")
	if len(all) != 4 {
		t.Fatalf("%d blocks, want two backends and two to paste", len(all))
	}
	for i, command := range all[:2] {
		t.Run([]string{"Go", "Node"}[i], func(t *testing.T) {
			if i == 1 {
				need(t, "node", "npm")
			}
			listen := fmt.Sprintf("localhost:%d", testenv.FreePort(t))
			backend := &testenv.Output{}
			t.Cleanup(run(t, backend, append(os.Environ(), "GATEWAY="+r.URL, "SMTP="+r.SMTP, "LISTEN="+listen), root, "bash", "-c", command))
			backend.WaitFor(t, patience, "listening on http://"+listen)
			for range 2 {
				s := openShell(t)
				s.paste(t, strings.ReplaceAll(all[2], "localhost:3000", listen)+"echo $name@example.com\n")
				s.WaitFor(t, patience, "@example.com\n")
				if !strings.Contains(s.String(), `"message":"Check your inbox."`) || strings.Contains(s.String(), `"code"`) {
					t.Fatalf("%s\n%s", s, backend)
				}
				first, rest, _ := strings.Cut(strings.ReplaceAll(all[3], "localhost:3000", listen), "\n")
				s.paste(t, first+"\n"+r.MailedCode(t, person.FindString(s.String()))+"\n"+rest+"echo finished\n")
				s.WaitFor(t, patience, "finished\n")
				if !strings.Contains(s.String(), `"name":"Grace Hopper"`) || !strings.Contains(s.String(), `"orders":[]`) {
					t.Errorf("%s\n%s", s, backend)
				}
				// These must be rejected, with a reason that a page can show.
				s.paste(t, fmt.Sprintf(`echo; for header in "Authorization: Bearer x" "X: y"; do
	curl -s -o /dev/null -w '%%{http_code} ' %[1]s/orders -H "$header"; done
refresh=$(echo "$tokens" | sed -n 's/.*"refresh_token": *"\([^"]*\)".*/\1/p')
curl -s -o /dev/null -w '%%{http_code} ' %[1]s/orders -H "Authorization: Bearer $refresh"
curl -s %[1]s/verify -H "$json" -d "{\"code\":\"$code\"}"; curl -s %[1]s/signup -H "$json" -d '{'; echo closed
`, listen))
				s.WaitFor(t, patience, "closed\n")
				if !strings.Contains(s.String(), "\n401 401 401 ") || !strings.Contains(s.String(), `"reason":"code_`) ||
					!strings.Contains(s.String(), "The body is not JSON.") {
					t.Errorf("%s\n%s", s, backend)
				}
				time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // user names in the document contain the second
			}
		})
	}
}

// TestSnippetsAreTheExamples checks that docs/quick-start.md shows the files of examples/, and runs them with the
// commands of the document.
func TestSnippetsAreTheExamples(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "docs/quick-start.md"))
	testenv.NoError(t, err)
	for path, language := range map[string]string{"examples/verify-go/main.go": "go", "examples/verify-node/verify.mjs": "js"} {
		file := testenv.Must(os.ReadFile(filepath.Join(root, path)))(t)
		if !strings.Contains(string(content), "```"+language+"\n"+string(file)+"```\n") {
			t.Errorf("docs/quick-start.md does not show %s as it is", path)
		}
	}
	need(t, "node", "npm")
	r := start(t, "internal")
	s := openShell(t)
	walk := blocks(t, "README.md", "From zero to a verified token")
	s.paste(t, strings.ReplaceAll(strings.Join(walk[:len(walk)-1], ""), "http://localhost:8080", r.URL))
	s.paste(t, `cd examples/verify-node && npm ci >/dev/null && node verify.mjs "$auth" "$access"; `+
		"node verify.mjs \"$auth\" \"$refresh\"; echo finished\n")
	s.WaitFor(t, patience, "finished\n")
	if text := s.String(); strings.Count(text, "verified: ") != 1 ||
		!regexp.MustCompile(`verified: [0-9a-f-]{36} profile email\n`).MatchString(text) {
		t.Errorf("%s", text)
	}
}

// TestComposeFileUsesKnownSettings checks the settings; test/compose validates the file itself.
func TestComposeFileUsesKnownSettings(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "examples/compose/compose.yaml"))
	testenv.NoError(t, err)
	var file struct {
		Services map[string]struct{ Environment map[string]string }
	}
	testenv.NoError(t, yaml.Unmarshal(content, &file))
	environ := file.Services["auth"].Environment
	known := map[string]bool{}
	for _, s := range config.Settings() {
		known[s.Name] = true
		known[s.Name+config.FileSuffix] = known[s.Name+config.FileSuffix] || s.Secret
	}
	for name := range environ {
		if !known[name] {
			t.Errorf("%s is not a setting", name)
		}
	}
	for _, exposure := range []string{"internal", "public"} {
		environ["EXPOSURE"] = exposure
		environ["HOST"] = "" // as in the image
		lookup := func(name string) (string, bool) { value, ok := environ[name]; return value, ok }
		readFile := func(path string) ([]byte, error) { return []byte("sixteen bytes or more in " + path), nil }
		if c, err := config.Load(lookup, readFile); err != nil || c.Issuer != "http://localhost:8080" {
			t.Errorf("%s: %v", exposure, err)
		}
	}
}
