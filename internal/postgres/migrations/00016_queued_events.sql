-- +goose Up

-- Events that wait for the receiver of EVENT_WEBHOOK_URL. A row is written by the
-- transaction of its event, and removed when the receiver has accepted it or when it is
-- given up. It refers to nothing and has no names, because it outlives the account.
CREATE TABLE queued_events (
    id         bigint      NOT NULL GENERATED ALWAYS AS IDENTITY, -- the order of the events of one user
    message_id uuid        NOT NULL DEFAULT gen_random_uuid(),    -- unlike id, not used again after a backup is restored
    type       text        NOT NULL COLLATE "C",
    user_id    uuid,                                              -- null: of no single user, and in no order
    at         timestamptz NOT NULL,
    data       jsonb       NOT NULL,
    attempts   integer     NOT NULL DEFAULT 0,                    -- counts the claims: an earlier one is not believed
    due_at     timestamptz NOT NULL DEFAULT now(),                -- an event that is being sent is due when its sender must have died

    CONSTRAINT queued_events_pkey PRIMARY KEY (id)
);

CREATE INDEX queued_events_due_at_idx ON queued_events (due_at);
CREATE INDEX queued_events_user_id_id_idx ON queued_events (user_id, id);

-- Which events are queued, by their names and the types that the receiver sees, and until
-- when. Servers that have a receiver move the time ahead while they run.
CREATE TABLE event_webhook (
    only_one boolean     NOT NULL DEFAULT true,
    types    jsonb       NOT NULL,
    until    timestamptz NOT NULL,

    CONSTRAINT event_webhook_pkey PRIMARY KEY (only_one),
    CONSTRAINT event_webhook_only_one_check CHECK (only_one)
);

-- The function finds the tables whatever search_path a session has, and writes to them
-- although a role may only record events.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Queues an event that the audit trail records, whichever release records it.
-- +goose StatementBegin
CREATE FUNCTION queue_event() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO queued_events (type, user_id, at, data)
    SELECT w.types->>NEW.event, NEW.user_id, NEW.at, jsonb_strip_nulls(jsonb_build_object(
        'user_id', NEW.user_id,
        'changed', string_to_array(NEW.details->>'changed', ' '),
        'imported', NEW.details->'imported'))
    FROM event_webhook w
    WHERE w.until > now() AND w.types ? NEW.event;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- The condition spares the frequent events the call. They are in no list of types.
CREATE TRIGGER audit_events_queued AFTER INSERT ON audit_events
    FOR EACH ROW WHEN (NEW.event NOT IN ('signed in', 'signed out', 'password refused', 'code issued'))
    EXECUTE FUNCTION queue_event();
