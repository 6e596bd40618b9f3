-- Imports and exports of accounts.

-- name: FindImport
-- Waits for a transaction that stores a batch of the import.
SELECT read, imported, refused, refused_bytes, finished FROM imports WHERE id = :'id' FOR UPDATE;

-- name: RestartImport
INSERT INTO imports (id) VALUES (:'id')
ON CONFLICT (id) DO UPDATE SET read = 0, imported = 0, refused = 0, refused_bytes = 0, finished = false, changed_at = now();

-- name: AdvanceImport
UPDATE imports SET read = :'read', imported = :'imported', refused = :'refused',
    refused_bytes = :'refused_bytes', finished = :'finished', changed_at = now()
WHERE id = :'id';

-- name: LockSchemes
-- The kinds of hashes are few, and two imports at once must not both add the last one.
SELECT pg_advisory_xact_lock(x'736368656d6573'::bigint)::text;

-- name: CreateStaging
CREATE TEMPORARY TABLE staging (
    n int, id uuid, username text, canonical_username text, email text, canonical_email text,
    first_name text, last_name text, scope text, language text, roles text, metadata text, password_hash text,
    email_verified_at timestamptz, activated_at timestamptz, suspended_at timestamptz,
    created_at timestamptz, updated_at timestamptz,
    unproved_email text, canonical_unproved_email text, unproved_since timestamptz
) ON COMMIT DROP;

-- name: ExcludeStaged
DELETE FROM staging WHERE n = ANY (:'numbers'::int[]);

-- name: StoreStaging
-- Returns the accounts that are not stored, and which of their values are taken. If none
-- is, a transaction that ran at the same time has taken it.
WITH stored AS (
    INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name, scope,
        language, roles, metadata, password_hash, email_verified_at, activated_at, suspended_at, created_at, updated_at,
        unproved_email, canonical_unproved_email, unproved_since)
    SELECT id, username, canonical_username, email, canonical_email, first_name, last_name, scope,
        language, roles, metadata::json, password_hash, email_verified_at, activated_at, suspended_at, created_at, updated_at,
        unproved_email, canonical_unproved_email, unproved_since
    FROM staging
    ON CONFLICT DO NOTHING
    RETURNING id
)
SELECT s.n,
    EXISTS (SELECT FROM users u WHERE u.id = s.id),
    EXISTS (SELECT FROM users u WHERE u.canonical_username = s.canonical_username COLLATE "C"),
    EXISTS (SELECT FROM users u WHERE u.canonical_email = s.canonical_email COLLATE "C")
FROM staging s
WHERE s.id NOT IN (SELECT id FROM stored)
ORDER BY s.n;

-- name: CheckStaging
-- As StoreStaging, but stores nothing.
SELECT c.n, c.id, c.username, c.email
FROM (
    SELECT s.n,
        EXISTS (SELECT FROM users u WHERE u.id = s.id) AS id,
        EXISTS (SELECT FROM users u WHERE u.canonical_username = s.canonical_username COLLATE "C") AS username,
        EXISTS (SELECT FROM users u WHERE u.canonical_email = s.canonical_email COLLATE "C") AS email
    FROM staging s
) c
WHERE c.id OR c.username OR c.email
ORDER BY c.n;

-- name: BeginExport
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: ReadWithOneProcess
-- Compilation of the statement would take longer than it saves.
SELECT set_config('max_parallel_workers_per_gather', '0', true) || set_config('jit', 'off', true);

-- name: ReadInOrder
-- The accounts come from the index in their order, for as long as the reader wants.
SELECT set_config('enable_sort', 'off', true) || set_config('statement_timeout', '0', true);

-- name: ExportAccounts
-- The order is that of the column, which has an index, and not that of its text.
SELECT id::text, username, email, first_name, last_name, scope, language, roles, metadata::text, password_hash,
    email_verified_at, activated_at, suspended_at, created_at, updated_at, coalesce(unproved_email, ''), unproved_since
FROM users ORDER BY users.id;
