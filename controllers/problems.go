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

// A problem keeps a reconcile from doing everything that the spec asks for. The
// conditions show its reason and its message.
type problem struct {
	reason  string
	message string

	// stalled means that nothing changes until a person acts. Otherwise the operator
	// waits for something that it will notice.
	stalled bool

	// cause is an error after which the reconcile is retried with backoff.
	cause error

	// recheck is when to look again although no event announces a change. Zero means that an event does.
	recheck time.Duration
}

func (p *problem) Error() string { return p.message }
func (p *problem) Unwrap() error { return p.cause }

// isTheirs reports whether the owner of the namespace has to solve the problem.
// Such a problem is not an error of the operator and does not raise its alert.
func (p *problem) isTheirs() bool {
	theirs := []string{v1alpha1.ReasonRefused, v1alpha1.ReasonQuotaExceeded, v1alpha1.ReasonNamespaceTerminating}
	return slices.Contains(theirs, p.reason)
}

func stalled(reason, format string, args ...any) *problem {
	return &problem{reason: reason, message: fmt.Sprintf(format, args...), stalled: true}
}

func waiting(reason, format string, args ...any) *problem {
	return &problem{reason: reason, message: fmt.Sprintf(format, args...)}
}

// joined merges problems that are independent of each other. The result has the
// reason of the first and the messages of all. It is nil if there is none.
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

func firstOf(problems ...*problem) *problem {
	for _, p := range problems {
		if p != nil {
			return p
		}
	}
	return nil
}

// nameConflict returns a problem if the name of a managed object is taken by an
// object that the operator did not create. It never touches such an object.
func (cs *clusterState) nameConflict(o *managedObject) *problem {
	object := cs.objects[o.id()]
	if object == nil || !o.wantedBy(cs.gateway) || cs.names.isOurs(object, cs.gateway) {
		return nil
	}
	return nameConflict(article(o.gvk.Kind) + " " + o.gvk.Kind + " " + o.name(cs.names))
}

func nameConflict(what ...string) *problem {
	if len(what) == 0 {
		return nil
	}
	p := stalled(v1alpha1.ReasonNameConflict,
		"there is already %s that this AuthGateway did not create. The operator does not touch it. "+
			"Delete or rename it, or choose another name for the AuthGateway", strings.Join(what, ", "))
	p.recheck = recheckNames
	return p
}

// article returns the indefinite article for a kind.
func article(kind string) string {
	if strings.ContainsAny(kind[:1], "AEIO") || strings.HasPrefix(kind, "HTTP") {
		return "an"
	}
	return "a"
}

// secretConflict returns a problem if the operator did not create one of these Secrets, of which nil ones do not exist.
func (cs *clusterState) secretConflict(all ...*corev1.Secret) *problem {
	var names []string
	for _, s := range all {
		if s != nil && !cs.names.isOurs(s, cs.gateway) {
			names = append(names, "a Secret "+s.Name)
		}
	}
	return nameConflict(names...)
}

// nameConflicts joins all name conflicts but those of the keys.
func (cs *clusterState) nameConflicts() *problem {
	all := []*problem{cs.secretConflict(cs.caller)}
	for _, o := range managedObjects {
		all = append(all, cs.nameConflict(o))
	}
	return joined(all)
}

// blocked returns the problem that keeps every object but the keys from being
// applied. The settings can be checked only if the keys are in order.
func (cs *clusterState) blocked(allowedImages []string, t keyResult, keysInOrder bool) *problem {
	if p := firstOf(imageRefused(cs.gateway, allowedImages), cs.missingInputs(), t.minor); p != nil || !keysInOrder {
		return p
	}
	if err := check(cs, t.passphraseState, t.callerKey); err != nil {
		return stalled(v1alpha1.ReasonInvalidSpec, "%s", err.Error())
	}
	return nil
}

// imageRefused returns a problem if the spec asks for an image that the operator's options do not allow.
func imageRefused(g *v1alpha1.AuthGateway, allowed []string) *problem {
	isAllowed := func(image string) bool {
		return len(allowed) == 0 ||
			slices.ContainsFunc(allowed, func(prefix string) bool { return strings.HasPrefix(image, prefix) })
	}
	const message = "%s: this operator runs only images whose name begins with %s (--allowed-images): choose one, or %s"
	prefixes := strings.Join(allowed, " or ")
	if g.Spec.Image != "" && !isAllowed(g.Spec.Image) {
		return stalled(v1alpha1.ReasonImageNotAllowed, message, "spec.image", prefixes, "leave image out")
	}
	if g.Spec.PodTemplate != nil {
		for _, s := range g.Spec.PodTemplate.Sidecars {
			if !isAllowed(s.Image) {
				field := "spec.podTemplate.sidecars[" + s.Name + "].image"
				return stalled(v1alpha1.ReasonImageNotAllowed, message, field, prefixes, "remove the sidecar")
			}
		}
	}
	return nil
}

// notAccepted returns a problem if the spec has another issuer or another database and the change was not confirmed.
// Another issuer ends every session. Another database has other users. So the change needs an annotation with the new
// value, and until then the pods keep their settings. A gateway that was never Ready has nothing to lose.
func notAccepted(g *v1alpha1.AuthGateway) *problem {
	var all []*problem
	for _, c := range []struct{ field, was, is, annotation, effect string }{
		{
			"spec.issuer", g.Status.Issuer, issuerWanted(g), v1alpha1.AnnotationAcceptIssuer,
			"This ends every session, and every service that verifies tokens rejects them until it knows the new issuer",
		},
		{
			"spec.database", g.Status.Database, databaseWanted(g), v1alpha1.AnnotationAcceptDatabase,
			"Users whose accounts are not in the new database cannot sign in",
		},
	} {
		if c.was == "" || c.was == c.is || g.Annotations[c.annotation] == c.is {
			continue
		}
		all = append(all, stalled(v1alpha1.ReasonChangeNotAccepted,
			"%s was changed from %s to %s. %s. The pods keep their settings until you decide. Undo the change, "+
				"or confirm it: kubectl annotate agw %s -n %s --overwrite %s=%s",
			c.field, c.was, c.is, c.effect, g.Name, g.Namespace, c.annotation, c.is))
	}
	return joined(all)
}

// kindMissing returns a problem if the spec asks for an object whose kind the cluster does not have.
func (cs *clusterState) kindMissing() *problem {
	for _, o := range managedObjects {
		if cs.absent[o.id()] && o.wantedBy(cs.gateway) {
			return waiting(v1alpha1.ReasonKindMissing,
				"the cluster does not have the kind %s (%s). Install its CustomResourceDefinition, "+
					"or remove it from the spec. Everything else is up to date", o.gvk.Kind, o.gvk.GroupVersion())
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

// classify turns an error of the API server into a problem that says what to do. The reconcile is retried with backoff.
func classify(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	p = &problem{
		reason: v1alpha1.ReasonAPIUnavailable, cause: err,
		message: "a request to the API server failed and is retried: " + err.Error(),
	}
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		p.reason = v1alpha1.ReasonNamespaceTerminating
		p.message = "the namespace is being deleted, so nothing can be created in it"
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"):
		p.reason = v1alpha1.ReasonQuotaExceeded
		p.message = "a ResourceQuota of the namespace is exhausted: raise it, or lower the replicas or resources: " +
			err.Error()
	case apierrors.IsForbidden(err):
		p.reason = v1alpha1.ReasonForbidden
		p.message = "the operator lacks a permission, or an admission policy rejects its request: " +
			"grant it, or change the policy: " + err.Error()
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		p.reason, p.stalled = v1alpha1.ReasonRefused, true
		p.message = "the API server rejects an object that follows from the spec: " + err.Error()
	}
	return p
}
