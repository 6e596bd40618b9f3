-- Sign-ups that wait for the proof of their address.

-- name: CreateSignUp
-- Stores a sign-up and its code, unless an account has the username or the address.
-- An account that is created meanwhile does no harm: what is taken is decided when
-- the sign-up is proved.
WITH taken AS (
    SELECT EXISTS (SELECT FROM users WHERE canonical_username = :'canonical_username'::text) AS username,
        EXISTS (SELECT FROM users WHERE canonical_email = :'canonical_email'::text) AS email
), created AS (
    INSERT INTO signups (id, username, canonical_username, email, canonical_email,
        first_name, last_name, scope, password_hash, language)
    SELECT :'id', :'username', :'canonical_username'::text, :'email', :'canonical_email'::text,
        :'first_name', :'last_name', :'scope', :'password_hash', :'language'
    FROM taken WHERE NOT (taken.username OR taken.email)
    RETURNING id
), issued AS (
    INSERT INTO codes (hash, signup_id, purpose, expires_at)
    SELECT :'code', created.id, :'purpose', now() + :'ttl' FROM created
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM created, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT username, email FROM taken;

-- name: CreateSignUpConcealed
-- Stores a sign-up and queues its mail, whether or not an account has its address.
WITH created AS (
    INSERT INTO signups (id, username, canonical_username, email, canonical_email,
        first_name, last_name, scope, password_hash, language)
    VALUES (:'id', :'username', :'canonical_username', :'email', :'canonical_email',
        :'first_name', :'last_name', :'scope', :'password_hash', :'language')
    RETURNING id, username
), queued AS (
    INSERT INTO mails (purpose, recipient, canonical_recipient, signup_id, username, language)
    SELECT :'mail', :'recipient', :'recipient', created.id, created.username, :'mail_language' FROM created
)
INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
FROM created, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
WHERE e.event IS NOT NULL;

-- name: FindSignUpsByEmail
SELECT id::text, true, username, email, password_hash
FROM signups
WHERE canonical_email = :'email'
ORDER BY created_at DESC LIMIT :'limit';

-- name: FindSignUpsByUsername
SELECT id::text, true, username, email, password_hash
FROM signups
WHERE canonical_username = :'username'
ORDER BY created_at DESC LIMIT :'limit';
