package localcluster

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// kind is a cluster of https://kind.sigs.k8s.io in a Docker container.
type kind struct{ *Cluster }

const kindName = "auth-gateway"

// dockerAnswers reports whether a Docker engine answers.
func dockerAnswers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, "docker", "info").Run() == nil
}

func (k kind) run(ctx context.Context, stdin string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"tool", "-modfile=hack/tools/kubernetes/go.mod", "kind"}, args...)...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = k.root, strings.NewReader(stdin), k.log, k.log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kind %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (k kind) up(ctx context.Context) error {
	if k.status(ctx) == nil {
		return nil
	}
	return k.run(ctx, `
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
- role: control-plane
  extraPortMappings:
  - {containerPort: `+nodePort+`, hostPort: `+nodePort+`, listenAddress: 127.0.0.1}
`, "create", "cluster", "--name", kindName, "--kubeconfig", k.kubeconfig(), "--config", "-", "--wait", "2m")
}

func (k kind) load(ctx context.Context, archives ...string) error {
	for _, archive := range archives {
		if err := k.run(ctx, "", "load", "image-archive", "--name", kindName, archive); err != nil {
			return err
		}
	}
	return nil
}

func (kind) url() string { return "http://127.0.0.1:" + nodePort }

func (kind) kubectl() string { return "kubectl" }

func (k kind) status(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "docker", "inspect", "--format", "{{.State.Running}}", kindName+"-control-plane").Output()
	if err != nil || strings.TrimSpace(string(out)) != "true" {
		return fmt.Errorf("the kind cluster %s is not running: run make down, then make up", kindName)
	}
	return nil
}

func (k kind) down(ctx context.Context) error {
	return k.run(ctx, "", "delete", "cluster", "--name", kindName, "--kubeconfig", k.kubeconfig())
}
