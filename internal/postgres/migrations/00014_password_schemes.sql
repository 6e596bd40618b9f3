-- +goose Up

-- Which schemes the hashes of passwords have: algorithm and parameters, which is all up to the cost of bcrypt, or up to
-- the last two fields of any other hash (see internal/hashes). A server looks them up each minute, with one look at the
-- index for each.
CREATE INDEX users_password_scheme_idx ON users ((substring(password_hash
    FROM '^(?:\$[a-z0-9]+)?\$2[aby]\$[0-9]{2}(?=\$)|^.*(?=\$[^$]*\$[^$]*$)') COLLATE "C"));
