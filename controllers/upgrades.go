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

// A new version of the operator may render other pods for every gateway at once.
// Such upgrades go in waves: a few gateways at a time, the next one when one is
// Ready, and none while one fails that was Ready before. What a person changes is
// applied at once.
//
// Labels of each Deployment record the template that it was rendered with, and the
// generation of its gateway, so that the operator can tell the two apart. Labels
// neither replace pods nor make another generation of the Deployment. While it is
// upgraded it has labelUpgrading, so that another operator continues the wave.

// The values of labelUpgrading: what the gateway was before.
const (
	upgradedReady    = "Ready"
	upgradedNotReady = "NotReady"
)

// upgrades are the gateways whose pods an operator replaces because it renders
// them differently.
type upgrades struct {
	most int // at a time; 0: any number

	mu       sync.Mutex
	seeded   bool
	underWay map[types.NamespacedName]string // why it fails; "": it does not
	waiting  []types.NamespacedName
}

func newUpgrades(most int) *upgrades {
	return &upgrades{most: most, underWay: map[types.NamespacedName]string{}}
}

// seedUpgrades takes over the wave that another operator has begun.
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

// admit reports whether the pods of a gateway may be replaced now. One that may
// not waits for its turn.
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

// free returns how many more gateways may be upgraded now.
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

// release ends the upgrade of a gateway, or its wait for one, and returns those
// whose turn it is then.
func (u *upgrades) release(key types.NamespacedName) (next []types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.underWay, key)
	u.dropWaiting(key)
	return slices.Clone(u.waiting[:min(u.free(), len(u.waiting))])
}

// note records why the upgrade of a gateway fails, and reports whether that is
// news.
func (u *upgrades) note(key types.NamespacedName, why string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	was, has := u.underWay[key]
	if has {
		u.underWay[key] = why
	}
	return has && (was == "") != (why == "")
}

// Describe is of prometheus.Collector.
func (u *upgrades) Describe(to chan<- *prometheus.Desc) {
	to <- upgradesMetric
	to <- upgradeFailingMetric
}

// Collect is of prometheus.Collector.
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

// withRecord notes on a Deployment what it was rendered with, and for.
func withRecord(d *acapps.DeploymentApplyConfiguration, template *accore.PodTemplateSpecApplyConfiguration, generation int64) *acapps.DeploymentApplyConfiguration {
	text, err := json.Marshal(template)
	if err != nil { // a mistake in the program
		panic(err)
	}
	return d.WithLabels(map[string]string{
		labelTemplate:   contentDigest(&corev1.ConfigMap{BinaryData: map[string][]byte{"template": text}}),
		labelGeneration: strconv.FormatInt(generation, 10),
	})
}

// mayRoll reports whether a Deployment may be brought to what is wanted now, and
// notes on it whether that is an upgrade.
func (r *Reconciler) mayRoll(ctx context.Context, cs *clusterState, live *appsv1.Deployment, wanted *acapps.DeploymentApplyConfiguration) (bool, error) {
	if err := r.seedUpgrades(ctx); err != nil {
		return false, err
	}
	key := client.ObjectKeyFromObject(cs.gateway)
	same := live.Labels[labelTemplate] == wanted.Labels[labelTemplate]
	under, finished := live.Labels[labelUpgrading], isFinished(live)
	if same || isAsked(live, wanted) {
		if under == "" || finished {
			r.endUpgrade(key)
		} else { // it goes on, also with what a person has changed meanwhile
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

// isAsked reports whether a person has changed what a Deployment is rendered from:
// the spec of its gateway, or a Secret or a ConfigMap that it names. Somebody may
// also have removed the labels; they are put back at once.
func isAsked(live *appsv1.Deployment, wanted *acapps.DeploymentApplyConfiguration) bool {
	if live.Labels[labelGeneration] != wanted.Labels[labelGeneration] {
		return true
	}
	was, is := live.Spec.Template.Annotations, wanted.Spec.Template.Annotations
	return slices.ContainsFunc([]string{annotationInputs, annotationPassphrases, annotationConfigMaps}, func(name string) bool { return was[name] != is[name] })
}

// isFinished reports whether every pod of a Deployment is of its present template,
// and serves.
func isFinished(d *appsv1.Deployment) bool {
	wanted := replicasOf(d)
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == wanted && d.Status.Replicas == wanted && d.Status.AvailableReplicas == wanted
}

// failsAfterUpgrade returns why a gateway whose pods are replaced does not get
// Ready; "": it still may, or is.
func failsAfterUpgrade(d *appsv1.Deployment, status v1alpha1.AuthGatewayStatus) string {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded" && d.Status.ObservedGeneration >= d.Generation {
			return c.Message
		}
	}
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.Status != metav1.ConditionFalse || !slices.Contains([]string{v1alpha1.ReasonPodsFailing, v1alpha1.ReasonReplicasMissing, v1alpha1.ReasonDatabaseUnavailable}, ready.Reason) {
		return ""
	}
	return ready.Reason + ": " + ready.Message
}

// noteUpgrade records whether a gateway fails whose pods are being replaced.
func (r *Reconciler) noteUpgrade(ctx context.Context, cs *clusterState, status v1alpha1.AuthGatewayStatus) {
	d, key := cs.deployment(), client.ObjectKeyFromObject(cs.gateway)
	if d == nil || d.Labels[labelUpgrading] == "" || cs.gateway.Spec.Suspend {
		if cs.gateway.Spec.Suspend {
			r.endUpgrade(key)
		}
		return
	}
	why := failsAfterUpgrade(d, status)
	if why != "" && d.Labels[labelUpgrading] != upgradedReady { // it failed before, too
		r.endUpgrade(key)
		return
	}
	switch news := r.upgrades.note(key, why); {
	case news && why != "":
		log.FromContext(ctx).Error(nil, "no more AuthGateways are upgraded: this one was Ready, and is not with its new pods", "why", why)
	case news:
		log.FromContext(ctx).Info("the upgrade of AuthGateways goes on")
		r.wakeWaiting()
	}
}

// wakeWaiting asks for passes over the gateways whose turn it is.
func (r *Reconciler) wakeWaiting() {
	u := r.upgrades
	u.mu.Lock()
	next := slices.Clone(u.waiting[:min(u.free(), len(u.waiting))])
	u.mu.Unlock()
	for _, key := range next {
		r.wakeUp(key)
	}
}
