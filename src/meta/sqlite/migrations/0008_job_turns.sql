-- Whose turn it is to have a job done: the tenant that had one longest ago.
ALTER TABLE tenants ADD COLUMN served BIGINT NOT NULL DEFAULT 0;
