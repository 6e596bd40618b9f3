package install

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// The operator runs with the arguments and the rights of its Deployment, and the API server never denies it a request.
// There is no node to run its pod, so it is a child process of the test.
func TestTheInstalledRightsAreEnoughForTheOperator(t *testing.T) {
	c := connect(t)
	installPrometheusKinds(t, c)
	program := testenv.Program(t, "./cmd/operator")

	t.Run("by Kustomize", func(t *testing.T) {
		c.applyDefault(t)
		o := c.startOperator(t, program, client.ObjectKey{Namespace: "auth-gateway-system", Name: "auth-gateway-controller-manager"})
		o.works(t, kubernetestest.Namespace(t))
		reader := c.account(t, kubernetestest.Namespace(t), "prometheus")
		o.showsMetrics(t, http.StatusForbidden, reader)
		// See metrics_reader_role.yaml.
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: reader.Namespace},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "auth-gateway-metrics-reader"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: reader.Namespace, Name: reader.Name}},
		}
		testenv.NoError(t, c.Create(t.Context(), binding))
		o.showsMetrics(t, http.StatusOK, reader)
	})

	ch := chart(t)
	t.Run("by Helm for all namespaces", func(t *testing.T) {
		reader := c.account(t, kubernetestest.Namespace(t), "prometheus")
		r := release{ch, "auth-gateway", kubernetestest.Namespace(t)}
		r.must(t, "install", "{crds: {install: false}, metrics: {readers: [{namespace: "+reader.Namespace+", name: prometheus}]}}")
		o := c.startOperator(t, program, client.ObjectKey{Namespace: r.namespace, Name: "auth-gateway-operator"})
		o.works(t, kubernetestest.Namespace(t))
		o.showsMetrics(t, http.StatusOK, reader)
		o.showsMetrics(t, http.StatusForbidden, c.account(t, r.namespace, "somebody"))
	})

	// An upgrade may not have installed the new custom resource. The keys rotate nevertheless.
	t.Run("without the custom resource PublicKeys", func(t *testing.T) {
		shop := kubernetestest.Namespace(t)
		r := release{ch, "auth-gateway", kubernetestest.Namespace(t)}
		r.must(t, "install", "{watchNamespaces: ["+shop+"], crds: {install: false}, rbac: {userRoles: false}, metrics: {enabled: false}}")
		c.removeCRDs(t, crdCopy)
		o := c.startOperator(t, program, client.ObjectKey{Namespace: r.namespace, Name: "auth-gateway-operator"})
		o.works(t, shop)
		c.installCRD(t.Context(), t, crdCopy)
		k := &v1alpha1.PublicKeys{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: "copy"}}
		k.Spec.GatewayRef = v1alpha1.AuthGatewayReference{Namespace: shop, Name: "auth"}
		testenv.NoError(t, c.Create(t.Context(), k))
		testenv.Eventually(t, 2*time.Minute, "the copy is ready", func() error {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(k), k); err != nil {
				return err
			}
			if !meta.IsStatusConditionTrue(k.Status.Conditions, "Ready") {
				return fmt.Errorf("the status is %v", k.Status)
			}
			return nil
		})
	})

	t.Run("by Helm for one namespace", func(t *testing.T) {
		shop, elsewhere := kubernetestest.Namespace(t), kubernetestest.Namespace(t)
		r := release{ch, "auth-gateway", kubernetestest.Namespace(t)}
		r.must(t, "install", "{watchNamespaces: ["+shop+"], crds: {install: false}, rbac: {userRoles: false}, metrics: {enabled: false}}")
		other := c.gateway(t, elsewhere)
		o := c.startOperator(t, program, client.ObjectKey{Namespace: r.namespace, Name: "auth-gateway-operator"})
		o.works(t, shop)
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(other), other); err != nil || len(other.Status.Conditions) != 0 {
			t.Errorf("it manages an AuthGateway in a namespace that it does not watch: %v, %v", other.Status, err)
		}
	})
}

// runningOperator is an operator in its own process.
type runningOperator struct {
	cluster
	metrics string // the address of the metrics; empty if they are disabled
}

// startOperator starts the operator as its Deployment does.
func (c cluster) startOperator(t *testing.T, program string, deployment client.ObjectKey) runningOperator {
	t.Helper()
	var d appsv1.Deployment
	testenv.NoError(t, c.Get(t.Context(), deployment, &d))
	home, health := t.TempDir(), testenv.FreeAddress(t)
	c.writeKubeconfig(t, filepath.Join(home, "kubeconfig"),
		client.ObjectKey{Namespace: d.Namespace, Name: d.Spec.Template.Spec.ServiceAccountName})
	// If a flag is repeated, the last one counts.
	args := append(slices.Clone(d.Spec.Template.Spec.Containers[0].Args), "--health-probe-bind-address="+health)
	o := runningOperator{cluster: c}
	if !slices.Contains(args, "--metrics-bind-address=0") {
		o.metrics = testenv.FreeAddress(t)
		args = append(args, "--metrics-bind-address="+o.metrics)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"HOME=" + home, "KUBECONFIG=" + filepath.Join(home, "kubeconfig"), "POD_NAMESPACE=" + d.Namespace}
	var logs bytes.Buffer
	cmd.Stderr = &logs
	testenv.NoError(t, cmd.Start())
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		force := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		defer force.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the operator exited with %v", err)
		}
		if t.Failed() || strings.Contains(logs.String(), "forbidden") {
			t.Errorf("the logs of the operator:\n%s", &logs)
		}
	})
	testenv.Eventually(t, time.Minute, "the operator is ready", func() error {
		out, err := exec.CommandContext(t.Context(), program, "healthcheck", "http://"+health+"/readyz").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return o
}

// works checks that the operator creates every kind of object for an AuthGateway,
// and deletes those that its spec no longer asks for.
func (o runningOperator) works(t *testing.T, namespace string) {
	t.Helper()
	c, ctx := o.cluster, t.Context()
	testenv.NoError(t, c.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "auth-db", Namespace: namespace},
		StringData: map[string]string{"username": "auth", "password": "secret of the database"},
	}))
	g := c.gateway(t, namespace)
	monitor := &unstructured.Unstructured{}
	monitor.SetAPIVersion("monitoring.coreos.com/v1")
	monitor.SetKind("ServiceMonitor")
	always := []client.Object{
		&corev1.Secret{}, &corev1.ConfigMap{}, &corev1.ServiceAccount{}, &corev1.Service{}, &appsv1.Deployment{}, &policyv1.PodDisruptionBudget{},
	}
	sometimes := []client.Object{&networkingv1.NetworkPolicy{}, &autoscalingv2.HorizontalPodAutoscaler{}, monitor}
	names := map[int]string{0: "auth-keys", 1: "auth-public-keys"}
	expect := func(there bool, objects []client.Object, names map[int]string) {
		t.Helper()
		for i, object := range objects {
			name, ok := names[i]
			if !ok {
				name = "auth"
			}
			testenv.Eventually(t, time.Minute, fmt.Sprintf("%T %s exists: %v", object, name, there), func() error {
				err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object)
				if found := err == nil; found != there {
					return fmt.Errorf("%T %s exists: %v, %v", object, name, found, err)
				}
				return nil
			})
		}
	}
	change := func(edit func(*v1alpha1.AuthGatewaySpec)) {
		t.Helper()
		testenv.Eventually(t, time.Minute, "the AuthGateway can be changed", func() error { // the operator writes the object too
			if err := c.Get(ctx, client.ObjectKeyFromObject(g), g); err != nil {
				return err
			}
			edit(&g.Spec)
			return c.Update(ctx, g)
		})
	}
	change(func(s *v1alpha1.AuthGatewaySpec) {
		s.Replicas = nil
		s.Autoscaling = &v1alpha1.Autoscaling{MaxReplicas: 4}
		s.Monitoring.ServiceMonitor = &v1alpha1.ServiceMonitor{}
	})
	expect(true, always, names)
	expect(true, sometimes, nil)
	change(func(s *v1alpha1.AuthGatewaySpec) {
		s.Autoscaling, s.Monitoring.ServiceMonitor = nil, nil
		s.NetworkPolicy.Enabled = new(false)
	})
	expect(false, sometimes, nil)
	testenv.Eventually(t, time.Minute, "the keys are ready", func() error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(g), g); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(g.Status.Conditions, "KeysReady") || g.Status.ObservedGeneration != g.Generation {
			return fmt.Errorf("the status is %v", g.Status)
		}
		return nil
	})
	testenv.Eventually(t, time.Minute, "there are events", func() error {
		var events eventsv1.EventList
		if err := c.List(ctx, &events, client.InNamespace(namespace)); err != nil || len(events.Items) == 0 {
			return fmt.Errorf("there are no events: %w", err)
		}
		return nil
	})
}

// account creates a ServiceAccount.
func (c cluster) account(t *testing.T, namespace, name string) *corev1.ServiceAccount {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	testenv.NoError(t, c.Create(t.Context(), account))
	return account
}

// showsMetrics checks the status of a request for metrics with the token of an
// account. A request without a token must be rejected.
func (o runningOperator) showsMetrics(t *testing.T, status int, account *corev1.ServiceAccount) {
	t.Helper()
	clients := testenv.Must(kubernetes.NewForConfig(o.config))(t)
	token := testenv.Must(clients.CoreV1().ServiceAccounts(account.Namespace).
		CreateToken(t.Context(), account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))(t)
	unverified := &tls.Config{InsecureSkipVerify: true} // the certificate is self-signed
	browser := http.Client{Transport: &http.Transport{TLSClientConfig: unverified}}
	defer browser.CloseIdleConnections()
	for bearer, want := range map[string]int{"": http.StatusUnauthorized, token.Status.Token: status} {
		testenv.Eventually(t, time.Minute, fmt.Sprintf("metrics are answered with %d", want), func() error {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+o.metrics+"/metrics", http.NoBody)
			if err != nil {
				return err
			}
			if bearer != "" {
				request.Header.Set("Authorization", "Bearer "+bearer)
			}
			response, err := browser.Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != want {
				return fmt.Errorf("token: %v: the status is %s, want %d: %v", bearer != "", response.Status, want, err)
			}
			if want == http.StatusOK && !bytes.Contains(body, []byte("authgateway_condition")) {
				return fmt.Errorf("the metrics are\n%s", body)
			}
			return nil
		})
	}
}
