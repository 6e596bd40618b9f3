package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/mail"
	"net/url"
	"strings"
	"unicode"
)

var smtpHost = optional(textThat(func(s string) error {
	if !isHost(s) {
		return fmt.Errorf("%s is neither a host name nor an IP address: "+
			"write one, without a scheme or a port (that is %s)", quote(s), EnvSMTPPort)
	}
	return nil
}))

var sender = optional(textThat(func(s string) error {
	if _, err := mail.ParseAddress(s); err != nil {
		return fmt.Errorf("%s is not an email address: "+
			"write one, such as no-reply@example.com or Example <no-reply@example.com>", quote(s))
	}
	return nil
}))

// codePlace is the placeholder of the code in a link.
const codePlace = "{code}"

var mailLink = optional(textThat(func(s string) error {
	before, after, found := strings.Cut(s, codePlace)
	u, err := url.Parse(before)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		u.Path == "" && !strings.ContainsAny(before, "?#") || // the code would be part of the host
		!found || strings.Contains(after, codePlace) || strings.ContainsFunc(s, unicode.IsSpace) {
		return fmt.Errorf("%s is not a link for a code: "+
			"write an absolute URL that contains %s once, such as https://app.example.com/verify#%[2]s", quote(s), codePlace)
	}
	return nil
}))

var webhookURL = optional(textThat(func(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		// The error does not repeat the value, which may contain a password.
		return errors.New("is not a URL for a webhook: " +
			"write an absolute URL without a user or a fragment, such as https://example.com/hook")
	}
	return nil
}))

var migrationURL = optional(textThat(func(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) || u.Hostname() == "" ||
		u.User != nil || u.Fragment != "" {
		return errors.New("is not a URL that passwords can be sent to: " +
			"write an absolute URL with https and without a user, such as https://example.com/password")
	}
	return nil
}))

var webhookSecret = optional(parser[Secret]{
	parse: func(s string) (Secret, error) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "whsec_"))
		if err != nil || len(key) < 24 || len(key) > 64 {
			return Secret{}, errors.New("is not 24 to 64 bytes in base64: write the output of `openssl rand -base64 32`")
		}
		return NewSecret(s), nil
	},
	format: Secret.Reveal,
})
