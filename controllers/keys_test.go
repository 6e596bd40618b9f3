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

func annotate(e *env, name, key, value string) {
	e.t.Helper()
	e.change(name, func(g *v1alpha1.AuthGateway) {
		if g.Annotations == nil {
			g.Annotations = map[string]string{}
		}
		g.Annotations[key] = value
	})
}

// nudge starts a reconcile, as a timer would if the clock were real.
func (e *env) nudge(name string) {
	e.t.Helper()
	annotate(e, name, "test/nudge", fmt.Sprint(podCount.Add(1)))
}

func (e *env) signing(name string, use keys.Use) keys.Key {
	e.t.Helper()
	k, ok := e.ring(name).Signing(use)
	if !ok {
		e.t.Fatalf("no %s key signs", use)
	}
	return k
}

// phase waits until a key is in a phase.
func (e *env) phase(name, id string, phase keys.Phase) {
	e.t.Helper()
	e.eventually(fmt.Sprintf("key %s is %s", id, phase), func() error {
		if k, ok := e.ring(name).Key(id); !ok || k.Phase.Public() != phase {
			return fmt.Errorf("it is %s", k.Phase)
		}
		return nil
	})
}

// published waits for the key of a use that is published and does not sign yet.
func (e *env) published(name string, use keys.Use) (id string) {
	e.t.Helper()
	e.eventually(fmt.Sprintf("a %s key is published", use), func() error {
		for _, k := range e.ring(name).Keys {
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
func (e *env) wait(name string) {
	e.t.Helper()
	for range 8 {
		if !slices.ContainsFunc(e.ring(name).Keys, func(k keys.Key) bool { return k.Phase.Public() == keys.Published }) {
			return
		}
		e.pass(lead)
		e.nudge(name)
		e.rest()
	}
	e.t.Fatalf("a published key never signs: %+v", e.ring(name).Keys)
}

func TestRotationWaitsUntilTheKeyIsPublishedAndLoadedEverywhere(t *testing.T) {
	t.Parallel()
	e := readyEnv(t)
	template := e.made("auth").Spec.Template
	old := e.signing("auth", keys.Access)

	// One replica has not loaded the new key.
	lagging, before := e.pods()[0], e.holdsAll("auth")
	e.answer(&lagging, func() (serverconfig.State, error) { return before, nil })

	annotate(e, "auth", v1alpha1.AnnotationRotate, "now")
	next := e.published("auth", keys.Access)
	becomes(e, "the new key is in the ConfigMap", true, func() bool {
		public := e.publicKeys("auth")
		return public[keys.PublicFile(next)] != "" && strings.Contains(public["jwks.json"], next)
	})
	for range 5 {
		e.pass(lead)
		e.nudge("auth")
		e.rest()
	}
	if k := e.signing("auth", keys.Access); k.ID != old.ID {
		t.Fatal("the new key signs, although a replica has not loaded it")
	}
	e.shows("auth", "KeysReady True AwaitingReplicas")
	if got := e.gateway("auth").Status.Keys.ObservedRotate; got != "" {
		t.Errorf("the rotation is reported as done: %q", got)
	}

	e.answer(&lagging, func() (serverconfig.State, error) { return e.holdsAll("auth"), nil })
	e.nudge("auth")
	e.rest()
	e.wait("auth")
	e.phase("auth", next, keys.Signing)
	e.phase("auth", old.ID, keys.Retiring)
	becomes(e, "the order is echoed", "now", func() string { return e.gateway("auth").Status.Keys.ObservedRotate })
	e.rest()
	if after := e.made("auth").Spec.Template; after.String() != template.String() {
		t.Error("a rotated key replaced the pods")
	}
	// The old key is removed after its tokens have expired.
	if _, there := e.publicKeys("auth")[keys.PublicFile(old.ID)]; !there {
		t.Error("the old key is no longer published, although its tokens are valid")
	}
	for range 3 {
		e.pass(time.Hour)
		e.nudge("auth")
		e.rest()
	}
	e.unpublished("auth", old.ID)
}

// A rotation by age needs no event: the operator's own timers continue it.
func TestRotationByAgeNeedsNoEvent(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	g := smallest("auth")
	g.Spec.Keys = v1alpha1.Keys{RotationInterval: "1h", PublishLead: "1s"}
	g.Spec.Tokens = v1alpha1.Tokens{AccessTokenTTL: "1m", RefreshTokenTTL: "1h"}
	e.create(credentials("auth-db"))
	e.ready(g)
	old := e.signing("auth", keys.Access).ID
	e.pass(2 * time.Hour)
	e.nudge("auth") // the timer for the rotation runs on the real clock
	next := e.published("auth", keys.Access)
	// Each wait is the lead of a second plus the clock skew of 20 seconds. The clock moves to three seconds before
	// its end. The operator computes its timer again, and the timer has to do the rest.
	for _, end := range []func(keys.Key) bool{
		func(k keys.Key) bool { return k.Phase == keys.Published && !k.DeadlineSeen },
		func(k keys.Key) bool { return k.DeadlineSeen || k.Phase == keys.Signing },
		func(k keys.Key) bool { return k.Phase == keys.Signing },
	} {
		becomes(e, "the key waits, and then signs", true, func() bool {
			k, _ := e.ring("auth").Key(next)
			return end(k)
		})
		e.rest()
		e.pass(18 * time.Second)
		e.nudge("auth")
	}
	e.phase("auth", old, keys.Retiring)
}

func passphraseSecret(access, refresh string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "own-passphrases"},
		StringData: map[string]string{"ACCESS_PASSPHRASE": access, "REFRESH_PASSPHRASE": refresh},
	}
}

// opens reports whether a passphrase decrypts the signing key of access tokens.
func opens(e *env, name, passphrase string) bool {
	e.t.Helper()
	_, err := keys.Open(e.ring(name), keys.Passphrases{Access: []string{passphrase}, Refresh: []string{
		"a passphrase for refresh one", "a passphrase for refresh two",
	}})
	return err == nil
}

func TestPassphraseChangeReachesThePodsBeforeTheKeys(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	g := smallest("auth")
	g.Spec.Keys.PassphraseSecretRef = &v1alpha1.LocalReference{Name: "own-passphrases"}
	const one, two = "a passphrase for access one", "a passphrase for access two"
	// Without usable passphrases there are no keys, and nothing that needs them.
	e.create(credentials("auth-db"), g)
	e.shows("auth", "KeysReady False SecretMissing")
	e.create(passphraseSecret("short", "a passphrase for refresh one"))
	e.says("auth", "Ready", "SecretInvalid", "ACCESS_PASSPHRASE", "own-passphrases")
	e.shows("auth", "KeysReady False SecretInvalid")
	e.without("auth")
	edit(e, "own-passphrases", &corev1.Secret{}, func(s *corev1.Secret) { s.Data["ACCESS_PASSPHRASE"] = []byte(one) })
	e.rollOut("auth")
	e.shows("auth", "Ready True Ready")
	old := e.signing("auth", keys.Access).ID
	template := e.made("auth").Spec.Template

	edit(e, "own-passphrases", &corev1.Secret{}, func(s *corev1.Secret) {
		s.StringData = map[string]string{"ACCESS_PASSPHRASE": two, "REFRESH_PASSPHRASE": "a passphrase for refresh two"}
	})
	becomes(e, "the pod template changes", true, func() bool {
		now := e.deployment("auth").Spec.Template
		return now.String() != template.String()
	})
	e.rest()
	s := e.secret("auth-passphrases")
	if string(s.Data["ACCESS_PASSPHRASE"]) != two || string(s.Data["FORMER_ACCESS_PASSPHRASE"]) != one {
		t.Error("the pods do not get both passphrases")
	}
	if !opens(e, "auth", one) || opens(e, "auth", two) {
		t.Error("before the rollout, the former passphrase does not decrypt the keys, or the new one does")
	}

	e.rollOut("auth")
	becomes(e, "the keys are encrypted again", true, func() bool { return !opens(e, "auth", one) && opens(e, "auth", two) })
	becomes(e, "the former passphrase is removed once every pod has the new ring", 0, func() int {
		e.nudge("auth")
		s := e.secret("auth-passphrases")
		return len(s.Data["FORMER_ACCESS_PASSPHRASE"]) + len(s.Data["FORMER_REFRESH_PASSPHRASE"])
	})
	// A key that was once encrypted with it is replaced.
	next := e.published("auth", keys.Access)
	e.wait("auth")
	e.phase("auth", next, keys.Signing)
	e.phase("auth", old, keys.Retiring)
	e.rest()
	e.shows("auth", "Ready True Ready")
}

func TestKeysThatAreLostOrDamagedAreNotReplaced(t *testing.T) {
	t.Parallel()
	e := readyEnv(t)
	e.rest()
	lost := e.signing("auth", keys.Access).ID
	published, generation := e.publicKeys("auth"), e.ring("auth").Generation
	// Damaged keys are left alone, too. trace_test.go has each kind of loss.
	good := e.copyOf("auth-keys")
	edit(e, "auth-keys", &corev1.Secret{}, func(s *corev1.Secret) { delete(s.Data, lost+".pem") })
	e.shows("auth", "KeysReady False KeysDamaged")
	e.rest()
	if e.publicKeys("auth")["jwks.json"] != published["jwks.json"] {
		t.Error("the public keys of valid tokens are missing")
	}
	e.restoreKeys("auth", good)
	e.shows("auth", "KeysReady True KeysPublished")
	e.rest()
	// The private half of another key looks like one that no passphrase decrypts.
	edit(e, "auth-keys", &corev1.Secret{}, func(s *corev1.Secret) {
		s.Data[lost+".pem"] = s.Data[e.signing("auth", keys.Refresh).ID+".pem"]
	})
	e.shows("auth", "KeysReady False KeysUnopenable")
	e.restoreKeys("auth", good)
	e.shows("auth", "KeysReady True KeysPublished")
	if now := e.signing("auth", keys.Access).ID; now != lost {
		t.Error("another key signs")
	}

	e.remove(e.secret("auth-keys"))
	c := e.condition("auth", "KeysReady", metav1.ConditionFalse, "KeysLost")
	e.shows("auth", "Stalled True KeysLost", "Ready False KeysLost")
	if !strings.Contains(c.Message, "kubectl annotate agw auth -n "+e.namespace+" --overwrite authgateway.io/new-ring="+lost) {
		t.Errorf("the message does not say what to do: %s", c.Message)
	}
	// Neither a rotation nor an order for another loss creates new keys.
	annotate(e, "auth", v1alpha1.AnnotationRotate, "now")
	annotate(e, "auth", v1alpha1.AnnotationNewRing, "another")
	e.rest()
	if err := e.client.Get(t.Context(), e.key("auth-keys"), &corev1.Secret{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Fatalf("new keys were created: %v", err)
	}
	if now := e.publicKeys("auth"); now["jwks.json"] != published["jwks.json"] {
		t.Error("the public keys of valid tokens are missing")
	}

	annotate(e, "auth", v1alpha1.AnnotationNewRing, lost)
	e.shows("auth", "KeysReady True KeysPublished")
	e.rest()
	fresh := e.signing("auth", keys.Access).ID
	if now := e.ring("auth").Generation; fresh == lost || now <= generation {
		t.Errorf("key %s signs, and generation %d follows %d", fresh, now, generation)
	}
	e.shows("auth", "Stalled False Ready")
	// The order was only for that loss.
	e.remove(e.secret("auth-keys"))
	e.shows("auth", "KeysReady False KeysLost")
}

func TestPassphrasesThatAreLostWaitForAnOrderToRotate(t *testing.T) {
	t.Parallel()
	e := readyEnv(t)
	e.rest()
	old := e.signing("auth", keys.Access).ID
	e.remove(e.secret("auth-passphrases"))
	c := e.condition("auth", "KeysReady", metav1.ConditionFalse, "PassphrasesLost")
	if !strings.Contains(c.Message, "authgateway.io/rotate=") {
		t.Errorf("the message does not say what to do: %s", c.Message)
	}
	e.rest()
	if err := e.client.Get(t.Context(), e.key("auth-passphrases"), &corev1.Secret{}); err == nil {
		t.Fatal("new passphrases were created, which decrypt no key")
	}
	annotate(e, "auth", v1alpha1.AnnotationRotate, "now")
	next := e.published("auth", keys.Access)
	e.wait("auth")
	e.phase("auth", next, keys.Signing)
	e.phase("auth", old, keys.Retiring) // its tokens still verify
	e.rollOut("auth")
	e.shows("auth", "Ready True Ready")
}
