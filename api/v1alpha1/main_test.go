package v1alpha1_test

import (
	"maps"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

func TestMain(m *testing.M) { kubernetestest.Main(m) }

// connect returns a client that is as strict as kubectl: an unknown field is an error.
func connect(t *testing.T) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, apiextensionsv1.AddToScheme} {
		testenv.NoError(t, add(scheme))
	}
	c := testenv.Must(client.New(kubernetestest.Config(t), client.Options{Scheme: scheme}))(t)
	return client.WithFieldValidation(c, metav1.FieldValidationStrict)
}

// object parses YAML as kubectl does.
func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	content, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(content); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return u
}

// gateway returns an AuthGateway with a spec. If the spec has no database, the only required field, gateway adds one.
func gateway(t *testing.T, namespace, spec string) *unstructured.Unstructured {
	t.Helper()
	u := object(t, `
apiVersion: authgateway.io/v1alpha1
kind: AuthGateway
spec:
  database:
    host: postgres.shop.svc
    name: auth
    credentialsSecretRef: {name: auth-db}
`)
	u.SetNamespace(namespace)
	u.SetName("auth")
	var given map[string]any
	if err := yaml.Unmarshal([]byte(spec), &given); err != nil {
		t.Fatalf("%v in\n%s", err, spec)
	}
	maps.Copy(u.Object["spec"].(map[string]any), given)
	return u
}
