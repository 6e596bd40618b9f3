package clients

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/test/clients/ogen"
)

func TestOgen(t *testing.T) {
	c := testenv.Must(ogen.NewClient(gateway(t), tokenOf{}))(t)
	walk(t, ogenClient{c}, "ogen")
}

type ogenClient struct{ *ogen.Client }

// tokenOf takes the access token from the context, or "none" if there is none.
type tokenOf struct{}

type tokenKey struct{}

func (tokenOf) AccessToken(ctx context.Context, _ ogen.OperationName) (ogen.AccessToken, error) {
	token, _ := ctx.Value(tokenKey{}).(string)
	if token == "" {
		token = "none"
	}
	return ogen.AccessToken{Token: token}, nil
}

func with(ctx context.Context, access string) context.Context {
	return context.WithValue(ctx, tokenKey{}, access)
}

// as returns the reply if it has the wanted type, and otherwise its reason as the error.
func as[T any](r any, err error) (T, error) {
	var wanted T
	if err != nil {
		return wanted, err
	}
	if wanted, ok := r.(T); ok {
		return wanted, nil
	}
	if e, ok := r.(interface{ GetResponse() ogen.Error }); ok {
		return wanted, reason(e.GetResponse().Reason)
	}
	return wanted, fmt.Errorf("the reply is a %T", r)
}

func done(r any, err error) error {
	_, err = as[*ogen.Done](r, err)
	return err
}

func (c ogenClient) SignUp(ctx context.Context, p person) (string, string, error) {
	r, err := c.Client.SignUp(ctx, &ogen.SignUpRequest{
		Username: ogen.Username(p.username), Email: ogen.Email(p.email), FirstName: "Ada", LastName: "Lovelace",
		Password: ogen.Password(p.password),
	}, ogen.SignUpParams{XCallerKey: ogen.NewOptString(callerKey)})
	kept, err := as[*ogen.SignUpReplyHeaders](r, err)
	if err != nil {
		return "", "", err
	}
	return uuid.UUID(kept.Response.ID).String(), string(kept.Response.Code), nil
}

func codeOf(r any, err error) (string, error) {
	issued, err := as[*ogen.CodeIssuedHeaders](r, err)
	if err != nil {
		return "", err
	}
	return string(issued.Response.Code), nil
}

func tokensOf(r any, err error) (tokens, error) {
	signedIn, err := as[*ogen.SignedInHeaders](r, err)
	if err != nil {
		return tokens{}, err
	}
	return tokens{signedIn.Response.AccessToken, signedIn.Response.RefreshToken}, nil
}

func userOf(r any, err error) (ogen.User, error) {
	account, err := as[*ogen.AccountHeaders](r, err)
	if err != nil {
		return ogen.User{}, err
	}
	return account.Response, nil
}

func (c ogenClient) NewVerificationCode(ctx context.Context, email string) (string, error) {
	r, err := c.Client.NewVerificationCode(ctx, &ogen.EmailRequest{Email: ogen.Email(email)},
		ogen.NewVerificationCodeParams{XCallerKey: ogen.NewOptString(callerKey)})
	return codeOf(r, err)
}

func (c ogenClient) Verify(ctx context.Context, code string) (tokens, error) {
	r, err := c.VerifyUser(ctx, &ogen.VerifyUserRequest{Code: ogen.TypedCode(code)}, ogen.VerifyUserParams{})
	return tokensOf(r, err)
}

func (c ogenClient) SignIn(ctx context.Context, username, password string) (tokens, error) {
	r, err := c.Client.SignIn(ctx, &ogen.SignInRequest{Username: username, Password: ogen.Password(password)}, ogen.SignInParams{})
	return tokensOf(r, err)
}

func (c ogenClient) Username(ctx context.Context, access string) (string, error) {
	r, err := c.GetProfile(with(ctx, access), ogen.GetProfileParams{})
	user, err := userOf(r, err)
	return user.Username, err
}

func (c ogenClient) Rename(ctx context.Context, access, firstName string) (string, error) {
	r, err := c.UpdateProfile(with(ctx, access), &ogen.UpdateProfileRequest{FirstName: ogen.NewOptString(firstName)},
		ogen.UpdateProfileParams{})
	user, err := userOf(r, err)
	return user.Name, err
}

func (c ogenClient) Sessions(ctx context.Context, access string) ([]session, error) {
	r, err := c.ListSessions(with(ctx, access), ogen.ListSessionsParams{})
	list, err := as[*ogen.SessionsHeaders](r, err)
	if err != nil {
		return nil, err
	}
	var all []session
	for _, s := range list.Response.Sessions {
		all = append(all, session{uuid.UUID(s.ID).String(), s.Current, time.Time(s.CreatedAt)})
	}
	return all, nil
}

func (c ogenClient) EndSession(ctx context.Context, access, id string) error {
	return done(c.Client.EndSession(with(ctx, access), ogen.OptAccessTokenRequest{},
		ogen.EndSessionParams{ID: ogen.SessionID(uuid.MustParse(id))}))
}

func (c ogenClient) Renew(ctx context.Context, refresh string, form bool) (tokens, error) {
	body := ogen.RenewRequest{RefreshToken: ogen.RefreshToken(refresh), GrantType: ogen.NewOptString("refresh_token")}
	request := ogen.RenewReq((*ogen.RenewApplicationJSON)(&body))
	if form {
		request = (*ogen.RenewApplicationXWwwFormUrlencoded)(&body)
	}
	r, err := c.Client.Renew(ctx, request, ogen.RenewParams{})
	return tokensOf(r, err)
}

func (c ogenClient) SignOut(ctx context.Context, refresh string, form bool) error {
	body := ogen.SignOutRequest{RefreshToken: ogen.RefreshToken(refresh)}
	request := ogen.SignOutReq((*ogen.SignOutApplicationJSON)(&body))
	if form {
		request = (*ogen.SignOutApplicationXWwwFormUrlencoded)(&body)
	}
	return done(c.Client.SignOut(ctx, request, ogen.SignOutParams{}))
}

func (c ogenClient) Revoke(ctx context.Context, token string, form bool) error {
	body := ogen.RevokeRequest{Token: token}
	request := ogen.RevokeReq((*ogen.RevokeApplicationJSON)(&body))
	if form {
		request = (*ogen.RevokeApplicationXWwwFormUrlencoded)(&body)
	}
	r, err := c.Client.Revoke(ctx, request, ogen.RevokeParams{})
	_, err = as[*ogen.EmptyHeaders](r, err)
	return err
}

func (c ogenClient) Introspect(ctx context.Context, token string, form bool) (bool, string, error) {
	body := ogen.IntrospectRequest{Token: token}
	request := ogen.IntrospectReq((*ogen.IntrospectApplicationJSON)(&body))
	if form {
		request = (*ogen.IntrospectApplicationXWwwFormUrlencoded)(&body)
	}
	r, err := c.Client.Introspect(ctx, request, ogen.IntrospectParams{XCallerKey: ogen.NewOptString(callerKey)})
	known, err := as[*ogen.IntrospectionHeaders](r, err)
	if err != nil {
		return false, "", err
	}
	return known.Response.Active, uuid.UUID(known.Response.Sub.Value).String(), nil
}

func (c ogenClient) RequestEmailChange(ctx context.Context, access, email string) (string, error) {
	r, err := c.Client.RequestEmailChange(with(ctx, access),
		ogen.NewOptEmailChangeRequest(ogen.EmailChangeRequest{Email: ogen.NewOptEmail(ogen.Email(email))}),
		ogen.RequestEmailChangeParams{XCallerKey: ogen.NewOptString(callerKey)})
	return codeOf(r, err)
}

func (c ogenClient) ChangeEmail(ctx context.Context, access, code, email string) (string, error) {
	r, err := c.Client.ChangeEmail(with(ctx, access), &ogen.ChangeEmailRequest{Code: ogen.TypedCode(code),
		Email: ogen.Email(email)}, ogen.ChangeEmailParams{})
	user, err := userOf(r, err)
	return user.Email, err
}

func (c ogenClient) ChangePassword(ctx context.Context, access, old, password string) error {
	return done(c.Client.ChangePassword(with(ctx, access), &ogen.ChangePasswordRequest{
		OldPassword: ogen.NewOptPassword(ogen.Password(old)), Password: ogen.Password(password),
	}, ogen.ChangePasswordParams{}))
}

func (c ogenClient) ForgotPassword(ctx context.Context, email string) (string, error) {
	r, err := c.Client.ForgotPassword(ctx, &ogen.EmailRequest{Email: ogen.Email(email)},
		ogen.ForgotPasswordParams{XCallerKey: ogen.NewOptString(callerKey)})
	return codeOf(r, err)
}

// ResetPassword sends a token too, because this client does so for every operation with an optional token.
func (c ogenClient) ResetPassword(ctx context.Context, code, password string) error {
	return done(c.Client.ChangePassword(ctx, &ogen.ChangePasswordRequest{
		Code: ogen.NewOptTypedCode(ogen.TypedCode(code)), Password: ogen.Password(password),
	}, ogen.ChangePasswordParams{}))
}

func (c ogenClient) Delete(ctx context.Context, access string) error {
	return done(c.DeleteUser(with(ctx, access), ogen.OptAccessTokenRequest{}, ogen.DeleteUserParams{}))
}

func (c ogenClient) Keys(ctx context.Context) (access, refresh []string, pem bool, err error) {
	r, err := c.GetKeys(ctx, ogen.GetKeysParams{})
	all, err := as[*ogen.KeysReplyHeaders](r, err)
	if err != nil {
		return nil, nil, false, err
	}
	pem = true
	for _, k := range all.Response.AccessToken.Keys {
		access, pem = append(access, k.Kid), pem && k.Pem != ""
	}
	for _, k := range all.Response.RefreshToken.Keys {
		refresh, pem = append(refresh, k.Kid), pem && k.Pem != ""
	}
	return access, refresh, pem, nil
}

func (c ogenClient) AccessKeys(ctx context.Context, known string) (ids []string, tag string, err error) {
	params := ogen.GetAccessKeysParams{}
	if known != "" {
		params.IfNoneMatch = ogen.NewOptString(known)
	}
	r, err := c.GetAccessKeys(ctx, params)
	if same, ok := r.(*ogen.NotModified); ok {
		return nil, same.ETag, nil
	}
	set, err := as[*ogen.JWKSetHeaders](r, err)
	if err != nil {
		return nil, "", err
	}
	for _, k := range set.Response.Keys {
		ids = append(ids, k.Kid)
	}
	return ids, set.ETag, nil
}

func (c ogenClient) Metadata(ctx context.Context) (openID, oauth [2]string, err error) {
	r, err := c.GetOpenIDConfiguration(ctx, ogen.GetOpenIDConfigurationParams{})
	m, err := as[*ogen.MetadataHeaders](r, err)
	if err != nil {
		return openID, oauth, err
	}
	a, err := c.GetAuthorizationServerMetadata(ctx, ogen.GetAuthorizationServerMetadataParams{})
	n, err := as[*ogen.MetadataHeaders](a, err)
	if err != nil {
		return openID, oauth, err
	}
	return [2]string{m.Response.Issuer, m.Response.JwksURI}, [2]string{n.Response.Issuer, n.Response.JwksURI}, nil
}

func (c ogenClient) Documents(ctx context.Context) (version, page string, err error) {
	r, err := c.GetOpenAPI(ctx, ogen.GetOpenAPIParams{})
	document, err := as[*ogen.GetOpenAPIOKHeaders](r, err)
	if err != nil {
		return "", "", err
	}
	d, err := c.GetDocs(ctx, ogen.GetDocsParams{})
	docs, err := as[*ogen.GetDocsOKHeaders](d, err)
	if err != nil {
		return "", "", err
	}
	text, err := io.ReadAll(docs.Response)
	return strings.Trim(document.Response["openapi"].String(), `"`), string(text), err
}
