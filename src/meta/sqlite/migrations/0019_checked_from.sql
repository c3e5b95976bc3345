-- When the reading began by which a volume was last found whole; NULL where that is not known.

ALTER TABLE checks ADD COLUMN checked_from BIGINT;
