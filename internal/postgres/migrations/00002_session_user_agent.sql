-- +goose Up

-- What the client called itself when the session was opened, for its owner to
-- recognise it by; '' where it did not say, and in sessions of a release that
-- does not know the column.
ALTER TABLE sessions
    ADD COLUMN user_agent text NOT NULL DEFAULT '',
    ADD CONSTRAINT sessions_user_agent_check CHECK (octet_length(user_agent) <= 256);
