package controllers_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// Until a person accepts another issuer the pods keep their settings, and the keys
// go on. problems_test.go has the other changes that have to be accepted.
func TestAnotherIssuerWaitsUntilItIsAccepted(t *testing.T) {
	t.Parallel()
	const accepted = "https://auth.example.com"
	b := newDirectBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	template := b.made("auth").Spec.Template.String()
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Issuer = accepted })
	m := b.condition("auth", "Ready", metav1.ConditionFalse, "ChangeNotAccepted").Message
	if !strings.Contains(m, "kubectl annotate agw auth -n "+b.namespace+" --overwrite "+v1alpha1.AnnotationAcceptIssuer+"="+accepted) {
		t.Errorf("the message does not say what to do: %s", m)
	}
	b.condition("auth", "Stalled", metav1.ConditionTrue, "ChangeNotAccepted")
	b.condition("auth", "KeysReady", metav1.ConditionTrue, "KeysPublished")
	annotate(b, "auth", v1alpha1.AnnotationAcceptIssuer, "true") // does not confirm this change
	b.rest()
	if now := b.made("auth").Spec.Template.String(); now != template {
		t.Error("the pod template changed")
	}
	if document := get(b, "auth-public-keys", &corev1.ConfigMap{}).Data[keys.PublicDocumentFile]; strings.Contains(document, "example.com") {
		t.Errorf("the new issuer is published: %s", document)
	}
	annotate(b, "auth", v1alpha1.AnnotationAcceptIssuer, accepted)
	b.eventually("the pod template changed", func() error {
		if b.made("auth").Spec.Template.String() == template {
			return fmt.Errorf("the template has not changed")
		}
		return nil
	})
	b.rollOut("auth")
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
	// Back again is another change.
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) {
		g.Spec.Issuer, g.Spec.Database = "", smallest("auth").Spec.Database
	})
	b.condition("auth", "Ready", metav1.ConditionFalse, "ChangeNotAccepted")
}
