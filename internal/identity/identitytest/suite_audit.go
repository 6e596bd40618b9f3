package identitytest

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Auditor is what a Store under test offers besides, or its test does for it: no
// method of identity.Store reads what was recorded.
type Auditor interface {
	// Events gives what was recorded, in its order.
	Events(ctx context.Context) ([]identity.Event, error)
}

// recorded gives what was recorded since the last time that it was asked, but for
// the details.
func (s *suite) recorded() []identity.Event {
	s.Helper()
	hook, ok := s.Store.(Auditor)
	if !ok {
		s.Fatal("this store does not tell what was recorded")
	}
	all, err := hook.Events(s.Context())
	s.ok(err)
	fresh := all[s.seen:]
	s.seen = len(all)
	for i := range fresh {
		fresh[i].Details = nil
	}
	return fresh
}

// change is one call that changes something, as a user and a session of theirs
// make it; the second call of the same is refused, or changes nothing.
type change struct {
	method string
	do     func(ctx context.Context, s *suite, u identity.User, ref identity.SessionRef) (again func(ctx context.Context))
}

var changes = []change{
	{"CreateSignUp", func(ctx context.Context, s *suite, _ identity.User, _ identity.SessionRef) func(context.Context) {
		n := newSignUp("grace")
		s.ok(s.CreateSignUp(ctx, n, newCode(identity.Verification)))
		s.create("edsger")
		return func(ctx context.Context) {
			s.taken(s.CreateSignUp(ctx, newSignUp("edsger"), newCode(identity.Verification)), identity.TakenError{Username: true, Email: true})
		}
	}},
	{"CreateSignUpConcealed", func(ctx context.Context, s *suite, u identity.User, _ identity.SessionRef) func(context.Context) {
		s.ok(s.CreateSignUpConcealed(ctx, newSignUp("ada"), newMail(identity.MailVerification, u.Email)))
		return func(context.Context) {}
	}},
	{"UpdateUser", func(ctx context.Context, s *suite, _ identity.User, ref identity.SessionRef) func(context.Context) {
		name := "Countess"
		update := func(ctx context.Context) error {
			_, err := s.UpdateUser(ctx, ref, identity.ProfileChange{FirstName: &name})
			return err
		}
		s.ok(update(ctx))
		ref.Now = ref.Now.Add(refreshTTL)
		return func(ctx context.Context) { s.is(update(ctx), identity.ErrNoSession) }
	}},
	{"DeleteUser", func(ctx context.Context, s *suite, _ identity.User, ref identity.SessionRef) func(context.Context) {
		s.ok(s.DeleteUser(ctx, ref))
		return func(ctx context.Context) { s.is(s.DeleteUser(ctx, ref), identity.ErrNoSession) }
	}},
	{"ChangePassword", func(ctx context.Context, s *suite, _ identity.User, ref identity.SessionRef) func(context.Context) {
		s.ok(s.ChangePassword(ctx, ref, passwordHash, otherHash))
		return func(ctx context.Context) {
			s.is(s.ChangePassword(ctx, ref, passwordHash, otherHash), identity.ErrStale)
		}
	}},
	{"IssueCode", func(ctx context.Context, s *suite, u identity.User, _ identity.SessionRef) func(context.Context) {
		_, err := s.IssueCode(ctx, u.Email, newCode(identity.Recovery))
		s.ok(err)
		return func(ctx context.Context) {
			_, err := s.IssueCode(ctx, "nobody@example.com", newCode(identity.Recovery))
			s.is(err, identity.ErrNoUser)
		}
	}},
	{"IssueEmailChange", func(ctx context.Context, s *suite, _ identity.User, ref identity.SessionRef) func(context.Context) {
		s.create("edsger")
		s.ok(s.IssueEmailChange(ctx, ref, newCode(identity.EmailChange)))
		return func(ctx context.Context) {
			taken := newCode(identity.EmailChange)
			taken.Target = "edsger@example.com"
			s.taken(s.IssueEmailChange(ctx, ref, taken), identity.TakenError{Email: true})
		}
	}},
	{"RedeemVerification of a sign-up", func(ctx context.Context, s *suite, _ identity.User, _ identity.SessionRef) func(context.Context) {
		h := s.signUp(newSignUp("grace"))
		redeem := func(ctx context.Context) error {
			_, err := s.RedeemVerification(ctx, identity.ClaimProof{Code: h}, s.newSession())
			return err
		}
		s.ok(redeem(ctx))
		return func(ctx context.Context) { s.is(redeem(ctx), identity.ErrNoCode) }
	}},
	{"RedeemVerification of a new address", func(ctx context.Context, s *suite, _ identity.User, ref identity.SessionRef) func(context.Context) {
		changed, err := s.change(ref, s.issueEmailChange(ref, ""), newAddress)
		s.ok(err)
		h := s.issue(changed, identity.Verification)
		redeem := func(ctx context.Context) error {
			_, err := s.RedeemVerification(ctx, identity.ClaimProof{Code: h}, s.newSession())
			return err
		}
		s.ok(redeem(ctx))
		return func(ctx context.Context) { s.is(redeem(ctx), identity.ErrNoCode) }
	}},
	{"RedeemRecovery of a sign-up", func(ctx context.Context, s *suite, _ identity.User, _ identity.SessionRef) func(context.Context) {
		n, c := newSignUp("grace"), newCode(identity.Recovery)
		s.signUp(n)
		_, err := s.IssueCode(s.Context(), n.Email, c)
		s.ok(err)
		owner := identity.Claim{ID: n.ID, IsSignUp: true}
		s.ok(s.RedeemRecovery(ctx, c.Hash, owner, otherHash, ""))
		return func(ctx context.Context) {
			s.is(s.RedeemRecovery(ctx, c.Hash, owner, otherHash, ""), identity.ErrNoCode)
		}
	}},
	{"RedeemRecovery", func(ctx context.Context, s *suite, u identity.User, _ identity.SessionRef) func(context.Context) {
		h := s.issue(u, identity.Recovery)
		owner := identity.Claim{ID: u.ID}
		s.ok(s.RedeemRecovery(ctx, h, owner, otherHash, ""))
		return func(ctx context.Context) { s.is(s.RedeemRecovery(ctx, h, owner, otherHash, ""), identity.ErrNoCode) }
	}},
	{"RedeemEmailChange", func(ctx context.Context, s *suite, _ identity.User, ref identity.SessionRef) func(context.Context) {
		h := s.issueEmailChange(ref, "")
		e := identity.EmailRedemption{Code: h, Email: newAddress, CanonicalEmail: newAddress}
		_, err := s.RedeemEmailChange(ctx, ref, e)
		s.ok(err)
		return func(ctx context.Context) {
			_, err := s.RedeemEmailChange(ctx, ref, e)
			s.is(err, identity.ErrNoCode)
		}
	}},
	{"OpenSession", func(ctx context.Context, s *suite, u identity.User, _ identity.SessionRef) func(context.Context) {
		s.ok(s.OpenSession(ctx, s.session(u)))
		return func(ctx context.Context) {
			stale := s.session(u)
			stale.PasswordHash = otherHash
			s.is(s.OpenSession(ctx, stale), identity.ErrStale)
		}
	}},
	{"OpenSession with a new hash", func(ctx context.Context, s *suite, u identity.User, _ identity.SessionRef) func(context.Context) {
		n := s.session(u)
		n.Rehash = otherHash
		s.ok(s.OpenSession(ctx, n))
		n.ID = newID()
		return func(ctx context.Context) { s.is(s.OpenSession(ctx, n), identity.ErrStale) }
	}},
	{"EndSession", func(ctx context.Context, s *suite, _ identity.User, ref identity.SessionRef) func(context.Context) {
		ended, err := s.EndSession(ctx, ref)
		s.ok(err)
		equal(s, ended, true)
		return func(ctx context.Context) {
			ended, err := s.EndSession(ctx, ref)
			s.ok(err)
			equal(s, ended, false)
		}
	}},
	{"EndOwnSession", func(ctx context.Context, s *suite, u identity.User, ref identity.SessionRef) func(context.Context) {
		other := s.open(u)
		ended, err := s.EndOwnSession(ctx, ref, other.ID)
		s.ok(err)
		equal(s, ended, true)
		return func(ctx context.Context) {
			ended, err := s.EndOwnSession(ctx, ref, other.ID)
			s.ok(err)
			equal(s, ended, false)
		}
	}},
}

var auditSentences = func() (sentences []sentence) {
	for _, c := range changes {
		sentences = append(sentences, sentence{c.method + " and its event are both there, or neither", func(s *suite) {
			u := s.create("ada")
			ref := s.open(u)
			equal(s, len(s.recorded()), 0) // nothing was asked to be
			e := identity.Event{
				Name: "something", UserID: u.ID, SessionID: newID(), RequestID: "request-1", Address: netip.MustParseAddr("192.0.2.1"),
				Details: []slog.Attr{slog.Int("number", 5), slog.String("text", "x")},
			}
			ctx := identity.WithEvent(s.Context(), e)
			again := c.do(ctx, s, u, ref)
			e.Details = nil
			if got := s.recorded(); len(got) != 1 || !same(got[0], e) {
				s.Errorf("recorded %+v; want %+v", got, e)
			}
			again(ctx)
			if got := s.recorded(); len(got) != 0 {
				s.Errorf("recorded %+v, though nothing was changed", got)
			}
		}})
	}
	return append(sentences,
		sentence{"CountFailure and its event are both there, whether there is an account or not", func(s *suite) {
			u := s.create("ada")
			for _, userID := range []string{u.ID, ""} {
				e := identity.Event{Name: "a wrong password", UserID: userID}
				s.ok(s.CountFailure(identity.WithEvent(s.Context(), e), s.credentials(u).ThrottleKey))
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
			ctx := identity.WithEvent(s.Context(), identity.Event{Name: "by address or code"})
			_, err := s.IssueCode(ctx, u.Email, newCode(identity.Recovery))
			s.ok(err)
			_, err = s.RedeemVerification(ctx, identity.ClaimProof{Code: h}, s.newSession())
			s.ok(err)
			got := s.recorded()
			equal(s, len(got), 2)
			equal(s, got[0].UserID, u.ID)
			equal(s, got[1].UserID, n.ID)
		}},
		sentence{"RecordEvent records an event that is about no change", func(s *suite) {
			u := s.create("ada")
			s.ok(s.RecordEvent(s.Context())) // of a context without an event, none
			for _, e := range []identity.Event{
				{Name: "refused", UserID: u.ID, SessionID: newID(), RequestID: "r", Address: netip.MustParseAddr("192.0.2.1")},
				{Name: "refused, and of nobody"},
				{Name: "refused, and of nobody"},
			} {
				s.ok(s.RecordEvent(identity.WithEvent(s.Context(), e)))
				if got := s.recorded(); len(got) != 1 || !same(got[0], e) {
					s.Errorf("recorded %+v; want %+v", got, e)
				}
			}
		}},
		sentence{"what was recorded outlives the user", func(s *suite) {
			u := s.create("ada")
			ref := s.open(u)
			s.ok(s.DeleteUser(identity.WithEvent(s.Context(), identity.Event{Name: "gone", UserID: u.ID}), ref))
			s.create("ada")
			got := s.recorded()
			equal(s, len(got), 1)
			equal(s, got[0].UserID, u.ID)
		}},
		sentence{"of many calls at once that one wins, one is recorded", func(s *suite) {
			u := s.create("ada")
			h := s.issue(u, identity.Recovery)
			ctx := identity.WithEvent(s.Context(), identity.Event{Name: "reset", UserID: u.ID})
			equal(s, s.winners(20, identity.ErrNoCode, func(int) error { return s.RedeemRecovery(ctx, h, identity.Claim{ID: u.ID}, otherHash, "") }), 1)
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
