-- Sessions. A session is alive until it expires, unless its account is suspended.

-- name: OpenSession
-- Opens a session if the account is still as it was when the password was checked. The
-- first part locks the account under that condition. The condition includes the
-- failures: otherwise any number of guesses sent at once would all be checked.
--
-- Sessions are counted as they were when the statement began, so concurrent sign-ins of
-- one user may leave more than :'keep'. The next sign-in removes these as well.
WITH account AS (
    SELECT id FROM users
    WHERE id = :'user_id' AND password_hash = :'password_hash' AND suspended_at IS NULL
        AND NOT EXISTS (
            SELECT FROM throttles
            WHERE key = :'throttle' AND failures > :'failures' AND failures >= :'failure_limit')
    FOR NO KEY UPDATE
), opened AS (
    INSERT INTO sessions (id, user_id, scope, opened_at, refreshed_at, expires_at, ends_at, user_agent)
    SELECT :'session_id', account.id, :'scope',
        :'opened_at', :'opened_at', :'expires_at', :'ends_at', :'user_agent'
    FROM account
    RETURNING id
), pruned AS (
    DELETE FROM sessions WHERE id IN (
        SELECT s.id FROM sessions s JOIN account ON s.user_id = account.id
        ORDER BY s.opened_at DESC, s.id DESC
        OFFSET greatest(:'keep'::int - 1, 0))
), client AS (
    -- The network of the client becomes a known one. That writes at most once a day, so
    -- a sign-in from home costs one look at an index.
    SELECT account.id AS user_id,
        sha256(convert_to('place:' || account.id || ' ' || :'network'::text, 'UTF8')) AS digest
    FROM account
    WHERE :'network'::text <> ''
), remembered AS (
    INSERT INTO familiar_places (user_id, place, last_seen_at)
    SELECT client.user_id, client.digest, now() FROM client
    WHERE NOT EXISTS (
        SELECT FROM familiar_places f
        WHERE f.user_id = client.user_id AND f.place = client.digest AND f.last_seen_at > now() - interval '1 day')
    ON CONFLICT (user_id, place) DO UPDATE SET last_seen_at = now()
    RETURNING user_id, place
), forgotten AS (
    DELETE FROM familiar_places WHERE (user_id, place) IN (
        SELECT f.user_id, f.place FROM familiar_places f JOIN remembered ON f.user_id = remembered.user_id
        WHERE f.place <> remembered.place
        ORDER BY f.last_seen_at DESC, f.place
        OFFSET :'known_networks'::int - 1)
), forgiven AS (
    DELETE FROM throttles t USING account WHERE t.key = :'throttle' AND :'forgive'
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM opened, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT FROM opened;

-- name: OpenSessionWithNewHash
-- As OpenSession, and replaces the hash of the password. The UPDATE is the lock.
WITH account AS (
    UPDATE users SET password_hash = :'new_hash'
    WHERE id = :'user_id' AND password_hash = :'password_hash' AND suspended_at IS NULL
        AND NOT EXISTS (
            SELECT FROM throttles
            WHERE key = :'throttle' AND failures > :'failures' AND failures >= :'failure_limit')
    RETURNING id
), opened AS (
    INSERT INTO sessions (id, user_id, scope, opened_at, refreshed_at, expires_at, ends_at, user_agent)
    SELECT :'session_id', account.id, :'scope',
        :'opened_at', :'opened_at', :'expires_at', :'ends_at', :'user_agent'
    FROM account
    RETURNING id
), pruned AS (
    DELETE FROM sessions WHERE id IN (
        SELECT s.id FROM sessions s JOIN account ON s.user_id = account.id
        ORDER BY s.opened_at DESC, s.id DESC
        OFFSET greatest(:'keep'::int - 1, 0))
), client AS (
    SELECT account.id AS user_id,
        sha256(convert_to('place:' || account.id || ' ' || :'network'::text, 'UTF8')) AS digest
    FROM account
    WHERE :'network'::text <> ''
), remembered AS (
    INSERT INTO familiar_places (user_id, place, last_seen_at)
    SELECT client.user_id, client.digest, now() FROM client
    WHERE NOT EXISTS (
        SELECT FROM familiar_places f
        WHERE f.user_id = client.user_id AND f.place = client.digest AND f.last_seen_at > now() - interval '1 day')
    ON CONFLICT (user_id, place) DO UPDATE SET last_seen_at = now()
    RETURNING user_id, place
), forgotten AS (
    DELETE FROM familiar_places WHERE (user_id, place) IN (
        SELECT f.user_id, f.place FROM familiar_places f JOIN remembered ON f.user_id = remembered.user_id
        WHERE f.place <> remembered.place
        ORDER BY f.last_seen_at DESC, f.place
        OFFSET :'known_networks'::int - 1)
), forgiven AS (
    DELETE FROM throttles t USING account WHERE t.key = :'throttle' AND :'forgive'
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM opened, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT FROM opened;

-- name: FindSession
-- A live session and its account.
SELECT s.id::text, s.scope, s.generation, s.opened_at, s.refreshed_at, s.expires_at, s.ends_at,
    u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text
FROM sessions s, users u
WHERE s.id = :'session_id' AND s.user_id = :'user_id' AND s.expires_at > :'now'
    AND u.id = s.user_id AND u.suspended_at IS NULL;

-- name: AdvanceSession
-- Renews a live session that is of this generation, or of an earlier one: then the database has lost renewals in a
-- failover.
UPDATE sessions s
SET generation = :'generation' + 1, refreshed_at = :'refreshed_at'::timestamptz,
    expires_at = least(:'refreshed_at'::timestamptz + :'lifetime', s.ends_at)
FROM users u
WHERE s.id = :'session_id' AND s.user_id = :'user_id' AND s.expires_at > :'now'
    AND u.id = s.user_id AND u.suspended_at IS NULL AND s.generation <= :'generation'
RETURNING s.id::text, s.scope, s.generation, s.opened_at, s.refreshed_at, s.expires_at, s.ends_at,
    u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text;

-- name: EndSession
WITH ended AS (
    DELETE FROM sessions WHERE id = :'session_id' AND user_id = :'user_id' RETURNING id
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM ended, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT EXISTS (SELECT FROM ended);

-- name: FindOwnSessions
-- All live sessions of the user of a live session, which is one of them.
SELECT own.id::text, own.opened_at, own.refreshed_at, own.expires_at, own.user_agent, own.id = s.id
FROM sessions s, users u, sessions own
WHERE s.id = :'session_id' AND s.user_id = :'user_id' AND s.expires_at > :'now'
    AND u.id = s.user_id AND u.suspended_at IS NULL
    AND own.user_id = s.user_id AND own.expires_at > :'now'
ORDER BY own.opened_at DESC, own.id DESC;

-- name: EndOwnSession
-- Ends another session of the user of a live session. It needs no lock of the account:
-- it only removes.
WITH caller AS (
    SELECT s.user_id
    FROM sessions s, users u
    WHERE s.id = :'session_id' AND s.user_id = :'user_id' AND s.expires_at > :'now'
        AND u.id = s.user_id AND u.suspended_at IS NULL
), ended AS (
    DELETE FROM sessions own USING caller
    WHERE own.id = :'own_session_id' AND own.user_id = caller.user_id AND own.expires_at > :'now'
    RETURNING own.id
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM ended, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT EXISTS (SELECT FROM ended) FROM caller;
