package kubernetestest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func TestMain(m *testing.M) { Main(m) }

func connect(t *testing.T) kubernetes.Interface {
	t.Helper()
	clients := testenv.Must(kubernetes.NewForConfig(Config(t)))(t)
	return clients
}

func TestTheServerKnowsTheAuthGatewayAndItsOwnVersion(t *testing.T) {
	t.Parallel()
	discovery := connect(t).Discovery()
	version := testenv.Must(discovery.ServerVersion())(t)
	if !strings.HasPrefix(version.GitVersion, "v1.37.") || version.Major != "1" || version.Minor != "37" {
		t.Errorf("the server reports the version %s, %s.%s", version.GitVersion, version.Major, version.Minor)
	}
	if _, err := discovery.ServerResourcesForGroupVersion("authgateway.io/v1alpha1"); err != nil {
		t.Error(err)
	}
}

func TestEachNamespaceIsAnotherAndTakesRestrictedPodsAlone(t *testing.T) {
	t.Parallel()
	namespace := Namespace(t)
	if other := Namespace(t); other == namespace {
		t.Errorf("two tests got the namespace %s", namespace)
	}
	pods := connect(t).CoreV1().Pods(namespace)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/image"}}},
	}
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); !apierrors.IsForbidden(err) ||
		!strings.Contains(err.Error(), `violates PodSecurity "restricted`) {
		t.Errorf("a pod that is not restricted: %v", err)
	}
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsNonRoot:   new(true),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Errorf("a pod that is restricted: %v", err)
	}
}

func TestAFolderThatAKilledTestLeftIsRemovedAndOneInUseIsNot(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	abandoned, used := filepath.Join(temporary, prefix+"abandoned"), filepath.Join(temporary, prefix+"used")
	for _, dir := range []string{abandoned, used} {
		testenv.NoError(t, os.MkdirAll(filepath.Join(dir, "etcd"), 0o700))
		lock := testenv.Must(lockFolder(dir))(t)
		if dir == abandoned {
			_ = lock.Close()
		} else {
			defer lock.Close()
		}
		old := time.Now().Add(-time.Hour)
		testenv.NoError(t, os.Chtimes(dir, old, old))
	}
	removeAbandoned()
	if _, err := os.Stat(abandoned); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there (%v)", abandoned, err)
	}
	if _, err := os.Stat(used); err != nil {
		t.Error(err)
	}
}
