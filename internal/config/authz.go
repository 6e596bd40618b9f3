package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"time"
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
	Anonymous  bool     `json:"anonymous,omitempty"`
	FailClosed bool     `json:"failClosed,omitempty"`
}

const maxPolicies = 100

var (
	policyName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

var authzPolicies = parser[[]AuthzPolicy]{
	parse: func(s string) ([]AuthzPolicy, error) {
		if s == "" {
			return nil, nil
		}
		d := json.NewDecoder(bytes.NewBufferString(s))
		d.DisallowUnknownFields()
		var list []authzPolicyJSON
		if err := d.Decode(&list); err != nil || d.More() {
			return nil, fmt.Errorf(`is not a JSON array of policies: write one such as [{"name": "orders", "scopes": ["orders:read"]}]`)
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
		text, err := json.Marshal(list)
		if err != nil {
			panic("config: " + err.Error()) // strings and booleans always marshal
		}
		return string(text)
	},
}

func (p authzPolicyJSON) policy() (AuthzPolicy, error) {
	policy := AuthzPolicy{
		Name: p.Name, Scopes: p.Scopes, AnyScope: p.AnyScope, Audience: p.Audience,
		Anonymous: p.Anonymous, FailClosed: p.FailClosed,
	}
	if !policyName.MatchString(p.Name) {
		return policy, fmt.Errorf("the name must be up to 63 lower-case letters, digits and hyphens")
	}
	for _, scope := range append(append([]string{}, p.Scopes...), p.AnyScope...) {
		if !scopeToken.MatchString(scope) {
			return policy, fmt.Errorf("%s is not a scope: write printable ASCII without spaces, quotes and backslashes", quote(scope))
		}
	}
	if p.MaxAge != "" {
		var err error
		if policy.MaxAge, err = duration(time.Second, year).parse(p.MaxAge); err != nil {
			return policy, fmt.Errorf("maxAge: %w", err)
		}
	}
	return policy, nil
}
