package config_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

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
		c, err := load(with(map[string]string{"REFRESH_TOKEN_EXPIRY": text}))
		if err != nil || c.RefreshTokenExpiry != want {
			t.Errorf("%s is read as %v, %v", text, c.RefreshTokenExpiry, err)
		}
	}
	var b strings.Builder
	testenv.OK(t, config.Usage(&b))
	for _, line := range []string{"KEY_ROTATION_INTERVAL (30d)", "UNVERIFIED_ACCOUNT_EXPIRY (7d)", "AUDIT_RETENTION (90d)"} {
		if !slices.Contains(strings.Split(b.String(), "\n"), "  "+line) {
			t.Errorf("the help has no line %q", line)
		}
	}
}
