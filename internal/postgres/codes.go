package postgres

import (
	"context"
	"errors"
	"maps"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// IssueCode implements identity.Store.
func (s *Store) IssueCode(
	ctx context.Context, canonicalEmail string, c identity.NewCode, e identity.Event,
) (ownerID string, err error) {
	var known bool
	err = s.queryRow(ctx, repeatable, named("IssueCode"), pgx.NamedArgs{
		"email": canonicalEmail, "code": c.Hash[:], "purpose": c.Purpose, "ttl": c.TTL, "event": eventArg(e),
	}, (*zeronull.Text)(&ownerID), &known)
	switch {
	case err != nil:
		return "", err
	case ownerID != "":
		return ownerID, nil
	case known:
		return "", identity.ErrAlreadyVerified
	default:
		return "", identity.ErrNoUser
	}
}

// IssueEmailChange implements identity.Store.
func (s *Store) IssueEmailChange(
	ctx context.Context, ref identity.SessionRef, c identity.NewCode, e identity.Event,
) error {
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		owner, err := lockLive(ctx, tx, ref)
		if err != nil {
			return err
		}
		err = named("IssueEmailChange").queryRow(ctx, tx, pgx.NamedArgs{
			"code": c.Hash[:], "user_id": id(owner.ID), "purpose": c.Purpose, "target": c.Target, "ttl": c.TTL,
			"event": eventArg(e),
		}).Scan()
		return noRowsIs(err, &identity.TakenError{Email: true})
	})
}

// FindClaims implements identity.Store.
func (s *Store) FindClaims(ctx context.Context, h identity.CodeHash) ([]identity.Claim, error) {
	args := pgx.NamedArgs{"code": h[:], "limit": identity.MaxClaims}
	found, err := findAll(ctx, s, named("FindClaims"), args, claimDest)
	if err == nil && len(found) == 0 {
		return nil, identity.ErrNoCode
	}
	return found, err
}

// RedeemVerification implements identity.Store. The lock of the address orders all
// proofs of it; see the package comment.
func (s *Store) RedeemVerification(
	ctx context.Context, p identity.ClaimProof, n identity.NewSession, r identity.Record,
) (owner identity.User, err error) {
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		claimID, address := p.ClaimID, ""
		var codesOwner string
		err := named("LockAddressOfCode").queryRow(ctx, tx, pgx.NamedArgs{"code": p.Code[:]}).Scan(&codesOwner, &address, nil)
		if err != nil {
			return noRowsIs(err, identity.ErrNoCode)
		}
		if claimID == "" {
			claimID = codesOwner
		}
		claim := pgx.NamedArgs{
			"code": p.Code[:], "claim_id": id(claimID), "address": address, "password_hash": p.PasswordHash,
		}
		session := pgx.NamedArgs{
			"session_id": id(n.ID), "opened_at": n.OpenedAt, "expires_at": n.ExpiresAt, "ends_at": n.EndsAt,
			"user_agent": n.UserAgent, "network": n.From,
		}
		err = named("ProveSignUp").queryRow(ctx, tx, with(claim, session, pgx.NamedArgs{
			"username": p.Username, "canonical_username": p.CanonicalUsername, "event": eventArg(r.Event),
		})).Scan(userDest(&owner)...)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if err := named("LockUser").exec(ctx, tx, pgx.NamedArgs{"user_id": id(claimID)}); err != nil {
			return err
		}
		err = named("ProveEmail").queryRow(ctx, tx, recordArgs(r, with(claim, session, pgx.NamedArgs{
			"known_networks": identity.KnownNetworks,
		}))).Scan(userDest(&owner)...)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return whyNotProved(ctx, tx, p, with(claim, pgx.NamedArgs{"canonical_username": p.CanonicalUsername}))
	})
	if isViolation(err, emailKey) {
		return identity.User{}, identity.ErrNoCode
	}
	return owner, err
}

// with joins arguments.
func with(args ...pgx.NamedArgs) pgx.NamedArgs {
	all := pgx.NamedArgs{}
	for _, some := range args {
		maps.Copy(all, some)
	}
	return all
}

// whyNotProved returns the error of a claim that could not be proved, in the same transaction.
func whyNotProved(ctx context.Context, tx pgx.Tx, p identity.ClaimProof, claim pgx.NamedArgs) error {
	var holds, isClaim, suspended, taken bool
	err := named("ExplainFailedProof").queryRow(ctx, tx, claim).Scan(&holds, &isClaim, &suspended, &taken)
	switch {
	case err != nil:
		return err
	case !holds:
		return identity.ErrNoCode
	case !isClaim && p.ClaimID == "":
		return identity.ErrSeveralClaims
	case !isClaim:
		return identity.ErrStale
	case suspended:
		return identity.ErrSuspended
	case taken:
		return &identity.TakenError{Username: true}
	default:
		return identity.ErrNoCode
	}
}

// FindRecovery implements identity.Store.
func (s *Store) FindRecovery(ctx context.Context, h identity.CodeHash) (owner identity.Claim, err error) {
	err = s.queryRow(ctx, repeatable, named("FindRecovery"), pgx.NamedArgs{"code": h[:]}, claimDest(&owner)...)
	return owner, noRowsIs(err, identity.ErrNoCode)
}

// RedeemRecovery implements identity.Store.
func (s *Store) RedeemRecovery(
	ctx context.Context, h identity.CodeHash, owner identity.Claim, newHash string, from identity.Network,
	r identity.Record,
) error {
	if owner.IsSignUp {
		return s.recoverSignUp(ctx, h, owner.ID, newHash, from, r.Event)
	}
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := named("LockUser").exec(ctx, tx, pgx.NamedArgs{"user_id": id(owner.ID)}); err != nil {
			return err
		}
		err := named("RecoverUser").queryRow(ctx, tx, recordArgs(r, pgx.NamedArgs{
			"code": h[:], "user_id": id(owner.ID), "new_hash": newHash,
			"network": from, "known_networks": identity.KnownNetworks,
		})).Scan()
		return noRowsIs(err, identity.ErrNoCode)
	})
}

// recoverSignUp redeems a recovery code of a sign-up.
func (s *Store) recoverSignUp(
	ctx context.Context, h identity.CodeHash, signUpID, newHash string, from identity.Network, e identity.Event,
) error {
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := named("LockAddressOfSignUp").exec(ctx, tx, pgx.NamedArgs{"signup_id": id(signUpID)}); err != nil {
			return err
		}
		var holds, created bool
		err := named("RecoverSignUp").queryRow(ctx, tx, pgx.NamedArgs{
			"code": h[:], "signup_id": id(signUpID), "new_hash": newHash, "network": from, "event": eventArg(e),
		}).Scan(&holds, &created)
		switch {
		case err != nil:
			return err
		case !holds:
			return identity.ErrNoCode
		case !created:
			return &identity.TakenError{Username: true}
		default:
			return nil
		}
	})
}

// RedeemEmailChange implements identity.Store. Under the lock of the address, its last
// statement sees which account has it.
func (s *Store) RedeemEmailChange(
	ctx context.Context, ref identity.SessionRef, e identity.EmailRedemption, r identity.Record,
) (owner identity.User, err error) {
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := named("LockAddress").exec(ctx, tx, pgx.NamedArgs{"email": e.CanonicalEmail}); err != nil {
			return err
		}
		if _, err := lockLive(ctx, tx, ref); err != nil {
			return err
		}
		code := pgx.NamedArgs{"code": e.Code[:], "user_id": id(ref.UserID), "canonical_email": e.CanonicalEmail}
		err := named("ChangeEmail").queryRow(ctx, tx, recordArgs(r, with(code, pgx.NamedArgs{
			"email": e.Email, "refuse_taken": e.RefuseTaken,
		}))).Scan(userDest(&owner)...)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		err = named("FindEmailChange").queryRow(ctx, tx, code).Scan()
		if err == nil {
			return &identity.TakenError{Email: true}
		}
		return noRowsIs(err, identity.ErrNoCode)
	})
	if isViolation(err, emailKey) { // by a replica of a former release, which takes no lock
		return identity.User{}, &identity.TakenError{Email: true}
	}
	return owner, err
}
