package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

var origins = optional(commaSeparated(checkOrigin))

// checkOrigin accepts an origin only in the form in which browsers send it (RFC 6454
// section 6.2), because origins are compared byte by byte. It refuses *, although the
// API uses no cookies: an internal gateway may rely on its network for protection, and
// * would admit every page that a user in that network opens. It refuses null, which
// every sandboxed frame and every local file sends.
func checkOrigin(s string) error {
	switch scheme, host, _ := strings.Cut(s, "://"); {
	case s == "*":
		return errors.New("* would allow every web page: " +
			"write the origin of each application, such as https://app.example.com")
	case s == "null" || strings.EqualFold(scheme, "file"):
		return fmt.Errorf("%s is the origin of every local file and sandboxed frame: "+
			"serve the application from a host, or use a custom scheme, such as capacitor://localhost", quote(s))
	case appScheme.MatchString(scheme) && !webSchemes[scheme]:
		return checkAppOrigin(s, host)
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || !isHost(u.Hostname()) {
		return fmt.Errorf("%s is not an origin: "+
			"write scheme://host[:port] with an ASCII host, such as https://app.example.com", quote(s))
	}
	// net/url does not check the range.
	port, err := strconv.ParseUint(cmp.Or(u.Port(), "0"), 10, 16)
	if err != nil || u.Port() != "" && port == 0 {
		return fmt.Errorf("%s has an invalid port: write one from 1 to 65535", quote(s))
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
		return fmt.Errorf("%s is not the form that browsers send: write %s", quote(s), origin)
	}
	return nil
}

// Packaged applications use custom schemes: capacitor://localhost, ionic://localhost, tauri://localhost, app://-.
var (
	appScheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]*$`)
	appHost   = regexp.MustCompile(`^[A-Za-z0-9._-]*(:[0-9]{1,5})?$`)

	// webSchemes have another meaning in browsers, or cannot be the scheme of an origin.
	webSchemes = map[string]bool{
		"http": true, "https": true, "ws": true, "wss": true, "ftp": true,
		"about": true, "blob": true, "data": true, "filesystem": true, "javascript": true, "mailto": true, "view-source": true,
	}
)

func checkAppOrigin(s, host string) error {
	if !strings.Contains(s, "://") || !appHost.MatchString(host) {
		return fmt.Errorf("%s is not an origin: "+
			"write scheme://host[:port] without a path, such as https://app.example.com or capacitor://localhost", quote(s))
	}
	return nil
}

var fieldNames = optional(commaSeparated(checkFieldName))

var fieldName = regexp.MustCompile("^[A-Za-z0-9!#$%&'+.^_`|~-]+$")

// checkFieldName accepts the name of a header field that a page may send. It refuses
// the fields that only trusted callers and proxies may send.
func checkFieldName(s string) error {
	lower := strings.ToLower(s)
	switch {
	case lower == "x-caller-key":
		return errors.New("X-Caller-Key is a secret of your backend: leave it out, because a page must not have it")
	case lower == "forwarded" || strings.HasPrefix(lower, "x-forwarded-") || lower == "x-real-ip":
		return fmt.Errorf("%s is reserved for proxies: leave it out", quote(s))
	case !fieldName.MatchString(s):
		return fmt.Errorf("%s is not a header field name: write names separated by commas, such as X-Tenant", quote(s))
	}
	return nil
}
