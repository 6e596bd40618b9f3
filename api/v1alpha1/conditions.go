package v1alpha1

// The condition types of an AuthGateway. A PublicKeys has Ready, Reconciling and
// Stalled, with the same meaning. Each condition has one of the reasons below, a
// message for people, and the generation of the spec that it describes.
//
// Ready, KeysReady, Available, DatabaseAvailable and AdminAvailable have positive
// polarity: True is good. Reconciling and Stalled have negative polarity: True means that the
// AuthGateway is not as its spec says. They are the types that kstatus defines.
const (
	// ConditionReady is True when everything that the spec asks for is in place
	// and serves. It is the condition to wait for.
	ConditionReady = "Ready"

	// ConditionKeysReady is True when each kind of token has a signing key, every
	// key that verifies tokens is published, and no revoked key is still trusted.
	ConditionKeysReady = "KeysReady"

	// ConditionAvailable is True when at least one replica serves the API.
	ConditionAvailable = "Available"

	// ConditionDatabaseAvailable is False when a ready replica reports that it
	// cannot use the database, and Unknown when no replica has answered.
	ConditionDatabaseAvailable = "DatabaseAvailable"

	// ConditionAdminAvailable is True when at least one replica serves
	// administrators. It exists only if spec.admin.enabled is true.
	ConditionAdminAvailable = "AdminAvailable"

	// ConditionVersionSupported is False when a ready replica reports a version
	// that this operator does not support, and Unknown when the versions cannot be
	// compared. Ready does not depend on it.
	ConditionVersionSupported = "VersionSupported"

	// ConditionReconciling is True while the operator works towards the spec or
	// waits for something that changes without a person.
	ConditionReconciling = "Reconciling"

	// ConditionStalled is True when nothing changes until a person acts. The
	// message says what to do.
	ConditionStalled = "Stalled"
)

// The reasons of conditions that are as they should be.
const (
	// ReasonReady means that everything that the spec asks for is in place.
	ReasonReady = "Ready"
	// ReasonKeysPublished means that the signing keys exist and are published.
	ReasonKeysPublished = "KeysPublished"
	// ReasonReplicasReady means that at least one replica is ready.
	ReasonReplicasReady = "ReplicasReady"
	// ReasonDatabaseAnswers means that the database accepts writes.
	ReasonDatabaseAnswers = "DatabaseAnswers"
	// ReasonVersionSupported means that the replicas have the operator's minor
	// version or the one before.
	ReasonVersionSupported = "VersionSupported"
)

// The reasons of work in progress, and of states that were asked for.
// docs/runbooks.md has a section on each of these, and on each reason below.
const (
	// ReasonProgressing means that pods or the first keys are being created.
	ReasonProgressing = "Progressing"
	// ReasonUpgradeWaiting means that a new version of the operator has yet to
	// replace the pods; it replaces those of a few AuthGateways at a time.
	ReasonUpgradeWaiting = "UpgradeWaiting"
	// ReasonRotating means that a new key is published and does not sign yet, or a
	// change of passphrases waits for the previous one.
	ReasonRotating = "Rotating"
	// ReasonAwaitingReplicas means that a rotation waits for replicas to load a
	// key.
	ReasonAwaitingReplicas = "AwaitingReplicas"
	// ReasonAwaitingPublicKeys means that a rotation waits for copies of the public
	// keys in other namespaces.
	ReasonAwaitingPublicKeys = "AwaitingPublicKeys"
	// ReasonRevocationPending means that a revoked key may still be trusted
	// somewhere.
	ReasonRevocationPending = "RevocationPending"
	// ReasonSuspended means that spec.suspend is true.
	ReasonSuspended = "Suspended"
	// ReasonScaledToZero means that the spec asks for no replicas.
	ReasonScaledToZero = "ScaledToZero"
)

// The reasons that ask for a change of the spec, or of what it refers to.
const (
	// ReasonInvalidSpec means that the spec, or a value in a Secret that it names,
	// is invalid in a way that the API server does not check.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonImageNotAllowed means that the operator may not run an image in the
	// spec.
	ReasonImageNotAllowed = "ImageNotAllowed"
	// ReasonChangeNotAccepted means that a change of the issuer or the database
	// waits for an annotation that confirms it.
	ReasonChangeNotAccepted = "ChangeNotAccepted"
	// ReasonSecretMissing means that a Secret that the spec names does not exist.
	ReasonSecretMissing = "SecretMissing"
	// ReasonSecretInvalid means that a Secret that the spec names lacks a key, or
	// its value is unusable.
	ReasonSecretInvalid = "SecretInvalid"
	// ReasonConfigMapMissing means that the ConfigMap of mail templates does not
	// exist.
	ReasonConfigMapMissing = "ConfigMapMissing"
	// ReasonNameConflict means that an object that the operator did not create has
	// a name that it needs.
	ReasonNameConflict = "NameConflict"
	// ReasonKindMissing means that the cluster does not have a kind that the spec
	// needs.
	ReasonKindMissing = "KindMissing"
)

// The reasons that concern the Secrets of the signing keys.
const (
	// ReasonKeysLost means that the Secret with the signing keys is missing.
	ReasonKeysLost = "KeysLost"
	// ReasonKeysDamaged means that the Secret with the signing keys cannot be
	// read.
	ReasonKeysDamaged = "KeysDamaged"
	// ReasonKeysRolledBack means that the Secret with the signing keys is older
	// than the keys that were last seen.
	ReasonKeysRolledBack = "KeysRolledBack"
	// ReasonPassphrasesLost means that the Secret with the passphrases is missing
	// or incomplete.
	ReasonPassphrasesLost = "PassphrasesLost"
	// ReasonKeysUnopenable means that no known passphrase decrypts a private key.
	ReasonKeysUnopenable = "KeysUnopenable"
	// ReasonSecretImmutable means that a Secret that must change is immutable.
	ReasonSecretImmutable = "SecretImmutable"
)

// The reasons that concern the pods and the database.
const (
	// ReasonReplicasMissing means that there are fewer pods than the spec asks
	// for, and no pod reports why.
	ReasonReplicasMissing = "ReplicasMissing"
	// ReasonPodsFailing means that a pod reports why it is not ready.
	ReasonPodsFailing = "PodsFailing"
	// ReasonDatabaseUnavailable means that replicas report that they cannot use
	// the database.
	ReasonDatabaseUnavailable = "DatabaseUnavailable"
	// ReasonTooManyConnections means that the replicas may need more connections
	// than the database allows. Available is True nevertheless.
	ReasonTooManyConnections = "TooManyConnections"
)

// The reasons that only VersionSupported has.
const (
	// ReasonVersionTooOld means that replicas are more than one minor version older
	// than the operator.
	ReasonVersionTooOld = "VersionTooOld"
	// ReasonVersionTooNew means that replicas have a newer minor version than the
	// operator.
	ReasonVersionTooNew = "VersionTooNew"
	// ReasonVersionUnknown means that the operator or a replica has no released
	// version.
	ReasonVersionUnknown = "VersionUnknown"
)

// The reason that only AdminAvailable, and therefore Ready, has.
const (
	// ReasonReviewsForbidden means that the ServiceAccount of the pods for
	// administrators is not bound to the ClusterRole system:auth-delegator.
	ReasonReviewsForbidden = "ReviewsForbidden"
)

// The reasons that only a PublicKeys has.
const (
	// ReasonNotAllowed means that there is no AuthGateway of this name that allows
	// the namespace. It does not reveal whether there is one that does not.
	ReasonNotAllowed = "NotAllowed"
	// ReasonGatewayNotFound means that there is no AuthGateway of this name in the
	// namespace of the PublicKeys itself.
	ReasonGatewayNotFound = "GatewayNotFound"
	// ReasonKeysNotReady means that the AuthGateway publishes no keys at present.
	ReasonKeysNotReady = "KeysNotReady"
)

// The reasons that concern the cluster and the operator.
const (
	// ReasonForbidden means that the operator lacks a right, or admission denied a
	// write.
	ReasonForbidden = "Forbidden"
	// ReasonRefused means that the API server rejected an object as invalid.
	ReasonRefused = "Refused"
	// ReasonQuotaExceeded means that a ResourceQuota of the namespace is used up.
	ReasonQuotaExceeded = "QuotaExceeded"
	// ReasonNamespaceTerminating means that the namespace is being deleted.
	ReasonNamespaceTerminating = "NamespaceTerminating"
	// ReasonAPIUnavailable means that the API server failed or did not answer.
	ReasonAPIUnavailable = "APIUnavailable"
	// ReasonContended means that another client keeps undoing what the operator
	// writes.
	ReasonContended = "Contended"
	// ReasonOtherOperator means that another operator manages this AuthGateway. It
	// is the reason of an event; the other operator writes the conditions.
	ReasonOtherOperator = "OtherOperator"
)
