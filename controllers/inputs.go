package controllers

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
)

// An input is a Secret or a ConfigMap that the spec refers to. The operator reads it, watches it, reports it as
// missing, mounts it in the pods and replaces the pods when it changes. All of that ranges over the table inputs.
type input struct {
	field string                                               // as condition messages name it
	gvk   schema.GroupVersionKind                              // gvkSecret or gvkConfigMap
	ref   func(*v1alpha1.AuthGateway) *v1alpha1.LocalReference // nil: the spec has no such reference
	keys  []inputKey                                           // required; none: the pods get every key
	hint  string                                               // what to do when it does not exist

	// volume and directory are where the pods have the keys with inFile or
	// pathOfFile. If there are no keys, directorySetting gets the directory.
	volume, directory string
	directorySetting  string
}

// An inputKey is one key of an input.
type inputKey struct {
	name    string
	setting string // the server's setting that the key is for
	use     inputUse
	set     func(*config.Config, string) // for fromOperator
}

// inputUse is how a key reaches the server.
type inputUse int

const (
	inFile       inputUse = iota // the setting has the content; SETTING_FILE has the path
	pathOfFile                   // the setting has the path
	inVariable                   // the container's environment refers to the Secret
	fromOperator                 // the operator reads the key and writes it as a setting
	onlyOperator                 // the operator reads the key; the pods do not get it
)

// inputs is the one place that knows what the spec refers to. The order is that of the volumes, and that in which
// missing inputs are reported. It also decides the digest by which pods are replaced, so append new rows.
var inputs = []input{
	{
		field: "spec.database.credentialsSecretRef", gvk: gvkSecret,
		ref: func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference {
			if g.Spec.Database.CloudNativePG != nil {
				return nil
			}
			return g.Spec.Database.CredentialsSecretRef
		},
		keys: databaseKeys, volume: volumeDatabase, directory: dirDatabase,
	},
	{
		field: "spec.database.cloudNativePG", gvk: gvkSecret,
		ref: func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference {
			if c := g.Spec.Database.CloudNativePG; c != nil {
				return &v1alpha1.LocalReference{Name: cnpgSecret(c.Cluster)}
			}
			return nil
		},
		keys: append(databaseKeys[:len(databaseKeys):len(databaseKeys)],
			inputKey{name: "host", setting: config.EnvDBHost, use: fromOperator, set: func(c *config.Config, v string) {
				c.DBHost = v
			}},
			inputKey{name: "port", setting: config.EnvDBPort, use: fromOperator, set: func(c *config.Config, v string) {
				port, _ := strconv.Atoi(v) // if it is not a number: 0, which check refuses
				c.DBPort = config.Ports{port}
			}},
			inputKey{name: "dbname", setting: config.EnvDBName, use: fromOperator, set: func(c *config.Config, v string) {
				c.DBName = v
			}}),
		hint:   "CloudNativePG creates it for the cluster: check that the cluster exists in this namespace",
		volume: volumeDatabase, directory: dirDatabase,
	},
	{
		field: "spec.database.caSecretRef", gvk: gvkSecret,
		ref:    func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference { return g.Spec.Database.CASecretRef },
		keys:   []inputKey{{name: caCertificate, setting: config.EnvDBSSLRootCert, use: pathOfFile}},
		volume: volumeCA, directory: dirCA,
	},
	{
		// keys.go copies these into the operator's own Secret, which the pods mount.
		field: "spec.keys.passphraseSecretRef", gvk: gvkSecret,
		ref: func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference { return g.Spec.Keys.PassphraseSecretRef },
		keys: []inputKey{
			{name: config.EnvAccessPassphrase, use: onlyOperator}, {name: config.EnvRefreshPassphrase, use: onlyOperator},
		},
	},
	{
		field: "spec.email.smtp.credentialsSecretRef", gvk: gvkSecret,
		ref: func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference { return smtpOf(g).CredentialsSecretRef },
		keys: []inputKey{
			{name: credentialsUsername, setting: config.EnvSMTPUsername, use: inVariable},
			{name: credentialsPassword, setting: config.EnvSMTPPassword, use: inFile},
		},
		volume: volumeMail, directory: dirMail,
	},
	{
		field: "spec.email.webhook.secretRef", gvk: gvkSecret,
		ref: func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference {
			if e := g.Spec.Email; e != nil && e.Webhook != nil {
				return &e.Webhook.SecretRef
			}
			return nil
		},
		keys:   []inputKey{{name: "secret", setting: config.EnvMailWebhookSecret, use: inFile}},
		volume: volumeMail, directory: dirMail, // the schema allows SMTP or a webhook, not both
	},
	{
		field: "spec.email.smtp.caSecretRef", gvk: gvkSecret,
		ref:    func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference { return smtpOf(g).CASecretRef },
		keys:   []inputKey{{name: caCertificate, setting: config.EnvSMTPCAFile, use: pathOfFile}},
		volume: volumeMailCA, directory: dirMailCA,
	},
	{
		field: "spec.email.templatesConfigMapRef", gvk: gvkConfigMap,
		ref: func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference {
			if e := g.Spec.Email; e != nil {
				return e.TemplatesConfigMapRef
			}
			return nil
		},
		hint:   "create it with a file for each template, or leave templatesConfigMapRef out for the built-in ones",
		volume: volumeTemplates, directory: dirTemplates, directorySetting: config.EnvMailTemplatesDir,
	},
	{
		field: "spec.eventWebhook.secretRef", gvk: gvkSecret,
		ref: func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference {
			if w := g.Spec.EventWebhook; w != nil {
				return &w.SecretRef
			}
			return nil
		},
		keys:   []inputKey{{name: "secret", setting: config.EnvEventWebhookSecret, use: inFile}},
		volume: volumeEvents, directory: dirEvents,
	},
	{
		field: "spec.passwords.migration.secretRef", gvk: gvkSecret,
		ref: func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference {
			if m := g.Spec.Passwords.Migration; m != nil {
				return &m.SecretRef
			}
			return nil
		},
		keys:   []inputKey{{name: "secret", setting: config.EnvPasswordMigrationSecret, use: inFile}},
		volume: volumeMigration, directory: dirMigration,
	},
	{
		field: "spec.tracing.headersSecretRef", gvk: gvkSecret,
		ref:    func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference { return tracingOf(g).HeadersSecretRef },
		keys:   []inputKey{{name: "headers", setting: config.EnvOTelHeaders, use: inFile}},
		volume: volumeTracing, directory: dirTracing,
	},
	{
		field: "spec.tracing.caSecretRef", gvk: gvkSecret,
		ref:    func(g *v1alpha1.AuthGateway) *v1alpha1.LocalReference { return tracingOf(g).CASecretRef },
		keys:   []inputKey{{name: caCertificate, setting: config.EnvOTelCertificate, use: pathOfFile}},
		volume: volumeTracingCA, directory: dirTracingCA,
	},
}

// smtpOf returns the mail server of a spec, or the zero value.
func smtpOf(g *v1alpha1.AuthGateway) v1alpha1.SMTP {
	if e := g.Spec.Email; e != nil && e.SMTP != nil {
		return *e.SMTP
	}
	return v1alpha1.SMTP{}
}

// tracingOf returns the collector of a spec, or the zero value.
func tracingOf(g *v1alpha1.AuthGateway) v1alpha1.Tracing {
	if t := g.Spec.Tracing; t != nil {
		return *t
	}
	return v1alpha1.Tracing{}
}

var databaseKeys = []inputKey{
	{name: credentialsUsername, setting: config.EnvDBUser, use: inVariable},
	{name: credentialsPassword, setting: config.EnvDBPassword, use: inFile},
}

// inputsOf yields the inputs that a spec refers to, with the name of the object.
func inputsOf(g *v1alpha1.AuthGateway) iter.Seq2[input, string] {
	return func(yield func(input, string) bool) {
		for _, in := range inputs {
			if ref := in.ref(g); ref != nil && !yield(in, ref.Name) {
				return
			}
		}
	}
}

// inputNames returns the names of the inputs of a kind, for the indices by which
// a change of an input finds its gateways.
func inputNames(g *v1alpha1.AuthGateway, gvk schema.GroupVersionKind) (names []string) {
	for in, name := range inputsOf(g) {
		if in.gvk == gvk {
			names = append(names, name)
		}
	}
	return names
}

// file returns where the pods have a key.
func (in input) file(k inputKey) string { return in.directory + "/" + k.name }

// mount returns how pods that read certain settings get an input, and false if they get no file of it.
func (in input) mount(object string, reads func(setting string) bool) (mount, bool) {
	m := mount{volume: in.volume, directory: in.directory, gvk: in.gvk, object: object}
	for _, k := range in.keys {
		if (k.use == inFile || k.use == pathOfFile) && reads(k.setting) {
			m.items = append(m.items, k.name)
		}
	}
	return m, len(in.keys) == 0 && reads(in.directorySetting) || len(m.items) > 0
}

// problem returns what is wrong with an input, or nil.
func (in input) problem(cs *clusterState, name string) *problem {
	var required []string
	for _, k := range in.keys {
		required = append(required, k.name)
	}
	secret, isSecret := cs.inputs[name], in.gvk == gvkSecret
	if isSecret && secret == nil || !isSecret && cs.configMaps[name] == nil {
		reason, hint := v1alpha1.ReasonSecretMissing, in.hint
		if !isSecret {
			reason = v1alpha1.ReasonConfigMapMissing
		}
		if hint == "" {
			hint = "create it with the keys " + strings.Join(required, ", ")
		}
		return waiting(reason, "the %s %s (%s) does not exist in namespace %s: %s",
			in.gvk.Kind, name, in.field, cs.names.namespace, hint)
	}
	var missing []string
	for _, key := range required {
		if len(secret.Data[key]) == 0 {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		return waiting(v1alpha1.ReasonSecretInvalid,
			"the Secret %s (%s) has no value for %s: add it", name, in.field, strings.Join(missing, ", "))
	}
	return nil
}

// missingInputs returns the first input that keeps the Deployment from being
// applied. When the missing object appears, its event starts a reconcile.
func (cs *clusterState) missingInputs() *problem {
	for in, name := range inputsOf(cs.gateway) {
		if p := in.problem(cs, name); p != nil {
			return p
		}
	}
	return nil
}

// secretValue returns the value of a key of a Secret that the spec refers to, or "".
func (cs *clusterState) secretValue(name, key string) string {
	if secret := cs.inputs[name]; secret != nil {
		return string(secret.Data[key])
	}
	return ""
}

// inputSecrets returns the content of every key that a pod reads when it starts.
// fromOperator is not among them: it changes the environment.
func (cs *clusterState) inputSecrets() (contents []string) {
	for in, name := range inputsOf(cs.gateway) {
		secret := cs.inputs[name]
		if in.gvk != gvkSecret || secret == nil {
			continue
		}
		for _, k := range in.keys {
			if k.use != fromOperator && k.use != onlyOperator {
				contents = append(contents, string(secret.Data[k.name]))
			}
		}
	}
	return contents
}

// inputConfigMaps returns the ConfigMaps that pods read when they start.
func (cs *clusterState) inputConfigMaps() (all []*corev1.ConfigMap) {
	for in, name := range inputsOf(cs.gateway) {
		if c := cs.configMaps[name]; in.gvk == gvkConfigMap && c != nil {
			all = append(all, c)
		}
	}
	return all
}

// contentDigest changes with the content of ConfigMaps. It is "" if there are none.
func contentDigest(all ...*corev1.ConfigMap) string {
	if len(all) == 0 {
		return ""
	}
	hash := sha256.New()
	for _, c := range all {
		for _, name := range slices.Sorted(maps.Keys(c.Data)) {
			fmt.Fprintf(hash, "%q %q\n", name, c.Data[name])
		}
		for _, name := range slices.Sorted(maps.Keys(c.BinaryData)) {
			fmt.Fprintf(hash, "%q %q binary\n", name, c.BinaryData[name])
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:16])
}

// inputOf names the input, or the key of it, that a setting comes from. It
// returns "" if the setting does not come from an input.
func inputOf(g *v1alpha1.AuthGateway, setting string) string {
	for in, name := range inputsOf(g) {
		for _, k := range in.keys {
			switch {
			case k.setting != setting:
			case k.use == pathOfFile: // the setting is the path, so the content cannot be wrong
				return in.field
			default:
				return fmt.Sprintf("key %s of Secret %s", k.name, name)
			}
		}
		if in.directorySetting == setting {
			return in.field
		}
	}
	return ""
}
