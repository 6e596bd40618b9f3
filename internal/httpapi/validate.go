package httpapi

import (
	"bytes"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// single are the fields that determine the end, the host, and the body of a request. If one were repeated, a proxy and
// this server could use different ones (RFC 9110 section 5.3: a sender must not repeat them).
var single = [...]string{
	"Content-Length", "Transfer-Encoding", "Host", "Content-Type", "Authorization", "X-Caller-Key", "X-Request-Id",
}

// framingFields is the number of fields, from the first, that determine the end and the host of a
// request. In a trailer these are refused, not just ignored.
const framingFields = 3

// validateFraming refuses ambiguous requests. fasthttp accepts some of them, and each kind has been
// used to smuggle a second request past a proxy: RFC 9112 sections 2.2 (line ends), 5.1 (space
// before the colon), 5.2 (obs-fold), 6.1 and 6.3 (two lengths), 3.2 (two hosts).
func validateFraming(h *fasthttp.RequestHeader) *failure {
	if p := h.Protocol(); string(p) != "HTTP/1.1" && string(p) != "HTTP/1.0" {
		return errAmbiguous("the protocol must be HTTP/1.1")
	}
	var seen [len(single)]bool
	var chunked bool
	for raw := h.RawHeaders(); len(raw) > 0; {
		line, rest, whole := bytes.Cut(raw, []byte("\r\n"))
		if !whole || bytes.IndexByte(line, '\n') >= 0 || bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, 0) >= 0 {
			return errAmbiguous("a header line does not end with CR LF")
		}
		raw = rest
		if len(line) == 0 {
			break
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found || !isToken(name) {
			return errAmbiguous("a header line does not start with a field name and a colon")
		}
		i := slices.IndexFunc(single[:], func(s string) bool {
			return len(s) == len(name) && strings.EqualFold(s, string(name))
		})
		if i < 0 {
			continue
		}
		if seen[i] {
			return errAmbiguous("the field " + single[i] + " occurs twice")
		}
		seen[i] = true
		if single[i] == "Transfer-Encoding" {
			chunked = true
			if !bytes.EqualFold(bytes.Trim(value, " \t"), []byte("chunked")) {
				return errAmbiguous("the Transfer-Encoding must be chunked")
			}
		}
	}
	if chunked && seen[0] {
		return errAmbiguous("the request has both a Content-Length and a Transfer-Encoding")
	}
	return nil
}

// headValues iterates over the values of all lines with a name.
func headValues(h *fasthttp.RequestHeader, name string) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for line := range bytes.SplitSeq(h.RawHeaders(), []byte("\r\n")) {
			field, value, _ := bytes.Cut(line, []byte(":"))
			if len(field) == len(name) && strings.EqualFold(string(field), name) && !yield(bytes.Trim(value, " \t")) {
				return
			}
		}
	}
}

// isToken reports whether b is a token (RFC 9110 section 5.6.2).
func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenBytes[c] {
			return false
		}
	}
	return len(b) > 0
}

// tokenBytes is a table, because each byte of each field name is looked up.
var tokenBytes = func() (all [256]bool) {
	for c := byte('!'); c <= '~'; c++ {
		all[c] = strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) < 0
	}
	return all
}()

// originForm returns the path and query of a request target. It also accepts the absolute form (RFC 9112 section 3.2.2)
// with any host, because this server has no virtual hosts. The other forms are for proxies and for OPTIONS.
func originForm(uri []byte) ([]byte, bool) {
	if len(uri) > 0 && uri[0] == '/' {
		return uri, true
	}
	scheme, rest, found := bytes.Cut(uri, []byte("://"))
	if !found || !bytes.EqualFold(scheme, []byte("http")) && !bytes.EqualFold(scheme, []byte("https")) {
		return nil, false
	}
	authority := rest
	if i := bytes.IndexAny(rest, "/?"); i >= 0 {
		authority = rest[:i]
	}
	for _, b := range authority {
		if !isAlphanumeric(b) && strings.IndexByte("-._:[]", b) < 0 {
			return nil, false // such as a user (RFC 9110 section 4.2.4)
		}
	}
	switch rest = rest[len(authority):]; {
	case len(authority) == 0:
		return nil, false
	case len(rest) == 0 || rest[0] != '/':
		return append([]byte("/"), rest...), true
	}
	return rest, true
}

// idPattern is the placeholder of a UUID at the end of a route's path.
const idPattern = "{id}"

// splitID splits a path that ends in a UUID (see identity.IsUUID) into the path of its route, such as
// "/users/sessions/{id}", and the id. Otherwise it returns the path itself and no id.
func splitID(path string) (pattern, id string) {
	slash := strings.LastIndexByte(path, '/') + 1
	if id = path[slash:]; identity.IsUUID(id) {
		return path[:slash] + idPattern, id
	}
	return path, ""
}

// withoutID returns the path of the route that would match if the last segment were an id, or "" if
// the last segment is empty.
func withoutID(path string) string {
	if slash := strings.LastIndexByte(path, '/') + 1; slash < len(path) {
		return path[:slash] + idPattern
	}
	return ""
}

// secrets are the parameters that must not be in a URL, because logs, histories and Referer fields
// record URLs (RFC 6750 section 5.3).
var secrets = [...]parameter{paramAccessToken, paramRefreshToken, paramToken, paramCode, paramPassword, paramOldPassword}

// validateQuery refuses secrets in a query string, and if the server is strict, everything that the
// route does not read there.
func validateQuery(query []byte, read []string, strict bool) *failure {
	if len(query) == 0 {
		return nil
	}
	values, err := url.ParseQuery(string(query))
	if err != nil {
		return invalid(http.StatusBadRequest, reasonQueryMalformed, "the query string is malformed")
	}
	var wrong []identity.Problem
	for _, p := range secrets {
		if values.Has(p.String()) {
			wrong = append(wrong, identity.Problem{
				Parameter: p.String(), Fault: identity.Fault{Reason: identity.FieldInQuery, Text: "must not be in the query string"},
			})
		}
	}
	if strict {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			secret := slices.ContainsFunc(secrets[:], func(p parameter) bool { return p.String() == name })
			if !secret && !slices.Contains(read, name) && len(wrong) < maxUnknownNames {
				wrong = append(wrong, unknownParameter(name))
			}
		}
	}
	if wrong != nil {
		return invalidFields(wrong)
	}
	return nil
}
