-- +goose Up

-- Administrators page through accounts in the order in which they were created, and
-- through those that are suspended.
CREATE INDEX users_created_at_id_idx ON users (created_at, id);
CREATE INDEX users_suspended_created_at_id_idx ON users (created_at, id) WHERE suspended_at IS NOT NULL;

-- The events of an account are paged by id.
CREATE INDEX audit_events_user_id_id_idx ON audit_events (user_id, id);
