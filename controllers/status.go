package controllers

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// condition is the outcome of one question, and of all that was asked for it the
// most telling.
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

// summarize is the status that follows from a pass, in which something was found
// amiss with the keys, or with anything. It is pure.
func summarize(cs *clusterState, t tended, inKeys, found *problem, image string) v1alpha1.AuthGatewayStatus {
	g := cs.gateway
	status := *g.Status.DeepCopy()
	status.ObservedGeneration = g.Generation
	status.URL = cs.names.url()
	status.Selector = labels.SelectorFromSet(cs.names.selector()).String()
	status.Image = image
	blind := cs.unread[gvkDeployment] != nil
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

	keysReady, available := keysCondition(cs, t, inKeys), availability(cs)
	if blind {
		available = condition{metav1.ConditionUnknown, classify(cs.unread[gvkDeployment]).reason, "the Deployment cannot be read"}
	}
	database := databaseCondition(cs)
	ready := readiness(cs, found, keysReady, available, database)
	if ready.status == metav1.ConditionTrue {
		status.Issuer, status.Database = issuerWanted(g), databaseWanted(g)
	}
	reconciling, stall := isFalse(v1alpha1.ReasonReady, ""), isFalse(v1alpha1.ReasonReady, "")
	switch {
	case ready.reason == v1alpha1.ReasonSuspended:
		reconciling = isFalse(v1alpha1.ReasonSuspended, ready.message)
		if ready.status != metav1.ConditionTrue {
			stall = isTrue(v1alpha1.ReasonSuspended, ready.message)
		}
	case ready.status == metav1.ConditionTrue && keysReady.reason == v1alpha1.ReasonAwaitingReplicas:
		reconciling = isTrue(keysReady.reason, keysReady.message)
	case ready.status == metav1.ConditionTrue:
	case found != nil && found.stalled:
		stall = isTrue(found.reason, found.message)
		reconciling = isFalse(found.reason, "waiting for a person")
	default:
		reconciling = isTrue(ready.reason, ready.message)
	}
	if cs.upgradeWaits && stall.status == metav1.ConditionFalse {
		reconciling = isTrue(v1alpha1.ReasonUpgradeWaiting, "the pods are replaced by those of this operator when it is their turn, a few AuthGateways at a time; none are while one fails, which the operator's log and its metric authgateway_operator_upgrade_failing name")
	}
	for kind, c := range map[string]condition{
		v1alpha1.ConditionReady: ready, v1alpha1.ConditionKeysReady: keysReady, v1alpha1.ConditionAvailable: available,
		v1alpha1.ConditionReconciling: reconciling, v1alpha1.ConditionStalled: stall,
		v1alpha1.ConditionDatabaseAvailable: database,
	} {
		last := meta.FindStatusCondition(status.Conditions, kind)
		if c.status == metav1.ConditionUnknown && kind != v1alpha1.ConditionReady && last != nil {
			continue // what was known last, about the generation that it was about
		}
		about := g.Generation
		if kind == v1alpha1.ConditionKeysReady && !t.through { // it moves with the ring alone
			if about = 0; last != nil {
				about = last.ObservedGeneration
			}
		}
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: kind, Status: c.status, Reason: c.reason, Message: clip(c.message), ObservedGeneration: about, LastTransitionTime: metav1.NewTime(cs.now),
		})
	}
	slices.SortFunc(status.Conditions, func(a, b metav1.Condition) int {
		return slices.Index(conditionOrder, a.Type) - slices.Index(conditionOrder, b.Type)
	})
	return status
}

var conditionOrder = []string{v1alpha1.ConditionReady, v1alpha1.ConditionKeysReady, v1alpha1.ConditionAvailable, v1alpha1.ConditionDatabaseAvailable, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled}

// clip keeps a message within what a person reads, and the API server takes.
func clip(message string) string {
	return clipTo(message, 2000)
}

// mostOfEvent is how many bytes the API server takes of the note of an event.
const mostOfEvent = 1024

func clipTo(message string, most int) string {
	if len(message) <= most {
		return message
	}
	const more = "…"
	return strings.ToValidUTF8(message[:most-len(more)], "") + more
}

// keysStatus shows a ring without what is secret in it.
func keysStatus(g *v1alpha1.AuthGateway, ring keys.Ring, revoked []string) *v1alpha1.KeysStatus {
	s := &v1alpha1.KeysStatus{Generation: ring.Generation, Revoked: ring.AllRevoked(revoked)}
	for _, k := range ring.Keys {
		shown := v1alpha1.KeyStatus{
			KID: k.ID, Algorithm: v1alpha1.Algorithm(k.Algorithm), Phase: v1alpha1.KeyPhase(k.Phase), LastTransitionTime: metav1.NewTime(k.PhaseSince),
		}
		if !k.RemoveAfter.IsZero() {
			until := metav1.NewTime(k.RemoveAfter)
			shown.RemovalTime = &until
		}
		if k.Use == keys.Access {
			s.Access = append(s.Access, shown)
		} else {
			s.Refresh = append(s.Refresh, shown)
		}
	}
	var next time.Time
	for _, use := range keys.Uses() {
		if due := keyPolicy(g).NextRotation(ring, use); !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	if !next.IsZero() {
		due := metav1.NewTime(next.Truncate(time.Second))
		s.NextRotationTime = &due
	}
	if done := ring.Rotated[keys.Access]; ring.Honoured(done) {
		s.ObservedRotate = done
	}
	return s
}

// keysCondition says whether there are keys to sign with, whether they are
// published, and whether every key that a person has revoked is trusted no more.
func keysCondition(cs *clusterState, t tended, found *problem) condition {
	if pending := cs.pendingRevocation(t); pending != "" {
		switch {
		case found != nil:
			pending += ": " + found.message
		case cs.gateway.Spec.Suspend:
			pending += ": spec.suspend is true, and the operator changes nothing"
		}
		return isFalse(v1alpha1.ReasonRevocationPending, pending)
	}
	switch {
	case found != nil && found.cause != nil && len(t.ring.Keys) == 0 && cs.gateway.Status.Keys != nil:
		return condition{metav1.ConditionUnknown, found.reason, found.message}
	case found != nil:
		return isFalse(found.reason, found.message)
	case len(t.ring.Keys) == 0:
		return isFalse(v1alpha1.ReasonProgressing, "the first keys are being made")
	}
	for _, use := range keys.Uses() {
		k, signs := t.ring.Signing(use)
		published := cs.publicKeys()
		if !signs || published == nil || published.Data[keys.PublicFile(k.ID)] == "" {
			return isFalse(v1alpha1.ReasonProgressing, fmt.Sprintf("the %s keys are being published", use))
		}
	}
	if t.idle.Reason == keys.Unopenable {
		return isFalse(v1alpha1.ReasonKeysUnopenable, t.idle.Message)
	}
	unconfirmed := ""
	if all := cs.assumed(); len(all) > 0 && cs.needsAnswers() {
		unconfirmed = fmt.Sprintf("; not confirmed, but ready for so long that it has the keys: %s", few(all))
	}
	if awaited := cs.awaitedReplicas(t.ring); awaited != "" {
		return isTrue(v1alpha1.ReasonAwaitingReplicas, awaited+unconfirmed)
	}
	if len(t.waits) > 0 {
		return isTrue(v1alpha1.ReasonRotating, "a changed passphrase waits until the change before it is through"+unconfirmed)
	}
	switch t.idle.Reason {
	case keys.AwaitingPublication, keys.RingFull:
		return isTrue(v1alpha1.ReasonRotating, t.idle.Message+unconfirmed)
	}
	return isTrue(v1alpha1.ReasonKeysPublished, "every key that verifies is in the ConfigMap "+cs.names.publicKeys()+unconfirmed)
}

// pendingRevocation says which key is to be trusted no more and still is; "":
// none. The ring, what is published, and the replicas in service have to know.
func (cs *clusterState) pendingRevocation(t tended) string {
	document := cs.ownDocument()
	for _, id := range cs.gateway.Spec.Keys.Revoked {
		phase := cs.phaseOf(id, t.ring)
		switch {
		case phase == "":
		case phase != keys.Revoked:
			return fmt.Sprintf("the key %s is to be revoked, and is still %s", id, phase)
		case !t.through && document != nil && slices.ContainsFunc(document.Keys, func(k keys.PublicState) bool { return k.ID == id && k.Phase != keys.Revoked }):
			return fmt.Sprintf("the key %s is revoked, and still published", id)
		}
		if all := cs.trusting(id); phase == keys.Revoked && len(all) > 0 {
			return fmt.Sprintf("the key %s is revoked, and may be trusted for about two minutes more, until every replica has the new keys: %s", id, few(all))
		}
	}
	return ""
}

// phaseOf is the phase of a key, by the ring, or by what was last known of it;
// "": there is no such key.
func (cs *clusterState) phaseOf(id string, ring keys.Ring) keys.Phase {
	if len(ring.Keys) > 0 {
		k, _ := ring.Key(id)
		return k.Phase
	}
	if s := cs.gateway.Status.Keys; s != nil {
		for _, k := range slices.Concat(s.Access, s.Refresh) {
			if k.KID == id {
				return keys.Phase(k.Phase)
			}
		}
	}
	return ""
}

// awaitedReplicas says which key waits for which replicas; "": none does.
func (cs *clusterState) awaitedReplicas(ring keys.Ring) string {
	for _, phase := range []keys.Phase{keys.Published, keys.Signing} {
		for _, k := range ring.Keys {
			if k.Phase != phase || !cs.published(k.ID) {
				continue
			}
			if cs.podsErr != nil {
				return fmt.Sprintf("the %s %s key %s waits until every replica has it, and the pods cannot be listed", strings.ToLower(string(phase)), k.Use, k.ID)
			}
			if all := cs.without(k.ID); len(all) > 0 && cs.needsAnswers() {
				return fmt.Sprintf("the %s %s key %s waits until every replica has it: %s", strings.ToLower(string(phase)), k.Use, k.ID, few(all))
			}
		}
	}
	return ""
}

// availability says whether the API answers, and if not, why, in the words of
// those who know: the pods.
func availability(cs *clusterState) condition {
	d := cs.deployment()
	if d == nil {
		return isFalse(v1alpha1.ReasonReplicasMissing, "there are no pods yet")
	}
	count := fmt.Sprintf("%d of %d replicas are ready", d.Status.ReadyReplicas, replicasOf(d))
	warning := tooManyConnections(cs)
	switch {
	case replicasOf(d) == 0:
		return isFalse(v1alpha1.ReasonScaledToZero, "it is scaled to no replicas")
	case d.Status.AvailableReplicas > 0 && warning != "":
		return isTrue(v1alpha1.ReasonTooManyConnections, count+"; "+warning)
	case d.Status.AvailableReplicas > 0:
		return isTrue(v1alpha1.ReasonReplicasReady, count)
	}
	switch why, failing := lastWords(cs); {
	case failing:
		return isFalse(v1alpha1.ReasonPodsFailing, count+": "+why)
	case why != "":
		return isFalse(v1alpha1.ReasonReplicasMissing, count+": "+why)
	}
	return isFalse(v1alpha1.ReasonReplicasMissing, count)
}

// readiness is true only where everything of this generation of the spec is in
// place.
func readiness(cs *clusterState, found *problem, keysReady, available, database condition) condition {
	switch {
	case found != nil:
		return isFalse(found.reason, found.message)
	case cs.gateway.Spec.Suspend:
		// Tools that wait for an object take Unknown for "not yet", for ever.
		return condition{available.status, v1alpha1.ReasonSuspended, "spec.suspend is true: the operator changes nothing, edits of the spec wait, and keys do not rotate; " + available.message}
	case keysReady.status != metav1.ConditionTrue:
		return isFalse(keysReady.reason, keysReady.message)
	}
	if missing := cs.kindMissing(); missing != nil {
		return isFalse(missing.reason, missing.message)
	}
	d := cs.deployment()
	if d == nil || d.Status.ObservedGeneration < d.Generation {
		return isFalse(v1alpha1.ReasonProgressing, "the pods are being made")
	}
	wanted := replicasOf(d)
	if d.Status.UpdatedReplicas == wanted && d.Status.AvailableReplicas == wanted && d.Status.Replicas == wanted {
		if available.status != metav1.ConditionTrue && wanted > 0 {
			return available
		}
		if database.status == metav1.ConditionFalse {
			return database
		}
		return isTrue(v1alpha1.ReasonReady, available.message)
	}
	message := fmt.Sprintf("%d of %d replicas are up to date and ready", min(d.Status.UpdatedReplicas, d.Status.AvailableReplicas), wanted)
	switch why, failing := lastWords(cs); {
	case failing:
		return isFalse(v1alpha1.ReasonPodsFailing, message+": "+why)
	case why != "":
		return isFalse(v1alpha1.ReasonProgressing, message+": "+why)
	}
	if why := deploymentTrouble(d); why != "" {
		return isFalse(v1alpha1.ReasonReplicasMissing, message+": "+why)
	}
	return isFalse(v1alpha1.ReasonProgressing, message)
}

func replicasOf(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// deploymentTrouble is why a Deployment has no pods to ask: a quota, mostly.
func deploymentTrouble(d *appsv1.Deployment) string {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			return c.Message
		}
	}
	return ""
}

// startGrace is how long a pod may be not ready before it counts as failing. At an
// ordinary start it waits for its node, its image and its database, and may end
// and be started again.
const startGrace = 30 * time.Second

// lastWords returns why a pod is not ready, and whether that is a failure yet. It
// is what the pod says itself, else what it said when it ended, else what keeps it
// from starting. Of several pods the newest speaks, for it has what is wanted now.
func lastWords(cs *clusterState) (why string, failing bool) {
	pods := slices.Clone(cs.pods)
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	})
	for _, p := range pods {
		if isReady(p) {
			continue
		}
		if why := whyNotReady(p, cs.states[p.Name].Reason); why != "" {
			return fmt.Sprintf("pod %s: %s", p.Name, why), cs.now.Sub(notReadySince(p)) >= startGrace
		}
	}
	if d := cs.deployment(); d != nil {
		why = deploymentTrouble(d)
	}
	return why, why != ""
}

// notReadySince returns since when a pod is not ready.
func notReadySince(p corev1.Pod) time.Time {
	since := p.CreationTimestamp.Time
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.LastTransitionTime.After(since) {
			since = c.LastTransitionTime.Time
		}
	}
	return since
}

func whyNotReady(p corev1.Pod, said string) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "it cannot be scheduled: " + c.Message
		}
	}
	if said != "" {
		return said
	}
	for _, c := range p.Status.ContainerStatuses {
		for _, state := range []corev1.ContainerState{c.State, c.LastTerminationState} {
			if t := state.Terminated; t != nil && strings.TrimSpace(t.Message) != "" {
				return tail(strings.TrimSpace(t.Message), 600)
			}
		}
		if waits := c.State.Waiting; waits != nil && waits.Reason != "ContainerCreating" && waits.Reason != "PodInitializing" {
			return strings.TrimSpace(waits.Reason + ": " + waits.Message)
		}
		if t := c.LastTerminationState.Terminated; t != nil {
			return fmt.Sprintf("container %s ended with code %d (%s)", c.Name, t.ExitCode, t.Reason)
		}
	}
	return ""
}

// tail is the end of a text, where an error stands.
func tail(text string, most int) string {
	if len(text) <= most {
		return text
	}
	text = text[len(text)-most:]
	for len(text) > 0 && !utf8.RuneStart(text[0]) {
		text = text[1:]
	}
	return "…" + text
}

// tooManyConnections: where the database would run out of connections while pods
// are replaced, requests fail for no reason that anyone sees.
func tooManyConnections(cs *clusterState) string {
	d := cs.deployment()
	for _, state := range cs.states {
		limit, each := state.Database.MaxConnections, int(cs.gateway.Spec.Database.MaxConnections)
		replicas := int(replicasOf(d))
		if cs.gateway.Spec.Autoscaling != nil {
			replicas = int(cs.gateway.Spec.Autoscaling.MaxReplicas)
		}
		if limit > 0 && (replicas+1)*each > limit {
			return fmt.Sprintf("%d replicas, and one more while they are replaced, × spec.database.maxConnections %d exceed the %d connections of the database: lower one of them, or raise max_connections", replicas, each, limit)
		}
	}
	return ""
}
