-- +goose Up

-- Sign-ups that wait for the proof of their address. Nothing here is unique but the
-- id, so that what is not proved holds no name and no address; the id becomes the
-- account's. An account is a row of users, and its email is one that was proved.
CREATE TABLE signups (
    id                 uuid        NOT NULL,
    username           text        NOT NULL,
    canonical_username text        NOT NULL COLLATE "C",
    email              text        NOT NULL,
    canonical_email    text        NOT NULL COLLATE "C",
    first_name         text        NOT NULL,
    last_name          text        NOT NULL,
    scope              text        NOT NULL,
    password_hash      text        NOT NULL,
    language           text        NOT NULL DEFAULT '',
    created_at         timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT signups_pkey PRIMARY KEY (id),
    CONSTRAINT signups_username_check CHECK (
        canonical_username ~ '^[a-z0-9][a-z0-9._-]{0,63}$'
        AND canonical_username = lower(username COLLATE "C")),
    CONSTRAINT signups_email_check CHECK (
        octet_length(email) BETWEEN 3 AND 254
        AND octet_length(canonical_email) BETWEEN 3 AND 254
        AND canonical_email ~ '^[!-?A-~]+@[!-?A-~]+$'
        AND canonical_email = lower(canonical_email)),
    CONSTRAINT signups_name_check CHECK (
        char_length(first_name) <= 100 AND char_length(last_name) <= 100),
    CONSTRAINT signups_scope_check CHECK (octet_length(scope) <= 1000),
    CONSTRAINT signups_password_hash_check CHECK (octet_length(password_hash) BETWEEN 1 AND 500),
    CONSTRAINT signups_language_check CHECK (octet_length(language) <= 256)
);

CREATE INDEX signups_canonical_email_created_at_idx ON signups (canonical_email, created_at DESC);
CREATE INDEX signups_canonical_username_created_at_idx ON signups (canonical_username, created_at DESC);
CREATE INDEX signups_created_at_idx ON signups (created_at);

-- A new address of an account that is not proved yet: shown, and nothing else.
ALTER TABLE users
    ADD COLUMN unproved_email           text,
    ADD COLUMN canonical_unproved_email text COLLATE "C",
    ADD COLUMN unproved_since           timestamptz,
    ADD CONSTRAINT users_unproved_email_check CHECK (
        num_nonnulls(unproved_email, canonical_unproved_email, unproved_since) IN (0, 3)
        AND octet_length(unproved_email) BETWEEN 3 AND 254
        AND octet_length(canonical_unproved_email) BETWEEN 3 AND 254
        AND canonical_unproved_email ~ '^[!-?A-~]+@[!-?A-~]+$'
        AND canonical_unproved_email = lower(canonical_unproved_email));

CREATE INDEX users_canonical_unproved_email_idx ON users (canonical_unproved_email)
    WHERE canonical_unproved_email IS NOT NULL;

-- A code belongs to an account or to a sign-up. The code of a new address of an account
-- is only for this address: the account may ask for another one meanwhile.
ALTER TABLE codes
    ALTER COLUMN user_id DROP NOT NULL,
    ADD COLUMN signup_id uuid,
    DROP CONSTRAINT codes_target_check,
    ADD CONSTRAINT codes_signup_id_fkey FOREIGN KEY (signup_id) REFERENCES signups (id) ON DELETE CASCADE,
    ADD CONSTRAINT codes_owner_check CHECK (num_nonnulls(user_id, signup_id) = 1),
    ADD CONSTRAINT codes_target_check CHECK (target = '' OR purpose IN ('email_change', 'verification'));

CREATE UNIQUE INDEX codes_owner_purpose_key ON codes (coalesce(user_id, signup_id), purpose);
CREATE INDEX codes_signup_id_idx ON codes (signup_id) WHERE signup_id IS NOT NULL;

-- counted: what the mail was counted as against the limit of its recipient; ''
-- before it was, and for mails that no limit is about. signup_id: whose mail it is.
ALTER TABLE mails
    ADD COLUMN signup_id uuid,
    ADD COLUMN counted   text NOT NULL DEFAULT '' COLLATE "C";

-- Accounts that were never verified are sign-ups that wait.
INSERT INTO signups (id, username, canonical_username, email, canonical_email,
    first_name, last_name, scope, password_hash, language, created_at)
SELECT id, username, canonical_username, email, canonical_email,
    first_name, last_name, scope, password_hash, language, created_at
FROM users WHERE activated_at IS NULL AND suspended_at IS NULL;

UPDATE codes SET signup_id = user_id, user_id = NULL
WHERE user_id IN (SELECT id FROM signups) AND purpose IN ('verification', 'recovery');

UPDATE mails SET signup_id = user_id, user_id = NULL
WHERE user_id IN (SELECT id FROM signups) AND purpose = 'verification';

DELETE FROM users WHERE id IN (SELECT id FROM signups);

-- An address that an account changed to without a proof is not its own. The one
-- before is not known any more, so a name that can have no mailbox stands in its
-- place (RFC 2606 section 2) until this one, or another, is proved.
UPDATE users SET
    unproved_email = email, canonical_unproved_email = canonical_email, unproved_since = updated_at,
    email = id || '@unproved.invalid', canonical_email = id || '@unproved.invalid'
WHERE email_verified_at IS NULL AND activated_at IS NOT NULL;

UPDATE codes SET target = users.canonical_unproved_email
FROM users WHERE users.id = codes.user_id AND codes.purpose = 'verification'
    AND users.canonical_unproved_email IS NOT NULL;

-- The statement that suspends an account ends its sessions and removes its codes.
-- Lifting the suspension later restores none of them.
-- +goose StatementBegin
CREATE FUNCTION end_suspended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM sessions WHERE user_id = NEW.id;
    DELETE FROM codes WHERE user_id = NEW.id;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER users_suspended AFTER UPDATE OF suspended_at ON users
    FOR EACH ROW WHEN (OLD.suspended_at IS NULL AND NEW.suspended_at IS NOT NULL)
    EXECUTE FUNCTION end_suspended();
