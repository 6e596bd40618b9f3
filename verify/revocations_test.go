package verify_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/verify"
	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

const lag = verify.MaxLag(30 * time.Second)

func session(id string) verifytest.TokenOption { return verifytest.Claim("sid", id) }

func TestAnEndedSessionIsRefused(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verifytest.CallerKey("secret"))
	for i := range 2500 { // three pages
		issuer.End(fmt.Sprint("before ", i))
	}
	feed := verify.Feed{URL: issuer.URL(), CallerKey: "secret"}
	v := open(t, issuer.Source(), verify.WithRevocations(feed, lag, verify.FailClosed), verify.Cache(100))
	if err := v.Wait(background); err != nil {
		t.Fatal(err)
	}
	if s := v.Stats(); s.Ended != 2500 || !s.LagOK || s.Lag < 0 || s.Lag > 10*time.Second {
		t.Errorf("%+v", s)
	}
	ended := issuer.Token(session("before 1234"))
	_, err := v.Verify(background, ended)
	refused(t, err, ended, verify.ErrEnded, verify.ReasonSessionEnded, "signed out")
	if status, challenge := v.Challenge(err); status != 401 || !strings.Contains(challenge, `"The session has ended."`) {
		t.Errorf("%d %s", status, challenge)
	}
	token := issuer.Token(session("now"))
	if _, err := v.Verify(background, token); err != nil {
		t.Fatal(err)
	}
	issuer.End("now")
	eventually(t, "an ended session is refused, although its token is cached", func() bool {
		_, err := v.Verify(background, token)
		return errors.Is(err, verify.ErrEnded)
	})
	if _, err := v.Verify(background, issuer.Token(session("other"))); err != nil {
		t.Error(err)
	}
	without := issuer.Token(verifytest.Without("sid"))
	_, err = v.Verify(background, without)
	refused(t, err, without, verify.ErrClaims, verify.ReasonMissingClaim, "no claim sid")

	// A revoked key is refused before the source is read again.
	byOldKey := issuer.Token(session("third"))
	issuer.Revoke(issuer.KeyID())
	eventually(t, "a revoked key is refused", func() bool {
		_, err := v.Verify(background, byOldKey)
		return errors.Is(err, verify.ReasonKeyRevoked)
	})
	if _, err := v.Verify(background, issuer.Token(session("fourth"))); err != nil {
		t.Error("the successor of a revoked key is not accepted:", err)
	}
}

func TestTheModeDecidesAboutAnOutage(t *testing.T) {
	clock := newClock()
	issuer := verifytest.NewIssuer(t, verifytest.Clock(clock.now))
	feed := verify.Feed{URL: issuer.URL()}
	closed := open(t, issuer.Source(), verify.Clock(clock.now), verify.WithRevocations(feed, lag, verify.FailClosed))
	if err := closed.Wait(background); err != nil {
		t.Fatal(err)
	}
	never := verify.Feed{URL: "http://127.0.0.1:1"}
	fresh := open(t, issuer.Source(), verify.WithRevocations(never, lag, verify.FailClosed))
	opened := open(t, issuer.Source(), verify.WithRevocations(never, lag, verify.FailOpen))
	token := issuer.Token()
	_, err := fresh.Verify(background, token)
	refused(t, err, token, verify.ErrUnavailable, verify.ReasonStaleRevocations, "has not been received yet")
	if status, _ := fresh.Challenge(err); status != 503 || fresh.Ready() == nil {
		t.Error("the service counts as ready")
	}
	if _, err := opened.Verify(background, token); err != nil || opened.Ready() != nil {
		t.Error(err)
	}
	if s := opened.Stats(); s.LagOK || s.Lag != -1 {
		t.Errorf("%+v", s)
	}

	issuer.Outage(true)
	eventually(t, "the outage is noticed", func() bool { return issuer.Requests("/sessions/ended") > 2 })
	clock.advance(31 * time.Second)
	token = issuer.Token()
	_, err = closed.Verify(background, token)
	refused(t, err, token, verify.ErrUnavailable, verify.ReasonStaleRevocations, "31 seconds old, longer than MaxLag (30s)")

	// After an hour the consumer catches up with its cursor, and nothing that ended meanwhile is lost.
	for i := range 3000 {
		issuer.End(fmt.Sprint("meanwhile ", i))
	}
	issuer.Outage(false)
	if err := closed.Wait(background); err != nil {
		t.Fatal(err)
	}
	if n := closed.Stats().Ended; n != 3000 {
		t.Errorf("%d sessions, want 3000", n)
	}
}

// script is a server that answers with prepared answers, and then with empty ones.
type script struct {
	*httptest.Server

	mu      sync.Mutex
	answers []answer
	queries []string
	times   []time.Time
}

type answer struct {
	status     int
	retryAfter string
	body       string
}

func newScript(t *testing.T, answers ...answer) *script {
	s := &script{answers: answers}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.queries, s.times = append(s.queries, r.URL.RawQuery), append(s.times, time.Now())
		next := answer{status: 200, body: `{"ended":[],"next":"end","more":false}`}
		empty := len(s.answers) == 0
		if !empty {
			next, s.answers = s.answers[0], s.answers[1:]
		}
		s.mu.Unlock()
		if empty && r.URL.Query().Get("wait") != "0" {
			<-r.Context().Done()
			return
		}
		if next.retryAfter != "" {
			w.Header().Set("Retry-After", next.retryAfter)
		}
		w.WriteHeader(next.status)
		_, _ = w.Write([]byte(next.body))
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *script) asked() ([]string, []time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.queries), slices.Clone(s.times)
}

func TestTheFeedIsFollowedByItsCursor(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	until := time.Now().Add(time.Hour).Unix()
	entry := func(kind, id string) string {
		return fmt.Sprintf(`{"kind":%q,"id":%q,"until":%d,"new":1}`, kind, id, until)
	}
	s := newScript(t,
		answer{200, "", `{"next":"a b&c","more":true,"ended":[` + entry("sid", "1") + `,` + entry("sub", "x") + `],"new":{"a":[1]}}`},
		answer{200, "", `{"ended":[` + entry("sid", "2") + `],"more":false`}, // truncated
		answer{200, "", `{"ended":[` + entry("sid", "2") + `],"next":"d","more":false}`},
		answer{410, "", `gone`},
		answer{503, "1", ``},
		answer{200, "", `{"ended":[` + entry("sid", "3") + `],"next":"e","more":false}`},
	)
	v := open(t, issuer.Source(), verify.WithRevocations(verify.Feed{URL: s.URL}, lag, verify.FailClosed))
	eventually(t, "the script is played", func() bool { queries, _ := s.asked(); return len(queries) == 7 })
	queries, times := s.asked()
	want := []string{"wait=0", "after=a+b%26c&wait=0", "after=a+b%26c&wait=0", "after=d&wait=25", "wait=0", "wait=0", "after=e&wait=25"}
	if !slices.Equal(queries, want) {
		t.Errorf("the queries\n%q, want\n%q", queries, want)
	}
	if pause := times[5].Sub(times[4]); pause < time.Second {
		t.Errorf("Retry-After is not obeyed: asked again after %v", pause)
	}
	for id, ended := range map[string]bool{"1": true, "2": true, "3": true, "x": false, "4": false} {
		if _, err := v.Verify(background, issuer.Token(session(id))); (err != nil) != ended {
			t.Errorf("session %s: %v", id, err)
		}
	}
	if n := v.Stats().Ended; n != 3 {
		t.Errorf("%d sessions, want 3", n)
	}
}

// A leeway accepts tokens that have expired, so an ended session is known for longer than its last token.
func TestAnEndedSessionIsKnownForTheLeeway(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	entry := func(id string, ago time.Duration) string {
		return fmt.Sprintf(`{"kind":"sid","id":%q,"until":%d}`, id, time.Now().Add(-ago).Unix())
	}
	entries := entry("a minute", time.Minute) + "," + entry("three minutes", 3*time.Minute)
	s := newScript(t, answer{200, "", `{"ended":[` + entries + `],"next":"a","more":false}`})
	v := open(t, issuer.Source(), verify.WithRevocations(verify.Feed{URL: s.URL}, lag, verify.FailClosed))
	eventually(t, "what has expired is dropped", func() bool { queries, _ := s.asked(); return len(queries) == 2 })
	if _, err := v.Verify(background, issuer.Token(session("a minute"))); !errors.Is(err, verify.ErrEnded) {
		t.Error(err)
	}
	if n := v.Stats().Ended; n != 1 {
		t.Errorf("%d sessions are known; want 1", n)
	}
}

func TestAMalformedAnswerIsNotComplete(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	for _, tt := range []struct{ body, message string }{
		{`{"ended":[],"more":false}`, "no next"},
		{`[]`, "instead of {"},
		{`{"ended":{},"next":"a"}`, "instead of ["},
		{`{"ended":[{"kind":"sid","id":"a"}],"next":"a"}`, "no id or until"},
		{`{"ended":[{"kind":"sid","until":1}],"next":"a"}`, "no id or until"},
		{`<html>`, "cannot be read"},
	} {
		s := newScript(t, answer{200, "", tt.body}, answer{429, "300", ""})
		v := open(t, issuer.Source(), verify.WithRevocations(verify.Feed{URL: s.URL}, lag, verify.FailClosed))
		eventually(t, tt.body, func() bool {
			err := v.Ready()
			return err != nil && strings.Contains(err.Error(), tt.message)
		})
	}
	// A later page may have a session that has ended.
	part := newScript(t, answer{200, "", `{"ended":[],"next":"a","more":true}`}, answer{429, "300", ""})
	follows := open(t, issuer.Source(), verify.WithRevocations(verify.Feed{URL: part.URL}, lag, verify.FailClosed))
	eventually(t, "the first page is read", func() bool { queries, _ := part.asked(); return len(queries) == 2 })
	if _, err := follows.Verify(background, issuer.Token()); !errors.Is(err, verify.ErrUnavailable) || follows.Ready() == nil {
		t.Error("the first of several pages counts as the whole list:", err)
	}
	s := newScript(t, answer{401, "", ""}, answer{429, "300", ""})
	v := open(t, issuer.Source(), verify.WithRevocations(verify.Feed{URL: s.URL}, lag, verify.FailClosed))
	eventually(t, "a wrong key", func() bool {
		err := v.Ready()
		return err != nil && strings.Contains(err.Error(), "TRUSTED_CALLER_KEY")
	})
}
