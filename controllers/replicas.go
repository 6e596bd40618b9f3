package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// This file knows which keys each replica has loaded. A replica reports that when the operator asks it.
// docs/decisions/0032 explains what the operator assumes of a replica that it cannot reach.

// propagation is how long a ready pod takes at most to load a changed Secret: the kubelet syncs a mounted Secret at
// least every 90 seconds, its copy may be a minute old, and the server checks its files every two seconds.
const propagation = 3 * time.Minute

// observePods lists the pods of the Deployment, and asks them for their state.
func (r *Reconciler) observePods(ctx context.Context, cs *clusterState) {
	var pods corev1.PodList
	cached, cancel := context.WithTimeout(ctx, cacheWait)
	defer cancel()
	err := r.Client.List(cached, &pods, client.InNamespace(cs.names.namespace), client.MatchingLabels(cs.names.selector()))
	if err != nil {
		cs.podsErr = fmt.Errorf("list pods: %w", err)
		return
	}
	var askable []corev1.Pod
	for _, p := range pods.Items {
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		ours, err := r.isOfOurs(ctx, cs, idDeployment, p)
		switch {
		case err != nil: // it may belong to the Deployment
			cs.pods, cs.silent[p.Name] = append(cs.pods, p), err
		case ours:
			cs.pods, askable = append(cs.pods, p), append(askable, p)
		}
	}
	if !cs.needsAnswers() && !r.suspect(cs.gateway) { // one is enough to know about the database
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

// observeAdminPods lists the pods for administrators that are not ready, and asks the newest why.
func (r *Reconciler) observeAdminPods(ctx context.Context, cs *clusterState) {
	d := cs.adminDeployment()
	if d == nil || !wantsAdmin(cs.gateway) || isFinished(d) {
		return
	}
	var pods corev1.PodList
	cached, cancel := context.WithTimeout(ctx, cacheWait)
	defer cancel()
	err := r.Client.List(cached, &pods, client.InNamespace(cs.names.namespace), client.MatchingLabels(cs.names.adminSelector()))
	if err != nil {
		return // the Deployment says that they are not ready
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int {
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	})
	for _, p := range pods.Items {
		ours, err := r.isOfOurs(ctx, cs, idAdminDeployment, p)
		if err != nil || !ours || isReady(p) || p.DeletionTimestamp != nil {
			continue
		}
		cs.adminPods = append(cs.adminPods, p)
		if p.Status.PodIP != "" && len(cs.adminStates) == 0 {
			if state, err := r.Ask(ctx, p.Status.PodIP); err == nil {
				cs.adminStates[p.Name] = state
			}
		}
	}
}

// isOfOurs reports whether a pod belongs to a ReplicaSet of a Deployment of the
// gateway. The labels are not enough: anyone who may create pods in the namespace
// can set them, and the operator must neither ask nor believe such a pod.
func (r *Reconciler) isOfOurs(ctx context.Context, cs *clusterState, id objectID, p corev1.Pod) (bool, error) {
	if err := cs.unread[id]; err != nil {
		return false, errors.New("the Deployment cannot be read")
	}
	d, _ := cs.objects[id].(*appsv1.Deployment)
	owner := metav1.GetControllerOf(&p)
	if d == nil || owner == nil || owner.Kind != "ReplicaSet" || !cs.names.isOurs(d, cs.gateway) {
		return false, nil
	}
	of, known := r.owners.Get(owner.UID)
	if !known || of != d.UID { // another Deployment may have adopted it since
		set := metadataOf(gvkReplicaSet)
		err := r.Live.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: owner.Name}, set)
		if client.IgnoreNotFound(err) != nil {
			return false, errors.New("its ReplicaSet cannot be read")
		}
		controller := metav1.GetControllerOf(set)
		if err != nil || set.UID != owner.UID || controller == nil || controller.Kind != "Deployment" {
			return false, nil //nolint:nilerr // not found, or not the operator's
		}
		of = controller.UID
		r.owners.Add(owner.UID, of)
	}
	return of == d.UID, nil
}

// isKnown reports whether a reconcile has found the Deployment that a pod belongs to.
func (r *Reconciler) isKnown(p *corev1.Pod) bool {
	owner := metav1.GetControllerOf(p)
	return owner != nil && r.owners.Contains(owner.UID)
}

// needsAnswers reports whether every pod has to be asked: while keys or passphrases
// change, and while a pod is not ready. Otherwise one pod is asked.
func (cs *clusterState) needsAnswers() bool {
	if slices.ContainsFunc(cs.ring.Keys, func(k keys.Key) bool { return k.Phase != keys.Signing }) {
		return true
	}
	former := cs.passphraseState.Former
	return former[keys.Access] != "" || former[keys.Refresh] != "" ||
		slices.ContainsFunc(cs.pods, func(p corev1.Pod) bool { return !isReady(p) })
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

// isAssumed reports whether a pod that did not answer counts as having loaded the ring. It does if this process has
// seen both this ring and the pod ready for publishLead plus propagation. A ready pod has a working kubelet.
func (cs *clusterState) isAssumed(p corev1.Pod) bool {
	ready, known := cs.readySince[p.Name]
	if cs.silent[p.Name] == nil || !isReady(p) || !known || cs.ringSince.IsZero() {
		return false
	}
	bound := cs.gateway.Spec.Keys.PublishLead.Value() + propagation
	return cs.now.Sub(cs.ringSince) >= bound && cs.now.Sub(ready) >= bound
}

// sighted returns when this process first saw something. A restart forgets it, so
// that the wait begins again. No clock of another machine can shorten the wait.
func (r *Reconciler) sighted(now time.Time, what ...string) time.Time {
	key := strings.Join(what, "/")
	if since, known := r.sightings.Get(key); known {
		return since
	}
	r.sightings.Add(key, now)
	return now
}

// published reports whether the ConfigMap for consumers has a key, or lists it if it is a
// refresh key: those are in a ConfigMap of their own, which nothing has to wait for.
func (cs *clusterState) published(id string) bool {
	public := cs.publicKeys()
	if public == nil {
		return false
	}
	if _, there := public.Data[keys.PublicFile(id)]; there {
		return true
	}
	return slices.ContainsFunc(cs.publishedStates(), func(k keys.PublicState) bool {
		return k.ID == id && k.Use == keys.Refresh && k.Phase != keys.Revoked
	})
}

// seen reports whether a key is published and copied, and loaded by every ready replica.
func (cs *clusterState) seen(id string) bool {
	return cs.podsErr == nil && cs.published(id) && len(cs.without(id)) == 0 && cs.isCopied(id)
}

// without returns the ready replicas that may not have loaded a key, each with the reason.
func (cs *clusterState) without(id string) []string {
	return cs.replicas("has not loaded it", func(k config.KeysState) bool { return !slices.Contains(k.Ready, id) })
}

// trusting returns the ready replicas that may still trust a revoked key, each with the reason.
func (cs *clusterState) trusting(id string) []string {
	return cs.replicas("has not loaded the new keys", func(k config.KeysState) bool { return slices.Contains(k.Held, id) })
}

// replicas returns the ready replicas that cannot be asked, and those with these answers, each with the reason. It
// leaves out those that count as having loaded the ring; see isAssumed.
func (cs *clusterState) replicas(why string, with func(config.KeysState) bool) (all []string) {
	for _, p := range cs.pods {
		if !isReady(p) || cs.isAssumed(p) {
			continue
		}
		if cs.silent[p.Name] != nil {
			all = append(all, cs.cannotBeAsked(p))
		} else if with(cs.states[p.Name].Keys) {
			all = append(all, "pod "+p.Name+" "+why)
		}
	}
	slices.Sort(all)
	return all
}

func (cs *clusterState) cannotBeAsked(p corev1.Pod) string {
	return fmt.Sprintf("pod %s cannot be asked: %v", p.Name, cs.silent[p.Name])
}

// assumed returns the replicas that did not answer, and count as having loaded the ring; see isAssumed.
func (cs *clusterState) assumed() (all []string) {
	for _, p := range cs.pods {
		if cs.isAssumed(p) {
			all = append(all, cs.cannotBeAsked(p))
		}
	}
	slices.Sort(all)
	return all
}

// few joins at most five entries. There may be a hundred replicas.
func few(all []string) string {
	const most = 5
	if len(all) > most {
		return fmt.Sprintf("%s; and %d more", strings.Join(all[:most], "; "), len(all)-most)
	}
	return strings.Join(all, "; ")
}

// distributed reports whether every pod was started with the passphrases of this digest,
// and no pod will be started with others.
func (cs *clusterState) distributed(digest string) bool {
	if cs.podsErr != nil || cs.unread[idDeployment] != nil {
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

// loaded reports whether every pod has loaded the ring that was read.
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
		for _, use := range keys.Uses() { // a new ring may have the generation of a lost one
			if k, _ := cs.ring.Signing(use); !slices.Contains(state.Keys.Ready, k.ID) {
				return false
			}
		}
	}
	return true
}
