package controllers

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	acapps "k8s.io/client-go/applyconfigurations/apps/v1"
	accore "k8s.io/client-go/applyconfigurations/core/v1"
	acmeta "k8s.io/client-go/applyconfigurations/meta/v1"
	acnetworking "k8s.io/client-go/applyconfigurations/networking/v1"
	acpolicy "k8s.io/client-go/applyconfigurations/policy/v1"
	acrbac "k8s.io/client-go/applyconfigurations/rbac/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// The pods for administrators run the same image as those of the API. They have the token of a ServiceAccount, to ask
// the API server about administrators, and no secret but the database's. The operator cannot bind the ServiceAccount,
// because that would need the right to create ClusterRoleBindings.

func renderAdminDeployment(r rendering) *acapps.DeploymentApplyConfiguration {
	mounts := append(inputMounts(r.gateway, adminReads), publishedMount(r.names))
	server := renderContainer(r, adminResources(r.gateway), containerPort(portAdmin, adminPort)).WithArgs("admin")
	template := podOf{
		account: r.names.admin(), withToken: true, selector: r.names.adminSelector(), labels: r.names.adminLabels(),
		annotations: map[string]string{annotationInputs: r.inputsDigest},
		server:      withSettings(server, r, adminEnvironment(r.clusterState), adminReads, mounts), mounts: mounts,
	}.render(r)
	return acapps.Deployment(r.names.admin(), r.names.namespace).
		WithLabels(r.names.adminLabels()).WithOwnerReferences(r.owner()).
		WithSpec(deploymentSpec(r.names.adminSelector(), template).WithReplicas(r.gateway.Spec.Admin.Replicas))
}

// adminResources returns the spec's resources, or the defaults.
func adminResources(g *v1alpha1.AuthGateway) corev1.ResourceRequirements {
	if g.Spec.Admin.Resources != nil {
		return *g.Spec.Admin.Resources
	}
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
		},
		Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
	}
}

// renderAdminAccount renders an account whose token only the pods for administrators mount.
func renderAdminAccount(r rendering) *accore.ServiceAccountApplyConfiguration {
	account := accore.ServiceAccount(r.names.admin(), r.names.namespace).
		WithLabels(r.names.adminLabels()).WithOwnerReferences(r.owner()).WithAutomountServiceAccountToken(false)
	if annotations := r.gateway.Spec.ServiceAccount.Annotations; len(annotations) > 0 {
		account.WithAnnotations(annotations)
	}
	return account
}

func renderAdminService(r rendering) *accore.ServiceApplyConfiguration {
	return accore.Service(r.names.admin(), r.names.namespace).
		WithLabels(r.names.adminLabels()).WithOwnerReferences(r.owner()).
		WithSpec(accore.ServiceSpec().WithType(corev1.ServiceTypeClusterIP).WithSelector(r.names.adminSelector()).WithPorts(
			accore.ServicePort().WithName(portAdmin).WithPort(servicePort).WithProtocol(corev1.ProtocolTCP).
				WithTargetPort(intstr.FromString(portAdmin)).WithAppProtocol("http")))
}

// renderAdminNetworkPolicy admits pods of this namespace. A port-forward is not subject to it.
func renderAdminNetworkPolicy(r rendering) *acnetworking.NetworkPolicyApplyConfiguration {
	admins := acnetworking.NetworkPolicyIngressRule().WithPorts(policyPort(adminPort)).
		WithFrom(acnetworking.NetworkPolicyPeer().WithPodSelector(acmeta.LabelSelector()))
	return acnetworking.NetworkPolicy(r.names.admin(), r.names.namespace).
		WithLabels(r.names.adminLabels()).WithOwnerReferences(r.owner()).
		WithSpec(policySpec(r, r.names.adminSelector(), admins))
}

func renderAdminBudget(r rendering) *acpolicy.PodDisruptionBudgetApplyConfiguration {
	return acpolicy.PodDisruptionBudget(r.names.admin(), r.names.namespace).
		WithLabels(r.names.adminLabels()).WithOwnerReferences(r.owner()).WithSpec(budgetSpec(r.names.adminSelector()))
}

// What administrators have rights to. The operator has the same rights, because the API server refuses a Role
// that grants more than its creator has. It cannot use them: it has no token with the audience of a gateway.
var (
	userSubresources  = []string{"authgateways/users", "authgateways/sessions", "authgateways/events"}
	adminSubresources = append(userSubresources[:3:3], "authgateways/keys")
	viewerVerbs       = []string{"get", "list"}
	editorVerbs       = []string{"get", "list", "create", "update", "delete"}
)

func renderUserViewer(r rendering) *acrbac.RoleApplyConfiguration {
	return renderRole(r, r.names.userViewer()).WithRules(adminRule(r, viewerVerbs, adminSubresources...))
}

// renderUserEditor renders the Role of those who edit accounts. They see the keys but do not change them.
func renderUserEditor(r rendering) *acrbac.RoleApplyConfiguration {
	return renderRole(r, r.names.userEditor()).
		WithRules(adminRule(r, editorVerbs, userSubresources...), adminRule(r, viewerVerbs, "authgateways/keys"))
}

func renderRole(r rendering, name string) *acrbac.RoleApplyConfiguration {
	return acrbac.Role(name, r.names.namespace).WithLabels(r.names.adminLabels()).WithOwnerReferences(r.owner())
}

func adminRule(r rendering, verbs []string, subresources ...string) *acrbac.PolicyRuleApplyConfiguration {
	return acrbac.PolicyRule().WithAPIGroups(v1alpha1.GroupVersion.Group).WithResources(subresources...).
		WithResourceNames(r.names.gateway).WithVerbs(verbs...)
}
