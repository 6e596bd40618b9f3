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
func (f *fixture) refusals() (entries []entry) {
	f.Helper()
	events := must(f.memory.Events(f.Context()))(f)
	for _, e := range events[f.seen:] {
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
	f.seen = len(events)
	return entries
}

// trail fails the test unless exactly these refusals were recorded since the last call.
func (f *fixture) trail(want ...entry) {
	f.Helper()
	got := f.refusals()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		f.Errorf("the refusals in the trail are\n%+v; want\n%+v", got, want)
	}
}

func TestTrailHasThrottledAttemptsOnceAMinute(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	known := entry{identity.EventPasswordThrottled, p.id, "", "failures", "10", 1}
	unknown := known
	unknown.user = ""
	var asked [2]string
	for i, c := range []struct {
		login string
		want  entry
	}{{p.username, known}, {"nobody", unknown}} {
		f.fail(c.login, 10)
		f.refusals()
		f.store.take()
		for range 100 {
			f.equal("the kind", identity.KindOf(errOf(f.SignIn(c.login, password))), identity.RateLimited)
		}
		f.trail(c.want)
		asked[i] = f.store.take()
	}
	if asked[0] != asked[1] || strings.Count(asked[0], "RecordEvent") != 1 {
		t.Errorf("the calls of the store differ:\n%s and\n%s", asked[0], asked[1])
	}
	f.equal("refused", f.service.Refused(identity.RefusedThrottled), uint64(200))
}

func TestTrailEntryCountsTheRefusalsThatItStandsFor(t *testing.T) {
	f := newFixture(t, limiting)
	f.admits(1, identity.LimitCodes, "192.0.2.1") // which also has one more request refused
	want := entry{name: identity.EventLimitExceeded, detail: "limit", because: "codes", tries: 1}
	f.trail(want)
	for range 41 {
		f.equal("the kind", identity.KindOf(errOf(f.service.Admit(from("192.0.2.1"), identity.LimitCodes))), identity.RateLimited)
	}
	f.trail()
	f.pass(time.Minute)
	f.equal("the kind", identity.KindOf(errOf(f.service.Admit(from("192.0.2.1"), identity.LimitCodes))), identity.RateLimited)
	want.tries = 42
	f.trail(want)
	f.admits(1, identity.LimitCodes, "192.0.2.2") // another network has its own entry
	want.tries = 1
	f.trail(want)
	f.admits(3, identity.LimitSignIn, "192.0.2.2") // and so has another limit
	want.because = "signin"
	f.trail(want)
}

func TestTrailThatCannotBeWrittenChangesNoRefusal(t *testing.T) {
	f := newFixture(t, limiting)
	f.store.before["RecordEvent"] = func() { f.memory.Break(&identity.Error{Kind: identity.Unavailable, Message: "the database is down"}) }
	f.admits(1, identity.LimitCodes, "192.0.2.1")
	f.memory.Break(nil)
	f.equal("lines of the log", f.audited("limit exceeded"), 1)
	f.audit.Reset() // the table does not have the event
}

func TestTrailHasWrongCodes(t *testing.T) {
	f := newFixture(t)
	_, tokens := f.verified("grace")
	session := f.Introspect(tokens.AccessToken)
	unknown := strings.Repeat("A", 26)
	f.refusals()
	for _, c := range []struct {
		purpose identity.Purpose
		try     func(code string) error
		user    bool
	}{
		{identity.Verification, func(code string) error { _, err := f.VerifyUser(code); return err }, false},
		{identity.Recovery, func(code string) error { return f.ResetPassword(code, "", another) }, false},
		{identity.EmailChange, func(code string) error {
			_, err := f.ChangeEmail(tokens.AccessToken, code, "new@mail.example")
			return err
		}, true},
	} {
		want := entry{name: identity.EventCodeRefused, detail: "purpose", because: string(c.purpose), tries: 1}
		if c.user {
			want.user, want.session = session.Subject, session.SessionID
		}
		for range 3 {
			f.fails(c.try(unknown), identity.Invalid, wrongCode)
		}
		f.trail(want)
		f.fails(c.try("no code at all"), identity.Invalid, wrongCode)
		f.trail()
	}
	f.equal("wrong codes", f.service.Refused(identity.RefusedCode), uint64(9))
}

func TestTrailHasARightPasswordThatOpensNoSession(t *testing.T) {
	f := newFixture(t)
	unverified, _ := f.unverified("edsger")
	f.fails(errOf(f.SignIn(unverified.username, unverified.password)), identity.Forbidden, notVerified)
	f.trail(entry{identity.EventSignInRefused, unverified.id, "", "reason", "not_verified", 1})

	p, tokens := f.verified("grace")
	f.store.before["OpenSession"] = func() { f.ok(f.ChangePassword(tokens.AccessToken, p.password, another)) }
	f.fails(errOf(f.SignIn(p.username, p.password)), identity.Unauthenticated, wrongCredentials)
	f.trail(entry{identity.EventSignInRefused, p.id, "", "reason", "stale", 1})

	f.store.before["FindPassword"] = func() {
		f.store.before["FindPassword"] = func() { f.failSilently(p) }
	}
	f.fails(f.ChangePassword(tokens.AccessToken, another, "a third of mine"), identity.Unauthenticated, wrongOld)
	f.trail(entry{identity.EventPasswordThrottled, p.id, "", "failures", "10", 1})
}

// failSilently counts ten failures of strangers directly in the store.
func (f *fixture) failSilently(p person) {
	c := must(f.memory.FindCredentials(f.Context(), identity.Login{CanonicalUsername: p.username}))(f)
	for range 10 {
		f.ok(f.memory.CountFailure(f.Context(), c.ThrottleKey, identity.Event{}))
	}
}
