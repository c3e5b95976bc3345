-- The client's description of a transfer as it was sent.

ALTER TABLE transfers ADD COLUMN metadata TEXT;
