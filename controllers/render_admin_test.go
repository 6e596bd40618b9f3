package controllers

import (
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// administrated adds administrators to a gateway with every kind of Secret.
func administrated(s *v1alpha1.AuthGatewaySpec) {
	s.Admin = v1alpha1.Admin{Enabled: true}
	s.Database.CASecretRef, s.Database.SSLMode = refTo("ca"), "verify-full"
	s.Keys.PassphraseSecretRef = refTo("own")
	s.Authz = v1alpha1.Authz{Port: adminPort, Policies: []v1alpha1.AuthzPolicy{{Name: "orders"}}}
	s.Email = &v1alpha1.Email{
		SMTP: &v1alpha1.SMTP{
			Host: "mail", From: "a@example.com", CredentialsSecretRef: refTo("mail"), CASecretRef: refTo("ca"),
		},
		TemplatesConfigMapRef: refTo("mails"),
	}
}

func webhooked(s *v1alpha1.AuthGatewaySpec) {
	administrated(s)
	s.Email = &v1alpha1.Email{Webhook: &v1alpha1.MailWebhook{URL: "https://example.com/hook", SecretRef: *refTo("hook")}}
	s.EventWebhook = &v1alpha1.EventWebhook{URL: "https://example.com/events", SecretRef: *refTo("events")}
	s.Tracing = &v1alpha1.Tracing{Endpoint: "https://collector.example.com", HeadersSecretRef: refTo("traces"), CASecretRef: refTo("collector-ca")}
	s.Audit.Retention = "0s"
	s.Passwords.Migration = &v1alpha1.PasswordMigration{URL: "https://example.com/password", SecretRef: *refTo("former")}
}

func TestRenderAdminPodsHaveNoSecretButTheDatabases(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*v1alpha1.AuthGatewaySpec){"SMTP": administrated, "a webhook": webhooked} {
		cs, found := running(t, newGateway(t, spec(change)))
		d := as[appsv1.Deployment](t, renderAdminDeployment(renderingOf(cs, found)))
		pod := d.Spec.Template.Spec
		var secrets []string
		for _, v := range pod.Volumes {
			if c := v.ConfigMap; c != nil && c.Name == "auth-public-keys" && len(c.Items) == 1 && c.Items[0].Key == "keys.json" && *c.Optional {
				continue
			}
			if v.Secret == nil || len(v.Secret.Items) != 1 {
				t.Errorf("%s: there is the volume %+v", name, v)
				continue
			}
			secrets = append(secrets, v.Secret.SecretName+"/"+v.Secret.Items[0].Key)
		}
		if want := []string{"auth-db/password", "ca/ca.crt"}; !slices.Equal(secrets, want) {
			t.Errorf("%s: the pods get %v, want %v", name, secrets, want)
		}
		environ := variables(pod.Containers[0])
		for variable, value := range environ {
			if strings.HasSuffix(variable, "_FILE") && variable != "DB_PASSWORD_FILE" {
				t.Errorf("%s: the pods have %s", name, variable)
			}
			if strings.Contains(value, "of Secret") && variable != "DB_USER" {
				t.Errorf("%s: %s is the %s", name, variable, value)
			}
		}
		c := testenv.Must(config.LoadAdmin(
			func(name string) (string, bool) { value, ok := environ[name]; return value, ok },
			func(path string) ([]byte, error) {
				if path == "/etc/authserver/database/password" {
					return []byte("a password"), nil
				}
				return nil, os.ErrNotExist
			}))(t)
		if c.AdminPort != adminPort || c.AdminKubernetes != "shop/auth" || !c.SendsMail() || !c.KeepsEvents() || c.DBMaxConns != 4 ||
			c.KeysDir != "" || c.KeysPublished != "/etc/authserver/public-keys/keys.json" ||
			c.DBSSLRootCert != "/etc/authserver/database-ca/ca.crt" {
			t.Errorf("%s: the settings are %v", name, c)
		}
		if !slices.Equal(pod.Containers[0].Args, []string{"admin"}) || !*pod.AutomountServiceAccountToken ||
			pod.ServiceAccountName != "auth-admin" || *d.Spec.Replicas != 1 {
			t.Errorf("%s: the Deployment is %+v", name, d.Spec)
		}
	}
}

// No object of the API selects a pod for administrators, and the reverse.
func TestRenderAdminPodsAreApart(t *testing.T) {
	t.Parallel()
	cs, found := running(t, newGateway(t, spec(administrated)))
	r := renderingOf(cs, found)
	pods := map[string]map[string]string{
		"API":   as[appsv1.Deployment](t, renderDeployment(r)).Spec.Template.Labels,
		"admin": as[appsv1.Deployment](t, renderAdminDeployment(r)).Spec.Template.Labels,
	}
	for of, selectors := range map[string][]map[string]string{
		"API": {
			as[corev1.Service](t, renderService(r)).Spec.Selector,
			as[networkingv1.NetworkPolicy](t, renderNetworkPolicy(r)).Spec.PodSelector.MatchLabels,
		},
		"admin": {
			as[corev1.Service](t, renderAdminService(r)).Spec.Selector,
			as[networkingv1.NetworkPolicy](t, renderAdminNetworkPolicy(r)).Spec.PodSelector.MatchLabels,
		},
	} {
		for _, selector := range selectors {
			for which, have := range pods {
				if labels.SelectorFromSet(selector).Matches(labels.Set(have)) != (which == of) {
					t.Errorf("%v of %s and %v of %s", selector, of, have, which)
				}
			}
		}
	}
	policy := as[networkingv1.NetworkPolicy](t, renderAdminNetworkPolicy(r)).Spec.Ingress
	if from := policy[0].From; len(from) != 1 || from[0].NamespaceSelector != nil || from[0].PodSelector == nil ||
		len(policy[0].Ports) != 1 || policy[0].Ports[0].Port.IntVal != adminPort {
		t.Errorf("the port for administrators is open to %+v", policy[0])
	}
}

// The Roles grant what the keys of a file grant, on this gateway only.
func TestRenderUserRolesGrantWhatAdministratorsNeed(t *testing.T) {
	t.Parallel()
	cs, found := running(t, newGateway(t, spec(administrated)))
	r := renderingOf(cs, found)
	for name, role := range map[string]rbacv1.Role{
		"viewer": as[rbacv1.Role](t, renderUserViewer(r)), "editor": as[rbacv1.Role](t, renderUserEditor(r)),
	} {
		ofOthers := func(rule rbacv1.PolicyRule) bool { return !slices.Equal(rule.ResourceNames, []string{"auth"}) }
		if role.Name != "auth-user-"+name || slices.ContainsFunc(role.Rules, ofOthers) {
			t.Errorf("the Role is %+v", role)
		}
		for _, right := range admin.Rights {
			granted := slices.ContainsFunc(role.Rules, func(rule rbacv1.PolicyRule) bool {
				return slices.Contains(rule.Resources, "authgateways/"+string(right.Resource)) && slices.Contains(rule.Verbs, string(right.Verb))
			})
			if want := slices.Contains(admin.Roles[name], right); granted != want {
				t.Errorf("the %s may %s: %v, want %v", name, right, granted, want)
			}
		}
	}
}
