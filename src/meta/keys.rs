//! Access keys: names that stand for a user in signed requests.

use sqlx::Row as _;

use super::sqlite::DbRow;
use super::{Meta, MetaError};
use crate::domain::{Principal, UnixTime};

/// A key as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySummary {
    /// Its name.
    pub id: String,
    /// The user that owns it.
    pub user: String,
    /// The time of its creation.
    pub created: UnixTime,
}

impl Meta {
    /// Adds a key for a user; [`MetaError::NotFound`] when there is none of this name.
    pub async fn add_key(&self, id: &str, user: &str, now: UnixTime) -> Result<(), MetaError> {
        let mut tx = self.db.begin_adding().await?;
        sqlx::query("INSERT INTO keys (id, user_name, created) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(user)
            .bind(now.0)
            .execute(&mut *tx)
            .await?;
        self.db.commit(tx).await
    }

    /// All keys, by user and time.
    pub async fn keys(&self) -> Result<Vec<KeySummary>, MetaError> {
        let rows = sqlx::query("SELECT id, user_name, created FROM keys ORDER BY user_name, created, id")
            .fetch_all(&self.db.readers)
            .await?;
        let key = |row: &DbRow| {
            Ok(KeySummary {
                id: row.try_get("id")?,
                user: row.try_get("user_name")?,
                created: UnixTime(row.try_get("created")?),
            })
        };
        rows.iter().map(key).collect()
    }

    /// Removes a key.
    pub async fn remove_key(&self, id: &str) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        let done = sqlx::query("DELETE FROM keys WHERE id = $1").bind(id).execute(&mut *tx).await?;
        if done.rows_affected() == 0 {
            return Err(MetaError::NotFound);
        }
        self.db.commit(tx).await
    }

    /// For whom a key stands.
    pub async fn owner_of_key(&self, id: &str) -> Result<Option<Principal>, MetaError> {
        let name: Option<String> = sqlx::query_scalar("SELECT user_name FROM keys WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.db.readers)
            .await?;
        let Some(name) = name else { return Ok(None) };
        Ok(self.user(&name).await?.map(|user| user.principal()))
    }
}
