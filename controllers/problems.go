package controllers

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// problem is what keeps a pass from doing all that is wanted.
type problem struct {
	reason  string
	message string

	// stalled: nothing changes until a person acts. Otherwise something is under
	// way, or awaited, and will be noticed.
	stalled bool

	// cause is an error that is worth another try, after a while that grows.
	cause error

	// recheck is after how long another pass may find it mended, though nothing
	// tells; zero: something does.
	recheck time.Duration
}

func (p *problem) Error() string { return p.message }
func (p *problem) Unwrap() error { return p.cause }

// isTheirs reports whether it is for the owner of the namespace to see to. Such
// a problem is no error of the operator, and raises no alert about it.
func (p *problem) isTheirs() bool {
	return slices.Contains([]string{v1alpha1.ReasonRefused, v1alpha1.ReasonQuotaExceeded, v1alpha1.ReasonNamespaceTerminating}, p.reason)
}

func stalled(reason, format string, args ...any) *problem {
	return &problem{reason: reason, message: fmt.Sprintf(format, args...), stalled: true}
}

func waiting(reason, format string, args ...any) *problem {
	return &problem{reason: reason, message: fmt.Sprintf(format, args...)}
}

// joined makes one problem of several, none of which keeps another from being
// told: the first has its reason shown, and all have their messages. Nil: there
// is none.
func joined(all []*problem) *problem {
	var one *problem
	for _, p := range all {
		switch {
		case p == nil:
		case one == nil:
			copied := *p
			one = &copied
		case !strings.Contains(one.message, p.message):
			one.message += "; and: " + p.message
			one.stalled = one.stalled && p.stalled
			if p.recheck != 0 && (one.recheck == 0 || p.recheck < one.recheck) {
				one.recheck = p.recheck
			}
			if one.cause == nil {
				one.cause = p.cause
			}
		}
	}
	return one
}

// taken: an object that was not made by us and has a name that we need is left
// alone, and what it is in the way of is not done.
func (w *world) taken(s *slot) *problem {
	object := w.objects[s.kind]
	if object == nil || !s.wantedBy(w.gateway) || w.names.isOurs(object, w.gateway) {
		return nil
	}
	return taken(article(s.kind) + " " + s.kind + " " + s.nameIn(w.names))
}

func taken(what ...string) *problem {
	if len(what) == 0 {
		return nil
	}
	p := stalled(v1alpha1.ReasonNameConflict, "there is already %s that this AuthGateway did not make, and it is left alone: delete or rename it, or choose another name for the AuthGateway", strings.Join(what, ", "))
	p.recheck = recheckNames
	return p
}

// article is what stands before the name of a kind.
func article(kind string) string {
	if strings.ContainsAny(kind[:1], "AEIO") || strings.HasPrefix(kind, "HTTP") {
		return "an"
	}
	return "a"
}

func (w *world) takenSecrets(all ...*corev1.Secret) *problem {
	var names []string
	for _, s := range all {
		if s != nil && !w.names.isOurs(s, w.gateway) {
			names = append(names, "a Secret "+s.Name)
		}
	}
	return taken(names...)
}

// takenKeys: without these two Secrets nothing can be done of the keys.
func (w *world) takenKeys() *problem { return w.takenSecrets(w.keys, w.passphrases) }

func (w *world) takenCaller() *problem { return w.takenSecrets(w.caller) }

// takenNames are all names that are taken, but those of the keys.
func (w *world) takenNames() *problem {
	all := []*problem{w.takenCaller()}
	for _, s := range slots {
		all = append(all, w.taken(s))
	}
	return joined(all)
}

// imageRefused holds an image against what the operator was told to allow.
func imageRefused(g *v1alpha1.AuthGateway, allowed []string) *problem {
	isAllowed := func(image string) bool {
		return len(allowed) == 0 || slices.ContainsFunc(allowed, func(prefix string) bool { return strings.HasPrefix(image, prefix) })
	}
	if g.Spec.Image != "" && !isAllowed(g.Spec.Image) {
		return stalled(v1alpha1.ReasonImageNotAllowed, "spec.image: this operator runs only images that begin with %s (--allowed-images): choose one, or leave image out", strings.Join(allowed, " or "))
	}
	if g.Spec.PodTemplate != nil {
		for _, s := range g.Spec.PodTemplate.Sidecars {
			if !isAllowed(s.Image) {
				return stalled(v1alpha1.ReasonImageNotAllowed, "spec.podTemplate.sidecars[%s].image: this operator runs only images that begin with %s (--allowed-images): choose one, or leave the sidecar out", s.Name, strings.Join(allowed, " or "))
			}
		}
	}
	return nil
}

// notAccepted: what ends every session, or loses every user, is done when a
// person has said so twice: in the spec, and in an annotation with the new value.
// Until then the pods stay as they are. A gateway that has never been Ready has
// nothing to lose.
func notAccepted(g *v1alpha1.AuthGateway) *problem {
	var all []*problem
	for _, c := range []struct{ field, was, is, annotation, effect string }{
		{"spec.issuer", g.Status.Issuer, issuerWanted(g), AnnotationAcceptIssuer, "which ends every session, and has every service that verifies tokens refuse them until it knows the new issuer"},
		{"spec.database", g.Status.Database, databaseWanted(g), AnnotationAcceptDatabase, "and nobody can sign in whose account is not in the new one"},
	} {
		if c.was == "" || c.was == c.is || g.Annotations[c.annotation] == c.is {
			continue
		}
		all = append(all, stalled(v1alpha1.ReasonChangeNotAccepted, "%s was changed from %s to %s, %s: the pods stay as they are. Take it back; or, if it is meant, say so: kubectl annotate agw %s -n %s --overwrite %s=%s",
			c.field, c.was, c.is, c.effect, g.Name, g.Namespace, c.annotation, c.is))
	}
	return joined(all)
}

// missingInputs looks for what the Deployment needs and is not there. A Secret or
// a ConfigMap that comes, or changes, brings the next pass.
func (w *world) missingInputs() *problem {
	need := func(ref *v1alpha1.LocalReference, field string, names ...string) *problem {
		if ref == nil {
			return nil
		}
		secret := w.inputs[ref.Name]
		if secret == nil {
			return waiting(v1alpha1.ReasonSecretMissing, "the Secret %s (%s) does not exist in namespace %s: create it with the keys %s", ref.Name, field, w.names.namespace, strings.Join(names, ", "))
		}
		var missing []string
		for _, name := range names {
			if len(secret.Data[name]) == 0 {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			return waiting(v1alpha1.ReasonSecretInvalid, "the Secret %s (%s) has no key %s, or it is empty: add it", ref.Name, field, strings.Join(missing, ", "))
		}
		return nil
	}
	d := w.gateway.Spec.Database
	field, names := "spec.database.credentialsSecretRef", []string{credentialsUsername, credentialsPassword}
	if d.CloudNativePG != nil {
		field, names = "the one of CloudNativePG's cluster in spec.database.cloudNativePG", append(names, cnpgHost, cnpgPort, cnpgDatabase)
	}
	for _, p := range []*problem{
		need(credentialsRef(w.gateway), field, names...),
		need(d.CASecretRef, "spec.database.caSecretRef", caCertificate),
		need(w.gateway.Spec.Keys.PassphraseSecretRef, "spec.keys.passphraseSecretRef", passphraseSettings["access"].current, passphraseSettings["refresh"].current),
		need(mailCredentialsRef(w.gateway), "spec.email.smtp.credentialsSecretRef", credentialsUsername, credentialsPassword),
		need(mailCARef(w.gateway), "spec.email.smtp.caSecretRef", caCertificate),
		need(webhookRef(w.gateway), "spec.email.webhook.secretRef", webhookSecret),
	} {
		if p != nil {
			return p
		}
	}
	if ref := templatesRef(w.gateway); ref != nil && w.templates == nil {
		return waiting(v1alpha1.ReasonConfigMapMissing, "the ConfigMap %s (spec.email.templatesConfigMapRef) does not exist in namespace %s: create it with a file for each template, or leave templatesConfigMapRef out for the built-in ones", ref.Name, w.names.namespace)
	}
	return nil
}

// kindMissing tells of what was asked for, and the cluster has no kind for.
func (w *world) kindMissing() *problem {
	for _, s := range slots {
		if w.absent[s.kind] && s.wantedBy(w.gateway) {
			return waiting(v1alpha1.ReasonKindMissing, "the cluster has no kind %s (%s): install what brings it, or take it out of the spec; everything else is as wanted", s.kind, s.gvk.GroupVersion())
		}
	}
	return nil
}

func classifyOrNil(err error) *problem {
	if err == nil {
		return nil
	}
	return classify(err)
}

// classify makes of an error of the API server what a person should know. The
// pass is tried again after a while that grows.
func classify(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	p = &problem{reason: v1alpha1.ReasonAPIUnavailable, message: "the API server did not do what was asked; it is tried again: " + err.Error(), cause: err}
	switch {
	case apierrors.HasStatusCause(err, "NamespaceTerminating"):
		p.reason, p.message = v1alpha1.ReasonNamespaceTerminating, "the namespace is being deleted, so nothing can be made in it"
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"):
		p.reason, p.message = v1alpha1.ReasonQuotaExceeded, "a ResourceQuota of the namespace is used up: raise it, or lower the replicas or resources: "+err.Error()
	case apierrors.IsForbidden(err):
		p.reason, p.message = v1alpha1.ReasonForbidden, "the operator may not do this, or an admission rule forbids it: grant it, or change the rule: "+err.Error()
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		p.reason, p.message, p.stalled = v1alpha1.ReasonRefused, "the API server refuses what the spec leads to: "+err.Error(), true
	}
	return p
}
