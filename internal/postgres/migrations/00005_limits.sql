-- +goose Up

-- How much of a limit is used up, for all replicas: the generic cell rate
-- algorithm, one row a key. A key is a digest of the limit and of the client or
-- account, so that the table does not show who was there. It is not in the write-ahead
-- log: a crash of the database forgets it, and no request waits for the disk.
CREATE UNLOGGED TABLE limits (
    key   bytea       NOT NULL,
    until timestamptz NOT NULL, -- when nothing of it is used up any more

    CONSTRAINT limits_pkey PRIMARY KEY (key),
    CONSTRAINT limits_key_check CHECK (octet_length(key) = 32)
);

CREATE INDEX limits_until_idx ON limits (until);
