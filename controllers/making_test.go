package controllers_test

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

func TestTheSmallestGatewayIsMadeInOnePass(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"), smallest("auth"))
	b.made("auth")
	for _, o := range []struct {
		name string
		into client.Object
	}{
		{"auth-keys", &corev1.Secret{}}, {"auth-passphrases", &corev1.Secret{}}, {"auth-caller", &corev1.Secret{}},
		{"auth-public-keys", &corev1.ConfigMap{}}, {"auth", &corev1.ServiceAccount{}}, {"auth", &corev1.Service{}},
		{"auth", &networkingv1.NetworkPolicy{}}, {"auth", &policyv1.PodDisruptionBudget{}}, {"auth", &appsv1.Deployment{}},
	} {
		made := get(b, o.name, o.into)
		owner := metav1.GetControllerOf(made)
		if o.name == "auth-keys" || o.name == "auth-passphrases" { // they outlive it
			if owner != nil {
				t.Errorf("%T %s has the owners %v", made, o.name, owner)
			}
		} else if owner == nil || owner.Name != "auth" {
			t.Errorf("%T %s has the owners %v", made, o.name, owner)
		}
	}
	// Each object took one write, so one reconcile created everything. Its writes
	// start further reconciles, which write nothing.
	b.rest()
	var writes []string
	for _, c := range b.calls.written() {
		if c.status >= 400 {
			t.Errorf("refused: %v", c)
		}
		if c.resource != "authgateways" {
			writes = append(writes, c.String())
		}
	}
	if len(writes) != 9 {
		t.Errorf("the operator sent these writes: %s", strings.Join(writes, ", "))
	}

	ring := b.ring("auth")
	secret := get(b, "auth-passphrases", &corev1.Secret{})
	opened, err := keys.Open(ring, keys.Passphrases{
		Access: []string{string(secret.Data["ACCESS_PASSPHRASE"])}, Refresh: []string{string(secret.Data["REFRESH_PASSPHRASE"])},
	})
	if err != nil {
		t.Fatalf("the passphrases do not decrypt the keys: %v", err)
	}
	for _, use := range keys.Uses() {
		if s := opened.Signer(use); s.Private == nil {
			t.Errorf("no %s key signs", use)
		}
	}
	published := get(b, "auth-public-keys", &corev1.ConfigMap{}).Data
	for name, content := range keys.PublicFiles(ring, "http://auth."+b.namespace+".svc") {
		if published[name] != string(content) {
			t.Errorf("%s is published as %q, want %q", name, published[name], content)
		}
	}
}

func TestASecondPassWritesNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.quiet()
	// Reconciles are started by a label of the gateway, and by another operator.
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Labels = map[string]string{"team": "shop"} })
	b.startOperator()
	b.rest()
	if b.calls.count() == 0 {
		t.Error("no reconcile was started")
	}
	if writes := b.calls.written(); len(writes) > 0 {
		t.Errorf("the operator wrote %v", writes)
	}
}

// No object that can be read without access to Secrets contains a secret.
func TestNoSecretIsAnywhereButInSecrets(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	edit(b, "auth", &v1alpha1.AuthGateway{},
		func(g *v1alpha1.AuthGateway) { g.Annotations = map[string]string{"authgateway.io/rotate": "1"} })
	b.eventually("a rotation begins", func() error { return atLeast(len(b.ring("auth").Keys), 4) })

	secrets := []string{"a database password"}
	for _, name := range []string{"auth-keys", "auth-passphrases", "auth-caller"} {
		for key, value := range get(b, name, &corev1.Secret{}).Data {
			if key != "ring.json" && len(value) > 0 {
				secrets = append(secrets, string(value))
			}
		}
	}
	if len(secrets) < 9 {
		t.Fatalf("only %d secrets to look for", len(secrets))
	}
	var seen []any
	for _, list := range []client.ObjectList{
		&corev1.ConfigMapList{}, &corev1.ServiceList{}, &appsv1.DeploymentList{}, &corev1.PodList{}, &eventsv1.EventList{},
		&v1alpha1.AuthGatewayList{}, &networkingv1.NetworkPolicyList{},
	} {
		if err := b.client.List(t.Context(), list, client.InNamespace(b.namespace)); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, list)
	}
	text, err := json.Marshal(seen)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range secrets {
		quoted, _ := json.Marshal(s)
		if strings.Contains(string(text), strings.Trim(string(quoted), `"`)) {
			t.Errorf("the objects contain the secret %.20q…", s)
		}
	}
}
