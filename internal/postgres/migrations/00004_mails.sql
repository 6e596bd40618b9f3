-- +goose Up

-- Mail to be sent: a row is written by the statement whose change it is about, and
-- removed when the mail is sent or given up. It contains no code: a code is made when
-- its mail is sent. The account is looked up then too, so a request for a code is the
-- same work with and without an account. It refers to nothing, because a notice may
-- outlive the account that it is about.
CREATE TABLE mails (
    id                  bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    purpose             text        NOT NULL COLLATE "C",
    recipient           text        NOT NULL,             -- as it was written
    canonical_recipient text        NOT NULL COLLATE "C",
    user_id             uuid,                             -- whom it is about, where that is known
    session_id          uuid,                             -- that asks for a change of address
    target              text        NOT NULL COLLATE "C" DEFAULT '', -- the one address that change is to; '': any
    username            text        NOT NULL DEFAULT '',
    language            text        NOT NULL DEFAULT '',  -- an Accept-Language; '': not said
    attempts            integer     NOT NULL DEFAULT 0,   -- that count
    taken               integer     NOT NULL DEFAULT 0,   -- how often: an earlier taker is not believed
    created_at          timestamptz NOT NULL DEFAULT now(),
    due_at              timestamptz NOT NULL DEFAULT now(), -- a mail that is being sent is due when its sender must have died

    CONSTRAINT mails_pkey PRIMARY KEY (id),
    CONSTRAINT mails_purpose_check CHECK (octet_length(purpose) BETWEEN 1 AND 50),
    CONSTRAINT mails_recipient_check CHECK (
        octet_length(recipient) BETWEEN 3 AND 254 AND octet_length(canonical_recipient) BETWEEN 3 AND 254),
    CONSTRAINT mails_language_check CHECK (octet_length(language) <= 256)
);

CREATE INDEX mails_due_at_idx ON mails (due_at);

-- What a user's browser said at sign-up (RFC 9110 section 12.5.4), for the
-- language of their mails; '' where it did not.
ALTER TABLE users
    ADD COLUMN language text NOT NULL DEFAULT '',
    ADD CONSTRAINT users_language_check CHECK (octet_length(language) <= 256);
