package config_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func TestMetadataHasTheMembersOfTheContract(t *testing.T) {
	c := config.Config{Issuer: "https://auth.example.com/a&b/", SignupScopes: []string{"email", "orders:read"}, TokenClaims: []string{"plan"}}
	var got map[string]any
	testenv.NoError(t, json.Unmarshal(c.Metadata(), &got))
	const base = "https://auth.example.com/a&b"
	want := map[string]any{
		"issuer":                                c.Issuer,
		"jwks_uri":                              base + "/.well-known/jwks.json",
		"token_endpoint":                        base + "/tokens",
		"revocation_endpoint":                   base + "/tokens/revoke",
		"introspection_endpoint":                base + "/tokens/introspect",
		"grant_types_supported":                 []any{"refresh_token"},
		"response_types_supported":              []any{},
		"subject_types_supported":               []any{"public"},
		"id_token_signing_alg_values_supported": []any{"ES256", "RS256", "EdDSA"},
		"scopes_supported":                      []any{"profile", "email", "orders:read"},
		"claims_supported": []any{
			"iss", "client_id", "sub", "aud", "exp", "iat", "jti", "scope", "sid", "username", "email", "email_verified",
			"name", "auth_time", "roles", "plan",
		},
		"token_endpoint_auth_methods_supported":      []any{"none"},
		"revocation_endpoint_auth_methods_supported": []any{"none"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
}
