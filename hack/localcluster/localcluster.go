// Package localcluster runs Auth Gateway as a cluster would, on one machine, for
// those who want to see it and for the tests in test/e2e: a Kubernetes, the
// operator in it by our own chart, a PostgreSQL, an AuthGateway, and a service
// that verifies its tokens.
//
// The Kubernetes is one of two. Where a Docker engine answers it is kind's, which
// is the ordinary way; all that is particular to it is in kind.go. Where none does,
// on Linux as root, it is a node of our own: the official components, built from
// Go modules by internal/testenv/localkubernetes, as processes under a supervisor.
package localcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv/localkubernetes"
)

// nodePort is where the API of the demonstration answers, at the node.
const nodePort = "30080"

// An engine runs the Kubernetes of a cluster. All of its methods may be called
// again at any time.
type engine interface {
	// up returns when the API server answers, and has written the kubeconfig.
	up(ctx context.Context) error
	// load makes images of archives known to the node.
	load(ctx context.Context, archives ...string) error
	// url is where nodePort is reached.
	url() string
	// kubectl is the program to look at it with.
	kubectl() string
	// status fails where something of it does not run.
	status(ctx context.Context) error
	// down leaves nothing of it.
	down(ctx context.Context) error
}

// A Cluster is the one of a checkout.
type Cluster struct {
	root string // the checkout
	dir  string // what the cluster has on disk
	log  io.Writer
}

// New gives the cluster of the checkout that the current folder is in, whether it
// runs or not. What takes its time is told on log.
func New(log io.Writer) (*Cluster, error) {
	root, err := localkubernetes.Root()
	if err != nil {
		return nil, err
	}
	return &Cluster{root: root, dir: filepath.Join(root, ".local", "cluster"), log: log}, nil
}

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.dir}, elements...)...)
}

func (c *Cluster) kubeconfig() string { return c.path("kubeconfig") }

// The engines, as the file names them.
const (
	engineFile = "engine"
	engineKind = "kind"
	engineNode = "node"
)

func (c *Cluster) engineOf(name string) (engine, error) {
	switch {
	case name == engineKind:
		return kind{c}, nil
	case name == engineNode && runtime.GOOS == "linux":
		return newNode(c.dir, c.log), nil
	default:
		return nil, fmt.Errorf("%s: there is no engine %q", c.path(engineFile), name)
	}
}

// present is the engine that was chosen when the cluster was made; nil: there is
// none.
func (c *Cluster) present() (engine, error) {
	name, err := os.ReadFile(c.path(engineFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return c.engineOf(strings.TrimSpace(string(name)))
}

// choose takes the engine that is there already, or else the one that fits the
// machine.
func (c *Cluster) choose(ctx context.Context) (engine, error) {
	if e, err := c.present(); e != nil || err != nil {
		return e, err
	}
	name := engineNode
	switch {
	case dockerAnswers(ctx):
		name = engineKind
	case runtime.GOOS != "linux":
		return nil, errors.New("no Docker engine answers: start one, and run make up again")
	case os.Geteuid() != 0:
		return nil, errors.New("no Docker engine answers: start one; or run make up as root, for a cluster without it")
	}
	e, err := c.engineOf(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	return e, os.WriteFile(c.path(engineFile), []byte(name+"\n"), 0o600)
}

// Up makes all of it, or brings what is there up to date with the checkout, drives
// it once, and tells on out how to go on.
func (c *Cluster) Up(ctx context.Context, out io.Writer) error {
	begin := time.Now()
	e, err := c.choose(ctx)
	if err != nil {
		return err
	}
	if err := e.up(ctx); err != nil {
		return err
	}
	_, pulls := e.(kind)
	images, err := c.images(ctx, pulls)
	if err != nil {
		return err
	}
	c.step("loading the images")
	if err := e.load(ctx, images.archives()...); err != nil {
		return err
	}
	url, err := c.deploy(ctx, e, images)
	if err != nil {
		return fmt.Errorf("%w\nSee what there is: KUBECONFIG=%s %s get pods --all-namespaces", err, c.kubeconfig(), e.kubectl())
	}
	fmt.Fprintf(out, `
It took %[1]s. Auth Gateway runs at %[2]s, as the AuthGateway auth in the namespace demo.
Look around:

  export KUBECONFIG=%[3]s
  %[4]s get agw --all-namespaces
  %[4]s describe agw auth --namespace demo
  curl -s %[2]s/.well-known/jwks.json

make e2e tests it, make status tells what runs, make down removes it.

`, time.Since(begin).Round(time.Second), url, c.kubeconfig(), e.kubectl())
	return nil
}

// Status tells what runs, and fails where something does not.
func (c *Cluster) Status(ctx context.Context, out io.Writer) error {
	e, err := c.present()
	if err != nil {
		return err
	}
	if e == nil {
		return errors.New("there is no cluster: make up makes one")
	}
	if err := e.status(ctx); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"get", "nodes"},
		{"get", "pods", "--all-namespaces"},
		{"get", "authgateways", "--all-namespaces"},
	} {
		cmd := exec.CommandContext(ctx, e.kubectl(), append([]string{"--kubeconfig", c.kubeconfig()}, args...)...)
		cmd.Stdout, cmd.Stderr = out, out
		fmt.Fprintln(out)
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
		}
	}
	fmt.Fprintf(out, "\n%s\nexport KUBECONFIG=%s\n", e.url(), c.kubeconfig())
	return nil
}

// Down removes the cluster, and leaves nothing of it on the machine but the built
// programs and images.
func (c *Cluster) Down(ctx context.Context) error {
	e, err := c.present()
	if err != nil {
		return err
	}
	if e == nil {
		c.step("there is no cluster")
		return nil
	}
	if err := e.down(ctx); err != nil {
		return err
	}
	c.step("the cluster is gone")
	return errors.Join(removeIfThere(c.kubeconfig()), removeIfThere(c.path(engineFile)))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (c *Cluster) step(format string, args ...any) { fmt.Fprintf(c.log, format+"\n", args...) }

// poll tries until it succeeds, and says why it did not, once there is no time.
func poll(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
