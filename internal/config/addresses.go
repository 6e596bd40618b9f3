package config

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
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

// databaseHost parses hosts, each with or without a port.
var databaseHost = parser[string]{
	parse: func(s string) (string, error) {
		hosts, err := commaSeparated(func(entry string) error {
			host, _, err := splitHost(entry)
			switch {
			case err != nil:
				return err
			case !isHost(host) && !strings.HasPrefix(host, "/"):
				return fmt.Errorf("%s is not a host name, an IP address or a socket directory: write one, or several separated "+
					"by commas, without a scheme; a port follows a colon, as in db:5433 or [fd00::5]:5433, or is in %s",
					quote(entry), EnvDBPort)
			}
			return nil
		}).parse(s)
		return strings.Join(hosts, ","), err
	},
	format: asIs,
}

// splitHost separates the port, if there is one, from a host. An IPv6 address without a port needs no brackets.
func splitHost(entry string) (host string, port int, err error) {
	if strings.HasPrefix(entry, "/") || net.ParseIP(entry) != nil {
		return entry, 0, nil
	}
	if inner, ok := strings.CutPrefix(entry, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok && net.ParseIP(inner) != nil {
			return inner, 0, nil
		}
	}
	host, text, err := net.SplitHostPort(entry)
	if err != nil || !isHost(host) || strings.Contains(text, "/") {
		return entry, 0, nil //nolint:nilerr // without a port, or not a host at all
	}
	port, err = integer(1, 65535).parse(text)
	if err != nil {
		return "", 0, fmt.Errorf("%s has an invalid port: %w", quote(entry), err)
	}
	return host, port, nil
}

// DBHosts returns the hosts of PostgreSQL without their ports, and the ports: one for all, or one for each.
func (c Config) DBHosts() (hosts []string, ports Ports) {
	ports = c.DBPort
	if c.namesDBPorts() && len(ports) == 1 {
		ports = slices.Repeat(ports, strings.Count(c.DBHost, ",")+1)
	}
	for i, entry := range strings.Split(c.DBHost, ",") {
		host, port, _ := splitHost(entry)
		hosts = append(hosts, host)
		if port != 0 {
			ports[i] = port
		}
	}
	return hosts, ports
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

// namesDBPorts reports whether DB_HOST has the port of a host.
func (c Config) namesDBPorts() bool {
	return slices.ContainsFunc(strings.Split(c.DBHost, ","), func(entry string) bool {
		_, port, _ := splitHost(entry)
		return port != 0
	})
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
