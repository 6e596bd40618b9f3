package config

import (
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"time"
)

// FileSuffix is appended to the name of a secret to name a file that contains it, such as ACCESS_PASSPHRASE_FILE.
const FileSuffix = "_FILE"

// The names of the settings.
const (
	EnvPort                    = "PORT"
	EnvHost                    = "HOST"
	EnvRefreshPassphrase       = "REFRESH_PASSPHRASE"
	EnvAccessPassphrase        = "ACCESS_PASSPHRASE"
	EnvRefreshTokenExpiry      = "REFRESH_TOKEN_EXPIRY"
	EnvAccessTokenExpiry       = "ACCESS_TOKEN_EXPIRY"
	EnvSaltRounds              = "SALT_ROUNDS"
	EnvDBHost                  = "DB_HOST"
	EnvDBUser                  = "DB_USER"
	EnvDBPassword              = "DB_PASSWORD"
	EnvDBName                  = "DB_NAME"
	EnvDBPort                  = "DB_PORT"
	EnvIssuer                  = "ISSUER"
	EnvAudience                = "AUDIENCE"
	EnvClientID                = "CLIENT_ID"
	EnvExposure                = "EXPOSURE"
	EnvTrustedCallerKey        = "TRUSTED_CALLER_KEY"
	EnvAuthzPolicies           = "AUTHZ_POLICIES"
	EnvAuthzPort               = "AUTHZ_PORT"
	EnvTokenClaims             = "TOKEN_CLAIMS"
	EnvSignupScopes            = "SIGNUP_SCOPES"
	EnvSignupRequired          = "SIGNUP_REQUIRED"
	EnvCORSAllowedOrigins      = "CORS_ALLOWED_ORIGINS"
	EnvCORSAllowedHeaders      = "CORS_ALLOWED_HEADERS"
	EnvStrictParameters        = "STRICT_PARAMETERS"
	EnvIdleTimeout             = "IDLE_TIMEOUT"
	EnvConnectionMemory        = "CONNECTION_MEMORY"
	EnvTrustedProxyHops        = "TRUSTED_PROXY_HOPS"
	EnvTrustedProxyField       = "TRUSTED_PROXY_FIELD"
	EnvLimitSignIn             = "LIMIT_SIGNIN"
	EnvLimitSignUp             = "LIMIT_SIGNUP"
	EnvLimitCodes              = "LIMIT_CODES"
	EnvLimitWrites             = "LIMIT_WRITES"
	EnvLimitMails              = "LIMIT_MAILS"
	EnvServiceName             = "SERVICE_NAME"
	EnvMailFrom                = "MAIL_FROM"
	EnvMailLinkVerification    = "MAIL_LINK_VERIFICATION"
	EnvMailLinkPasswordReset   = "MAIL_LINK_PASSWORD_RESET"
	EnvMailLinkEmailChange     = "MAIL_LINK_EMAIL_CHANGE"
	EnvMailLinkInvitation      = "MAIL_LINK_INVITATION"
	EnvMailTemplatesDir        = "MAIL_TEMPLATES_DIR"
	EnvMailGiveUpAfter         = "MAIL_GIVE_UP_AFTER"
	EnvSMTPHost                = "SMTP_HOST"
	EnvSMTPPort                = "SMTP_PORT"
	EnvSMTPTLS                 = "SMTP_TLS"
	EnvSMTPCAFile              = "SMTP_CA_FILE"
	EnvSMTPUsername            = "SMTP_USERNAME"
	EnvSMTPPassword            = "SMTP_PASSWORD"
	EnvSMTPConnections         = "SMTP_CONNECTIONS"
	EnvMailWebhookURL          = "MAIL_WEBHOOK_URL"
	EnvMailWebhookSecret       = "MAIL_WEBHOOK_SECRET"
	EnvEventWebhookURL         = "EVENT_WEBHOOK_URL"
	EnvEventWebhookSecret      = "EVENT_WEBHOOK_SECRET"
	EnvSigningAlgorithm        = "SIGNING_ALGORITHM"
	EnvKeysDir                 = "KEYS_DIR"
	EnvKeysPublished           = "KEYS_PUBLISHED"
	EnvKeyRotationInterval     = "KEY_ROTATION_INTERVAL"
	EnvKeyPublishLead          = "KEY_PUBLISH_LEAD"
	EnvFormerRefreshPassphrase = "FORMER_REFRESH_PASSPHRASE"
	EnvFormerAccessPassphrase  = "FORMER_ACCESS_PASSPHRASE"
	EnvAccessTokenTyp          = "ACCESS_TOKEN_TYP"
	EnvRefreshTokenRotation    = "REFRESH_TOKEN_ROTATION"
	EnvRefreshReuseGrace       = "REFRESH_REUSE_GRACE"
	EnvSessionLifetime         = "SESSION_LIFETIME"
	EnvSessionsPerUser         = "SESSIONS_PER_USER"
	EnvPasswordMinLength       = "PASSWORD_MIN_LENGTH"
	EnvPasswordBlocklist       = "PASSWORD_BLOCKLIST"
	EnvPasswordMigrationURL    = "PASSWORD_MIGRATION_URL"
	EnvPasswordMigrationSecret = "PASSWORD_MIGRATION_SECRET"
	EnvHashingThreads          = "HASHING_THREADS"
	EnvHashingMaxWait          = "HASHING_MAX_WAIT"
	EnvVerificationCodeExpiry  = "VERIFICATION_CODE_EXPIRY"
	EnvRecoveryCodeExpiry      = "RECOVERY_CODE_EXPIRY"
	EnvUnverifiedAccountExpiry = "UNVERIFIED_ACCOUNT_EXPIRY"
	EnvInvitationCodeExpiry    = "INVITATION_CODE_EXPIRY"
	EnvAuditRetention          = "AUDIT_RETENTION"
	EnvDBSSLMode               = "DB_SSLMODE"
	EnvDBSSLRootCert           = "DB_SSLROOTCERT"
	EnvDBTargetSessionAttrs    = "DB_TARGET_SESSION_ATTRS"
	EnvDBMaxConns              = "DB_MAX_CONNS"
	EnvDBMinIdleConns          = "DB_MIN_IDLE_CONNS"
	EnvDBAcquireTimeout        = "DB_ACQUIRE_TIMEOUT"
	EnvDBStatementTimeout      = "DB_STATEMENT_TIMEOUT"
	EnvMetricsPort             = "METRICS_PORT"
	EnvAdminPort               = "ADMIN_PORT"
	EnvAdminKeys               = "ADMIN_KEYS"
	EnvAdminKubernetes         = "ADMIN_KUBERNETES"
	EnvDrainDelay              = "DRAIN_DELAY"
	EnvShutdownTimeout         = "SHUTDOWN_TIMEOUT"
	EnvLogLevel                = "LOG_LEVEL"
	EnvLogFormat               = "LOG_FORMAT"
	EnvTerminationLog          = "TERMINATION_LOG"
)

// MinPassphrase is the minimum length of a passphrase and of the trusted caller's key, in
// bytes (decision 5 of docs/security.md).
const MinPassphrase = 16

const (
	maxServiceName = 255 // long enough for a host name

	day  = 24 * time.Hour
	year = 365 * day
)

// A Setting documents one environment variable.
type Setting struct {
	Name     string
	Default  string // as text; empty if there is none
	Help     string
	Secret   bool   // can also be read from NAME_FILE, and is never printed
	Required bool   // has no default
	Advice   string // what to write, if a required setting is not set
	// ServeOnly reports whether "authserver admin" does not read the setting: it has no keys, and sends no mail.
	ServeOnly bool
	// DefaultText describes a default that depends on other settings.
	DefaultText string
}

// A setting adds the field of Config that a Setting sets.
type setting struct {
	Setting
	field
	// derive returns a default that depends on settings further up in the table.
	derive func(*Config) string
}

// Settings returns all settings. The twelve that every deployment sets come first.
func Settings() []Setting {
	list := make([]Setting, len(table))
	for i, s := range table {
		list[i] = s.Setting
	}
	return list
}

// table has a row for each setting. A row comes after the rows that its derived default depends on.
var table = append([]setting{
	{Setting: Setting{Name: EnvPort, Default: "8080",
		Help: "The port of the API."},
		field: bind(func(c *Config) *int { return &c.Port }, integer(1, 65535))},
	{Setting: Setting{Name: EnvHost, Default: "localhost",
		Help: "The host name or IP address to listen on, for the API, `METRICS_PORT`, `AUTHZ_PORT` and " +
			"`ADMIN_PORT`. Empty, `0.0.0.0` or `::` listens on all interfaces."},
		field: bind(func(c *Config) *string { return &c.Host }, listenHost)},
	{Setting: Setting{Name: EnvRefreshPassphrase, ServeOnly: true, Secret: true, Required: true,
		Advice: "write 16 bytes or more, such as the output of `openssl rand -base64 24`",
		Help:   "The passphrase that encrypts the private keys of refresh tokens."},
		field: bind(func(c *Config) *Secret { return &c.RefreshPassphrase }, secret(0))},
	{Setting: Setting{Name: EnvAccessPassphrase, ServeOnly: true, Secret: true, Required: true,
		Advice: "write 16 bytes or more, such as the output of `openssl rand -base64 24`",
		Help: "The passphrase that encrypts the private keys of access tokens. Use a different one from " +
			"`REFRESH_PASSPHRASE`."},
		field: bind(func(c *Config) *Secret { return &c.AccessPassphrase }, secret(0))},
	{Setting: Setting{Name: EnvRefreshTokenExpiry, Default: "604800",
		Help: "The lifetime of a refresh token, in seconds."},
		field: bind(func(c *Config) *time.Duration { return &c.RefreshTokenExpiry }, seconds(time.Second, year))},
	{Setting: Setting{Name: EnvAccessTokenExpiry, Default: "900",
		Help: "The lifetime of an access token, in seconds."},
		field: bind(func(c *Config) *time.Duration { return &c.AccessTokenExpiry }, seconds(time.Second, year))},
	{Setting: Setting{Name: EnvSaltRounds, Default: "12",
		Help: "The bcrypt cost, 4 to 15. Each step doubles the work of a sign-in, and of guessing a password. Use " +
			"10 or more."},
		field: bind(func(c *Config) *int { return &c.SaltRounds }, integer(4, 15))},
	{Setting: Setting{Name: EnvDBHost, Required: true, Advice: "write the host name of PostgreSQL",
		Help: "The host name or IP address of PostgreSQL, or the directory of its Unix socket. Separate several " +
			"hosts by commas, each with or without a port (`db-0,db-1:5433`): the server uses the one that accepts " +
			"writes, and finds the next one after a failover. A connection pooler such as PgBouncer works too."},
		field: bind(func(c *Config) *string { return &c.DBHost }, databaseHost)},
	{Setting: Setting{Name: EnvDBUser, Required: true, Advice: "write the name of the database user",
		Help: "The database user. It must own the gateway's tables."},
		field: bind(func(c *Config) *string { return &c.DBUser }, text)},
	{Setting: Setting{Name: EnvDBPassword, Secret: true,
		Help: "The password of `DB_USER`. Leave it unset if PostgreSQL requires none."},
		field: bind(func(c *Config) *Secret { return &c.DBPassword }, secret(0))},
	{Setting: Setting{Name: EnvDBName, Required: true, Advice: "write the name of the database",
		Help: "The database. The server creates and migrates its tables there."},
		field: bind(func(c *Config) *string { return &c.DBName }, text)},
	{Setting: Setting{Name: EnvDBPort, Default: "5432",
		Help: "The port of PostgreSQL: one for all hosts, or one for each host, separated by commas. A port in `DB_HOST` " +
			"has precedence over one for all."},
		field: bind(func(c *Config) *Ports { return &c.DBPort }, ports)},

	{Setting: Setting{Name: EnvIssuer, DefaultText: "`http://HOST:PORT`, with `localhost` if `HOST` means all interfaces",
		Help: "The `iss` of every token: the absolute URL at which consumers reach this gateway."},
		field:  bind(func(c *Config) *string { return &c.Issuer }, issuerURL),
		derive: func(c *Config) string { return defaultIssuer(c.Host, c.Port) }},
	{Setting: Setting{Name: EnvAudience, DefaultText: "the issuer",
		Help: "The `aud` of access tokens. Separate several by commas."},
		field:  bind(func(c *Config) *[]string { return &c.Audience }, audiences),
		derive: func(c *Config) string { return c.Issuer }},
	{Setting: Setting{Name: EnvClientID, Default: "auth-gateway",
		Help: "The `client_id` of access tokens (RFC 9068). All users sign in through this gateway, so it is the " +
			"only client. Choose different names if several gateways issue tokens for one service."},
		field: bind(func(c *Config) *string { return &c.ClientID }, clientID)},
	{Setting: Setting{Name: EnvExposure, Default: string(Internal),
		Help: "The callers of the API. `internal`: your own backends, which receive one-time codes in replies and " +
			"mail them. `public`: browsers and apps. Codes are then sent only by mail, so `public` requires " +
			"`SMTP_HOST` or `MAIL_WEBHOOK_URL`."},
		field: bind(func(c *Config) *Exposure { return &c.Exposure }, oneOf(Internal, Public))},
	{Setting: Setting{Name: EnvTrustedCallerKey, ServeOnly: true, Secret: true,
		Help: "A key of 16 bytes or more. If it is set, only a caller that sends it as `X-Caller-Key` receives " +
			"codes, chooses scopes and introspects tokens."},
		field: bind(func(c *Config) *Secret { return &c.TrustedCallerKey }, secret(MinPassphrase))},
	{Setting: Setting{Name: EnvAuthzPolicies, ServeOnly: true, DefaultText: "unset: no decisions for proxies",
		Help: "The decisions that proxies can ask for at `/authz/NAME`: a JSON array of policies, such as " +
			"`[{\"name\": \"orders\", \"scopes\": [\"orders:read\"]}]`. A policy has a `name`, and may have `scopes` (all " +
			"are needed), `anyScope` (one is needed), `audience`, `maxAge` (of the sign-in, such as `10m`), `anonymous` " +
			"(a request without a token is allowed) and `failClosed` (refuse while it is not known which sessions have " +
			"ended)."},
		field: bind(func(c *Config) *[]AuthzPolicy { return &c.AuthzPolicies }, authzPolicies)},
	{Setting: Setting{Name: EnvAuthzPort, ServeOnly: true, Default: "0",
		Help: "The port of `/authz/NAME`, which the port of the API then no longer serves. It serves nothing else. 0 " +
			"serves the decisions on the port of the API."},
		field: bind(func(c *Config) *int { return &c.AuthzPort }, integer(0, 65535))},
	{Setting: Setting{Name: EnvTokenClaims, DefaultText: "unset: none",
		Help: "The members of the metadata of an account that its access tokens contain as claims, separated by commas, " +
			"such as `plan,https://shop.example.com/seats`. Administrators set the metadata. The names of claims that " +
			"the gateway sets, and those that are registered, such as `sub` and `groups`, are refused."},
		field: bind(func(c *Config) *[]string { return &c.TokenClaims }, tokenClaims)},
	{Setting: Setting{Name: EnvSignupScopes, Default: "profile email",
		Help: "The scopes of a new user when no trusted caller chooses them, separated by spaces."},
		field: bind(func(c *Config) *[]string { return &c.SignupScopes }, scopes)},
	{Setting: Setting{Name: EnvSignupRequired, Default: "username,first_name,last_name",
		Help: "Which of `username`, `first_name` and `last_name` sign-up requires besides email and password, " +
			"separated by commas. `none` requires only email and password. A user can remove an optional name " +
			"later with `PUT /users`. A user without a username signs in by email, and their tokens have no " +
			"`username`."},
		field: bind(func(c *Config) *[]string { return &c.SignupRequired }, signUpNames)},
	{Setting: Setting{Name: EnvCORSAllowedOrigins, DefaultText: "unset: none",
		Help: "The origins of browser applications that may call the API and read its replies, separated by " +
			"commas. Write each exactly as browsers send it: `https://app.example.com`, with the port unless it is " +
			"the scheme's default. Schemes of packaged apps are accepted, such as `capacitor://localhost`. `*` and " +
			"`null` are refused."},
		field: bind(func(c *Config) *[]string { return &c.CORSAllowedOrigins }, origins)},
	{Setting: Setting{Name: EnvCORSAllowedHeaders, DefaultText: "unset: no more",
		Help: "Header fields that pages of these origins may send in addition to those that the API reads and " +
			"those that tracing libraries add (such as `traceparent`, `baggage` and `sentry-trace`), separated by " +
			"commas."},
		field: bind(func(c *Config) *[]string { return &c.CORSAllowedHeaders }, fieldNames)},
	{Setting: Setting{Name: EnvStrictParameters, Default: "off",
		Help: "`on` refuses a request with a parameter that the route does not know, in a JSON body or in the " +
			"query string: the reply is 400 with the reason `parameter_unknown` (`invalid_fields` if there are " +
			"other errors), and `fields` names the parameter. Use it to find misspelt names; `make run` sets it. " +
			"`off` ignores such parameters, so that newer clients keep working. Unknown form fields are always " +
			"ignored, as RFC 6749 section 3.2 requires."},
		field: bind(func(c *Config) *bool { return &c.StrictParameters }, onOff)},
	{Setting: Setting{Name: EnvIdleTimeout, Default: "620s",
		Help: "How long a connection may be idle between two requests. It must exceed the keep-alive timeout of " +
			"your proxy or load balancer. Otherwise the proxy sometimes sends a request on a connection that the " +
			"server has just closed, and answers 502. The default exceeds those of nginx, HAProxy, Caddy, Traefik " +
			"and the load balancers of AWS, Azure and Google Cloud."},
		field: bind(func(c *Config) *time.Duration { return &c.IdleTimeout }, duration(time.Second, day))},
	{Setting: Setting{Name: EnvConnectionMemory, DefaultText: "a quarter of the memory available to the process, at most `1GiB`",
		Help: "The memory that all client connections may use: a number with `KiB`, `MiB` or `GiB`. When they need " +
			"more, the server closes the connections that have waited longest for their client. The memory " +
			"available to the process is the smallest of the limit of its control group (container), `GOMEMLIMIT` " +
			"and the memory of the machine."},
		field: bind(func(c *Config) *int64 { return &c.ConnectionMemory }, size(8<<20, 1<<40))},
	{Setting: Setting{Name: EnvTrustedProxyHops, Default: "0",
		Help: "The number of your proxies that every request passes, 0 to 10. With 0, the client's address is the " +
			"address of the connection; with N, it is the Nth entry from the right of `Forwarded` (RFC 7239) or " +
			"`X-Forwarded-For`. If that entry is missing or is not an address, or if both fields are present and " +
			"differ, the address of the connection is used. Only these proxies may be able to reach the port. Rate " +
			"limits and the audit trail use this address."},
		field: bind(func(c *Config) *int { return &c.TrustedProxyHops }, integer(0, 10))},
	{Setting: Setting{Name: EnvTrustedProxyField, Default: string(AnyField),
		Help: "The field that your proxies write: `Forwarded` or `X-Forwarded-For`. The other one is ignored. " +
			"`any` accepts either; your proxies must then remove the field that they do not write."},
		field: bind(func(c *Config) *ProxyField { return &c.TrustedProxyField },
			oneOf(AnyField, ForwardedField, XForwardedForField))},

	{Setting: Setting{Name: EnvLimitSignIn, DefaultText: "`30/5m` if `EXPOSURE` is `public`, otherwise `off`",
		Help: "How many sign-ins one client address may attempt: a number, a slash and a duration. An IPv6 address " +
			"counts as its /64 network. The limit is shared by all replicas; requests beyond it get 429. `off` " +
			"disables the limit. Wrong passwords for one account are always limited separately."},
		field: bind(func(c *Config) *Rate { return &c.LimitSignIn }, rate), derive: publicRate},
	{Setting: Setting{Name: EnvLimitSignUp, DefaultText: "`30/5m` if `EXPOSURE` is `public`, otherwise `off`",
		Help: "How many sign-ups one client address may attempt, as in `LIMIT_SIGNIN`."},
		field: bind(func(c *Config) *Rate { return &c.LimitSignUp }, rate), derive: publicRate},
	{Setting: Setting{Name: EnvLimitCodes, DefaultText: "`30/5m` if `EXPOSURE` is `public`, otherwise `off`",
		Help: "How many one-time codes one client address may request or redeem, as in `LIMIT_SIGNIN`."},
		field: bind(func(c *Config) *Rate { return &c.LimitCodes }, rate), derive: publicRate},
	{Setting: Setting{Name: EnvLimitWrites, DefaultText: "`30/5m` if `EXPOSURE` is `public`, otherwise `300/5m`",
		Help: "How many changes of names and email address one user may make with access tokens. The limit is " +
			"shared by all sessions of the user. Requests that end sessions, delete the account or change the " +
			"password are counted for each session separately, so that a stolen token cannot lock the owner out of " +
			"them."},
		field: bind(func(c *Config) *Rate { return &c.LimitWrites }, rate), derive: writesRate},
	{Setting: Setting{Name: EnvLimitMails, Default: "3/1h",
		Help: "How many mails are sent to one address on request, for all callers together, whether or not the " +
			"address has an account. Further requests get the same reply, and no mail is sent. Notices of changes " +
			"are not counted."},
		field: bind(func(c *Config) *Rate { return &c.LimitMails }, rate)},

	{Setting: Setting{Name: EnvServiceName, DefaultText: "the host of `ISSUER`",
		Help: "The name of your service in emails, such as `Example Shop`."},
		field:  bind(func(c *Config) *string { return &c.ServiceName }, serviceName),
		derive: func(c *Config) string { return issuerHost(c.Issuer) }},
	{Setting: Setting{Name: EnvMailFrom,
		Help: "The sender of all mail: an address, or `Name <address>`. Required with `SMTP_HOST`."},
		field: bind(func(c *Config) *string { return &c.MailFrom }, sender)},
	{Setting: Setting{Name: EnvMailLinkVerification, DefaultText: "unset: mails contain only the code",
		Help: "The page of your application where a new user verifies their address, with `{code}` in place of the " +
			"code, such as `https://app.example.com/verify#{code}`. After a `#`, the code stays in the browser and " +
			"appears in no log."},
		field: bind(func(c *Config) *string { return &c.MailLinkVerification }, mailLink)},
	{Setting: Setting{Name: EnvMailLinkPasswordReset, DefaultText: "unset: mails contain only the code",
		Help: "The page where a user sets a new password, with `{code}` in it."},
		field: bind(func(c *Config) *string { return &c.MailLinkPasswordReset }, mailLink)},
	{Setting: Setting{Name: EnvMailLinkEmailChange, DefaultText: "unset: mails contain only the code",
		Help: "The page where a user confirms a new address, with `{code}` in it."},
		field: bind(func(c *Config) *string { return &c.MailLinkEmailChange }, mailLink)},
	{Setting: Setting{Name: EnvMailLinkInvitation, DefaultText: "unset: mails contain only the code",
		Help: "The page where an invited person sets their first password, with `{code}` in it. It does what that of " +
			"`MAIL_LINK_PASSWORD_RESET` does, and can be the same."},
		field: bind(func(c *Config) *string { return &c.MailLinkInvitation }, mailLink)},
	{Setting: Setting{Name: EnvMailTemplatesDir, ServeOnly: true, DefaultText: "unset: the built-in ones, in English",
		Help: "A directory of templates that replace the built-in ones, in as many languages as you need."},
		field: bind(func(c *Config) *string { return &c.MailTemplatesDir }, optional(text))},
	{Setting: Setting{Name: EnvMailGiveUpAfter, Default: "24h",
		Help: "How long the server retries a mail that is not accepted. The lifetime of a code begins when its " +
			"mail is sent."},
		field: bind(func(c *Config) *time.Duration { return &c.MailGiveUpAfter }, duration(time.Minute, 30*day))},
	{Setting: Setting{Name: EnvSMTPHost,
		Help: "The SMTP server. If it is set, users are also notified of changes of their password and address."},
		field: bind(func(c *Config) *string { return &c.SMTPHost }, smtpHost)},
	{Setting: Setting{Name: EnvSMTPPort, Default: "587",
		Help: "The port of the SMTP server."},
		field: bind(func(c *Config) *int { return &c.SMTPPort }, integer(1, 65535))},
	{Setting: Setting{Name: EnvSMTPTLS, Default: string(StartTLS),
		Help: "`starttls` (usually port 587), `implicit` (usually port 465), or `none`, which sends codes " +
			"unencrypted. With `none`, a password is sent only to a server on this machine, or by SCRAM or " +
			"CRAM-MD5. With the other two, nothing is sent without TLS."},
		field: bind(func(c *Config) *SMTPTLS { return &c.SMTPTLS }, oneOf(StartTLS, ImplicitTLS, NoTLS))},
	{Setting: Setting{Name: EnvSMTPCAFile, ServeOnly: true, DefaultText: "the system's",
		Help: "The file with the CA certificates that verify the SMTP server's certificate."},
		field: bind(func(c *Config) *string { return &c.SMTPCAFile }, optional(text))},
	{Setting: Setting{Name: EnvSMTPUsername, ServeOnly: true, DefaultText: "unset: no authentication",
		Help: "The user for SMTP authentication."},
		field: bind(func(c *Config) *string { return &c.SMTPUsername }, optional(text))},
	{Setting: Setting{Name: EnvSMTPPassword, ServeOnly: true, Secret: true,
		Help: "The password of `SMTP_USERNAME`."},
		field: bind(func(c *Config) *Secret { return &c.SMTPPassword }, secret(0))},
	{Setting: Setting{Name: EnvSMTPConnections, Default: "4",
		Help: "How many mails one replica sends at the same time, each over its own connection. This also applies " +
			"to the webhook."},
		field: bind(func(c *Config) *int { return &c.SMTPConnections }, integer(1, 64))},
	{Setting: Setting{Name: EnvMailWebhookURL,
		Help: "The URL that receives each mail as JSON, signed according to Standard Webhooks. Use it instead of " +
			"SMTP to send mail through your own service."},
		field: bind(func(c *Config) *string { return &c.MailWebhookURL }, webhookURL)},
	{Setting: Setting{Name: EnvMailWebhookSecret, ServeOnly: true, Secret: true,
		Help: "The key that signs webhook requests: 24 to 64 bytes in base64, with or without the prefix `whsec_`, " +
			"such as the output of `openssl rand -base64 32`."},
		field: bind(func(c *Config) *Secret { return &c.MailWebhookSecret }, webhookSecret)},
	{Setting: Setting{Name: EnvEventWebhookURL, DefaultText: "unset: events are not announced",
		Help: "The URL that receives the events of accounts as JSON, signed according to Standard Webhooks."},
		field: bind(func(c *Config) *string { return &c.EventWebhookURL }, webhookURL)},
	{Setting: Setting{Name: EnvEventWebhookSecret, ServeOnly: true, Secret: true,
		Help: "The key that signs the requests to `EVENT_WEBHOOK_URL`: 24 to 64 bytes in base64, with or without the " +
			"prefix `whsec_`."},
		field: bind(func(c *Config) *Secret { return &c.EventWebhookSecret }, webhookSecret)},

	{Setting: Setting{Name: EnvSigningAlgorithm, Default: "ES256",
		Help: "`ES256`, `RS256` or `EdDSA`. A change starts a normal key rotation."},
		field: bind(func(c *Config) *string { return &c.SigningAlgorithm }, oneOf("ES256", "RS256", "EdDSA"))},
	{Setting: Setting{Name: EnvKeysDir, DefaultText: "unset: the keys are in the database",
		Help: "The directory of the encrypted keys, as mounted by the operator. The server then neither creates " +
			"nor rotates keys."},
		field: bind(func(c *Config) *string { return &c.KeysDir }, optional(text))},
	{Setting: Setting{Name: EnvKeysPublished, DefaultText: "unset",
		Help: "The file `keys.json` of the published keys, as mounted by the operator. The server does not use " +
			"keys in `KEYS_DIR` that are older than those in this file, or that it lists as revoked. This also " +
			"holds for a server that has just started. `authserver admin` only shows them."},
		field: bind(func(c *Config) *string { return &c.KeysPublished }, optional(text))},
	{Setting: Setting{Name: EnvKeyRotationInterval, Default: "30d",
		Help: "How long a key signs before the next key replaces it. It must exceed twice `KEY_PUBLISH_LEAD`."},
		field: bind(func(c *Config) *time.Duration { return &c.KeyRotationInterval }, duration(time.Second, 10*year))},
	{Setting: Setting{Name: EnvKeyPublishLead, Default: "15m",
		Help: "The longest time that a verifier may take to learn of a published key. A new key begins to sign " +
			"after twice this time, so that every verifier has it, even if a clock jumps. After 30 minutes, Istio " +
			"has it too, which fetches keys every 20 minutes and not when it finds an unknown key."},
		field: bind(func(c *Config) *time.Duration { return &c.KeyPublishLead }, duration(time.Second, 7*day))},
	{Setting: Setting{Name: EnvFormerRefreshPassphrase, ServeOnly: true, Secret: true,
		Help: "The previous value of `REFRESH_PASSPHRASE`, during a change. It still decrypts the keys that it " +
			"encrypted."},
		field: bind(func(c *Config) *Secret { return &c.FormerRefreshPassphrase }, secret(0))},
	{Setting: Setting{Name: EnvFormerAccessPassphrase, ServeOnly: true, Secret: true,
		Help: "The previous value of `ACCESS_PASSPHRASE`, during a change."},
		field: bind(func(c *Config) *Secret { return &c.FormerAccessPassphrase }, secret(0))},

	{Setting: Setting{Name: EnvAccessTokenTyp, Default: string(TypAccessToken),
		Help: "The header parameter `typ` of new access tokens: `at+jwt` (RFC 9068), or `JWT` for services that " +
			"refuse `at+jwt`, such as Spring with its default configuration. The gateway accepts both, so tokens " +
			"stay valid after a change."},
		field: bind(func(c *Config) *AccessTokenTyp { return &c.AccessTokenTyp }, oneOf(TypAccessToken, TypJWT))},
	{Setting: Setting{Name: EnvRefreshTokenRotation, DefaultText: "`always` if `EXPOSURE` is `public`, otherwise `when-needed`",
		Help: "When a renewal replaces the refresh token: `when-needed` after half of its lifetime, `always` at " +
			"every use."},
		field: bind(func(c *Config) *Rotation { return &c.RefreshTokenRotation },
			oneOf(RotateWhenNeeded, RotateAlways)),
		derive: func(c *Config) string {
			if c.Exposure == Public {
				return string(RotateAlways)
			}
			return string(RotateWhenNeeded)
		}},
	{Setting: Setting{Name: EnvRefreshReuseGrace, Default: "60s",
		Help: "How long a replaced refresh token still gets the same successor. After that, its use counts as " +
			"theft and ends the session."},
		field: bind(func(c *Config) *time.Duration { return &c.RefreshReuseGrace }, duration(0, 10*time.Minute))},
	{Setting: Setting{Name: EnvSessionLifetime, DefaultText: "`90d`, or `REFRESH_TOKEN_EXPIRY` if that is longer",
		Help: "The maximum lifetime of a session, however often it is renewed."},
		field: bind(func(c *Config) *time.Duration { return &c.SessionLifetime }, duration(time.Second, 10*year)),
		derive: func(c *Config) string {
			return formatDuration(max(90*day, c.RefreshTokenExpiry))
		}},
	{Setting: Setting{Name: EnvSessionsPerUser, Default: "100",
		Help: "The maximum number of sessions of one user. When a user exceeds it, their oldest session ends."},
		field: bind(func(c *Config) *int { return &c.SessionsPerUser }, integer(1, 10000))},

	{Setting: Setting{Name: EnvPasswordMinLength, Default: "8",
		Help: "The minimum length of a password, in characters, 8 to 64."},
		field: bind(func(c *Config) *int { return &c.PasswordMinLength }, integer(8, 64))},
	{Setting: Setting{Name: EnvPasswordBlocklist, Default: "on",
		Help: "`on` refuses the most common passwords; `off` allows them."},
		field: bind(func(c *Config) *bool { return &c.PasswordBlocklist }, onOff)},
	{Setting: Setting{Name: EnvPasswordMigrationURL, ServeOnly: true,
		Help: "The URL of a service of yours that says whether a password is right in the system that accounts come " +
			"from, if their hashes could not be imported. It must be `https`, unless the service is on this machine."},
		field: bind(func(c *Config) *string { return &c.PasswordMigrationURL }, migrationURL)},
	{Setting: Setting{Name: EnvPasswordMigrationSecret, ServeOnly: true, Secret: true,
		Help: "The key that signs the requests to `PASSWORD_MIGRATION_URL`: 24 to 64 bytes in base64, with or without " +
			"the prefix `whsec_`."},
		field: bind(func(c *Config) *Secret { return &c.PasswordMigrationSecret }, webhookSecret)},
	{Setting: Setting{Name: EnvHashingThreads, Default: "0",
		Help: "How many passwords are hashed at the same time. 0 uses as many threads as the processors or the CPU " +
			"limit allow."},
		field: bind(func(c *Config) *int { return &c.HashingThreads }, integer(0, 256))},
	{Setting: Setting{Name: EnvHashingMaxWait, Default: "1s",
		Help: "How long a sign-in may wait for a hashing thread before it is refused with 503."},
		field: bind(func(c *Config) *time.Duration { return &c.HashingMaxWait }, duration(10*time.Millisecond, 5*time.Second))},
	{Setting: Setting{Name: EnvVerificationCodeExpiry, Default: "24h",
		Help: "The lifetime of a code that verifies a new user."},
		field: bind(func(c *Config) *time.Duration { return &c.VerificationCodeExpiry }, wholeSeconds(time.Second, 30*day))},
	{Setting: Setting{Name: EnvRecoveryCodeExpiry, Default: "15m",
		Help: "The lifetime of a code that sets a new password or a new email address."},
		field: bind(func(c *Config) *time.Duration { return &c.RecoveryCodeExpiry }, wholeSeconds(time.Second, day))},
	{Setting: Setting{Name: EnvUnverifiedAccountExpiry, Default: "7d",
		Help: "When an unverified sign-up is removed, and an invited account without a password."},
		field: bind(func(c *Config) *time.Duration { return &c.UnverifiedAccountExpiry }, wholeSeconds(time.Second, year))},
	{Setting: Setting{Name: EnvInvitationCodeExpiry, DefaultText: "`7d`, or `UNVERIFIED_ACCOUNT_EXPIRY` if that is shorter",
		Help: "The lifetime of the code with which an invited person sets their first password."},
		field:  bind(func(c *Config) *time.Duration { return &c.InvitationCodeExpiry }, wholeSeconds(time.Second, year)),
		derive: func(c *Config) string { return formatDuration(min(7*day, c.UnverifiedAccountExpiry)) }},
	{Setting: Setting{Name: EnvAuditRetention, Default: "90d",
		Help: "How long the table `audit_events` keeps the audit trail. `0` writes the audit trail only to the " +
			"log, and empties the table; with `EVENT_WEBHOOK_URL` it empties the table each minute."},
		field: bind(func(c *Config) *time.Duration { return &c.AuditRetention }, duration(0, 10*year))},

	{Setting: Setting{Name: EnvDBSSLMode, Default: "prefer",
		Help: "The use of TLS for PostgreSQL, as in libpq: `disable`, `allow`, `prefer`, `require`, `verify-ca` or " +
			"`verify-full`."},
		field: bind(func(c *Config) *string { return &c.DBSSLMode },
			oneOf("disable", "allow", "prefer", "require", "verify-ca", "verify-full"))},
	{Setting: Setting{Name: EnvDBSSLRootCert, DefaultText: "the system's",
		Help: "The file with the CA certificates that `verify-ca` and `verify-full` trust."},
		field: bind(func(c *Config) *string { return &c.DBSSLRootCert }, optional(text))},
	{Setting: Setting{Name: EnvDBTargetSessionAttrs, Default: string(ReadWrite),
		Help: "Which PostgreSQL server a connection is accepted from, as in libpq: `read-write` is one that accepts " +
			"writes; `primary` also one that an administrator has made read-only; `any` also a standby, which may " +
			"answer with old data, such as sessions that have ended. Without writes most requests get 503."},
		field: bind(func(c *Config) *SessionAttrs { return &c.DBTargetSessionAttrs }, oneOf(ReadWrite, Primary, AnySession))},
	{Setting: Setting{Name: EnvDBMaxConns, Default: "10",
		Help: "The maximum number of database connections of one replica."},
		field: bind(func(c *Config) *int { return &c.DBMaxConns }, integer(1, 1000))},
	{Setting: Setting{Name: EnvDBMinIdleConns, Default: "0",
		Help: "How many unused database connections one replica keeps open, so that a burst of requests does not wait " +
			"for new ones. At most `DB_MAX_CONNS`."},
		field: bind(func(c *Config) *int { return &c.DBMinIdleConns }, integer(0, 1000))},
	{Setting: Setting{Name: EnvDBAcquireTimeout, Default: "2s",
		Help: "How long a request waits for a database connection before it gets 503."},
		field: bind(func(c *Config) *time.Duration { return &c.DBAcquireTimeout }, duration(10*time.Millisecond, time.Minute))},
	{Setting: Setting{Name: EnvDBStatementTimeout, Default: "5s",
		Help: "The timeout of one SQL statement."},
		field: bind(func(c *Config) *time.Duration { return &c.DBStatementTimeout }, duration(10*time.Millisecond, 10*time.Minute))},

	{Setting: Setting{Name: EnvMetricsPort, Default: "9090",
		Help: "The port of `/metrics`, `/healthz`, `/readyz` and `/state`. 0 serves none of them. If the setting " +
			"is unset and 9090 is in use, the server chooses a free port and logs it."},
		field: bind(func(c *Config) *int { return &c.MetricsPort }, integer(0, 65535))},
	{Setting: Setting{Name: EnvAdminPort, Default: "0",
		Help: "The port of the routes for administrators, `/admin`. 0 serves none. Keep it internal."},
		field: bind(func(c *Config) *int { return &c.AdminPort }, integer(0, 65535))},
	{Setting: Setting{Name: EnvAdminKeys, DefaultText: "unset",
		Help: "The file with the keys of administrators. `authserver admin-key` makes a key."},
		field: bind(func(c *Config) *string { return &c.AdminKeys }, optional(text))},
	{Setting: Setting{Name: EnvAdminKubernetes, DefaultText: "unset",
		Help: "The AuthGateway whose RBAC decides what administrators may do, as `NAMESPACE/NAME`, in place of " +
			"`ADMIN_KEYS`. The server then asks the Kubernetes API server that its pod belongs to."},
		field: bind(func(c *Config) *string { return &c.AdminKubernetes }, optional(gatewayName))},
	{Setting: Setting{Name: EnvDrainDelay, Default: "0s",
		Help: "How long the server keeps serving after SIGTERM, while load balancers notice that it is no longer " +
			"ready."},
		field: bind(func(c *Config) *time.Duration { return &c.DrainDelay }, duration(0, 10*time.Minute))},
	{Setting: Setting{Name: EnvShutdownTimeout, Default: "15s",
		Help: "The maximum duration of a shutdown, including `DRAIN_DELAY`. Requests that are still running then " +
			"are aborted."},
		field: bind(func(c *Config) *time.Duration { return &c.ShutdownTimeout }, duration(time.Second, 10*time.Minute))},
	{Setting: Setting{Name: EnvLogLevel, Default: "info",
		Help: "`debug`, `info`, `warn` or `error`."},
		field: bind(func(c *Config) *slog.Level { return &c.LogLevel }, logLevel)},
	{Setting: Setting{Name: EnvLogFormat, Default: "json",
		Help: "`json` or `text`."},
		field: bind(func(c *Config) *string { return &c.LogFormat }, oneOf("json", "text"))},
	{Setting: Setting{Name: EnvTerminationLog,
		Help: "The file to which the server writes the reason when it fails, such as the `terminationMessagePath` " +
			"of a Kubernetes container."},
		field: bind(func(c *Config) *string { return &c.TerminationLog }, optional(text))},
}, traceSettings...)

// publicRate is the default limit by client address. An internal gateway has none: it
// sees only the addresses of backends, each of which serves many users.
func publicRate(c *Config) string {
	if c.Exposure == Public {
		return "30/5m"
	}
	return rateOff
}

// writesRate is the default limit by user. It does not depend on addresses, so an
// internal gateway has one too, high enough for any user.
func writesRate(c *Config) string {
	if c.Exposure == Public {
		return "30/5m"
	}
	return "300/5m"
}

// defaultIssuer derives the issuer from the listening address. It replaces an address
// that means all interfaces by localhost, because clients cannot call it.
func defaultIssuer(host string, port int) string {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(port))
}

// issuerHost returns the default name of the service in emails.
func issuerHost(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil || u.Hostname() == "" {
		return issuer
	}
	return u.Hostname()
}
