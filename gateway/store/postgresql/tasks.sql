-- What one node does for all: its holder, as of `store/nodes/tasks`. Nobody holds it if the holder's epoch has ended.
CREATE TABLE task (
 name TEXT COLLATE "C" PRIMARY KEY,
 node_no BIGINT NOT NULL DEFAULT 0,
 node_epoch BIGINT NOT NULL DEFAULT 0
);
