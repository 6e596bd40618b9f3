package controllers_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	serverconfig "github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// copyOf returns the data of a Secret, as a backup has it.
func (b *bed) copyOf(name string) map[string][]byte {
	b.t.Helper()
	return maps.Clone(get(b, name, &corev1.Secret{}).Data)
}

func (b *bed) restoreKeys(name string, data map[string][]byte) {
	b.t.Helper()
	edit(b, name+"-keys", &corev1.Secret{}, func(s *corev1.Secret) { s.Data = maps.Clone(data) })
}

func (b *bed) revoke(name, id string) {
	b.t.Helper()
	edit(b, name, &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Revoked = []string{id} })
	b.phase(name, id, keys.Revoked)
	b.unpublished(name, id)
}

func (b *bed) unpublished(name, id string) {
	b.t.Helper()
	b.eventually(id+" is published no more", func() error { return b.trusted(name, id) })
}

// trusted returns an error if a key is published.
func (b *bed) trusted(name, id string) error {
	cm := get(b, name+"-public-keys", &corev1.ConfigMap{})
	if cm.Data[keys.PublicFile(id)] != "" || strings.Contains(cm.Data["jwks.json"], id) {
		return fmt.Errorf("it is published")
	}
	return nil
}

// rotate orders a rotation and waits until it is complete.
func (b *bed) rotate(name string) {
	b.t.Helper()
	annotate(b, name, v1alpha1.AnnotationRotate, fmt.Sprint(podCount.Add(1)))
	next := b.published(name, keys.Access)
	b.rest()
	b.wait(name)
	b.phase(name, next, keys.Signing)
	b.rest()
}

// retiring returns the key of a use that signed before the present one.
func (b *bed) retiring(name string, use keys.Use) string {
	b.t.Helper()
	for _, k := range b.ring(name).Keys {
		if k.Use == use && k.Phase == keys.Retiring {
			return k.ID
		}
	}
	b.t.Fatalf("no %s key is retiring: %+v", use, b.ring(name).Keys)
	return ""
}

// accept does what the message of KeysRolledBack says.
func (b *bed) accept(name string) {
	b.t.Helper()
	c := b.condition(name, "Stalled", metav1.ConditionTrue, "KeysRolledBack")
	_, value, found := strings.Cut(c.Message, v1alpha1.AnnotationAcceptKeys+"=")
	if !found {
		b.t.Fatalf("the message does not say what to do: %s", c.Message)
	}
	value, _, _ = strings.Cut(value, " ")
	annotate(b, name, v1alpha1.AnnotationAcceptKeys, value)
}

func TestAnOlderSecretOfKeysIsNotTakenUntilAPersonAcceptsItAndARevokedKeyStaysRevoked(t *testing.T) {
	t.Parallel()
	b := newDirectBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	stolen := b.signing("auth", keys.Access).ID
	older := b.copyOf("auth-keys")
	b.rotate("auth")
	b.revoke("auth", stolen)
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Revoked = nil })
	b.rest()
	between, published := b.copyOf("auth-keys"), get(b, "auth-public-keys", &corev1.ConfigMap{}).Data
	signing, generation := b.signing("auth", keys.Access).ID, b.ring("auth").Generation
	template := b.made("auth").Spec.Template.String()

	b.restoreKeys("auth", older)
	for _, kind := range []string{"Ready", "KeysReady"} {
		b.condition("auth", kind, metav1.ConditionFalse, "KeysRolledBack")
	}
	b.condition("auth", "Stalled", metav1.ConditionTrue, "KeysRolledBack")
	annotate(b, "auth", v1alpha1.AnnotationAcceptKeys, "true") // does not accept this restore
	annotate(b, "auth", v1alpha1.AnnotationRotate, "again")
	b.rest()
	if now := get(b, "auth-public-keys", &corev1.ConfigMap{}).Data; !maps.Equal(now, published) {
		t.Error("the published keys have changed")
	}
	if now := b.copyOf("auth-keys"); string(now["ring.json"]) != string(older["ring.json"]) {
		t.Error("the restored Secret has changed")
	}
	if now := b.made("auth").Spec.Template.String(); now != template {
		t.Error("the pod template changed")
	}
	if s := get(b, "auth", &v1alpha1.AuthGateway{}).Status.Keys; s.Generation != generation || !slices.Contains(s.Revoked, stolen) {
		t.Errorf("the status has %+v", s)
	}

	// The latest copy needs no acceptance.
	b.restoreKeys("auth", between)
	b.condition("auth", "KeysReady", metav1.ConditionTrue, "Rotating") // the order above
	if now := b.signing("auth", keys.Access).ID; now != signing {
		t.Errorf("%s signs, want %s", now, signing)
	}
	b.rest()

	// An older one has to be accepted, each time it is restored. The revoked key stays
	// revoked.
	for range 2 {
		before := max(b.ring("auth").Generation, get(b, "auth", &v1alpha1.AuthGateway{}).Status.Keys.Generation)
		b.restoreKeys("auth", older)
		b.accept("auth")
		b.phase("auth", stolen, keys.Revoked)
		b.unpublished("auth", stolen)
		b.rest()
		if ring := b.ring("auth"); ring.Generation <= before {
			t.Errorf("generation %d follows %d", ring.Generation, before)
		}
		if now := b.signing("auth", keys.Access).ID; now == stolen {
			t.Error("the revoked key signs")
		}
	}
}

// If the status was lost, for example because a restore omitted it, the public keys
// show the generation. If they were restored too, the pods' answers do.
func TestWhatWasPublishedAndWhatPodsHaveLoadedShowThatKeysWereTakenBack(t *testing.T) {
	t.Parallel()
	for _, c := range []string{"the status is lost", "the status is lost and the ConfigMap is restored", "the ConfigMap is deleted"} {
		t.Run(c, func(t *testing.T) {
			t.Parallel()
			b := directBed(t)
			stop := b.startOperator()
			b.create(credentials("auth-db"))
			b.ready(smallest("auth"))
			b.rest()
			older, olderPublic := b.copyOf("auth-keys"), get(b, "auth-public-keys", &corev1.ConfigMap{}).Data
			b.rotate("auth")
			has := b.holdsAll("auth")
			b.mu.Lock()
			for ip := range b.answers {
				b.answers[ip] = func() (serverconfig.State, error) { return has, nil }
			}
			b.mu.Unlock()
			stop()
			b.restoreKeys("auth", older)
			switch c {
			case "the ConfigMap is deleted":
				if err := b.client.Delete(t.Context(), get(b, "auth-public-keys", &corev1.ConfigMap{})); err != nil {
					t.Fatal(err)
				}
			case "the status is lost and the ConfigMap is restored":
				edit(b, "auth-public-keys", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) { c.Data = olderPublic })
			}
			if c != "the ConfigMap is deleted" {
				g := get(b, "auth", &v1alpha1.AuthGateway{})
				g.Status = v1alpha1.AuthGatewayStatus{}
				if err := b.client.Status().Update(t.Context(), g); err != nil {
					t.Fatal(err)
				}
			}
			b.startOperator()
			b.condition("auth", "KeysReady", metav1.ConditionFalse, "KeysRolledBack")
			b.rest()
			b.accept("auth")
			b.condition("auth", "KeysReady", metav1.ConditionTrue, "AwaitingReplicas")
			if ring := b.ring("auth"); ring.Generation <= has.Keys.Generation {
				t.Errorf("generation %d follows %d", ring.Generation, has.Keys.Generation)
			}
		})
	}
}

// A key that was removed from the ConfigMap is published again at once. If it was
// waiting to sign, it waits again: verifiers that read the ConfigMap meanwhile do not
// know it.
func TestAnOlderConfigMapIsPutRightAndTheLeadBeginsAnew(t *testing.T) {
	t.Parallel()
	b := newDirectBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	older := get(b, "auth-public-keys", &corev1.ConfigMap{}).Data
	for _, c := range []string{"restored", "deleted"} {
		annotate(b, "auth", v1alpha1.AnnotationRotate, c)
		next := b.published("auth", keys.Access)
		b.rest()
		b.pass(lead)
		b.nudge("auth")
		b.rest()
		b.pass(lead + lead) // the next reconcile would let the key sign
		if c == "restored" {
			edit(b, "auth-public-keys", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) { c.Data = older })
		} else if err := b.client.Delete(t.Context(), get(b, "auth-public-keys", &corev1.ConfigMap{})); err != nil {
			t.Fatal(err)
		}
		b.eventually("the ConfigMap has the key", func() error {
			var cm corev1.ConfigMap
			if err := b.client.Get(t.Context(), b.key("auth-public-keys"), &cm); err != nil {
				return err
			}
			if cm.Data[keys.PublicFile(next)] == "" {
				return fmt.Errorf("the key is not published")
			}
			return nil
		})
		b.rest()
		if k, _ := b.ring("auth").Key(next); k.Phase.Public() != keys.Published {
			t.Errorf("%s: the key is %s although it was not published a moment ago", c, k.Phase)
		}
		b.wait("auth")
		b.phase("auth", next, keys.Signing)
	}
}

// New keys after a loss have a generation above every one that was seen, so that
// every server loads them.
func TestNewKeysGoOnAboveTheGenerationThatWasLost(t *testing.T) {
	t.Parallel()
	b := newDirectBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rotate("auth")
	lost, signing := b.ring("auth").Generation, b.signing("auth", keys.Access).ID
	if err := b.client.Delete(t.Context(), get(b, "auth-keys", &corev1.Secret{})); err != nil {
		t.Fatal(err)
	}
	b.condition("auth", "KeysReady", metav1.ConditionFalse, "KeysLost")
	annotate(b, "auth", v1alpha1.AnnotationNewRing, signing)
	b.condition("auth", "KeysReady", metav1.ConditionTrue, "KeysPublished")
	b.rest()
	if now := b.ring("auth").Generation; now <= lost {
		t.Errorf("generation %d follows %d", now, lost)
	}
}

// A revocation that meets a restore of older keys is pending until a person accepts
// the restore, and is then done.
func TestARevocationThatMeetsARestoreIsDoneWithThePersonsWord(t *testing.T) {
	t.Parallel()
	b := newDirectBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	older := b.copyOf("auth-keys")
	b.rotate("auth")
	stolen := b.signing("auth", keys.Refresh).ID
	former, _ := b.ring("auth").Key(b.retiring("auth", keys.Access))

	b.restoreKeys("auth", older)
	b.condition("auth", "KeysReady", metav1.ConditionFalse, "KeysRolledBack")
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Revoked = []string{stolen, former.ID} })
	b.says("auth", "KeysReady", "RevocationPending", former.ID, v1alpha1.AnnotationAcceptKeys)
	b.rest()
	b.accept("auth")
	b.phase("auth", former.ID, keys.Revoked)
	b.unpublished("auth", former.ID)
	b.unpublished("auth", stolen)
	b.rest()
	if now := b.signing("auth", keys.Access).ID; now == former.ID {
		t.Error("the revoked key signs")
	}

	// The ring in which the revoked key was published is restored: it stays revoked.
	b.restoreKeys("auth", older)
	b.accept("auth")
	b.phase("auth", former.ID, keys.Revoked)
	b.rest()
	b.unpublished("auth", former.ID)

	// The keys still rotate.
	b.rotate("auth")
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
}

// An acceptance that is given before the restore counts only for the two generations
// that it names.
func TestAnOlderSecretIsAcceptedInAdvanceByItsGenerationsOnly(t *testing.T) {
	t.Parallel()
	b := newDirectBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	older, first := b.copyOf("auth-keys"), b.ring("auth").Generation
	b.rotate("auth")
	seen := b.ring("auth").Generation
	for _, wrong := range []string{fmt.Sprintf("%d-after-%d", first, seen+1), fmt.Sprintf("%d-after-%d", first-1, seen)} {
		annotate(b, "auth", v1alpha1.AnnotationAcceptKeys, wrong)
		b.rest()
		latest := b.copyOf("auth-keys")
		b.restoreKeys("auth", older)
		b.condition("auth", "KeysReady", metav1.ConditionFalse, "KeysRolledBack")
		b.restoreKeys("auth", latest)
		b.condition("auth", "KeysReady", metav1.ConditionTrue, "KeysPublished")
	}
	annotate(b, "auth", v1alpha1.AnnotationAcceptKeys, fmt.Sprintf("%d-after-%d", first, seen))
	b.rest()
	b.restoreKeys("auth", older)
	b.eventually("the older keys are taken", func() error {
		if g := b.ring("auth").Generation; g <= seen {
			return fmt.Errorf("the generation is %d", g)
		}
		return nil
	})
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
}

// Restored keys whose passphrases are lost can be accepted, but not opened. The
// message says so, and a rotation replaces them.
func TestAnOlderSecretThatNoPassphraseOpensIsNamed(t *testing.T) {
	t.Parallel()
	b := newDirectBed(t)
	b.create(credentials("auth-db"), passphraseSecret("a passphrase for access one", "a passphrase for refresh one"))
	g := smallest("auth")
	g.Spec.Keys.PassphraseSecretRef = &v1alpha1.LocalReference{Name: "own-passphrases"}
	b.ready(g)
	b.rest()
	older := b.copyOf("auth-keys")
	edit(b, "own-passphrases", &corev1.Secret{}, func(s *corev1.Secret) {
		s.StringData = map[string]string{"ACCESS_PASSPHRASE": "a passphrase for access two",
			"REFRESH_PASSPHRASE": "a passphrase for refresh two"}
	})
	b.eventually("the new passphrases are given to the pods", func() error {
		if former := b.copyOf("auth-passphrases")["FORMER_ACCESS_PASSPHRASE"]; len(former) == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	b.eventually("the former passphrases are forgotten", func() error {
		b.rest()
		b.rollOut("auth")
		b.pass(lead)
		b.nudge("auth")
		b.rest()
		if former := b.copyOf("auth-passphrases")["FORMER_ACCESS_PASSPHRASE"]; len(former) > 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	latest := b.copyOf("auth-keys")
	b.restoreKeys("auth", older)
	b.says("auth", "KeysReady", "KeysRolledBack", "No passphrase")
	b.accept("auth")
	b.condition("auth", "Ready", metav1.ConditionFalse, "KeysUnopenable")
	b.rest()

	// The latest copy can be opened. It is now the older one, and has to be accepted.
	b.restoreKeys("auth", latest)
	b.accept("auth")
	b.rest()
	b.rotate("auth")
	b.condition("auth", "KeysReady", metav1.ConditionTrue, "KeysPublished")
}

// A revocation does not wait for anything but the keys.
func TestARevocationWaitsForNothingElse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what   string
		denied [3]string
		do     func(*bed)
		reason string // of Ready
	}{
		{"an autoscaler of the same name", [3]string{}, func(b *bed) {
			b.create(&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "auth"},
				Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
					ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "x", APIVersion: "apps/v1"}, MaxReplicas: 3,
				}})
			edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) {
				g.Spec.Replicas, g.Spec.Autoscaling = nil, &v1alpha1.Autoscaling{MaxReplicas: 3}
			})
		}, "NameConflict"},
		{"a Secret of the caller's key that is another's", [3]string{}, func(b *bed) {
			edit(b, "auth-caller", &corev1.Secret{}, func(s *corev1.Secret) { s.Labels, s.OwnerReferences = nil, nil })
		}, "NameConflict"},
		{"no right to read HorizontalPodAutoscalers", [3]string{"get", "autoscaling", "horizontalpodautoscalers"}, func(b *bed) {
			edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) {
				g.Spec.Replicas, g.Spec.Autoscaling = nil, &v1alpha1.Autoscaling{MaxReplicas: 3}
			})
		}, "Forbidden"},
		{"no right to write HorizontalPodAutoscalers", [3]string{"patch", "autoscaling", "horizontalpodautoscalers"}, func(b *bed) {
			edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) {
				g.Spec.Replicas, g.Spec.Autoscaling = nil, &v1alpha1.Autoscaling{MaxReplicas: 3}
			})
		}, "Forbidden"},
		{"an order to rotate that is too long", [3]string{}, func(b *bed) {
			annotate(b, "auth", v1alpha1.AnnotationRotate, strings.Repeat("x", 257))
		}, "InvalidSpec"},
		{"a missing Secret", [3]string{}, func(b *bed) {
			if err := b.client.Delete(b.t.Context(), get(b, "auth-db", &corev1.Secret{})); err != nil {
				b.t.Fatal(err)
			}
		}, "SecretMissing"},
		{"a Secret of passphrases that will not do", [3]string{}, func(b *bed) {
			b.create(passphraseSecret("short", "short too"))
			edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) {
				g.Spec.Keys.PassphraseSecretRef = &v1alpha1.LocalReference{Name: "own-passphrases"}
			})
		}, "SecretInvalid"},
		{"an immutable Secret of passphrases that has to change", [3]string{}, func(b *bed) {
			edit(b, "auth-passphrases", &corev1.Secret{}, func(s *corev1.Secret) { s.Immutable = new(true) })
			b.create(passphraseSecret("a passphrase for access one", "a passphrase for refresh one"))
			edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) {
				g.Spec.Keys.PassphraseSecretRef = &v1alpha1.LocalReference{Name: "own-passphrases"}
			})
		}, "SecretImmutable"},
		{"an immutable ConfigMap", [3]string{}, func(b *bed) {
			edit(b, "auth-public-keys", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) { c.Immutable = new(true) })
		}, ""},
		{"replicas that do not answer", [3]string{}, func(b *bed) {
			b.mu.Lock()
			defer b.mu.Unlock()
			clear(b.answers)
		}, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			b := directBed(t)
			if c.denied[0] == "" {
				b.startOperator()
			} else {
				user, _ := b.as(c.denied[0], c.denied[1], c.denied[2])
				b.startOperatorAs(user)
			}
			b.create(credentials("auth-db"))
			b.ready(smallest("auth"))
			b.rest()
			c.do(b)
			stolen := b.signing("auth", keys.Access).ID
			edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Revoked = []string{stolen} })
			b.phase("auth", stolen, keys.Revoked)
			b.unpublished("auth", stolen)
			if c.reason != "" {
				b.condition("auth", "Ready", metav1.ConditionFalse, c.reason)
			}
		})
	}
}

// If a revocation cannot be done, KeysReady is False and keeps the generation that
// it is about.
func TestARevocationThatCannotBeDoneIsNamedAndPending(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what  string
		do    func(*bed)
		words string
	}{
		{"an immutable Secret of keys", func(b *bed) {
			edit(b, "auth-keys", &corev1.Secret{}, func(s *corev1.Secret) { s.Immutable = new(true) })
		}, "the Secret auth-keys is immutable"},
		{"a ConfigMap that is another's", func(b *bed) {
			edit(b, "auth-public-keys", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) { c.Labels, c.OwnerReferences = nil, nil })
		}, "ConfigMap auth-public-keys"},
		{"suspended", func(b *bed) {
			edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Suspend = true })
		}, "spec.suspend"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			b := newDirectBed(t)
			b.create(credentials("auth-db"))
			b.ready(smallest("auth"))
			b.rest()
			c.do(b)
			b.rest()
			stolen := b.signing("auth", keys.Access).ID
			edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Keys.Revoked = []string{stolen} })
			b.eventually("KeysReady shows it", func() error {
				g := get(b, "auth", &v1alpha1.AuthGateway{})
				for _, k := range g.Status.Conditions {
					if k.Type == "KeysReady" && k.Status == metav1.ConditionFalse && strings.Contains(k.Message,
						c.words) && k.ObservedGeneration < g.Generation {
						return nil
					}
				}
				return fmt.Errorf("%+v", g.Status.Conditions)
			})
		})
	}
}

func (b *bed) gateway(name string) *v1alpha1.AuthGateway {
	b.t.Helper()
	return get(b, name, &v1alpha1.AuthGateway{})
}
