package upgrade

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// releases are the releases that can be upgraded to this one, each with the commit that it was made from.
var releases = []struct{ version, commit string }{
	{"v0.1.0", "60fcd62c82ef3ab79fa9d9fd4daeae0165bedb13"},
}

// build builds the server of a commit.
func build(t *testing.T, version, commit string) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(testenv.Root(), ".git")); errors.Is(err, os.ErrNotExist) {
		t.Skip("this is no clone, so there are no earlier releases to build")
	}
	source := t.TempDir()
	archive := exec.Command("git", "archive", commit)
	archive.Dir = testenv.Root()
	text, err := archive.Output()
	if err != nil {
		t.Fatalf("the commit of %s is not in this clone: run git fetch --unshallow (%v)", version, err)
	}
	unpack := exec.Command("tar", "-x", "-C", source)
	unpack.Stdin = bytes.NewReader(text)
	testenv.NoError(t, unpack.Run())
	return compile(t, source, version)
}

func compile(t *testing.T, source, version string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "authserver")
	flags := "-X main.version=" + version
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", program, "./cmd/authserver")
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", version, err, out)
	}
	if out := testenv.Must(exec.Command(program, "version").Output())(t); strings.TrimSpace(string(out)) != version {
		t.Fatalf("the program has version %s, not %s", out, version)
	}
	return program
}

// replica is a process that serves.
type replica struct {
	name string
	base string
	cmd  *exec.Cmd
	log  bytes.Buffer

	requests atomic.Int64 // that are under way
	served   atomic.Int64
}

// service sends requests to the replicas that are in it, in turn, as a Service of Kubernetes does. A replica leaves it
// before it ends.
type service struct {
	t        *testing.T
	settings gatewaytest.Settings
	client   *testenv.Client

	mu       sync.Mutex
	replicas []*replica
	next     int
	failures []string
	sent     atomic.Int64

	// moving is locked while the first newer replica starts. It moves the sign-ups that wait for their code to a table
	// that v0.1.0 does not know (docs/upgrade.md), so none must wait then.
	moving sync.RWMutex
}

// start starts a replica and waits until it is ready. It does not serve yet.
func (s *service) start(program, name string) *replica {
	s.t.Helper()
	port, ops := testenv.FreePort(s.t), testenv.FreePort(s.t)
	r := &replica{name: name, base: "http://127.0.0.1:" + strconv.Itoa(port), cmd: exec.Command(program)}
	for key, value := range s.settings.With(gatewaytest.Settings{"PORT": strconv.Itoa(port), "METRICS_PORT": strconv.Itoa(ops)}) {
		r.cmd.Env = append(r.cmd.Env, key+"="+value)
	}
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	testenv.NoError(s.t, r.cmd.Start())
	s.t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
	})
	testenv.Eventually(s.t, time.Minute, name+" is ready", func() error {
		reply, err := s.client.Try(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/readyz", ops), nil, nil)
		if err == nil && reply.Status != http.StatusOK {
			err = errors.New(reply.String())
		}
		return err
	})
	return r
}

func (s *service) add(r *replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas = append(s.replicas, r)
}

// pick returns the replica for the next request, which counts as under way.
func (s *service) pick() *replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	r := s.replicas[s.next%len(s.replicas)]
	r.requests.Add(1)
	return r
}

// remove takes the oldest replica out of the service, ends it, and expects that it ends cleanly.
func (s *service) remove() {
	s.t.Helper()
	s.mu.Lock()
	r := s.replicas[0]
	s.replicas = s.replicas[1:]
	s.mu.Unlock()
	testenv.Until(s.t, time.Minute, "no request is under way", func() bool { return r.requests.Load() == 0 })
	if r.served.Load() == 0 {
		s.t.Errorf("%s served nothing", r.name)
	}
	testenv.NoError(s.t, r.cmd.Process.Signal(syscall.SIGTERM))
	if err := r.cmd.Wait(); err != nil {
		s.t.Errorf("%s: %v\n%s", r.name, err, r.log.String())
	}
}

// send sends a request to the next replica and records a failure unless the reply has the status.
func (s *service) send(status int, method, path string, header http.Header, body any) *testenv.Reply {
	r := s.pick()
	defer r.requests.Add(-1)
	return s.sendTo(r, status, method, path, header, body)
}

func (s *service) sendTo(r *replica, status int, method, path string, header http.Header, body any) *testenv.Reply {
	reply, err := s.client.Try(method, r.base+path, header, body)
	s.sent.Add(1)
	r.served.Add(1)
	if err != nil || reply.Status != status {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.failures = append(s.failures, fmt.Sprintf("%s %s at %s: %v %v", method, path, r.name, reply, err))
		return &testenv.Reply{}
	}
	return reply
}

type object = map[string]any

const password = "correct horse battery"

func username(i int) string { return fmt.Sprintf("user.%06d", i) }

// signUp makes a verified account. One replica gets both requests, because v0.1.0 does not accept codes of later
// versions (docs/upgrade.md).
func (s *service) signUp(i int) *testenv.Reply {
	s.moving.RLock()
	defer s.moving.RUnlock()
	r := s.pick()
	defer r.requests.Add(-1)
	reply := s.sendTo(r, http.StatusCreated, http.MethodPost, "/users", nil, object{
		"username": username(i), "email": username(i) + "@mailbox.example", "password": password,
		"first_name": "Ada", "last_name": "Lovelace",
	})
	return s.sendTo(r, http.StatusOK, http.MethodPost, "/users/verify-user", nil, object{"code": reply.Text("code")})
}

func (s *service) signIn(i int) *testenv.Reply {
	return s.send(http.StatusOK, http.MethodPost, "/tokens/signin", nil, object{"username": username(i), "password": password})
}

func (s *service) renew(tokens *testenv.Reply) *testenv.Reply {
	return s.send(http.StatusOK, http.MethodPost, "/tokens", nil, object{"refresh_token": tokens.Text("refresh_token")})
}

func (s *service) read(tokens *testenv.Reply) {
	s.send(http.StatusOK, http.MethodGet, "/users", testenv.Bearer(tokens.Text("access_token")), nil)
}

// load sends requests until stop is closed: three clients that renew one session each and read with it, one that signs
// in and out, one that signs up, and one that reads the keys.
func (s *service) load(stop <-chan struct{}) *sync.WaitGroup {
	var clients sync.WaitGroup
	client := func(each func(n int)) {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(3 * time.Millisecond):
					each(n)
				}
			}
		})
	}
	for i := range 3 {
		tokens := s.signIn(i)
		client(func(int) {
			tokens = s.renew(tokens)
			s.read(tokens)
		})
	}
	client(func(n int) {
		tokens := s.signIn(n % accounts)
		s.read(tokens)
		s.send(http.StatusNoContent, http.MethodDelete, "/tokens", nil, object{"refresh_token": tokens.Text("refresh_token")})
	})
	client(func(n int) { s.read(s.signUp(1000 + n)) })
	client(func(int) { s.send(http.StatusOK, http.MethodGet, "/.well-known/jwks.json", nil, nil) })
	return &clients
}

const accounts = 20

// failed returns the failures so far.
func (s *service) failed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures
}

func TestUpgradeAndRollbackUnderLoad(t *testing.T) {
	current := compile(t, testenv.Root(), "v0.0.0-current")
	for _, release := range releases {
		t.Run(release.version, func(t *testing.T) {
			former := build(t, release.version, release.commit)
			s := &service{t: t, client: testenv.NewClient(t, ""), settings: gatewaytest.Environ(postgrestest.Unmigrated(t),
				gatewaytest.Settings{"LOG_LEVEL": "info", "LIMIT_WRITES": "off"})}
			s.add(s.start(former, "former 1"))
			s.add(s.start(former, "former 2"))
			for i := range accounts {
				s.signUp(i)
			}
			stop := make(chan struct{})
			clients := s.load(stop)

			// sessions are opened in each state and not used until the end.
			var sessions []*testenv.Reply
			state := func(name string) {
				t.Helper()
				before := s.sent.Load()
				for i := range accounts {
					sessions = append(sessions, s.signIn(i))
				}
				testenv.Until(t, time.Minute, name, func() bool { return s.sent.Load() >= before+500 })
				if failed := s.failed(); len(failed) > 0 {
					t.Fatalf("%s: %d requests failed, the first: %s", name, len(failed), failed[0])
				}
				t.Logf("%s: %d requests, none failed", name, s.sent.Load()-before)
			}
			state("both former")
			for _, step := range []struct{ program, name string }{
				{current, "upgrade, one of two"}, {current, "upgrade"},
				{former, "rollback, one of two"}, {former, "rollback"},
				{current, "second upgrade, one of two"}, {current, "second upgrade"},
			} {
				first := step.name == "upgrade, one of two"
				if first {
					s.moving.Lock()
				}
				s.add(s.start(step.program, step.name)) // the new one is ready before another leaves
				if first {
					s.moving.Unlock()
				}
				s.remove()
				state(step.name)
			}
			close(stop)
			clients.Wait()
			for _, tokens := range sessions {
				s.read(s.renew(tokens))
			}
			if failed := s.failed(); len(failed) > 0 {
				t.Fatalf("%d of %d requests failed, the first: %s", len(failed), s.sent.Load(), failed[0])
			}
			t.Logf("%d requests, none failed; %d sessions, none lost", s.sent.Load(), len(sessions))
			for len(s.replicas) > 0 {
				s.remove()
			}
		})
	}
}

// TestFailuresAreSeen plants a replica that does not serve, so that the other test cannot pass without looking.
func TestFailuresAreSeen(t *testing.T) {
	s := &service{t: t, client: testenv.NewClient(t, "")}
	s.add(&replica{name: "none", base: "http://127.0.0.1:" + strconv.Itoa(testenv.FreePort(t))})
	s.send(http.StatusOK, http.MethodGet, "/users", nil, nil)
	if len(s.failed()) != 1 {
		t.Errorf("the failures are %v", s.failed())
	}
}
