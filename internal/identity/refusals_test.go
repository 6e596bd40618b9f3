package identity_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// entry is an entry of the audit trail for a refusal.
type entry struct {
	name            identity.EventName
	user, session   string
	detail, because string // key and value of the detail besides tries
	tries           int64
}

// refusals returns the refusals recorded in the audit trail since the last call.
func (w *world) refusals() (entries []entry) {
	w.Helper()
	events := must(w.memory.Events(w.Context()))(w)
	for _, e := range events[w.seen:] {
		switch e.Name {
		case identity.EventPasswordThrottled, identity.EventSignInRefused, identity.EventCodeRefused, identity.EventLimitExceeded:
		default:
			continue
		}
		got := entry{name: e.Name, user: e.UserID, session: e.SessionID}
		for _, d := range e.Details {
			if d.Key == "tries" {
				got.tries = d.Value.Int64()
			} else {
				got.detail, got.because = d.Key, fmt.Sprint(d.Value)
			}
		}
		entries = append(entries, got)
	}
	w.seen = len(events)
	return entries
}

// trail fails the test unless exactly these refusals were recorded since the last call.
func (w *world) trail(want ...entry) {
	w.Helper()
	got := w.refusals()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.Errorf("the refusals in the trail are\n%+v; want\n%+v", got, want)
	}
}

func TestTriesThatTheThrottleRefusesAreInTheTrailOnceAMinute(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	known := entry{identity.EventPasswordThrottled, p.id, "", "failures", "10", 1}
	unknown := known
	unknown.user = ""
	var asked [2]string
	for i, c := range []struct {
		login string
		want  entry
	}{{p.username, known}, {"nobody", unknown}} {
		w.fail(c.login, 10)
		w.refusals()
		w.store.take()
		for range 100 {
			w.equal("the kind", identity.KindOf(errOf(w.SignIn(c.login, password))), identity.RateLimited)
		}
		w.trail(c.want)
		asked[i] = w.store.take()
	}
	if asked[0] != asked[1] || strings.Count(asked[0], "RecordEvent") != 1 {
		t.Errorf("the calls of the store differ:\n%s and\n%s", asked[0], asked[1])
	}
	w.equal("refused", w.service.Refused(identity.RefusedThrottled), uint64(200))
}

func TestAnEntryOfTheTrailSaysHowManyRefusalsItStandsFor(t *testing.T) {
	w := newWorld(t, limiting)
	w.admits(1, identity.LimitCodes, "192.0.2.1") // which also has one more request refused
	want := entry{name: identity.EventLimitExceeded, detail: "limit", because: "codes", tries: 1}
	w.trail(want)
	for range 41 {
		w.equal("the kind", identity.KindOf(errOf(w.service.Admit(from("192.0.2.1"), identity.LimitCodes))), identity.RateLimited)
	}
	w.trail()
	w.pass(time.Minute)
	w.equal("the kind", identity.KindOf(errOf(w.service.Admit(from("192.0.2.1"), identity.LimitCodes))), identity.RateLimited)
	want.tries = 42
	w.trail(want)
	w.admits(1, identity.LimitCodes, "192.0.2.2") // another network has its own entry
	want.tries = 1
	w.trail(want)
	w.admits(3, identity.LimitSignIn, "192.0.2.2") // and so has another limit
	want.because = "signin"
	w.trail(want)
}

func TestARefusalIsRefusedWhetherOrNotTheTrailCanBeWritten(t *testing.T) {
	w := newWorld(t, limiting)
	w.store.before["RecordEvent"] = func() { w.memory.Break(&identity.Error{Kind: identity.Unavailable, Message: "away"}) }
	w.admits(1, identity.LimitCodes, "192.0.2.1")
	w.memory.Break(nil)
	w.equal("lines of the log", w.audited("limit exceeded"), 1)
	w.audit.Reset() // the table does not have the event
}

func TestWrongCodesAreInTheTrail(t *testing.T) {
	w := newWorld(t)
	_, tokens := w.verified("grace")
	session := w.Introspect(tokens.AccessToken)
	unknown := strings.Repeat("A", 26)
	w.refusals()
	for _, c := range []struct {
		purpose identity.Purpose
		try     func(code string) error
		user    bool
	}{
		{identity.Verification, func(code string) error { _, err := w.VerifyUser(code); return err }, false},
		{identity.Recovery, func(code string) error { return w.ResetPassword(code, "", another) }, false},
		{identity.EmailChange, func(code string) error {
			_, err := w.ChangeEmail(tokens.AccessToken, code, "new@mail.example")
			return err
		}, true},
	} {
		want := entry{name: identity.EventCodeRefused, detail: "purpose", because: string(c.purpose), tries: 1}
		if c.user {
			want.user, want.session = session.Subject, session.SessionID
		}
		for range 3 {
			w.fails(c.try(unknown), identity.Invalid, wrongCode)
		}
		w.trail(want)
		w.fails(c.try("no code at all"), identity.Invalid, wrongCode)
		w.trail()
	}
	w.equal("wrong codes", w.service.Refused(identity.RefusedCode), uint64(9))
}

func TestARightPasswordThatOpensNothingIsInTheTrail(t *testing.T) {
	w := newWorld(t)
	unverified, _ := w.unverified("edsger")
	w.fails(errOf(w.SignIn(unverified.username, unverified.password)), identity.Forbidden, notVerified)
	w.trail(entry{identity.EventSignInRefused, unverified.id, "", "reason", "not_verified", 1})

	p, tokens := w.verified("grace")
	w.store.before["OpenSession"] = func() { w.ok(w.ChangePassword(tokens.AccessToken, p.password, another)) }
	w.fails(errOf(w.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	w.trail(entry{identity.EventSignInRefused, p.id, "", "reason", "stale", 1})

	w.store.before["FindPassword"] = func() {
		w.store.before["FindPassword"] = func() { w.failSilently(p) }
	}
	w.fails(w.ChangePassword(tokens.AccessToken, another, "a third of mine"), identity.Unauthenticated, wrongOld)
	w.trail(entry{identity.EventPasswordThrottled, p.id, "", "failures", "10", 1})
}

// failSilently counts ten failures of strangers directly in the store.
func (w *world) failSilently(p person) {
	c := must(w.memory.FindCredentials(w.Context(), identity.Login{CanonicalUsername: p.username}))(w)
	for range 10 {
		w.ok(w.memory.CountFailure(w.Context(), c.ThrottleKey, identity.Event{}))
	}
}
