package identity_test

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// spy is a Store that records its calls, can run a function before a call, and can return
// users with another scope than the stored one.
type spy struct {
	identity.Store
	before map[string]func() // by method; called once
	scope  string            // scope of every user; empty: the stored one

	mu    sync.Mutex
	calls []string
}

func (s *spy) note(method string) {
	s.mu.Lock()
	s.calls = append(s.calls, method)
	do := s.before[method]
	delete(s.before, method)
	s.mu.Unlock()
	if do != nil {
		do()
	}
}

// take returns the methods called since the last take.
func (s *spy) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.calls = nil }()
	return strings.Join(s.calls, " ")
}

func (s *spy) rescope(session identity.Session) identity.Session {
	if s.scope != "" {
		session.User.Scope = s.scope
	}
	return session
}

func (s *spy) CreateSignUp(ctx context.Context, n identity.NewSignUp, c identity.NewCode, e identity.Event) error {
	s.note("CreateSignUp")
	return s.Store.CreateSignUp(ctx, n, c, e)
}

func (s *spy) CreateSignUpConcealed(
	ctx context.Context, n identity.NewSignUp, m identity.NewMail, e identity.Event,
) error {
	s.note("CreateSignUpConcealed")
	return s.Store.CreateSignUpConcealed(ctx, n, m, e)
}

func (s *spy) FindSignUps(ctx context.Context, l identity.Login) ([]identity.Claim, error) {
	s.note("FindSignUps")
	return s.Store.FindSignUps(ctx, l)
}

func (s *spy) FindClaims(ctx context.Context, h identity.CodeHash) ([]identity.Claim, error) {
	s.note("FindClaims")
	return s.Store.FindClaims(ctx, h)
}

func (s *spy) FindCredentials(ctx context.Context, l identity.Login) (identity.Credentials, error) {
	s.note("FindCredentials")
	return s.Store.FindCredentials(ctx, l)
}

func (s *spy) CountFailure(ctx context.Context, k identity.ThrottleKey, e identity.Event) error {
	s.note("CountFailure")
	return s.Store.CountFailure(ctx, k, e)
}

func (s *spy) UpdateUser(
	ctx context.Context, r identity.SessionRef, p identity.ProfileChange, e identity.Event,
) (identity.User, error) {
	s.note("UpdateUser")
	return s.Store.UpdateUser(ctx, r, p, e)
}

func (s *spy) DeleteUser(ctx context.Context, r identity.SessionRef, e identity.Event) error {
	s.note("DeleteUser")
	return s.Store.DeleteUser(ctx, r, e)
}

func (s *spy) FindUser(ctx context.Context, r identity.SessionRef) (identity.User, error) {
	s.note("FindUser")
	return s.Store.FindUser(ctx, r)
}

func (s *spy) FindPassword(
	ctx context.Context, r identity.SessionRef, from identity.Network,
) (identity.Credentials, error) {
	s.note("FindPassword")
	return s.Store.FindPassword(ctx, r, from)
}

func (s *spy) ChangePassword(
	ctx context.Context, r identity.SessionRef, oldHash, newHash string, record identity.Record,
) error {
	s.note("ChangePassword")
	return s.Store.ChangePassword(ctx, r, oldHash, newHash, record)
}

func (s *spy) IssueCode(ctx context.Context, email string, c identity.NewCode, e identity.Event) (string, error) {
	s.note("IssueCode")
	return s.Store.IssueCode(ctx, email, c, e)
}

func (s *spy) IssueEmailChange(ctx context.Context, r identity.SessionRef, c identity.NewCode, e identity.Event) error {
	s.note("IssueEmailChange")
	return s.Store.IssueEmailChange(ctx, r, c, e)
}

func (s *spy) RedeemVerification(
	ctx context.Context, p identity.ClaimProof, n identity.NewSession, record identity.Record,
) (identity.User, error) {
	s.note("RedeemVerification")
	return s.Store.RedeemVerification(ctx, p, n, record)
}

func (s *spy) FindRecovery(ctx context.Context, h identity.CodeHash) (identity.Claim, error) {
	s.note("FindRecovery")
	return s.Store.FindRecovery(ctx, h)
}

func (s *spy) RedeemRecovery(
	ctx context.Context, h identity.CodeHash, owner identity.Claim, newHash string, from identity.Network, record identity.Record,
) error {
	s.note("RedeemRecovery")
	return s.Store.RedeemRecovery(ctx, h, owner, newHash, from, record)
}

func (s *spy) RedeemEmailChange(
	ctx context.Context, r identity.SessionRef, e identity.EmailRedemption, record identity.Record,
) (identity.User, error) {
	s.note("RedeemEmailChange")
	return s.Store.RedeemEmailChange(ctx, r, e, record)
}

func (s *spy) OpenSession(ctx context.Context, n identity.NewSession, e identity.Event) error {
	s.note("OpenSession")
	return s.Store.OpenSession(ctx, n, e)
}

func (s *spy) FindSession(ctx context.Context, r identity.SessionRef) (identity.Session, error) {
	s.note("FindSession")
	session, err := s.Store.FindSession(ctx, r)
	return s.rescope(session), err
}

func (s *spy) AdvanceSession(
	ctx context.Context, r identity.SessionRef, generation int64, n identity.Renewal,
) (identity.Session, bool, error) {
	s.note("AdvanceSession")
	session, advanced, err := s.Store.AdvanceSession(ctx, r, generation, n)
	return s.rescope(session), advanced, err
}

func (s *spy) FindOwnSessions(ctx context.Context, r identity.SessionRef) ([]identity.OwnSession, error) {
	s.note("FindOwnSessions")
	return s.Store.FindOwnSessions(ctx, r)
}

func (s *spy) EndOwnSession(ctx context.Context, r identity.SessionRef, id string, e identity.Event) (bool, error) {
	s.note("EndOwnSession")
	return s.Store.EndOwnSession(ctx, r, id, e)
}

func (s *spy) EndSession(ctx context.Context, r identity.SessionRef, e identity.Event) (bool, error) {
	s.note("EndSession")
	return s.Store.EndSession(ctx, r, e)
}

func (s *spy) QueueMail(ctx context.Context, m identity.NewMail) error {
	s.note("QueueMail")
	return s.Store.QueueMail(ctx, m)
}

func (s *spy) QueueEmailChange(ctx context.Context, r identity.SessionRef, m identity.NewMail) error {
	s.note("QueueEmailChange")
	return s.Store.QueueEmailChange(ctx, r, m)
}

func (s *spy) ClaimMail(ctx context.Context, lease time.Duration, process identity.ProcessMail) (bool, error) {
	s.note("ClaimMail")
	return s.Store.ClaimMail(ctx, lease, process)
}

func (s *spy) TakeLimit(ctx context.Context, k identity.LimitKey, r identity.Rate) (identity.Allowance, error) {
	s.note("TakeLimit")
	return s.Store.TakeLimit(ctx, k, r)
}

func (s *spy) RecordEvent(ctx context.Context, e identity.Event) error {
	s.note("RecordEvent")
	return s.Store.RecordEvent(ctx, e)
}

func (s *spy) TakeSessionLimit(
	ctx context.Context, ref identity.SessionRef, k identity.LimitKey, r identity.Rate,
) (identity.Allowance, error) {
	s.note("TakeSessionLimit")
	return s.Store.TakeSessionLimit(ctx, ref, k, r)
}
