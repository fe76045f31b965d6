-- What nodes know in memory and is no longer so, in the order in which it was stored, and how far each has read
-- (`store/nodes/invalidations`).
CREATE TABLE invalidation (
 no BIGSERIAL PRIMARY KEY,
 kind TEXT COLLATE "C" NOT NULL,
 app_no BIGINT NOT NULL,
 key TEXT COLLATE "C" NOT NULL,
 at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE invalidation_reader (
 node_no BIGINT PRIMARY KEY,
 node_epoch BIGINT NOT NULL,
 seen BIGINT NOT NULL
);
-- Constraint triggers that are deferred run at the end of the transaction, when it waits for no row any more. The lock
-- is held until its commit can be seen: so numbers rise in the order of commits, and no reader skips one.
CREATE FUNCTION lock_invalidations() RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(@INVALIDATIONS_LOCK@ # hashtext(current_schema)) $$;
CREATE FUNCTION note_invalidation(of_kind text, of_app bigint, of_key text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
 PERFORM lock_invalidations();
 INSERT INTO invalidation (kind, app_no, key) SELECT of_kind, of_app, of_key WHERE EXISTS (SELECT FROM invalidation_reader);
END $$;
CREATE FUNCTION key_invalid() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 PERFORM note_invalidation('key', NEW.app_no, NEW.id);
 RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER key_invalid AFTER UPDATE OF revoked_at ON api_key DEFERRABLE INITIALLY DEFERRED
 FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION key_invalid();
CREATE FUNCTION credential_invalid() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 PERFORM note_invalidation(CASE WHEN NEW.removed_at IS NULL THEN 'credential' ELSE 'device' END, NEW.app_no, (SELECT a.id FROM application AS a WHERE a.no = NEW.app_no) || '/' || NEW.id);
 RETURN NULL;
END $$;
-- A token that is renewed leaves the one before good for a while, and closes no connection.
CREATE CONSTRAINT TRIGGER credential_invalid AFTER UPDATE OF token_hash ON device DEFERRABLE INITIALLY DEFERRED
 FOR EACH ROW WHEN (OLD.token_hash <> NEW.token_hash AND NEW.previous_token_hash IS NULL) EXECUTE FUNCTION credential_invalid();
CREATE FUNCTION session_invalid() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 IF TG_OP = 'DELETE' THEN
  PERFORM note_invalidation('session', OLD.app_no, OLD.id);
 ELSE
  PERFORM note_invalidation('session', NEW.app_no, NEW.id);
 END IF;
 RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER session_invalid AFTER INSERT OR UPDATE OR DELETE ON console_session DEFERRABLE INITIALLY DEFERRED
 FOR EACH ROW EXECUTE FUNCTION session_invalid();
CREATE FUNCTION rules_invalid() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 IF TG_OP = 'DELETE' THEN
  PERFORM note_invalidation('rules', OLD.app_no, '');
 ELSE
  PERFORM note_invalidation('rules', NEW.app_no, '');
 END IF;
 RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER rules_invalid AFTER INSERT OR UPDATE ON app_policy DEFERRABLE INITIALLY DEFERRED
 FOR EACH ROW EXECUTE FUNCTION rules_invalid();
CREATE CONSTRAINT TRIGGER rules_invalid AFTER INSERT OR UPDATE OR DELETE ON channel DEFERRABLE INITIALLY DEFERRED
 FOR EACH ROW EXECUTE FUNCTION rules_invalid();
CREATE CONSTRAINT TRIGGER rules_invalid AFTER INSERT OR UPDATE OR DELETE ON adapted_cap DEFERRABLE INITIALLY DEFERRED
 FOR EACH ROW EXECUTE FUNCTION rules_invalid();
CREATE FUNCTION push_recalled() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 PERFORM note_invalidation('recall', NEW.app_no, NEW.no::text);
 RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER push_recalled AFTER UPDATE OF recalled_at ON push DEFERRABLE INITIALLY DEFERRED
 FOR EACH ROW WHEN (OLD.recalled_at IS NULL AND NEW.recalled_at IS NOT NULL) EXECUTE FUNCTION push_recalled();
CREATE FUNCTION webhook_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 IF TG_OP = 'DELETE' THEN
  PERFORM note_invalidation('webhook', OLD.app_no, OLD.id);
 ELSE
  PERFORM note_invalidation('webhook', NEW.app_no, NEW.id);
 END IF;
 RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER webhook_changed AFTER INSERT OR DELETE OR UPDATE OF url, types, description, secret, old_secret, disabled_at ON webhook
 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION webhook_changed();
-- Who asks for dead letters to be sent again asks any node: it counts as a change of the webhook, once for all of them.
CREATE FUNCTION replay_asked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 UPDATE webhook SET description = description WHERE no IN (SELECT webhook_no FROM asked WHERE replay_at IS NOT NULL);
 RETURN NULL;
END $$;
CREATE TRIGGER replay_asked AFTER UPDATE ON dead_letter REFERENCING NEW TABLE AS asked
 FOR EACH STATEMENT EXECUTE FUNCTION replay_asked();
CREATE FUNCTION watch_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 IF TG_OP = 'DELETE' THEN
  PERFORM note_invalidation('watch', OLD.app_no, OLD.id);
 ELSE
  PERFORM note_invalidation('watch', NEW.app_no, NEW.id);
 END IF;
 RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER watch_changed AFTER INSERT OR DELETE OR UPDATE OF content ON watch
 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch_changed();
-- Apps of which some device has made a choice, or has quiet hours: noted when the first one does.
CREATE TABLE guarded_app (
 app_no BIGINT NOT NULL,
 is_timed BOOLEAN NOT NULL,
 PRIMARY KEY (app_no, is_timed)
);
CREATE CONSTRAINT TRIGGER rules_invalid AFTER INSERT ON guarded_app DEFERRABLE INITIALLY DEFERRED
 FOR EACH ROW EXECUTE FUNCTION rules_invalid();
CREATE FUNCTION device_guards_app() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 INSERT INTO guarded_app (app_no, is_timed)
 SELECT NEW.app_no, false WHERE NEW.consent = 'denied' OR NEW.channels <> '{}'
 UNION ALL SELECT NEW.app_no, true WHERE NEW.quiet_hours IS NOT NULL
 ON CONFLICT DO NOTHING;
 RETURN NULL;
END $$;
CREATE TRIGGER device_guards_app AFTER UPDATE OF consent, channels, quiet_hours ON device
 FOR EACH ROW WHEN (NEW.consent = 'denied' OR NEW.channels <> '{}' OR NEW.quiet_hours IS NOT NULL) EXECUTE FUNCTION device_guards_app();
