package controllers_test

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"

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
