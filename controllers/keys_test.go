package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	serverconfig "github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// lead is longer than one of the waits of a key before it signs; see keys/doc.go.
const lead = 11 * time.Minute

func annotate(b *bed, name, key, value string) {
	b.t.Helper()
	edit(b, name, &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) {
		if g.Annotations == nil {
			g.Annotations = map[string]string{}
		}
		g.Annotations[key] = value
	})
}

// nudge starts a reconcile, as a timer would if the clock were real.
func (b *bed) nudge(name string) {
	b.t.Helper()
	annotate(b, name, "test/nudge", fmt.Sprint(podCount.Add(1)))
}

func (b *bed) signing(name string, use keys.Use) keys.Key {
	b.t.Helper()
	k, ok := b.ring(name).Signing(use)
	if !ok {
		b.t.Fatalf("no %s key signs", use)
	}
	return k
}

// phase waits until a key is in a phase.
func (b *bed) phase(name, id string, phase keys.Phase) {
	b.t.Helper()
	b.eventually(fmt.Sprintf("key %s is %s", id, phase), func() error {
		if k, ok := b.ring(name).Key(id); !ok || k.Phase.Public() != phase {
			return fmt.Errorf("it is %s", k.Phase)
		}
		return nil
	})
}

// published waits for the key of a use that is published and does not sign yet.
func (b *bed) published(name string, use keys.Use) (id string) {
	b.t.Helper()
	b.eventually(fmt.Sprintf("a %s key is published", use), func() error {
		for _, k := range b.ring(name).Keys {
			if k.Use == use && k.Phase.Public() == keys.Published {
				id = k.ID
				return nil
			}
		}
		return fmt.Errorf("no key is published")
	})
	return id
}

// wait lets the waits of every published key elapse, one after the other.
func (b *bed) wait(name string) {
	b.t.Helper()
	for range 8 {
		if !slices.ContainsFunc(b.ring(name).Keys, func(k keys.Key) bool { return k.Phase.Public() == keys.Published }) {
			return
		}
		b.pass(lead)
		b.nudge(name)
		b.rest()
	}
	b.t.Fatalf("a published key never signs: %+v", b.ring(name).Keys)
}

func TestARotationWaitsUntilTheKeyIsPublishedOldAndLoadedEverywhere(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	template := b.made("auth").Spec.Template
	old := b.signing("auth", keys.Access)

	// One replica has not loaded the new key.
	var pods corev1.PodList
	if err := b.client.List(t.Context(), &pods, client.InNamespace(b.namespace)); err != nil {
		t.Fatal(err)
	}
	lagging := pods.Items[0].Status.PodIP
	before := b.holdsAll("auth")
	b.mu.Lock()
	b.answers[lagging] = func() (serverconfig.State, error) { return before, nil }
	b.mu.Unlock()

	annotate(b, "auth", v1alpha1.AnnotationRotate, "now")
	next := b.published("auth", keys.Access)
	b.eventually("the new key is in the ConfigMap", func() error {
		cm := get(b, "auth-public-keys", &corev1.ConfigMap{})
		if cm.Data[keys.PublicFile(next)] == "" || !strings.Contains(cm.Data["jwks.json"], next) {
			return fmt.Errorf("it has %d files", len(cm.Data))
		}
		return nil
	})
	for range 5 {
		b.pass(lead)
		b.nudge("auth")
		b.rest()
	}
	if k := b.signing("auth", keys.Access); k.ID != old.ID {
		t.Fatal("the new key signs, although a replica has not loaded it")
	}
	b.condition("auth", "KeysReady", metav1.ConditionTrue, "AwaitingReplicas")
	if got := get(b, "auth", &v1alpha1.AuthGateway{}).Status.Keys.ObservedRotate; got != "" {
		t.Errorf("the rotation is reported as done: %q", got)
	}

	b.mu.Lock()
	b.answers[lagging] = func() (serverconfig.State, error) { return b.holdsAll("auth"), nil }
	b.mu.Unlock()
	b.nudge("auth")
	b.rest()
	b.wait("auth")
	b.phase("auth", next, keys.Signing)
	b.phase("auth", old.ID, keys.Retiring)
	b.eventually("the order is echoed", func() error {
		if got := get(b, "auth", &v1alpha1.AuthGateway{}).Status.Keys.ObservedRotate; got != "now" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	b.rest()
	if after := b.made("auth").Spec.Template; after.String() != template.String() {
		t.Error("a rotated key replaced the pods")
	}
	// The old key is removed after its tokens have expired.
	if _, there := get(b, "auth-public-keys", &corev1.ConfigMap{}).Data[keys.PublicFile(old.ID)]; !there {
		t.Error("the old key is no longer published, although its tokens are valid")
	}
	for range 3 {
		b.pass(time.Hour)
		b.nudge("auth")
		b.rest()
	}
	b.eventually("the old key is forgotten", func() error {
		if _, there := get(b, "auth-public-keys", &corev1.ConfigMap{}).Data[keys.PublicFile(old.ID)]; there {
			return fmt.Errorf("it is published")
		}
		return nil
	})
}

func TestKeysRotateByAgeByThemselves(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	g := smallest("auth")
	g.Spec.Keys = v1alpha1.Keys{RotationInterval: "1h", PublishLead: "1s"}
	g.Spec.Tokens = v1alpha1.Tokens{AccessTokenTTL: "1m", RefreshTokenTTL: "1h"}
	b.create(credentials("auth-db"))
	b.ready(g)
	old := b.signing("auth", keys.Access).ID
	b.pass(2 * time.Hour)
	b.nudge("auth") // the timer for the rotation runs on the real clock
	next := b.published("auth", keys.Access)
	// From here the clock is not moved: the operator's own timers continue, each after
	// a lead of a second plus the clock skew.
	b.eventuallyWithin(2*time.Minute, "the new key signs", func() error {
		if k, _ := b.ring("auth").Key(next); k.Phase != keys.Signing {
			return fmt.Errorf("it is %s", k.Phase)
		}
		return nil
	})
	b.phase("auth", old, keys.Retiring)
}

func TestAnotherAlgorithmBeginsARotation(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	old := b.signing("auth", keys.Access).ID
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Algorithm = "EdDSA" })
	next := b.published("auth", keys.Access)
	if k, _ := b.ring("auth").Key(next); k.Algorithm != keys.EdDSA {
		t.Errorf("the algorithm of the new key is %s", k.Algorithm)
	}
	b.rollOut("auth")
	b.wait("auth")
	b.phase("auth", next, keys.Signing)
	b.phase("auth", old, keys.Retiring)
}

func TestARevokedKeyIsTrustedNoMoreAndAnotherSignsAtOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	bad := b.signing("auth", keys.Access).ID
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Revoked = []string{bad} })
	b.phase("auth", bad, keys.Revoked)
	if now := b.signing("auth", keys.Access).ID; now == bad {
		t.Error("the revoked key still signs")
	}
	b.eventually("it is no longer published", func() error {
		cm := get(b, "auth-public-keys", &corev1.ConfigMap{})
		if cm.Data[keys.PublicFile(bad)] != "" || strings.Contains(cm.Data["jwks.json"], bad) {
			return fmt.Errorf("it is published")
		}
		return nil
	})
	b.eventually("the status shows it", func() error {
		for _, k := range get(b, "auth", &v1alpha1.AuthGateway{}).Status.Keys.Access {
			if k.KID == bad && k.Phase == "Revoked" {
				return nil
			}
		}
		return fmt.Errorf("the status does not show it")
	})
}

func passphraseSecret(access, refresh string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "own-passphrases"},
		StringData: map[string]string{"ACCESS_PASSPHRASE": access, "REFRESH_PASSPHRASE": refresh},
	}
}

// opens reports which passphrases decrypt the signing key of access tokens.
func opens(b *bed, name string, passphrases ...string) (all []bool) {
	b.t.Helper()
	ring := b.ring(name)
	for _, p := range passphrases {
		_, err := keys.Open(ring, keys.Passphrases{Access: []string{p}, Refresh: []string{p,
			"a passphrase for refresh one", "a passphrase for refresh two"}})
		all = append(all, err == nil)
	}
	return all
}

func TestAChangedPassphraseReachesThePodsBeforeTheKeys(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	g := smallest("auth")
	g.Spec.Keys.PassphraseSecretRef = &v1alpha1.LocalReference{Name: "own-passphrases"}
	const one, two = "a passphrase for access one", "a passphrase for access two"
	b.create(credentials("auth-db"), passphraseSecret(one, "a passphrase for refresh one"))
	b.ready(g)
	old := b.signing("auth", keys.Access).ID
	template := b.made("auth").Spec.Template

	edit(b, "own-passphrases", &corev1.Secret{}, func(s *corev1.Secret) {
		s.StringData = map[string]string{"ACCESS_PASSPHRASE": two, "REFRESH_PASSPHRASE": "a passphrase for refresh two"}
	})
	b.eventually("the pod template changes", func() error {
		if t := b.made("auth").Spec.Template; t.String() == template.String() {
			return fmt.Errorf("the template has not changed")
		}
		return nil
	})
	b.rest()
	s := get(b, "auth-passphrases", &corev1.Secret{})
	if string(s.Data["ACCESS_PASSPHRASE"]) != two || string(s.Data["FORMER_ACCESS_PASSPHRASE"]) != one {
		t.Error("the pods do not get both passphrases")
	}
	if got := opens(b, "auth", one, two); !slices.Equal(got, []bool{true, false}) {
		t.Errorf("before the rollout, the old and the new passphrase decrypt the keys: %v", got)
	}

	b.rollOut("auth")
	b.eventually("the keys are encrypted again", func() error {
		if got := opens(b, "auth", one, two); !slices.Equal(got, []bool{false, true}) {
			return fmt.Errorf("the old and the new passphrase decrypt them: %v", got)
		}
		return nil
	})
	b.eventually("the former passphrase is removed once every pod has the new ring", func() error {
		b.nudge("auth")
		if s := get(b, "auth-passphrases",
			&corev1.Secret{}); len(s.Data["FORMER_ACCESS_PASSPHRASE"])+len(s.Data["FORMER_REFRESH_PASSPHRASE"]) > 0 {
			return fmt.Errorf("it still exists")
		}
		return nil
	})
	// A key that was once encrypted with it is replaced.
	next := b.published("auth", keys.Access)
	b.wait("auth")
	b.phase("auth", next, keys.Signing)
	b.phase("auth", old, keys.Retiring)
	b.rest()
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
}

func TestLostKeysAreNotReplacedByThemselves(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	lost := b.signing("auth", keys.Access).ID
	published := get(b, "auth-public-keys", &corev1.ConfigMap{}).Data
	if err := b.client.Delete(t.Context(), get(b, "auth-keys", &corev1.Secret{})); err != nil {
		t.Fatal(err)
	}
	c := b.condition("auth", "KeysReady", metav1.ConditionFalse, "KeysLost")
	b.condition("auth", "Stalled", metav1.ConditionTrue, "KeysLost")
	b.condition("auth", "Ready", metav1.ConditionFalse, "KeysLost")
	if !strings.Contains(c.Message, "kubectl annotate agw auth -n "+b.namespace+" --overwrite authgateway.io/new-ring="+lost) {
		t.Errorf("the message does not say what to do: %s", c.Message)
	}
	// Neither a rotation nor an order for another loss creates new keys.
	annotate(b, "auth", v1alpha1.AnnotationRotate, "now")
	annotate(b, "auth", v1alpha1.AnnotationNewRing, "another")
	b.rest()
	if err := b.client.Get(t.Context(), b.key("auth-keys"), &corev1.Secret{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Fatalf("new keys were created: %v", err)
	}
	if now := get(b, "auth-public-keys", &corev1.ConfigMap{}).Data; now["jwks.json"] != published["jwks.json"] {
		t.Error("the public keys of valid tokens are missing")
	}

	annotate(b, "auth", v1alpha1.AnnotationNewRing, lost)
	b.condition("auth", "KeysReady", metav1.ConditionTrue, "KeysPublished")
	b.rest()
	fresh := b.signing("auth", keys.Access).ID
	if fresh == lost {
		t.Error("the lost key signs")
	}
	b.condition("auth", "Stalled", metav1.ConditionFalse, "Ready")
	// The order was only for that loss.
	if err := b.client.Delete(t.Context(), get(b, "auth-keys", &corev1.Secret{})); err != nil {
		t.Fatal(err)
	}
	b.condition("auth", "KeysReady", metav1.ConditionFalse, "KeysLost")
}

func TestDamagedKeysAreLeftAlone(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	good := get(b, "auth-keys", &corev1.Secret{}).Data
	signing := b.signing("auth", keys.Access).ID
	for _, damage := range []struct {
		what   string
		reason string
		do     func(map[string][]byte)
	}{
		{"a private half is cut short", "KeysDamaged", func(d map[string][]byte) { d[signing+".pem"] = d[signing+".pem"][:100] }},
		{"a private half is gone", "KeysDamaged", func(d map[string][]byte) { delete(d, signing+".pem") }},
		{"the ring is edited", "KeysDamaged", func(d map[string][]byte) {
			d["ring.json"] = []byte(strings.Replace(string(d["ring.json"]), `"Signing"`, `"Retiring"`, 1))
		}},
		{"everything is gone", "KeysDamaged", func(d map[string][]byte) { clear(d) }},
		{"a private half is exchanged for another", "KeysUnopenable", func(d map[string][]byte) {
			refresh := b.signing("auth", keys.Refresh).ID
			d[signing+".pem"] = d[refresh+".pem"]
		}},
	} {
		edit(b, "auth-keys", &corev1.Secret{}, func(s *corev1.Secret) { damage.do(s.Data) })
		b.condition("auth", "KeysReady", metav1.ConditionFalse, damage.reason)
		b.rest()
		if now := get(b, "auth-public-keys", &corev1.ConfigMap{}).Data; !strings.Contains(now["jwks.json"], signing) {
			t.Errorf("%s: the public key of valid tokens is missing", damage.what)
		}
		edit(b, "auth-keys", &corev1.Secret{}, func(s *corev1.Secret) { s.Data = good })
		b.condition("auth", "KeysReady", metav1.ConditionTrue, "KeysPublished")
	}
	if now := b.signing("auth", keys.Access).ID; now != signing {
		t.Error("another key signs")
	}
}

func TestLostPassphrasesWaitForAnOrderToRotate(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	old := b.signing("auth", keys.Access).ID
	if err := b.client.Delete(t.Context(), get(b, "auth-passphrases", &corev1.Secret{})); err != nil {
		t.Fatal(err)
	}
	c := b.condition("auth", "KeysReady", metav1.ConditionFalse, "PassphrasesLost")
	if !strings.Contains(c.Message, "authgateway.io/rotate=") {
		t.Errorf("the message does not say what to do: %s", c.Message)
	}
	b.rest()
	if err := b.client.Get(t.Context(), b.key("auth-passphrases"), &corev1.Secret{}); err == nil {
		t.Fatal("new passphrases were created, which decrypt no key")
	}
	annotate(b, "auth", v1alpha1.AnnotationRotate, "now")
	next := b.published("auth", keys.Access)
	b.wait("auth")
	b.phase("auth", next, keys.Signing)
	b.phase("auth", old, keys.Retiring) // its tokens still verify
	b.rollOut("auth")
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
}

func TestTwoOperatorsAtOnceMakeOneRing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.startOperator()
	b.create(credentials("auth-db"))
	for i := range 5 {
		b.create(smallest(fmt.Sprintf("auth-%d", i)))
	}
	for i := range 5 {
		name := fmt.Sprintf("auth-%d", i)
		b.made(name)
	}
	b.rest()
	for i := range 5 {
		name := fmt.Sprintf("auth-%d", i)
		ring := b.ring(name)
		if len(ring.Keys) != 2 {
			t.Errorf("%s has %d keys", name, len(ring.Keys))
		}
		s := get(b, name+"-passphrases", &corev1.Secret{})
		if _, err := keys.Open(ring, keys.Passphrases{Access: []string{string(s.Data["ACCESS_PASSPHRASE"])},
			Refresh: []string{string(s.Data["REFRESH_PASSPHRASE"])}}); err != nil {
			t.Error(err)
		}
		for file, content := range keys.PublicFiles(ring, "http://"+name+"."+b.namespace+".svc") {
			if got := get(b, name+"-public-keys", &corev1.ConfigMap{}).Data[file]; got != string(content) {
				t.Errorf("%s: the file %s differs from the ring", name, file)
			}
		}
	}
}
