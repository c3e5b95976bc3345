//! Read, change, write: once more when another writer came first.

use crate::domain::{Fault, FaultKind};
use crate::meta::MetaError;

/// How often a lost race is run again. Each round lost means that another writer won, so this many in a row is a
/// livelock of clients.
const ROUNDS: u32 = 16;

/// The rounds of one such race. Each begins with [`Race::round`], reads everything anew, and ends with a write that
/// [`unless_lost`] judges.
pub(super) struct Race {
    what: &'static str,
    left: u32,
}

impl Race {
    /// Nothing was tried yet. `what` is a subject with its verb, for who loses every round.
    pub(super) const fn of(what: &'static str) -> Self {
        Self { what, left: ROUNDS }
    }

    /// Begins a round, or says that there were enough of them.
    pub(super) fn round(&mut self) -> Result<(), Fault> {
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            Fault::new(FaultKind::Conflict, format!("{} being changed by others; try again", self.what))
        })?;
        Ok(())
    }
}

/// What a write came to; `None` when another writer came first.
pub(super) fn unless_lost<T>(written: Result<T, MetaError>) -> Result<Option<T>, Fault> {
    match written {
        Err(MetaError::Conflict) => Ok(None),
        written => Ok(Some(written?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_loses_every_round_is_told_so() {
        let mut race = Race::of("the drive is");
        for _ in 0..ROUNDS {
            race.round().unwrap();
        }
        let fault = race.round().unwrap_err();
        assert_eq!(
            (fault.kind, &*fault.told),
            (FaultKind::Conflict, "the drive is being changed by others; try again")
        );
        assert_eq!(unless_lost::<()>(Err(MetaError::Conflict)).unwrap(), None);
        assert_eq!(unless_lost(Ok(5)).unwrap(), Some(5));
        assert_eq!(unless_lost::<()>(Err(MetaError::NotFound)).unwrap_err().kind, FaultKind::NotFound);
    }
}
