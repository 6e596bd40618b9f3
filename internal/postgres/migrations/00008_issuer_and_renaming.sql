-- +goose Up

-- What a gateway is known by. A server that is started with another issuer would
-- refuse the tokens of the others, so it asks here first.
CREATE TABLE gateway (
    only_one boolean NOT NULL DEFAULT true,
    issuer   text    NOT NULL COLLATE "C",

    CONSTRAINT gateway_pkey PRIMARY KEY (only_one),
    CONSTRAINT gateway_only_one_check CHECK (only_one),
    CONSTRAINT gateway_issuer_check CHECK (octet_length(issuer) BETWEEN 1 AND 4096)
);

-- A change of the profile of a live session's user that may change the username: the
-- account as it is then; nothing where the session is not alive; and a row of nulls
-- where another account has that username. As an error, the last would be in
-- PostgreSQL's log, with the name. A name that is null stays as it is.
-- +goose StatementBegin
CREATE FUNCTION change_profile(session uuid, account uuid, now_is timestamptz,
    new_username text, new_canonical_username text, new_first_name text, new_last_name text)
    RETURNS SETOF users
    LANGUAGE plpgsql
AS $$
BEGIN
    RETURN QUERY
        UPDATE users u
        SET username = coalesce(new_username, u.username),
            canonical_username = coalesce(new_canonical_username, u.canonical_username),
            first_name = coalesce(new_first_name, u.first_name),
            last_name = coalesce(new_last_name, u.last_name),
            updated_at = now()
        FROM sessions s
        WHERE s.id = session AND s.user_id = account AND s.expires_at > now_is
            AND u.id = s.user_id AND u.suspended_at IS NULL
        RETURNING u.*;
EXCEPTION WHEN unique_violation THEN
    RETURN NEXT NULL::users;
END
$$;
-- +goose StatementEnd
