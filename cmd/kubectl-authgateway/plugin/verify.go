package plugin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/internal/admincli"
	"github.com/auth-gateway/auth-gateway/verify"
)

func (p *Plugin) verify() *cobra.Command {
	var out admincli.Output
	var audiences []string
	cmd := &cobra.Command{
		Use: "verify TOKEN", Short: "Verify an access token with the published keys",
		Long: `Verifies an access token as a service does that mounts the ConfigMap of the
public keys, and shows its claims. If the token is invalid, it says why. A
session that has ended is not noticed.

If TOKEN is -, the token is read from the standard input, so that it does not
remain in the history of the shell.`,
		Args: admincli.Exactly("TOKEN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			token := strings.TrimSpace(args[0])
			if token == "-" {
				line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 64<<10)).ReadString('\n')
				if token = strings.TrimSpace(line); err != nil && token == "" {
					return errors.New("the standard input has no token")
				}
			}
			c, g, err := p.start(ctx)
			if err != nil {
				return err
			}
			document, err := c.published(ctx, g)
			if err != nil {
				return err
			}
			if len(audiences) == 0 {
				audiences = g.Spec.Audiences
			}
			if len(audiences) == 0 {
				audiences = []string{document.Issuer}
			}
			v, err := verify.New(ctx, verify.FromFunc(func(context.Context) (verify.Document, error) { return document, nil }),
				verify.Audience(audiences[0], audiences[1:]...), verify.TokenType("at+jwt", "JWT"), verify.Clock(p.Now))
			if err != nil {
				return err
			}
			defer v.Close()
			claims, err := v.Verify(ctx, token)
			if err != nil {
				return fmt.Errorf("the token is invalid: %s", strings.TrimPrefix(err.Error(), "verify: "))
			}
			if !out.ForPeople() {
				return out.Print(cmd.OutOrStdout(), verified(claims))
			}
			t := admincli.NewTable(cmd.OutOrStdout())
			t.Field("Token", fmt.Sprintf("valid for %v, signed by %s", claims.ExpiresAt.Sub(p.Now()).Round(time.Second), claims.KeyID))
			t.Field("Subject", claims.Subject)
			t.Field("Username", claims.Username)
			t.Field("Name", claims.Name)
			t.Field("Email", claims.Email)
			t.Field("Scope", claims.Scope)
			t.Field("Issuer", claims.Issuer)
			t.Field("Audience", strings.Join(claims.Audience, " "))
			t.Field("Client", claims.ClientID)
			t.Field("Session", claims.SessionID)
			t.Field("Issued", admincli.Time(claims.IssuedAt))
			t.Field("Expires", admincli.Time(claims.ExpiresAt))
			t.Field("Signed in", admincli.Time(claims.AuthTime))
			return t.Flush()
		},
	}
	cmd.Flags().StringArrayVar(&audiences, "audience", nil,
		"an aud that is accepted (default: spec.audiences, or the issuer); can be given several times")
	out.AddFlag(cmd)
	return cmd
}

// verified returns the claims as JSON has them.
func verified(c *verify.Claims) map[string]any {
	all := map[string]any{
		"sub": c.Subject, "iss": c.Issuer, "aud": c.Audience, "scope": c.Scope, "sid": c.SessionID, "jti": c.ID, "kid": c.KeyID,
		"iat": c.IssuedAt.UTC(), "exp": c.ExpiresAt.UTC(),
	}
	for name, value := range map[string]string{
		"client_id": c.ClientID, "username": c.Username, "name": c.Name, "email": c.Email, "acr": c.ACR,
	} {
		if value != "" {
			all[name] = value
		}
	}
	return all
}

// published returns the published keys of a gateway.
func (c *cluster) published(ctx context.Context, g *gateway) (verify.Document, error) {
	name := g.Name + "-public-keys"
	if ref := g.Status.PublicKeysConfigMapRef; ref != nil {
		name = ref.Name
	}
	configMap, err := c.api.CoreV1().ConfigMaps(g.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return verify.Document{}, fmt.Errorf("there is no ConfigMap %s with the public keys; kubectl authgateway status %s says why",
			name, g.Name)
	}
	if err != nil {
		return verify.Document{}, err
	}
	return documentOf(configMap)
}

func documentOf(configMap *corev1.ConfigMap) (verify.Document, error) {
	var state struct {
		Issuer     string   `json:"issuer"`
		Generation int64    `json:"generation"`
		Revoked    []string `json:"revoked"`
	}
	if err := json.Unmarshal([]byte(configMap.Data["keys.json"]), &state); err != nil {
		return verify.Document{}, fmt.Errorf("the entry keys.json of the ConfigMap %s is not JSON", configMap.Name)
	}
	return verify.Document{
		Issuer: state.Issuer, JWKS: []byte(configMap.Data["jwks.json"]), Generation: state.Generation, Revoked: slices.Clone(state.Revoked),
	}, nil
}
