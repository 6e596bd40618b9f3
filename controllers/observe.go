package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// world is all that one pass goes by: what was there when it looked.
type world struct {
	gateway *v1alpha1.AuthGateway
	names   names
	now     time.Time

	keys, passphrases, caller *corev1.Secret            // ours; nil: there is none
	inputs                    map[string]*corev1.Secret // that the spec names, by name; nil: there is none
	templates                 *corev1.ConfigMap         // of mails, that the spec names; nil: there is none

	ring    keys.Ring
	ringErr error // why keys could not be read
	custody keys.PassphraseState

	objects map[string]client.Object // by kind, what there is of what we make; nil: there is none
	absent  map[string]bool          // whose kind the cluster does not have
	unread  map[string]error         // why objects of a kind could not be read, so that nothing is known of them

	upgradeWaits bool // the pods are not replaced yet, because others come first

	pods       []corev1.Pod            // of our Deployment, that are not on their way out
	states     map[string]config.State // what pods say, by their name
	silent     map[string]error        // why pods that were asked said nothing, by their name
	podsErr    error                   // why the pods could not be listed
	ringSince  time.Time               // since when this process has seen the Secret of the keys as it is
	readySince map[string]time.Time    // since when it has seen a pod ready, by its name
	inputErr   map[string]error        // why a Secret that the spec names could not be read, by its name
}

func (w *world) deployment() *appsv1.Deployment {
	d, _ := w.objects[kindDeployment].(*appsv1.Deployment)
	return d
}

func (w *world) publicKeys() *corev1.ConfigMap {
	c, _ := w.objects[kindConfigMap].(*corev1.ConfigMap)
	return c
}

func newWorld(g *v1alpha1.AuthGateway, now time.Time) *world {
	return &world{
		gateway: g, names: namesOf(g), now: now,
		inputs: map[string]*corev1.Secret{}, objects: map[string]client.Object{}, absent: map[string]bool{}, unread: map[string]error{},
		states: map[string]config.State{}, silent: map[string]error{}, inputErr: map[string]error{}, readySince: map[string]time.Time{},
	}
}

// observeKeys reads what decides about the keys, and nothing else, so that
// nothing else is in their way. Its error is of a Secret without which nothing
// can be decided. What else cannot be read counts as not seen, and is left to
// those who need it.
func (r *Reconciler) observeKeys(ctx context.Context, w *world) error {
	// The published keys come before the keys: see applyPublicKeys in apply.go.
	r.observeSlot(ctx, w, slotPublicKeys)
	for _, s := range []struct {
		name string
		into **corev1.Secret
	}{{w.names.passphrases(), &w.passphrases}, {w.names.keys(), &w.keys}} {
		var err error
		if *s.into, err = r.readSecret(ctx, w, s.name); err != nil {
			return err
		}
	}
	if w.keys != nil {
		w.ring, w.ringErr = keys.FromFiles(w.keys.Data)
	}
	w.custody = custodyOf(w.passphrases)
	if ref := w.gateway.Spec.Keys.PassphraseSecretRef; ref != nil {
		r.observeInput(ctx, w, ref.Name)
	}
	r.observeSlot(ctx, w, slotDeployment)
	r.observePods(ctx, w)
	return r.stillThere(ctx, w)
}

// stillThere reads the ring again where a pod has a later one: whoever wrote that
// may have done so since the ring was read, and then this is another pass.
func (r *Reconciler) stillThere(ctx context.Context, w *world) error {
	if w.keys == nil || !w.trace(w.ring).RolledBack(w.ring) {
		return nil
	}
	now, err := r.readSecret(ctx, w, w.names.keys())
	if err == nil && (now == nil || now.ResourceVersion != w.keys.ResourceVersion) {
		err = errSwapLost
	}
	return err
}

// observeRest reads everything else. What cannot be read is in the way of what
// needs it, and of nothing else. Its error is of what every other object needs.
func (r *Reconciler) observeRest(ctx context.Context, w *world) error {
	for _, s := range slots {
		if s != slotPublicKeys && s != slotDeployment {
			r.observeSlot(ctx, w, s)
		}
	}
	var err error
	if w.caller, err = r.readSecret(ctx, w, w.names.caller()); err != nil {
		return err
	}
	for _, name := range inputsOf(w.gateway) {
		r.observeInput(ctx, w, name)
		if err := w.inputErr[name]; err != nil {
			return err
		}
	}
	return r.observeTemplates(ctx, w)
}

// cacheWait bounds how long a read waits for a cache that is not filled, as where
// the operator may not list a kind.
const cacheWait = 5 * time.Second

// observeSlot looks for the object of a slot. The cache holds what has our label
// and may lag; so where it has nothing, and something has to be there, the API
// server is asked. It may have an object of that name that is not ours. The API
// server is always asked for the public keys.
func (r *Reconciler) observeSlot(ctx context.Context, w *world, s *slot) {
	if !s.gvk.Empty() {
		there, err := r.kinds.watch(s, s.wantedBy(w.gateway))
		if err != nil {
			w.unread[s.kind] = err
			return
		}
		if !there {
			w.absent[s.kind] = true
			return
		}
	}
	object := s.empty()
	key := client.ObjectKey{Namespace: w.names.namespace, Name: s.nameIn(w.names)}
	var err error
	if s != slotPublicKeys { // a key must not sign because a cache still shows it as published
		cached, cancel := context.WithTimeout(ctx, cacheWait)
		err = r.Client.Get(cached, key, object)
		cancel()
	}
	if s == slotPublicKeys || err != nil && s.wantedBy(w.gateway) {
		object = s.empty()
		err = r.Live.Get(ctx, key, object)
	}
	switch {
	case err == nil:
		w.objects[s.kind] = object
	case apierrors.IsNotFound(err):
	case apierrors.IsForbidden(err) && !s.wantedBy(w.gateway): // a right that this gateway does not need
	default:
		w.unread[s.kind] = fmt.Errorf("read %s %s: %w", s.kind, key.Name, err)
	}
}

// readSecret reads a Secret from the API server itself: no cache holds what is in
// it, and for the keys only the truth will do. Nil: there is none.
func (r *Reconciler) readSecret(ctx context.Context, w *world, name string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: w.names.namespace, Name: name}, secret)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", name, err)
	}
	return secret, nil
}

// observeInput reads a Secret that the spec names, once.
func (r *Reconciler) observeInput(ctx context.Context, w *world, name string) {
	if _, done := w.inputs[name]; done {
		return
	}
	secret, err := r.readSecret(ctx, w, name)
	if err != nil {
		w.inputErr[name] = err
		return
	}
	delete(w.inputErr, name)
	w.inputs[name] = secret
}

// observeTemplates reads a ConfigMap that is not ours, so no cache has it. It is
// watched before it is read, so that no change of it is missed.
func (r *Reconciler) observeTemplates(ctx context.Context, w *world) error {
	ref := templatesRef(w.gateway)
	if ref == nil {
		return nil
	}
	if err := r.configMaps.watch(); err != nil {
		return err
	}
	templates := &corev1.ConfigMap{}
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: w.names.namespace, Name: ref.Name}, templates)
	switch {
	case err == nil:
		w.templates = templates
	case apierrors.IsNotFound(err):
	default:
		return fmt.Errorf("read ConfigMap %s: %w", ref.Name, err)
	}
	return nil
}

// inputsOf names the Secrets that a gateway's spec refers to.
func inputsOf(g *v1alpha1.AuthGateway) (all []string) {
	add := func(ref *v1alpha1.LocalReference) {
		if ref != nil && !slices.Contains(all, ref.Name) {
			all = append(all, ref.Name)
		}
	}
	add(credentialsRef(g))
	add(g.Spec.Database.CASecretRef)
	add(g.Spec.Keys.PassphraseSecretRef)
	add(mailCredentialsRef(g))
	add(mailCARef(g))
	add(webhookRef(g))
	return all
}

// mailCredentialsRef is the Secret that tells user and password of the mail
// server; nil: there is none, as with the others here.
func mailCredentialsRef(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference {
	if e := g.Spec.Email; e != nil && e.SMTP != nil {
		return e.SMTP.CredentialsSecretRef
	}
	return nil
}

func mailCARef(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference {
	if e := g.Spec.Email; e != nil && e.SMTP != nil {
		return e.SMTP.CASecretRef
	}
	return nil
}

// webhookRef is the Secret that tells what a webhook is signed with.
func webhookRef(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference {
	if e := g.Spec.Email; e != nil && e.Webhook != nil {
		return &e.Webhook.SecretRef
	}
	return nil
}

// templatesRef is the ConfigMap of the templates of mails.
func templatesRef(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference {
	if g.Spec.Email == nil {
		return nil
	}
	return g.Spec.Email.TemplatesConfigMapRef
}

// credentialsRef is the Secret that tells user and password of the database.
func credentialsRef(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference {
	if c := g.Spec.Database.CloudNativePG; c != nil {
		return &v1alpha1.LocalReference{Name: cnpgSecret(c.Cluster)}
	}
	return g.Spec.Database.CredentialsSecretRef
}

// isRolledOut says that a Deployment has replaced every pod of an older template.
func isRolledOut(d *appsv1.Deployment) bool {
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == d.Status.Replicas
}

// lastSigningKey is the kid of the key that signed access tokens when somebody
// last told, going by the status and by what is published: a trace of a ring
// that may be lost. Empty: there never was one.
func (w *world) lastSigningKey() string {
	if s := w.gateway.Status.Keys; s != nil {
		for _, k := range s.Access {
			if k.Phase == v1alpha1.KeyPhase(keys.Signing) {
				return k.KID
			}
		}
	}
	published := w.publicKeys()
	if published == nil {
		return ""
	}
	var document keys.PublicDocument
	if json.Unmarshal([]byte(published.Data[keys.PublicDocumentFile]), &document) != nil {
		return ""
	}
	for _, k := range document.Keys {
		if k.Use == keys.Access && k.Phase == keys.Signing {
			return k.ID
		}
	}
	return ""
}
