-- What the replicas of one database share: the issuer, the schema, the connections.

-- name: FindIssuer
SELECT issuer FROM gateway;

-- name: InsertIssuer
INSERT INTO gateway (issuer) VALUES (:'issuer') ON CONFLICT DO NOTHING;

-- name: ChangeIssuer
UPDATE gateway SET issuer = :'issuer' WHERE issuer = :'previous';

-- name: SchemaVersion
SELECT coalesce(max(version_id), 0) FROM schema_version WHERE is_applied;

-- name: Ready
SELECT coalesce(max(version_id), 0), pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'
FROM schema_version WHERE is_applied;

-- name: MaxConnections
-- How many connections all users without special rights share. The last setting exists
-- from PostgreSQL 16 on.
SELECT current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true), '0')::int;
