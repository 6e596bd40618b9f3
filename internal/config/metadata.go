package config

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// The scopes that the gateway itself checks. Accounts may have others.
var ownScopes = []string{"profile", "email"}

// Metadata returns the document by which consumers find the keys and the endpoints of the gateway (OpenID Connect
// Discovery 1.0; RFC 8414, section 2). The server serves it, and the operator publishes the same bytes.
func (c Config) Metadata() []byte {
	// Append paths to the issuer without its final slash, as both standards do.
	base := strings.TrimSuffix(c.Issuer, "/")
	document := struct {
		Issuer                string   `json:"issuer"` // exactly the iss of tokens
		KeysURI               string   `json:"jwks_uri"`
		TokenEndpoint         string   `json:"token_endpoint"`
		RevocationEndpoint    string   `json:"revocation_endpoint"`
		IntrospectionEndpoint string   `json:"introspection_endpoint"`
		GrantTypes            []string `json:"grant_types_supported"`
		ResponseTypes         []string `json:"response_types_supported"` // required; there is no authorization endpoint
		SubjectTypes          []string `json:"subject_types_supported"`
		// Always every algorithm: go-oidc and the Kubernetes API server read the document once in
		// a process, and must accept a later key of another algorithm.
		Algorithms     []string `json:"id_token_signing_alg_values_supported"`
		Scopes         []string `json:"scopes_supported"`
		Claims         []string `json:"claims_supported"`
		TokenAuth      []string `json:"token_endpoint_auth_methods_supported"` // clients have no secret
		RevocationAuth []string `json:"revocation_endpoint_auth_methods_supported"`
	}{
		Issuer: c.Issuer, KeysURI: base + "/.well-known/jwks.json",
		TokenEndpoint: base + "/tokens", RevocationEndpoint: base + "/tokens/revoke",
		IntrospectionEndpoint: base + "/tokens/introspect",
		GrantTypes:            []string{"refresh_token"}, ResponseTypes: []string{}, SubjectTypes: []string{"public"},
		Algorithms: []string{"ES256", "RS256", "EdDSA"}, Scopes: slices.Clone(ownScopes),
		Claims: append([]string{
			"iss", "client_id", "sub", "aud", "exp", "iat", "jti", "scope", "sid", "username", "email", "email_verified",
			"name", "auth_time", "roles",
		}, c.TokenClaims...),
		TokenAuth: []string{"none"}, RevocationAuth: []string{"none"},
	}
	for _, scope := range c.SignupScopes {
		if !slices.Contains(document.Scopes, scope) {
			document.Scopes = append(document.Scopes, scope)
		}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(document); err != nil { // cannot happen with strings
		panic("config: " + err.Error())
	}
	return text.Bytes()
}
