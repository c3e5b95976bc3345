-- The BLAKE3 of the list of a drive's pieces, beside the digests of its bytes; and how many bytes of a transfer are not
-- zeros, where its client knows, for which alone space is set aside.

ALTER TABLE volumes ADD COLUMN blake3_pieces BLOB;
ALTER TABLE transfers ADD COLUMN asserted_blake3_pieces BLOB;
ALTER TABLE transfers ADD COLUMN blake3_pieces BLOB;
ALTER TABLE transfers ADD COLUMN data INTEGER;
