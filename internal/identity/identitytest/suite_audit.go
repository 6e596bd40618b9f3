package identitytest

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Auditor reads recorded events. A Store under test implements it, or its test does,
// because identity.Store has no method for it.
type Auditor interface {
	// Events returns the recorded events, oldest first.
	Events(ctx context.Context) ([]identity.Event, error)
}

// recorded returns the events since its last call, without their details.
func (s *suite) recorded() []identity.Event {
	s.Helper()
	hook, ok := s.Store.(Auditor)
	if !ok {
		s.Fatal("this store does not implement Auditor")
	}
	all := must(hook.Events(s.Context()))(s)
	fresh := all[s.seen:]
	s.seen = len(all)
	for i := range fresh {
		fresh[i].Details = nil
	}
	return fresh
}

// change is a call that changes something, for a user and one of the user's sessions. A
// second call is refused or changes nothing.
type change struct {
	method string
	do     func(s *suite, r identity.Record, u identity.User, ref identity.SessionRef) (again func(identity.Record))
}

var changes = []change{
	{"CreateSignUp", func(s *suite, r identity.Record, _ identity.User, _ identity.SessionRef) func(identity.Record) {
		n := newSignUp("grace")
		s.ok(s.CreateSignUp(s.Context(), n, newCode(identity.Verification), r.Event))
		s.create("edsger")
		return func(r identity.Record) {
			err := s.CreateSignUp(s.Context(), newSignUp("edsger"), newCode(identity.Verification), r.Event)
			s.taken(err, identity.TakenError{Username: true, Email: true})
		}
	}},
	{"CreateSignUpConcealed", func(s *suite, r identity.Record, u identity.User, _ identity.SessionRef) func(identity.Record) {
		s.ok(s.CreateSignUpConcealed(s.Context(), newSignUp("ada"), newMail(identity.MailVerification, u.Email), r.Event))
		return func(identity.Record) {}
	}},
	{"UpdateUser", func(s *suite, r identity.Record, _ identity.User, ref identity.SessionRef) func(identity.Record) {
		name := "Countess"
		update := func(r identity.Record) error {
			_, err := s.UpdateUser(s.Context(), ref, identity.ProfileChange{FirstName: &name}, r.Event)
			return err
		}
		s.ok(update(r))
		ref.Now = ref.Now.Add(refreshTTL)
		return func(r identity.Record) { s.is(update(r), identity.ErrNoSession) }
	}},
	{"DeleteUser", func(s *suite, r identity.Record, _ identity.User, ref identity.SessionRef) func(identity.Record) {
		s.ok(s.DeleteUser(s.Context(), ref, r.Event))
		return func(r identity.Record) { s.is(s.DeleteUser(s.Context(), ref, r.Event), identity.ErrNoSession) }
	}},
	{"ChangePassword", func(s *suite, r identity.Record, _ identity.User, ref identity.SessionRef) func(identity.Record) {
		s.ok(s.ChangePassword(s.Context(), ref, passwordHash, otherHash, r))
		return func(r identity.Record) {
			s.is(s.ChangePassword(s.Context(), ref, passwordHash, otherHash, r), identity.ErrStale)
		}
	}},
	{"IssueCode", func(s *suite, r identity.Record, u identity.User, _ identity.SessionRef) func(identity.Record) {
		must(s.IssueCode(s.Context(), u.Email, newCode(identity.Recovery), r.Event))(s)
		return func(r identity.Record) {
			s.is(errOf(s.IssueCode(s.Context(), "nobody@example.com", newCode(identity.Recovery), r.Event)), identity.ErrNoUser)
		}
	}},
	{"IssueEmailChange", func(s *suite, r identity.Record, _ identity.User, ref identity.SessionRef) func(identity.Record) {
		s.create("edsger")
		s.ok(s.IssueEmailChange(s.Context(), ref, newCode(identity.EmailChange), r.Event))
		return func(r identity.Record) {
			taken := newCode(identity.EmailChange)
			taken.Target = "edsger@example.com"
			s.taken(s.IssueEmailChange(s.Context(), ref, taken, r.Event), identity.TakenError{Email: true})
		}
	}},
	{"RedeemVerification of a sign-up", func(s *suite, r identity.Record, _ identity.User, _ identity.SessionRef) func(identity.Record) {
		h := s.signUp(newSignUp("grace"))
		redeem := func(r identity.Record) error {
			_, err := s.RedeemVerification(s.Context(), identity.ClaimProof{Code: h}, s.newSession(), r)
			return err
		}
		s.ok(redeem(r))
		return func(r identity.Record) { s.is(redeem(r), identity.ErrNoCode) }
	}},
	{"RedeemVerification of a new address", func(s *suite, r identity.Record, _ identity.User, ref identity.SessionRef) func(identity.Record) {
		changed := must(s.change(ref, s.issueEmailChange(ref, ""), newAddress))(s)
		h := s.issue(changed, identity.Verification)
		redeem := func(r identity.Record) error {
			_, err := s.RedeemVerification(s.Context(), identity.ClaimProof{Code: h}, s.newSession(), r)
			return err
		}
		s.ok(redeem(r))
		return func(r identity.Record) { s.is(redeem(r), identity.ErrNoCode) }
	}},
	{"RedeemRecovery of a sign-up", func(s *suite, r identity.Record, _ identity.User, _ identity.SessionRef) func(identity.Record) {
		n, c := newSignUp("grace"), newCode(identity.Recovery)
		s.signUp(n)
		must(s.IssueCode(s.Context(), n.Email, c, noEvent))(s)
		owner := identity.Claim{ID: n.ID, IsSignUp: true}
		s.ok(s.RedeemRecovery(s.Context(), c.Hash, owner, otherHash, "", r))
		return func(r identity.Record) {
			s.is(s.RedeemRecovery(s.Context(), c.Hash, owner, otherHash, "", r), identity.ErrNoCode)
		}
	}},
	{"RedeemRecovery", func(s *suite, r identity.Record, u identity.User, _ identity.SessionRef) func(identity.Record) {
		h := s.issue(u, identity.Recovery)
		owner := identity.Claim{ID: u.ID}
		s.ok(s.RedeemRecovery(s.Context(), h, owner, otherHash, "", r))
		return func(r identity.Record) {
			s.is(s.RedeemRecovery(s.Context(), h, owner, otherHash, "", r), identity.ErrNoCode)
		}
	}},
	{"RedeemEmailChange", func(s *suite, r identity.Record, _ identity.User, ref identity.SessionRef) func(identity.Record) {
		h := s.issueEmailChange(ref, "")
		e := identity.EmailRedemption{Code: h, Email: newAddress, CanonicalEmail: newAddress}
		must(s.RedeemEmailChange(s.Context(), ref, e, r))(s)
		return func(r identity.Record) {
			s.is(errOf(s.RedeemEmailChange(s.Context(), ref, e, r)), identity.ErrNoCode)
		}
	}},
	{"OpenSession", func(s *suite, r identity.Record, u identity.User, _ identity.SessionRef) func(identity.Record) {
		s.ok(s.OpenSession(s.Context(), s.session(u), r.Event))
		return func(r identity.Record) {
			stale := s.session(u)
			stale.PasswordHash = otherHash
			s.is(s.OpenSession(s.Context(), stale, r.Event), identity.ErrStale)
		}
	}},
	{"OpenSession with a new hash", func(s *suite, r identity.Record, u identity.User, _ identity.SessionRef) func(identity.Record) {
		n := s.session(u)
		n.Rehash = otherHash
		s.ok(s.OpenSession(s.Context(), n, r.Event))
		n.ID = newID()
		return func(r identity.Record) { s.is(s.OpenSession(s.Context(), n, r.Event), identity.ErrStale) }
	}},
	{"EndSession", func(s *suite, r identity.Record, _ identity.User, ref identity.SessionRef) func(identity.Record) {
		ended := must(s.EndSession(s.Context(), ref, r.Event))(s)
		equal(s, ended, true)
		return func(r identity.Record) {
			ended := must(s.EndSession(s.Context(), ref, r.Event))(s)
			equal(s, ended, false)
		}
	}},
	{"EndOwnSession", func(s *suite, r identity.Record, u identity.User, ref identity.SessionRef) func(identity.Record) {
		other := s.open(u)
		ended := must(s.EndOwnSession(s.Context(), ref, other.ID, r.Event))(s)
		equal(s, ended, true)
		return func(r identity.Record) {
			ended := must(s.EndOwnSession(s.Context(), ref, other.ID, r.Event))(s)
			equal(s, ended, false)
		}
	}},
}

var auditSentences = func() (sentences []sentence) {
	for _, c := range changes {
		sentences = append(sentences, sentence{c.method + " and its event are both there, or neither", func(s *suite) {
			u := s.create("ada")
			ref := s.open(u)
			equal(s, len(s.recorded()), 0) // no event was passed
			e := identity.Event{
				Name: "something", UserID: u.ID, SessionID: newID(), RequestID: "request-1", Address: netip.MustParseAddr("192.0.2.1"),
				Details: []slog.Attr{slog.Int("number", 5), slog.String("text", "x")},
			}
			r := identity.Record{Event: e}
			again := c.do(s, r, u, ref)
			e.Details = nil
			if got := s.recorded(); len(got) != 1 || !same(got[0], e) {
				s.Errorf("recorded %+v; want %+v", got, e)
			}
			again(r)
			if got := s.recorded(); len(got) != 0 {
				s.Errorf("recorded %+v, although nothing was changed", got)
			}
		}})
	}
	return append(sentences,
		sentence{"CountFailure and its event are both there, whether there is an account or not", func(s *suite) {
			u := s.create("ada")
			for _, userID := range []string{u.ID, ""} {
				e := identity.Event{Name: "a wrong password", UserID: userID}
				s.ok(s.CountFailure(s.Context(), s.credentials(u).ThrottleKey, e))
				if got := s.recorded(); len(got) != 1 || !same(got[0], e) {
					s.Errorf("recorded %+v; want %+v", got, e)
				}
			}
			equal(s, s.credentials(u).Failures, 2)
		}},
		sentence{"an event that names no user is recorded as one of the user who was found", func(s *suite) {
			u := s.create("ada")
			n := newSignUp("grace")
			h := s.signUp(n)
			e := identity.Event{Name: "by address or code"}
			must(s.IssueCode(s.Context(), u.Email, newCode(identity.Recovery), e))(s)
			must(s.RedeemVerification(s.Context(), identity.ClaimProof{Code: h}, s.newSession(), identity.Record{Event: e}))(s)
			got := s.recorded()
			equal(s, len(got), 2)
			equal(s, got[0].UserID, u.ID)
			equal(s, got[1].UserID, n.ID)
		}},
		sentence{"RecordEvent records an event that is about no change", func(s *suite) {
			u := s.create("ada")
			s.ok(s.RecordEvent(s.Context(), noEvent)) // an event without a name is not recorded
			for _, e := range []identity.Event{
				{Name: "refused", UserID: u.ID, SessionID: newID(), RequestID: "r", Address: netip.MustParseAddr("192.0.2.1")},
				{Name: "refused, and of no account"},
				{Name: "refused, and of no account"},
			} {
				s.ok(s.RecordEvent(s.Context(), e))
				if got := s.recorded(); len(got) != 1 || !same(got[0], e) {
					s.Errorf("recorded %+v; want %+v", got, e)
				}
			}
		}},
		sentence{"what was recorded outlives the user", func(s *suite) {
			u := s.create("ada")
			ref := s.open(u)
			s.ok(s.DeleteUser(s.Context(), ref, identity.Event{Name: "gone", UserID: u.ID}))
			s.create("ada")
			got := s.recorded()
			equal(s, len(got), 1)
			equal(s, got[0].UserID, u.ID)
		}},
		sentence{"of many calls at once that one wins, one is recorded", func(s *suite) {
			u := s.create("ada")
			h := s.issue(u, identity.Recovery)
			reset := identity.Record{Event: identity.Event{Name: "reset", UserID: u.ID}}
			equal(s, s.winners(20, identity.ErrNoCode, func(int) error {
				return s.RedeemRecovery(s.Context(), h, identity.Claim{ID: u.ID}, otherHash, "", reset)
			}), 1)
			equal(s, len(s.recorded()), 1)
		}},
	)
}()

// same compares events without their details.
func same(a, b identity.Event) bool {
	members := func(e identity.Event) []string {
		return []string{string(e.Name), e.UserID, e.SessionID, e.RequestID, e.Address.String()}
	}
	return slices.Equal(members(a), members(b))
}
