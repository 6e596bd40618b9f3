// Package kubernetestest gives tests a Kubernetes API server of their own: one
// for the process, started when the first test asks for it, with the AuthGateway
// installed, and in it a namespace for each test.
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { kubernetestest.Main(m) }
//
// so that the server is stopped when its tests are done. If the process is
// killed, the server dies with it (on Linux).
//
// It is an API server alone, with the admission plugins that are on by default
// save ServiceAccount. No controller runs, so nobody makes pods of a Deployment,
// collects garbage or empties a namespace that is deleted. What other CRDs a test
// needs, it installs with envtest.InstallCRDs.
package kubernetestest

import (
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

var (
	shared server
	// start starts the shared server, and gives every test the same answer: the
	// programs may have to be built, which is not to be tried once a test.
	start = sync.OnceValues(shared.start)
	told  atomic.Bool // why it did not start
	once  sync.Once
)

// Main runs the tests of a package, and stops the server if one was started.
// What is to be checked once all of them have passed may be given, too.
func Main(m *testing.M, after ...func() error) {
	becomeProgram()
	testenv.Main(m, after...)
}

// Config is how a cluster administrator reaches the server.
func Config(t testing.TB) *rest.Config {
	t.Helper()
	once.Do(func() { testenv.AtExit(t, shared.stop) })
	config, err := start()
	switch {
	case err == nil:
		return rest.CopyConfig(config)
	case told.Swap(true):
		t.Fatal("the Kubernetes API server did not start; another test says why")
	default:
		t.Fatalf("start a Kubernetes API server: %v", err)
	}
	return nil
}

// Namespace makes a namespace that takes no pod but one that Pod Security calls
// restricted. It is not deleted: the server is thrown away as a whole.
func Namespace(t testing.TB) string {
	t.Helper()
	clients, err := kubernetes.NewForConfig(Config(t))
	if err != nil {
		t.Fatal(err)
	}
	namespace, err := clients.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "test-",
			Labels:       map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("make a namespace: %v", err)
	}
	return namespace.Name
}
