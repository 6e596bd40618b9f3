// Package localcluster runs Auth Gateway in a Kubernetes cluster on one machine, to try it and for the tests in
// test/e2e: the operator, installed with the chart, a PostgreSQL, an AuthGateway, and a service that verifies its
// tokens.
//
// There are two engines. If a Docker engine answers, kind runs the cluster (kind.go). Without Docker, on Linux as root,
// the official components run as processes under a supervisor; internal/testenv/localkubernetes builds them from Go
// modules.
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

// nodePort is the node's port of the demonstration's API.
const nodePort = "30080"

// An engine runs the Kubernetes of a cluster. All methods can be called repeatedly.
type engine interface {
	// up returns when the API server answers and the kubeconfig is written.
	up(ctx context.Context) error
	// load imports images from archives into the node.
	load(ctx context.Context, archives ...string) error
	// url returns the URL of nodePort.
	url() string
	// kubectl returns the path of kubectl.
	kubectl() string
	// status returns an error if a part of it is not running.
	status(ctx context.Context) error
	// down removes everything.
	down(ctx context.Context) error
}

// A Cluster is the cluster of a checkout.
type Cluster struct {
	root string // the checkout
	dir  string // holds the files of the cluster
	log  io.Writer
}

// New returns the cluster of the checkout that contains the current folder, whether it runs or not. Progress is written
// to log.
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

// The engines' names in engineFile.
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
		return nil, fmt.Errorf("%s: unknown engine %q", c.path(engineFile), name)
	}
}

// present returns the engine that was chosen when the cluster was created, or nil if there is no cluster.
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

// choose returns the present engine, or chooses one that this machine supports.
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
		return nil, errors.New("no Docker engine answers: start one, or run make up as root to create a cluster without Docker")
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

// Up creates the cluster, or updates it to the checkout. It then runs a sign-up and a sign-in, and prints the next
// steps to out.
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
		return fmt.Errorf("%w\nTo inspect the cluster: KUBECONFIG=%s %s get pods --all-namespaces", err, c.kubeconfig(), e.kubectl())
	}
	fmt.Fprintf(out, `
Done in %[1]s. Auth Gateway runs at %[2]s: AuthGateway auth in namespace demo.
To inspect it:

  export KUBECONFIG=%[3]s
  %[4]s get agw --all-namespaces
  %[4]s describe agw auth --namespace demo
  curl -s %[2]s/.well-known/jwks.json
  bin/kubectl-authgateway status --namespace demo
  bin/kubectl-authgateway users find --namespace demo
  bin/kubectl-authgateway console --namespace demo

make e2e tests the cluster, make status shows what is running, make down deletes it.

`, time.Since(begin).Round(time.Second), url, c.kubeconfig(), e.kubectl())
	return nil
}

// Status prints what is running, and returns an error if a part is not.
func (c *Cluster) Status(ctx context.Context, out io.Writer) error {
	e, err := c.present()
	if err != nil {
		return err
	}
	if e == nil {
		return errors.New("there is no cluster: run make up")
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

// Down removes the cluster. Built programs and images stay on the machine.
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
	c.step("the cluster is deleted")
	return errors.Join(removeIfThere(c.kubeconfig()), removeIfThere(c.path(engineFile)))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (c *Cluster) step(format string, args ...any) { fmt.Fprintf(c.log, format+"\n", args...) }

// poll calls try until it succeeds. When ctx ends, it returns the last error.
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
