package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// copied waits until a PublicKeys has a reason.
func (p testNamespace) copied(t *testing.T, name, reason string) {
	t.Helper()
	testenv.Eventually(t, later, "PublicKeys "+name+" is "+reason, func() error {
		k := &v1alpha1.PublicKeys{}
		if err := p.Get(t.Context(), client.ObjectKey{Namespace: p.name, Name: name}, k); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(k.Status.Conditions, "Ready"); c == nil || c.Reason != reason {
			return fmt.Errorf("its status is %+v", k.Status)
		}
		return nil
	})
}

// A pod in another namespace mounts the copy, and verifies every token before, during and after a rotation. When its
// namespace is no longer allowed, it accepts none.
func TestAServiceInAnotherNamespaceFollowsARotation(t *testing.T) {
	t.Parallel()
	lead := connect(t).lead(t)
	consumer, p := newTestNamespace(t), newTestNamespace(t)
	callers := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: consumer.name}}
	consumer.change(t, callers, consumer.name, `{"metadata":{"labels":{"authgateway.io/client":"true"}}}`)
	k := &v1alpha1.PublicKeys{ObjectMeta: metav1.ObjectMeta{Name: "auth"}}
	k.Spec.GatewayRef = v1alpha1.AuthGatewayReference{Namespace: p.name, Name: "auth"}
	consumer.create(t, k)
	consumer.copied(t, "auth", "NotAllowed")

	p.database(t)
	p.create(t, smallest("auth", cheapPasswords, shortLived(lead), func(s *v1alpha1.AuthGatewaySpec) {
		s.PublicKeys.AllowedNamespaces = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: consumer.name}}
	}))
	p.ready(t, "auth", later)
	consumer.copied(t, "auth", "Ready")
	a := p.probeIn(t, consumer, "auth", "auth-public-keys")
	old, _ := signingKey(p.gateway(t, "auth"))
	l := a.load(t, 0, lead)

	order := strconv.FormatInt(time.Now().Unix(), 10)
	p.change(t, &v1alpha1.AuthGateway{}, "auth", fmt.Sprintf(`{"metadata":{"annotations":{"authgateway.io/rotate":%q}}}`, order))
	fresh := ""
	testenv.Eventually(t, untilItSigns(lead), "a new key signs", func() error {
		g := p.gateway(t, "auth")
		if fresh, _ = signingKey(g); fresh == old || g.Status.Keys.ObservedRotate != order {
			return fmt.Errorf("the keys are %+v", g.Status.Keys)
		}
		return nil
	})
	testenv.Eventually(t, untilItIsGone(lead), "the old key is gone from the copy", func() error {
		copied := &corev1.ConfigMap{}
		consumer.get(t, "auth-public-keys", copied)
		if copied.Data[old+".pem"] != "" {
			return fmt.Errorf("it has the old key %s", old)
		}
		return nil
	})
	r := l.perfect(t, "a rotation, verified in another namespace")
	if r.Tokens[old] == 0 || r.Tokens[fresh] == 0 {
		t.Errorf("there were tokens of the keys %v; want some of %s and of %s", r.Tokens, old, fresh)
	}

	u := a.drive(t)
	p.change(t, &v1alpha1.AuthGateway{}, "auth", `{"spec":{"publicKeys":{"allowedNamespaces":null}}}`)
	consumer.copied(t, "auth", "NotAllowed")
	testenv.Eventually(t, later+lead, "the pod accepts no token", func() error { // when the kubelet has updated the mount
		if code, text, err := a.ask(t.Context(), http.MethodPost, "/verify", []byte(u.access)); err != nil ||
			code != http.StatusUnauthorized || !strings.Contains(string(text), "of 0") {
			return fmt.Errorf("it answers %d: %s, %v", code, text, err)
		}
		return nil
	})
}
