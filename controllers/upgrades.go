package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	acapps "k8s.io/client-go/applyconfigurations/apps/v1"
	accore "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// A new version of the operator may render different pods for every gateway. It replaces the pods of a few gateways at
// a time. When one is Ready the next one follows. While one fails that was Ready before, no other is started. A change
// that a person makes is applied at once.
//
// Two labels of each Deployment record its rendered template and the generation of its gateway. They tell an upgrade
// from a change of the spec. Labels neither replace pods nor change the generation of the Deployment. labelUpgrading
// marks a Deployment during its upgrade, so that a restarted operator continues where it was.

// The values of labelUpgrading: whether the gateway was Ready before.
const (
	upgradedReady    = "Ready"
	upgradedNotReady = "NotReady"
)

// upgrades are the gateways that an operator's upgrade reaches.
type upgrades struct {
	most int // at a time; 0: no limit

	mu       sync.Mutex
	seeded   bool
	underWay map[types.NamespacedName]string // why it fails, or ""
	waiting  []types.NamespacedName
}

func newUpgrades(most int) *upgrades {
	return &upgrades{most: most, underWay: map[types.NamespacedName]string{}}
}

// seedUpgrades finds the upgrades that an earlier process started.
func (r *Reconciler) seedUpgrades(ctx context.Context) error {
	u := r.upgrades
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seeded {
		return nil
	}
	var all appsv1.DeploymentList
	if err := r.Client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list Deployments: %w", err)
	}
	for i := range all.Items {
		d := &all.Items[i]
		if d.Labels[labelUpgrading] != upgradedReady {
			continue
		}
		key := types.NamespacedName{Namespace: d.Namespace, Name: d.Labels[labelInstance]}
		var g v1alpha1.AuthGateway
		if err := r.Client.Get(ctx, key, &g); client.IgnoreNotFound(err) != nil {
			return err
		} else if err == nil {
			u.underWay[key] = failsAfterUpgrade(d, g.Status)
		}
	}
	u.seeded = true
	return nil
}

// admit reports whether the pods of a gateway may be replaced now. If not, it queues the gateway.
func (u *upgrades) admit(key types.NamespacedName) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, has := u.underWay[key]; !has {
		if u.free() == 0 {
			if !slices.Contains(u.waiting, key) {
				u.waiting = append(u.waiting, key)
			}
			return false
		}
		u.underWay[key] = ""
	}
	u.dropWaiting(key)
	return true
}

// free returns how many more gateways may start now.
func (u *upgrades) free() int {
	for _, why := range u.underWay {
		if why != "" && u.most > 0 {
			return 0
		}
	}
	if u.most == 0 {
		return len(u.waiting) + 1
	}
	return max(0, u.most-len(u.underWay))
}

func (u *upgrades) dropWaiting(key types.NamespacedName) {
	u.waiting = slices.DeleteFunc(u.waiting, func(k types.NamespacedName) bool { return k == key })
}

// release ends the upgrade of a gateway, or removes it from the queue, and returns the gateways that may start now.
func (u *upgrades) release(key types.NamespacedName) (next []types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.underWay, key)
	u.dropWaiting(key)
	return u.next()
}

// next returns the gateways that may start now.
func (u *upgrades) next() []types.NamespacedName {
	return slices.Clone(u.waiting[:min(u.free(), len(u.waiting))])
}

// note records why the upgrade of a gateway fails, or "", and reports whether it has begun or ceased to fail.
func (u *upgrades) note(key types.NamespacedName, why string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	was, has := u.underWay[key]
	if has {
		u.underWay[key] = why
	}
	return has && (was == "") != (why == "")
}

func (u *upgrades) Describe(to chan<- *prometheus.Desc) {
	to <- upgradesMetric
	to <- upgradeFailingMetric
}

func (u *upgrades) Collect(to chan<- prometheus.Metric) {
	u.mu.Lock()
	defer u.mu.Unlock()
	to <- prometheus.MustNewConstMetric(upgradesMetric, prometheus.GaugeValue, float64(len(u.waiting)), "waiting")
	to <- prometheus.MustNewConstMetric(upgradesMetric, prometheus.GaugeValue, float64(len(u.underWay)), "under_way")
	for key, why := range u.underWay {
		if why != "" {
			to <- prometheus.MustNewConstMetric(upgradeFailingMetric, prometheus.GaugeValue, 1, key.Namespace, key.Name)
		}
	}
}

func (r *Reconciler) endUpgrade(key types.NamespacedName) {
	for _, next := range r.upgrades.release(key) {
		r.wakeUp(next)
	}
}

// withRecord labels a Deployment with its template and the gateway's generation.
func withRecord(
	d *acapps.DeploymentApplyConfiguration, template *accore.PodTemplateSpecApplyConfiguration, generation int64,
) *acapps.DeploymentApplyConfiguration {
	text, err := json.Marshal(template)
	if err != nil { // a programming error
		panic(err)
	}
	return d.WithLabels(map[string]string{
		labelTemplate:   contentDigest(&corev1.ConfigMap{BinaryData: map[string][]byte{"template": text}}),
		labelGeneration: strconv.FormatInt(generation, 10),
	})
}

// mayRoll reports whether a Deployment may be applied now. If that is an upgrade, it sets labelUpgrading.
func (r *Reconciler) mayRoll(
	ctx context.Context, cs *clusterState, live *appsv1.Deployment, wanted *acapps.DeploymentApplyConfiguration,
) (bool, error) {
	if err := r.seedUpgrades(ctx); err != nil {
		return false, err
	}
	key := client.ObjectKeyFromObject(cs.gateway)
	same := live.Labels[labelTemplate] == wanted.Labels[labelTemplate]
	under, finished := live.Labels[labelUpgrading], isFinished(live)
	if same || isAsked(live, wanted) {
		if under == "" || finished {
			r.endUpgrade(key)
		} else { // the upgrade continues, together with a change of the spec
			wanted.WithLabels(map[string]string{labelUpgrading: under})
		}
		return true, nil
	}
	if !r.upgrades.admit(key) {
		cs.upgradeWaits = true
		return false, nil
	}
	before := upgradedNotReady
	if under != "" {
		before = under
	} else if meta.IsStatusConditionTrue(cs.gateway.Status.Conditions, v1alpha1.ConditionReady) {
		before = upgradedReady
	}
	wanted.WithLabels(map[string]string{labelUpgrading: before})
	return true, nil
}

// isAsked reports whether a person changed what a Deployment is rendered from: the spec, or an input of it. Without
// labels it returns true, so that they are restored at once.
func isAsked(live *appsv1.Deployment, wanted *acapps.DeploymentApplyConfiguration) bool {
	if live.Labels[labelGeneration] != wanted.Labels[labelGeneration] {
		return true
	}
	was, is := live.Spec.Template.Annotations, wanted.Spec.Template.Annotations
	digests := []string{annotationInputs, annotationPassphrases, annotationConfigMaps}
	return slices.ContainsFunc(digests, func(name string) bool { return was[name] != is[name] })
}

// isFinished reports whether every pod of a Deployment has the present template and is available.
func isFinished(d *appsv1.Deployment) bool {
	wanted := replicasOf(d)
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == wanted &&
		d.Status.Replicas == wanted && d.Status.AvailableReplicas == wanted
}

// failsAfterUpgrade returns why a gateway is not Ready after its upgrade. It returns
// "" if the gateway is Ready or may still become so.
func failsAfterUpgrade(d *appsv1.Deployment, status v1alpha1.AuthGatewayStatus) string {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded" &&
			d.Status.ObservedGeneration >= d.Generation {
			return c.Message
		}
	}
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
	failures := []string{
		v1alpha1.ReasonPodsFailing, v1alpha1.ReasonReplicasMissing, v1alpha1.ReasonDatabaseUnavailable,
	}
	if ready == nil || ready.Status != metav1.ConditionFalse || !slices.Contains(failures, ready.Reason) {
		return ""
	}
	return ready.Reason + ": " + ready.Message
}

// noteUpgrade records whether the upgrade of a gateway fails.
func (r *Reconciler) noteUpgrade(ctx context.Context, cs *clusterState, status v1alpha1.AuthGatewayStatus) {
	d, key := cs.deployment(), client.ObjectKeyFromObject(cs.gateway)
	if cs.gateway.Spec.Suspend {
		r.endUpgrade(key)
		return
	}
	if d == nil || d.Labels[labelUpgrading] == "" {
		return
	}
	why := failsAfterUpgrade(d, status)
	if why != "" && d.Labels[labelUpgrading] != upgradedReady { // it was not Ready before
		r.endUpgrade(key)
		return
	}
	switch news := r.upgrades.note(key, why); {
	case news && why != "":
		log.FromContext(ctx).Error(nil, "upgrades stopped: this AuthGateway was Ready before its upgrade and is not now",
			"reason", why)
	case news:
		log.FromContext(ctx).Info("upgrades continue")
		r.upgrades.mu.Lock()
		next := r.upgrades.next()
		r.upgrades.mu.Unlock()
		for _, key := range next {
			r.wakeUp(key)
		}
	}
}
