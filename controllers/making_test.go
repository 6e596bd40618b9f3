package controllers_test

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func TestSmallestGatewayIsMadeInOnePass(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.create(credentials("auth-db"), smallest("auth"))
	e.made("auth")
	for _, o := range objects {
		made := get(e, o.name, o.empty())
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
	e.rest()
	var writes []string
	for _, c := range e.calls.written() {
		if c.status >= 400 {
			t.Errorf("refused: %v", c)
		}
		if c.resource != "authgateways" {
			writes = append(writes, c.String())
		}
	}
	if len(writes) != 10 {
		t.Errorf("the operator sent these writes: %s", strings.Join(writes, ", "))
	}

	e.whole("auth")

	// A second pass writes nothing. It is started by a label of the gateway, and by another operator.
	e.rollOut("auth")
	e.shows("auth", "Ready True Ready")
	e.quiet()
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Labels = map[string]string{"team": "shop"} })
	e.startOperator()
	e.rest()
	if writes := e.calls.written(); e.calls.count() == 0 || len(writes) > 0 {
		t.Errorf("%d calls, and the operator wrote %v", e.calls.count(), writes)
	}

	// No object that can be read without access to Secrets contains a secret.
	annotate(e, "auth", v1alpha1.AnnotationRotate, "1")
	becomes(e, "a rotation begins", true, func() bool { return len(e.ring("auth").Keys) >= 4 })
	secrets := []string{"a database password"}
	for _, name := range []string{"auth-keys", "auth-passphrases", "auth-caller"} {
		for key, value := range e.secret(name).Data {
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
		testenv.NoError(t, e.client.List(t.Context(), list, client.InNamespace(e.namespace)))
		seen = append(seen, list)
	}
	text := testenv.Must(json.Marshal(seen))(t)
	for _, s := range secrets {
		quoted, _ := json.Marshal(s)
		if strings.Contains(string(text), strings.Trim(string(quoted), `"`)) {
			t.Errorf("the objects contain the secret %.20q…", s)
		}
	}
}
