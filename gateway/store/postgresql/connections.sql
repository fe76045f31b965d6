-- The node that serves each device, also after it has disconnected; generation counts the claims.
CREATE TABLE connection (
 device_no bigint PRIMARY KEY,
 node_no bigint NOT NULL,
 node_epoch bigint NOT NULL,
 generation bigint NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX connection_node ON connection (node_no);
