-- The files of attachments, which every node serves (`store/nodes/attachment_files`), in pieces; and that nodes hear of
-- each attachment that is stored, kept for longer or removed.
CREATE TABLE attachment_piece (
 id TEXT COLLATE "C" NOT NULL,
 no BIGINT NOT NULL,
 stored_at BIGINT NOT NULL,
 content BYTEA NOT NULL,
 PRIMARY KEY (id, no)
);
CREATE FUNCTION attachment_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 IF TG_OP = 'DELETE' THEN
  PERFORM note_invalidation('attachment', OLD.app_no, OLD.id);
 ELSE
  PERFORM note_invalidation('attachment', NEW.app_no, NEW.id);
 END IF;
 RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER attachment_changed AFTER INSERT OR UPDATE OR DELETE ON attachment DEFERRABLE INITIALLY DEFERRED
 FOR EACH ROW EXECUTE FUNCTION attachment_changed();
