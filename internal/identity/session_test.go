package identity_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

const day = 24 * time.Hour

func TestRenewBeforeHalfOfTheLifetimeKeepsTheRefreshTokenAndWritesNothing(t *testing.T) {
	f := newFixture(t)
	_, first := f.verified("grace")
	f.store.take()
	f.pass(3*day + 12*time.Hour)
	next := f.renew(first.RefreshToken)
	f.equal("calls of the store", f.store.take(), "FindSession")
	f.equal("the refresh token is kept", next.RefreshToken == first.RefreshToken, true)
	f.equal("time left of the refresh token", next.RefreshExpiresIn, 3*day+12*time.Hour)
	f.equal("lifetime of the access token", next.ExpiresIn, 15*time.Minute)
	f.equal("the access token differs", next.AccessToken != first.AccessToken, true)
	f.equal("renewals", f.service.Stats().SessionsRenewed, uint64(1))
}

func TestRenewAfterHalfOfTheLifetimeReplacesTheRefreshTokenInOneWrite(t *testing.T) {
	f := newFixture(t)
	_, first := f.verified("grace")
	f.store.take()
	f.pass(3*day + 12*time.Hour + time.Second)
	next := f.renew(first.RefreshToken)
	f.equal("calls of the store", f.store.take(), "AdvanceSession")
	f.equal("the refresh token differs", next.RefreshToken != first.RefreshToken, true)
	f.equal("lifetime of the refresh token", next.RefreshExpiresIn, 7*day)
	f.equal("the session is alive", f.alive(next), true)
}

func TestRenewWithRotationAlwaysReplacesTheRefreshToken(t *testing.T) {
	f := newFixture(t, rotating)
	_, tokens := f.verified("grace")
	seen := map[string]bool{tokens.RefreshToken: true}
	for range 5 {
		f.store.take()
		tokens = f.renew(tokens.RefreshToken)
		f.equal("calls of the store", f.store.take(), "AdvanceSession")
		f.equal("the refresh token was issued before", seen[tokens.RefreshToken], false)
		seen[tokens.RefreshToken] = true
	}
}

func TestRenewWithinTheGraceReturnsTheSameSuccessorFromEveryReplica(t *testing.T) {
	f := newFixture(t, rotating)
	_, first := f.verified("grace")
	next := f.renew(first.RefreshToken)
	for range 3 {
		f.pass(20 * time.Second)        // the retry does not extend the grace
		f.service = f.replica(f.hasher) // another replica knows only the store's data
		again := f.renew(first.RefreshToken)
		f.equal("the successor is byte for byte the same", again.RefreshToken == next.RefreshToken, true)
		f.equal("the access token differs", again.AccessToken != next.AccessToken, true)
		f.equal("time left of the refresh token", again.RefreshExpiresIn, 7*day-f.Now().Sub(start))
		f.equal("the session is alive", f.alive(again), true)
	}
	f.equal("sessions ended by reuse", f.service.Stats().SessionsReused, uint64(0))
}

func TestRenewConcurrentlyGivesOneSuccessor(t *testing.T) {
	f := newFixture(t, rotating)
	_, first := f.verified("grace")
	got := make([]identity.Tokens, 20)
	errs := make([]error, len(got))
	var tabs sync.WaitGroup
	for i := range got {
		tabs.Go(func() { got[i], errs[i] = f.service.Renew(t.Context(), first.RefreshToken) })
	}
	tabs.Wait()
	for i := range got {
		f.ok(errs[i])
		f.equal("the successor is the same for all", got[i].RefreshToken == got[0].RefreshToken, true)
	}
	f.renew(got[0].RefreshToken)
}

func TestRenewAfterTheGraceEndsItsSessionAndNoOther(t *testing.T) {
	f := newFixture(t, rotating)
	p, first := f.verified("grace")
	other := f.signIn(p)
	next := f.renew(first.RefreshToken)
	f.pass(time.Minute + time.Second)
	f.fails(errOf(f.Renew(first.RefreshToken)), identity.Unauthenticated, endedSession)
	f.equal("the session is alive", f.alive(next), false)
	f.equal("the other session is alive", f.alive(other), true)
	f.fails(errOf(f.Renew(next.RefreshToken)), identity.Unauthenticated, endedSession)
	f.equal("sessions ended by reuse", f.service.Stats().SessionsReused, uint64(1))
	f.equal("reuses audited", f.audited("refresh token reused: session ended"), 1)
	// An ended session is not counted again.
	f.fails(errOf(f.Renew(first.RefreshToken)), identity.Unauthenticated, endedSession)
	f.equal("sessions ended by reuse", f.service.Stats().SessionsReused, uint64(1))
}

func TestRenewConcurrentlyAfterTheGraceCountsOneReuse(t *testing.T) {
	f := newFixture(t, rotating)
	_, first := f.verified("grace")
	f.renew(first.RefreshToken)
	f.pass(time.Hour)
	f.store.before["EndSession"] = func() { _, _ = f.Renew(first.RefreshToken) }
	f.fails(errOf(f.Renew(first.RefreshToken)), identity.Unauthenticated, endedSession)
	f.equal("sessions ended by reuse", f.service.Stats().SessionsReused, uint64(1))
	f.equal("reuses audited", f.audited("refresh token reused: session ended"), 1)
}

func TestRenewWithAnOlderGenerationEndsTheSessionEvenWithinTheGrace(t *testing.T) {
	f := newFixture(t, rotating)
	_, first := f.verified("grace")
	second := f.renew(first.RefreshToken)
	third := f.renew(second.RefreshToken)
	f.fails(errOf(f.Renew(first.RefreshToken)), identity.Unauthenticated, endedSession)
	f.equal("the session is alive", f.alive(third), false)
	f.equal("sessions ended by reuse", f.service.Stats().SessionsReused, uint64(1))
}

// A failover can lose the last renewals. A token that is later than the stored generation is genuine, and the latest.
func TestRenewWithATokenWhoseRotationTheDatabaseLost(t *testing.T) {
	for name, change := range map[string]func(*identity.Policy){
		"always": rotating, "after half of the lifetime": func(*identity.Policy) {},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, change)
			_, first := f.verified("grace")
			f.pass(4 * day)
			lose := f.memory.SaveSessions()
			latest := f.renew(first.RefreshToken)
			lose()
			f.equal("the latest token is active", f.Introspect(latest.RefreshToken).Active, true)
			next := f.renew(latest.RefreshToken)
			f.equal("the refresh token is replaced", next.RefreshToken != latest.RefreshToken, true)
			f.equal("sessions ended by reuse", f.service.Stats().SessionsReused, uint64(0))
			f.equal("the repetition gives the same successor", f.renew(latest.RefreshToken).RefreshToken == next.RefreshToken, true)
			// An older token, which the database took for the current one, is still the mark of a theft.
			f.fails(errOf(f.Renew(first.RefreshToken)), identity.Unauthenticated, endedSession)
			f.equal("sessions ended by reuse", f.service.Stats().SessionsReused, uint64(1))
		})
	}
}

func TestRenewThatFailedCanBeRepeated(t *testing.T) {
	f := newFixture(t, rotating)
	_, first := f.verified("grace")
	away := &identity.Error{Kind: identity.Unavailable, Message: "the database is down"}
	f.memory.Break(away)
	f.fails(errOf(f.Renew(first.RefreshToken)), identity.Unavailable, "the database is down")
	f.memory.Break(nil)
	f.renew(first.RefreshToken)
}

func TestRenewNeverOutlivesTheSession(t *testing.T) {
	for _, change := range []func(*identity.Policy){rotating, func(*identity.Policy) {}} {
		f := newFixture(t, change)
		_, tokens := f.verified("grace")
		for range 9 {
			f.pass(3 * day)
			tokens = f.renew(tokens.RefreshToken)
		}
		f.equal("time left three days before the end", tokens.RefreshExpiresIn, 3*day)
		f.pass(3*day - 5*time.Minute)
		tokens = f.renew(tokens.RefreshToken)
		f.equal("time left of the refresh token, five minutes before the end", tokens.RefreshExpiresIn, 5*time.Minute)
		f.equal("time left of the access token", tokens.ExpiresIn, 5*time.Minute)
		f.pass(5*time.Minute - time.Second)
		tokens = f.renew(tokens.RefreshToken)
		f.equal("time left in the last second", tokens.ExpiresIn, time.Second)
		f.equal("the session is alive", f.alive(tokens), true)
		f.pass(time.Second)
		f.equal("the session is alive", f.alive(tokens), false)
		f.fails(errOf(f.Renew(tokens.RefreshToken)), identity.Unauthenticated, expiredToken)
	}
}

func TestRefreshTokenEndsWithAShorterSession(t *testing.T) {
	f := newFixture(t, func(p *identity.Policy) { p.SessionLifetime = 10 * time.Minute })
	_, tokens := f.verified("grace")
	f.equal("lifetime of the refresh token", tokens.RefreshExpiresIn, 10*time.Minute)
	f.equal("lifetime of the access token", tokens.ExpiresIn, 10*time.Minute)
	f.pass(10*time.Minute - time.Second)
	f.renew(tokens.RefreshToken)
	f.pass(time.Second)
	f.equal("the session is alive", f.alive(tokens), false)
}

func TestRefreshTokenThatIsNotRenewedExpires(t *testing.T) {
	f := newFixture(t)
	_, tokens := f.verified("grace")
	f.pass(7 * day)
	f.fails(errOf(f.Renew(tokens.RefreshToken)), identity.Unauthenticated, expiredToken)
}

func TestRenewGrantsNoScopeThatTheUserHasLost(t *testing.T) {
	for _, c := range []struct{ what, now, want string }{
		{"narrowed", "email", "email"},
		{"widened", "profile email admin", "profile email"},
		{"replaced", "admin", ""},
	} {
		for _, change := range []func(*identity.Policy){rotating, func(*identity.Policy) {}} {
			t.Run(c.what, func(t *testing.T) {
				f := newFixture(t, change)
				p, tokens := f.verified("grace")
				f.memory.SetScope(p.id, c.now)
				next := f.renew(tokens.RefreshToken)
				f.equal("the scope", next.Scope, c.want)
				f.equal("the scope of the access token", f.Introspect(next.AccessToken).Scope, c.want)
				f.equal("the scope of the refresh token", f.Introspect(next.RefreshToken).Scope, c.want)
			})
		}
	}
}

// bad returns texts that are not valid as any kind of token.
func bad(good string) map[string]string {
	return map[string]string{
		"nothing": "", "garbage": "garbage", "dots": "..", "cut": good[:len(good)-2], "longer": good + "A",
		"in capitals": strings.ToUpper(good), "of alg none": "eyJhbGciOiJub25lIn0.e30.", "huge": strings.Repeat("a.", 1<<20),
	}
}

func TestRenewRefusesOtherTokens(t *testing.T) {
	f := newFixture(t)
	_, tokens := f.verified("grace")
	candidates := bad(tokens.RefreshToken)
	candidates["an access token"] = tokens.AccessToken
	f.store.take()
	for what, text := range candidates {
		if _, err := f.Renew(text); identity.KindOf(err) != identity.Unauthenticated {
			t.Errorf("%s: %v", what, err)
		}
		if err := f.service.SignOut(t.Context(), text); identity.KindOf(err) != identity.Unauthenticated {
			t.Errorf("%s, signing out: %v", what, err)
		}
	}
	f.equal("calls of the store", f.store.take(), "")
	f.equal("the session is alive", f.alive(tokens), true)
}

func TestAccessTokenThatIsInvalidOpensNoRoute(t *testing.T) {
	f := newFixture(t)
	_, tokens := f.verified("grace")
	name := "x"
	candidates := bad(tokens.AccessToken)
	candidates["a refresh token"] = tokens.RefreshToken
	f.pass(time.Second)
	expired := tokens.AccessToken
	try := func(what, text string) {
		for route, do := range map[string]func() error{
			"Profile": func() error { _, err := f.Profile(text); return err },
			"UpdateProfile": func() error {
				_, err := f.service.UpdateProfile(t.Context(), text, identity.ProfileUpdate{FirstName: &name})
				return err
			},
			"DeleteUser":         func() error { return f.service.DeleteUser(t.Context(), text) },
			"ChangePassword":     func() error { return f.ChangePassword(text, password, "another of mine") },
			"RequestEmailChange": func() error { _, err := f.RequestEmailChange(text, ""); return err },
			"ChangeEmail":        func() error { return errOf(f.ChangeEmail(text, strings.Repeat("A", 26), "new@mail.example")) },
		} {
			f.store.take()
			if err := do(); identity.KindOf(err) != identity.Unauthenticated || f.store.take() != "" {
				t.Errorf("%s with %s: %v", route, what, err)
			}
		}
	}
	for what, text := range candidates {
		try(what, text)
	}
	f.pass(15 * time.Minute)
	try("an expired one", expired)
}

func TestSignOutEndsTheSessionAtOnceAndCanBeRepeated(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	other := f.signIn(p)
	for range 3 {
		f.ok(f.service.SignOut(t.Context(), tokens.RefreshToken))
	}
	f.equal("the session is alive", f.alive(tokens), false)
	f.equal("the other session is alive", f.alive(other), true)
	f.fails(errOf(f.Renew(tokens.RefreshToken)), identity.Unauthenticated, endedSession)
	f.equal("sessions ended", f.service.Stats().SessionsEnded, uint64(1))
	f.equal("sign-outs audited", f.audited("signed out"), 1)
}

func TestSignOutTakesAnExpiredToken(t *testing.T) {
	f := newFixture(t, rotating)
	_, first := f.verified("grace")
	next := f.renew(f.renew(first.RefreshToken).RefreshToken)
	f.pass(6 * day)
	next = f.renew(next.RefreshToken)
	f.pass(2 * day) // the first token has expired, but not its session
	f.ok(f.service.SignOut(t.Context(), first.RefreshToken))
	f.fails(errOf(f.Renew(next.RefreshToken)), identity.Unauthenticated, endedSession)
}

func TestIntrospectionDescribesAToken(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	f.pass(time.Minute)

	access := f.Introspect(tokens.AccessToken)
	f.equal("the audience of the access token", strings.Join(access.Audience, " "), "https://api.example")
	f.equal("the session", access.SessionID != "", true)
	session := access.SessionID
	f.equal("the access token has an id", access.TokenID != "", true)
	access.Audience, access.TokenID = nil, ""
	want := identity.Introspection{
		Active: true, TokenType: "access_token", Scope: "profile email", Username: "grace", Subject: p.id,
		SessionID: session, ClientID: issuer, Issuer: issuer, IssuedAt: start, ExpiresAt: start.Add(15 * time.Minute),
	}
	equalIntrospection(t, access, want)

	refresh := f.Introspect(tokens.RefreshToken)
	f.equal("the audience of the refresh token", strings.Join(refresh.Audience, " "), issuer)
	f.equal("the id of the refresh token", refresh.TokenID, session+".0")
	refresh.Audience, refresh.TokenID = nil, ""
	want.TokenType, want.ExpiresAt = "refresh_token", start.Add(7*day)
	equalIntrospection(t, refresh, want)
}

func TestIntrospectionHasNoLeeway(t *testing.T) {
	f := newFixture(t)
	f.leeway = 10 * time.Second
	f.service = f.replica(f.hasher)
	_, tokens := f.verified("grace")
	for _, c := range []struct {
		what, token string
		lives       time.Duration
	}{
		{what: "an access token", token: tokens.AccessToken, lives: 15 * time.Minute},
		{what: "a refresh token", token: tokens.RefreshToken, lives: 7 * day},
	} {
		f.pass(start.Add(c.lives - time.Nanosecond).Sub(f.Now()))
		f.equal(c.what+" is active before its end", f.Introspect(c.token).Active, true)
		f.pass(time.Nanosecond)
		equalIntrospection(t, f.Introspect(c.token), identity.Introspection{})
	}
}

func TestIntrospectionShowsTheScopeAsItIsNow(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	for _, c := range []struct{ now, want string }{
		{"profile email admin", "profile email"}, {"email", "email"}, {"admin", ""}, {"profile email", "profile email"},
	} {
		f.memory.SetScope(p.id, c.now)
		f.equal("of an access token, the scope", f.Introspect(tokens.AccessToken).Scope, c.want)
		f.equal("of a refresh token, the scope", f.Introspect(tokens.RefreshToken).Scope, c.want)
	}
}

func equalIntrospection(t *testing.T, got, want identity.Introspection) {
	t.Helper()
	if !got.IssuedAt.Equal(want.IssuedAt) || !got.ExpiresAt.Equal(want.ExpiresAt) {
		t.Errorf("the token is valid from %v to %v; want %v to %v", got.IssuedAt, got.ExpiresAt, want.IssuedAt, want.ExpiresAt)
	}
	got.IssuedAt, got.ExpiresAt, want.IssuedAt, want.ExpiresAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	if got.Active != want.Active || got.TokenType != want.TokenType || got.Scope != want.Scope || got.Username != want.Username ||
		got.Subject != want.Subject || got.TokenID != want.TokenID || got.SessionID != want.SessionID ||
		got.Issuer != want.Issuer || len(got.Audience) != len(want.Audience) {
		t.Errorf("the introspection is %+v; want %+v", got, want)
	}
}

func TestIntrospectionRevealsNothingAboutAnInvalidToken(t *testing.T) {
	f := newFixture(t, rotating)
	p, _ := f.verified("grace")
	nothing := func(what, text string) {
		t.Helper()
		t.Run(what, func(t *testing.T) { equalIntrospection(t, f.Introspect(text), identity.Introspection{}) })
	}
	session := f.signIn(p)
	for what, text := range bad(session.AccessToken) {
		nothing(what, text)
	}
	next := f.renew(session.RefreshToken)
	f.equal("within the grace the former refresh token is active", f.Introspect(session.RefreshToken).Active, true)
	f.pass(2 * time.Minute)
	nothing("the former refresh token after the grace", session.RefreshToken)
	f.equal("asking ends no session: the token is active", f.Introspect(next.RefreshToken).Active, true)
	f.ok(f.service.SignOut(t.Context(), next.RefreshToken))
	nothing("an access token that was signed out", next.AccessToken)
	nothing("a refresh token that was signed out", next.RefreshToken)

	suspended := f.signIn(p)
	f.ok(f.memory.Suspend(t.Context(), p.id, true))
	nothing("an access token of someone suspended", suspended.AccessToken)
	nothing("a refresh token of someone suspended", suspended.RefreshToken)
	f.ok(f.memory.Suspend(t.Context(), p.id, false))
	nothing("what a suspension ended, once it is lifted", suspended.AccessToken)
	suspended = f.signIn(p)
	f.pass(15 * time.Minute)
	nothing("an access token that has expired", suspended.AccessToken)
	f.pass(7 * day)
	nothing("a refresh token that has expired", suspended.RefreshToken)
}

func TestSuspensionEndsAllSessionsAtOnce(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	f.ok(f.memory.Suspend(t.Context(), p.id, true))
	f.equal("the session is alive", f.alive(tokens), false)
	f.fails(errOf(f.Renew(tokens.RefreshToken)), identity.Unauthenticated, endedSession)
}

func TestSessionsAreListedAndEndedByTheirUser(t *testing.T) {
	f := newFixture(t)
	p, first := f.verified("grace")
	f.verified("edsger")
	f.pass(time.Minute)
	const agent = "Mozilla/5.0 (X11; Linux x86_64)"
	second, err := f.tokens(f.service.SignIn(identity.WithCaller(t.Context(), identity.Caller{UserAgent: agent}), p.username, p.password))
	f.ok(err)
	firstID, secondID := f.Introspect(first.AccessToken).SessionID, f.Introspect(second.AccessToken).SessionID
	f.store.take()
	sessions := must(f.service.Sessions(t.Context(), first.AccessToken))(f)
	f.equal("calls of the store", f.store.take(), "FindOwnSessions")
	want := []identity.OwnSession{
		{ID: secondID, OpenedAt: start.Add(time.Minute), RefreshedAt: start.Add(time.Minute),
			ExpiresAt: start.Add(7*day + time.Minute), UserAgent: agent},
		{ID: firstID, OpenedAt: start, RefreshedAt: start, ExpiresAt: start.Add(7 * day), Current: true},
	}
	if !slices.Equal(sessions, want) {
		t.Errorf("got\n%+v, want\n%+v", sessions, want)
	}

	f.store.take()
	f.ok(f.service.EndSession(t.Context(), first.AccessToken, secondID))
	f.equal("calls of the store", f.store.take(), "EndOwnSession")
	f.equal("the session that was ended is alive", f.alive(second), false)
	f.equal("the one that ended it is alive", f.alive(first), true)
	f.ok(f.service.EndSession(t.Context(), first.AccessToken, firstID)) // ends itself
	f.equal("the session that ended itself is alive", f.alive(first), false)
	f.equal("endings audited", f.audited("session ended"), 2)
	f.equal("endings counted", f.service.Stats().SessionsEnded, uint64(2))
	f.fails(f.service.EndSession(t.Context(), first.AccessToken, secondID), identity.Unauthenticated, endedSession)
	f.fails(errOf(f.service.Sessions(t.Context(), first.AccessToken)), identity.Unauthenticated, endedSession)
}

func TestSessionsOfOthersLookLikeEndedOnes(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	_, others := f.verified("edsger")
	gone := f.signIn(p)
	goneID := f.Introspect(gone.AccessToken).SessionID
	f.ok(f.service.SignOut(t.Context(), gone.RefreshToken))
	before := f.audit.String()
	for _, id := range []string{f.Introspect(others.AccessToken).SessionID, goneID, "6f1c1f0e-3d52-4d0a-9a57-0f6b6f3a9d11", "", "no id"} {
		f.fails(f.service.EndSession(t.Context(), tokens.AccessToken, id), identity.NotFound, noSession)
	}
	f.equal("the session of the other user is alive", f.alive(others), true)
	f.equal("audit trail", f.audit.String(), before)
}

func TestSessionsAreListedWithTheScopeProfileAndEndedWithAny(t *testing.T) {
	f := newFixture(t)
	in := signUpOf("grace")
	in.Scope = "email"
	code := must(f.SignUp(in))(f)
	tokens := must(f.VerifyUser(code.Text))(f)
	f.fails(errOf(f.service.Sessions(t.Context(), tokens.AccessToken)), identity.Forbidden, `the token lacks the scope "profile"`)
	f.ok(f.service.EndSession(t.Context(), tokens.AccessToken, f.Introspect(tokens.AccessToken).SessionID))
}

func TestSessionsKeepABoundedUserAgent(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	for sent, kept := range map[string]string{
		"":                                "",
		"curl/8.5.0":                      "curl/8.5.0",
		"a\r\nb\x00c\x1b[31m\u202ed\xffe": "abc[31mde",
		"Größe":                           "Größe",
		strings.Repeat("a", 1000):         strings.Repeat("a", 256),
		"a" + strings.Repeat("é", 500):    "a" + strings.Repeat("é", 127),
	} {
		_, err := f.tokens(f.service.SignIn(identity.WithCaller(t.Context(), identity.Caller{UserAgent: sent}), p.username, p.password))
		f.ok(err)
		sessions := must(f.service.Sessions(t.Context(), tokens.AccessToken))(f)
		found := slices.ContainsFunc(sessions, func(o identity.OwnSession) bool { return o.UserAgent == kept && !o.Current })
		if !found {
			t.Errorf("%.20q is not stored as %.20q: %+v", sent, kept, sessions)
		}
	}
}
