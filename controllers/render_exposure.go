package controllers

import (
	networkingv1 "k8s.io/api/networking/v1"
	acnetworking "k8s.io/client-go/applyconfigurations/networking/v1"
)

func renderIngress(r rendering) *acnetworking.IngressApplyConfiguration {
	i := r.gateway.Spec.Ingress
	service := acnetworking.IngressServiceBackend().WithName(r.names.workload()).
		WithPort(acnetworking.ServiceBackendPort().WithName(portAPI))
	paths := acnetworking.HTTPIngressRuleValue().WithPaths(acnetworking.HTTPIngressPath().
		WithPath("/").WithPathType(networkingv1.PathTypePrefix).
		WithBackend(acnetworking.IngressBackend().WithService(service)))
	spec := acnetworking.IngressSpec().WithRules(acnetworking.IngressRule().WithHost(i.Host).WithHTTP(paths))
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

func renderHTTPRoute(r rendering) map[string]any {
	route := r.gateway.Spec.HTTPRoute
	var parents []any
	for _, p := range route.ParentRefs {
		parent := map[string]any{"group": gvkHTTPRoute.Group, "kind": "Gateway", "name": p.Name}
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
