-- Accounts: their profile, their password and its failures.

-- name: FindUser
-- The account of a live session. An address that is not proved yet is shown in place
-- of the proved one.
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text
FROM sessions s, users u
WHERE s.id = :'session_id' AND s.user_id = :'user_id' AND s.expires_at > :'now'
    AND u.id = s.user_id AND u.suspended_at IS NULL;

-- name: LockUser
-- Takes the lock of an account until the transaction ends. Only a later statement is
-- sure to see what the previous holder of the lock did.
SELECT FROM users WHERE id = :'user_id' FOR NO KEY UPDATE;

-- name: FindCredentialsByUsername
-- The account with a username, and the failures that count against the caller.
--
-- Failures from a known network, one in which the user has signed in, are counted apart
-- from all others. Their key is a digest, so that the table does not show whose they
-- are. Both digests are also computed when no account has the username, so that the
-- statement takes as long.
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text,
    u.id IS NOT NULL, u.password_hash, u.activated_at IS NOT NULL, u.suspended_at IS NOT NULL,
    throttle.key, network.known, coalesce(t.failures, 0),
    coalesce(extract(epoch FROM greatest(now() - t.last_failure_at, interval '0')) * 1000000, 0)::bigint
FROM (SELECT :'username'::text COLLATE "C" AS canonical) login
LEFT JOIN users u ON u.canonical_username = login.canonical
CROSS JOIN LATERAL (SELECT coalesce(u.id, '00000000-0000-0000-0000-000000000000'::uuid) AS id) owner
CROSS JOIN LATERAL (
    SELECT sha256(convert_to('place:' || owner.id || ' ' || :'network'::text, 'UTF8')) AS digest
) client
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM familiar_places f WHERE f.user_id = owner.id AND f.place = client.digest
    ) AS known
) network
CROSS JOIN LATERAL (
    SELECT CASE WHEN network.known
        THEN sha256(client.digest || convert_to(login.canonical, 'UTF8'))
        ELSE sha256(convert_to('name:' || login.canonical, 'UTF8')) END AS key
) throttle
LEFT JOIN throttles t ON t.key = throttle.key;

-- name: FindCredentialsByEmail
-- As FindCredentialsByUsername.
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text,
    u.id IS NOT NULL, u.password_hash, u.activated_at IS NOT NULL, u.suspended_at IS NOT NULL,
    throttle.key, network.known, coalesce(t.failures, 0),
    coalesce(extract(epoch FROM greatest(now() - t.last_failure_at, interval '0')) * 1000000, 0)::bigint
FROM (SELECT :'email'::text COLLATE "C" AS canonical) login
LEFT JOIN users u ON u.canonical_email = login.canonical
CROSS JOIN LATERAL (SELECT coalesce(u.id, '00000000-0000-0000-0000-000000000000'::uuid) AS id) owner
CROSS JOIN LATERAL (
    SELECT sha256(convert_to('place:' || owner.id || ' ' || :'network'::text, 'UTF8')) AS digest
) client
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM familiar_places f WHERE f.user_id = owner.id AND f.place = client.digest
    ) AS known
) network
CROSS JOIN LATERAL (
    SELECT CASE WHEN network.known
        THEN sha256(client.digest || convert_to(login.canonical, 'UTF8'))
        ELSE sha256(convert_to('name:' || login.canonical, 'UTF8')) END AS key
) throttle
LEFT JOIN throttles t ON t.key = throttle.key;

-- name: FindPassword
-- As FindCredentialsByUsername, for the account of a live session.
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text,
    u.id IS NOT NULL, u.password_hash, u.activated_at IS NOT NULL, u.suspended_at IS NOT NULL,
    throttle.key, network.known, coalesce(t.failures, 0),
    coalesce(extract(epoch FROM greatest(now() - t.last_failure_at, interval '0')) * 1000000, 0)::bigint
FROM sessions s
JOIN users u ON u.id = s.user_id
CROSS JOIN LATERAL (
    SELECT sha256(convert_to('place:' || u.id || ' ' || :'network'::text, 'UTF8')) AS digest
) client
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM familiar_places f WHERE f.user_id = u.id AND f.place = client.digest
    ) AS known
) network
CROSS JOIN LATERAL (
    SELECT CASE WHEN network.known
        THEN sha256(client.digest || convert_to(u.canonical_username, 'UTF8'))
        ELSE sha256(convert_to('name:' || u.canonical_username, 'UTF8')) END AS key
) throttle
LEFT JOIN throttles t ON t.key = throttle.key
WHERE s.id = :'session_id' AND s.user_id = :'user_id' AND s.expires_at > :'now' AND u.suspended_at IS NULL;

-- name: CountFailure
WITH counted AS (
    INSERT INTO throttles (key, failures, last_failure_at)
    VALUES (:'key', 1, now())
    ON CONFLICT (key) DO UPDATE
    SET failures = throttles.failures + 1, last_failure_at = now()
    RETURNING key
)
INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
FROM counted, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
WHERE e.event IS NOT NULL;

-- name: UpdateUser
-- Returns a row of nulls when another account has the username; see change_profile.
WITH updated AS (
    SELECT * FROM change_profile(:'session_id', :'user_id', :'now',
        :'username', :'canonical_username', :'first_name', :'last_name')
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM updated, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL AND updated.id IS NOT NULL
)
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text
FROM updated u;

-- name: DeleteUser
-- Foreign keys delete the sessions, codes and known networks at the end of the
-- statement, so their failures can still be found.
WITH deleted AS (
    DELETE FROM users WHERE id = :'user_id' RETURNING id, canonical_username, canonical_email
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM deleted, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
DELETE FROM throttles WHERE key IN (
    SELECT sha256(f.place || convert_to(login, 'UTF8'))
    FROM deleted JOIN familiar_places f ON f.user_id = deleted.id,
        LATERAL unnest(ARRAY[deleted.canonical_username, deleted.canonical_email]) login);

-- name: ChangePassword
-- Ends all other sessions, voids all codes, and forgets the failures from known
-- networks. Failures from elsewhere stay: they must not show what the owner does.
WITH changed AS (
    UPDATE users
    SET password_hash = :'new_hash', updated_at = now()
    WHERE id = :'user_id' AND password_hash = :'old_hash'
    RETURNING id, canonical_username, canonical_email, username, language
), ended AS (
    DELETE FROM sessions s USING changed WHERE s.user_id = changed.id AND s.id <> :'session_id'
), voided AS (
    DELETE FROM codes c USING changed WHERE c.user_id = changed.id
), forgiven AS (
    DELETE FROM throttles WHERE key IN (
        SELECT sha256(f.place || convert_to(login, 'UTF8'))
        FROM changed JOIN familiar_places f ON f.user_id = changed.id,
            LATERAL unnest(ARRAY[changed.canonical_username, changed.canonical_email]) login)
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM changed, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
), notified AS (
    INSERT INTO mails (purpose, recipient, canonical_recipient, user_id, username, language)
    SELECT :'notice', u.canonical_email, u.canonical_email, u.id, u.username,
        coalesce(nullif(u.language, ''), :'notice_language')
    FROM changed u
    WHERE :'notice'::text IS NOT NULL
)
SELECT FROM changed;

-- name: FindPasswordSchemes
-- The schemes of all stored hashes: the least one, then for each the next. The expression
-- is that of the index.
WITH RECURSIVE used AS (
    (SELECT substring(password_hash
        FROM '^(?:\$[a-z0-9]+)?\$2[aby]\$[0-9]{2}(?=\$)|^.*(?=\$[^$]*\$[^$]*$)') COLLATE "C" AS scheme
    FROM users ORDER BY 1 LIMIT 1)
    UNION ALL
    SELECT (SELECT substring(u.password_hash
            FROM '^(?:\$[a-z0-9]+)?\$2[aby]\$[0-9]{2}(?=\$)|^.*(?=\$[^$]*\$[^$]*$)') COLLATE "C"
        FROM users u
        WHERE substring(u.password_hash
            FROM '^(?:\$[a-z0-9]+)?\$2[aby]\$[0-9]{2}(?=\$)|^.*(?=\$[^$]*\$[^$]*$)') COLLATE "C" > used.scheme
        ORDER BY 1 LIMIT 1)
    FROM used WHERE used.scheme IS NOT NULL
)
SELECT scheme FROM used WHERE scheme <> '';
