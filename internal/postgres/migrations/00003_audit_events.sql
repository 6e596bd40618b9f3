-- +goose Up

-- The audit trail. It refers to nothing, so that it outlives accounts and
-- sessions. It holds ids and no names; the client's address goes with its row.
-- Names of events are the program's: a release may add one.
CREATE TABLE audit_events (
    id         bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    at         timestamptz NOT NULL DEFAULT now(),
    event      text        NOT NULL COLLATE "C",
    user_id    uuid,                         -- null: of no account
    session_id uuid,
    request_id text        COLLATE "C",
    address    inet,                         -- of the client, where it is known
    details    jsonb,

    CONSTRAINT audit_events_pkey PRIMARY KEY (id),
    CONSTRAINT audit_events_event_check CHECK (octet_length(event) BETWEEN 1 AND 100),
    CONSTRAINT audit_events_request_id_check CHECK (octet_length(request_id) BETWEEN 1 AND 64),
    CONSTRAINT audit_events_details_check CHECK (jsonb_typeof(details) = 'object' AND octet_length(details::text) <= 1000)
);

CREATE INDEX audit_events_at_idx ON audit_events (at);

-- It contains the events without an account too: a refused password must take as long to
-- record without an account as with one, or the time would show which accounts exist.
CREATE INDEX audit_events_user_id_at_idx ON audit_events (user_id, at);
