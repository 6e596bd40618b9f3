package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/authserver/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// world is all that one pass goes by: what was there when it looked.
type world struct {
	gateway *v1alpha1.AuthGateway
	names   names
	now     time.Time
	unread  bool // it could not be looked at: nothing below is known

	keys, passphrases, caller *corev1.Secret            // ours; nil: there is none
	inputs                    map[string]*corev1.Secret // that the spec names, by name; nil: there is none
	templates                 *corev1.ConfigMap         // of mails, that the spec names; nil: there is none

	ring    keys.Ring
	ringErr error // why keys could not be read
	custody keys.Custody

	objects map[string]client.Object // by kind, what there is of what we make; nil: there is none
	absent  map[string]bool          // whose kind the cluster does not have

	upgradeWaits bool // the pods are not replaced yet, because others come first

	pods   []corev1.Pod            // that are not on their way out
	states map[string]config.State // what pods say, by their name; none: no answer
}

func (w *world) deployment() *appsv1.Deployment {
	d, _ := w.objects[kindDeployment].(*appsv1.Deployment)
	return d
}

func (w *world) publicKeys() *corev1.ConfigMap {
	c, _ := w.objects[kindConfigMap].(*corev1.ConfigMap)
	return c
}

// observe reads. It is the one place that does.
func (r *Reconciler) observe(ctx context.Context, g *v1alpha1.AuthGateway) (*world, error) {
	w := &world{
		gateway: g, names: namesOf(g), now: r.Now(),
		inputs: map[string]*corev1.Secret{}, objects: map[string]client.Object{}, absent: map[string]bool{},
		states: map[string]config.State{},
	}
	// The published keys come before the keys: see keepPublicKeys in apply.go.
	for _, s := range slots {
		if err := r.observeSlot(ctx, w, s); err != nil {
			return nil, err
		}
	}
	if err := r.observeSecrets(ctx, w); err != nil {
		return nil, err
	}
	if err := r.observeTemplates(ctx, w); err != nil {
		return nil, err
	}
	if err := r.observePods(ctx, w); err != nil {
		return nil, err
	}
	return w, nil
}

// observeSlot looks for the object of a slot. The cache holds what has our label
// and may lag; so where it has nothing, and something has to be there, the API
// server is asked. It may have an object of that name that is not ours.
func (r *Reconciler) observeSlot(ctx context.Context, w *world, s *slot) error {
	if !s.gvk.Empty() {
		there, err := r.kinds.watch(s, s.wantedBy(w.gateway))
		if err != nil {
			return err
		}
		if !there {
			w.absent[s.kind] = true
			return nil
		}
	}
	object := s.empty()
	key := client.ObjectKey{Namespace: w.names.namespace, Name: s.nameIn(w.names)}
	err := r.Client.Get(ctx, key, object)
	if apierrors.IsNotFound(err) && s.wantedBy(w.gateway) {
		object = s.empty()
		err = r.Live.Get(ctx, key, object)
	}
	switch {
	case err == nil:
		w.objects[s.kind] = object
	case apierrors.IsNotFound(err):
	case apierrors.IsForbidden(err) && !s.wantedBy(w.gateway): // a right that this gateway does not need
	default:
		return fmt.Errorf("read %s %s: %w", s.kind, key.Name, err)
	}
	return nil
}

// observeSecrets reads Secrets from the API server itself: no cache holds what
// is in them, and for the keys only the truth will do.
func (r *Reconciler) observeSecrets(ctx context.Context, w *world) error {
	read := func(name string) (*corev1.Secret, error) {
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
	var err error
	for _, s := range []struct {
		name string
		into **corev1.Secret
	}{{w.names.passphrases(), &w.passphrases}, {w.names.keys(), &w.keys}, {w.names.caller(), &w.caller}} {
		if *s.into, err = read(s.name); err != nil {
			return err
		}
	}
	for _, name := range inputsOf(w.gateway) {
		if w.inputs[name], err = read(name); err != nil {
			return err
		}
	}
	if w.keys != nil {
		w.ring, w.ringErr = keys.FromFiles(w.keys.Data)
	}
	w.custody = custodyOf(w.passphrases)
	return nil
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

func (r *Reconciler) observePods(ctx context.Context, w *world) error {
	var pods corev1.PodList
	if err := r.Client.List(ctx, &pods, client.InNamespace(w.names.namespace), client.MatchingLabels(w.names.selector())); err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			w.pods = append(w.pods, p)
		}
	}
	asked := w.pods
	if !w.needsAnswers() && !r.databases.suspect(w.gateway) { // one is enough to know the database by
		asked = asked[:min(1, len(asked))]
	}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, p := range asked {
		if p.Status.PodIP == "" {
			continue
		}
		asking.Go(func() {
			state, err := r.Ask(ctx, p.Status.PodIP)
			if err != nil { // a pod that does not answer has loaded nothing, as far as anyone knows
				return
			}
			mu.Lock()
			defer mu.Unlock()
			w.states[p.Name] = state
		})
	}
	asking.Wait()
	return nil
}

// needsAnswers: all pods are asked only where their answers matter: while keys
// come and go, and while a pod is not ready.
func (w *world) needsAnswers() bool {
	for _, k := range w.ring.Keys {
		if k.Phase != keys.Signing {
			return true
		}
	}
	for _, kind := range keys.Kinds() {
		if w.custody.Former[kind] != "" {
			return true
		}
	}
	return slices.ContainsFunc(w.pods, func(p corev1.Pod) bool { return !isReady(p) })
}

func isReady(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// published says whether consumers get a key.
func (w *world) published(id string) bool {
	public := w.publicKeys()
	if public == nil {
		return false
	}
	_, there := public.Data[keys.PublicFile(id)]
	return there
}

// seen says whether a key is published, and every replica in service could sign
// with it.
func (w *world) seen(id string) bool {
	for _, p := range w.pods {
		if isReady(p) && !slices.Contains(w.states[p.Name].Keys.Ready, id) {
			return false
		}
	}
	return w.published(id)
}

// given says whether every pod has been started with the passphrases of this
// digest, and no pod will be with others.
func (w *world) given(digest string) bool {
	for _, p := range w.pods {
		if p.Annotations[annotationPassphrases] != digest {
			return false
		}
	}
	d := w.deployment()
	return len(w.pods) == 0 || d != nil && d.Spec.Template.Annotations[annotationPassphrases] == digest && isRolledOut(d)
}

// loaded says whether every pod has the ring that was read.
func (w *world) loaded() bool {
	for _, p := range w.pods {
		state, answered := w.states[p.Name]
		if !isReady(p) || !answered || state.Keys.Generation != w.ring.Generation {
			return false
		}
		for _, kind := range keys.Kinds() { // a ring in the place of a lost one may have its generation
			if k, _ := w.ring.Signing(kind); !slices.Contains(state.Keys.Ready, k.ID) {
				return false
			}
		}
	}
	return true
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
		if k.Kind == keys.Access && k.Phase == keys.Signing {
			return k.ID
		}
	}
	return ""
}
