package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/google/uuid"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/test/clients/oapi"
)

func TestOAPICodegen(t *testing.T) {
	c := testenv.Must(oapi.NewClientWithResponses(gateway(t)))(t)
	walk(t, oapiClient{c}, "oapi")
}

type oapiClient struct{ *oapi.ClientWithResponses }

// oapiReply is implemented by every reply of the client.
type oapiReply interface {
	StatusCode() int
	GetBody() []byte
}

// reply returns nil if the reply has the wanted status, and otherwise the reason of the error reply.
func reply(r oapiReply, err error, want int) error {
	switch {
	case err != nil:
		return err
	case r.StatusCode() == want:
		return nil
	}
	var e oapi.Error
	if err := json.Unmarshal(r.GetBody(), &e); err != nil {
		return fmt.Errorf("status %d: %w", r.StatusCode(), err)
	}
	return reason(e.Reason)
}

func bearer(token string) oapi.RequestEditorFn {
	return func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+token)
		return nil
	}
}

func ref[T any](v T) *T { return &v }

func (c oapiClient) SignUp(ctx context.Context, p person) (string, string, error) {
	r, err := c.SignUpWithResponse(ctx, &oapi.SignUpParams{XCallerKey: ref(callerKey)}, oapi.SignUpRequest{
		Username: p.username, Email: p.email, FirstName: "Ada", LastName: "Lovelace", Password: p.password,
	})
	if err := reply(r, err, 201); err != nil {
		return "", "", err
	}
	return r.JSON201.Id.String(), r.JSON201.Code, nil
}

func (c oapiClient) NewVerificationCode(ctx context.Context, email string) (string, error) {
	r, err := c.NewVerificationCodeWithResponse(ctx, &oapi.NewVerificationCodeParams{XCallerKey: ref(callerKey)},
		oapi.EmailRequest{Email: email})
	if err := reply(r, err, 200); err != nil {
		return "", err
	}
	return r.JSON200.Code, nil
}

func oapiTokens(t *oapi.Tokens) tokens { return tokens{t.AccessToken, t.RefreshToken} }

func (c oapiClient) Verify(ctx context.Context, code string) (tokens, error) {
	r, err := c.VerifyUserWithResponse(ctx, nil, oapi.VerifyUserRequest{Code: code})
	if err := reply(r, err, 200); err != nil {
		return tokens{}, err
	}
	return oapiTokens(r.JSON200), nil
}

func (c oapiClient) SignIn(ctx context.Context, username, password string) (tokens, error) {
	r, err := c.SignInWithResponse(ctx, nil, oapi.SignInRequest{Username: username, Password: password})
	if err == nil && r.JSON401 != nil {
		return tokens{}, reason(r.JSON401.Reason)
	}
	if err := reply(r, err, 200); err != nil {
		return tokens{}, err
	}
	return oapiTokens(r.JSON200), nil
}

func (c oapiClient) Username(ctx context.Context, access string) (string, error) {
	r, err := c.GetProfileWithResponse(ctx, nil, bearer(access))
	if err := reply(r, err, 200); err != nil {
		return "", err
	}
	return r.JSON200.Username, nil
}

func (c oapiClient) Rename(ctx context.Context, access, firstName string) (string, error) {
	r, err := c.UpdateProfileWithResponse(ctx, nil, oapi.UpdateProfileRequest{FirstName: &firstName}, bearer(access))
	if err := reply(r, err, 200); err != nil {
		return "", err
	}
	return r.JSON200.Name, nil
}

func (c oapiClient) Sessions(ctx context.Context, access string) ([]session, error) {
	r, err := c.ListSessionsWithResponse(ctx, nil, bearer(access))
	if err := reply(r, err, 200); err != nil {
		return nil, err
	}
	var all []session
	for _, s := range r.JSON200.Sessions {
		all = append(all, session{s.Id.String(), s.Current, s.CreatedAt})
	}
	return all, nil
}

func (c oapiClient) EndSession(ctx context.Context, access, id string) error {
	r, err := c.EndSessionWithResponse(ctx, uuid.MustParse(id), nil, oapi.AccessTokenRequest{}, bearer(access))
	return reply(r, err, 204)
}

func (c oapiClient) Renew(ctx context.Context, refresh string, form bool) (tokens, error) {
	body := oapi.RenewRequest{RefreshToken: refresh, GrantType: ref(oapi.RenewRequestGrantType("refresh_token"))}
	var r *oapi.RenewResponse
	var err error
	if form {
		r, err = c.RenewWithFormdataBodyWithResponse(ctx, nil, body)
	} else {
		r, err = c.RenewWithResponse(ctx, nil, body)
	}
	if err := reply(r, err, 200); err != nil {
		return tokens{}, err
	}
	return oapiTokens(r.JSON200), nil
}

func (c oapiClient) SignOut(ctx context.Context, refresh string, form bool) error {
	body := oapi.SignOutRequest{RefreshToken: refresh}
	if form {
		r, err := c.SignOutWithFormdataBodyWithResponse(ctx, nil, body)
		return reply(r, err, 204)
	}
	r, err := c.SignOutWithResponse(ctx, nil, body)
	return reply(r, err, 204)
}

func (c oapiClient) Revoke(ctx context.Context, token string, form bool) error {
	body := oapi.RevokeRequest{Token: token}
	if form {
		r, err := c.RevokeWithFormdataBodyWithResponse(ctx, nil, body)
		return reply(r, err, 200)
	}
	r, err := c.RevokeWithResponse(ctx, nil, body)
	return reply(r, err, 200)
}

func (c oapiClient) Introspect(ctx context.Context, token string, form bool) (bool, string, error) {
	params, body := &oapi.IntrospectParams{XCallerKey: ref(callerKey)}, oapi.IntrospectRequest{Token: token}
	var r *oapi.IntrospectResponse
	var err error
	if form {
		r, err = c.IntrospectWithFormdataBodyWithResponse(ctx, params, body)
	} else {
		r, err = c.IntrospectWithResponse(ctx, params, body)
	}
	if err := reply(r, err, 200); err != nil || !r.JSON200.Active {
		return false, "", err
	}
	return true, r.JSON200.Sub.String(), nil
}

func (c oapiClient) RequestEmailChange(ctx context.Context, access, email string) (string, error) {
	r, err := c.RequestEmailChangeWithResponse(ctx, &oapi.RequestEmailChangeParams{XCallerKey: ref(callerKey)},
		oapi.EmailChangeRequest{Email: &email}, bearer(access))
	if err := reply(r, err, 200); err != nil {
		return "", err
	}
	return r.JSON200.Code, nil
}

func (c oapiClient) ChangeEmail(ctx context.Context, access, code, email string) (string, error) {
	r, err := c.ChangeEmailWithResponse(ctx, nil, oapi.ChangeEmailRequest{Code: code, Email: email}, bearer(access))
	if err := reply(r, err, 200); err != nil {
		return "", err
	}
	return r.JSON200.Email, nil
}

func (c oapiClient) ChangePassword(ctx context.Context, access, old, password string) error {
	r, err := c.ChangePasswordWithResponse(ctx, nil, oapi.ChangePasswordRequest{OldPassword: &old, Password: password}, bearer(access))
	return reply(r, err, 204)
}

func (c oapiClient) ForgotPassword(ctx context.Context, email string) (string, error) {
	r, err := c.ForgotPasswordWithResponse(ctx, &oapi.ForgotPasswordParams{XCallerKey: ref(callerKey)}, oapi.EmailRequest{Email: email})
	if err := reply(r, err, 200); err != nil {
		return "", err
	}
	return r.JSON200.Code, nil
}

func (c oapiClient) ResetPassword(ctx context.Context, code, password string) error {
	r, err := c.ChangePasswordWithResponse(ctx, nil, oapi.ChangePasswordRequest{Code: &code, Password: password})
	return reply(r, err, 204)
}

func (c oapiClient) Delete(ctx context.Context, access string) error {
	r, err := c.DeleteUserWithResponse(ctx, nil, oapi.AccessTokenRequest{}, bearer(access))
	return reply(r, err, 204)
}

func (c oapiClient) Keys(ctx context.Context) (access, refresh []string, pem bool, err error) {
	r, err := c.GetKeysWithResponse(ctx, nil)
	if err := reply(r, err, 200); err != nil {
		return nil, nil, false, err
	}
	pem = true
	for _, k := range r.JSON200.AccessToken.Keys {
		access, pem = append(access, k.Kid), pem && k.Pem != ""
	}
	for _, k := range r.JSON200.RefreshToken.Keys {
		refresh, pem = append(refresh, k.Kid), pem && k.Pem != ""
	}
	return access, refresh, pem, nil
}

func (c oapiClient) AccessKeys(ctx context.Context, known string) (ids []string, tag string, err error) {
	params := &oapi.GetAccessKeysParams{}
	if known != "" {
		params.IfNoneMatch = &known
	}
	r, err := c.GetAccessKeysWithResponse(ctx, params)
	if err == nil && r.StatusCode() == http.StatusNotModified {
		return nil, known, nil
	}
	if err := reply(r, err, 200); err != nil {
		return nil, "", err
	}
	for _, k := range r.JSON200.Keys {
		ids = append(ids, k.Kid)
	}
	return ids, r.HTTPResponse.Header.Get("ETag"), nil
}

func (c oapiClient) Metadata(ctx context.Context) (openID, oauth [2]string, err error) {
	r, err := c.GetOpenIDConfigurationWithResponse(ctx, nil)
	if err := reply(r, err, 200); err != nil {
		return openID, oauth, err
	}
	a, err := c.GetAuthorizationServerMetadataWithResponse(ctx, nil)
	if err := reply(a, err, 200); err != nil {
		return openID, oauth, err
	}
	return [2]string{r.JSON200.Issuer, r.JSON200.JwksUri}, [2]string{a.JSON200.Issuer, a.JSON200.JwksUri}, nil
}

func (c oapiClient) Documents(ctx context.Context) (version, page string, err error) {
	document, err := c.GetOpenAPIWithResponse(ctx, nil)
	if err := reply(document, err, 200); err != nil {
		return "", "", err
	}
	docs, err := c.GetDocsWithResponse(ctx, nil)
	if err := reply(docs, err, 200); err != nil {
		return "", "", err
	}
	version, _ = (*document.JSON200)["openapi"].(string)
	return version, string(docs.Body), nil
}
