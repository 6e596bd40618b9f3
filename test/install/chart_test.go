package install

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// everything sets every value that adds something.
const everything = `
replicas: 3
image: {repository: registry.example.com/mirror/operator, digest: "sha256:` + digest + `", pullPolicy: Always}
serverImage: {repository: "registry.example.com:5000/mirror/authserver", tag: 0.9.0, pullSecrets: [{name: registry}, {name: mirror}]}
extraArgs: [--platform-users=true, "--shutdown-timeout=20s"]
extraEnv: [{name: GOGC, value: "80"}, {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
podSecurityContext: {runAsUser: 1234, fsGroup: 1234, runAsGroup: null}
terminationGracePeriodSeconds: 45
service: {annotations: {example.com/mesh: "on"}, ipFamilyPolicy: PreferDualStack, trafficDistribution: PreferClose}
allowedImages: [registry.example.com:5000/mirror/, registry.example.com/mirror/]
imagePullSecrets: [{name: registry}]
concurrentReconciles: 8
concurrentUpgrades: 2
log: {level: debug, format: text}
serviceAccount:
  name: operator
  annotations: {example.com/role: "arn:of:something"}
metrics:
  certificateSecret: operator-metrics-tls
  readers:
  - {namespace: monitoring, name: prometheus}
  - {namespace: monitoring, name: other}
  serviceMonitor: {enabled: true, interval: 1m, labels: {release: prometheus}}
  podMonitor: {enabled: true, interval: 2m, labels: {release: prometheus}}
  prometheusRule: {enabled: true, labels: {release: prometheus}, objectives: {sign-in: {availability: 0.9995}}}
  dashboard: {enabled: true, labels: {team: identity}, annotations: {grafana_folder: Identity}}
networkPolicy:
  metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
  egress: [{ports: [{port: 443, protocol: TCP}, {port: 53, protocol: UDP}]}, {ports: [{port: 9090}]}]
resources: {requests: {cpu: 1, memory: 128Mi, ephemeral-storage: 1Mi}, limits: {cpu: "2", memory: 512Mi}}
podLabels: {team: identity, sidecar.istio.io/inject: "false"}
podAnnotations: {example.com/on: "true"}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: dedicated, operator: Exists, effect: NoSchedule}]
affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {a: b}}}}]}}
topologySpreadConstraints:
- {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}
- {maxSkew: 2, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {team: identity}}}
priorityClassName: important
fullnameOverride: identity-operator
`

const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// watched lists the namespaces in rendered releases.
var watched = []string{"shop", "orders"}

// number is another namespace.
const number = "789"

// rendered lists the objects of a rendered release.
type rendered []*unstructured.Unstructured

func TestTheAPIServerAcceptsTheChart(t *testing.T) {
	c := chart(t)
	installPrometheusKinds(t, c.cluster)
	for _, name := range append([]string{namespace, number}, watched...) {
		makeNamespace(t, c.cluster, name)
	}
	restricted, operator := kubernetestest.Namespace(t), testenv.Program(t, "./cmd/operator")

	for _, test := range []struct {
		name, values string
		check        func(*testing.T, rendered)
	}{
		{"defaults", "", func(t *testing.T, r rendered) {
			if got := rightsOf(t, named(t, r, namespace+":auth-gateway-operator:manager")); !slices.Equal(got, operatorRights(t)) {
				t.Errorf("the operator may\n%s", strings.Join(got, "\n"))
			}
			r.hasKinds(t, "CustomResourceDefinition", "CustomResourceDefinition",
				"ClusterRole", "ClusterRole", "ClusterRole", "ClusterRole", "ClusterRole", "ClusterRole", "ClusterRoleBinding", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount", "Deployment", "Service",
				"NetworkPolicy", "PodDisruptionBudget", "Pod")
			operator := r.operator(t)
			if operator.Image != "registry.example.com/auth-gateway/operator:"+c.about(t).AppVersion {
				t.Errorf("the image is %s", operator.Image)
			}
			has(t, operator.Args,
				"--server-image=registry.example.com/auth-gateway/authserver:"+c.about(t).AppVersion, "--metrics-bind-address=:8443")
			user := as[appsv1.Deployment](t, one(t, r, "Deployment")).Spec.Template.Spec.SecurityContext
			if *user.RunAsUser != 65532 || *user.RunAsGroup != 65532 {
				t.Errorf("the pods run as %v", user)
			}
			hasNone(t, operator.Args, "--namespaces", "--server-pull-secrets", "--allowed-images", "--leader-elect", "--metrics-cert-dir")
			for _, crd := range kind(r, "CustomResourceDefinition") {
				if crd.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
					t.Errorf("Helm would delete %s with the release", nameOf(crd))
				}
			}
			if policy := r.networkPolicy(t); policy.Spec.Egress != nil ||
				len(policy.Spec.PolicyTypes) != 1 || len(policy.Spec.Ingress[0].From) != 0 {
				t.Errorf("the policy is %v", policy.Spec)
			}
		}},
		{"everything", everything, func(t *testing.T, r rendered) {
			operator := r.operator(t)
			if operator.Image != "registry.example.com/mirror/operator@sha256:"+digest || operator.ImagePullPolicy != corev1.PullAlways {
				t.Errorf("the image is %s, pulled %s", operator.Image, operator.ImagePullPolicy)
			}
			has(t, operator.Args, "--server-image=registry.example.com:5000/mirror/authserver:0.9.0",
				"--allowed-images=registry.example.com:5000/mirror/,registry.example.com/mirror/",
				"--server-pull-secrets=registry,mirror", "--platform-users=true", "--shutdown-timeout=20s",
				"--concurrent-reconciles=8", "--concurrent-upgrades=2", "--log-level=debug", "--log-format=text",
				"--metrics-cert-dir=/etc/operator/metrics")
			pod := as[appsv1.Deployment](t, one(t, r, "Deployment")).Spec.Template
			if pod.Labels["team"] != "identity" || pod.Annotations["example.com/on"] != "true" || pod.Spec.PriorityClassName != "important" ||
				pod.Spec.ServiceAccountName != "operator" || pod.Spec.ImagePullSecrets[0].Name != "registry" || len(pod.Spec.Tolerations) != 1 ||
				pod.Spec.Affinity.PodAntiAffinity == nil || pod.Spec.NodeSelector["kubernetes.io/os"] != "linux" {
				t.Errorf("the pod is %v", pod)
			}
			if c := pod.Spec.SecurityContext; *c.RunAsUser != 1234 || c.RunAsGroup != nil || *c.FSGroup != 1234 ||
				!*c.RunAsNonRoot || *pod.Spec.TerminationGracePeriodSeconds != 45 {
				t.Errorf("the pod ends within %d s, and runs as %v", *pod.Spec.TerminationGracePeriodSeconds, c)
			}
			if e := operator.Env[len(operator.Env)-2:]; e[0].Value != "80" || e[1].ValueFrom.FieldRef.FieldPath != "spec.nodeName" {
				t.Errorf("the variables are %v", operator.Env)
			}
			service := as[corev1.Service](t, one(t, r, "Service"))
			if s := service.Spec; service.Annotations["example.com/mesh"] != "on" ||
				*s.IPFamilyPolicy != corev1.IPFamilyPolicyPreferDualStack || *s.TrafficDistribution != "PreferClose" {
				t.Errorf("the Service is %v", service)
			}
			spread := pod.Spec.TopologySpreadConstraints
			if len(spread) != 2 || spread[0].LabelSelector.MatchLabels["app.kubernetes.io/name"] != "auth-gateway-operator" ||
				!maps.Equal(spread[1].LabelSelector.MatchLabels, map[string]string{"team": "identity"}) {
				t.Errorf("the operators are spread by %v", spread)
			}
			readers := as[rbacv1.ClusterRoleBinding](t, named(t, kind(r, "ClusterRoleBinding"), namespace+":identity-operator:metrics-reader"))
			if len(readers.Subjects) != 2 || readers.Subjects[0].Namespace != "monitoring" {
				t.Errorf("metrics are read by %v", readers.Subjects)
			}
			monitor := one(t, r, "ServiceMonitor")
			endpoint := monitor.Object["spec"].(map[string]any)["endpoints"].([]any)[0].(map[string]any)
			if monitor.GetLabels()["release"] != "prometheus" || endpoint["interval"] != "1m" ||
				endpoint["tlsConfig"].(map[string]any)["serverName"] != "identity-operator."+namespace+".svc" {
				t.Errorf("the ServiceMonitor is %v", monitor.Object)
			}
			has(t, operator.Args, "--open-server-metrics")
			servers := one(t, r, "PodMonitor")
			endpoint = servers.Object["spec"].(map[string]any)["podMetricsEndpoints"].([]any)[0].(map[string]any)
			if servers.GetLabels()["release"] != "prometheus" || endpoint["interval"] != "2m" {
				t.Errorf("the PodMonitor is %v", servers.Object)
			}
			if rule := one(t, r, "PrometheusRule"); rule.GetLabels()["release"] != "prometheus" {
				t.Errorf("the PrometheusRule has the labels %v", rule.GetLabels())
			}
			if policy := r.networkPolicy(t); len(policy.Spec.Egress) != 2 ||
				len(policy.Spec.PolicyTypes) != 2 || len(policy.Spec.Ingress[0].From) != 1 {
				t.Errorf("the policy is %v", policy.Spec)
			}
		}},
		{"some namespaces", "watchNamespaces: [shop, orders]", func(t *testing.T, r rendered) {
			has(t, r.operator(t).Args, "--namespaces=shop,orders")
			hasNone(t, r.operator(t).Args, "--open-server-metrics")
			r.isConfined(t)
			for _, role := range kind(r, "ClusterRole") {
				for _, right := range rightsOf(t, role) {
					if _, object, _ := strings.Cut(right, " "); object != "tokenreviews.authentication.k8s.io" &&
						object != "subjectaccessreviews.authorization.k8s.io" && object != "/metrics" &&
						aggregated(role) == nil {
						t.Errorf("%s: %s", nameOf(role), right)
					}
				}
			}
		}},
		{"its own namespace", "watchNamespaces: [" + namespace + "]", nil},
		{"no cluster-wide objects", "{watchNamespaces: [shop, orders], metrics: {enabled: false}, crds: {install: false}, rbac: {userRoles: false}}", func(t *testing.T, r rendered) {
			r.isConfined(t)
			for _, o := range r {
				if o.GetNamespace() == "" {
					t.Errorf("%s is cluster-wide", nameOf(o))
				}
			}
		}},
		{"no metrics", "metrics: {enabled: false}", func(t *testing.T, r rendered) {
			has(t, r.operator(t).Args, "--metrics-bind-address=0")
			if text := fmt.Sprint(r); strings.Contains(text, "tokenreviews") || strings.Contains(text, "8443") {
				t.Error("metrics are disabled, but objects for them exist")
			}
		}},
		{"a certificate without metrics", "metrics: {enabled: false, certificateSecret: tls}", func(t *testing.T, r rendered) {
			hasNone(t, r.operator(t).Args, "--metrics-cert-dir")
		}},
		{"a ServiceMonitor", "metrics: {serviceMonitor: {enabled: true, labels: {app.kubernetes.io/name: prometheus}}}", func(t *testing.T, r rendered) {
			tls := one(t, r, "ServiceMonitor").Object["spec"].(map[string]any)["endpoints"].([]any)[0].(map[string]any)["tlsConfig"]
			if diff := cmp.Diff(map[string]any{"insecureSkipVerify": true}, tls); diff != "" {
				t.Error(diff)
			}
		}},
		{"a PodMonitor without metrics of the operator", "{watchNamespaces: [shop, orders], metrics: {enabled: false, podMonitor: {enabled: true}}}", func(t *testing.T, r rendered) {
			in := one(t, r, "PodMonitor").Object["spec"].(map[string]any)["namespaceSelector"]
			if diff := cmp.Diff(map[string]any{"matchNames": []any{"shop", "orders"}}, in); diff != "" {
				t.Error(diff)
			}
		}},
		{"alerts", "metrics: {prometheusRule: {enabled: true}}", func(t *testing.T, r rendered) {
			text := testenv.Must(os.ReadFile(filepath.Join(root, "docs", "alerts.yaml")))(t)
			var alerts map[string]any
			testenv.NoError(t, yaml.Unmarshal(text, &alerts))
			if diff := cmp.Diff(alerts, one(t, r, "PrometheusRule").Object["spec"]); diff != "" {
				t.Errorf("the rules differ from docs/alerts.yaml:\n%s", diff)
			}
		}},
		{"objectives", `
metrics:
  prometheusRule: {enabled: true, objectives: {sign-in: {availability: 0.9995}, keys: {latency: 0.9}}}`, func(t *testing.T, r rendered) {
			text := testenv.Must(os.ReadFile(filepath.Join(root, "docs", "alerts.yaml")))(t)
			changed := strings.NewReplacer(
				"{slo: sign-in, sli: availability}\n    expr: vector(0.999)", "{slo: sign-in, sli: availability}\n    expr: vector(0.9995)",
				"{slo: keys, sli: latency}\n    expr: vector(0.99)", "{slo: keys, sli: latency}\n    expr: vector(0.9)",
			).Replace(string(text))
			var rules map[string]any
			testenv.NoError(t, yaml.Unmarshal([]byte(changed), &rules))
			if diff := cmp.Diff(rules, one(t, r, "PrometheusRule").Object["spec"]); diff != "" {
				t.Errorf("the rules differ from docs/alerts.yaml with these objectives:\n%s", diff)
			}
		}},
		{"a dashboard", "metrics: {dashboard: {enabled: true}}", func(t *testing.T, r rendered) {
			checkDashboard(t, one(t, r, "ConfigMap"))
		}},
		{"no custom resource", "crds: {install: false}", func(t *testing.T, r rendered) {
			if len(kind(r, "CustomResourceDefinition")) != 0 {
				t.Error("the custom resource definition exists")
			}
		}},
		{"no roles for users", "rbac: {userRoles: false}", func(t *testing.T, r rendered) {
			for _, role := range kind(r, "ClusterRole") {
				if aggregated(role) != nil {
					t.Errorf("%s is there", nameOf(role))
				}
			}
		}},
		{"an existing account", "serviceAccount: {create: false, name: there}", func(t *testing.T, r rendered) {
			if len(kind(r, "ServiceAccount")) != 0 {
				t.Error("the chart creates an account")
			}
			if name := as[appsv1.Deployment](t, one(t, r, "Deployment")).Spec.Template.Spec.ServiceAccountName; name != "there" {
				t.Errorf("the pods are %s", name)
			}
		}},
		{"no policies", "{networkPolicy: {enabled: false}, podDisruptionBudget: {enabled: false}}", func(t *testing.T, r rendered) {
			if len(kind(r, "NetworkPolicy", "PodDisruptionBudget")) != 0 {
				t.Error("they exist")
			}
		}},
		{"no limits", "resources: {limits: null, requests: null}", func(t *testing.T, r rendered) {
			for _, variable := range r.operator(t).Env {
				if variable.Name == "MEMORY_LIMIT" {
					t.Error("MEMORY_LIMIT is set without a limit")
				}
			}
		}},
		{"another tag", "{image: {tag: v2}, serverImage: {digest: 'sha256:" + digest + "'}}", func(t *testing.T, r rendered) {
			if image := r.operator(t).Image; image != "registry.example.com/auth-gateway/operator:v2" {
				t.Errorf("the image is %s", image)
			}
			has(t, r.operator(t).Args, "--server-image=registry.example.com/auth-gateway/authserver@sha256:"+digest)
		}},
		{"no replicas", "replicas: 0", func(t *testing.T, r rendered) {
			if n := as[appsv1.Deployment](t, one(t, r, "Deployment")).Spec.Replicas; n == nil || *n != 0 {
				t.Errorf("there are %v", n)
			}
		}},
		{"names that look like numbers", "{watchNamespaces: ['" + number + "'], serviceAccount: {name: '1'}, priorityClassName: '2', metrics: {certificateSecret: '3', readers: [{namespace: '4', name: '5'}], serviceMonitor: {enabled: true}}, image: {repository: '6', tag: '7'}}", nil},
		{"texts that look like something else", `{podAnnotations: {"yes": "no", n: "1", t: "{{ .Values }}"}, podLabels: {v: "1.0"}, nodeSelector: {v: "true"}}`, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := rendered(c.template(t, test.name, test.values))
			for _, o := range r {
				c.cluster.accepts(t, o)
			}
			for _, pod := range pods(t, r) {
				if err := c.cluster.admits(t, restricted, pod); err != nil {
					t.Errorf("a pod is refused: %v", err)
				}
			}
			r.isWhole(t)
			checkWorkload(t, r)
			operatorTakes(t, operator, r.operator(t).Args)
			if test.check != nil {
				test.check(t, r)
			}
		})
	}
}

func makeNamespace(t *testing.T, c cluster, name string) {
	t.Helper()
	err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// operator returns the operator's container.
func (r rendered) operator(t *testing.T) corev1.Container {
	t.Helper()
	return as[appsv1.Deployment](t, one(t, r, "Deployment")).Spec.Template.Spec.Containers[0]
}

func (r rendered) networkPolicy(t *testing.T) *networkingv1.NetworkPolicy {
	t.Helper()
	return as[networkingv1.NetworkPolicy](t, one(t, r, "NetworkPolicy"))
}

func (r rendered) hasKinds(t *testing.T, kinds ...string) {
	t.Helper()
	var found []string
	for _, o := range r {
		found = append(found, o.GetKind())
	}
	slices.Sort(kinds)
	slices.Sort(found)
	if diff := cmp.Diff(kinds, found); diff != "" {
		t.Errorf("wrong kinds:\n%s", diff)
	}
}

// isWhole checks that every object has the labels of its release, and that the role
// and the account of each binding exist.
func (r rendered) isWhole(t *testing.T) {
	t.Helper()
	there := map[string]bool{}
	for _, o := range r {
		if there[nameOf(o)] {
			t.Errorf("%s exists twice", nameOf(o))
		}
		there[nameOf(o)] = true
		if o.GetNamespace() != "" && o.GetNamespace() != namespace && o.GetNamespace() != number && !slices.Contains(watched, o.GetNamespace()) {
			t.Errorf("%s is in an unexpected namespace", nameOf(o))
		}
		has := o.GetLabels()
		if has["app.kubernetes.io/instance"] != "auth-gateway" || has["app.kubernetes.io/managed-by"] != "Helm" ||
			has["app.kubernetes.io/part-of"] != "auth-gateway" || has["helm.sh/chart"] == "" {
			t.Errorf("%s has the labels %v", nameOf(o), has)
		}
	}
	operator := as[appsv1.Deployment](t, one(t, r, "Deployment"))
	account := rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: operator.Spec.Template.Spec.ServiceAccountName}
	for _, o := range kind(r, "RoleBinding", "ClusterRoleBinding") {
		b := as[rbacv1.RoleBinding](t, o) // a ClusterRoleBinding has the same fields
		to := strings.TrimSpace(b.RoleRef.Kind + " " + strings.TrimPrefix(o.GetNamespace()+"/"+b.RoleRef.Name, "/"))
		if !there[to] {
			t.Errorf("%s refers to %s, which does not exist", nameOf(o), to)
		}
		if !strings.HasSuffix(o.GetName(), ":metrics-reader") && (len(b.Subjects) != 1 || b.Subjects[0] != account) {
			t.Errorf("%s is for %v, and the operator is %v", nameOf(o), b.Subjects, account)
		}
	}
	for _, account := range kind(r, "ServiceAccount") {
		if mounted := as[corev1.ServiceAccount](t, account).AutomountServiceAccountToken; mounted == nil || *mounted {
			t.Errorf("every pod of %s mounts its token", nameOf(account))
		}
	}
}

// isConfined checks that the operator has exactly its rules in each watched
// namespace, and that no ClusterRole has any of them.
func (r rendered) isConfined(t *testing.T) {
	t.Helper()
	in := map[string]bool{}
	for _, role := range kind(r, "Role") {
		if role.GetNamespace() == namespace {
			continue
		}
		in[role.GetNamespace()] = true
		if diff := cmp.Diff(operatorRights(t), rightsOf(t, role)); diff != "" {
			t.Errorf("%s\n%s", nameOf(role), diff)
		}
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(watched)), slices.Sorted(maps.Keys(in))); diff != "" {
		t.Errorf("the operator has rights in namespaces that it does not watch:\n%s", diff)
	}
	for _, role := range kind(r, "ClusterRole") {
		for _, right := range rightsOf(t, role) {
			if strings.Contains(right, "secrets") {
				t.Errorf("%s: %s", nameOf(role), right)
			}
		}
	}
}

// checkWorkload checks the objects of both Kustomize and Helm: each selector matches
// the operator's pods, and the NetworkPolicies of AuthGateways admit these pods.
func checkWorkload(t *testing.T, objects []*unstructured.Unstructured) {
	t.Helper()
	d := as[appsv1.Deployment](t, one(t, objects, "Deployment"))
	pod := labels.Set(d.Spec.Template.Labels)
	if pod["app.kubernetes.io/name"] != "auth-gateway-operator" {
		t.Errorf("the NetworkPolicies of AuthGateways block pods with the labels %v", pod)
	}
	if pod["app.kubernetes.io/managed-by"] == "auth-gateway-operator" {
		t.Error("the operator would treat its own pods as those of an AuthGateway")
	}
	selects := func(what string, selector labels.Selector, err error) {
		t.Helper()
		if err != nil || selector.Empty() || !selector.Matches(pod) {
			t.Errorf("%s selects %s, the pods have %v: %v", what, selector, pod, err)
		}
		for _, other := range kind(objects, "Pod") { // of helm test
			if selector.Matches(labels.Set(other.GetLabels())) {
				t.Errorf("%s selects %s too", what, nameOf(other))
			}
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	selects("the Deployment", selector, err)
	for _, o := range kind(objects, "PodDisruptionBudget") {
		selector, err := metav1.LabelSelectorAsSelector(as[policyv1.PodDisruptionBudget](t, o).Spec.Selector)
		selects(nameOf(o), selector, err)
	}
	for _, o := range kind(objects, "NetworkPolicy") {
		policy := as[networkingv1.NetworkPolicy](t, o)
		selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
		selects(nameOf(o), selector, err)
		for _, rule := range policy.Spec.Ingress {
			for _, port := range rule.Ports {
				// Metrics require authentication. No other port is open to all.
				if port.Port.IntValue() != 8443 && len(rule.From) == 0 {
					t.Errorf("every client reaches %s", port.Port)
				}
			}
		}
	}
	for _, o := range kind(objects, "Service") {
		service := as[corev1.Service](t, o)
		selects(nameOf(o), labels.SelectorFromSet(service.Spec.Selector), nil)
		for _, port := range service.Spec.Ports {
			isTarget := func(p corev1.ContainerPort) bool { return p.Name == port.TargetPort.StrVal }
			if !slices.ContainsFunc(d.Spec.Template.Spec.Containers[0].Ports, isTarget) {
				t.Errorf("%s refers to the port %s, which no container has", nameOf(o), port.TargetPort.StrVal)
			}
		}
	}
	operator := d.Spec.Template.Spec.Containers[0]
	if s := operator.SecurityContext; s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
		t.Error("the root file system of the operator is writable")
	}
	if operator.LivenessProbe == nil || operator.ReadinessProbe == nil {
		t.Error("the operator has no probes")
	}
	if !slices.ContainsFunc(operator.Env, func(e corev1.EnvVar) bool {
		return e.Name == "POD_NAMESPACE" && e.ValueFrom.FieldRef.FieldPath == "metadata.namespace"
	}) {
		t.Error("POD_NAMESPACE is not set")
	}
}

// operatorTakes checks that the operator accepts its arguments.
func operatorTakes(t *testing.T, program string, args []string) {
	t.Helper()
	// The operator parses all flags before it prints its version.
	if out, err := exec.CommandContext(t.Context(), program, append(slices.Clone(args), "version")...).CombinedOutput(); err != nil {
		t.Errorf("the operator rejects %q: %v\n%s", args, err, out)
	}
}

func has(t *testing.T, args []string, wanted ...string) {
	t.Helper()
	for _, arg := range wanted {
		if !slices.Contains(args, arg) {
			t.Errorf("the arguments %q do not contain %q", args, arg)
		}
	}
}

func hasNone(t *testing.T, args []string, flags ...string) {
	t.Helper()
	for _, flag := range flags {
		if slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, flag) }) {
			t.Errorf("the arguments %q contain %s", args, flag)
		}
	}
}

func TestInvalidValuesAreRejected(t *testing.T) {
	c := chart(t)
	for values, message := range map[string]string{
		"replicaCount: 2":                              "additional properties 'replicaCount' not allowed",
		"image: {tagg: x}":                             "'/image': additional properties 'tagg' not allowed",
		"replicas: two":                                "'/replicas': got string, want integer",
		"replicas: -1":                                 "'/replicas': minimum: got -1, want 0",
		"watchNamespaces: shop,orders":                 "'/watchNamespaces': got string, want array",
		"watchNamespaces: ['shop,orders']":             "'/watchNamespaces/0'",
		"watchNamespaces: [Shop]":                      "'/watchNamespaces/0'",
		"watchNamespaces: [shop, shop]":                "'/watchNamespaces': items at 0 and 1 are equal",
		"image: {pullPolicy: Sometimes}":               "value must be one of 'Always', 'IfNotPresent', 'Never'",
		"image: {digest: abc}":                         "'/image/digest'",
		"image: {repository: ''}":                      "image.repository is not set: write the operator's image",
		"serverImage: {repository: ''}":                "serverImage.repository is not set: write the server's image",
		"image: {repository: 'a b'}":                   "'/image/repository'",
		"serverImage: {tag: 'a b'}":                    "'/serverImage/tag'",
		"allowedImages: ['a,b']":                       "'/allowedImages/0'",
		"imagePullSecrets: [registry]":                 "'/imagePullSecrets/0': got string, want object",
		"log: {level: loud}":                           "'/log/level': value must be one of 'debug', 'info', 'warn', 'error'",
		"concurrentUpgrades: -1":                       "'/concurrentUpgrades': minimum: got -1, want 0",
		"concurrentReconciles: 0":                      "'/concurrentReconciles'",
		"crds: {enabled: true}":                        "'/crds': additional properties 'enabled' not allowed",
		"crds: {install: 'yes'}":                       "'/crds/install': got string, want boolean",
		"metrics: {readers: [{name: prometheus}]}":     "missing property 'namespace'",
		"metrics: {serviceMonitor: {interval: often}}": "'/metrics/serviceMonitor/interval'",
		"metrics: {prometheusRule: {objectives: {signin: {latency: 0.9}}}}":  "invalid propertyName 'signin'",
		"metrics: {prometheusRule: {objectives: {keys: {latency: \"99\"}}}}": "want number",
		"metrics: {prometheusRule: {objectives: {keys: {latency: 99}}}}":     "exclusiveMaximum",
		"metrics: {prometheusRule: true}":                                    "'/metrics/prometheusRule': got boolean, want object",
		"serverImage: {pullSecrets: [registry]}":                             "'/serverImage/pullSecrets/0': got string, want object",
		"extraArgs: [leader-elect=false]":                                    "'/extraArgs/0'",
		"extraEnv: [{value: a}]":                                             "'/extraEnv/0': missing property 'name'",
		"terminationGracePeriodSeconds: 5":                                   "'/terminationGracePeriodSeconds': minimum: got 5, want 16",
		"service: {ipFamilyPolicy: IPv6}":                                    "'/service/ipFamilyPolicy': value must be one of",
		"podLabels: {team: 1}":                                               "'/podLabels/team': got number, want string",
		"affinity: {nodeAffinities: {}}":                                     "'/affinity'",
		"priorityClassName: [a]":                                             "'/priorityClassName': got array, want string",
		"fullnameOverride: 'A B'":                                            "'/fullnameOverride'",
		"metrics: null":                                                      "missing property 'metrics'",
		"podLabels: {app.kubernetes.io/name: mine}":                          "podLabels: app.kubernetes.io/name is reserved for the chart: choose a label with another prefix",
		"serviceAccount: {create: false}":                                    "write the name of an existing account to serviceAccount.name",
		"metrics: {enabled: false, readers: [{namespace: a, name: b}]}":      "write metrics.enabled: true, or remove metrics.readers",
		"metrics: {enabled: false, serviceMonitor: {enabled: true}}":         "write metrics.enabled: true, or",
		"networkPolicy: {metricsFrom: {namespaceSelector: {}}}":              "'/networkPolicy/metricsFrom': got object, want array",
		"topologySpreadConstraints: {topologyKey: kubernetes.io/hostname}":   "'/topologySpreadConstraints': got object, want array",
	} {
		_, err := c.tryTemplate(t, values)
		if err == nil {
			t.Errorf("%s is accepted", values)
		} else if !strings.Contains(err.Error(), message) {
			t.Errorf("%s: the message has no %q:\n%v", values, message, err)
		}
	}
}

// A value that the schema allows and values.yaml lacks would be undocumented.
func TestEveryAllowedValueIsDocumented(t *testing.T) {
	c := chart(t)
	var schema struct{ Properties map[string]any }
	var values map[string]any
	for name, into := range map[string]any{"values.schema.json": &schema, "values.yaml": &values} {
		text, err := os.ReadFile(filepath.Join(c.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if text, err = yaml.YAMLToJSON(text); err != nil {
			t.Fatal(err)
		}
		testenv.NoError(t, json.Unmarshal(text, into))
	}
	// Values of Helm itself, and values in the form of the Kubernetes API.
	exempt := []string{"global", "enabled", "resources.claims", "affinity.nodeAffinity", "affinity.podAffinity", "affinity.podAntiAffinity"}
	var compare func(path string, schema, values map[string]any)
	compare = func(path string, schema, values map[string]any) {
		for key, s := range schema {
			name := strings.TrimPrefix(path+"."+key, ".")
			value, there := values[key]
			if !there {
				if !slices.Contains(exempt, name) {
					t.Errorf("values.yaml has no %s", name)
				}
				continue
			}
			if inner, ok := s.(map[string]any)["properties"].(map[string]any); ok {
				compare(name, inner, value.(map[string]any))
			}
		}
	}
	compare("", schema.Properties, values)
}

// OpenShift assigns users per namespace and rejects pods with another user.
func TestOnOpenShiftNoUserIsSet(t *testing.T) {
	c := chart(t)
	out := c.run(t, "template", "auth-gateway", c.dir, "--namespace", namespace, "--kube-version", c.version,
		"--values", c.file(t, images), "--api-versions", "security.openshift.io/v1")
	all := pods(t, parse(t, []byte(out)))
	if len(all) != 2 {
		t.Fatalf("there are %d pods, want that of the operator and that of helm test", len(all))
	}
	for _, pod := range all {
		c := pod.Spec.SecurityContext
		if c.RunAsUser != nil || c.RunAsGroup != nil || c.FSGroup != nil || pod.Spec.Containers[0].SecurityContext.RunAsUser != nil {
			t.Errorf("the pod %s sets a user: %v", pod.Name, c)
		}
		if !*c.RunAsNonRoot {
			t.Errorf("the pod %s may run as root", pod.Name)
		}
	}
}

func TestTheChartPassesHelmsLinter(t *testing.T) {
	c := chart(t)
	for _, values := range []string{"", everything, "watchNamespaces: [shop]"} {
		if out, err := c.try(t, "lint", "--strict", c.dir, "--namespace", namespace,
			"--kube-version", c.version, "--values", c.file(t, images), "--values", c.file(t, values)); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// An image without a registry would be pulled from a public one, where an attacker could publish it.
func TestImagesAreRequired(t *testing.T) {
	c := chart(t)
	if _, err := c.try(t, "template", c.dir, "--kube-version", c.version); err == nil ||
		!strings.Contains(err.Error(), "image.repository is not set") {
		t.Errorf("without images: %v", err)
	}
}

// An older Kubernetes lacks a CEL function of the custom resource definition, and
// would reject it in the middle of the installation.
func TestAnOldKubernetesIsRejected(t *testing.T) {
	c := chart(t)
	_, err := c.try(t, "template", c.dir, "--kube-version", "v1.30.9")
	if err == nil || !strings.Contains(err.Error(), "chart requires kubeVersion: "+c.about(t).KubeVersion) {
		t.Error(err)
	}
	// Versions of cloud providers look like pre-releases.
	if _, err := c.try(t, "template", c.dir, "--kube-version", "v1.31.0-gke.1", "--values", c.file(t, images)); err != nil {
		t.Error(err)
	}
}

func TestNamesAreValidForAnyReleaseName(t *testing.T) {
	c := chart(t)
	makeNamespace(t, c.cluster, namespace)
	long := strings.Repeat("long-", 10) + "abc" // the longest release name
	for release, name := range map[string]string{
		"auth-gateway":          "auth-gateway-operator",
		"my-auth-gateway":       "my-auth-gateway-operator",
		"auth-gateway-operator": "auth-gateway-operator",
		"shop":                  "shop-auth-gateway-operator",
		"shop.example":          "shop-example-auth-gateway-operator",
		"2024":                  "auth-gateway-operator-2024",
		long:                    long + "-auth-gate",
	} {
		out := c.run(t, "template", release, c.dir, "--namespace", namespace, "--kube-version", c.version, "--values", c.file(t, images))
		objects := parse(t, []byte(out))
		if got := one(t, objects, "Deployment").GetName(); got != name {
			t.Errorf("release %s: the operator's name is %s, want %s", release, got, name)
		}
		for _, o := range objects {
			c.cluster.accepts(t, o)
		}
	}
}

// A parent chart passes its own values down: global, and the condition.
func TestAnotherChartCanDependOnIt(t *testing.T) {
	c := chart(t)
	parent := t.TempDir()
	testenv.NoError(t, os.CopyFS(filepath.Join(parent, "charts", "auth-gateway"), os.DirFS(c.dir)))
	about := fmt.Sprintf("{apiVersion: v2, name: platform, version: 1.0.0, "+
		"dependencies: [{name: auth-gateway, version: %q, condition: auth-gateway.enabled}]}", c.about(t).Version)
	testenv.NoError(t, os.WriteFile(filepath.Join(parent, "Chart.yaml"), []byte(about), 0o600))
	for enabled, objects := range map[bool]int{true: 18, false: 0} {
		values := c.file(t, fmt.Sprintf("{global: {registry: x}, auth-gateway: {enabled: %v, replicas: 1, "+
			"image: {repository: a.example/b}, serverImage: {repository: a.example/c}}}", enabled))
		out := c.run(t, "template", "platform", parent, "--namespace", namespace, "--kube-version", c.version, "--values", values)
		if got := len(parse(t, []byte(out))); got != objects {
			t.Errorf("enabled: %v: there are %d objects, want %d", enabled, got, objects)
		}
	}
}

// .helmignore must not exclude a template.
func TestThePackagedChartRendersTheSame(t *testing.T) {
	c := chart(t)
	dir := t.TempDir()
	c.run(t, "package", c.dir, "--destination", dir)
	packed := filepath.Join(dir, "auth-gateway-"+c.about(t).Version+".tgz")
	for _, command := range [][]string{
		{"template", "--namespace", namespace, "--kube-version", c.version, "--values", c.file(t, images)},
		{"show", "readme"}, {"show", "values"},
	} {
		if diff := cmp.Diff(c.run(t, append(command, c.dir)...), c.run(t, append(command, packed)...)); diff != "" {
			t.Errorf("helm %v: %s", command, diff)
		}
	}
}
