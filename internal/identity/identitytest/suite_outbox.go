package identitytest

import (
	"errors"
	"fmt"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// outboxSentences are about limits, claims and outcomes of any mail.
var outboxSentences = []sentence{
	{"a recipient is sent no more mails of a kind than the limit lets them, whoever asks, but all notices", func(s *suite) {
		s.limit = limit
		u := s.create("ada")
		ref := s.open(u)
		sent := func(ask func(), want ...identity.MessagePurpose) {
			s.Helper()
			for range 4 {
				ask()
				for {
					m, _, ok := s.claimMail()
					if !ok {
						break
					}
					if m.Withheld {
						equal(s, m.UserID, "")
						continue
					}
					if len(want) == 0 || m.Purpose != want[0] {
						s.Errorf("sent %q; want %v", m.Purpose, want)
						return
					}
					want = want[1:]
					s.ok(s.finish(m.Ref, identity.MailSent))
				}
			}
			equal(s, len(want), 0)
		}
		recovery := func() { s.queue(identity.MailRecovery, u.Email) }
		// A mail that is not sent does not count, such as a verification for a proved account.
		sent(func() { s.queue(identity.MailVerification, u.Email) })
		sent(recovery, identity.MailRecovery, identity.MailRecovery)
		sent(recovery)
		sent(func() { s.signUpConcealed(at(u.Email, "mallory")) }, identity.MailEmailTaken, identity.MailEmailTaken)
		change := func() { s.ok(s.QueueEmailChange(s.Context(), ref, newMail(identity.MailEmailChange, ""))) }
		sent(change, identity.MailEmailChange, identity.MailEmailChange)
		sent(func() { s.queue(identity.MailRecovery, "nobody@example.com") })
		s.signUp(at("other@example.com", "other"))
		sent(func() { s.queue(identity.MailRecovery, "other@example.com") }, identity.MailRecovery, identity.MailRecovery)
		sent(func() {
			s.ok(s.ChangePassword(s.Context(), ref, passwordHash, passwordHash, identity.Record{Notice: identity.Notice{Purpose: "something"}}))
		}, "something", "something", "something", "something")
		s.advance(limit.Per/2 + time.Minute)
		sent(recovery, identity.MailRecovery)
		s.advance(10 * limit.Per) // unused mails do not accumulate
		sent(recovery, identity.MailRecovery, identity.MailRecovery)
	}},
	{"a mail that is withheld is removed and recorded, and leaves the code that was sent before", func(s *suite) {
		s.limit = identity.Rate{Count: 1, Per: time.Hour}
		u := s.create("ada")
		s.queue(identity.MailRecovery, u.Email)
		m, h := s.next()
		s.ok(s.finish(m.Ref, identity.MailSent))
		s.queue(identity.MailRecovery, u.Email)
		m, _, ok := s.claimMailRecording(identity.Event{Name: "withheld"})
		equal(s, ok, true)
		equal(s, m.Withheld, true)
		if got := s.recorded(); len(got) != 1 || !same(got[0], identity.Event{Name: "withheld"}) {
			s.Errorf("recorded %+v", got)
		}
		s.empty()
		s.ok(s.recover(u, h, otherHash, ""))
	}},
	{"a mail counts once, however often it is tried, and not at all once it is given up", func(s *suite) {
		s.limit = identity.Rate{Count: 1, Per: time.Hour}
		u := s.create("ada")
		for range 3 {
			s.queue(identity.MailRecovery, u.Email)
			m, _ := s.next()
			for range 3 {
				s.ok(s.postpone(m.Ref, 0))
				m, _ = s.next()
				equal(s, m.Withheld, false)
			}
			s.ok(s.finish(m.Ref, identity.MailGivenUp))
			s.ok(s.finish(m.Ref, identity.MailGivenUp))
			s.empty()
		}
	}},
	{"a mail is taken once until its lease has passed, and then again, and only the last taker is believed", func(s *suite) {
		u := s.create("ada")
		s.queue(identity.MailRecovery, u.Email)
		first, _ := s.next()
		equal(s, first.Ref.Attempt, 1)
		s.noMail()
		s.pass(lease - time.Minute)
		s.noMail()
		s.pass(2 * time.Minute)
		second, _ := s.next()
		equal(s, second.Ref.ID, first.Ref.ID)
		equal(s, second.Ref.Attempt, 2)
		for _, end := range []func() error{
			func() error { return s.finish(first.Ref, identity.MailSent) },
			func() error { return s.postpone(first.Ref, 0) },
			func() error { return s.finish(first.Ref, identity.MailReturned) },
			func() error { return s.finish(first.Ref, identity.MailGivenUp) },
			func() error { return s.RenewMail(s.Context(), first.Ref, 0) },
		} {
			s.ok(end())
			s.noMail()
		}
		queued, oldest, err := s.CountMails(s.Context())
		s.ok(err)
		equal(s, queued, 1)
		equal(s, oldest >= lease, true)
		s.ok(s.finish(second.Ref, identity.MailSent))
		s.empty()
		s.ok(s.finish(second.Ref, identity.MailSent))
	}},
	{"a lease that is renewed lasts from then on, and the mail is still its claimant's", func(s *suite) {
		u := s.create("ada")
		s.queue(identity.MailRecovery, u.Email)
		m, _ := s.next()
		s.pass(lease - time.Minute)
		s.ok(s.RenewMail(s.Context(), m.Ref, lease))
		s.pass(lease - time.Minute)
		s.noMail()
		s.ok(s.finish(m.Ref, identity.MailSent))
		s.empty()
	}},
	{"a mail that is postponed is due again after that, and its attempt counts", func(s *suite) {
		u := s.create("ada")
		s.queue(identity.MailRecovery, u.Email)
		m, _ := s.next()
		s.ok(s.postpone(m.Ref, 10*time.Minute))
		s.pass(9 * time.Minute)
		s.noMail()
		s.pass(2 * time.Minute)
		m, _ = s.next()
		equal(s, m.Ref.Attempt, 2)
	}},
	{"a mail that is returned is due at once, its attempt does not count, and whoever had it is not believed", func(s *suite) {
		u := s.create("ada")
		s.queue(identity.MailRecovery, u.Email)
		stalled, _ := s.next()
		s.pass(lease + time.Minute)
		m, _ := s.next()
		s.ok(s.finish(m.Ref, identity.MailReturned))
		again, _ := s.next()
		equal(s, again.Ref.Attempt, m.Ref.Attempt)
		for _, ref := range []identity.MailRef{stalled.Ref, m.Ref} {
			s.ok(s.finish(ref, identity.MailSent))
		}
		s.ok(s.postpone(again.Ref, 0))
		s.next()
	}},
	{"the mail that is due longest comes first", func(s *suite) {
		for i := range 3 {
			s.queue(identity.MessagePurpose(fmt.Sprint("notice ", i)), "ada@example.com")
			s.advance(time.Minute)
		}
		first, _ := s.next()
		equal(s, first.Purpose, "notice 0")
		s.ok(s.postpone(first.Ref, 0))
		for _, want := range []identity.MessagePurpose{"notice 1", "notice 2", "notice 0"} {
			m, _ := s.next()
			equal(s, m.Purpose, want)
		}
	}},
	{"of many ClaimMail at once, none is given a mail that another is given, and none is left", func(s *suite) {
		const mails, takers = 40, 8
		for i := range mails {
			s.queue("notice", fmt.Sprintf("ada%d@example.com", i))
			s.queue(identity.MailRecovery, "nobody@example.com")
		}
		taken := make([][]string, takers)
		functions := make([]func(), takers)
		for i := range functions {
			functions[i] = func() {
				for {
					m, ok, err := identity.ClaimMail(s.Context(), s.Store, identity.MailClaim{Lease: lease, Now: s.now, Issue: issueUnknown})
					if err != nil {
						s.Error(err)
					}
					if err != nil || !ok {
						return
					}
					taken[i] = append(taken[i], m.To)
				}
			}
		}
		atOnce(functions...)
		whose := map[string]int{}
		for _, list := range taken {
			for _, to := range list {
				whose[to]++
			}
		}
		equal(s, len(whose), mails)
		for to, n := range whose {
			if n != 1 {
				s.Errorf("the mail to %s was claimed %d times", to, n)
			}
		}
	}},
	{"of 20 mails to one recipient that are taken at once, as many as the limit lets are sent", func(s *suite) {
		for i := range 20 {
			s.signUpConcealed(at(address, fmt.Sprintf("ada%d", i)))
		}
		sent := s.winners(20, errWithheld, func(int) error {
			m, ok, err := identity.ClaimMail(s.Context(), s.Store, identity.MailClaim{Lease: lease, Now: s.now, Limit: limit, Issue: issueUnknown})
			if err == nil && (m.Withheld || !ok) {
				return errWithheld
			}
			return err
		})
		equal(s, sent, limit.Count)
	}},
	{"no code that is mailed to the old address survives a change of address", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		for i := range rounds {
			s.queue(identity.MailRecovery, u.Email)
			next := fmt.Sprintf("ada%d@example.com", i)
			change := s.issueEmailChange(ref, next)
			recovery := newCode(identity.Recovery)
			var taking, changing error
			changed := u
			atOnce(
				func() {
					var m identity.ClaimedMail
					var ok bool
					m, ok, taking = identity.ClaimMail(s.Context(), s.Store, identity.MailClaim{
						Lease: lease, Now: s.now,
						Issue: func(int64, identity.Purpose) (identity.NewCode, identity.Event) { return recovery, noEvent },
					})
					if taking == nil && ok {
						taking = s.finish(m.Ref, identity.MailSent)
					}
				},
				func() { changed, changing = s.change(ref, change, next) },
			)
			s.ok(taking)
			s.ok(changing)
			s.is(errOf(s.FindRecovery(s.Context(), recovery.Hash)), identity.ErrNoCode)
			s.empty()
			u = changed
		}
	}},
}

func issueUnknown(_ int64, p identity.Purpose) (identity.NewCode, identity.Event) {
	return newCode(p), noEvent
}

var errWithheld = errors.New("withheld")
