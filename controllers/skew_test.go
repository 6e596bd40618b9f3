package controllers

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
)

func TestSkewOfVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		operator, server string
		want             skew
	}{
		{"v0.2.0", "v0.2.0", skewSupported},
		{"v0.2.0", "v0.2.9", skewSupported},
		{"v0.2.0", "v0.1.0", skewSupported},
		{"v0.2.0", "v0.2.0-rc.1", skewSupported},
		{"v0.2.0", "0.1.7", skewSupported},
		{"v0.2.0", "v0.3.0", skewTooNew},
		{"v0.2.0", "v1.0.0", skewTooNew},
		{"v0.3.0", "v0.1.9", skewTooOld},
		{"v1.0.0", "v0.9.0", skewTooOld},
		{"v1.5.0", "v1.4.2", skewSupported},
		{"dev", "dev", skewSupported},
		{"dev", "v0.2.0", skewUnknown},
		{"v0.2.0", "d988d93", skewUnknown},
		{"v0.2.0", "", skewUnknown},
		{"", "", skewUnknown},
	} {
		if got := skewOf(c.operator, c.server); got != c.want {
			t.Errorf("operator %q, server %q: %d, want %d", c.operator, c.server, got, c.want)
		}
	}
}

func TestVersionCondition(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		versions []string // of ready replicas
		want     string
		says     []string
	}{
		"equal":               {[]string{"v0.3.1"}, "True VersionSupported", []string{"v0.3.1"}},
		"during an upgrade":   {[]string{"v0.2.0", "v0.3.1"}, "True VersionSupported", []string{"v0.2.0, v0.3.1"}},
		"one is too old":      {[]string{"v0.3.1", "v0.1.0"}, "False VersionTooOld", []string{"replicas have v0.1.0,", "spec.image"}},
		"one is too new":      {[]string{"v0.1.0", "v0.4.0"}, "False VersionTooNew", []string{"replicas have v0.4.0,", "upgrade the operator"}},
		"not a release":       {[]string{"v0.3.1", "a\nb"}, "Unknown VersionUnknown", []string{"replicas have a b,"}},
		"no replica answered": {nil, "Unknown ReplicasMissing", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs, found := running(t, newGateway(t))
			cs.operatorVersion = "v0.3.1"
			for _, version := range c.versions {
				addPod(cs, version, true, time.Hour)
				cs.states[version] = config.State{Version: version}
			}
			addPod(cs, "starts", false, time.Second) // its version does not count yet
			cs.states["starts"] = config.State{Version: "v9.0.0"}
			got, status := conditionsOf(cs, found, nil, nil)
			if got["VersionSupported"] != c.want || got["Ready"] != "True Ready" {
				t.Errorf("the conditions are %v", got)
			}
			contains(t, messageOf(status, "VersionSupported"), c.says...)

			// Without an answer the condition stays. With one, it is not kept although it is Unknown.
			cs.gateway.Status = status
			clear(cs.states)
			if again, _ := conditionsOf(cs, found, nil, nil); again["VersionSupported"] != c.want {
				t.Errorf("without an answer it is %s", again["VersionSupported"])
			}
		})
	}
	cs, found := running(t, newGateway(t))
	cs.operatorVersion = "v0.3.1"
	meta.SetStatusCondition(&cs.gateway.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionVersionSupported, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonVersionSupported,
	})
	addPod(cs, "one", true, time.Hour)
	cs.states["one"] = config.State{Version: "a build"}
	if got, _ := conditionsOf(cs, found, nil, nil); got["VersionSupported"] != "Unknown VersionUnknown" {
		t.Errorf("an unknown version leaves the condition %s", got["VersionSupported"])
	}
}
