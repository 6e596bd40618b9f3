package controllers_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// copyOf returns the data of a Secret, as a backup has it.
func (e *env) copyOf(name string) map[string][]byte {
	e.t.Helper()
	return maps.Clone(e.secret(name).Data)
}

func (e *env) restoreKeys(name string, data map[string][]byte) {
	e.t.Helper()
	edit(e, name+"-keys", &corev1.Secret{}, func(s *corev1.Secret) { s.Data = maps.Clone(data) })
}

func (e *env) revoke(name, id string) {
	e.t.Helper()
	e.change(name, func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Revoked = []string{id} })
	e.phase(name, id, keys.Revoked)
	e.unpublished(name, id)
}

func (e *env) unpublished(name, id string) {
	e.t.Helper()
	becomes(e, id+" is published no more", false, func() bool {
		public := e.publicKeys(name)
		return public[keys.PublicFile(id)] != "" || strings.Contains(public["jwks.json"], id)
	})
}

// rotate orders a rotation and waits until it is complete.
func (e *env) rotate(name string) {
	e.t.Helper()
	annotate(e, name, v1alpha1.AnnotationRotate, fmt.Sprint(podCount.Add(1)))
	next := e.published(name, keys.Access)
	e.rest()
	e.wait(name)
	e.phase(name, next, keys.Signing)
	e.rest()
}

// retiring returns the key of a use that signed before the present one.
func (e *env) retiring(name string, use keys.Use) string {
	e.t.Helper()
	for _, k := range e.ring(name).Keys {
		if k.Use == use && k.Phase == keys.Retiring {
			return k.ID
		}
	}
	e.t.Fatalf("no %s key is retiring: %+v", use, e.ring(name).Keys)
	return ""
}

// accept does what the message of KeysRolledBack says.
func (e *env) accept(name string) {
	e.t.Helper()
	c := e.condition(name, "Stalled", metav1.ConditionTrue, "KeysRolledBack")
	_, value, found := strings.Cut(c.Message, v1alpha1.AnnotationAcceptKeys+"=")
	if !found {
		e.t.Fatalf("the message does not say what to do: %s", c.Message)
	}
	value, _, _ = strings.Cut(value, " ")
	annotate(e, name, v1alpha1.AnnotationAcceptKeys, value)
}

func TestRollbackWaitsForAPersonAndARevokedKeyStaysRevoked(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	stolen := e.signing("auth", keys.Access).ID
	older := e.copyOf("auth-keys")
	e.rotate("auth")
	e.revoke("auth", stolen)
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Revoked = nil })
	e.rest()
	between, published := e.copyOf("auth-keys"), e.publicKeys("auth")
	signing, generation := e.signing("auth", keys.Access).ID, e.ring("auth").Generation
	template := e.made("auth").Spec.Template.String()

	e.restoreKeys("auth", older)
	for _, kind := range []string{"Ready", "KeysReady"} {
		e.condition("auth", kind, metav1.ConditionFalse, "KeysRolledBack")
	}
	e.shows("auth", "Stalled True KeysRolledBack")
	annotate(e, "auth", v1alpha1.AnnotationAcceptKeys, "true") // does not accept this restore
	annotate(e, "auth", v1alpha1.AnnotationRotate, "again")
	e.rest()
	if now := e.publicKeys("auth"); !maps.Equal(now, published) {
		t.Error("the published keys have changed")
	}
	if now := e.copyOf("auth-keys"); string(now["ring.json"]) != string(older["ring.json"]) {
		t.Error("the restored Secret has changed")
	}
	if now := e.made("auth").Spec.Template.String(); now != template {
		t.Error("the pod template changed")
	}
	if s := e.gateway("auth").Status.Keys; s.Generation != generation || !slices.Contains(s.Revoked, stolen) {
		t.Errorf("the status has %+v", s)
	}

	// The latest copy needs no acceptance.
	e.restoreKeys("auth", between)
	e.shows("auth", "KeysReady True Rotating") // the order above
	if now := e.signing("auth", keys.Access).ID; now != signing {
		t.Errorf("%s signs, want %s", now, signing)
	}
	e.rest()

	// An older one has to be accepted, each time it is restored. The revoked key stays revoked.
	for range 2 {
		before := max(e.ring("auth").Generation, e.gateway("auth").Status.Keys.Generation)
		e.restoreKeys("auth", older)
		e.accept("auth")
		e.phase("auth", stolen, keys.Revoked)
		e.unpublished("auth", stolen)
		e.rest()
		if ring := e.ring("auth"); ring.Generation <= before {
			t.Errorf("generation %d follows %d", ring.Generation, before)
		}
		if now := e.signing("auth", keys.Access).ID; now == stolen {
			t.Error("the revoked key signs")
		}
	}
}

// A key that was removed from the ConfigMap is published again at once. If it was waiting to sign, it waits again:
// verifiers that read the ConfigMap meanwhile do not know it.
func TestRollbackOfTheConfigMapIsRepairedAndTheLeadBeginsAnew(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	older := e.publicKeys("auth")
	for _, c := range []string{"restored", "deleted"} {
		annotate(e, "auth", v1alpha1.AnnotationRotate, c)
		next := e.published("auth", keys.Access)
		e.rest()
		e.pass(lead)
		e.nudge("auth")
		e.rest()
		e.pass(lead + lead) // the next reconcile would let the key sign
		if c == "restored" {
			edit(e, "auth-public-keys", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) { c.Data = older })
		} else {
			e.remove(get(e, "auth-public-keys", &corev1.ConfigMap{}))
		}
		e.eventually("the ConfigMap has the key", func() error {
			var cm corev1.ConfigMap
			if err := e.client.Get(t.Context(), e.key("auth-public-keys"), &cm); err != nil {
				return err
			}
			if cm.Data[keys.PublicFile(next)] == "" {
				return fmt.Errorf("the key is not published")
			}
			return nil
		})
		e.rest()
		if k, _ := e.ring("auth").Key(next); k.Phase.Public() != keys.Published {
			t.Errorf("%s: the key is %s although it was not published a moment ago", c, k.Phase)
		}
		e.wait("auth")
		e.phase("auth", next, keys.Signing)
	}
}

// A revocation that meets a restore of older keys is pending until a person accepts the restore, and is then done.
func TestRollbackThatMeetsARevocationIsDoneWithThePersonsWord(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	older := e.copyOf("auth-keys")
	e.rotate("auth")
	stolen := e.signing("auth", keys.Refresh).ID
	former, _ := e.ring("auth").Key(e.retiring("auth", keys.Access))

	e.restoreKeys("auth", older)
	e.shows("auth", "KeysReady False KeysRolledBack")
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Revoked = []string{stolen, former.ID} })
	e.says("auth", "KeysReady", "RevocationPending", former.ID, v1alpha1.AnnotationAcceptKeys)
	e.rest()
	e.accept("auth")
	e.phase("auth", former.ID, keys.Revoked)
	e.unpublished("auth", former.ID)
	e.unpublished("auth", stolen)
	e.rest()
	if now := e.signing("auth", keys.Access).ID; now == former.ID {
		t.Error("the revoked key signs")
	}

	// The ring in which the revoked key was published is restored: it stays revoked.
	e.restoreKeys("auth", older)
	e.accept("auth")
	e.phase("auth", former.ID, keys.Revoked)
	e.rest()
	e.unpublished("auth", former.ID)

	// The keys still rotate.
	e.rotate("auth")
	e.shows("auth", "Ready True Ready")
}

// A revocation does not wait for anything but the keys.
func TestRevocationWaitsForNothingElse(t *testing.T) {
	t.Parallel()
	autoscale := func(e *env) { e.change("auth", autoscaled) }
	refer := func(e *env) {
		e.change("auth", func(g *v1alpha1.AuthGateway) {
			g.Spec.Keys.PassphraseSecretRef = &v1alpha1.LocalReference{Name: "own-passphrases"}
		})
	}
	for _, c := range []struct {
		what   string
		denied [3]string
		do     func(*env)
		reason string // of Ready
	}{
		{"nothing in the way", [3]string{}, func(*env) {}, ""},
		{"an autoscaler of the same name", [3]string{}, func(e *env) {
			e.create(&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "auth"},
				Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
					ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "x", APIVersion: "apps/v1"}, MaxReplicas: 3,
				}})
			autoscale(e)
		}, "NameConflict"},
		{"a Secret of the caller's key that is another's", [3]string{}, func(e *env) {
			edit(e, "auth-caller", &corev1.Secret{}, func(s *corev1.Secret) { s.Labels, s.OwnerReferences = nil, nil })
		}, "NameConflict"},
		{"no right to read HorizontalPodAutoscalers", [3]string{"get", "autoscaling", "horizontalpodautoscalers"}, autoscale, "Forbidden"},
		{"no right to write HorizontalPodAutoscalers", [3]string{"patch", "autoscaling", "horizontalpodautoscalers"}, autoscale, "Forbidden"},
		{"an order to rotate that is too long", [3]string{}, func(e *env) {
			annotate(e, "auth", v1alpha1.AnnotationRotate, strings.Repeat("x", 257))
		}, "InvalidSpec"},
		{"a missing Secret", [3]string{}, func(e *env) {
			e.remove(e.secret("auth-db"))
		}, "SecretMissing"},
		{"a Secret of passphrases that will not do", [3]string{}, func(e *env) {
			e.create(passphraseSecret("short", "short too"))
			refer(e)
		}, "SecretInvalid"},
		{"an immutable Secret of passphrases that has to change", [3]string{}, func(e *env) {
			edit(e, "auth-passphrases", &corev1.Secret{}, func(s *corev1.Secret) { s.Immutable = new(true) })
			e.create(passphraseSecret("a passphrase for access one", "a passphrase for refresh one"))
			refer(e)
		}, "SecretImmutable"},
		{"an immutable ConfigMap", [3]string{}, func(e *env) {
			edit(e, "auth-public-keys", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) { c.Immutable = new(true) })
		}, ""},
		{"replicas that do not answer", [3]string{}, func(e *env) {
			for _, p := range e.pods() {
				e.silence(&p, errors.New("no route"))
			}
		}, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			e := directEnv(t)
			if c.denied[0] == "" {
				e.startOperator()
			} else {
				user, _ := e.as(c.denied[0], c.denied[1], c.denied[2])
				e.startOperatorAs(user)
			}
			e.create(credentials("auth-db"))
			e.ready(smallest("auth"))
			e.rest()
			c.do(e)
			stolen := e.signing("auth", keys.Access).ID
			e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Revoked = []string{stolen} })
			e.phase("auth", stolen, keys.Revoked)
			e.unpublished("auth", stolen)
			if now := e.signing("auth", keys.Access).ID; now == stolen {
				t.Error("the revoked key still signs")
			}
			becomes(e, "the status shows it", true, func() bool {
				return slices.ContainsFunc(e.gateway("auth").Status.Keys.Access, func(k v1alpha1.KeyStatus) bool {
					return k.KID == stolen && k.Phase == "Revoked"
				})
			})
			if c.reason != "" {
				e.condition("auth", "Ready", metav1.ConditionFalse, c.reason)
			}
		})
	}
}
