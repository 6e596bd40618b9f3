-- +goose Up

-- Text that must compare the same everywhere has the collation "C": no locale
-- and no upgrade of one changes what is equal, or damages an index.

CREATE TABLE users (
    id                 uuid        NOT NULL,
    username           text        NOT NULL,
    canonical_username text        NOT NULL COLLATE "C",
    email              text        NOT NULL,
    canonical_email    text        NOT NULL COLLATE "C",
    first_name         text        NOT NULL,
    last_name          text        NOT NULL,
    scope              text        NOT NULL,
    password_hash      text        NOT NULL,
    email_verified_at  timestamptz,          -- of the present address
    activated_at       timestamptz,          -- the first verification ever
    suspended_at       timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_canonical_username_key UNIQUE (canonical_username),
    CONSTRAINT users_canonical_email_key UNIQUE (canonical_email),
    CONSTRAINT users_username_check CHECK (
        canonical_username ~ '^[a-z0-9][a-z0-9._-]{0,63}$'
        AND canonical_username = lower(username COLLATE "C")),
    CONSTRAINT users_email_check CHECK (
        octet_length(email) BETWEEN 3 AND 254
        AND octet_length(canonical_email) BETWEEN 3 AND 254
        AND canonical_email ~ '^[!-?A-~]+@[!-?A-~]+$'
        AND canonical_email = lower(canonical_email)),
    CONSTRAINT users_name_check CHECK (
        char_length(first_name) <= 100 AND char_length(last_name) <= 100),
    CONSTRAINT users_scope_check CHECK (octet_length(scope) <= 1000),
    CONSTRAINT users_password_hash_check CHECK (octet_length(password_hash) BETWEEN 1 AND 500),
    CONSTRAINT users_activated_check CHECK (email_verified_at IS NULL OR activated_at IS NOT NULL)
) WITH (fillfactor = 90);

-- For the clean-up of accounts that were never verified. It does not contain the others.
CREATE INDEX users_never_activated_idx ON users (created_at) WHERE activated_at IS NULL;

CREATE TABLE codes (
    hash       bytea       NOT NULL,
    user_id    uuid        NOT NULL,
    purpose    text        NOT NULL COLLATE "C",
    target     text        NOT NULL COLLATE "C" DEFAULT '', -- the one address it is good for; '': any
    expires_at timestamptz NOT NULL,

    CONSTRAINT codes_pkey PRIMARY KEY (hash),
    CONSTRAINT codes_user_id_purpose_key UNIQUE (user_id, purpose),
    CONSTRAINT codes_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT codes_hash_check CHECK (octet_length(hash) = 32),
    CONSTRAINT codes_purpose_check CHECK (purpose IN ('verification', 'recovery', 'email_change')),
    CONSTRAINT codes_target_check CHECK (target = '' OR purpose = 'email_change')
);

CREATE INDEX codes_expires_at_idx ON codes (expires_at);

-- A renewal changes generation, refreshed_at and expires_at. None of these is
-- in an index, and pages keep room, so that it is a heap-only update: it writes
-- no index entry, and leaves nothing to vacuum. The clean-up finds what has
-- expired by the day, which a renewal seldom changes.
CREATE TABLE sessions (
    id           uuid        NOT NULL,
    user_id      uuid        NOT NULL,
    scope        text        NOT NULL,
    generation   bigint      NOT NULL DEFAULT 0,
    opened_at    timestamptz NOT NULL,
    refreshed_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    ends_at      timestamptz NOT NULL,
    expires_on   date        NOT NULL GENERATED ALWAYS AS ((expires_at AT TIME ZONE 'UTC')::date) STORED,

    CONSTRAINT sessions_pkey PRIMARY KEY (id),
    CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT sessions_scope_check CHECK (octet_length(scope) <= 1000),
    CONSTRAINT sessions_generation_check CHECK (generation >= 0),
    CONSTRAINT sessions_times_check CHECK (expires_at <= ends_at)
) WITH (fillfactor = 70);

CREATE INDEX sessions_user_id_opened_at_idx ON sessions (user_id, opened_at);
CREATE INDEX sessions_expires_on_idx ON sessions (expires_on);

CREATE TABLE throttles (
    key             bytea       NOT NULL,
    failures        integer     NOT NULL,
    last_failure_at timestamptz NOT NULL,

    CONSTRAINT throttles_pkey PRIMARY KEY (key),
    CONSTRAINT throttles_key_check CHECK (octet_length(key) = 32),
    CONSTRAINT throttles_failures_check CHECK (failures > 0)
);

CREATE INDEX throttles_last_failure_at_idx ON throttles (last_failure_at);

CREATE TABLE key_ring (
    only_one   boolean NOT NULL DEFAULT true,
    generation bigint  NOT NULL,
    files      jsonb   NOT NULL,

    CONSTRAINT key_ring_pkey PRIMARY KEY (only_one),
    CONSTRAINT key_ring_only_one_check CHECK (only_one),
    CONSTRAINT key_ring_generation_check CHECK (generation > 0)
);
