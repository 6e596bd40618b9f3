package controllers

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/keys"
)

// NewDirect returns a Reconciler without a manager. It reads everything from the API
// server, has no watches, and knows none of the optional kinds. Tests call Reconcile.
func NewDirect(c client.Client, o Options) *Reconciler {
	r := newReconciler(c, c, o)
	r.watches = &watches{scheme: Scheme(), now: o.clock()}
	r.watchOptional = func(*managedObject, bool) (bool, error) { return false, nil }
	r.watchConfigMaps = func() error { return nil }
	return r
}

// EncryptCheaply makes a test encrypt keys with a single round. An operator needs half a second for each key.
func (r *Reconciler) EncryptCheaply() {
	r.reconcileRing = func(in keys.Input) (keys.Result, error) {
		in.Cost = 1
		return keys.Reconcile(in)
	}
}

// Watches exports the watches that are denied to an operator, as its metrics do. A
// process has one registry, and tests have many operators.
func (r *Reconciler) Watches() prometheus.Collector { return r.watches }

// Upgrades exports the upgrades of an operator, as its metrics do.
func (r *Reconciler) Upgrades() prometheus.Collector { return r.upgrades }

// AskAPod asks a pod as the operator does.
var AskAPod = ask()

// AdminRights are the rights that the Roles for administrators grant, as resources and verbs.
func AdminRights() (resources, verbs []string) { return adminSubresources, editorVerbs }
