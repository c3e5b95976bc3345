-- Backups are charged, too.
ALTER TABLE tenants ADD COLUMN quota_backups BIGINT CHECK (quota_backups >= 0);
ALTER TABLE tenants ADD COLUMN quota_backup_bytes BIGINT CHECK (quota_backup_bytes >= 0);
ALTER TABLE tenants ADD COLUMN used_backups BIGINT NOT NULL DEFAULT 0 CHECK (used_backups >= 0);
ALTER TABLE tenants ADD COLUMN used_backup_bytes BIGINT NOT NULL DEFAULT 0 CHECK (used_backup_bytes >= 0);
UPDATE tenants SET
    used_backups = (SELECT COUNT(*) FROM backups WHERE tenant = tenants.id),
    used_backup_bytes = (SELECT COALESCE(SUM(size), 0) FROM backups WHERE tenant = tenants.id);
