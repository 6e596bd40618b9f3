-- +goose Up

-- Where the owner of an account has signed in: wrong passwords from there are
-- counted apart from those of strangers. A place is a digest of the user's id and
-- of the client's address, or of the /64 that an IPv6 address is in; who has the
-- table can find an address by trying all of them, so it is personal data. It is
-- also the key of its failures in throttles.
CREATE TABLE familiar_places (
    user_id      uuid        NOT NULL,
    place        bytea       NOT NULL,
    last_seen_at timestamptz NOT NULL, -- to the day

    CONSTRAINT familiar_places_pkey PRIMARY KEY (user_id, place),
    CONSTRAINT familiar_places_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT familiar_places_place_check CHECK (octet_length(place) = 32)
);

CREATE INDEX familiar_places_last_seen_at_idx ON familiar_places (last_seen_at);
