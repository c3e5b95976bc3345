-- Trees, the sessions that fill them, and the keys that sign requests. As before: times are milliseconds since 1970, ids
-- are 16 bytes, digests 32.

ALTER TABLE volumes ADD COLUMN kind TEXT NOT NULL DEFAULT 'drive';
ALTER TABLE volumes ADD COLUMN content BLOB;
ALTER TABLE volumes ADD COLUMN source TEXT;
CREATE UNIQUE INDEX one_tree_of_a_name ON volumes (tenant, name) WHERE kind = 'tree' AND state <> 'deleting';

CREATE TABLE sessions (
    id      BLOB   NOT NULL PRIMARY KEY,
    tenant  BLOB   NOT NULL,
    token   BLOB   NOT NULL UNIQUE,
    cookie  BLOB   NOT NULL,
    state   TEXT   NOT NULL,
    reason  TEXT,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    ended   BIGINT
);
CREATE INDEX sessions_of_tenant ON sessions (tenant, created);
CREATE INDEX sessions_by_state ON sessions (state, expires);

-- No foreign key to the volume: the record of a session outlives its trees.
CREATE TABLE uploads (
    id        BLOB   NOT NULL PRIMARY KEY,
    session   BLOB   NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    place     BIGINT NOT NULL,
    volume    BLOB   NOT NULL,
    name      TEXT   NOT NULL,
    is_new    BIGINT NOT NULL,
    content   BLOB   NOT NULL,
    source    TEXT   NOT NULL,
    is_remote BIGINT NOT NULL,
    state     TEXT   NOT NULL,
    reason    TEXT,
    members   BIGINT NOT NULL,
    bytes     BIGINT NOT NULL,
    is_open   BIGINT NOT NULL
);
CREATE INDEX uploads_of_session ON uploads (session, place);
CREATE UNIQUE INDEX one_open_upload_of_a_volume ON uploads (volume) WHERE is_open = 1;

-- The secret of a key is derived from its name and the server's own key, and not kept.
CREATE TABLE keys (
    id        TEXT   NOT NULL PRIMARY KEY,
    user_name TEXT   NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    created   BIGINT NOT NULL
);
CREATE INDEX keys_of_user ON keys (user_name);
