-- What of the attributes and labels of a volume is asked for has columns of its own: the availability zone, whether it
-- is an image, for its tenant or for all, and whether HPC-AI's API made it.

ALTER TABLE volumes ADD COLUMN zone TEXT;
ALTER TABLE volumes ADD COLUMN is_image BIGINT NOT NULL DEFAULT 0;
ALTER TABLE volumes ADD COLUMN is_hpc BIGINT NOT NULL DEFAULT 0;
UPDATE volumes SET
    zone = json_extract(attributes, '$.block.zone'),
    is_image = kind = 'drive' AND (
        COALESCE(json_extract(attributes, '$.block.public_image'), 0) = 1
        OR EXISTS (SELECT 1 FROM json_each(volumes.meta) AS pair WHERE pair.key = 'image' AND pair.atom = 'private')
    ),
    is_hpc = json_type(attributes, '$.hpc_ai.region') IS 'text'
        AND json_type(attributes, '$.hpc_ai.volume_type') IS 'text'
        AND json_type(attributes, '$.hpc_ai.user') IS 'text'
WHERE attributes <> '{}' OR meta <> '{}';
CREATE INDEX images ON volumes (created, id) WHERE is_image = 1;

-- The number of the last turn that a tenant had to have a job done.
INSERT INTO counters (name, value) SELECT 'turns', COALESCE(MAX(served), 0) FROM tenants;
