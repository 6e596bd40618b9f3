-- The key ring: one row, replaced by compare-and-swap. Its version differs if anything of it does. A
-- generation can be given to another ring, after a failover in which the database lost changes.

-- name: LoadRing
SELECT files, generation || ' ' || encode(sha256(convert_to(files::text, 'UTF8')), 'hex') FROM key_ring;

-- name: RingVersion
SELECT generation || ' ' || encode(sha256(convert_to(files::text, 'UTF8')), 'hex') FROM key_ring;

-- name: CreateRing
WITH swapped AS (
    INSERT INTO key_ring (generation, files) VALUES (:'generation', :'files') ON CONFLICT DO NOTHING
    RETURNING generation
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM swapped, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT EXISTS (SELECT FROM swapped);

-- name: ReplaceRing
WITH swapped AS (
    UPDATE key_ring SET generation = :'generation', files = :'files' WHERE generation = :'previous'
    RETURNING generation
), audited AS (
    INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
    SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
    FROM swapped, jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
    WHERE e.event IS NOT NULL
)
SELECT EXISTS (SELECT FROM swapped);
