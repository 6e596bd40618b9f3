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

func TestBeforeHalfOfItsLifeARefreshTokenIsKeptAndNothingIsWritten(t *testing.T) {
	w := newWorld(t)
	_, first := w.verified("grace")
	w.store.take()
	w.pass(3*day + 12*time.Hour)
	next := w.renew(first.RefreshToken)
	w.equal("calls of the store", w.store.take(), "FindSession")
	w.equal("the refresh token is kept", next.RefreshToken == first.RefreshToken, true)
	w.equal("time left of the refresh token", next.RefreshExpiresIn, 3*day+12*time.Hour)
	w.equal("lifetime of the access token", next.ExpiresIn, 15*time.Minute)
	w.equal("the access token differs", next.AccessToken != first.AccessToken, true)
	w.equal("renewals", w.service.Stats().SessionsRenewed, uint64(1))
}

func TestPastHalfOfItsLifeARefreshTokenIsRenewedByOneWrite(t *testing.T) {
	w := newWorld(t)
	_, first := w.verified("grace")
	w.store.take()
	w.pass(3*day + 12*time.Hour + time.Second)
	next := w.renew(first.RefreshToken)
	w.equal("calls of the store", w.store.take(), "AdvanceSession")
	w.equal("the refresh token differs", next.RefreshToken != first.RefreshToken, true)
	w.equal("lifetime of the refresh token", next.RefreshExpiresIn, 7*day)
	w.equal("the session is alive", w.alive(next), true)
}

func TestWhereRotationIsAlwaysEachRenewalMakesARefreshToken(t *testing.T) {
	w := newWorld(t, rotating)
	_, tokens := w.verified("grace")
	seen := map[string]bool{tokens.RefreshToken: true}
	for range 5 {
		w.store.take()
		tokens = w.renew(tokens.RefreshToken)
		w.equal("calls of the store", w.store.take(), "AdvanceSession")
		w.equal("the refresh token was issued before", seen[tokens.RefreshToken], false)
		seen[tokens.RefreshToken] = true
	}
}

func TestWithinTheGraceTheSameSuccessorIsAnsweredByEveryReplica(t *testing.T) {
	w := newWorld(t, rotating)
	_, first := w.verified("grace")
	next := w.renew(first.RefreshToken)
	for range 3 {
		w.pass(20 * time.Second)        // the retry does not extend the grace
		w.service = w.replica(w.hasher) // another replica knows only the store's data
		again := w.renew(first.RefreshToken)
		w.equal("the successor is byte for byte the same", again.RefreshToken == next.RefreshToken, true)
		w.equal("the access token differs", again.AccessToken != next.AccessToken, true)
		w.equal("time left of the refresh token", again.RefreshExpiresIn, 7*day-w.Now().Sub(start))
		w.equal("the session is alive", w.alive(again), true)
	}
	w.equal("sessions ended by reuse", w.service.Stats().SessionsReused, uint64(0))
}

func TestRacingRenewalsHaveOneSuccessor(t *testing.T) {
	w := newWorld(t, rotating)
	_, first := w.verified("grace")
	got := make([]identity.Tokens, 20)
	errs := make([]error, len(got))
	var tabs sync.WaitGroup
	for i := range got {
		tabs.Go(func() { got[i], errs[i] = w.service.Renew(t.Context(), first.RefreshToken) })
	}
	tabs.Wait()
	for i := range got {
		w.ok(errs[i])
		w.equal("the successor is the same for all", got[i].RefreshToken == got[0].RefreshToken, true)
	}
	w.renew(got[0].RefreshToken)
}

func TestARefreshTokenUsedAgainAfterTheGraceEndsItsSessionAndNoOther(t *testing.T) {
	w := newWorld(t, rotating)
	p, first := w.verified("grace")
	other := w.signIn(p)
	next := w.renew(first.RefreshToken)
	w.pass(time.Minute + time.Second)
	w.fails(errOf(w.Renew(first.RefreshToken)), identity.Unauthenticated, endedSession)
	w.equal("the session is alive", w.alive(next), false)
	w.equal("the other session is alive", w.alive(other), true)
	w.fails(errOf(w.Renew(next.RefreshToken)), identity.Unauthenticated, endedSession)
	w.equal("sessions ended by reuse", w.service.Stats().SessionsReused, uint64(1))
	w.equal("reuses audited", w.audited("refresh token reused: session ended"), 1)
	// An ended session is not counted again.
	w.fails(errOf(w.Renew(first.RefreshToken)), identity.Unauthenticated, endedSession)
	w.equal("sessions ended by reuse", w.service.Stats().SessionsReused, uint64(1))
}

func TestAReuseOfWhatEndsAtTheSameMomentIsCountedOnce(t *testing.T) {
	w := newWorld(t, rotating)
	_, first := w.verified("grace")
	w.renew(first.RefreshToken)
	w.pass(time.Hour)
	w.store.before["EndSession"] = func() { _, _ = w.Renew(first.RefreshToken) }
	w.fails(errOf(w.Renew(first.RefreshToken)), identity.Unauthenticated, endedSession)
	w.equal("sessions ended by reuse", w.service.Stats().SessionsReused, uint64(1))
	w.equal("reuses audited", w.audited("refresh token reused: session ended"), 1)
}

func TestAnOlderGenerationEndsTheSessionEvenWithinTheGrace(t *testing.T) {
	w := newWorld(t, rotating)
	_, first := w.verified("grace")
	second := w.renew(first.RefreshToken)
	third := w.renew(second.RefreshToken)
	w.fails(errOf(w.Renew(first.RefreshToken)), identity.Unauthenticated, endedSession)
	w.equal("the session is alive", w.alive(third), false)
	w.equal("sessions ended by reuse", w.service.Stats().SessionsReused, uint64(1))
}

func TestARenewalThatFailedCostsNothing(t *testing.T) {
	w := newWorld(t, rotating)
	_, first := w.verified("grace")
	away := &identity.Error{Kind: identity.Unavailable, Message: "the database is away"}
	w.memory.Break(away)
	w.fails(errOf(w.Renew(first.RefreshToken)), identity.Unavailable, "the database is away")
	w.memory.Break(nil)
	w.renew(first.RefreshToken)
}

func TestNoRenewalOutlivesTheSession(t *testing.T) {
	for _, change := range []func(*identity.Policy){rotating, func(*identity.Policy) {}} {
		w := newWorld(t, change)
		_, tokens := w.verified("grace")
		for range 9 {
			w.pass(3 * day)
			tokens = w.renew(tokens.RefreshToken)
		}
		w.equal("time left three days before the end", tokens.RefreshExpiresIn, 3*day)
		w.pass(3*day - 5*time.Minute)
		tokens = w.renew(tokens.RefreshToken)
		w.equal("time left of the refresh token, five minutes before the end", tokens.RefreshExpiresIn, 5*time.Minute)
		w.equal("time left of the access token", tokens.ExpiresIn, 5*time.Minute)
		w.pass(5*time.Minute - time.Second)
		tokens = w.renew(tokens.RefreshToken)
		w.equal("time left in the last second", tokens.ExpiresIn, time.Second)
		w.equal("the session is alive", w.alive(tokens), true)
		w.pass(time.Second)
		w.equal("the session is alive", w.alive(tokens), false)
		w.fails(errOf(w.Renew(tokens.RefreshToken)), identity.Unauthenticated, expiredToken)
	}
}

func TestWhereASessionIsShorterThanARefreshTokenBothEndTogether(t *testing.T) {
	w := newWorld(t, func(p *identity.Policy) { p.SessionLifetime = 10 * time.Minute })
	_, tokens := w.verified("grace")
	w.equal("lifetime of the refresh token", tokens.RefreshExpiresIn, 10*time.Minute)
	w.equal("lifetime of the access token", tokens.ExpiresIn, 10*time.Minute)
	w.pass(10*time.Minute - time.Second)
	w.renew(tokens.RefreshToken)
	w.pass(time.Second)
	w.equal("the session is alive", w.alive(tokens), false)
}

func TestARefreshTokenThatIsNotRenewedExpires(t *testing.T) {
	w := newWorld(t)
	_, tokens := w.verified("grace")
	w.pass(7 * day)
	w.fails(errOf(w.Renew(tokens.RefreshToken)), identity.Unauthenticated, expiredToken)
}

func TestARenewalIsNeverWiderThanWhatTheUserStillHas(t *testing.T) {
	for _, c := range []struct{ what, now, want string }{
		{"narrowed", "email", "email"},
		{"widened", "profile email admin", "profile email"},
		{"replaced", "admin", ""},
	} {
		for _, change := range []func(*identity.Policy){rotating, func(*identity.Policy) {}} {
			t.Run(c.what, func(t *testing.T) {
				w := newWorld(t, change)
				p, tokens := w.verified("grace")
				w.memory.SetScope(p.id, c.now)
				next := w.renew(tokens.RefreshToken)
				w.equal("the scope", next.Scope, c.want)
				w.equal("the scope of the access token", w.Introspect(next.AccessToken).Scope, c.want)
				w.equal("the scope of the refresh token", w.Introspect(next.RefreshToken).Scope, c.want)
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

func TestWhatIsNoRefreshTokenRenewsNothing(t *testing.T) {
	w := newWorld(t)
	_, tokens := w.verified("grace")
	candidates := bad(tokens.RefreshToken)
	candidates["an access token"] = tokens.AccessToken
	w.store.take()
	for what, text := range candidates {
		if _, err := w.Renew(text); identity.KindOf(err) != identity.Unauthenticated {
			t.Errorf("%s: %v", what, err)
		}
		if err := w.service.SignOut(t.Context(), text); identity.KindOf(err) != identity.Unauthenticated {
			t.Errorf("%s, signing out: %v", what, err)
		}
	}
	w.equal("calls of the store", w.store.take(), "")
	w.equal("the session is alive", w.alive(tokens), true)
}

func TestWhatIsNoAccessTokenOpensNoRoute(t *testing.T) {
	w := newWorld(t)
	_, tokens := w.verified("grace")
	name := "x"
	candidates := bad(tokens.AccessToken)
	candidates["a refresh token"] = tokens.RefreshToken
	w.pass(time.Second)
	expired := tokens.AccessToken
	try := func(what, text string) {
		for route, do := range map[string]func() error{
			"Profile": func() error { _, err := w.Profile(text); return err },
			"UpdateProfile": func() error {
				_, err := w.service.UpdateProfile(t.Context(), text, identity.ProfileUpdate{FirstName: &name})
				return err
			},
			"DeleteUser":         func() error { return w.service.DeleteUser(t.Context(), text) },
			"ChangePassword":     func() error { return w.ChangePassword(text, password, "another of mine") },
			"RequestEmailChange": func() error { _, err := w.RequestEmailChange(text, ""); return err },
			"ChangeEmail":        func() error { return errOf(w.ChangeEmail(text, strings.Repeat("A", 26), "new@mail.example")) },
		} {
			w.store.take()
			if err := do(); identity.KindOf(err) != identity.Unauthenticated || w.store.take() != "" {
				t.Errorf("%s with %s: %v", route, what, err)
			}
		}
	}
	for what, text := range candidates {
		try(what, text)
	}
	w.pass(15 * time.Minute)
	try("an expired one", expired)
}

func TestSigningOutEndsTheSessionAtOnceAndAsOftenAsYouLike(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	other := w.signIn(p)
	for range 3 {
		w.ok(w.service.SignOut(t.Context(), tokens.RefreshToken))
	}
	w.equal("the session is alive", w.alive(tokens), false)
	w.equal("the other session is alive", w.alive(other), true)
	w.fails(errOf(w.Renew(tokens.RefreshToken)), identity.Unauthenticated, endedSession)
	w.equal("sessions ended", w.service.Stats().SessionsEnded, uint64(1))
	w.equal("sign-outs audited", w.audited("signed out"), 1)
}

func TestSigningOutTakesWhatIsGenuineHoweverOld(t *testing.T) {
	w := newWorld(t, rotating)
	_, first := w.verified("grace")
	next := w.renew(w.renew(first.RefreshToken).RefreshToken)
	w.pass(6 * day)
	next = w.renew(next.RefreshToken)
	w.pass(2 * day) // the first token has expired, but not its session
	w.ok(w.service.SignOut(t.Context(), first.RefreshToken))
	w.fails(errOf(w.Renew(next.RefreshToken)), identity.Unauthenticated, endedSession)
}

func TestIntrospectionTellsWhatATokenIs(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	w.pass(time.Minute)

	access := w.Introspect(tokens.AccessToken)
	w.equal("the audience of the access token", strings.Join(access.Audience, " "), "https://api.example")
	w.equal("the session", access.SessionID != "", true)
	session := access.SessionID
	w.equal("the access token has an id", access.TokenID != "", true)
	access.Audience, access.TokenID = nil, ""
	want := identity.Introspection{
		Active: true, TokenType: "access_token", Scope: "profile email", Username: "grace", Subject: p.id,
		SessionID: session, ClientID: issuer, Issuer: issuer, IssuedAt: start, ExpiresAt: start.Add(15 * time.Minute),
	}
	equalIntrospection(t, access, want)

	refresh := w.Introspect(tokens.RefreshToken)
	w.equal("the audience of the refresh token", strings.Join(refresh.Audience, " "), issuer)
	w.equal("the id of the refresh token", refresh.TokenID, session+".0")
	refresh.Audience, refresh.TokenID = nil, ""
	want.TokenType, want.ExpiresAt = "refresh_token", start.Add(7*day)
	equalIntrospection(t, refresh, want)
}

func TestIntrospectionHasNoLeeway(t *testing.T) {
	w := newWorld(t)
	w.leeway = 10 * time.Second
	w.service = w.replica(w.hasher)
	_, tokens := w.verified("grace")
	for _, c := range []struct {
		what, token string
		lives       time.Duration
	}{
		{what: "an access token", token: tokens.AccessToken, lives: 15 * time.Minute},
		{what: "a refresh token", token: tokens.RefreshToken, lives: 7 * day},
	} {
		w.pass(start.Add(c.lives - time.Nanosecond).Sub(w.Now()))
		w.equal(c.what+" is active before its end", w.Introspect(c.token).Active, true)
		w.pass(time.Nanosecond)
		equalIntrospection(t, w.Introspect(c.token), identity.Introspection{})
	}
}

func TestIntrospectionShowsTheScopeAsItIsNow(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	for _, c := range []struct{ now, want string }{
		{"profile email admin", "profile email"}, {"email", "email"}, {"admin", ""}, {"profile email", "profile email"},
	} {
		w.memory.SetScope(p.id, c.now)
		w.equal("of an access token, the scope", w.Introspect(tokens.AccessToken).Scope, c.want)
		w.equal("of a refresh token, the scope", w.Introspect(tokens.RefreshToken).Scope, c.want)
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

func TestIntrospectionTellsNothingOfWhatDoesNotHold(t *testing.T) {
	w := newWorld(t, rotating)
	p, _ := w.verified("grace")
	nothing := func(what, text string) {
		t.Helper()
		t.Run(what, func(t *testing.T) { equalIntrospection(t, w.Introspect(text), identity.Introspection{}) })
	}
	session := w.signIn(p)
	for what, text := range bad(session.AccessToken) {
		nothing(what, text)
	}
	next := w.renew(session.RefreshToken)
	w.equal("within the grace the former refresh token is active", w.Introspect(session.RefreshToken).Active, true)
	w.pass(2 * time.Minute)
	nothing("the former refresh token after the grace", session.RefreshToken)
	w.equal("asking ends no session: the token is active", w.Introspect(next.RefreshToken).Active, true)
	w.ok(w.service.SignOut(t.Context(), next.RefreshToken))
	nothing("an access token that was signed out", next.AccessToken)
	nothing("a refresh token that was signed out", next.RefreshToken)

	suspended := w.signIn(p)
	w.ok(w.memory.Suspend(t.Context(), p.id, true))
	nothing("an access token of someone suspended", suspended.AccessToken)
	nothing("a refresh token of someone suspended", suspended.RefreshToken)
	w.ok(w.memory.Suspend(t.Context(), p.id, false))
	nothing("what a suspension ended, once it is lifted", suspended.AccessToken)
	suspended = w.signIn(p)
	w.pass(15 * time.Minute)
	nothing("an access token that has expired", suspended.AccessToken)
	w.pass(7 * day)
	nothing("a refresh token that has expired", suspended.RefreshToken)
}

func TestSomeoneSuspendedIsOutAtOnce(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	w.ok(w.memory.Suspend(t.Context(), p.id, true))
	w.equal("the session is alive", w.alive(tokens), false)
	w.fails(errOf(w.Renew(tokens.RefreshToken)), identity.Unauthenticated, endedSession)
}

func TestAPersonSeesTheirSessionsAndEndsThem(t *testing.T) {
	w := newWorld(t)
	p, first := w.verified("grace")
	w.verified("edsger")
	w.pass(time.Minute)
	const agent = "Mozilla/5.0 (X11; Linux x86_64)"
	second, err := w.tokens(w.service.SignIn(identity.WithCaller(t.Context(), identity.Caller{UserAgent: agent}), p.username, p.password))
	w.ok(err)
	firstID, secondID := w.Introspect(first.AccessToken).SessionID, w.Introspect(second.AccessToken).SessionID
	w.store.take()
	sessions := must(w.service.Sessions(t.Context(), first.AccessToken))(w)
	w.equal("calls of the store", w.store.take(), "FindOwnSessions")
	want := []identity.OwnSession{
		{ID: secondID, OpenedAt: start.Add(time.Minute), RefreshedAt: start.Add(time.Minute),
			ExpiresAt: start.Add(7*day + time.Minute), UserAgent: agent},
		{ID: firstID, OpenedAt: start, RefreshedAt: start, ExpiresAt: start.Add(7 * day), Current: true},
	}
	if !slices.Equal(sessions, want) {
		t.Errorf("got\n%+v, want\n%+v", sessions, want)
	}

	w.store.take()
	w.ok(w.service.EndSession(t.Context(), first.AccessToken, secondID))
	w.equal("calls of the store", w.store.take(), "EndOwnSession")
	w.equal("the session that was ended is alive", w.alive(second), false)
	w.equal("the one that ended it is alive", w.alive(first), true)
	w.ok(w.service.EndSession(t.Context(), first.AccessToken, firstID)) // ends itself
	w.equal("the session that ended itself is alive", w.alive(first), false)
	w.equal("endings audited", w.audited("session ended"), 2)
	w.equal("endings counted", w.service.Stats().SessionsEnded, uint64(2))
	w.fails(w.service.EndSession(t.Context(), first.AccessToken, secondID), identity.Unauthenticated, endedSession)
	w.fails(errOf(w.service.Sessions(t.Context(), first.AccessToken)), identity.Unauthenticated, endedSession)
}

func TestSomebodyElsesSessionAndOneThatHasEndedAreTheSame(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	_, others := w.verified("edsger")
	gone := w.signIn(p)
	goneID := w.Introspect(gone.AccessToken).SessionID
	w.ok(w.service.SignOut(t.Context(), gone.RefreshToken))
	before := w.audit.String()
	for _, id := range []string{w.Introspect(others.AccessToken).SessionID, goneID, "6f1c1f0e-3d52-4d0a-9a57-0f6b6f3a9d11", "", "no id"} {
		w.fails(w.service.EndSession(t.Context(), tokens.AccessToken, id), identity.NotFound, noSession)
	}
	w.equal("the session of the other user is alive", w.alive(others), true)
	w.equal("audit trail", w.audit.String(), before)
}

func TestSessionsAreSeenWithTheScopeProfileAndEndedWithAny(t *testing.T) {
	w := newWorld(t)
	in := signUpOf("grace")
	in.Scope = "email"
	code := must(w.SignUp(in))(w)
	tokens := must(w.VerifyUser(code.Text))(w)
	w.fails(errOf(w.service.Sessions(t.Context(), tokens.AccessToken)), identity.Forbidden, `the token lacks the scope "profile"`)
	w.ok(w.service.EndSession(t.Context(), tokens.AccessToken, w.Introspect(tokens.AccessToken).SessionID))
}

func TestWhatAClientCallsItselfIsKeptAsTextOfABoundedSize(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	for sent, kept := range map[string]string{
		"":                                "",
		"curl/8.5.0":                      "curl/8.5.0",
		"a\r\nb\x00c\x1b[31m\u202ed\xffe": "abc[31mde",
		"Größe":                           "Größe",
		strings.Repeat("a", 1000):         strings.Repeat("a", 256),
		"a" + strings.Repeat("é", 500):    "a" + strings.Repeat("é", 127),
	} {
		_, err := w.tokens(w.service.SignIn(identity.WithCaller(t.Context(), identity.Caller{UserAgent: sent}), p.username, p.password))
		w.ok(err)
		sessions := must(w.service.Sessions(t.Context(), tokens.AccessToken))(w)
		found := slices.ContainsFunc(sessions, func(o identity.OwnSession) bool { return o.UserAgent == kept && !o.Current })
		if !found {
			t.Errorf("%.20q is not stored as %.20q: %+v", sent, kept, sessions)
		}
	}
}
