package config

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// A field reads and writes, as text, one field of a Config.
type field struct {
	set    func(*Config, string) error
	get    func(*Config) string
	isZero func(*Config) bool
}

// A kind turns text into a value and back. What parse says must never repeat
// a secret, and says what to write instead.
type kind[T any] struct {
	parse  func(string) (T, error)
	format func(T) string
}

func bind[T any](at func(*Config) *T, k kind[T]) field {
	return field{
		set: func(c *Config, s string) error {
			v, err := k.parse(s)
			if err != nil {
				return err
			}
			*at(c) = v
			return nil
		},
		get:    func(c *Config) string { return k.format(*at(c)) },
		isZero: func(c *Config) bool { return reflect.ValueOf(at(c)).Elem().IsZero() },
	}
}

func integer(low, high int) kind[int] {
	return kind[int]{
		parse: func(s string) (int, error) {
			n, err := strconv.Atoi(s)
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				return 0, fmt.Errorf("%s is not a whole number: write one from %d to %d", quote(s), low, high)
			}
			if err != nil || n < low || n > high {
				return 0, fmt.Errorf("%s is out of range: write a number from %d to %d", quote(s), low, high)
			}
			return n, nil
		},
		format: strconv.Itoa,
	}
}

// duration is text as Go writes it (15m, 1h30m), with days before it (7d, 1d12h), or a
// bare number of seconds.
func duration(low, high time.Duration) kind[time.Duration] {
	return kind[time.Duration]{
		parse: func(s string) (time.Duration, error) {
			d, err := parseDuration(s)
			if err != nil {
				return 0, fmt.Errorf("%s is not a duration: write seconds, such as 900, or a number with d, h, m, s or ms, such as 15m or 7d", quote(s))
			}
			if d < low || d > high {
				return 0, fmt.Errorf("%s is out of range: write a duration from %s to %s", quote(s), formatDuration(low), formatDuration(high))
			}
			return d, nil
		},
		format: formatDuration,
	}
}

// wholeSeconds is a duration that ends up in a token or a reply, where there
// is no smaller unit.
func wholeSeconds(low, high time.Duration) kind[time.Duration] {
	k := duration(low, high)
	parse := k.parse
	k.parse = func(s string) (time.Duration, error) {
		d, err := parse(s)
		if err == nil && d%time.Second != 0 {
			return 0, fmt.Errorf("%s is not a whole number of seconds: round it", quote(s))
		}
		return d, err
	}
	return k
}

// seconds is written as a bare number, as OAuth writes lifetimes (RFC 6749
// section 5.1).
func seconds(low, high time.Duration) kind[time.Duration] {
	k := wholeSeconds(low, high)
	k.format = func(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
	return k
}

func parseDuration(s string) (time.Duration, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		// A number too large for a Duration becomes the largest one, which
		// every setting's range refuses.
		n = min(max(n, math.MinInt64/int64(time.Second)), math.MaxInt64/int64(time.Second))
		return time.Duration(n) * time.Second, nil
	}
	days, rest, found := strings.Cut(s, "d")
	if !found {
		return time.ParseDuration(s)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, err
	}
	if rest == "" {
		return time.Duration(n) * day, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || rest[0] == '+' {
		return 0, fmt.Errorf("%s does not follow a number of days", quote(rest))
	}
	return time.Duration(n)*day + d, nil
}

// formatDuration writes 720h where Duration.String writes 720h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func oneOf[T ~string](values ...T) kind[T] {
	return kind[T]{
		parse: func(s string) (T, error) {
			if !slices.Contains(values, T(s)) {
				return "", fmt.Errorf("%s is not known: write %s", quote(s), alternatives(values))
			}
			return T(s), nil
		},
		format: func(v T) string { return string(v) },
	}
}

func alternatives[T ~string](values []T) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = string(v)
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

var onOff = kind[bool]{
	parse: func(s string) (bool, error) {
		v, err := oneOf("on", "off").parse(s)
		return v == "on", err
	},
	format: func(on bool) string {
		if on {
			return "on"
		}
		return "off"
	},
}

var logLevel = kind[slog.Level]{
	// slog's own parser also takes INFO+3, which nobody means.
	parse: func(s string) (level slog.Level, err error) {
		if _, err = oneOf("debug", "info", "warn", "error").parse(s); err == nil {
			err = level.UnmarshalText([]byte(s))
		}
		return level, err
	},
	format: func(l slog.Level) string { return strings.ToLower(l.String()) },
}

var text = kind[string]{
	parse: func(s string) (string, error) {
		if s == "" {
			return "", errors.New("is empty")
		}
		return s, nil
	},
	format: func(s string) string { return s },
}

// serviceName is short, because subjects of emails contain it.
var serviceName = kind[string]{
	parse: func(s string) (string, error) {
		if s == "" || len(s) > maxServiceName || strings.TrimSpace(s) != s {
			return "", fmt.Errorf("write one line of at most %d bytes, such as Example Shop", maxServiceName)
		}
		return s, nil
	},
	format: func(s string) string { return s },
}

// optional is text that may be left empty.
var optional = kind[string]{
	parse:  func(s string) (string, error) { return s, nil },
	format: text.format,
}

// secret is text of at least so many bytes; where least is 0, it may be empty.
func secret(least int) kind[Secret] {
	return kind[Secret]{
		parse: func(s string) (Secret, error) {
			if len(s) < least {
				return Secret{}, fmt.Errorf("has %d bytes: write %d or more, such as the output of `openssl rand -base64 24`, or leave it out", len(s), least)
			}
			return NewSecret(s), nil
		},
		format: Secret.Reveal,
	}
}

// hostName is deliberately wider than RFC 1123: names with an underscore
// exist in container networks.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?$`)

func isHost(s string) bool { return net.ParseIP(s) != nil || hostName.MatchString(s) }

var listenHost = kind[string]{
	parse: func(s string) (string, error) {
		if s != "" && !isHost(s) {
			return "", fmt.Errorf("%s is neither a host name nor an IP address: write one, such as localhost, 0.0.0.0 or ::1, without a scheme, brackets or a port", quote(s))
		}
		return s, nil
	},
	format: text.format,
}

var databaseHost = kind[string]{
	parse: func(s string) (string, error) {
		hosts, err := commaSeparated(func(host string) error {
			if !isHost(host) && !strings.HasPrefix(host, "/") {
				return fmt.Errorf("%s is neither a host name, an IP address nor the folder of a socket: write one, or several separated by commas, without a scheme or a port (that is %s)", quote(host), EnvDBPort)
			}
			return nil
		}).parse(s)
		return strings.Join(hosts, ","), err
	},
	format: text.format,
}

// ports is one number, or several separated by commas.
var ports = kind[Ports]{
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

var issuerURL = kind[string]{
	parse: func(s string) (string, error) {
		refuse := func(what string) (string, error) {
			return "", fmt.Errorf("%s %s: write an absolute URL, such as https://auth.example.com", quote(s), what)
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
			return refuse("has a user in it")
		case strings.ContainsAny(s, "?#"):
			return refuse("has a query or a fragment")
		case strings.Contains(s, ",") || strings.ContainsFunc(s, unicode.IsSpace):
			// AUDIENCE, whose default this is, separates by commas.
			return refuse("has a space or a comma")
		}
		return s, nil
	},
	format: text.format,
}

const rateOff = "off"

// rate is written as 30/5m, or off.
var rate = kind[Rate]{
	parse: func(s string) (Rate, error) {
		if s == rateOff {
			return Rate{}, nil
		}
		count, per, ok := strings.Cut(s, "/")
		n, err := integer(1, 100_000).parse(count)
		if !ok || err != nil {
			return Rate{}, fmt.Errorf("%s is no limit: write a number from 1 to 100000, a slash and a duration, such as 30/5m, or %s", quote(s), rateOff)
		}
		d, err := duration(time.Second, day).parse(per)
		if err != nil {
			return Rate{}, err
		}
		return Rate{Count: n, Per: d}, nil
	},
	format: func(r Rate) string {
		if r == (Rate{}) {
			return rateOff
		}
		return strconv.Itoa(r.Count) + "/" + formatDuration(r.Per)
	},
}

// smtpHost may be left empty.
var smtpHost = kind[string]{
	parse: func(s string) (string, error) {
		if s != "" && !isHost(s) {
			return "", fmt.Errorf("%s is neither a host name nor an IP address: write one, without a scheme or a port (that is %s)", quote(s), EnvSMTPPort)
		}
		return s, nil
	},
	format: text.format,
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// sender may be left empty.
var sender = kind[string]{
	parse: func(s string) (string, error) {
		if s == "" {
			return "", nil
		}
		if _, err := mail.ParseAddress(s); err != nil {
			return "", fmt.Errorf("%s is no email address: write one, such as no-reply@example.com or Example <no-reply@example.com>", quote(s))
		}
		return s, nil
	},
	format: text.format,
}

// codePlace stands for the code in a link.
const codePlace = "{code}"

// mailLink may be left empty.
var mailLink = kind[string]{
	parse: func(s string) (string, error) {
		if s == "" {
			return "", nil
		}
		before, after, found := strings.Cut(s, codePlace)
		u, err := url.Parse(before)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
			u.Path == "" && !strings.ContainsAny(before, "?#") || // the code would be part of the host
			!found || strings.Contains(after, codePlace) || strings.ContainsFunc(s, unicode.IsSpace) {
			return "", fmt.Errorf("%s is no link for a code: write an absolute URL with %s in it once, such as https://app.example.com/verify#%[2]s", quote(s), codePlace)
		}
		return s, nil
	},
	format: text.format,
}

// webhookURL may be left empty.
var webhookURL = kind[string]{
	parse: func(s string) (string, error) {
		if s == "" {
			return "", nil
		}
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
			// It is not repeated: what was meant for a password may stand in it.
			return "", errors.New("is no URL to send to: write an absolute one without a user in it, such as https://mail.example.com/hook")
		}
		return s, nil
	},
	format: text.format,
}

// webhookSecret may be left empty.
var webhookSecret = kind[Secret]{
	parse: func(s string) (Secret, error) {
		if s == "" {
			return Secret{}, nil
		}
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "whsec_"))
		if err != nil || len(key) < 24 || len(key) > 64 {
			return Secret{}, errors.New("is not 24 to 64 bytes in base64: write the output of `openssl rand -base64 32`")
		}
		return NewSecret(s), nil
	},
	format: Secret.Reveal,
}

// commaSeparated is a list of different names; check tells what is wrong with
// one of them.
func commaSeparated(check func(string) error) kind[[]string] {
	return kind[[]string]{
		parse: func(s string) ([]string, error) {
			list := strings.Split(s, ",")
			for i := range list {
				list[i] = strings.TrimSpace(list[i])
				if list[i] == "" {
					return nil, fmt.Errorf("%s has an empty part: write names separated by single commas", quote(s))
				}
				if err := check(list[i]); err != nil {
					return nil, err
				}
				if slices.Contains(list[:i], list[i]) {
					return nil, fmt.Errorf("%s is named twice: write it once", quote(list[i]))
				}
			}
			return list, nil
		},
		format: func(list []string) string { return strings.Join(list, ",") },
	}
}

var audiences = commaSeparated(func(s string) error {
	if strings.ContainsFunc(s, unicode.IsSpace) {
		return fmt.Errorf("%s has a space in a name: separate names by commas", quote(s))
	}
	return nil
})

// origins may be left empty.
var origins = func() kind[[]string] {
	k := commaSeparated(checkOrigin)
	parse := k.parse
	k.parse = func(s string) ([]string, error) {
		if s == "" {
			return nil, nil
		}
		return parse(s)
	}
	return k
}()

// checkOrigin takes an origin in the one form in which browsers send it (RFC
// 6454 section 6.2), since it is compared byte by byte. A * is refused even
// though no cookies are at stake: an internal gateway may trust its network
// alone, and any page that someone in that network opens would be let in. So is
// null, which every sandboxed frame and every local file sends.
func checkOrigin(s string) error {
	switch scheme, host, _ := strings.Cut(s, "://"); {
	case s == "*":
		return errors.New("* would let in every page that anyone opens: write the origin of each application, such as https://app.example.com")
	case s == "null" || strings.EqualFold(scheme, "file"):
		return fmt.Errorf("%s is what any local file and any sandboxed frame sends: serve the application from a host, or give it a scheme of its own, such as capacitor://localhost", quote(s))
	case appScheme.MatchString(scheme) && !webSchemes[scheme]:
		return checkAppOrigin(s, host)
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || !isHost(u.Hostname()) {
		return fmt.Errorf("%s is no origin: write scheme://host[:port], such as https://app.example.com, and a host in ASCII", quote(s))
	}
	// net/url does not check the range.
	port, err := strconv.ParseUint(cmp.Or(u.Port(), "0"), 10, 16)
	if err != nil || u.Port() != "" && port == 0 {
		return fmt.Errorf("%s has a port that cannot be: write one from 1 to 65535", quote(s))
	}
	host := strings.ToLower(u.Hostname())
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		host = "[" + ip.String() + "]"
	}
	origin := u.Scheme + "://" + host
	if own := map[string]uint64{"http": 80, "https": 443}[u.Scheme]; port != 0 && port != own {
		origin += ":" + strconv.FormatUint(port, 10)
	}
	if s != origin {
		return fmt.Errorf("%s is not as browsers send it: write %s", quote(s), origin)
	}
	return nil
}

// Applications that carry their pages with them have schemes of their own:
// capacitor://localhost, ionic://localhost, tauri://localhost, app://-.
var (
	appScheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]*$`)
	appHost   = regexp.MustCompile(`^[A-Za-z0-9._-]*(:[0-9]{1,5})?$`)

	// webSchemes are those that mean something else to browsers, or that cannot be
	// the scheme of an origin.
	webSchemes = map[string]bool{
		"http": true, "https": true, "ws": true, "wss": true, "ftp": true,
		"about": true, "blob": true, "data": true, "filesystem": true, "javascript": true, "mailto": true, "view-source": true,
	}
)

func checkAppOrigin(s, host string) error {
	if !strings.Contains(s, "://") || !appHost.MatchString(host) {
		return fmt.Errorf("%s is no origin: write scheme://host[:port] without a path, such as https://app.example.com or capacitor://localhost", quote(s))
	}
	return nil
}

const noNames = "none"

// signUpNames is a list of the names that a person has to give at sign-up, or none.
var signUpNames = func() kind[[]string] {
	names := []string{"username", "first_name", "last_name"}
	k := commaSeparated(func(s string) error {
		if !slices.Contains(names, s) {
			return fmt.Errorf("%s is not known: write %s, or %s alone", quote(s), alternatives(names), noNames)
		}
		return nil
	})
	parse, format := k.parse, k.format
	k.parse = func(s string) ([]string, error) {
		switch s {
		case noNames:
			return []string{}, nil
		case "":
			return nil, fmt.Errorf("is empty: write %s, or %s if none of them is required", strings.Join(names, ","), noNames)
		}
		return parse(s)
	}
	k.format = func(list []string) string { return cmp.Or(format(list), noNames) }
	return k
}()

// fieldNames may be left empty.
var fieldNames = func() kind[[]string] {
	k := commaSeparated(checkFieldName)
	parse := k.parse
	k.parse = func(s string) ([]string, error) {
		if s == "" {
			return nil, nil
		}
		return parse(s)
	}
	return k
}()

var fieldName = regexp.MustCompile("^[A-Za-z0-9!#$%&'+.^_`|~-]+$")

// checkFieldName takes the name of a header field that a page may send. Some are for
// those alone who speak for others.
func checkFieldName(s string) error {
	lower := strings.ToLower(s)
	switch {
	case lower == "x-caller-key":
		return errors.New("X-Caller-Key is the key of your own backend: no page may have it")
	case lower == "forwarded" || strings.HasPrefix(lower, "x-forwarded-") || lower == "x-real-ip":
		return fmt.Errorf("%s is for proxies alone: leave it out", quote(s))
	case !fieldName.MatchString(s): // a * is none here: it does not stand for Authorization
		return fmt.Errorf("%s is no name of a header field: write names separated by commas, such as X-Tenant", quote(s))
	}
	return nil
}

// sizeUnits are in the order in which format tries them.
var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// size is a number of bytes with a unit. Empty is 0, and stands for a default that
// is found out later.
func size(low, high int64) kind[int64] {
	format := func(n int64) string {
		for _, unit := range sizeUnits {
			if n != 0 && n%unit.bytes == 0 {
				return strconv.FormatInt(n/unit.bytes, 10) + unit.name
			}
		}
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	return kind[int64]{
		parse: func(s string) (int64, error) {
			if s == "" {
				return 0, nil
			}
			number, factor := s, int64(1)
			for _, unit := range sizeUnits {
				if before, found := strings.CutSuffix(s, unit.name); found {
					number, factor = before, unit.bytes
				}
			}
			n, err := strconv.ParseInt(number, 10, 64)
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				return 0, fmt.Errorf("%s is no size: write a number with KiB, MiB or GiB, such as 64MiB", quote(s))
			}
			if err != nil || n < low/factor || n > high/factor {
				return 0, fmt.Errorf("%s is out of range: write a size from %s to %s", quote(s), format(low), format(high))
			}
			return n * factor, nil
		},
		format: format,
	}
}

// scopeToken is the grammar of RFC 6749, section 3.3.
var scopeToken = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]+$`)

var scopes = kind[[]string]{
	parse: func(s string) ([]string, error) {
		list := strings.Fields(s)
		if len(list) == 0 {
			return nil, errors.New("is empty: write scopes separated by spaces, such as profile email")
		}
		for i, scope := range list {
			if !scopeToken.MatchString(scope) {
				return nil, fmt.Errorf("%s is no scope: write ASCII without spaces, quotes or backslashes", quote(scope))
			}
			if slices.Contains(list[:i], scope) {
				return nil, fmt.Errorf("%s is named twice: write it once", quote(scope))
			}
		}
		return list, nil
	},
	format: func(list []string) string { return strings.Join(list, " ") },
}

// quote shows a value in a message, and only the beginning of a long one.
func quote(s string) string {
	const enough = 60
	if len(s) > enough {
		s = strings.ToValidUTF8(s[:enough], "") + "…"
	}
	return strconv.Quote(s)
}
