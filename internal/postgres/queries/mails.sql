-- The outbox. A mail that is claimed is not due before its lease ends; "taken" counts
-- the claims, so that the result of an earlier claim is ignored.

-- name: QueueMail
-- Does not look for an equal mail that waits already. Such a search would pass the dead
-- index entries of former mails, of which an address with an account has more, so its
-- duration would show who has an account.
INSERT INTO mails (purpose, recipient, canonical_recipient, language)
VALUES (:'mail', :'recipient', :'recipient', :'language');

-- name: QueueEmailChange
-- Queues the mail of a change of address for the account of a live session. It goes to
-- the new address, or to the account's own if no new one is named yet.
WITH caller AS (
    SELECT s.id, s.user_id, coalesce(nullif(:'target'::text, ''), u.canonical_email) AS recipient
    FROM sessions s, users u
    WHERE s.id = :'session_id' AND s.user_id = :'user_id' AND s.expires_at > :'now'
        AND u.id = s.user_id AND u.suspended_at IS NULL
), queued AS (
    INSERT INTO mails (purpose, recipient, canonical_recipient, user_id, session_id, target, language)
    SELECT :'mail'::text, caller.recipient, caller.recipient, caller.user_id, caller.id, :'target'::text, :'language'
    FROM caller
)
SELECT FROM caller;

-- name: ClaimMail
-- Claims the mail that has been due longest. Locked rows are skipped.
UPDATE mails
SET due_at = now() + :'lease'::interval, attempts = attempts + 1, taken = taken + 1
WHERE id = (SELECT id FROM mails WHERE due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, attempts, taken, purpose, canonical_recipient, target, counted,
    user_id::text, session_id::text, signup_id::text, username, language,
    (extract(epoch FROM greatest(now() - created_at, interval '0')) * 1000000)::bigint;

-- name: FindMailOwner
-- The owner of an address for a code of :'purpose', with its lock held, as in IssueCode.
-- With a :'signup_id', only that sign-up may be the owner. Also returns the language of
-- the account that has the address, or null if there is none.
WITH account AS (
    SELECT u.id, u.username, u.language, u.email_verified_at
    FROM users u
    WHERE u.canonical_email = :'email'::text
    FOR NO KEY UPDATE
), signup AS (
    SELECT w.id, w.username, w.language, w.created_at
    FROM signups w
    WHERE w.canonical_email = :'email'::text AND (:'signup_id'::uuid IS NULL OR w.id = :'signup_id'::uuid)
        AND NOT EXISTS (SELECT FROM account)
    ORDER BY w.created_at DESC LIMIT 1
    FOR KEY SHARE
), changing AS (
    SELECT u.id, u.username, u.language, u.unproved_since
    FROM users u
    WHERE u.canonical_unproved_email = :'email'::text AND :'signup_id'::uuid IS NULL
        AND :'purpose'::text = 'verification' AND NOT EXISTS (SELECT FROM account)
    ORDER BY u.unproved_since DESC LIMIT 1
    FOR NO KEY UPDATE
), owner AS (
    SELECT id AS user_id, NULL::uuid AS signup_id, '' AS target, username, language, now() AS since
    FROM account WHERE :'purpose'::text <> 'verification' OR email_verified_at IS NULL
    UNION ALL
    SELECT NULL::uuid, id, '', username, language, created_at FROM signup
    UNION ALL
    SELECT id, NULL::uuid, :'email'::text, username, language, unproved_since FROM changing
    ORDER BY since DESC LIMIT 1
)
SELECT owner.user_id::text, owner.signup_id::text, owner.target, owner.username, owner.language, account.language
FROM (SELECT) one LEFT JOIN owner ON true LEFT JOIN account ON true;

-- name: FindTargetHolder
-- The address of an account, and the language of another account that has the address
-- :'target', or null if there is none.
SELECT u.canonical_email, o.language
FROM users u LEFT JOIN users o ON o.canonical_email = :'target' AND o.id <> u.id
WHERE u.id = :'user_id';

-- name: CountMail
-- Counts a mail against the limit of its recipient, as TakeLimit does, and records on the
-- mail that it is counted.
WITH taken AS (
    INSERT INTO limits (key, until) VALUES (:'key', clock_timestamp() + :'interval'::interval)
    ON CONFLICT (key) DO UPDATE
    SET until = greatest(limits.until, clock_timestamp()) + :'interval'::interval
    WHERE greatest(limits.until, clock_timestamp()) + :'interval'::interval
        <= clock_timestamp() + :'window'::interval
    RETURNING key
), counted AS (
    UPDATE mails SET counted = :'kind' FROM taken WHERE id = :'mail_id' RETURNING id
)
SELECT EXISTS (SELECT FROM counted);

-- name: RemoveClaimedMail
-- Removes a mail in the transaction that has claimed it.
WITH removed AS (
    DELETE FROM mails WHERE id = :'mail_id' RETURNING id
)
INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
FROM removed, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
WHERE e.event IS NOT NULL;

-- name: RemoveMail
DELETE FROM mails WHERE id = :'mail_id' AND taken = :'taken';

-- name: GiveUpMail
-- Removes a mail that cannot be sent, and gives back what it has used up of the limit of
-- its recipient.
WITH removed AS (
    DELETE FROM mails WHERE id = :'mail_id' AND taken = :'taken' RETURNING counted, canonical_recipient
)
UPDATE limits SET until = until - :'interval'::interval FROM removed
WHERE key = sha256(convert_to('mail:' || removed.counted || ':' || removed.canonical_recipient, 'UTF8'));

-- name: PostponeMail
UPDATE mails SET due_at = now() + :'delay'::interval WHERE id = :'mail_id' AND taken = :'taken';

-- name: ReturnMail
-- Makes a mail due again, as if it had not been claimed.
UPDATE mails SET due_at = now(), attempts = attempts - 1, taken = taken + 1
WHERE id = :'mail_id' AND taken = :'taken';

-- name: CountMails
-- How many mails wait, and how long the oldest has waited, in microseconds. Reads the
-- whole table, which holds only the mails that are about to be sent or cannot be sent.
SELECT count(*), coalesce((extract(epoch FROM greatest(now() - min(created_at), interval '0')) * 1000000)::bigint, 0)
FROM mails;
