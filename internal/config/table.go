package config

import (
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"time"
)

// FileSuffix makes of a secret's name the name under which a file may be
// given in its stead: ACCESS_PASSPHRASE_FILE.
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
	EnvExposure                = "EXPOSURE"
	EnvTrustedCallerKey        = "TRUSTED_CALLER_KEY"
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
	EnvSigningAlgorithm        = "SIGNING_ALGORITHM"
	EnvKeysDir                 = "KEYS_DIR"
	EnvKeysPublished           = "KEYS_PUBLISHED"
	EnvKeyRotationInterval     = "KEY_ROTATION_INTERVAL"
	EnvKeyPublishLead          = "KEY_PUBLISH_LEAD"
	EnvFormerRefreshPassphrase = "FORMER_REFRESH_PASSPHRASE"
	EnvFormerAccessPassphrase  = "FORMER_ACCESS_PASSPHRASE"
	EnvRefreshTokenRotation    = "REFRESH_TOKEN_ROTATION"
	EnvRefreshReuseGrace       = "REFRESH_REUSE_GRACE"
	EnvSessionLifetime         = "SESSION_LIFETIME"
	EnvSessionsPerUser         = "SESSIONS_PER_USER"
	EnvPasswordMinLength       = "PASSWORD_MIN_LENGTH"
	EnvPasswordBlocklist       = "PASSWORD_BLOCKLIST"
	EnvHashingThreads          = "HASHING_THREADS"
	EnvHashingMaxWait          = "HASHING_MAX_WAIT"
	EnvVerificationCodeExpiry  = "VERIFICATION_CODE_EXPIRY"
	EnvRecoveryCodeExpiry      = "RECOVERY_CODE_EXPIRY"
	EnvUnverifiedAccountExpiry = "UNVERIFIED_ACCOUNT_EXPIRY"
	EnvAuditRetention          = "AUDIT_RETENTION"
	EnvDBSSLMode               = "DB_SSLMODE"
	EnvDBSSLRootCert           = "DB_SSLROOTCERT"
	EnvDBMaxConns              = "DB_MAX_CONNS"
	EnvDBAcquireTimeout        = "DB_ACQUIRE_TIMEOUT"
	EnvDBStatementTimeout      = "DB_STATEMENT_TIMEOUT"
	EnvMetricsPort             = "METRICS_PORT"
	EnvDrainDelay              = "DRAIN_DELAY"
	EnvShutdownTimeout         = "SHUTDOWN_TIMEOUT"
	EnvLogLevel                = "LOG_LEVEL"
	EnvLogFormat               = "LOG_FORMAT"
	EnvTerminationLog          = "TERMINATION_LOG"
)

const (
	minPassphrase = 16
	minCallerKey  = 16

	maxServiceName = 255 // an issuer's host fits

	day  = 24 * time.Hour
	year = 365 * day
)

// A Setting is what a person needs to know of one environment variable.
type Setting struct {
	Name    string
	Default string // as text; empty where there is none
	Help    string
	Secret  bool // may also be given by NAME_FILE, and is never shown
	// A Required setting has no default; Advice says what to write.
	Required bool
	Advice   string
	// DefaultText says in words a default that depends on other settings.
	DefaultText string
}

// A setting also knows where in a Config it goes.
type setting struct {
	Setting
	field
	// derive gives the default that depends on settings further up.
	derive func(*Config) string
}

// Settings lists all settings, the required twelve of every deployment first.
func Settings() []Setting {
	list := make([]Setting, len(table))
	for i, s := range table {
		list[i] = s.Setting
	}
	return list
}

// table has a row for each setting. A row stands below those that its derived
// default needs.
var table = []setting{
	{Setting: Setting{Name: EnvPort, Default: "8080", Help: "The port of the API."},
		field: bind(func(c *Config) *int { return &c.Port }, integer(1, 65535))},
	{Setting: Setting{Name: EnvHost, Default: "localhost", Help: "The host name or IP address to listen on, for the API and for `METRICS_PORT`. Empty, `0.0.0.0` or `::` listens on all interfaces."},
		field: bind(func(c *Config) *string { return &c.Host }, listenHost)},
	{Setting: Setting{Name: EnvRefreshPassphrase, Secret: true, Required: true, Advice: "write 16 bytes or more, such as the output of `openssl rand -base64 24`",
		Help: "Seals the private keys of refresh tokens."},
		field: bind(func(c *Config) *Secret { return &c.RefreshPassphrase }, secret(0))},
	{Setting: Setting{Name: EnvAccessPassphrase, Secret: true, Required: true, Advice: "write 16 bytes or more, such as the output of `openssl rand -base64 24`",
		Help: "Seals the private keys of access tokens; not the same as the other."},
		field: bind(func(c *Config) *Secret { return &c.AccessPassphrase }, secret(0))},
	{Setting: Setting{Name: EnvRefreshTokenExpiry, Default: "604800", Help: "How long a refresh token lives, in seconds."},
		field: bind(func(c *Config) *time.Duration { return &c.RefreshTokenExpiry }, seconds(time.Second, year))},
	{Setting: Setting{Name: EnvAccessTokenExpiry, Default: "900", Help: "How long an access token lives, in seconds."},
		field: bind(func(c *Config) *time.Duration { return &c.AccessTokenExpiry }, seconds(time.Second, year))},
	{Setting: Setting{Name: EnvSaltRounds, Default: "12", Help: "The cost of a bcrypt hash, 4 to 15: each step doubles the work of a sign-in, and of guessing. Use 10 or more."},
		field: bind(func(c *Config) *int { return &c.SaltRounds }, integer(4, 15))},
	{Setting: Setting{Name: EnvDBHost, Required: true, Advice: "write the host name of PostgreSQL",
		Help: "The host name or IP address of PostgreSQL, or the folder of its Unix socket. Several are separated by commas: the server uses the first of them that takes writes, and finds the next one after a failover. A pooler such as PgBouncer works too."},
		field: bind(func(c *Config) *string { return &c.DBHost }, databaseHost)},
	{Setting: Setting{Name: EnvDBUser, Required: true, Advice: "write the name of the database user",
		Help: "The user that owns the gateway's tables."},
		field: bind(func(c *Config) *string { return &c.DBUser }, text)},
	{Setting: Setting{Name: EnvDBPassword, Secret: true, Help: "That user's password; left out where PostgreSQL asks for none."},
		field: bind(func(c *Config) *Secret { return &c.DBPassword }, secret(0))},
	{Setting: Setting{Name: EnvDBName, Required: true, Advice: "write the name of the database",
		Help: "The database. The server makes and migrates its tables there by itself."},
		field: bind(func(c *Config) *string { return &c.DBName }, text)},
	{Setting: Setting{Name: EnvDBPort, Default: "5432", Help: "The port of PostgreSQL: one for all hosts, or one for each, separated by commas."},
		field: bind(func(c *Config) *Ports { return &c.DBPort }, ports)},

	{Setting: Setting{Name: EnvIssuer, DefaultText: "`http://HOST:PORT`, with `localhost` where `HOST` means all interfaces",
		Help: "The `iss` of every token: the absolute URL at which consumers know this gateway."},
		field:  bind(func(c *Config) *string { return &c.Issuer }, issuerURL),
		derive: func(c *Config) string { return defaultIssuer(c.Host, c.Port) }},
	{Setting: Setting{Name: EnvAudience, DefaultText: "the issuer", Help: "The `aud` of access tokens; several are separated by commas."},
		field:  bind(func(c *Config) *[]string { return &c.Audience }, audiences),
		derive: func(c *Config) string { return c.Issuer }},
	{Setting: Setting{Name: EnvExposure, Default: string(Internal), Help: "Who calls the API. `internal`: your own backends, which see codes and mail them. `public`: browsers and apps; codes leave by mail alone, so it needs `SMTP_HOST` or `MAIL_WEBHOOK_URL`."},
		field: bind(func(c *Config) *Exposure { return &c.Exposure }, oneOf(Internal, Public))},
	{Setting: Setting{Name: EnvTrustedCallerKey, Secret: true, Help: "16 bytes or more. Where set, only a caller that sends it as `X-Caller-Key` sees codes, chooses scopes and introspects tokens."},
		field: bind(func(c *Config) *Secret { return &c.TrustedCallerKey }, secret(minCallerKey))},
	{Setting: Setting{Name: EnvSignupScopes, Default: "profile email", Help: "The scopes that a new user may have when no trusted caller chooses them, separated by spaces."},
		field: bind(func(c *Config) *[]string { return &c.SignupScopes }, scopes)},
	{Setting: Setting{Name: EnvSignupRequired, Default: "username,first_name,last_name", Help: "Which of `username`, `first_name` and `last_name` a person has to give at sign-up besides email and password, separated by commas. `none`: email and password alone. What is not required may also be removed later, with `PUT /users`. An account without a username signs in by email, and its tokens have no `username`."},
		field: bind(func(c *Config) *[]string { return &c.SignupRequired }, signUpNames)},
	{Setting: Setting{Name: EnvCORSAllowedOrigins, DefaultText: "unset: none", Help: "The origins of browser applications whose pages may call the API and read its replies, separated by commas, each exactly as browsers send it: `https://app.example.com`, with the port where it is not the scheme's own. Those of apps that carry their pages with them are taken too, such as `capacitor://localhost`. `*` and `null` are refused."},
		field: bind(func(c *Config) *[]string { return &c.CORSAllowedOrigins }, origins)},
	{Setting: Setting{Name: EnvCORSAllowedHeaders, DefaultText: "unset: none more", Help: "Header fields that these pages may send besides those that the API reads and those that tracing libraries add (`traceparent`, `baggage`, `sentry-trace` and the like), separated by commas."},
		field: bind(func(c *Config) *[]string { return &c.CORSAllowedHeaders }, fieldNames)},
	{Setting: Setting{Name: EnvStrictParameters, Default: "off", Help: "`on` refuses a request with a parameter that the route does not know, in a JSON body or in the query string: 400 with the reason `parameter_unknown` (`invalid_fields` if more is wrong), and `fields` names the parameter. It finds misspelt names; `make run` has it on. `off` ignores such parameters, so that clients of a newer version keep working. In forms they are always ignored, as RFC 6749 section 3.2 demands."},
		field: bind(func(c *Config) *bool { return &c.StrictParameters }, onOff)},
	{Setting: Setting{Name: EnvIdleTimeout, Default: "620s", Help: "How long a connection may be idle between two requests. It must be longer than your proxy or load balancer keeps an idle connection to the server; else the proxy sends a request now and then on a connection that has just been closed, and answers 502. The default is longer than that of nginx, HAProxy, Caddy, Traefik and the load balancers of AWS, Azure and Google Cloud."},
		field: bind(func(c *Config) *time.Duration { return &c.IdleTimeout }, duration(time.Second, day))},
	{Setting: Setting{Name: EnvConnectionMemory, DefaultText: "a quarter of the memory that the process may use, at most `1GiB`", Help: "How much memory the connections of all clients may hold: a number with `KiB`, `MiB` or `GiB`. When they need more, those that have waited longest for their client are closed. The memory that the process may use is the limit of its control group (a container's), `GOMEMLIMIT`, or the machine's."},
		field: bind(func(c *Config) *int64 { return &c.ConnectionMemory }, size(8<<20, 1<<40))},
	{Setting: Setting{Name: EnvTrustedProxyHops, Default: "0", Help: "How many proxies of yours every request passes, 0 to 10. 0 takes the client's address from the connection; N takes the Nth from the right of `Forwarded` (RFC 7239) or `X-Forwarded-For`. In doubt (too few, no address, or both fields and they differ) it is the connection's. Nobody else may reach the port. Limits and the audit trail go by it."},
		field: bind(func(c *Config) *int { return &c.TrustedProxyHops }, integer(0, 10))},
	{Setting: Setting{Name: EnvTrustedProxyField, Default: string(AnyField), Help: "The field that your proxies write: `Forwarded` or `X-Forwarded-For`; the other is not looked at. `any` takes either, and then your proxies have to remove the one that they do not write."},
		field: bind(func(c *Config) *ProxyField { return &c.TrustedProxyField }, oneOf(AnyField, ForwardedField, XForwardedForField))},

	{Setting: Setting{Name: EnvLimitSignIn, DefaultText: "`30/5m` where `EXPOSURE` is `public`, else `off`", Help: "How many sign-ins one client address may try: a number, a slash and a duration. An IPv6 address counts with all of its /64. All replicas count together; what is more gets 429. `off`: no limit. Wrong passwords of one account are limited besides, and always."},
		field: bind(func(c *Config) *Rate { return &c.LimitSignIn }, rate), derive: publicRate},
	{Setting: Setting{Name: EnvLimitSignUp, DefaultText: "`30/5m` where `EXPOSURE` is `public`, else `off`", Help: "The same for sign-ups."},
		field: bind(func(c *Config) *Rate { return &c.LimitSignUp }, rate), derive: publicRate},
	{Setting: Setting{Name: EnvLimitCodes, DefaultText: "`30/5m` where `EXPOSURE` is `public`, else `off`", Help: "The same for asking for codes, and for using them."},
		field: bind(func(c *Config) *Rate { return &c.LimitCodes }, rate), derive: publicRate},
	{Setting: Setting{Name: EnvLimitWrites, DefaultText: "`30/5m` where `EXPOSURE` is `public`, else `300/5m`", Help: "How many changes one user may make with an access token: of names, of the email address. All sessions of the user count together. Calls that end sessions or the account, or change the password, are counted for each session apart, so that a stolen token does not keep the owner from them."},
		field: bind(func(c *Config) *Rate { return &c.LimitWrites }, rate), derive: writesRate},
	{Setting: Setting{Name: EnvLimitMails, Default: "3/1h", Help: "How many mails one address is sent because somebody asked for it, whoever asks and whether or not it has an account. What is more is not sent, and the answer is the same. Notices of changes are not counted."},
		field: bind(func(c *Config) *Rate { return &c.LimitMails }, rate)},

	{Setting: Setting{Name: EnvServiceName, DefaultText: "the host of `ISSUER`", Help: "The name of your service in emails: `Example Shop`."},
		field: bind(func(c *Config) *string { return &c.ServiceName }, serviceName), derive: func(c *Config) string { return issuerHost(c.Issuer) }},
	{Setting: Setting{Name: EnvMailFrom, Help: "The sender of all mail: an address, or `Name <address>`. Needed where mail is sent by SMTP."},
		field: bind(func(c *Config) *string { return &c.MailFrom }, sender)},
	{Setting: Setting{Name: EnvMailLinkVerification, DefaultText: "unset: mails bring the code alone", Help: "The page of your application where a new user verifies their address, with `{code}` for the code, such as `https://app.example.com/verify#{code}`. After a `#` it stays in the browser, and is in no log."},
		field: bind(func(c *Config) *string { return &c.MailLinkVerification }, mailLink)},
	{Setting: Setting{Name: EnvMailLinkPasswordReset, DefaultText: "unset: mails bring the code alone", Help: "The page where a user chooses a new password."},
		field: bind(func(c *Config) *string { return &c.MailLinkPasswordReset }, mailLink)},
	{Setting: Setting{Name: EnvMailLinkEmailChange, DefaultText: "unset: mails bring the code alone", Help: "The page where a user confirms a new address."},
		field: bind(func(c *Config) *string { return &c.MailLinkEmailChange }, mailLink)},
	{Setting: Setting{Name: EnvMailTemplatesDir, DefaultText: "unset: the built-in ones, in English", Help: "A folder whose templates replace the built-in ones, in as many languages as you write."},
		field: bind(func(c *Config) *string { return &c.MailTemplatesDir }, optional)},
	{Setting: Setting{Name: EnvMailGiveUpAfter, Default: "24h", Help: "How long a mail that is not taken is tried again. A code's life begins when it is sent."},
		field: bind(func(c *Config) *time.Duration { return &c.MailGiveUpAfter }, duration(time.Minute, 30*day))},
	{Setting: Setting{Name: EnvSMTPHost, Help: "The server that takes the mail. Where it is set, people are also told of changes of their password and address."},
		field: bind(func(c *Config) *string { return &c.SMTPHost }, smtpHost)},
	{Setting: Setting{Name: EnvSMTPPort, Default: "587", Help: "Its port."},
		field: bind(func(c *Config) *int { return &c.SMTPPort }, integer(1, 65535))},
	{Setting: Setting{Name: EnvSMTPTLS, Default: string(StartTLS), Help: "`starttls` (mostly port 587), `implicit` (mostly 465), or `none`, which sends codes in the clear; a password then goes to this machine alone, or by SCRAM or CRAM-MD5. Where TLS is asked for, nothing is sent without it."},
		field: bind(func(c *Config) *SMTPTLS { return &c.SMTPTLS }, oneOf(StartTLS, ImplicitTLS, NoTLS))},
	{Setting: Setting{Name: EnvSMTPCAFile, DefaultText: "the system's", Help: "The file with the certificates that the server's certificate is checked with."},
		field: bind(func(c *Config) *string { return &c.SMTPCAFile }, optional)},
	{Setting: Setting{Name: EnvSMTPUsername, DefaultText: "unset: without signing in", Help: "The user that signs in there."},
		field: bind(func(c *Config) *string { return &c.SMTPUsername }, optional)},
	{Setting: Setting{Name: EnvSMTPPassword, Secret: true, Help: "That user's password."},
		field: bind(func(c *Config) *Secret { return &c.SMTPPassword }, secret(0))},
	{Setting: Setting{Name: EnvSMTPConnections, Default: "4", Help: "How many mails one replica sends at the same time, each over a connection of its own; by a webhook too."},
		field: bind(func(c *Config) *int { return &c.SMTPConnections }, integer(1, 64))},
	{Setting: Setting{Name: EnvMailWebhookURL, Help: "In place of SMTP: where each mail is sent to as JSON, signed as Standard Webhooks has it, for those who send mail their own way."},
		field: bind(func(c *Config) *string { return &c.MailWebhookURL }, webhookURL)},
	{Setting: Setting{Name: EnvMailWebhookSecret, Secret: true, Help: "What the webhook is signed with: 24 to 64 bytes in base64, with or without `whsec_` before them, such as the output of `openssl rand -base64 32`."},
		field: bind(func(c *Config) *Secret { return &c.MailWebhookSecret }, webhookSecret)},

	{Setting: Setting{Name: EnvSigningAlgorithm, Default: "ES256", Help: "`ES256`, `RS256` or `EdDSA`. A change starts an ordinary key rotation."},
		field: bind(func(c *Config) *string { return &c.SigningAlgorithm }, oneOf("ES256", "RS256", "EdDSA"))},
	{Setting: Setting{Name: EnvKeysDir, DefaultText: "unset: the keys are in the database", Help: "A folder to read the sealed keys from, as the operator mounts it; the server then makes and rotates none."},
		field: bind(func(c *Config) *string { return &c.KeysDir }, optional)},
	{Setting: Setting{Name: EnvKeysPublished, DefaultText: "unset", Help: "The file `keys.json` of the published keys, as the operator mounts it. Keys in `KEYS_DIR` that are older than those that it lists, or that it lists as revoked, are not used, also by a server that has just started."},
		field: bind(func(c *Config) *string { return &c.KeysPublished }, optional)},
	{Setting: Setting{Name: EnvKeyRotationInterval, Default: "30d", Help: "How long a key signs before the next one does. Longer than twice `KEY_PUBLISH_LEAD`."},
		field: bind(func(c *Config) *time.Duration { return &c.KeyRotationInterval }, duration(time.Second, 10*year))},
	{Setting: Setting{Name: EnvKeyPublishLead, Default: "10m", Help: "How long any verifier may lag behind what is published. A new key signs after twice as long, so that every verifier has it, even if a clock jumps."},
		field: bind(func(c *Config) *time.Duration { return &c.KeyPublishLead }, duration(time.Second, 7*day))},
	{Setting: Setting{Name: EnvFormerRefreshPassphrase, Secret: true, Help: "The passphrase before a change: it still opens keys that it sealed."},
		field: bind(func(c *Config) *Secret { return &c.FormerRefreshPassphrase }, secret(0))},
	{Setting: Setting{Name: EnvFormerAccessPassphrase, Secret: true, Help: "The same for the keys of access tokens."},
		field: bind(func(c *Config) *Secret { return &c.FormerAccessPassphrase }, secret(0))},

	{Setting: Setting{Name: EnvRefreshTokenRotation, DefaultText: "`when-needed`, or `always` when public", Help: "When a refresh token is replaced: past half of its life, or at every use."},
		field: bind(func(c *Config) *Rotation { return &c.RefreshTokenRotation }, oneOf(RotateWhenNeeded, RotateAlways)),
		derive: func(c *Config) string {
			if c.Exposure == Public {
				return string(RotateAlways)
			}
			return string(RotateWhenNeeded)
		}},
	{Setting: Setting{Name: EnvRefreshReuseGrace, Default: "60s", Help: "How long a replaced refresh token is still answered, with the same successor. Later it counts as stolen."},
		field: bind(func(c *Config) *time.Duration { return &c.RefreshReuseGrace }, duration(0, 10*time.Minute))},
	{Setting: Setting{Name: EnvSessionLifetime, DefaultText: "`90d`, or `REFRESH_TOKEN_EXPIRY` where that is longer", Help: "When a session ends, however often it was renewed."},
		field: bind(func(c *Config) *time.Duration { return &c.SessionLifetime }, duration(time.Second, 10*year)),
		derive: func(c *Config) string {
			return formatDuration(max(90*day, c.RefreshTokenExpiry))
		}},
	{Setting: Setting{Name: EnvSessionsPerUser, Default: "100", Help: "The sessions of one user; beyond it, the oldest ends."},
		field: bind(func(c *Config) *int { return &c.SessionsPerUser }, integer(1, 10000))},

	{Setting: Setting{Name: EnvPasswordMinLength, Default: "8", Help: "The shortest password, in characters, 8 to 64."},
		field: bind(func(c *Config) *int { return &c.PasswordMinLength }, integer(8, 64))},
	{Setting: Setting{Name: EnvPasswordBlocklist, Default: "on", Help: "`on` refuses the most common passwords; `off` does not."},
		field: bind(func(c *Config) *bool { return &c.PasswordBlocklist }, onOff)},
	{Setting: Setting{Name: EnvHashingThreads, Default: "0", Help: "How many passwords are hashed at once; 0 is as many as the processors or the CPU limit allow."},
		field: bind(func(c *Config) *int { return &c.HashingThreads }, integer(0, 256))},
	{Setting: Setting{Name: EnvHashingMaxWait, Default: "1s", Help: "How long a sign-in waits for its turn to be hashed before it is told to come again."},
		field: bind(func(c *Config) *time.Duration { return &c.HashingMaxWait }, duration(10*time.Millisecond, 5*time.Second))},
	{Setting: Setting{Name: EnvVerificationCodeExpiry, Default: "24h", Help: "How long the code that verifies a new user is good."},
		field: bind(func(c *Config) *time.Duration { return &c.VerificationCodeExpiry }, wholeSeconds(time.Second, 30*day))},
	{Setting: Setting{Name: EnvRecoveryCodeExpiry, Default: "15m", Help: "How long the code for a new password or a new email is good."},
		field: bind(func(c *Config) *time.Duration { return &c.RecoveryCodeExpiry }, wholeSeconds(time.Second, day))},
	{Setting: Setting{Name: EnvUnverifiedAccountExpiry, Default: "7d", Help: "When an account that was never verified is removed, which frees its name and email."},
		field: bind(func(c *Config) *time.Duration { return &c.UnverifiedAccountExpiry }, wholeSeconds(time.Second, year))},
	{Setting: Setting{Name: EnvAuditRetention, Default: "90d", Help: "How long the table `audit_events` keeps the audit trail. `0`: it is in the log alone, and what the table has goes."},
		field: bind(func(c *Config) *time.Duration { return &c.AuditRetention }, duration(0, 10*year))},

	{Setting: Setting{Name: EnvDBSSLMode, Default: "prefer", Help: "TLS to PostgreSQL, as libpq has it: `disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`."},
		field: bind(func(c *Config) *string { return &c.DBSSLMode }, oneOf("disable", "allow", "prefer", "require", "verify-ca", "verify-full"))},
	{Setting: Setting{Name: EnvDBSSLRootCert, DefaultText: "the system's", Help: "The file with the certificates that `verify-ca` and `verify-full` trust."},
		field: bind(func(c *Config) *string { return &c.DBSSLRootCert }, optional)},
	{Setting: Setting{Name: EnvDBMaxConns, Default: "10", Help: "The connections of one replica."},
		field: bind(func(c *Config) *int { return &c.DBMaxConns }, integer(1, 1000))},
	{Setting: Setting{Name: EnvDBAcquireTimeout, Default: "2s", Help: "How long a request waits for a connection before it gets 503."},
		field: bind(func(c *Config) *time.Duration { return &c.DBAcquireTimeout }, duration(10*time.Millisecond, time.Minute))},
	{Setting: Setting{Name: EnvDBStatementTimeout, Default: "5s", Help: "How long one statement may take."},
		field: bind(func(c *Config) *time.Duration { return &c.DBStatementTimeout }, duration(10*time.Millisecond, 10*time.Minute))},

	{Setting: Setting{Name: EnvMetricsPort, Default: "9090", Help: "The port of `/metrics`, `/healthz`, `/readyz` and `/state`; 0 serves none of them. If it is not set and 9090 is in use, the server takes a free port and logs which one."},
		field: bind(func(c *Config) *int { return &c.MetricsPort }, integer(0, 65535))},
	{Setting: Setting{Name: EnvDrainDelay, Default: "0s", Help: "How long to go on serving after SIGTERM, while load balancers notice that the server is no longer ready."},
		field: bind(func(c *Config) *time.Duration { return &c.DrainDelay }, duration(0, 10*time.Minute))},
	{Setting: Setting{Name: EnvShutdownTimeout, Default: "15s", Help: "How long a stop may take in all, `DRAIN_DELAY` included: what is not finished by then is broken off."},
		field: bind(func(c *Config) *time.Duration { return &c.ShutdownTimeout }, duration(time.Second, 10*time.Minute))},
	{Setting: Setting{Name: EnvLogLevel, Default: "info", Help: "`debug`, `info`, `warn` or `error`."},
		field: bind(func(c *Config) *slog.Level { return &c.LogLevel }, logLevel)},
	{Setting: Setting{Name: EnvLogFormat, Default: "json", Help: "`json` or `text`."},
		field: bind(func(c *Config) *string { return &c.LogFormat }, oneOf("json", "text"))},
	{Setting: Setting{Name: EnvTerminationLog, Help: "The file that gets the reason when the server ends by itself, as the `terminationMessagePath` of a Kubernetes container."},
		field: bind(func(c *Config) *string { return &c.TerminationLog }, optional)},
}

// publicRate is the default of the limits by client address. An internal gateway
// sees the addresses of its owner's backends, each of which calls for many people.
func publicRate(c *Config) string {
	if c.Exposure == Public {
		return "30/5m"
	}
	return rateOff
}

// writesRate is the default of the limit by user. It does not depend on addresses, so an
// internal gateway has one too, which is out of the way of people.
func writesRate(c *Config) string {
	if c.Exposure == Public {
		return "30/5m"
	}
	return "300/5m"
}

// defaultIssuer names the gateway by where it listens. "All interfaces" is no
// address that anyone can call, so it becomes this machine's own.
func defaultIssuer(host string, port int) string {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(port))
}

// issuerHost is the name of the gateway in emails if no other is set.
func issuerHost(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil || u.Hostname() == "" {
		return issuer
	}
	return u.Hostname()
}
