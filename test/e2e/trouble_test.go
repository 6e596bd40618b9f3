package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func TestTroubleIsNamedAndMendedWithinHalfAMinute(t *testing.T) {
	t.Parallel()
	const login = "auth-login" // not the correct Secret
	usingLogin := func(s *v1alpha1.AuthGatewaySpec) { s.Database.CredentialsSecretRef.Name = login }
	quota := func(t *testing.T, p testNamespace, of corev1.ResourceName, most string) {
		p.create(t, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "tight"}, Spec: corev1.ResourceQuotaSpec{
			Hard: corev1.ResourceList{of: resource.MustParse(most)},
		}})
		// Nothing can be created until the quota is counted; that state is not tested here.
		testenv.Eventually(t, soon, "the quota is counted", func() error {
			q := &corev1.ResourceQuota{}
			p.get(t, "tight", q)
			if len(q.Status.Used) == 0 {
				return fmt.Errorf("its status is %v", q.Status)
			}
			return nil
		})
	}
	for _, tc := range []struct {
		about string
		edit  func(*v1alpha1.AuthGatewaySpec)
		upset func(t *testing.T, p testNamespace, password string)
		says  []string
		mend  func(t *testing.T, p testNamespace, password string)
	}{
		{
			about: "a Secret that is missing",
			edit:  usingLogin,
			says:  []string{"Secret " + login, "does not exist", "username, password"},
			mend: func(t *testing.T, p testNamespace, password string) {
				p.secret(t, login, map[string]string{"username": databaseUser, "password": password})
			},
		},
		{
			about: "a wrong password of the database",
			edit:  usingLogin,
			upset: func(t *testing.T, p testNamespace, _ string) {
				p.secret(t, login, map[string]string{"username": databaseUser, "password": "not the one"})
			},
			says: []string{"password authentication failed", databaseUser},
			mend: func(t *testing.T, p testNamespace, password string) {
				p.change(t, &corev1.Secret{}, login, string(asJSON(t, map[string]any{"stringData": map[string]string{"password": password}})))
			},
		},
		{
			about: "a database that is unreachable",
			edit:  func(s *v1alpha1.AuthGatewaySpec) { s.Database.Host = "postgres-away" },
			upset: func(t *testing.T, p testNamespace, _ string) { p.create(t, databaseService("postgres-away", "nobody")) },
			says:  []string{"cannot reach postgres-away:5432"},
			mend: func(t *testing.T, p testNamespace, _ string) {
				p.change(t, &corev1.Service{}, "postgres-away", `{"spec":{"selector":{"app":"postgres"}}}`)
			},
		},
		{
			about: "an image that does not exist",
			edit:  func(s *v1alpha1.AuthGatewaySpec) { s.Image = "registry.invalid/none:1" },
			says:  []string{"registry.invalid/none:1"},
			mend: func(t *testing.T, p testNamespace, _ string) {
				p.change(t, &v1alpha1.AuthGateway{}, "auth", `{"spec":{"image":null}}`)
			},
		},
		{
			about: "a quota with no room for its pods",
			upset: func(t *testing.T, p testNamespace, _ string) { quota(t, p, corev1.ResourcePods, "2") }, // one is the database
			says:  []string{"exceeded quota: tight", "pods=1"},
			mend: func(t *testing.T, p testNamespace, _ string) {
				p.change(t, &corev1.ResourceQuota{}, "tight", `{"spec":{"hard":{"pods":"20"}}}`)
			},
		},
		{
			about: "a quota with no room for its Service",
			upset: func(t *testing.T, p testNamespace, _ string) { quota(t, p, corev1.ResourceServices, "1") },
			says:  []string{"exceeded quota: tight", "services=1"},
			mend: func(t *testing.T, p testNamespace, _ string) {
				p.change(t, &corev1.ResourceQuota{}, "tight", `{"spec":{"hard":{"services":"20"}}}`)
			},
		},
	} {
		t.Run(tc.about, func(t *testing.T) {
			t.Parallel()
			p := newTestNamespace(t)
			password := p.database(t)
			if tc.upset != nil {
				tc.upset(t, p, password)
			}
			g := smallest("auth", cheapPasswords)
			if tc.edit != nil {
				tc.edit(&g.Spec)
			}
			p.create(t, g)
			message := ""
			named := testenv.Eventually(t, 2*soon, "the AuthGateway says what is wrong", func() error {
				g := &v1alpha1.AuthGateway{}
				if err := p.Get(t.Context(), client.ObjectKey{Namespace: p.name, Name: "auth"}, g); err != nil {
					return err
				}
				c := meta.FindStatusCondition(g.Status.Conditions, "Ready")
				if c == nil || c.Status != metav1.ConditionFalse {
					return fmt.Errorf("its condition is %+v", c)
				}
				for _, word := range tc.says {
					if !strings.Contains(c.Message, word) {
						return fmt.Errorf("%q is not in %s: %s", word, c.Reason, c.Message)
					}
				}
				message = c.Message
				return nil
			})
			tc.mend(t, p, password)
			fixed := p.ready(t, "auth", later)
			figure(t, "%s: named after %.1f s, ready %.1f s after it was fixed; %q", tc.about, named.Seconds(), fixed.Seconds(), message)
			for what, took := range map[string]time.Duration{"it was named": named, "after it was fixed the gateway was ready": fixed} {
				if took > soon {
					t.Errorf("%s only after %s; it should be at most %s", what, took, soon)
				}
			}
		})
	}
}
