-- The BLAKE3 of all bytes of a drive, beside its SHA-256.

ALTER TABLE volumes ADD COLUMN blake3 BLOB;
