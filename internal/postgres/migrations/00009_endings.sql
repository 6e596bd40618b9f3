-- +goose Up

-- Sessions that ended before their time, and keys that were revoked. Consumers that
-- verify tokens offline learn from it which tokens to refuse. A row matters until the
-- last access token has expired; then the clean-up removes it.
--
-- xact is the transaction that wrote the row. A snapshot says of every transaction
-- whether it is visible, so two snapshots give exactly the rows that were committed
-- between them, in whatever order transactions commit.
CREATE TABLE endings (
    kind     text        NOT NULL COLLATE "C", -- sid: a session; kid: a key of access tokens
    id       text        NOT NULL COLLATE "C",
    xact     bigint      NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    ended_at timestamptz NOT NULL DEFAULT clock_timestamp(),

    CONSTRAINT endings_pkey PRIMARY KEY (kind, id),
    CONSTRAINT endings_kind_check CHECK (kind IN ('sid', 'kid')),
    CONSTRAINT endings_id_check CHECK (octet_length(id) BETWEEN 1 AND 100)
);

CREATE INDEX endings_xact_idx ON endings (xact);
CREATE INDEX endings_ended_at_idx ON endings (ended_at);

-- The functions find the table whatever search_path a session has, and write it
-- although a role may only delete sessions.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Records the end of a session, whatever deletes it: a statement of this release or of
-- another one, a foreign key, a trigger, a person.
--
-- A statement may say by auth_gateway.tokens_dead_before that a session that expired
-- before then has no token that is still alive. The clean-up does, because such a
-- session has simply expired.
-- +goose StatementBegin
CREATE FUNCTION record_ending() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF OLD.expires_at >= coalesce(nullif(current_setting('auth_gateway.tokens_dead_before', true), ''), '-infinity')::timestamptz THEN
        INSERT INTO endings (kind, id) VALUES ('sid', OLD.id)
        ON CONFLICT (kind, id) DO UPDATE SET xact = EXCLUDED.xact, ended_at = EXCLUDED.ended_at;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION record_all_endings() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO endings (kind, id) SELECT 'sid', id FROM sessions
    ON CONFLICT (kind, id) DO UPDATE SET xact = EXCLUDED.xact, ended_at = EXCLUDED.ended_at;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- It is deferred to the commit, so that ended_at is the time from which no new token is
-- issued, even if the transaction has been open for long.
CREATE CONSTRAINT TRIGGER sessions_ended AFTER DELETE ON sessions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION record_ending();

CREATE TRIGGER sessions_truncated BEFORE TRUNCATE ON sessions
    FOR EACH STATEMENT EXECUTE FUNCTION record_all_endings();
