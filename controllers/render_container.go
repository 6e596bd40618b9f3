package controllers

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	accore "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

func renderServer(r rendering) *accore.ContainerApplyConfiguration {
	c := renderContainer(r, serverResources(r.gateway), containerPort(portAPI, apiPort))
	if port := r.gateway.Spec.Authz.Port; port != 0 {
		c.WithPorts(containerPort(portAuthz, port))
	}
	return withSettings(c, r, environment(r.clusterState), func(string) bool { return true }, mountsOf(r.gateway))
}

// renderContainer renders what the containers of all pods have in common.
func renderContainer(
	r rendering, resources corev1.ResourceRequirements, port *accore.ContainerPortApplyConfiguration,
) *accore.ContainerApplyConfiguration {
	probe := func(path string, period, failures int32) *accore.ProbeApplyConfiguration {
		get := accore.HTTPGetAction().WithPath(path).WithPort(intstr.FromString(portOperations)).
			WithScheme(corev1.URISchemeHTTP)
		return accore.Probe().WithHTTPGet(get).
			WithPeriodSeconds(period).WithFailureThreshold(failures).WithTimeoutSeconds(3)
	}
	return accore.Container().WithName(serverName).WithImage(r.image).
		WithPorts(port, containerPort(portOperations, operationsPort)).
		WithReadinessProbe(probe("/readyz", 5, 2)).
		WithLivenessProbe(probe("/healthz", 10, 6)).
		// A server that waits for its database is alive, but not ready.
		WithStartupProbe(probe("/healthz", 1, 60)).
		WithResources(renderResources(resources)).
		WithTerminationMessagePath(terminationLog).
		WithTerminationMessagePolicy(corev1.TerminationMessageFallbackToLogsOnError).
		WithSecurityContext(restricted())
}

func containerPort(name string, port int32) *accore.ContainerPortApplyConfiguration {
	return accore.ContainerPort().WithName(name).WithContainerPort(port).WithProtocol(corev1.ProtocolTCP)
}

// withSettings adds an environment, with the variables from Secrets that the server reads, and mounts.
func withSettings(
	c *accore.ContainerApplyConfiguration, r rendering, environ map[string]string, reads func(setting string) bool, mounts []mount,
) *accore.ContainerApplyConfiguration {
	for in, name := range inputsOf(r.gateway) {
		for _, k := range in.keys {
			if k.use == inVariable && reads(k.setting) {
				c.WithEnv(accore.EnvVar().WithName(k.setting).WithValueFrom(accore.EnvVarSource().WithSecretKeyRef(
					accore.SecretKeySelector().WithName(name).WithKey(k.name))))
			}
		}
	}
	c.WithEnv(environmentOf(environ)...)
	for _, m := range mounts {
		c.WithVolumeMounts(m.renderMount())
	}
	return c
}

// serverResources returns the spec's resources, or the defaults.
func serverResources(g *v1alpha1.AuthGateway) corev1.ResourceRequirements {
	if g.Spec.Resources != nil {
		return *g.Spec.Resources
	}
	cpu := resource.MustParse("100m")
	if g.Spec.Autoscaling != nil {
		// The target is a percentage of the request. A sign-in uses a CPU for a
		// quarter of a second, so with a small request each one would scale up.
		cpu = resource.MustParse("1")
	}
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: cpu, corev1.ResourceMemory: resource.MustParse("64Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
	}
}

// restricted meets the Pod Security Standard "restricted".
func restricted() *accore.SecurityContextApplyConfiguration {
	return accore.SecurityContext().
		WithAllowPrivilegeEscalation(false).WithPrivileged(false).
		WithReadOnlyRootFilesystem(true).WithRunAsNonRoot(true).
		WithCapabilities(accore.Capabilities().WithDrop("ALL")).
		WithSeccompProfile(accore.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
}

// renderResources renders quantities as the API server stores them, in canonical
// form and rounded up to milli-units. Otherwise they would seem to differ.
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
