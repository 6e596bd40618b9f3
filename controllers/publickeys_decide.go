package controllers

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	accore "k8s.io/client-go/applyconfigurations/core/v1"
	acmeta "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// copyState is what one reconcile of a PublicKeys works from. It is read once, at
// the start.
type copyState struct {
	keys *v1alpha1.PublicKeys
	now  time.Time
	me   string // this operator; see identity

	unwatched bool                  // this operator does not watch the gateway's namespace
	gateway   *v1alpha1.AuthGateway // nil: there is none, or it is being deleted
	labels    map[string]string     // of the namespace of the PublicKeys
	published publication           // see publications
	known     bool                  // there is one
	configMap *corev1.ConfigMap     // what has the name of the copy; nil: nothing
	unread    error                 // why one of these could not be read
}

// copyDecision is what one reconcile of a PublicKeys does.
type copyDecision struct {
	leave   bool              // write nothing: another operator does, or this one does not know enough yet
	entries map[string]string // the wanted entries of the ConfigMap; nil: it stays as it is
	from    *publication      // where they come from; nil: they have no keys
	found   *problem          // why the PublicKeys is not Ready; nil: it is
}

// decide decides what to do with the copy. It is pure.
//
// Whatever is not certain leaves the copy as it is. A copy loses its keys only if
// the gateway is certainly gone, or certainly does not allow the namespace.
func (cs *copyState) decide() copyDecision {
	status := cs.keys.Status
	switch {
	case cs.unread != nil:
		return copyDecision{found: classify(cs.unread)}
	case cs.unwatched:
		if status.Operator != "" && status.Operator != cs.me {
			return copyDecision{leave: true}
		}
		return copyDecision{found: cs.notAllowed("is no longer updated")}
	case cs.gateway != nil && cs.gateway.Status.Operator != "" && cs.gateway.Status.Operator != cs.me:
		return copyDecision{leave: true}
	case cs.gateway == nil || !allows(cs.gateway, cs.keys.Namespace, cs.labels):
		return cs.withdraw(cs.notAllowed("has no keys, so pods that mount it accept no token"))
	case !cs.known || cs.published.gateway != cs.gateway.UID:
		return copyDecision{leave: true} // the reconcile of the gateway wakes this one
	case cs.published.data == nil && status.GatewayUID != "" && status.GatewayUID != string(cs.gateway.UID):
		return cs.withdraw(cs.notReady()) // the copy is of another gateway, which had the same name
	case cs.published.data == nil:
		return copyDecision{found: cs.notReady()}
	case status.GatewayUID == string(cs.gateway.UID) && status.KeysGeneration > cs.published.generation:
		// Another process of this operator has published since this one last looked.
		found := waiting(v1alpha1.ReasonKeysNotReady, "the ConfigMap %s has keys of generation %d, and the operator knows "+
			"only generation %d of the AuthGateway; it looks again", cs.configMapName(), status.KeysGeneration,
			cs.published.generation)
		found.recheck = recheckAwaited
		return copyDecision{found: found}
	}
	if p := cs.conflict(); p != nil {
		return copyDecision{found: p}
	}
	d := copyDecision{entries: cs.published.data, from: &cs.published}
	if cs.published.blocked {
		d.found = cs.notReady()
	}
	return d
}

// withdraw removes the keys from the copy, if there is one.
func (cs *copyState) withdraw(found *problem) copyDecision {
	d := copyDecision{found: found}
	if cs.configMap != nil && cs.owns() {
		d.entries = withdrawnEntries(cs.keys.Status.KeysGeneration)
	}
	return d
}

// notAllowed returns the same problem for a gateway that does not exist and for one
// that does not allow the namespace. So it does not reveal which gateways other
// namespaces have.
func (cs *copyState) notAllowed(copied string) *problem {
	ref := cs.keys.Spec.GatewayRef
	if cs.configMap != nil && cs.owns() {
		copied = fmt.Sprintf(". The ConfigMap %s %s", cs.configMapName(), copied)
	} else {
		copied = ""
	}
	if ref.Namespace == cs.keys.Namespace {
		return stalled(v1alpha1.ReasonGatewayNotFound,
			"there is no AuthGateway %s in this namespace: create it, or correct spec.gatewayRef%s", ref.Name, copied)
	}
	return stalled(v1alpha1.ReasonNotAllowed,
		"no AuthGateway %s in namespace %s allows the namespace %s: correct spec.gatewayRef, or ask the owner of the "+
			"gateway to select this namespace in its spec.publicKeys.allowedNamespaces%s",
		ref.Name, ref.Namespace, cs.keys.Namespace, copied)
}

func (cs *copyState) notReady() *problem {
	ref := cs.keys.Spec.GatewayRef
	return waiting(v1alpha1.ReasonKeysNotReady, "the AuthGateway %s in namespace %s publishes no new keys at present: "+
		"ask its owner to look at its condition KeysReady", ref.Name, ref.Namespace)
}

// conflict returns a problem if another object has the name of the copy. The
// operator never touches such an object.
func (cs *copyState) conflict() *problem {
	if cs.configMap == nil || cs.owns() {
		return nil
	}
	of := metav1.GetControllerOf(cs.configMap)
	if of != nil && of.Kind == "PublicKeys" && of.Name == cs.keys.Name {
		p := waiting(v1alpha1.ReasonProgressing, "the ConfigMap %s of a deleted PublicKeys of this name is about to be "+
			"deleted; then the new one is created", cs.configMapName())
		p.recheck = recheckNames
		return p
	}
	p := stalled(v1alpha1.ReasonNameConflict, "there is already a ConfigMap %s that this PublicKeys did not create. "+
		"The operator does not touch it. Delete or rename it, or choose another name for the PublicKeys", cs.configMapName())
	p.recheck = recheckNames
	return p
}

// owns reports whether the operator created the ConfigMap for this PublicKeys.
// Without a controller, its labels decide, as they do for the objects of a gateway.
func (cs *copyState) owns() bool {
	if c := metav1.GetControllerOf(cs.configMap); c != nil {
		return c.UID == cs.keys.UID
	}
	have := labels.Set(cs.configMap.Labels)
	return labels.SelectorFromSet(copyLabels(cs.keys)).Matches(have)
}

func (cs *copyState) configMapName() string { return copyName(cs.keys) }

// render returns the apply configuration of the copy.
func (cs *copyState) render(entries map[string]string) *accore.ConfigMapApplyConfiguration {
	k := cs.keys
	owner := acmeta.OwnerReference().WithAPIVersion(v1alpha1.GroupVersion.String()).WithKind("PublicKeys").
		WithName(k.Name).WithUID(k.UID).WithController(true)
	return accore.ConfigMap(copyName(k), k.Namespace).
		WithLabels(copyLabels(k)).WithOwnerReferences(owner).WithData(entries)
}

// summarize returns the status after a reconcile. wrote means that the ConfigMap has
// the entries of the decision.
func (cs *copyState) summarize(d copyDecision, wrote bool) v1alpha1.PublicKeysStatus {
	status := *cs.keys.Status.DeepCopy()
	status.ObservedGeneration = cs.keys.Generation
	if status.Operator == "" || cs.gateway != nil && !cs.unwatched && cs.unread == nil {
		status.Operator = cs.me
	}
	switch {
	case wrote && d.from != nil:
		status.KeysGeneration, status.GatewayUID = d.from.generation, string(d.from.gateway)
		status.ConfigMapRef = &v1alpha1.LocalReference{Name: cs.configMapName()}
	case wrote:
		status.GatewayUID = ""
	case d.entries == nil && cs.unread == nil && (cs.configMap == nil || !cs.owns()):
		status.ConfigMapRef, status.GatewayUID = nil, ""
	}
	ready := isTrue(v1alpha1.ReasonReady, fmt.Sprintf("the ConfigMap %s has the public keys of the AuthGateway %s in "+
		"namespace %s", cs.configMapName(), cs.keys.Spec.GatewayRef.Name, cs.keys.Spec.GatewayRef.Namespace))
	reconciling, stall := isFalse(v1alpha1.ReasonReady, ""), isFalse(v1alpha1.ReasonReady, "")
	if p := d.found; p != nil {
		ready = isFalse(p.reason, p.message)
		if p.stalled {
			stall = isTrue(p.reason, p.message)
			reconciling = isFalse(p.reason, "nothing changes until you act: see Stalled")
		} else {
			reconciling = isTrue(p.reason, p.message)
		}
	}
	for conditionType, c := range map[string]condition{
		v1alpha1.ConditionReady: ready, v1alpha1.ConditionReconciling: reconciling, v1alpha1.ConditionStalled: stall,
	} {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: conditionType, Status: c.status, Reason: c.reason, Message: clipTo(c.message, mostOfMessage),
			ObservedGeneration: cs.keys.Generation, LastTransitionTime: metav1.NewTime(cs.now),
		})
	}
	slices.SortFunc(status.Conditions, func(a, b metav1.Condition) int {
		return slices.Index(conditionOrder, a.Type) - slices.Index(conditionOrder, b.Type)
	})
	return status
}
