package v1alpha1

// The annotations of an AuthGateway by which a person orders or confirms something.
// Each value is for one occasion, so the operator obeys it once.
const (
	// AnnotationRotate orders a rotation of the signing keys with each new value.
	AnnotationRotate = "authgateway.io/rotate"

	// AnnotationNewRing orders a new key ring because the present one is lost or
	// damaged. The value is the kid of the lost key that signed access tokens.
	AnnotationNewRing = "authgateway.io/new-ring"

	// AnnotationAcceptIssuer confirms a change of the issuer, which ends every
	// session. The value is the new issuer.
	AnnotationAcceptIssuer = "authgateway.io/accept-issuer"

	// AnnotationAcceptDatabase confirms a change of the database, which may have
	// other users. The value is the new database, as HOST/NAME or as the name of
	// the CloudNativePG cluster.
	AnnotationAcceptDatabase = "authgateway.io/accept-database"

	// AnnotationAcceptKeys accepts keys that are older than those that were seen,
	// for example after an old backup was restored. The value names both
	// generations, as FOUND-after-SEEN.
	AnnotationAcceptKeys = "authgateway.io/accept-keys"
)
