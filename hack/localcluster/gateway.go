package localcluster

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// Names in the cluster.
const (
	release           = "auth-gateway"
	operatorNamespace = "auth-gateway-system"
	demoNamespace     = "demo"
	demoName          = "auth"         // the AuthGateway in config/samples
	imagesConfigMap   = "local-images" // in operatorNamespace; test/e2e reads it
	fieldManager      = "make-up"
)

//go:embed manifests/coredns.yaml
var corednsManifest string

//go:embed manifests/demo.yaml
var demoManifest string

// connection is an administrator's connection to the API server.
type connection struct {
	client.Client
	config *rest.Config
	pods   kubernetes.Interface
}

func (c *Cluster) connect() (connection, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig())
	if err != nil {
		return connection{}, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return connection{}, err
	}
	log.SetLogger(logr.Discard()) // controller-runtime's logger
	objects, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return connection{}, err
	}
	pods, err := kubernetes.NewForConfig(config)
	return connection{objects, config, pods}, err
}

// deploy installs everything, waits until it is ready, and calls the API once. It returns the URL of the API.
func (c *Cluster) deploy(ctx context.Context, e engine, images images) (string, error) {
	k, err := c.connect()
	if err != nil {
		return "", err
	}
	if images.coredns != "" {
		c.step("starting DNS")
		if err := k.apply(ctx, strings.ReplaceAll(corednsManifest, "${COREDNS_IMAGE}", images.coredns), ""); err != nil {
			return "", err
		}
	}
	c.step("installing the operator with Helm")
	// Pod Security enforces that the operator's pods are restricted.
	if err := k.apply(ctx,
		`{apiVersion: v1, kind: Namespace, metadata: {name: `+operatorNamespace+
			`, labels: {pod-security.kubernetes.io/enforce: restricted}}}`, ""); err != nil {
		return "", err
	}
	if err := c.install(ctx, images); err != nil {
		return "", err
	}
	if err := k.publishImages(ctx, images); err != nil {
		return "", err
	}
	c.step("applying PostgreSQL and the sample AuthGateway in the namespace %s", demoNamespace)
	begin := time.Now()
	if err := c.demonstrate(ctx, k, images); err != nil {
		return "", err
	}
	if err := k.waitUntilReady(ctx); err != nil {
		return "", err
	}
	c.step("the AuthGateway is ready after %s", time.Since(begin).Round(100*time.Millisecond))
	return e.url(), c.drive(ctx, k, e.url())
}

// apply applies the objects of a manifest. Objects without a namespace get the given one.
func (k connection) apply(ctx context.Context, manifest, namespace string) error {
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(object.Object) == 0 {
			continue // a comment
		}
		if namespace != "" && object.GetNamespace() == "" {
			object.SetNamespace(namespace)
		}
		if err := k.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(fieldManager),
			client.ForceOwnership); err != nil {
			return fmt.Errorf("apply %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
}

// install installs or upgrades the chart of the checkout.
func (c *Cluster) install(ctx context.Context, images images) error {
	args := []string{
		"tool", "-modfile=hack/tools/kubernetes/go.mod", "helm",
		"upgrade", "--install", release, filepath.Join("charts", "auth-gateway"),
		"--kubeconfig", c.kubeconfig(), "--namespace", operatorNamespace, "--wait", "--timeout", "3m",
	}
	for prefix, one := range map[string]image{"image": images.operator, "serverImage": images.server} {
		repository, tag, _ := strings.Cut(one.name, ":")
		args = append(args, "--set-string", prefix+".repository="+repository, "--set-string", prefix+".tag="+tag)
	}
	helm := exec.CommandContext(ctx, "go", args...)
	helm.Dir = c.root
	if out, err := helm.CombinedOutput(); err != nil {
		return fmt.Errorf("helm upgrade --install %s: %w\n%s", release, err, out)
	}
	return nil
}

func (k connection) publishImages(ctx context.Context, images images) error {
	return k.Apply(ctx, client.ApplyConfigurationFromUnstructured(&unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": imagesConfigMap, "namespace": operatorNamespace},
		"data":     map[string]any{"probe": images.probe.name, "postgres": images.postgres.name, "server": images.server.name},
	}}), client.FieldOwner(fieldManager), client.ForceOwnership)
}

func (c *Cluster) demonstrate(ctx context.Context, k connection, images images) error {
	// The password is created once, like the data of PostgreSQL.
	if err := client.IgnoreAlreadyExists(k.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: demoNamespace}})); err != nil {
		return err
	}
	if err := client.IgnoreAlreadyExists(k.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "auth-db", Namespace: demoNamespace},
		StringData: map[string]string{"username": "auth", "password": rand.Text()},
	})); err != nil {
		return err
	}
	manifest := strings.NewReplacer("${POSTGRES_IMAGE}", images.postgres.name, "${PROBE_IMAGE}", images.probe.name).Replace(demoManifest)
	if err := k.apply(ctx, manifest, ""); err != nil {
		return err
	}
	sample, err := os.ReadFile(filepath.Join(c.root, "config", "samples", "v1alpha1_authgateway.yaml"))
	if err != nil {
		return err
	}
	// The sample ends within its spec.
	return k.apply(ctx, string(sample)+"\n  admin:\n    enabled: true\n", demoNamespace)
}

// waitUntilReady waits until the AuthGateway is ready. On timeout it returns the AuthGateway's message.
func (k connection) waitUntilReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("the AuthGateway did not become ready"))
	defer cancel()
	var g v1alpha1.AuthGateway
	return poll(ctx, func() error {
		if err := k.Get(ctx, client.ObjectKey{Namespace: demoNamespace, Name: demoName}, &g); err != nil {
			return err
		}
		ready := meta.FindStatusCondition(g.Status.Conditions, "Ready")
		switch {
		case ready == nil || ready.ObservedGeneration != g.Generation:
			return errors.New("its status is not of this generation")
		case ready.Status != metav1.ConditionTrue:
			return errors.New(ready.Message)
		default:
			return nil
		}
	})
}

// drive does once what applications do: sign-up, verification, sign-in and renewal. The consumer, a pod that has only
// the mounted ConfigMap of public keys, then verifies the token.
func (c *Cluster) drive(ctx context.Context, k connection, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var caller corev1.Secret
	if err := k.Get(ctx, client.ObjectKey{Namespace: demoNamespace, Name: demoName + "-caller"}, &caller); err != nil {
		return err
	}
	a := httpAPI{url: url, callerKey: string(caller.Data["TRUSTED_CALLER_KEY"])}
	name, password := "ada-"+strings.ToLower(rand.Text()[:8]), rand.Text()
	// The node's port can start to work a moment after the pods are ready.
	err := poll(ctx, func() error {
		return a.post(ctx, "/tokens/signin", map[string]string{"username": "nobody", "password": "a wrong password"},
			http.StatusUnauthorized, nil)
	})
	if err != nil {
		return err
	}
	var user struct{ Code string }
	if err := a.post(ctx, "/users", map[string]string{
		"username": name, "email": name + "@example.com", "first_name": "Ada", "last_name": "Lovelace", "password": password,
	}, http.StatusCreated, &user); err != nil {
		return err
	}
	if err := a.signUpPeople(ctx); err != nil {
		return err
	}
	type tokens struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	var verified, signedIn, renewed tokens
	if err := errors.Join(
		a.post(ctx, "/users/verify-user", map[string]string{"code": user.Code}, http.StatusOK, &verified),
		a.post(ctx, "/tokens/signin", map[string]string{"username": name, "password": password}, http.StatusOK, &signedIn),
	); err != nil {
		return err
	}
	if err := a.post(ctx, "/tokens", map[string]string{"refresh_token": signedIn.RefreshToken}, http.StatusOK, &renewed); err != nil {
		return err
	}
	claims, err := k.verify(ctx, renewed.AccessToken)
	if err != nil {
		return err
	}
	if claims.Username != name {
		return fmt.Errorf("the consumer read the user %q from the token of %q", claims.Username, name)
	}
	c.step("tested once: %s signed up, verified, signed in and renewed; a pod with only the public keys verified the token", name)
	return nil
}

// signUpPeople creates three accounts for the commands of README.md to show. They exist already if the cluster was only
// updated.
func (a httpAPI) signUpPeople(ctx context.Context) error {
	for first, last := range map[string]string{"Ada": "Lovelace", "Grace": "Hopper", "Alan": "Turing"} {
		name := strings.ToLower(first)
		var user struct{ Code string }
		err := a.post(ctx, "/users", map[string]string{
			"username": name, "email": name + "@example.com", "first_name": first, "last_name": last, "password": rand.Text(),
		}, http.StatusCreated, &user)
		if errors.Is(err, errTaken) {
			continue
		}
		if err == nil {
			err = a.post(ctx, "/users/verify-user", map[string]string{"code": user.Code}, http.StatusOK, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errTaken is in the chain of the error of a sign-up with a username or an address that has an account.
var errTaken = errors.New("it is taken")

// httpAPI calls the API of the gateway as a trusted caller.
type httpAPI struct{ url, callerKey string }

func (a httpAPI) post(ctx context.Context, path string, body map[string]string, want int, into any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+path, bytes.NewReader(content))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Caller-Key", a.callerKey)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	reply, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode == http.StatusConflict && want != http.StatusConflict {
		return fmt.Errorf("POST %s: %w: %s", path, errTaken, reply)
	}
	if response.StatusCode != want {
		return fmt.Errorf("POST %s: got %s, want %d: %s", path, response.Status, want, reply)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(reply, into)
}

type claims struct {
	Username string `json:"username"`
}

// verify has the consumer verify a token. It may still be starting, and sees a new key only when its mounted ConfigMap
// is updated.
func (k connection) verify(ctx context.Context, token string) (claims, error) {
	var result claims
	err := poll(ctx, func() error {
		pods, err := k.pods.CoreV1().Pods(demoNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app=consumer",
			FieldSelector: "status.phase=Running"})
		if err != nil {
			return err
		}
		if len(pods.Items) == 0 {
			return errors.New("the consumer is not running")
		}
		reply, err := k.pods.CoreV1().RESTClient().Post().Namespace(demoNamespace).Resource("pods").Name(pods.Items[0].Name + ":8080").
			SubResource("proxy").Suffix("verify").Body([]byte(token)).DoRaw(ctx)
		if err != nil {
			if status := apierrors.APIStatus(nil); errors.As(err, &status) {
				return fmt.Errorf("the consumer answers: %w: %s", err, reply)
			}
			return err
		}
		return json.Unmarshal(reply, &result)
	})
	return result, err
}
