-- +goose Up

-- The events of one kind, and those of one administrator, are paged by id.
CREATE INDEX audit_events_event_id_idx ON audit_events (event, id);
CREATE INDEX audit_events_actor_id_idx ON audit_events (((details->>'actor') COLLATE "C"), id)
    WHERE details->>'actor' IS NOT NULL;
