package verify

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"
)

// Audiences are the services that a token may be for.
type Audiences struct{ names []string }

// Audience names the services that tokens must be for: the aud of a token must contain one of the names, byte for
// byte. New requires it, because a service that accepts tokens for others can be given theirs.
func Audience(name string, others ...string) Audiences {
	return Audiences{append([]string{name}, others...)}
}

// Option configures New.
type Option interface{ configure(*config) }

type optionFunc func(*config)

func (f optionFunc) configure(c *config) { f(c) }

// Requirement is an Option that Verifier.With accepts too, for single routes.
type Requirement func(*requirements)

func (r Requirement) configure(c *config) { r(&c.requirements) }

// config is what the options set.
type config struct {
	audiences []string
	issuer    string
	types     []string
	leeway    time.Duration
	maxStale  time.Duration
	cacheSize int
	client    *http.Client
	now       func() time.Time
	log       *slog.Logger
	feed      *Feed
	maxLag    time.Duration
	failOpen  bool
	requirements
}

// requirements are what a token must have beyond being valid.
type requirements struct {
	scopes []string
	maxAge time.Duration
	acr    []string
}

const (
	defaultType   = "at+jwt"
	defaultLeeway = 10 * time.Second
	maxLeeway     = time.Minute
	leastLag      = 2 * time.Second
)

// check returns an error that names everything that is invalid.
func (c *config) check() error {
	var wrong []string
	invalid := func(condition bool, format string, args ...any) {
		if condition {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	invalid(len(c.audiences) == 0 || slices.Contains(c.audiences, ""),
		"the audience is empty; name this service as the gateway's setting AUDIENCE does")
	invalid(c.leeway < 0 || c.leeway > maxLeeway, "Leeway must be 0 to %v, but is %v", maxLeeway, c.leeway)
	invalid(c.maxStale < 0, "MaxStale must not be negative")
	invalid(c.maxAge < 0, "MaxAge must not be negative")
	invalid(slices.Contains(c.types, ""), "TokenType must not be empty")
	invalid(c.cacheSize < 0, "Cache must not be negative")
	invalid(c.feed != nil && c.maxLag < leastLag, "MaxLag must be %v or more, but is %v", leastLag, c.maxLag)
	if len(wrong) == 0 {
		return nil
	}
	message := wrong[0]
	for _, w := range wrong[1:] {
		message += "; " + w
	}
	return refuse(ErrOptions, ReasonOptions, message)
}

// Issuer names the issuer of tokens, which the source must confirm byte for byte. Without it the source decides. With
// FromURL it allows an address that differs from the issuer.
func Issuer(issuer string) Option { return optionFunc(func(c *config) { c.issuer = issuer }) }

// TokenType sets the typ of access tokens, as the gateway's ACCESS_TOKEN_TYP does. The default is at+jwt. While the
// gateway changes it, name both.
func TokenType(typ string, others ...string) Option {
	return optionFunc(func(c *config) { c.types = append([]string{typ}, others...) })
}

// Leeway sets the tolerance for differences between clocks: 10 seconds by default, a minute at most.
func Leeway(d time.Duration) Option { return optionFunc(func(c *config) { c.leeway = d }) }

// MaxStale refuses all tokens if the source has not confirmed the keys for so long, with ErrUnavailable. By default the
// last good keys are used without end: an outage of the gateway then does not reach its consumers, but a key that is
// revoked during the outage is accepted until it ends.
func MaxStale(d time.Duration) Option { return optionFunc(func(c *config) { c.maxStale = d }) }

// Cache keeps up to so many checked tokens, so the signature of each is verified once. Times, revocations and
// requirements are checked at each use, and a change of the keys empties the cache. There is none by default: it helps
// if clients send the same token many times, and if its memory (about 1 KiB for each token) is available.
func Cache(tokens int) Option { return optionFunc(func(c *config) { c.cacheSize = tokens }) }

// HTTPClient sets the client that fetches keys and ended sessions, such as one that trusts a private CA. Its
// CheckRedirect is replaced.
func HTTPClient(client *http.Client) Option { return optionFunc(func(c *config) { c.client = client }) }

// Clock sets the clock, for tests.
func Clock(now func() time.Time) Option { return optionFunc(func(c *config) { c.now = now }) }

// Logger sets where changes of the keys and failures of the source are logged. By default nothing is.
func Logger(log *slog.Logger) Option { return optionFunc(func(c *config) { c.log = log }) }

// Scopes requires all of some scopes.
func Scopes(scopes ...string) Requirement {
	return func(r *requirements) { r.scopes = append(slices.Clip(r.scopes), scopes...) }
}

// MaxAge requires that the user signed in at most so long ago (auth_time), such as for a payment.
func MaxAge(d time.Duration) Requirement { return func(r *requirements) { r.maxAge = d } }

// ACR requires one of some values of acr, the way in which the user signed in.
func ACR(values ...string) Requirement { return func(r *requirements) { r.acr = slices.Clone(values) } }
