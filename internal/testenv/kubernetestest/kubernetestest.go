// Package kubernetestest provides tests with a Kubernetes API server. It starts one server for the process when the
// first test needs it, with the AuthGateway CRD installed, and creates a namespace for each test.
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { kubernetestest.Main(m) }
//
// which stops the server after the tests. On Linux the server also ends when the process is killed.
//
// There is only the API server, with the default admission plugins except ServiceAccount. No controller runs, so
// Deployments get no pods, there is no garbage collection, and a deleted namespace is not emptied. A test installs
// other CRDs with envtest.InstallCRDs.
package kubernetestest

import (
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

var (
	shared server
	// start starts the shared server once. If that fails, all tests get the same error, because the programs may have
	// to be built, which must not be repeated for each test.
	start    = sync.OnceValues(shared.start)
	reported atomic.Bool // whether a test has reported the error of start
	once     sync.Once
)

// Main runs the tests of a package and then stops the server. If all tests pass, it also runs the checks.
func Main(m *testing.M, after ...func() error) {
	becomeProgram()
	log.SetLogger(logr.Discard()) // envtest warns if there is none
	testenv.Main(m, after...)
}

// Config returns a cluster administrator's access to the server.
func Config(t testing.TB) *rest.Config {
	t.Helper()
	once.Do(func() { testenv.AtExit(t, shared.stop) })
	config, err := start()
	switch {
	case err == nil:
		return rest.CopyConfig(config)
	case reported.Swap(true):
		t.Fatal("the Kubernetes API server did not start; another test reports the error")
	default:
		t.Fatalf("start a Kubernetes API server: %v", err)
	}
	return nil
}

// SignerKey returns the PEM of the key that signs tokens of ServiceAccounts, for tests that forge one.
func SignerKey(t testing.TB) []byte {
	t.Helper()
	Config(t)
	return testenv.Must(os.ReadFile(shared.path("kube-apiserver", "sa-signer.key")))(t)
}

// Start starts another server, with these arguments of kube-apiserver, for the time of one test.
func Start(t testing.TB, arguments map[string]string) *rest.Config {
	t.Helper()
	s := &server{arguments: arguments}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	config, err := s.start()
	if err != nil {
		t.Fatalf("start a Kubernetes API server: %v", err)
	}
	return config
}

// Namespace creates a namespace in which Pod Security allows only restricted pods. It is not deleted, because the
// server is discarded as a whole.
func Namespace(t testing.TB) string {
	t.Helper()
	clients := testenv.Must(kubernetes.NewForConfig(Config(t)))(t)
	namespace, err := clients.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "test-",
			Labels:       map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create a namespace: %v", err)
	}
	return namespace.Name
}
