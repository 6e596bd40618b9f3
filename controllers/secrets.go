package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
)

// writeCaller writes the Secret with the key that lets backends see codes.
func (r *Reconciler) writeCaller(ctx context.Context, cs *clusterState, t *keyResult) error {
	if cs.caller != nil {
		t.callerKey = string(cs.caller.Data[secretCallerKey])
	}
	if len(t.callerKey) < config.MinPassphrase {
		t.callerKey = newPassphrase()
	}
	data := map[string][]byte{secretCallerKey: []byte(t.callerKey)}
	return r.writeSecret(ctx, cs, cs.caller, cs.ownSecret(cs.names.caller(), data, nil, false))
}

// ownSecret returns a Secret as the operator writes it. A Secret that must outlive its gateway has no owner and none of
// the labels by which other tools prune; a label names its gateway.
func (cs *clusterState) ownSecret(
	name string, data map[string][]byte, annotations map[string]string, retainable bool,
) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cs.names.namespace, Name: name,
			Labels: cs.names.labels(), Annotations: merged(annotations, nil),
		},
		Type: corev1.SecretTypeOpaque,
		Data: data,
	}
	s.Labels[labelGateway] = cs.names.gateway
	if retainable && cs.gateway.Spec.DeletionPolicy != v1alpha1.DeletionDelete {
		s.Labels[labelInstance] = "" // merged removes it
		s.Annotations[annotationSyncOptions], s.Annotations[annotationHelmPolicy] = keepFromArgoCD, keepFromHelm
		return s
	}
	s.OwnerReferences = []metav1.OwnerReference{ownerReference(cs.gateway)}
	return s
}

// ownerReference makes the garbage collector delete an object with its gateway. It does
// not block the deletion of the gateway: that would need rights over its finalizers.
func ownerReference(g *v1alpha1.AuthGateway) metav1.OwnerReference {
	yes := true
	return metav1.OwnerReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "AuthGateway", Name: g.Name, UID: g.UID, Controller: &yes,
	}
}

// errSwapLost ends a reconcile: another writer changed a Secret of this gateway after
// it was read. The next reconcile reads everything again.
var errSwapLost = errors.New("another writer was faster; reading again")

// writeSecret writes a Secret of the operator if it differs from the one that was read.
// It keeps labels, annotations, owners and finalizers that others have added.
//
// It writes by compare-and-swap: it replaces the version that was read, or creates the Secret if there was none.
func (r *Reconciler) writeSecret(ctx context.Context, cs *clusterState, read, desired *corev1.Secret) error {
	exists := read != nil
	if !exists {
		read = &corev1.Secret{}
	}
	annotations := maps.Clone(read.Annotations)
	maps.DeleteFunc(annotations, func(name, value string) bool {
		return name == annotationSyncOptions && value == keepFromArgoCD ||
			name == annotationHelmPolicy && value == keepFromHelm
	})
	desired.Labels = merged(read.Labels, desired.Labels)
	desired.Annotations = merged(annotations, desired.Annotations)
	if exists {
		desired.OwnerReferences = append(desired.OwnerReferences, othersOwners(read, cs.gateway)...)
		desired.Finalizers = read.Finalizers
		if reflect.DeepEqual(read.Data, desired.Data) && maps.Equal(read.Labels, desired.Labels) &&
			maps.Equal(read.Annotations, desired.Annotations) &&
			equality.Semantic.DeepEqual(read.OwnerReferences, desired.OwnerReferences) {
			return nil
		}
		desired.Type, desired.Immutable = read.Type, read.Immutable // the type cannot change
		if read.Immutable != nil && *read.Immutable && !reflect.DeepEqual(read.Data, desired.Data) {
			return stalled(v1alpha1.ReasonSecretImmutable,
				"the Secret %s is immutable, so it cannot be updated: replace it with a mutable one: "+
					"kubectl get secret %s -n %s -o json | jq 'del(.immutable)' | kubectl replace --force -f -",
				read.Name, read.Name, read.Namespace)
		}
	}
	var err error
	if exists {
		desired.ResourceVersion = read.ResourceVersion
		err = r.Client.Update(ctx, desired, client.FieldOwner(FieldManager))
	} else {
		err = r.Client.Create(ctx, desired, client.FieldOwner(FieldManager))
	}
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), exists && apierrors.IsNotFound(err):
		return errSwapLost
	}
	return fmt.Errorf("write Secret %s: %w", desired.Name, err)
}

func othersOwners(secret *corev1.Secret, g *v1alpha1.AuthGateway) []metav1.OwnerReference {
	return slices.DeleteFunc(slices.Clone(secret.OwnerReferences), func(o metav1.OwnerReference) bool {
		return o.UID == g.UID || o.Kind == "AuthGateway" && o.APIVersion == v1alpha1.GroupVersion.String()
	})
}

// merged lays one map over another. An empty value removes an entry.
func merged(base, over map[string]string) map[string]string {
	all := maps.Clone(base)
	if all == nil {
		all = map[string]string{}
	}
	for name, value := range over {
		if value == "" {
			delete(all, name)
		} else {
			all[name] = value
		}
	}
	return all
}
