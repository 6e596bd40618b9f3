package controllers

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// ApplyExposed brings what leads to a gateway from the outside to what is wanted,
// as a pass would if the server of this version could send mail: without it, a
// pass does not get there.
func (r *Reconciler) ApplyExposed(ctx context.Context, key client.ObjectKey) error {
	g := &v1alpha1.AuthGateway{}
	if err := r.Client.Get(ctx, key, g); err != nil {
		return err
	}
	w, err := r.observe(ctx, g)
	if err != nil {
		return err
	}
	t := tended{ring: w.ring, custody: w.custody}
	if p := firstOf(w.conflicts(), w.kindMissing()); p != nil {
		return p
	}
	return r.apply(ctx, w, r.rendering(w, t), slotIngress, slotHTTPRoute)
}
