// Package config defines the settings of the server. The table in table.go is their only source: the server's
// environment, the output of -h, the reference in docs and the environment that the operator writes into a pod all
// derive from it. State is the reverse: what a server reports about itself.
//
//	table.go      one row per setting: name, default, help, parser
//	parser.go     parsers of values; addresses.go, durations.go, cors.go and mail.go have the others
//	traces.go     the rows of OpenTelemetry, and what they mean together
//	load.go       environment to Config
//	check.go      contradictions between settings, and warnings
//	state.go      the JSON of /state
package config

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
)

//go:generate go run ../../hack/settingsdoc -root ../..

// Config holds the validated settings. The table documents each field.
type Config struct {
	// AdminOnly reports whether the settings are those of "authserver admin": LoadAdmin sets it.
	AdminOnly bool

	Host   string // "" listens on all interfaces
	Port   int
	Issuer string
	// DerivedIssuer reports whether Issuer was derived from Host and Port, because ISSUER is not set.
	DerivedIssuer bool
	Audience      []string // never empty

	AccessPassphrase        Secret
	RefreshPassphrase       Secret
	FormerAccessPassphrase  Secret
	FormerRefreshPassphrase Secret
	SigningAlgorithm        string // ES256, RS256 or EdDSA
	KeysDir                 string // "" keeps the keys in the database
	KeysPublished           string // "": no file of published keys
	KeyRotationInterval     time.Duration
	KeyPublishLead          time.Duration

	ClientID             string
	AccessTokenTyp       AccessTokenTyp
	AccessTokenExpiry    time.Duration
	RefreshTokenExpiry   time.Duration
	RefreshTokenRotation Rotation
	RefreshReuseGrace    time.Duration
	SessionLifetime      time.Duration
	SessionsPerUser      int

	Exposure         Exposure
	TrustedCallerKey Secret
	AuthzPolicies    []AuthzPolicy
	AuthzPort        int // 0: that of the API
	TokenClaims      []string
	SignupScopes     []string
	SignupRequired   []string // of username, first_name and last_name; email and password always are

	CORSAllowedOrigins []string // empty: no page of another origin may call the API
	CORSAllowedHeaders []string // in addition to the usual ones
	StrictParameters   bool
	IdleTimeout        time.Duration
	ConnectionMemory   int64 // bytes; 0: a share of the memory available to the process
	TrustedProxyHops   int
	TrustedProxyField  ProxyField

	LimitSignIn Rate // by client address, as the next two
	LimitSignUp Rate
	LimitCodes  Rate
	LimitWrites Rate // by user
	LimitMails  Rate // by recipient

	ServiceName           string
	MailFrom              string
	MailLinkVerification  string // with {code} in it, as the next three; "": no link
	MailLinkPasswordReset string
	MailLinkEmailChange   string
	MailLinkInvitation    string
	MailTemplatesDir      string // "": the built-in templates
	MailGiveUpAfter       time.Duration
	SMTPHost              string // "": do not use SMTP
	SMTPPort              int
	SMTPTLS               SMTPTLS
	SMTPCAFile            string
	SMTPUsername          string
	SMTPPassword          Secret
	SMTPConnections       int
	MailWebhookURL        string // "": do not use a webhook
	MailWebhookSecret     Secret
	EventWebhookURL       string // "": announce no events
	EventWebhookSecret    Secret

	SaltRounds              int
	PasswordMinLength       int
	PasswordBlocklist       bool
	PasswordMigrationURL    string // "": no other system is asked about passwords
	PasswordMigrationSecret Secret
	HashingThreads          int // 0: the number of usable processors
	HashingMaxWait          time.Duration
	VerificationCodeExpiry  time.Duration
	RecoveryCodeExpiry      time.Duration
	InvitationCodeExpiry    time.Duration
	UnverifiedAccountExpiry time.Duration
	AuditRetention          time.Duration // 0: only the log

	DBHost               string // several are separated by commas; see DBHosts
	DBPort               Ports
	DBUser               string
	DBPassword           Secret
	DBName               string
	DBTargetSessionAttrs SessionAttrs
	DBSSLMode            string
	DBSSLRootCert        string
	DBMaxConns           int
	DBMinIdleConns       int
	DBAcquireTimeout     time.Duration
	DBStatementTimeout   time.Duration

	MetricsPort int // 0 serves neither metrics nor health
	// MetricsPortSet reports whether METRICS_PORT is set. If it is not, the server may
	// use another port when the default is in use, for example by Prometheus.
	MetricsPortSet  bool
	AdminPort       int    // 0 serves no routes for administrators
	AdminKeys       string // the file with their keys
	AdminKubernetes string // NAMESPACE/NAME of the AuthGateway whose RBAC decides, in place of AdminKeys
	DrainDelay      time.Duration
	ShutdownTimeout time.Duration
	LogLevel        slog.Level
	LogFormat       string // json or text
	TerminationLog  string // "": write no termination message

	Traces Traces
}

// Exposure is the kind of callers of the API. It determines who may see codes.
type Exposure string

// The values of EXPOSURE.
const (
	Internal Exposure = "internal"
	Public   Exposure = "public"
)

// AccessTokenTyp is the header parameter typ of access tokens.
type AccessTokenTyp string

// The values of ACCESS_TOKEN_TYP.
const (
	TypAccessToken AccessTokenTyp = "at+jwt"
	TypJWT         AccessTokenTyp = "JWT"
)

// Rotation is when a refresh token is replaced.
type Rotation string

// The values of REFRESH_TOKEN_ROTATION.
const (
	RotateWhenNeeded Rotation = "when-needed"
	RotateAlways     Rotation = "always"
)

// ProxyField is the header field in which trusted proxies write the client's address.
type ProxyField string

// The values of TRUSTED_PROXY_FIELD.
const (
	AnyField           ProxyField = "any"
	ForwardedField     ProxyField = "Forwarded"
	XForwardedForField ProxyField = "X-Forwarded-For"
)

// SMTPTLS is how TLS is used with the mail server.
type SMTPTLS string

// The values of SMTP_TLS.
const (
	StartTLS    SMTPTLS = "starttls"
	ImplicitTLS SMTPTLS = "implicit"
	NoTLS       SMTPTLS = "none"
)

// SessionAttrs is which PostgreSQL server a connection is accepted from, by libpq's names.
type SessionAttrs string

// The values of DB_TARGET_SESSION_ATTRS.
const (
	ReadWrite  SessionAttrs = "read-write"
	Primary    SessionAttrs = "primary"
	AnySession SessionAttrs = "any"
)

// Ports are the ports of the PostgreSQL hosts: one for all hosts, or one for each.
type Ports []int

// Rate is a rate limit: a burst of Count, and Count in Per on average. The zero Rate means no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// SendsMail reports whether a way to send mail is set.
func (c Config) SendsMail() bool { return c.SMTPHost != "" || c.MailWebhookURL != "" }

// KeepsEvents reports whether the database records the events of the audit trail. Without a retention, a webhook needs
// them for moments.
func (c Config) KeepsEvents() bool { return c.AuditRetention > 0 || c.EventWebhookURL != "" }

// Address returns the address of the API.
func (c Config) Address() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// MetricsAddress returns the address of metrics and health, or "" if they are not served.
func (c Config) MetricsAddress() string {
	if c.MetricsPort == 0 {
		return ""
	}
	return net.JoinHostPort(c.Host, strconv.Itoa(c.MetricsPort))
}

// AuthzAddress returns the address of decisions for proxies, or "" if it is that of the API.
func (c Config) AuthzAddress() string {
	if c.AuthzPort == 0 {
		return ""
	}
	return net.JoinHostPort(c.Host, strconv.Itoa(c.AuthzPort))
}

// AdminAddress returns the address of the routes for administrators, or "" if they are not served.
func (c Config) AdminAddress() string {
	if c.AdminPort == 0 {
		return ""
	}
	return net.JoinHostPort(c.Host, strconv.Itoa(c.AdminPort))
}

// Defaults returns a Config to build on without an environment, as the operator does. Required settings and settings
// with a derived default are empty in it: Environ omits both, and Load derives the latter.
func Defaults() Config {
	var c Config
	for _, s := range table {
		s.setDefault(&c)
	}
	return c
}

// Environ returns the environment from which Load makes this Config again. It reveals the secrets. It omits empty
// settings that have no default, so a Config without secrets results in an environment without them. It also omits a
// METRICS_PORT that is not set, and a zero limit whose default is not zero: Load then restores the default.
func (c Config) Environ() map[string]string {
	environ := make(map[string]string, len(table))
	for _, s := range table {
		if s.Name == EnvMetricsPort && !c.MetricsPortSet && s.get(&c) == s.Default {
			continue
		}
		derived := s.Name == EnvIssuer && c.DerivedIssuer
		if s.Default != "" || !derived && !s.isZero(&c) {
			environ[s.Name] = s.get(&c)
		}
	}
	return environ
}

// LogValue returns all settings by name, with secrets redacted.
func (c Config) LogValue() slog.Value {
	attrs := make([]slog.Attr, len(table))
	for i, s := range table {
		attrs[i] = slog.String(s.Name, s.show(&c))
	}
	return slog.GroupValue(attrs...)
}

// String returns all settings as lines of NAME=value, with secrets redacted.
func (c Config) String() string {
	var b strings.Builder
	for _, s := range table {
		fmt.Fprintf(&b, "%s=%s\n", s.Name, s.show(&c))
	}
	return b.String()
}

func (s setting) show(c *Config) string {
	value := s.get(c)
	if s.Secret && value != "" {
		return redacted
	}
	return value
}
