//! Drafts that outlive whoever fills them: what of them is there, written down at each checkpoint.
//!
//! ```text
//! incoming/<content>/map.0, map.1    one of them is that of the last checkpoint, the other of the one before
//!     u64    the number of the checkpoint
//!     ...    the map, see `piece_map::encoding`
//!     u128   the XXH3-128 of all before
//! ```
//! Numbers are little-endian.
//!
//! # Crash
//! A checkpoint flushes the image first, then overwrites the older of the two maps and flushes that. So after a crash
//! the newest map that is whole says no more than what is on the disk. A process that goes on from it cannot know
//! whether the disk has that map or only the page cache has, so it writes it again, and flushes it, before it tells
//! anybody.
//!
//! Bytes that came after a checkpoint may be in the image without being in the map. Whoever goes on makes them zero, so
//! that zeros written later may become holes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::iter;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;
use twox_hash::XxHash3_128;

use super::copies::copy_range;
use super::files::{MAPS, create_file, length, remove_maps, sync_dir};
use super::steps::{Begun, Form, Steps, place};
use crate::domain::{ByteCount, ContentId, Extent, Extents};
use crate::io::ALIGN;
use crate::store::{PieceMap, StoreError, data_runs};

const NUMBER: usize = 8;
const CHECKSUM: usize = 16;
const SECTOR: u64 = ALIGN as u64;
/// What is written at once where a range cannot be freed.
const ZEROS: usize = 64 << 10;

/// What a draft that is kept has beside its image.
pub(super) struct Kept {
    marks: Mutex<Marks>,
    /// Taken to read, change and write one sector.
    edges: Mutex<()>,
    /// The number of the last checkpoint.
    number: Mutex<u64>,
    /// Whether a flush has failed (I5).
    is_lost: AtomicBool,
}

#[derive(Default)]
struct Marks {
    /// Where the image may hold other bytes than zeros.
    touched: Extents,
    /// The bytes that came: what is written again takes no more space.
    came: Extents,
}

impl Kept {
    fn new(map: &PieceMap, number: u64) -> Self {
        let marks = Marks { touched: map.extents().clone(), came: map.extents().clone() };
        Self {
            marks: Mutex::new(marks),
            edges: Mutex::default(),
            number: Mutex::new(number),
            is_lost: AtomicBool::default(),
        }
    }

    /// Notes a write: returns the runs of it that must be written, and how many of its bytes came for the first time.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> (Vec<Range<usize>>, u64) {
        let range = offset..offset + bytes.len() as u64;
        let mut marks = self.marks();
        // Zeros over other bytes are bytes.
        let is_over = marks.touched.within(range.clone()).next().is_some();
        let runs: Vec<_> = if is_over { iter::once(0..bytes.len()).collect() } else { data_runs(bytes).collect() };
        if !runs.is_empty() {
            marks.touched.insert(range.clone());
        }
        (runs, marks.come(range))
    }

    /// Notes that a write does not take place.
    pub(super) fn did_not_come(&self, range: Range<u64>) {
        self.marks().came.remove(range);
    }

    /// Writes bytes within one sector; returns how many of them came for the first time.
    pub(super) fn write_edge(&self, image: &File, bytes: &[u8], offset: u64) -> io::Result<ByteCount> {
        let range = offset..offset + bytes.len() as u64;
        let new = {
            let mut marks = self.marks();
            marks.touched.insert(range.clone());
            marks.come(range)
        };
        self.change_sector(image, offset, |sector| sector.copy_from_slice(bytes), bytes.len())?;
        Ok(ByteCount::new(new).unwrap_or(ByteCount::MAX))
    }

    fn change_sector(&self, image: &File, offset: u64, change: impl FnOnce(&mut [u8]), len: usize) -> io::Result<()> {
        let mut sector = Aligned([0; ALIGN]);
        let (start, at) = (offset - offset % SECTOR, (offset % SECTOR) as usize);
        let _alone = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        // Short when the image ends within it, and only then.
        let _ = image.read_at(&mut sector.0, start)?;
        change(&mut sector.0[at..at + len]);
        image.write_all_at(&sector.0, start)
    }

    /// Makes a range zero; returns how many of its bytes came for the first time.
    pub(super) fn zero(&self, image: &File, extent: Extent) -> io::Result<ByteCount> {
        let (sectors, edges) = sectors_of(&extent.range());
        for edge in edges {
            let len = (edge.end - edge.start) as usize;
            if len > 0 {
                self.change_sector(image, edge.start, |bytes| bytes.fill(0), len)?;
            }
        }
        if !sectors.is_empty() {
            free(image, sectors)?;
        }
        let mut marks = self.marks();
        marks.touched.remove(extent.range());
        let new = marks.come(extent.range());
        Ok(ByteCount::new(new).unwrap_or(ByteCount::MAX))
    }

    /// Has the image hold bytes of another file that begin there at `from`; returns how many of them came for the first
    /// time.
    pub(super) fn take_over(&self, image: &File, source: &File, from: u64, range: Range<u64>) -> io::Result<u64> {
        let new = {
            let mut marks = self.marks();
            marks.touched.insert(range.clone());
            marks.come(range.clone())
        };
        let (sectors, edges) = sectors_of(&range);
        for edge in edges {
            let mut bytes = vec![0; (edge.end - edge.start) as usize];
            if !bytes.is_empty() {
                source.read_exact_at(&mut bytes, from + (edge.start - range.start))?;
                self.change_sector(image, edge.start, |sector| sector.copy_from_slice(&bytes), bytes.len())?;
            }
        }
        if !sectors.is_empty() {
            let at = from + (sectors.start - range.start);
            copy_range(source, at, image, sectors.start, sectors.end - sectors.start)?;
        }
        Ok(new)
    }

    /// Has the image hold zeros, and leaves it alone where it does; returns how many of the bytes came for the first
    /// time.
    pub(super) fn leave(&self, image: &File, range: Range<u64>) -> io::Result<u64> {
        let is_over = self.marks().touched.within(range.clone()).next().is_some();
        if is_over {
            let extent = Extent { offset: range.start, len: range.end - range.start };
            return self.zero(image, extent).map(ByteCount::get);
        }
        Ok(self.marks().come(range))
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    /// A failed flush is never retried (I5).
    fn flushed(&self, outcome: io::Result<()>) -> io::Result<()> {
        self.is_lost.fetch_or(outcome.is_err(), Ordering::AcqRel);
        outcome
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Marks {
    /// Notes bytes; returns how many of them came for the first time.
    fn come(&mut self, range: Range<u64>) -> u64 {
        let before: u64 = self.came.within(range.clone()).map(|part| part.end - part.start).sum();
        let new = range.end - range.start - before;
        self.came.insert(range);
        new
    }
}

/// The whole sectors of a range, and what lies before and behind them in others.
fn sectors_of(range: &Range<u64>) -> (Range<u64>, [Range<u64>; 2]) {
    let Range { start, end } = *range;
    let (first, last) = (start.next_multiple_of(SECTOR).min(end), (end - end % SECTOR).max(start));
    (first..last.max(first), [start..first, first.max(last)..end])
}

#[repr(align(4096))]
struct Aligned<const LEN: usize>([u8; LEN]);

/// Makes whole sectors zero, and frees them where the file system can.
fn free(image: &File, range: Range<u64>) -> io::Result<()> {
    static NOTHING: Aligned<ZEROS> = Aligned([0; ZEROS]);
    let end = range.end.min(length(image)?.get().next_multiple_of(SECTOR));
    if end <= range.start {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(image, flags, range.start, end - range.start) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        outcome => return Ok(outcome?),
    }
    let mut at = range.start;
    while at < end {
        let now = (end - at).min(ZEROS as u64);
        image.write_all_at(&NOTHING.0[..now as usize], at)?;
        at += now;
    }
    Ok(())
}

impl Steps {
    /// Gives a new draft its first checkpoint, of nothing, and makes the draft durable.
    pub(super) fn keep(&self, id: ContentId) -> Result<Kept, StoreError> {
        let _claim = self.busy.claim(id);
        let folder = place(&self.incoming, id);
        for name in MAPS {
            create_file(&folder.join(name), OFlags::empty())?;
        }
        let kept = Kept::new(&PieceMap::default(), 0);
        write_map(&folder, &kept, &PieceMap::default())?;
        self.crash.hit("keep: map flushed");
        sync_dir(&folder)?;
        self.flush_incoming.flush()?;
        self.crash.hit("keep: visible");
        Ok(kept)
    }

    /// Flushes the image, then writes down what of it is there.
    pub(super) fn checkpoint(
        &self,
        id: ContentId,
        image: &File,
        kept: &Kept,
        map: &PieceMap,
    ) -> Result<(), StoreError> {
        let _claim = self.busy.claim(id);
        kept.flushed(self.sync_image(image))?;
        self.crash.hit("checkpoint: image flushed");
        write_map(&place(&self.incoming, id), kept, map)?;
        self.crash.hit("checkpoint: map flushed");
        Ok(())
    }

    /// Goes on with a draft as of its last checkpoint.
    pub(super) fn resume_draft(
        &self,
        id: ContentId,
        expected: Option<ByteCount>,
    ) -> Result<(Begun, Kept, PieceMap), StoreError> {
        let _claim = self.busy.claim(id);
        // A crash right after its publication has left them there.
        remove_maps(&place(&self.drives, id));
        let folder = place(&self.incoming, id);
        let direct = self.writes_directly(expected);
        let opened = match open(&folder, if direct { OFlags::DIRECT } else { OFlags::empty() }) {
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                open(&folder, OFlags::empty()).map(|file| (file, false))
            }
            opened => opened.map(|file| (file, direct)),
        };
        let (file, direct) = match opened {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(StoreError::Missing(id));
            }
            opened => opened?,
        };
        let most = expected.unwrap_or(ByteCount::MAX);
        let newest =
            MAPS.into_iter().filter_map(|name| read_map(&folder.join(name), most)).max_by_key(|(number, _)| *number);
        let (number, map) = newest.ok_or(StoreError::Damaged(id, "what of it is there is not known"))?;
        let (zeroing, mut at) = (Kept::new(&map, number), 0);
        while let Some(gap) = map.extents().first_gap(at..length(&file)?.get().max(at)) {
            zeroing.zero(&file, Extent { offset: gap.start, len: gap.end - gap.start })?;
            at = gap.end;
        }
        // It counted as bytes that came what did not.
        let kept = Kept::new(&map, number);
        // An attempt to publish it may have got this far.
        match fs::remove_file(folder.join("pieces")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        self.crash.hit("resume: zeroed");
        self.sync_image(&file)?;
        write_map(&folder, &kept, &map)?;
        self.crash.hit("resume: map flushed");
        Ok((Begun { file, direct, form: Form::Folder }, kept, map))
    }

    /// Opens the image of a draft that is kept to write it through the page cache.
    pub(super) fn open_to_copy(&self, id: ContentId) -> io::Result<File> {
        open(&place(&self.incoming, id), OFlags::empty())
    }

    /// Opens the image of a draft to read it through the page cache.
    pub(super) fn open_draft(&self, id: ContentId, form: Form) -> Result<File, StoreError> {
        Ok(File::open(form.image(&place(&self.incoming, id)))?)
    }
}

fn open(folder: &Path, flags: OFlags) -> io::Result<File> {
    let flags = (flags | OFlags::NOFOLLOW).bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(folder.join("image"))
}

/// Overwrites the older map and flushes it.
fn write_map(folder: &Path, kept: &Kept, map: &PieceMap) -> io::Result<()> {
    let mut number = kept.number.lock().unwrap_or_else(PoisonError::into_inner);
    let next = *number + 1;
    let mut bytes = next.to_le_bytes().to_vec();
    bytes.extend_from_slice(&map.encode());
    bytes.extend_from_slice(&XxHash3_128::oneshot(&bytes).to_le_bytes());
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().write(true).custom_flags(flags).open(map_path(folder, next))?;
    file.write_all_at(&bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    kept.flushed(file.sync_all())?;
    *number = next;
    Ok(())
}

fn map_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(MAPS[(number % 2) as usize])
}

/// A map of a drive of this size at most, with its number; `None` unless every byte is as it was written.
fn read_map(path: &Path, most: ByteCount) -> Option<(u64, PieceMap)> {
    let bytes = fs::read(path).ok()?;
    let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>()?;
    if XxHash3_128::oneshot(content) != u128::from_le_bytes(*checksum) {
        return None;
    }
    let (number, map) = content.split_first_chunk::<NUMBER>()?;
    Some((u64::from_le_bytes(*number), PieceMap::decode(map, most)?))
}
