package install

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard())
	kubernetestest.Main(m)
}

const (
	root    = "../.."
	crdName = "authgateways.authgateway.io"
	crdCopy = "publickeys.authgateway.io"
)

// cluster is a client of the API server with the rights of an administrator. The
// API server rejects unknown and duplicate fields.
type cluster struct {
	client.Client
	config *rest.Config
}

func connect(t *testing.T) cluster {
	t.Helper()
	config := kubernetestest.Config(t)
	config.QPS = -1
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme, v1alpha1.AddToScheme} {
		testenv.NoError(t, add(scheme))
	}
	c := testenv.Must(client.New(config, client.Options{Scheme: scheme}))(t)
	return cluster{client.WithFieldValidation(c, metav1.FieldValidationStrict), config}
}

// apply does what `kubectl apply --server-side` does.
func (c cluster) apply(ctx context.Context, object *unstructured.Unstructured, options ...client.ApplyOption) error {
	options = append(options, client.FieldOwner("kubectl"), client.ForceOwnership)
	// Apply writes the response into its argument.
	return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(object.DeepCopy()), options...)
}

// accepts applies an object as a dry run.
func (c cluster) accepts(t *testing.T, object *unstructured.Unstructured) {
	t.Helper()
	if err := c.apply(t.Context(), object, client.DryRunAll); err != nil {
		t.Errorf("the API server rejects %s: %v", nameOf(object), err)
	}
}

// exists reports whether an object exists.
func (c cluster) exists(t *testing.T, object *unstructured.Unstructured) bool {
	t.Helper()
	err := c.Get(t.Context(), client.ObjectKeyFromObject(object), object.DeepCopy())
	if err != nil && !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) {
		t.Fatalf("get %s: %v", nameOf(object), err)
	}
	return err == nil
}

// admits creates a pod as a dry run in a namespace that enforces the standard "restricted".
func (c cluster) admits(t *testing.T, namespace string, pod *corev1.Pod) error {
	t.Helper()
	pod = pod.DeepCopy()
	pod.Name, pod.Namespace, pod.Labels = "probe", namespace, nil
	pod.Spec.PriorityClassName = "" // it may not exist
	return c.Create(t.Context(), pod, client.DryRunAll)
}

// pods returns the pods among objects, and those that their Deployments create.
func pods(t *testing.T, objects []*unstructured.Unstructured) []*corev1.Pod {
	t.Helper()
	var all []*corev1.Pod
	for _, o := range objects {
		switch o.GetKind() {
		case "Pod":
			all = append(all, as[corev1.Pod](t, o))
		case "Deployment":
			template := as[appsv1.Deployment](t, o).Spec.Template
			all = append(all, &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec})
		}
	}
	if len(all) == 0 {
		t.Error("there are no pods")
	}
	return all
}

// userOf returns the user name and the groups of a ServiceAccount.
func userOf(account client.ObjectKey) (string, []string) {
	return "system:serviceaccount:" + account.Namespace + ":" + account.Name,
		[]string{"system:serviceaccounts", "system:serviceaccounts:" + account.Namespace, "system:authenticated"}
}

// question is a request whose permission is checked.
type question struct {
	verb, group, resource, namespace, name string
}

func (q question) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s.%s in %q %s", q.verb, q.resource, q.group, q.namespace, q.name))
}

// hold checks what an account may do and may not do.
func (c cluster) hold(t *testing.T, account client.ObjectKey, may, mayNot []question) {
	t.Helper()
	for i, questions := range [][]question{mayNot, may} {
		for _, q := range questions {
			resource, sub, _ := strings.Cut(q.resource, "/")
			user, groups := userOf(account)
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User: user, Groups: groups,
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Verb: q.verb, Group: q.group, Resource: resource, Subresource: sub, Namespace: q.namespace, Name: q.name,
				},
			}}
			expected := i == 1
			// The authorizer watches the rules, with a short delay.
			testenv.Eventually(t, time.Minute, fmt.Sprintf("the answer about %s is right", account), func() error {
				review.Status = authorizationv1.SubjectAccessReviewStatus{}
				if err := c.Create(t.Context(), review); err != nil {
					return err
				}
				if review.Status.Allowed != expected {
					return fmt.Errorf("may %s %s: %v, want %v: %s", account, q, review.Status.Allowed, expected, review.Status.Reason)
				}
				return nil
			})
		}
	}
}

// removeCRDs deletes custom resource definitions, and so all objects of their kinds, and
// restores them at the end of the test, because other tests of this package need them.
func (c cluster) removeCRDs(t *testing.T, names ...string) {
	t.Helper()
	remove := func(ctx context.Context, name string) error {
		crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := c.Delete(ctx, crd); err != nil {
			return client.IgnoreNotFound(err)
		}
		testenv.Eventually(t, time.Minute, "the custom resource is removed", func() error {
			if err := c.Get(ctx, client.ObjectKeyFromObject(crd), crd); !apierrors.IsNotFound(err) {
				return fmt.Errorf("the custom resource definition still exists: %v", err)
			}
			return nil
		})
		return nil
	}
	for _, name := range names {
		testenv.NoError(t, remove(t.Context(), name))
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, name := range names {
			if err := remove(ctx, name); err != nil {
				t.Error(err)
			}
			c.installCRD(ctx, t, name)
		}
	})
}

// installCRD installs a custom resource definition of this project.
func (c cluster) installCRD(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	file := "authgateway.io_" + strings.TrimSuffix(name, ".authgateway.io") + ".yaml"
	for _, crd := range readObjects(t, filepath.Join(root, "config", "crd", "bases", file)) {
		if err := c.apply(ctx, crd); err != nil {
			t.Error(err)
		}
	}
	testenv.Eventually(t, time.Minute, name+" is served", func() error {
		if name == crdCopy {
			return c.List(ctx, &v1alpha1.PublicKeysList{})
		}
		return c.List(ctx, &v1alpha1.AuthGatewayList{})
	})
}

// readObjects returns the objects in a file.
func readObjects(t *testing.T, path string) []*unstructured.Unstructured {
	t.Helper()
	text := testenv.Must(os.ReadFile(path))(t)
	return parse(t, text)
}

// parse returns the objects in YAML. A duplicate key is an error.
func parse(t *testing.T, text []byte) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	for reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		asJSON, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		if string(asJSON) == "null" { // only comments
			continue
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(asJSON); err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		objects = append(objects, object)
	}
}

// as converts an object to its type.
func as[T any](t *testing.T, object *unstructured.Unstructured) *T {
	t.Helper()
	text := testenv.Must(object.MarshalJSON())(t)
	typed := new(T)
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(typed); err != nil {
		t.Fatalf("%s: %v", nameOf(object), err)
	}
	return typed
}

// kind returns the objects of some kinds.
func kind(objects []*unstructured.Unstructured, kinds ...string) []*unstructured.Unstructured {
	var found []*unstructured.Unstructured
	for _, o := range objects {
		for _, k := range kinds {
			if o.GetKind() == k {
				found = append(found, o)
			}
		}
	}
	return found
}

// one returns the only object of a kind.
func one(t *testing.T, objects []*unstructured.Unstructured, which string) *unstructured.Unstructured {
	t.Helper()
	found := kind(objects, which)
	if len(found) != 1 {
		t.Fatalf("%d objects of kind %s, want 1", len(found), which)
	}
	return found[0]
}

func nameOf(o *unstructured.Unstructured) string {
	return strings.TrimSpace(o.GetKind() + " " + strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/"))
}
