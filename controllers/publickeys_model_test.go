package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

// The model of copies. A gateway and the copies of its public keys live through random
// events: people allow and deny namespaces, delete and create objects, edit copies and
// restore old ones, order rotations and revoke keys; two processes of the operator
// work at random moments, and a process crashes after any write. The copies are
// reconciled by the real code, against a client in memory. It must hold:
//
//	I1  after one pass over the gateway and its copies, an allowed copy has what the
//	    gateway publishes, and any other has no key
//	I2  when a key begins to sign because its lead has passed, every copy that no person
//	    has interfered with has had it for the lead, unless the bound is over
//	I3  no write of the operator takes a copy below the generation in its status, while
//	    the gateway is the same
//	I4  a second pass writes nothing
//	I5  an object that the operator did not create is never touched
type copyModel struct {
	t         *testing.T
	r         *rand.Rand
	log       []string
	api       client.WithWatch
	now       time.Time
	processes [2]*Reconciler

	ring     keys.Ring // the Secret
	original map[string]string
	uids     int

	backups    map[string][]map[string]string // of copies, by namespace
	held       map[string]map[string]time.Time
	interfered map[string]bool // since the last pass over this copy

	writes  int
	crashAt int // the write after which the process crashes; 0: none
}

const crashed = "the process crashed"

var modelNamespaces = []string{"orders", "billing", "search"}

func newCopyModel(t *testing.T, seed uint64) *copyModel {
	m := &copyModel{
		t: t, r: rand.New(rand.NewPCG(seed, 1)), now: testTime,
		backups: map[string][]map[string]string{}, held: map[string]map[string]time.Time{}, interfered: map[string]bool{},
	}
	objects := []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}}
	for _, n := range modelNamespaces {
		labels := map[string]string{}
		if m.r.IntN(2) == 0 {
			labels["copies"] = "allowed"
		}
		objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n, Labels: labels}})
		m.held[n] = map[string]time.Time{}
	}
	objects = append(objects, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "orders", Name: "taken-public-keys"}, Data: map[string]string{"of": "a person"},
	})
	m.api = fake.NewClientBuilder().WithScheme(Scheme()).WithObjects(objects...).
		WithStatusSubresource(&v1alpha1.PublicKeys{}, &v1alpha1.AuthGateway{}).
		WithIndex(&v1alpha1.PublicKeys{}, indexGateway, gatewayIndex).
		WithIndex(&v1alpha1.AuthGateway{}, metav1.ObjectNameField, func(o client.Object) []string { return []string{o.GetName()} }).
		WithReturnManagedFields().Build()
	for i := range m.processes {
		m.start(i)
	}
	m.createGateway()
	m.createCopy("orders", "taken")
	for _, n := range modelNamespaces {
		m.createCopy(n, "auth")
	}
	return m
}

// start replaces a process by a new one, which remembers nothing.
func (m *copyModel) start(i int) {
	c := interceptor.NewClient(m.api, interceptor.Funcs{
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			return m.write("apply", func() error { return c.Apply(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return m.write("patch "+o.GetName(), func() error { return c.Patch(ctx, o, p, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return m.write("delete "+o.GetName(), func() error { return c.Delete(ctx, o, opts...) })
		},
		SubResourcePatch: func(
			ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption,
		) error {
			return m.write("status of "+o.GetNamespace()+"/"+o.GetName(), func() error {
				return c.SubResource(sub).Patch(ctx, o, p, opts...)
			})
		},
	})
	r := newReconciler(c, c, Options{OperatorNamespace: thisOperator, Now: func() time.Time { return m.now }})
	r.copiesOf, r.watches = r.listCopies, &watches{}
	m.processes[i] = r
}

// write carries out a write of the operator, checks what it has done, and crashes.
func (m *copyModel) write(what string, do func() error) error {
	err := do()
	m.writes++
	m.note("  %s: %v", what, err)
	m.judge()
	if m.crashAt > 0 {
		if m.crashAt--; m.crashAt == 0 {
			panic(crashed)
		}
	}
	return err
}

func (m *copyModel) note(format string, args ...any) {
	m.log = append(m.log, m.now.Format("15:04:05 ")+fmt.Sprintf(format, args...))
}

func (m *copyModel) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(m.log[max(0, len(m.log)-40):], "\n"))
}

func (m *copyModel) must(err error) {
	m.t.Helper()
	if err != nil {
		m.fail("%v", err)
	}
}

func (m *copyModel) uid() types.UID {
	m.uids++
	return types.UID(fmt.Sprint("uid-", m.uids))
}

func (m *copyModel) createGateway() {
	g := newGateway(m.t, spec(func(s *v1alpha1.AuthGatewaySpec) {
		s.PublicKeys.AllowedNamespaces = &metav1.LabelSelector{MatchLabels: map[string]string{"copies": "allowed"}}
	}))
	g.UID, g.Status.Operator = m.uid(), thisOperator
	m.must(m.api.Create(m.t.Context(), g))
}

func (m *copyModel) createCopy(namespace, name string) {
	k := &v1alpha1.PublicKeys{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: m.uid(), Generation: 1}}
	k.Spec.GatewayRef = v1alpha1.AuthGatewayReference{Namespace: "shop", Name: "auth"}
	m.must(m.api.Create(m.t.Context(), k))
}

func (m *copyModel) gateway() *v1alpha1.AuthGateway {
	g := &v1alpha1.AuthGateway{}
	err := m.api.Get(m.t.Context(), types.NamespacedName{Namespace: "shop", Name: "auth"}, g)
	if apierrors.IsNotFound(err) {
		return nil
	}
	m.must(err)
	return g
}

func (m *copyModel) copy(namespace string) (*v1alpha1.PublicKeys, *corev1.ConfigMap) {
	k, c := &v1alpha1.PublicKeys{}, &corev1.ConfigMap{}
	if err := m.api.Get(m.t.Context(), types.NamespacedName{Namespace: namespace, Name: "auth"}, k); apierrors.IsNotFound(err) {
		k = nil
	} else {
		m.must(err)
	}
	err := m.api.Get(m.t.Context(), types.NamespacedName{Namespace: namespace, Name: "auth-public-keys"}, c)
	if apierrors.IsNotFound(err) {
		return k, nil
	}
	m.must(err)
	return k, c
}

func (m *copyModel) allowed(namespace string) bool {
	n, g := &corev1.Namespace{}, m.gateway()
	m.must(m.api.Get(m.t.Context(), types.NamespacedName{Name: namespace}, n))
	return g != nil && g.Spec.PublicKeys.AllowedNamespaces != nil && n.Labels["copies"] == "allowed"
}

// judge checks I3, and records since when each copy has each key.
func (m *copyModel) judge() {
	for _, n := range modelNamespaces {
		k, c := m.copy(n)
		data := map[string]string{}
		if c != nil {
			data = c.Data
		}
		for entry := range data {
			if _, known := m.held[n][entry]; !known {
				m.held[n][entry] = m.now
			}
		}
		maps.DeleteFunc(m.held[n], func(entry string, _ time.Time) bool { _, has := data[entry]; return !has })
		g := m.gateway()
		if c == nil || k == nil || g == nil || m.interfered[n] || k.Status.GatewayUID != string(g.UID) {
			continue
		}
		var document keys.PublicDocument
		m.must(json.Unmarshal([]byte(c.Data[keys.PublicDocumentFile]), &document))
		if document.Generation < k.Status.KeysGeneration {
			m.fail("I3: the copy in %s went from generation %d to %d", n, k.Status.KeysGeneration, document.Generation)
		}
	}
}

// step lets one process do something, and reports whether it crashed.
func (m *copyModel) step(i int, do func(*Reconciler)) (ended bool) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case crashed:
			m.note("process %d crashes", i)
			m.start(i)
			ended = true
		default:
			panic(v)
		}
	}()
	do(m.processes[i])
	return false
}

// reconcileGateway does what a reconcile of the gateway does with its keys.
func (m *copyModel) reconcileGateway(r *Reconciler) {
	g := m.gateway()
	if g == nil {
		r.forget(types.NamespacedName{Namespace: "shop", Name: "auth"})
		return
	}
	cs := newClusterState(g, m.now)
	cs.ring = m.ring
	cs.objects[idPublicKeys] = &corev1.ConfigMap{Data: m.original}
	cs.ringSince = r.sighted(m.now, string(g.UID), fmt.Sprint(m.ring.Generation))
	r.observeCopies(m.t.Context(), cs)
	opened := keys.OpenedBy{}
	current := map[keys.Use]string{keys.Access: keystest.AccessPassphrase, keys.Refresh: keystest.RefreshPassphrase}
	for _, k := range m.ring.Keys {
		opened[k.ID] = current[k.Use]
	}
	observed := cs.keysObserved(m.ring)
	observed.OpenedBy = opened
	before, _ := m.ring.Signing(keys.Access)
	result, err := keys.Reconcile(keys.Input{
		Ring: m.ring, Passphrases: keys.PassphraseState{Current: current}, Policy: keyPolicy(g), Observed: observed,
		Now: m.now, Cost: 1,
	})
	m.must(err)
	for _, s := range result.Steps {
		m.note("  %s %s %s (%s)", s.Action, s.Use, s.Key, s.Reason)
		if s.Reason == keys.LeadPassed && s.Action == keys.Promote && s.Use == keys.Access && before.ID != "" {
			m.promoted(cs, s.Key)
		}
	}
	write := func(what string, do func()) { m.must(m.write(what, func() error { do(); return nil })) }
	if result.Ring.Generation != m.ring.Generation {
		write("the ring", func() { m.ring = result.Ring })
	}
	rendered := renderPublicKeys(rendering{clusterState: cs, ring: result.Ring}).Data
	if !maps.Equal(rendered, m.original) {
		write("the gateway's own ConfigMap", func() { m.original = rendered })
	}
	r.notePublication(m.t.Context(), cs, keyResult{ring: result.Ring}, nil)
}

// promoted checks I2.
func (m *copyModel) promoted(cs *clusterState, id string) {
	if cs.copiesAssumed() {
		return
	}
	for _, n := range modelNamespaces {
		k, c := m.copy(n)
		if k == nil || c == nil || !m.allowed(n) || m.interfered[n] {
			continue
		}
		since, has := m.held[n][keys.PublicFile(id)]
		if lead := cs.gateway.Spec.Keys.PublishLead.Value(); !has || m.now.Sub(since) < lead {
			m.fail("I2: the key %s signs, and the copy in %s has it: %v, since %s", id, n, has, since)
		}
	}
}

func (m *copyModel) reconcileCopy(r *Reconciler, namespace, name string) {
	request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}
	_, err := (&publicKeysReconciler{r}).Reconcile(m.t.Context(), request)
	m.must(err)
}

// event does one random thing.
func (m *copyModel) event() {
	namespace := modelNamespaces[m.r.IntN(len(modelNamespaces))]
	i := m.r.IntN(2)
	if m.r.IntN(4) == 0 {
		m.crashAt = 1 + m.r.IntN(3)
	}
	defer func() { m.crashAt = 0 }()
	k, c := m.copy(namespace)
	g := m.gateway()
	switch kind := m.r.IntN(20); {
	case kind < 5:
		m.note("process %d reconciles the gateway", i)
		m.step(i, m.reconcileGateway)
	case kind < 10:
		m.note("process %d reconciles the copy in %s", i, namespace)
		if !m.step(i, func(r *Reconciler) { m.reconcileCopy(r, namespace, "auth") }) && m.has(namespace) {
			m.interfered[namespace] = false
		}
	case kind < 13:
		m.now = m.now.Add(time.Duration(m.r.IntN(20)) * time.Minute)
	case kind == 13:
		n := &corev1.Namespace{}
		m.must(m.api.Get(m.t.Context(), types.NamespacedName{Name: namespace}, n))
		n.Labels = map[string]string{"copies": []string{"allowed", "refused"}[m.r.IntN(2)]}
		m.note("the label of %s is %s", namespace, n.Labels["copies"])
		m.must(m.api.Update(m.t.Context(), n))
		m.interfered[namespace] = true
	case kind == 14 && g != nil:
		m.note("rotate")
		g.Annotations = map[string]string{v1alpha1.AnnotationRotate: fmt.Sprint(m.uid())}
		m.must(m.api.Update(m.t.Context(), g))
	case kind == 15 && g != nil && len(m.ring.Keys) > 0:
		access := slices.DeleteFunc(slices.Clone(m.ring.Keys), func(k keys.Key) bool { return k.Use != keys.Access })
		id := access[m.r.IntN(len(access))].ID
		m.note("revoke %s", id)
		g.Spec.Keys.Revoked = append(g.Spec.Keys.Revoked, id)
		m.must(m.api.Update(m.t.Context(), g))
	case kind == 16 && k != nil:
		m.note("delete the PublicKeys in %s", namespace)
		m.must(m.api.Delete(m.t.Context(), k))
		if c != nil { // the garbage collector
			m.must(m.api.Delete(m.t.Context(), c))
		}
		m.createCopy(namespace, "auth")
		m.interfered[namespace] = true
	case kind == 17 && c != nil:
		m.meddle(namespace, c)
	case kind == 18 && g != nil:
		m.note("delete the gateway")
		m.must(m.api.Delete(m.t.Context(), g))
		m.original = nil
		m.interfere()
	case kind == 19 && g == nil:
		m.createGateway()
		if m.r.IntN(2) == 0 {
			m.ring = keys.Ring{}
		}
		m.note("create the gateway again, with %d keys", len(m.ring.Keys))
		m.interfere()
	}
	m.judge()
}

func (m *copyModel) interfere() {
	for _, n := range modelNamespaces {
		m.interfered[n] = true
	}
}

// has reports whether a copy has what the gateway publishes.
func (m *copyModel) has(namespace string) bool {
	_, c := m.copy(namespace)
	return c != nil && maps.Equal(c.Data, m.original)
}

// meddle changes a copy as a person does.
func (m *copyModel) meddle(namespace string, c *corev1.ConfigMap) {
	m.interfered[namespace] = true
	m.backups[namespace] = append(m.backups[namespace], maps.Clone(c.Data))
	what := m.r.IntN(4)
	m.note("meddle %d with the copy in %s", what, namespace)
	switch what {
	case 0:
		m.must(m.api.Delete(m.t.Context(), c))
		return
	case 1:
		c.Data = m.backups[namespace][m.r.IntN(len(m.backups[namespace]))]
	case 2:
		c.Data = map[string]string{"jwks.json": "of an attacker", "attacker.pem": "a key"}
	case 3:
		c.ManagedFields = nil
	}
	m.must(m.api.Update(m.t.Context(), c, client.FieldOwner("a-person")))
}

// settle lets a process work undisturbed, and checks I1, I4 and I5.
func (m *copyModel) settle() {
	i := m.r.IntN(2)
	r := m.processes[i]
	pass := func() {
		m.reconcileGateway(r)
		for _, n := range modelNamespaces {
			m.reconcileCopy(r, n, "auth")
		}
		m.reconcileCopy(r, "orders", "taken")
	}
	m.note("process %d settles", i)
	pass()
	for _, n := range modelNamespaces {
		_, c := m.copy(n)
		switch {
		case m.allowed(n) && !m.has(n):
			m.fail("I1: the gateway publishes (-), the copy in %s has (+): %s", n, cmp.Diff(m.original, dataOf(c)))
		case !m.allowed(n) && c != nil && slices.ContainsFunc(slices.Collect(maps.Keys(c.Data)), isKey):
			m.fail("I1: the copy in %s has keys: %v", n, c.Data)
		}
		m.interfered[n] = false
	}
	before := m.writes
	generation := m.ring.Generation
	pass()
	if m.writes != before && m.ring.Generation == generation {
		m.fail("I4: a pass without a change wrote %d times", m.writes-before)
	}
	c := &corev1.ConfigMap{}
	m.must(m.api.Get(m.t.Context(), types.NamespacedName{Namespace: "orders", Name: "taken-public-keys"}, c))
	if len(c.Data) != 1 || len(c.Labels) > 0 {
		m.fail("I5: the object of a person is %v", c)
	}
}

func dataOf(c *corev1.ConfigMap) map[string]string {
	if c == nil {
		return nil
	}
	return c.Data
}

func isKey(entry string) bool { return strings.HasSuffix(entry, ".pem") }

func TestModelOfPublicKeys(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		m := newCopyModel(t, seed)
		for range 8 {
			for range 25 {
				m.event()
			}
			m.settle()
		}
	}
}
