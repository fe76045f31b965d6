-- MQTT sessions, which any node may go on with (docs/adr/0010-nodes.md): node_no and node_epoch say which one has a
-- session in memory, and nothing else is known of it there. NULL: all of it is here.
--
-- With the epoch in a unique index, ending it is the change of a key: it waits for who has asked for the row FOR KEY
-- SHARE, and the groups of the node itself, which count in the row, do not.
CREATE UNIQUE INDEX node_epoch ON node (no, epoch);
CREATE FUNCTION is_live(node_no bigint, node_epoch bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
 SELECT EXISTS (SELECT 1 FROM node AS n WHERE n.no = node_no AND n.epoch = node_epoch AND n.ended_at IS NULL) $$;
CREATE TABLE mqtt_session (
 client_id text COLLATE "C" PRIMARY KEY,
 principal text NOT NULL,
 expiry_interval bigint NOT NULL,
 expires_at bigint,
 number bigint NOT NULL,
 node_no bigint,
 node_epoch bigint,
 will_topic text,
 will_qos smallint,
 will_retain smallint,
 will_properties text,
 will_expires_at bigint,
 will_payload bytea,
 will_due_at bigint,
 will_delay bigint,
 will_number bigint
) WITH (fillfactor = 70);
CREATE INDEX mqtt_session_due ON mqtt_session (least(expires_at, will_due_at)) WHERE least(expires_at, will_due_at) IS NOT NULL;
CREATE TABLE mqtt_subscription (
 client_id text COLLATE "C",
 topic_filter text COLLATE "C",
 qos smallint NOT NULL,
 no_local smallint NOT NULL,
 retain_as_published smallint NOT NULL,
 retain_handling smallint NOT NULL,
 subscription_identifier bigint,
 PRIMARY KEY (client_id, topic_filter)
);
-- A message that is not a delivery is in its row: what one session has queued is nobody else's.
CREATE TABLE mqtt_outbound (
 client_id text COLLATE "C",
 sequence bigint,
 handle bigint,
 qos smallint NOT NULL,
 packet_id integer NOT NULL,
 released smallint NOT NULL,
 retain smallint NOT NULL,
 subscription_identifiers text,
 topic text,
 message_qos smallint,
 message_retain smallint,
 properties text,
 expires_at bigint,
 payload bytea,
 PRIMARY KEY (client_id, sequence)
);
CREATE TABLE mqtt_received (client_id text COLLATE "C", packet_id integer, PRIMARY KEY (client_id, packet_id));
-- Wills that were routed, and that the ledger of the node may not have stored yet.
CREATE TABLE mqtt_published_will (
 number bigint PRIMARY KEY,
 client_id text NOT NULL,
 node_no bigint NOT NULL,
 node_epoch bigint NOT NULL,
 topic text NOT NULL,
 qos smallint NOT NULL,
 retain smallint NOT NULL,
 properties text,
 expires_at bigint,
 payload bytea NOT NULL
);
CREATE TABLE mqtt_packet_id (only_row smallint PRIMARY KEY CHECK (only_row = 1), next integer NOT NULL);
CREATE SEQUENCE mqtt_number INCREMENT @SESSION_NUMBERS@;
