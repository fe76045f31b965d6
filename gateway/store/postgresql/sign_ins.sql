-- What nodes share of sign-ins by the identity provider (`store/nodes/sign_ins`): a person may come back to another
-- node than the one that has sent them there.
CREATE TABLE sign_in_key (only_row smallint PRIMARY KEY CHECK (only_row = 1), key bytea NOT NULL);
CREATE TABLE used_sign_in (state text COLLATE "C" PRIMARY KEY, ends bigint NOT NULL);
