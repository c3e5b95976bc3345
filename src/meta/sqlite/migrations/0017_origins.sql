-- Where the bytes of a transfer come from or go, where that is not from its client into a drive of its own: `partial`,
-- `final` with the ids of its parts, or `drive`, `snapshot` or `transfer` with the id of a base.

ALTER TABLE transfers ADD COLUMN origin TEXT;
