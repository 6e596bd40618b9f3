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

// envtestIndex is the list of downloads that setup-envtest uses.
const envtestIndex = "https://raw.githubusercontent.com/kubernetes-sigs/controller-tools/HEAD/envtest-releases.yaml"

// downloadFrom downloads the programs with setup-envtest. Not every patch release of Kubernetes is available, so the
// latest one of the minor version is used. If the index does not answer at once, the machine is offline and there is no
// retry.
func downloadFrom(index string) source {
	return func(ctx context.Context, log io.Writer, scratch string) (string, error) {
		root, err := Root()
		if err != nil {
			return "", err
		}
		if err := answers(ctx, index); err != nil {
			return "", fmt.Errorf("download them: %w", err)
		}
		fmt.Fprintf(log, "downloading kube-apiserver and etcd of Kubernetes %s.%s; this happens once\n", major, minor)
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
		// setup-envtest makes the folder read-only, and only root can move such a folder.
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
