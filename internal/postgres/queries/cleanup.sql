-- The removal of what has ended. Each statement skips locked rows, so that it waits for
-- no lock, and returns how many rows it has removed.
--
-- A row that is locked cannot move, so its place (ctid) finds it without another look at
-- an index. ARRAY keeps the planner from joining: in a table that grows, it would at times
-- read the whole table.

-- name: TryCleanUpLock
-- It also says, for the rest of the transaction, that sessions which expired before
-- :'tokens_dead_before' have no token that is still alive: their removal is not an ending.
SELECT pg_try_advisory_xact_lock(:'lock')
    AND set_config('auth_gateway.tokens_dead_before', :'tokens_dead_before'::timestamptz::text, true) <> '';

-- name: DeleteSignUps
WITH deleted AS (
    DELETE FROM signups WHERE ctid = ANY (ARRAY(
        SELECT w.ctid FROM signups w
        WHERE w.created_at < now() - :'age'::interval
            AND NOT EXISTS (SELECT FROM codes c WHERE c.signup_id = w.id AND c.expires_at > now())
        ORDER BY w.created_at LIMIT :'batch' FOR UPDATE SKIP LOCKED))
    RETURNING id
)
SELECT count(*) FROM deleted;

-- name: DeleteUnverifiedUsers
-- Invitations that were not accepted. A former release also created accounts from sign-ups before they were verified.
WITH deleted AS (
    DELETE FROM users WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM users
        WHERE activated_at IS NULL AND created_at < now() - :'age'::interval
        ORDER BY created_at LIMIT :'batch' FOR UPDATE SKIP LOCKED))
    RETURNING id, canonical_username, canonical_email
), audited AS (
    INSERT INTO audit_events (event, user_id)
    SELECT e.event, deleted.id
    FROM deleted, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
), forgotten AS (
    DELETE FROM throttles WHERE key IN (
        SELECT sha256(f.place || convert_to(login, 'UTF8'))
        FROM deleted JOIN familiar_places f ON f.user_id = deleted.id,
            LATERAL unnest(ARRAY[deleted.canonical_username, deleted.canonical_email]) login)
)
SELECT count(*) FROM deleted;

-- name: DeleteSessions
-- Sessions that expired before the day of :'now'. Only the day has an index; see the
-- comment of the table.
WITH deleted AS (
    DELETE FROM sessions WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM sessions
        WHERE expires_on < (:'now'::timestamptz AT TIME ZONE 'UTC')::date
        ORDER BY expires_on LIMIT :'batch' FOR UPDATE SKIP LOCKED))
    RETURNING id
)
SELECT count(*) FROM deleted;

-- name: DeleteCodes
WITH deleted AS (
    DELETE FROM codes WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM codes
        WHERE expires_at <= now()
        ORDER BY expires_at LIMIT :'batch' FOR UPDATE SKIP LOCKED))
    RETURNING hash
)
SELECT count(*) FROM deleted;

-- name: DeleteThrottles
WITH deleted AS (
    DELETE FROM throttles WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM throttles
        WHERE last_failure_at < now() - :'age'::interval
        ORDER BY last_failure_at LIMIT :'batch' FOR UPDATE SKIP LOCKED))
    RETURNING key
)
SELECT count(*) FROM deleted;

-- name: DeleteNetworks
WITH deleted AS (
    DELETE FROM familiar_places WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM familiar_places
        WHERE last_seen_at < now() - :'age'::interval
        ORDER BY last_seen_at LIMIT :'batch' FOR UPDATE SKIP LOCKED))
    RETURNING place
)
SELECT count(*) FROM deleted;

-- name: DeleteLimits
WITH deleted AS (
    DELETE FROM limits WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM limits
        WHERE until <= now()
        ORDER BY until LIMIT :'batch' FOR UPDATE SKIP LOCKED))
    RETURNING key
)
SELECT count(*) FROM deleted;

-- name: DeleteEvents
WITH deleted AS (
    DELETE FROM audit_events WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM audit_events
        WHERE at < now() - :'age'::interval
        ORDER BY at LIMIT :'batch' FOR UPDATE SKIP LOCKED))
    RETURNING id
)
SELECT count(*) FROM deleted;

-- name: DeleteEndings
WITH deleted AS (
    DELETE FROM endings WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM endings
        WHERE ended_at < now() - :'age'::interval
        ORDER BY ended_at LIMIT :'batch' FOR UPDATE SKIP LOCKED))
    RETURNING id
)
SELECT count(*) FROM deleted;

-- name: DeleteQueuedEvents
-- The events that wait for a receiver, if there has been none for a time.
WITH deleted AS (
    DELETE FROM queued_events WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM queued_events
        WHERE NOT EXISTS (SELECT FROM event_webhook WHERE until > now())
        ORDER BY id LIMIT :'batch' FOR UPDATE SKIP LOCKED))
    RETURNING id
)
SELECT count(*) FROM deleted;
