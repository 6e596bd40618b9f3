package controllers

import (
	"context"
	"maps"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// A publication is what an AuthGateway publishes: the entries of its ConfigMap.
type publication struct {
	gateway    types.UID
	generation int64             // of the key ring
	data       map[string]string // never changed in place; nil: this process knows of none
	blocked    bool              // a problem keeps the gateway from publishing its present keys
}

// publications passes what each AuthGateway publishes from its reconcile to the reconciles of its copies. It is kept in
// memory, and not read from the gateway's ConfigMap: if a person adds a key there, the operator removes it within
// moments, and until then no copy may have it either.
//
// After a restart a gateway has no publication until it was reconciled. Its copies are left alone until then.
type publications struct {
	mu      sync.Mutex
	all     map[types.NamespacedName]publication
	changed func(context.Context, types.NamespacedName) // wakes the copies; nil: no copies are watched
}

func newPublications() *publications {
	return &publications{all: map[types.NamespacedName]publication{}}
}

func (p *publications) of(gateway types.NamespacedName) (publication, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	is, known := p.all[gateway]
	return is, known
}

func (p *publications) forget(gateway types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, gateway)
}

func (p *publications) set(ctx context.Context, gateway types.NamespacedName, is publication) {
	p.mu.Lock()
	was, known := p.all[gateway]
	p.all[gateway] = is
	changed := p.changed
	p.mu.Unlock()
	same := known && was.gateway == is.gateway && was.generation == is.generation && was.blocked == is.blocked &&
		maps.Equal(was.data, is.data)
	if !same && changed != nil {
		changed(ctx, gateway)
	}
}

// notePublication records what a gateway publishes after its keys were reconciled. It does not depend on whether the
// gateway's own ConfigMap could be written: a revocation must reach the copies nevertheless.
func (r *Reconciler) notePublication(ctx context.Context, cs *clusterState, t keyResult, found *problem) {
	g := cs.gateway
	gateway := client.ObjectKeyFromObject(g)
	if len(t.ring.Keys) > 0 {
		document := cs.ownDocument()
		if g.Spec.Suspend && (document == nil || document.Generation != t.ring.Generation) {
			return // the ring was not published before the suspension
		}
		rendered := renderPublicKeys(rendering{clusterState: cs, ring: t.ring})
		if live := cs.publicKeys(); live != nil {
			share(rendered.Data, live.Data)
		}
		r.publications.set(ctx, gateway, publication{gateway: g.UID, generation: t.ring.Generation, data: rendered.Data})
		return
	}
	if found == nil || !found.stalled && g.Status.Keys != nil {
		return // the next reconcile knows more
	}
	is, _ := r.publications.of(gateway)
	if is.gateway != g.UID {
		is = publication{gateway: g.UID}
	}
	is.blocked = true // what was published stays published
	r.publications.set(ctx, gateway, is)
}

// share replaces the texts of data by those of the cache, if they are equal, so that memory holds each once.
func share(data, cached map[string]string) {
	for file, content := range cached {
		if data[file] == content {
			data[file] = content
		}
	}
}

// withdrawnFile is an entry of a copy without keys. It explains to a person why.
const withdrawnFile = "withdrawn"

// withdrawnEntries returns the entries of a copy whose gateway no longer serves the namespace: the same documents,
// without a key. A pod that mounts them accepts no token. If the ConfigMap were deleted instead, the pod would keep the
// old files and trust their keys for as long as it runs, revoked ones included.
func withdrawnEntries(generation int64) map[string]string {
	entries := map[string]string{
		withdrawnFile: "These keys were withdrawn: the AuthGateway is gone, or it no longer allows this namespace. " +
			"The status of the PublicKeys says what to do.\n",
	}
	for name, content := range keys.PublicFiles(keys.Ring{Generation: generation}, "") {
		entries[name] = string(content)
	}
	return entries
}

// allows reports whether a gateway allows copies of its public keys in a namespace with these labels.
func allows(g *v1alpha1.AuthGateway, namespace string, of map[string]string) bool {
	if namespace == g.Namespace { // pods there can mount the gateway's own ConfigMap
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(g.Spec.PublicKeys.AllowedNamespaces) // nil selects nothing
	return err == nil && selector.Matches(labels.Set(of))
}

// selectorRefused returns a problem if spec.publicKeys.allowedNamespaces is invalid.
// The API server does not check selectors in custom resources.
func selectorRefused(g *v1alpha1.AuthGateway) *problem {
	if _, err := metav1.LabelSelectorAsSelector(g.Spec.PublicKeys.AllowedNamespaces); err != nil {
		return stalled(v1alpha1.ReasonInvalidSpec,
			"spec.publicKeys.allowedNamespaces is invalid, so no other namespace is allowed: %v", err)
	}
	return nil
}
