package controllers

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

func TestImagesThatAreNotAllowedAreRefused(t *testing.T) {
	t.Parallel()
	allowed := []string{"registry.example.com/auth/", "mirror.example.com/"}
	sidecars := func(all ...v1alpha1.Sidecar) func(*v1alpha1.AuthGatewaySpec) {
		return func(s *v1alpha1.AuthGatewaySpec) { s.PodTemplate = &v1alpha1.PodTemplate{Sidecars: all} }
	}
	image := func(name string) func(*v1alpha1.AuthGatewaySpec) {
		return func(s *v1alpha1.AuthGatewaySpec) { s.Image = name }
	}
	good := v1alpha1.Sidecar{Name: "good", Image: "mirror.example.com/proxy"}
	for name, c := range map[string]struct {
		change  func(*v1alpha1.AuthGatewaySpec)
		allowed []string
		field   string // "": it is allowed
	}{
		"no image":         {image(""), allowed, ""},
		"an allowed image": {image("mirror.example.com/authserver:1"), allowed, ""},
		"any image":        {image("docker.io/authserver:1"), nil, ""},
		"another image":    {image("docker.io/attacker/registry.example.com/auth/x"), allowed, "spec.image"},
		"a good sidecar":   {sidecars(good), allowed, ""},
		"a sidecar": {
			sidecars(good, v1alpha1.Sidecar{Name: "bad", Image: "docker.io/attacker/proxy"}), allowed,
			"spec.podTemplate.sidecars[bad].image",
		},
		"a native sidecar": {
			sidecars(v1alpha1.Sidecar{Name: "native", Image: "docker.io/attacker/proxy", Native: true}), allowed,
			"spec.podTemplate.sidecars[native].image",
		},
	} {
		p := imageRefused(newGateway(t, spec(c.change)), c.allowed)
		switch {
		case p == nil && c.field == "":
		case p == nil || c.field == "":
			t.Errorf("%s: the problem is %v", name, p)
		default:
			if p.reason != v1alpha1.ReasonImageNotAllowed || !p.stalled {
				t.Errorf("%s: the problem is %+v", name, p)
			}
			contains(t, p.message, c.field, "registry.example.com/auth/", "mirror.example.com/")
		}
	}
}

func TestIssuerOrDatabaseChangeHasToBeAccepted(t *testing.T) {
	t.Parallel()
	const host, issuerURL = "postgres.shop.svc/auth", "http://auth.shop.svc"
	for name, c := range map[string]struct {
		change     func(*v1alpha1.AuthGatewaySpec)
		annotation string
		value      string // that accepts it; "": there is nothing to accept
	}{
		"nothing": {func(*v1alpha1.AuthGatewaySpec) {}, "", ""},
		"the issuer": {
			func(s *v1alpha1.AuthGatewaySpec) { s.Issuer = "https://auth.example.com" }, v1alpha1.AnnotationAcceptIssuer,
			"https://auth.example.com",
		},
		"the host": {
			func(s *v1alpha1.AuthGatewaySpec) { s.Database.Host = "other.shop.svc" }, v1alpha1.AnnotationAcceptDatabase,
			"other.shop.svc/auth",
		},
		"the name": {
			func(s *v1alpha1.AuthGatewaySpec) { s.Database.Name = "other" }, v1alpha1.AnnotationAcceptDatabase,
			"postgres.shop.svc/other",
		},
	} {
		g := newGateway(t, spec(c.change))
		if p := notAccepted(g); p != nil {
			t.Errorf("%s: a gateway that was never Ready needs an acceptance: %v", name, p)
		}
		g.Status.Issuer, g.Status.Database = issuerURL, host
		p := notAccepted(g)
		if c.value == "" {
			if p != nil {
				t.Errorf("%s: %v", name, p)
			}
			continue
		}
		if p == nil || p.reason != v1alpha1.ReasonChangeNotAccepted || !p.stalled {
			t.Fatalf("%s: the problem is %v", name, p)
		}
		contains(t, p.message, "kubectl annotate agw auth -n shop --overwrite "+c.annotation+"="+c.value)
		cs, found := running(t, g)
		got, _ := conditionsOf(cs, found, nil, p) // the keys go on
		if got["Ready"] != "False ChangeNotAccepted" || got["Stalled"] != "True ChangeNotAccepted" || got["KeysReady"] != "True KeysPublished" {
			t.Errorf("%s: the conditions are %v", name, got)
		}
		g.Annotations = map[string]string{c.annotation: "true"} // not for this change
		if notAccepted(g) == nil {
			t.Errorf("%s: the change is accepted by any value", name)
		}
		document := func() string { return renderPublicKeys(renderingOf(cs, found)).Data[keys.PublicDocumentFile] }
		if got := issuer(cs); got != issuerURL || !strings.Contains(document(), issuerURL) {
			t.Errorf("%s: before the change is accepted the issuer is %s, published is %s", name, got, document())
		}
		g.Annotations[c.annotation] = c.value
		if p := notAccepted(g); p != nil {
			t.Errorf("%s: %v", name, p)
		}
		// Undoing it afterwards is another change.
		g.Status.Issuer, g.Status.Database = issuerWanted(g), databaseWanted(g)
		g.Spec.Issuer, g.Spec.Database = "", newGateway(t).Spec.Database
		if notAccepted(g) == nil {
			t.Errorf("%s: the change back needs no acceptance", name)
		}
	}
}

// Anyone can write names and labels. An owner reference names this very gateway.
func TestObjectsAreOursByOwnerOrLabel(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	controlledBy := func(uid types.UID) []metav1.OwnerReference {
		yes := true
		return []metav1.OwnerReference{{Kind: "AuthGateway", Name: "auth", UID: uid, Controller: &yes}}
	}
	standard := map[string]string{labelManagedBy: operatorName, labelInstance: "auth"}
	for name, c := range map[string]struct {
		meta       metav1.ObjectMeta
		ours, owns bool
	}{
		"nothing":              {metav1.ObjectMeta{}, false, false},
		"our owner reference":  {metav1.ObjectMeta{OwnerReferences: controlledBy(g.UID)}, true, true},
		"another's, our label": {metav1.ObjectMeta{OwnerReferences: controlledBy("another"), Labels: standard}, false, false},
		"our labels":           {metav1.ObjectMeta{Labels: standard}, true, false},
		"another instance": {metav1.ObjectMeta{Labels: map[string]string{
			labelManagedBy: operatorName, labelInstance: "other",
		}}, false, false},
		"the label of a Secret that is kept": {metav1.ObjectMeta{Labels: map[string]string{labelGateway: "auth"}}, true, false},
		"that of another gateway": {metav1.ObjectMeta{Labels: map[string]string{
			labelGateway: "other", labelManagedBy: operatorName, labelInstance: "auth",
		}}, false, false},
	} {
		secret := &corev1.Secret{ObjectMeta: c.meta}
		secret.Name = "auth-keys"
		cs := newState(g)
		if got := cs.names.isOurs(secret, g); got != c.ours {
			t.Errorf("%s: isOurs returns %v", name, got)
		}
		if got := cs.owns(secret); got != c.owns {
			t.Errorf("%s: owns returns %v", name, got)
		}
		cs.keys = secret
		p := cs.secretConflict(cs.keys, cs.passphrases)
		if (p == nil) != c.ours {
			t.Errorf("%s: the problem is %v", name, p)
		}
		if p != nil {
			contains(t, p.message, "a Secret auth-keys ")
		}
	}
}

func TestNameConflictsAreOfWhatIsWanted(t *testing.T) {
	t.Parallel()
	cs := newState(newGateway(t))
	cs.objects[objectID{gvk: gvkDisruptionBudget}] = &policyv1.PodDisruptionBudget{}
	cs.objects[objectID{gvk: gvkIngress}] = &policyv1.PodDisruptionBudget{} // any object; the spec asks for no Ingress
	p := cs.nameConflicts()
	if p == nil || p.reason != v1alpha1.ReasonNameConflict || !p.stalled || p.recheck != recheckNames {
		t.Fatalf("the problem is %+v", p)
	}
	contains(t, p.message, "a PodDisruptionBudget auth ")
	for kind, want := range map[string]string{"Ingress": "an", "HTTPRoute": "an", "Service": "a", "HorizontalPodAutoscaler": "a"} {
		if got := article(kind); got != want {
			t.Errorf("%s %s", got, kind)
		}
	}
}

func TestErrorsOfTheAPIServerAreClassified(t *testing.T) {
	t.Parallel()
	forbidden := func(resource string, err error) error {
		return fmt.Errorf("apply x: %w", apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "auth", err))
	}
	terminating := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "auth", errors.New("it ends"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	for _, c := range []struct {
		err     error
		reason  string
		stalled bool
		theirs  bool
		words   []string
	}{
		{forbidden("secrets", errors.New("exceeded quota: full, requested: secrets=1")), v1alpha1.ReasonQuotaExceeded,
			false, true, []string{"full", "secrets", "raise it"}},
		{forbidden("deployments", errors.New(`User "operator" cannot patch resource "deployments"`)), v1alpha1.ReasonForbidden,
			false, false, []string{`cannot patch resource "deployments"`, "grant it"}},
		{terminating, v1alpha1.ReasonNamespaceTerminating, false, true, nil},
		{apierrors.NewBadRequest("no such field"), v1alpha1.ReasonRefused, true, true, []string{"no such field"}},
		{apierrors.NewInternalError(errors.New("etcd")), v1alpha1.ReasonAPIUnavailable, false, false, []string{"etcd", "retried"}},
		{fmt.Errorf("keys: %w", stalled(v1alpha1.ReasonKeysLost, "restore them")), v1alpha1.ReasonKeysLost, true, false, nil},
	} {
		p := classify(c.err)
		if p.reason != c.reason || p.stalled != c.stalled || p.isTheirs() != c.theirs {
			t.Errorf("%v: the problem is %+v", c.err, p)
		}
		contains(t, p.message, c.words...)
	}
}

func TestJoinedProblemsKeepEveryMessage(t *testing.T) {
	t.Parallel()
	if p := joined([]*problem{nil, nil}); p != nil {
		t.Errorf("joining no problems returns %+v", p)
	}
	first, second := stalled("First", "one"), waiting("Second", "two")
	second.recheck, second.cause = recheckPods, errors.New("a cause")
	p := joined([]*problem{nil, first, second, waiting("Third", "two")})
	if p.reason != "First" || p.message != "one; and: two" || p.stalled || p.recheck != recheckPods || p.cause == nil {
		t.Errorf("the problem is %+v", p)
	}
	if first.message != "one" {
		t.Error("the first problem was changed")
	}
}

func TestBlockedIsTheFirstProblem(t *testing.T) {
	t.Parallel()
	allowed := []string{"mirror.example.com/"}
	passphrases := keys.PassphraseState{Current: map[keys.Use]string{
		keys.Access: "a passphrase for access", keys.Refresh: "a passphrase for refresh",
	}}
	aside := waiting(v1alpha1.ReasonSecretInvalid, "too short")
	invalid := spec(smtp(func(m *v1alpha1.SMTP) { m.From = "Example(Inc <a@example.com>" }))
	for name, c := range map[string]struct {
		of      func(*v1alpha1.AuthGateway)
		missing bool
		aside   *problem
		keysOK  bool
		want    string
		stalled bool
	}{
		"nothing":      {func(*v1alpha1.AuthGateway) {}, false, nil, true, "", false},
		"a setting":    {invalid, false, nil, true, v1alpha1.ReasonInvalidSpec, true},
		"without keys": {invalid, false, nil, false, "", false},
		"passphrases":  {invalid, false, aside, true, v1alpha1.ReasonSecretInvalid, false},
		"a Secret":     {invalid, true, aside, true, v1alpha1.ReasonSecretMissing, false},
		"an image and a Secret": {func(g *v1alpha1.AuthGateway) { g.Spec.Image = "x" }, true, aside, true,
			v1alpha1.ReasonImageNotAllowed, true},
	} {
		cs := newState(newGateway(t, c.of))
		if c.missing {
			delete(cs.inputs, "auth-db")
		}
		p := cs.blocked(allowed, keyResult{passphraseState: passphrases, minor: c.aside, callerKey: "a key for trusted callers"}, c.keysOK)
		if p == nil {
			p = &problem{}
		}
		if p.reason != c.want || p.stalled != c.stalled {
			t.Errorf("%s: the problem is %+v, want %s", name, p, c.want)
		}
	}
}
