//! A part of an assembly: bytes from one connection.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;

use super::Assembly;
use crate::domain::{Checksum, Fault, FaultKind};
use crate::transfer::checksum::{ChecksumStates, check};
use crate::transfer::error::ReceiveError;
use crate::transfer::feed::{ByteSource, Sink, feed};
use crate::transfer::progress::{Phase, Progress};
use crate::transfer::receive::Allowance;
use crate::transfer::writer::DraftWriter;

/// A part that is being received. Dropping it ends it.
pub struct DrivePart {
    pub(super) assembly: Arc<Assembly>,
    pub(super) number: u64,
    pub(super) end: u64,
    /// Whether it counts only if it comes up to its end.
    pub(super) is_whole: bool,
    /// `None` once it is at its end.
    pub(super) writer: Option<DraftWriter>,
    /// The checksums of what has come, and those that it should have.
    pub(super) checks: Option<(ChecksumStates, Vec<Checksum>)>,
    pub(super) progress: Arc<Progress>,
}

impl DrivePart {
    /// Receives the bytes until the source ends, and makes them durable; also those that came before it broke off.
    /// Returns the offset behind the last byte. More bytes than the part has are refused; from `room` on `allowance` is
    /// asked for more.
    pub async fn receive(
        mut self,
        source: &mut impl ByteSource,
        room: u64,
        allowance: &mut impl Allowance,
    ) -> Result<u64, Fault> {
        let Some(writer) = &mut self.writer else { return Err(Fault::internal("a part was received twice")) };
        let due = Due { since: Instant::now(), from: writer.position(), running: None };
        let (assembly, progress) = (&self.assembly, &*self.progress);
        let states = self.checks.as_mut().map(|(states, _)| states);
        let mut sink = Bounded { writer, end: self.end, room, allowance, due, states, assembly, progress };
        let received = feed(source, &mut sink, &self.progress).await.map_err(Fault::from);
        let received = received.and_then(|()| self.verify(source));
        let ended = match self.ending() {
            Some(ending) => ending.await.unwrap_or_else(|crash| Err(Fault::internal(crash))),
            None => Err(Fault::internal("a part was ended twice")),
        };
        received?;
        ended
    }

    /// Counts the bytes of a part with checksums, if they have them.
    fn verify(&mut self, source: &impl ByteSource) -> Result<(), Fault> {
        let (Some((states, asserted)), Some(writer)) = (self.checks.take(), &mut self.writer) else { return Ok(()) };
        if self.is_whole && writer.position() != self.end {
            return Err(Fault::new(FaultKind::BodyIncomplete, "the body ended before it was complete"));
        }
        let came = states.finish();
        check(&came, &asserted)?;
        check(&came, &source.checksums()?)?;
        writer.release();
        Ok(())
    }

    /// Ends the part on a task of its own.
    fn ending(&mut self) -> Option<JoinHandle<Result<u64, Fault>>> {
        let mut writer = self.writer.take()?;
        let (assembly, number) = (self.assembly.clone(), self.number);
        Some(self.assembly.tracker.spawn(async move {
            let settled = writer.settle(assembly.size.get().copied()).await.map_err(Fault::from);
            let end = writer.position();
            let stored = assembly.store_map(false).await;
            // What was not settled has left a gap, and no digest goes on behind it.
            assembly.end_part(number, (settled.is_ok() && !writer.is_withheld()).then(|| writer.into_end()));
            settled.and(stored).map(|()| end)
        }))
    }
}

impl Drop for DrivePart {
    fn drop(&mut self) {
        drop(self.ending());
    }
}

/// When the next checkpoint is due.
struct Due {
    since: Instant,
    from: u64,
    running: Option<JoinHandle<Result<(), Fault>>>,
}

/// A writer that takes no more than its part has, and has checkpoints written.
struct Bounded<'a, A> {
    writer: &'a mut DraftWriter,
    end: u64,
    room: u64,
    allowance: &'a mut A,
    due: Due,
    states: Option<&'a mut ChecksumStates>,
    assembly: &'a Arc<Assembly>,
    progress: &'a Progress,
}

impl<A: Allowance> Bounded<'_, A> {
    /// Begins a checkpoint when one is due and none is being written; fails when the last one has.
    async fn look_after_checkpoint(&mut self) -> Result<(), ReceiveError> {
        let options = self.assembly.options;
        let is_late = self.due.since.elapsed() >= options.checkpoint_time;
        if is_late {
            // So slow that what came may be in a block still.
            self.writer.write_out().await?;
        }
        let is_due = is_late || self.writer.position() - self.due.from >= options.checkpoint_bytes;
        if !is_due || self.due.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return Ok(());
        }
        if let Some(running) = self.due.running.take() {
            let stored = running.await.unwrap_or_else(|crash| Err(Fault::internal(crash)));
            stored.map_err(ReceiveError::Refused)?;
        }
        let assembly = self.assembly.clone();
        let running = self.assembly.tracker.spawn(async move { assembly.store_map(false).await });
        self.due = Due { since: Instant::now(), from: self.writer.position(), running: Some(running) };
        Ok(())
    }
}

impl<A: Allowance> Sink for Bounded<'_, A> {
    fn is_filling(&self) -> bool {
        self.writer.is_filling()
    }

    fn ended(&mut self) -> impl Future<Output = ()> + Send {
        pending()
    }

    async fn space(&mut self) -> Result<&mut [u8], ReceiveError> {
        self.writer.space().await
    }

    async fn advance(&mut self, taken: usize) -> Result<(), ReceiveError> {
        let end = self.writer.position() + taken as u64;
        if end > self.end || self.assembly.size.get().is_some_and(|size| end > *size) {
            let told = "the body is longer than the part";
            return Err(ReceiveError::Refused(Fault::new(FaultKind::BadFraming, told)));
        }
        if end > self.room {
            let extended = self.progress.during(Phase::Disk, self.allowance.extend(end));
            self.room = extended.await.map_err(ReceiveError::Refused)?;
        }
        self.progress.add_bytes(taken as u64);
        if let Some(states) = &mut self.states {
            states.update(self.writer.next_bytes(taken));
        }
        self.writer.advance(taken).await?;
        self.look_after_checkpoint().await
    }

    async fn park(&mut self) -> Result<(), ReceiveError> {
        self.writer.write_out().await?;
        self.look_after_checkpoint().await
    }
}
