-- What a backup keeps of the record of its drive, for a new one that it is restored to.

ALTER TABLE backups ADD COLUMN kept_meta TEXT;
ALTER TABLE backups ADD COLUMN kept_attributes TEXT;
