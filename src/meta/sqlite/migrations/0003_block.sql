-- Identity and block storage. As before: times are milliseconds since 1970, ids are 16 bytes, digests 32.

ALTER TABLE users ADD COLUMN id BLOB;
UPDATE users SET id = randomblob(16);
CREATE UNIQUE INDEX users_by_id ON users (id);
ALTER TABLE users ADD COLUMN is_admin BIGINT NOT NULL DEFAULT 0;
UPDATE users SET is_admin = 1 WHERE name = 'admin';

-- The projects that a user may work in beside their own.
CREATE TABLE members (
    user_name TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    tenant    BLOB NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    PRIMARY KEY (user_name, tenant)
);
CREATE INDEX members_of_tenant ON members (tenant);

-- The id of a token says nothing of the token.
CREATE TABLE tokens (
    digest     BLOB   NOT NULL PRIMARY KEY,
    id         BLOB   NOT NULL,
    user_name  TEXT   NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    tenant     BLOB   NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    is_renewed BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    expires    BIGINT NOT NULL
);
CREATE INDEX tokens_by_expiry ON tokens (expires);
CREATE INDEX tokens_of_user ON tokens (user_name, created);
CREATE INDEX tokens_of_tenant ON tokens (tenant);

-- One server at a time has a volume, and one volume a device of a server. The ids of servers are the tenants' own.
CREATE TABLE attachments (
    volume    BLOB   NOT NULL PRIMARY KEY REFERENCES volumes (id) ON DELETE CASCADE,
    tenant    BLOB   NOT NULL,
    server    TEXT,
    host      TEXT,
    device    TEXT   NOT NULL,
    read_only BIGINT NOT NULL,
    created   BIGINT NOT NULL
);
CREATE UNIQUE INDEX one_volume_of_a_device ON attachments (tenant, server, device);

-- No foreign key to the volume: a backup outlives it.
CREATE TABLE backups (
    id          BLOB   NOT NULL PRIMARY KEY,
    number      BIGINT NOT NULL UNIQUE,
    tenant      BLOB   NOT NULL REFERENCES tenants (id),
    volume      BLOB   NOT NULL,
    snapshot    BLOB,
    name        TEXT,
    description TEXT,
    container   TEXT,
    zone        TEXT,
    size        BIGINT NOT NULL CHECK (size >= 0),
    objects     BIGINT,
    state       TEXT   NOT NULL,
    reason      TEXT,
    -- Of the installation that made it, if that was another.
    origin_number BIGINT,
    origin_tenant BLOB,
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL
);
-- Numbers that are given once, also when what had them is gone.
CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('backups', 0);

CREATE INDEX backups_of_tenant ON backups (tenant, created, id);

CREATE INDEX snapshots_of_volume ON volumes (source) WHERE kind = 'snapshot';

-- Lists are pages of one kind, in order of making unless asked otherwise.
DROP INDEX volumes_of_tenant;
CREATE INDEX volumes_of_tenant ON volumes (tenant, kind, created, id);
CREATE INDEX volumes_by_name ON volumes (tenant, kind, name, id);
CREATE INDEX volumes_by_kind ON volumes (kind, created, id);
