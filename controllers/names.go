package controllers

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// Every name that the operator gives stands in this file.

// FieldManager is the operator's name in the managedFields of what it applies.
const FieldManager = "auth-gateway-operator"

// The labels of everything that the operator makes (Kubernetes' recommended
// ones). The instance is the name of the AuthGateway.
const (
	labelName      = "app.kubernetes.io/name"
	labelInstance  = "app.kubernetes.io/instance"
	labelManagedBy = "app.kubernetes.io/managed-by"

	serverName   = "authserver"            // of the pods, and of their container
	operatorName = "auth-gateway-operator" // of the operator's own pods too: see config/manager
)

// Labels and annotations of our own.
const (
	// AnnotationRotate of an AuthGateway asks for a rotation with each new value.
	AnnotationRotate = "authgateway.io/rotate"

	// AnnotationNewRing of an AuthGateway orders a new ring where the present one
	// is lost or damaged. Its value is the kid of the lost key that signed access
	// tokens, so that an order is for one loss and is never obeyed twice.
	AnnotationNewRing = "authgateway.io/new-ring"

	// labelGateway of a Secret names the AuthGateway whose it is, also where no
	// owner does. labelInstance must not: Argo CD goes by it, and would prune what
	// is in no manifest.
	labelGateway = "authgateway.io/gateway"

	// These keep a Secret that outlives its AuthGateway from being taken away with
	// it, by Argo CD and by Helm.
	annotationSyncOptions = "argocd.argoproj.io/sync-options"
	keepFromArgoCD        = "Prune=false,Delete=false"
	annotationHelmPolicy  = "helm.sh/resource-policy"
	keepFromHelm          = "keep"

	// AnnotationAcceptIssuer and AnnotationAcceptDatabase of an AuthGateway say
	// that a change of the issuer, which ends every session, or of the database,
	// which may have other users in it, is meant. The value is the new one, so that
	// an order is for one change.
	AnnotationAcceptIssuer   = "authgateway.io/accept-issuer"
	AnnotationAcceptDatabase = "authgateway.io/accept-database"

	// AnnotationAcceptKeys of an AuthGateway has the operator go on with keys that
	// are older than what was seen, as after the restore of an old backup. Its
	// value names both generations, so that an order is for one restore.
	AnnotationAcceptKeys = "authgateway.io/accept-keys"

	// labelClient of a namespace lets its pods call every gateway.
	labelClient = "authgateway.io/client"

	// labelTemplate of a Deployment is a digest of the pod template that the operator
	// rendered, and labelGeneration the generation of the AuthGateway that it was for.
	// labelUpgrading says that its pods are being replaced because an operator renders
	// them differently; see upgrades.go.
	labelTemplate   = "authgateway.io/template"
	labelGeneration = "authgateway.io/generation"
	labelUpgrading  = "authgateway.io/upgrading"

	// annotationInputs of a pod tells the Secrets that it was started with, by a
	// digest that reveals nothing: where it changes, the pods are replaced.
	annotationInputs = "authgateway.io/inputs"

	// annotationPassphrases of a pod does so for the passphrases alone.
	annotationPassphrases = "authgateway.io/passphrases"

	// annotationTemplates of a pod does so for the templates of mails, which are no
	// secret. Without templates there is none.
	annotationTemplates = "authgateway.io/templates"

	// annotationSealed of the Secret of the keys tells, by a keyed digest, which
	// passphrases open just these files, so that a restarted operator need not
	// open them all to know.
	annotationSealed = "authgateway.io/sealed-with"
)

// Ports of the Service and of the pods.
const (
	servicePort    = 80
	apiPort        = 8080
	operationsPort = 9090
	portAPI        = "http"
	portOperations = "operations"
)

// Keys of the Secrets that the operator makes.
const (
	secretCallerKey = "TRUSTED_CALLER_KEY"
	secretDigestKey = "digest.key" // with which digests of secrets are keyed
)

// secretGiven says of a kind that every pod has its present passphrase, while the
// former one is still needed; see keys.Custody.
func secretGiven(use keys.Use) string { return "given." + string(use) }

// Keys of the Secrets that people, or other operators, make.
const (
	credentialsUsername = "username"
	credentialsPassword = "password"
	caCertificate       = "ca.crt"
	cnpgHost            = "host"
	cnpgPort            = "port"
	cnpgDatabase        = "dbname"
	webhookSecret       = "secret"
)

// Where the pods have their Secrets, and what else they are given as files.
const (
	volumeKeys        = "keys"
	volumePublicKeys  = "public-keys"
	volumePassphrases = "passphrases"
	volumeCaller      = "caller"
	volumeDatabase    = "database"
	volumeCA          = "database-ca"
	volumeMail        = "mail" // the password, or what a webhook is signed with
	volumeMailCA      = "mail-ca"
	volumeTemplates   = "mail-templates"

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

	terminationLog = "/dev/termination-log"
)

// names are those of the objects of one AuthGateway.
type names struct {
	namespace, gateway string
}

func namesOf(g *v1alpha1.AuthGateway) names { return names{g.Namespace, g.Name} }

func (n names) keys() string        { return n.gateway + "-keys" }
func (n names) passphrases() string { return n.gateway + "-passphrases" }
func (n names) caller() string      { return n.gateway + "-caller" }
func (n names) publicKeys() string  { return n.gateway + "-public-keys" }

// workload is the name of everything else: the Deployment, the Service, the
// ServiceAccount, and so on. There is one of each kind.
func (n names) workload() string { return n.gateway }

// cnpgSecret is where CloudNativePG tells an application how to connect.
func cnpgSecret(cluster string) string { return cluster + "-app" }

// url is where applications in the cluster reach the API.
func (n names) url() string { return "http://" + n.workload() + "." + n.namespace + ".svc" }

// selector is what the pods, and only they, are found by. It never changes: that
// of a Deployment cannot.
func (n names) selector() map[string]string {
	return map[string]string{labelName: serverName, labelInstance: n.gateway}
}

// labels are on every object.
func (n names) labels() map[string]string {
	all := n.selector()
	all[labelManagedBy] = operatorName
	return all
}

// isOurs tells of an object that the operator has made for this AuthGateway: it
// controls it, or it once made it to outlive a deletion (Retain).
func (n names) isOurs(object metav1.Object, owner *v1alpha1.AuthGateway) bool {
	if controller := metav1.GetControllerOf(object); controller != nil {
		return controller.UID == owner.UID
	}
	have := object.GetLabels()
	if of, told := have[labelGateway]; told {
		return of == n.gateway
	}
	return have[labelManagedBy] == operatorName && have[labelInstance] == n.gateway
}

// managed selects what the operator has made, for whomever.
func managed() labels.Selector {
	return labels.SelectorFromSet(labels.Set{labelManagedBy: operatorName})
}
