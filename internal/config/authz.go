package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// AuthzPolicy is a decision that proxies can ask for at /authz/NAME.
type AuthzPolicy struct {
	Name       string
	Scopes     []string      // all of them are needed
	AnyScope   []string      // one of them is needed; empty: none
	Audience   string        // "": any that the gateway accepts
	MaxAge     time.Duration // since the sign-in; 0: any
	Anonymous  bool          // a request without a token is allowed
	FailClosed bool          // refuse while it is not known which sessions have ended
}

// authzPolicyJSON is a policy as text.
type authzPolicyJSON struct {
	Name       string   `json:"name"`
	Scopes     []string `json:"scopes,omitempty"`
	AnyScope   []string `json:"anyScope,omitempty"`
	Audience   string   `json:"audience,omitempty"`
	MaxAge     string   `json:"maxAge,omitempty"`
	Anonymous  bool     `json:"anonymous,omitzero"`
	FailClosed bool     `json:"failClosed,omitzero"`
}

const maxPolicies = 100

var policyName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

var authzPolicies = parser[[]AuthzPolicy]{
	parse: func(s string) ([]AuthzPolicy, error) {
		if s == "" {
			return nil, nil
		}
		var list []authzPolicyJSON
		if err := json.Unmarshal([]byte(s), &list, json.RejectUnknownMembers(true)); err != nil || list == nil {
			return nil, errNoPolicies(err)
		}
		if len(list) > maxPolicies {
			return nil, fmt.Errorf("has %d policies: write at most %d", len(list), maxPolicies)
		}
		policies, seen := make([]AuthzPolicy, len(list)), map[string]bool{}
		for i, p := range list {
			var err error
			if policies[i], err = p.policy(); err != nil {
				return nil, fmt.Errorf("policy %s: %w", quote(p.Name), err)
			}
			if seen[p.Name] {
				return nil, fmt.Errorf("policy %s: occurs twice", quote(p.Name))
			}
			seen[p.Name] = true
		}
		return policies, nil
	},
	format: func(policies []AuthzPolicy) string {
		if len(policies) == 0 {
			return ""
		}
		list := make([]authzPolicyJSON, len(policies))
		for i, p := range policies {
			list[i] = authzPolicyJSON{
				Name: p.Name, Scopes: p.Scopes, AnyScope: p.AnyScope, Audience: p.Audience,
				Anonymous: p.Anonymous, FailClosed: p.FailClosed,
			}
			if p.MaxAge > 0 {
				list[i].MaxAge = formatDuration(p.MaxAge)
			}
		}
		text, err := json.Marshal(list, jsontext.AllowInvalidUTF8(true))
		if err != nil {
			panic("config: " + err.Error()) // strings and booleans always marshal
		}
		return string(text)
	},
}

// errNoPolicies says what to correct in a text that is not a list of policies.
func errNoPolicies(err error) error {
	semantic, _ := errors.AsType[*json.SemanticError](err)
	syntactic, _ := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case semantic != nil && errors.Is(semantic.Err, json.ErrUnknownName):
		return fmt.Errorf("a policy has no member %s: write %s", quote(semantic.JSONPointer.LastToken()), alternatives(policyMembers))
	case semantic != nil && semantic.JSONPointer != "":
		return fmt.Errorf("the value at %s has the wrong type: write text, a list of texts, or true", quote(string(semantic.JSONPointer)))
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Errorf("the member at %s occurs twice: write it once", quote(string(syntactic.JSONPointer)))
	}
	return errors.New(`is not a JSON array of policies: write one such as [{"name": "orders", "scopes": ["orders:read"]}]`)
}

var policyMembers = func() (names []string) {
	for field := range reflect.TypeFor[authzPolicyJSON]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}()

func (p authzPolicyJSON) policy() (AuthzPolicy, error) {
	policy := AuthzPolicy{
		Name: p.Name, Scopes: p.Scopes, AnyScope: p.AnyScope, Audience: p.Audience,
		Anonymous: p.Anonymous, FailClosed: p.FailClosed,
	}
	if !policyName.MatchString(p.Name) {
		return policy, errors.New("the name must be up to 63 lower-case letters, digits and hyphens, such as orders")
	}
	for _, scope := range slices.Concat(p.Scopes, p.AnyScope) {
		if !scopeToken.MatchString(scope) {
			return policy, fmt.Errorf("%s is not a scope: write printable ASCII without spaces, quotes and backslashes", quote(scope))
		}
	}
	if strings.ContainsFunc(p.Audience, func(c rune) bool { return c == ',' || unicode.IsSpace(c) }) {
		return policy, fmt.Errorf("the audience %s contains a space or a comma: write one of AUDIENCE", quote(p.Audience))
	}
	if p.MaxAge != "" {
		var err error
		// The challenge has seconds.
		if policy.MaxAge, err = wholeSeconds(time.Second, year).parse(p.MaxAge); err != nil {
			return policy, fmt.Errorf("maxAge: %w", err)
		}
	}
	return policy, nil
}
