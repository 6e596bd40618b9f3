package controllers

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	acapps "k8s.io/client-go/applyconfigurations/apps/v1"
	acautoscaling "k8s.io/client-go/applyconfigurations/autoscaling/v2"
	accore "k8s.io/client-go/applyconfigurations/core/v1"
	acmeta "k8s.io/client-go/applyconfigurations/meta/v1"
	acnetworking "k8s.io/client-go/applyconfigurations/networking/v1"
	acpolicy "k8s.io/client-go/applyconfigurations/policy/v1"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// rendering is all that objects are rendered from. What is rendered is written
// with every default that the API server would add to a list, for a list is one
// field: what is found of it must be what was applied.
type rendering struct {
	*world
	ring  keys.Ring
	image string

	operatorNamespace string
	platformUsers     bool // the platform assigns the user that pods run as
	pullSecrets       []string
	openMetrics       bool // every namespace may reach the operations port

	// inputs and passphrases are digests of the Secrets that pods start with.
	inputs, passphrases string

	// templates is a digest of the templates of mails; "": there are none.
	templates string
}

func (r rendering) owner() *acmeta.OwnerReferenceApplyConfiguration {
	o := ownerReference(r.gateway)
	return acmeta.OwnerReference().WithAPIVersion(o.APIVersion).WithKind(o.Kind).WithName(o.Name).WithUID(o.UID).WithController(true)
}

// renderPublicKeys is what consumers mount.
func renderPublicKeys(r rendering) *accore.ConfigMapApplyConfiguration {
	data := map[string]string{}
	for name, content := range keys.PublicFiles(r.ring, issuer(r.world), r.trace(r.world.ring).Revoked...) {
		data[name] = string(content)
	}
	return accore.ConfigMap(r.names.publicKeys(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).WithData(data)
}

// renderServiceAccount: the server asks nothing of Kubernetes, so its account
// has no rights, and its pods no token.
func renderServiceAccount(r rendering) *accore.ServiceAccountApplyConfiguration {
	account := accore.ServiceAccount(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).WithAutomountServiceAccountToken(false)
	if annotations := r.gateway.Spec.ServiceAccount.Annotations; len(annotations) > 0 {
		account.WithAnnotations(annotations)
	}
	return account
}

func renderService(r rendering) *accore.ServiceApplyConfiguration {
	wanted := r.gateway.Spec.Service
	spec := accore.ServiceSpec().WithType(corev1.ServiceTypeClusterIP).WithSelector(r.names.selector()).WithPorts(
		accore.ServicePort().WithName(portAPI).WithPort(servicePort).WithProtocol(corev1.ProtocolTCP).
			WithTargetPort(intstr.FromString(portAPI)).WithAppProtocol("http"),
		accore.ServicePort().WithName(portOperations).WithPort(operationsPort).WithProtocol(corev1.ProtocolTCP).
			WithTargetPort(intstr.FromString(portOperations)).WithAppProtocol("http"),
	)
	if wanted.IPFamilyPolicy != "" {
		spec.WithIPFamilyPolicy(corev1.IPFamilyPolicy(wanted.IPFamilyPolicy))
	}
	if wanted.TrafficDistribution != "" {
		spec.WithTrafficDistribution(string(wanted.TrafficDistribution))
	}
	service := accore.Service(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).WithSpec(spec)
	if len(wanted.Annotations) > 0 {
		service.WithAnnotations(wanted.Annotations)
	}
	return service
}

// renderNetworkPolicy lets in those who may call the API, and to the operations
// port the operator, which asks for keys, and whoever collects metrics.
func renderNetworkPolicy(r rendering) *acnetworking.NetworkPolicyApplyConfiguration {
	port := func(n int32) *acnetworking.NetworkPolicyPortApplyConfiguration {
		return acnetworking.NetworkPolicyPort().WithProtocol(corev1.ProtocolTCP).WithPort(intstr.FromInt32(n))
	}
	api := acnetworking.NetworkPolicyIngressRule().WithPorts(port(apiPort))
	if from := r.gateway.Spec.NetworkPolicy.From; len(from) > 0 {
		for _, peer := range from {
			api.WithFrom(networkPeer(peer))
		}
	} else {
		api.WithFrom(
			acnetworking.NetworkPolicyPeer().WithPodSelector(acmeta.LabelSelector()),
			acnetworking.NetworkPolicyPeer().WithNamespaceSelector(acmeta.LabelSelector().WithMatchLabels(map[string]string{labelClient: "true"})),
		)
	}
	operations := acnetworking.NetworkPolicyIngressRule().WithPorts(port(operationsPort)).WithFrom(
		acnetworking.NetworkPolicyPeer().
			WithNamespaceSelector(acmeta.LabelSelector().WithMatchLabels(map[string]string{corev1.LabelMetadataName: r.operatorNamespace})).
			WithPodSelector(acmeta.LabelSelector().WithMatchLabels(map[string]string{labelName: operatorName})),
	)
	if r.gateway.Spec.Monitoring.ServiceMonitor != nil || r.openMetrics { // a Prometheus can be anywhere, and there are no secrets here
		operations.WithFrom(acnetworking.NetworkPolicyPeer().WithNamespaceSelector(acmeta.LabelSelector()))
	}
	return acnetworking.NetworkPolicy(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).
		WithSpec(acnetworking.NetworkPolicySpec().
			WithPodSelector(acmeta.LabelSelector().WithMatchLabels(r.names.selector())).
			WithPolicyTypes(networkingv1.PolicyTypeIngress).
			WithIngress(api, operations))
}

func networkPeer(p networkingv1.NetworkPolicyPeer) *acnetworking.NetworkPolicyPeerApplyConfiguration {
	return convert[acnetworking.NetworkPolicyPeerApplyConfiguration](p)
}

// renderDisruptionBudget lets a node be drained one replica at a time, also where
// there is one replica only, and where a replica is broken anyway.
func renderDisruptionBudget(r rendering) *acpolicy.PodDisruptionBudgetApplyConfiguration {
	return acpolicy.PodDisruptionBudget(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).
		WithSpec(acpolicy.PodDisruptionBudgetSpec().
			WithMaxUnavailable(intstr.FromInt32(1)).
			WithSelector(acmeta.LabelSelector().WithMatchLabels(r.names.selector())).
			WithUnhealthyPodEvictionPolicy(policyv1.AlwaysAllow))
}

func renderDeployment(r rendering) *acapps.DeploymentApplyConfiguration {
	template := renderPod(r)
	spec := acapps.DeploymentSpec().
		WithSelector(acmeta.LabelSelector().WithMatchLabels(r.names.selector())).
		WithRevisionHistoryLimit(3).
		WithProgressDeadlineSeconds(120).
		// A replica ends only when another is ready in its place.
		WithStrategy(acapps.DeploymentStrategy().WithType(appsv1.RollingUpdateDeploymentStrategyType).
			WithRollingUpdate(acapps.RollingUpdateDeployment().
				WithMaxUnavailable(intstr.FromInt32(0)).WithMaxSurge(intstr.FromInt32(1)))).
		WithTemplate(template)
	if replicas := replicasWanted(r.gateway, r.deployment()); replicas != nil {
		spec.WithReplicas(*replicas)
	}
	d := acapps.Deployment(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).WithSpec(spec)
	return withRecord(d, template, r.gateway.Generation)
}

// replicasWanted leaves the number to an autoscaler where there is one. But the
// field must not be given up before the autoscaler has taken it: without an
// owner it would fall back to one replica. Nor may it be handed over with zero,
// which switches an autoscaler off.
func replicasWanted(g *v1alpha1.AuthGateway, live *appsv1.Deployment) *int32 {
	a := g.Spec.Autoscaling
	if a == nil {
		return g.Spec.Replicas
	}
	if live == nil {
		return &a.MinReplicas
	}
	applied, err := acapps.ExtractDeployment(live, FieldManager)
	switch {
	case err != nil || applied.Spec == nil || applied.Spec.Replicas == nil:
		return nil
	case *applied.Spec.Replicas == 0:
		return &a.MinReplicas
	}
	return applied.Spec.Replicas
}

// renderPod is a pod of the server. Everything that the standard "restricted"
// asks for is here, and nothing of a PodTemplate can take it away.
func renderPod(r rendering) *accore.PodTemplateSpecApplyConfiguration {
	overlay := r.gateway.Spec.PodTemplate
	if overlay == nil {
		overlay = &v1alpha1.PodTemplate{}
	}
	spec := accore.PodSpec().
		WithServiceAccountName(r.names.workload()).
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithTerminationGracePeriodSeconds(int64(r.gateway.Spec.Shutdown.GracePeriod.Value().Seconds())).
		WithSecurityContext(renderUser(r)).
		WithContainers(renderServer(r)).
		WithVolumes(renderVolumes(r)...)
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
			WithLabelSelector(acmeta.LabelSelector().WithMatchLabels(r.names.selector())))
	}
	for _, c := range overlay.TopologySpreadConstraints {
		if c.LabelSelector == nil { // which selects no pods, and so would do nothing
			c.LabelSelector = &metav1.LabelSelector{MatchLabels: r.names.selector()}
		}
		spec.WithTopologySpreadConstraints(convert[accore.TopologySpreadConstraintApplyConfiguration](c))
	}
	annotations := map[string]string{annotationInputs: r.inputs, annotationPassphrases: r.passphrases}
	if r.templates != "" {
		annotations[annotationTemplates] = r.templates
	}
	return accore.PodTemplateSpec().
		WithLabels(merged(overlay.Labels, r.names.labels())).
		WithAnnotations(merged(overlay.Annotations, annotations)).
		WithSpec(spec)
}

// pullSecrets names the Secrets with which the images of a pod are pulled: those
// of the spec, and those of the operator's options if the operator chooses the
// image.
func pullSecrets(r rendering) (all []string) {
	for _, secret := range r.gateway.Spec.ImagePullSecrets {
		all = append(all, secret.Name)
	}
	if r.gateway.Spec.Image == "" {
		for _, name := range r.pullSecrets {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	return all
}

// serverUser is nobody on any system.
const serverUser = 65532

// renderUser is whom the pods run as. Where the platform assigns users, as
// OpenShift does by namespace, it refuses pods that name one.
func renderUser(r rendering) *accore.PodSecurityContextApplyConfiguration {
	c := accore.PodSecurityContext().WithRunAsNonRoot(true).
		WithSeccompProfile(accore.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
	if !r.platformUsers {
		c.WithRunAsUser(serverUser).WithRunAsGroup(serverUser).WithFSGroup(serverUser)
	}
	return c
}

func renderServer(r rendering) *accore.ContainerApplyConfiguration {
	probe := func(path string, period, failures int32) *accore.ProbeApplyConfiguration {
		return accore.Probe().WithHTTPGet(accore.HTTPGetAction().WithPath(path).WithPort(intstr.FromString(portOperations)).WithScheme(corev1.URISchemeHTTP)).
			WithPeriodSeconds(period).WithFailureThreshold(failures).WithTimeoutSeconds(3)
	}
	resources := corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
	}
	if r.gateway.Spec.Autoscaling != nil {
		// A target is a share of the request. A sign-in takes a processor for a
		// quarter of a second, so of a small request each would be a reason for
		// another replica.
		resources.Requests[corev1.ResourceCPU] = resource.MustParse("1")
	}
	if r.gateway.Spec.Resources != nil {
		resources = *r.gateway.Spec.Resources
	}
	c := accore.Container().WithName(serverName).WithImage(r.image).
		WithPorts(
			accore.ContainerPort().WithName(portAPI).WithContainerPort(apiPort).WithProtocol(corev1.ProtocolTCP),
			accore.ContainerPort().WithName(portOperations).WithContainerPort(operationsPort).WithProtocol(corev1.ProtocolTCP),
		).
		WithEnv(user(config.EnvDBUser, credentialsRef(r.gateway))).
		WithReadinessProbe(probe("/readyz", 5, 2)).
		WithLivenessProbe(probe("/healthz", 10, 6)).
		// A start takes as long as the database does; the server is alive meanwhile.
		WithStartupProbe(probe("/healthz", 1, 60)).
		WithResources(renderResources(resources)).
		WithTerminationMessagePath(terminationLog).
		WithTerminationMessagePolicy(corev1.TerminationMessageFallbackToLogsOnError).
		WithSecurityContext(restricted())
	if ref := mailCredentialsRef(r.gateway); ref != nil {
		c.WithEnv(user(config.EnvSMTPUsername, ref))
	}
	for _, v := range environmentOf(r.world) {
		e := accore.EnvVar().WithName(v.Name)
		if v.Value != "" { // an empty value is not kept, and so would not be found again
			e.WithValue(v.Value)
		}
		c.WithEnv(e)
	}
	mount := func(volume, path string) {
		c.WithVolumeMounts(accore.VolumeMount().WithName(volume).WithMountPath(path).WithReadOnly(true))
	}
	mount(volumeKeys, dirKeys)
	mount(volumePublicKeys, dirPublicKeys)
	mount(volumePassphrases, dirPassphrases)
	mount(volumeCaller, dirCaller)
	mount(volumeDatabase, dirDatabase)
	if r.gateway.Spec.Database.CASecretRef != nil {
		mount(volumeCA, dirCA)
	}
	if mailCredentialsRef(r.gateway) != nil || webhookRef(r.gateway) != nil {
		mount(volumeMail, dirMail)
	}
	if mailCARef(r.gateway) != nil {
		mount(volumeMailCA, dirMailCA)
	}
	if templatesRef(r.gateway) != nil {
		mount(volumeTemplates, dirTemplates)
	}
	return c
}

// user is a variable with the user name of a Secret.
func user(name string, of *v1alpha1.LocalReference) *accore.EnvVarApplyConfiguration {
	return accore.EnvVar().WithName(name).WithValueFrom(accore.EnvVarSource().WithSecretKeyRef(
		accore.SecretKeySelector().WithName(of.Name).WithKey(credentialsUsername)))
}

func restricted() *accore.SecurityContextApplyConfiguration {
	return accore.SecurityContext().
		WithAllowPrivilegeEscalation(false).WithPrivileged(false).WithReadOnlyRootFilesystem(true).WithRunAsNonRoot(true).
		WithCapabilities(accore.Capabilities().WithDrop("ALL")).
		WithSeccompProfile(accore.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
}

// renderResources writes quantities in their canonical form, and no finer than
// the API server keeps them, so that they are found again.
func renderResources(r corev1.ResourceRequirements) *accore.ResourceRequirementsApplyConfiguration {
	out := accore.ResourceRequirements()
	if len(r.Requests) > 0 {
		out.WithRequests(canonical(r.Requests))
	}
	if len(r.Limits) > 0 {
		out.WithLimits(canonical(r.Limits))
	}
	return out
}

func canonical(list corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range list {
		q.RoundUp(resource.Milli)
		out[name] = resource.MustParse(q.String())
	}
	return out
}

// renderVolumes are the Secrets that the server reads, and the templates of its
// mails. Each item of a Secret is named, so that nothing else that is in it
// reaches the pod.
func renderVolumes(r rendering) []*accore.VolumeApplyConfiguration {
	volume := func(name, secret string, items ...string) *accore.VolumeApplyConfiguration {
		source := accore.SecretVolumeSource().WithSecretName(secret).WithDefaultMode(0o440)
		for _, item := range items {
			source.WithItems(accore.KeyToPath().WithKey(item).WithPath(item))
		}
		return accore.Volume().WithName(name).WithSecret(source)
	}
	passphrases := []string{}
	for _, use := range keys.Uses() {
		passphrases = append(passphrases, passphraseSettings[use].current, passphraseSettings[use].former)
	}
	all := []*accore.VolumeApplyConfiguration{
		volume(volumeKeys, r.names.keys()), // all of it: which files there are changes
		// What is published shows a server that starts whether its keys were taken back.
		accore.Volume().WithName(volumePublicKeys).WithConfigMap(accore.ConfigMapVolumeSource().
			WithName(r.names.publicKeys()).WithDefaultMode(0o440).WithOptional(true).
			WithItems(accore.KeyToPath().WithKey(keys.PublicDocumentFile).WithPath(keys.PublicDocumentFile))),
		volume(volumePassphrases, r.names.passphrases(), passphrases...),
		volume(volumeCaller, r.names.caller(), secretCallerKey),
		volume(volumeDatabase, credentialsRef(r.gateway).Name, credentialsPassword),
	}
	if ca := r.gateway.Spec.Database.CASecretRef; ca != nil {
		all = append(all, volume(volumeCA, ca.Name, caCertificate))
	}
	if ref := mailCredentialsRef(r.gateway); ref != nil {
		all = append(all, volume(volumeMail, ref.Name, credentialsPassword))
	}
	if ref := webhookRef(r.gateway); ref != nil { // there are no credentials then
		all = append(all, volume(volumeMail, ref.Name, webhookSecret))
	}
	if ref := mailCARef(r.gateway); ref != nil {
		all = append(all, volume(volumeMailCA, ref.Name, caCertificate))
	}
	if ref := templatesRef(r.gateway); ref != nil { // all of it: which files there are is up to its author
		all = append(all, accore.Volume().WithName(volumeTemplates).WithConfigMap(
			accore.ConfigMapVolumeSource().WithName(ref.Name).WithDefaultMode(0o440)))
	}
	return all
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

func renderAutoscaler(r rendering) *acautoscaling.HorizontalPodAutoscalerApplyConfiguration {
	a := r.gateway.Spec.Autoscaling
	return acautoscaling.HorizontalPodAutoscaler(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).
		WithSpec(acautoscaling.HorizontalPodAutoscalerSpec().
			WithScaleTargetRef(acautoscaling.CrossVersionObjectReference().
				WithAPIVersion(appsv1.SchemeGroupVersion.String()).WithKind("Deployment").WithName(r.names.workload())).
			WithMinReplicas(a.MinReplicas).WithMaxReplicas(a.MaxReplicas).
			WithMetrics(acautoscaling.MetricSpec().WithType(autoscalingv2.ResourceMetricSourceType).
				WithResource(acautoscaling.ResourceMetricSource().WithName(corev1.ResourceCPU).
					WithTarget(acautoscaling.MetricTarget().WithType(autoscalingv2.UtilizationMetricType).
						WithAverageUtilization(a.TargetCPUUtilizationPercentage)))))
}

func renderIngress(r rendering) *acnetworking.IngressApplyConfiguration {
	i := r.gateway.Spec.Ingress
	spec := acnetworking.IngressSpec().WithRules(acnetworking.IngressRule().WithHost(i.Host).WithHTTP(
		acnetworking.HTTPIngressRuleValue().WithPaths(acnetworking.HTTPIngressPath().WithPath("/").WithPathType(networkingv1.PathTypePrefix).
			WithBackend(acnetworking.IngressBackend().WithService(acnetworking.IngressServiceBackend().WithName(r.names.workload()).
				WithPort(acnetworking.ServiceBackendPort().WithName(portAPI)))))))
	if i.ClassName != "" {
		spec.WithIngressClassName(i.ClassName)
	}
	if i.TLSSecretRef != nil {
		spec.WithTLS(acnetworking.IngressTLS().WithHosts(i.Host).WithSecretName(i.TLSSecretRef.Name))
	}
	out := acnetworking.Ingress(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).WithSpec(spec)
	if len(i.Annotations) > 0 {
		out.WithAnnotations(i.Annotations)
	}
	return out
}

// metadata is what the objects without types have in common.
func (r rendering) metadata(labels map[string]string) map[string]any {
	o := ownerReference(r.gateway)
	return map[string]any{
		"labels": object(merged(labels, r.names.labels())),
		"ownerReferences": []any{map[string]any{
			"apiVersion": o.APIVersion, "kind": o.Kind, "name": o.Name, "uid": string(o.UID), "controller": true,
		}},
	}
}

// object is a map of strings as untyped objects have it.
func object(in map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range in {
		out[k] = v
	}
	return out
}

func renderHTTPRoute(r rendering) map[string]any {
	route := r.gateway.Spec.HTTPRoute
	var parents []any
	for _, p := range route.ParentRefs {
		parent := map[string]any{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": p.Name}
		if p.Namespace != "" {
			parent["namespace"] = p.Namespace
		}
		if p.SectionName != "" {
			parent["sectionName"] = p.SectionName
		}
		parents = append(parents, parent)
	}
	spec := map[string]any{
		"parentRefs": parents,
		"rules": []any{map[string]any{
			"matches": []any{map[string]any{"path": map[string]any{"type": "PathPrefix", "value": "/"}}},
			"backendRefs": []any{map[string]any{
				"group": "", "kind": "Service", "name": r.names.workload(), "port": int64(servicePort), "weight": int64(1),
			}},
		}},
	}
	if len(route.Hostnames) > 0 {
		var hosts []any
		for _, h := range route.Hostnames {
			hosts = append(hosts, h)
		}
		spec["hostnames"] = hosts
	}
	return map[string]any{"metadata": r.metadata(nil), "spec": spec}
}

func renderServiceMonitor(r rendering) map[string]any {
	m := r.gateway.Spec.Monitoring.ServiceMonitor
	return map[string]any{"metadata": r.metadata(m.Labels), "spec": map[string]any{
		"selector": map[string]any{"matchLabels": object(r.names.labels())},
		"endpoints": []any{map[string]any{
			"port": portOperations, "path": "/metrics", "interval": string(m.Interval),
		}},
	}}
}
