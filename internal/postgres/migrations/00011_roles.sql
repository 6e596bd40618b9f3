-- +goose Up

-- What administrators say about an account. Roles have the form of a scope. Metadata is text for
-- the database: jsonb would change numbers, and refuse characters that JSON allows. NOT VALID
-- saves reading the table: every present row has the defaults.
ALTER TABLE users
    ADD COLUMN roles    text NOT NULL DEFAULT '',
    ADD COLUMN metadata json NOT NULL DEFAULT '{}',
    ADD CONSTRAINT users_roles_check CHECK (octet_length(roles) <= 1000) NOT VALID,
    ADD CONSTRAINT users_metadata_check CHECK (
        json_typeof(metadata) = 'object' AND octet_length(metadata::text) <= 4096) NOT VALID;
