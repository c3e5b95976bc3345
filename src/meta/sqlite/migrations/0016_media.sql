-- The device that the guest sees of the drive that a transfer fills, as the transfer was begun.

ALTER TABLE transfers ADD COLUMN media TEXT NOT NULL DEFAULT 'disk';
UPDATE transfers SET media = COALESCE((SELECT media FROM volumes WHERE volumes.id = transfers.volume), 'disk');
