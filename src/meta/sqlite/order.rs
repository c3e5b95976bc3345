//! The columns that lists are sorted by.

use crate::domain::{Direction, SortKey};

/// The table of a list.
#[derive(Clone, Copy)]
pub(in crate::meta) enum Of {
    Volumes { by_name: bool },
    Backups,
}

impl Of {
    /// The column of a key. Few volumes have one name: those of a list by name are found by that and then sorted, and
    /// the sign keeps away the index that is in order already (<https://www.sqlite.org/optoverview.html#uplus>).
    pub(in crate::meta) const fn column(self, key: SortKey) -> &'static str {
        match (key, self) {
            (SortKey::Created, Self::Volumes { by_name: true }) => "+created",
            (SortKey::Created, _) => "created",
            (SortKey::Updated, _) => "updated",
            (SortKey::Size, _) => "size",
            (SortKey::Id, _) => "id",
            (SortKey::Name, Self::Volumes { .. }) => "name",
            // A backup may have none.
            (SortKey::Name, Self::Backups) => "COALESCE(name, '')",
            (SortKey::State, _) => "state",
        }
    }
}

/// The word of SQL.
pub(in crate::meta) const fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ascending => "ASC",
        Direction::Descending => "DESC",
    }
}
