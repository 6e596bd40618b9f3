// Package config is the one list of the server's settings. What the server
// reads, what -h shows, what the reference documents and what the operator
// writes into a pod all come from the table in table.go. The way back, what a
// server says of itself, is State.
package config

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

//go:generate go run ../../hack/settingsdoc -root ../..

// Config is what the settings say, checked. The reference of each field is
// its row in the table.
type Config struct {
	Host   string // "" listens on all interfaces
	Port   int
	Issuer string
	// DerivedIssuer is true where no ISSUER is set, so that Issuer is made of Host and
	// Port.
	DerivedIssuer bool
	// Audience is never empty.
	Audience []string

	AccessPassphrase        Secret
	RefreshPassphrase       Secret
	FormerAccessPassphrase  Secret
	FormerRefreshPassphrase Secret
	SigningAlgorithm        string // ES256, RS256 or EdDSA
	KeysDir                 string // "" keeps the keys in the database
	KeysPublished           string // "" if no file says what is published
	KeyRotationInterval     time.Duration
	KeyPublishLead          time.Duration

	AccessTokenExpiry    time.Duration
	RefreshTokenExpiry   time.Duration
	RefreshTokenRotation Rotation
	RefreshReuseGrace    time.Duration
	SessionLifetime      time.Duration
	SessionsPerUser      int

	Exposure         Exposure
	TrustedCallerKey Secret
	SignupScopes     []string
	SignupRequired   []string // of username, first_name and last_name; email and password always are

	CORSAllowedOrigins []string // none: no page of another origin may call the API
	CORSAllowedHeaders []string // besides the usual ones
	StrictParameters   bool
	IdleTimeout        time.Duration
	ConnectionMemory   int64 // bytes; 0: a part of what the process may use
	TrustedProxyHops   int
	TrustedProxyField  ProxyField

	LimitSignIn Rate // by client address, as the next two
	LimitSignUp Rate
	LimitCodes  Rate
	LimitWrites Rate // by user
	LimitMails  Rate // by recipient

	ServiceName           string
	MailFrom              string
	MailLinkVerification  string // with {code} in it, as the next two; "": no link
	MailLinkPasswordReset string
	MailLinkEmailChange   string
	MailTemplatesDir      string // "": the built-in ones
	MailGiveUpAfter       time.Duration
	SMTPHost              string // "": not by SMTP
	SMTPPort              int
	SMTPTLS               SMTPTLS
	SMTPCAFile            string
	SMTPUsername          string
	SMTPPassword          Secret
	SMTPConnections       int
	MailWebhookURL        string // "": not by a webhook
	MailWebhookSecret     Secret

	SaltRounds              int
	PasswordMinLength       int
	PasswordBlocklist       bool
	HashingThreads          int // 0: as many as there are processors to use
	HashingMaxWait          time.Duration
	VerificationCodeExpiry  time.Duration
	RecoveryCodeExpiry      time.Duration
	UnverifiedAccountExpiry time.Duration
	AuditRetention          time.Duration // 0: no table, the log alone

	DBHost             string // several are separated by commas
	DBPort             Ports
	DBUser             string
	DBPassword         Secret
	DBName             string
	DBSSLMode          string
	DBSSLRootCert      string
	DBMaxConns         int
	DBAcquireTimeout   time.Duration
	DBStatementTimeout time.Duration

	MetricsPort int // 0 serves neither metrics nor health
	// MetricsPortSet reports whether somebody chose the port. If not, another one
	// will do, so that a machine on which Prometheus has the default is no obstacle.
	MetricsPortSet  bool
	DrainDelay      time.Duration
	ShutdownTimeout time.Duration
	LogLevel        slog.Level
	LogFormat       string // json or text
	TerminationLog  string // "" leaves no last words
}

// Exposure says who calls the API, and with that who may see codes.
type Exposure string

// The values of EXPOSURE.
const (
	Internal Exposure = "internal"
	Public   Exposure = "public"
)

// Rotation says when a refresh token is replaced.
type Rotation string

// The values of REFRESH_TOKEN_ROTATION.
const (
	RotateWhenNeeded Rotation = "when-needed"
	RotateAlways     Rotation = "always"
)

// ProxyField says which field tells what a trusted proxy saw.
type ProxyField string

// The values of TRUSTED_PROXY_FIELD.
const (
	AnyField           ProxyField = "any"
	ForwardedField     ProxyField = "Forwarded"
	XForwardedForField ProxyField = "X-Forwarded-For"
)

// SMTPTLS says how TLS to the mail server is used.
type SMTPTLS string

// The values of SMTP_TLS.
const (
	StartTLS    SMTPTLS = "starttls"
	ImplicitTLS SMTPTLS = "implicit"
	NoTLS       SMTPTLS = "none"
)

// Ports are those of the hosts of PostgreSQL: one for all of them, or one for each.
type Ports []int

// Rate is how often something may happen: Count times at once, and again when that
// was long enough ago that it is not more than Count times in Per on average. The
// zero Rate is no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// maxLength bounds a value, so that a mistaken file cannot fill the memory
// or a log line.
const maxLength = 4096

// A Problem is one setting that is wrong, and what to write instead. It never
// holds the value of a secret.
type Problem struct {
	Setting string
	Message string
}

func (p Problem) String() string { return p.Setting + ": " + p.Message }

// InvalidError lists every setting that is wrong, in the table's order.
type InvalidError struct{ Problems []Problem }

func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads all settings; lookup is os.LookupEnv and readFile os.ReadFile,
// or a test's. Where something is wrong, the error is an *InvalidError.
func Load(lookup func(string) (string, bool), readFile func(string) ([]byte, error)) (Config, error) {
	var c Config
	invalid := &InvalidError{}
	refuse := func(name string, err error) {
		invalid.Problems = append(invalid.Problems, Problem{name, err.Error()})
	}
	for _, s := range table {
		value, given, err := s.read(lookup, readFile)
		if err != nil {
			refuse(s.Name, err)
			continue
		}
		if !given {
			switch {
			case s.Required:
				refuse(s.Name, fmt.Errorf("is not set: %s", s.Advice))
			case s.derive != nil:
				// What a derived default can get wrong was wrong in the
				// setting that it derives from, and is named there.
				_ = s.set(&c, s.derive(&c))
				if s.Name == EnvIssuer {
					c.DerivedIssuer = true
				}
			default:
				s.setDefault(&c)
			}
			continue
		}
		if err := s.set(&c, value); err != nil {
			refuse(s.Name, err)
		}
		c.MetricsPortSet = c.MetricsPortSet || s.Name == EnvMetricsPort
	}
	if len(invalid.Problems) == 0 {
		// Only when each setting is right by itself is it clear which of
		// two that contradict each other is meant.
		invalid.Problems = c.contradictions()
	}
	if len(invalid.Problems) > 0 {
		return Config{}, invalid
	}
	return c, nil
}

// read finds the text of a setting, in the environment or in the file that
// the environment names.
func (s setting) read(lookup func(string) (string, bool), readFile func(string) ([]byte, error)) (value string, given bool, err error) {
	value, given = lookup(s.Name)
	if s.Secret {
		if path, ok := lookup(s.Name + FileSuffix); ok {
			if given {
				return "", true, fmt.Errorf("both %[1]s and %[1]s%[2]s are set: set one of them", s.Name, FileSuffix)
			}
			if path == "" {
				return "", true, fmt.Errorf("%s%s is empty: name a file, or leave it out", s.Name, FileSuffix)
			}
			content, err := readFile(path)
			if err != nil {
				return "", true, fmt.Errorf("%s%s cannot be read: %w", s.Name, FileSuffix, err)
			}
			// Editors and `echo` end a file with a line break that nobody
			// means to be part of the secret.
			value, given = strings.TrimRight(string(content), "\r\n"), true
		}
	}
	if !given {
		return "", false, nil
	}
	if value == "" && s.Required {
		return "", true, fmt.Errorf("is empty: %s", s.Advice)
	}
	if len(value) > maxLength {
		return "", true, fmt.Errorf("is %d bytes long: write at most %d", len(value), maxLength)
	}
	if !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
		return "", true, fmt.Errorf("holds a control character or bytes that are not UTF-8: write plain text in one line")
	}
	return value, true, nil
}

// What goes into every token is bounded, in bytes, so that the longest token that a
// user can have is one that verifiers accept: 8 KiB. TestTheLongestSettingsMakeTokens
// of the server holds these against it.
const (
	maxIssuer   = 1024
	maxAudience = 1500 // all of them
	maxScopes   = 1000 // as an account can have
)

// maxKeys bounds the keys that verify at one time: those that still have
// tokens alive when keys rotate faster than tokens die.
const maxKeys = 64

// contradictions checks the settings against each other.
func (c Config) contradictions() []Problem {
	var problems []Problem
	refuse := func(name, format string, args ...any) {
		problems = append(problems, Problem{name, fmt.Sprintf(format, args...)})
	}
	longest := max(c.AccessTokenExpiry, c.RefreshTokenExpiry)
	if c.KeyRotationInterval <= 2*c.KeyPublishLead {
		refuse(EnvKeyRotationInterval, "%s is not longer than a new key waits before it signs, twice %s (%s): write a longer one, such as 720h",
			formatDuration(c.KeyRotationInterval), EnvKeyPublishLead, formatDuration(c.KeyPublishLead))
	} else if longest/c.KeyRotationInterval >= maxKeys {
		refuse(EnvKeyRotationInterval, "%s is too short for tokens that live %s, more than %d keys would be valid at once: write at least %s, or shorten the tokens' lives",
			formatDuration(c.KeyRotationInterval), formatDuration(longest), maxKeys, formatDuration((longest/maxKeys).Truncate(time.Second)+time.Second))
	}
	if c.SessionLifetime < c.RefreshTokenExpiry {
		refuse(EnvSessionLifetime, "%s is shorter than a refresh token lives (%s is %s): write at least that",
			formatDuration(c.SessionLifetime), EnvRefreshTokenExpiry, formatDuration(c.RefreshTokenExpiry))
	}
	if c.UnverifiedAccountExpiry < c.VerificationCodeExpiry {
		refuse(EnvUnverifiedAccountExpiry, "%s would end an account before its code (%s is %s): write at least that",
			formatDuration(c.UnverifiedAccountExpiry), EnvVerificationCodeExpiry, formatDuration(c.VerificationCodeExpiry))
	}
	if c.DrainDelay >= c.ShutdownTimeout {
		refuse(EnvDrainDelay, "%s leaves no time to finish anything within %s (%s): write a shorter one, or raise that",
			formatDuration(c.DrainDelay), EnvShutdownTimeout, formatDuration(c.ShutdownTimeout))
	}
	if c.MetricsPort == c.Port && c.MetricsPortSet {
		refuse(EnvMetricsPort, "%d is %s too: write another port, or 0 for neither metrics nor health", c.MetricsPort, EnvPort)
	}
	for _, bound := range []struct {
		name  string
		bytes int
		most  int
	}{
		{EnvIssuer, len(strconv.Quote(c.Issuer)) - 2, maxIssuer},
		{EnvAudience, len(strconv.Quote(strings.Join(c.Audience, ","))) - 2, maxAudience},
		{EnvSignupScopes, len(strings.Join(c.SignupScopes, " ")), maxScopes},
	} {
		// An audience that is the issuer is named there.
		follows := bound.name == EnvAudience && len(c.Audience) == 1 && c.Audience[0] == c.Issuer
		if bound.bytes > bound.most && !follows {
			refuse(bound.name, "is %d bytes long, and stands in every token, which verifiers take up to a length: write at most %d", bound.bytes, bound.most)
		}
	}
	if hosts := strings.Count(c.DBHost, ",") + 1; len(c.DBPort) != 1 && len(c.DBPort) != hosts {
		refuse(EnvDBPort, "has %d ports, and %s has %d hosts: write one port for all hosts, or one for each", len(c.DBPort), EnvDBHost, hosts)
	}
	if c.Exposure == Public && !c.SendsMail() {
		refuse(EnvExposure, "public hands out codes by mail alone, and nothing says how to send it: set %s and %s, or %s; "+
			"or write internal (or leave it out), keep the port away from the public, and let your own backend mail the codes",
			EnvSMTPHost, EnvMailFrom, EnvMailWebhookURL)
	}
	return append(problems, c.mailContradictions()...)
}

// mailContradictions checks the settings of mail against each other.
func (c Config) mailContradictions() (problems []Problem) {
	refuse := func(name, format string, args ...any) {
		problems = append(problems, Problem{name, fmt.Sprintf(format, args...)})
	}
	if c.SMTPHost != "" && c.MailWebhookURL != "" {
		refuse(EnvMailWebhookURL, "mail is sent by %s too: set one of them", EnvSMTPHost)
	}
	if c.SMTPHost != "" && c.MailFrom == "" {
		refuse(EnvSMTPHost, "%s is not set: write the sender of all mail there, such as no-reply@example.com", EnvMailFrom)
	}
	if c.SMTPHost != "" && (c.SMTPUsername == "") != c.SMTPPassword.IsZero() {
		refuse(EnvSMTPPassword, "%s and %s go together: set both, or neither", EnvSMTPUsername, EnvSMTPPassword)
	}
	if c.MailWebhookURL != "" && c.MailWebhookSecret.IsZero() {
		refuse(EnvMailWebhookURL, "%s is not set: write there what to sign with, such as the output of `openssl rand -base64 32`", EnvMailWebhookSecret)
	}
	return problems
}

// SendsMail tells whether there is a way to send mail.
func (c Config) SendsMail() bool { return c.SMTPHost != "" || c.MailWebhookURL != "" }

// Warnings tells what is allowed, and is not wise in production.
func (c Config) Warnings() []string {
	var warnings []string
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	for _, p := range []struct {
		name       string
		passphrase Secret
	}{{EnvRefreshPassphrase, c.RefreshPassphrase}, {EnvAccessPassphrase, c.AccessPassphrase}} {
		if len(p.passphrase.Reveal()) < minPassphrase {
			warn("%s is shorter than %d bytes: whoever gets the sealed keys can guess it", p.name, minPassphrase)
		}
	}
	if c.RefreshPassphrase.Equal(c.AccessPassphrase) {
		warn("%s and %s are the same: whoever learns one has both kinds of keys", EnvRefreshPassphrase, EnvAccessPassphrase)
	}
	if c.Exposure == Internal && c.TrustedCallerKey.IsZero() {
		warn("%s is not set: every caller sees codes and chooses scopes, so the port must not face the public", EnvTrustedCallerKey)
	}
	if c.SaltRounds < 10 {
		warn("%s is %d: below 10 a stolen hash is cheap to guess", EnvSaltRounds, c.SaltRounds)
	}
	if c.AccessTokenExpiry > c.RefreshTokenExpiry {
		warn("%s is longer than %s: an access token outlives what renews it", EnvAccessTokenExpiry, EnvRefreshTokenExpiry)
	}
	if c.SMTPHost != "" && c.SMTPTLS == NoTLS && !isLoopback(c.SMTPHost) {
		warn("%s is none: codes go to %s in the clear", EnvSMTPTLS, c.SMTPHost)
	}
	if strings.HasPrefix(c.MailWebhookURL, "http://") {
		warn("%s is not https: codes go there in the clear", EnvMailWebhookURL)
	}
	if c.DBSSLRootCert != "" && !strings.HasPrefix(c.DBSSLMode, "verify-") {
		warn("%s is set, but only %s verify-ca or verify-full checks the database's certificate with it", EnvDBSSLRootCert, EnvDBSSLMode)
	}
	return warnings
}

// LoadOperations reads HOST and METRICS_PORT alone, for a process that asks a server
// of the same settings how it is. The error is an *InvalidError.
func LoadOperations(lookup func(string) (string, bool)) (host string, port int, err error) {
	c := Defaults()
	invalid := &InvalidError{}
	for _, s := range table {
		if s.Name != EnvHost && s.Name != EnvMetricsPort {
			continue
		}
		value, given, err := s.read(lookup, nil)
		if err == nil && given {
			err = s.set(&c, value)
		}
		if err != nil {
			invalid.Problems = append(invalid.Problems, Problem{s.Name, err.Error()})
		}
	}
	if len(invalid.Problems) > 0 {
		return "", 0, invalid
	}
	return c.Host, c.MetricsPort, nil
}

// Address is where the API listens.
func (c Config) Address() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// MetricsAddress is where metrics and health listen; "" where nothing does.
func (c Config) MetricsAddress() string {
	if c.MetricsPort == 0 {
		return ""
	}
	return net.JoinHostPort(c.Host, strconv.Itoa(c.MetricsPort))
}

// Defaults gives a Config for those who build one without an environment, as
// the operator does. What is required is empty in it, and so is what derives
// its default from other settings: Environ leaves both out, and Load derives
// them.
func Defaults() Config {
	var c Config
	for _, s := range table {
		s.setDefault(&c)
	}
	return c
}

// setDefault panics where the table contradicts itself, which every test sees.
func (s setting) setDefault(c *Config) {
	if s.Default == "" {
		return
	}
	if err := s.set(c, s.Default); err != nil {
		panic("config: the default of " + s.Name + ": " + err.Error())
	}
}

// Environ gives the environment from which Load makes this Config again, but for a
// limit that is off where its default is not: that is left out, as it is where no
// limit was said. So is a METRICS_PORT that nobody chose. It reveals the secrets. What has no default and is empty is left
// out, so that a Config without secrets gives an environment without them.
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

// LogValue gives every setting under its name, without the secrets.
func (c Config) LogValue() slog.Value {
	attrs := make([]slog.Attr, len(table))
	for i, s := range table {
		attrs[i] = slog.String(s.Name, s.show(&c))
	}
	return slog.GroupValue(attrs...)
}

// String gives every setting as NAME=value, one a line, without the secrets.
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
