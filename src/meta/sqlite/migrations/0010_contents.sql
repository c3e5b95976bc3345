-- The bytes of drives and snapshots have ids of their own, as the files of trees have. Those of before have the ids of
-- their volumes, and what jobs held is a content by the id of its job.

UPDATE volumes SET content = id WHERE kind <> 'tree';
-- The others are found by their own id.
CREATE INDEX volumes_of_content ON volumes (content) WHERE content <> id;

-- What a job reads, and keeps from being removed; of a restore what it makes.
ALTER TABLE jobs ADD COLUMN content BLOB;
UPDATE jobs SET content = CASE
    WHEN kind = 'restore' OR payload LIKE '%"held":%' THEN id
    WHEN kind = 'clone' THEN source
    ELSE volume
END WHERE kind IN ('backup', 'clone', 'restore');
CREATE INDEX jobs_of_content ON jobs (content) WHERE content IS NOT NULL;
-- So no volume waits for the end of a copy.
UPDATE volumes SET state = 'available', clones = 0 WHERE state IN ('cloning_source', 'backing_up');
UPDATE volumes SET state = 'in_use', clones = 0 WHERE state = 'backing_up_attached' OR (state = 'in_use' AND clones > 0);

-- What no volume holds any more, and may still be there.
CREATE TABLE dropped (
    content BLOB NOT NULL PRIMARY KEY
);
