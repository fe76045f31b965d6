-- What the store's statements take for granted of SQLite, in PostgreSQL's words: run once, when the schema is made.
--
-- jv is a value out of JSON, as json_each and ->> answer it: a number, or a text, and both compare with columns of
-- either kind. set_devices reads a set of device numbers, which is stored as a roaring bitmap in its portable format
-- (github.com/RoaringBitmap/RoaringFormatSpec).

CREATE TYPE jv AS (n numeric, t text);
CREATE FUNCTION jv_bigint(jv) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT coalesce(($1).n::bigint, ($1).t::bigint) $$;
CREATE FUNCTION jv_text(jv) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT ($1).t $$;
CREATE CAST (jv AS bigint) WITH FUNCTION jv_bigint(jv) AS IMPLICIT;
CREATE CAST (jv AS text) WITH FUNCTION jv_text(jv) AS IMPLICIT;
CREATE FUNCTION jx(jsonb) RETURNS jv LANGUAGE sql IMMUTABLE AS $$
 SELECT CASE jsonb_typeof($1) WHEN 'null' THEN NULL
  WHEN 'number' THEN ROW($1::numeric, $1::text)::jv
  WHEN 'boolean' THEN CASE WHEN $1::boolean THEN ROW(1, '1')::jv ELSE ROW(0, '0')::jv END
  WHEN 'string' THEN ROW(NULL, $1 #>> '{}')::jv
  ELSE ROW(NULL, $1::text)::jv END WHERE $1 IS NOT NULL $$;
CREATE FUNCTION jk(text) RETURNS jv LANGUAGE sql IMMUTABLE AS $$ SELECT ROW(NULL, $1)::jv $$;
CREATE FUNCTION jk(bigint) RETURNS jv LANGUAGE sql IMMUTABLE AS $$ SELECT ROW($1, $1::text)::jv $$;
CREATE FUNCTION jtype(jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
 SELECT CASE jsonb_typeof($1) WHEN 'string' THEN 'text' WHEN 'boolean' THEN $1::text
  WHEN 'number' THEN CASE WHEN $1::text ~ '[.eE]' THEN 'real' ELSE 'integer' END ELSE jsonb_typeof($1) END $$;
CREATE FUNCTION jpath(path text) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
 SELECT CASE WHEN path = '$' THEN '{}'::text[] WHEN path LIKE '$%'
  THEN regexp_split_to_array(regexp_replace(regexp_replace(substr(path, 2), '^[.\[]', ''), '["\]]', '', 'g'), '[.\[]') ELSE ARRAY[path] END $$;
CREATE FUNCTION json_each(j jsonb, OUT key jv, OUT value jv, OUT type text, OUT atom text) RETURNS SETOF record LANGUAGE sql IMMUTABLE ROWS 100 AS $$
 SELECT jk(o - 1), jx(e), jtype(e), e #>> '{}' FROM jsonb_array_elements(CASE jsonb_typeof(j) WHEN 'array' THEN j WHEN 'object' THEN '[]' ELSE jsonb_build_array(j) END) WITH ORDINALITY AS x(e, o)
 UNION ALL SELECT jk(k), jx(e), jtype(e), e #>> '{}' FROM jsonb_each(CASE jsonb_typeof(j) WHEN 'object' THEN j ELSE '{}' END) AS y(k, e) $$;
CREATE FUNCTION json_each(t text, OUT key jv, OUT value jv, OUT type text, OUT atom text) RETURNS SETOF record LANGUAGE sql IMMUTABLE ROWS 100 AS $$ SELECT * FROM json_each(t::jsonb) $$;
CREATE FUNCTION json_each(t text, path text, OUT key jv, OUT value jv, OUT type text, OUT atom text) RETURNS SETOF record LANGUAGE sql IMMUTABLE ROWS 100 AS $$ SELECT * FROM json_each((t::jsonb) #> jpath(path)) $$;
CREATE FUNCTION json_each(t jv, OUT key jv, OUT value jv, OUT type text, OUT atom text) RETURNS SETOF record LANGUAGE sql IMMUTABLE ROWS 100 AS $$ SELECT * FROM json_each((t).t::jsonb) $$;
CREATE FUNCTION json_each(t jv, path text, OUT key jv, OUT value jv, OUT type text, OUT atom text) RETURNS SETOF record LANGUAGE sql IMMUTABLE ROWS 100 AS $$ SELECT * FROM json_each((t).t::jsonb #> jpath(path)) $$;
CREATE FUNCTION json_at(j text, at text) RETURNS jv LANGUAGE sql IMMUTABLE AS $$ SELECT jx(j::jsonb #> jpath(at)) $$;
CREATE FUNCTION json_at(j text, at int) RETURNS jv LANGUAGE sql IMMUTABLE AS $$ SELECT jx(j::jsonb -> at) $$;
CREATE FUNCTION json_at(j jv, at text) RETURNS jv LANGUAGE sql IMMUTABLE AS $$ SELECT jx((j).t::jsonb #> jpath(at)) $$;
CREATE FUNCTION json_at(j jv, at int) RETURNS jv LANGUAGE sql IMMUTABLE AS $$ SELECT jx((j).t::jsonb -> at) $$;
CREATE OPERATOR ->> (LEFTARG = text, RIGHTARG = text, FUNCTION = json_at);
CREATE OPERATOR ->> (LEFTARG = text, RIGHTARG = int, FUNCTION = json_at);
CREATE OPERATOR ->> (LEFTARG = jv, RIGHTARG = text, FUNCTION = json_at);
CREATE OPERATOR ->> (LEFTARG = jv, RIGHTARG = int, FUNCTION = json_at);
CREATE FUNCTION json_in(j text, at text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT j::jsonb #> jpath(at) $$;
CREATE FUNCTION json_in(j text, at int) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT j::jsonb -> at $$;
CREATE FUNCTION json_in(j jv, at text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT (j).t::jsonb #> jpath(at) $$;
CREATE FUNCTION json_in(j jv, at int) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT (j).t::jsonb -> at $$;
CREATE OPERATOR -> (LEFTARG = text, RIGHTARG = text, FUNCTION = json_in);
CREATE OPERATOR -> (LEFTARG = text, RIGHTARG = int, FUNCTION = json_in);
CREATE OPERATOR -> (LEFTARG = jv, RIGHTARG = text, FUNCTION = json_in);
CREATE OPERATOR -> (LEFTARG = jv, RIGHTARG = int, FUNCTION = json_in);
CREATE FUNCTION jv_eq(jv, jv) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT ($1).t = ($2).t $$;
CREATE OPERATOR = (LEFTARG = jv, RIGHTARG = jv, FUNCTION = jv_eq);
CREATE FUNCTION jv_cat(text, jv) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1 || ($2).t $$;
CREATE OPERATOR || (LEFTARG = text, RIGHTARG = jv, FUNCTION = jv_cat);
CREATE FUNCTION json(t text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT t::jsonb $$;
CREATE FUNCTION json(t jv) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT (t).t::jsonb $$;
CREATE FUNCTION json(t jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT t $$;
CREATE FUNCTION jn(x anyelement) RETURNS anyelement LANGUAGE sql IMMUTABLE AS $$ SELECT x $$;
CREATE FUNCTION jn(x jv) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN (x).n IS NULL THEN to_jsonb((x).t) ELSE to_jsonb((x).n) END $$;
CREATE FUNCTION json_extract(j text, at text) RETURNS jv LANGUAGE sql IMMUTABLE AS $$ SELECT jx(j::jsonb #> jpath(at)) $$;
CREATE FUNCTION json_remove(j text, at text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT (j::jsonb #- jpath(at))::text $$;
CREATE FUNCTION json_set(j text, at text, x bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_set(j::jsonb, jpath(at), to_jsonb(x))::text $$;
CREATE FUNCTION glob(t text, pattern text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
 SELECT t ~ ('^' || replace(replace(regexp_replace(pattern, '([.\\+(){}|$])', '\\\1', 'g'), '*', '.*'), '?', '.') || '$') $$;
CREATE FUNCTION no_glob(t text, pattern text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT NOT glob(t, pattern) $$;
CREATE OPERATOR @~ (LEFTARG = text, RIGHTARG = text, FUNCTION = glob);
CREATE OPERATOR !@~ (LEFTARG = text, RIGHTARG = text, FUNCTION = no_glob);
CREATE FUNCTION json_array_length(x text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_array_length(x::jsonb)::bigint $$;
CREATE FUNCTION json_array_length(x jsonb) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_array_length(x)::bigint $$;
CREATE FUNCTION json_array_length(x text, path text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_array_length(x::jsonb #> jpath(path))::bigint $$;
CREATE FUNCTION json_array_length(x jv, path text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_array_length((x).t::jsonb #> jpath(path))::bigint $$;
CREATE FUNCTION max(VARIADIC x bigint[]) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN array_position(x, NULL) IS NULL THEN (SELECT pg_catalog.max(e) FROM unnest(x) e) END $$;
CREATE FUNCTION min(VARIADIC x bigint[]) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN array_position(x, NULL) IS NULL THEN (SELECT pg_catalog.min(e) FROM unnest(x) e) END $$;
-- A list of numbers; one of lists has texts inside, and is left alone.
CREATE FUNCTION list_text(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN t LIKE '[[%' THEN t ELSE replace(t, ' ', '') END $$;
CREATE FUNCTION instr(t text, part text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT strpos(t, part)::bigint $$;
CREATE FUNCTION substr(t text, at bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT pg_catalog.substr(t, at::int) $$;
CREATE FUNCTION substr(t text, at bigint, n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT pg_catalog.substr(t, at::int, n::int) $$;
CREATE FUNCTION hex(b bytea) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT upper(encode(b, 'hex')) $$;
CREATE FUNCTION zeroblob(n bigint) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT decode(repeat('00', n::int), 'hex') $$;
CREATE FUNCTION u16(b bytea, at int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT get_byte(b, at) | (get_byte(b, at + 1) << 8) $$;
CREATE FUNCTION u32(b bytea, at int) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT u16(b, at)::bigint | (u16(b, at + 2)::bigint << 16) $$;
CREATE FUNCTION set_devices(b bytea) RETURNS SETOF bigint LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
 cookie bigint := u32(b, 0); containers int; at int; runs boolean; i int; j int; k int; high bigint; card int; body int; is_run boolean; first int; len int; word int;
BEGIN
 runs := (cookie & 65535) = 12347;
 IF runs THEN containers := (cookie >> 16)::int + 1; at := 4 + (containers + 7) / 8; ELSE containers := u32(b, 4)::int; at := 8; END IF;
 body := at + 4 * containers;
 IF NOT runs OR containers >= 4 THEN body := body + 4 * containers; END IF;
 FOR i IN 0 .. containers - 1 LOOP
  high := u16(b, at + 4 * i)::bigint << 16; card := u16(b, at + 4 * i + 2) + 1;
  is_run := runs AND (get_byte(b, 4 + i / 8) >> (i % 8)) & 1 = 1;
  IF is_run THEN
   k := u16(b, body); body := body + 2;
   FOR j IN 0 .. k - 1 LOOP
    first := u16(b, body); len := u16(b, body + 2); body := body + 4;
    RETURN QUERY SELECT high + first + g FROM generate_series(0, len) AS g;
   END LOOP;
  ELSIF card > 4096 THEN
   FOR j IN 0 .. 8191 LOOP
    word := get_byte(b, body + j);
    IF word <> 0 THEN RETURN QUERY SELECT high + j * 8 + g FROM generate_series(0, 7) AS g WHERE (word >> g) & 1 = 1; END IF;
   END LOOP;
   body := body + 8192;
  ELSE
   FOR j IN 0 .. card - 1 LOOP RETURN NEXT high + u16(b, body + 2 * j); END LOOP;
   body := body + 2 * card;
  END IF;
 END LOOP;
END $$;
CREATE FUNCTION devices_json(b bytea) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT coalesce(jsonb_agg(d), '[]')::text FROM set_devices(b) AS d WHERE b IS NOT NULL HAVING b IS NOT NULL $$;
CREATE FUNCTION in_set(b bytea, device bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT device IN (SELECT set_devices(b)) $$;
-- Bytes sort behind texts, as in SQLite.
CREATE FUNCTION before_bytes(text, bytea) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 IS NOT NULL $$;
CREATE OPERATOR < (LEFTARG = text, RIGHTARG = bytea, FUNCTION = before_bytes);
CREATE FUNCTION lesser(bytea, bytea) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT least($1, $2) $$;
CREATE AGGREGATE min(bytea) (SFUNC = lesser, STYPE = bytea, SORTOP = <);
-- Attributes are compared by keys (gateway/store/segments/value_forms.py), and indexed as gateway/store/attribute_index.py
-- says it: its figures are here by name (schema.py). PostgreSQL has no text with a NUL: one that a device reports is a replacement here.
CREATE FUNCTION attributes_of(t text) RETURNS json LANGUAGE sql IMMUTABLE AS $$
 SELECT CASE WHEN strpos(t, '\u0000') = 0 THEN t ELSE regexp_replace(t, '(?<!\\)((?:\\\\)*)\\u0000', '\1\ufffd', 'g') END::json $$;
CREATE FUNCTION attribute_number(t text) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
 n numeric := t; f float8; whole bigint; rest int := 0; bits bigint;
BEGIN
 IF t !~ '[.eE]' AND n BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
  whole := n; f := whole;
 ELSE
  f := CASE WHEN abs(n) > 1.7976931348623157e308 THEN 'Infinity' WHEN abs(n) < 5e-324 THEN '0' ELSE abs(n)::text END;
  f := CASE WHEN n < 0 AND f > 0 THEN -f ELSE f END;
  IF f = trunc(f) AND f >= -9223372036854775808 AND f < 9223372036854775808 THEN whole := f; END IF;
 END IF;
 IF whole NOT BETWEEN -9007199254740991 AND 9007199254740991 THEN rest := whole & 1023; f := whole - rest; END IF;
 bits := ('x' || encode(float8send(f), 'hex'))::bit(64)::bigint;
 RETURN '\x01'::bytea || int8send(CASE WHEN bits < 0 THEN ~bits ELSE bits | (-9223372036854775808) END) || int2send(rest::int2);
END $$;
CREATE FUNCTION attribute_entries(attributes text, OUT name text, OUT value bytea) RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $$
 SELECT key, CASE json_typeof(e.value) WHEN 'number' THEN attribute_number(e.value::text)
  WHEN 'string' THEN '\x02'::bytea || convert_to(left(e.value #>> '{}', @PREFIX_CHARACTERS@), 'UTF8')
  ELSE CASE e.value::text WHEN 'true' THEN '\x0301'::bytea ELSE '\x0300'::bytea END END
 FROM pg_catalog.json_each(attributes_of(attributes)) AS e
 WHERE json_typeof(e.value) IN ('number', 'string', 'boolean') AND length(key) BETWEEN 1 AND @NAME_CHARACTERS@ $$;
CREATE FUNCTION attribute_rows(attributes text, OUT name text, OUT value bytea) RETURNS SETOF record LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
 IF length(attributes) >= @INDEXED_ATTRIBUTES@ * 6 AND (SELECT count(*) FROM json_object_keys(attributes_of(attributes))) > @INDEXED_ATTRIBUTES@ THEN
  RETURN QUERY SELECT '', '\x'::bytea;
 ELSE
  RETURN QUERY SELECT * FROM attribute_entries(attributes);
 END IF;
END $$;
CREATE FUNCTION attribute_keys(listed text) RETURNS bytea[] LANGUAGE sql IMMUTABLE AS $$ SELECT array_agg(decode(e, 'hex')) FROM jsonb_array_elements_text(listed::jsonb) AS e $$;
CREATE FUNCTION attribute_text(key bytea) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN pg_catalog.substr(key, 1, 1) = '\x02' THEN convert_from(pg_catalog.substr(key, 2), 'UTF8') END $$;
CREATE FUNCTION attribute_text_of(attributes text, name text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT CASE json_typeof(v) WHEN 'string' THEN v #>> '{}' END FROM (SELECT attributes_of(attributes) -> name AS v) AS x $$;
CREATE FUNCTION attribute_version(key bytea) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
 SELECT (string_to_array(ltrim(t, 'vV'), '.')::bigint[] || array_fill(0::bigint, ARRAY[@VERSION_COMPONENTS@]))[1:@VERSION_COMPONENTS@] FROM (SELECT attribute_text(key) AS t) AS x
 WHERE length(t) <= @VERSION_CHARACTERS@ AND t ~ '^[vV]?[0-9]{1,@COMPONENT_DIGITS@}(\.[0-9]{1,@COMPONENT_DIGITS@}){0,@FURTHER_COMPONENTS@}$' $$;
-- The locks of a group that writes, in one ascending order for everybody: the fleet's (-1), then the apps'. `apps` rises;
-- NULL is every app, and each is taken exclusively or shared with others that do not write it either.
CREATE FUNCTION lock_apps(apps int[], exclusively boolean[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
 fleet CONSTANT int := hashtext('apps of ' || current_schema());
BEGIN
 IF apps IS NULL THEN
  PERFORM pg_advisory_xact_lock(fleet, -1);
  RETURN;
 END IF;
 PERFORM pg_advisory_xact_lock_shared(fleet, -1);
 FOR place IN 1 .. cardinality(apps) LOOP
  IF exclusively[place] THEN
   PERFORM pg_advisory_xact_lock(fleet, apps[place]);
  ELSE
   PERFORM pg_advisory_xact_lock_shared(fleet, apps[place]);
  END IF;
 END LOOP;
END $$;
CREATE FUNCTION note_numbers() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
 last bigint;
BEGIN
 -- A number that was drawn is never behind its sequence, which others draw from: it is moved for a number from elsewhere.
 EXECUTE format('SELECT pg_catalog.max(a.no) FROM added AS a, %I AS s WHERE a.no > s.last_value OR NOT s.is_called', TG_ARGV[0]) INTO last;
 IF last IS NOT NULL THEN
  PERFORM setval(TG_ARGV[0]::regclass, last);
 END IF;
 RETURN NULL;
END $$;
CREATE TRIGGER note_numbers AFTER INSERT ON device REFERENCING NEW TABLE AS added
 FOR EACH STATEMENT EXECUTE FUNCTION note_numbers('device_no_seq');
CREATE TRIGGER note_numbers AFTER INSERT ON push REFERENCING NEW TABLE AS added
 FOR EACH STATEMENT EXECUTE FUNCTION note_numbers('push_no_seq');
CREATE FUNCTION device_attributes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 IF TG_OP = 'UPDATE' THEN
  DELETE FROM device_attribute WHERE device_no = NEW.no AND (name, value) NOT IN (SELECT a.name, a.value FROM attribute_rows(NEW.attributes) AS a);
 END IF;
 INSERT INTO device_attribute (app_no, name, value, device_no) SELECT NEW.app_no, a.name, a.value, NEW.no FROM attribute_rows(NEW.attributes) AS a ON CONFLICT DO NOTHING;
 RETURN NULL;
END $$;
CREATE TRIGGER device_attributes_enrolled AFTER INSERT ON device
 FOR EACH ROW WHEN (NEW.attributes <> '{}') EXECUTE FUNCTION device_attributes();
CREATE TRIGGER device_attributes_changed AFTER UPDATE OF attributes ON device
 FOR EACH ROW WHEN (NEW.attributes <> OLD.attributes) EXECUTE FUNCTION device_attributes();
CREATE FUNCTION delivery_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
 INSERT INTO delivery_count (push_no, state, count)
 SELECT push_no, state, sum(moved) FROM (SELECT push_no, state, -1 AS moved FROM before WHERE counted = 1 UNION ALL SELECT push_no, state, 1 FROM after WHERE counted = 1) AS x
 GROUP BY push_no, state HAVING sum(moved) <> 0
 ON CONFLICT (push_no, state) DO UPDATE SET count = delivery_count.count + excluded.count;
 RETURN NULL;
END $$;
CREATE TRIGGER delivery_counted AFTER UPDATE ON delivery REFERENCING OLD TABLE AS before NEW TABLE AS after
 FOR EACH STATEMENT EXECUTE FUNCTION delivery_counted();
CREATE VIEW sqlite_sequence AS
 SELECT 'device' AS name, CASE WHEN is_called THEN last_value ELSE 0 END AS seq FROM device_no_seq
 UNION ALL SELECT 'push', CASE WHEN is_called THEN last_value ELSE 0 END FROM push_no_seq
 UNION ALL SELECT 'event', CASE WHEN is_called THEN last_value ELSE 0 END FROM event_no_seq;
