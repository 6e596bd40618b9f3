package postgres

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// QueueMail implements identity.Store.
func (s *Store) QueueMail(ctx context.Context, m identity.NewMail) error {
	return s.exec(ctx, onlyOnce, named("QueueMail"),
		pgx.NamedArgs{"mail": m.Purpose, "recipient": m.To, "language": m.Language})
}

// QueueEmailChange implements identity.Store.
func (s *Store) QueueEmailChange(ctx context.Context, ref identity.SessionRef, m identity.NewMail) error {
	err := s.queryRow(ctx, onlyOnce, named("QueueEmailChange"), sessionArgs(ref, pgx.NamedArgs{
		"mail": m.Purpose, "target": m.To, "language": m.Language,
	}))
	return noRowsIs(err, identity.ErrNoSession)
}

// ClaimMail implements identity.Store. The lock of the mail's row is the first that the transaction takes: the holder
// of an account does not wait for a mail, because a row that is locked is skipped.
func (s *Store) ClaimMail(
	ctx context.Context, lease time.Duration, process identity.ProcessMail,
) (found bool, err error) {
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var q identity.QueuedMail
		var microseconds int64
		err := named("ClaimMail").queryRow(ctx, tx, pgx.NamedArgs{"lease": lease}).Scan(
			&q.Ref.ID, &q.Ref.Attempt, &q.Ref.Taken, &q.Purpose, &q.To, &q.Target, &q.Counted,
			(*zeronull.Text)(&q.UserID), (*zeronull.Text)(&q.SessionID), (*zeronull.Text)(&q.SignUpID),
			(*storedName)(&q.Username), &q.Language, &microseconds)
		found = err == nil
		if err != nil {
			return noRowsIs(err, nil)
		}
		q.Age = time.Duration(microseconds) * time.Microsecond
		return process(ctx, q, claimTx{tx, q.Ref.ID})
	})
	return found && err == nil, err
}

// claimTx is an identity.ClaimTx.
type claimTx struct {
	pgx.Tx
	mailID int64
}

// FindOwner implements identity.ClaimTx.
func (tx claimTx) FindOwner(
	ctx context.Context, p identity.Purpose, canonicalEmail, signUpID string,
) (owner identity.MailOwner, holder *identity.AddressHolder, err error) {
	var newID string
	var holds *string
	err = named("FindMailOwner").queryRow(ctx, tx, pgx.NamedArgs{
		"email": canonicalEmail, "purpose": p, "signup_id": id(signUpID),
	}).Scan((*zeronull.Text)(&owner.ID), (*zeronull.Text)(&newID), (*zeronull.Text)(&owner.Target),
		(*storedName)(&owner.Username), (*zeronull.Text)(&owner.Language), &holds)
	if newID != "" {
		owner.ID, owner.IsSignUp = newID, true
	}
	return owner, holderOf(holds), err
}

// FindAsker implements identity.ClaimTx.
func (tx claimTx) FindAsker(
	ctx context.Context, ref identity.SessionRef, target string,
) (owner identity.MailOwner, holder *identity.AddressHolder, err error) {
	u, err := lockLive(ctx, tx, ref)
	if err != nil {
		return identity.MailOwner{}, nil, err
	}
	owner = identity.MailOwner{ID: u.ID, Username: u.Username, Language: u.Language}
	var holds *string
	err = named("FindTargetHolder").queryRow(ctx, tx, pgx.NamedArgs{"user_id": id(u.ID), "target": target}).
		Scan(&owner.Email, &holds)
	return owner, holderOf(holds), err
}

// holderOf returns the account that has this language, or nil if there is none.
func holderOf(language *string) *identity.AddressHolder {
	if language == nil {
		return nil
	}
	return &identity.AddressHolder{Language: *language}
}

// CountMail implements identity.ClaimTx.
func (tx claimTx) CountMail(ctx context.Context, kind, to string, rate identity.Rate) (allowed bool, err error) {
	key := sha256.Sum256([]byte("mail:" + kind + ":" + to))
	err = named("CountMail").queryRow(ctx, tx, pgx.NamedArgs{
		"key": key[:], "kind": kind, "mail_id": tx.mailID, "interval": rate.Interval(), "window": rate.Window(),
	}).Scan(&allowed)
	return allowed, err
}

// IssueCode implements identity.ClaimTx.
func (tx claimTx) IssueCode(ctx context.Context, owner identity.MailOwner, c identity.NewCode, e identity.Event) error {
	args := pgx.NamedArgs{
		"code": c.Hash[:], "user_id": id(owner.ID), "signup_id": nil, "purpose": c.Purpose,
		"target": c.Target, "ttl": c.TTL, "event": eventArg(e),
	}
	if owner.IsSignUp {
		args["user_id"], args["signup_id"] = nil, id(owner.ID)
	}
	return named("StoreCode").exec(ctx, tx, args)
}

// RemoveMail implements identity.ClaimTx.
func (tx claimTx) RemoveMail(ctx context.Context, e identity.Event) error {
	return named("RemoveClaimedMail").exec(ctx, tx, pgx.NamedArgs{"mail_id": tx.mailID, "event": eventArg(e)})
}

// RenewMail implements identity.Store.
func (s *Store) RenewMail(ctx context.Context, ref identity.MailRef, lease time.Duration) error {
	return s.exec(ctx, repeatable, named("PostponeMail"), mailArgs(ref, pgx.NamedArgs{"delay": lease}))
}

// FinishMail implements identity.Store. A second run finds no mail, or one that was claimed again.
func (s *Store) FinishMail(
	ctx context.Context, ref identity.MailRef, o identity.MailOutcome, limit identity.Rate,
) error {
	switch {
	case o.Result == identity.MailPostponed:
		return s.exec(ctx, repeatable, named("PostponeMail"), mailArgs(ref, pgx.NamedArgs{"delay": o.After}))
	case o.Result == identity.MailReturned:
		return s.exec(ctx, repeatable, named("ReturnMail"), mailArgs(ref, pgx.NamedArgs{}))
	case o.Result == identity.MailGivenUp && limit != (identity.Rate{}):
		return s.exec(ctx, repeatable, named("GiveUpMail"), mailArgs(ref, pgx.NamedArgs{"interval": limit.Interval()}))
	default:
		return s.exec(ctx, repeatable, named("RemoveMail"), mailArgs(ref, pgx.NamedArgs{}))
	}
}

// mailArgs adds to args which claim of which mail the caller refers to.
func mailArgs(ref identity.MailRef, args pgx.NamedArgs) pgx.NamedArgs {
	args["mail_id"], args["taken"] = ref.ID, ref.Taken
	return args
}

// CountMails implements identity.Store.
func (s *Store) CountMails(ctx context.Context) (queued int, oldest time.Duration, err error) {
	var microseconds int64
	err = s.queryRow(ctx, repeatable, named("CountMails"), nil, &queued, &microseconds)
	return queued, time.Duration(microseconds) * time.Microsecond, err
}
