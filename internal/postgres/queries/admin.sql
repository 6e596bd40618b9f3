-- What administrators see and do. Lists are paged by the key of the last row, so a page costs the same wherever it is,
-- and no account occurs twice or is missed. The version of an account is the transaction that wrote its row.

-- name: AdminUserByID
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text,
    u.suspended_at, u.activated_at IS NOT NULL, u.xmin::text
FROM users u
WHERE u.id = :'user_id';

-- name: AdminUserByEmail
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text,
    u.suspended_at, u.activated_at IS NOT NULL, u.xmin::text
FROM users u
WHERE u.canonical_email = :'email';

-- name: AdminUserByUsername
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text,
    u.suspended_at, u.activated_at IS NOT NULL, u.xmin::text
FROM users u
WHERE u.canonical_username = :'username';

-- name: AdminUsersByEmail
-- The accounts whose address is at least :'first' and less than :'end', after the address :'after'.
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text,
    u.suspended_at, u.activated_at IS NOT NULL, u.xmin::text, u.canonical_email
FROM users u
WHERE u.canonical_email >= :'first' AND u.canonical_email < :'end' AND u.canonical_email > :'after'
ORDER BY u.canonical_email
LIMIT :'limit';

-- name: AdminUsersByUsername
-- As AdminUsersByEmail. An account without a username has its id there.
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text,
    u.suspended_at, u.activated_at IS NOT NULL, u.xmin::text, u.canonical_username
FROM users u
WHERE u.canonical_username >= :'first' AND u.canonical_username < :'end' AND u.canonical_username > :'after'
    AND u.canonical_username <> u.id::text
ORDER BY u.canonical_username
LIMIT :'limit';

-- name: AdminUsersByCreation
-- All accounts, the newest first.
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text,
    u.suspended_at, u.activated_at IS NOT NULL, u.xmin::text
FROM users u
WHERE (u.created_at, u.id) < (:'before', :'before_id') AND u.created_at > :'created_after'
ORDER BY u.created_at DESC, u.id DESC
LIMIT :'limit';

-- name: AdminSuspendedUsers
-- As AdminUsersByCreation, of suspended accounts.
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text,
    u.suspended_at, u.activated_at IS NOT NULL, u.xmin::text
FROM users u
WHERE u.suspended_at IS NOT NULL AND (u.created_at, u.id) < (:'before', :'before_id') AND u.created_at > :'created_after'
ORDER BY u.created_at DESC, u.id DESC
LIMIT :'limit';

-- name: AdminCreateUser
-- Creates an account, unless its key is known or another account has its username or address. The caller holds the lock
-- of the address. Sign-ups that wait for an address that is verified now are removed, as by ProveSignUp.
WITH expired AS (
    DELETE FROM admin_requests WHERE created_at < now() - interval '1 day'
), known AS (
    SELECT user_id, request FROM admin_requests WHERE key = :'key'::bytea AND created_at >= now() - interval '1 day'
), created AS (
    INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name,
        scope, password_hash, language, roles, metadata, email_verified_at, activated_at)
    SELECT :'id', :'username', :'canonical_username'::text, :'email', :'canonical_email'::text, :'first_name', :'last_name',
        :'scope', :'password_hash', :'language', :'roles', :'metadata'::text::json,
        CASE WHEN :'verified'::boolean THEN now() END, CASE WHEN :'verified'::boolean THEN now() END
    WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT DO NOTHING
    RETURNING id, canonical_email, activated_at
), remembered AS (
    INSERT INTO admin_requests (key, user_id, request)
    SELECT :'key'::bytea, created.id, :'request'::bytea FROM created WHERE :'key'::bytea IS NOT NULL
), deleted AS (
    DELETE FROM signups w USING created WHERE w.canonical_email = created.canonical_email AND created.activated_at IS NOT NULL
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM created, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT coalesce((SELECT id::text FROM created), (SELECT user_id::text FROM known), ''),
    EXISTS (SELECT FROM known), EXISTS (SELECT FROM known WHERE request <> :'request'::bytea),
    EXISTS (SELECT FROM users WHERE canonical_username = :'canonical_username'::text),
    EXISTS (SELECT FROM users WHERE canonical_email = :'canonical_email'::text);

-- name: AdminVoidPassword
-- Replaces the password, ends the sessions and voids the codes. Returns whether the version of the account was the
-- expected one, and its own address.
WITH found AS (
    SELECT id, email, :'version'::text IN ('', xmin::text) AS expected FROM users WHERE id = :'user_id' FOR UPDATE
), changed AS (
    UPDATE users u SET password_hash = :'new_hash', updated_at = now() FROM found
    WHERE u.id = found.id AND found.expected
    RETURNING u.id
), ended AS (
    DELETE FROM sessions s USING changed WHERE s.user_id = changed.id
), voided AS (
    DELETE FROM codes c USING changed WHERE c.user_id = changed.id
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM changed, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT found.expected, found.email FROM found;

-- name: AdminSuspendUser
-- A trigger ends the sessions and removes the codes. Suspending a suspended account changes nothing and records
-- nothing. Returns whether the account exists, and the account if its version was the expected one.
WITH found AS (
    SELECT id, suspended_at IS NOT NULL AS done, :'version'::text IN ('', xmin::text) AS expected
    FROM users WHERE id = :'user_id' FOR UPDATE
), changed AS (
    UPDATE users u SET suspended_at = now(), updated_at = now() FROM found
    WHERE u.id = found.id AND found.expected AND NOT found.done
    RETURNING u.id
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM changed, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT found.expected, EXISTS (SELECT FROM changed) FROM found;

-- name: AdminUnsuspendUser
-- As AdminSuspendUser.
WITH found AS (
    SELECT id, suspended_at IS NULL AS done, :'version'::text IN ('', xmin::text) AS expected
    FROM users WHERE id = :'user_id' FOR UPDATE
), changed AS (
    UPDATE users u SET suspended_at = NULL, updated_at = now() FROM found
    WHERE u.id = found.id AND found.expected AND NOT found.done
    RETURNING u.id
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM changed, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT found.expected, EXISTS (SELECT FROM changed) FROM found;

-- name: AdminEditUser
WITH changed AS (
    UPDATE users SET first_name = :'first_name', last_name = :'last_name', scope = :'scope', roles = :'roles',
        metadata = :'metadata'::text::json, updated_at = now()
    WHERE id = :'user_id' AND xmin::text = :'version'::text
    RETURNING id
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM changed, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT FROM changed;

-- name: AdminVersion
SELECT :'version'::text IN ('', xmin::text) FROM users WHERE id = :'user_id' FOR UPDATE;

-- name: AdminSessions
-- The live sessions of an account, the newest first. No row: there is no account. A row of nulls: it has no session.
SELECT s.id::text, s.opened_at, s.refreshed_at, s.expires_at, s.user_agent
FROM users u LEFT JOIN sessions s ON s.user_id = u.id AND s.expires_at > :'now'
WHERE u.id = :'user_id'
ORDER BY s.opened_at DESC, s.id DESC;

-- name: AdminEndSessions
-- Ends all sessions of an account, or one. Expired ones are removed with them, and are not counted.
WITH account AS (
    SELECT id FROM users WHERE id = :'user_id'
), ended AS (
    DELETE FROM sessions s USING account
    WHERE s.user_id = account.id AND (s.id = :'session_id' OR :'all')
    RETURNING s.expires_at > :'now' AS live
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL AND EXISTS (SELECT FROM ended WHERE live)
)
SELECT (SELECT count(*) FROM ended WHERE live) FROM account;

-- name: AdminEvents
-- The newest events, before the id :'before'.
SELECT id, at, event, coalesce(user_id::text, ''), coalesce(session_id::text, ''), coalesce(request_id, ''),
    coalesce(host(address), ''), coalesce(details, '{}')
FROM audit_events
WHERE id < :'before'
ORDER BY id DESC
LIMIT :'limit';

-- name: AdminEventsOfUser
-- As AdminEvents, of one account, which may be deleted. An empty :'event' or :'actor' is any.
SELECT id, at, event, coalesce(user_id::text, ''), coalesce(session_id::text, ''), coalesce(request_id, ''),
    coalesce(host(address), ''), coalesce(details, '{}')
FROM audit_events
WHERE user_id = :'user_id' AND id < :'before'
    AND :'event'::text IN ('', event) AND (:'actor'::text = '' OR details->>'actor' = :'actor'::text)
ORDER BY id DESC
LIMIT :'limit';

-- name: AdminEventsOfActor
-- As AdminEventsOfUser, of one administrator.
SELECT id, at, event, coalesce(user_id::text, ''), coalesce(session_id::text, ''), coalesce(request_id, ''),
    coalesce(host(address), ''), coalesce(details, '{}')
FROM audit_events
WHERE (details->>'actor') COLLATE "C" = :'actor'::text AND id < :'before' AND :'event'::text IN ('', event)
ORDER BY id DESC
LIMIT :'limit';

-- name: AdminEventsOfName
-- As AdminEvents, of one kind.
SELECT id, at, event, coalesce(user_id::text, ''), coalesce(session_id::text, ''), coalesce(request_id, ''),
    coalesce(host(address), ''), coalesce(details, '{}')
FROM audit_events
WHERE event = :'event'::text AND id < :'before'
ORDER BY id DESC
LIMIT :'limit';

-- name: AdminExport
-- All that is stored about a person, in JSON. Secrets (hashes of the password, of codes and of networks) are not.
SELECT json_build_object(
    'user', json_build_object(
        'id', u.id, 'username', CASE WHEN u.username <> u.id::text THEN u.username ELSE '' END, 'email', u.email,
        'unproved_email', u.unproved_email, 'first_name', u.first_name, 'last_name', u.last_name, 'scope', u.scope,
        'roles', string_to_array(u.roles, ' '), 'metadata', u.metadata, 'language', u.language,
        'email_verified_at', u.email_verified_at, 'suspended_at', u.suspended_at,
        'created_at', u.created_at, 'updated_at', u.updated_at),
    'sessions', (SELECT coalesce(json_agg(json_build_object(
            'id', s.id, 'scope', s.scope, 'opened_at', s.opened_at, 'refreshed_at', s.refreshed_at,
            'expires_at', s.expires_at, 'user_agent', s.user_agent) ORDER BY s.opened_at DESC, s.id), '[]')
        FROM sessions s WHERE s.user_id = u.id),
    'codes', (SELECT coalesce(json_agg(json_build_object(
            'purpose', c.purpose, 'email', c.target, 'expires_at', c.expires_at) ORDER BY c.expires_at), '[]')
        FROM codes c WHERE c.user_id = u.id),
    'networks', (SELECT coalesce(json_agg(json_build_object('last_seen_at', f.last_seen_at) ORDER BY f.last_seen_at), '[]')
        FROM familiar_places f WHERE f.user_id = u.id),
    'mails', (SELECT coalesce(json_agg(json_build_object(
            'purpose', m.purpose, 'recipient', m.recipient, 'queued_at', m.created_at) ORDER BY m.id), '[]')
        FROM mails m WHERE m.user_id = u.id OR m.canonical_recipient = u.canonical_email),
    'events', (SELECT coalesce(json_agg(json_build_object(
            'at', e.at, 'event', e.event, 'session_id', e.session_id, 'request_id', e.request_id,
            'address', host(e.address), 'details', e.details) ORDER BY e.id DESC), '[]')
        FROM (SELECT * FROM audit_events a WHERE a.user_id = u.id ORDER BY a.id DESC LIMIT :'events') e)
    )::text
FROM users u
WHERE u.id = :'user_id';

-- name: AdminClock
-- The time and the version of the database.
SELECT clock_timestamp(), current_setting('server_version');

-- name: AdminConnections
-- From where servers of this user are connected to this database. Behind a pooler, that is the pooler.
SELECT coalesce(host(client_addr), ''), count(*), min(backend_start), bool_or(pid = pg_backend_pid())
FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND application_name = 'authserver'
GROUP BY client_addr
ORDER BY min(backend_start);

-- name: AdminOutbox
-- The mails that wait, by purpose. Reads the whole table, as CountMails.
SELECT purpose, count(*), min(created_at), max(attempts), min(due_at)
FROM mails
GROUP BY purpose
ORDER BY min(created_at);
