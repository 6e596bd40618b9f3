package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

type settings map[string]string

// twelve returns the settings of the smallest deployment.
func twelve() settings {
	return settings{
		"REFRESH_PASSPHRASE": "refresh-passphrase-1",
		"ACCESS_PASSPHRASE":  "access-passphrase-22",
		"DB_HOST":            "localhost",
		"DB_USER":            "auth",
		"DB_PASSWORD":        "database-password",
		"DB_NAME":            "auth",
	}
}

func load(environ settings) (config.Config, error) {
	return config.Load(lookup(environ), noFile)
}

func lookup(environ settings) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := environ[name]
		return value, ok
	}
}

func noFile(string) ([]byte, error) { return nil, errors.New("there are no files here") }

func with(changes settings) settings {
	environ := twelve()
	maps.Copy(environ, changes)
	return environ
}

func TestLoadGivesTheDefaults(t *testing.T) {
	got := testenv.Must(load(twelve()))(t)
	want := config.Config{
		Host: "localhost", Port: 8080, Issuer: "http://localhost:8080", DerivedIssuer: true, Audience: []string{"http://localhost:8080"},
		ClientID: "auth-gateway", AccessTokenTyp: config.TypAccessToken,
		AccessPassphrase: config.NewSecret("access-passphrase-22"), RefreshPassphrase: config.NewSecret("refresh-passphrase-1"),
		SigningAlgorithm: "ES256", KeyRotationInterval: 720 * time.Hour, KeyPublishLead: 15 * time.Minute,
		AccessTokenExpiry: 15 * time.Minute, RefreshTokenExpiry: 7 * 24 * time.Hour,
		RefreshTokenRotation: config.RotateWhenNeeded, RefreshReuseGrace: time.Minute,
		SessionLifetime: 2160 * time.Hour, SessionsPerUser: 100,
		Exposure: config.Internal, SignupScopes: []string{"profile", "email"}, SignupRequired: []string{"username", "first_name", "last_name"},
		TrustedProxyField: config.AnyField, IdleTimeout: 620 * time.Second,
		LimitWrites: config.Rate{Count: 300, Per: 5 * time.Minute}, LimitMails: config.Rate{Count: 3, Per: time.Hour}, ServiceName: "localhost", MailGiveUpAfter: 24 * time.Hour,
		SMTPPort: 587, SMTPTLS: config.StartTLS, SMTPConnections: 4,
		SaltRounds: 12, PasswordMinLength: 8, PasswordBlocklist: true, HashingMaxWait: time.Second,
		VerificationCodeExpiry: 24 * time.Hour, RecoveryCodeExpiry: 15 * time.Minute, InvitationCodeExpiry: 7 * 24 * time.Hour, UnverifiedAccountExpiry: 168 * time.Hour, AuditRetention: 2160 * time.Hour,
		DBHost: "localhost", DBPort: config.Ports{5432}, DBUser: "auth", DBPassword: config.NewSecret("database-password"), DBName: "auth",
		DBTargetSessionAttrs: config.ReadWrite, DBSSLMode: "prefer", DBMaxConns: 10, DBAcquireTimeout: 2 * time.Second, DBStatementTimeout: 5 * time.Second,
		MetricsPort: 9090, ShutdownTimeout: 15 * time.Second, LogLevel: slog.LevelInfo, LogFormat: "json",
		Traces: config.Traces{
			ServiceName: "authserver", Sampler: config.ParentBasedOn, SamplerArg: 1, Propagators: []string{"tracecontext"},
			QueueSize: 2048, BatchSize: 512, Delay: 5 * time.Second, BatchTime: 30 * time.Second,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%#v\nwant\n%#v", got, want)
	}
	if got.Address() != "localhost:8080" || got.MetricsAddress() != "localhost:9090" {
		t.Errorf("the addresses are %s and %s", got.Address(), got.MetricsAddress())
	}
}

func TestLoadNamesAWrongValueAndWhatToWrite(t *testing.T) {
	long := strings.Repeat("x", 5000)
	cases := []struct {
		name   string
		values []string
		want   string // in the message
	}{
		{"PORT", []string{"", "http", "8080.0", "0x50", " 8080"}, "whole number"},
		{"PORT", []string{"0", "-1", "65536", "99999999999999999999"}, "from 1 to 65535"},
		{"METRICS_PORT", []string{"-1", "65536"}, "from 0 to 65535"},
		{"METRICS_PORT", []string{"8080"}, "also the value of PORT"},
		{"AUTHZ_PORT", []string{"-1", "65536", "http"}, "from 0 to 65535"},
		{"AUTHZ_PORT", []string{"9000"}, "AUTHZ_POLICIES is not set, so nothing would be served there"},
		{"HOST", []string{"http://localhost", "localhost:8080", "[::1]", "a b", "-x", "é"}, "host name"},
		{"REFRESH_PASSPHRASE", []string{""}, "16 bytes or more"},
		{"ACCESS_PASSPHRASE", []string{""}, "16 bytes or more"},
		{"ACCESS_PASSPHRASE", []string{"tab\tinside", "nul\x00inside", "\xff\xfe"}, "control character"},
		{"ACCESS_PASSPHRASE", []string{long}, "5000 bytes"},
		{"REFRESH_TOKEN_EXPIRY", []string{"", "P1D", "1e400", "1e3", "one", "900 s", "1w"}, "not a duration"},
		{"REFRESH_TOKEN_EXPIRY", []string{"0", "-1", "-1h", "1us", "31536001", "9223372036854775807", "-9223372036854775808"}, "out of range"},
		{"ACCESS_TOKEN_EXPIRY", []string{"99999999h", "9223372036854775808", "1e400"}, "not a duration"},
		{"ACCESS_TOKEN_EXPIRY", []string{"0s", "0.5s", "8761h"}, "out of range"},
		{"ACCESS_TOKEN_EXPIRY", []string{"1500ms"}, "whole number of seconds"},
		{"SALT_ROUNDS", []string{"", "abc"}, "whole number"},
		{"SALT_ROUNDS", []string{"-1", "0", "3", "16", "31", "32", "99"}, "from 4 to 15"},
		{"DB_HOST", []string{""}, "is empty"},
		{"DB_HOST", []string{"postgres://localhost", "a b", "[db]", ":5432"}, "DB_PORT"},
		{"DB_HOST", []string{"a:0", "a,b:65536", "a:x", "a:"}, "has an invalid port"},
		{"DB_TARGET_SESSION_ATTRS", []string{"", "read-only", "Primary"}, "write read-write, primary or any"},
		{"DB_MIN_IDLE_CONNS", []string{"-1", "1001"}, "from 0 to 1000"},
		{"DB_MIN_IDLE_CONNS", []string{"11"}, "more than the 10 of DB_MAX_CONNS"},
		{"DB_HOST", []string{"a,,b", "a,"}, "empty entry"},
		{"DB_HOST", []string{"a,a"}, "listed twice"},
		{"DB_USER", []string{""}, "is empty"},
		{"DB_NAME", []string{""}, "is empty"},
		{"DB_NAME", []string{"a\nb"}, "control character"},
		{"ISSUER", []string{"https://auth.example.com/" + strings.Repeat("i", 3000)}, "at most 1024"},
		{"AUDIENCE", []string{strings.Repeat("a", 1501)}, "at most 1500"},
		{"SIGNUP_SCOPES", []string{strings.Repeat("s", 1001)}, "at most 1000"},
		{"DB_PORT", []string{"5432,5433"}, "has 2 ports, and DB_HOST has 1 hosts"},
		{"DB_PORT", []string{"0", "65536", "5432,", "5432,0"}, "from 1 to 65535"},
		{"ISSUER", []string{"", "auth.example.com", "ftp://a.b", "//a.b", "mailto:a@b.c"}, "http://"},
		{"ISSUER", []string{"https://"}, "no host"},
		{"ISSUER", []string{"https://a b", "https://a:x"}, "not a URL"},
		{"ISSUER", []string{"https://a.b/c d", "https://a.b/c,d"}, "space or a comma"},
		{"ISSUER", []string{"https://user:pw@a.b"}, "a user"},
		{"ISSUER", []string{"https://a.b?x=1", "https://a.b/?", "https://a.b#c", "https://a.b#"}, "query or a fragment"},
		{"AUDIENCE", []string{"", ",", "a,,b", "a,"}, "empty entry"},
		{"AUDIENCE", []string{"a b"}, "space"},
		{"AUDIENCE", []string{"a,b,a"}, "twice"},
		{"SIGNING_ALGORITHM", []string{"", "es256", "HS256", "none"}, "ES256, RS256 or EdDSA"},
		{"EXPOSURE", []string{"", "Internal", "private"}, "internal or public"},
		{"EXPOSURE", []string{"public"}, "set SMTP_HOST and MAIL_FROM, or MAIL_WEBHOOK_URL"},
		{"TRUSTED_CALLER_KEY", []string{"", "fifteen-bytes-x"}, "16 or more"},
		{"SIGNUP_SCOPES", []string{"", "  "}, "is empty"},
		{"SIGNUP_SCOPES", []string{`a"b`, `a\b`, "é"}, "not a scope"},
		{"SIGNUP_SCOPES", []string{"a a"}, "twice"},
		{"TOKEN_CLAIMS", []string{"plan,", ",", "a b", `a"b`, `a\b`, "é", strings.Repeat("x", 101)}, "is not the name of a claim"},
		{"TOKEN_CLAIMS", []string{"sub", "plan,ROLES", "exp", "groups", "Email_Verified", "gen", "cnf"}, "or a registered one"},
		{"TOKEN_CLAIMS", []string{"plan,Plan", "a,b,a"}, "twice"},
		{"TOKEN_CLAIMS", []string{"a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u"}, "has 21 claims"},
		{"AUTHZ_POLICIES", []string{
			"orders", "null", `"orders"`, `{"name":"orders"}`, `[{"name":"orders"}`, `[{"name":"orders"}]]`, `[{"name":"orders"}] []`,
			"[{'name':'orders'}]", `[{"name":"orders",}]`, `[{name:"orders"}]`,
		}, "is not a JSON array of policies: write one such as [{"},
		{"AUTHZ_POLICIES", []string{`["orders"]`, `[{"name":"orders"},{"name":5}]`, `[{"name":"orders","scopes":"a"}]`,
			`[{"name":"orders","anyScope":[1]}]`, `[{"name":"orders","anonymous":"true"}]`, `[{"name":"orders","maxAge":60}]`}, "has the wrong type"},
		{"AUTHZ_POLICIES", []string{`[{"name":"a"},{"name":"b","failclosed":true}]`, `[{"name":"a","failclosed":null}]`},
			`no member "failclosed": write name, scopes, anyScope, audience, maxAge, anonymous or failClosed`},
		{"AUTHZ_POLICIES", []string{`[{"name":"a","scopes":["b"],"scopes":[]}]`}, `"/0/scopes" occurs twice`},
		{"AUTHZ_POLICIES", []string{
			`[{}]`, `[null]`, `[{"name":""}]`, `[{"name":"A"}]`, `[{"name":"a/b"}]`, `[{"name":"-a"}]`, `[{"name":"a-"}]`, `[{"name":"a.b"}]`,
			`[{"name":"ä"}]`, `[{"name":"a\n"}]`, `[{"name":"` + strings.Repeat("a", 64) + `"}]`,
		}, "the name must be up to 63 lower-case letters, digits and hyphens"},
		{"AUTHZ_POLICIES", []string{`[{"name":"a"},{"name":"b"},{"name":"a"}]`}, `policy "a": occurs twice`},
		{"AUTHZ_POLICIES", []string{
			`[{"name":"a","scopes":[""]}]`, `[{"name":"a","scopes":["b c"]}]`, `[{"name":"a","anyScope":["b","\""]}]`,
			`[{"name":"a","anyScope":["\\"]}]`, `[{"name":"a","scopes":["é"]}]`, `[{"name":"a","scopes":["b\r\nX: y"]}]`,
		}, `policy "a": "`},
		{"AUTHZ_POLICIES", []string{`[{"name":"a","scopes":["b c"]}]`}, `"b c" is not a scope`},
		{"AUTHZ_POLICIES", []string{`[{"name":"a","audience":"b c"}]`, `[{"name":"a","audience":"b,c"}]`}, "write one of AUDIENCE"},
		{"AUTHZ_POLICIES", []string{`[{"name":"a","maxAge":"soon"}]`, `[{"name":"a","maxAge":" "}]`}, `policy "a": maxAge: "`},
		{"AUTHZ_POLICIES", []string{`[{"name":"a","maxAge":"0s"}]`, `[{"name":"a","maxAge":"-1h"}]`, `[{"name":"a","maxAge":"8761h"}]`}, "out of range"},
		{"AUTHZ_POLICIES", []string{`[{"name":"a","maxAge":"1500ms"}]`}, "whole number of seconds"},
		{"AUTHZ_POLICIES", []string{"[" + strings.TrimSuffix(strings.Repeat(`{"name":"a"},`, 101), ",") + "]"}, "has 101 policies: write at most 100"},
		{"SIGNUP_REQUIRED", []string{"email", "Username", "none,username", "username first_name"}, "write username, first_name or last_name, or only none"},
		{"SIGNUP_REQUIRED", []string{""}, "or none if none of them is required"},
		{"SIGNUP_REQUIRED", []string{"username,username"}, "twice"},
		{"CORS_ALLOWED_ORIGINS", []string{"*", "https://a.example,*"}, "write the origin of each application"},
		{"CORS_ALLOWED_ORIGINS", []string{"null", "file://", "file:///android_asset", "FILE://"}, "a custom scheme"},
		{"CORS_ALLOWED_ORIGINS", []string{"capacitor://localhost/", "capacitor://local host", "app://a?b", "capacitor:", "capacitor", "ionic://me@localhost", "Capacitor://localhost", "blob://x", "data://x", "ws://a.example", "javascript://x", "app://x:123456"}, "is not an origin"},
		{"CORS_ALLOWED_HEADERS", []string{"x-caller-key", "X-Tenant,X-Caller-Key"}, "a page must not have it"},
		{"CORS_ALLOWED_HEADERS", []string{"Forwarded", "x-forwarded-for", "X-Real-IP"}, "reserved for proxies"},
		{"CORS_ALLOWED_HEADERS", []string{"*", "X Tenant", "X-Tenant:", "X-Tenänt"}, "not a header field name"},
		{"CORS_ALLOWED_HEADERS", []string{"X-Tenant,,X-Y"}, "empty entry"},
		{"IDLE_TIMEOUT", []string{"", "long"}, "not a duration"},
		{"IDLE_TIMEOUT", []string{"0", "500ms", "25h"}, "out of range"},
		{"CONNECTION_MEMORY", []string{"64MB", "64 MiB", "lots", "1.5GiB", "64mib"}, "not a size"},
		{"CONNECTION_MEMORY", []string{"0", "-1MiB", "4MiB", "100", "2048GiB", "99999999999999999999GiB"}, "out of range"},
		{"CORS_ALLOWED_ORIGINS", []string{"a.example", "//a.example", "ftp://a.example", "https://", "https://:80", "https://*.example", "https://a b", "https://é.example", "https://[::1", "https://a:x"}, "is not an origin"},
		{"CORS_ALLOWED_ORIGINS", []string{"https://a.example:0", "https://a.example:65536", "http://[::1]:99999"}, "from 1 to 65535"},
		{"CORS_ALLOWED_ORIGINS", []string{"https://a.example/", "https://a.example/app?x#y", "https://me@a.example", "https://A.example", "HTTPS://a.example", "https://a.example:443", "https://a.example:"}, "write https://a.example"},
		{"CORS_ALLOWED_ORIGINS", []string{"http://a.example:080", "http://a.example:80"}, "write http://a.example"},
		{"CORS_ALLOWED_ORIGINS", []string{"http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:03000"}, "write http://[::1]:3000"},
		{"CORS_ALLOWED_ORIGINS", []string{",", "https://a.example,", "https://a.example,,https://b.example"}, "empty entry"},
		{"CORS_ALLOWED_ORIGINS", []string{"https://a.example,http://a.example,https://a.example"}, "twice"},
		{"TRUSTED_PROXY_HOPS", []string{"", "all", "10.0.0.0/8"}, "whole number"},
		{"TRUSTED_PROXY_HOPS", []string{"-1", "11"}, "from 0 to 10"},
		{"TRUSTED_PROXY_FIELD", []string{"", "forwarded", "X-Real-IP"}, "any, Forwarded or X-Forwarded-For"},
		{"LIMIT_SIGNIN", []string{"", "30", "/5m", "0/5m", "-1/5m", "100001/5m", "x/5m"}, "such as 30/5m, or off"},
		{"LIMIT_SIGNUP", []string{"30/five", "30/"}, "not a duration"},
		{"LIMIT_CODES", []string{"30/0s", "30/25h", "30/-1s"}, "out of range"},
		{"LIMIT_MAILS", []string{"no"}, "or off"},
		{"SERVICE_NAME", []string{"", " Shop", strings.Repeat("x", 256)}, "one line of at most 255 bytes"},
		{"MAIL_FROM", []string{"nobody", "a@b, c@d", "a@b\n"}, ""},
		{"MAIL_LINK_VERIFICATION", []string{"https://a.example", "/verify#{code}", "mailto:{code}", "https://a.example/{code}#{code}", "https://a.example/ #{code}"}, "not a link for a code"},
		{"MAIL_LINK_PASSWORD_RESET", []string{"{code}"}, "not a link for a code"},
		{"MAIL_LINK_EMAIL_CHANGE", []string{"https://{code}", "https://a.{code}", "https://me@a.example/{code}"}, "not a link for a code"},
		{"MAIL_GIVE_UP_AFTER", []string{"59s", "721h"}, "out of range"},
		{"SMTP_HOST", []string{"smtp://mail", "mail:25", "a b"}, "SMTP_PORT"},
		{"SMTP_HOST", []string{"mail.example"}, "MAIL_FROM"},
		{"SMTP_PORT", []string{"0", "65536"}, "from 1 to 65535"},
		{"SMTP_TLS", []string{"", "ssl", "on"}, "starttls, implicit or none"},
		{"SMTP_CONNECTIONS", []string{"0", "65"}, "from 1 to 64"},
		{"MAIL_WEBHOOK_URL", []string{"a.example", "ftp://a.example", "https://", "https://me:secret@a.example", "https://a.example#x"}, "not a URL for a webhook"},
		{"MAIL_WEBHOOK_URL", []string{"https://a.example/hook"}, "MAIL_WEBHOOK_SECRET"},
		{"MAIL_WEBHOOK_SECRET", []string{"short", "dG9vIHNob3J0", "whsec_"}, "24 to 64 bytes in base64"},
		{"EVENT_WEBHOOK_URL", []string{"a.example", "https://", "https://me:secret@a.example"}, "not a URL for a webhook"},
		{"EVENT_WEBHOOK_URL", []string{"https://a.example/hook"}, "EVENT_WEBHOOK_SECRET"},
		{"EVENT_WEBHOOK_SECRET", []string{"short", "dG9vIHNob3J0"}, "24 to 64 bytes in base64"},
		{"PASSWORD_MIGRATION_URL", []string{"a.example", "http://a.example", "https://", "https://me:secret@a.example", "https://a.example#x", "http://127.0.0.1.example"}, "not a URL that passwords can be sent to"},
		{"PASSWORD_MIGRATION_URL", []string{"https://a.example/password", "http://127.0.0.1:8000/", "http://[::1]/", "http://localhost/"}, "PASSWORD_MIGRATION_SECRET"},
		{"PASSWORD_MIGRATION_SECRET", []string{"short", "dG9vIHNob3J0", "whsec_"}, "24 to 64 bytes in base64"},
		{"KEY_ROTATION_INTERVAL", []string{"30m", "1s"}, "KEY_PUBLISH_LEAD"},
		{"KEY_ROTATION_INTERVAL", []string{"31m"}, "at least 2h37m31s"},
		{"KEY_ROTATION_INTERVAL", []string{"0", "-1h", "87601h"}, "out of range"},
		{"KEY_PUBLISH_LEAD", []string{"-1s", "0", "169h"}, "out of range"},
		{"CLIENT_ID", []string{"", "my shop", "sh\u00f6p", strings.Repeat("x", 256)}, "ASCII characters without spaces"},
		{"ACCESS_TOKEN_TYP", []string{"", "jwt", "rt+jwt"}, "at+jwt or JWT"},
		{"REFRESH_TOKEN_ROTATION", []string{"", "never"}, "when-needed or always"},
		{"REFRESH_REUSE_GRACE", []string{"-1", "601"}, "out of range"},
		{"SESSION_LIFETIME", []string{"167h"}, "REFRESH_TOKEN_EXPIRY"},
		{"DRAIN_DELAY", []string{"15s"}, "leaves no time"},
		{"SESSIONS_PER_USER", []string{"0", "10001"}, "from 1 to 10000"},
		{"PASSWORD_MIN_LENGTH", []string{"7", "65"}, "from 8 to 64"},
		{"PASSWORD_BLOCKLIST", []string{"", "true", "ON"}, "on or off"},
		{"HASHING_THREADS", []string{"-1", "257"}, "from 0 to 256"},
		{"HASHING_MAX_WAIT", []string{"0", "6s"}, "out of range"},
		{"VERIFICATION_CODE_EXPIRY", []string{"0", "721h"}, "out of range"},
		{"VERIFICATION_CODE_EXPIRY", []string{"1.5s"}, "whole number"},
		{"RECOVERY_CODE_EXPIRY", []string{"0", "25h"}, "out of range"},
		{"UNVERIFIED_ACCOUNT_EXPIRY", []string{"23h"}, ""},
		{"INVITATION_CODE_EXPIRY", []string{"0", "367d"}, "out of range"},
		{"INVITATION_CODE_EXPIRY", []string{"8d"}, "longer than an invited account"},
		{"AUDIT_RETENTION", []string{"-1", "-90d", "90 d", "d", "1.5d", "7d-1h", "7d+1h", "7d8", "1d1d", "99999d", "87601h"}, ""},
		{"DB_SSLMODE", []string{"", "on", "verify"}, "verify-ca or verify-full"},
		{"DB_MAX_CONNS", []string{"0", "1001"}, "from 1 to 1000"},
		{"DB_ACQUIRE_TIMEOUT", []string{"0", "1ms", "61s"}, "out of range"},
		{"DB_STATEMENT_TIMEOUT", []string{"0", "11m"}, "out of range"},
		{"DRAIN_DELAY", []string{"-1s", "11m"}, "out of range"},
		{"SHUTDOWN_TIMEOUT", []string{"0", "11m"}, "out of range"},
		{"LOG_LEVEL", []string{"", "INFO", "trace", "info+1"}, "debug, info, warn or error"},
		{"LOG_FORMAT", []string{"", "logfmt"}, "json or text"},
	}
	for _, c := range cases {
		for _, value := range c.values {
			_, err := load(with(settings{c.name: value}))
			var invalid *config.InvalidError
			if !errors.As(err, &invalid) || len(invalid.Problems) != 1 {
				t.Errorf("%s=%.40q: err = %v, want one problem", c.name, value, err)
				continue
			}
			if line := err.Error(); !strings.HasPrefix(line, c.name+": ") || !strings.Contains(line, c.want) || strings.Contains(line, "\n") {
				t.Errorf("%s=%.40q: the error %q does not contain %q in one line", c.name, value, line, c.want)
			}
		}
	}
}

func TestAuthzPortServesNothingElse(t *testing.T) {
	policies := settings{"AUTHZ_POLICIES": `[{"name":"a"}]`}
	for _, c := range []struct {
		changes settings
		want    string // the problem, or ""
	}{
		{settings{"AUTHZ_PORT": "8080"}, "AUTHZ_PORT: 8080 is also the value of PORT"},
		{settings{"AUTHZ_PORT": "7000", "METRICS_PORT": "7000"}, "AUTHZ_PORT: 7000 is also the value of METRICS_PORT"},
		{settings{"AUTHZ_PORT": "9090"}, ""}, // metrics then use another port
		{settings{"AUTHZ_PORT": "9000"}, ""},
	} {
		environ := with(policies)
		maps.Copy(environ, c.changes)
		got, err := load(environ)
		switch {
		case c.want != "":
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v: %v, want %q", c.changes, err, c.want)
			}
		case err != nil || got.AuthzAddress() != "localhost:"+c.changes["AUTHZ_PORT"]:
			t.Errorf("%v: %q, %v", c.changes, got.AuthzAddress(), err)
		}
	}
	if got, err := load(with(policies)); err != nil || got.AuthzAddress() != "" {
		t.Errorf("without the setting: %q, %v", got.AuthzAddress(), err)
	}
}

// FuzzAuthzPolicies checks that policies mean the same after they were written, and that a wrong text is one problem.
func FuzzAuthzPolicies(f *testing.F) {
	for _, seed := range []string{
		`[]`, `null`, `{}`, `[{}]`, `[{"name":"a"}]`, `[{"name":"a","maxAge":"1d"},{"name":"b","maxAge":"90"}]`, `[{"name":"a","maxAge":"1.5s"}]`,
		`[{"name":"a","scopes":["!#[]~"],"anyScope":["<&>"],"audience":"\u00e9","anonymous":true,"failClosed":true}]`,
		`[{"name":"a"},{"name":"a"}]`, `[{"name":"a","scopes":[""]}]`, `[{"name":"a","scopes":null}]`, `[{"NAME":"a"}]`, `[[[[`,
		`[{"name":"a","audience":"\ud800"}]`, `[{"name":"a","audience":"\u0000"}]`, `[{"name":"a"}] x`, `[{"name":"a","name":"b"}]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := load(with(settings{"AUTHZ_POLICIES": text}))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "AUTHZ_POLICIES: ") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := load(got.Environ())
		if err != nil || !reflect.DeepEqual(normal(again.AuthzPolicies), normal(got.AuthzPolicies)) {
			t.Fatalf("%q is written as %q, %v", text, got.Environ()["AUTHZ_POLICIES"], err)
		}
		for _, p := range got.AuthzPolicies {
			if p.MaxAge < 0 || p.Name == "" || strings.ContainsAny(p.Name, "/?#% ") {
				t.Fatalf("%q: %+v", text, p)
			}
		}
	})
}

// normal returns policies without the difference between no list and an empty one.
func normal(policies []config.AuthzPolicy) (all []config.AuthzPolicy) {
	for _, p := range policies {
		p.Scopes, p.AnyScope = append([]string(nil), p.Scopes...), append([]string(nil), p.AnyScope...)
		all = append(all, p)
	}
	return all
}

func TestLoadReportsAllProblemsAtOnce(t *testing.T) {
	_, err := load(settings{"PORT": "x", "SALT_ROUNDS": "99", "LOG_LEVEL": "loud", "ACCESS_PASSPHRASE": "secret\x01text"})
	if err == nil {
		t.Fatal("the settings were accepted")
	}
	var names []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		name, _, _ := strings.Cut(line, ":")
		names = append(names, name)
	}
	want := []string{"PORT", "REFRESH_PASSPHRASE", "ACCESS_PASSPHRASE", "SALT_ROUNDS", "DB_HOST", "DB_USER", "DB_NAME", "LOG_LEVEL"}
	if !reflect.DeepEqual(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows a secret: %v", err)
	}
}

func TestLoadAcceptsUnusualValues(t *testing.T) {
	for name, c := range map[string]struct {
		environ settings
		holds   func(config.Config) bool
	}{
		"an empty host is all interfaces":           {settings{"HOST": ""}, func(c config.Config) bool { return c.Address() == ":8080" && c.Issuer == "http://localhost:8080" }},
		"so is 0.0.0.0":                             {settings{"HOST": "0.0.0.0", "PORT": "80"}, func(c config.Config) bool { return c.Address() == "0.0.0.0:80" && c.Issuer == "http://localhost:80" }},
		"and ::":                                    {settings{"HOST": "::"}, func(c config.Config) bool { return c.Address() == "[::]:8080" && c.Issuer == "http://localhost:8080" }},
		"an IPv6 address is bracketed":              {settings{"HOST": "::1"}, func(c config.Config) bool { return c.Issuer == "http://[::1]:8080" }},
		"no metrics":                                {settings{"METRICS_PORT": "0"}, func(c config.Config) bool { return c.MetricsAddress() == "" }},
		"an expiry as text":                         {settings{"ACCESS_TOKEN_EXPIRY": "1h30m"}, func(c config.Config) bool { return c.AccessTokenExpiry == 90*time.Minute }},
		"a timeout in seconds":                      {settings{"DB_STATEMENT_TIMEOUT": "3"}, func(c config.Config) bool { return c.DBStatementTimeout == 3*time.Second }},
		"a long refresh token prolongs the session": {settings{"REFRESH_TOKEN_EXPIRY": "31536000"}, func(c config.Config) bool { return c.SessionLifetime == 8760*time.Hour }},
		"several audiences":                         {settings{"AUDIENCE": "shop, urn:billing"}, func(c config.Config) bool { return reflect.DeepEqual(c.Audience, []string{"shop", "urn:billing"}) }},
		"the audience follows the issuer":           {settings{"ISSUER": "https://auth.example.com/x"}, func(c config.Config) bool { return c.Audience[0] == "https://auth.example.com/x" }},
		"several origins": {settings{"CORS_ALLOWED_ORIGINS": "https://app.example.com, http://localhost:3000,http://[::1]:8443"}, func(c config.Config) bool {
			return reflect.DeepEqual(c.CORSAllowedOrigins, []string{"https://app.example.com", "http://localhost:3000", "http://[::1]:8443"})
		}},
		"origins of apps": {settings{"CORS_ALLOWED_ORIGINS": "capacitor://localhost,ionic://localhost,app://,app://.,tauri://localhost,https://localhost,com.example.app://host:1"}, func(c config.Config) bool { return len(c.CORSAllowedOrigins) == 7 }},
		"more fields of pages": {settings{"CORS_ALLOWED_HEADERS": "X-Tenant, x-trace"}, func(c config.Config) bool {
			return reflect.DeepEqual(c.CORSAllowedHeaders, []string{"X-Tenant", "x-trace"})
		}},
		"memory": {settings{"CONNECTION_MEMORY": "64MiB"}, func(c config.Config) bool {
			return c.ConnectionMemory == 64<<20 && c.Environ()["CONNECTION_MEMORY"] == "64MiB"
		}},
		"memory in bytes":                         {settings{"CONNECTION_MEMORY": "8388609"}, func(c config.Config) bool { return c.ConnectionMemory == 8388609 }},
		"the API has the default port of metrics": {settings{"PORT": "9090"}, func(c config.Config) bool { return c.Port == 9090 && !c.MetricsPortSet }},
		"a chosen port of metrics":                {settings{"METRICS_PORT": "9090"}, func(c config.Config) bool { return c.MetricsPortSet && c.Environ()["METRICS_PORT"] == "9090" }},
		"one name":                                {settings{"SIGNUP_REQUIRED": "first_name"}, func(c config.Config) bool { return reflect.DeepEqual(c.SignupRequired, []string{"first_name"}) }},
		"no name": {settings{"SIGNUP_REQUIRED": "none"}, func(c config.Config) bool {
			return len(c.SignupRequired) == 0 && c.Environ()["SIGNUP_REQUIRED"] == "none"
		}},
		"no origin":            {settings{"CORS_ALLOWED_ORIGINS": ""}, func(c config.Config) bool { return c.CORSAllowedOrigins == nil }},
		"a proxy":              {settings{"TRUSTED_PROXY_HOPS": "1"}, func(c config.Config) bool { return c.TrustedProxyHops == 1 }},
		"no database password": {settings{"DB_PASSWORD": ""}, func(c config.Config) bool { return c.DBPassword.IsZero() }},
		"a socket directory":   {settings{"DB_HOST": "/run/postgresql"}, func(c config.Config) bool { return c.DBHost == "/run/postgresql" }},
		"several hosts, one port": {settings{"DB_HOST": "db1, db2,/run/postgresql", "DB_PORT": "5433"}, func(c config.Config) bool {
			return c.DBHost == "db1,db2,/run/postgresql" && reflect.DeepEqual(c.DBPort, config.Ports{5433})
		}},
		"several hosts with their ports": {settings{"DB_HOST": "db1,db2", "DB_PORT": "5432, 5433"}, func(c config.Config) bool { return reflect.DeepEqual(c.DBPort, config.Ports{5432, 5433}) }},
		"empty former passphrases": {settings{"FORMER_ACCESS_PASSPHRASE": "", "FORMER_REFRESH_PASSPHRASE": ""}, func(c config.Config) bool {
			return c.FormerAccessPassphrase.IsZero() && c.FormerRefreshPassphrase.IsZero()
		}},
		"no termination message": {settings{"TERMINATION_LOG": ""}, func(c config.Config) bool { return c.TerminationLog == "" }},
	} {
		got, err := load(with(c.environ))
		if err != nil || !c.holds(got) {
			t.Errorf("%s: %v\ngot %v", name, err, got)
		}
	}
}

func TestSecretFromAFile(t *testing.T) {
	files := settings{"access": "from a file\r\n", "empty": "\n", "binary": "\x00\x01"}
	readFile := func(path string) ([]byte, error) {
		if content, ok := files[path]; ok {
			return []byte(content), nil
		}
		return nil, errors.New("no such file")
	}
	for name, c := range map[string]struct {
		environ settings
		want    string // the error; empty: there is none
	}{
		"a file":             {settings{"ACCESS_PASSPHRASE_FILE": "access"}, ""},
		"both":               {settings{"ACCESS_PASSPHRASE_FILE": "access", "ACCESS_PASSPHRASE": "x"}, "both ACCESS_PASSPHRASE and ACCESS_PASSPHRASE_FILE are set"},
		"no path":            {settings{"ACCESS_PASSPHRASE_FILE": ""}, "write the path of a file"},
		"no such file":       {settings{"ACCESS_PASSPHRASE_FILE": "gone"}, "cannot be read: no such file"},
		"an empty file":      {settings{"ACCESS_PASSPHRASE_FILE": "empty"}, "is empty"},
		"a binary file":      {settings{"ACCESS_PASSPHRASE_FILE": "binary"}, "control character"},
		"not for non-secret": {settings{"ACCESS_PASSPHRASE_FILE": "access", "DB_NAME_FILE": "access"}, ""},
	} {
		environ := twelve()
		delete(environ, "ACCESS_PASSPHRASE")
		maps.Copy(environ, c.environ)
		got, err := config.Load(lookup(environ), readFile)
		switch {
		case c.want == "" && (err != nil || got.AccessPassphrase.Reveal() != "from a file"):
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: err = %v", name, err)
		}
	}
}

// The operator always mounts four passphrase files. Two of them are empty unless a passphrase is being changed.
func TestFormerPassphraseInAnEmptyFileIsNotSet(t *testing.T) {
	files := settings{"nothing": "", "a line break": "\r\n", "former": "the former one\n"}
	readFile := func(path string) ([]byte, error) { return []byte(files[path]), nil }
	for access, refresh := range map[string]string{"nothing": "a line break", "former": "nothing", "a line break": "former"} {
		got, err := config.Load(lookup(with(settings{
			"FORMER_ACCESS_PASSPHRASE_FILE": access, "FORMER_REFRESH_PASSPHRASE_FILE": refresh,
		})), readFile)
		if err != nil {
			t.Error(err)
			continue
		}
		for path, got := range map[string]config.Secret{access: got.FormerAccessPassphrase, refresh: got.FormerRefreshPassphrase} {
			if want := strings.TrimSpace(files[path]); got.Reveal() != want || got.IsZero() != (want == "") {
				t.Errorf("%s: the passphrase is %q, IsZero returns %v", path, got.Reveal(), got.IsZero())
			}
		}
	}
}

func TestWarnings(t *testing.T) {
	safe := settings{"TRUSTED_CALLER_KEY": "0123456789abcdef"}
	for name, c := range map[string]struct {
		environ settings
		want    []string
	}{
		"nothing":              {nil, nil},
		"short passphrases":    {settings{"ACCESS_PASSPHRASE": "short", "REFRESH_PASSPHRASE": "brief"}, []string{"REFRESH_PASSPHRASE is shorter", "ACCESS_PASSPHRASE is shorter"}},
		"equal passphrases":    {settings{"ACCESS_PASSPHRASE": "refresh-passphrase-1"}, []string{"are the same"}},
		"cheap hashes":         {settings{"SALT_ROUNDS": "9"}, []string{"SALT_ROUNDS is 9"}},
		"lifetimes":            {settings{"REFRESH_TOKEN_EXPIRY": "60"}, []string{"outlives"}},
		"an idle certificate":  {settings{"DB_SSLROOTCERT": "ca.pem"}, []string{"verify-ca or verify-full"}},
		"a certificate in use": {settings{"DB_SSLROOTCERT": "ca.pem", "DB_SSLMODE": "verify-full"}, nil},
	} {
		environ := with(safe)
		maps.Copy(environ, c.environ)
		got, err := load(environ)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		warnings := got.Warnings()
		if len(warnings) != len(c.want) {
			t.Errorf("%s: warnings %q, want %q", name, warnings, c.want)
			continue
		}
		for i := range warnings {
			if !strings.Contains(warnings[i], c.want[i]) {
				t.Errorf("%s: warnings %q, want %q", name, warnings, c.want)
			}
		}
	}
	got, err := load(twelve())
	if err != nil || len(got.Warnings()) != 1 || !strings.Contains(got.Warnings()[0], "must not face the public") {
		t.Errorf("Internal without a caller key: warnings %q, %v", got.Warnings(), err)
	}
}

// environ draws valid settings, with any subset of the optional ones.
func environ(t *rapid.T) settings {
	e := twelve()
	for name, values := range map[string]*rapid.Generator[string]{
		"PORT": rapid.SampledFrom([]string{"1", "80", "65535"}),
		"AUTHZ_POLICIES": rapid.SampledFrom([]string{"", `[{"name":"a"}]`, ` [ {"maxAge":"1d","name":"a"}]`,
			`[{"name":"a","scopes":["<&>","b"],"anyScope":["c"],"audience":"d","maxAge":"90","anonymous":true,"failClosed":true},{"name":"b"}]`}),
		"HOST":                   rapid.SampledFrom([]string{"", "::", "127.0.0.1", "fe80::1", "a.b_c"}),
		"ACCESS_PASSPHRASE":      rapid.StringMatching(`[ -~]{1,40}`),
		"DB_PASSWORD":            rapid.StringMatching(`[ -~äöü]{0,40}`),
		"REFRESH_TOKEN_EXPIRY":   rapid.StringMatching(`[1-9][0-9]{0,6}s?`),
		"ACCESS_TOKEN_EXPIRY":    rapid.StringMatching(`[1-9]h[1-5]?[0-9]m`),
		"ISSUER":                 rapid.StringMatching(`https?://[a-z]{1,9}(:[1-9]{1,4})?(/[a-z]{0,4})?`),
		"AUDIENCE":               rapid.SampledFrom([]string{"a", "a,b", "a, b , c"}),
		"SIGNUP_REQUIRED":        rapid.SampledFrom([]string{"none", "username", "last_name, first_name"}),
		"SIGNUP_SCOPES":          rapid.SampledFrom([]string{"a", "a  b", " profile"}),
		"TOKEN_CLAIMS":           rapid.SampledFrom([]string{"", "plan", "plan, https://a.example/b"}),
		"CORS_ALLOWED_ORIGINS":   rapid.SampledFrom([]string{"", "https://a.example", "http://[::1]:3000, https://b.example:8443", "capacitor://localhost"}),
		"CORS_ALLOWED_HEADERS":   rapid.SampledFrom([]string{"", "X-Tenant", "x-a, x-b"}),
		"CONNECTION_MEMORY":      rapid.SampledFrom([]string{"", "64MiB", "1GiB", "9000000", "10000KiB"}),
		"TRUSTED_PROXY_HOPS":     rapid.StringMatching(`[0-9]`),
		"TRUSTED_CALLER_KEY":     rapid.StringMatching(`[ -~]{16,40}`),
		"KEYS_DIR":               rapid.StringMatching(`[ -~]{0,9}`),
		"REFRESH_TOKEN_ROTATION": rapid.SampledFrom([]string{"always", "when-needed"}),
		"PASSWORD_BLOCKLIST":     rapid.SampledFrom([]string{"on", "off"}),
		"HASHING_MAX_WAIT":       rapid.StringMatching(`[1-4][0-9]{2,3}ms`),
		"LOG_LEVEL":              rapid.SampledFrom([]string{"debug", "info", "warn", "error"}),
		"METRICS_PORT":           rapid.SampledFrom([]string{"0", "2"}),
		"TERMINATION_LOG":        rapid.StringMatching(`[ -~]{0,9}`),
	} {
		if rapid.Bool().Draw(t, name+" is set") {
			e[name] = values.Draw(t, name)
		}
	}
	if e["AUTHZ_POLICIES"] != "" && rapid.Bool().Draw(t, "AUTHZ_PORT is set") {
		e["AUTHZ_PORT"] = rapid.SampledFrom([]string{"0", "3"}).Draw(t, "AUTHZ_PORT")
	}
	return e
}

func TestEnvironLoadsAsTheSameConfig(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, err := load(environ(t))
		if err != nil {
			t.Fatal(err)
		}
		again, err := load(c.Environ())
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Fatalf("%v\n%v\nbecame\n%v", err, c, again)
		}
	})
}

func TestEnvironOfTheDefaultsLeavesTheRestToTheServer(t *testing.T) {
	c := config.Defaults()
	c.DBHost, c.Port, c.RefreshTokenExpiry = "postgres.shop.svc", 80, 8000*time.Hour
	e := c.Environ()
	for _, name := range []string{
		"ISSUER", "AUDIENCE", "SESSION_LIFETIME",
		"REFRESH_TOKEN_ROTATION", "DB_USER", "DB_PASSWORD", "ACCESS_PASSPHRASE",
	} {
		if value, ok := e[name]; ok {
			t.Errorf("%s is set to %q, want it left out", name, value)
		}
	}
	maps.Copy(e, settings{"DB_USER": "u", "DB_NAME": "d", "ACCESS_PASSPHRASE": "a", "REFRESH_PASSPHRASE": "r"})
	got, err := load(e)
	if err != nil || got.Issuer != "http://localhost:80" || got.SessionLifetime != 8000*time.Hour {
		t.Errorf("%v\ngot %v", err, got)
	}
}

func TestAdministratorsAreDecidedByOneAuthority(t *testing.T) {
	for _, c := range []struct {
		changes settings
		want    string // in the error; "": none
	}{
		{settings{"ADMIN_PORT": "8081", "ADMIN_KEYS": "/keys"}, ""},
		{settings{"ADMIN_PORT": "8081", "ADMIN_KUBERNETES": "shop/auth"}, ""},
		{settings{"ADMIN_PORT": "8081"}, "ADMIN_KEYS is not set"},
		{settings{"ADMIN_PORT": "8081", "ADMIN_KEYS": "/keys", "ADMIN_KUBERNETES": "shop/auth"}, "set only one of them"},
		{settings{"ADMIN_PORT": "8080", "ADMIN_KEYS": "/keys"}, "also the value of PORT"},
		{settings{"ADMIN_PORT": "8081", "ADMIN_KUBERNETES": "auth"}, "NAMESPACE/NAME"},
		{settings{"ADMIN_PORT": "8081", "ADMIN_KUBERNETES": "shop/auth/x"}, "NAMESPACE/NAME"},
		{settings{"ADMIN_PORT": "8081", "ADMIN_KUBERNETES": "Shop/auth"}, "NAMESPACE/NAME"},
		{settings{"ADMIN_PORT": "8081", "ADMIN_KUBERNETES": "shop/"}, "NAMESPACE/NAME"},
	} {
		_, err := load(with(c.changes))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v, want %q", c.changes, err, c.want)
		}
	}
}

// The server for administrators has no use for the keys of tokens and the credentials of mail, and does not read them.
func TestLoadAdminReadsOnlyWhatItNeeds(t *testing.T) {
	e := with(settings{
		"ADMIN_PORT": "8081", "ADMIN_KUBERNETES": "shop/auth", "EXPOSURE": "public", "MAIL_WEBHOOK_URL": "https://example.com/hook",
		"EVENT_WEBHOOK_URL": "https://example.com/events", "AUDIT_RETENTION": "0",
	})
	for _, s := range config.Settings() {
		if s.ServeOnly {
			e[s.Name] = "an invalid\nvalue"
		}
	}
	got, err := config.LoadAdmin(lookup(e), noFile)
	testenv.NoError(t, err)
	if !got.AdminOnly || !got.AccessPassphrase.IsZero() || got.SMTPCAFile != "" || !got.SendsMail() ||
		!got.KeepsEvents() || len(got.Warnings()) > 0 {
		t.Errorf("got %v, with the warnings %q", got, got.Warnings())
	}
	delete(e, "ADMIN_PORT")
	if _, err := config.LoadAdmin(lookup(e), noFile); err == nil || !strings.Contains(err.Error(), "ADMIN_PORT: is not set") {
		t.Errorf("without a port: %v", err)
	}
	if _, err := load(e); err == nil || !strings.Contains(err.Error(), "SMTP_CA_FILE") {
		t.Errorf("the server: %v", err)
	}
}

func TestServiceNameDefaultsToTheIssuer(t *testing.T) {
	for name, want := range map[string]string{"": "auth.example.com", "Example Shop": "Example Shop"} {
		changes := settings{"ISSUER": "https://auth.example.com:8443/tenant"}
		if name != "" {
			changes["SERVICE_NAME"] = name
		}
		if c, err := load(with(changes)); err != nil || c.ServiceName != want {
			t.Errorf("SERVICE_NAME %q: the service is named %q, %v", name, c.ServiceName, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	for _, s := range config.Settings() {
		f.Add(s.Name, s.Default)
		f.Add(s.Name, "1e400")
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		secret := false
		for _, s := range config.Settings() {
			secret = secret || s.Secret && s.Name == name
		}
		c, err := load(with(settings{name: value}))
		if err != nil {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%s=%q: the error does not name the setting: %v", name, value, err)
			}
			if secret && len(value) > 8 && strings.Contains(err.Error(), value) {
				t.Errorf("the error shows the secret: %v", err)
			}
			return
		}
		if again, err := load(c.Environ()); err != nil || !reflect.DeepEqual(c, again) {
			t.Errorf("%s=%q: %v\n%v\nbecame\n%v", name, value, err, c, again)
		}
	})
}

func TestNearMissesNameTheRightSetting(t *testing.T) {
	for name, want := range map[string]string{
		"ACCESS_TOKEN_EXPIRE":    "ACCESS_TOKEN_EXPIRY",
		"REFRESH_TOKEN_EXPIRE":   "REFRESH_TOKEN_EXPIRY",
		"SALT_ROUND":             "SALT_ROUNDS",
		"EXPSOURE":               "EXPOSURE",
		"access_token_expiry":    "ACCESS_TOKEN_EXPIRY",
		"ACCESS_PASSPHRAZE_FILE": "ACCESS_PASSPHRASE_FILE",
		"DB_HOSTS":               "DB_HOST",
	} {
		warnings := config.NearMisses([]string{name + "=a secret", "HOME=/root"})
		if len(warnings) != 1 || !strings.Contains(warnings[0], "did you mean "+want+"?") || strings.Contains(warnings[0], "a secret") {
			t.Errorf("%s: warnings %q", name, warnings)
		}
	}
	quiet := []string{
		"HOME", "HOSTNAME", "PATH", "POST", "PWD", "LOGNAME", "TERM", "LANG", "SHLVL", "KUBERNETES_PORT", "KUBERNETES_SERVICE_HOST",
		"AUTH_SERVER_PORT", "PGHOST", "SSL_CERT_FILE", "GOMEMLIMIT", "LOG_DIR", "DB_PASSWORD_FILE", "",
	}
	for _, s := range config.Settings() {
		quiet = append(quiet, s.Name)
	}
	if warnings := config.NearMisses(quiet); warnings != nil {
		t.Errorf("unexpected warnings %q", warnings)
	}
}

func TestDurationsInDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"7d": 7 * 24 * time.Hour, "1d12h": 36 * time.Hour, "168h": 7 * 24 * time.Hour, "604800": 7 * 24 * time.Hour, "3d0h1m": 72*time.Hour + time.Minute,
	} {
		c, err := load(with(settings{"REFRESH_TOKEN_EXPIRY": text}))
		if err != nil || c.RefreshTokenExpiry != want {
			t.Errorf("%s is read as %v, %v", text, c.RefreshTokenExpiry, err)
		}
	}
	var b strings.Builder
	testenv.NoError(t, config.Usage(&b))
	for _, line := range []string{"KEY_ROTATION_INTERVAL (30d)", "UNVERIFIED_ACCOUNT_EXPIRY (7d)", "AUDIT_RETENTION (90d)"} {
		if !slices.Contains(strings.Split(b.String(), "\n"), "  "+line) {
			t.Errorf("the help has no line %q", line)
		}
	}
}

// During an upgrade a server and an operator of different versions exchange states, so these names must not change.
func TestStateKeepsItsNames(t *testing.T) {
	for want, state := range map[string]config.State{
		`{"version":"","ready":false,"keys":{"generation":0,"held":[],"ready":[]},"database":{}}`: {
			Keys: config.KeysState{Held: []string{}, Ready: []string{}},
		},
		`{"version":"v1","ready":true,"reason":"r","keys":{"generation":7,"held":["a","b"],"ready":["a"]},"database":{"maxConnections":97}}`: {
			Version: "v1", Ready: true, Reason: "r",
			Keys:     config.KeysState{Generation: 7, Held: []string{"a", "b"}, Ready: []string{"a"}},
			Database: config.DatabaseState{MaxConnections: 97},
		},
	} {
		if got, err := json.Marshal(state); err != nil || string(got) != want {
			t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
		}
	}
	if config.StatePath != "/state" {
		t.Errorf("the path is %s, want /state", config.StatePath)
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	const text = "the+very/secret+text+in+base64++" // base64, because the secret for webhooks must be
	environ := twelve()
	for _, s := range config.Settings() {
		switch {
		case s.Secret && strings.HasPrefix(s.Name, config.OTelPrefix):
			environ[s.Name] = "authorization=" + text
		case s.Secret:
			environ[s.Name] = text
		}
	}
	c := testenv.Must(load(environ))(t)
	hidden := struct{ inner config.Config }{c} // fmt calls no methods of unexported fields
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p"} {
		for _, value := range []any{
			c, &c, c.AccessPassphrase, &c.AccessPassphrase, hidden, []config.Secret{c.DBPassword}, map[string]any{"k": c.DBPassword},
		} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("started", "config", c, "secret", c.AccessPassphrase, "in", hidden, "list", []config.Secret{c.DBPassword})
	}
	encoded := testenv.Must(json.Marshal(c))(t)
	out.Write(encoded)
	out.WriteString(strings.Join(c.Warnings(), "\n"))
	for _, seen := range []string{text, fmt.Sprintf("%x", text), fmt.Sprintf("%X", text), fmt.Sprintf("%d", []byte(text))} {
		if strings.Contains(out.String(), seen) {
			t.Errorf("the output contains %q:\n%s", seen, out.String())
		}
	}
	for _, s := range config.Settings() {
		if !strings.Contains(c.String(), s.Name+"=") {
			t.Errorf("%s is not in String", s.Name)
		}
	}
}

func TestSecretComparison(t *testing.T) {
	a, b := config.NewSecret("a"), config.NewSecret("a")
	if !a.Equal(b) || a.Equal(config.NewSecret("b")) || a.Equal(config.Secret{}) {
		t.Error("Equal is wrong")
	}
	if !config.NewSecret("").IsZero() || a.IsZero() || a.Reveal() != "a" || (config.Secret{}).Reveal() != "" {
		t.Error("IsZero or Reveal is wrong")
	}
	if s := (config.Secret{}).String(); s != "" {
		t.Errorf("the zero Secret prints as %q", s)
	}
}

func TestSettingsAreAllInTheHelpAndTheReference(t *testing.T) {
	var help bytes.Buffer
	testenv.NoError(t, config.Usage(&help))
	reference := config.Markdown()
	seen := make(map[string]bool)
	for _, s := range config.Settings() {
		if seen[s.Name] {
			t.Errorf("%s appears twice in the table", s.Name)
		}
		seen[s.Name] = true
		if !strings.Contains(help.String(), "\n  "+s.Name+" (") {
			t.Errorf("%s is not in the help", s.Name)
		}
		if !strings.Contains(reference, "| `"+s.Name+"` |") {
			t.Errorf("%s is not in the reference", s.Name)
		}
		if s.Help == "" || strings.ContainsAny(s.Help, "|\n") {
			t.Errorf("%s: the help %q does not fit into a table", s.Name, s.Help)
		}
	}
	for line := range strings.SplitSeq(help.String(), "\n") {
		if len(line) > 100 {
			t.Errorf("a line of the help is %d bytes long: %s", len(line), line)
		}
	}
	// MetricsPortSet and DerivedIssuer are not settings. They record whether one was set. AdminOnly records who reads them.
	// Those of traces are in structs of their own.
	traces := reflect.TypeFor[config.Traces]().NumField() - 2 + 2*reflect.TypeFor[config.OTLP]().NumField()
	if fields := reflect.TypeFor[config.Config]().NumField() - 3 - 1 + traces; fields != len(seen) {
		t.Errorf("%d fields in Config, %d rows in the table", fields, len(seen))
	}
}

func TestDatabaseHostsMayHavePorts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		host, port string
		hosts      []string
		ports      config.Ports
	}{
		{"db-0,db-1:5433, db-2", "", []string{"db-0", "db-1", "db-2"}, config.Ports{5432, 5433, 5432}},
		{"db-0:6000", "5433", []string{"db-0"}, config.Ports{6000}},
		{"db-0,db-1", "5433", []string{"db-0", "db-1"}, config.Ports{5433}},
		{"db-0,db-1", "1,2", []string{"db-0", "db-1"}, config.Ports{1, 2}},
		{"fd00::5,[fd00::6],[fd00::7]:5433,10.0.0.1:1,/run/postgresql", "",
			[]string{"fd00::5", "fd00::6", "fd00::7", "10.0.0.1", "/run/postgresql"}, config.Ports{5432, 5432, 5433, 1, 5432}},
	} {
		changes := settings{"DB_HOST": tc.host}
		if tc.port != "" {
			changes["DB_PORT"] = tc.port
		}
		c, err := load(with(changes))
		if err != nil {
			t.Errorf("%s: %v", tc.host, err)
			continue
		}
		for range 2 { // the second call must see what the first one saw
			if hosts, ports := c.DBHosts(); !reflect.DeepEqual(hosts, tc.hosts) || !reflect.DeepEqual(ports, tc.ports) {
				t.Errorf("%s with %s: hosts %q, ports %v; want %q, %v", tc.host, tc.port, hosts, ports, tc.hosts, tc.ports)
			}
		}
	}
	_, err := load(with(settings{"DB_HOST": "a:1,b", "DB_PORT": "1,2"}))
	if err == nil || !strings.Contains(err.Error(), "write them in one of the two") {
		t.Errorf("ports in both settings: %v", err)
	}
}

func TestTracesWarnAboutHeaderFieldsThatAreSentUnencrypted(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]bool{"http://c:4318": true, "https://c:4318": false} {
		c := testenv.Must(load(with(settings{
			"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=the-credential",
		})))(t)
		text := strings.Join(c.Warnings(), "\n")
		if strings.Contains(text, config.EnvOTelHeaders) != want || strings.Contains(text, "the-credential") {
			t.Errorf("%s: the warnings are %s", endpoint, text)
		}
	}
}

func TestTraces(t *testing.T) {
	for name, test := range map[string]struct {
		environ map[string]string
		on      bool
		url     string
		problem string // the setting and a word of its message
	}{
		"off by default":         {},
		"an endpoint":            {environ: map[string]string{config.EnvOTelEndpoint: "http://c:4318/"}, on: true, url: "http://c:4318/v1/traces"},
		"an endpoint of traces":  {environ: map[string]string{config.EnvOTelEndpoint: "http://c:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t/x"}, on: true, url: "https://t/x"},
		"the exporter":           {environ: map[string]string{config.EnvOTelTracesExporter: "otlp"}, on: true, url: "http://localhost:4318/v1/traces"},
		"empty variables":        {environ: map[string]string{config.EnvOTelTracesExporter: "", config.EnvOTelEndpoint: "", config.EnvOTelTracesSampler: "", config.EnvOTelTracesSamplerArg: ""}},
		"empty but the endpoint": {environ: map[string]string{config.EnvOTelTracesExporter: "", config.EnvOTelEndpoint: "http://c:4318"}, on: true, url: "http://c:4318/v1/traces"},
		"no exporter":            {environ: map[string]string{config.EnvOTelTracesExporter: "none", config.EnvOTelEndpoint: "http://c:4318"}},
		"disabled":               {environ: map[string]string{config.EnvOTelSDKDisabled: "TRUE", config.EnvOTelEndpoint: "http://c:4318", config.EnvOTelProtocol: "grpc"}},
		"gRPC":                   {environ: map[string]string{config.EnvOTelEndpoint: "http://c:4317", config.EnvOTelProtocol: "grpc"}, problem: config.EnvOTelProtocol + ` "grpc" is not supported`},
		"gRPC only for traces":   {environ: map[string]string{config.EnvOTelEndpoint: "http://c:4317", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, problem: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"},
		"another exporter":       {environ: map[string]string{config.EnvOTelTracesExporter: "zipkin"}, problem: config.EnvOTelTracesExporter},
		"a user in the endpoint": {environ: map[string]string{config.EnvOTelEndpoint: "http://u:secret-word@c:4318"}, problem: config.EnvOTelEndpoint},
		"a wrong sampler":        {environ: map[string]string{config.EnvOTelTracesSampler: "sometimes"}, problem: config.EnvOTelTracesSampler},
		"a wrong share":          {environ: map[string]string{config.EnvOTelTracesSamplerArg: "1.5"}, problem: config.EnvOTelTracesSamplerArg},
		"a share that is NaN":    {environ: map[string]string{config.EnvOTelTracesSamplerArg: "nan"}, problem: config.EnvOTelTracesSamplerArg},
		"wrong headers":          {environ: map[string]string{config.EnvOTelHeaders: "secret-word"}, problem: config.EnvOTelHeaders},
		"headers of two lines":   {environ: map[string]string{config.EnvOTelHeaders: "a=secret-word%0d%0ab:c"}, problem: config.EnvOTelHeaders},
		"half a pair of keys":    {environ: map[string]string{config.EnvOTelEndpoint: "https://c", config.EnvOTelClientKey: "k"}, problem: config.EnvOTelClientCert},
		"a CA without TLS":       {environ: map[string]string{config.EnvOTelEndpoint: "http://c", config.EnvOTelCertificate: "k"}, problem: config.EnvOTelCertificate},
		"a large batch":          {environ: map[string]string{config.EnvOTelEndpoint: "http://c", config.EnvOTelQueueSize: "5"}, problem: config.EnvOTelBatchSize},
		"wrong attributes":       {environ: map[string]string{config.EnvOTelResourceAttributes: "a"}, problem: config.EnvOTelResourceAttributes},
	} {
		t.Run(name, func(t *testing.T) {
			environ := twelve()
			maps.Copy(environ, test.environ)
			c, err := config.Load(func(name string) (string, bool) { v, ok := environ[name]; return v, ok }, nil)
			if test.problem != "" {
				text := strings.ReplaceAll(fmt.Sprint(err), ": ", " ")
				if !strings.HasPrefix(text, test.problem) || strings.Contains(text, "secret-word") {
					t.Fatalf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Traces.Enabled() != test.on || test.on && c.Traces.Export().Endpoint != test.url {
				t.Errorf("got %v, %q", c.Traces.Enabled(), c.Traces.Export().Endpoint)
			}
		})
	}
}
