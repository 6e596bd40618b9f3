package postgres

import (
	"cmp"
	"encoding/hex"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// userColumns are what an identity.User is made of, where users is called u;
// userNames are these columns of a WITH that has returned them. An address that is
// not proved yet is shown in place of the one that is.
const (
	userColumns = `u.id::text AS id, u.username, coalesce(u.unproved_email, u.email) AS email, u.first_name, u.last_name, u.scope,
		u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL AS email_verified, u.language, u.created_at, u.updated_at`
	userNames = `id, username, email, first_name, last_name, scope, email_verified, language, created_at, updated_at`
)

// userPlaces is where userColumns go to. The columns are null where an outer
// join finds no user, who is then the zero User.
func userPlaces(u *identity.User) []any {
	return []any{
		(*zeronull.Text)(&u.ID), (*storedName)(&u.Username), (*zeronull.Text)(&u.Email),
		(*zeronull.Text)(&u.FirstName), (*zeronull.Text)(&u.LastName), (*zeronull.Text)(&u.Scope),
		&u.EmailVerified, (*zeronull.Text)(&u.Language), (*zeronull.Timestamptz)(&u.CreatedAt), (*zeronull.Timestamptz)(&u.UpdatedAt),
	}
}

// storedName is a username as the database has it. An account or sign-up without a
// username has its id in both columns: that is unique like a username, and no username
// is a UUID. So the columns keep their constraints and indexes, and a replica of a
// release that knows only accounts with usernames works on.
type storedName string

// SkipUnderlyingTypePlan implements pgtype.SkipUnderlyingTypePlanner.
func (*storedName) SkipUnderlyingTypePlan() {}

// ScanText implements pgtype.TextScanner. An id, and NULL, is no username.
func (n *storedName) ScanText(v pgtype.Text) error {
	*n = ""
	if v.Valid && !identity.IsUUID(v.String) {
		*n = storedName(v.String)
	}
	return nil
}

// stored returns what is stored for a username of what has this id.
func stored(username, id string) string { return cmp.Or(username, id) }

// credentialColumns are what identity.Credentials are made of, where users is
// called u, the key of their throttle k (see throttleKey), and the throttle t.
const credentialColumns = userColumns + `,
		u.id IS NOT NULL, u.password_hash, u.activated_at IS NOT NULL, u.suspended_at IS NOT NULL,
		k.key, k.familiar, coalesce(t.failures, 0),
		coalesce(extract(epoch FROM greatest(now() - t.last_failure_at, interval '0')) * 1000000, 0)::bigint`

// credentialPlaces is where credentialColumns go to; finish converts what
// has no type of its own.
func credentialPlaces(c *identity.Credentials) (places []any, finish func()) {
	var key []byte
	var microseconds int64
	places = append(userPlaces(&c.User),
		&c.Found, (*zeronull.Text)(&c.PasswordHash), &c.Activated, &c.Suspended,
		&key, &c.KnownNetwork, &c.Failures, &microseconds)
	return places, func() {
		copy(c.ThrottleKey[:], key)
		c.SinceFailure = time.Duration(microseconds) * time.Microsecond
	}
}

// sessionColumns are what an identity.Session is made of besides its user,
// where sessions is called s.
const sessionColumns = `s.id::text, s.scope, s.generation, s.opened_at, s.refreshed_at, s.expires_at, s.ends_at`

// sessionPlaces is where sessionColumns and then userColumns go to.
func sessionPlaces(s *identity.Session) []any {
	places := []any{&s.ID, &s.Scope, &s.Generation, &s.OpenedAt, &s.RefreshedAt, &s.ExpiresAt, &s.EndsAt}
	return append(places, userPlaces(&s.User)...)
}

// isLive is true of the session s and its user u where the caller's SessionRef,
// given as the first three parameters by refArgs, names it, and it is alive.
const isLive = `s.id = $1 AND s.user_id = $2 AND s.expires_at > $3 AND u.id = s.user_id AND u.suspended_at IS NULL`

func refArgs(ref identity.SessionRef, more ...any) []any {
	return append([]any{id(ref.ID), id(ref.UserID), ref.Now}, more...)
}

// id is a UUID as a parameter. Only the canonical spelling is one: PostgreSQL
// would take others for the same, and tokens are compared as text elsewhere.
// Any other text becomes NULL, which equals nothing and cannot be stored.
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
		return u, nil //nolint:nilerr // no UUID is not an error here: it is NULL
	}
	u.Valid = true
	return u, nil
}
