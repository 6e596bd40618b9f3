package localkubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// envtestIndex is where setup-envtest looks for what can be downloaded.
const envtestIndex = "https://raw.githubusercontent.com/kubernetes-sigs/controller-tools/HEAD/envtest-releases.yaml"

// downloadFrom has setup-envtest download the programs. Not every patch release
// of Kubernetes can be: the latest one of ours will do. Where the index does not
// answer at once there is no way to the internet, and nobody is kept waiting.
func downloadFrom(index string) source {
	return func(ctx context.Context, log io.Writer, scratch string) (string, error) {
		root, err := Root()
		if err != nil {
			return "", err
		}
		if err := answers(ctx, index); err != nil {
			return "", fmt.Errorf("download them: %w", err)
		}
		fmt.Fprintf(log, "downloading kube-apiserver and etcd of Kubernetes %s.%s, once\n", major, minor)
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "go", "tool", "-modfile=hack/tools/kubernetes/go.mod", "setup-envtest",
			"use", major+"."+minor+".x", "--index", index, "--bin-dir", scratch, "--print", "path")
		cmd.Dir = root
		out, err := cmd.Output()
		if err != nil {
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				err = fmt.Errorf("%w: %s", err, exit.Stderr)
			}
			return "", fmt.Errorf("download them with setup-envtest: %w", err)
		}
		dir := strings.TrimSpace(string(out))
		// It is left read-only, and such a folder only root can move.
		return dir, os.Chmod(dir, 0o755)
	}
}

func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	if err := response.Body.Close(); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}
