-- Codes, and what they prove. An account or a sign-up has at most one code of a purpose:
-- a new code replaces the old one.

-- name: IssueCode
-- Stores a code for the owner of an address: its account, else the newest sign-up with
-- the address, or the newest account that waits to change to it. The statement holds
-- the lock of the owner, so that the address is still the owner's when the code is
-- stored. A code for an address that was changed meanwhile would open the account to
-- the reader of the former mailbox.
WITH account AS (
    SELECT u.id, u.email_verified_at
    FROM users u
    WHERE u.canonical_email = :'email'::text
    FOR NO KEY UPDATE
), signup AS (
    SELECT w.id, w.created_at
    FROM signups w
    WHERE w.canonical_email = :'email'::text AND NOT EXISTS (SELECT FROM account)
    ORDER BY w.created_at DESC LIMIT 1
    FOR KEY SHARE
), changing AS (
    SELECT u.id, u.unproved_since
    FROM users u
    WHERE u.canonical_unproved_email = :'email'::text AND :'purpose'::text = 'verification'
        AND NOT EXISTS (SELECT FROM account)
    ORDER BY u.unproved_since DESC LIMIT 1
    FOR NO KEY UPDATE
), owner AS (
    SELECT id AS user_id, NULL::uuid AS signup_id, '' AS target, now() AS since
    FROM account WHERE :'purpose'::text <> 'verification' OR email_verified_at IS NULL
    UNION ALL
    SELECT NULL::uuid, id, '', created_at FROM signup
    UNION ALL
    SELECT id, NULL::uuid, :'email'::text, unproved_since FROM changing
    ORDER BY since DESC LIMIT 1
), issued AS (
    INSERT INTO codes (hash, user_id, signup_id, purpose, target, expires_at)
    SELECT :'code', owner.user_id, owner.signup_id, :'purpose'::text, owner.target, now() + :'ttl' FROM owner
    ON CONFLICT (coalesce(user_id, signup_id), purpose) DO UPDATE
    SET hash = excluded.hash, target = excluded.target, expires_at = excluded.expires_at
    RETURNING coalesce(user_id, signup_id) AS id
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, coalesce(e.user_id, issued.id), e.session_id, e.request_id, e.address, e.details
    FROM issued, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT (SELECT id::text FROM issued), EXISTS (SELECT FROM account);

-- name: StoreCode
-- Stores a code while the caller holds the lock of its owner.
WITH issued AS (
    INSERT INTO codes (hash, user_id, signup_id, purpose, target, expires_at)
    VALUES (:'code', :'user_id', :'signup_id', :'purpose', :'target', now() + :'ttl')
    ON CONFLICT (coalesce(user_id, signup_id), purpose) DO UPDATE
    SET hash = excluded.hash, target = excluded.target, expires_at = excluded.expires_at
    RETURNING coalesce(user_id, signup_id) AS id
)
INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
SELECT e.event, coalesce(e.user_id, issued.id), e.session_id, e.request_id, e.address, e.details
FROM issued, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
WHERE e.event IS NOT NULL;

-- name: IssueEmailChange
-- Stores the code of a change of address while the caller holds the lock of the account,
-- unless another account has the address.
WITH issued AS (
    INSERT INTO codes (hash, user_id, purpose, target, expires_at)
    SELECT :'code', :'user_id', :'purpose', :'target'::text, now() + :'ttl'
    WHERE NOT EXISTS (SELECT FROM users WHERE canonical_email = :'target'::text AND id <> :'user_id')
    ON CONFLICT (coalesce(user_id, signup_id), purpose) DO UPDATE
    SET hash = excluded.hash, target = excluded.target, expires_at = excluded.expires_at
    RETURNING user_id
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, coalesce(e.user_id, issued.user_id), e.session_id, e.request_id, e.address, e.details
    FROM issued, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT FROM issued;

-- name: FindClaims
-- Everything that claims the address of a live verification code: the sign-ups with the
-- address, the accounts that wait to change to it, and an account that a former release
-- created from a sign-up. The owner of the code comes first.
WITH code AS (
    SELECT c.user_id, c.signup_id, c.target,
        coalesce(w.canonical_email, nullif(c.target, ''), u.canonical_email) AS address
    FROM codes c
    LEFT JOIN signups w ON w.id = c.signup_id
    LEFT JOIN users u ON u.id = c.user_id
    WHERE c.hash = :'code' AND c.purpose = 'verification' AND c.expires_at > now()
), claims AS (
    (SELECT w.id, true AS is_signup, w.username, w.email, w.password_hash, w.created_at AS since
    FROM signups w, code WHERE w.canonical_email = code.address AND w.id IS DISTINCT FROM code.signup_id
    ORDER BY w.created_at DESC LIMIT :'limit')
    UNION ALL
    SELECT w.id, true, w.username, w.email, w.password_hash, 'infinity'
    FROM signups w, code WHERE w.id = code.signup_id
    UNION ALL
    SELECT u.id, false, u.username, u.unproved_email, u.password_hash,
        CASE WHEN u.id = code.user_id THEN 'infinity' ELSE u.unproved_since END
    FROM users u, code WHERE u.canonical_unproved_email = code.address
    UNION ALL
    SELECT u.id, false, u.username, u.email, u.password_hash, 'infinity'
    FROM users u, code WHERE u.id = code.user_id AND code.target = '' AND u.email_verified_at IS NULL
)
SELECT id::text, is_signup, username, email, password_hash
FROM claims
WHERE NOT EXISTS (
    SELECT FROM users u, code WHERE u.canonical_email = code.address AND u.email_verified_at IS NOT NULL)
ORDER BY since DESC LIMIT :'limit';

-- name: LockAddressOfCode
-- Finds a live verification code, and takes the lock of its address until the
-- transaction ends.
SELECT coalesce(code.user_id, code.signup_id)::text, code.address,
    pg_advisory_xact_lock(hashtextextended('address:' || code.address, 0))::text
FROM (
    SELECT c.user_id, c.signup_id, coalesce(w.canonical_email, nullif(c.target, ''), u.canonical_email) AS address
    FROM codes c
    LEFT JOIN signups w ON w.id = c.signup_id
    LEFT JOIN users u ON u.id = c.user_id
    WHERE c.hash = :'code' AND c.purpose = 'verification' AND c.expires_at > now()
) code;

-- name: LockAddress
-- Takes the lock of an address until the transaction ends. It comes before the lock of
-- an account.
SELECT pg_advisory_xact_lock(hashtextextended('address:' || :'email'::text, 0))::text;

-- name: LockAddressOfSignUp
SELECT pg_advisory_xact_lock(hashtextextended('address:' || canonical_email, 0))::text
FROM signups WHERE id = :'signup_id';

-- name: ProveSignUp
-- Creates an account from a sign-up whose address is proved, and opens its first
-- session. The sign-up is the right one if it has the password hash of the caller or,
-- if the caller has none, if it is the only claim to the address. All other sign-ups
-- with the address are deleted. Nothing is created if an account has the username or
-- the address.
WITH claim AS (
    SELECT w.id, coalesce(nullif(:'username'::text, ''), w.username) AS username,
        coalesce(nullif(:'canonical_username'::text, ''), w.canonical_username) AS canonical_username,
        w.email, w.canonical_email, w.first_name, w.last_name, w.scope, w.password_hash, w.language, w.created_at
    FROM signups w
    WHERE w.id = :'claim_id' AND w.canonical_email = :'address'::text
        AND (w.password_hash = :'password_hash'::text OR :'password_hash'::text = ''
            AND NOT EXISTS (
                SELECT FROM signups o WHERE o.canonical_email = :'address'::text AND o.id <> :'claim_id')
            AND NOT EXISTS (
                SELECT FROM users o WHERE o.canonical_unproved_email = :'address'::text AND o.id <> :'claim_id'))
        AND EXISTS (
            SELECT FROM codes c
            WHERE c.hash = :'code' AND c.purpose = 'verification' AND c.expires_at > now())
), created AS (
    INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name,
        scope, password_hash, language, created_at, email_verified_at, activated_at)
    SELECT id, username, canonical_username, email, canonical_email, first_name, last_name,
        scope, password_hash, language, created_at, now(), now()
    FROM claim
    ON CONFLICT DO NOTHING
    RETURNING *
), deleted AS (
    DELETE FROM signups w USING created WHERE w.canonical_email = created.canonical_email
), used AS (
    DELETE FROM codes c USING created WHERE c.hash = :'code'
), remembered AS (
    -- The network of the client is the first known one.
    INSERT INTO familiar_places (user_id, place, last_seen_at)
    SELECT created.id, sha256(convert_to('place:' || created.id || ' ' || :'network'::text, 'UTF8')), now()
    FROM created
    WHERE :'network'::text <> ''
), opened AS (
    INSERT INTO sessions (id, user_id, scope, opened_at, refreshed_at, expires_at, ends_at, user_agent)
    SELECT :'session_id', created.id, created.scope,
        :'opened_at', :'opened_at', :'expires_at', :'ends_at', :'user_agent'
    FROM created
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, coalesce(e.user_id, created.id), e.session_id, e.request_id, e.address, e.details
    FROM created, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text
FROM created u;

-- name: ProveEmail
-- Makes a proved address the account's own, ends its sessions, and opens a new one. The
-- notice goes to the address that the account had before. The claim is chosen as in
-- ProveSignUp.
WITH verified AS (
    UPDATE users u
    SET email = coalesce(u.unproved_email, u.email),
        canonical_email = coalesce(u.canonical_unproved_email, u.canonical_email),
        unproved_email = NULL, canonical_unproved_email = NULL, unproved_since = NULL,
        email_verified_at = now(), activated_at = coalesce(u.activated_at, now()), updated_at = now()
    WHERE u.id = :'claim_id' AND coalesce(u.canonical_unproved_email, u.canonical_email) = :'address'::text
        AND u.suspended_at IS NULL
        AND (u.password_hash = :'password_hash'::text OR :'password_hash'::text = ''
            AND NOT EXISTS (
                SELECT FROM signups o WHERE o.canonical_email = :'address'::text AND o.id <> :'claim_id')
            AND NOT EXISTS (
                SELECT FROM users o WHERE o.canonical_unproved_email = :'address'::text AND o.id <> :'claim_id'))
        AND NOT EXISTS (SELECT FROM users o WHERE o.canonical_email = :'address'::text AND o.id <> :'claim_id')
        AND EXISTS (
            SELECT FROM codes c
            WHERE c.hash = :'code' AND c.purpose = 'verification' AND c.expires_at > now())
    RETURNING u.*
), used AS (
    DELETE FROM codes c USING verified WHERE c.hash = :'code' OR c.user_id = verified.id
), ended AS (
    DELETE FROM sessions s USING verified WHERE s.user_id = verified.id
), deleted AS (
    DELETE FROM signups w USING verified WHERE w.canonical_email = verified.canonical_email
), client AS (
    -- The network of the client becomes a known one; see OpenSession.
    SELECT verified.id AS user_id,
        sha256(convert_to('place:' || verified.id || ' ' || :'network'::text, 'UTF8')) AS digest
    FROM verified
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
), opened AS (
    INSERT INTO sessions (id, user_id, scope, opened_at, refreshed_at, expires_at, ends_at, user_agent)
    SELECT :'session_id', verified.id, verified.scope,
        :'opened_at', :'opened_at', :'expires_at', :'ends_at', :'user_agent'
    FROM verified
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, coalesce(e.user_id, verified.id), e.session_id, e.request_id, e.address, e.details
    FROM verified, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
), notified AS (
    -- users still has the former address here: the statement began before its change.
    INSERT INTO mails (purpose, recipient, canonical_recipient, user_id, username, language)
    SELECT :'notice', u.canonical_email, u.canonical_email, u.id, u.username,
        coalesce(nullif(u.language, ''), :'notice_language')
    FROM verified JOIN users u ON u.id = verified.id
    WHERE :'notice'::text IS NOT NULL AND u.canonical_email <> :'address'::text
)
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text
FROM verified u;

-- name: ExplainFailedProof
-- Finds out why neither ProveSignUp nor ProveEmail has proved a claim, in the same
-- transaction: whether the code holds, whether the claim is the right one, whether its
-- account is suspended, and whether another account has the username.
SELECT EXISTS (
        SELECT FROM codes c
        WHERE c.hash = :'code' AND c.purpose = 'verification' AND c.expires_at > now())
        AND NOT EXISTS (SELECT FROM users WHERE canonical_email = :'address'::text AND id <> :'claim_id'),
    EXISTS (
        SELECT FROM (
            SELECT w.password_hash FROM signups w
            WHERE w.id = :'claim_id' AND w.canonical_email = :'address'::text
            UNION ALL
            SELECT u.password_hash FROM users u
            WHERE u.id = :'claim_id' AND coalesce(u.canonical_unproved_email, u.canonical_email) = :'address'::text
        ) claim
        WHERE claim.password_hash = :'password_hash'::text OR :'password_hash'::text = ''
            AND NOT EXISTS (
                SELECT FROM signups o WHERE o.canonical_email = :'address'::text AND o.id <> :'claim_id')
            AND NOT EXISTS (
                SELECT FROM users o WHERE o.canonical_unproved_email = :'address'::text AND o.id <> :'claim_id')),
    EXISTS (SELECT FROM users WHERE id = :'claim_id' AND suspended_at IS NOT NULL),
    EXISTS (
        SELECT FROM users WHERE id <> :'claim_id' AND canonical_username = coalesce(
            nullif(:'canonical_username', ''), (SELECT canonical_username FROM signups WHERE id = :'claim_id')));

-- name: FindRecovery
-- The owner of a live recovery code: an account, or a sign-up if no account has its
-- address.
SELECT coalesce(u.id, w.id)::text, u.id IS NULL, coalesce(u.username, w.username),
    coalesce(u.email, w.email), coalesce(u.password_hash, w.password_hash)
FROM codes c
LEFT JOIN users u ON u.id = c.user_id
LEFT JOIN signups w ON w.id = c.signup_id
WHERE c.hash = :'code' AND c.purpose = 'recovery' AND c.expires_at > now()
    AND NOT EXISTS (SELECT FROM users o WHERE o.canonical_email = w.canonical_email);

-- name: RecoverUser
-- Sets the password of an account whose recovery code is redeemed, ends its sessions,
-- voids its codes, and forgets the failures from known networks.
WITH used AS (
    DELETE FROM codes c
    WHERE c.hash = :'code' AND c.purpose = 'recovery' AND c.expires_at > now() AND c.user_id = :'user_id'
    RETURNING c.user_id
), voided AS (
    DELETE FROM codes c USING used WHERE c.user_id = used.user_id AND c.hash <> :'code'
), ended AS (
    DELETE FROM sessions s USING used WHERE s.user_id = used.user_id
), changed AS (
    UPDATE users u
    SET password_hash = :'new_hash', email_verified_at = coalesce(u.email_verified_at, now()),
        activated_at = coalesce(u.activated_at, now()), updated_at = now()
    FROM used
    WHERE u.id = used.user_id
    RETURNING u.id, u.canonical_username, u.canonical_email, u.username, u.language
), client AS (
    -- The network of the client becomes a known one; see OpenSession.
    SELECT changed.id AS user_id,
        sha256(convert_to('place:' || changed.id || ' ' || :'network'::text, 'UTF8')) AS digest
    FROM changed
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
    DELETE FROM throttles WHERE key IN (
        SELECT sha256(f.place || convert_to(login, 'UTF8'))
        FROM changed JOIN familiar_places f ON f.user_id = changed.id,
            LATERAL unnest(ARRAY[changed.canonical_username, changed.canonical_email]) login)
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM used, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
), notified AS (
    INSERT INTO mails (purpose, recipient, canonical_recipient, user_id, username, language)
    SELECT :'notice', u.canonical_email, u.canonical_email, u.id, u.username,
        coalesce(nullif(u.language, ''), :'notice_language')
    FROM changed u
    WHERE :'notice'::text IS NOT NULL
)
SELECT FROM used;

-- name: RecoverSignUp
-- Creates an account from a sign-up whose recovery code is redeemed, with the password
-- that the reader of the mailbox has chosen. Under the lock of the address only the
-- username can be taken.
WITH claim AS (
    SELECT w.id, w.username, w.canonical_username, w.email, w.canonical_email, w.first_name, w.last_name,
        w.scope, w.language, w.created_at
    FROM codes c JOIN signups w ON w.id = c.signup_id
    WHERE c.hash = :'code' AND c.purpose = 'recovery' AND c.expires_at > now() AND w.id = :'signup_id'
        AND NOT EXISTS (SELECT FROM users o WHERE o.canonical_email = w.canonical_email)
), created AS (
    INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name,
        scope, password_hash, language, created_at, email_verified_at, activated_at)
    SELECT id, username, canonical_username, email, canonical_email, first_name, last_name,
        scope, :'new_hash', language, created_at, now(), now()
    FROM claim
    ON CONFLICT DO NOTHING
    RETURNING *
), deleted AS (
    DELETE FROM signups w USING created WHERE w.canonical_email = created.canonical_email
), remembered AS (
    -- The network of the client is the first known one.
    INSERT INTO familiar_places (user_id, place, last_seen_at)
    SELECT created.id, sha256(convert_to('place:' || created.id || ' ' || :'network'::text, 'UTF8')), now()
    FROM created
    WHERE :'network'::text <> ''
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM created, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT EXISTS (SELECT FROM claim), EXISTS (SELECT FROM created);

-- name: ChangeEmail
-- Redeems the code of a change of address. The code proves the address if it was sent
-- there; otherwise the address waits for its own proof. If another account has the
-- address, nothing changes when the code proves it, or when :'refuse_taken' is true.
WITH code AS (
    SELECT c.user_id, c.target <> '' OR u.canonical_email = :'canonical_email'::text AS proves,
        EXISTS (
            SELECT FROM users o WHERE o.canonical_email = :'canonical_email'::text AND o.id <> :'user_id') AS taken
    FROM codes c JOIN users u ON u.id = c.user_id
    WHERE c.hash = :'code' AND c.purpose = 'email_change' AND c.expires_at > now() AND c.user_id = :'user_id'
        AND c.target IN ('', :'canonical_email'::text)
), changed AS (
    UPDATE users u
    SET email = CASE WHEN code.proves THEN :'email' ELSE u.email END,
        canonical_email = CASE WHEN code.proves THEN :'canonical_email'::text ELSE u.canonical_email END,
        email_verified_at = CASE WHEN code.proves THEN now() ELSE u.email_verified_at END,
        activated_at = CASE WHEN code.proves THEN coalesce(u.activated_at, now()) ELSE u.activated_at END,
        unproved_email = CASE WHEN NOT code.proves THEN :'email' END,
        canonical_unproved_email = CASE WHEN NOT code.proves THEN :'canonical_email'::text END,
        unproved_since = CASE WHEN NOT code.proves THEN now() END,
        updated_at = now()
    FROM code
    WHERE u.id = code.user_id AND NOT (code.taken AND (code.proves OR :'refuse_taken'))
    RETURNING u.*
), voided AS (
    DELETE FROM codes c USING changed WHERE c.user_id = changed.id
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM changed, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
), notified AS (
    -- users still has the former address here: the statement began before its change.
    INSERT INTO mails (purpose, recipient, canonical_recipient, user_id, username, language)
    SELECT :'notice', u.canonical_email, u.canonical_email, u.id, u.username,
        coalesce(nullif(u.language, ''), :'notice_language')
    FROM changed JOIN users u ON u.id = changed.id
    WHERE :'notice'::text IS NOT NULL AND u.canonical_email <> :'canonical_email'::text
)
SELECT u.id::text, u.username, coalesce(u.unproved_email, u.email), u.first_name, u.last_name, u.scope,
    u.email_verified_at IS NOT NULL AND u.unproved_email IS NULL, u.language, u.created_at, u.updated_at,
    u.roles, u.metadata::text
FROM changed u;

-- name: FindEmailChange
-- Whether a code of a change of address holds, after ChangeEmail has changed nothing.
SELECT FROM codes c
WHERE c.hash = :'code' AND c.purpose = 'email_change' AND c.expires_at > now()
    AND c.user_id = :'user_id' AND c.target IN ('', :'canonical_email');
