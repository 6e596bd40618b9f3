package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// throttleMemory is how long wrong passwords are remembered after the last one. It is longer than any delay, so that
// the clean-up never removes a counter that may still delay a sign-in.
const throttleMemory = 24 * time.Hour

// networkMemory is how long a network stays known after the last sign-in from it.
const networkMemory = 90 * 24 * time.Hour

// Deleted counts what DeleteExpired has removed.
type Deleted struct {
	SignUps, Users, Sessions, Codes, Throttles, Limits, Events, Networks, Endings, Queued int64
}

// Retention is how long DeleteExpired keeps what has no time of expiry of its own.
type Retention struct {
	Unverified time.Duration // sign-ups that were not proved
	Events     time.Duration
	Tokens     time.Duration // how long an access token may be alive after its session has ended or expired

	Invitation identity.Event // recorded for each invitation that is removed; zero: none
}

// DeleteExpired removes at most batch rows of each table:
//
//   - sign-ups that were not proved in time, unless they have a code that still holds, and
//     invitations that were not accepted in time
//   - sessions that expired by now, on the day after
//   - codes that have expired
//   - failures, and known networks, whose memory is over
//   - limits that are completely free again
//   - events, and endings of sessions, that are too old
//   - events that wait for a receiver, if there has been none for a time
//
// One process at a time does this. The others remove nothing. If a count reaches batch,
// there is more to remove. DeleteExpired waits for no lock.
func (s *Store) DeleteExpired(
	ctx context.Context, now time.Time, keep Retention, batch int,
) (deleted Deleted, err error) {
	// Sign-ups and accounts come first: a transaction that has locked a row of an account
	// must not ask for the lock of an account.
	steps := []struct {
		st    *statement
		args  pgx.NamedArgs
		count *int64
	}{
		{named("DeleteSignUps"), pgx.NamedArgs{"age": keep.Unverified}, &deleted.SignUps},
		{
			named("DeleteUnverifiedUsers"), pgx.NamedArgs{"age": keep.Unverified, "event": eventArg(keep.Invitation)},
			&deleted.Users,
		},
		{named("DeleteSessions"), pgx.NamedArgs{"now": now}, &deleted.Sessions},
		{named("DeleteCodes"), pgx.NamedArgs{}, &deleted.Codes},
		{named("DeleteThrottles"), pgx.NamedArgs{"age": throttleMemory}, &deleted.Throttles},
		{named("DeleteNetworks"), pgx.NamedArgs{"age": networkMemory}, &deleted.Networks},
		{named("DeleteLimits"), pgx.NamedArgs{}, &deleted.Limits},
		{named("DeleteEvents"), pgx.NamedArgs{"age": keep.Events}, &deleted.Events},
		{named("DeleteEndings"), pgx.NamedArgs{"age": keep.Tokens}, &deleted.Endings},
		{named("DeleteQueuedEvents"), pgx.NamedArgs{}, &deleted.Queued},
	}
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		deleted = Deleted{}
		var mine bool
		err := named("TryCleanUpLock").queryRow(ctx, tx, pgx.NamedArgs{
			"lock": cleanUpLock, "tokens_dead_before": now.Add(-keep.Tokens),
		}).Scan(&mine)
		if err != nil || !mine {
			return err
		}
		for _, step := range steps {
			step.args["batch"] = batch
			if err := step.st.queryRow(ctx, tx, step.args).Scan(step.count); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Deleted{}, err
	}
	return deleted, nil
}
