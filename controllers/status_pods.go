package controllers

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
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
	why, failing := podFailure(cs.pods, cs.states, cs.deployment(), cs.now)
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
func podFailure(
	all []corev1.Pod, states map[string]config.State, d *appsv1.Deployment, now time.Time,
) (why string, failing bool) {
	pods := slices.Clone(all)
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	})
	for _, p := range pods {
		if isReady(p) {
			continue
		}
		if why := whyNotReady(p, states[p.Name].Reason); why != "" {
			return fmt.Sprintf("pod %s: %s", p.Name, why), now.Sub(notReadySince(p)) >= startGrace
		}
	}
	if d != nil {
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
	admins := 0
	if wantsAdmin(cs.gateway) {
		admins = (int(cs.gateway.Spec.Admin.Replicas) + 1) * adminConnections(cs.gateway)
	}
	for _, state := range cs.states {
		limit, each := state.Database.MaxConnections, int(cs.gateway.Spec.Database.MaxConnections)
		replicas := int(replicasOf(d))
		if cs.gateway.Spec.Autoscaling != nil {
			replicas = int(cs.gateway.Spec.Autoscaling.MaxReplicas)
		}
		if limit > 0 && (replicas+1)*each+admins > limit {
			return fmt.Sprintf("%d replicas, and one more during a rollout, with spec.database.maxConnections %d each "+
				"may exceed the database's limit of %d connections: lower one of them, or raise max_connections",
				replicas, each, limit)
		}
	}
	return ""
}

// administration reports whether administrators are served and, if not, why.
func administration(cs *clusterState) condition {
	d := cs.adminDeployment()
	if err := cs.unread[idAdminDeployment]; err != nil {
		return condition{metav1.ConditionUnknown, classify(err).reason, "the Deployment " + cs.names.admin() + " cannot be read"}
	}
	if d == nil {
		return isFalse(v1alpha1.ReasonProgressing, "there are no pods for administrators yet")
	}
	count := fmt.Sprintf("%d of %d replicas for administrators are ready", d.Status.ReadyReplicas, replicasOf(d))
	for _, state := range cs.adminStates {
		if state.MayNotReview {
			return isFalse(v1alpha1.ReasonReviewsForbidden, fmt.Sprintf("%s: the ServiceAccount %s may not ask the API server "+
				"who administrators are and what they may do. Bind it: kubectl create clusterrolebinding %s-%[2]s "+
				"--clusterrole=system:auth-delegator --serviceaccount=%[3]s:%[2]s", count, cs.names.admin(), cs.names.namespace))
		}
	}
	if d.Status.AvailableReplicas > 0 && d.Status.ObservedGeneration >= d.Generation {
		return isTrue(v1alpha1.ReasonReplicasReady, count)
	}
	why, failing := podFailure(cs.adminPods, cs.adminStates, d, cs.now)
	if why != "" {
		count += ": " + why
	}
	if failing {
		return isFalse(v1alpha1.ReasonPodsFailing, count)
	}
	return isFalse(v1alpha1.ReasonProgressing, count)
}
