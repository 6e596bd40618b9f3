-- The events that wait for the receiver of the event webhook. A trigger of audit_events
-- queues them. An event that is claimed is not due before its lease ends; "attempts"
-- counts the claims, so that the outcome of an earlier claim is ignored. After a restore the
-- numbers are given again, and message_id distinguishes the events.

-- name: QueueEvents
-- Has events of these types queued for a time. Types of another release stay. Writes only
-- once a minute.
INSERT INTO event_webhook (types, until) VALUES (:'types'::jsonb, now() + :'duration'::interval)
ON CONFLICT (only_one) DO UPDATE
SET types = event_webhook.types || EXCLUDED.types, until = greatest(event_webhook.until, EXCLUDED.until)
WHERE event_webhook.until < EXCLUDED.until - interval '1 minute' OR NOT event_webhook.types @> EXCLUDED.types;

-- name: ClaimEvent
-- Claims the event that has been due longest, of those that are the first of their user.
-- The subselect cannot become a join, which would read the whole table.
UPDATE queued_events
SET due_at = now() + :'lease'::interval, attempts = attempts + 1
WHERE id = (
    SELECT e.id FROM queued_events e
    WHERE e.due_at <= now() AND e.id = coalesce(
        (SELECT f.id FROM queued_events f WHERE f.user_id = e.user_id ORDER BY f.user_id, f.id LIMIT 1), e.id)
    ORDER BY e.due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, attempts, message_id::text, type, at, data,
    (extract(epoch FROM greatest(now() - at, interval '0')) * 1000000)::bigint;

-- name: RemoveEvent
DELETE FROM queued_events WHERE id = :'event_id' AND message_id = :'message_id' AND attempts = :'attempt';

-- name: PostponeEvent
UPDATE queued_events SET due_at = now() + :'delay'::interval
WHERE id = :'event_id' AND message_id = :'message_id' AND attempts = :'attempt';

-- name: GiveUpEvents
-- Removes events that are too old, of the oldest ones. Those that are being sent are not
-- due, and stay.
WITH deleted AS (
    DELETE FROM queued_events
    WHERE id = ANY (ARRAY(SELECT id FROM queued_events ORDER BY id LIMIT :'batch'))
        AND at < now() - :'age'::interval AND due_at <= now()
    RETURNING id
)
SELECT count(*) FROM deleted;

-- name: FindOldestEvent
-- The age of the oldest event, in microseconds, or 0.
SELECT coalesce((
    SELECT (extract(epoch FROM greatest(now() - at, interval '0')) * 1000000)::bigint
    FROM queued_events ORDER BY id LIMIT 1), 0);
