-- Limits, by the generic cell rate algorithm. A row says when its limit will be
-- completely free again. One more use moves that by :'interval', and is allowed if the
-- result stays within :'window'. The time is clock_timestamp and not the transaction's:
-- of calls that wait for each other the later one must not have the earlier time.

-- name: TakeLimit
-- A refused caller has not changed the row. It reads the row as it was when the
-- statement began, or finds none if the row was created since. So the wait may be
-- reported too short, but never too long.
WITH taken AS (
    INSERT INTO limits (key, until) VALUES (:'key', clock_timestamp() + :'interval'::interval)
    ON CONFLICT (key) DO UPDATE
    SET until = greatest(limits.until, clock_timestamp()) + :'interval'::interval
    WHERE greatest(limits.until, clock_timestamp()) + :'interval'::interval
        <= clock_timestamp() + :'window'::interval
    RETURNING until
)
SELECT EXISTS (SELECT FROM taken), (extract(epoch FROM coalesce(
    (SELECT until FROM taken),
    (SELECT until FROM limits WHERE key = :'key')
) - clock_timestamp()) * 1000000)::bigint;

-- name: TakeSessionLimit
-- As TakeLimit, if the session is alive.
WITH alive AS (
    SELECT s.id
    FROM sessions s, users u
    WHERE s.id = :'session_id' AND s.user_id = :'user_id' AND s.expires_at > :'now'
        AND u.id = s.user_id AND u.suspended_at IS NULL
), taken AS (
    INSERT INTO limits (key, until)
    SELECT :'key'::bytea, clock_timestamp() + :'interval'::interval FROM alive
    ON CONFLICT (key) DO UPDATE
    SET until = greatest(limits.until, clock_timestamp()) + :'interval'::interval
    WHERE greatest(limits.until, clock_timestamp()) + :'interval'::interval
        <= clock_timestamp() + :'window'::interval
    RETURNING until
)
SELECT EXISTS (SELECT FROM taken), (extract(epoch FROM coalesce(
    (SELECT until FROM taken),
    (SELECT until FROM limits WHERE key = :'key'::bytea)
) - clock_timestamp()) * 1000000)::bigint
FROM alive;
