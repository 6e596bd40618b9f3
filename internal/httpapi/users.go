package httpapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// userReply is an account as its owner sees it.
type userReply struct {
	ID         string    `json:"id"`
	Username   string    `json:"username"`
	Email      string    `json:"email"`
	FirstName  string    `json:"first_name"`
	LastName   string    `json:"last_name"`
	Name       string    `json:"name"`
	Scope      string    `json:"scope"`
	Roles      []string  `json:"roles,omitempty"`
	IsVerified bool      `json:"is_verified"`
	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"`
}

func (x *exchange) replyUser(u identity.User, err error) error {
	if err != nil {
		return err
	}
	return x.reply(http.StatusOK, &userReply{
		ID: u.ID, Username: u.Username, Email: u.Email,
		FirstName: u.FirstName, LastName: u.LastName, Name: u.Name(),
		Scope: u.Scope, Roles: strings.Fields(u.Roles), IsVerified: u.EmailVerified,
		CreatedAt: u.CreatedAt.UTC(), UpdatedAt: u.UpdatedAt.UTC(),
	})
}

// codeReply is a one-time code, for a caller that may see it.
type codeReply struct {
	ID        string `json:"id,omitempty"`
	Code      string `json:"code"`
	ExpiresIn int64  `json:"expires_in"`
}

func (x *exchange) replyCode(code identity.Code, err error) error {
	return x.replyCodeOf(http.StatusOK, "", code, err)
}

// replyCodeOf writes a code and the id of its sign-up. If codes are sent by mail, code has no text, and all callers get
// the same reply, whether or not the account exists.
func (x *exchange) replyCodeOf(status int, id string, code identity.Code, err error) error {
	switch {
	case err != nil:
		return err
	case code.Text == "":
		return x.reply(http.StatusAccepted, struct{}{})
	default:
		return x.reply(status, &codeReply{ID: id, Code: code.Text, ExpiresIn: seconds(code.ExpiresIn)})
	}
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

func (s *Server) signUp(ctx context.Context, x *exchange) error {
	p := &x.params
	account := identity.SignUp{
		Username:  p.requiredUnless(s.optional.Username, paramUsername),
		Email:     p.required(paramEmail),
		FirstName: p.requiredUnless(s.optional.FirstName, paramFirstName),
		LastName:  p.requiredUnless(s.optional.LastName, paramLastName),
		Password:  p.required(paramPassword),
	}
	scope, chosen := p.optional(paramScope)
	if chosen && !s.trusts(x.http) {
		return errUntrusted(x.http)
	}
	if chosen && scope == "" {
		// For the domain, an empty scope means the default.
		p.wrong(paramScope, identity.FieldEmpty, "is empty; omit it for the default")
	}
	account.Scope = scope
	if x.err() != nil {
		// The request fails, but its reply names all problems.
		p.also(s.accounts.CheckSignUp(account))
		return x.err()
	}
	code, err := s.accounts.SignUp(ctx, account)
	return x.replyCodeOf(http.StatusCreated, code.UserID, code, err)
}

func (s *Server) verifyUser(ctx context.Context, x *exchange) error {
	p := &x.params
	proof := identity.Proof{
		Code: p.required(paramCode), Password: p.pointer(paramPassword), Username: p.pointer(paramUsername),
	}
	if err := x.err(); err != nil {
		return err
	}
	return x.replyTokens(s.accounts.VerifyUser(ctx, proof))
}

func (s *Server) newVerificationCode(ctx context.Context, x *exchange) error {
	return x.codeFor(ctx, s.accounts.NewVerificationCode)
}

// codeFor replies with a code that create issues for the address in the request.
func (x *exchange) codeFor(ctx context.Context, create func(ctx context.Context, email string) (identity.Code, error)) error {
	email := x.params.required(paramEmail)
	if err := x.err(); err != nil {
		return err
	}
	return x.replyCode(create(ctx, email))
}

func (s *Server) profile(ctx context.Context, x *exchange) error {
	token := x.accessToken()
	if err := x.err(); err != nil {
		return err
	}
	return x.replyUser(s.accounts.Profile(ctx, token))
}

// userData replies with all that is stored about the owner of the token. That is long, so it counts as a change.
func (s *Server) userData(ctx context.Context, x *exchange) error {
	token := x.accessToken()
	if err := x.admitted(ctx, token, s.accounts.AdmitChange); err != nil {
		return err
	}
	u, err := s.accounts.Profile(ctx, token)
	if err != nil {
		return err
	}
	data, err := s.export(ctx, u.ID)
	switch {
	case identity.KindOf(err) == identity.NotFound: // it was deleted just now
		return &failure{
			status: http.StatusUnauthorized, code: codeUnauthenticated, reason: identity.ReasonSessionEnded,
			description: "the session has ended; sign in again",
		}
	case err != nil:
		return err
	}
	return x.reply(http.StatusOK, &data)
}

func (s *Server) updateProfile(ctx context.Context, x *exchange) error {
	p := &x.params
	token := x.accessToken()
	change := identity.ProfileUpdate{
		Username:  p.pointer(paramUsername),
		FirstName: p.pointer(paramFirstName),
		LastName:  p.pointer(paramLastName),
	}
	if err := x.admitted(ctx, token, s.accounts.AdmitChange); err != nil {
		return err
	}
	return x.replyUser(s.accounts.UpdateProfile(ctx, token, change))
}

func (s *Server) deleteUser(ctx context.Context, x *exchange) error {
	token := x.accessToken()
	if err := x.admitted(ctx, token, s.accounts.AdmitEnding); err != nil {
		return err
	}
	return x.done(s.accounts.DeleteUser(ctx, token))
}

// sessionReply is a session in the list of its owner.
type sessionReply struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	RenewedAt time.Time `json:"renewed_at"`
	ExpiresAt time.Time `json:"expires_at"`
	UserAgent string    `json:"user_agent"`
	Current   bool      `json:"current"`
}

type sessionsReply struct {
	Sessions []sessionReply `json:"sessions"`
}

func (s *Server) sessions(ctx context.Context, x *exchange) error {
	token := x.accessToken()
	if err := x.err(); err != nil {
		return err
	}
	own, err := s.accounts.Sessions(ctx, token)
	if err != nil {
		return err
	}
	reply := sessionsReply{Sessions: make([]sessionReply, len(own))}
	for i, o := range own {
		reply.Sessions[i] = sessionReply{
			ID: o.ID, CreatedAt: o.OpenedAt.UTC(), RenewedAt: o.RefreshedAt.UTC(), ExpiresAt: o.ExpiresAt.UTC(),
			UserAgent: o.UserAgent, Current: o.Current,
		}
	}
	return x.reply(http.StatusOK, &reply)
}

func (s *Server) endSession(ctx context.Context, x *exchange) error {
	token := x.accessToken()
	if err := x.admitted(ctx, token, s.accounts.AdmitEnding); err != nil {
		return err
	}
	return x.done(s.accounts.EndSession(ctx, token, x.pathID))
}

func (s *Server) forgotPassword(ctx context.Context, x *exchange) error {
	return x.codeFor(ctx, s.accounts.ForgotPassword)
}

// changePassword handles two cases: a reset with a recovery code, and a change by a signed-in user with the old
// password. A code takes precedence over a token, because many clients send their token with every request.
func (s *Server) changePassword(ctx context.Context, x *exchange) error {
	p := &x.params
	p.ignore(paramAccessToken, paramID) // if they have no effect
	byOld := p.state[paramOldPassword] != absent
	signedIn := byOld || p.state[paramAccessToken] != absent || len(x.http.Request.Header.Peek("Authorization")) > 0
	switch byCode := p.state[paramCode] != absent; {
	case byCode && byOld:
		p.wrong(paramCode, identity.FieldConflicting, "cannot be combined with old_password; send only one of them")
		return invalidFields(p.problems)
	case byCode:
		code, password := p.required(paramCode), p.required(paramPassword)
		id, _ := p.optional(paramID)
		if err := x.err(); err != nil {
			return err
		}
		return x.done(s.accounts.ResetPassword(ctx, code, id, password))
	case signedIn:
		token := x.accessToken()
		old, password := p.required(paramOldPassword), p.required(paramPassword)
		if err := x.admitted(ctx, token, s.accounts.AdmitEnding); err != nil {
			return err
		}
		return x.done(s.accounts.ChangePassword(ctx, token, old, password))
	default:
		p.wrong(paramCode, identity.FieldMissing, "is missing; alternatively, send an access token and old_password")
		p.required(paramPassword)
		return x.err()
	}
}

func (s *Server) requestEmailChange(ctx context.Context, x *exchange) error {
	token := x.accessToken()
	email, there := x.params.optional(paramEmail)
	if there && email == "" {
		// For the domain, an empty address means none.
		x.params.wrong(paramEmail, identity.FieldEmpty, "is empty; omit it for a code that is valid for any address")
	}
	if err := x.admitted(ctx, token, s.accounts.AdmitChange); err != nil {
		return err
	}
	return x.replyCode(s.accounts.RequestEmailChange(ctx, token, email))
}

func (s *Server) changeEmail(ctx context.Context, x *exchange) error {
	token := x.accessToken()
	code, email := x.params.required(paramCode), x.params.required(paramEmail)
	if err := x.admitted(ctx, token, s.accounts.AdmitChange); err != nil {
		return err
	}
	return x.replyUser(s.accounts.ChangeEmail(ctx, token, code, email))
}
