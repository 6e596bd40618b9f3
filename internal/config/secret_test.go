package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	const text = "the+very/secret+text+in+base64++" // base64, because the secret for webhooks must be
	environ := twelve()
	for _, s := range config.Settings() {
		if s.Secret {
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
	testenv.OK(t, config.Usage(&help))
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
	// MetricsPortSet and DerivedIssuer are not settings. They record whether one was set.
	if fields := reflect.TypeFor[config.Config]().NumField() - 2; fields != len(seen) {
		t.Errorf("%d fields in Config, %d rows in the table", fields, len(seen))
	}
}
