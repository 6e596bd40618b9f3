package controllers

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// Gateways that refer to every input there is, in two parts: SMTP and a webhook
// exclude each other, as do the two ways to name a database.
func withSMTP(g *v1alpha1.AuthGateway) {
	s := &g.Spec
	s.Database.CASecretRef, s.Database.SSLMode = refTo("ca"), "verify-full"
	s.Keys.PassphraseSecretRef = refTo("own")
	s.Authz.Policies = []v1alpha1.AuthzPolicy{{Name: "orders"}}
	s.Email = &v1alpha1.Email{
		SMTP: &v1alpha1.SMTP{
			Host: "mail", From: "a@example.com", CredentialsSecretRef: refTo("mail"), CASecretRef: refTo("ca"),
		},
		TemplatesConfigMapRef: refTo("mails"),
	}
}

func withWebhook(g *v1alpha1.AuthGateway) {
	g.Spec.Database = v1alpha1.Database{CloudNativePG: &v1alpha1.CloudNativePG{Cluster: "pg"}}
	g.Spec.Email = &v1alpha1.Email{Webhook: &v1alpha1.MailWebhook{
		URL: "https://mailer.example.com/", SecretRef: *refTo("hook"),
	}}
	g.Spec.EventWebhook = &v1alpha1.EventWebhook{URL: "https://events.example.com/", SecretRef: *refTo("events")}
	g.Spec.Tracing = &v1alpha1.Tracing{Endpoint: "https://collector.example.com", HeadersSecretRef: refTo("traces"), CASecretRef: refTo("collector-ca")}
	g.Spec.Passwords.Migration = &v1alpha1.PasswordMigration{URL: "https://example.com/password", SecretRef: *refTo("former")}
}

func TestInputsThatAreMissingAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		of     func(*v1alpha1.AuthGateway)
		change func(*clusterState)
		reason string
		words  []string
	}{
		{"all there", withSMTP, func(*clusterState) {}, "", nil},
		{"all there, otherwise", withWebhook, func(*clusterState) {}, "", nil},
		{
			"credentials", withSMTP, func(cs *clusterState) { delete(cs.inputs, "auth-db") }, v1alpha1.ReasonSecretMissing,
			[]string{" auth-db ", "spec.database.credentialsSecretRef", "username, password", "namespace shop"},
		},
		{
			"an empty password", withSMTP, func(cs *clusterState) { cs.inputs["auth-db"].Data["password"] = nil },
			v1alpha1.ReasonSecretInvalid, []string{"auth-db", "password"},
		},
		{
			"credentials of CloudNativePG", withWebhook, func(cs *clusterState) { delete(cs.inputs, "pg-app") },
			v1alpha1.ReasonSecretMissing, []string{"pg-app", "CloudNativePG"},
		},
		{
			"a certificate", withSMTP, func(cs *clusterState) { delete(cs.inputs, "ca") }, v1alpha1.ReasonSecretMissing,
			[]string{" ca ", "spec.database.caSecretRef", "ca.crt"},
		},
		{
			"a certificate by another key", withSMTP, func(cs *clusterState) { delete(cs.inputs["ca"].Data, "ca.crt") },
			v1alpha1.ReasonSecretInvalid, []string{" ca ", "ca.crt"},
		},
		{
			"passphrases", withSMTP, func(cs *clusterState) { delete(cs.inputs, "own") }, v1alpha1.ReasonSecretMissing,
			[]string{" own ", "spec.keys.passphraseSecretRef", "ACCESS_PASSPHRASE, REFRESH_PASSPHRASE"},
		},
		{
			"mail credentials", withSMTP, func(cs *clusterState) { delete(cs.inputs, "mail") }, v1alpha1.ReasonSecretMissing,
			[]string{" mail ", "spec.email.smtp.credentialsSecretRef", "username, password"},
		},
		{
			"an empty mail user", withSMTP, func(cs *clusterState) { cs.inputs["mail"].Data["username"] = nil },
			v1alpha1.ReasonSecretInvalid, []string{" mail ", "username"},
		},
		{
			"a mail certificate", func(g *v1alpha1.AuthGateway) {
				withSMTP(g)
				g.Spec.Email.SMTP.CASecretRef = refTo("mail-ca")
			}, func(cs *clusterState) { delete(cs.inputs, "mail-ca") }, v1alpha1.ReasonSecretMissing,
			[]string{" mail-ca ", "spec.email.smtp.caSecretRef", "ca.crt"},
		},
		{
			"a webhook's key", withWebhook, func(cs *clusterState) { delete(cs.inputs, "hook") }, v1alpha1.ReasonSecretMissing,
			[]string{" hook ", "spec.email.webhook.secretRef", "secret"},
		},
		{
			"an event webhook's key", withWebhook, func(cs *clusterState) { delete(cs.inputs, "events") }, v1alpha1.ReasonSecretMissing,
			[]string{" events ", "spec.eventWebhook.secretRef", "secret"},
		},
		{
			"the key of a migration", withWebhook, func(cs *clusterState) { delete(cs.inputs, "former") }, v1alpha1.ReasonSecretMissing,
			[]string{" former ", "spec.passwords.migration.secretRef", "secret"},
		},
		{
			"the header fields of the collector", withWebhook, func(cs *clusterState) { delete(cs.inputs, "traces") }, v1alpha1.ReasonSecretMissing,
			[]string{" traces ", "spec.tracing.headersSecretRef", "headers"},
		},
		{
			"templates", withSMTP, func(cs *clusterState) { delete(cs.configMaps, "mails") }, v1alpha1.ReasonConfigMapMissing,
			[]string{" mails ", "spec.email.templatesConfigMapRef", "leave templatesConfigMapRef out"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cs := newState(newGateway(t, c.of))
			c.change(cs)
			p := cs.missingInputs()
			if p == nil {
				p = &problem{}
			}
			if p.reason != c.reason || p.stalled { // not stalled: the operator notices when it appears
				t.Errorf("the problem is %+v, want %s", p, c.reason)
			}
			contains(t, p.message, c.words...)
		})
	}
}

// Pods are replaced when what they read at their start changes, and only then.
func TestInputsReplacePodsWhenTheyChange(t *testing.T) {
	t.Parallel()
	for _, of := range []func(*v1alpha1.AuthGateway){withSMTP, withWebhook} {
		g := newGateway(t, of)
		template := func(change func(*clusterState)) string {
			cs, found := running(t, g)
			change(cs)
			found.digestKey = make([]byte, 32)
			r := renderingOf(cs, found)
			return r.inputsDigest + r.configMapsDigest
		}
		before := template(func(*clusterState) {})
		for in, name := range inputsOf(g) {
			for _, k := range in.keys {
				after := template(func(cs *clusterState) { cs.inputs[name].Data[k.name] = []byte("another") })
				read := k.use != fromOperator && k.use != onlyOperator
				if (after != before) != read {
					t.Errorf("%s: a change of %s replaces the pods: %v", in.field, k.name, after != before)
				}
			}
			if in.gvk == gvkSecret {
				if template(func(cs *clusterState) { cs.inputs[name].Data["unused"] = []byte("another") }) != before {
					t.Errorf("%s: a key that no pod reads replaces the pods", in.field)
				}
				continue
			}
			for what, change := range map[string]func(*corev1.ConfigMap){
				"a template":          func(c *corev1.ConfigMap) { c.Data["verification.txt"] = "another" },
				"one more template":   func(c *corev1.ConfigMap) { c.BinaryData = map[string][]byte{"reset.txt": {0xff}} },
				"a label":             func(c *corev1.ConfigMap) { c.Labels = map[string]string{"a": "b"} },
				"its resourceVersion": func(c *corev1.ConfigMap) { c.ResourceVersion = "9" },
			} {
				after := template(func(cs *clusterState) { change(cs.configMaps[name]) })
				if read := strings.Contains(what, "template"); (after != before) != read {
					t.Errorf("%s: a change of %s replaces the pods: %v", in.field, what, after != before)
				}
			}
		}
	}
}

// The host, the port and the name of CloudNativePG's database are settings.
func TestInputsFromOperatorAreSettings(t *testing.T) {
	t.Parallel()
	cs := newState(newGateway(t, withWebhook))
	cs.inputs["pg-app"].Data["host"] = []byte("pg-moved")
	if got := environment(cs); got["DB_HOST"] != "pg-moved" || got["DB_PORT"] != "5433" || got["DB_NAME"] != "app" {
		t.Errorf("the environment is %v", got)
	}
}

// A row of the table is all that a new input needs: it is indexed, required, mounted,
// digested, set and named in errors.
func TestInputsTakeANewRow(t *testing.T) { // not parallel: it changes the table
	was := inputs
	t.Cleanup(func() { inputs = was })
	inputs = append(slices.Clone(was), input{
		field: "spec.invented.secretRef", gvk: gvkSecret,
		ref:    func(*v1alpha1.AuthGateway) *v1alpha1.LocalReference { return refTo("invented") },
		keys:   []inputKey{{name: "token", setting: "INVENTED_TOKEN", use: inFile}},
		volume: "invented", directory: dirSettings + "/invented",
	})
	g := newGateway(t)
	if names := inputNames(g, gvkSecret); !slices.Contains(names, "invented") {
		t.Errorf("a change of the Secret does not enqueue its gateway: %v", names)
	}
	cs, found := running(t, g)
	delete(cs.inputs, "invented")
	if p := cs.missingInputs(); p == nil || p.reason != v1alpha1.ReasonSecretMissing {
		t.Errorf("the missing Secret is not reported: %v", p)
	} else {
		contains(t, p.message, "spec.invented.secretRef", "token")
	}
	cs.inputs["invented"] = &corev1.Secret{Data: map[string][]byte{"token": []byte("one")}}
	before := renderingOf(cs, found)
	cs.inputs["invented"].Data["token"] = []byte("two")
	if after := renderingOf(cs, found); after.inputsDigest == before.inputsDigest {
		t.Error("a change does not replace the pods")
	}
	template := renderPod(before)
	mounted := false
	for _, m := range template.Spec.Containers[0].VolumeMounts {
		mounted = mounted || *m.MountPath == "/etc/authserver/invented"
	}
	if !mounted {
		t.Error("the Secret is not mounted")
	}
	if got := environment(cs)["INVENTED_TOKEN_FILE"]; got != "/etc/authserver/invented/token" {
		t.Errorf("the setting is %q", got)
	}
	if got := fieldOf(g, "INVENTED_TOKEN"); got != "key token of Secret invented" {
		t.Errorf("an error names %q", got)
	}
}
