-- Valid on SQLite and, with BLOB read as BYTEA, on PostgreSQL. Times are milliseconds since 1970; ids are 16 bytes;
-- meta, attributes and payload are JSON. Once released, this file never changes: its checksum is kept in the database.

CREATE TABLE tenants (
    id            BLOB   NOT NULL PRIMARY KEY,
    name          TEXT   NOT NULL UNIQUE,
    quota_volumes BIGINT CHECK (quota_volumes >= 0),
    quota_bytes   BIGINT CHECK (quota_bytes >= 0),
    used_volumes  BIGINT NOT NULL CHECK (used_volumes >= 0),
    used_bytes    BIGINT NOT NULL CHECK (used_bytes >= 0)
);

CREATE TABLE users (
    name          TEXT   NOT NULL PRIMARY KEY,
    tenant        BLOB   NOT NULL REFERENCES tenants (id),
    password_hash TEXT   NOT NULL,
    created       BIGINT NOT NULL
);
CREATE INDEX users_of_tenant ON users (tenant);

CREATE TABLE volumes (
    id         BLOB   NOT NULL PRIMARY KEY,
    tenant     BLOB   NOT NULL REFERENCES tenants (id),
    name       TEXT   NOT NULL,
    media      TEXT   NOT NULL,
    size       BIGINT NOT NULL CHECK (size >= 0),
    charged    BIGINT NOT NULL CHECK (charged >= 0),
    state      TEXT   NOT NULL,
    clones     BIGINT NOT NULL CHECK (clones >= 0),
    reason     TEXT,
    generation BIGINT NOT NULL,
    revision   BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    sha256     BLOB,
    meta       TEXT   NOT NULL,
    attributes TEXT   NOT NULL
);
CREATE INDEX volumes_of_tenant ON volumes (tenant, created, id);
CREATE INDEX volumes_by_state ON volumes (state);

-- The source of a clone is no foreign key: a source that spoils may be deleted before its clone's job notices.
CREATE TABLE jobs (
    id          BLOB   NOT NULL PRIMARY KEY,
    kind        TEXT   NOT NULL,
    volume      BLOB   NOT NULL REFERENCES volumes (id) ON DELETE CASCADE,
    source      BLOB,
    payload     TEXT   NOT NULL,
    created     BIGINT NOT NULL,
    attempts    BIGINT NOT NULL,
    lease_owner TEXT,
    lease_until BIGINT,
    error       TEXT
);
CREATE INDEX jobs_of_volume ON jobs (volume);
CREATE UNIQUE INDEX one_seal_per_volume ON jobs (volume) WHERE kind = 'seal';
