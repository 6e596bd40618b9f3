package install

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// namespace is the namespace of rendered releases.
const namespace = "identity"

// helmProgram returns the path of helm, in the version of hack/tools/kubernetes. The
// first call builds it, which can take minutes.
var helmProgram = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "tool", "-modfile=hack/tools/kubernetes/go.mod", "-n", "helm")
	cmd.Dir = root
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("build helm: %w: %s", err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
})

// helm runs helm with an API server and without the settings of this machine.
type helm struct {
	program, home string
	environment   []string
}

func newHelm(t *testing.T, c cluster) helm {
	t.Helper()
	program := testenv.Must(helmProgram())(t)
	home := t.TempDir()
	h := helm{program: program, home: home, environment: []string{
		"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home,
		"KUBECONFIG=" + filepath.Join(home, "kubeconfig"),
	}}
	c.writeKubeconfig(t, filepath.Join(home, "kubeconfig"), client.ObjectKey{})
	return h
}

// writeKubeconfig writes a kubeconfig for the administrator, who impersonates a ServiceAccount if one is given.
func (c cluster) writeKubeconfig(t *testing.T, path string, account client.ObjectKey) {
	t.Helper()
	user := &clientcmdapi.AuthInfo{ClientCertificateData: c.config.CertData, ClientKeyData: c.config.KeyData, Token: c.config.BearerToken}
	if account.Name != "" {
		user.Impersonate, user.ImpersonateGroups = userOf(account)
	}
	testenv.NoError(t, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"test": {Server: c.config.Host, CertificateAuthorityData: c.config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"admin": user},
		Contexts:       map[string]*clientcmdapi.Context{"test": {Cluster: "test", AuthInfo: "admin"}},
		CurrentContext: "test",
	}, path))
}

// try runs helm. An error contains its standard error.
func (h helm) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), h.program, args...)
	cmd.Env = h.environment
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, errs.Bytes())
	}
	return out.String(), nil
}

func (h helm) run(t *testing.T, args ...string) string {
	t.Helper()
	out := testenv.Must(h.try(t, args...))(t)
	return out
}

// aChart is a chart that is rendered for the API server of the tests.
type aChart struct {
	helm
	dir     string
	cluster cluster
	version string // of Kubernetes
}

func chart(t *testing.T) aChart {
	t.Helper()
	c := connect(t)
	server := testenv.Must(discovery.NewDiscoveryClientForConfig(c.config))(t)
	version := testenv.Must(server.ServerVersion())(t)
	return aChart{newHelm(t, c), filepath.Join(root, "charts", "auth-gateway"), c, version.GitVersion}
}

// tryTemplate renders the release auth-gateway with values in YAML.
func (c aChart) tryTemplate(t *testing.T, values string) (string, error) {
	t.Helper()
	return c.try(t, "template", "auth-gateway", c.dir, "--namespace", namespace,
		"--kube-version", c.version, "--values", c.file(t, images), "--values", c.file(t, values))
}

// images sets the values that have no default. Later values take precedence.
const images = `
image: {repository: registry.example.com/auth-gateway/operator}
serverImage: {repository: registry.example.com/auth-gateway/authserver}
`

func (c aChart) template(t *testing.T, name, values string) []*unstructured.Unstructured {
	t.Helper()
	out, err := c.tryTemplate(t, values)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return parse(t, []byte(out))
}

func (h helm) file(t *testing.T, values string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "values.yaml")
	testenv.NoError(t, os.WriteFile(path, []byte(values), 0o600))
	return path
}

// about returns the content of Chart.yaml.
type about struct {
	Name, Version, AppVersion, KubeVersion string
}

func (c aChart) about(t *testing.T) about {
	t.Helper()
	text := testenv.Must(os.ReadFile(filepath.Join(c.dir, "Chart.yaml")))(t)
	var a about
	testenv.NoError(t, yaml.Unmarshal(text, &a))
	return a
}
