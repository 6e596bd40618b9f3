package controllers

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// availability reports whether the API answers and, if not, why.
func availability(cs *clusterState) condition {
	d := cs.deployment()
	if d == nil {
		return isFalse(v1alpha1.ReasonReplicasMissing, "there are no pods yet")
	}
	count := fmt.Sprintf("%d of %d replicas are ready", d.Status.ReadyReplicas, replicasOf(d))
	warning := tooManyConnections(cs)
	switch {
	case replicasOf(d) == 0:
		return isFalse(v1alpha1.ReasonScaledToZero, "the Deployment is scaled to zero replicas")
	case d.Status.AvailableReplicas > 0 && warning != "":
		return isTrue(v1alpha1.ReasonTooManyConnections, count+"; "+warning)
	case d.Status.AvailableReplicas > 0:
		return isTrue(v1alpha1.ReasonReplicasReady, count)
	}
	return notReady(cs, count, v1alpha1.ReasonReplicasMissing)
}

// notReady adds to a message why a pod is not ready. The reason is PodsFailing if that is a failure.
func notReady(cs *clusterState, message, reason string) condition {
	why, failing := podFailure(cs)
	if failing {
		reason = v1alpha1.ReasonPodsFailing
	}
	if why != "" {
		message += ": " + why
	}
	return isFalse(reason, message)
}

func replicasOf(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// replicaFailure returns why a Deployment cannot create pods, usually a quota.
func replicaFailure(d *appsv1.Deployment) string {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			return c.Message
		}
	}
	return ""
}

// startGrace is how long a pod may be unready before it counts as failing. During an ordinary start it waits for its
// node, its image and its database, and may be restarted.
const startGrace = 30 * time.Second

// podFailure returns why a pod is not ready, and whether that is a failure yet. If several pods are not ready, it is
// about the newest, which has the present template.
func podFailure(cs *clusterState) (why string, failing bool) {
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
		why = replicaFailure(d)
	}
	return why, why != ""
}

// notReadySince returns since when a pod has not been ready.
func notReadySince(p corev1.Pod) time.Time {
	since := p.CreationTimestamp.Time
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.LastTransitionTime.After(since) {
			since = c.LastTransitionTime.Time
		}
	}
	return since
}

// whyNotReady returns the most specific reason: that it is not scheduled, the reason that its server reports, its last
// message before it ended, or what prevents its start.
func whyNotReady(p corev1.Pod, reported string) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "it cannot be scheduled: " + c.Message
		}
	}
	if reported != "" {
		return reported
	}
	for _, c := range p.Status.ContainerStatuses {
		for _, state := range []corev1.ContainerState{c.State, c.LastTerminationState} {
			if t := state.Terminated; t != nil && strings.TrimSpace(t.Message) != "" {
				return tail(strings.TrimSpace(t.Message), 600)
			}
		}
		w := c.State.Waiting
		if w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			return strings.TrimSpace(w.Reason + ": " + w.Message)
		}
		if t := c.LastTerminationState.Terminated; t != nil {
			return fmt.Sprintf("container %s ended with code %d (%s)", c.Name, t.ExitCode, t.Reason)
		}
	}
	return ""
}

// tail returns the end of a text, where the error is.
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

// tooManyConnections returns a warning if the replicas may open more connections
// than the database allows. Requests would fail while pods are replaced.
func tooManyConnections(cs *clusterState) string {
	d := cs.deployment()
	for _, state := range cs.states {
		limit, each := state.Database.MaxConnections, int(cs.gateway.Spec.Database.MaxConnections)
		replicas := int(replicasOf(d))
		if cs.gateway.Spec.Autoscaling != nil {
			replicas = int(cs.gateway.Spec.Autoscaling.MaxReplicas)
		}
		if limit > 0 && (replicas+1)*each > limit {
			return fmt.Sprintf("%d replicas, and one more during a rollout, with spec.database.maxConnections %d each "+
				"may exceed the database's limit of %d connections: lower one of them, or raise max_connections",
				replicas, each, limit)
		}
	}
	return ""
}
