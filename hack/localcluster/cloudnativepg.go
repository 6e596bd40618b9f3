package localcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// cloudNativePGModule is the module of the CloudNativePG operator, at the version in hack/kubernetes/cloudnativepg.
const cloudNativePGModule = "github.com/cloudnative-pg/cloudnative-pg"

// CloudNativePG installs the CloudNativePG operator in the cluster, or updates it. The operator is built from its
// module, and installed with the manifest of its release, which the module contains.
func (c *Cluster) CloudNativePG(ctx context.Context) error {
	e, err := c.present()
	if err != nil {
		return err
	}
	if e == nil {
		return errors.New("there is no cluster: run make up")
	}
	c.step("building the CloudNativePG operator; the first time this takes up to 4 minutes on 2 cores")
	b := imageBuilder{Cluster: c}
	if b.program, err = b.compile(ctx, filepath.Join(c.root, "hack", "kubernetes", "image"), ".", "linux"); err != nil {
		return err
	}
	folder := filepath.Join("hack", "kubernetes", "cloudnativepg")
	program, err := b.compile(ctx, filepath.Join(c.root, folder), cloudNativePGModule+"/cmd/manager", "linux")
	if err != nil {
		return err
	}
	// Pods run /manager. The operator gives the other file to those whose version is older.
	built, err := b.tagged(ctx, "auth-gateway.local/cloudnativepg:", []string{"-entrypoint", "/manager"},
		program+"=/manager", program+"=/operator/manager_"+runtime.GOARCH)
	if err != nil {
		return err
	}
	if err := e.load(ctx, built.archive); err != nil {
		return err
	}
	manifest, err := cloudNativePGManifest(ctx, filepath.Join(c.root, folder), built.name)
	if err != nil {
		return err
	}
	c.step("installing the CloudNativePG operator")
	k, err := c.connect()
	if err != nil {
		return err
	}
	if err := k.apply(ctx, manifest, ""); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	return poll(ctx, func() error { return k.available(ctx, "cnpg-system", "cnpg-controller-manager") })
}

// cloudNativePGManifest returns the manifest of the release with another image, which the node cannot pull.
func cloudNativePGManifest(ctx context.Context, folder, image string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}} {{.Version}}", cloudNativePGModule)
	cmd.Dir = folder
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the module of CloudNativePG: %w", err)
	}
	dir, version, _ := strings.Cut(strings.TrimSpace(string(out)), " v")
	content, err := os.ReadFile(filepath.Join(dir, "releases", "cnpg-"+version+".yaml"))
	if err != nil {
		return "", err
	}
	official := "ghcr.io/cloudnative-pg/cloudnative-pg:" + version
	if !strings.Contains(string(content), official) {
		return "", fmt.Errorf("the manifest of CloudNativePG %s does not name the image %s", version, official)
	}
	return strings.NewReplacer(official, image, "imagePullPolicy: Always", "imagePullPolicy: IfNotPresent").Replace(string(content)), nil
}

// available returns an error unless every replica of a Deployment runs its latest template.
func (k connection) available(ctx context.Context, namespace, name string) error {
	d := &unstructured.Unstructured{}
	d.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"})
	if err := k.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, d); err != nil {
		return err
	}
	status, _, err := unstructured.NestedMap(d.Object, "status")
	if err != nil {
		return err
	}
	want, _, _ := unstructured.NestedInt64(d.Object, "spec", "replicas")
	for _, field := range []string{"replicas", "updatedReplicas", "availableReplicas"} {
		if status[field] != want {
			return fmt.Errorf("%s has %s %v, not %d", name, field, status[field], want)
		}
	}
	if status["observedGeneration"] != d.GetGeneration() {
		return fmt.Errorf("%s has not been observed", name)
	}
	return nil
}
