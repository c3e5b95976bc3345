-- What a token was given for; it ends with that. Of those of before it is not known.
DELETE FROM tokens WHERE is_renewed <> 0;
ALTER TABLE tokens DROP COLUMN is_renewed;
ALTER TABLE tokens ADD COLUMN parent BLOB REFERENCES tokens (digest) ON DELETE CASCADE;
ALTER TABLE tokens ADD COLUMN chain BLOB;
CREATE INDEX tokens_of_parent ON tokens (parent);
