package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/auth-gateway/auth-gateway/keys"
)

// What is known of the replicas: which keys each has loaded. A replica says so
// itself, when the operator can reach it; docs/decisions/0032 has what counts
// where it cannot.

// propagation is how long a change of a Secret takes, at most, until a pod that
// is ready has loaded it: the kubelet looks at a mounted Secret at least every 90
// seconds, its view of it may be a minute old, and the server looks every two
// seconds.
const propagation = 3 * time.Minute

// observePods looks for the pods of our Deployment, and asks them.
func (r *Reconciler) observePods(ctx context.Context, cs *clusterState) {
	var pods corev1.PodList
	cached, cancel := context.WithTimeout(ctx, cacheWait)
	defer cancel()
	if err := r.Client.List(cached, &pods, client.InNamespace(cs.names.namespace), client.MatchingLabels(cs.names.selector())); err != nil {
		cs.podsErr = fmt.Errorf("list pods: %w", err)
		return
	}
	var askable []corev1.Pod
	for _, p := range pods.Items {
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		ours, err := r.isOfOurDeployment(ctx, cs, p)
		switch {
		case err != nil: // it may be
			cs.pods, cs.silent[p.Name] = append(cs.pods, p), err
		case ours:
			cs.pods, askable = append(cs.pods, p), append(askable, p)
		}
	}
	if !cs.needsAnswers() && !r.databases.suspect(cs.gateway) { // one is enough to know the database by
		askable = askable[:min(1, len(askable))]
	}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, p := range askable {
		if p.Status.PodIP == "" {
			continue
		}
		asking.Go(func() {
			state, err := r.Ask(ctx, p.Status.PodIP)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				cs.silent[p.Name] = err
			} else {
				cs.states[p.Name] = state
			}
		})
	}
	asking.Wait()
	if cs.keys != nil {
		cs.ringSince = r.sighted(cs.now, string(cs.keys.UID), cs.keys.ResourceVersion)
	}
	for _, p := range cs.pods {
		if ready := readyCondition(p); ready != nil {
			cs.readySince[p.Name] = r.sighted(cs.now, string(p.UID), ready.LastTransitionTime.UTC().Format(time.RFC3339))
		}
	}
}

// isOfOurDeployment says whether a pod belongs to a ReplicaSet of the Deployment
// that the operator has made. Anybody who may make pods can give one our labels,
// and what such a pod says, or where it leads, is nothing to go by.
func (r *Reconciler) isOfOurDeployment(ctx context.Context, cs *clusterState, p corev1.Pod) (bool, error) {
	if err := cs.unread[gvkDeployment]; err != nil {
		return false, errors.New("the Deployment cannot be read")
	}
	d, owner := cs.deployment(), metav1.GetControllerOf(&p)
	if d == nil || owner == nil || owner.Kind != "ReplicaSet" || !cs.names.isOurs(d, cs.gateway) {
		return false, nil
	}
	of, known := r.owners.Get(owner.UID)
	if !known || of != d.UID { // it may have been adopted since
		set := &metav1.PartialObjectMetadata{}
		set.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))
		err := r.Live.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: owner.Name}, set)
		if client.IgnoreNotFound(err) != nil {
			return false, errors.New("its ReplicaSet cannot be read")
		}
		controller := metav1.GetControllerOf(set)
		if err != nil || set.UID != owner.UID || controller == nil || controller.Kind != "Deployment" {
			return false, nil //nolint:nilerr // it does not exist, or is not ours
		}
		of = controller.UID
		r.owners.Add(owner.UID, of)
	}
	return of == d.UID, nil
}

// isKnown reports whether a pass has found that a pod belongs to a Deployment.
func (r *Reconciler) isKnown(p *corev1.Pod) bool {
	owner := metav1.GetControllerOf(p)
	return owner != nil && r.owners.Contains(owner.UID)
}

// needsAnswers: all pods are asked only where their answers matter: while keys
// come and go, and while a pod is not ready.
func (cs *clusterState) needsAnswers() bool {
	for _, k := range cs.ring.Keys {
		if k.Phase != keys.Signing {
			return true
		}
	}
	for _, use := range keys.Uses() {
		if cs.custody.Former[use] != "" {
			return true
		}
	}
	return slices.ContainsFunc(cs.pods, func(p corev1.Pod) bool { return !isReady(p) })
}

func readyCondition(p corev1.Pod) *corev1.PodCondition {
	for i, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func isReady(p corev1.Pod) bool { return readyCondition(p) != nil }

// isAssumed says of a pod that could not be asked that it must have loaded the
// ring that was read: for keys.publishLead, and as long as a mounted Secret can
// lag behind besides, the operator has seen this ring, and the pod ready, so that
// its kubelet was at work.
func (cs *clusterState) isAssumed(p corev1.Pod) bool {
	ready, known := cs.readySince[p.Name]
	if cs.silent[p.Name] == nil || !isReady(p) || !known || cs.ringSince.IsZero() {
		return false
	}
	bound := cs.gateway.Spec.Keys.PublishLead.Value() + propagation
	return cs.now.Sub(cs.ringSince) >= bound && cs.now.Sub(ready) >= bound
}

// sighted is since when this process has seen something. What it remembers is
// lost with it, so that a wait begins anew, and no clock that jumps, or that
// differs from another's, makes one shorter.
func (r *Reconciler) sighted(now time.Time, what ...string) time.Time {
	key := strings.Join(what, "/")
	if since, known := r.sightings.Get(key); known {
		return since
	}
	r.sightings.Add(key, now)
	return now
}

// published says whether consumers get a key.
func (cs *clusterState) published(id string) bool {
	public := cs.publicKeys()
	if public == nil {
		return false
	}
	_, there := public.Data[keys.PublicFile(id)]
	return there
}

// seen says whether a key is published, and every replica in service could sign
// with it.
func (cs *clusterState) seen(id string) bool {
	return cs.podsErr == nil && cs.published(id) && len(cs.without(id)) == 0
}

// without are the replicas in service that are not known to have a key, each with
// the reason.
func (cs *clusterState) without(id string) (all []string) {
	for _, p := range cs.pods {
		switch {
		case !isReady(p) || cs.isAssumed(p):
		case cs.silent[p.Name] != nil:
			all = append(all, fmt.Sprintf("pod %s cannot be asked: %v", p.Name, cs.silent[p.Name]))
		case !slices.Contains(cs.states[p.Name].Keys.Ready, id):
			all = append(all, fmt.Sprintf("pod %s has not loaded it", p.Name))
		}
	}
	slices.Sort(all)
	return all
}

// trusting are the replicas in service that may still trust a revoked key, each
// with the reason.
func (cs *clusterState) trusting(id string) (all []string) {
	for _, p := range cs.pods {
		state, answered := cs.states[p.Name]
		switch {
		case !isReady(p) || cs.isAssumed(p):
		case cs.silent[p.Name] != nil:
			all = append(all, fmt.Sprintf("pod %s cannot be asked: %v", p.Name, cs.silent[p.Name]))
		case answered && slices.Contains(state.Keys.Held, id):
			all = append(all, fmt.Sprintf("pod %s has not loaded the new keys", p.Name))
		}
	}
	slices.Sort(all)
	return all
}

// assumed are the replicas in service that could not be asked, and count as
// having loaded the ring all the same.
func (cs *clusterState) assumed() (all []string) {
	for _, p := range cs.pods {
		if cs.isAssumed(p) {
			all = append(all, fmt.Sprintf("pod %s cannot be asked: %v", p.Name, cs.silent[p.Name]))
		}
	}
	slices.Sort(all)
	return all
}

// few joins what a message names, of which there may be a hundred.
func few(all []string) string {
	const most = 5
	if len(all) > most {
		return fmt.Sprintf("%s; and %d more", strings.Join(all[:most], "; "), len(all)-most)
	}
	return strings.Join(all, "; ")
}

// given says whether every pod has been started with the passphrases of this
// digest, and no pod will be with others.
func (cs *clusterState) given(digest string) bool {
	if cs.podsErr != nil || cs.unread[gvkDeployment] != nil {
		return false
	}
	for _, p := range cs.pods {
		if p.Annotations[annotationPassphrases] != digest {
			return false
		}
	}
	d := cs.deployment()
	return len(cs.pods) == 0 || d != nil && d.Spec.Template.Annotations[annotationPassphrases] == digest && isRolledOut(d)
}

// loaded says whether every pod has the ring that was read.
func (cs *clusterState) loaded() bool {
	if cs.podsErr != nil {
		return false
	}
	for _, p := range cs.pods {
		if cs.isAssumed(p) {
			continue
		}
		state, answered := cs.states[p.Name]
		if !isReady(p) || !answered || state.Keys.Generation != cs.ring.Generation {
			return false
		}
		for _, use := range keys.Uses() { // a ring in the place of a lost one may have its generation
			if k, _ := cs.ring.Signing(use); !slices.Contains(state.Keys.Ready, k.ID) {
				return false
			}
		}
	}
	return true
}
