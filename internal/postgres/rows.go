package postgres

import (
	"cmp"
	"encoding/hex"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// userDest returns the scan destinations of the columns of an account. The columns are
// null, and the User is zero, if an outer join has found none.
func userDest(u *identity.User) []any {
	return []any{
		(*zeronull.Text)(&u.ID), (*storedName)(&u.Username), (*zeronull.Text)(&u.Email),
		(*zeronull.Text)(&u.FirstName), (*zeronull.Text)(&u.LastName), (*zeronull.Text)(&u.Scope),
		&u.EmailVerified, (*zeronull.Text)(&u.Language),
		(*zeronull.Timestamptz)(&u.CreatedAt), (*zeronull.Timestamptz)(&u.UpdatedAt),
		(*zeronull.Text)(&u.Roles), (*zeronull.Text)(&u.Metadata),
	}
}

// credentialsDest returns the scan destinations of credentials. The caller converts the
// key of the throttle, and the microseconds since the last failure.
func credentialsDest(c *identity.Credentials, key *[]byte, sinceFailure *int64) []any {
	return append(userDest(&c.User),
		&c.Found, (*zeronull.Text)(&c.PasswordHash), &c.Activated, &c.Suspended,
		key, &c.KnownNetwork, &c.Failures, sinceFailure)
}

// sessionDest returns the scan destinations of a session and its account.
func sessionDest(s *identity.Session) []any {
	dest := []any{&s.ID, &s.Scope, &s.Generation, &s.OpenedAt, &s.RefreshedAt, &s.ExpiresAt, &s.EndsAt}
	return append(dest, userDest(&s.User)...)
}

// claimDest returns the scan destinations of a claim.
func claimDest(c *identity.Claim) []any {
	return []any{&c.ID, &c.IsSignUp, (*storedName)(&c.Username), &c.Email, &c.PasswordHash}
}

// sessionArgs adds to args which session the caller refers to.
func sessionArgs(ref identity.SessionRef, args pgx.NamedArgs) pgx.NamedArgs {
	if args == nil {
		args = pgx.NamedArgs{}
	}
	args["session_id"], args["user_id"], args["now"] = id(ref.ID), id(ref.UserID), ref.Now
	return args
}

// recordArgs adds an event and a notice to args.
func recordArgs(r identity.Record, args pgx.NamedArgs) pgx.NamedArgs {
	args["event"], args["notice"], args["notice_language"] = eventArg(r.Event), nil, r.Notice.Language
	if r.Notice.Purpose != "" {
		args["notice"] = r.Notice.Purpose
	}
	return args
}

// storedName is a username as the database stores it. An account or sign-up without a username has its id in both
// columns: the id is unique like a username, and no username is a UUID. So the columns keep their constraints and
// indexes, and a replica of a release that only knows accounts with usernames keeps working.
type storedName string

// SkipUnderlyingTypePlan implements pgtype.SkipUnderlyingTypePlanner.
func (*storedName) SkipUnderlyingTypePlan() {}

// ScanText implements pgtype.TextScanner. An id, or NULL, becomes the empty username.
func (n *storedName) ScanText(v pgtype.Text) error {
	*n = ""
	if v.Valid && !identity.IsUUID(v.String) {
		*n = storedName(v.String)
	}
	return nil
}

// stored returns what is stored as the username of the account or sign-up with this id.
func stored(username, id string) string { return cmp.Or(username, id) }

// id is a UUID as an argument. It accepts only the canonical spelling: PostgreSQL would take others for the same UUID,
// but tokens are compared as text elsewhere. Any other text becomes NULL, which equals nothing and cannot be stored.
type id string

// UUIDValue implements pgtype.UUIDValuer.
func (i id) UUIDValue() (pgtype.UUID, error) {
	var u pgtype.UUID
	if len(i) != 36 || i[8] != '-' || i[13] != '-' || i[18] != '-' || i[23] != '-' {
		return u, nil
	}
	for _, c := range []byte(i) {
		if 'A' <= c && c <= 'F' {
			return u, nil
		}
	}
	digits := i[:8] + i[9:13] + i[14:18] + i[19:23] + i[24:]
	if _, err := hex.Decode(u.Bytes[:], []byte(digits)); err != nil {
		return u, nil //nolint:nilerr // an invalid UUID is not an error here: it becomes NULL
	}
	u.Valid = true
	return u, nil
}
