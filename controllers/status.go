package controllers

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// condition is a condition of the status, without the fields that all of them have in common.
type condition struct {
	status  metav1.ConditionStatus
	reason  string
	message string
}

func isTrue(reason, message string) condition {
	return condition{metav1.ConditionTrue, reason, message}
}
func isFalse(reason, message string) condition {
	return condition{metav1.ConditionFalse, reason, message}
}

// summarize returns the status after a reconcile. inKeys is what is wrong with the
// keys, and found is what is wrong with anything. It is pure.
func summarize(cs *clusterState, t keyResult, inKeys, found *problem, image string) v1alpha1.AuthGatewayStatus {
	g := cs.gateway
	status := *g.Status.DeepCopy()
	status.ObservedGeneration = g.Generation
	status.URL = cs.names.url()
	status.Selector = labels.SelectorFromSet(cs.names.selector()).String()
	status.Image = image
	blind := cs.unread[idDeployment] != nil
	if d := cs.deployment(); d != nil {
		status.Replicas, status.ReadyReplicas = d.Status.Replicas, d.Status.ReadyReplicas
		status.ReplicaSummary = fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, replicasOf(d))
	} else if !blind {
		status.Replicas, status.ReadyReplicas, status.ReplicaSummary = 0, 0, ""
	}
	if t.callerKey != "" {
		status.CallerSecretRef = &v1alpha1.LocalReference{Name: cs.names.caller()}
	}
	if len(t.ring.Keys) > 0 {
		status.PublicKeysConfigMapRef = &v1alpha1.LocalReference{Name: cs.names.publicKeys()}
		status.Keys = keysStatus(g, t.ring, cs.trace(cs.ring).Revoked)
	}

	all := conditions(cs, t, inKeys, found, blind)
	if all[v1alpha1.ConditionReady].status == metav1.ConditionTrue {
		status.Issuer, status.Database = issuerWanted(g), databaseWanted(g)
	}
	for conditionType, c := range all {
		last := meta.FindStatusCondition(status.Conditions, conditionType)
		known := conditionType == v1alpha1.ConditionReady || conditionType == v1alpha1.ConditionVersionSupported
		if c.status == metav1.ConditionUnknown && !known && last != nil {
			continue // keep what was last known, with the generation that it is about
		}
		about := g.Generation
		if conditionType == v1alpha1.ConditionKeysReady && !t.complete { // the keys are still those of an older spec
			if about = 0; last != nil {
				about = last.ObservedGeneration
			}
		}
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: conditionType, Status: c.status, Reason: c.reason, Message: clipTo(c.message, mostOfMessage),
			ObservedGeneration: about, LastTransitionTime: metav1.NewTime(cs.now),
		})
	}
	if !wantsAdmin(g) {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionAdminAvailable)
	}
	slices.SortFunc(status.Conditions, func(a, b metav1.Condition) int {
		return slices.Index(conditionOrder, a.Type) - slices.Index(conditionOrder, b.Type)
	})
	return status
}

// conditions returns every condition by its type. If blind is true, the Deployment could not be read.
func conditions(cs *clusterState, t keyResult, inKeys, found *problem, blind bool) map[string]condition {
	keysReady, available, database := keysCondition(cs, t, inKeys), availability(cs), databaseCondition(cs)
	if blind {
		reason := classify(cs.unread[idDeployment]).reason
		available = condition{metav1.ConditionUnknown, reason, "the Deployment cannot be read"}
	}
	ready := readiness(cs, found, keysReady, available, database)
	reconciling, stall := isFalse(v1alpha1.ReasonReady, ""), isFalse(v1alpha1.ReasonReady, "")
	switch {
	case ready.reason == v1alpha1.ReasonSuspended:
		reconciling = isFalse(v1alpha1.ReasonSuspended, ready.message)
		if ready.status != metav1.ConditionTrue {
			stall = isTrue(v1alpha1.ReasonSuspended, ready.message)
		}
	case ready.status == metav1.ConditionTrue && (keysReady.reason == v1alpha1.ReasonAwaitingReplicas ||
		keysReady.reason == v1alpha1.ReasonAwaitingPublicKeys):
		reconciling = isTrue(keysReady.reason, keysReady.message)
	case ready.status == metav1.ConditionTrue:
	case found != nil && found.stalled:
		stall = isTrue(found.reason, found.message)
		reconciling = isFalse(found.reason, "nothing changes until you act: see Stalled")
	default:
		reconciling = isTrue(ready.reason, ready.message)
	}
	if cs.upgradeWaits && stall.status == metav1.ConditionFalse {
		reconciling = isTrue(v1alpha1.ReasonUpgradeWaiting, "the operator was upgraded, and replaces the pods of a few "+
			"AuthGateways at a time. This one waits for its turn. While an upgraded AuthGateway fails, no other one is "+
			"upgraded: the operator's log and its metric authgateway_operator_upgrade_failing name it")
	}
	all := map[string]condition{
		v1alpha1.ConditionReady: ready, v1alpha1.ConditionKeysReady: keysReady, v1alpha1.ConditionAvailable: available,
		v1alpha1.ConditionDatabaseAvailable: database, v1alpha1.ConditionVersionSupported: versionCondition(cs),
		v1alpha1.ConditionReconciling: reconciling, v1alpha1.ConditionStalled: stall,
	}
	if wantsAdmin(cs.gateway) {
		all[v1alpha1.ConditionAdminAvailable] = administration(cs)
	}
	return all
}

// conditionOrder is the order in which the status has the conditions.
var conditionOrder = []string{
	v1alpha1.ConditionReady, v1alpha1.ConditionKeysReady, v1alpha1.ConditionAvailable,
	v1alpha1.ConditionDatabaseAvailable, v1alpha1.ConditionAdminAvailable, v1alpha1.ConditionVersionSupported,
	v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled,
}

// readiness is True only if everything of this generation of the spec is in place.
func readiness(cs *clusterState, found *problem, keysReady, available, database condition) condition {
	switch {
	case found != nil:
		return isFalse(found.reason, found.message)
	case cs.gateway.Spec.Suspend:
		// Not Unknown: tools that wait for the object would then wait forever.
		return condition{available.status, v1alpha1.ReasonSuspended, "spec.suspend is true: the operator changes " +
			"nothing, so edits of the spec have no effect and keys do not rotate; " + available.message}
	case keysReady.status != metav1.ConditionTrue:
		return isFalse(keysReady.reason, keysReady.message)
	}
	if missing := cs.kindMissing(); missing != nil {
		return isFalse(missing.reason, missing.message)
	}
	d := cs.deployment()
	if d == nil || d.Status.ObservedGeneration < d.Generation {
		return isFalse(v1alpha1.ReasonProgressing, "the Deployment is being rolled out")
	}
	wanted := replicasOf(d)
	if isFinished(d) {
		if available.status != metav1.ConditionTrue && wanted > 0 {
			return available
		}
		if database.status == metav1.ConditionFalse {
			return database
		}
		if admins := administration(cs); wantsAdmin(cs.gateway) && admins.status != metav1.ConditionTrue {
			return isFalse(admins.reason, admins.message)
		}
		return isTrue(v1alpha1.ReasonReady, available.message)
	}
	message := fmt.Sprintf("%d of %d replicas are up to date and ready",
		min(d.Status.UpdatedReplicas, d.Status.AvailableReplicas), wanted)
	return notReady(cs, message, v1alpha1.ReasonProgressing)
}

// mostOfMessage is how many bytes of a message a condition shows. The API server
// takes 32 KiB, but people have to read it.
const mostOfMessage = 2000

// mostOfEvent is how many bytes the API server takes as the note of an event.
const mostOfEvent = 1024

func clipTo(message string, most int) string {
	if len(message) <= most {
		return message
	}
	const more = "…"
	return strings.ToValidUTF8(message[:most-len(more)], "") + more
}
