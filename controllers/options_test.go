package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
)

func TestEveryNamespaceReachesTheMetricsOfServersWhenTheOperatorIsToldSo(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{false, true} {
		b := newBed(t, func(o *controllers.Options) { o.OpenServerMetrics = open })
		b.create(credentials("auth-db"))
		b.create(smallest("auth"))
		b.rollOut("auth")
		policy := get(b, "auth", &networkingv1.NetworkPolicy{})
		peers := policy.Spec.Ingress[1].From // of the operations port
		if got := len(peers) == 2 && peers[1].PodSelector == nil && len(peers[1].NamespaceSelector.MatchLabels) == 0; got != open {
			t.Errorf("OpenServerMetrics %v: the operations port is open to %v", open, peers)
		}
	}
}

func TestGatewaysThatNameNoImageGetThePullSecretsOfTheOperator(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(o *controllers.Options) { o.ServerPullSecrets = []string{"registry", "mirror"} })
	b.create(credentials("auth-db"))
	own, other := smallest("auth"), smallest("other")
	own.Spec.ImagePullSecrets = []v1alpha1.LocalReference{{Name: "mine"}, {Name: "mirror"}}
	other.Spec.Image = "example.com/authserver:1"
	b.create(own, other)
	for name, want := range map[string][]string{"auth": {"mine", "mirror", "registry"}, "other": nil} {
		b.rollOut(name)
		var got []string
		for _, secret := range pod(get(b, name, &appsv1.Deployment{})).ImagePullSecrets {
			got = append(got, secret.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s is pulled with %v, want %v", name, got, want)
		}
	}
}

func TestTheServiceAndItsAccountAreAsTheSpecSays(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	g := smallest("auth")
	g.Spec.Service = v1alpha1.Service{Annotations: map[string]string{"example.com/mesh": "on"}, IPFamilyPolicy: "PreferDualStack", TrafficDistribution: "PreferClose"}
	g.Spec.ServiceAccount.Annotations = map[string]string{"example.com/role": "a"}
	b.create(g)
	b.rollOut("auth")
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
	service, account := get(b, "auth", &corev1.Service{}), get(b, "auth", &corev1.ServiceAccount{})
	if s := service.Spec; service.Annotations["example.com/mesh"] != "on" || *s.IPFamilyPolicy != "PreferDualStack" || s.TrafficDistribution == nil || *s.TrafficDistribution != "PreferClose" {
		t.Errorf("the Service is %+v, %v", s, service.Annotations)
	}
	if account.Annotations["example.com/role"] != "a" {
		t.Errorf("the ServiceAccount has the annotations %v", account.Annotations)
	}
	b.secondPassWritesNothing("auth")

	// What the spec drops goes, but for the addresses.
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) {
		g.Spec.Service, g.Spec.ServiceAccount = v1alpha1.Service{}, v1alpha1.ServiceAccount{}
	})
	b.eventually("the annotations and the distribution go", func() error {
		service, account := get(b, "auth", &corev1.Service{}), get(b, "auth", &corev1.ServiceAccount{})
		if len(service.Annotations) > 0 || len(account.Annotations) > 0 || service.Spec.TrafficDistribution != nil {
			return fmt.Errorf("%v, %v, %v", service.Annotations, account.Annotations, service.Spec.TrafficDistribution)
		}
		return nil
	})
	b.secondPassWritesNothing("auth")
}

func TestTheServerGetsItsNameItsLimitOfWritesAndAllHosts(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	g := smallest("auth")
	g.Spec.Limits.Writes = "7/1m"
	g.Spec.Database.Host = "pg-1.example.com,fd00::5"
	g.Spec.Email = &v1alpha1.Email{SMTP: &v1alpha1.SMTP{Host: "mail", From: "a@example.com"}, ServiceName: "Example Shop"}
	b.create(g)
	b.rollOut("auth")
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
	got := variables(get(b, "auth", &appsv1.Deployment{}))
	for name, want := range map[string]string{"LIMIT_WRITES": "7/1m", "DB_HOST": "pg-1.example.com,fd00::5", "SERVICE_NAME": "Example Shop"} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	// A name that is too long for the server, though not for the API server.
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Email.ServiceName = strings.Repeat("ö", 200) })
	b.says("auth", "Ready", "InvalidSpec", "spec.email.serviceName", "at most 255 bytes")
}

func TestTheServerIsToldWhatASignUpRequires(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	for name, c := range map[string]struct {
		required []v1alpha1.PersonName
		want     string
	}{
		"all":  {nil, ""}, // the server's default
		"none": {[]v1alpha1.PersonName{}, "none"},
		"two":  {[]v1alpha1.PersonName{v1alpha1.LastName, v1alpha1.Username}, "username,last_name"},
	} {
		g := smallest(name)
		g.Spec.SignUp.Required = c.required
		b.create(g)
		b.rollOut(name)
		if got := variables(get(b, name, &appsv1.Deployment{}))["SIGNUP_REQUIRED"]; got != c.want {
			t.Errorf("with %v SIGNUP_REQUIRED is %q, want %q", c.required, got, c.want)
		}
	}
}
