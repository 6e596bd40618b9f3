-- +goose Up

-- How far imports of accounts are: a row is written by the transactions that store the
-- accounts. The id is a digest of the imported files.
CREATE TABLE imports (
    id            text        NOT NULL COLLATE "C",
    read          bigint      NOT NULL DEFAULT 0,
    imported      bigint      NOT NULL DEFAULT 0,
    refused       bigint      NOT NULL DEFAULT 0,
    refused_bytes bigint      NOT NULL DEFAULT 0, -- the length of the file of refused accounts
    finished      boolean     NOT NULL DEFAULT false,
    changed_at    timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT imports_pkey PRIMARY KEY (id)
);
