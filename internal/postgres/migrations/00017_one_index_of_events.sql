-- +goose Up

-- The events of an account are read by (user_id, id) since migration 10. Each event also wrote to a random place of this
-- index, which was a ninth of the bytes of an event. Former releases read the other index too.
DROP INDEX audit_events_user_id_at_idx;
