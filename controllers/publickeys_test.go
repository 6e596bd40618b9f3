package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
)

const thisOperator = "auth-gateway-system"

// newCopy returns the state of a PublicKeys in the namespace orders whose gateway
// allows it and publishes a ring, and whose ConfigMap does not exist yet.
func newCopy(t testing.TB, changes ...func(*copyState)) *copyState {
	t.Helper()
	g := newGateway(t, spec(func(s *v1alpha1.AuthGatewaySpec) {
		s.PublicKeys.AllowedNamespaces = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "orders"}}
	}))
	g.Status.Operator = thisOperator
	k := &v1alpha1.PublicKeys{ObjectMeta: metav1.ObjectMeta{Namespace: "orders", Name: "auth", UID: "the-copy", Generation: 3}}
	k.Spec.GatewayRef = v1alpha1.AuthGatewayReference{Namespace: "shop", Name: "auth"}
	cs := &copyState{
		keys: k, now: testTime, me: thisOperator, gateway: g, labels: map[string]string{"team": "orders"}, known: true,
		published: publication{gateway: g.UID, generation: 7, data: map[string]string{"jwks.json": "{}"}},
	}
	for _, change := range changes {
		change(cs)
	}
	return cs
}

// copied makes the ConfigMap exist, as the operator created it.
func copied(cs *copyState) {
	yes := true
	cs.configMap = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: "orders", Name: "auth-public-keys", Labels: copyLabels(cs.keys),
		OwnerReferences: []metav1.OwnerReference{{Kind: "PublicKeys", Name: "auth", UID: cs.keys.UID, Controller: &yes}},
	}}
	cs.keys.Status = v1alpha1.PublicKeysStatus{
		KeysGeneration: 7, GatewayUID: "the-gateway", Operator: thisOperator, ConfigMapRef: refTo("auth-public-keys"),
	}
}

func owned(by string, uid types.UID, name string) func(*copyState) {
	return func(cs *copyState) {
		yes := true
		cs.configMap.OwnerReferences = []metav1.OwnerReference{{Kind: by, Name: name, UID: uid, Controller: &yes}}
	}
}

func TestPublicKeysDecision(t *testing.T) {
	t.Parallel()
	noGateway := func(cs *copyState) { cs.gateway = nil }
	denied := func(cs *copyState) { cs.labels = map[string]string{"team": "billing"} }
	anotherGateway := func(cs *copyState) { cs.keys.Status.GatewayUID = "a-former-gateway" }
	noKeys := func(cs *copyState) { cs.published.data, cs.published.blocked = nil, true }
	for name, c := range map[string]struct {
		changes []func(*copyState)
		want    string // the reason of Ready, or leave
		entries string // keys, none (withdrawn), or kept
		says    []string
	}{
		"the first copy": {nil, "Ready", "keys", []string{"auth-public-keys", "auth", "shop"}},
		"a copy":         {[]func(*copyState){copied}, "Ready", "keys", nil},
		"in the gateway's own namespace": {
			[]func(*copyState){denied, func(cs *copyState) { cs.keys.Namespace = "shop" }}, "Ready", "keys", nil,
		},
		"not allowed, and never was": {
			[]func(*copyState){denied}, "NotAllowed", "kept", []string{"namespace orders", "spec.publicKeys.allowedNamespaces"},
		},
		"no longer allowed": {
			[]func(*copyState){copied, denied}, "NotAllowed", "none", []string{"auth-public-keys has no keys"},
		},
		"no selector": {
			[]func(*copyState){copied, func(cs *copyState) { cs.gateway.Spec.PublicKeys.AllowedNamespaces = nil }},
			"NotAllowed", "none", nil,
		},
		"an invalid selector": {
			[]func(*copyState){copied, func(cs *copyState) {
				cs.gateway.Spec.PublicKeys.AllowedNamespaces = &metav1.LabelSelector{
					MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: "Is"}},
				}
			}}, "NotAllowed", "none", nil,
		},
		"every namespace": {
			[]func(*copyState){denied, func(cs *copyState) {
				cs.gateway.Spec.PublicKeys.AllowedNamespaces = &metav1.LabelSelector{}
			}}, "Ready", "keys", nil,
		},
		"no gateway, and there never was": {[]func(*copyState){noGateway}, "NotAllowed", "kept", nil},
		"the gateway is gone":             {[]func(*copyState){copied, noGateway}, "NotAllowed", "none", nil},
		"no gateway in the same namespace": {
			[]func(*copyState){noGateway, func(cs *copyState) { cs.keys.Namespace = "shop" }},
			"GatewayNotFound", "kept", []string{"no AuthGateway auth in this namespace"},
		},
		"the gateway was created again, and not looked at yet": {
			[]func(*copyState){copied, anotherGateway, func(cs *copyState) { cs.known = false }}, "leave", "", nil,
		},
		"the gateway was created again, and has no keys": {
			[]func(*copyState){copied, anotherGateway, noKeys}, "KeysNotReady", "none", nil,
		},
		"the gateway was created again with older keys": {
			[]func(*copyState){copied, anotherGateway, func(cs *copyState) { cs.published.generation = 1 }},
			"Ready", "keys", nil,
		},
		"the gateway was not looked at yet": {
			[]func(*copyState){copied, func(cs *copyState) { cs.known = false }}, "leave", "", nil,
		},
		"what is known is of a former gateway": {
			[]func(*copyState){copied, func(cs *copyState) { cs.published.gateway = "a-former-gateway" }}, "leave", "", nil,
		},
		"no keys yet": {[]func(*copyState){noKeys}, "KeysNotReady", "kept", []string{"condition KeysReady"}},
		"no keys after a restart of the operator": {
			[]func(*copyState){copied, noKeys}, "KeysNotReady", "kept", nil,
		},
		"keys that are blocked": {
			[]func(*copyState){copied, func(cs *copyState) { cs.published.blocked = true }}, "KeysNotReady", "keys", nil,
		},
		"the copy is newer than what is known": {
			[]func(*copyState){copied, func(cs *copyState) { cs.published.generation = 6 }},
			"KeysNotReady", "kept", []string{"generation 7", "generation 6"},
		},
		"another operator manages the gateway": {
			[]func(*copyState){copied, func(cs *copyState) { cs.gateway.Status.Operator = "another" }}, "leave", "", nil,
		},
		"a namespace that is not watched": {
			[]func(*copyState){copied, noGateway, func(cs *copyState) { cs.unwatched = true }},
			"NotAllowed", "kept", []string{"no longer updated"},
		},
		"a namespace that another operator watches": {
			[]func(*copyState){copied, noGateway, func(cs *copyState) {
				cs.unwatched, cs.keys.Status.Operator = true, "another"
			}}, "leave", "", nil,
		},
		"a read that failed": {
			[]func(*copyState){copied, noGateway, func(cs *copyState) { cs.unread = errors.New("no answer") }},
			"APIUnavailable", "kept", []string{"no answer"},
		},
		"an object of the same name": {
			[]func(*copyState){copied, owned("Job", "a-job", "auth")}, "NameConflict", "kept", []string{"Delete or rename it"},
		},
		"an object of the same name, when not allowed": {
			[]func(*copyState){copied, denied, owned("Job", "a-job", "auth")}, "NotAllowed", "kept", nil,
		},
		"the copy of a deleted PublicKeys": {
			[]func(*copyState){copied, owned("PublicKeys", "a-former-copy", "auth")}, "Progressing", "kept", nil,
		},
		"a copy without an owner": {
			[]func(*copyState){copied, func(cs *copyState) { cs.configMap.OwnerReferences = nil }}, "Ready", "keys", nil,
		},
		"an object without an owner or labels": {
			[]func(*copyState){copied, func(cs *copyState) { cs.configMap.OwnerReferences, cs.configMap.Labels = nil, nil }},
			"NameConflict", "kept", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs := newCopy(t, c.changes...)
			d := cs.decide()
			if d.leave != (c.want == "leave") {
				t.Fatalf("leave is %v", d.leave)
			}
			if d.leave {
				return
			}
			entries := "kept"
			switch {
			case d.from != nil && maps.Equal(d.entries, cs.published.data):
				entries = "keys"
			case d.from == nil && d.entries[withdrawnFile] != "":
				entries = "none"
			case d.entries != nil:
				entries = fmt.Sprint(d.entries)
			}
			if entries != c.entries {
				t.Errorf("the entries are %s, want %s", entries, c.entries)
			}
			status := cs.summarize(d, d.entries != nil)
			ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
			if ready.Reason != c.want || ready.ObservedGeneration != 3 || (ready.Status == metav1.ConditionTrue) != (c.want == "Ready") {
				t.Errorf("Ready is %+v, want %s", ready, c.want)
			}
			contains(t, ready.Message, c.says...)
		})
	}
}

// A user must not learn which gateways other namespaces have.
func TestPublicKeysStatusIsTheSameForAMissingGatewayAndOneThatDoesNotAllowIt(t *testing.T) {
	t.Parallel()
	for _, change := range []func(*copyState){func(*copyState) {}, copied} {
		missing := newCopy(t, change, func(cs *copyState) { cs.gateway, cs.known = nil, false })
		denied := newCopy(t, change, func(cs *copyState) { cs.labels = nil })
		var texts []string
		for _, cs := range []*copyState{missing, denied} {
			d := cs.decide()
			text := testenv.Must(json.Marshal([]any{cs.summarize(d, d.entries != nil), d.entries}))(t)
			texts = append(texts, string(text))
		}
		if texts[0] != texts[1] {
			t.Errorf("a missing gateway:\n%s\na gateway that does not allow it:\n%s", texts[0], texts[1])
		}
	}
}

func TestPublicKeysStatus(t *testing.T) {
	t.Parallel()
	denied := func(cs *copyState) { cs.labels = nil }
	for name, c := range map[string]struct {
		changes []func(*copyState)
		wrote   bool
		want    string // the ConfigMap, the generation, the gateway and the operator
		others  string // Reconciling and Stalled
	}{
		"the first copy":                {nil, true, "auth-public-keys 7 the-gateway auth-gateway-system", "False False"},
		"a copy that cannot be created": {nil, false, " 0  auth-gateway-system", "False False"},
		"a copy that cannot be updated": {
			[]func(*copyState){copied, func(cs *copyState) { cs.published.generation = 8 }}, false,
			"auth-public-keys 7 the-gateway auth-gateway-system", "False False",
		},
		"withdrawn": {
			[]func(*copyState){copied, denied}, true, "auth-public-keys 7  auth-gateway-system", "False True",
		},
		"withdrawn, and the ConfigMap was deleted": {
			[]func(*copyState){copied, denied, func(cs *copyState) { cs.configMap = nil }}, false,
			" 7  auth-gateway-system", "False True",
		},
		"never allowed": {[]func(*copyState){denied}, false, " 0  auth-gateway-system", "False True"},
		"the gateway's operator has changed": {
			[]func(*copyState){copied, func(cs *copyState) { cs.keys.Status.Operator = "a-former-one" }}, true,
			"auth-public-keys 7 the-gateway auth-gateway-system", "False False",
		},
		"no operator manages it": {
			[]func(*copyState){copied, func(cs *copyState) { cs.gateway, cs.keys.Status.Operator = nil, "another" }}, true,
			"auth-public-keys 7  another", "False True",
		},
		"no keys": {
			[]func(*copyState){func(cs *copyState) { cs.published.data = nil }}, false, " 0  auth-gateway-system", "True False",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs := newCopy(t, c.changes...)
			s := cs.summarize(cs.decide(), c.wrote)
			configMap := ""
			if s.ConfigMapRef != nil {
				configMap = s.ConfigMapRef.Name
			}
			got := fmt.Sprintf("%s %d %s %s", configMap, s.KeysGeneration, s.GatewayUID, s.Operator)
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			var others []string
			for _, of := range []string{v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled} {
				others = append(others, string(meta.FindStatusCondition(s.Conditions, of).Status))
			}
			if got := strings.Join(others, " "); got != c.others {
				t.Errorf("Reconciling and Stalled are %s, want %s", got, c.others)
			}
		})
	}
}

// A withdrawn copy has the documents of any other, without a key, and its generation
// does not go back.
func TestWithdrawnEntriesAreDocumentsWithoutKeys(t *testing.T) {
	t.Parallel()
	ring := newRing(t)
	entries := withdrawnEntries(ring.Generation)
	for name := range keys.PublicFiles(ring, "") {
		if _, there := entries[name]; !there && !strings.HasSuffix(name, ".pem") {
			t.Errorf("there is no %s", name)
		}
	}
	for name, content := range entries {
		var document struct {
			Generation *int64
			Keys       []any
		}
		switch {
		case name == withdrawnFile:
			contains(t, content, "withdrawn", "PublicKeys")
		case json.Unmarshal([]byte(content), &document) != nil, document.Keys == nil, len(document.Keys) > 0:
			t.Errorf("%s is %s", name, content)
		case name == keys.PublicDocumentFile && *document.Generation != 7:
			t.Errorf("the generation is %d", *document.Generation)
		}
	}
}

func TestPublications(t *testing.T) {
	t.Parallel()
	var woken []string
	r := &Reconciler{publications: newPublications()}
	r.publications.changed = func(_ context.Context, g types.NamespacedName) { woken = append(woken, g.String()) }
	key := types.NamespacedName{Namespace: "shop", Name: "auth"}
	note := func(found *problem, changes ...func(*clusterState, *keyResult)) publication {
		cs, result := running(t, newGateway(t))
		for _, change := range changes {
			change(cs, &result)
		}
		r.notePublication(t.Context(), cs, result, found)
		is, _ := r.publications.of(key)
		return is
	}
	noRing := func(_ *clusterState, result *keyResult) { result.ring = keys.Ring{} }
	another := func(cs *clusterState, _ *keyResult) { cs.gateway.UID = "another" }
	had := func(cs *clusterState, _ *keyResult) { cs.gateway.Status.Keys = &v1alpha1.KeysStatus{Generation: 7} }
	soon, lost := waiting("APIUnavailable", "it is retried"), stalled("KeysLost", "they are gone")

	if p := note(soon, noRing, had); p.gateway != "" {
		t.Errorf("after an error that is retried, it is %+v", p)
	}
	if p := note(soon, noRing); p.gateway != "the-gateway" || !p.blocked || p.data != nil {
		t.Errorf("before the first keys, it is %+v", p)
	}
	first := note(nil)
	if first.generation != 7 || len(first.data) == 0 || first.blocked {
		t.Errorf("it is %+v", first)
	}
	if p := note(lost, noRing); !p.blocked || !maps.Equal(p.data, first.data) {
		t.Errorf("what was published does not stay: %+v", p)
	}
	if p := note(lost, noRing, another); p.gateway != "another" || p.data != nil {
		t.Errorf("another gateway of this name has the keys of the former: %+v", p)
	}
	suspended := func(cs *clusterState, _ *keyResult) { cs.gateway.Spec.Suspend = true }
	if p := note(nil, suspended, func(cs *clusterState, result *keyResult) { result.ring.Generation = 8 }); p.generation == 8 {
		t.Error("a ring that was not published before the suspension is copied")
	}
	before := len(woken)
	ring := newRing(t)
	for range 2 {
		note(nil, func(cs *clusterState, result *keyResult) { cs.ring, result.ring = ring, ring })
	}
	if len(woken) != before+1 {
		t.Errorf("two equal publications woke the copies %d times", len(woken)-before)
	}
	r.publications.forget(key)
	if _, known := r.publications.of(key); known {
		t.Error("a deleted gateway is remembered")
	}
}

// rotating returns the state of a gateway whose next access key is published and
// loaded by every replica, with two copies of the public keys.
func rotating(t testing.TB) (*clusterState, keyResult, keys.Key) {
	t.Helper()
	cs, result := running(t, newGateway(t))
	next := cs.ring.Keys[0]
	next.ID, next.Phase, next.PhaseSince = "NEXT", keys.Published, testTime
	cs.ring.Keys = append([]keys.Key{cs.ring.Keys[0], next}, cs.ring.Keys[1:]...)
	result.ring = cs.ring
	cs.publicKeys().Data[keys.PublicFile("NEXT")] = "a public key"
	cs.ringSince = testTime
	cs.copies = []observedCopy{
		{"orders/auth", maps.Clone(cs.publicKeys().Data)}, {"billing/auth (Forbidden)", maps.Clone(cs.publicKeys().Data)},
	}
	return cs, result, next
}

func TestARotationWaitsForCopiesForABoundedTime(t *testing.T) {
	t.Parallel()
	cs, result, next := rotating(t)
	if !cs.seen(next.ID) || cs.behind(cs.ring) != "" {
		t.Fatal("the key is not seen everywhere")
	}
	delete(cs.copies[1].data, keys.PublicFile(next.ID))
	if cs.seen(next.ID) {
		t.Error("the key is seen, although a copy lacks it")
	}
	c := keysCondition(cs, result, nil)
	if c.status != metav1.ConditionTrue || c.reason != v1alpha1.ReasonAwaitingPublicKeys {
		t.Errorf("KeysReady is %+v", c)
	}
	contains(t, c.message, "billing/auth (Forbidden)", "NEXT")
	if strings.Contains(c.message, "orders") {
		t.Errorf("%q names a copy that has the key", c.message)
	}
	if after := requeueAfter(cs, result, nil, summarize(cs, result, nil, nil, ""), false); after != recheckAwaited {
		t.Errorf("it is checked again after %v", after)
	}
	bound := cs.gateway.Spec.Keys.PublishLead.Value() + propagation
	cs.now = testTime.Add(bound - time.Second)
	if cs.seen(next.ID) {
		t.Error("the key is seen before the time is over")
	}
	cs.now = testTime.Add(bound)
	if !cs.seen(next.ID) {
		t.Error("a copy holds up the rotation without limit")
	}
	c = keysCondition(cs, result, nil)
	if c.reason == v1alpha1.ReasonAwaitingPublicKeys {
		t.Errorf("KeysReady is %+v", c)
	}
	contains(t, c.message, "no longer waited for", "billing/auth (Forbidden)")
	cs.ringSince = time.Time{} // this process has not seen the ring
	if cs.seen(next.ID) {
		t.Error("the time is over before it began")
	}
}

// Keys of refresh tokens are not copied.
func TestARotationOfRefreshKeysDoesNotWaitForCopies(t *testing.T) {
	t.Parallel()
	cs, _, _ := rotating(t)
	i := slices.IndexFunc(cs.ring.Keys, func(k keys.Key) bool { return k.Use == keys.Refresh })
	for _, c := range cs.copies {
		delete(c.data, keys.PublicFile(cs.ring.Keys[i].ID))
	}
	if !cs.seen(cs.ring.Keys[i].ID) || cs.behind(cs.ring) != "" {
		t.Error("the refresh key waits for copies")
	}
}

func TestARevocationThatHasNotReachedACopyIsPending(t *testing.T) {
	t.Parallel()
	cs, result, next := rotating(t)
	cs.gateway.Spec.Keys.Revoked = []string{next.ID}
	cs.ring.Keys[1].Phase = keys.Revoked
	cs.ring.Keys[1].RemoveAfter = testTime.Add(time.Hour)
	delete(cs.copies[0].data, keys.PublicFile(next.ID))
	c := keysCondition(cs, result, nil)
	if c.status != metav1.ConditionFalse || c.reason != v1alpha1.ReasonRevocationPending {
		t.Errorf("KeysReady is %+v", c)
	}
	contains(t, c.message, "billing/auth")
	cs.now = testTime.Add(cs.gateway.Spec.Keys.PublishLead.Value() + propagation)
	c = keysCondition(cs, result, nil)
	if c.status != metav1.ConditionTrue {
		t.Errorf("a copy holds up the condition without limit: %+v", c)
	}
	contains(t, c.message, "no longer waited for", "billing/auth")
}

func TestAnInvalidSelectorOfNamespacesIsReported(t *testing.T) {
	t.Parallel()
	g := newGateway(t, spec(func(s *v1alpha1.AuthGatewaySpec) {
		s.PublicKeys.AllowedNamespaces = &metav1.LabelSelector{
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: "Is"}},
		}
	}))
	p := selectorRefused(g)
	if p == nil || p.reason != v1alpha1.ReasonInvalidSpec {
		t.Fatalf("the problem is %+v", p)
	}
	contains(t, p.message, "spec.publicKeys.allowedNamespaces", `"Is"`)
	if p := selectorRefused(newGateway(t)); p != nil {
		t.Errorf("without a selector, the problem is %+v", p)
	}
}
