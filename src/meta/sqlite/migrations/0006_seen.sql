-- When the database was last known to be in use: what is stored much later than that, it cannot know.

CREATE TABLE seen (
    only BIGINT NOT NULL PRIMARY KEY CHECK (only = 1),
    at   BIGINT NOT NULL
);
