package controllers

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
)

// as converts an apply configuration to its typed object.
func as[T any](t testing.TB, rendered any) T {
	t.Helper()
	var object T
	text, err := json.Marshal(rendered)
	if err == nil {
		err = json.Unmarshal(text, &object)
	}
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// variables returns the environment of a container. A reference to a Secret is written as its key and name.
func variables(c corev1.Container) map[string]string {
	all := map[string]string{}
	for _, e := range c.Env {
		all[e.Name] = e.Value
		if e.ValueFrom != nil {
			all[e.Name] = "key " + e.ValueFrom.SecretKeyRef.Key + " of Secret " + e.ValueFrom.SecretKeyRef.Name
		}
	}
	return all
}

func renderedPod(t testing.TB, g *v1alpha1.AuthGateway, options ...func(*Options)) corev1.PodTemplateSpec {
	t.Helper()
	cs, found := running(t, g)
	return as[appsv1.Deployment](t, renderDeployment(renderingOf(cs, found, options...))).Spec.Template
}

// The namespaces of the API-server tests enforce "restricted". This is what it does not require.
func TestRenderPodKeepsRights(t *testing.T) {
	t.Parallel()
	spec := renderedPod(t, newGateway(t, withSMTP)).Spec
	if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		t.Error("a service account token is mounted")
	}
	if c := spec.Containers[0].SecurityContext; !*c.ReadOnlyRootFilesystem {
		t.Error("the root file system is writable")
	}
	for name := range variables(spec.Containers[0]) {
		if strings.Contains(name, "PASS") && !strings.HasSuffix(name, "_FILE") && !strings.HasPrefix(name, "PASSWORD_") {
			t.Errorf("%s is in the environment", name)
		}
	}
}

// A port of decisions leads from the Service to the pods, and the clients of the API may call it.
func TestRenderPortOfDecisions(t *testing.T) {
	t.Parallel()
	for _, want := range []int32{0, 9000} {
		g := newGateway(t, spec(func(s *v1alpha1.AuthGatewaySpec) {
			s.Authz = v1alpha1.Authz{Port: want, Policies: []v1alpha1.AuthzPolicy{{Name: "orders"}}}
		}))
		cs, found := running(t, g)
		r := renderingOf(cs, found)
		pod := as[appsv1.Deployment](t, renderDeployment(r)).Spec.Template.Spec.Containers[0]
		service := as[corev1.Service](t, renderService(r)).Spec
		policy := as[networkingv1.NetworkPolicy](t, renderNetworkPolicy(r)).Spec.Ingress
		if want == 0 {
			if len(pod.Ports) != 2 || len(service.Ports) != 2 || len(policy[0].Ports) != 1 {
				t.Errorf("without a port: %+v, %+v and %+v", pod.Ports, service.Ports, policy)
			}
			continue
		}
		if p := pod.Ports[2]; p.Name != "authz" || p.ContainerPort != want || variables(pod)["AUTHZ_PORT"] != "9000" {
			t.Errorf("the container has %+v and %v", pod.Ports, variables(pod))
		}
		if p := service.Ports[2]; p.Name != "authz" || p.Port != want || p.TargetPort.String() != "authz" {
			t.Errorf("the Service has %+v", service.Ports)
		}
		if p := policy[0].Ports; len(p) != 2 || p[1].Port.IntVal != want || len(policy[1].Ports) != 1 {
			t.Errorf("the NetworkPolicy has %+v", policy)
		}
	}
}

// OpenShift rejects pods that set another user than the namespace's own.
func TestRenderPodSetsNoUserIfThePlatformAssignsOne(t *testing.T) {
	t.Parallel()
	c := renderedPod(t, newGateway(t), func(o *Options) { o.PlatformUsers = true }).Spec.SecurityContext
	if c.RunAsUser != nil || c.RunAsGroup != nil || c.FSGroup != nil || !*c.RunAsNonRoot {
		t.Errorf("the pods run as %+v", c)
	}
}

func TestRenderPodPullsWithTheOperatorsSecretsIfItChoosesTheImage(t *testing.T) {
	t.Parallel()
	secrets := func(o *Options) { o.ServerPullSecrets = []string{"registry", "mirror"} }
	for _, c := range []struct {
		spec  func(*v1alpha1.AuthGatewaySpec)
		image string
		want  []string
	}{
		{func(s *v1alpha1.AuthGatewaySpec) {
			s.ImagePullSecrets = []v1alpha1.LocalReference{{Name: "mine"}, {Name: "mirror"}}
		}, "auth-gateway/authserver:test", []string{"mine", "mirror", "registry"}},
		{func(s *v1alpha1.AuthGatewaySpec) { s.Image = "example.com/authserver:1" }, "example.com/authserver:1", nil},
	} {
		pod := renderedPod(t, newGateway(t, spec(c.spec)), secrets).Spec
		var got []string
		for _, secret := range pod.ImagePullSecrets {
			got = append(got, secret.Name)
		}
		if !slices.Equal(got, c.want) || pod.Containers[0].Image != c.image {
			t.Errorf("%s is pulled with %v, want %s with %v", pod.Containers[0].Image, got, c.image, c.want)
		}
	}
}

// A setting, a passphrase or the caller's key replaces the pods. Rotated keys do not.
// inputs_test.go has the keys of Secrets.
func TestRenderPodChangesForSettingsAndSecretsAndNotForKeys(t *testing.T) {
	t.Parallel()
	render := func(minLength int32, change func(*clusterState, *keyResult)) string {
		cs, found := running(t, newGateway(t, spec(func(s *v1alpha1.AuthGatewaySpec) { s.Passwords.MinLength = minLength })))
		found.digestKey = make([]byte, 32)
		found.passphraseState.Current = map[keys.Use]string{keys.Access: "one", keys.Refresh: "two"}
		change(cs, &found)
		text := testenv.Must(json.Marshal(renderPod(renderingOf(cs, found))))(t)
		return string(text)
	}
	before := render(12, func(*clusterState, *keyResult) {})
	for what, c := range map[string]struct {
		minLength int32
		change    func(*clusterState, *keyResult)
		replaces  bool
	}{
		"a setting":         {20, func(*clusterState, *keyResult) {}, true},
		"a key for callers": {12, func(_ *clusterState, found *keyResult) { found.callerKey = "my own key" }, true},
		"a passphrase": {12, func(_ *clusterState, found *keyResult) {
			found.passphraseState.Current = map[keys.Use]string{keys.Access: "three", keys.Refresh: "two"}
		}, true},
		"rotated keys": {12, func(cs *clusterState, found *keyResult) {
			found.ring = newRing(t)
			found.ring.Generation++
			cs.ring = found.ring
		}, false},
	} {
		if replaces := render(c.minLength, c.change) != before; replaces != c.replaces {
			t.Errorf("%s: the pods are replaced: %v", what, replaces)
		}
	}
}

func TestRenderServiceAndAccountFollowTheSpec(t *testing.T) {
	t.Parallel()
	render := func(change func(*v1alpha1.AuthGatewaySpec)) (corev1.Service, corev1.ServiceAccount) {
		cs, found := running(t, newGateway(t, spec(change)))
		r := renderingOf(cs, found)
		return as[corev1.Service](t, renderService(r)), as[corev1.ServiceAccount](t, renderServiceAccount(r))
	}
	service, account := render(func(s *v1alpha1.AuthGatewaySpec) {
		s.Service = v1alpha1.Service{
			Annotations: map[string]string{"example.com/mesh": "on"}, IPFamilyPolicy: "PreferDualStack",
			TrafficDistribution: "PreferClose",
		}
		s.ServiceAccount.Annotations = map[string]string{"example.com/role": "a"}
	})
	if s := service.Spec; service.Annotations["example.com/mesh"] != "on" || *s.IPFamilyPolicy != "PreferDualStack" ||
		s.TrafficDistribution == nil || *s.TrafficDistribution != "PreferClose" {
		t.Errorf("the Service is %+v, %v", s, service.Annotations)
	}
	if account.Annotations["example.com/role"] != "a" || *account.AutomountServiceAccountToken {
		t.Errorf("the ServiceAccount is %+v", account)
	}
	service, account = render(func(*v1alpha1.AuthGatewaySpec) {})
	if len(service.Annotations)+len(account.Annotations) > 0 || service.Spec.TrafficDistribution != nil {
		t.Errorf("by default: %v, %v, %v", service.Annotations, account.Annotations, service.Spec.TrafficDistribution)
	}
}

func TestRenderNetworkPolicyOpensTheOperationsPortOnRequest(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{false, true} {
		cs, found := running(t, newGateway(t))
		rendered := renderNetworkPolicy(renderingOf(cs, found, func(o *Options) { o.OpenServerMetrics = open }))
		policy := as[networkingv1.NetworkPolicy](t, rendered)
		peers := policy.Spec.Ingress[1].From // of the operations port
		got := len(peers) == 2 && peers[1].PodSelector == nil && len(peers[1].NamespaceSelector.MatchLabels) == 0
		if got != open {
			t.Errorf("OpenServerMetrics %v: the operations port is open to %v", open, peers)
		}
		// Egress rules would cut off the mail server and the database.
		if !slices.Equal(policy.Spec.PolicyTypes, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}) {
			t.Errorf("the policy types are %v", policy.Spec.PolicyTypes)
		}
	}
}

func TestRenderReplicasLeavesThemToAnAutoscaler(t *testing.T) {
	t.Parallel()
	four, zero := int32(4), int32(0)
	scaled := &v1alpha1.Autoscaling{MinReplicas: 3, MaxReplicas: 9}
	live := func(n *int32) *appsv1.Deployment { // as applied by the operator, or with replicas of an autoscaler
		d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: n}}
		return d
	}
	g := newGateway(t, spec(func(s *v1alpha1.AuthGatewaySpec) { s.Replicas = &four }))
	if got := replicasWanted(g, live(&zero)); *got != 4 {
		t.Errorf("without an autoscaler there are %d replicas", *got)
	}
	g = newGateway(t, spec(func(s *v1alpha1.AuthGatewaySpec) { s.Autoscaling = scaled }))
	if got := replicasWanted(g, nil); *got != 3 {
		t.Errorf("a new Deployment has %d replicas", *got)
	}
	if got := replicasWanted(g, live(&four)); got != nil {
		t.Errorf("the operator overwrites the autoscaler's replicas with %d", *got)
	}
}
