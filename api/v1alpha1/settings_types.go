package v1alpha1

import "time"

// Duration is a length of time in hours, minutes and seconds, such as 720h, 15m
// or 1h30m. Rules that compare durations let pass what is none, so that the one
// message about it is this type's.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=20
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}[hms])+$')",message="this is no duration: write hours, minutes and seconds, such as 720h, 15m or 1h30m"
type Duration string

// Value is the length of time, and zero where the text is none.
func (d Duration) Value() time.Duration {
	value, err := time.ParseDuration(string(d))
	if err != nil {
		return 0
	}
	return value
}

// CORS says which pages in browsers may call the API and read its replies. They
// send tokens in Authorization; no cookies are involved.
type CORS struct {
	// The origins of the pages, each exactly as browsers send it: scheme and host
	// in lower case, the port where it is not the scheme's own, and no path, such
	// as https://app.example.com. There is no * for all.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^https?://([a-z0-9_]([a-z0-9._-]*[a-z0-9_.])?|\\\\[[0-9a-f:.]+\\\\])(:[1-9][0-9]{0,4})?$')",message="write an origin as browsers send it, scheme://host[:port] in lower case and without a path, such as https://app.example.com; * is not allowed"
	// +kubebuilder:validation:items:XValidation:rule="!self.matches('^(http://.*:80|https://.*:443)$')",message="browsers leave out the port that the scheme means anyway: leave out :80 after http and :443 after https"
	AllowedOrigins []string `json:"allowedOrigins"`
}

// Database says where PostgreSQL is.
//
// +kubebuilder:validation:XValidation:rule="has(self.host) != has(self.cloudNativePG)",message="write host, name and credentialsSecretRef of a PostgreSQL, or cloudNativePG.cluster, and not both"
// +kubebuilder:validation:XValidation:rule="!has(self.host) || has(self.name)",fieldPath=".name",message="write the name of the database on the host"
// +kubebuilder:validation:XValidation:rule="!has(self.host) || has(self.credentialsSecretRef)",fieldPath=".credentialsSecretRef",message="write the name of a Secret with the keys username and password"
// +kubebuilder:validation:XValidation:rule="!has(self.cloudNativePG) || has(self.host) || (!has(self.name) && !has(self.credentialsSecretRef))",fieldPath=".cloudNativePG",message="CloudNativePG's Secret tells name and credentials: leave name and credentialsSecretRef out"
// +kubebuilder:validation:XValidation:rule="!has(self.caSecretRef) || self.sslMode in ['verify-ca', 'verify-full']",fieldPath=".sslMode",message="a certificate authority is used by verify-ca and verify-full alone: write sslMode: verify-full, or leave caSecretRef out"
type Database struct {
	// host is the host name or IP address of PostgreSQL, or several, separated by
	// commas, for a primary and its standbys. A replica uses the one that takes
	// writes.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.matches('^([A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)(,([A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*))*$')",message="write a host name or an IP address, or several separated by commas, without a scheme and a port (that is database.port)"
	Host string `json:"host,omitempty"`

	// port is the port of PostgreSQL, at each of its hosts. A Secret of CloudNativePG
	// has its own.
	//
	// +optional
	// +kubebuilder:default=5432
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// The name of the database. The server makes its tables in it by itself.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^\\\\x00-\\\\x1f]+$')",message="write the name of a database in one line"
	Name string `json:"name,omitempty"`

	// TLS to PostgreSQL, as libpq has it.
	//
	// +optional
	// +kubebuilder:default=prefer
	SSLMode SSLMode `json:"sslMode,omitempty"`

	// The Secret of this namespace with the keys username and password. When it
	// changes, the pods are replaced one after the other.
	//
	// +optional
	CredentialsSecretRef *LocalReference `json:"credentialsSecretRef,omitempty"`

	// The Secret of this namespace whose key ca.crt holds the certificates that
	// verify-ca and verify-full trust.
	//
	// +optional
	CASecretRef *LocalReference `json:"caSecretRef,omitempty"`

	// The connections of one replica. All replicas, and one more while they are
	// replaced, have to fit into PostgreSQL's max_connections.
	//
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxConnections int32 `json:"maxConnections,omitempty"`

	// A cluster of the CloudNativePG operator, in this namespace.
	//
	// +optional
	CloudNativePG *CloudNativePG `json:"cloudNativePG,omitempty"`
}

// SSLMode is how TLS to PostgreSQL is used.
//
// +kubebuilder:validation:Enum=disable;allow;prefer;require;verify-ca;verify-full
type SSLMode string

// CloudNativePG names a cluster of that operator.
type CloudNativePG struct {
	// The name of the Cluster. Its Secret CLUSTER-app tells host, port, name and
	// credentials.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=50
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="write the name of a Cluster of CloudNativePG in this namespace"
	Cluster string `json:"cluster"`
}

// Tokens says how long tokens live. Its rule asks what there is, for the API
// server holds the default {} to it before it fills in what is in it.
//
// +kubebuilder:validation:XValidation:rule="!has(self.accessTokenTTL) || !has(self.refreshTokenTTL) || ![self.accessTokenTTL, self.refreshTokenTTL].all(d, d.matches('^([0-9]{1,6}[hms])+$')) || duration(self.accessTokenTTL) <= duration(self.refreshTokenTTL)",fieldPath=".accessTokenTTL",message="an access token must not outlive the refresh token that renews it: write at most refreshTokenTTL"
type Tokens struct {
	// How long an access token lives. A service that verifies tokens by
	// themselves believes one for that long, even if its session has ended.
	//
	// +optional
	// +kubebuilder:default="15m"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('10s') && duration(self) <= duration('24h'))",message="write 10s to 24h"
	AccessTokenTTL Duration `json:"accessTokenTTL,omitempty"`

	// How long a refresh token lives.
	//
	// +optional
	// +kubebuilder:default="168h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('1m') && duration(self) <= duration('8760h'))",message="write 1m to 8760h"
	RefreshTokenTTL Duration `json:"refreshTokenTTL,omitempty"`

	// When a refresh token is replaced: WhenNeeded is past half of its life,
	// Always at each use. Left out: WhenNeeded where exposure is Internal, and
	// Always where it is Public.
	//
	// +optional
	Rotation TokenRotation `json:"rotation,omitempty"`

	// How long a replaced refresh token is still answered, with the same
	// successor. Later it counts as stolen, and its session ends.
	//
	// +optional
	// +kubebuilder:default="60s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('0s') && duration(self) <= duration('10m'))",message="write 0s to 10m"
	ReuseGrace Duration `json:"reuseGrace,omitempty"`
}

// TokenRotation says when a refresh token is replaced.
//
// +kubebuilder:validation:Enum=WhenNeeded;Always
type TokenRotation string

// The values of TokenRotation.
const (
	RotateWhenNeeded TokenRotation = "WhenNeeded"
	RotateAlways     TokenRotation = "Always"
)

// Audit says what is kept of what has happened.
type Audit struct {
	// How long the table audit_events of the database keeps the audit trail:
	// sign-ups, sign-ins and refused passwords, ended sessions, changes of
	// passwords and addresses, by ids and the client's address. With 0s it is in the log alone, and
	// what the table has goes.
	//
	// +optional
	// +kubebuilder:default="2160h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('0s') && duration(self) <= duration('87600h'))",message="write 0s to 87600h"
	Retention Duration `json:"retention,omitempty"`
}

// SignUp configures what a person has to give at sign-up.
type SignUp struct {
	// required lists the names that a person has to give besides email and
	// password: Username, FirstName, LastName. If it is left out, all three are
	// required; if it is empty ([]), none of them is. What is not required may also
	// be removed later. An account without a username signs in by email, and its
	// tokens have no username.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=3
	Required []PersonName `json:"required,omitzero"`
}

// PersonName is a name that a person gives at sign-up.
//
// +kubebuilder:validation:Enum=Username;FirstName;LastName
type PersonName string

// The values of PersonName.
const (
	Username  PersonName = "Username"
	FirstName PersonName = "FirstName"
	LastName  PersonName = "LastName"
)

// Passwords says what a password may be.
type Passwords struct {
	// The cost of a bcrypt hash: each step doubles the work of a sign-in, and of
	// guessing.
	//
	// +optional
	// +kubebuilder:default=12
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=15
	SaltRounds int32 `json:"saltRounds,omitempty"`

	// The shortest password, in characters.
	//
	// +optional
	// +kubebuilder:default=8
	// +kubebuilder:validation:Minimum=8
	// +kubebuilder:validation:Maximum=64
	MinLength int32 `json:"minLength,omitempty"`

	// Whether the most common passwords are refused.
	//
	// +optional
	// +kubebuilder:default=true
	Blocklist *bool `json:"blocklist,omitempty"`
}

// Keys says how tokens are signed.
type Keys struct {
	// The JWS algorithm of new keys. A change begins an ordinary rotation: tokens
	// that are alive stay valid.
	//
	// +optional
	// +kubebuilder:default=ES256
	Algorithm Algorithm `json:"algorithm,omitempty"`

	// The Secret of this namespace with the keys ACCESS_PASSPHRASE and
	// REFRESH_PASSPHRASE, 16 bytes or more each and not the same, that seal the
	// private keys. Left out, the operator makes passphrases. When it changes,
	// the keys are sealed anew and a rotation begins.
	//
	// +optional
	PassphraseSecretRef *LocalReference `json:"passphraseSecretRef,omitempty"`

	// How long a key signs before the next one does.
	//
	// +optional
	// +kubebuilder:default="720h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('1m') && duration(self) <= duration('87600h'))",message="write 1m to 87600h"
	RotationInterval Duration `json:"rotationInterval,omitempty"`

	// How long any verifier may lag behind what is published: a mounted ConfigMap
	// by up to two minutes, a JWKS cache by its max-age. A new key signs after
	// twice as long, and only when every replica has loaded it.
	//
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('1s') && duration(self) <= duration('168h'))",message="write 1s to 168h"
	PublishLead Duration `json:"publishLead,omitempty"`

	// The kids of keys that are to be trusted no more. Every token that such a
	// key signed dies; where it is the signing key, another signs at once.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[A-Za-z0-9_-]{43}$')",message="this is no kid: copy one from status.keys; a kid has 43 letters, digits, dashes and underscores"
	Revoked []string `json:"revoked,omitempty"`
}

// Algorithm is a JWS algorithm (RFC 7518, section 3.1; RFC 8037).
//
// +kubebuilder:validation:Enum=ES256;RS256;EdDSA
type Algorithm string

// Limits says how often something may be done. All replicas count together.
type Limits struct {
	// Sign-ins that one client address may try. What is more is answered with
	// 429. An IPv6 address counts with all of its /64. Wrong passwords of one
	// account are limited besides, and always. Left out: 30/5m where exposure is
	// Public, and Unlimited where it is Internal, for the addresses are then those
	// of your backends, each of which calls for many people.
	//
	// +optional
	SignIn Limit `json:"signIn,omitempty"`

	// The same for sign-ups.
	//
	// +optional
	SignUp Limit `json:"signUp,omitempty"`

	// The same for asking for codes, and for using them.
	//
	// +optional
	Codes Limit `json:"codes,omitempty"`

	// writes limits the changes that one user may make with an access token: of
	// names, of the email address. All sessions of the user count together. Left
	// out: 30/5m where exposure is Public, and 300/5m where it is Internal.
	//
	// +optional
	Writes Limit `json:"writes,omitempty"`

	// Mails that one address is sent because somebody asked for them, whoever
	// asks and whether or not it has an account. What is more is not sent, and
	// the answer is the same. Notices of changes are not counted. Left out: 3/1h.
	//
	// +optional
	Mails Limit `json:"mails,omitempty"`
}

// Limit is how often something may be done: a number, a slash and a duration,
// such as 30/5m, which is 30 times at once and one more every 10 seconds. With
// Unlimited there is no limit.
//
// +kubebuilder:validation:MaxLength=27
// +kubebuilder:validation:XValidation:rule="self == 'Unlimited' || self.matches('^[1-9][0-9]{0,5}/([0-9]{1,6}[hms])+$')",message="this is no limit: write a number, a slash and a duration, such as 30/5m, or Unlimited"
// +kubebuilder:validation:XValidation:rule="!self.matches('^[1-9][0-9]{0,5}/([0-9]{1,6}[hms])+$') || (int(self.split('/')[0]) <= 100000 && duration(self.split('/')[1]) >= duration('1s') && duration(self.split('/')[1]) <= duration('24h'))",message="write at most 100000, in 1s to 24h"
type Limit string

// Unlimited is no limit. It is not Off, which YAML takes for a boolean.
const Unlimited Limit = "Unlimited"

// ProxyField is the field by which proxies tell whose request they pass on.
//
// +kubebuilder:validation:Enum=Any;Forwarded;XForwardedFor
type ProxyField string

// The values of ProxyField.
const (
	ProxyFieldAny           ProxyField = "Any"
	ProxyFieldForwarded     ProxyField = "Forwarded"
	ProxyFieldXForwardedFor ProxyField = "XForwardedFor"
)

// Email says how mail is sent: by a mail server, or by a webhook of yours. Where
// it is, people are also told of changes of their password and address, whatever
// the exposure.
//
// +kubebuilder:validation:XValidation:rule="has(self.smtp) != has(self.webhook)",message="write smtp for a mail server, or webhook for a service of yours that sends mail, and not both"
type Email struct {
	// The server that takes the mail.
	//
	// +optional
	SMTP *SMTP `json:"smtp,omitempty"`

	// In place of smtp: where each mail is sent to as JSON.
	//
	// +optional
	Webhook *MailWebhook `json:"webhook,omitempty"`

	// serviceName is the name of your service in mails, such as Example Shop. If it
	// is left out, it is the host of the issuer.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^\\\\s\\\\x00-\\\\x1f]([^\\\\x00-\\\\x1f]*[^\\\\s\\\\x00-\\\\x1f])?$')",message="write one line, without spaces around it, such as Example Shop"
	ServiceName string `json:"serviceName,omitempty"`

	// How many mails one replica sends at the same time, each over a connection of
	// its own.
	//
	// +optional
	// +kubebuilder:default=4
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=64
	MaxConnections int32 `json:"maxConnections,omitempty"`

	// How long a mail that is not taken is tried again. A code's life begins when
	// it is sent.
	//
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('1m') && duration(self) <= duration('720h'))",message="write 1m to 720h"
	GiveUpAfter Duration `json:"giveUpAfter,omitempty"`

	// The ConfigMap of this namespace whose templates replace the built-in ones,
	// a file each, such as verification.txt. When it changes, the pods are replaced one after the other.
	//
	// +optional
	TemplatesConfigMapRef *LocalReference `json:"templatesConfigMapRef,omitempty"`

	// The pages of your application to which mails link. Left out, mails bring
	// codes alone.
	//
	// +optional
	Links *EmailLinks `json:"links,omitempty"`
}

// SMTP is a mail server.
//
// +kubebuilder:validation:XValidation:rule="!has(self.caSecretRef) || self.tls != 'None'",fieldPath=".tls",message="a certificate authority is used by TLS alone: write tls: StartTLS or Implicit, or leave caSecretRef out"
type SMTP struct {
	// The host name of the mail server.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?$') || isIP(self)",message="write a host name or an IP address, without a scheme and a port (that is email.smtp.port)"
	Host string `json:"host"`

	// The port of the mail server.
	//
	// +optional
	// +kubebuilder:default=587
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// StartTLS (mostly port 587), Implicit (mostly port 465), or None, which
	// sends codes in the clear, and passwords not at all: to sign in there takes
	// SCRAM or CRAM-MD5. Where a server that is to speak TLS does not, nothing is
	// sent.
	//
	// +optional
	// +kubebuilder:default=StartTLS
	TLS SMTPTLS `json:"tls,omitempty"`

	// The Secret of this namespace whose key ca.crt holds the certificates that
	// the mail server's is checked with. Left out, the public authorities that the
	// server's image brings. When it changes, the pods are replaced one after the
	// other.
	//
	// +optional
	CASecretRef *LocalReference `json:"caSecretRef,omitempty"`

	// Whom mails come from: an address, or a name and then the address in angle
	// brackets.
	//
	// +required
	// +kubebuilder:validation:MaxLength=254
	// +kubebuilder:validation:XValidation:rule="self.matches('^([^@<>,:;\\\\x00-\\\\x1f]+ <[^@<>,;\\\\s]+@[^@<>,;\\\\s]+>|[^@<>,;\\\\s]+@[^@<>,;\\\\s]+)$')",message="write an email address, such as no-reply@example.com or Example <no-reply@example.com>"
	From string `json:"from"`

	// The Secret of this namespace with the keys username and password. Left out,
	// mail is handed over without signing in. When it changes, the pods are
	// replaced one after the other.
	//
	// +optional
	CredentialsSecretRef *LocalReference `json:"credentialsSecretRef,omitempty"`
}

// SMTPTLS is how TLS to a mail server is used.
//
// +kubebuilder:validation:Enum=StartTLS;Implicit;None
type SMTPTLS string

// MailWebhook is a service of yours that sends mail. Each request is signed as
// Standard Webhooks has it.
type MailWebhook struct {
	// Where each mail is sent to. With http codes go there in the clear.
	//
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@\\\\s]+([/?][^#\\\\s]*)?$')",message="write an absolute URL without a user and a fragment, such as https://mail.example.com/hook"
	URL string `json:"url"`

	// The Secret of this namespace whose key secret holds what requests are signed
	// with: 24 to 64 bytes in base64, with or without whsec_ before them. When it
	// changes, the pods are replaced one after the other.
	//
	// +required
	SecretRef LocalReference `json:"secretRef"`
}

// EmailLinks are pages of your application. The text {code} in each stands for
// the code; after a # it stays in the browser, and is in no log.
type EmailLinks struct {
	// Where a new user verifies their address.
	//
	// +optional
	Verification Link `json:"verification,omitempty"`

	// Where a user chooses a new password.
	//
	// +optional
	PasswordReset Link `json:"passwordReset,omitempty"`

	// Where a user confirms a new address.
	//
	// +optional
	EmailChange Link `json:"emailChange,omitempty"`
}

// Link is an absolute URL with a place for a code.
//
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@{}\\\\s]+[/?#][^\\\\s]*$') && self.split('{code}').size() == 2",message="write an absolute URL with the text {code} in it once, such as https://example.com/verify#{code}"
type Link string
