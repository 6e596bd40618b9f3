package controllers_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
	"github.com/auth-gateway/auth-gateway/keys"
)

// What ends every session, or loses every user, is done when a person has said so
// twice. Until then the pods stay as they are, and the keys go on.
func TestAnotherIssuerOrDatabaseWaitsForAPersonsWord(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what, annotation, value string
		change                  func(*v1alpha1.AuthGatewaySpec)
	}{
		{"issuer", controllers.AnnotationAcceptIssuer, "https://auth.example.com", func(s *v1alpha1.AuthGatewaySpec) { s.Issuer = "https://auth.example.com" }},
		{"host", controllers.AnnotationAcceptDatabase, "other.shop.svc/auth", func(s *v1alpha1.AuthGatewaySpec) { s.Database.Host = "other.shop.svc" }},
		{"name", controllers.AnnotationAcceptDatabase, "postgres.shop.svc/other", func(s *v1alpha1.AuthGatewaySpec) { s.Database.Name = "other" }},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.create(credentials("auth-db"))
			b.ready(smallest("auth"))
			b.rest()
			template := b.made("auth").Spec.Template.String()
			edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { c.change(&g.Spec) })
			m := b.condition("auth", "Ready", metav1.ConditionFalse, "ChangeNotAccepted").Message
			if !strings.Contains(m, "kubectl annotate agw auth -n "+b.namespace+" --overwrite "+c.annotation+"="+c.value) {
				t.Errorf("the message does not say what to do: %s", m)
			}
			b.condition("auth", "Stalled", metav1.ConditionTrue, "ChangeNotAccepted")
			b.condition("auth", "KeysReady", metav1.ConditionTrue, "KeysPublished")
			annotate(b, "auth", c.annotation, "true") // no order for this change
			b.rest()
			if now := b.made("auth").Spec.Template.String(); now != template {
				t.Error("the pods are to be replaced")
			}
			if document := get(b, "auth-public-keys", &corev1.ConfigMap{}).Data[keys.PublicDocumentFile]; strings.Contains(document, "example.com") {
				t.Errorf("the new issuer is published: %s", document)
			}
			annotate(b, "auth", c.annotation, c.value)
			b.eventually("the pods are to be replaced", func() error {
				if b.made("auth").Spec.Template.String() == template {
					return fmt.Errorf("the template is as before")
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
		})
	}
}

// What has never worked can be put right without ceremony.
func TestAGatewayThatHasNeverBeenReadyMayChangeItsDatabase(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	g := smallest("auth")
	g.Spec.Database.Host = "mistyped"
	b.create(g)
	b.made("auth")
	b.rest()
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Database.Host = "postgres.shop.svc" })
	b.eventually("the pods are to have it", func() error {
		if got := variables(b.made("auth"))["DB_HOST"]; got != "postgres.shop.svc" {
			return fmt.Errorf("DB_HOST is %s", got)
		}
		return nil
	})
}
