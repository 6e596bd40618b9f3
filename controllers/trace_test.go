package controllers

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

// publish adds the public keys of a ring to a state, as the operator applied them.
func publish(cs *clusterState, ring keys.Ring) {
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: cs.names.publicKeys(), Labels: cs.names.labels(),
		ManagedFields: []metav1.ManagedFieldsEntry{{
			Manager: FieldManager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", FieldsType: "FieldsV1",
			FieldsV1: metav1.NewFieldsV1(`{"f:data":{"f:` + keys.PublicDocumentFile + `":{}}}`),
		}},
	}, Data: map[string]string{}}
	for name, content := range keys.PublicFiles(ring, "") {
		c.Data[name] = string(content)
	}
	cs.objects[idPublicKeys] = c
}

// The status, the public keys and the pods each show that an older ring was restored, and only if the operator or a
// pod of it wrote them. A person accepts one restore by both generations.
func TestTraceShowsThatKeysWereRolledBack(t *testing.T) {
	t.Parallel()
	ring := newRing(t)
	later, others := keys.Ring{Generation: 9, Keys: ring.Keys}, keys.Ring{Generation: ring.Generation}
	for _, k := range ring.Keys {
		k.ID += "-OF-ANOTHER"
		others.Keys = append(others.Keys, k)
	}
	status := func(of keys.Ring) func(*clusterState) {
		return func(cs *clusterState) { cs.gateway.Status.Keys = keysStatus(cs.gateway, of, nil) }
	}
	pod := func(generation int64) func(*clusterState) {
		return func(cs *clusterState) {
			cs.states["one"] = config.State{Keys: config.KeysState{Generation: generation}}
		}
	}
	for name, c := range map[string]struct {
		change  func(*clusterState)
		seen    int64
		witness string // empty: the ring is not older
	}{
		"nothing":                     {func(*clusterState) {}, 0, ""},
		"the status":                  {status(later), 9, "generation 9 was seen in the status"},
		"a ring of the same age":      {status(others), 8, "the status"},
		"this ring":                   {status(ring), 7, ""},
		"a status edited by a person": {status(keys.Ring{Generation: 99}), 0, ""},
		"the public keys":             {func(cs *clusterState) { publish(cs, later) }, 9, "the ConfigMap auth-public-keys"},
		"public keys of a person": {func(cs *clusterState) {
			publish(cs, later)
			cs.publicKeys().ManagedFields[0].Manager = "a-person"
		}, 0, ""},
		"a pod":                                  {pod(9), 9, "pod one"},
		"a pod that lies":                        {pod(1 << 62), 0, ""},
		"a pod that pretends to have later keys": {pod(1 << 39), 1 << 39, "pod one"},
		"a pod, while a key is to be revoked": {func(cs *clusterState) {
			pod(1 << 39)(cs)
			cs.gateway.Spec.Keys.Revoked = []string{"ACCESS"}
		}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs, _ := running(t, newGateway(t))
			cs.ring = ring
			c.change(cs)
			r, trace := newReconciler(nil, nil, Options{}), cs.trace(ring)
			if trace.Generation != c.seen {
				t.Errorf("generation %d was seen, want %d", trace.Generation, c.seen)
			}
			p := r.rolledBack(cs, nil, trace)
			if c.witness == "" {
				if p != nil {
					t.Errorf("the problem is %v", p)
				}
				return
			}
			if p == nil || p.reason != v1alpha1.ReasonKeysRolledBack || !p.stalled {
				t.Fatalf("the problem is %+v", p)
			}
			accept := v1alpha1.AnnotationAcceptKeys + "=" + acceptance(7, c.seen)
			contains(t, p.message, c.witness, "kubectl annotate agw auth -n shop --overwrite "+accept, "ACCESS")
			for value, accepts := range map[string]bool{
				"true": false, acceptance(7, c.seen+1): false, acceptance(6, c.seen): false, acceptance(7, c.seen): true,
			} {
				cs.gateway.Annotations = map[string]string{v1alpha1.AnnotationAcceptKeys: value}
				trace := cs.trace(ring)
				if p := r.rolledBack(cs, nil, trace); trace.Accepted != accepts || (p == nil) != accepts {
					t.Errorf("with %q the ring is accepted: %v, %v", value, trace.Accepted, p)
				}
			}
		})
	}
}

// The message names the Secret of the passphrases if they do not decrypt the older keys.
func TestTraceOfKeysThatNoPassphraseDecrypts(t *testing.T) {
	t.Parallel()
	cs, _ := running(t, newGateway(t))
	cs.ring = keystest.New(t, keystest.Policy(), keystest.Passphrases(), testTime)
	for _, lost := range []bool{false, true} {
		cs.passphraseState = keys.PassphraseState{Current: map[keys.Use]string{
			keys.Access: keystest.AccessPassphrase, keys.Refresh: keystest.RefreshPassphrase,
		}}
		if lost {
			cs.passphraseState.Current[keys.Access] = "another passphrase"
		}
		p := newReconciler(nil, nil, Options{}).rolledBack(cs, nil, keys.Trace{Generation: cs.ring.Generation + 1})
		if p == nil || strings.Contains(p.message, "No passphrase in the Secret auth-passphrases decrypts") != lost {
			t.Errorf("lost %v: the problem is %v", lost, p)
		}
	}
}

// New keys are made only if there never were any, or if a person gave up this loss. They go on above every generation
// that was seen, so that every server loads them.
func TestStartingRingIsNewOnlyOnRequest(t *testing.T) {
	t.Parallel()
	damaged, trace := errors.New("a private half is missing"), keys.Trace{Generation: 9}
	for name, c := range map[string]struct {
		exists bool // the Secret of the keys
		err    error
		known  bool   // the status names the key that signed
		order  string // AnnotationNewRing
		reason string
		words  []string
	}{
		"the first":                  {},
		"intact":                     {exists: true, known: true},
		"lost":                       {known: true, reason: v1alpha1.ReasonKeysLost, words: []string{"new-ring=ACCESS", "backup"}},
		"lost, another was given up": {known: true, order: "another", reason: v1alpha1.ReasonKeysLost},
		"lost and given up":          {known: true, order: "ACCESS"},
		"damaged": {exists: true, err: damaged, known: true, reason: v1alpha1.ReasonKeysDamaged,
			words: []string{"new-ring=ACCESS", damaged.Error()}},
		"damaged and never used": {exists: true, err: damaged, reason: v1alpha1.ReasonKeysDamaged, words: []string{"delete it"}},
		"damaged and given up":   {exists: true, err: damaged, known: true, order: "ACCESS"},
	} {
		cs, _ := running(t, newGateway(t))
		intact := c.exists && c.err == nil
		if c.known {
			cs.gateway.Status.Keys = keysStatus(cs.gateway, cs.ring, nil)
		}
		if c.exists {
			cs.keys = &corev1.Secret{}
		}
		// A request to rotate never makes a ring.
		cs.gateway.Annotations = map[string]string{v1alpha1.AnnotationNewRing: c.order, v1alpha1.AnnotationRotate: "now"}
		cs.ringErr = c.err
		ring, p := cs.startingRing(trace)
		switch {
		case c.reason != "":
			if p == nil || p.reason != c.reason || !p.stalled {
				t.Fatalf("%s: the problem is %+v", name, p)
			}
			contains(t, p.message, c.words...)
		case p != nil:
			t.Errorf("%s: %v", name, p)
		case intact != (len(ring.Keys) > 0) || !intact && ring.Generation != trace.Generation:
			t.Errorf("%s: the ring has generation %d and %d keys", name, ring.Generation, len(ring.Keys))
		}
	}
}

func TestPassphrasesOfASecretAreChecked(t *testing.T) {
	t.Parallel()
	const good, other = "a passphrase of the right length", "another passphrase of the right length"
	for name, c := range map[string]struct {
		access, refresh string
		missing         bool
		stored          map[keys.Use]string
		reason          string
		words           []string
	}{
		"good":             {access: good, refresh: other},
		"missing":          {missing: true, reason: v1alpha1.ReasonSecretMissing, words: []string{"spec.keys.passphraseSecretRef"}},
		"missing later on": {missing: true, stored: map[keys.Use]string{keys.Access: good}},
		"short": {access: "short", refresh: good, reason: v1alpha1.ReasonSecretInvalid,
			words: []string{"ACCESS_PASSPHRASE", "16"}},
		"the other is short": {access: good, refresh: "fifteen letters", reason: v1alpha1.ReasonSecretInvalid,
			words: []string{"REFRESH_PASSPHRASE", "16"}},
		"one is empty": {access: good, reason: v1alpha1.ReasonSecretInvalid, words: []string{"REFRESH_PASSPHRASE"}},
		"equal": {access: good, refresh: good, reason: v1alpha1.ReasonSecretInvalid,
			words: []string{"ACCESS_PASSPHRASE", "REFRESH_PASSPHRASE", "same"}},
		"exchanged": {access: good, refresh: other, stored: map[keys.Use]string{keys.Access: other, keys.Refresh: good},
			reason: v1alpha1.ReasonSecretInvalid, words: []string{"not used before"}},
	} {
		cs := newState(newGateway(t, withSMTP))
		cs.passphraseState.Current = c.stored
		cs.inputs["own"].Data = map[string][]byte{"ACCESS_PASSPHRASE": []byte(c.access), "REFRESH_PASSPHRASE": []byte(c.refresh)}
		if c.missing {
			cs.inputs["own"] = nil
		}
		desired, p := cs.desiredPassphrases(keys.Ring{}, keys.Policy{})
		if p == nil {
			p = &problem{}
		}
		if p.reason != c.reason || p.stalled || name == "good" && desired[keys.Refresh] != other {
			t.Errorf("%s: the problem is %+v, desired %d", name, p, len(desired))
		}
		if c.reason != "" {
			contains(t, p.message, append(c.words, " own ")...)
		}
		for _, secret := range []string{good, other, "fifteen letters"} {
			if strings.Contains(p.message, secret) {
				t.Errorf("%s: the message contains a passphrase: %s", name, p.message)
			}
		}
	}
}

func TestKeyPolicyFollowsTheSpec(t *testing.T) {
	t.Parallel()
	g := newGateway(t, spec(func(s *v1alpha1.AuthGatewaySpec) {
		s.Keys = v1alpha1.Keys{Algorithm: "EdDSA", RotationInterval: "500h", PublishLead: "2m", Revoked: []string{"A"}}
		s.Tokens = v1alpha1.Tokens{AccessTokenTTL: "5m", RefreshTokenTTL: "24h"}
	}))
	g.Annotations = map[string]string{v1alpha1.AnnotationRotate: "now"}
	p := keyPolicy(g)
	if p.Algorithm != keys.EdDSA || p.RotationInterval != 500*time.Hour || p.PublishLead != 2*time.Minute ||
		p.Lifetimes[keys.Access] != 5*time.Minute || p.Lifetimes[keys.Refresh] != 24*time.Hour || p.Rotate != "now" ||
		!slices.Equal(p.Revoked, []string{"A"}) || p.Check() != nil {
		t.Errorf("the policy is %+v: %v", p, p.Check())
	}
	g.Annotations[v1alpha1.AnnotationRotate] = strings.Repeat("x", maxRotate+1) // it blocks nothing; rotateRefused reports it
	if p := keyPolicy(g); p.Rotate != "" || rotateRefused(g) == nil {
		t.Errorf("a request that is too long is in the policy: %.20s", p.Rotate)
	}
}
