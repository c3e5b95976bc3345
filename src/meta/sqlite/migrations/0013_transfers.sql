-- Transfers: uploads that outlive connections and processes. As before: times are milliseconds since 1970, ids are 16
-- bytes, digests 32. No foreign key to the volume or the tenant: the record of a transfer outlives both.
CREATE TABLE transfers (
    id        BLOB   NOT NULL PRIMARY KEY,
    tenant    BLOB   NOT NULL,
    "user"    BLOB   NOT NULL,
    volume    BLOB   NOT NULL,
    name      TEXT   NOT NULL,
    size      BIGINT CHECK (size >= 0),
    reference TEXT,
    asserted_sha256 BLOB,
    asserted_blake3 BLOB,
    ticket    BLOB   NOT NULL,
    epoch     BIGINT NOT NULL CHECK (epoch >= 0),
    state     TEXT   NOT NULL,
    reason    TEXT,
    lifetime  BIGINT NOT NULL CHECK (lifetime >= 0),
    created   BIGINT NOT NULL,
    updated   BIGINT NOT NULL,
    sha256    BLOB,
    blake3    BLOB
);
CREATE INDEX transfers_of_tenant ON transfers (tenant, created, id);
CREATE INDEX transfers_by_reference ON transfers (tenant, (COALESCE(reference, name)), created, id);
CREATE INDEX open_transfers ON transfers (tenant) WHERE state IN ('open', 'finishing');
CREATE UNIQUE INDEX one_open_transfer_of_a_volume ON transfers (volume) WHERE state IN ('open', 'finishing');
CREATE INDEX ended_transfers_of_tenant ON transfers (tenant, updated, id) WHERE state NOT IN ('open', 'finishing');
CREATE INDEX ended_transfers ON transfers (updated) WHERE state NOT IN ('open', 'finishing');
