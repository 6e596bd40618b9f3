package controllers_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
	"github.com/auth-gateway/auth-gateway/keys"
)

// everythingSet returns a gateway with every field set, with values that the API server may normalize.
func everythingSet(name string) *v1alpha1.AuthGateway {
	g := smallest(name)
	s := &g.Spec
	s.Replicas = nil
	s.Autoscaling = &v1alpha1.Autoscaling{MinReplicas: 3, MaxReplicas: 9, TargetCPUUtilizationPercentage: 55}
	s.Image = "registry.example.com:5000/authserver:1.2.3@sha256:" + strings.Repeat("0a", 32)
	s.ImagePullSecrets = []v1alpha1.LocalReference{{Name: "registry-b"}, {Name: "registry-a"}}
	odd := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	s.Resources = &corev1.ResourceRequirements{Requests: odd("0.5", "1e8"), Limits: odd("1000m", "1.5Gi")}
	s.Resources.Requests[corev1.ResourceEphemeralStorage] = resource.MustParse("1Gi")
	s.Resources.Limits["example.com/gpu"] = resource.MustParse("1")
	s.Resources.Requests["example.com/gpu"] = resource.MustParse("1")
	peers := corev1.PodAffinityTerm{
		LabelSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a",
			Operator: "In", Values: []string{"b", "c"}}}},
		TopologyKey: "kubernetes.io/hostname", NamespaceSelector: &metav1.LabelSelector{},
		Namespaces: []string{"x"}, MatchLabelKeys: []string{"d"},
	}
	s.PodTemplate = &v1alpha1.PodTemplate{
		Labels:       map[string]string{"team": "shop", "example.com/empty": ""},
		Annotations:  map[string]string{"example.com/scrape": "true", "example.com/empty": ""},
		NodeSelector: map[string]string{"disk": "ssd", "example.com/empty": ""},
		Affinity: &corev1.Affinity{
			NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
					{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: "Exists"}}},
					{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: "In", Values: []string{"n"}}}},
				}},
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 5, Preference: corev1.NodeSelectorTerm{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "cores", Operator: "Gt", Values: []string{"4"}}},
				}}},
			},
			PodAffinity:     &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: peers}}},
			PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{peers}},
		},
		Tolerations: []corev1.Toleration{
			{Key: "dedicated", Operator: "Equal", Value: "auth", Effect: "NoSchedule"}, {Operator: "Exists"},
			{Key: "gone", Effect: "NoExecute", TolerationSeconds: new(int64(0))},
		},
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{
			{MaxSkew: 1, TopologyKey: "topology.kubernetes.io/zone", WhenUnsatisfiable: "DoNotSchedule",
				MinDomains:    new(int32(2)),
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "shop"}}},
			{MaxSkew: 3, TopologyKey: "rack", WhenUnsatisfiable: "ScheduleAnyway"},
			{MaxSkew: 2, TopologyKey: "kubernetes.io/hostname", WhenUnsatisfiable: "ScheduleAnyway",
				LabelSelector: &metav1.LabelSelector{}, NodeTaintsPolicy: new(corev1.NodeInclusionPolicyHonor),
				MatchLabelKeys: []string{"pod-template-hash"}},
		},
		PriorityClassName: "important",
		Sidecars: []v1alpha1.Sidecar{
			{
				Name: "proxy", Image: "example.com/proxy", Command: []string{"/proxy"}, Args: []string{"--port", ""},
				Env:       map[string]string{"B": "2", "A": "", "C": "$(B)"},
				Resources: &corev1.ResourceRequirements{Requests: odd("0.0001", "128974848"), Limits: odd("2e-1", "128974848000m")},
			},
			{Name: "a-sidecar", Image: "example.com/other:2"},
			{Name: "native", Image: "example.com/proxy", Native: true, Resources: &corev1.ResourceRequirements{Requests: odd("0.1", "1e6")}},
		},
	}
	s.Shutdown = v1alpha1.Shutdown{DrainDelay: "90s", GracePeriod: "3m"}
	s.Issuer = "https://auth.example.com/realm"
	for i := range 16 {
		s.Audiences = append(s.Audiences, fmt.Sprintf("https://api-%d.example.com/?q=$(HOME)", (i*7)%16))
	}
	s.CORS = &v1alpha1.CORS{AllowedOrigins: []string{"https://app.example.com", "http://[::1]:3000"}}
	s.TrustedProxyHops, s.TrustedProxyField = 2, v1alpha1.ProxyFieldForwarded
	s.Limits = v1alpha1.Limits{SignIn: "7/1m", SignUp: "5/90m", Codes: v1alpha1.Unlimited, Mails: "4/24h", Writes: "9/10s"}
	s.Authz.Policies = []v1alpha1.AuthzPolicy{
		{Name: "orders", Scopes: []string{"b", "a", "$(HOME)"}, AnyScope: []string{"<d>", "c"}, Audience: "shop", MaxAge: "90m"},
		{Name: "shop", Anonymous: true, FailClosed: true},
	}
	s.Service = v1alpha1.Service{Annotations: map[string]string{"example.com/mesh": "", "example.com/b": "c"},
		IPFamilyPolicy: "PreferDualStack", TrafficDistribution: "PreferClose"}
	s.ServiceAccount = v1alpha1.ServiceAccount{Annotations: map[string]string{"example.com/role": "arn:of:something"}}
	s.Tracing = &v1alpha1.Tracing{Endpoint: "https://example.com/$(HOME)", SamplingRatePerMillion: new(int32(25)),
		HeadersSecretRef: &v1alpha1.LocalReference{Name: "traces"}, CASecretRef: &v1alpha1.LocalReference{Name: "ca"}}
	s.EventWebhook = &v1alpha1.EventWebhook{URL: "https://example.com/events?a=$(HOME)", SecretRef: v1alpha1.LocalReference{Name: "hook"}}
	s.Email = &v1alpha1.Email{
		SMTP: &v1alpha1.SMTP{
			Host: "2001:db8::2", Port: 465, TLS: "Implicit", From: "Example Inc. <no-reply@example.com>",
			CredentialsSecretRef: &v1alpha1.LocalReference{Name: "mail"}, CASecretRef: &v1alpha1.LocalReference{Name: "ca"},
		},
		MaxConnections: 9, GiveUpAfter: "90m", ServiceName: "Example $(HOME) & Söhne",
		TemplatesConfigMapRef: &v1alpha1.LocalReference{Name: "mails"},
		Links: &v1alpha1.EmailLinks{Verification: "https://example.com/$(HOME)#{code}",
			PasswordReset: "https://example.com/r?c={code}", EmailChange: "https://example.com/e#{code}"},
	}
	s.Database = v1alpha1.Database{
		Host: "2001:db8::1,pg-1.example.com", Port: 6432, Name: `o'd "d b`, SSLMode: "verify-full", MaxConnections: 7,
		CredentialsSecretRef: &v1alpha1.LocalReference{Name: "auth-db"}, CASecretRef: &v1alpha1.LocalReference{Name: "ca"},
	}
	s.Tokens = v1alpha1.Tokens{AccessTokenTTL: "5m", RefreshTokenTTL: "24h", Rotation: v1alpha1.RotateAlways, ReuseGrace: "0s"}
	s.SignUp = v1alpha1.SignUp{Required: []v1alpha1.PersonName{}}
	s.Passwords = v1alpha1.Passwords{SaltRounds: 10, MinLength: 12, Blocklist: new(false), Migration: &v1alpha1.PasswordMigration{
		URL: "https://example.com/password?a=$(HOME)", SecretRef: v1alpha1.LocalReference{Name: "former"},
	}}
	s.Audit = v1alpha1.Audit{Retention: "0s"}
	s.Keys = v1alpha1.Keys{
		Algorithm: "EdDSA", RotationInterval: "500h", PublishLead: "1m", PassphraseSecretRef: &v1alpha1.LocalReference{Name: "own"},
		Revoked: []string{strings.Repeat("A", 43)},
	}
	s.Admin = v1alpha1.Admin{Enabled: true, Replicas: 3, Resources: &corev1.ResourceRequirements{
		Requests: odd("0.05", "1e8"), Limits: odd("1000m", "1.5Gi"),
	}}
	s.NetworkPolicy = v1alpha1.NetworkPolicy{Enabled: new(true), From: []networkingv1.NetworkPolicyPeer{
		{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/16"}}},
		{PodSelector: &metav1.LabelSelector{}},
		{NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "k",
			Operator: "NotIn", Values: []string{"v", "u"}}}},
			PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": ""}}},
	}}
	return g
}

// secretsOf creates the Secrets that everythingSet refers to.
func secretsOf(e *env) {
	e.t.Helper()
	own := passphraseSecret("the first passphrase of mine", "the second passphrase of mine")
	own.Name = "own"
	e.create(credentials("auth-db"), own, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "ca"},
		StringData: map[string]string{"ca.crt": "x"}},
		credentials("mail"), templates("mails"), webhookKey("hook"), webhookKey("former"),
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "traces"}, StringData: map[string]string{"headers": "authorization=Bearer%20x"}})
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "important"}, Value: 1}
	if err := client.IgnoreAlreadyExists(e.client.Create(e.t.Context(), class)); err != nil {
		e.t.Fatal(err)
	}
}

func TestSpecWithEverythingSetIsStable(t *testing.T) {
	t.Parallel()
	e := newDirectEnv(t)
	secretsOf(e)
	e.create(everythingSet("auth"))
	e.shows("auth", "Ready False Progressing")
	e.secondPassWritesNothing("auth")

	d := e.deployment("auth")
	template := d.Spec.Template
	for key, value := range map[string]string{"team": "shop", "example.com/empty": "", "app.kubernetes.io/name": "authserver"} {
		if got, there := template.Labels[key]; !there || got != value {
			t.Errorf("label %s is %q", key, got)
		}
	}
	if _, there := template.Annotations["example.com/empty"]; !there || template.Annotations["example.com/scrape"] != "true" {
		t.Errorf("annotations %v", template.Annotations)
	}
	spec := template.Spec
	if len(spec.Tolerations) != 3 || len(spec.TopologySpreadConstraints) != 3 || spec.PriorityClassName != "important" ||
		spec.Affinity == nil || len(spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms) != 2 ||
		spec.NodeSelector["disk"] != "ssd" || len(spec.ImagePullSecrets) != 2 || len(spec.Containers) != 3 {
		t.Errorf("the pod template is not applied: %+v", spec)
	}
	if c := spec.Containers[0]; c.Name != "authserver" || !strings.HasPrefix(c.Image,
		"registry.example.com:5000/authserver:1.2.3@sha256:") || c.Resources.Limits.Cpu().String() != "1" {
		t.Errorf("the server's container is %+v", c)
	}
	for _, c := range spec.TopologySpreadConstraints {
		if c.LabelSelector == nil {
			t.Errorf("a constraint has no selector: %+v", c)
		}
	}
	if n := spec.InitContainers; len(n) != 1 || n[0].Name != "native" || n[0].RestartPolicy == nil ||
		*n[0].RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Errorf("the native sidecar is %+v", n)
	}
	if v := variables(d); *spec.TerminationGracePeriodSeconds != 180 || v["DRAIN_DELAY"] != "1m30s" || v["SHUTDOWN_TIMEOUT"] != "2m50s" {
		t.Errorf("the grace period is %d s, DRAIN_DELAY %s, SHUTDOWN_TIMEOUT %s",
			*spec.TerminationGracePeriodSeconds, v["DRAIN_DELAY"], v["SHUTDOWN_TIMEOUT"])
	}
	if audit := (corev1.EnvVar{Name: "AUDIT_RETENTION", Value: "0s"}); !slices.Contains(spec.Containers[0].Env, audit) {
		t.Errorf("the server does not have %s=%s: %v", audit.Name, audit.Value, spec.Containers[0].Env)
	}
	// A sidecar has no more rights than the server, and none of its Secrets.
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		s := c.SecurityContext
		if s == nil || *s.AllowPrivilegeEscalation || *s.Privileged || !*s.RunAsNonRoot || !*s.ReadOnlyRootFilesystem ||
			!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
			t.Errorf("container %s runs with %+v", c.Name, s)
		}
		if c.Name != "authserver" && len(c.VolumeMounts) > 0 {
			t.Errorf("container %s mounts %v", c.Name, c.VolumeMounts)
		}
	}
	e.startPod(d, 0, true) // rejected if it is not restricted

	// Lists that grow in the middle, shrink, and change their order.
	for i, change := range []func(*v1alpha1.AuthGatewaySpec){
		func(s *v1alpha1.AuthGatewaySpec) { s.Database.CASecretRef, s.Database.SSLMode = nil, "require" },
		func(s *v1alpha1.AuthGatewaySpec) {
			s.Passwords, s.Audiences = v1alpha1.Passwords{}, nil
			s.CORS, s.TrustedProxyHops = nil, 0
		},
		func(s *v1alpha1.AuthGatewaySpec) {
			s.Database.CASecretRef, s.Database.SSLMode = &v1alpha1.LocalReference{Name: "ca"}, "verify-ca"
			s.Audiences = []string{"one"}
		},
		func(s *v1alpha1.AuthGatewaySpec) {
			s.Email.SMTP, s.Email.Links, s.Email.TemplatesConfigMapRef = nil, nil, nil
			s.Email.Webhook = &v1alpha1.MailWebhook{URL: "https://example.com/hook?a=$(HOME)", SecretRef: v1alpha1.LocalReference{Name: "hook"}}
		},
		func(s *v1alpha1.AuthGatewaySpec) { s.Email, s.Limits, s.TrustedProxyField = nil, v1alpha1.Limits{}, "" },
		func(s *v1alpha1.AuthGatewaySpec) {
			slices.Reverse(s.PodTemplate.Sidecars)
			slices.Reverse(s.ImagePullSecrets)
		},
		func(s *v1alpha1.AuthGatewaySpec) {
			s.PodTemplate.Sidecars = append([]v1alpha1.Sidecar{{Name: "new", Image: "new"}}, s.PodTemplate.Sidecars[1:]...)
			s.PodTemplate.Sidecars[1].Env = map[string]string{"AA": "1", "B": "3"}
			for i := range s.PodTemplate.Sidecars { // ordinary ones become native, and native ones ordinary
				s.PodTemplate.Sidecars[i].Native = !s.PodTemplate.Sidecars[i].Native
			}
		},
		func(s *v1alpha1.AuthGatewaySpec) {
			slices.Reverse(s.PodTemplate.TopologySpreadConstraints)
			slices.Reverse(s.PodTemplate.Tolerations)
			slices.Reverse(s.NetworkPolicy.From)
		},
		func(s *v1alpha1.AuthGatewaySpec) {
			s.Resources, s.PodTemplate, s.Image, s.ImagePullSecrets = nil, nil, "", nil
			s.Service, s.ServiceAccount = v1alpha1.Service{}, v1alpha1.ServiceAccount{} // removes everything except the addresses
		},
	} {
		e.change("auth", func(g *v1alpha1.AuthGateway) { change(&g.Spec) })
		e.shows("auth", "Ready False Progressing")
		t.Logf("change %d", i)
		e.secondPassWritesNothing("auth")
	}
	if spec := e.deployment("auth").Spec.Template.Spec; len(spec.Containers) != 1 ||
		len(spec.Tolerations) != 0 || spec.Affinity != nil || spec.PriorityClassName != "" {
		t.Errorf("removed fields of the pod template are still in the pod: %+v", spec)
	}
	service, account := get(e, "auth", &corev1.Service{}), get(e, "auth", &corev1.ServiceAccount{})
	if len(service.Annotations) > 0 || len(account.Annotations) > 0 || service.Spec.TrafficDistribution != nil {
		t.Errorf("removed fields of the spec remain: %v, %v, %v", service.Annotations, account.Annotations, service.Spec.TrafficDistribution)
	}
}

func templates(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"verification.txt": "a template"}}
}

func webhookKey(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{
		"secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
	}}
}

// keysOf returns the objects of a gateway's keys.
func keysOf(name string) []string {
	return []string{"*v1.Secret " + name + "-keys", "*v1.Secret " + name + "-passphrases",
		"*v1.Secret " + name + "-caller", "*v1.ConfigMap " + name + "-public-keys",
		"*v1.ConfigMap " + name + "-refresh-public-keys"}
}

func variables(d *appsv1.Deployment) map[string]string {
	all := map[string]string{}
	for _, e := range server(d).Env {
		all[e.Name] = e.Value
	}
	return all
}

func TestDeletionRetainsKeysUnlessTheSpecSaysOtherwise(t *testing.T) {
	t.Parallel()
	e := newDirectEnv(t)
	e.create(credentials("auth-db"))
	g := smallest("auth")
	e.ready(g)
	owners := func(name string, wanted int) {
		t.Helper()
		becomes(e, name+" has its owners", wanted, func() int { return len(e.secret(name).OwnerReferences) })
	}
	policy := func(p v1alpha1.DeletionPolicy) {
		e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.DeletionPolicy = p })
	}
	// Argo CD prunes by a label, and Helm deletes what a release created. Neither may delete what outlives its gateway.
	prunable := func(name string, wanted bool) {
		t.Helper()
		s := e.secret(name)
		_, instance := s.Labels["app.kubernetes.io/instance"]
		kept := s.Annotations["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false" &&
			s.Annotations["helm.sh/resource-policy"] == "keep"
		if instance != wanted || kept == wanted {
			t.Errorf("%s has labels %v and annotations %v", name, s.Labels, s.Annotations)
		}
	}
	owners("auth-keys", 0) // it is the default
	prunable("auth-keys", false)
	prunable("auth-passphrases", false)
	prunable("auth-caller", true)
	policy(v1alpha1.DeletionDelete)
	owners("auth-keys", 1)
	owners("auth-passphrases", 1)
	prunable("auth-keys", true)
	policy(v1alpha1.DeletionRetain)
	owners("auth-keys", 0)
	owners("auth-passphrases", 0)
	owners("auth-caller", 1)
	prunable("auth-keys", false)
	policy(v1alpha1.DeletionDelete)
	owners("auth-keys", 1)
	owners("auth-passphrases", 1)
	policy(v1alpha1.DeletionRetain)
	owners("auth-keys", 0)
	owners("auth-passphrases", 0)
	e.secondPassWritesNothing("auth")

	ring := e.ring("auth")
	e.remove(e.gateway("auth"))
	e.rest()
	e.collectGarbage()
	e.rest()
	e.without("auth", "*v1.Secret auth-keys", "*v1.Secret auth-passphrases")
	next := smallest("auth")
	next.Spec.DeletionPolicy = v1alpha1.DeletionDelete
	e.create(next)
	e.made("auth")
	owners("auth-keys", 1) // deleting the new one deletes them
	prunable("auth-keys", true)
	for _, use := range keys.Uses() {
		was, _ := ring.Signing(use)
		if is := e.signing("auth", use); is.ID != was.ID {
			t.Errorf("the %s key changed to %s from %s", use, is.ID, was.ID)
		}
	}
	e.whole("auth")
	e.secondPassWritesNothing("auth")
}

func TestSuspendedGatewayIsNotWritten(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Suspend = true })
	e.shows("auth", "Ready True Suspended") // kstatus calls Unknown InProgress
	e.shows("auth", "Reconciling False Suspended", "Stalled False Ready", "Available True ReplicasReady")
	e.quiet()
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Replicas = new(int32(5)) })
	annotate(e, "auth", v1alpha1.AnnotationRotate, "now")
	edit(e, "auth", &appsv1.Deployment{}, func(d *appsv1.Deployment) { server(d).Image = "mine" })
	e.pass(1000 * lead)
	e.startOperator()
	e.rest()
	if writes := repairs(e); len(writes) > 0 {
		t.Errorf("the operator wrote %v", writes)
	}
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Suspend = false })
	becomes(e, "the edits are made good", "5 of auth-gateway/authserver:test", func() string {
		return fmt.Sprintf("%d of %s", e.replicas("auth"), server(e.deployment("auth")).Image)
	})

	// A change that a person has to accept leaves the pods alone, too. problems_test.go has every such change.
	e.rollOut("auth")
	e.wait("auth")
	e.shows("auth", "Ready True Ready")
	e.rest()
	template := func() string { return e.deployment("auth").Spec.Template.String() }
	before := template()
	e.change("auth", func(g *v1alpha1.AuthGateway) {
		g.Spec.Database.Name, g.Spec.Issuer = "other", "https://auth.example.com"
	})
	e.shows("auth", "Ready False ChangeNotAccepted")
	e.rest()
	if template() != before || strings.Contains(e.publicKeys("auth")[keys.PublicDocumentFile], "example.com") {
		t.Error("a change was made before a person accepted it")
	}
	annotate(e, "auth", v1alpha1.AnnotationAcceptIssuer, "https://auth.example.com")
	annotate(e, "auth", v1alpha1.AnnotationAcceptDatabase, "postgres.shop.svc/other")
	becomes(e, "the template changes", false, func() bool { return template() == before })
	e.rollOut("auth")
	e.shows("auth", "Ready True Ready")

	// Nothing is created for a gateway that is suspended from the start.
	g := smallest("late")
	g.Spec.Suspend = true
	e.create(g)
	e.shows("late", "Ready False Suspended", "Stalled True Suspended")
	e.without("late")
}

// An input that is missing or invalid is named and awaited, without polling. A change of a Secret or of a ConfigMap that
// the spec refers to starts a reconcile and replaces the pods. inputs_test.go has which changes do.
func TestInputsAreAwaitedAndWatched(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	g := exposed("auth")
	g.Spec.Database.SSLMode, g.Spec.Database.CASecretRef = "verify-full", &v1alpha1.LocalReference{Name: "ca"}
	g.Spec.Email.SMTP.CredentialsSecretRef = &v1alpha1.LocalReference{Name: "mail"}
	g.Spec.Email.TemplatesConfigMapRef = &v1alpha1.LocalReference{Name: "mails"}
	e.create(credentials("mail"), g)
	waits := func(reason string, words ...string) {
		t.Helper()
		e.says("auth", "Ready", reason, words...)
		e.shows("auth", "Stalled False Ready")          // the operator notices when it appears
		e.shows("auth", "KeysReady True KeysPublished") // the keys do not wait for it
		e.without("auth", keysOf("auth")...)
	}
	waits("SecretMissing", "auth-db", "spec.database.credentialsSecretRef", "username, password")
	e.quiet()
	time.Sleep(time.Second)          // no event announces that it does not poll
	if n := e.calls.count(); n > 2 { // one may have been running
		t.Errorf("the operator polls while it waits: %d calls", n)
	}
	half := credentials("auth-db")
	half.StringData["password"] = ""
	e.create(half)
	waits("SecretInvalid", "auth-db", "password")
	edit(e, "auth-db", &corev1.Secret{}, func(s *corev1.Secret) { s.Data["password"] = []byte("not empty") })
	waits("SecretMissing", " ca ", "spec.database.caSecretRef", "ca.crt")
	// It is created and deleted twice, so that the same event occurs again.
	for range 2 {
		ca := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "ca"}, StringData: map[string]string{"other": "x"}}
		e.create(ca)
		waits("SecretInvalid", " ca ", "ca.crt")
		e.remove(ca)
		waits("SecretMissing", " ca ")
	}
	e.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "ca"}, StringData: map[string]string{"ca.crt": "x"}})
	waits("ConfigMapMissing", " mails ")
	e.create(templates("mails"))
	e.rollOut("auth")
	e.shows("auth", "Ready True Ready")
	annotations := func() map[string]string { return e.deployment("auth").Spec.Template.Annotations }
	replaces := func(what string, change func()) {
		t.Helper()
		before := annotations()
		change()
		becomes(e, what+" replaces the pods", false, func() bool { return maps.Equal(annotations(), before) })
	}
	secret := func(key string) func() {
		return func() {
			edit(e, "mail", &corev1.Secret{}, func(s *corev1.Secret) { s.Data[key] = []byte("another " + key) })
		}
	}
	replaces("a password", secret("password"))
	replaces("a template", func() {
		edit(e, "mails", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) { c.Data["verification.txt"] = "another template" })
	})
	e.quiet()
	before := annotations()
	secret("unused")()
	edit(e, "mails", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) { c.Labels = map[string]string{"a": "b"} })
	e.rest()
	if after := annotations(); !maps.Equal(after, before) {
		t.Errorf("data that no pod reads changed the annotations from %v to %v", before, after)
	}
	if writes := e.calls.written(); len(writes) > 0 {
		t.Errorf("the operator wrote %v", writes)
	}
	// The running pods do not need it.
	e.remove(get(e, "mails", &corev1.ConfigMap{}))
	e.says("auth", "Ready", "ConfigMapMissing", " mails ")
	if after := annotations(); !maps.Equal(after, before) {
		t.Errorf("a deleted ConfigMap changed the annotations from %v to %v", before, after)
	}
}

func exposed(name string) *v1alpha1.AuthGateway {
	g := smallest(name)
	g.Spec.Exposure = v1alpha1.ExposurePublic
	g.Spec.Email = &v1alpha1.Email{SMTP: &v1alpha1.SMTP{Host: "mail", From: "a@example.com"}}
	g.Spec.Issuer, g.Spec.TrustedProxyHops = "https://auth.example.com", 1
	g.Spec.NetworkPolicy.From = []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}}}
	g.Spec.Ingress = &v1alpha1.Ingress{
		Host: "auth.example.com", ClassName: "nginx", TLSSecretRef: &v1alpha1.LocalReference{Name: "tls"},
		Annotations: map[string]string{"example.com/a": "b", "example.com/empty": ""},
	}
	return g
}

// A CRD is installed for the whole API server, so everything that needs one, or
// needs it to be missing, is in this test.
func TestOptionalKindsAreUsedOnceTheyExist(t *testing.T) {
	t.Parallel()
	e := emptyEnv(t)
	e.startOperator()
	e.create(credentials("auth-db"))
	g := smallest("auth")
	g.Spec.Monitoring.ServiceMonitor = &v1alpha1.ServiceMonitor{Labels: map[string]string{"release": "prometheus"}}
	e.create(g)
	e.rollOut("auth")
	e.shows("auth", "Ready False KindMissing")
	e.says("auth", "Ready", "KindMissing", "ServiceMonitor", "monitoring.coreos.com/v1")
	e.shows("auth", "Available True ReplicasReady", "KeysReady True KeysPublished")

	installKinds(t)
	e.nudge("auth")
	monitor := schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: "ServiceMonitor"}
	e.foreign(monitor, "spec", "endpoints")
	e.shows("auth", "Ready True Ready")
	if labels := e.foreign(monitor, "spec").GetLabels(); labels["release"] != "prometheus" {
		t.Errorf("its labels are %v", labels)
	}
	e.secondPassWritesNothing("auth")

	// Edits are reverted. Additions of other writers stay, and cause no writes.
	e.editForeign(monitor, func(u *unstructured.Unstructured) {
		u.SetLabels(map[string]string{"app.kubernetes.io/managed-by": "auth-gateway-operator", "mine": "yes"})
		_ = unstructured.SetNestedSlice(u.Object, []any{map[string]any{"port": "edited"}}, "spec", "endpoints")
		u.SetOwnerReferences(append(u.GetOwnerReferences(), metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"}))
	})
	e.eventually("the ServiceMonitor comes back", func() error {
		u := e.foreign(monitor, "spec")
		if text := fmt.Sprint(u.Object["spec"]); strings.Contains(text, "edited") || u.GetLabels()["release"] == "" {
			return fmt.Errorf("it is %v", u.Object)
		}
		return nil
	})
	if u := e.foreign(monitor, "spec"); u.GetLabels()["mine"] != "yes" || len(u.GetOwnerReferences()) != 2 {
		t.Errorf("labels %v, owners %v", u.GetLabels(), u.GetOwnerReferences())
	}
	e.secondPassWritesNothing("auth")
	e.editForeign(monitor, func(u *unstructured.Unstructured) { u.SetOwnerReferences(u.GetOwnerReferences()[1:]) })
	becomes(e, "its owner comes back", 2, func() int { return len(e.foreign(monitor, "spec").GetOwnerReferences()) })
	// The CRD is removed and installed again, as by a reinstallation.
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "servicemonitors.monitoring.coreos.com"}}
	definitions, err := client.New(kubernetestest.Config(t), client.Options{Scheme: func() *runtime.Scheme {
		s := runtime.NewScheme()
		_ = apiextensionsv1.AddToScheme(s)
		return s
	}()})
	if err == nil {
		err = definitions.Delete(t.Context(), crd)
	}
	if err != nil {
		t.Fatal(err)
	}
	e.eventually("the kind is gone", func() error {
		e.nudge("auth")
		if c := meta.FindStatusCondition(e.gateway("auth").Status.Conditions, "Ready"); c.Reason != "KindMissing" {
			return fmt.Errorf("Ready is %+v", c)
		}
		return nil
	})
	e.shows("auth", "Available True ReplicasReady")
	installKinds(t)
	e.eventually("the kind is used again", func() error {
		e.nudge("auth")
		return e.client.Get(t.Context(), e.key("auth"), of(monitor))
	})
	e.shows("auth", "Ready True Ready")
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Monitoring.ServiceMonitor = nil })
	e.gone("auth", of(monitor))
	e.secondPassWritesNothing("auth")
	t.Run("what leads there from the outside", testExposed)
}

func testExposed(t *testing.T) {
	e := newEnv(t)
	e.create(credentials("auth-db"))
	e.ready(exposed("auth"))
	g := exposed("routed")
	g.Spec.Ingress = nil
	g.Spec.HTTPRoute = &v1alpha1.HTTPRoute{
		ParentRefs: []v1alpha1.GatewayReference{{Name: "b", Namespace: "infra", SectionName: "https"}, {Name: "a"}},
		Hostnames:  []string{"z.example.com", "a.example.com"},
	}
	e.ready(g)
	ingress := get(e, "auth", &networkingv1.Ingress{})
	if len(ingress.Spec.TLS) != 1 || ingress.Annotations["example.com/a"] != "b" ||
		*ingress.Spec.IngressClassName != "nginx" || ingress.Spec.Rules[0].Host != "auth.example.com" {
		t.Errorf("the Ingress is %+v", ingress)
	}
	e.secondPassWritesNothing("auth")
	led := func() string { return essence(t, get(e, "auth", &networkingv1.Ingress{})) }
	was := led()
	edit(e, "auth", &networkingv1.Ingress{}, func(i *networkingv1.Ingress) {
		i.Spec.Rules[0].Host, i.Spec.TLS = "attacker.example.com", nil
		i.Spec.DefaultBackend = nil
	})
	becomes(e, "the Ingress comes back", was, led)
	e.secondPassWritesNothing("auth")

	route := schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRoute"}
	routed := func() string { return fmt.Sprint(get(e, "routed", of(route)).Object["spec"]) }
	was = routed()
	e.secondPassWritesNothing("routed")
	edit(e, "routed", of(route), func(u *unstructured.Unstructured) {
		if err := unstructured.SetNestedSlice(u.Object, []any{"attacker.example.com"}, "spec", "hostnames"); err != nil {
			t.Error(err)
		}
	})
	becomes(e, "the HTTPRoute comes back", was, routed)
	e.secondPassWritesNothing("routed")

	for _, name := range []string{"auth", "routed"} {
		e.change(name, func(g *v1alpha1.AuthGateway) {
			g.Spec.Exposure, g.Spec.Email, g.Spec.Ingress, g.Spec.HTTPRoute = v1alpha1.ExposureInternal, nil, nil, nil
		})
	}
	e.gone("auth", &networkingv1.Ingress{})
	e.gone("routed", of(route))
	for _, name := range []string{"auth", "routed"} {
		becomes(e, "the servers of "+name+" are no longer public", false, func() bool {
			return variables(e.deployment(name))["EXPOSURE"] == "public"
		})
	}
}

func of(gvk schema.GroupVersionKind) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvk)
	return u
}

// foreign waits for an object auth of an optional kind, with a field.
func (e *env) foreign(gvk schema.GroupVersionKind, field ...string) *unstructured.Unstructured {
	e.t.Helper()
	u := of(gvk)
	e.eventually("there is a "+gvk.Kind, func() error {
		if err := e.client.Get(e.t.Context(), e.key("auth"), u); err != nil {
			return err
		}
		if _, found, _ := unstructured.NestedFieldNoCopy(u.Object, field...); !found {
			return fmt.Errorf("it has no %s", strings.Join(field, "."))
		}
		return nil
	})
	return u
}

func (e *env) editForeign(gvk schema.GroupVersionKind, change func(*unstructured.Unstructured)) {
	e.t.Helper()
	edit(e, "auth", of(gvk), change)
}

// installKinds installs the optional kinds.
func installKinds(t *testing.T) {
	t.Helper()
	_, err := envtest.InstallCRDs(kubernetestest.Config(t), envtest.CRDInstallOptions{Paths: []string{"testdata/optional_kinds.yaml"}})
	if err != nil {
		t.Fatal(err)
	}
}
