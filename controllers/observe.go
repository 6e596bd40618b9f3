package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// clusterState is what one reconcile works from: what it read, and when.
type clusterState struct {
	gateway *v1alpha1.AuthGateway
	names   names
	now     time.Time

	operatorVersion string

	keys, passphrases, caller *corev1.Secret // the operator's own; nil: there is none

	// inputs and configMaps are what the spec refers to, by name. An entry is nil
	// if there is no such object; inputErr has the Secrets that could not be read.
	inputs     map[string]*corev1.Secret
	inputErr   map[string]error
	configMaps map[string]*corev1.ConfigMap

	ring            keys.Ring
	ringErr         error // why the Secret of the keys is invalid
	passphraseState keys.PassphraseState

	objects map[objectID]client.Object // the managed objects that exist
	absent  map[objectID]bool          // the cluster does not have the kind
	unread  map[objectID]error         // why a managed object could not be read

	copies []observedCopy // of the public keys in other namespaces, while the keys change

	upgradeWaits bool // the pods are not replaced yet, because other gateways come first

	adminPods   []corev1.Pod            // those that are not ready, if not all replicas are
	adminStates map[string]config.State // the answers of adminPods, by pod name

	pods       []corev1.Pod            // of the Deployment, without those that are terminating
	podsErr    error                   // why the pods could not be listed
	states     map[string]config.State // the answers of pods, by pod name
	silent     map[string]error        // why a pod did not answer, by pod name
	ringSince  time.Time               // when this process first saw the present Secret of the keys
	readySince map[string]time.Time    // when this process first saw a pod ready, by pod name
}

func (cs *clusterState) deployment() *appsv1.Deployment {
	d, _ := cs.objects[idDeployment].(*appsv1.Deployment)
	return d
}

func (cs *clusterState) adminDeployment() *appsv1.Deployment {
	d, _ := cs.objects[idAdminDeployment].(*appsv1.Deployment)
	return d
}

func (cs *clusterState) publicKeys() *corev1.ConfigMap {
	c, _ := cs.objects[idPublicKeys].(*corev1.ConfigMap)
	return c
}

func newClusterState(g *v1alpha1.AuthGateway, now time.Time) *clusterState {
	return &clusterState{
		gateway: g, names: namesOf(g), now: now,
		inputs: map[string]*corev1.Secret{}, inputErr: map[string]error{}, configMaps: map[string]*corev1.ConfigMap{},
		objects: map[objectID]client.Object{}, absent: map[objectID]bool{}, unread: map[objectID]error{},
		states: map[string]config.State{}, silent: map[string]error{}, readySince: map[string]time.Time{},
		adminStates: map[string]config.State{},
	}
}

// observeKeys reads only what the keys depend on, so that no other object can delay them. It returns an error if a
// Secret without which nothing can be decided could not be read. Anything else that could not be read is recorded in
// the clusterState.
func (r *Reconciler) observeKeys(ctx context.Context, cs *clusterState) error {
	// The public keys are read before the keys: see applyPublicKeys.
	r.observeObject(ctx, cs, objectPublicKeys)
	r.observeObject(ctx, cs, objectRefreshPublicKeys)
	var err error
	if cs.passphrases, err = r.readSecret(ctx, cs, cs.names.passphrases()); err != nil {
		return err
	}
	if cs.keys, err = r.readSecret(ctx, cs, cs.names.keys()); err != nil {
		return err
	}
	if cs.keys != nil {
		cs.ring, cs.ringErr = keys.FromFiles(cs.keys.Data)
	}
	cs.passphraseState = passphraseStateOf(cs.passphrases)
	if ref := cs.gateway.Spec.Keys.PassphraseSecretRef; ref != nil {
		r.observeInput(ctx, cs, ref.Name)
	}
	r.observeObject(ctx, cs, objectDeployment)
	r.observePods(ctx, cs)
	r.observeCopies(ctx, cs)
	return r.confirmRing(ctx, cs)
}

// confirmRing reads the ring again if it looks older than what was seen elsewhere.
// Another writer may have replaced it since it was read; then this reconcile ends.
func (r *Reconciler) confirmRing(ctx context.Context, cs *clusterState) error {
	if cs.keys == nil || !cs.trace(cs.ring).RolledBack(cs.ring) {
		return nil
	}
	now, err := r.readSecret(ctx, cs, cs.names.keys())
	if err == nil && (now == nil || now.ResourceVersion != cs.keys.ResourceVersion) {
		err = errSwapLost
	}
	return err
}

// observeRest reads everything else. An object that could not be read is recorded
// and delays only what needs it. The error concerns what every object needs.
func (r *Reconciler) observeRest(ctx context.Context, cs *clusterState) error {
	for _, o := range managedObjects {
		if !o.ofKeys && o != objectDeployment {
			r.observeObject(ctx, cs, o)
		}
	}
	r.observeAdminPods(ctx, cs)
	var err error
	if cs.caller, err = r.readSecret(ctx, cs, cs.names.caller()); err != nil {
		return err
	}
	for in, name := range inputsOf(cs.gateway) {
		if in.gvk == gvkConfigMap {
			err = r.observeConfigMap(ctx, cs, name)
		} else {
			r.observeInput(ctx, cs, name)
			err = cs.inputErr[name]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cacheWait limits how long a read waits for a cache that has not synced, for
// example because the operator may not list the kind.
const cacheWait = 5 * time.Second

// observeObject reads a managed object. The cache holds only objects with the operator's label and may lag. If it does
// not have an object that the gateway wants, the API server is asked: there may be an object of that name that the
// operator did not create.
func (r *Reconciler) observeObject(ctx context.Context, cs *clusterState, o *managedObject) {
	if o.optional {
		there, err := r.watchOptional(o, o.wantedBy(cs.gateway))
		if err != nil {
			cs.unread[o.id()] = err
			return
		}
		if !there {
			cs.absent[o.id()] = true
			return
		}
	}
	object := o.empty()
	key := client.ObjectKey{Namespace: cs.names.namespace, Name: o.name(cs.names)}
	var err error
	if !o.ofKeys {
		cached, cancel := context.WithTimeout(ctx, cacheWait)
		err = r.Client.Get(cached, key, object)
		cancel()
	}
	if o.ofKeys || err != nil && o.wantedBy(cs.gateway) {
		object = o.empty()
		err = r.Live.Get(ctx, key, object)
	}
	switch {
	case err == nil:
		cs.objects[o.id()] = object
	case apierrors.IsNotFound(err):
	case apierrors.IsForbidden(err) && !o.wantedBy(cs.gateway): // this gateway does not need the right
	default:
		cs.unread[o.id()] = fmt.Errorf("read %s %s: %w", o.gvk.Kind, key.Name, err)
	}
}

// readSecret reads a Secret from the API server: no cache holds its content, and a
// stale copy of the keys would be dangerous. It returns nil if there is none.
func (r *Reconciler) readSecret(ctx context.Context, cs *clusterState, name string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	if there, err := r.readLive(ctx, cs, "Secret", name, secret); !there {
		return nil, err
	}
	return secret, nil
}

// readLive reads an object from the API server, and reports whether it exists.
func (r *Reconciler) readLive(
	ctx context.Context, cs *clusterState, kind, name string, into client.Object,
) (bool, error) {
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: cs.names.namespace, Name: name}, into)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("read %s %s: %w", kind, name, err)
	}
	return err == nil, nil
}

// observeInput reads a Secret that the spec refers to, unless it was read before.
func (r *Reconciler) observeInput(ctx context.Context, cs *clusterState, name string) {
	if _, done := cs.inputs[name]; done {
		return
	}
	secret, err := r.readSecret(ctx, cs, name)
	if err != nil {
		cs.inputErr[name] = err
		return
	}
	delete(cs.inputErr, name)
	cs.inputs[name] = secret
}

// observeConfigMap reads a ConfigMap that the spec refers to. The watch starts
// before the read, so that no change is missed.
func (r *Reconciler) observeConfigMap(ctx context.Context, cs *clusterState, name string) error {
	if err := r.watchConfigMaps(); err != nil {
		return err
	}
	c := &corev1.ConfigMap{}
	there, err := r.readLive(ctx, cs, "ConfigMap", name, c)
	if there {
		cs.configMaps[name] = c
	}
	return err
}

// isRolledOut reports whether a Deployment has replaced every pod of an older template.
func isRolledOut(d *appsv1.Deployment) bool {
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == d.Status.Replicas
}

// lastSigningKey returns the kid of the key that last signed access tokens, according to the status or the public keys.
// They may outlive a lost ring. It returns "" if there never was a ring.
func (cs *clusterState) lastSigningKey() string {
	if s := cs.gateway.Status.Keys; s != nil {
		for _, k := range s.Access {
			if k.Phase == v1alpha1.KeyPhase(keys.Signing) {
				return k.KID
			}
		}
	}
	for _, k := range cs.publishedStates() {
		if k.Use == keys.Access && k.Phase == keys.Signing {
			return k.ID
		}
	}
	return ""
}

// publishedStates returns the keys that the ConfigMap lists. Another writer may have changed it; see ownDocument.
func (cs *clusterState) publishedStates() []keys.PublicState {
	public := cs.publicKeys()
	var document keys.PublicDocument
	if public == nil || json.Unmarshal([]byte(public.Data[keys.PublicDocumentFile]), &document) != nil {
		return nil
	}
	return document.Keys
}
