package controllers

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilversion "k8s.io/apimachinery/pkg/util/version"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// An operator supports servers of its own minor version and of the one before: docs/upgrade.md#version-skew. The
// settings of newer servers are unknown to it, and older ones may lack settings that it sets.

// skew is how the version of a server relates to those that an operator supports. A larger one is worse.
type skew int

const (
	skewSupported skew = iota
	skewUnknown        // one of the two is not a released version
	skewTooOld
	skewTooNew
)

// skewOf compares the version of a server with that of the operator.
func skewOf(operator, server string) skew {
	if operator == server && server != "" { // also two builds of one checkout
		return skewSupported
	}
	ours, err := utilversion.ParseSemantic(operator)
	if err != nil {
		return skewUnknown
	}
	theirs, err := utilversion.ParseSemantic(server)
	if err != nil {
		return skewUnknown
	}
	switch {
	case theirs.Major() > ours.Major(), theirs.Major() == ours.Major() && theirs.Minor() > ours.Minor():
		return skewTooNew
	case theirs.Major() < ours.Major(), theirs.Minor()+1 < ours.Minor():
		return skewTooOld
	}
	return skewSupported
}

// maxVersion limits how much of a version that a replica reports a condition shows.
const maxVersion = 64

// versionCondition reports whether the operator supports the versions that the ready replicas report. It does not
// change Ready: the servers serve, and an upgrade has to go through such a state. If no replica answered, the condition
// stays as it was. The message names versions and no pods, because a reconcile asks another pod each time.
func versionCondition(cs *clusterState) condition {
	worst := skewSupported
	versions := map[skew][]string{}
	for _, p := range cs.pods {
		state, known := cs.states[p.Name]
		if !known || !isReady(p) {
			continue
		}
		s, version := skewOf(cs.operatorVersion, state.Version), oneLine(cmp.Or(state.Version, "none"), maxVersion)
		if worst = max(worst, s); !slices.Contains(versions[s], version) {
			versions[s] = append(versions[s], version)
		}
	}
	if len(versions) == 0 {
		if last := meta.FindStatusCondition(cs.gateway.Status.Conditions, v1alpha1.ConditionVersionSupported); last != nil {
			return condition{last.Status, last.Reason, last.Message}
		}
		return condition{metav1.ConditionUnknown, v1alpha1.ReasonReplicasMissing, "no ready replica has answered yet"}
	}
	slices.Sort(versions[worst])
	message := fmt.Sprintf("the operator has version %s, and replicas have %s",
		cmp.Or(cs.operatorVersion, "none"), strings.Join(versions[worst], ", "))
	switch worst {
	case skewTooOld:
		return isFalse(v1alpha1.ReasonVersionTooOld, message+
			", which is more than one minor version older: set spec.image to a newer server, or remove it")
	case skewTooNew:
		return isFalse(v1alpha1.ReasonVersionTooNew, message+
			", which is newer: upgrade the operator, or set spec.image to a server of its version")
	case skewUnknown:
		return condition{metav1.ConditionUnknown, v1alpha1.ReasonVersionUnknown, message +
			", so they cannot be compared: one of them is not a released version"}
	default:
		return isTrue(v1alpha1.ReasonVersionSupported, message)
	}
}
