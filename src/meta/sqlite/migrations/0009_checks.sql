-- When the bytes of a volume were last read back whole and were those that were stored, and how far a check of it has
-- come; of one generation. `since` orders the checks: that time or, before there was one, when the bytes were stored.

CREATE TABLE checks (
    volume     BLOB   NOT NULL PRIMARY KEY REFERENCES volumes (id) ON DELETE CASCADE,
    generation BIGINT NOT NULL,
    checked    BIGINT,
    since      BIGINT NOT NULL,
    position   BIGINT NOT NULL
);
CREATE INDEX checks_by_age ON checks (since, volume);
CREATE INDEX checks_never_made ON checks (since, volume) WHERE checked IS NULL;
