//! The directories of a tree that is being unpacked: opened beneath the root, through no link, and kept open for a
//! while.
//!
//! The mode, time and access list that an archive gives a directory take effect when its descriptor is closed, since
//! creating entries needs other permissions and changes the time. A directory that is opened again gets its mode, time
//! and list back when it is closed again. So nothing has to be remembered beyond the descriptors.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags, fchmod, fgetxattr,
    fremovexattr, fsetxattr, fstat, futimens, mkdirat, openat2, statat, unlinkat,
};
use rustix::io::Errno;

use super::account::Account;
use super::error::{Budget, Rule, UnpackCause};
use super::name::TreePath;
use super::pax::Time;
use super::{ACL_DEFAULT, Attribute, Limits};

/// Directories that are kept open. Deeper than nearly all trees, and few beside the limit of a process.
pub(super) const KEPT: usize = 64;

/// How names are resolved: a component that is a link or leads out of the tree is an error.
pub(super) const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// The mode of a directory that no member describes.
const IMPLIED_MODE: u32 = 0o755;

/// An open directory.
pub(super) struct Directory {
    fd: OwnedFd,
    /// Whether its entries get its group (set-group-ID).
    pub(super) passes_group: bool,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Changes to a directory that are due when its descriptor is closed.
#[derive(Default)]
pub(super) struct Later {
    pub(super) mode: Option<u32>,
    pub(super) mtime: Option<Time>,
    /// Access lists: names and values.
    pub(super) lists: Vec<Attribute>,
}

struct Open {
    directory: Rc<Directory>,
    used: u64,
    later: Later,
}

pub(super) struct Directories {
    /// Open directories by path; the root is always among them.
    open: HashMap<Vec<u8>, Open>,
    clock: u64,
    /// Whether any directory may have a default access list, which new entries would inherit.
    lists: bool,
}

impl Directories {
    /// Takes `root`, an empty directory, as the root.
    pub(super) fn new(root: BorrowedFd<'_>) -> Result<Self, UnpackCause> {
        let mut entries = rustix::fs::Dir::read_from(root)?;
        if entries.any(|entry| !entry.is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))) {
            return Err(Rule::RootNotEmpty.into());
        }
        let fd = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
        match fremovexattr(&fd, ACL_DEFAULT) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let passes_group = fstat(&fd)?.st_mode & 0o2000 != 0;
        let root = Open { directory: Rc::new(Directory { fd, passes_group }), used: 0, later: Later::default() };
        Ok(Self { open: HashMap::from([(Vec::new(), root)]), clock: 0, lists: false })
    }

    /// Returns the directory of this path, to create entries in it. Creates it and its parents if they are missing.
    pub(super) fn enter(&mut self, path: &[u8], account: &mut Account) -> Result<Rc<Directory>, UnpackCause> {
        self.find(path, Some(account))
    }

    /// Returns the directory of this path, if it exists.
    pub(super) fn look_up(&mut self, path: &[u8]) -> Result<Rc<Directory>, UnpackCause> {
        self.find(path, None)
    }

    fn find(&mut self, path: &[u8], mut account: Option<&mut Account>) -> Result<Rc<Directory>, UnpackCause> {
        if let Some(directory) = self.kept(path) {
            return Ok(directory);
        }
        let mut known = path.len();
        let mut parent = loop {
            known = path[..known].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            if let Some(directory) = self.kept(&path[..known]) {
                break directory;
            }
        };
        let mut start = if known == 0 { 0 } else { known + 1 };
        // Open all remaining components in one call, which works unless one is missing or its mode denies access.
        match self.open_child(&parent, &path[start..]) {
            Ok(opened) => return self.keep(path, opened),
            Err(Errno::NOENT | Errno::ACCESS) => {}
            Err(error) => return Err(through(error)),
        }
        while start < path.len() {
            let end = path[start..].iter().position(|byte| *byte == b'/').map_or(path.len(), |slash| start + slash);
            let name = &path[start..end];
            let opened = match self.open_child(&parent, name) {
                Err(Errno::NOENT) => match &mut account {
                    Some(account) => {
                        account.directory()?;
                        mkdirat(&*parent, name, Mode::RWXU)?;
                        let (directory, mut later) = self.open_child(&parent, name)?;
                        later.mode = Some(IMPLIED_MODE);
                        later.mtime = None;
                        (directory, later)
                    }
                    None => return Err(Errno::NOENT.into()),
                },
                Err(Errno::ACCESS) => self.open_closed(&parent, name)?,
                opened => opened.map_err(through)?,
            };
            parent = self.keep(&path[..end], opened)?;
            start = end + 1;
        }
        Ok(parent)
    }

    /// Returns the directory that a member describes, which is created unless it exists. Anything else of its name is
    /// replaced; the flag reports that.
    pub(super) fn describe(
        &mut self,
        path: &TreePath,
        later: Later,
        account: &mut Account,
    ) -> Result<(Rc<Directory>, bool), UnpackCause> {
        let mut replaces = false;
        if let Some((above, name)) = path.split() {
            let parent = self.enter(above, account)?;
            match mkdirat(&*parent, name, Mode::RWXU) {
                Ok(()) => account.directory()?,
                Err(Errno::EXIST) => {
                    account.inode()?;
                    if !FileType::from_raw_mode(statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode).is_dir() {
                        account.directory()?;
                        unlinkat(&*parent, name, AtFlags::empty())?;
                        mkdirat(&*parent, name, Mode::RWXU)?;
                        replaces = true;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        let directory = self.look_up(path.as_bytes())?;
        self.lists |= !later.lists.is_empty();
        if let Some(open) = self.open.get_mut(path.as_bytes()) {
            open.later = later;
        }
        Ok((directory, replaces))
    }

    /// Removes the entry in the place of a new member; refuses if it is a directory that is not empty.
    pub(super) fn vacate(&mut self, parent: &Directory, path: &TreePath, name: &[u8]) -> Result<(), UnpackCause> {
        let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !FileType::from_raw_mode(there.st_mode).is_dir() {
            return Ok(unlinkat(parent, name, AtFlags::empty())?);
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => {
                self.open.remove(path.as_bytes());
                Ok(())
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(Rule::FullDirectory.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Closes all directories.
    pub(super) fn finish(mut self) -> Result<(), UnpackCause> {
        self.open.drain().try_for_each(|(_, open)| settle(&open))
    }

    fn kept(&mut self, path: &[u8]) -> Option<Rc<Directory>> {
        let open = self.open.get_mut(path)?;
        self.clock += 1;
        open.used = self.clock;
        Some(Rc::clone(&open.directory))
    }

    fn keep(&mut self, path: &[u8], opened: (Directory, Later)) -> Result<Rc<Directory>, UnpackCause> {
        if self.open.len() >= KEPT {
            let others = self.open.iter().filter(|(path, _)| !path.is_empty());
            let oldest = others.min_by_key(|(_, open)| open.used).map(|(path, _)| path.clone());
            if let Some(open) = oldest.and_then(|path| self.open.remove(&path)) {
                settle(&open)?;
            }
        }
        self.clock += 1;
        let directory = Rc::new(opened.0);
        let open = Open { directory: Rc::clone(&directory), used: self.clock, later: opened.1 };
        self.open.insert(path.to_vec(), open);
        Ok(directory)
    }

    /// Opens a directory beneath another, ready for new entries.
    fn open_child(&self, parent: &Directory, path: &[u8]) -> Result<(Directory, Later), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat2(parent, path, flags, Mode::empty(), BENEATH)?;
        let stat = fstat(&fd)?;
        let mtime = Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
        let mut later = Later { mode: None, mtime: Some(mtime), lists: Vec::new() };
        let mode = stat.st_mode & 0o7777;
        if mode & 0o700 != 0o700 {
            fchmod(&fd, Mode::from_raw_mode(mode | 0o700))?;
            later.mode = Some(mode);
        }
        if self.lists {
            // Set aside, since new entries would inherit it.
            let mut list = vec![0; Limits::of_volume(0).attributes];
            match fgetxattr(&fd, ACL_DEFAULT, &mut list[..]) {
                Ok(len) => {
                    list.truncate(len);
                    fremovexattr(&fd, ACL_DEFAULT)?;
                    later.lists.push((ACL_DEFAULT.to_vec(), list));
                }
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((Directory { fd, passes_group: mode & 0o2000 != 0 }, later))
    }

    /// Opens a directory whose mode denies access even to its owner.
    fn open_closed(&self, parent: &Directory, name: &[u8]) -> Result<(Directory, Later), UnpackCause> {
        let mode = unlock(parent, name)?;
        let (directory, mut later) = self.open_child(parent, name)?;
        later.mode = Some(mode);
        Ok((directory, later))
    }
}

/// Gives the owner of a directory all rights in it; returns its mode before that.
pub(super) fn unlock(parent: impl AsFd, name: &[u8]) -> Result<u32, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = openat2(parent, name, flags, Mode::empty(), BENEATH)?;
    let mode = fstat(&path)?.st_mode & 0o7777;
    chmod_path(&path, mode | 0o700)?;
    Ok(mode)
}

/// Changes the mode of the file behind an `O_PATH` descriptor, which is never a link. It goes through /proc, since no
/// call before Linux 6.6 does this without following links.
pub(super) fn chmod_path(path: &OwnedFd, mode: u32) -> Result<(), Errno> {
    rustix::fs::chmod(format!("/proc/self/fd/{}", path.as_raw_fd()), Mode::from_raw_mode(mode))
}

pub(super) fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}

fn settle(open: &Open) -> Result<(), UnpackCause> {
    let fd = &open.directory.fd;
    for (name, value) in &open.later.lists {
        fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()).map_err(|error| match error {
            Errno::INVAL | Errno::TOOBIG | Errno::RANGE | Errno::OPNOTSUPP => Rule::AttributeRoom.into(),
            error => UnpackCause::from(error),
        })?;
    }
    if let Some(mode) = open.later.mode {
        fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    if let Some(mtime) = open.later.mtime {
        futimens(fd, &timestamps(mtime))?;
    }
    Ok(())
}

/// The cause to report when a directory cannot be opened.
fn through(error: Errno) -> UnpackCause {
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => Rule::Through.into(),
        Errno::NAMETOOLONG => Budget::Name.into(),
        error => error.into(),
    }
}

impl From<Errno> for UnpackCause {
    fn from(error: Errno) -> Self {
        Self::Disk(error.into())
    }
}
