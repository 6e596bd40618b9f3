package controllers

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// This file has every name that the operator uses.

// FieldManager is the operator's name in managedFields.
const FieldManager = "auth-gateway-operator"

// The labels of everything that the operator creates (the recommended ones of
// Kubernetes). The instance is the name of the AuthGateway.
const (
	labelName      = "app.kubernetes.io/name"
	labelInstance  = "app.kubernetes.io/instance"
	labelManagedBy = "app.kubernetes.io/managed-by"

	serverName     = "authserver"            // of the pods, and of their container
	adminName      = "authserver-admin"      // of the pods for administrators
	publicKeysName = "public-keys"           // of copies of public keys
	operatorName   = "auth-gateway-operator" // also labels the operator's own pods: see config/manager
)

// The project's own labels and annotations.
const (
	// labelGateway of a Secret names its AuthGateway, and is set even if the Secret has no owner. labelInstance would
	// not do: Argo CD uses it, and would prune a Secret that is in no manifest.
	labelGateway = "authgateway.io/gateway"

	// These keep Argo CD and Helm from deleting a Secret that outlives its AuthGateway.
	annotationSyncOptions = "argocd.argoproj.io/sync-options"
	keepFromArgoCD        = "Prune=false,Delete=false"
	annotationHelmPolicy  = "helm.sh/resource-policy"
	keepFromHelm          = "keep"

	// labelClient of a namespace lets its pods call every gateway.
	labelClient = "authgateway.io/client"

	// labelTemplate of a Deployment is a digest of the rendered pod template, and labelGeneration is the generation of
	// the AuthGateway that it was rendered from. labelUpgrading marks a Deployment whose pods are being replaced
	// because a new operator renders them differently; see upgrades.go.
	labelTemplate   = "authgateway.io/template"
	labelGeneration = "authgateway.io/generation"
	labelUpgrading  = "authgateway.io/upgrading"

	// These annotations of the pod template are digests of what the pods read when they start: the Secrets, the
	// passphrases, and the ConfigMaps. A new digest replaces the pods. The first two are keyed and reveal nothing.
	annotationInputs      = "authgateway.io/inputs"
	annotationPassphrases = "authgateway.io/passphrases"
	annotationConfigMaps  = "authgateway.io/templates"

	// annotationSealed of the Secret of the keys is a keyed digest of the files and of the passphrases that open them.
	// With it, a restarted operator need not decrypt every key to know that they open.
	annotationSealed = "authgateway.io/sealed-with"
)

// Ports of the Service and of the pods.
const (
	servicePort    = 80
	apiPort        = 8080
	adminPort      = 8081
	operationsPort = 9090
	portAPI        = "http"
	portAdmin      = "admin"
	portOperations = "operations"
	portAuthz      = "authz"
)

// The keys of the Secrets that the operator creates.
const (
	secretCallerKey = "TRUSTED_CALLER_KEY"
	secretDigestKey = "digest.key" // the HMAC key of digests of secrets
)

// secretGiven marks a use whose current passphrase every pod has, while the former
// one is still needed; see keys.PassphraseState.
func secretGiven(use keys.Use) string { return "given." + string(use) }

// The keys of the Secrets that the spec refers to, if more than one has them.
const (
	credentialsUsername = "username"
	credentialsPassword = "password"
	caCertificate       = "ca.crt"
)

// The volumes of the pods, and their directories.
const (
	volumeKeys        = "keys"
	volumePublicKeys  = "public-keys"
	volumePassphrases = "passphrases"
	volumeCaller      = "caller"
	volumeDatabase    = "database"
	volumeCA          = "database-ca"
	volumeMail        = "mail" // the SMTP password, or the key that signs webhook calls
	volumeMailCA      = "mail-ca"
	volumeTemplates   = "mail-templates"
	volumeEvents      = "event-webhook"
	volumeMigration   = "password-migration"
	volumeTracing     = "tracing"
	volumeTracingCA   = "tracing-ca"

	dirSettings    = "/etc/authserver"
	dirKeys        = dirSettings + "/keys"
	dirPublicKeys  = dirSettings + "/public-keys"
	dirPassphrases = dirSettings + "/passphrases"
	dirCaller      = dirSettings + "/caller"
	dirDatabase    = dirSettings + "/database"
	dirCA          = dirSettings + "/database-ca"
	dirMail        = dirSettings + "/mail"
	dirMailCA      = dirSettings + "/mail-ca"
	dirTemplates   = dirSettings + "/mail-templates"
	dirEvents      = dirSettings + "/event-webhook"
	dirMigration   = dirSettings + "/password-migration"
	dirTracing     = dirSettings + "/tracing"
	dirTracingCA   = dirSettings + "/tracing-ca"

	terminationLog = "/dev/termination-log"
)

// names are the names of the objects of one AuthGateway.
type names struct {
	namespace, gateway string
}

func namesOf(g *v1alpha1.AuthGateway) names { return names{g.Namespace, g.Name} }

func (n names) keys() string        { return n.gateway + "-keys" }
func (n names) passphrases() string { return n.gateway + "-passphrases" }
func (n names) caller() string      { return n.gateway + "-caller" }
func (n names) publicKeys() string  { return n.gateway + "-public-keys" }

// refreshPublicKeys is apart from publicKeys: consumers that take any JWK Set of a
// ConfigMap, or every PEM, must not find keys that verify no access token.
func (n names) refreshPublicKeys() string { return n.gateway + "-refresh-public-keys" }

// copyName is the name of the ConfigMap of a PublicKeys. It is that of a gateway
// with the same name, so that the same manifest mounts either.
func copyName(k *v1alpha1.PublicKeys) string { return names{k.Namespace, k.Name}.publicKeys() }

// copyLabels are the labels of that ConfigMap.
func copyLabels(k *v1alpha1.PublicKeys) map[string]string {
	return map[string]string{labelName: publicKeysName, labelInstance: k.Name, labelManagedBy: operatorName}
}

// admin is the name of the objects that serve administrators.
func (n names) admin() string { return n.gateway + "-admin" }

// The Roles for administrators.
func (n names) userViewer() string { return n.gateway + "-user-viewer" }
func (n names) userEditor() string { return n.gateway + "-user-editor" }

// workload is the name of every other object: the Deployment, the Service, the
// ServiceAccount and so on. There is one of each kind.
func (n names) workload() string { return n.gateway }

// cnpgSecret is the Secret in which CloudNativePG publishes how to connect.
func cnpgSecret(cluster string) string { return cluster + "-app" }

// url is the URL of the API inside the cluster.
func (n names) url() string { return "http://" + n.workload() + "." + n.namespace + ".svc" }

// selector selects the gateway's pods and no others. It must never change, because
// the selector of a Deployment is immutable.
func (n names) selector() map[string]string {
	return map[string]string{labelName: serverName, labelInstance: n.gateway}
}

// labels are the labels of every object.
func (n names) labels() map[string]string {
	all := n.selector()
	all[labelManagedBy] = operatorName
	return all
}

// adminSelector selects the pods for administrators. As selector, it must never change.
func (n names) adminSelector() map[string]string {
	return map[string]string{labelName: adminName, labelInstance: n.gateway}
}

// adminLabels are the labels of the objects that serve administrators.
func (n names) adminLabels() map[string]string {
	all := n.adminSelector()
	all[labelManagedBy] = operatorName
	return all
}

// isOurs reports whether the operator created an object for this AuthGateway. Either the AuthGateway controls it, or
// its labels name the AuthGateway, as those of a Secret that outlived its owner do.
func (n names) isOurs(object metav1.Object, owner *v1alpha1.AuthGateway) bool {
	if controller := metav1.GetControllerOf(object); controller != nil {
		return controller.UID == owner.UID
	}
	have := object.GetLabels()
	if of, labelled := have[labelGateway]; labelled {
		return of == n.gateway
	}
	return have[labelManagedBy] == operatorName && have[labelInstance] == n.gateway
}
