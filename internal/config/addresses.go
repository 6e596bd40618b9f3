package config

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// hostName deliberately allows more than RFC 1123: names in container networks may contain an underscore.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?$`)

func isHost(s string) bool { return net.ParseIP(s) != nil || hostName.MatchString(s) }

var listenHost = optional(textThat(func(s string) error {
	if !isHost(s) {
		return fmt.Errorf("%s is neither a host name nor an IP address: "+
			"write one, such as localhost, 0.0.0.0 or ::1, without a scheme, brackets or a port", quote(s))
	}
	return nil
}))

var databaseHost = parser[string]{
	parse: func(s string) (string, error) {
		hosts, err := commaSeparated(func(host string) error {
			if !isHost(host) && !strings.HasPrefix(host, "/") {
				return fmt.Errorf("%s is not a host name, an IP address or a socket directory: "+
					"write one, or several separated by commas, without a scheme or a port (that is %s)", quote(host), EnvDBPort)
			}
			return nil
		}).parse(s)
		return strings.Join(hosts, ","), err
	},
	format: asIs,
}

// ports parses one number, or several separated by commas.
var ports = parser[Ports]{
	parse: func(s string) (list Ports, err error) {
		for part := range strings.SplitSeq(s, ",") {
			port, err := integer(1, 65535).parse(strings.TrimSpace(part))
			if err != nil {
				return nil, err
			}
			list = append(list, port)
		}
		return list, nil
	},
	format: func(list Ports) string {
		texts := make([]string, len(list))
		for i, port := range list {
			texts[i] = strconv.Itoa(port)
		}
		return strings.Join(texts, ",")
	},
}

var issuerURL = textThat(func(s string) error {
	refuse := func(what string) error {
		return fmt.Errorf("%s %s: write an absolute URL, such as https://auth.example.com", quote(s), what)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return refuse("is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return refuse("does not begin with http:// or https://")
	case u.Hostname() == "":
		return refuse("has no host")
	case u.User != nil:
		return refuse("contains a user")
	case strings.ContainsAny(s, "?#"):
		return refuse("contains a query or a fragment")
	case strings.Contains(s, ",") || strings.ContainsFunc(s, unicode.IsSpace):
		// It is the default of AUDIENCE, which is separated by commas.
		return refuse("contains a space or a comma")
	}
	return nil
})

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
