package controllers_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	accore "k8s.io/client-go/applyconfigurations/core/v1"
	acmeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
)

// checkPublished compares both ConfigMaps of public keys with the ring.
func (e *env) checkPublished(name string) error {
	ring, issuer := e.ring(name), "http://"+name+"."+e.namespace+".svc"
	for suffix, wanted := range map[string]map[string][]byte{
		"-public-keys": keys.PublicFiles(ring, issuer), "-refresh-public-keys": keys.RefreshPublicFiles(ring),
	} {
		if suffix == "-public-keys" {
			c := config.Defaults()
			c.Issuer = issuer
			wanted["openid-configuration"] = c.Metadata()
		}
		var published corev1.ConfigMap
		if err := e.client.Get(e.t.Context(), e.key(name+suffix), &published); err != nil {
			return err
		}
		for file, content := range wanted {
			if published.Data[file] != string(content) {
				return fmt.Errorf("%s: the file %s differs from the ring", published.Name, file)
			}
		}
		if len(published.Data) != len(wanted) || len(published.BinaryData) > 0 {
			return fmt.Errorf("%s: %d files are published, want %d", published.Name, len(published.Data), len(wanted))
		}
	}
	return nil
}

// An operator of an earlier version published all public keys in one ConfigMap.
func TestRefreshKeysMoveWithoutAMomentInWhichAccessKeysAreMissing(t *testing.T) {
	t.Parallel()
	e := newDirectEnv(t)
	e.create(credentials("auth-db"))
	e.ready(smallest("auth"))
	annotate(e, "auth", v1alpha1.AnnotationRotate, "now")
	for _, use := range keys.Uses() { // two keys of each use
		next := e.published("auth", use)
		e.eventually("the replicas have loaded the key", func() error {
			if k, _ := e.ring("auth").Key(next); k.Phase != keys.Published {
				return fmt.Errorf("it is %s", k.Phase)
			}
			return nil
		})
	}
	ring, issuer := e.ring("auth"), "http://auth."+e.namespace+".svc"

	old := get(e, "auth-public-keys", &corev1.ConfigMap{})
	data := map[string]string{}
	for file, content := range keys.PublicFiles(ring, issuer) {
		data[file] = string(content)
	}
	delete(data, "jwks")
	for file, content := range keys.RefreshPublicFiles(ring) {
		data[file] = string(content)
	}
	owner := metav1.GetControllerOf(old)
	err := e.client.Apply(t.Context(), accore.ConfigMap(old.Name, e.namespace).WithLabels(old.Labels).WithData(data).
		WithOwnerReferences(acmeta.OwnerReference().WithAPIVersion(owner.APIVersion).WithKind(owner.Kind).WithName(owner.Name).
			WithUID(owner.UID).WithController(true)), client.FieldOwner(controllers.FieldManager), client.ForceOwnership)
	if err != nil {
		t.Fatal(err)
	}
	testenv.NoError(t, e.client.Delete(t.Context(), get(e, "auth-refresh-public-keys", &corev1.ConfigMap{})))
	if len(get(e, "auth-public-keys", &corev1.ConfigMap{}).Data["refresh.jwks.json"]) == 0 {
		t.Fatal("the former ConfigMap has no refresh keys")
	}

	e.calls.reset()
	e.eventually("the refresh keys have moved", func() error { return e.checkPublished("auth") })
	if now := e.ring("auth"); now.Generation != ring.Generation {
		t.Errorf("the ring changed from generation %d to %d", ring.Generation, now.Generation)
	}
	// One write replaced all entries, so at no moment was one missing.
	writes := 0
	for _, c := range e.calls.written() {
		if c.resource == "configmaps" && c.name == "auth-public-keys" {
			writes++
		}
	}
	if writes != 1 {
		t.Errorf("the operator wrote the public keys %d times, want once: %v", writes, e.calls.written())
	}
}

func TestRefreshPublicKeysAreRepairedLikeTheOthers(t *testing.T) {
	t.Parallel()
	e := newDirectEnv(t)
	e.create(credentials("auth-db"))
	e.ready(smallest("auth"))
	const name = "auth-refresh-public-keys"
	for what, change := range map[string]func(*corev1.ConfigMap){
		"a value":         func(c *corev1.ConfigMap) { c.Data["refresh.jwks.json"] = "{}" },
		"a value less":    func(c *corev1.ConfigMap) { delete(c.Data, "refresh.jwks.json") },
		"a value more":    func(c *corev1.ConfigMap) { c.Data["attacker.pem"] = "x" },
		"a binary value":  func(c *corev1.ConfigMap) { c.BinaryData = map[string][]byte{"attacker.pem": {1}} },
		"no values":       func(c *corev1.ConfigMap) { c.Data = nil },
		"it is immutable": func(c *corev1.ConfigMap) { c.Data, c.Immutable = nil, new(true) },
	} {
		edit(e, name, &corev1.ConfigMap{}, change)
		e.eventually("repaired: "+what, func() error { return e.checkPublished("auth") })
	}
	testenv.NoError(t, e.client.Delete(t.Context(), get(e, name, &corev1.ConfigMap{})))
	e.eventually("it is back", func() error { return e.checkPublished("auth") })
	if c := get(e, name, &corev1.ConfigMap{}); metav1.GetControllerOf(c) == nil || c.Labels["app.kubernetes.io/instance"] != "auth" {
		t.Errorf("it has the labels %v and the owners %v", c.Labels, c.OwnerReferences)
	}
}

// Another object's trouble must not delay a rotation or a revocation.
func TestKeysRotateWhenTheRefreshPublicKeysCannotBeWritten(t *testing.T) {
	t.Parallel()
	e := newDirectEnv(t)
	e.create(credentials("auth-db"), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "auth-refresh-public-keys"}}, smallest("auth"))
	e.condition("auth", "Ready", metav1.ConditionFalse, "NameConflict")
	e.condition("auth", "KeysReady", metav1.ConditionTrue, "KeysPublished")
	first := map[keys.Use]string{}
	for _, use := range keys.Uses() {
		first[use] = e.signing("auth", use).ID
	}
	edit(e, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) {
		g.Spec.Keys.Revoked = []string{first[keys.Access], first[keys.Refresh]}
	})
	e.eventually("other keys sign", func() error {
		for _, use := range keys.Uses() {
			if e.signing("auth", use).ID == first[use] {
				return fmt.Errorf("the %s key is the old one", use)
			}
		}
		return nil
	})
	var foreign corev1.ConfigMap
	if err := e.client.Get(t.Context(), e.key("auth-refresh-public-keys"), &foreign); apierrors.IsNotFound(err) || len(foreign.Data) > 0 {
		t.Errorf("the foreign ConfigMap has %v, %v", foreign.Data, err)
	}
}

// Envoy Gateway takes the entry jwks of a ConfigMap, and if there is none any entry.
func TestOnlyTheKeySetsOfThePublicKeysParseAsKeySets(t *testing.T) {
	t.Parallel()
	e := newDirectEnv(t)
	e.create(credentials("auth-db"))
	e.ready(smallest("auth"))
	annotate(e, "auth", v1alpha1.AnnotationRotate, "now")
	next := e.published("auth", keys.Access)
	data := get(e, "auth-public-keys", &corev1.ConfigMap{}).Data
	if data["jwks"] == "" || data["jwks"] != data["jwks.json"] {
		t.Error("jwks differs from jwks.json")
	}
	sets := map[string]*jose.JSONWebKeySet{}
	for name, content := range data {
		var set jose.JSONWebKeySet
		if err := json.Unmarshal([]byte(content), &set); err == nil && len(set.Keys) > 0 {
			sets[name] = &set
		}
	}
	if len(sets) != 2 || sets["jwks"] == nil || sets["jwks.json"] == nil {
		t.Fatalf("these entries of %v parse as key sets: %v", slices.Sorted(maps.Keys(data)), slices.Sorted(maps.Keys(sets)))
	}
	if len(sets["jwks"].Keys) != 2 || len(sets["jwks"].Key(next)) != 1 {
		t.Errorf("jwks has %v", sets["jwks"])
	}
	refresh := keys.RefreshPublicFiles(e.ring("auth"))
	for name := range refresh {
		if _, there := data[name]; there {
			t.Errorf("the refresh keys' %s is beside the access keys", name)
		}
	}
}
