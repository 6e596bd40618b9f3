-- +goose Up

-- Requests of administrators that have an Idempotency-Key, for a day: a request that is sent again creates no second
-- account. request is a digest of its parameters without the password.
CREATE TABLE admin_requests (
    key        bytea       NOT NULL,
    user_id    uuid        NOT NULL,
    request    bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT admin_requests_pkey PRIMARY KEY (key),
    CONSTRAINT admin_requests_digests_check CHECK (octet_length(key) = 32 AND octet_length(request) = 32)
);

CREATE INDEX admin_requests_created_at_idx ON admin_requests (created_at);
