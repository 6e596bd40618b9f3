package v1alpha1

import "time"

// Duration is a length of time in hours, minutes and seconds, such as 720h, 15m
// or 1h30m. Rules that compare durations accept an invalid one, so that only the
// rule below reports it.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=20
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}[hms])+$')",message="the duration is invalid: write hours, minutes and seconds, such as 720h, 15m or 1h30m"
type Duration string

// Value returns the length of time, or zero if the text is invalid.
func (d Duration) Value() time.Duration {
	value, err := time.ParseDuration(string(d))
	if err != nil {
		return 0
	}
	return value
}

// CORS configures which web pages may call the API and read its responses. Tokens
// are sent in the Authorization header; the API uses no cookies.
type CORS struct {
	// allowedOrigins lists the origins of the pages, each as browsers send it:
	// scheme and host in lower case, the port unless it is the default of the
	// scheme, and no path, such as https://app.example.com. The wildcard * is not
	// allowed.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^https?://([a-z0-9_]([a-z0-9._-]*[a-z0-9_.])?|\\\\[[0-9a-f:.]+\\\\])(:[1-9][0-9]{0,4})?$')",message="write an origin as browsers send it, scheme://host[:port] in lower case without a path, such as https://app.example.com; * is not allowed"
	// +kubebuilder:validation:items:XValidation:rule="!self.matches('^(http://.*:80|https://.*:443)$')",message="browsers omit the default port of the scheme: remove :80 after http and :443 after https"
	AllowedOrigins []string `json:"allowedOrigins,omitempty"`
}

// Authz configures the decisions that proxies can ask for.
// +kubebuilder:validation:XValidation:rule="!has(self.port) || has(self.policies) && size(self.policies) > 0",message="without policies nothing would be served on the port: add a policy, or remove port"
type Authz struct {
	// policies lists the decisions. The policy orders is at /authz/orders.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=100
	Policies []AuthzPolicy `json:"policies,omitempty"`

	// port is a port of the Service and of the pods that serves the decisions, and
	// nothing else. The API then does not serve them, so that a route that leads to
	// the API does not lead to them. If it is not set, the API serves them.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1024
	// +kubebuilder:validation:Maximum=65535
	// +kubebuilder:validation:XValidation:rule="self != 8080 && self != 9090",message="the pods use this port for something else: write another one, such as 9000"
	Port int32 `json:"port,omitempty"`
}

// AuthzPolicy determines which requests are allowed. A request must meet every
// condition that is set. Without a condition, any valid access token is enough.
type AuthzPolicy struct {
	// name is the name of the policy in the path /authz/NAME.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="the name is part of a path: write lower-case letters, digits and dashes, such as orders"
	Name string `json:"name,omitempty"`

	// scopes lists scopes that the token must all have.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[!#-\\\\[\\\\]-~]*$')",message="the scope is invalid: write one scope per entry, in ASCII without spaces, quotes and backslashes"
	Scopes []string `json:"scopes,omitempty"`

	// anyScope lists scopes of which the token must have at least one.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[!#-\\\\[\\\\]-~]*$')",message="the scope is invalid: write one scope per entry, in ASCII without spaces, quotes and backslashes"
	AnyScope []string `json:"anyScope,omitempty"`

	// audience is an audience that the token must be for. If it is not set, any of
	// spec.audiences is enough.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^,\\\\s]*$')",message="the audience contains a space or a comma: write one of spec.audiences"
	Audience string `json:"audience,omitempty"`

	// maxAge is how long ago the user may have signed in. If it is not set, the time
	// of the sign-in has no effect.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('1s') && duration(self) <= duration('8760h'))",message="write 1s to 8760h"
	MaxAge Duration `json:"maxAge,omitempty"`

	// anonymous also allows requests without a token. Requests with an invalid token
	// are still refused.
	//
	// +optional
	Anonymous bool `json:"anonymous,omitempty"`

	// failClosed refuses requests while the server does not know which sessions have
	// ended in the last 30 seconds, such as when the database is down. If it is
	// false, the server decides by what it knew before.
	//
	// +optional
	FailClosed bool `json:"failClosed,omitempty"`
}

// Database configures the connection to PostgreSQL.
//
// +kubebuilder:validation:XValidation:rule="has(self.host) != has(self.cloudNativePG)",message="write either host, name and credentialsSecretRef, or cloudNativePG.cluster"
// +kubebuilder:validation:XValidation:rule="!has(self.host) || has(self.name)",fieldPath=".name",message="write the name of the database"
// +kubebuilder:validation:XValidation:rule="!has(self.host) || has(self.credentialsSecretRef)",fieldPath=".credentialsSecretRef",message="write the name of a Secret with the keys username and password"
// +kubebuilder:validation:XValidation:rule="!has(self.cloudNativePG) || has(self.host) || (!has(self.name) && !has(self.credentialsSecretRef))",fieldPath=".cloudNativePG",message="the Secret of CloudNativePG contains the name and the credentials: remove name and credentialsSecretRef"
// +kubebuilder:validation:XValidation:rule="!has(self.caSecretRef) || self.sslMode in ['verify-ca', 'verify-full']",fieldPath=".sslMode",message="only verify-ca and verify-full use a certificate authority: write sslMode: verify-full, or remove caSecretRef"
type Database struct {
	// host is the host name or IP address of PostgreSQL. To name a primary and its
	// standbys, separate several with commas, each with or without a port, such as
	// db-0,db-1:5433 or [fd00::5]:5433; a replica uses the one that accepts writes.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.matches('^([A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?(:[0-9]{1,5})?|\\\\[[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\\\\](:[0-9]{1,5})?|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)(,([A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?(:[0-9]{1,5})?|\\\\[[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\\\\](:[0-9]{1,5})?|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*))*$')",message="write a host name or an IP address, or several separated by commas, without a scheme; a port follows a colon, as in db:5433, or is in database.port"
	Host string `json:"host,omitempty"`

	// port is the port of PostgreSQL on each host that names no other. With
	// cloudNativePG the port in its Secret is used instead.
	//
	// +optional
	// +kubebuilder:default=5432
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// name is the name of the database. The server creates its tables in it.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^\\\\x00-\\\\x1f]+$')",message="write the name of the database on one line"
	Name string `json:"name,omitempty"`

	// sslMode determines how TLS is used, with libpq's meaning of each value.
	//
	// +optional
	// +kubebuilder:default=prefer
	SSLMode SSLMode `json:"sslMode,omitempty"`

	// credentialsSecretRef names the Secret in this namespace with the keys
	// username and password. When it changes, the pods are replaced one at a time.
	//
	// +optional
	CredentialsSecretRef *LocalReference `json:"credentialsSecretRef,omitempty"`

	// caSecretRef names the Secret in this namespace whose key ca.crt holds the
	// certificates that verify-ca and verify-full trust.
	//
	// +optional
	CASecretRef *LocalReference `json:"caSecretRef,omitempty"`

	// maxConnections is the maximum number of connections per replica. The
	// connections of all replicas, plus one more replica during a rollout, must fit
	// PostgreSQL's max_connections.
	//
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxConnections int32 `json:"maxConnections,omitempty"`

	// minIdleConnections is the number of unused connections that each replica
	// keeps open, so that a burst of requests does not wait for new ones.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MinIdleConnections int32 `json:"minIdleConnections,omitempty"`

	// cloudNativePG uses a database of the CloudNativePG operator in this
	// namespace.
	//
	// +optional
	CloudNativePG *CloudNativePG `json:"cloudNativePG,omitempty"`
}

// SSLMode determines how TLS to PostgreSQL is used.
//
// +kubebuilder:validation:Enum=disable;allow;prefer;require;verify-ca;verify-full
type SSLMode string

// CloudNativePG names a Cluster of the CloudNativePG operator.
type CloudNativePG struct {
	// cluster is the name of the Cluster. Its Secret CLUSTER-app contains the host,
	// the port, the database name and the credentials.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=50
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="write the name of a CloudNativePG Cluster in this namespace"
	Cluster string `json:"cluster,omitempty"`
}

// Tokens configures the lifetime of tokens. Its rule checks which fields are set,
// because the API server applies it to the default {} before it fills in the
// defaults of the fields.
//
// +kubebuilder:validation:XValidation:rule="!has(self.accessTokenTTL) || !has(self.refreshTokenTTL) || ![self.accessTokenTTL, self.refreshTokenTTL].all(d, d.matches('^([0-9]{1,6}[hms])+$')) || duration(self.accessTokenTTL) <= duration(self.refreshTokenTTL)",fieldPath=".accessTokenTTL",message="an access token must not outlive its refresh token: write at most refreshTokenTTL"
type Tokens struct {
	// accessTokenTTL is how long an access token is valid. A service that verifies
	// tokens offline accepts one for that long, even if its session has ended.
	//
	// +optional
	// +kubebuilder:default="15m"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('10s') && duration(self) <= duration('24h'))",message="write 10s to 24h"
	AccessTokenTTL Duration `json:"accessTokenTTL,omitempty"`

	// refreshTokenTTL is how long a refresh token is valid.
	//
	// +optional
	// +kubebuilder:default="168h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('1m') && duration(self) <= duration('8760h'))",message="write 1m to 8760h"
	RefreshTokenTTL Duration `json:"refreshTokenTTL,omitempty"`

	// clientID is the client_id of access tokens (RFC 9068). All users sign in
	// through this gateway, so it is the only client. If it is not set, it is the name
	// of the AuthGateway. After a change, existing tokens stay valid.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.matches('^[!-~]+$')",message="write ASCII characters without spaces, such as shop"
	ClientID string `json:"clientID,omitempty"`

	// accessTokenTyp is the header parameter typ of new access tokens: at+jwt
	// (RFC 9068), or JWT for services that refuse at+jwt, such as Spring with its
	// default configuration. After a change, existing tokens stay valid.
	//
	// +optional
	// +kubebuilder:default="at+jwt"
	AccessTokenTyp AccessTokenTyp `json:"accessTokenTyp,omitempty"`

	// claims lists the members of the metadata of an account that its access tokens
	// contain as claims, such as plan. Administrators set the metadata. The names of
	// claims that the gateway sets, and registered ones such as groups, are refused:
	// the status says so. If it is not set, there are none. After a change, tokens
	// follow when they are renewed.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=100
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[!#-+\\\\x2d-\\\\[\\\\]-~]*$')",message="the name is invalid: write one name per entry, in ASCII without spaces, commas, quotes and backslashes, such as plan"
	Claims []string `json:"claims,omitempty"`

	// rotation determines when a refresh token is replaced. WhenNeeded: when it is
	// used after half of its lifetime. Always: at each use. If it is not set, it is
	// WhenNeeded with exposure Internal, and Always with exposure Public.
	//
	// +optional
	Rotation TokenRotation `json:"rotation,omitempty"`

	// reuseGrace is how long a replaced refresh token may be used again. The
	// response is then the same new token. A later use is treated as theft and ends
	// the session.
	//
	// +optional
	// +kubebuilder:default="60s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('0s') && duration(self) <= duration('10m'))",message="write 0s to 10m"
	ReuseGrace Duration `json:"reuseGrace,omitempty"`
}

// AccessTokenTyp is the header parameter typ of an access token.
//
// +kubebuilder:validation:Enum=at+jwt;JWT
type AccessTokenTyp string

// The values of AccessTokenTyp.
const (
	TypAccessToken AccessTokenTyp = "at+jwt"
	TypJWT         AccessTokenTyp = "JWT"
)

// TokenRotation determines when a refresh token is replaced.
//
// +kubebuilder:validation:Enum=WhenNeeded;Always
type TokenRotation string

// The values of TokenRotation.
const (
	RotateWhenNeeded TokenRotation = "WhenNeeded"
	RotateAlways     TokenRotation = "Always"
)

// Audit configures the audit trail.
type Audit struct {
	// retention is how long the table audit_events of the database keeps the audit
	// trail: sign-ups, sign-ins, rejected passwords, ended sessions, and changes of
	// passwords and addresses, with user IDs and client addresses. With 0s events
	// are only logged, and existing rows are deleted.
	//
	// +optional
	// +kubebuilder:default="2160h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('0s') && duration(self) <= duration('87600h'))",message="write 0s to 87600h"
	Retention Duration `json:"retention,omitempty"`
}

// SignUp configures what a user must provide at sign-up.
type SignUp struct {
	// required lists the names that a user must provide in addition to an email
	// address and a password: Username, FirstName, LastName. If it is not set, all
	// three are required; if it is empty ([]), no name is. A name that is not
	// required can be removed later. An account without a username signs in by
	// email address, and its tokens contain no username.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=3
	Required []PersonName `json:"required,omitzero"`
}

// PersonName is a name that a user provides at sign-up.
//
// +kubebuilder:validation:Enum=Username;FirstName;LastName
type PersonName string

// The values of PersonName.
const (
	Username  PersonName = "Username"
	FirstName PersonName = "FirstName"
	LastName  PersonName = "LastName"
)

// Passwords configures which passwords are allowed and how they are hashed.
type Passwords struct {
	// saltRounds is the bcrypt cost. Each increment doubles the work of a sign-in,
	// and of guessing a password.
	//
	// +optional
	// +kubebuilder:default=12
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=15
	SaltRounds int32 `json:"saltRounds,omitempty"`

	// minLength is the minimum length of a password, in characters.
	//
	// +optional
	// +kubebuilder:default=8
	// +kubebuilder:validation:Minimum=8
	// +kubebuilder:validation:Maximum=64
	MinLength int32 `json:"minLength,omitempty"`

	// blocklist determines whether the most common passwords are rejected.
	//
	// +optional
	// +kubebuilder:default=true
	Blocklist *bool `json:"blocklist,omitempty"`

	// migration asks a service of yours about the passwords of imported accounts
	// whose hashes could not be had. If it is not set, these users have to set new
	// passwords.
	//
	// +optional
	Migration *PasswordMigration `json:"migration,omitempty"`
}

// PasswordMigration configures a service of yours that checks passwords in the
// system that accounts come from. Each request is signed as the Standard Webhooks
// specification defines.
type PasswordMigration struct {
	// url is the URL that an address and a password are sent to.
	//
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.matches('^https://[^/?#@\\\\s]+([/?][^#\\\\s]*)?$')",message="write an absolute URL with https, without a user or a fragment, such as https://example.com/password"
	URL string `json:"url,omitempty"`

	// secretRef names the Secret in this namespace whose key secret holds the
	// signing secret of the requests: 24 to 64 bytes in base64, with or without the
	// prefix whsec_. When it changes, the pods are replaced one at a time.
	//
	// +required
	SecretRef LocalReference `json:"secretRef,omitzero"`
}

// Keys configures the signing keys.
type Keys struct {
	// algorithm is the JWS algorithm of new keys. A change starts a normal
	// rotation, and existing tokens stay valid.
	//
	// +optional
	// +kubebuilder:default=ES256
	Algorithm Algorithm `json:"algorithm,omitempty"`

	// passphraseSecretRef names the Secret in this namespace with the keys
	// ACCESS_PASSPHRASE and REFRESH_PASSPHRASE, which encrypt the private keys. The
	// two must differ and have at least 16 bytes each. If it is not set, the
	// operator generates them. When they change, the private keys are encrypted
	// again and a rotation starts.
	//
	// +optional
	PassphraseSecretRef *LocalReference `json:"passphraseSecretRef,omitempty"`

	// rotationInterval is how long a key signs tokens before the next one replaces
	// it.
	//
	// +optional
	// +kubebuilder:default="720h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('1m') && duration(self) <= duration('87600h'))",message="write 1m to 87600h"
	RotationInterval Duration `json:"rotationInterval,omitempty"`

	// publishLead is the longest time that a verifier may take to learn of a new
	// key. A new key starts to sign after twice this time, and only when every
	// replica has loaded it. A mounted ConfigMap takes up to 2 minutes, a JWKS cache
	// its max-age of 1 minute, Envoy Gateway 5 minutes, and Istio 20 minutes, which
	// the default allows for: a new key is published for 30 minutes before it signs.
	//
	// +optional
	// +kubebuilder:default="15m"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('1s') && duration(self) <= duration('168h'))",message="write 1s to 168h"
	PublishLead Duration `json:"publishLead,omitempty"`

	// revoked lists the kids of keys that must no longer be trusted. Every token
	// that such a key signed becomes invalid. If the key is the signing key,
	// another one replaces it at once.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[A-Za-z0-9_-]{43}$')",message="the kid is invalid: copy one from status.keys; a kid has 43 letters, digits, dashes and underscores"
	Revoked []string `json:"revoked,omitempty"`
}

// Algorithm is a JWS algorithm (RFC 7518, section 3.1; RFC 8037).
//
// +kubebuilder:validation:Enum=ES256;RS256;EdDSA
type Algorithm string

// Limits configures rate limits. All replicas share their counts.
type Limits struct {
	// signIn limits the sign-in attempts of one client address. Further attempts
	// get status 429. An IPv6 address counts together with its /64 network. Wrong
	// passwords for one account have a separate limit that is always on. If it is
	// not set, it is 30/5m with exposure Public, and Unlimited with exposure
	// Internal, where the clients are backends that each serve many users.
	//
	// +optional
	SignIn Limit `json:"signIn,omitempty"`

	// signUp limits the sign-ups of one client address. Its default is that of
	// signIn.
	//
	// +optional
	SignUp Limit `json:"signUp,omitempty"`

	// codes limits the requests of one client address that ask for a code or use
	// one. Its default is that of signIn.
	//
	// +optional
	Codes Limit `json:"codes,omitempty"`

	// writes limits the changes that one user may make with an access token, such
	// as of names or the email address. All sessions of the user count together. If
	// it is not set, it is 30/5m with exposure Public, and 300/5m with exposure
	// Internal.
	//
	// +optional
	Writes Limit `json:"writes,omitempty"`

	// mails limits the requested mails to one email address, whichever client asks
	// and whether or not the address has an account. Further mails are not sent,
	// and the response is the same. Notices of changes do not count. If it is not
	// set, it is 3/1h.
	//
	// +optional
	Mails Limit `json:"mails,omitempty"`
}

// Limit is a rate: a number, a slash and a duration. For example, 30/5m allows 30
// requests at once and one more every 10 seconds. Unlimited sets no limit.
//
// +kubebuilder:validation:MaxLength=27
// +kubebuilder:validation:XValidation:rule="self == 'Unlimited' || self.matches('^[1-9][0-9]{0,5}/([0-9]{1,6}[hms])+$')",message="the limit is invalid: write a number, a slash and a duration, such as 30/5m, or Unlimited"
// +kubebuilder:validation:XValidation:rule="!self.matches('^[1-9][0-9]{0,5}/([0-9]{1,6}[hms])+$') || (int(self.split('/')[0]) <= 100000 && duration(self.split('/')[1]) >= duration('1s') && duration(self.split('/')[1]) <= duration('24h'))",message="write a number up to 100000 and a duration from 1s to 24h"
type Limit string

// Unlimited sets no limit. Off is not used, because YAML reads it as a boolean.
const Unlimited Limit = "Unlimited"

// ProxyField is the header field in which proxies write the address of the
// client.
//
// +kubebuilder:validation:Enum=Any;Forwarded;XForwardedFor
type ProxyField string

// The values of ProxyField.
const (
	ProxyFieldAny           ProxyField = "Any"
	ProxyFieldForwarded     ProxyField = "Forwarded"
	ProxyFieldXForwardedFor ProxyField = "XForwardedFor"
)

// Email configures how the server sends mail: through a mail server, or through a
// webhook of yours. With it, users also receive notices when their password or
// email address changes, whatever the exposure.
//
// +kubebuilder:validation:XValidation:rule="has(self.smtp) != has(self.webhook)",message="write either smtp, for a mail server, or webhook, for a service of yours that delivers mail"
type Email struct {
	// smtp sends mail through a mail server.
	//
	// +optional
	SMTP *SMTP `json:"smtp,omitempty"`

	// webhook sends each mail as JSON to a service of yours, which delivers it.
	//
	// +optional
	Webhook *MailWebhook `json:"webhook,omitempty"`

	// serviceName is the name of your service in mails, such as Example Shop. If it
	// is not set, it is the host of the issuer.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^\\\\s\\\\x00-\\\\x1f]([^\\\\x00-\\\\x1f]*[^\\\\s\\\\x00-\\\\x1f])?$')",message="write one line without leading or trailing spaces, such as Example Shop"
	ServiceName string `json:"serviceName,omitempty"`

	// maxConnections is the number of mails that one replica sends at the same
	// time, each over its own connection.
	//
	// +optional
	// +kubebuilder:default=4
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=64
	MaxConnections int32 `json:"maxConnections,omitempty"`

	// giveUpAfter is how long the server retries to deliver a mail. A code starts
	// to expire only when its mail is sent.
	//
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('1m') && duration(self) <= duration('720h'))",message="write 1m to 720h"
	GiveUpAfter Duration `json:"giveUpAfter,omitempty"`

	// templatesConfigMapRef names the ConfigMap in this namespace whose templates
	// replace the built-in ones. Each key is a file name, such as verification.txt.
	// When it changes, the pods are replaced one at a time.
	//
	// +optional
	TemplatesConfigMapRef *LocalReference `json:"templatesConfigMapRef,omitempty"`

	// links configures the pages of your application that mails link to. If it is
	// not set, mails contain only codes.
	//
	// +optional
	Links *EmailLinks `json:"links,omitempty"`
}

// SMTP configures a mail server.
//
// +kubebuilder:validation:XValidation:rule="!has(self.caSecretRef) || self.tls != 'None'",fieldPath=".tls",message="only TLS uses a certificate authority: write tls: StartTLS or tls: Implicit, or remove caSecretRef"
type SMTP struct {
	// host is the host name or IP address of the mail server.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?$') || isIP(self)",message="write a host name or an IP address, without a scheme or a port (set email.smtp.port)"
	Host string `json:"host,omitempty"`

	// port is the port of the mail server.
	//
	// +optional
	// +kubebuilder:default=587
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// tls determines how TLS is used: StartTLS (usually port 587), Implicit
	// (usually port 465), or None. None sends codes unencrypted, but never a
	// password: signing in then requires SCRAM or CRAM-MD5. With StartTLS or
	// Implicit, nothing is sent to a server that does not support TLS.
	//
	// +optional
	// +kubebuilder:default=StartTLS
	TLS SMTPTLS `json:"tls,omitempty"`

	// caSecretRef names the Secret in this namespace whose key ca.crt holds the
	// certificates that the mail server's certificate is verified with. If it is
	// not set, the public authorities in the server's image are used. When it
	// changes, the pods are replaced one at a time.
	//
	// +optional
	CASecretRef *LocalReference `json:"caSecretRef,omitempty"`

	// from is the sender of mails: an address, or a name followed by the address in
	// angle brackets.
	//
	// +required
	// +kubebuilder:validation:MaxLength=254
	// +kubebuilder:validation:XValidation:rule="self.matches('^([^@<>,:;\\\\x00-\\\\x1f]+ <[^@<>,;\\\\s]+@[^@<>,;\\\\s]+>|[^@<>,;\\\\s]+@[^@<>,;\\\\s]+)$')",message="write an email address, such as no-reply@example.com or Example <no-reply@example.com>"
	From string `json:"from,omitempty"`

	// credentialsSecretRef names the Secret in this namespace with the keys
	// username and password. If it is not set, the server does not sign in to the
	// mail server. When it changes, the pods are replaced one at a time.
	//
	// +optional
	CredentialsSecretRef *LocalReference `json:"credentialsSecretRef,omitempty"`
}

// SMTPTLS determines how TLS to a mail server is used.
//
// +kubebuilder:validation:Enum=StartTLS;Implicit;None
type SMTPTLS string

// MailWebhook configures a service of yours that delivers mail. Each request is
// signed as the Standard Webhooks specification defines.
type MailWebhook struct {
	// url is the URL that each mail is sent to. With http, codes are sent
	// unencrypted.
	//
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@\\\\s]+([/?][^#\\\\s]*)?$')",message="write an absolute URL without a user or a fragment, such as https://mail.example.com/hook"
	URL string `json:"url,omitempty"`

	// secretRef names the Secret in this namespace whose key secret holds the
	// signing secret of the requests: 24 to 64 bytes in base64, with or without the
	// prefix whsec_. When it changes, the pods are replaced one at a time.
	//
	// +required
	SecretRef LocalReference `json:"secretRef,omitzero"`
}

// EventWebhook configures a service of yours that receives the events of accounts.
// Each request is signed as the Standard Webhooks specification defines.
type EventWebhook struct {
	// url is the URL that each event is sent to. With http, events are sent
	// unencrypted.
	//
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@\\\\s]+([/?][^#\\\\s]*)?$')",message="write an absolute URL without a user or a fragment, such as https://events.example.com/hook"
	URL string `json:"url,omitempty"`

	// secretRef names the Secret in this namespace whose key secret holds the
	// signing secret of the requests: 24 to 64 bytes in base64, with or without the
	// prefix whsec_. When it changes, the pods are replaced one at a time.
	//
	// +required
	SecretRef LocalReference `json:"secretRef,omitzero"`
}

// EmailLinks configures pages of your application. The text {code} in each URL is
// replaced by the code. After a # the code stays in the browser and appears in no
// log.
type EmailLinks struct {
	// verification is the page where a new user verifies the email address.
	//
	// +optional
	Verification Link `json:"verification,omitempty"`

	// passwordReset is the page where a user chooses a new password.
	//
	// +optional
	PasswordReset Link `json:"passwordReset,omitempty"`

	// emailChange is the page where a user confirms a new email address.
	//
	// +optional
	EmailChange Link `json:"emailChange,omitempty"`

	// invitation is the page where an invited person chooses their first password.
	// It does what passwordReset does, and can be the same page.
	//
	// +optional
	Invitation Link `json:"invitation,omitempty"`
}

// Link is an absolute URL that contains {code} once.
//
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@{}\\\\s]+[/?#][^\\\\s]*$') && self.split('{code}').size() == 2",message="write an absolute URL that contains {code} once, such as https://example.com/verify#{code}"
type Link string
