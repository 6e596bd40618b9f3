package httpapi

import (
	"context"
	"net/http"
	"strings"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// tokensReply is a successful token response (RFC 6749 section 5.1).
type tokensReply struct {
	AccessToken      string `json:"access_token"`
	TokenType        string `json:"token_type"`
	ExpiresIn        int64  `json:"expires_in"`
	RefreshToken     string `json:"refresh_token"`
	RefreshExpiresIn int64  `json:"refresh_expires_in"`
	Scope            string `json:"scope"`
}

func (x *exchange) replyTokens(t identity.Tokens, err error) error {
	if err != nil {
		return err
	}
	return x.reply(http.StatusOK, &tokensReply{
		AccessToken: t.AccessToken, TokenType: "Bearer", ExpiresIn: seconds(t.ExpiresIn),
		RefreshToken: t.RefreshToken, RefreshExpiresIn: seconds(t.RefreshExpiresIn), Scope: t.Scope,
	})
}

func (s *Server) signIn(ctx context.Context, x *exchange) error {
	username, password := x.params.required(paramUsername), x.params.required(paramPassword)
	if err := x.err(); err != nil {
		return err
	}
	return x.replyTokens(s.accounts.SignIn(ctx, username, password))
}

func (s *Server) renew(ctx context.Context, x *exchange) error {
	if grant, there := x.params.optional(paramGrantType); there && grant != "refresh_token" {
		// The other parameters may be valid for the other grant.
		x.params.wrong(paramGrantType, identity.FieldNotAllowed, "must be refresh_token")
		return invalidFields(x.params.problems)
	}
	token := x.params.required(paramRefreshToken)
	if err := x.err(); err != nil {
		return err
	}
	return x.replyTokens(s.accounts.Renew(ctx, token))
}

func (s *Server) signOut(ctx context.Context, x *exchange) error {
	token := x.params.required(paramRefreshToken)
	if err := x.err(); err != nil {
		return err
	}
	return x.done(s.accounts.SignOut(ctx, token))
}

// revoke replies 200 also for a token that is invalid (RFC 7009 section 2.2).
func (s *Server) revoke(ctx context.Context, x *exchange) error {
	token := x.params.required(paramToken)
	x.params.ignore(paramTokenTypeHint)
	if err := x.err(); err != nil {
		return err
	}
	if err := s.accounts.Revoke(ctx, token); err != nil {
		return err
	}
	return x.reply(http.StatusOK, struct{}{})
}

// introspectionReply is the reply of RFC 7662 section 2.2. token_type is that of RFC 6749 section 5.1,
// which refresh tokens do not have; token_use distinguishes the two.
type introspectionReply struct {
	Active    bool     `json:"active"`
	Scope     string   `json:"scope,omitempty"`
	Roles     []string `json:"roles,omitempty"`
	ClientID  string   `json:"client_id,omitempty"`
	Username  string   `json:"username,omitempty"`
	TokenType string   `json:"token_type,omitempty"`
	TokenUse  string   `json:"token_use,omitempty"`
	Expires   int64    `json:"exp,omitzero"`
	Issued    int64    `json:"iat,omitzero"`
	Subject   string   `json:"sub,omitempty"`
	Audience  []string `json:"aud,omitempty"`
	Issuer    string   `json:"iss,omitempty"`
	TokenID   string   `json:"jti,omitempty"`
	SessionID string   `json:"sid,omitempty"`
}

func (s *Server) introspect(ctx context.Context, x *exchange) error {
	token := x.params.required(paramToken)
	x.params.ignore(paramTokenTypeHint)
	if err := x.err(); err != nil {
		return err
	}
	i, err := s.accounts.Introspect(ctx, token)
	if err != nil {
		return err
	}
	if !i.Active {
		// No other member, not even the reason (RFC 7662 section 2.2).
		return x.reply(http.StatusOK, introspectionReply{})
	}
	reply := introspectionReply{
		Active: true, Scope: i.Scope, Roles: strings.Fields(i.Roles), ClientID: i.ClientID, Username: i.Username, TokenUse: i.TokenType,
		Expires: i.ExpiresAt.Unix(), Issued: i.IssuedAt.Unix(),
		Subject: i.Subject, Audience: i.Audience, Issuer: i.Issuer, TokenID: i.TokenID, SessionID: i.SessionID,
	}
	if i.TokenType == "access_token" {
		reply.TokenType = "Bearer"
	}
	return x.reply(http.StatusOK, &reply)
}
