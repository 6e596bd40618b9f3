package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// It should take less than 15 seconds, but a busy machine must not fail the test.
func TestTheSmallestGatewayIsSoonReadyAndAUserSignsIn(t *testing.T) {
	t.Parallel()
	p := newTestNamespace(t)
	p.database(t)
	p.create(t, smallest("auth"))
	figure(t, "from apply to Ready: %.1f s (should be under 15 s)", p.ready(t, "auth", time.Minute).Seconds())
	p.probe(t, "auth").drive(t)
}

// The Secret is like CloudNativePG 1.2x's: postgres-app has more keys than the gateway reads.
func TestTheSecretOfCloudNativePGIsEnough(t *testing.T) {
	t.Parallel()
	p := newTestNamespace(t)
	password := p.database(t)
	uri := "postgresql://" + databaseUser + ":" + password + "@" + databaseHost + ":5432/" + databaseName
	p.create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "shop-db-app", Labels: map[string]string{"cnpg.io/cluster": "shop-db", "cnpg.io/userType": "app"}},
		Type:       corev1.SecretTypeBasicAuth,
		StringData: map[string]string{
			"username": databaseUser, "user": databaseUser, "password": password,
			"host": databaseHost, "port": "5432", "dbname": databaseName,
			"uri": uri, "fqdn-uri": uri, "jdbc-uri": "jdbc:" + uri,
			"pgpass": databaseHost + ":5432:" + databaseName + ":" + databaseUser + ":" + password,
		},
	})
	g := smallest("auth", cheapPasswords)
	g.Spec.Database = v1alpha1.Database{CloudNativePG: &v1alpha1.CloudNativePG{Cluster: "shop-db"}}
	p.create(t, g)
	p.ready(t, "auth", later)
	p.probe(t, "auth").drive(t)
}

func TestGatewaysOfTwoNamespacesKnowNothingOfEachOther(t *testing.T) {
	t.Parallel()
	_, a := serving(t)
	_, b := serving(t)
	if a.callerKey == b.callerKey {
		t.Error("both gateways have the same caller key")
	}
	_, ofA := signingKey(a.gateway(t, "auth"))
	_, ofB := signingKey(b.gateway(t, "auth"))
	if len(ofA) == 0 || len(ofB) == 0 || slices.ContainsFunc(ofA, func(kid string) bool { return slices.Contains(ofB, kid) }) {
		t.Errorf("the keys are %v and %v", ofA, ofB)
	}
	u := a.drive(t)
	b.drive(t)

	if err := b.verifies(t, u.access); err == nil || !strings.Contains(err.Error(), "answers 401") {
		t.Errorf("a service of the other gateway accepts the token: %v", err)
	}
	for _, tc := range []struct {
		about, method, path, callerKey, token string
		body                                  map[string]string
		want                                  int
	}{
		{"an access token of the other", http.MethodGet, "/users", b.callerKey, u.access, nil, http.StatusUnauthorized},
		{"a refresh token of the other", http.MethodPost, "/tokens", b.callerKey, "",
			map[string]string{"refresh_token": u.refresh}, http.StatusUnauthorized},
		{"a user of the other", http.MethodPost, "/tokens/signin", b.callerKey, "", map[string]string{"username": u.name,
			"password": u.password}, http.StatusUnauthorized},
		{"the caller key of the other", http.MethodPost, "/users", a.callerKey, "", newPerson().signUp(), http.StatusForbidden},
		{"no caller key", http.MethodPost, "/users", "", "", newPerson().signUp(), http.StatusForbidden},
		{"its own caller key", http.MethodPost, "/users", b.callerKey, "", newPerson().signUp(), http.StatusCreated},
	} {
		if status, reply := b.call(t, tc.method, tc.path, tc.callerKey, tc.token, tc.body); status != tc.want {
			t.Errorf("%s: answered %d, not %d: %v", tc.about, status, tc.want, reply["error_code"])
		}
	}
}

func TestOperatorAndServerRunRestricted(t *testing.T) {
	t.Parallel()
	p, _ := serving(t)
	for _, name := range []string{p.name, operatorNamespace} {
		namespace := &corev1.Namespace{}
		testenv.NoError(t, p.Get(t.Context(), client.ObjectKey{Name: name}, namespace))
		const label = "pod-security.kubernetes.io/enforce"
		if namespace.Labels[label] != "restricted" {
			t.Errorf("namespace %s enforces %q: kubectl label namespace %[1]s %s=restricted", name, namespace.Labels[label], label)
		}
	}
	servers := testenv.Must(p.servers(t, "auth"))(t)
	operators := p.operators(t)
	if len(servers) != 2 || len(operators) == 0 {
		t.Fatalf("there are %d servers and %d operators", len(servers), len(operators))
	}
	for _, pod := range slices.Concat(servers, operators) {
		isRestricted(t, &pod)
		p.admits(t, &pod)
	}
	for _, pod := range servers {
		hasNoToken(t, &pod)
	}

	only := func(port int32, from ...networkingv1.NetworkPolicyPeer) networkingv1.NetworkPolicyIngressRule {
		return networkingv1.NetworkPolicyIngressRule{
			From: from, Ports: []networkingv1.NetworkPolicyPort{{Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(port))}},
		}
	}
	matching := func(of ...string) *metav1.LabelSelector {
		s := &metav1.LabelSelector{}
		for i := 0; i < len(of); i += 2 {
			metav1.AddLabelToSelector(s, of[i], of[i+1])
		}
		return s
	}
	policy := &networkingv1.NetworkPolicy{}
	p.get(t, "auth", policy)
	operator := networkingv1.NetworkPolicyPeer{
		NamespaceSelector: matching("kubernetes.io/metadata.name", operatorNamespace),
		PodSelector:       matching("app.kubernetes.io/name", operatorName),
	}
	if diff := cmp.Diff(networkingv1.NetworkPolicySpec{
		PodSelector: *matching("app.kubernetes.io/name", "authserver", "app.kubernetes.io/instance", "auth"),
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		Ingress: []networkingv1.NetworkPolicyIngressRule{
			only(8080, networkingv1.NetworkPolicyPeer{PodSelector: matching()},
				networkingv1.NetworkPolicyPeer{NamespaceSelector: matching("authgateway.io/client", "true")}),
			only(9090, operator),
		},
	}, policy.Spec); diff != "" {
		t.Errorf("the servers' NetworkPolicy (-want +got):\n%s", diff)
	}
	p.selects(t, p.name, &policy.Spec.PodSelector, servers)
	p.selects(t, operatorNamespace, operator.PodSelector, operators)

	policy = &networkingv1.NetworkPolicy{}
	testenv.NoError(t, p.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: operatorName}, policy))
	if ingress := policy.Spec.Ingress; len(ingress) == 0 || len(ingress[0].Ports) != 1 || ingress[0].Ports[0].Port.IntValue() != 8443 {
		t.Errorf("the operator's NetworkPolicy allows %+v", ingress)
	}
	p.selects(t, operatorNamespace, &policy.Spec.PodSelector, operators)
}

// isRestricted checks the security settings of a pod.
func isRestricted(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	s := pod.Spec
	if s.HostNetwork || s.HostPID || s.HostIPC {
		t.Errorf("pod %s shares namespaces with its node", pod.Name)
	}
	if c := s.SecurityContext; c == nil || c.RunAsNonRoot == nil || !*c.RunAsNonRoot || c.RunAsUser == nil || *c.RunAsUser == 0 ||
		c.SeccompProfile == nil || c.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the security context of pod %s is %+v", pod.Name, c)
	}
	for _, container := range slices.Concat(s.InitContainers, s.Containers) {
		c := container.SecurityContext
		if c == nil || c.AllowPrivilegeEscalation == nil || *c.AllowPrivilegeEscalation ||
			c.ReadOnlyRootFilesystem == nil || !*c.ReadOnlyRootFilesystem ||
			c.Capabilities == nil || len(c.Capabilities.Add) > 0 || !slices.Contains(c.Capabilities.Drop, "ALL") {
			t.Errorf("the security context of %s in pod %s is %+v", container.Name, pod.Name, c)
		}
	}
	for _, v := range s.Volumes {
		if v.HostPath != nil {
			t.Errorf("pod %s mounts the folder %s of its node", pod.Name, v.HostPath.Path)
		}
	}
}

// admits asks the API server, whose standard may have more rules than isRestricted.
func (p testNamespace) admits(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	again := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.name, Name: "again"}, Spec: *pod.Spec.DeepCopy()}
	again.Spec.NodeName, again.Spec.ServiceAccountName, again.Spec.DeprecatedServiceAccount = "", "default", ""
	// The priority is set by its class, which belongs to the cluster.
	again.Spec.Priority, again.Spec.PreemptionPolicy = nil, nil
	if err := p.Create(t.Context(), again, client.DryRunAll); err != nil {
		t.Errorf("a namespace that enforces restricted rejects pod %s: %v", pod.Name, err)
	}
}

func hasNoToken(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if a := pod.Spec.AutomountServiceAccountToken; a == nil || *a {
		t.Errorf("pod %s mounts a ServiceAccount token", pod.Name)
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources,
			func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil }) {
			t.Errorf("pod %s has a ServiceAccount token in volume %s", pod.Name, v.Name)
		}
	}
	for _, c := range pod.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if strings.HasPrefix(m.MountPath, "/var/run/secrets/kubernetes.io") {
				t.Errorf("%s in pod %s mounts %s", c.Name, pod.Name, m.MountPath)
			}
		}
	}
}

// selects checks that a selector selects exactly these pods.
func (p testNamespace) selects(t *testing.T, namespace string, selector *metav1.LabelSelector, want []corev1.Pod) {
	t.Helper()
	s := testenv.Must(metav1.LabelSelectorAsSelector(selector))(t)
	pods := testenv.Must(p.clients.CoreV1().Pods(namespace).List(t.Context(), everything))(t)
	names := func(all []corev1.Pod) (names []string) {
		for _, pod := range all {
			names = append(names, pod.Name)
		}
		slices.Sort(names)
		return names
	}
	got := slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
		return !s.Matches(labels.Set(pod.Labels)) ||
			pod.DeletionTimestamp != nil
	})
	if diff := cmp.Diff(names(want), names(got)); diff != "" {
		t.Errorf("in %s %s selects (-want +got):\n%s", namespace, s, diff)
	}
}
