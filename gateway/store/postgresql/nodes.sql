-- Tables of nodes (docs/adr/0010-nodes.md), which are in PostgreSQL only.
CREATE FUNCTION database_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;
-- A server, and what it has said of itself last. The rows are rewritten twice a second, and by each group of writes.
CREATE TABLE node (
 no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
 identity text COLLATE "C" NOT NULL,
 epoch bigint NOT NULL,
 url text COLLATE "C" NOT NULL,
 secret text COLLATE "C" NOT NULL,
 renewals bigint NOT NULL,
 groups bigint NOT NULL,
 at bigint NOT NULL,
 renewed_at bigint NOT NULL,
 ended_at bigint
) WITH (fillfactor = 50);
