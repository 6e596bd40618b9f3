-- The audit trail. The statement that changes something also records the event, which
-- costs no round trip, and records nothing if it changes nothing. The event is a row of
-- audit_events as JSON, or NULL if there is nothing to record.

-- name: RecordEvent
INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details
FROM jsonb_populate_record(NULL::audit_events, :'event'::jsonb) e
WHERE e.event IS NOT NULL;
