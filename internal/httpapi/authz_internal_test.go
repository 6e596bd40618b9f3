package httpapi

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/token"
)

// situation is what a decision depends on.
type situation struct {
	policy   Policy
	field    string // Authorization
	verified error  // of the token
	claims   token.Claims
	loaded   bool
	age      time.Duration // of the knowledge of ended sessions
	ended    bool
	now      time.Time
}

func (s situation) VerifyClaims(string) (token.Claims, error) { return s.claims, s.verified }
func (s situation) Verified(string) bool                      { return true }
func (s situation) Ended(string) bool                         { return s.ended }
func (s situation) Age() (time.Duration, bool)                { return s.age, s.loaded }

// status is the model: every reason to refuse, independently of each other; the first of the list wins.
func (s situation) status() (status int, reason identity.Reason) {
	p, scopes := s.policy, " "+s.claims.Scope+" "
	has := func(scope string) bool { return strings.Contains(scopes, " "+scope+" ") }
	missing := 0
	for _, scope := range p.Scopes {
		if !has(scope) {
			missing++
		}
	}
	some := len(p.AnyScope) == 0
	for _, scope := range p.AnyScope {
		some = some || has(scope)
	}
	none := s.field == ""
	for _, rule := range []struct {
		applies bool
		status  int
		reason  identity.Reason
	}{
		{none && p.Anonymous, 200, ""},
		{none, 401, "token_missing"},
		{s.field != "Bearer t" && s.field != "BEARER t", 401, "authorization_malformed"},
		{errors.Is(s.verified, token.ErrNoKeys), 503, "keys_not_loaded"},
		{errors.Is(s.verified, token.ErrExpired), 401, "token_expired"},
		{errors.Is(s.verified, token.ErrWrongKind), 401, "token_wrong_kind"},
		{s.verified != nil, 401, "token_invalid"},
		{p.Audience != "" && !slices.Contains(s.claims.Audience, p.Audience), 401, "token_invalid"},
		{!s.loaded, 503, "endings_not_loaded"},
		{p.FailClosed && s.age > 30*time.Second, 503, "endings_not_loaded"},
		{s.ended, 401, "session_ended"},
		{p.MaxAge != 0 && s.claims.AuthTime.Add(p.MaxAge).Before(s.now), 401, "token_expired"},
		{missing > 0 || !some, 403, "scope_missing"},
	} {
		if rule.applies {
			return rule.status, rule.reason
		}
	}
	return 200, ""
}

func TestDecisionEqualsItsModel(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1_800_000_000, 0)
	scopes := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "ab", "a:b"}), 0, 4, rapid.ID[string])
	seen := map[identity.Reason]int{}
	rapid.Check(t, func(t *rapid.T) {
		s := situation{
			policy: Policy{
				Name: "p", Scopes: scopes.Draw(t, "scopes"), AnyScope: scopes.Draw(t, "any"),
				Audience:  rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "audience"),
				MaxAge:    rapid.SampledFrom([]time.Duration{0, time.Minute, time.Hour}).Draw(t, "max age"),
				Anonymous: rapid.Bool().Draw(t, "anonymous"), FailClosed: rapid.Bool().Draw(t, "fail closed"),
			},
			field: rapid.SampledFrom([]string{"Bearer t", "Bearer t", "Bearer t", "BEARER t", "", "Bearer", "Bearer ", "Bearer  t", "Basic t",
				"t", "Bearer t,u", " Bearer t"}).Draw(t, "field"),
			verified: rapid.SampledFrom([]error{nil, nil, nil, nil, nil, token.ErrNoKeys, token.ErrExpired, token.ErrWrongKind,
				errors.New("other")}).Draw(t, "verified"),
			claims: token.Claims{
				Subject: "u", SessionID: "s", Scope: strings.Join(scopes.Draw(t, "has"), " "), Audience: rapid.SampledFrom([][]string{
					nil, {"x"}, {"y", "x"}, {"xy"}}).Draw(t, "for"), AuthTime: begin,
			},
			loaded: rapid.IntRange(0, 9).Draw(t, "loaded") > 0, ended: rapid.IntRange(0, 9).Draw(t, "ended") == 0,
			age: rapid.SampledFrom([]time.Duration{0, 30 * time.Second, 30*time.Second + 1, time.Hour}).Draw(t, "age"),
			now: begin.Add(rapid.SampledFrom([]time.Duration{-time.Second, 0, time.Minute, time.Minute + 1, 2 * time.Hour}).Draw(t, "now")),
		}
		a := &authz{Authz: Authz{Tokens: s, Ended: s, Now: func() time.Time { return s.now }}}
		claims, r, denied := a.decide(s.policy, []byte(s.field))
		status, reason := 200, identity.Reason("")
		if denied != nil {
			status, reason = denied.status, denied.reason
		}
		wantStatus, wantReason := s.status()
		if status != wantStatus || reason != wantReason {
			t.Fatalf("%+v: %d %s, want %d %s", s, status, reason, wantStatus, wantReason)
		}
		known := status == 200 && s.field != ""
		if (claims.Subject != "") != known || (r == allowed) != known || (r == anonymous) != (status == 200 && !known) {
			t.Fatalf("%+v: %d %s for %+v", s, status, resultNames[r], claims)
		}
		seen[reason]++
	})
	if len(seen) < 9 {
		t.Errorf("only these reasons occurred: %v", seen)
	}
}

// FuzzFieldValue checks that any text is one line of printable ASCII, from which the text can be restored.
func FuzzFieldValue(f *testing.F) {
	for _, seed := range []string{"", "Ada Lovelace", "100%", "%41", "Zoë", "a\r\nX-Auth-Scope: admin", "\x00\x7f\xff", " x ", "\u2028"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		value := fieldValue(text)
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("%q is %q", text, value)
		}
		if back, err := url.PathUnescape(value); err != nil || back != text {
			t.Fatalf("%q is %q, which is %q, %v", text, value, back, err)
		}
	})
}
