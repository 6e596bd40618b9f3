package identity

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/token"
)

// SignIn checks a password and opens a session. Whatever is wrong with the account or the password, the answer and the
// work are the same. With exposure internal, a caller with the password of a waiting sign-up learns that its address is
// not verified. With exposure public sign-ups are not read, so that the answer does not depend on other people's
// accounts.
func (s *Service) SignIn(ctx context.Context, username, password string) (Tokens, error) {
	if err := s.ready(); err != nil {
		return Tokens{}, err
	}
	login, ok := ParseLogin(username)
	password = normalizePassword(password)
	if !ok || !isPossiblePassword(password) {
		return Tokens{}, errCredentials() // no account can have these, so nothing is counted
	}
	login.From = callerNetwork(ctx)
	c, err := s.store.FindCredentials(ctx, login)
	if err != nil {
		return Tokens{}, err
	}
	rehash, err := s.checkPassword(ctx, c, password, func() (string, error) {
		if err := s.checkSignUps(ctx, login, c, password); err != nil || !s.migration.asks(c) {
			return "", err
		}
		return s.migrate(ctx, c, login, password)
	})
	if err != nil {
		return Tokens{}, err
	}
	n := s.newSession(ctx)
	n.UserID, n.Scope = c.User.ID, c.User.Scope
	n.PasswordHash, n.Rehash = c.PasswordHash, rehash
	n.ThrottleKey, n.Failures, n.FailureLimit = c.ThrottleKey, c.Failures, freeFailures
	// Failures from unknown networks stay, because an attacker must not see in them that
	// the owner signed in. This network is known from now on, and starts without failures.
	n.Forgive = c.KnownNetwork || n.From == ""
	user := c.User
	e := s.event(ctx, EventSignedIn, user.ID, n.ID)
	find := func() (Credentials, error) { return s.store.FindCredentials(ctx, login) }
	for {
		if err = s.store.OpenSession(ctx, n, s.audited(e)); !errors.Is(err, ErrStale) {
			break
		}
		if c, err = s.renewedHash(ctx, find, c, password); err != nil {
			break
		}
		n.PasswordHash, n.Rehash = c.PasswordHash, ""
	}
	switch {
	case errors.Is(err, ErrStale):
		// The password was changed, or there were too many failures, while this one was
		// hashed. An answer that says which would confirm a guess.
		s.signInRefused(ctx, RefusedStale, user.ID)
		return Tokens{}, errCredentials()
	case err != nil:
		return Tokens{}, storeFailure(err)
	}
	s.logEvent(ctx, e)
	return s.firstTokens(ctx, n, user)
}

// renewedHash is called after ErrStale: the hash that the password was checked against is no longer stored. If a
// concurrent sign-in has rehashed the same password, it returns the present credentials, and the caller tries again.
// Otherwise the error is ErrStale. The caller keeps the failures that it read first, so that failures that stopped the
// first attempt stop the next one too.
func (s *Service) renewedHash(
	ctx context.Context, find func() (Credentials, error), was Credentials, password string,
) (Credentials, error) {
	c, err := find()
	if err != nil {
		return Credentials{}, err
	}
	if c.User.ID != was.User.ID || c.PasswordHash == was.PasswordHash {
		return Credentials{}, ErrStale
	}
	right, err := s.hasher.Check(ctx, c.PasswordHash, password)
	if err != nil {
		return Credentials{}, err
	}
	if !right {
		return Credentials{}, ErrStale
	}
	return c, nil
}

// checkPassword refuses a password that comes too early, checks it, and counts a wrong one. It runs the same statements
// and the same hashing whether or not there is an account, and whatever kind of hash it has. If the stored hash has
// another cost or was imported, rehash is the same password as an own hash of the current cost.
//
// If the password is wrong, checkPassword calls otherwise. If that returns an error, or a hash because the password is
// right elsewhere, checkPassword returns the same, and the failure is not counted.
func (s *Service) checkPassword(
	ctx context.Context, c Credentials, password string, otherwise func() (rehash string, err error),
) (rehash string, err error) {
	if err := checkThrottle(c); err != nil {
		s.throttled(ctx, c)
		return "", err
	}
	right, rehash, err := s.hasher.CheckSignIn(ctx, c.PasswordHash, password, c.admitted())
	if err != nil {
		return "", err
	}
	if right {
		return rehash, nil
	}
	if rehash, err = otherwise(); err != nil || rehash != "" {
		return rehash, err
	}
	e := s.event(ctx, EventPasswordRefused, c.User.ID, "", slog.Int("failures", c.Failures+1))
	if err := s.store.CountFailure(ctx, c.ThrottleKey, s.audited(e)); err != nil {
		return "", err // fail closed: a guess that cannot be counted is not answered
	}
	s.logEvent(ctx, e)
	return "", errCredentials()
}

// checkSignUps returns an error of kind Forbidden if a waiting sign-up with this login has this password, and the
// caller may know that. It reads the failures again afterwards, as OpenSession does: of many concurrent guesses, none
// that the throttle would have refused is confirmed.
func (s *Service) checkSignUps(ctx context.Context, login Login, c Credentials, password string) error {
	if s.preventsEnumeration() || c.Found {
		return nil
	}
	waiting, err := s.store.FindSignUps(ctx, login)
	if err != nil {
		return err
	}
	match, ok, err := s.matchClaim(ctx, waiting, password)
	if err != nil || !ok {
		return err
	}
	after, err := s.store.FindCredentials(ctx, login)
	if err != nil {
		return err
	}
	if after.Failures > c.Failures && after.Failures >= freeFailures {
		return nil
	}
	s.signInRefused(ctx, RefusedUnverified, match.ID)
	return failure(Forbidden, ReasonEmailNotVerified,
		"the email address is not verified yet; redeem the code that was sent to it, or ask for a new one")
}

// newSession prepares a session that opens now. Times are whole seconds, as in tokens, so
// that the token and the row agree.
func (s *Service) newSession(ctx context.Context) NewSession {
	now := s.now().UTC().Truncate(time.Second)
	ends := now.Add(s.policy.SessionLifetime)
	return NewSession{
		ID: newID(), OpenedAt: now, ExpiresAt: earlier(now.Add(s.policy.RefreshTTL), ends), EndsAt: ends,
		Keep: s.policy.SessionsPerUser, UserAgent: CallerOf(ctx).userAgent(), From: callerNetwork(ctx),
	}
}

// firstTokens returns the tokens of a session that was just opened.
func (s *Service) firstTokens(ctx context.Context, n NewSession, u User) (Tokens, error) {
	s.counts.opened.Add(1)
	return s.issue(ctx, Session{
		ID: n.ID, User: u, Scope: n.Scope,
		OpenedAt: n.OpenedAt, RefreshedAt: n.OpenedAt, ExpiresAt: n.ExpiresAt, EndsAt: n.EndsAt,
	}, "")
}

// issue signs an access token for a session and returns it with a refresh token: the one given or, if that is empty,
// the one of the current generation, which is the same text whichever replica signs it.
func (s *Service) issue(ctx context.Context, session Session, refresh string) (Tokens, error) {
	now := s.now()
	u := session.User
	scope := narrowScope(session.Scope, u.Scope)
	issued := now.UTC().Truncate(time.Second)
	expires := earlier(issued.Add(s.policy.AccessTTL), session.EndsAt)
	roles, more, err := s.chosenClaims(ctx, u)
	if err != nil {
		return Tokens{}, err
	}
	access, err := s.tokens.SignAccess(token.Access{
		Subject: u.ID, SessionID: session.ID, Scope: scope,
		Username: u.Username, Email: u.Email, EmailVerified: u.EmailVerified, Name: u.Name(),
		Roles: roles, More: more, AuthTime: session.OpenedAt, IssuedAt: issued, ExpiresAt: expires,
	})
	if err != nil {
		return Tokens{}, tokenFailure(err)
	}
	if refresh == "" {
		refresh, err = s.tokens.SignRefresh(token.Refresh{
			Subject: u.ID, SessionID: session.ID, Generation: session.Generation,
			IssuedAt: session.RefreshedAt, ExpiresAt: session.ExpiresAt,
		})
		if err != nil {
			return Tokens{}, tokenFailure(err)
		}
	}
	return Tokens{
		AccessToken: access, ExpiresIn: expires.Sub(issued),
		RefreshToken: refresh, RefreshExpiresIn: session.ExpiresAt.Sub(issued), Scope: scope,
	}, nil
}

// chosenClaims returns the roles of an account, and the other claims that come from it, for a token. Those that have no
// room are left out: TOKEN_CLAIMS may name a member that an account has had for long, and an error would keep its owner
// from signing in.
func (s *Service) chosenClaims(ctx context.Context, u User) (roles, more string, err error) {
	if u.Roles == "" && len(s.policy.TokenClaims) == 0 {
		return "", "", nil
	}
	room, left := max(0, s.tokens.Room()), []string(nil)
	if u.Roles != "" {
		if needs := token.Needs(u.Roles, ""); needs <= room {
			roles, room = u.Roles, room-needs
		} else {
			left = []string{"roles"}
		}
	}
	more, others, err := token.Fitting(u.Metadata, s.policy.TokenClaims, room)
	if left = append(left, others...); len(left) > 0 {
		s.audit.LogAttrs(ctx, slog.LevelWarn, "a token lacks claims for which it has no room: shorten the account's roles or metadata",
			slog.String("user", u.ID), slog.Any("claims", left))
	}
	return roles, more, err
}

// Renew exchanges a refresh token for a new access token and, if the policy asks for it, a new refresh token (RFC 6749
// section 6; reuse: RFC 9700 section 4.14.2). Without a new refresh token nothing is written.
func (s *Service) Renew(ctx context.Context, refreshToken string) (Tokens, error) {
	claims, err := s.tokens.VerifyRefresh(refreshToken)
	if err != nil {
		return Tokens{}, tokenFailure(err)
	}
	now := s.preciseNow()
	ref := SessionRef{ID: claims.SessionID, UserID: claims.Subject, Now: now}
	for rotate := s.needsRotation(claims, now); ; rotate = true {
		if rotate {
			// The time of the renewal is stored exactly, because the grace of the replaced token counts from it, and whole
			// seconds would shorten that by up to a second. The end is a whole second, like the token's exp. If the Store repeats
			// the statement because its answer was lost, FindSession returns this same time, so not even a grace of zero takes
			// the repetition for a theft.
			issued := now.Truncate(time.Second)
			session, advanced, err := s.store.AdvanceSession(ctx, ref, claims.Generation, Renewal{
				RefreshedAt: now, Lifetime: issued.Add(s.policy.RefreshTTL).Sub(now),
			})
			if err != nil {
				return Tokens{}, storeFailure(err)
			}
			if advanced {
				s.counts.renewed.Add(1)
				return s.issue(ctx, session, "")
			}
		}
		session, err := s.store.FindSession(ctx, ref)
		if err != nil {
			return Tokens{}, storeFailure(err)
		}
		switch s.tokenState(session, claims.Generation, now) {
		case ahead: // it is replaced, so that no older token passes for the current one
			continue
		case current:
			s.counts.renewed.Add(1)
			return s.issue(ctx, session, refreshToken)
		case withinReuseGrace:
			s.counts.renewed.Add(1)
			return s.issue(ctx, session, "")
		default:
			return Tokens{}, s.endReused(ctx, ref, session, claims.Generation)
		}
	}
}

// preciseNow returns the time in microseconds, as a Store keeps it.
func (s *Service) preciseNow() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

// needsRotation reports whether a renewal makes a new refresh token: always, or after half
// of the lifetime of the one presented.
func (s *Service) needsRotation(r token.Refresh, now time.Time) bool {
	return s.policy.Rotation == RotateAlways || now.Sub(r.IssuedAt) > r.ExpiresAt.Sub(r.IssuedAt)/2
}

// tokenState is the state of a refresh token, by its generation.
type tokenState int

const (
	reused           tokenState = iota // replaced before: someone has stolen it
	current                            // the one to use
	withinReuseGrace                   // the one before, within the grace: a reply was lost, or tabs race
	ahead                              // later than the stored one: a failover lost renewals
)

func (s *Service) tokenState(session Session, generation int64, now time.Time) tokenState {
	switch {
	case generation == session.Generation:
		return current
	case generation > session.Generation:
		return ahead
	case generation == session.Generation-1 && now.Sub(session.RefreshedAt) <= s.policy.ReuseGrace:
		return withinReuseGrace
	default:
		return reused
	}
}

// endReused ends a session whose refresh token was reused after the grace.
func (s *Service) endReused(ctx context.Context, ref SessionRef, session Session, presented int64) error {
	e := s.event(ctx, EventTokenReused, ref.UserID, ref.ID,
		slog.Int64("generation", session.Generation), slog.Int64("presented", presented))
	if err := s.endSession(ctx, ref, e, &s.counts.reused); err != nil {
		return err
	}
	return errToken(ErrNoSession)
}

// endSession ends a session. If it was alive, it is counted and logged.
func (s *Service) endSession(ctx context.Context, ref SessionRef, e Event, count *atomic.Uint64) error {
	ended, err := s.store.EndSession(ctx, ref, s.audited(e))
	if err != nil {
		return storeFailure(err)
	}
	if ended {
		count.Add(1)
		s.logEvent(ctx, e)
	}
	return nil
}

// SignOut ends the session of a refresh token, with all its access tokens. It is no error
// if a genuine token has expired or its session has ended (RFC 7009 section 2.2).
func (s *Service) SignOut(ctx context.Context, refreshToken string) error {
	claims, err := s.tokens.VerifyRefresh(refreshToken)
	if err != nil && !errors.Is(err, token.ErrExpired) {
		return tokenFailure(err)
	}
	return s.signOut(ctx, claims.Subject, claims.SessionID)
}

func (s *Service) signOut(ctx context.Context, userID, sessionID string) error {
	e := s.event(ctx, EventSignedOut, userID, sessionID)
	return s.endSession(ctx, SessionRef{ID: sessionID, UserID: userID, Now: s.now()}, e, &s.counts.ended)
}

// Revoke ends the session of a refresh token, as SignOut does, or of an access token. Like
// EndSession it then needs no scope. An invalid token has nothing to end, which is no error
// (RFC 7009 section 2.2). Neither has an expired access token: its session may continue.
func (s *Service) Revoke(ctx context.Context, text string) error {
	if err := s.ready(); err != nil {
		return err
	}
	if refresh, err := s.tokens.VerifyRefresh(text); err == nil || errors.Is(err, token.ErrExpired) {
		return s.signOut(ctx, refresh.Subject, refresh.SessionID)
	}
	if access, err := s.tokens.VerifyAccess(text); err == nil {
		return s.signOut(ctx, access.Subject, access.SessionID)
	}
	return nil
}

// Sessions lists the live sessions of the token's user, in one statement. They are
// personal data like the profile, so they need the same scope.
func (s *Service) Sessions(ctx context.Context, accessToken string) ([]OwnSession, error) {
	ref, err := s.authenticate(accessToken, ScopeProfile)
	if err != nil {
		return nil, err
	}
	sessions, err := s.store.FindOwnSessions(ctx, ref)
	return sessions, storeFailure(err)
}

// EndSession ends one session of the token's user, with all its tokens; it may be the
// session of the token. Like SignOut it needs no scope. The answer is the same if the
// session belongs to another user and if it has ended: not found.
func (s *Service) EndSession(ctx context.Context, accessToken, id string) error {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return err
	}
	e := s.event(ctx, EventSessionEnded, ref.UserID, id, slog.String("by_session", ref.ID))
	ended, err := s.store.EndOwnSession(ctx, ref, id, s.audited(e))
	if err != nil {
		return storeFailure(err)
	}
	if !ended {
		return failure(NotFound, ReasonSessionNotFound, "you have no session with this id, or it has ended")
	}
	s.counts.ended.Add(1)
	s.logEvent(ctx, e)
	return nil
}

// Introspect reports what an access or refresh token says (RFC 7662), and its scope as it is now. An invalid token is
// no error: it is not active. The leeway for clock skew does not extend the lifetime of a token here, because the
// caller wants to know whether the token is valid at this moment.
func (s *Service) Introspect(ctx context.Context, text string) (Introspection, error) {
	now := s.preciseNow()
	access, accessErr := s.tokens.VerifyAccess(text)
	if errors.Is(accessErr, token.ErrNoKeys) {
		return Introspection{}, tokenFailure(accessErr)
	}
	refresh, refreshErr := s.tokens.VerifyRefresh(text)
	out := Introspection{Active: true, Issuer: s.policy.Issuer}
	switch {
	case accessErr == nil:
		out.TokenType, out.Subject, out.SessionID = "access_token", access.Subject, access.SessionID
		out.IssuedAt, out.ExpiresAt = access.IssuedAt, access.ExpiresAt
	case refreshErr == nil:
		out.TokenType, out.Subject, out.SessionID = "refresh_token", refresh.Subject, refresh.SessionID
		out.IssuedAt, out.ExpiresAt = refresh.IssuedAt, refresh.ExpiresAt
	default:
		return Introspection{}, nil
	}
	if !now.Before(out.ExpiresAt) {
		return Introspection{}, nil
	}
	var err error
	details, err := s.tokens.Details(text)
	if err != nil {
		return Introspection{}, err
	}
	out.TokenID, out.ClientID, out.Audience = details.ID, details.ClientID, details.Audience
	session, err := s.store.FindSession(ctx, SessionRef{ID: out.SessionID, UserID: out.Subject, Now: now})
	switch {
	case errors.Is(err, ErrNoSession):
		return Introspection{}, nil
	case err != nil:
		return Introspection{}, storeFailure(err)
	}
	if out.TokenType == "refresh_token" && s.tokenState(session, refresh.Generation, now) == reused {
		return Introspection{}, nil
	}
	granted := session.Scope
	if out.TokenType == "access_token" {
		granted = access.Scope
	}
	out.Username, out.Scope = session.User.Username, narrowScope(granted, session.User.Scope)
	out.Roles = session.User.Roles
	return out, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
