package controllers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
)

// This file has what the tests of pure functions share. They need no API server: go test -short runs only them.

// crdSchema is the schema of an AuthGateway, which has the defaults.
var crdSchema = sync.OnceValues(func() (*schema.Structural, error) {
	text, err := os.ReadFile("../config/crd/bases/authgateway.io_authgateways.yaml")
	if err != nil {
		return nil, err
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return nil, err
	}
	var internal apiextensions.JSONSchemaProps
	v1 := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v1, &internal, nil); err != nil {
		return nil, err
	}
	return schema.NewStructural(&internal)
})

// newGateway returns the smallest gateway, with changes and then with the defaults that the API server would set.
func newGateway(t testing.TB, changes ...func(*v1alpha1.AuthGateway)) *v1alpha1.AuthGateway {
	t.Helper()
	g := &v1alpha1.AuthGateway{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "AuthGateway"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "auth", UID: "the-gateway", Generation: 1},
		Spec: v1alpha1.AuthGatewaySpec{Database: v1alpha1.Database{
			Host: "postgres.shop.svc", Name: "auth", CredentialsSecretRef: refTo("auth-db"),
		}},
	}
	for _, change := range changes {
		change(g)
	}
	structural := testenv.Must(crdSchema())(t)
	text := testenv.Must(json.Marshal(g))(t)
	var tree map[string]any
	testenv.NoError(t, json.Unmarshal(text, &tree))
	delete(tree, "status")
	defaulting.Default(tree, structural)
	text = testenv.Must(json.Marshal(tree))(t)
	defaulted := &v1alpha1.AuthGateway{}
	testenv.NoError(t, json.Unmarshal(text, defaulted))
	defaulted.Status = g.Status
	return defaulted
}

// spec adapts a change of a spec to newGateway.
func spec(change func(*v1alpha1.AuthGatewaySpec)) func(*v1alpha1.AuthGateway) {
	return func(g *v1alpha1.AuthGateway) { change(&g.Spec) }
}

func refTo(name string) *v1alpha1.LocalReference { return &v1alpha1.LocalReference{Name: name} }

var testTime = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

const (
	testPassword   = "a database password"
	testWebhookKey = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
)

// testInputs are the Secrets that the gateways of these tests refer to.
func testInputs() map[string]map[string]string {
	return map[string]map[string]string{
		"auth-db": {"username": "auth", "password": testPassword, "unused": "x"},
		"pg-app": {
			"username": "auth", "password": testPassword, "host": "pg-rw", "port": "5433", "dbname": "app",
		},
		"ca":   {"ca.crt": "a certificate", "ca.key": "not for the pods"},
		"own":  {"ACCESS_PASSPHRASE": "a passphrase for access", "REFRESH_PASSPHRASE": "a passphrase for refresh"},
		"mail": {"username": "mailer", "password": "a mail password"},
		"hook": {"secret": testWebhookKey}, "events": {"secret": testWebhookKey}, "former": {"secret": testWebhookKey},
		"traces": {"headers": "authorization=Bearer%20credential"}, "collector-ca": {"ca.crt": "a certificate"},
	}
}

// newState returns the state of a cluster that has everything that a gateway refers
// to, and nothing that the operator creates.
func newState(g *v1alpha1.AuthGateway) *clusterState {
	cs := newClusterState(g, testTime)
	for in, name := range inputsOf(g) {
		if in.gvk == gvkConfigMap {
			cs.configMaps[name] = &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"verification.txt": "a template"},
			}
			continue
		}
		cs.inputs[name] = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{}}
		for key, value := range testInputs()[name] {
			cs.inputs[name].Data[key] = []byte(value)
		}
	}
	return cs
}

// newRing returns a ring in which a key of each use signs. The keys are not
// encrypted, so nothing can be signed with it.
func newRing(t testing.TB) keys.Ring {
	t.Helper()
	ring := keys.Ring{Generation: 7}
	for _, use := range keys.Uses() {
		private := testenv.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
		ring.Keys = append(ring.Keys, keys.Key{
			ID: strings.ToUpper(string(use)), Use: use, Algorithm: keys.ES256, Phase: keys.Signing,
			Public: &private.PublicKey, Created: testTime.Add(-time.Hour), PhaseSince: testTime.Add(-time.Hour),
		})
	}
	return ring
}

// running returns the state of a cluster in which a gateway is Ready, and what the reconcile of its keys has found.
func running(t testing.TB, g *v1alpha1.AuthGateway) (*clusterState, keyResult) {
	t.Helper()
	cs, ring := newState(g), newRing(t)
	cs.ring = ring
	public := &corev1.ConfigMap{Data: map[string]string{}}
	for _, k := range ring.Keys {
		public.Data[keys.PublicFile(k.ID)] = "a public key"
	}
	cs.objects[idPublicKeys] = public
	replicas := int32(2)
	if g.Spec.Replicas != nil {
		replicas = *g.Spec.Replicas
	}
	cs.objects[idDeployment] = &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "auth", Generation: 1}, Spec: appsv1.DeploymentSpec{Replicas: &replicas},
		Status: appsv1.DeploymentStatus{
			ObservedGeneration: 1, Replicas: replicas, UpdatedReplicas: replicas, ReadyReplicas: replicas,
			AvailableReplicas: replicas,
		},
	}
	return cs, keyResult{ring: ring, complete: true, callerKey: "a key for callers"}
}

// renderingOf renders as the operator does, with its default options.
func renderingOf(cs *clusterState, t keyResult, options ...func(*Options)) rendering {
	o := Options{ServerImage: "auth-gateway/authserver:test", OperatorNamespace: "auth-gateway-system"}
	for _, change := range options {
		change(&o)
	}
	return (&Reconciler{Options: o}).rendering(cs, t)
}

// contains fails if a text lacks one of some words.
func contains(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in %q", w, text)
		}
	}
}
