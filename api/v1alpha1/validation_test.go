package v1alpha1_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// invalid lists specs that the API server rejects, each for one reason, with the field and a part of the message.
var invalid = []struct{ what, spec, field, says string }{
	{"no database", `database: null`, "spec.database", "Required value"},

	{"negative replicas", `replicas: -1`, "spec.replicas", "greater than or equal to 0"},
	{"too many replicas", `replicas: 101`, "spec.replicas", "less than or equal to 100"},
	{"replicas that are not a number", `replicas: two`, "spec.replicas", "must be of type integer"},
	{"replicas and autoscaling", `{replicas: 3, autoscaling: {maxReplicas: 5}}`, "spec.replicas", "autoscaling sets the number of replicas: remove replicas"},
	{"zero replicas and autoscaling", `{replicas: 0, autoscaling: {maxReplicas: 5}}`, "spec.replicas", "remove autoscaling"},
	{"autoscaling without maxReplicas", `autoscaling: {minReplicas: 3}`, "spec.autoscaling.maxReplicas", "Required value"},
	{"minReplicas above maxReplicas", `autoscaling: {minReplicas: 6, maxReplicas: 5}`, "spec.autoscaling.minReplicas", "write at most maxReplicas; the default is 2"},
	{"autoscaling to zero", `autoscaling: {minReplicas: 0, maxReplicas: 5}`, "spec.autoscaling.minReplicas", "greater than or equal to 1"},
	{"maxReplicas out of range", `autoscaling: {maxReplicas: 101}`, "spec.autoscaling.maxReplicas", "less than or equal to 100"},
	{"a CPU target of zero", `autoscaling: {maxReplicas: 5, targetCPUUtilizationPercentage: 0}`, "spec.autoscaling.targetCPUUtilizationPercentage", "greater than or equal to 1"},

	{"an image with a space", `image: my image`, "spec.image", "write one such as registry.example.com/authserver:1.2.3"},
	{"an image with an incomplete digest", `image: "authserver@sha256:abc"`, "spec.image", "the image reference is invalid"},
	{"an image with two tags", `image: "authserver:1:2"`, "spec.image", "the image reference is invalid"},
	{"an empty image", `image: ""`, "spec.image", "at least 1 chars long"},
	{"a duplicate pull secret", `imagePullSecrets: [{name: a}, {name: b}, {name: a}]`, "spec.imagePullSecrets[2]", "Duplicate value"},
	{"a pull secret in another namespace", `imagePullSecrets: [{name: a}, {name: other/b}]`, "spec.imagePullSecrets[1].name", "the object must be in the same namespace"},
	{"a pull secret with an invalid name", `imagePullSecrets: [{name: a..b}]`, "spec.imagePullSecrets[0].name", "the name is invalid"},

	{"an issuer without a scheme", `issuer: auth.example.com`, "spec.issuer", "such as https://auth.example.com"},
	{"an issuer with a query", `issuer: "https://auth.example.com/?a=b"`, "spec.issuer", "without a user, a query or a fragment"},
	{"an issuer with a user", `issuer: "https://me@auth.example.com"`, "spec.issuer", "without a user, a query or a fragment"},
	{"an issuer without a host", `issuer: "https://:80"`, "spec.issuer", "such as https://auth.example.com"},
	{"an issuer with a line break", `issuer: "https://auth.example.com/a\nb"`, "spec.issuer", "such as https://auth.example.com"},
	{"an audience with a space", `audiences: [shop, my shop]`, "spec.audiences[1]", "one audience per entry, without spaces or commas"},
	{"two audiences in one", `audiences: ["shop,till"]`, "spec.audiences[0]", "one audience per entry, without spaces or commas"},
	{"an audience of two lines", `audiences: ["shop\ntill"]`, "spec.audiences[0]", "one audience per entry, without spaces or commas"},
	{"an empty audience", `audiences: [""]`, "spec.audiences[0]", "at least 1 chars long"},
	{"an audience twice", `audiences: [shop, till, shop]`, "spec.audiences[2]", "Duplicate value"},

	{"an exposure that there is not", `exposure: External`, "spec.exposure", `supported values: "Internal", "Public"`},
	{"Public without email", `exposure: Public`, "spec.exposure", "sends codes only by mail: set email.smtp or email.webhook, or write exposure: Internal"},

	{"CORS without origins", `cors: {}`, "spec.cors.allowedOrigins", "Required value"},
	{"CORS with an empty list", `cors: {allowedOrigins: []}`, "spec.cors.allowedOrigins", "at least 1 items"},
	{"CORS for all origins", `cors: {allowedOrigins: ["https://app.example.com", "*"]}`, "spec.cors.allowedOrigins[1]", "* is not allowed"},
	{"CORS for all subdomains", `cors: {allowedOrigins: ["https://*.example.com"]}`, "spec.cors.allowedOrigins[0]", "* is not allowed"},
	{"CORS for the origin null", `cors: {allowedOrigins: ["null"]}`, "spec.cors.allowedOrigins[0]", "such as https://app.example.com"},
	{"an origin without a scheme", `cors: {allowedOrigins: [app.example.com]}`, "spec.cors.allowedOrigins[0]", "such as https://app.example.com"},
	{"an origin with a path", `cors: {allowedOrigins: ["https://app.example.com/"]}`, "spec.cors.allowedOrigins[0]", "without a path"},
	{"an origin with capital letters", `cors: {allowedOrigins: ["https://App.example.com"]}`, "spec.cors.allowedOrigins[0]", "in lower case"},
	{"an origin with a line break", `cors: {allowedOrigins: ["https://app.example.com\nb"]}`, "spec.cors.allowedOrigins[0]", "such as https://app.example.com"},
	{"two origins in one", `cors: {allowedOrigins: ["https://app.example.com,https://b.example.com"]}`, "spec.cors.allowedOrigins[0]", "such as https://app.example.com"},
	{"an origin with the default port of https", `cors: {allowedOrigins: ["https://app.example.com:443"]}`, "spec.cors.allowedOrigins[0]", "remove :80 after http and :443 after https"},
	{"an origin with the default port of http", `cors: {allowedOrigins: ["http://[::1]:80"]}`, "spec.cors.allowedOrigins[0]", "remove :80 after http and :443 after https"},
	{"a duplicate origin", `cors: {allowedOrigins: ["https://app.example.com", "https://app.example.com"]}`, "spec.cors.allowedOrigins[1]", "Duplicate value"},
	{"a negative number of proxies", `trustedProxyHops: -1`, "spec.trustedProxyHops", "greater than or equal to 0"},
	{"too many proxies", `trustedProxyHops: 11`, "spec.trustedProxyHops", "less than or equal to 10"},

	{"a policy without a name", `authz: {policies: [{anonymous: true}]}`, "spec.authz.policies[0].name", "Required value"},
	{"a policy twice", `authz: {policies: [{name: a}, {name: b}, {name: a}]}`, "spec.authz.policies[2]", "Duplicate value"},
	{"a policy with a path", `authz: {policies: [{name: a/b}]}`, "spec.authz.policies[0].name", "write lower-case letters, digits and dashes, such as orders"},
	{"a policy in capital letters", `authz: {policies: [{name: Orders}]}`, "spec.authz.policies[0].name", "the name is part of a path"},
	{"a policy with a long name", `authz: {policies: [{name: ` + strings.Repeat("a", 64) + `}]}`, "spec.authz.policies[0].name", "may not be more than 63"},
	{"two scopes in one", `authz: {policies: [{name: a, scopes: [b, "c d"]}]}`, "spec.authz.policies[0].scopes[1]", "write one scope per entry"},
	{"a scope with a quote", `authz: {policies: [{name: a, anyScope: ['b"']}]}`, "spec.authz.policies[0].anyScope[0]", "without spaces, quotes and backslashes"},
	{"a scope with a backslash", `authz: {policies: [{name: a, scopes: ['b\c']}]}`, "spec.authz.policies[0].scopes[0]", "without spaces, quotes and backslashes"},
	{"a scope beyond ASCII", `authz: {policies: [{name: a, scopes: [ö]}]}`, "spec.authz.policies[0].scopes[0]", "in ASCII"},
	{"an empty scope", `authz: {policies: [{name: a, scopes: [""]}]}`, "spec.authz.policies[0].scopes[0]", "at least 1 chars"},
	{"a scope twice", `authz: {policies: [{name: a, anyScope: [b, b]}]}`, "spec.authz.policies[0].anyScope[1]", "Duplicate value"},
	{"a policy for two audiences", `authz: {policies: [{name: a, audience: "shop,till"}]}`, "spec.authz.policies[0].audience", "write one of spec.audiences"},
	{"a policy for an empty audience", `authz: {policies: [{name: a, audience: ""}]}`, "spec.authz.policies[0].audience", "at least 1 chars"},
	{"a maximum age of zero", `authz: {policies: [{name: a, maxAge: 0s}]}`, "spec.authz.policies[0].maxAge", "write 1s to 8760h"},
	{"a maximum age of more than a year", `authz: {policies: [{name: a, maxAge: 8761h}]}`, "spec.authz.policies[0].maxAge", "write 1s to 8760h"},
	{"a maximum age in days", `authz: {policies: [{name: a, maxAge: 1d}]}`, "spec.authz.policies[0].maxAge", "such as 720h, 15m or 1h30m"},

	{"a port without policies", `authz: {port: 9000}`, "spec.authz", "add a policy, or remove port"},
	{"a port and no policies", `authz: {port: 9000, policies: []}`, "spec.authz", "add a policy, or remove port"},
	{"a port that needs a privilege", `authz: {port: 443, policies: [{name: a}]}`, "spec.authz.port", "greater than or equal to 1024"},
	{"the port of the API for decisions", `authz: {port: 8080, policies: [{name: a}]}`, "spec.authz.port", "write another one, such as 9000"},
	{"the operations port for decisions", `authz: {port: 9090, policies: [{name: a}]}`, "spec.authz.port", "write another one, such as 9000"},
	{"a port beyond 65535", `authz: {port: 65536, policies: [{name: a}]}`, "spec.authz.port", "less than or equal to 65535"},

	{"no database connection", `database: {}`, "spec.database", "write either host, name and credentialsSecretRef, or cloudNativePG.cluster"},
	{"two database connections", `database: {host: a, name: b, credentialsSecretRef: {name: c}, cloudNativePG: {cluster: d}}`, "spec.database", "write either host"},
	{"a host without a database name", `database: {host: a, credentialsSecretRef: {name: c}}`, "spec.database.name", "write the name of the database"},
	{"a host without credentials", `database: {host: a, name: b}`, "spec.database.credentialsSecretRef", "write the name of a Secret with the keys username and password"},
	{"a URL in place of a host", `database: {host: "postgres://a", name: b, credentialsSecretRef: {name: c}}`, "spec.database.host", "without a scheme; a port follows a colon"},
	{"a host with a port that is no number", `database: {host: "a:pg", name: b, credentialsSecretRef: {name: c}}`, "spec.database.host", "or is in database.port"},
	{"a name in brackets", `database: {host: "[a]:5432", name: b, credentialsSecretRef: {name: c}}`, "spec.database.host", "or is in database.port"},
	{"zero unused database connections", `database: {host: a, name: b, credentialsSecretRef: {name: c}, minIdleConnections: -1}`, "spec.database.minIdleConnections", "greater than or equal to 1"},
	{"hosts with spaces between them", `database: {host: "a, b", name: b, credentialsSecretRef: {name: c}}`, "spec.database.host", "or several separated by commas"},
	{"hosts with one missing", `database: {host: "a,,b", name: b, credentialsSecretRef: {name: c}}`, "spec.database.host", "or several separated by commas"},
	{"port 0", `database: {host: a, port: 0, name: b, credentialsSecretRef: {name: c}}`, "spec.database.port", "greater than or equal to 1"},
	{"port 65536", `database: {host: a, port: 65536, name: b, credentialsSecretRef: {name: c}}`, "spec.database.port", "less than or equal to 65535"},
	{"a database name with a line break", `database: {host: a, name: "b\nc", credentialsSecretRef: {name: c}}`, "spec.database.name", "on one line"},
	{"a database name that PostgreSQL would truncate", `database: {host: a, name: ` + strings.Repeat("b", 64) + `, credentialsSecretRef: {name: c}}`, "spec.database.name", "may not be more than 63"},
	{"credentials without a name", `database: {host: a, name: b, credentialsSecretRef: {}}`, "spec.database.credentialsSecretRef.name", "Required value"},
	{"a TLS mode that libpq does not have", `database: {host: a, name: b, credentialsSecretRef: {name: c}, sslMode: strict}`, "spec.database.sslMode", `"verify-full"`},
	{"a certificate authority that sslMode does not use", `database: {host: a, name: b, credentialsSecretRef: {name: c}, sslMode: require, caSecretRef: {name: d}}`, "spec.database.sslMode", "write sslMode: verify-full, or remove caSecretRef"},
	{"zero database connections", `database: {host: a, name: b, credentialsSecretRef: {name: c}, maxConnections: 0}`, "spec.database.maxConnections", "greater than or equal to 1"},
	{"CloudNativePG and credentials", `database: {cloudNativePG: {cluster: d}, credentialsSecretRef: {name: c}}`, "spec.database.cloudNativePG", "remove name and credentialsSecretRef"},
	{"CloudNativePG and a name", `database: {cloudNativePG: {cluster: d}, name: b}`, "spec.database.cloudNativePG", "remove name and credentialsSecretRef"},
	{"CloudNativePG without a cluster", `database: {cloudNativePG: {}}`, "spec.database.cloudNativePG.cluster", "Required value"},
	{"a Cluster in another namespace", `database: {cloudNativePG: {cluster: other/d}}`, "spec.database.cloudNativePG.cluster", "write the name of a CloudNativePG Cluster in this namespace"},

	{"a duration without a unit", `tokens: {accessTokenTTL: "900"}`, "spec.tokens.accessTokenTTL", "write hours, minutes and seconds, such as 720h, 15m or 1h30m"},
	{"an empty duration", `tokens: {accessTokenTTL: ""}`, "spec.tokens.accessTokenTTL", "the duration is invalid"},
	{"a duration that is a number", `tokens: {accessTokenTTL: 900}`, "spec.tokens.accessTokenTTL", "must be of type string"},
	{"a duration in days", `tokens: {refreshTokenTTL: 30d}`, "spec.tokens.refreshTokenTTL", "such as 720h, 15m or 1h30m"},
	{"a negative duration", `tokens: {reuseGrace: -1s}`, "spec.tokens.reuseGrace", "the duration is invalid"},
	{"a duration with too many digits", `tokens: {reuseGrace: 1000000h1000000m1000000s}`, "spec.tokens.reuseGrace", "may not be more than 20"},
	{"a TTL of access tokens that is too short", `tokens: {accessTokenTTL: 9s}`, "spec.tokens.accessTokenTTL", "write 10s to 24h"},
	{"a TTL of access tokens that is too long", `{tokens: {accessTokenTTL: 25h}, keys: {rotationInterval: 720h}}`, "spec.tokens.accessTokenTTL", "write 10s to 24h"},
	{"a TTL of refresh tokens that is too short", `tokens: {accessTokenTTL: 10s, refreshTokenTTL: 59s}`, "spec.tokens.refreshTokenTTL", "write 1m to 8760h"},
	{"a client ID with a space", `tokens: {clientID: "my shop"}`, "spec.tokens.clientID", "write ASCII characters without spaces"},
	{"an empty client ID", `tokens: {clientID: ""}`, "spec.tokens.clientID", "at least 1 chars"},
	{"another typ of access tokens", `tokens: {accessTokenTyp: jwt}`, "spec.tokens.accessTokenTyp", `"at+jwt", "JWT"`},
	{"a claim with a space", `tokens: {claims: [plan, my plan]}`, "spec.tokens.claims[1]", "one name per entry, in ASCII without spaces"},
	{"two claims in one", `tokens: {claims: ["plan,seats"]}`, "spec.tokens.claims[0]", "one name per entry, in ASCII without spaces, commas"},
	{"a claim with a backslash", `tokens: {claims: ["a\\b"]}`, "spec.tokens.claims[0]", "quotes and backslashes"},
	{"an empty claim", `tokens: {claims: [""]}`, "spec.tokens.claims[0]", "at least 1 chars"},
	{"a claim twice", `tokens: {claims: [plan, plan]}`, "spec.tokens.claims[1]", "Duplicate value"},
	{"access tokens that outlive refresh tokens", `tokens: {accessTokenTTL: 2h, refreshTokenTTL: 1h}`, "spec.tokens.accessTokenTTL", "write at most refreshTokenTTL"},
	{"a reuse grace that is too long", `tokens: {reuseGrace: 11m}`, "spec.tokens.reuseGrace", "write 0s to 10m"},
	{"a retention that is too long", `audit: {retention: 87601h}`, "spec.audit.retention", "write 0s to 87600h"},
	{"a retention in days", `audit: {retention: 90d}`, "spec.audit.retention", "such as 720h, 15m or 1h30m"},
	{"a negative retention", `audit: {retention: -1s}`, "spec.audit.retention", "the duration is invalid"},
	{"an unknown token rotation", `tokens: {rotation: Never}`, "spec.tokens.rotation", `supported values: "WhenNeeded", "Always"`},

	{"a bcrypt cost that is too low", `passwords: {saltRounds: 9}`, "spec.passwords.saltRounds", "greater than or equal to 10"},
	{"a bcrypt cost that is too high", `passwords: {saltRounds: 16}`, "spec.passwords.saltRounds", "less than or equal to 15"},
	{"an unknown name at sign-up", `signUp: {required: [Email]}`, "spec.signUp.required[0]", `supported values: "Username", "FirstName", "LastName"`},
	{"a duplicate name at sign-up", `signUp: {required: [Username, Username]}`, "spec.signUp.required[1]", "Duplicate value"},
	{"a minimum password length that is too short", `passwords: {minLength: 7}`, "spec.passwords.minLength", "greater than or equal to 8"},
	{"a minimum password length that is too long", `passwords: {minLength: 65}`, "spec.passwords.minLength", "less than or equal to 64"},

	{"a migration without a URL", `passwords: {migration: {secretRef: {name: a}}}`, "spec.passwords.migration.url", "Required value"},
	{"a migration without a signing secret", `passwords: {migration: {url: "https://example.com"}}`, "spec.passwords.migration.secretRef", "Required value"},
	{"a migration without TLS", `passwords: {migration: {url: "http://example.com/", secretRef: {name: a}}}`, "spec.passwords.migration.url", "with https"},
	{"a migration with a user", `passwords: {migration: {url: "https://me@example.com/", secretRef: {name: a}}}`, "spec.passwords.migration.url", "without a user or a fragment"},
	{"a migration with a Secret in another namespace", `passwords: {migration: {url: "https://example.com", secretRef: {name: other/a}}}`, "spec.passwords.migration.secretRef.name", "must be in the same namespace"},

	{"a symmetric algorithm", `keys: {algorithm: HS256}`, "spec.keys.algorithm", `supported values: "ES256", "RS256", "EdDSA"`},
	{"a rotation interval that is too short", `{tokens: {accessTokenTTL: 10s, refreshTokenTTL: 1m}, keys: {rotationInterval: 59s, publishLead: 1s}}`, "spec.keys.rotationInterval", "write 1m to 87600h"},
	{"a rotation interval shorter than the life of access tokens", `{tokens: {accessTokenTTL: 1h, refreshTokenTTL: 2h}, keys: {rotationInterval: 1h29m}}`, "spec.keys.rotationInterval", "write at least tokens.accessTokenTTL plus twice keys.publishLead"},
	{"a rotation interval too short for the TTL of refresh tokens", `{tokens: {refreshTokenTTL: 8760h}, keys: {rotationInterval: 2189h}}`, "spec.keys.rotationInterval", "write at least a quarter of tokens.refreshTokenTTL"},
	{"a publish lead of zero", `keys: {publishLead: 0s}`, "spec.keys.publishLead", "write 1s to 168h"},
	{"an invalid kid", `keys: {revoked: [abc]}`, "spec.keys.revoked[0]", "copy one from status.keys"},
	{"a duplicate kid", `keys: {revoked: [` + kid + `, ` + kid + `]}`, "spec.keys.revoked[1]", "Duplicate value"},
	{"a passphrase Secret without a name", `keys: {passphraseSecretRef: {name: ""}}`, "spec.keys.passphraseSecretRef.name", "at least 1 chars long"},

	{"an unknown proxy field", `trustedProxyField: X-Real-IP`, "spec.trustedProxyField", `supported values: "Any", "Forwarded", "XForwardedFor"`},

	{"a limit without a time", `limits: {signIn: "30"}`, "spec.limits.signIn", "write a number, a slash and a duration, such as 30/5m, or Unlimited"},
	{"a limit that is a number", `limits: {signIn: 30}`, "spec.limits.signIn", "must be of type string"},
	{"a limit that YAML reads as a boolean", `limits: {signUp: off}`, "spec.limits.signUp", "must be of type string"},
	{"a limit with an unknown word", `limits: {codes: "off"}`, "spec.limits.codes", "or Unlimited"},
	{"a limit of zero", `limits: {mails: 0/1h}`, "spec.limits.mails", "the limit is invalid"},
	{"a limit per day", `limits: {mails: 3/1d}`, "spec.limits.mails", "such as 30/5m"},
	{"an empty limit", `limits: {mails: ""}`, "spec.limits.mails", "the limit is invalid"},
	{"a limit with a line break", `limits: {mails: "3/1h\n"}`, "spec.limits.mails", "the limit is invalid"},
	{"a limit with too high a number", `limits: {signIn: 100001/1s}`, "spec.limits.signIn", "write a number up to 100000 and a duration from 1s to 24h"},
	{"a limit per zero seconds", `limits: {signIn: 30/0s}`, "spec.limits.signIn", "from 1s to 24h"},
	{"a limit per more than a day", `limits: {signIn: 30/24h1s}`, "spec.limits.signIn", "from 1s to 24h"},

	{"a limit of writes with an unknown word", `limits: {writes: few}`, "spec.limits.writes", "such as 30/5m"},

	{"a service name with a line break", `email: {smtp: {host: mail, from: a@example.com}, serviceName: "Example\nShop"}`, "spec.email.serviceName", "write one line"},
	{"a service name of one space", `email: {smtp: {host: mail, from: a@example.com}, serviceName: " "}`, "spec.email.serviceName", "write one line"},
	{"email without a server", `email: {}`, "spec.email", "write either smtp, for a mail server, or webhook, for a service of yours that delivers mail"},
	{"email with two transports", `email: {smtp: {host: mail, from: a@example.com}, webhook: {url: "https://a", secretRef: {name: b}}}`, "spec.email", "write either smtp"},
	{"zero mail connections", `email: {smtp: {host: mail, from: a@example.com}, maxConnections: 0}`, "spec.email.maxConnections", "greater than or equal to 1"},
	{"too many mail connections", `email: {smtp: {host: mail, from: a@example.com}, maxConnections: 65}`, "spec.email.maxConnections", "less than or equal to 64"},
	{"a giveUpAfter that is too short", `email: {smtp: {host: mail, from: a@example.com}, giveUpAfter: 59s}`, "spec.email.giveUpAfter", "write 1m to 720h"},
	{"a giveUpAfter that is too long", `email: {smtp: {host: mail, from: a@example.com}, giveUpAfter: 721h}`, "spec.email.giveUpAfter", "write 1m to 720h"},
	{"a giveUpAfter in days", `email: {smtp: {host: mail, from: a@example.com}, giveUpAfter: 1d}`, "spec.email.giveUpAfter", "such as 720h, 15m or 1h30m"},
	{"a webhook without a URL", `email: {webhook: {secretRef: {name: a}}}`, "spec.email.webhook.url", "Required value"},
	{"a webhook without a signing secret", `email: {webhook: {url: "https://mail.example.com"}}`, "spec.email.webhook.secretRef", "Required value"},
	{"a webhook with a user", `email: {webhook: {url: "https://me@mail.example.com/", secretRef: {name: a}}}`, "spec.email.webhook.url", "without a user or a fragment"},
	{"a webhook without a scheme", `email: {webhook: {url: mail.example.com/hook, secretRef: {name: a}}}`, "spec.email.webhook.url", "such as https://mail.example.com/hook"},
	{"a webhook with a Secret in another namespace", `email: {webhook: {url: "https://mail.example.com", secretRef: {name: other/a}}}`, "spec.email.webhook.secretRef.name", "must be in the same namespace"},
	{"traces without a collector", `tracing: {samplingRatePerMillion: 1}`, "spec.tracing.endpoint", "Required value"},
	{"a collector with a user", `tracing: {endpoint: "http://me@collector:4318"}`, "spec.tracing.endpoint", "without a user, a query or a fragment"},
	{"a collector with a query", `tracing: {endpoint: "http://collector:4318?key=a"}`, "spec.tracing.endpoint", "without a user, a query or a fragment"},
	{"a collector without a scheme", `tracing: {endpoint: "collector:4317"}`, "spec.tracing.endpoint", "such as http://collector.monitoring.svc:4318"},
	{"more traces than requests", `tracing: {endpoint: "http://collector:4318", samplingRatePerMillion: 1000001}`, "spec.tracing.samplingRatePerMillion", "1000000"},
	{"a certificate authority without TLS to the collector", `tracing: {endpoint: "http://collector:4318", caSecretRef: {name: a}}`, "spec.tracing.caSecretRef", "remove caSecretRef"},
	{"an event webhook without a URL", `eventWebhook: {secretRef: {name: a}}`, "spec.eventWebhook.url", "Required value"},
	{"an event webhook without a signing secret", `eventWebhook: {url: "https://events.example.com"}`, "spec.eventWebhook.secretRef", "Required value"},
	{"an event webhook with a user", `eventWebhook: {url: "https://me@events.example.com/", secretRef: {name: a}}`, "spec.eventWebhook.url", "without a user or a fragment"},
	{"an event webhook without a scheme", `eventWebhook: {url: events.example.com/hook, secretRef: {name: a}}`, "spec.eventWebhook.url", "such as https://events.example.com/hook"},
	{"a certificate authority without TLS to the mail server", `email: {smtp: {host: mail, from: a@example.com, tls: None, caSecretRef: {name: b}}}`, "spec.email.smtp.tls", "write tls: StartTLS or tls: Implicit, or remove caSecretRef"},
	{"a sender with an empty address", `email: {smtp: {host: mail, from: "Shop <>"}}`, "spec.email.smtp.from", "or Example <no-reply@example.com>"},
	{"a sender name with a line break", `email: {smtp: {host: mail, from: "Shop\nBcc <a@example.com>"}}`, "spec.email.smtp.from", "such as no-reply@example.com"},
	{"a mail server without a host", `email: {smtp: {from: a@example.com}}`, "spec.email.smtp.host", "Required value"},
	{"a mail server with a port", `email: {smtp: {host: "mail:25", from: a@example.com}}`, "spec.email.smtp.host", "set email.smtp.port"},
	{"mail without a sender", `email: {smtp: {host: mail}}`, "spec.email.smtp.from", "Required value"},
	{"a sender without an address", `email: {smtp: {host: mail, from: Shop}}`, "spec.email.smtp.from", "such as no-reply@example.com"},
	{"a sender that injects a header", `email: {smtp: {host: mail, from: "a@example.com\nBcc:b"}}`, "spec.email.smtp.from", "such as no-reply@example.com"},
	{"two senders", `email: {smtp: {host: mail, from: "a@example.com,b"}}`, "spec.email.smtp.from", "such as no-reply@example.com"},
	{"an unknown TLS mode of the mail server", `email: {smtp: {host: mail, from: a@example.com, tls: TLS}}`, "spec.email.smtp.tls", `supported values: "StartTLS", "Implicit", "None"`},
	{"a link without the code", `email: {smtp: {host: mail, from: a@example.com}, links: {verification: "https://example.com/verify"}}`, "spec.email.links.verification", "that contains {code} once"},
	{"a link with the code twice", `email: {smtp: {host: mail, from: a@example.com}, links: {verification: "https://example.com/{code}#{code}"}}`, "spec.email.links.verification", "that contains {code} once"},
	{"a link with the code in the host", `email: {smtp: {host: mail, from: a@example.com}, links: {verification: "https://{code}.example.com/"}}`, "spec.email.links.verification", "such as https://example.com/verify#{code}"},
	{"a link without a host", `email: {smtp: {host: mail, from: a@example.com}, links: {passwordReset: "/reset#{code}"}}`, "spec.email.links.passwordReset", "write an absolute URL"},
	{"a link with a line break", `email: {smtp: {host: mail, from: a@example.com}, links: {emailChange: "https://example.com/\n{code}"}}`, "spec.email.links.emailChange", "write an absolute URL"},
	{"templates in another namespace", `email: {smtp: {host: mail, from: a@example.com}, templatesConfigMapRef: {name: other/templates}}`, "spec.email.templatesConfigMapRef.name", "must be in the same namespace"},

	{"an Ingress for an Internal gateway", behind + `ingress: {host: auth.example.com, tls: Elsewhere}`, "spec.ingress", "write exposure: Public, or remove ingress"},
	{"an HTTPRoute for an Internal gateway", behind + `httpRoute: {parentRefs: [{name: gateway}]}`, "spec.httpRoute", "write exposure: Public, or remove httpRoute"},
	{"an Ingress and an HTTPRoute", outside + `
ingress: {host: auth.example.com, tls: Elsewhere}
httpRoute: {parentRefs: [{name: gateway}]}`, "spec.httpRoute", "ingress and httpRoute exclude each other: remove one of them"},
	{"an Ingress without a host", outside + `
ingress: {tls: Elsewhere}`, "spec.ingress.host", "Required value"},
	{"an Ingress with a URL as host", outside + `
ingress: {host: "https://auth.example.com", tls: Elsewhere}`, "spec.ingress.host", "without a scheme, a port or a path"},
	{"an HTTPRoute without Gateways", outside + `
httpRoute: {parentRefs: []}`, "spec.httpRoute.parentRefs", "at least 1 items"},
	{"an HTTPRoute with an unnamed Gateway", outside + `
httpRoute: {parentRefs: [{namespace: gateways}]}`, "spec.httpRoute.parentRefs[0].name", "Required value"},

	{"an Ingress with an invalid host", outside + `
ingress: {host: "auth..example.com", tls: Elsewhere}`, "spec.ingress.host", "such as auth.example.com"},
	{"an Ingress with an invalid class", outside + `
ingress: {host: auth.example.com, className: "My Class", tls: Elsewhere}`, "spec.ingress.className", "write the name of an IngressClass"},
	{"an Ingress with an invalid annotation", outside + `
ingress: {host: auth.example.com, annotations: {"a b": c}, tls: Elsewhere}`, "spec.ingress.annotations", "an annotation name is invalid"},
	{"an HTTPRoute with a URL as hostname", outside + `
httpRoute: {parentRefs: [{name: gateway}], hostnames: [auth.example.com, "https://auth.example.com"]}`, "spec.httpRoute.hostnames[1]", "without a scheme, a port or a path"},
	{"an HTTPRoute with an invalid Gateway name", outside + `
httpRoute: {parentRefs: [{name: My_Gateway}]}`, "spec.httpRoute.parentRefs[0].name", "write the name of a Gateway"},
	{"an HTTPRoute with an invalid namespace", outside + `
httpRoute: {parentRefs: [{name: gateway, namespace: a/b}]}`, "spec.httpRoute.parentRefs[0].namespace", "write the name of a namespace"},
	{"an HTTPRoute through a listener that cannot be", outside + `
httpRoute: {parentRefs: [{name: gateway, sectionName: "a b"}]}`, "spec.httpRoute.parentRefs[0].sectionName", "write the name of a listener"},

	{"an Ingress, and all clients have its address", public + `
issuer: https://auth.example.com
networkPolicy: {enabled: false}
ingress: {host: auth.example.com, tlsSecretRef: {name: auth-tls}}`, "spec.trustedProxyHops", "write trustedProxyHops: 1"},
	{"an HTTPRoute, and all clients have its address", public + `
issuer: https://auth.example.com
trustedProxyHops: 0
networkPolicy: {enabled: false}
httpRoute: {parentRefs: [{name: gateway}]}`, "spec.trustedProxyHops", "write trustedProxyHops: 1"},
	{"an Ingress to what is known by an address in the cluster", public + `
trustedProxyHops: 1
networkPolicy: {enabled: false}
ingress: {host: auth.example.com, tlsSecretRef: {name: auth-tls}}`, "spec.issuer", "such as https://auth.example.com"},
	{"an HTTPRoute to what is known without TLS", public + `
issuer: http://auth.example.com
trustedProxyHops: 1
networkPolicy: {enabled: false}
httpRoute: {parentRefs: [{name: gateway}]}`, "spec.issuer", "such as https://auth.example.com"},
	{"an Ingress whose controller is kept out", public + `
issuer: https://auth.example.com
trustedProxyHops: 1
ingress: {host: auth.example.com, tlsSecretRef: {name: auth-tls}}`, "spec.networkPolicy", "name their pods in networkPolicy.from"},
	{"an HTTPRoute whose proxies are kept out", public + `
issuer: https://auth.example.com
trustedProxyHops: 1
networkPolicy: {enabled: true}
httpRoute: {parentRefs: [{name: gateway}]}`, "spec.networkPolicy", "or write networkPolicy: {enabled: false}"},
	{"an Ingress without TLS", outside + `
ingress: {host: auth.example.com}`, "spec.ingress.tlsSecretRef", "or write tls: Elsewhere"},
	{"an Ingress with TLS of another kind", outside + `
ingress: {host: auth.example.com, tls: Nowhere}`, "spec.ingress.tls", `supported values: "Ingress", "Elsewhere"`},

	{"claims of devices", `resources: {claims: [{name: gpu}]}`, "spec.resources.claims", "remove claims"},
	{"claims of administrators", `admin: {resources: {claims: [{name: gpu}]}}`, "spec.admin.resources.claims", "remove claims"},
	{"no replicas for administrators", `admin: {enabled: true, replicas: 0}`, "spec.admin.replicas", "greater than or equal to 1"},
	{"many replicas for administrators", `admin: {enabled: true, replicas: 11}`, "spec.admin.replicas", "less than or equal to 10"},
	{"claims of a sidecar", `podTemplate: {sidecars: [{name: a, image: a, resources: {claims: [{name: gpu}]}}]}`, "spec.podTemplate.sidecars[0].resources.claims", "remove claims"},
	{"a drain without end", `shutdown: {drainDelay: 3m, gracePeriod: 10m}`, "spec.shutdown.drainDelay", "write 0s to 2m"},
	{"no time after the drain", `shutdown: {drainDelay: 20s}`, "spec.shutdown.gracePeriod", "write at least drainDelay plus 15s"},
	{"too little time", `shutdown: {drainDelay: 0s, gracePeriod: 14s}`, "spec.shutdown.gracePeriod", "write"},
	{"a cluster of the gateway's own name", `database: {cloudNativePG: {cluster: auth}}`, "spec.database.cloudNativePG", "give the AuthGateway another name"},

	{"a label of the operator's", `podTemplate: {labels: {app.kubernetes.io/name: mine}}`, "spec.podTemplate.labels", "choose another prefix"},
	{"an annotation of the operator's", `podTemplate: {annotations: {authgateway.io/rotate: now}}`, "spec.podTemplate.annotations", "choose another prefix"},
	{"a label that cannot be", `podTemplate: {labels: {"a b": c}}`, "spec.podTemplate.labels", "a label is invalid"},
	{"a label with a long value", `podTemplate: {labels: {a: ` + strings.Repeat("b", 64) + `}}`, "spec.podTemplate.labels", "at most 63 characters"},
	{"an annotation that cannot be", `podTemplate: {annotations: {"a b": c}}`, "spec.podTemplate.annotations", "an annotation name is invalid"},
	{"nodes by a label that cannot be", `podTemplate: {nodeSelector: {"a b": c}}`, "spec.podTemplate.nodeSelector", "a label is invalid"},
	{"a priority that cannot be", `podTemplate: {priorityClassName: "Very High"}`, "spec.podTemplate.priorityClassName", "write the name of a PriorityClass"},
	{"a sidecar of no image", `podTemplate: {sidecars: [{name: proxy, image: "my proxy"}]}`, "spec.podTemplate.sidecars[0].image", "the image reference is invalid"},
	{"a sidecar with a variable that cannot be", `podTemplate: {sidecars: [{name: proxy, image: a, env: {"A=B": c}}]}`, "spec.podTemplate.sidecars[0].env", "the name of a variable is invalid"},
	{"a sidecar that would be the server", `podTemplate: {sidecars: [{name: authserver, image: a}]}`, "spec.podTemplate.sidecars[0].name", "authserver is reserved for the server"},
	{"a sidecar twice", `podTemplate: {sidecars: [{name: proxy, image: a}, {name: proxy, image: b}]}`, "spec.podTemplate.sidecars[1]", "Duplicate value"},
	{"a sidecar without an image", `podTemplate: {sidecars: [{name: proxy}]}`, "spec.podTemplate.sidecars[0].image", "Required value"},

	{"an annotation of the operator's at the Service", `service: {annotations: {authgateway.io/rotate: now}}`, "spec.service.annotations", "choose another prefix"},
	{"an annotation of the Service that cannot be", `service: {annotations: {"a b": c}}`, "spec.service.annotations", "an annotation name is invalid"},
	{"addresses that there are not", `service: {ipFamilyPolicy: IPv6}`, "spec.service.ipFamilyPolicy", `supported values: "SingleStack", "PreferDualStack", "RequireDualStack"`},
	{"traffic that goes far", `service: {trafficDistribution: PreferFar}`, "spec.service.trafficDistribution", `supported values: "PreferClose", "PreferSameZone", "PreferSameNode"`},
	{"an invalid annotation of the ServiceAccount", `serviceAccount: {annotations: {"a b": c}}`, "spec.serviceAccount.annotations", "an annotation name is invalid"},

	{"an empty peer", `networkPolicy: {from: [{}]}`, "spec.networkPolicy.from[0]", "or write only ipBlock"},
	{"a peer with two kinds", `networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}`, "spec.networkPolicy.from[0]", "or write only ipBlock"},

	{"a scrape interval that is too long", `monitoring: {serviceMonitor: {interval: 24h}}`, "spec.monitoring.serviceMonitor.interval", "write 1s to 1h"},
	{"an unknown deletion policy", `deletionPolicy: Orphan`, "spec.deletionPolicy", `supported values: "Delete", "Retain"`},
}

const (
	kid    = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" // from RFC 7638, section 3.1
	public = `
exposure: Public
email: {smtp: {host: mail.example.com, from: no-reply@example.com}}`

	// The other fields that a gateway needs if it is reachable from outside the cluster.
	behind = `
issuer: https://auth.example.com
trustedProxyHops: 1
networkPolicy: {from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}]}
`
	outside = public + behind
)

func TestAnInvalidSpecIsRejectedAtItsFieldWithAMessageThatSaysWhatToWrite(t *testing.T) {
	t.Parallel()
	c, namespace := connect(t), kubernetestest.Namespace(t)
	for _, w := range invalid {
		t.Run(w.what, func(t *testing.T) {
			t.Parallel()
			refused(t, c.Create(t.Context(), gateway(t, namespace, w.spec), client.DryRunAll), w.field, w.says)
		})
	}
}

// refused fails unless an error concerns only the given field and contains the message.
func refused(t *testing.T, err error, field, says string) {
	t.Helper()
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) || status.Status().Reason != metav1.StatusReasonInvalid {
		t.Fatalf("the API server does not reject it as invalid: %v", err)
	}
	found := false
	for _, cause := range status.Status().Details.Causes {
		switch {
		// The scale subresource reports the field with a leading dot.
		case strings.TrimPrefix(cause.Field, ".") == field:
			found = found || strings.Contains(cause.Message, says)
		case strings.Contains(cause.Message, "some validation rules were not checked"):
		default:
			t.Errorf("unexpected error: %s: %s", cause.Field, cause.Message)
		}
	}
	if !found {
		t.Errorf("no error at %s with %q: %v", field, says, err)
	}
}

func TestAnInvalidNameIsRejected(t *testing.T) {
	t.Parallel()
	c, namespace := connect(t), kubernetestest.Namespace(t)
	// The rule about the name belongs to the whole object, which has no path.
	for _, name := range []string{strings.Repeat("a", 41), "1st", "shop.auth"} {
		u := gateway(t, namespace, "")
		u.SetName(name)
		refused(t, c.Create(t.Context(), u, client.DryRunAll), "<nil>", "the name is used for a Service and in other names: "+
			"write at most 40 lower-case letters, digits and dashes, beginning with a letter")
	}
	u := gateway(t, namespace, "")
	u.SetName(strings.Repeat("a", 40))
	if err := c.Create(t.Context(), u); err != nil {
		t.Error(err)
	}
}

// By default the API server would drop a misspelt field.
func TestAnUnknownFieldIsRejected(t *testing.T) {
	t.Parallel()
	c, namespace := connect(t), kubernetestest.Namespace(t)
	for spec, field := range map[string]string{
		`replica: 3`:                           "spec.replica",
		`tokens: {accessExpiration: 15m}`:      "spec.tokens.accessExpiration",
		`podTemplate: {securityContext: {}}`:   "spec.podTemplate.securityContext",
		`podTemplate: {volumes: []}`:           "spec.podTemplate.volumes",
		`podTemplate: {hostNetwork: true}`:     "spec.podTemplate.hostNetwork",
		`podTemplate: {serviceAccountName: a}`: "spec.podTemplate.serviceAccountName",
		`podTemplate: {containers: []}`:        "spec.podTemplate.containers",
		`podTemplate: {sidecars: [{name: a, image: b, securityContext: {privileged: true}}]}`: "spec.podTemplate.sidecars[0].securityContext",
		`podTemplate: {sidecars: [{name: a, image: b, volumeMounts: []}]}`:                    "spec.podTemplate.sidecars[0].volumeMounts",
	} {
		err := c.Create(t.Context(), gateway(t, namespace, spec), client.DryRunAll)
		if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "`+field+`"`) {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

const everything = `
image: registry.example.com:5000/auth/authserver:1.2.3@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
replicas: 3
imagePullSecrets: [{name: registry}]
resources:
  requests: {cpu: 250m, memory: 96Mi}
  limits: {cpu: "2", memory: 512Mi}
podTemplate:
  labels: {example.com/team: shop}
  annotations: {example.com/note: "any text"}
  nodeSelector: {kubernetes.io/arch: amd64}
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector: {matchLabels: {app.kubernetes.io/instance: auth}}
  tolerations: [{key: dedicated, operator: Equal, value: auth, effect: NoSchedule}]
  topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway}
  priorityClassName: system-cluster-critical
  sidecars:
  - name: proxy
    image: registry.example.com/proxy:2
    command: [/proxy]
    args: [--port=5432]
    env: {INSTANCE: shop}
    resources: {limits: {memory: 64Mi}}
    native: true
shutdown: {drainDelay: 30s, gracePeriod: 2m}
issuer: https://auth.example.com/tenant
audiences: [shop, "https://till.example.com"]
exposure: Public
cors: {allowedOrigins: ["https://app.example.com", "http://localhost:3000", "http://[::1]:8080"]}
trustedProxyHops: 2
trustedProxyField: XForwardedFor
authz:
  port: 9000
  policies:
  - {name: orders, scopes: ["orders:read", "!#[]~"], anyScope: [a, b], audience: shop, maxAge: 8760h, anonymous: true, failClosed: true}
  - {name: shop-2}
limits: {signIn: 20/1m, signUp: 5/1h30m, codes: Unlimited, mails: 100000/24h, writes: 60/1m}
database:
  host: "fd00::5,pg-1.example.com,192.0.2.7,pg-2:5433,192.0.2.8:5433,[fd00::6]:5433,[fd00::7]"
  port: 6432
  name: Auth & more
  sslMode: verify-full
  credentialsSecretRef: {name: auth-db}
  caSecretRef: {name: auth-db-ca}
  maxConnections: 25
  minIdleConnections: 5
tokens: {accessTokenTTL: 10m, refreshTokenTTL: 720h, clientID: "shop:web", accessTokenTyp: JWT, rotation: Always, reuseGrace: 0s, claims: [plan, "https://shop.example.com/seats", "!#+-[]~"]}
signUp: {required: []}
passwords: {saltRounds: 13, minLength: 10, blocklist: false, migration: {url: "https://example.com/password?a=b", secretRef: {name: former}}}
audit: {retention: 720h}
keys:
  algorithm: EdDSA
  passphraseSecretRef: {name: auth-own-passphrases}
  rotationInterval: 1440h
  publishLead: 5m30s
  revoked: [` + kid + `]
email:
  smtp: {host: mail.example.com, port: 465, tls: Implicit, from: "Example Inc. <no-reply@example.com>", credentialsSecretRef: {name: mail}, caSecretRef: {name: mail-ca}}
  maxConnections: 64
  giveUpAfter: 720h
  serviceName: Example & Söhne
  templatesConfigMapRef: {name: mail-templates}
  links:
    verification: "https://example.com/verify#{code}"
    passwordReset: "https://example.com/reset#{code}"
    emailChange: "https://example.com/change?code={code}"
    invitation: "https://example.com/reset#{code}"
ingress: {host: auth.example.com, className: nginx, tlsSecretRef: {name: auth-tls}, annotations: {example.com/a: b}}
networkPolicy:
  enabled: true
  from:
  - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}
  - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
service: {annotations: {example.com/mesh: "on"}, ipFamilyPolicy: PreferDualStack, trafficDistribution: PreferSameZone}
serviceAccount: {annotations: {example.com/role: "arn:of:something"}}
monitoring: {serviceMonitor: {interval: 15s, labels: {release: prometheus}}}
admin: {enabled: true, replicas: 10, resources: {requests: {cpu: 10m}, limits: {memory: 128Mi}}}
suspend: true
deletionPolicy: Retain
`

// valid lists specs that the API server accepts.
var valid = map[string]string{
	"the smallest":                            ``,
	"everything":                              everything,
	"CloudNativePG":                           `database: {cloudNativePG: {cluster: pg}}`,
	"CloudNativePG and its CA":                `database: {cloudNativePG: {cluster: pg}, sslMode: verify-ca, caSecretRef: {name: pg-ca}, maxConnections: 5}`,
	"Public":                                  public,
	"Public behind an Ingress":                outside + "\ningress: {host: auth.example.com, tlsSecretRef: {name: auth-tls}}",
	"Public behind an HTTPRoute":              outside + "\nhttpRoute: {parentRefs: [{name: gateway, namespace: gateways, sectionName: https}], hostnames: [auth.example.com]}",
	"email without Public":                    `email: {smtp: {host: 192.0.2.25, port: 25, tls: None, from: auth@shop}}`,
	"autoscaling":                             `autoscaling: {minReplicas: 3, maxReplicas: 10, targetCPUUtilizationPercentage: 60}`,
	"autoscaling by default":                  `autoscaling: {maxReplicas: 4}`,
	"no replicas":                             `replicas: 0`,
	"an IPv4 address":                         `database: {host: 192.0.2.1, name: auth, credentialsSecretRef: {name: auth-db}}`,
	"a host with a dot":                       `database: {host: postgres.shop.svc.cluster.local., name: auth, credentialsSecretRef: {name: auth-db}}`,
	"origins with ports":                      `cors: {allowedOrigins: ["http://app.example.com:443", "https://app.example.com:80", "http://[::80]", "https://app_1.shop.svc:65535"]}`,
	"an issuer with a port":                   `issuer: http://auth.shop.svc:8080`,
	"the shortest rotation":                   `{tokens: {accessTokenTTL: 10s, refreshTokenTTL: 1m}, keys: {rotationInterval: 1m, publishLead: 25s}}`,
	"the longest TTLs":                        `{tokens: {accessTokenTTL: 24h, refreshTokenTTL: 8760h}, keys: {rotationInterval: 87600h, publishLead: 168h}}`,
	"TLS at a load balancer":                  outside + "\ningress: {host: auth.example.com, tls: Elsewhere}",
	"a long drain":                            `shutdown: {drainDelay: 2m, gracePeriod: 10m}`,
	"no drain":                                `shutdown: {drainDelay: 0s, gracePeriod: 15s}`,
	"no retention":                            `audit: {retention: 0s}`,
	"the longest retention":                   `audit: {retention: 87600h}`,
	"the longest TTL for a rotation interval": `{tokens: {refreshTokenTTL: 8760h}, keys: {rotationInterval: 2190h}}`,
	"a wildcard, and an issuer at an address": public + `
issuer: "https://[fd00::5]:8443/tenant"
trustedProxyHops: 1
networkPolicy: {enabled: false}
httpRoute: {parentRefs: [{name: gateway}], hostnames: ["*.example.com"]}`,
	"mail by a webhook": `
exposure: Public
email: {webhook: {url: "http://mailer.shop.svc:8080/hook?tenant=auth", secretRef: {name: mailer}}, giveUpAfter: 1m, maxConnections: 1}`,
	"events to a webhook":         `eventWebhook: {url: "http://crm.shop.svc:8080/hook?from=auth", secretRef: {name: crm}}`,
	"traces to a collector":       `tracing: {endpoint: "http://collector.monitoring.svc:4318", samplingRatePerMillion: 0}`,
	"mail with exposure Internal": `email: {smtp: {host: 192.0.2.1, tls: None, from: a@example.com}}`,
	"mixed durations":             `tokens: {accessTokenTTL: 1h2m3s, refreshTokenTTL: 168h30m}`,
	"no NetworkPolicy":            `networkPolicy: {enabled: false}`,
	"empty policies":              `authz: {policies: []}`,
	"empty parts":                 `{tokens: {}, passwords: {}, audit: {}, keys: {}, limits: {}, networkPolicy: {}, monitoring: {}, podTemplate: {}, resources: {}}`,
	"null parts":                  `{replicas: null, tokens: null, keys: {rotationInterval: null}}`,
}

func TestAValidSpecIsAccepted(t *testing.T) {
	t.Parallel()
	c := connect(t)
	for what, spec := range valid {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			if err := c.Create(t.Context(), gateway(t, kubernetestest.Namespace(t), spec)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEverySampleIsAccepted(t *testing.T) {
	t.Parallel()
	samples := testenv.Must(filepath.Glob(filepath.Join("..", "..", "config", "samples", "*.yaml")))(t)
	gateways := 0
	for _, sample := range samples {
		text := testenv.Must(os.ReadFile(sample))(t)
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			var head metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(document), &head); err != nil {
				t.Errorf("%s: %v", sample, err)
			}
			if head.Kind != "AuthGateway" { // a kustomization or a Secret
				continue
			}
			gateways++
			u := object(t, document)
			u.SetNamespace(kubernetestest.Namespace(t))
			if err := connect(t).Create(t.Context(), u); err != nil {
				t.Errorf("%s: %v", sample, err)
			}
		}
	}
	if gateways == 0 {
		t.Error("there is no AuthGateway in config/samples")
	}
}

func TestTheRulesApplyToUpdates(t *testing.T) {
	t.Parallel()
	c, namespace := connect(t), kubernetestest.Namespace(t)
	testenv.NoError(t, c.Create(t.Context(), gateway(t, namespace, everything)))
	for _, w := range []struct{ what, patch, field, says string }{
		{"a value out of range", `{"spec":{"tokens":{"accessTokenTTL":"25h"}}}`, "spec.tokens.accessTokenTTL", "write 10s to 24h"},
		{"a rotation interval that conflicts with other values", `{"spec":{"keys":{"rotationInterval":"20m"},"tokens":{"refreshTokenTTL":"1h"}}}`, "spec.keys.rotationInterval", "tokens.accessTokenTTL plus twice keys.publishLead"},
		{"a TTL that conflicts with the rotation interval", `{"spec":{"tokens":{"refreshTokenTTL":"6000h"}}}`, "spec.keys.rotationInterval", "a quarter of tokens.refreshTokenTTL"},
		{"exposure Internal", `{"spec":{"exposure":"Internal"}}`, "spec.ingress", "write exposure: Public"},
		{"email removed", `{"spec":{"email":null}}`, "spec.exposure", "sends codes only by mail"},
		{"the database removed", `{"spec":{"database":null}}`, "spec.database", "Required value"},
		{"autoscaling in addition to replicas", `{"spec":{"autoscaling":{"maxReplicas":9}}}`, "spec.replicas", "autoscaling sets"},
	} {
		t.Run(w.what, func(t *testing.T) {
			err := c.Patch(t.Context(), gateway(t, namespace, ""), client.RawPatch(types.MergePatchType, []byte(w.patch)))
			refused(t, err, w.field, w.says)
		})
	}
	patch := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":null,"autoscaling":{"maxReplicas":9}}}`))
	if err := c.Patch(t.Context(), gateway(t, namespace, ""), patch); err != nil {
		t.Errorf("from replicas to autoscaling: %v", err)
	}
}

func TestFieldsThatAreNotSetGetTheirDocumentedDefaults(t *testing.T) {
	t.Parallel()
	c, namespace := connect(t), kubernetestest.Namespace(t)
	const spec = `{autoscaling: {maxReplicas: 5}, email: {smtp: {host: mail, from: a@example.com}}, monitoring: {serviceMonitor: {}}}`
	testenv.NoError(t, c.Create(t.Context(), gateway(t, namespace, spec)))
	var u unstructured.Unstructured
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("AuthGateway"))
	testenv.NoError(t, c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "auth"}, &u))
	want := object(t, `
kind: AuthGateway
spec:
  replicas: 2
  autoscaling: {minReplicas: 2, maxReplicas: 5, targetCPUUtilizationPercentage: 80}
  exposure: Internal
  trustedProxyField: Any
  limits: {}
  authz: {}
  database: {host: postgres.shop.svc, port: 5432, name: auth, sslMode: prefer, credentialsSecretRef: {name: auth-db}, maxConnections: 10}
  tokens: {accessTokenTTL: 15m, refreshTokenTTL: 168h, accessTokenTyp: at+jwt, reuseGrace: 60s}
  signUp: {}
  passwords: {saltRounds: 12, minLength: 8, blocklist: true}
  audit: {retention: 2160h}
  keys: {algorithm: ES256, rotationInterval: 720h, publishLead: 15m}
  email: {smtp: {host: mail, port: 587, tls: StartTLS, from: a@example.com}, maxConnections: 4, giveUpAfter: 24h}
  publicKeys: {}
  networkPolicy: {enabled: true}
  monitoring: {serviceMonitor: {interval: 30s}}
  admin: {replicas: 1}
  service: {}
  serviceAccount: {}
  shutdown: {drainDelay: 5s, gracePeriod: 30s}
  deletionPolicy: Retain
`)
	if diff := cmp.Diff(want.Object["spec"], u.Object["spec"]); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}
