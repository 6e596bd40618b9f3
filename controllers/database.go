package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// A server stays ready during an outage of its database, because it still serves
// the public keys (docs/decisions/0028-ready-without-a-database.md). No event of
// Kubernetes reports such an outage, so the operator asks the replicas.

const (
	// databaseLook is how often the replicas are asked about their database.
	databaseLook = 30 * time.Second

	// databaseAskers is how many replicas are asked at the same time.
	databaseAskers = 8

	// maxProblem limits how much of a replica's message a condition shows.
	maxProblem = 511
)

// databaseCondition reports whether the replicas can write to their database, as
// they report it. If no replica answered, the condition stays as it was.
func databaseCondition(cs *clusterState) condition {
	var failing []string
	answered := 0
	for _, p := range cs.pods {
		state, known := cs.states[p.Name]
		if !known || !isReady(p) {
			continue
		}
		answered++
		if state.Database.Problem != "" {
			failing = append(failing, fmt.Sprintf("pod %s: %s", p.Name, oneLine(state.Database.Problem, maxProblem)))
		}
	}
	if len(failing) > 0 {
		slices.Sort(failing)
		return isFalse(v1alpha1.ReasonDatabaseUnavailable, fmt.Sprintf(
			"%d of %d replicas that answered cannot use the database. They still serve the public keys. %s",
			len(failing), answered, failing[0]))
	}
	if answered > 0 {
		return isTrue(v1alpha1.ReasonDatabaseAnswers, "the database accepts writes")
	}
	if last := meta.FindStatusCondition(cs.gateway.Status.Conditions, v1alpha1.ConditionDatabaseAvailable); last != nil {
		return condition{last.Status, last.Reason, last.Message}
	}
	return condition{metav1.ConditionUnknown, v1alpha1.ReasonReplicasMissing, "no ready replica has answered yet"}
}

// oneLine returns a text as one line of at most most bytes, without control characters.
func oneLine(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	return clipTo(text, most)
}

// suspect reports whether every replica of a gateway has to be asked, because one of
// them contradicted the condition or the database is known to be unavailable.
func (r *Reconciler) suspect(g *v1alpha1.AuthGateway) bool {
	_, contradicted := r.suspects.Load(client.ObjectKeyFromObject(g))
	return contradicted || meta.IsStatusConditionFalse(g.Status.Conditions, v1alpha1.ConditionDatabaseAvailable)
}

// watchDatabases asks all replicas periodically until ctx is done. It queues each
// gateway whose condition the answers contradict.
func (r *Reconciler) watchDatabases(ctx context.Context) error {
	tick := time.NewTicker(cmp.Or(r.Options.DatabaseLook, databaseLook))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r.lookAtDatabases(ctx)
	}
}

func (r *Reconciler) lookAtDatabases(ctx context.Context) {
	var gateways v1alpha1.AuthGatewayList
	var pods corev1.PodList
	if r.Client.List(ctx, &gateways, client.UnsafeDisableDeepCopy) != nil ||
		r.Client.List(ctx, &pods, client.UnsafeDisableDeepCopy) != nil {
		return // the cache has not synced yet, or ctx is done
	}
	replicas := map[types.NamespacedName][]string{} // addresses of ready pods
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && p.Status.PodIP != "" && isReady(p) &&
			p.Labels[labelName] == serverName && r.isKnown(&p) {
			key := types.NamespacedName{Namespace: p.Namespace, Name: p.Labels[labelInstance]}
			replicas[key] = append(replicas[key], p.Status.PodIP)
		}
	}
	workers := make(chan struct{}, databaseAskers)
	var asking sync.WaitGroup
	for i := range gateways.Items {
		g := &gateways.Items[i]
		addresses := replicas[client.ObjectKeyFromObject(g)]
		if g.DeletionTimestamp != nil || len(addresses) == 0 {
			continue
		}
		select {
		case workers <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		asking.Go(func() {
			defer func() { <-workers }()
			r.compareDatabase(ctx, g, addresses)
		})
	}
	asking.Wait()
}

func (r *Reconciler) compareDatabase(ctx context.Context, g *v1alpha1.AuthGateway, addresses []string) {
	answered, failing := false, false
	for _, address := range addresses {
		if state, err := r.Ask(ctx, address); err == nil {
			answered, failing = true, failing || state.Database.Problem != ""
		}
	}
	key := client.ObjectKeyFromObject(g)
	condition := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionDatabaseAvailable)
	if answered && (condition == nil || failing != (condition.Status == metav1.ConditionFalse)) {
		r.suspects.Store(key, true)
		r.wakeUp(key)
	} else {
		r.suspects.Delete(key)
	}
}
