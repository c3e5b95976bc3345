//! The use cases of whoever runs the server, for commands: over the database of an installation, which a running server
//! may have open too.

use std::path::Path;
use std::sync::Arc;

use super::{loss, open_keys, open_meta, require_installation};
use crate::auth::{Accounts, Keys};
use crate::config::Config;
use crate::control::Operator;
use crate::domain::SystemClock;
use crate::meta::Meta;

/// What commands work with.
pub(crate) struct Administration {
    /// Users, access keys and projects.
    pub accounts: Accounts,
    /// Images and backups.
    pub operator: Operator,
    meta: Meta,
}

impl Administration {
    /// Opens the database of an installation; fails when there is none.
    pub(crate) async fn open(config: &Config) -> anyhow::Result<Self> {
        require_installation(config)?;
        let (meta, clock) = (open_meta(config).await?, Arc::new(SystemClock));
        Ok(Self {
            accounts: Accounts::new(meta.clone(), config.default_quota(), clock.clone()),
            operator: Operator::new(meta.clone(), clock),
            meta,
        })
    }

    /// Opens the access keys, which makes their master key if there is none yet.
    pub(crate) fn open_keys(&self, config: &Config) -> anyhow::Result<Keys> {
        open_keys(config, &self.meta, Arc::new(SystemClock))
    }

    /// Writes a copy of the database into a new file, which is there whole or not at all.
    pub(crate) async fn backup_database(&self, file: &Path) -> anyhow::Result<()> {
        loss::backup_database(&self.meta, file).await
    }

    /// Closes the database.
    pub(crate) async fn close(self) {
        self.meta.close().await;
    }
}
