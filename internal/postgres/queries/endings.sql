-- The endings of sessions and keys. A snapshot and an incarnation come with each answer:
-- the snapshot is the one that the statement saw. The incarnation changes when numbers of
-- transactions may be used again, or for other endings: after a restart or a crash, on
-- another server, and in another or a restored database.

-- name: LoadEndings
-- Endings in the order of the primary key, from after a row on. If there are none, one
-- row has nulls.
SELECT pg_current_snapshot()::text, pg_is_in_recovery(), clock_timestamp(),
    concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()),
        extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()),
        (SELECT oid FROM pg_database WHERE datname = current_database()), 'endings'::regclass::oid),
    e.kind, e.id, e.xact, e.ended_at
FROM (SELECT 1) one LEFT JOIN LATERAL (
    SELECT kind, id, xact, ended_at FROM endings
    WHERE (kind, id) > (:'kind', :'id') AND ended_at > clock_timestamp() - :'age'::interval
    ORDER BY kind, id LIMIT :'batch') e ON true;

-- name: TailEndings
-- Endings that are visible now, and were not in a snapshot: those of transactions that
-- were running then, and those of transactions that began later. Numbers that this server
-- has not given yet are of rows from a dump of another one: LoadEndings has read them, and
-- each look would find them. If there are no endings, one row has nulls. OFFSET keeps the
-- planner from starting parallel workers while the table has old statistics.
SELECT pg_current_snapshot()::text, pg_is_in_recovery(), clock_timestamp(),
    concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()),
        extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()),
        (SELECT oid FROM pg_database WHERE datname = current_database()), 'endings'::regclass::oid),
    e.kind, e.id, e.xact, e.ended_at
FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS given OFFSET 0) next LEFT JOIN LATERAL (
    SELECT kind, id, xact, ended_at FROM endings WHERE xact = ANY (:'running'::bigint[])
    UNION ALL
    SELECT kind, id, xact, ended_at FROM endings
    WHERE xact >= :'next'::bigint AND xact < next.given
    LIMIT :'batch') e ON true;

-- name: EndKey
-- Records that a key was revoked. Each replica does so, again and again; the first one counts, and the others write
-- nothing.
INSERT INTO endings (kind, id, ended_at)
SELECT 'kid', :'id'::text, :'ended_at'::timestamptz
WHERE NOT EXISTS (SELECT FROM endings WHERE kind = 'kid' AND id = :'id'::text)
ON CONFLICT DO NOTHING;
