-- A ledger that was set back to an earlier moment, before a server has it again: what a restore of a file does by
-- itself. `psql --dbname ledger --file after-recovery.sql`, once, while no server runs.
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL search_path = fleetpush;
-- Ids of events are never used twice: they go on from the microseconds since 1970, which nobody has reached, so that
-- whoever follows events comes back with the last id that it had and misses none of the new.
SELECT setval('event_no_seq', greatest(nextval('event_no_seq'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint));
-- Devices have gone on since, and hold packet identifiers that this ledger has never heard of: their sessions begin anew.
DELETE FROM mqtt_session;
DELETE FROM mqtt_subscription;
DELETE FROM mqtt_outbound;
DELETE FROM mqtt_received;
DELETE FROM mqtt_published_will;
-- People sign in again.
DELETE FROM console_session;
COMMIT;
