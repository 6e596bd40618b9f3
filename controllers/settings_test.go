package controllers

import (
	"maps"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

func smtp(change func(*v1alpha1.SMTP)) func(*v1alpha1.AuthGatewaySpec) {
	return func(s *v1alpha1.AuthGatewaySpec) {
		s.Email = &v1alpha1.Email{SMTP: &v1alpha1.SMTP{Host: "mail", From: "a@example.com"}}
		change(s.Email.SMTP)
	}
}

func public(s *v1alpha1.AuthGatewaySpec) {
	smtp(func(m *v1alpha1.SMTP) { m.CredentialsSecretRef = refTo("mail") })(s)
	s.Exposure = v1alpha1.ExposurePublic
	s.Email.Links = &v1alpha1.EmailLinks{Verification: "https://example.com/verify#{code}"}
	s.Issuer, s.TrustedProxyHops = "https://auth.example.com", 1
}

func TestSettingsFollowFromTheSpec(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*v1alpha1.AuthGatewaySpec)
		want   map[string]string
		absent []string // the server's default is the same
	}{
		"the smallest": {
			func(*v1alpha1.AuthGatewaySpec) {},
			map[string]string{
				"DB_HOST": "postgres.shop.svc", "DB_NAME": "auth", "ISSUER": "http://auth.shop.svc",
				"DB_PASSWORD_FILE": "/etc/authserver/database/password",
			},
			[]string{"AUTHZ_POLICIES", "AUTHZ_PORT", "CORS_ALLOWED_ORIGINS", "TRUSTED_PROXY_HOPS", "SIGNUP_REQUIRED", "DB_SSLROOTCERT", "DB_PORT"},
		},
		"a public gateway": {
			public,
			map[string]string{
				"EXPOSURE": "public", "SMTP_HOST": "mail", "MAIL_FROM": "a@example.com",
				"MAIL_LINK_VERIFICATION": "https://example.com/verify#{code}",
				"SMTP_PASSWORD_FILE":     "/etc/authserver/mail/password",
			},
			[]string{
				"LIMIT_SIGNIN", "LIMIT_SIGNUP", "LIMIT_CODES", "LIMIT_MAILS", "REFRESH_TOKEN_ROTATION", "SMTP_PORT",
				"SMTP_TLS", "SMTP_CONNECTIONS", "MAIL_GIVE_UP_AFTER",
			},
		},
		"origins and proxies": {
			func(s *v1alpha1.AuthGatewaySpec) {
				s.CORS = &v1alpha1.CORS{AllowedOrigins: []string{"https://app.example.com", "http://[::1]:3000"}}
				s.TrustedProxyHops = 2
			},
			map[string]string{
				"CORS_ALLOWED_ORIGINS": "https://app.example.com,http://[::1]:3000", "TRUSTED_PROXY_HOPS": "2",
			}, nil,
		},
		"policies": {
			func(s *v1alpha1.AuthGatewaySpec) {
				s.Authz.Port = 9000
				s.Authz.Policies = []v1alpha1.AuthzPolicy{
					{Name: "orders", Scopes: []string{"orders:read", "<a&b>"}, AnyScope: []string{"c"}, Audience: "shop", MaxAge: "90m"},
					{Name: "shop", Anonymous: true, FailClosed: true},
				}
			},
			map[string]string{"AUTHZ_PORT": "9000", "AUTHZ_POLICIES": `[{"name":"orders","scopes":["orders:read","<a&b>"],"anyScope":["c"],` +
				`"audience":"shop","maxAge":"1h30m"},{"name":"shop","anonymous":true,"failClosed":true}]`}, nil,
		},
		"limits": {
			func(s *v1alpha1.AuthGatewaySpec) {
				s.TrustedProxyHops, s.TrustedProxyField = 1, v1alpha1.ProxyFieldXForwardedFor
				s.Limits = v1alpha1.Limits{
					SignIn: "10/1m", SignUp: v1alpha1.Unlimited, Codes: "5/1h30m", Mails: v1alpha1.Unlimited, Writes: "7/1m",
				}
			},
			map[string]string{
				"LIMIT_SIGNIN": "10/1m", "LIMIT_SIGNUP": "off", "LIMIT_CODES": "5/1h30m", "LIMIT_MAILS": "off",
				"LIMIT_WRITES": "7/1m", "TRUSTED_PROXY_FIELD": "X-Forwarded-For",
			}, nil,
		},
		"several hosts, and the name of the service": {
			func(s *v1alpha1.AuthGatewaySpec) {
				smtp(func(*v1alpha1.SMTP) {})(s)
				s.Database.Host, s.Email.ServiceName = "pg-1.example.com,fd00::5", "Example Shop"
			},
			map[string]string{"DB_HOST": "pg-1.example.com,fd00::5", "SERVICE_NAME": "Example Shop"}, nil,
		},
		"no name is required": {
			func(s *v1alpha1.AuthGatewaySpec) { s.SignUp.Required = []v1alpha1.PersonName{} },
			map[string]string{"SIGNUP_REQUIRED": "none"}, nil,
		},
		"two names are required": {
			func(s *v1alpha1.AuthGatewaySpec) {
				s.SignUp.Required = []v1alpha1.PersonName{v1alpha1.LastName, v1alpha1.Username}
			},
			map[string]string{"SIGNUP_REQUIRED": "username,last_name"}, nil,
		},
		"claims": {
			func(s *v1alpha1.AuthGatewaySpec) {
				s.Tokens.Claims = []string{"plan", "https://shop.example.com/seats"}
			},
			map[string]string{"TOKEN_CLAIMS": "plan,https://shop.example.com/seats"}, nil,
		},
		"times": {
			func(s *v1alpha1.AuthGatewaySpec) {
				s.Shutdown = v1alpha1.Shutdown{DrainDelay: "90s", GracePeriod: "3m"}
				s.Audit.Retention, s.Tokens.AccessTokenTTL = "0s", "5m"
			},
			map[string]string{
				"DRAIN_DELAY": "1m30s", "SHUTDOWN_TIMEOUT": "2m50s", "AUDIT_RETENTION": "0s", "ACCESS_TOKEN_EXPIRY": "300",
			}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := environment(newState(newGateway(t, spec(c.change))))
			for setting, value := range c.want {
				if got[setting] != value {
					t.Errorf("%s is %q, want %q", setting, got[setting], value)
				}
			}
			for _, setting := range c.absent {
				if value, there := got[setting]; there {
					t.Errorf("%s is set to %q", setting, value)
				}
			}
		})
	}
}

// mailMounts returns the mounts of a pod that are for mail, and their content.
func mailMounts(pod corev1.PodSpec) map[string]string {
	all := map[string]string{}
	for _, v := range pod.Volumes {
		if !strings.HasPrefix(v.Name, "mail") {
			continue
		}
		content := ""
		switch {
		case v.Secret != nil:
			content = "Secret " + v.Secret.SecretName
			for _, item := range v.Secret.Items {
				content += " " + item.Key
			}
		case v.ConfigMap != nil:
			content = "ConfigMap " + v.ConfigMap.Name
		}
		for _, m := range pod.Containers[0].VolumeMounts {
			if m.Name == v.Name && m.ReadOnly && m.SubPath == "" {
				all[m.MountPath] = content
			}
		}
	}
	return all
}

func TestSettingsOfMailComeWithTheirFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		email    *v1alpha1.Email
		mounts   map[string]string
		settings map[string]string
	}{
		"no mail": {},
		"a mail server without credentials": {
			&v1alpha1.Email{SMTP: &v1alpha1.SMTP{Host: "mail", From: "a@example.com", TLS: "None"}}, nil,
			map[string]string{"SMTP_HOST": "mail", "SMTP_TLS": "none", "MAIL_FROM": "a@example.com"},
		},
		"everything": {
			&v1alpha1.Email{
				SMTP: &v1alpha1.SMTP{
					Host: "mail", Port: 465, TLS: "Implicit", From: "A <a@example.com>",
					CredentialsSecretRef: refTo("mail"), CASecretRef: refTo("ca"),
				},
				TemplatesConfigMapRef: refTo("mails"), MaxConnections: 2, GiveUpAfter: "1h",
			},
			map[string]string{
				"/etc/authserver/mail": "Secret mail password", "/etc/authserver/mail-ca": "Secret ca ca.crt",
				"/etc/authserver/mail-templates": "ConfigMap mails",
			},
			map[string]string{
				"SMTP_HOST": "mail", "SMTP_PORT": "465", "SMTP_TLS": "implicit", "MAIL_FROM": "A <a@example.com>",
				"SMTP_CA_FILE": "/etc/authserver/mail-ca/ca.crt", "SMTP_USERNAME": "key username of Secret mail",
				"SMTP_PASSWORD_FILE": "/etc/authserver/mail/password",
				"MAIL_TEMPLATES_DIR": "/etc/authserver/mail-templates", "SMTP_CONNECTIONS": "2", "MAIL_GIVE_UP_AFTER": "1h",
			},
		},
		"a webhook": {
			&v1alpha1.Email{Webhook: &v1alpha1.MailWebhook{URL: "https://mailer.example.com/", SecretRef: *refTo("hook")}},
			map[string]string{"/etc/authserver/mail": "Secret hook secret"},
			map[string]string{
				"MAIL_WEBHOOK_URL":         "https://mailer.example.com/",
				"MAIL_WEBHOOK_SECRET_FILE": "/etc/authserver/mail/secret",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs, found := running(t, newGateway(t, spec(func(s *v1alpha1.AuthGatewaySpec) { s.Email = c.email })))
			d := as[appsv1.Deployment](t, renderDeployment(renderingOf(cs, found)))
			template := d.Spec.Template
			if got := mailMounts(template.Spec); !maps.Equal(got, c.mounts) {
				t.Errorf("the mounts are %v, want %v", got, c.mounts)
			}
			environ := variables(template.Spec.Containers[0])
			maps.DeleteFunc(environ, func(name, _ string) bool {
				return !strings.HasPrefix(name, "SMTP_") && !strings.HasPrefix(name, "MAIL_")
			})
			if !maps.Equal(environ, c.settings) {
				t.Errorf("the settings are %v, want %v", environ, c.settings)
			}
			_, annotated := template.Annotations["authgateway.io/templates"]
			if _, mounted := c.mounts["/etc/authserver/mail-templates"]; annotated != mounted {
				t.Errorf("the annotations are %v", template.Annotations)
			}
		})
	}
}

func TestSettingsOfTraces(t *testing.T) {
	t.Parallel()
	cs, found := running(t, newGateway(t, withWebhook))
	pod := as[appsv1.Deployment](t, renderDeployment(renderingOf(cs, found))).Spec.Template.Spec
	environ := variables(pod.Containers[0])
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example.com", "OTEL_SERVICE_NAME": "auth",
		"OTEL_RESOURCE_ATTRIBUTES": "service.namespace=" + cs.names.namespace, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
		"OTEL_TRACES_SAMPLER_ARG": "0.01", "OTEL_EXPORTER_OTLP_HEADERS_FILE": "/etc/authserver/tracing/headers",
		"OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc/authserver/tracing-ca/ca.crt", "OTEL_EXPORTER_OTLP_HEADERS": "",
	} {
		if environ[name] != value {
			t.Errorf("%s is %q, want %q", name, environ[name], value)
		}
	}
	cs, found = running(t, newGateway(t))
	pod = as[appsv1.Deployment](t, renderDeployment(renderingOf(cs, found))).Spec.Template.Spec
	for name := range variables(pod.Containers[0]) {
		if strings.HasPrefix(name, config.OTelPrefix) {
			t.Errorf("without spec.tracing, the pods have %s", name)
		}
	}
}

func TestSettingsOfAnEventWebhookComeWithItsFile(t *testing.T) {
	t.Parallel()
	cs, found := running(t, newGateway(t, withWebhook))
	pod := as[appsv1.Deployment](t, renderDeployment(renderingOf(cs, found))).Spec.Template.Spec
	environ := variables(pod.Containers[0])
	if environ["EVENT_WEBHOOK_URL"] != "https://events.example.com/" ||
		environ["EVENT_WEBHOOK_SECRET_FILE"] != "/etc/authserver/event-webhook/secret" || environ["EVENT_WEBHOOK_SECRET"] != "" {
		t.Errorf("the settings are %v", environ)
	}
	for _, v := range pod.Volumes {
		if v.Name == "event-webhook" && v.Secret != nil && v.Secret.SecretName == "events" &&
			len(v.Secret.Items) == 1 && v.Secret.Items[0].Key == "secret" {
			return
		}
	}
	t.Errorf("the volumes are %+v", pod.Volumes)
}

// The server's own rules refuse what the schema has no rule for. The message names
// the field, and does not contain a secret.
func TestSettingsThatTheServerRefusesAreNamedByTheirField(t *testing.T) {
	t.Parallel()
	state := keys.PassphraseState{Current: map[keys.Use]string{
		keys.Access: "a passphrase for access", keys.Refresh: "a passphrase for refresh",
	}}
	const secret = "not in base64"
	for name, c := range map[string]struct {
		change func(*v1alpha1.AuthGateway)
		inputs func(*clusterState)
		words  []string // empty: the server accepts it
	}{
		"the smallest":        {func(*v1alpha1.AuthGateway) {}, nil, nil},
		"everything":          {withSMTP, nil, nil},
		"everything, by hook": {withWebhook, nil, nil},
		"an address with an open comment (RFC 5322)": {
			spec(smtp(func(m *v1alpha1.SMTP) { m.From = "Example(Inc <a@example.com>" })), nil,
			[]string{"spec.email.smtp.from: ", "such as no-reply@example.com"},
		},
		"an IPv6 address in another form": {
			spec(func(s *v1alpha1.AuthGatewaySpec) {
				s.CORS = &v1alpha1.CORS{AllowedOrigins: []string{"https://app.example.com", "http://[0::1]:3000"}}
			}), nil, []string{"spec.cors.allowedOrigins: ", "write http://[::1]:3000"},
		},
		"a name of more than 255 bytes": {
			spec(func(s *v1alpha1.AuthGatewaySpec) {
				smtp(func(*v1alpha1.SMTP) {})(s)
				s.Email.ServiceName = strings.Repeat("ö", 200)
			}), nil, []string{"spec.email.serviceName", "at most 255 bytes"},
		},
		"every member of a policy": {
			spec(func(s *v1alpha1.AuthGatewaySpec) {
				s.Authz.Policies = []v1alpha1.AuthzPolicy{{
					Name: "orders", Scopes: []string{"!#[]~$(HOME)"}, AnyScope: []string{"a"}, Audience: "a", MaxAge: "8760h",
					Anonymous: true, FailClosed: true,
				}}
			}), nil, nil,
		},
		"a claim of the gateway": {
			spec(func(s *v1alpha1.AuthGatewaySpec) { s.Tokens.Claims = []string{"plan", "groups"} }), nil,
			[]string{"spec.tokens.claims: ", "name of a claim of the gateway, or a registered one"},
		},
		"a policy twice": {
			spec(func(s *v1alpha1.AuthGatewaySpec) {
				s.Authz.Policies = []v1alpha1.AuthzPolicy{{Name: "orders"}, {Name: "orders"}}
			}), nil, []string{"spec.authz.policies: ", `policy "orders": occurs twice`},
		},
		"a port that is not a number": {
			withWebhook, func(cs *clusterState) { cs.inputs["pg-app"].Data["port"] = []byte("none") },
			[]string{"key port of Secret pg-app"},
		},
		"a webhook's key that is not one": {
			withWebhook, func(cs *clusterState) { cs.inputs["hook"].Data["secret"] = []byte(secret) },
			[]string{"key secret of Secret hook", "openssl rand -base64 32"},
		},
		"an event webhook's key that is not one": {
			withWebhook, func(cs *clusterState) { cs.inputs["events"].Data["secret"] = []byte(secret) },
			[]string{"key secret of Secret events", "openssl rand -base64 32"},
		},
		"a migration's key that is not one": {
			withWebhook, func(cs *clusterState) { cs.inputs["former"].Data["secret"] = []byte(secret) },
			[]string{"key secret of Secret former", "openssl rand -base64 32"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs := newState(newGateway(t, c.change))
			if c.inputs != nil {
				c.inputs(cs)
			}
			err := check(cs, state, "a key for trusted callers")
			switch {
			case len(c.words) == 0 && err != nil:
				t.Error(err)
			case len(c.words) > 0 && err == nil:
				t.Error("the server accepts it")
			case err != nil:
				contains(t, err.Error(), c.words...)
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the message contains the secret: %v", err)
				}
			}
		})
	}
}

func TestSettingsOfAPasswordMigrationReachTheServer(t *testing.T) {
	t.Parallel()
	for url, g := range map[string]*v1alpha1.AuthGateway{
		"": newGateway(t, withSMTP), "https://example.com/password": newGateway(t, withWebhook),
	} {
		cs, found := running(t, g)
		pod := as[appsv1.Deployment](t, renderDeployment(renderingOf(cs, found))).Spec.Template.Spec
		environ := variables(pod.Containers[0])
		file, secret := "", ""
		if url != "" {
			file, secret = "/etc/authserver/password-migration/secret", "former"
		}
		if environ["PASSWORD_MIGRATION_URL"] != url || environ["PASSWORD_MIGRATION_SECRET_FILE"] != file {
			t.Errorf("%q: the settings are %v", url, environ)
		}
		mounted := ""
		for _, v := range pod.Volumes {
			if v.Name == "password-migration" {
				mounted = v.Secret.SecretName
			}
		}
		if mounted != secret {
			t.Errorf("%q: the Secret %q is mounted", url, mounted)
		}
	}
}

// The kubelet replaces $(NAME) and $$ in the values of a container.
func TestSettingsReachTheServerAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	const name = "Example $(DB_USER) $$ $"
	cs := newState(newGateway(t, spec(smtp(func(*v1alpha1.SMTP) {})), func(g *v1alpha1.AuthGateway) {
		g.Spec.Email.ServiceName = name
	}))
	for _, e := range environmentOf(environment(cs)) {
		if *e.Name == config.EnvServiceName {
			if want := "Example $$(DB_USER) $$$$ $$"; *e.Value != want {
				t.Errorf("SERVICE_NAME is %q, want %q", *e.Value, want)
			}
			return
		}
	}
	t.Error("the container has no SERVICE_NAME")
}

// Every setting that the operator sets has a name that users know. A newcomer to the
// spec would otherwise be missing from fields.
func TestSettingsHaveAFieldInMessages(t *testing.T) {
	t.Parallel()
	own := map[string]bool{ // not from the spec
		config.EnvHost: true, config.EnvKeysDir: true, config.EnvKeysPublished: true, config.EnvTerminationLog: true,
	}
	for _, of := range []func(*v1alpha1.AuthGateway){withSMTP, withWebhook, spec(public)} {
		g := newGateway(t, of)
		for name := range environment(newState(g)) {
			setting := strings.TrimSuffix(name, config.FileSuffix)
			_, ours := secretFiles(newGateway(t))[setting]
			if fieldOf(g, name) == name && fieldOf(g, setting) == setting && !own[setting] && !ours {
				t.Errorf("%s has no entry in fields", setting)
			}
		}
	}
}
