package controllers_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
	"github.com/auth-gateway/auth-gateway/keys"
)

// both lets an operator watch two namespaces.
func both(here, there *env) func(*controllers.Options) {
	return func(o *controllers.Options) { o.Namespaces = []string{here.namespace, there.namespace} }
}

// sharing returns the smallest gateway, which allows copies in another namespace.
func sharing(name string, there *env) *v1alpha1.AuthGateway {
	g := smallest(name)
	g.Spec.PublicKeys.AllowedNamespaces = &metav1.LabelSelector{
		MatchLabels: map[string]string{corev1.LabelMetadataName: there.namespace},
	}
	return g
}

// copyFrom creates a PublicKeys for the gateway auth of another namespace.
func (e *env) copyFrom(name string, gateway *env) {
	e.t.Helper()
	k := &v1alpha1.PublicKeys{ObjectMeta: metav1.ObjectMeta{Name: name}}
	k.Spec.GatewayRef = v1alpha1.AuthGatewayReference{Namespace: gateway.namespace, Name: "auth"}
	e.create(k)
}

// copyIs waits until Ready of a PublicKeys has a reason.
func (e *env) copyIs(name, reason string, words ...string) v1alpha1.PublicKeysStatus {
	e.t.Helper()
	k := &v1alpha1.PublicKeys{}
	e.eventually(fmt.Sprintf("the PublicKeys %s is %s", name, reason), func() error {
		if err := e.client.Get(e.t.Context(), e.key(name), k); err != nil {
			return err
		}
		c := meta.FindStatusCondition(k.Status.Conditions, "Ready")
		if c == nil || c.Reason != reason || c.ObservedGeneration != k.Generation || k.Status.ObservedGeneration != k.Generation {
			return fmt.Errorf("the conditions of generation %d are %+v", k.Generation, k.Status.Conditions)
		}
		for _, w := range words {
			if !strings.Contains(c.Message, w) {
				return fmt.Errorf("%q is missing in %q", w, c.Message)
			}
		}
		return nil
	})
	return k.Status
}

// copyEquals waits until the copy has the entries of the gateway's own ConfigMap.
func (e *env) copyEquals(name string, gateway *env) {
	e.t.Helper()
	e.eventually("the copy has what the gateway publishes", func() error {
		original, copied := &corev1.ConfigMap{}, &corev1.ConfigMap{}
		if err := e.client.Get(e.t.Context(), gateway.key("auth-public-keys"), original); err != nil {
			return err
		}
		if err := e.client.Get(e.t.Context(), e.key(name+"-public-keys"), copied); err != nil {
			return err
		}
		if len(original.Data) == 0 || !maps.Equal(original.Data, copied.Data) || len(copied.BinaryData) > 0 {
			return fmt.Errorf("the gateway has %v, the copy has %v and %v", slices.Sorted(maps.Keys(original.Data)),
				slices.Sorted(maps.Keys(copied.Data)), slices.Sorted(maps.Keys(copied.BinaryData)))
		}
		return nil
	})
}

// copyIsEmpty waits until the copy has no keys.
func (e *env) copyIsEmpty(name string) {
	e.t.Helper()
	e.eventually("the copy has no keys", func() error {
		copied := &corev1.ConfigMap{}
		if err := e.client.Get(e.t.Context(), e.key(name+"-public-keys"), copied); err != nil {
			return err
		}
		for entry := range copied.Data {
			if strings.HasSuffix(entry, ".pem") {
				return fmt.Errorf("it has %s", entry)
			}
		}
		if !strings.Contains(copied.Data["jwks.json"], `"keys": []`) || copied.Data["withdrawn"] == "" {
			return fmt.Errorf("it is %v", copied.Data)
		}
		return nil
	})
}

// touch starts a reconcile of a PublicKeys.
func (e *env) touch(name string) {
	e.t.Helper()
	edit(e, name, &v1alpha1.PublicKeys{}, func(k *v1alpha1.PublicKeys) {
		k.Annotations = map[string]string{"test/nudge": fmt.Sprint(podCount.Add(1))}
	})
}

func TestPublicKeysAreCopiedAndRestored(t *testing.T) {
	t.Parallel()
	here := emptyEnv(t)
	there := here.in(kubernetestest.Namespace(t))
	here.startOperator(both(here, there))
	here.create(credentials("auth-db"))
	there.copyFrom("auth", here)
	there.copyIs("auth", "NotAllowed", there.namespace)
	here.ready(sharing("auth", there))
	status := there.copyIs("auth", "Ready")
	there.copyEquals("auth", here)
	if status.ConfigMapRef.Name != "auth-public-keys" || status.KeysGeneration != here.ring("auth").Generation ||
		status.Operator != "auth-gateway-system" || status.GatewayUID != string(here.gateway("auth").UID) {
		t.Errorf("the status is %+v", status)
	}

	edited := func(change func(*corev1.ConfigMap)) func() {
		return func() { edit(there, "auth-public-keys", &corev1.ConfigMap{}, change) }
	}
	for what, damage := range map[string]func(){
		"an entry is edited":      edited(func(c *corev1.ConfigMap) { c.Data["jwks.json"] = `{"keys":[]}` }),
		"an entry is removed":     edited(func(c *corev1.ConfigMap) { delete(c.Data, "keys.json") }),
		"a key is added":          edited(func(c *corev1.ConfigMap) { c.Data["attacker.pem"] = "a key" }),
		"a binary entry is added": edited(func(c *corev1.ConfigMap) { c.BinaryData = map[string][]byte{"x": {1}} }),
		"it is made immutable":    edited(func(c *corev1.ConfigMap) { c.Data, c.Immutable = nil, new(true) }),
		"it is deleted": func() {
			there.remove(get(there, "auth-public-keys", &corev1.ConfigMap{}))
		},
	} {
		damage()
		there.copyEquals("auth", here)
		if t.Failed() {
			t.Fatal(what)
		}
	}
	k := get(there, "auth", &v1alpha1.PublicKeys{})
	k.Status = v1alpha1.PublicKeysStatus{ObservedGeneration: k.Generation}
	testenv.NoError(t, there.client.Status().Update(t.Context(), k))
	there.copyIs("auth", "Ready")

	here.quiet()
	there.touch("auth")
	here.nudge("auth")
	here.rest()
	if w := here.calls.written(); len(w) > 0 {
		t.Errorf("reconciles without a change write: %v", w)
	}

	there.create(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "taken-public-keys"}, Data: map[string]string{"of": "a person"},
	})
	there.copyFrom("taken", here)
	there.copyIs("taken", "NameConflict", "taken-public-keys")
	if c := get(there, "taken-public-keys", &corev1.ConfigMap{}); len(c.Data) != 1 || len(c.OwnerReferences) > 0 {
		t.Errorf("an object of another owner became %+v", c)
	}
}

// A copy has a new key long before it signs, and loses a revoked one with the
// gateway's own ConfigMap.
func TestPublicKeysFollowARotationAndARevocation(t *testing.T) {
	t.Parallel()
	here := emptyEnv(t)
	there := here.in(kubernetestest.Namespace(t))
	here.startOperator(both(here, there))
	here.create(credentials("auth-db"))
	here.ready(sharing("auth", there))
	there.copyFrom("auth", here)
	there.copyIs("auth", "Ready")

	annotate(here, "auth", v1alpha1.AnnotationRotate, "now")
	next := here.published("auth", keys.Access)
	there.copyEquals("auth", here)
	here.wait("auth")
	if k := here.signing("auth", keys.Access); k.ID != next {
		t.Errorf("%s signs, and %s was published", k.ID, next)
	}
	there.copyEquals("auth", here)

	before := there.copyIs("auth", "Ready").KeysGeneration
	here.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Revoked = []string{next} })
	there.eventually("the copy has lost the revoked key", func() error {
		c := there.publicKeys("auth")
		if _, has := c[keys.PublicFile(next)]; has || strings.Contains(c["jwks.json"], next) {
			return fmt.Errorf("it has %v", slices.Sorted(maps.Keys(c)))
		}
		return nil
	})
	there.copyEquals("auth", here)
	if after := there.copyIs("auth", "Ready").KeysGeneration; after <= before {
		t.Errorf("the generation was %d, and is %d", before, after)
	}
}

// The keys are withdrawn, and the ConfigMap stays: a pod keeps the files of a deleted
// one.
func TestPublicKeysAreWithdrawnWhenTheGatewayNoLongerServesThem(t *testing.T) {
	t.Parallel()
	here := emptyEnv(t)
	there := here.in(kubernetestest.Namespace(t))
	here.startOperator(both(here, there))
	here.create(credentials("auth-db"))
	g := sharing("auth", there)
	here.ready(g)
	there.copyFrom("auth", here)
	there.copyIs("auth", "Ready")

	allow := func(selector *metav1.LabelSelector) {
		here.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.PublicKeys.AllowedNamespaces = selector })
	}
	allow(nil)
	there.copyIs("auth", "NotAllowed", "has no keys")
	there.copyIsEmpty("auth")
	allow(g.Spec.PublicKeys.AllowedNamespaces)
	there.copyIs("auth", "Ready")
	there.copyEquals("auth", here)

	edit(there, "auth", &v1alpha1.PublicKeys{}, func(k *v1alpha1.PublicKeys) { k.Spec.GatewayRef.Name = "another" })
	there.copyIs("auth", "NotAllowed", "another")
	there.copyIsEmpty("auth")
	edit(there, "auth", &v1alpha1.PublicKeys{}, func(k *v1alpha1.PublicKeys) { k.Spec.GatewayRef.Name = "auth" })
	there.copyIs("auth", "Ready")

	first := here.signing("auth", keys.Access)
	here.remove(here.gateway("auth"))
	there.copyIs("auth", "NotAllowed")
	there.copyIsEmpty("auth")
	for _, o := range []client.Object{
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "auth-keys"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "auth-passphrases"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "auth-public-keys"}}, // no garbage collector runs
	} {
		here.remove(o)
	}
	here.create(sharing("auth", there))
	there.copyIs("auth", "Ready")
	there.copyEquals("auth", here)
	if _, has := there.publicKeys("auth")[keys.PublicFile(first.ID)]; has {
		t.Error("the copy has a key of the former gateway")
	}
}

// An operator with rights in the consumer's namespace that are incomplete, or none,
// says so and does not delay the gateway.
func TestPublicKeysThatTheOperatorMayNotWriteAreReported(t *testing.T) {
	t.Parallel()
	here := emptyEnv(t)
	there := here.in(kubernetestest.Namespace(t))
	user, _ := here.as("", "", "")
	role := get(here, "operator", &rbacv1.Role{}).Rules
	for i, r := range role {
		if slices.Equal(r.Resources, []string{"configmaps"}) {
			role[i].Verbs = []string{"get", "list", "watch"}
		}
	}
	bind := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "operator"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "operator"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user.Impersonate.UserName}},
	}
	there.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "operator"}, Rules: role}, bind)
	here.startOperatorAs(user, both(here, there))
	here.create(credentials("auth-db"))
	there.copyFrom("auth", here)
	here.ready(sharing("auth", there))
	there.copyIs("auth", "Forbidden", "configmaps")
	edit(there, "operator", &rbacv1.Role{}, func(r *rbacv1.Role) { r.Rules = get(here, "operator", &rbacv1.Role{}).Rules })
	there.copyIs("auth", "Ready")
	there.copyEquals("auth", here)
	if denied := here.deniedWatches(there.namespace); len(denied) > 0 {
		t.Errorf("the operator may not watch %v", denied)
	}
}

// An operator that does not watch the gateway's namespace leaves the copy to the one
// that manages the gateway.
func TestPublicKeysBelongToTheOperatorOfTheGateway(t *testing.T) {
	t.Parallel()
	here := emptyEnv(t)
	there := here.in(kubernetestest.Namespace(t))
	there.startOperator(func(o *controllers.Options) { o.OperatorNamespace = "elsewhere" })
	there.copyFrom("auth", here)
	if s := there.copyIs("auth", "NotAllowed"); s.Operator != "elsewhere" {
		t.Errorf("the operator is %q", s.Operator)
	}
	here.startOperator(both(here, there))
	here.create(credentials("auth-db"))
	here.ready(sharing("auth", there))
	if s := there.copyIs("auth", "Ready"); s.Operator != "auth-gateway-system" {
		t.Errorf("the operator is %q", s.Operator)
	}
	here.rest()
	there.calls.reset()
	there.touch("auth")
	there.rest()
	if w := there.calls.written(); len(w) > 0 {
		t.Errorf("the other operator writes %v", w)
	}
	there.copyIs("auth", "Ready")
}

// An operator for the whole cluster notices a changed label at once. This test is not
// parallel: its operator would reconcile the gateways of other tests.
func TestPublicKeysFollowTheLabelsAndTheEndOfTheirNamespace(t *testing.T) {
	here := emptyEnv(t)
	there := here.in(kubernetestest.Namespace(t))
	stop := here.startOperator(func(o *controllers.Options) { o.Namespaces = nil })
	defer stop()
	here.create(credentials("auth-db"))
	g := smallest("auth")
	g.Spec.PublicKeys.AllowedNamespaces = &metav1.LabelSelector{MatchLabels: map[string]string{"copies": "allowed"}}
	here.ready(g)
	there.copyFrom("auth", here)
	there.copyIs("auth", "NotAllowed")
	label := func(value string) {
		t.Helper()
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: there.namespace}}
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{"copies":%q}}}`, value)
		testenv.NoError(t, there.client.Patch(t.Context(), n, client.RawPatch("application/merge-patch+json", patch)))
	}
	for range 3 {
		label("allowed")
		there.copyIs("auth", "Ready")
		there.copyEquals("auth", here)
		label("refused")
		there.copyIs("auth", "NotAllowed")
		there.copyIsEmpty("auth")
	}
	label("allowed")
	there.copyIs("auth", "Ready")

	// No namespace controller runs, so the namespace stays as it is.
	testenv.NoError(t, there.client.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: there.namespace}}))
	there.remove(get(there, "auth-public-keys", &corev1.ConfigMap{}))
	there.copyIs("auth", "NamespaceTerminating")
	annotate(here, "auth", v1alpha1.AnnotationRotate, "now")
	next := here.published("auth", keys.Access)
	here.wait("auth")
	if k := here.signing("auth", keys.Access); k.ID != next {
		t.Errorf("%s signs: the rotation waits for a namespace that is being deleted", k.ID)
	}
}

// An operator for some namespaces looks at their labels again after a while.
func TestPublicKeysOfARestrictedOperatorFollowTheLabels(t *testing.T) {
	t.Parallel()
	here := emptyEnv(t)
	there := here.in(kubernetestest.Namespace(t))
	here.startOperator(both(here, there))
	here.create(credentials("auth-db"))
	g := smallest("auth")
	g.Spec.PublicKeys.AllowedNamespaces = &metav1.LabelSelector{MatchLabels: map[string]string{"copies": "allowed"}}
	here.ready(g)
	there.copyFrom("auth", here)
	there.copyIs("auth", "NotAllowed")
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: there.namespace}}
	testenv.NoError(t, there.client.Patch(t.Context(), n,
		client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"copies":"allowed"}}}`))))
	here.pass(2 * time.Minute)
	there.touch("auth")
	there.copyIs("auth", "Ready")
}
