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

// accountThrottle is the key under which wrong passwords of the user u are counted
// that come from where the client is: the place's own, or that of all strangers.
const accountThrottle = `CASE WHEN ` + isFamiliar + ` THEN ` + userPlace + ` ELSE ` + userThrottle + ` END`

// allThrottles is what failures of a user, of whom changed has id and throttle, are
// counted under, by whomever.
const allThrottles = `SELECT changed.throttle FROM changed
	UNION ALL SELECT f.place FROM familiar_places f JOIN changed ON f.user_id = changed.id`

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
