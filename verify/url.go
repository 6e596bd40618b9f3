package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	fetchTimeout  = 10 * time.Second
	maxBody       = 1 << 20
	maxRedirects  = 3
	metadataPath  = "/.well-known/openid-configuration"
	metadataAge   = time.Hour
	shortestAge   = 10 * time.Second
	longestAge    = time.Hour
	maxRetryAfter = 5 * time.Minute
)

// FromURL fetches the keys from the gateway: first its metadata (ISSUER/.well-known/openid-configuration), whose issuer
// must be the given one byte for byte, then the JWK Set that the metadata names. It obeys ETag and max-age, uses the
// proxies of the environment, and refuses redirects to another host.
//
// With the option Issuer, url is only the address, such as that of a Service within the cluster:
//
//	verify.New(ctx, verify.FromURL("http://auth:8080"), audience, verify.Issuer("https://auth.example.com"))
func FromURL(url string) Source {
	return Source{name: url, pause: unknownPause, open: func(e environment) loader {
		r := &remote{url: url, environment: e}
		return r.load
	}}
}

// remote fetches the documents of a gateway.
type remote struct {
	environment

	url        string
	metadata   cached
	metadataAt time.Time // when the metadata was last fetched
	jwksURI    string
	jwks       cached
}

// cached is a body with its entity tag.
type cached struct {
	etag string
	body []byte
}

func (r *remote) load(ctx context.Context) (Document, *Error) {
	issuer := r.issuer
	if issuer == "" {
		issuer = r.url
	}
	if err := checkIssuerURL(r.url); err != nil {
		return Document{}, err
	}
	if r.jwksURI == "" || r.now().Sub(r.metadataAt) >= metadataAge {
		if err := r.loadMetadata(ctx, issuer); err != nil && (r.jwksURI == "" || err.mistake) {
			return Document{}, err
		}
	}
	answer, err := r.fetch(ctx, r.jwksURI, &r.jwks)
	if err != nil {
		r.metadataAt = time.Time{} // the keys may have moved
		return Document{}, err
	}
	return Document{
		Issuer: issuer, JWKS: r.jwks.body, MaxAge: answer.maxAge,
		clockSkew: answer.clockSkew, clockSkewKnown: answer.clockSkewKnown,
	}, nil
}

func checkIssuerURL(text string) *Error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return mistake(ReasonNotIssuerURL, "the issuer must be a URL such as https://auth.example.com, without a query")
	case strings.Contains(u.Path, "/.well-known/"):
		issuer, _, _ := strings.Cut(text, "/.well-known/")
		return mistake(ReasonNotIssuerURL, "%s is a document of the gateway; name the issuer, %s", quote(text), quote(issuer))
	}
	return nil
}

func (r *remote) loadMetadata(ctx context.Context, issuer string) *Error {
	address := strings.TrimSuffix(r.url, "/") + metadataPath
	if _, err := r.fetch(ctx, address, &r.metadata); err != nil {
		if err.Reason == ReasonNoMetadata {
			err.Message += "; the URL must be the gateway's ISSUER, and a gateway before this document existed must be upgraded"
		}
		return err
	}
	var m struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if text := strings.TrimSpace(string(r.metadata.body)); strings.HasPrefix(text, "<") {
		return mistake(ReasonHTML, "%s is an HTML page, not the gateway's metadata; the URL may lead to another program", address)
	}
	if err := json.Unmarshal(r.metadata.body, &m); err != nil {
		return mistake(ReasonMalformedMetadata, "%s is not the gateway's metadata: %v", address, err)
	}
	if m.Issuer != issuer {
		reason, hint := compareIssuers(m.Issuer, issuer)
		return mistake(reason, "the metadata names the issuer %s, and %s is configured%s", quote(m.Issuer), quote(issuer), hint)
	}
	at, err := url.Parse(m.JWKSURI)
	if err != nil || at.Scheme != "https" && (at.Scheme != "http" || strings.HasPrefix(issuer, "https:")) || at.Host == "" {
		return mistake(ReasonMalformedMetadata, "the jwks_uri of the metadata, %s, is not an https URL", quote(m.JWKSURI))
	}
	// The address of the gateway within the cluster may differ from its issuer.
	if rest, found := strings.CutPrefix(m.JWKSURI, strings.TrimSuffix(issuer, "/")+"/"); found {
		m.JWKSURI = strings.TrimSuffix(r.url, "/") + "/" + rest
	}
	if m.JWKSURI != r.jwksURI {
		r.jwksURI, r.jwks = m.JWKSURI, cached{}
	}
	r.metadataAt = r.now()
	return nil
}

// answer is what the headers of a response say.
type answer struct {
	maxAge         time.Duration
	clockSkew      time.Duration
	clockSkewKnown bool
}

// fetch gets a document, or confirms the one that is cached.
func (r *remote) fetch(ctx context.Context, address string, c *cached) (answer, *Error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return answer{}, mistake(ReasonNotIssuerURL, "%s is not a URL", quote(address))
	}
	request.Header.Set("Accept", "application/json")
	if c.etag != "" {
		request.Header.Set("If-None-Match", c.etag)
	}
	response, err := r.client.Do(request)
	if err != nil {
		return answer{}, unreachable(err)
	}
	defer func() { _ = response.Body.Close() }()
	switch {
	case response.StatusCode == http.StatusNotModified && c.body != nil:
		return r.read(response), nil
	case response.StatusCode != http.StatusOK:
		e := outage(ReasonNoMetadata, nil, "%s answers with the status %d", address, response.StatusCode)
		e.retryAfter = retryAfter(response.Header, r.now())
		return answer{}, e
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	switch {
	case err != nil:
		return answer{}, unreachable(err)
	case len(body) > maxBody:
		return answer{}, mistake(ReasonTooLarge, "%s is larger than 1 MiB", address)
	}
	c.etag, c.body = response.Header.Get("ETag"), body
	return r.read(response), nil
}

// unreachable returns the error of a request, without its query, and names a redirect that was refused.
func unreachable(err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	return outage(ReasonUnreachable, err, "the gateway cannot be reached")
}

func (r *remote) read(response *http.Response) answer {
	a := answer{maxAge: defaultMaxAge}
	age, _ := strconv.Atoi(response.Header.Get("Age"))
	for _, directive := range strings.Split(response.Header.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if n, err := strconv.Atoi(strings.Trim(value, `"`)); err == nil && strings.EqualFold(name, "max-age") {
			a.maxAge = time.Duration(min(max(n-age, 0), int(longestAge/time.Second))) * time.Second
		}
	}
	a.maxAge = max(a.maxAge, shortestAge)
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil && age == 0 {
		a.clockSkew, a.clockSkewKnown = r.now().Sub(date), true
	}
	return a
}

// retryAfter returns how long a server asks to wait, or 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	wait := time.Duration(0)
	if n, err := strconv.Atoi(text); err == nil {
		wait = time.Duration(min(max(n, 0), int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// restrict returns a client that follows few redirects, and none to another host or from https to http.
func restrict(client *http.Client) *http.Client {
	c := http.Client{}
	if client != nil {
		c = *client
	}
	c.Timeout = 0 // each request has its own
	c.CheckRedirect = func(request *http.Request, via []*http.Request) error {
		first := via[0].URL
		if request.URL.Host != first.Host || first.Scheme == "https" && request.URL.Scheme != "https" {
			return mistake(ReasonRedirect, "%s redirects to %s, which is another host; configure the final URL",
				quote(first.Redacted()), quote(request.URL.Redacted()))
		}
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		return nil
	}
	return &c
}

// compareIssuers names the difference between two issuers.
func compareIssuers(got, want string) (Reason, string) {
	gotScheme, gotRest, _ := strings.Cut(got, "://")
	wantScheme, wantRest, _ := strings.Cut(want, "://")
	switch {
	case gotRest == wantRest && gotScheme != wantScheme:
		return ReasonHTTPIssuer, "; only http and https differ"
	case strings.TrimSuffix(got, "/") == strings.TrimSuffix(want, "/"):
		return ReasonIssuerSlash, "; only the slash at the end differs"
	}
	return ReasonOtherIssuer, ""
}
