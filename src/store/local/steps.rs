//! The steps on disk of a local store, each in the order that survives a crash. All of them block.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::files::{create_file, length, remove_maps, sync_dir};
use super::flush::SharedFlush;
use super::{Direct, LocalSettings, holes, sidecar};
use crate::domain::{ByteCount, ContentId, CrashPoints, PIECE, Pieces, UnixTime};
use crate::io::{SharedFile, probe};
use crate::store::{Ledger, Record, StoreError, Swept};

/// Drafts smaller than this are written through the page cache: direct writes gain little there, and their first reader
/// finds them in the cache. At 1 MiB, eight durable uploads at once take 0.7 of the time and of the CPU when direct.
const DIRECT_FROM: ByteCount = ByteCount::mib(1);

/// How the files of a drive lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One file, with the piece digests in an attribute: one inode and one flush instead of three, for drives that are
    /// so small that these are what they cost.
    File,
    /// A folder with a file for the bytes and one for the piece digests, of which there may be millions.
    Folder,
}

impl Form {
    /// The file with the bytes of what lies at `place`.
    pub(super) fn image(self, place: &Path) -> PathBuf {
        match self {
            Self::File => place.to_owned(),
            Self::Folder => place.join("image"),
        }
    }
}

/// A draft that was begun.
pub(super) struct Begun {
    pub(super) file: File,
    /// Whether it is written past the page cache.
    pub(super) direct: bool,
    pub(super) form: Form,
}

/// A published drive that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) place: PathBuf,
    pub(super) form: Form,
    pub(super) file: SharedFile,
}

impl Opened {
    /// The piece digests of a drive of this size.
    pub(super) fn pieces(&self, id: ContentId, size: ByteCount) -> Result<Pieces, StoreError> {
        match self.form {
            Form::File => sidecar::attached(&self.file, id, size),
            Form::Folder => sidecar::read(&self.place.join("pieces"), id, size),
        }
    }
}

/// Holds the contents.
const DRIVES: &str = "drives";

/// What the clones of a store share.
pub(super) struct Steps {
    pub(super) drives: PathBuf,
    pub(super) incoming: PathBuf,
    trash: PathBuf,
    pub(super) lost: PathBuf,
    flush_drives: SharedFlush,
    pub(super) flush_incoming: SharedFlush,
    direct: Direct,
    can_direct: bool,
    can_attach: bool,
    pub(super) can_share: bool,
    pub(super) ledger: Arc<Ledger>,
    pub(super) busy: Busy,
    pub(super) crash: CrashPoints,
    /// What the next flush of an image fails with, or 0.
    #[cfg(test)]
    pub(super) flush_fault: std::sync::atomic::AtomicI32,
}

impl Steps {
    /// Opens the store in `root`, which is made if it is missing.
    pub(super) fn open(root: &Path, settings: LocalSettings) -> Result<Self, StoreError> {
        let [drives, incoming, trash, lost] = [DRIVES, "incoming", "trash", "lost"].map(|name| root.join(name));
        for dir in [&drives, &incoming, &trash, &lost] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        sync_dir(root)?;
        // A probe is unlinked as soon as it is open, but a process may be killed between the two.
        for dir in [root, &incoming] {
            probe::clear(dir)?;
        }
        let LocalSettings { direct, reserve, shortage, crash } = settings;
        let can_direct = match direct {
            Direct::Never => false,
            Direct::Auto => probe::direct_io(&incoming).is_ok(),
            Direct::Always => probe::direct_io(&incoming).map(|()| true)?,
        };
        let asked = incoming.clone();
        let ledger = Ledger::with_shortage(move || probe::free_space(&asked), reserve, shortage);
        // Open from before the first change: a failure to write one back is told to these.
        let [flush_drives, flush_incoming] =
            [File::open(&drives)?, File::open(&incoming)?].map(|opened| SharedFlush::new(move || opened.sync_all()));
        let can_attach = probe::attributes(&incoming).is_ok();
        let can_share = probe::reflink(&incoming).is_ok();
        Ok(Self {
            drives,
            incoming,
            trash,
            lost,
            flush_drives,
            flush_incoming,
            direct,
            can_direct,
            can_attach,
            can_share,
            ledger,
            busy: Busy::default(),
            crash,
            #[cfg(test)]
            flush_fault: std::sync::atomic::AtomicI32::default(),
        })
    }

    /// Makes an empty draft.
    pub(super) fn begin_draft(
        &self,
        id: ContentId,
        expected: Option<ByteCount>,
        is_kept: bool,
    ) -> Result<Begun, StoreError> {
        let _claim = self.busy.claim(id);
        // What is kept has files beside the image.
        let is_small = !is_kept && expected.is_some_and(|bytes| bytes.get() <= PIECE);
        let form = if is_small && self.can_attach { Form::File } else { Form::Folder };
        let direct = self.writes_directly(expected);
        if !direct {
            return Ok(Begun { file: self.begin(id, form, OFlags::empty())?, direct, form });
        }
        match self.begin(id, form, OFlags::DIRECT) {
            Ok(file) => {
                // Direct writes that do not extend the file need not take turns on ext4. The
                // length is a hint here, and publishing sets it for good: so a failure changes nothing.
                let _ = file.set_len(expected.unwrap_or(ByteCount::ZERO).get());
                Ok(Begun { file, direct, form })
            }
            // The file system may take direct I/O in one directory and refuse it in another (encryption, layers). What
            // it has made is replaced.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                Ok(Begun { file: self.begin(id, form, OFlags::empty())?, direct: false, form })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a draft is written past the page cache.
    pub(super) fn writes_directly(&self, expected: Option<ByteCount>) -> bool {
        match self.direct {
            Direct::Auto => self.can_direct && expected.is_none_or(|bytes| bytes >= DIRECT_FROM),
            Direct::Always => true,
            Direct::Never => false,
        }
    }

    /// An empty image in `incoming/`. What an earlier attempt left there is removed.
    fn begin(&self, id: ContentId, form: Form, flags: OFlags) -> io::Result<File> {
        if !probe::has_inodes(&self.incoming)? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let place = place(&self.incoming, id);
        let make = || match form {
            Form::File => create_file(&place, flags),
            Form::Folder => {
                DirBuilder::new().mode(0o700).create(&place)?;
                create_file(&form.image(&place), flags)
            }
        };
        match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if let Some(earlier) = self.hide(&self.incoming, id)? {
                    unlink(&earlier)?;
                }
                make()
            }
            outcome => outcome,
        }
    }

    /// Gives a draft its size, flushes it and makes it visible.
    pub(super) fn publish_draft(
        &self,
        id: ContentId,
        form: Form,
        image: &File,
        size: ByteCount,
        (pieces, record): (&Pieces, &Record),
    ) -> Result<(), StoreError> {
        let _claim = self.busy.claim(id);
        image.set_len(size.get())?;
        self.crash.hit("publish: length set");
        self.publish(id, form, image, (pieces, record))?;
        if form == Form::Folder {
            // Only now: until it has its place, they are what a later attempt goes on from.
            remove_maps(&place(&self.drives, id));
            self.crash.hit("publish: maps removed");
        }
        Ok(())
    }

    /// Flushes a file and what is attached to it.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests make a flush fail"))]
    pub(super) fn sync_image(&self, image: &File) -> io::Result<()> {
        #[cfg(test)]
        match self.flush_fault.swap(0, std::sync::atomic::Ordering::SeqCst) {
            0 => {}
            number => return Err(io::Error::from_raw_os_error(number)),
        }
        image.sync_all()
    }

    /// Flushes what `incoming/` holds under this id and makes it visible.
    fn publish(
        &self,
        id: ContentId,
        form: Form,
        image: &File,
        (pieces, record): (&Pieces, &Record),
    ) -> Result<(), StoreError> {
        let from = place(&self.incoming, id);
        match form {
            Form::File => {
                sidecar::attach(image, pieces, record, id)?;
                self.crash.hit("publish: pieces attached");
                self.sync_image(image)?;
                self.crash.hit("publish: file flushed");
            }
            Form::Folder => {
                sidecar::attach_record(image, record, id)?;
                self.sync_image(image)?;
                self.crash.hit("publish: image flushed");
                sidecar::write(&from.join("pieces"), pieces)?;
                self.crash.hit("publish: pieces flushed");
                sync_dir(&from)?;
                self.crash.hit("publish: draft directory flushed");
            }
        }
        self.show(id, form)
    }

    /// Gives what `incoming/` holds under this id its place in `drives/`.
    fn show(&self, id: ContentId, form: Form) -> Result<(), StoreError> {
        let (from, to) = (place(&self.incoming, id), place(&self.drives, id));
        renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE).map_err(io::Error::from)?;
        self.crash.hit("publish: renamed");
        match form {
            // Where a rename is not one step of a journal, a power cut may leave the file under its old name too. That
            // name is a leftover for the sweeper, and the file lives on under the other.
            Form::File => self.flush_drives.flush()?,
            // A folder in two places would be damage to the file system.
            Form::Folder => self.flush_places()?,
        }
        self.crash.hit("publish: visible");
        Ok(())
    }

    pub(super) fn flush_places(&self) -> io::Result<()> {
        self.flush_drives.flush()?;
        self.flush_incoming.flush()
    }

    pub(super) fn open_image(&self, id: ContentId, write: bool) -> Result<Opened, StoreError> {
        open_at(place(&self.drives, id), id, write)
    }

    pub(super) fn clone_image(
        &self,
        source: ContentId,
        (target, size): (ContentId, ByteCount),
        record: &Record,
        go_on: &dyn Fn() -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let _claim = self.busy.claim(target);
        if place(&self.drives, target).try_exists()? {
            // An earlier run got this far, and then nobody could write it down. Its bytes were flushed before it came
            // here. If it was the flush of its name that failed, no later one is told to be good: names are in the
            // file system's journal, which stops at a write that fails.
            return Ok(self.flush_places()?);
        }
        let outcome = self.copy_image(source, (target, size), record, go_on);
        if outcome.is_err() {
            // Half a copy may be what fills the disk. What is not removed here is a leftover for the sweeper.
            let _ = self.discard(&[&self.incoming], target);
        }
        outcome
    }

    /// Copies, flushes and publishes. Leaves a draft when it fails.
    fn copy_image(
        &self,
        source: ContentId,
        (target, size): (ContentId, ByteCount),
        record: &Record,
        go_on: &dyn Fn() -> io::Result<()>,
    ) -> Result<(), StoreError> {
        self.ledger.admit_write()?;
        let opened = self.open_image(source, false)?;
        let (form, from) = (opened.form, &opened.file);
        let length = length(from)?;
        let pieces = opened.pieces(source, length)?;
        let to = self.begin(target, form, OFlags::empty())?;
        self.crash.hit("clone: begun");
        if !holes::share(from, &to)? {
            let allocated = ByteCount::new(from.metadata()?.blocks().saturating_mul(512)).unwrap_or(ByteCount::MAX);
            let reservation = self.ledger.reserve(allocated)?;
            to.set_len(size.get())?;
            holes::copy_checked((from, source), &to, length.min(size), &pieces, &mut |copied| {
                reservation.settle(copied);
                reservation.admit_write()?;
                go_on()
            })?;
        }
        // The source may have been grown since.
        to.set_len(size.get())?;
        self.crash.hit("clone: copied");
        self.publish(target, form, &to, (&pieces, record))
    }

    pub(super) fn grow(&self, id: ContentId, size: ByteCount) -> Result<(), StoreError> {
        let _claim = self.busy.claim(id);
        let image = self.open_image(id, true)?.file;
        if length(&image)? > size {
            return Err(StoreError::Io(io::Error::new(io::ErrorKind::InvalidInput, "a drive never shrinks")));
        }
        image.set_len(size.get())?;
        self.crash.hit("grow: length set");
        image.sync_all()?;
        self.crash.hit("grow: image flushed");
        Ok(())
    }

    pub(super) fn remove(&self, id: ContentId) -> Result<(), StoreError> {
        let _claim = self.busy.claim(id);
        self.discard(&[&self.drives, &self.incoming], id)
    }

    /// Unlinks what is in the trash; what fails keeps nothing else from going, and the last failure is told. What
    /// another step unlinks meanwhile is not missed.
    pub(super) fn empty_trash(&self) -> Result<(), StoreError> {
        let mut emptied = Ok(());
        for entry in fs::read_dir(&self.trash)? {
            if let Err(error) = unlink(&entry?.path()) {
                emptied = Err(error.into());
            }
        }
        emptied
    }

    /// Removes what these directories hold under this id, first from sight, durably, and then from the disk.
    fn discard(&self, dirs: &[&Path], id: ContentId) -> Result<(), StoreError> {
        let mut hidden = Vec::with_capacity(dirs.len());
        for dir in dirs {
            match self.hide(dir, id).map_err(StoreError::from) {
                Ok(moved) => hidden.push(moved),
                // At the end of a quota Btrfs gives nothing another name, and unlinks all the same. Who removes it does
                // so again after a crash.
                Err(StoreError::NoSpace) => unlink(&place(dir, id))?,
                Err(error) => return Err(error),
            }
        }
        self.crash.hit("remove: renamed");
        // Also when nothing was there: an earlier run may have ended between its rename and this.
        self.flush_places()?;
        self.crash.hit("remove: flushed");
        for hidden in hidden.into_iter().flatten() {
            unlink(&hidden)?;
            self.crash.hit("remove: unlinked");
        }
        Ok(())
    }

    /// Moves what one directory holds under this id to the trash; answers where it is then.
    fn hide(&self, dir: &Path, id: ContentId) -> io::Result<Option<PathBuf>> {
        // A random name: the trash may still hold the last thing that had this id.
        let hidden = self.trash.join(format!("{id}-{}", uuid::Uuid::new_v4()));
        match fs::rename(place(dir, id), &hidden) {
            Ok(()) => Ok(Some(hidden)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn sweep(
        &self,
        keep: &dyn Fn(ContentId) -> bool,
        is_running: &dyn Fn(ContentId) -> bool,
        forget_before: UnixTime,
    ) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        self.sweep_lost(keep, forget_before, &mut swept)?;
        // A content is written down before there is any of it, and contents are listed before anybody is asked, so what
        // is listed and unknown now will never be known. That is not to say that it never was: rows may have been lost.
        for id in ids_in(&self.drives)? {
            if !keep(id)
                && let Some(bytes) = self.set_aside(id)?
            {
                swept.bytes += bytes;
                swept.set_aside.push(id);
            }
        }
        if !swept.set_aside.is_empty() {
            sync_dir(&self.lost)?;
            self.flush_places()?;
        }
        for id in ids_in(&self.incoming)? {
            if !keep(id) || !is_running(id) {
                let _claim = self.busy.claim(id);
                self.discard(&[&self.incoming], id)?;
                swept.removed.push(id);
            }
        }
        self.empty_trash()?;
        swept.removed.sort_unstable();
        swept.removed.dedup();
        swept.set_aside.sort_unstable();
        Ok(swept)
    }
}

/// The ids on which a step is under way. Steps on one id wait for each other, on threads that may block.
#[derive(Debug, Default)]
pub(super) struct Busy {
    ids: Mutex<HashSet<ContentId>>,
    freed: Condvar,
}

impl Busy {
    pub(super) fn claim(&self, id: ContentId) -> Claim<'_> {
        let mut ids = self.ids();
        while !ids.insert(id) {
            ids = self.freed.wait(ids).unwrap_or_else(PoisonError::into_inner);
        }
        Claim { busy: self, id }
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<ContentId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Claim<'a> {
    busy: &'a Busy,
    id: ContentId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.busy.ids().remove(&self.id);
        self.busy.freed.notify_all();
    }
}

/// Opens the image at this place.
fn open_at(place: PathBuf, id: ContentId, write: bool) -> Result<Opened, StoreError> {
    let open_with = |form: Form, flags: OFlags| {
        let flags = (flags | OFlags::NOFOLLOW).bits().cast_signed();
        OpenOptions::new().read(true).write(write).custom_flags(flags).open(form.image(&place))
    };
    // A read that notes its time is a write to the file system, which may wait. Only the owner may ask for this.
    let open = |form| match open_with(form, OFlags::NOATIME) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open_with(form, OFlags::empty()),
        opened => opened,
    };
    let opened = match open(Form::Folder) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => open(Form::File).map(|file| (Form::File, file)),
        outcome => outcome.map(|file| (Form::Folder, file)),
    };
    match opened {
        Ok((form, file)) => Ok(Opened { place, form, file: SharedFile::from(file) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Missing(id)),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn place(dir: &Path, id: ContentId) -> PathBuf {
    dir.join(id.to_string())
}

pub(super) fn ids_in(dir: &Path) -> io::Result<Vec<ContentId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir)? {
        // What is not named by an id is not ours to remove.
        ids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<ContentId>().ok()));
    }
    Ok(ids)
}

/// Counts the contents of a store in `root`, if there is one.
pub(super) fn count(root: &Path) -> io::Result<usize> {
    match ids_in(&root.join(DRIVES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        ids => ids.map(|ids| ids.len()),
    }
}

/// Unlinks a file, or a folder with all in it; or finds it gone.
pub(super) fn unlink(path: &Path) -> io::Result<()> {
    let outcome = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir_all(path),
        outcome => outcome,
    };
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
