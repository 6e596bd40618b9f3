package postgres

import "time"

// placeMemory is how long a place stays familiar after it was last seen.
const placeMemory = 90 * 24 * time.Hour

// userPlace is the digest of the user u and of where the client is, client.place.
// It is made, and looked for, as well where the login is nobody's, so that
// known and unknown take the same time.
const (
	anyID     = `coalesce(u.id, '00000000-0000-0000-0000-000000000000'::uuid)`
	userPlace = `sha256(convert_to('place:' || ` + anyID + ` || ' ' || client.place, 'UTF8'))`
)

// isFamiliar is true where the user u has signed in from where the client is. No
// row has the digest of a place that is not known.
const isFamiliar = `EXISTS (SELECT FROM familiar_places f WHERE f.user_id = ` + anyID + ` AND f.place = ` + userPlace + `)`

// throttleKey and asThrottleKey make the part of a FROM that is called k: the key under
// which wrong passwords for the user u are counted that come from where the client is,
// and whether the place is familiar. Between them stands the login, in canonical form.
// A key is a digest: it does not show whose it is. It is made in the same way, at the
// same cost, where no account has the login.
const (
	throttleKey = `(SELECT f.familiar, CASE WHEN f.familiar
			THEN sha256(` + userPlace + ` || convert_to(l.login, 'UTF8'))
			ELSE sha256(convert_to('name:' || l.login, 'UTF8')) END AS key
		FROM (SELECT ` + isFamiliar + ` AS familiar) f, (SELECT `
	asThrottleKey = ` AS login) l) k`
)

// placeThrottles are the keys under which failures from the places of a user are
// counted, who is changed. Those of strangers are counted for a login alone, and
// nothing that its owner does shows in them.
const placeThrottles = `SELECT sha256(f.place || convert_to(name, 'UTF8'))
	FROM changed JOIN familiar_places f ON f.user_id = changed.id,
		LATERAL unnest(ARRAY[changed.canonical_username, changed.canonical_email]) name`

// becomesFamiliar and fromNowOn make a part of a WITH that has the users' ids in
// account, with the parameter that says where the client is between them. It
// writes at most once a day, so that signing in at home costs a look at an index;
// and the places that were not seen for longest go, but for twenty.
const (
	becomesFamiliar = `here AS (
			SELECT u.id AS user_id, ` + userPlace + ` AS place FROM account u, (SELECT `
	fromNowOn = `::text AS place) client
			WHERE client.place <> ''
		), seen AS (
			INSERT INTO familiar_places (user_id, place, last_seen_at)
			SELECT here.user_id, here.place, now() FROM here
			WHERE NOT EXISTS (SELECT FROM familiar_places f
				WHERE f.user_id = here.user_id AND f.place = here.place AND f.last_seen_at > now() - interval '1 day')
			ON CONFLICT (user_id, place) DO UPDATE SET last_seen_at = now()
			RETURNING user_id, place
		), crowded AS (
			DELETE FROM familiar_places WHERE (user_id, place) IN (
				SELECT f.user_id, f.place FROM familiar_places f JOIN seen ON f.user_id = seen.user_id
				WHERE f.place <> seen.place
				ORDER BY f.last_seen_at DESC, f.place
				OFFSET 19)
		)`
)
