-- Requests of devices for a new token, which any node may be asked about (`store/nodes/token_requests`). When its device
-- asks again is noted now and then, and the other nodes hear of that as of everything else.
CREATE TABLE token_request (
 digest BYTEA PRIMARY KEY,
 request_id TEXT COLLATE "C" NOT NULL,
 app_no BIGINT NOT NULL,
 app_id TEXT COLLATE "C" NOT NULL,
 device_no BIGINT NOT NULL,
 device_id TEXT COLLATE "C" NOT NULL,
 address TEXT COLLATE "C" NOT NULL,
 host TEXT COLLATE "C" NOT NULL,
 note TEXT COLLATE "C",
 confirmation TEXT COLLATE "C" NOT NULL,
 asked_at BIGINT NOT NULL,
 polled_at BIGINT NOT NULL,
 state TEXT COLLATE "C" NOT NULL,
 answered_at BIGINT,
 answers BIGINT NOT NULL,
 ends_at BIGINT NOT NULL
);
CREATE INDEX token_request_of_app ON token_request (app_no);
CREATE FUNCTION token_request_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 IF TG_OP = 'DELETE' THEN
  PERFORM note_invalidation('token_request', OLD.app_no, encode(OLD.digest, 'hex'));
 ELSE
  PERFORM note_invalidation('token_request', NEW.app_no, encode(NEW.digest, 'hex'));
 END IF;
 RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER token_request_changed AFTER INSERT OR UPDATE OR DELETE ON token_request
 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION token_request_changed();
