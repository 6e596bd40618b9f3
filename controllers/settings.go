package controllers

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// killMargin is of the time that a pod has to end what its server leaves: to its
// sidecars, and to a node that is slow.
const killMargin = 10 * time.Second

// verifierSkew is by how much clocks may differ, with the leeway that verifiers
// give. The server has the same when it looks after its keys by itself.
const verifierSkew = 20 * time.Second

// settings are those that a gateway's servers get, but for the secrets, which
// come from files.
func settings(w *world) config.Config {
	spec := w.gateway.Spec
	c := config.Defaults()
	c.Host, c.Port, c.MetricsPort = "", apiPort, operationsPort
	c.Issuer = issuer(w)
	c.Audience = spec.Audiences
	c.Exposure = config.Exposure(strings.ToLower(string(spec.Exposure)))
	if spec.CORS != nil {
		c.CORSAllowedOrigins = spec.CORS.AllowedOrigins
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
	c.AuditRetention = spec.Audit.Retention.Value()
	d := spec.Database
	c.DBHost, c.DBPort, c.DBName = d.Host, config.Ports{int(d.Port)}, d.Name
	if d.CloudNativePG != nil {
		if secret := w.inputs[cnpgSecret(d.CloudNativePG.Cluster)]; secret != nil {
			c.DBHost, c.DBName = string(secret.Data[cnpgHost]), string(secret.Data[cnpgDatabase])
			// A port that is no number is named among the problems.
			port, _ := strconv.Atoi(string(secret.Data[cnpgPort]))
			c.DBPort = config.Ports{port}
		}
	}
	c.DBSSLMode, c.DBMaxConns = string(d.SSLMode), int(d.MaxConnections)
	if d.CASecretRef != nil {
		c.DBSSLRootCert = dirCA + "/" + caCertificate
	}
	c.DrainDelay, c.ShutdownTimeout = spec.Shutdown.DrainDelay.Value(), spec.Shutdown.GracePeriod.Value()-killMargin
	c.TerminationLog = terminationLog
	return c
}

func mailSettings(c *config.Config, e *v1alpha1.Email) {
	if s := e.SMTP; s != nil {
		c.SMTPHost, c.SMTPPort, c.MailFrom = s.Host, int(s.Port), s.From
		c.SMTPTLS = config.SMTPTLS(strings.ToLower(string(s.TLS)))
		if s.CASecretRef != nil {
			c.SMTPCAFile = dirMailCA + "/" + caCertificate
		}
	}
	if e.Webhook != nil {
		c.MailWebhookURL = e.Webhook.URL
	}
	c.SMTPConnections, c.MailGiveUpAfter = int(e.MaxConnections), e.GiveUpAfter.Value()
	if e.ServiceName != "" {
		c.ServiceName = e.ServiceName
	}
	if e.TemplatesConfigMapRef != nil {
		c.MailTemplatesDir = dirTemplates
	}
	if l := e.Links; l != nil {
		c.MailLinkVerification, c.MailLinkPasswordReset, c.MailLinkEmailChange = string(l.Verification), string(l.PasswordReset), string(l.EmailChange)
	}
}

// requiredNames returns what the server's settings call the names that are required at
// sign-up. A list that is left out, which is not an empty one, has all of them.
func requiredNames(required []v1alpha1.PersonName) []string {
	names := []string{} // none, and not a default
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

// unlimited is what the server's settings call v1alpha1.Unlimited.
const unlimited = "off"

// limits are the settings of limits that a spec has, as text: in a Config no
// limit cannot be told from a default that the server is to choose.
func limits(g *v1alpha1.AuthGateway) map[string]string {
	l := g.Spec.Limits
	all := map[string]string{}
	for name, limit := range map[string]v1alpha1.Limit{
		config.EnvLimitSignIn: l.SignIn, config.EnvLimitSignUp: l.SignUp, config.EnvLimitCodes: l.Codes, config.EnvLimitMails: l.Mails,
		config.EnvLimitWrites: l.Writes,
	} {
		switch limit {
		case "":
		case v1alpha1.Unlimited:
			all[name] = unlimited
		default:
			all[name] = string(limit)
		}
	}
	return all
}

// issuer is whose the keys and tokens are: for as long as a person has not
// accepted another one, the former.
func issuer(w *world) string {
	if last := w.gateway.Status.Issuer; last != "" && w.gateway.Annotations[AnnotationAcceptIssuer] != issuerWanted(w.gateway) {
		return last
	}
	return issuerWanted(w.gateway)
}

func issuerWanted(g *v1alpha1.AuthGateway) string {
	if g.Spec.Issuer != "" {
		return g.Spec.Issuer
	}
	return namesOf(g).url()
}

// databaseWanted names the database of a spec, where people would look for their
// users.
func databaseWanted(g *v1alpha1.AuthGateway) string {
	if c := g.Spec.Database.CloudNativePG; c != nil {
		return c.Cluster
	}
	return g.Spec.Database.Host + "/" + g.Spec.Database.Name
}

// secretFiles are the settings that are secret, and where the pods have them.
func secretFiles(g *v1alpha1.AuthGateway) map[string]string {
	files := map[string]string{
		config.EnvAccessPassphrase:        dirPassphrases + "/" + config.EnvAccessPassphrase,
		config.EnvRefreshPassphrase:       dirPassphrases + "/" + config.EnvRefreshPassphrase,
		config.EnvFormerAccessPassphrase:  dirPassphrases + "/" + config.EnvFormerAccessPassphrase,
		config.EnvFormerRefreshPassphrase: dirPassphrases + "/" + config.EnvFormerRefreshPassphrase,
		config.EnvTrustedCallerKey:        dirCaller + "/" + secretCallerKey,
		config.EnvDBPassword:              dirDatabase + "/" + credentialsPassword,
	}
	switch {
	case mailCredentialsRef(g) != nil:
		files[config.EnvSMTPPassword] = dirMail + "/" + credentialsPassword
	case webhookRef(g) != nil:
		files[config.EnvMailWebhookSecret] = dirMail + "/" + webhookSecret
	}
	return files
}

// environment is what the server's container gets, without the users of the
// database and of the mail server, which come from Secrets. What is the server's
// default is left out, so that an upgrade of the operator replaces no pods for
// the sake of a default.
func environment(w *world) map[string]string {
	defaults := config.Defaults().Environ()
	environ := limits(w.gateway)
	for name, value := range settings(w).Environ() {
		if defaulted, has := defaults[name]; !has || defaulted != value {
			environ[name] = value
		}
	}
	for name, path := range secretFiles(w.gateway) {
		environ[name+config.FileSuffix] = path
	}
	return environ
}

// check has the server's own settings say what is wrong with these, before any
// pod is started with them.
func check(w *world, state keys.PassphraseState, callerKey string) error {
	environ := environment(w)
	from := func(ref *v1alpha1.LocalReference, key string) string {
		if ref == nil || w.inputs[ref.Name] == nil {
			return ""
		}
		return string(w.inputs[ref.Name].Data[key])
	}
	environ[config.EnvDBUser] = from(credentialsRef(w.gateway), credentialsUsername)
	if ref := mailCredentialsRef(w.gateway); ref != nil {
		environ[config.EnvSMTPUsername] = from(ref, credentialsUsername)
	}
	contents := map[string]string{
		config.EnvAccessPassphrase:        state.Current[keys.Access],
		config.EnvRefreshPassphrase:       state.Current[keys.Refresh],
		config.EnvFormerAccessPassphrase:  state.Former[keys.Access],
		config.EnvFormerRefreshPassphrase: state.Former[keys.Refresh],
		config.EnvTrustedCallerKey:        callerKey,
		config.EnvDBPassword:              from(credentialsRef(w.gateway), credentialsPassword),
		config.EnvSMTPPassword:            from(mailCredentialsRef(w.gateway), credentialsPassword),
		config.EnvMailWebhookSecret:       from(webhookRef(w.gateway), webhookSecret),
	}
	files := map[string][]byte{}
	for name, path := range secretFiles(w.gateway) {
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
		lines = append(lines, fmt.Sprintf("%s: %s", fieldOf(w.gateway, p.Setting), p.Message))
	}
	return errors.New(strings.Join(lines, "; "))
}

// fields are what people write for a setting.
var fields = map[string]string{
	config.EnvIssuer: "spec.issuer", config.EnvAudience: "spec.audiences", config.EnvExposure: "spec.exposure",
	config.EnvCORSAllowedOrigins: "spec.cors.allowedOrigins", config.EnvTrustedProxyHops: "spec.trustedProxyHops",
	config.EnvSigningAlgorithm: "spec.keys.algorithm", config.EnvKeyRotationInterval: "spec.keys.rotationInterval",
	config.EnvKeyPublishLead: "spec.keys.publishLead", config.EnvAccessTokenExpiry: "spec.tokens.accessTokenTTL",
	config.EnvRefreshTokenExpiry: "spec.tokens.refreshTokenTTL", config.EnvRefreshTokenRotation: "spec.tokens.rotation",
	config.EnvRefreshReuseGrace: "spec.tokens.reuseGrace", config.EnvSaltRounds: "spec.passwords.saltRounds",
	config.EnvPasswordMinLength: "spec.passwords.minLength", config.EnvPasswordBlocklist: "spec.passwords.blocklist",
	config.EnvDBHost: "spec.database.host", config.EnvDBPort: "spec.database.port", config.EnvDBName: "spec.database.name",
	config.EnvDBSSLMode: "spec.database.sslMode", config.EnvDBMaxConns: "spec.database.maxConnections",
	config.EnvDrainDelay: "spec.shutdown.drainDelay", config.EnvShutdownTimeout: "spec.shutdown.gracePeriod",
	config.EnvAuditRetention: "spec.audit.retention", config.EnvTrustedProxyField: "spec.trustedProxyField",
	config.EnvLimitSignIn: "spec.limits.signIn", config.EnvLimitSignUp: "spec.limits.signUp",
	config.EnvLimitCodes: "spec.limits.codes", config.EnvLimitMails: "spec.limits.mails",
	config.EnvLimitWrites: "spec.limits.writes", config.EnvServiceName: "spec.email.serviceName",
	config.EnvSignupRequired: "spec.signUp.required",
	config.EnvMailFrom:       "spec.email.smtp.from", config.EnvSMTPHost: "spec.email.smtp.host", config.EnvSMTPPort: "spec.email.smtp.port",
	config.EnvSMTPTLS: "spec.email.smtp.tls", config.EnvSMTPConnections: "spec.email.maxConnections",
	config.EnvMailGiveUpAfter: "spec.email.giveUpAfter", config.EnvMailWebhookURL: "spec.email.webhook.url",
	config.EnvMailLinkVerification: "spec.email.links.verification", config.EnvMailLinkPasswordReset: "spec.email.links.passwordReset",
	config.EnvMailLinkEmailChange: "spec.email.links.emailChange",
}

// fieldOf names the place where a setting comes from.
func fieldOf(g *v1alpha1.AuthGateway, setting string) string {
	key, secret := "", credentialsRef(g)
	switch setting {
	case config.EnvDBUser:
		key = credentialsUsername
	case config.EnvDBPassword:
		key = credentialsPassword
	case config.EnvSMTPUsername:
		key, secret = credentialsUsername, mailCredentialsRef(g)
	case config.EnvSMTPPassword:
		key, secret = credentialsPassword, mailCredentialsRef(g)
	case config.EnvMailWebhookSecret:
		key, secret = webhookSecret, webhookRef(g)
	case config.EnvDBHost, config.EnvDBPort, config.EnvDBName:
		if g.Spec.Database.CloudNativePG != nil {
			key = map[string]string{config.EnvDBHost: cnpgHost, config.EnvDBPort: cnpgPort, config.EnvDBName: cnpgDatabase}[setting]
		}
	}
	if key != "" && secret != nil {
		return fmt.Sprintf("key %s of Secret %s", key, secret.Name)
	}
	if field, ok := fields[setting]; ok {
		return field
	}
	return setting
}

// environmentOf is environment as a container has it, in an order that does not
// change.
func environmentOf(w *world) []corev1.EnvVar {
	environ := environment(w)
	var all []corev1.EnvVar
	for name, value := range environ {
		all = append(all, corev1.EnvVar{Name: name, Value: value})
	}
	slices.SortFunc(all, func(a, b corev1.EnvVar) int { return strings.Compare(a.Name, b.Name) })
	return all
}
