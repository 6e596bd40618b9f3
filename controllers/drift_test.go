package controllers_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// essence returns an object without the fields that the API server maintains.
func essence(t *testing.T, o client.Object) string {
	t.Helper()
	m := testenv.Must(runtime.DefaultUnstructuredConverter.ToUnstructured(o))(t)
	u := unstructured.Unstructured{Object: m}
	for _, of := range [][]string{
		{"status"}, {"kind"}, {"apiVersion"}, {"spec", "clusterIP"}, {"spec", "clusterIPs"}, {"metadata", "managedFields"},
		{"metadata", "resourceVersion"}, {"metadata", "generation"}, {"metadata", "uid"}, {"metadata", "creationTimestamp"},
	} {
		unstructured.RemoveNestedField(u.Object, of...)
	}
	text := testenv.Must(json.MarshalIndent(u.Object, "", " "))(t)
	return string(text)
}

// objects are those that the operator creates for the smallest gateway, auth.
var objects = []struct {
	name  string
	empty func() client.Object
}{
	{"auth-keys", func() client.Object { return &corev1.Secret{} }},
	{"auth-passphrases", func() client.Object { return &corev1.Secret{} }},
	{"auth-caller", func() client.Object { return &corev1.Secret{} }},
	{"auth-public-keys", func() client.Object { return &corev1.ConfigMap{} }},
	{"auth-refresh-public-keys", func() client.Object { return &corev1.ConfigMap{} }},
	{"auth", func() client.Object { return &corev1.ServiceAccount{} }},
	{"auth", func() client.Object { return &corev1.Service{} }},
	{"auth", func() client.Object { return &networkingv1.NetworkPolicy{} }},
	{"auth", func() client.Object { return &policyv1.PodDisruptionBudget{} }},
	{"auth", func() client.Object { return &appsv1.Deployment{} }},
}

func pod(d *appsv1.Deployment) *corev1.PodSpec      { return &d.Spec.Template.Spec }
func server(d *appsv1.Deployment) *corev1.Container { return &pod(d).Containers[0] }

// drift is a manual edit of an object.
type drift struct {
	what  string
	name  string
	empty client.Object
	edit  func(client.Object)
}

func drifting[T client.Object](what, name string, empty T, change func(T)) drift {
	return drift{what, name, empty, func(o client.Object) { change(o.(T)) }}
}

func drifts() []drift {
	configMap := func(what string, change func(*corev1.ConfigMap)) drift {
		return drifting("ConfigMap: "+what, "auth-public-keys", &corev1.ConfigMap{}, change)
	}
	service := func(what string, change func(*corev1.Service)) drift {
		return drifting("Service: "+what, "auth", &corev1.Service{}, change)
	}
	policy := func(what string, change func(*networkingv1.NetworkPolicy)) drift {
		return drifting("NetworkPolicy: "+what, "auth", &networkingv1.NetworkPolicy{}, change)
	}
	budget := func(what string, change func(*policyv1.PodDisruptionBudget)) drift {
		return drifting("PodDisruptionBudget: "+what, "auth", &policyv1.PodDisruptionBudget{}, change)
	}
	deployment := func(what string, change func(*appsv1.Deployment)) drift {
		return drifting("Deployment: "+what, "auth", &appsv1.Deployment{}, change)
	}
	first := func(data map[string]string) string { return slices.Sorted(maps.Keys(data))[0] }
	all := []drift{
		drifting("Secret passphrases: an entry more", "auth-passphrases", &corev1.Secret{},
			func(s *corev1.Secret) { s.Data["x"] = []byte("y") }),
		drifting("Secret passphrases: an entry less", "auth-passphrases", &corev1.Secret{},
			func(s *corev1.Secret) { delete(s.Data, "FORMER_ACCESS_PASSPHRASE") }),
		drifting("Secret caller: an entry more", "auth-caller", &corev1.Secret{}, func(s *corev1.Secret) { s.Data["x"] = []byte("y") }),

		configMap("a value", func(c *corev1.ConfigMap) { c.Data[first(c.Data)] = "edited" }),
		configMap("a value less", func(c *corev1.ConfigMap) { delete(c.Data, first(c.Data)) }),
		configMap("an attacker's key", func(c *corev1.ConfigMap) { c.Data["attacker.pem"] = c.Data[first(c.Data)] }),
		configMap("an attacker's binary key", func(c *corev1.ConfigMap) { c.BinaryData = map[string][]byte{"attacker.pem": {1}} }),
		configMap("a value made binary", func(c *corev1.ConfigMap) {
			name := first(c.Data)
			delete(c.Data, name)
			c.BinaryData = map[string][]byte{name: []byte("edited")}
		}),
		configMap("emptied", func(c *corev1.ConfigMap) { c.Data = nil }),
		configMap("immutable", func(c *corev1.ConfigMap) { c.Immutable = new(true) }),
		configMap("immutable and emptied", func(c *corev1.ConfigMap) { c.Data, c.Immutable = nil, new(true) }),

		drifting("ServiceAccount: a token", "auth", &corev1.ServiceAccount{},
			func(s *corev1.ServiceAccount) { s.AutomountServiceAccountToken = new(true) }),
		drifting("ServiceAccount: no word about a token", "auth", &corev1.ServiceAccount{},
			func(s *corev1.ServiceAccount) { s.AutomountServiceAccountToken = nil }),

		service("a port", func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(9999) }),
		service("a port less", func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[1:] }),
		service("the selector", func(s *corev1.Service) { s.Spec.Selector["app.kubernetes.io/name"] = "other" }),
		service("a narrower selector", func(s *corev1.Service) { s.Spec.Selector["x"] = "y" }),
		service("the type", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }),

		policy("everyone", func(p *networkingv1.NetworkPolicy) {
			p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{})
		}),
		policy("no rules", func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress = nil }),
		policy("a peer more", func(p *networkingv1.NetworkPolicy) {
			p.Spec.Ingress[0].From = append(p.Spec.Ingress[0].From, networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{}})
		}),
		policy("other pods", func(p *networkingv1.NetworkPolicy) { p.Spec.PodSelector.MatchLabels = map[string]string{"x": "y"} }),

		budget("two at a time", func(p *policyv1.PodDisruptionBudget) { p.Spec.MaxUnavailable = new(intstr.FromInt32(2)) }),
		budget("the other of two ways", func(p *policyv1.PodDisruptionBudget) {
			p.Spec.MaxUnavailable, p.Spec.MinAvailable = nil, new(intstr.FromInt32(2))
		}),

		deployment("the image", func(d *appsv1.Deployment) { server(d).Image = "attacker/image" }),
		deployment("replicas", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(7)) }),
		deployment("a variable", func(d *appsv1.Deployment) { server(d).Env[3].Value = "edited" }),
		deployment("a variable less", func(d *appsv1.Deployment) { server(d).Env = server(d).Env[2:] }),
		deployment("a variable with a value in the place of a Secret's", func(d *appsv1.Deployment) {
			for i, e := range server(d).Env {
				if e.ValueFrom != nil {
					server(d).Env[i] = corev1.EnvVar{Name: e.Name, Value: "edited"}
				}
			}
		}),
		deployment("a variable from a Secret in the place of a value", func(d *appsv1.Deployment) {
			e := &server(d).Env[3]
			e.Value, e.ValueFrom = "",
				&corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}, Key: "y"}}
		}),
		deployment("a writable root file system", func(d *appsv1.Deployment) { server(d).SecurityContext.ReadOnlyRootFilesystem = new(false) }),
		deployment("no security context", func(d *appsv1.Deployment) { server(d).SecurityContext, pod(d).SecurityContext = nil, nil }),
		deployment("root", func(d *appsv1.Deployment) {
			pod(d).SecurityContext.RunAsUser, pod(d).SecurityContext.RunAsNonRoot = new(int64(0)), new(false)
		}),
		deployment("another Secret", func(d *appsv1.Deployment) { pod(d).Volumes[0].Secret.SecretName = "other" }),
		deployment("a volume of another kind", func(d *appsv1.Deployment) {
			pod(d).Volumes[3].VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
		}),
		deployment("the volume of the mail server's password", func(d *appsv1.Deployment) {
			for i := range pod(d).Volumes {
				if v := &pod(d).Volumes[i]; v.Name == "mail" {
					v.VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
				}
			}
		}),
		deployment("the mail server and its user", func(d *appsv1.Deployment) {
			for i := range server(d).Env {
				if e := &server(d).Env[i]; e.Name == "SMTP_HOST" {
					e.Value = "attacker.example.com"
				} else if e.Name == "SMTP_USERNAME" {
					e.Value, e.ValueFrom = "attacker", nil
				}
			}
		}),
		deployment("no volumes", func(d *appsv1.Deployment) { pod(d).Volumes, server(d).VolumeMounts = nil, nil }),
		deployment("a probe of another kind", func(d *appsv1.Deployment) {
			server(d).LivenessProbe.ProbeHandler = corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}
		}),
		deployment("no probes", func(d *appsv1.Deployment) { server(d).ReadinessProbe, server(d).LivenessProbe = nil, nil }),
		deployment("the account", func(d *appsv1.Deployment) { pod(d).ServiceAccountName = "default" }),
		deployment("a token", func(d *appsv1.Deployment) { pod(d).AutomountServiceAccountToken = new(true) }),
		deployment("the strategy", func(d *appsv1.Deployment) {
			d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		}),
		deployment("no limit, where the spec leaves the default", func(d *appsv1.Deployment) {
			server(d).Env = append(server(d).Env, corev1.EnvVar{Name: "LIMIT_SIGNIN", Value: "off"})
		}),
		deployment("two settings that are left out at their default", func(d *appsv1.Deployment) {
			server(d).Env = append([]corev1.EnvVar{{Name: "PASSWORD_BLOCKLIST", Value: "false"},
				{Name: "CORS_ALLOWED_ORIGINS", Value: "https://attacker.example.com"}}, server(d).Env...)
		}),
		deployment("another value for a variable, after it", func(d *appsv1.Deployment) {
			server(d).Env = append(server(d).Env, corev1.EnvVar{Name: "DB_HOST", Value: "attacker"})
		}),
		deployment("another value for a variable, twice and around it", func(d *appsv1.Deployment) {
			other := corev1.EnvVar{Name: "DB_HOST", Value: "attacker"}
			server(d).Env = append(append([]corev1.EnvVar{other}, server(d).Env...), other)
		}),
		deployment("a setting from a file", func(d *appsv1.Deployment) {
			server(d).Env = append(server(d).Env, corev1.EnvVar{Name: "MAIL_WEBHOOK_SECRET_FILE", Value: "/x"})
		}),
		deployment("variables from a ConfigMap", func(d *appsv1.Deployment) {
			from := &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}
			server(d).EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: from}}
		}),
		deployment("a command", func(d *appsv1.Deployment) {
			server(d).Command, server(d).Args, server(d).WorkingDir = []string{"/bin/x"}, []string{"serve", "--x"}, "/tmp"
		}),
		deployment("a hook", func(d *appsv1.Deployment) {
			server(d).Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
		}),
		deployment("a limit more", func(d *appsv1.Deployment) {
			server(d).Resources.Limits[corev1.ResourceCPU] = resource.MustParse("1")
			server(d).Resources.Limits["example.com/gpu"] = resource.MustParse("1")
			server(d).Resources.Requests["example.com/gpu"] = resource.MustParse("1")
		}),
		deployment("a capability, and root", func(d *appsv1.Deployment) {
			server(d).SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
			server(d).SecurityContext.RunAsUser = new(int64(0))
		}),
		deployment("another database by its name", func(d *appsv1.Deployment) {
			pod(d).HostAliases = []corev1.HostAlias{{IP: "192.0.2.1", Hostnames: []string{"postgres.shop.svc"}}}
		}),
		deployment("another resolver, and the node's network", func(d *appsv1.Deployment) {
			pod(d).DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}}
			pod(d).ShareProcessNamespace, pod(d).HostPID = new(false), true
		}),
		deployment("a file over a setting's", func(d *appsv1.Deployment) {
			server(d).VolumeMounts = append(server(d).VolumeMounts, corev1.VolumeMount{Name: "caller", MountPath: "/etc/authserver/keys/sub"})
		}),
		deployment("the digest of its Secrets", func(d *appsv1.Deployment) { d.Spec.Template.Annotations["authgateway.io/inputs"] = "edited" }),
	}
	for _, o := range objects {
		empty := o.empty()
		kind := fmt.Sprintf("%T %s", empty, o.name)
		all = append(all,
			drift{kind + ": labels", o.name, empty, func(o client.Object) {
				labels := o.GetLabels()
				delete(labels, "app.kubernetes.io/managed-by")
				o.SetLabels(labels)
			}},
			drift{kind + ": all labels", o.name, empty, func(o client.Object) { o.SetLabels(nil) }},
			drift{kind + ": owner", o.name, empty, func(o client.Object) { o.SetOwnerReferences(nil) }},
		)
	}
	return all
}

func TestDriftIsRepaired(t *testing.T) {
	t.Parallel()
	for part := range 3 { // in parallel, each with its own gateway
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			e := newDirectEnv(t)
			e.create(credentials("auth-db"), credentials("mail"))
			g := smallest("auth")
			g.Spec.DeletionPolicy = v1alpha1.DeletionDelete // so that the Secrets have an owner
			g.Spec.Email = &v1alpha1.Email{SMTP: &v1alpha1.SMTP{
				Host: "mail", From: "a@example.com", CredentialsSecretRef: &v1alpha1.LocalReference{Name: "mail"},
			}}
			e.ready(g)
			for i, d := range drifts() {
				if i%3 != part {
					continue
				}
				e.quiet()
				before := essence(t, get(e, d.name, d.empty))
				edit(e, d.name, d.empty, d.edit)
				if essence(t, d.empty) == before {
					t.Errorf("%s: the edit changes nothing", d.what)
				}
				becomes(e, d.what+" is restored", before, func() string {
					if e.client.Get(t.Context(), e.key(d.name), d.empty) != nil {
						return ""
					}
					return essence(t, d.empty)
				})
				e.rest()
				if writes := repairs(e); len(writes) > 4 || len(writes) == 0 {
					t.Errorf("%s: the repair took the writes %v", d.what, writes)
				}
			}
			e.report("auth", 2)
			e.shows("auth", "Ready True Ready")
			e.secondPassWritesNothing("auth")
		})
	}
}

// A Secret of keys that outlives its gateway has no owner: a label names its gateway. The annotations that protect it
// from pruning are restored. Without the label it is a name conflict, which ends when the label is set again.
func TestDriftOfASecretThatIsKeptIsRepairedByItsLabel(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	for _, name := range []string{"auth-keys", "auth-passphrases"} {
		e.rest()
		before := essence(t, e.secret(name))
		edit(e, name, &corev1.Secret{}, func(s *corev1.Secret) {
			s.Annotations, s.Labels = nil, map[string]string{"authgateway.io/gateway": "auth", "app.kubernetes.io/instance": "shop"}
		})
		e.eventually(name+" is as it was", func() error {
			is := e.secret(name)
			if is.Labels["app.kubernetes.io/instance"] != "" || is.Labels["app.kubernetes.io/managed-by"] == "" ||
				is.Annotations["argocd.argoproj.io/sync-options"] == "" {
				return fmt.Errorf("it is %s, want %s", essence(t, is), before)
			}
			return nil
		})
		edit(e, name, &corev1.Secret{}, func(s *corev1.Secret) { s.Labels = nil })
		e.says("auth", "Ready", "NameConflict", "a Secret "+name)
		edit(e, name, &corev1.Secret{}, func(s *corev1.Secret) { s.Labels = map[string]string{"authgateway.io/gateway": "auth"} })
		e.shows("auth", "Ready True Ready")
	}
}

// repairs returns the writes other than those of the status.
func repairs(e *env) []call {
	return slices.DeleteFunc(e.calls.written(), func(c call) bool { return c.subresource == "status" })
}

// secondPassWritesNothing restarts the operator and starts a reconcile, which must write nothing. It first stops every
// operator: others, with caches that lag behind, would overwrite each other's status. On a busy machine an earlier
// reconcile may still be running, so it tries twice.
func (e *env) secondPassWritesNothing(name string) {
	e.t.Helper()
	for _, stop := range e.stops {
		stop()
	}
	e.startOperator()
	for last := range 2 {
		e.quiet()
		e.nudge(name)
		e.rest()
		writes := e.calls.written()
		if len(writes) == 0 {
			return
		}
		if last == 1 {
			e.t.Errorf("a second reconcile wrote %v", writes)
		}
	}
}

func TestDriftByDeletionIsRepaired(t *testing.T) {
	t.Parallel()
	e := readyEnv(t)
	for _, o := range objects {
		if o.name == "auth-keys" || o.name == "auth-passphrases" { // see keys_test.go
			continue
		}
		e.quiet()
		was := get(e, o.name, o.empty())
		e.remove(get(e, o.name, o.empty()))
		what := fmt.Sprintf("%T %s", was, o.name)
		e.eventually(what+" is restored", func() error {
			is := o.empty()
			if err := e.client.Get(t.Context(), e.key(o.name), is); err != nil {
				return err
			}
			if o.name != "auth-caller" && essence(t, is) != essence(t, was) {
				return fmt.Errorf("it is\n%s\nwant\n%s", essence(t, is), essence(t, was))
			}
			return nil
		})
	}
	e.rollOut("auth") // a new caller key replaces the pods
	e.shows("auth", "Ready True Ready")
	e.secondPassWritesNothing("auth")
}

// The operator repairs its own fields, and keeps those of other writers.
func TestDriftLeavesWhatOthersAdd(t *testing.T) {
	t.Parallel()
	e := readyEnv(t)
	other := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	e.create(other)
	for _, o := range objects {
		edit(e, o.name, o.empty(), func(o client.Object) {
			labels, annotations := maps.Clone(o.GetLabels()), maps.Clone(o.GetAnnotations())
			if annotations == nil {
				annotations = map[string]string{}
			}
			labels["team"], labels["empty"] = "shop", ""
			annotations["audited"], annotations["empty"] = "yes", ""
			o.SetLabels(labels)
			o.SetAnnotations(annotations)
			o.SetFinalizers([]string{"example.com/backup"})
			o.SetOwnerReferences(append([]metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "other",
				UID: other.UID}}, o.GetOwnerReferences()...))
		})
	}
	edit(e, "auth", &appsv1.Deployment{}, func(d *appsv1.Deployment) {
		pod(d).Containers = append([]corev1.Container{{
			Name: "injected", Image: "mesh/proxy", VolumeMounts: []corev1.VolumeMount{{Name: "injected", MountPath: "/x"}},
		}}, pod(d).Containers...)
		c := &pod(d).Containers[1]
		c.Env = append(c.Env, corev1.EnvVar{Name: "MESH_NAME", Value: "a"}, corev1.EnvVar{Name: "MESH_NAME", Value: "auth"})
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "injected", MountPath: "/etc/ssl/extra"})
		pod(d).InitContainers = []corev1.Container{{Name: "injected-init", Image: "mesh/init"}}
		pod(d).Volumes = append([]corev1.Volume{{Name: "injected",
			VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}, pod(d).Volumes...)
		d.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] = "2026-11-24T10:00:00Z"
		d.Spec.Template.Labels["mesh"] = "on"
	})
	edit(e, "auth", &corev1.ServiceAccount{}, func(s *corev1.ServiceAccount) {
		s.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "registry"}}
	})
	e.quiet()
	e.secondPassWritesNothing("auth")

	// Now every object is written: the spec changes, and the operator's own fields are edited.
	e.quiet()
	e.change("auth", func(g *v1alpha1.AuthGateway) {
		g.Spec.Audiences = []string{"shop"}
		g.Spec.Issuer = "https://auth.example.com"
		g.Annotations = map[string]string{v1alpha1.AnnotationAcceptIssuer: g.Spec.Issuer}
		g.Spec.Monitoring.ServiceMonitor = nil
	})
	for _, o := range objects {
		edit(e, o.name, o.empty(), func(o client.Object) {
			labels := o.GetLabels()
			delete(labels, "app.kubernetes.io/managed-by")
			o.SetLabels(labels)
		})
	}
	for _, o := range objects {
		becomes(e, fmt.Sprintf("%T %s is repaired", o.empty(), o.name), "auth-gateway-operator", func() string {
			return get(e, o.name, o.empty()).GetLabels()["app.kubernetes.io/managed-by"]
		})
	}
	e.rest()
	for _, o := range objects {
		is := get(e, o.name, o.empty())
		what := fmt.Sprintf("%T %s", is, o.name)
		_, label := is.GetLabels()["empty"]
		_, annotation := is.GetAnnotations()["empty"]
		if is.GetLabels()["team"] != "shop" || is.GetAnnotations()["audited"] != "yes" || !label || !annotation {
			t.Errorf("%s: labels %v, annotations %v", what, is.GetLabels(), is.GetAnnotations())
		}
		if !slices.Equal(is.GetFinalizers(), []string{"example.com/backup"}) {
			t.Errorf("%s: finalizers %v", what, is.GetFinalizers())
		}
		if !slices.ContainsFunc(is.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return o.UID == other.UID }) {
			t.Errorf("%s: owners %v", what, is.GetOwnerReferences())
		}
	}
	d := e.deployment("auth")
	names := []string{}
	for _, c := range slices.Concat(pod(d).InitContainers, pod(d).Containers) {
		names = append(names, c.Name)
	}
	for _, v := range pod(d).Volumes {
		names = append(names, "volume "+v.Name)
	}
	for _, wanted := range []string{"injected", "injected-init", "authserver", "volume injected"} {
		if !slices.Contains(names, wanted) {
			t.Errorf("%s is missing: there are %s", wanted, strings.Join(names, ", "))
		}
	}
	ours := slices.IndexFunc(pod(d).Containers, func(c corev1.Container) bool { return c.Name == "authserver" })
	if !slices.ContainsFunc(pod(d).Containers[ours].Env, func(e corev1.EnvVar) bool { return e.Name == "MESH_NAME" }) {
		t.Error("a variable of another writer is missing")
	}
	if d.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] == "" || d.Spec.Template.Labels["mesh"] != "on" {
		t.Errorf("the template has %v and %v", d.Spec.Template.Annotations, d.Spec.Template.Labels)
	}
	if len(get(e, "auth", &corev1.ServiceAccount{}).ImagePullSecrets) != 1 {
		t.Error("the pull secret of the account is missing")
	}
	e.secondPassWritesNothing("auth")
}

func (e *env) replicas(name string) int32 {
	e.t.Helper()
	return *e.deployment(name).Spec.Replicas
}

// gone waits until an object is deleted.
func (e *env) gone(name string, o client.Object) {
	e.t.Helper()
	e.eventually(fmt.Sprintf("%T %s is gone", o, name), func() error {
		err := e.client.Get(e.t.Context(), e.key(name), o)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it still exists (%v)", err)
	})
}

// The scale of a gateway is that of its Deployment, until an autoscaler takes it over.
func TestReplicasAreHandedToAnAutoscalerAndTakenBack(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	replicas := func() int32 { return e.replicas("auth") }
	testenv.NoError(t, e.client.SubResource("scale").Patch(t.Context(), e.gateway("auth"),
		client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":5}}`))))
	becomes(e, "the scale is that of the Deployment", 5, replicas)
	e.rollOut("auth")
	// At no time is there a number that neither the spec nor the autoscaler wants.
	e.quiet()
	autoscale := func(g *v1alpha1.AuthGateway) {
		g.Spec.Replicas, g.Spec.Autoscaling = nil, &v1alpha1.Autoscaling{MinReplicas: 3, MaxReplicas: 9}
	}
	e.change("auth", autoscale)
	e.eventually("the autoscaler exists", func() error {
		return e.client.Get(t.Context(), e.key("auth"), &autoscalingv2.HorizontalPodAutoscaler{})
	})
	e.rest()
	if n := replicas(); n != 5 {
		t.Errorf("there are %d replicas after the handover", n)
	}
	for _, n := range []int32{6, 3, 9} { // as an autoscaler does
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: e.namespace, Name: "auth"}}
		s := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: n}}
		testenv.NoError(t, e.client.SubResource("scale").Update(t.Context(), d, client.WithSubResourceBody(s),
			client.FieldOwner("horizontal-pod-autoscaler")))
		edit(e, "auth", &appsv1.Deployment{}, func(d *appsv1.Deployment) { server(d).Image = "edited" })
		becomes(e, "the image is restored", "auth-gateway/authserver:test", func() string { return server(e.deployment("auth")).Image })
		e.rest()
		if got := replicas(); got != n {
			t.Errorf("the autoscaler set %d replicas, and there are %d", n, got)
		}
	}
	e.secondPassWritesNothing("auth")
	edit(e, "auth", &autoscalingv2.HorizontalPodAutoscaler{}, func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Spec.MaxReplicas = 99 })
	becomes(e, "the autoscaler is restored", 9, func() int32 {
		return get(e, "auth", &autoscalingv2.HorizontalPodAutoscaler{}).Spec.MaxReplicas
	})
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Autoscaling = nil })
	e.gone("auth", &autoscalingv2.HorizontalPodAutoscaler{})
	becomes(e, "the replicas are taken back", 2, replicas)
	e.secondPassWritesNothing("auth")

	// An autoscaler ignores a Deployment with zero replicas, so it is not handed zero.
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Replicas = new(int32(0)) })
	becomes(e, "there are no replicas", 0, replicas)
	e.rollOut("auth")
	e.shows("auth", "Available False ScaledToZero")
	e.change("auth", autoscale)
	becomes(e, "there are replicas", 3, replicas)
}
