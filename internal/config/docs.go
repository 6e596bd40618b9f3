package config

import (
	"fmt"
	"io"
	"strings"
)

// width is the line length of Usage.
const width = 80

// Usage writes the help of all settings, for -h.
func Usage(w io.Writer) error {
	var b strings.Builder
	b.WriteString("Settings are environment variables. A secret may come from a file instead:\n" +
		"NAME" + FileSuffix + " is the path of the file. A duration is a number of seconds, or text such as 15m or 7d.\n")
	for _, s := range Settings() {
		fmt.Fprintf(&b, "\n  %s (%s)\n", s.Name, s.note(plain))
		wrap(&b, plain(s.Help), "      ")
	}
	b.WriteString("\n")
	wrap(&b, plain(serveOnly()), "")
	_, err := io.WriteString(w, b.String())
	return err
}

// serveOnly names the settings that only the server itself reads.
func serveOnly() string {
	var names []string
	for _, s := range Settings() {
		if s.ServeOnly && !strings.HasPrefix(s.Name, OTelPrefix) {
			names = append(names, "`"+s.Name+"`")
		}
	}
	return "`authserver admin`, which serves only `ADMIN_PORT`, reads all settings but these: " + strings.Join(names, ", ") +
		", and those that begin with `" + OTelPrefix + "`."
}

// Markdown returns the settings as a table, for docs/reference/settings.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| setting | default | meaning |\n|---|---|---|\n")
	for _, s := range Settings() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.Name, s.note(func(s string) string { return s }), s.Help)
	}
	b.WriteString("\n" + serveOnly() + "\n")
	return b.String()
}

// note returns the default of a setting, or that it is required, and whether it is secret.
func (s Setting) note(style func(string) string) string {
	var parts []string
	switch {
	case s.Required:
		parts = append(parts, "required")
	case s.DefaultText != "":
		parts = append(parts, s.DefaultText)
	case s.Default != "":
		parts = append(parts, "`"+s.Default+"`")
	default:
		parts = append(parts, "unset")
	}
	if s.Secret {
		parts = append(parts, "secret")
	}
	return style(strings.Join(parts, ", "))
}

// plain removes Markdown's backquotes for the terminal.
func plain(s string) string { return strings.ReplaceAll(s, "`", "") }

func wrap(b *strings.Builder, text, indent string) {
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line) > len(indent) && len(line)+len(word) > width {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = indent
		}
		line += word + " "
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}
