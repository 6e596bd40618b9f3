// Command tests runs the tests of all modules except test/e2e, which needs a whole cluster. hack/test.sh, which is
// `make test`, installs what they need and then calls it.
//
// It runs two parts at a time, the longest first. Most tests wait for a database, a program or a deadline, so a single
// part would leave a core idle. Three rules limit which parts run at the same time:
//
//   - Only one package with a Kubernetes API server runs at a time: API server, etcd and tests keep a core busy.
//   - Parts that compare times, or that use the whole machine, run last and one at a time.
//   - Packages whose goroutines share state run only under the race detector, because a run without it checks less.
//     The others run without it: they decrypt keys hundreds of times, which it makes very slow.
//
// The output of a part is printed when the part has ended, so the outputs do not mix. The last lines are a table of the
// time that each package took, and the parts that failed.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const module = "github.com/auth-gateway/auth-gateway/"

// part is a package to test, or a command.
type part struct {
	name     string
	path     string   // of the package, if it differs from the name
	flags    []string // of go test
	packages []string // if the part has several
	dir      string   // in which the command runs
	command  []string // if it differs from go test
	seconds  int      // duration on two cores; long parts start early
	cluster  bool     // it runs a Kubernetes API server
	alone    bool     // it compares times, or uses the whole machine
	race     bool     // it runs under the race detector
	slow     bool     // -quick leaves it out
}

// Patterns of tests that run on their own, after all others.
const (
	timing  = "^(TestEnumerationIsPrevented|TestSequencesRevealNoAccount)$"
	latency = "^TestAHundredConsumersLearnInTime$"
	siege   = "^TestMemoryUnderThousandsOfUnfinishedConnections$" // thousands of clients use the whole machine
)

// parts returns the parts that take long or need options. The other packages are one more part.
func parts() []part {
	goTest := []string{"go", "test", "-vet=off", "./..."}
	return []part{
		{name: "controllers", seconds: 600, cluster: true, slow: true},
		{name: "test/alerts", seconds: 60, cluster: true},
		{name: "test/scale", seconds: 310, cluster: true, slow: true},
		{name: "test/install", seconds: 100, cluster: true, slow: true},
		{name: "api/v1alpha1", seconds: 12, cluster: true, slow: true},
		{name: "internal/testenv/kubernetestest", seconds: 8, cluster: true, slow: true},
		{name: "internal/testenv/localkubernetes", seconds: 4, cluster: true, slow: true},

		{name: "internal/postgres", seconds: 240, race: true},
		{name: "internal/identity", seconds: 77, race: true},
		{name: "internal/identity/identitytest", seconds: 2, race: true},
		{name: "internal/httpapi", seconds: 53, race: true},
		{name: "internal/httpapi/apitest", seconds: 2, race: true},
		{name: "internal/mail", seconds: 8, race: true},

		{name: "cmd/authserver", flags: []string{"-skip", siege}, seconds: 60},
		{name: "cmd/authserver, siege", path: "cmd/authserver", flags: []string{"-run", siege}, alone: true, slow: true},
		{name: "authserver", seconds: 200, cluster: true},
		{name: "test/search", seconds: 196, slow: true}, // it searches for a fixed time
		{name: "keys", seconds: 139},
		{name: "test/browser", seconds: 50, slow: true},
		{name: "hack/run", seconds: 49},
		{name: "test/upgrade", seconds: 45, slow: true},
		{name: "test/walk", seconds: 40, slow: true},
		{name: "internal/testenv/localpostgres", seconds: 37, slow: true},

		{name: "test/public", flags: []string{"-skip", timing}, seconds: 110, slow: true},
		{name: "test/public, times", path: "test/public", flags: []string{"-run", timing}, alone: true, slow: true},

		// Three PostgreSQL with a lease of ten seconds need the processors in time.
		{name: "test/failover", seconds: 110, alone: true, slow: true},

		{name: "cmd/kubectl-authgateway", dir: "cmd/kubectl-authgateway", packages: []string{"./..."}, seconds: 40, cluster: true, slow: true},
		{name: "fuzz targets", command: []string{"hack/fuzz.sh"}, seconds: 40, slow: true},
		{name: "hack/localcluster", dir: "hack/localcluster", command: goTest},
		{name: "hack/kubernetes/image", dir: "hack/kubernetes/image", command: goTest},
		{name: "hack/release", dir: "hack/release", command: goTest, seconds: 60, slow: true},
		{name: "test/compose", dir: "test/compose", command: goTest},
		{name: "verify", dir: "verify", packages: []string{"./..."}, seconds: 25, race: true},
		{name: "verify/bench", dir: "verify/bench", command: goTest},
		{name: "verify/grpcauth", dir: "verify/grpcauth", command: goTest},
		{name: "verify/fiberauth", dir: "verify/fiberauth", command: goTest},
		{name: "verify/fiberv2auth", dir: "verify/fiberv2auth", command: goTest},
		{name: "test/consumers", dir: "test/consumers", path: ".", flags: []string{"-skip", latency}, seconds: 60},
		{name: "test/consumers, times", dir: "test/consumers", path: ".", flags: []string{"-run", latency}, alone: true, slow: true},
		{name: "test/judges", dir: "test/judges", seconds: 150, cluster: true, slow: true,
			command: append(slices.Clone(goTest), "-parallel=8")}, // it waits for rotations most of the time
		{name: "test/clients", dir: "test/clients", seconds: 25, slow: true, // the clients are generated first
			command: []string{"sh", "-c", "go generate ./... && " + strings.Join(goTest, " ")}},
	}
}

func main() {
	quick := flag.Bool("quick", false, "leave out what needs an API server, a browser or minutes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *quick)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests:", err)
		os.Exit(1)
	}
}

// runner runs parts in parallel.
type runner struct {
	quick, race bool

	mu      sync.Mutex
	pending []part
	server  bool // a part with an API server runs
	took    []taken
	failed  []string
}

// taken is the time that a package took.
type taken struct {
	name    string
	seconds float64
	cached  bool
}

func run(ctx context.Context, quick bool) error {
	r := &runner{quick: quick, race: !quick && hasCompiler(ctx), pending: parts()}
	if !quick && !r.race {
		fmt.Println("There is no C compiler, so the race detector is left out.")
	}
	if err := r.addOthers(ctx); err != nil {
		return err
	}
	r.pending = slices.DeleteFunc(r.pending, func(p part) bool { return quick && p.slow })
	slices.SortStableFunc(r.pending, func(a, b part) int { return cmp.Compare(b.seconds, a.seconds) })
	begin := time.Now()
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for ctx.Err() == nil {
				p, found := r.next(false)
				if !found {
					return
				}
				r.run(ctx, p)
			}
		})
	}
	workers.Wait()
	for p, found := r.next(true); found && ctx.Err() == nil; p, found = r.next(true) {
		r.run(ctx, p)
	}
	r.table(time.Since(begin))
	if len(r.failed) > 0 {
		return errors.New("failed: " + strings.Join(r.failed, ", "))
	}
	return ctx.Err()
}

// hasCompiler reports whether the C compiler that the race detector needs is installed.
func hasCompiler(ctx context.Context) bool {
	name, err := exec.CommandContext(ctx, "go", "env", "CC").Output()
	if err == nil {
		_, err = exec.LookPath(strings.TrimSpace(string(name)))
	}
	return err == nil
}

// addOthers adds the packages of the main module that have tests and are in no other part, as one part.
func (r *runner) addOthers(ctx context.Context) error {
	list := exec.CommandContext(ctx, "go", "list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}", "./...")
	list.Stderr = os.Stderr
	text, err := list.Output()
	if err != nil {
		return fmt.Errorf("list the packages: %w", err)
	}
	others := part{name: "other packages", flags: []string{"-p=1"}, seconds: 30}
	for path := range strings.FieldsSeq(string(text)) {
		name := strings.TrimPrefix(path, module)
		if name != "test/e2e" && !slices.ContainsFunc(r.pending, func(p part) bool { return p.name == name }) {
			others.packages = append(others.packages, "./"+name)
		}
	}
	r.pending = append(r.pending, others)
	return nil
}

// next returns the longest part that can run now. A part with an API server is passed over while another one runs.
func (r *runner) next(alone bool) (part, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.pending, func(p part) bool { return p.alone == alone && !(p.cluster && r.server) })
	if i < 0 {
		return part{}, false
	}
	p := r.pending[i]
	r.pending = slices.Delete(r.pending, i, i+1)
	r.server = r.server || p.cluster
	return p, true
}

func (r *runner) run(ctx context.Context, p part) {
	args := p.command
	if args == nil {
		args = []string{"go", "test", "-vet=off", "-timeout=30m"} // make lint vets
		if p.race && r.race {
			args = append(args, "-race")
		}
		if r.quick {
			args = append(args, "-short")
		}
		args = append(args, p.flags...)
		if p.packages == nil {
			p.packages = []string{"./" + cmp.Or(p.path, p.name)}
		}
		args = append(args, p.packages...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = p.dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	begin := time.Now()
	output, err := cmd.CombinedOutput()
	took := time.Since(begin)

	r.mu.Lock()
	defer r.mu.Unlock()
	if p.cluster {
		r.server = false
	}
	fmt.Printf("=== %s, %.0f s including compilation: %s\n%s", p.name, took.Seconds(), strings.Join(args, " "), withoutEmpty(output))
	if err != nil {
		fmt.Printf("=== %s failed: %v\n", p.name, err)
		r.failed = append(r.failed, p.name)
	}
	if p.command != nil {
		r.took = append(r.took, taken{name: p.name, seconds: took.Seconds()})
		return
	}
	for _, line := range result.FindAllStringSubmatch(string(output), -1) {
		t := taken{name: p.name, cached: line[2] == "(cached)"}
		if len(p.packages) > 1 {
			t.name = strings.TrimPrefix(line[1], module)
		}
		t.seconds, _ = strconv.ParseFloat(strings.TrimSuffix(line[2], "s"), 64)
		r.took = append(r.took, t)
	}
}

// result matches the line that go test prints for a package.
var result = regexp.MustCompile(`(?m)^(?:ok  |FAIL)\t(\S+)\t(\(cached\)|[0-9.]+s)`)

// withoutEmpty drops the lines about packages without tests.
func withoutEmpty(output []byte) []byte {
	return regexp.MustCompile(`(?m)^\?.*\[no test files\]\n`).ReplaceAll(output, nil)
}

// table prints how long each package took.
func (r *runner) table(all time.Duration) {
	slices.SortStableFunc(r.took, func(a, b taken) int { return cmp.Compare(b.seconds, a.seconds) })
	fmt.Println("\nSeconds that each package took:")
	for _, t := range r.took {
		if t.cached {
			fmt.Printf("  cached  %s\n", t.name)
		} else {
			fmt.Printf("%8.1f  %s\n", t.seconds, t.name)
		}
	}
	fmt.Printf("%8.1f  all, two at a time, including compilation\n", all.Seconds())
}
