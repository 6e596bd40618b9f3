package controllers

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	acapps "k8s.io/client-go/applyconfigurations/apps/v1"
	accore "k8s.io/client-go/applyconfigurations/core/v1"
	acmeta "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

func renderDeployment(r rendering) *acapps.DeploymentApplyConfiguration {
	template := renderPod(r)
	spec := deploymentSpec(r.names.selector(), template)
	if replicas := replicasWanted(r.gateway, r.deployment()); replicas != nil {
		spec.WithReplicas(*replicas)
	}
	d := acapps.Deployment(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).WithSpec(spec)
	return withRecord(d, template, r.gateway.Generation)
}

func deploymentSpec(
	selector map[string]string, template *accore.PodTemplateSpecApplyConfiguration,
) *acapps.DeploymentSpecApplyConfiguration {
	return acapps.DeploymentSpec().
		WithSelector(acmeta.LabelSelector().WithMatchLabels(selector)).
		WithRevisionHistoryLimit(3).
		WithProgressDeadlineSeconds(120).
		// A replica is stopped only after its successor is ready.
		WithStrategy(acapps.DeploymentStrategy().WithType(appsv1.RollingUpdateDeploymentStrategyType).
			WithRollingUpdate(acapps.RollingUpdateDeployment().
				WithMaxUnavailable(intstr.FromInt32(0)).WithMaxSurge(intstr.FromInt32(1)))).
		WithTemplate(template)
}

// renderPod renders a pod of the API.
func renderPod(r rendering) *accore.PodTemplateSpecApplyConfiguration {
	annotations := map[string]string{
		annotationInputs: r.inputsDigest, annotationPassphrases: r.passphrasesDigest,
	}
	if r.configMapsDigest != "" {
		annotations[annotationConfigMaps] = r.configMapsDigest
	}
	return podOf{
		account: r.names.workload(), selector: r.names.selector(), labels: r.names.labels(), annotations: annotations,
		server: renderServer(r), mounts: mountsOf(r.gateway),
	}.render(r)
}

// podOf is what distinguishes the pods of a gateway.
type podOf struct {
	account     string // the ServiceAccount
	withToken   bool   // of the ServiceAccount
	selector    map[string]string
	labels      map[string]string
	annotations map[string]string
	server      *accore.ContainerApplyConfiguration
	mounts      []mount
}

// render renders a pod that meets the Pod Security Standard "restricted". The spec's podTemplate cannot weaken that.
func (p podOf) render(r rendering) *accore.PodTemplateSpecApplyConfiguration {
	overlay := r.gateway.Spec.PodTemplate
	if overlay == nil {
		overlay = &v1alpha1.PodTemplate{}
	}
	spec := accore.PodSpec().
		WithServiceAccountName(p.account).
		WithAutomountServiceAccountToken(p.withToken).
		WithEnableServiceLinks(false).
		WithTerminationGracePeriodSeconds(int64(r.gateway.Spec.Shutdown.GracePeriod.Value().Seconds())).
		WithSecurityContext(renderUser(r)).
		WithContainers(p.server)
	for _, m := range p.mounts {
		spec.WithVolumes(m.renderVolume())
	}
	for _, s := range overlay.Sidecars {
		if s.Native {
			spec.WithInitContainers(renderSidecar(s).WithRestartPolicy(corev1.ContainerRestartPolicyAlways))
		} else {
			spec.WithContainers(renderSidecar(s))
		}
	}
	for _, secret := range pullSecrets(r) {
		spec.WithImagePullSecrets(accore.LocalObjectReference().WithName(secret))
	}
	if len(overlay.NodeSelector) > 0 {
		spec.WithNodeSelector(overlay.NodeSelector)
	}
	if overlay.Affinity != nil {
		spec.WithAffinity(convert[accore.AffinityApplyConfiguration](*overlay.Affinity))
	}
	for _, t := range overlay.Tolerations {
		spec.WithTolerations(convert[accore.TolerationApplyConfiguration](t))
	}
	if overlay.PriorityClassName != "" {
		spec.WithPriorityClassName(overlay.PriorityClassName)
	}
	if len(overlay.TopologySpreadConstraints) == 0 {
		spec.WithTopologySpreadConstraints(accore.TopologySpreadConstraint().
			WithMaxSkew(1).WithTopologyKey(corev1.LabelHostname).WithWhenUnsatisfiable(corev1.ScheduleAnyway).
			WithLabelSelector(acmeta.LabelSelector().WithMatchLabels(p.selector)))
	}
	for _, c := range overlay.TopologySpreadConstraints {
		if c.LabelSelector == nil { // it would select no pods
			c.LabelSelector = &metav1.LabelSelector{MatchLabels: p.selector}
		}
		spec.WithTopologySpreadConstraints(convert[accore.TopologySpreadConstraintApplyConfiguration](c))
	}
	return accore.PodTemplateSpec().
		WithLabels(merged(overlay.Labels, p.labels)).
		WithAnnotations(merged(overlay.Annotations, p.annotations)).
		WithSpec(spec)
}

// pullSecrets returns the Secrets with which the images of a pod are pulled: those
// of the spec and, if the operator chooses the image, those of its options.
func pullSecrets(r rendering) (all []string) {
	for _, secret := range r.gateway.Spec.ImagePullSecrets {
		all = append(all, secret.Name)
	}
	for _, name := range r.pullSecrets {
		if r.gateway.Spec.Image == "" && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

// serverUser is "nonroot" of distroless images. No node has a user of this number.
const serverUser = 65532

// renderUser sets the user that the pods run as, unless the platform assigns it:
// OpenShift does so by namespace, and rejects pods that set another user.
func renderUser(r rendering) *accore.PodSecurityContextApplyConfiguration {
	c := accore.PodSecurityContext().WithRunAsNonRoot(true).
		WithSeccompProfile(accore.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
	if !r.platformUsers {
		c.WithRunAsUser(serverUser).WithRunAsGroup(serverUser).WithFSGroup(serverUser)
	}
	return c
}

func renderSidecar(s v1alpha1.Sidecar) *accore.ContainerApplyConfiguration {
	c := accore.Container().WithName(s.Name).WithImage(s.Image).WithCommand(s.Command...).WithArgs(s.Args...).
		WithSecurityContext(restricted())
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		e := accore.EnvVar().WithName(name)
		if s.Env[name] != "" {
			e.WithValue(s.Env[name])
		}
		c.WithEnv(e)
	}
	if s.Resources != nil {
		c.WithResources(renderResources(*s.Resources))
	}
	return c
}
