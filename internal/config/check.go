package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The settings that every token contains are bounded, in bytes, so that the longest possible token is one that
// verifiers accept: 8 KiB. The test of the server TestTokensWithTheLongestSettingsFit verifies the bounds.
const (
	maxIssuer   = 1024
	maxAudience = 1500 // all entries together
	maxClientID = 255
	maxScopes   = 1000 // as for an account
)

// maxKeys bounds the keys that verify at the same time. If keys rotate faster than
// tokens expire, retired keys accumulate.
const maxKeys = 64

// contradictions returns the settings that are valid on their own but not together.
func (c Config) contradictions() []Problem {
	var problems []Problem
	refuse := func(name, format string, args ...any) {
		problems = append(problems, Problem{name, fmt.Sprintf(format, args...)})
	}
	longest := max(c.AccessTokenExpiry, c.RefreshTokenExpiry)
	if c.KeyRotationInterval <= 2*c.KeyPublishLead {
		refuse(EnvKeyRotationInterval, "%s does not exceed the time before a new key signs, twice %s (%s): write a longer one, such as 720h",
			formatDuration(c.KeyRotationInterval), EnvKeyPublishLead, formatDuration(c.KeyPublishLead))
	} else if longest/c.KeyRotationInterval >= maxKeys {
		refuse(EnvKeyRotationInterval, "%s is too short for tokens with a lifetime of %s, because more than %d keys would be valid at once: "+
			"write at least %s, or shorten the lifetime of tokens",
			formatDuration(c.KeyRotationInterval), formatDuration(longest), maxKeys,
			formatDuration((longest/maxKeys).Truncate(time.Second)+time.Second))
	}
	if c.SessionLifetime < c.RefreshTokenExpiry {
		refuse(EnvSessionLifetime, "%s is shorter than the lifetime of a refresh token (%s is %s): write at least that",
			formatDuration(c.SessionLifetime), EnvRefreshTokenExpiry, formatDuration(c.RefreshTokenExpiry))
	}
	if c.UnverifiedAccountExpiry < c.VerificationCodeExpiry {
		refuse(EnvUnverifiedAccountExpiry, "%s would remove a sign-up before its code expires (%s is %s): write at least that",
			formatDuration(c.UnverifiedAccountExpiry), EnvVerificationCodeExpiry, formatDuration(c.VerificationCodeExpiry))
	}
	if c.UnverifiedAccountExpiry < c.InvitationCodeExpiry {
		refuse(EnvInvitationCodeExpiry, "%s is longer than an invited account without a password is kept (%s is %s): write at most that",
			formatDuration(c.InvitationCodeExpiry), EnvUnverifiedAccountExpiry, formatDuration(c.UnverifiedAccountExpiry))
	}
	if c.DrainDelay >= c.ShutdownTimeout {
		refuse(EnvDrainDelay, "%s leaves no time to finish requests within %s (%s): write a shorter one, or raise that",
			formatDuration(c.DrainDelay), EnvShutdownTimeout, formatDuration(c.ShutdownTimeout))
	}
	if c.MetricsPort == c.Port && c.MetricsPortSet {
		refuse(EnvMetricsPort, "%d is also the value of %s: write another port, or 0 to serve neither metrics nor health", c.MetricsPort, EnvPort)
	}
	switch {
	case c.AuthzPort == 0:
	case len(c.AuthzPolicies) == 0:
		refuse(EnvAuthzPort, "%s is not set, so nothing would be served there: set it, or write 0", EnvAuthzPolicies)
	case c.AuthzPort == c.Port:
		refuse(EnvAuthzPort, "%d is also the value of %s: write another port, or 0 to serve the decisions there", c.AuthzPort, EnvPort)
	case c.AuthzPort == c.MetricsPort && c.MetricsPortSet:
		refuse(EnvAuthzPort, "%d is also the value of %s: write another port", c.AuthzPort, EnvMetricsPort)
	}
	switch {
	case c.AdminPort == 0 && c.AdminOnly:
		refuse(EnvAdminPort, "is not set, so nothing would be served: write a port, such as 8081")
	case c.AdminPort == 0:
	case c.AdminPort == c.Port, c.AdminPort == c.MetricsPort && c.MetricsPortSet, c.AdminPort == c.AuthzPort:
		refuse(EnvAdminPort, "%d is also the value of %s, %s or %s: write another port, or 0 to serve no administrators",
			c.AdminPort, EnvPort, EnvMetricsPort, EnvAuthzPort)
	case c.AdminKeys == "" && c.AdminKubernetes == "":
		refuse(EnvAdminPort, "%s is not set: set it to the file with the keys of administrators; `authserver admin-key` makes a key; "+
			"or set %s in a pod of Kubernetes", EnvAdminKeys, EnvAdminKubernetes)
	case c.AdminKeys != "" && c.AdminKubernetes != "":
		refuse(EnvAdminKubernetes, "%s is set too: set only one of them, because only one may decide", EnvAdminKeys)
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
		// An audience that defaults to the issuer is reported as the issuer.
		follows := bound.name == EnvAudience && len(c.Audience) == 1 && c.Audience[0] == c.Issuer
		if bound.bytes > bound.most && !follows {
			refuse(bound.name, "is %d bytes long, and every token contains it; verifiers limit the length of a token: "+
				"write at most %d bytes", bound.bytes, bound.most)
		}
	}
	switch hosts := strings.Count(c.DBHost, ",") + 1; {
	case len(c.DBPort) != 1 && len(c.DBPort) != hosts:
		refuse(EnvDBPort, "has %d ports, and %s has %d hosts: write one port for all hosts, or one for each",
			len(c.DBPort), EnvDBHost, hosts)
	case len(c.DBPort) != 1 && c.namesDBPorts():
		refuse(EnvDBPort, "has %d ports, and %s has ports too: write them in one of the two", len(c.DBPort), EnvDBHost)
	}
	if c.DBMinIdleConns > c.DBMaxConns {
		refuse(EnvDBMinIdleConns, "is %d, more than the %d of %s: write at most that", c.DBMinIdleConns, c.DBMaxConns, EnvDBMaxConns)
	}
	if c.PasswordMigrationURL != "" && c.PasswordMigrationSecret.IsZero() {
		refuse(EnvPasswordMigrationURL, "%s is not set: set it to the signing key, such as the output of `openssl rand -base64 32`",
			EnvPasswordMigrationSecret)
	}
	if c.Exposure == Public && !c.SendsMail() {
		refuse(EnvExposure, "public sends codes only by mail, but no way to send mail is set: set %s and %s, or %s; "+
			"or write internal (the default), do not expose the port to the public, and mail the codes from your own backend",
			EnvSMTPHost, EnvMailFrom, EnvMailWebhookURL)
	}
	return append(append(problems, c.mailContradictions()...), c.traceContradictions()...)
}

// mailContradictions does the same for the settings of mail and webhooks.
func (c Config) mailContradictions() (problems []Problem) {
	refuse := func(name, format string, args ...any) {
		problems = append(problems, Problem{name, fmt.Sprintf(format, args...)})
	}
	if c.SMTPHost != "" && c.MailWebhookURL != "" {
		refuse(EnvMailWebhookURL, "%s is set too: set only one of them", EnvSMTPHost)
	}
	if c.SMTPHost != "" && c.MailFrom == "" {
		refuse(EnvSMTPHost, "%s is not set: set it to the sender of all mail, such as no-reply@example.com", EnvMailFrom)
	}
	if c.SMTPHost != "" && (c.SMTPUsername == "") != c.SMTPPassword.IsZero() {
		refuse(EnvSMTPPassword, "%s and %s belong together: set both, or neither", EnvSMTPUsername, EnvSMTPPassword)
	}
	if c.MailWebhookURL != "" && c.MailWebhookSecret.IsZero() && !c.AdminOnly {
		refuse(EnvMailWebhookURL, "%s is not set: set it to the signing key, such as the output of `openssl rand -base64 32`",
			EnvMailWebhookSecret)
	}
	if c.EventWebhookURL != "" && c.EventWebhookSecret.IsZero() && !c.AdminOnly {
		refuse(EnvEventWebhookURL, "%s is not set: set it to the signing key, such as the output of `openssl rand -base64 32`",
			EnvEventWebhookSecret)
	}
	return problems
}

// Warnings returns a warning for each setting that is valid but unsafe in production.
func (c Config) Warnings() []string {
	var warnings []string
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	for _, p := range []struct {
		name       string
		passphrase Secret
	}{{EnvRefreshPassphrase, c.RefreshPassphrase}, {EnvAccessPassphrase, c.AccessPassphrase}} {
		if len(p.passphrase.Reveal()) < MinPassphrase && !c.AdminOnly {
			warn("%s is shorter than %d bytes: a thief of the encrypted keys can guess it", p.name, MinPassphrase)
		}
	}
	if c.RefreshPassphrase.Equal(c.AccessPassphrase) && !c.AdminOnly {
		warn("%s and %s are the same: use two, so that a leak of one does not expose both kinds of keys",
			EnvRefreshPassphrase, EnvAccessPassphrase)
	}
	if c.Exposure == Internal && c.TrustedCallerKey.IsZero() && !c.AdminOnly {
		warn("%s is not set: every caller sees codes and chooses scopes, so the port must not face the public", EnvTrustedCallerKey)
	}
	if c.SaltRounds < 10 {
		warn("%s is %d: below 10, passwords are cheap to guess from a stolen hash", EnvSaltRounds, c.SaltRounds)
	}
	if c.AccessTokenExpiry > c.RefreshTokenExpiry {
		warn("%s is longer than %s: an access token outlives the refresh token that renews it", EnvAccessTokenExpiry, EnvRefreshTokenExpiry)
	}
	if c.SMTPHost != "" && c.SMTPTLS == NoTLS && !isLoopback(c.SMTPHost) {
		warn("%s=none sends codes to %s unencrypted", EnvSMTPTLS, c.SMTPHost)
	}
	if strings.HasPrefix(c.MailWebhookURL, "http://") {
		warn("%s is not https: codes are sent there unencrypted", EnvMailWebhookURL)
	}
	if strings.HasPrefix(c.EventWebhookURL, "http://") {
		warn("%s is not https: events are sent there unencrypted", EnvEventWebhookURL)
	}
	if o := c.Traces.Export(); c.Traces.Enabled() && !o.Headers.IsZero() && strings.HasPrefix(o.Endpoint, "http://") {
		warn("the endpoint of %s is not https: the header fields are sent there unencrypted", EnvOTelHeaders)
	}
	if c.DBSSLRootCert != "" && !strings.HasPrefix(c.DBSSLMode, "verify-") {
		warn("%[1]s is set but not used: set %[2]s to verify-ca or verify-full to verify the database's certificate with it",
			EnvDBSSLRootCert, EnvDBSSLMode)
	}
	return warnings
}
