-- Limits on the number of snapshots and on the size of each volume; and the limits of those tenants that have none of
-- their own. 9223372036854775807 says that there is no limit, whatever the default is.

ALTER TABLE tenants ADD COLUMN quota_snapshots BIGINT CHECK (quota_snapshots >= 0);
ALTER TABLE tenants ADD COLUMN quota_volume_bytes BIGINT CHECK (quota_volume_bytes >= 0);
ALTER TABLE tenants ADD COLUMN used_snapshots BIGINT NOT NULL DEFAULT 0 CHECK (used_snapshots >= 0);
UPDATE tenants SET used_snapshots =
    (SELECT COUNT(*) FROM volumes WHERE tenant = tenants.id AND kind = 'snapshot');

-- One row.
CREATE TABLE default_quota (
    only_row           BIGINT PRIMARY KEY CHECK (only_row = 1),
    quota_volumes      BIGINT CHECK (quota_volumes >= 0),
    quota_bytes        BIGINT CHECK (quota_bytes >= 0),
    quota_backups      BIGINT CHECK (quota_backups >= 0),
    quota_backup_bytes BIGINT CHECK (quota_backup_bytes >= 0),
    quota_snapshots    BIGINT CHECK (quota_snapshots >= 0),
    quota_volume_bytes BIGINT CHECK (quota_volume_bytes >= 0)
);
INSERT INTO default_quota (only_row) VALUES (1);

-- Tenants, with the limits that count.
CREATE VIEW limited_tenants AS SELECT
    t.id, t.name,
    COALESCE(t.quota_volumes, d.quota_volumes) AS quota_volumes,
    COALESCE(t.quota_bytes, d.quota_bytes) AS quota_bytes,
    COALESCE(t.quota_backups, d.quota_backups) AS quota_backups,
    COALESCE(t.quota_backup_bytes, d.quota_backup_bytes) AS quota_backup_bytes,
    COALESCE(t.quota_snapshots, d.quota_snapshots) AS quota_snapshots,
    COALESCE(t.quota_volume_bytes, d.quota_volume_bytes) AS quota_volume_bytes,
    t.used_volumes, t.used_bytes, t.used_backups, t.used_backup_bytes, t.used_snapshots
FROM tenants t CROSS JOIN default_quota d WHERE d.only_row = 1;
