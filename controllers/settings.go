package controllers

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	accore "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// killMargin is how much of a pod's grace period the server leaves to sidecars and
// to a slow node.
const killMargin = 10 * time.Second

// verifierSkew is how much clocks may differ, with the leeway of verifiers. A
// server that manages its own keys uses the same value.
const verifierSkew = 20 * time.Second

// settings returns the settings of a gateway's servers, without those that come
// from files.
func settings(cs *clusterState) config.Config {
	spec := cs.gateway.Spec
	c := config.Defaults()
	c.Host, c.Port, c.MetricsPort = "", apiPort, operationsPort
	c.Issuer = issuer(cs)
	c.Audience = spec.Audiences
	c.ClientID = cmp.Or(spec.Tokens.ClientID, cs.names.gateway)
	c.AccessTokenTyp = config.AccessTokenTyp(cmp.Or(spec.Tokens.AccessTokenTyp, v1alpha1.TypAccessToken))
	c.TokenClaims = spec.Tokens.Claims
	c.Exposure = config.Exposure(strings.ToLower(string(spec.Exposure)))
	if spec.CORS != nil {
		c.CORSAllowedOrigins = spec.CORS.AllowedOrigins
	}
	c.AuthzPort = int(spec.Authz.Port)
	for _, p := range spec.Authz.Policies {
		c.AuthzPolicies = append(c.AuthzPolicies, config.AuthzPolicy{
			Name: p.Name, Scopes: p.Scopes, AnyScope: p.AnyScope, Audience: p.Audience, MaxAge: p.MaxAge.Value(),
			Anonymous: p.Anonymous, FailClosed: p.FailClosed,
		})
	}
	c.TrustedProxyHops = int(spec.TrustedProxyHops)
	switch spec.TrustedProxyField {
	case v1alpha1.ProxyFieldForwarded:
		c.TrustedProxyField = config.ForwardedField
	case v1alpha1.ProxyFieldXForwardedFor:
		c.TrustedProxyField = config.XForwardedForField
	}
	if spec.Email != nil {
		mailSettings(&c, spec.Email)
	}
	if spec.EventWebhook != nil {
		c.EventWebhookURL = spec.EventWebhook.URL
	}
	if spec.Tracing != nil {
		traceSettings(&c.Traces, spec.Tracing, cs.names)
	}
	c.KeysDir, c.KeysPublished = dirKeys, dirPublicKeys+"/"+keys.PublicDocumentFile
	c.SigningAlgorithm = string(spec.Keys.Algorithm)
	c.KeyRotationInterval, c.KeyPublishLead = spec.Keys.RotationInterval.Value(), spec.Keys.PublishLead.Value()
	c.AccessTokenExpiry, c.RefreshTokenExpiry = spec.Tokens.AccessTokenTTL.Value(), spec.Tokens.RefreshTokenTTL.Value()
	c.RefreshReuseGrace = spec.Tokens.ReuseGrace.Value()
	switch spec.Tokens.Rotation {
	case v1alpha1.RotateAlways:
		c.RefreshTokenRotation = config.RotateAlways
	case v1alpha1.RotateWhenNeeded:
		c.RefreshTokenRotation = config.RotateWhenNeeded
	}
	c.SignupRequired = requiredNames(spec.SignUp.Required)
	c.SaltRounds, c.PasswordMinLength = int(spec.Passwords.SaltRounds), int(spec.Passwords.MinLength)
	c.PasswordBlocklist = spec.Passwords.Blocklist == nil || *spec.Passwords.Blocklist
	if m := spec.Passwords.Migration; m != nil {
		c.PasswordMigrationURL = m.URL
	}
	c.AuditRetention = spec.Audit.Retention.Value()
	d := spec.Database
	c.DBHost, c.DBPort, c.DBName = d.Host, config.Ports{int(d.Port)}, d.Name
	c.DBSSLMode, c.DBMaxConns = string(d.SSLMode), int(d.MaxConnections)
	c.DBMinIdleConns = int(min(d.MinIdleConnections, d.MaxConnections))
	c.DrainDelay, c.ShutdownTimeout = spec.Shutdown.DrainDelay.Value(), spec.Shutdown.GracePeriod.Value()-killMargin
	c.TerminationLog = terminationLog
	for in, name := range inputsOf(cs.gateway) {
		for _, k := range in.keys {
			if k.use == fromOperator && cs.inputs[name] != nil {
				k.set(&c, cs.secretValue(name, k.name))
			}
		}
	}
	return c
}

func traceSettings(c *config.Traces, t *v1alpha1.Tracing, n names) {
	c.All.Endpoint, c.ServiceName, c.Attributes = t.Endpoint, n.gateway, "service.namespace="+n.namespace
	c.Sampler, c.SamplerArg = config.ParentBasedWithRate, 0.01
	if t.SamplingRatePerMillion != nil {
		c.SamplerArg = float64(*t.SamplingRatePerMillion) / 1e6
	}
}

func mailSettings(c *config.Config, e *v1alpha1.Email) {
	if s := e.SMTP; s != nil {
		c.SMTPHost, c.SMTPPort, c.MailFrom = s.Host, int(s.Port), s.From
		c.SMTPTLS = config.SMTPTLS(strings.ToLower(string(s.TLS)))
	}
	if e.Webhook != nil {
		c.MailWebhookURL = e.Webhook.URL
	}
	c.SMTPConnections, c.MailGiveUpAfter = int(e.MaxConnections), e.GiveUpAfter.Value()
	c.ServiceName = cmp.Or(e.ServiceName, c.ServiceName)
	if l := e.Links; l != nil {
		c.MailLinkVerification, c.MailLinkPasswordReset = string(l.Verification), string(l.PasswordReset)
		c.MailLinkEmailChange, c.MailLinkInvitation = string(l.EmailChange), string(l.Invitation)
	}
}

// requiredNames returns the names that sign-up requires, as the server's setting
// spells them. nil, unlike an empty list, requires all of them.
func requiredNames(required []v1alpha1.PersonName) []string {
	names := []string{} // not nil, which would be the default
	for _, n := range []struct {
		name    v1alpha1.PersonName
		setting string
	}{{v1alpha1.Username, "username"}, {v1alpha1.FirstName, "first_name"}, {v1alpha1.LastName, "last_name"}} {
		if required == nil || slices.Contains(required, n.name) {
			names = append(names, n.setting)
		}
	}
	return names
}

// unlimited is v1alpha1.Unlimited in the server's settings.
const unlimited = "off"

// limits returns the rate limits that a spec sets, as text: in a config.Config an
// unset limit means no limit, but a setting that is left out means the default.
func limits(g *v1alpha1.AuthGateway) map[string]string {
	l := g.Spec.Limits
	all := map[string]string{}
	for name, limit := range map[string]v1alpha1.Limit{
		config.EnvLimitSignIn: l.SignIn, config.EnvLimitSignUp: l.SignUp, config.EnvLimitCodes: l.Codes,
		config.EnvLimitMails: l.Mails, config.EnvLimitWrites: l.Writes,
	} {
		if limit == v1alpha1.Unlimited {
			all[name] = unlimited
		} else if limit != "" {
			all[name] = string(limit)
		}
	}
	return all
}

// issuer returns the issuer that the servers use. It stays the former one until a
// person has accepted the change.
func issuer(cs *clusterState) string {
	last, wanted := cs.gateway.Status.Issuer, issuerWanted(cs.gateway)
	if last != "" && cs.gateway.Annotations[v1alpha1.AnnotationAcceptIssuer] != wanted {
		return last
	}
	return wanted
}

func issuerWanted(g *v1alpha1.AuthGateway) string {
	return cmp.Or(g.Spec.Issuer, namesOf(g).url())
}

// databaseWanted identifies the database of a spec: another value means other
// users.
func databaseWanted(g *v1alpha1.AuthGateway) string {
	if c := g.Spec.Database.CloudNativePG; c != nil {
		return c.Cluster
	}
	return g.Spec.Database.Host + "/" + g.Spec.Database.Name
}

// secretFiles returns, for each setting that is secret, the file that has it.
func secretFiles(g *v1alpha1.AuthGateway) map[string]string {
	files := map[string]string{config.EnvTrustedCallerKey: dirCaller + "/" + secretCallerKey}
	for _, s := range passphraseSettings {
		files[s.current], files[s.former] = dirPassphrases+"/"+s.current, dirPassphrases+"/"+s.former
	}
	for in := range inputsOf(g) {
		for _, k := range in.keys {
			if k.use == inFile {
				files[k.setting] = in.file(k)
			}
		}
	}
	return files
}

// environment returns the environment of the server's container, without the
// variables that refer to a Secret. Settings at their default are left out, so
// that an operator with another default does not replace the pods.
func environment(cs *clusterState) map[string]string {
	defaults := config.Defaults().Environ()
	environ := limits(cs.gateway)
	for name, value := range settings(cs).Environ() {
		if defaulted, has := defaults[name]; !has || defaulted != value {
			environ[name] = value
		}
	}
	for name, path := range secretFiles(cs.gateway) {
		environ[name+config.FileSuffix] = path
	}
	for in := range inputsOf(cs.gateway) {
		for _, k := range in.keys {
			if k.use == pathOfFile {
				environ[k.setting] = in.file(k)
			}
		}
		if in.directorySetting != "" {
			environ[in.directorySetting] = in.directory
		}
	}
	return environ
}

// check loads the settings as the server would, and returns what the server would
// refuse, before any pod starts with them.
func check(cs *clusterState, state keys.PassphraseState, callerKey string) error {
	environ := environment(cs)
	contents := map[string]string{config.EnvTrustedCallerKey: callerKey}
	for use, s := range passphraseSettings {
		contents[s.current], contents[s.former] = state.Current[use], state.Former[use]
	}
	for in, name := range inputsOf(cs.gateway) {
		for _, k := range in.keys {
			switch k.use {
			case inFile:
				contents[k.setting] = cs.secretValue(name, k.name)
			case inVariable:
				environ[k.setting] = cs.secretValue(name, k.name)
			}
		}
	}
	files := map[string][]byte{}
	for name, path := range secretFiles(cs.gateway) {
		files[path] = []byte(contents[name])
	}
	_, err := config.Load(
		func(name string) (string, bool) { value, ok := environ[name]; return value, ok },
		func(path string) ([]byte, error) {
			if content, ok := files[path]; ok {
				return content, nil
			}
			return nil, os.ErrNotExist
		})
	var invalid *config.InvalidError
	if !errors.As(err, &invalid) {
		return err
	}
	var lines []string
	for _, p := range invalid.Problems {
		lines = append(lines, fmt.Sprintf("%s: %s", fieldOf(cs.gateway, p.Setting), p.Message))
	}
	return errors.New(strings.Join(lines, "; "))
}

// fields maps a setting to the field of the spec that it comes from.
var fields = map[string]string{
	config.EnvIssuer: "spec.issuer", config.EnvAudience: "spec.audiences", config.EnvExposure: "spec.exposure",
	config.EnvClientID: "spec.tokens.clientID", config.EnvTokenClaims: "spec.tokens.claims",
	config.EnvAccessTokenTyp:     "spec.tokens.accessTokenTyp",
	config.EnvCORSAllowedOrigins: "spec.cors.allowedOrigins", config.EnvTrustedProxyHops: "spec.trustedProxyHops",
	config.EnvSigningAlgorithm: "spec.keys.algorithm", config.EnvKeyRotationInterval: "spec.keys.rotationInterval",
	config.EnvKeyPublishLead: "spec.keys.publishLead", config.EnvAccessTokenExpiry: "spec.tokens.accessTokenTTL",
	config.EnvRefreshTokenExpiry: "spec.tokens.refreshTokenTTL", config.EnvRefreshTokenRotation: "spec.tokens.rotation",
	config.EnvRefreshReuseGrace: "spec.tokens.reuseGrace", config.EnvSaltRounds: "spec.passwords.saltRounds",
	config.EnvPasswordMinLength: "spec.passwords.minLength", config.EnvPasswordBlocklist: "spec.passwords.blocklist",
	config.EnvPasswordMigrationURL: "spec.passwords.migration.url",
	config.EnvDBHost:               "spec.database.host", config.EnvDBPort: "spec.database.port", config.EnvDBName: "spec.database.name",
	config.EnvDBSSLMode: "spec.database.sslMode", config.EnvDBMaxConns: "spec.database.maxConnections",
	config.EnvDBMinIdleConns: "spec.database.minIdleConnections",
	config.EnvDrainDelay:     "spec.shutdown.drainDelay", config.EnvShutdownTimeout: "spec.shutdown.gracePeriod",
	config.EnvAuditRetention: "spec.audit.retention", config.EnvTrustedProxyField: "spec.trustedProxyField",
	config.EnvLimitSignIn: "spec.limits.signIn", config.EnvLimitSignUp: "spec.limits.signUp",
	config.EnvLimitCodes: "spec.limits.codes", config.EnvLimitMails: "spec.limits.mails",
	config.EnvAuthzPolicies: "spec.authz.policies", config.EnvAuthzPort: "spec.authz.port",
	config.EnvLimitWrites: "spec.limits.writes", config.EnvServiceName: "spec.email.serviceName",
	config.EnvSignupRequired: "spec.signUp.required",
	config.EnvMailFrom:       "spec.email.smtp.from", config.EnvSMTPHost: "spec.email.smtp.host", config.EnvSMTPPort: "spec.email.smtp.port",
	config.EnvSMTPTLS: "spec.email.smtp.tls", config.EnvSMTPConnections: "spec.email.maxConnections",
	config.EnvMailGiveUpAfter: "spec.email.giveUpAfter", config.EnvMailWebhookURL: "spec.email.webhook.url",
	config.EnvMailLinkVerification: "spec.email.links.verification", config.EnvMailLinkPasswordReset: "spec.email.links.passwordReset",
	config.EnvMailLinkEmailChange: "spec.email.links.emailChange", config.EnvMailLinkInvitation: "spec.email.links.invitation",
	config.EnvEventWebhookURL: "spec.eventWebhook.url", config.EnvOTelEndpoint: "spec.tracing.endpoint",
	config.EnvOTelTracesSamplerArg: "spec.tracing.samplingRatePerMillion", config.EnvOTelTracesSampler: "spec.tracing",
	config.EnvOTelServiceName: "metadata.name", config.EnvOTelResourceAttributes: "metadata.namespace",
}

// fieldOf names what a person changes to correct a setting: a key of a Secret, or
// a field of the spec.
func fieldOf(g *v1alpha1.AuthGateway, setting string) string {
	return cmp.Or(inputOf(g, setting), fields[setting], setting)
}

// adminReads reports whether the pods for administrators get a setting. They get no secret but the database's.
func adminReads(setting string) bool {
	return !slices.ContainsFunc(config.Settings(), func(s config.Setting) bool { return s.Name == setting && s.ServeOnly })
}

// adminEnvironment returns the environment of the pods for administrators, as environment does.
func adminEnvironment(cs *clusterState) map[string]string {
	environ := environment(cs)
	maps.DeleteFunc(environ, func(name, _ string) bool {
		return !adminReads(name) || !adminReads(strings.TrimSuffix(name, config.FileSuffix))
	})
	delete(environ, config.EnvKeysDir) // they show the published keys
	environ[config.EnvAdminPort] = strconv.Itoa(adminPort)
	environ[config.EnvAdminKubernetes] = cs.names.namespace + "/" + cs.names.gateway
	environ[config.EnvDBMaxConns] = strconv.Itoa(adminConnections(cs.gateway))
	environ[config.EnvDBMinIdleConns] = "0"
	return environ
}

// adminConnections is the number of database connections of a replica for administrators.
func adminConnections(g *v1alpha1.AuthGateway) int {
	return min(int(g.Spec.Database.MaxConnections), 4)
}

// environmentOf returns an environment as the container has it, in a stable order. The
// kubelet replaces $(NAME) in a value, and $$ with $.
func environmentOf(environ map[string]string) []*accore.EnvVarApplyConfiguration {
	var all []*accore.EnvVarApplyConfiguration
	for _, name := range slices.Sorted(maps.Keys(environ)) {
		e := accore.EnvVar().WithName(name)
		if value := environ[name]; value != "" { // the API server drops an empty value
			e.WithValue(strings.ReplaceAll(value, "$", "$$"))
		}
		all = append(all, e)
	}
	return all
}
