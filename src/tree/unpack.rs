//! Unpacks a tar stream into an empty directory.
//!
//! # Rules
//! - A member replaces an earlier one of the same name. A directory over a directory keeps its entries; over a
//!   directory with entries, nothing but a directory is allowed; anything may replace the rest. GNU tar does the same,
//!   except that no link is followed here: a directory over a link replaces the link, and a name that goes through a
//!   link is refused.
//! - A hard link needs an existing target that is no directory. Since the root was empty, this archive has made it; a
//!   hard link to a symbolic link is another name of that link, which is not followed. Mode, time and attributes of the
//!   hard link's member are ignored; a link to itself does nothing.
//! - Directories that no member describes are made with mode 755.
//! - Attributes are kept on files and directories only.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, chownat, fchmod, fchown, fsetxattr, fstatvfs, ftruncate,
    futimens, linkat, makedev, mknodat, openat2, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::account::{Account, DISK_BLOCK, INODE};
use super::archive::{Archive, Kind, Member};
use super::digests::{Digest, DigestLog, FileDigester};
use super::directories::{BENEATH, Directories, Directory, Later, chmod_path, timestamps};
use super::error::{Place, Rule, UnpackCause, UnpackError};
use super::large::{LargeFile, LargeFiles};
use super::name::TreePath;
use super::{ACL_ACCESS, ACL_DEFAULT, CAPABILITY, ForeignAttributes, Limits, Owners, Policy};
use crate::domain::Extent;

/// The longest target of a symbolic link that ext4 stores in the inode.
const INLINE_LINK: usize = 59;

/// Totals of an unpacked archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Members of the archive.
    pub members: u64,
    /// Regular files among them.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Hard links.
    pub hard_links: u64,
    /// Pipes and devices.
    pub special: u64,
    /// Bytes of data.
    pub bytes: u64,
    /// Bytes of data and holes.
    pub apparent: u64,
    /// Extended attributes that were left out.
    pub dropped_attributes: u64,
    /// Members whose set-user-ID or set-group-ID was cleared.
    pub cleared_set_id: u64,
}

/// Unpacks a plain tar stream into `root`, an empty directory that nobody else uses, opened for reading.
///
/// It reads the stream to its end. Nothing is durable when it returns; see [`super::sync`].
pub fn unpack(reader: impl Read, root: impl AsFd, limits: &Limits, policy: &Policy) -> Result<Unpacked, UnpackError> {
    unpack_into(reader, root.as_fd(), limits, *policy, None)
}

/// Like [`unpack`], and records the digest of each file and link from the bytes as they arrive.
pub fn unpack_digested(
    reader: impl Read,
    root: impl AsFd,
    limits: &Limits,
    policy: &Policy,
    digests: &mut DigestLog,
) -> Result<Unpacked, UnpackError> {
    unpack_into(reader, root.as_fd(), limits, *policy, Some(digests))
}

fn unpack_into(
    reader: impl Read,
    root: BorrowedFd<'_>,
    limits: &Limits,
    policy: Policy,
    digests: Option<&mut DigestLog>,
) -> Result<Unpacked, UnpackError> {
    let at_start = |cause| UnpackError { place: Place::default(), cause };
    let mut archive = Archive::new(reader, limits);
    let mut unpacker = Unpacker {
        policy,
        account: Account::open(root, limits).map_err(at_start)?,
        directories: Directories::new(root).map_err(at_start)?,
        digests,
        large: LargeFiles::new(policy.large),
        umask: umask(),
        me: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        done: Unpacked::default(),
    };
    while let Some(member) = archive.next()? {
        unpacker.member(&member, &mut archive)?;
    }
    let end = Place { entry: unpacker.done.members, name: None, offset: archive.offset() };
    unpacker.directories.finish().map_err(|cause| UnpackError { place: end, cause })?;
    Ok(unpacker.done)
}

struct Unpacker<'a> {
    policy: Policy,
    account: Account,
    directories: Directories,
    digests: Option<&'a mut DigestLog>,
    large: LargeFiles,
    umask: u32,
    /// The owner and group of new files, unless they are changed.
    me: (u32, u32),
    done: Unpacked,
}

impl Unpacker<'_> {
    fn member<R: Read>(&mut self, member: &Member, archive: &mut Archive<R>) -> Result<(), UnpackError> {
        if let Kind::File { size, extents } = &member.kind {
            let extents = extents.as_deref();
            let file = self.new_file(member, *size, extents).map_err(at(member))?;
            let digest = match extents {
                Some(extents) => self.fill_extents(&file, *size, extents, archive, member)?,
                None => self.fill(&file, *size, archive, member)?,
            };
            self.note(&member.path, digest).map_err(at(member))?;
            self.finish_file(member, &file, extents.map(|_| *size)).map_err(at(member))?;
            self.done.files += 1;
            self.done.apparent += size;
            self.done.bytes += extents.map_or(*size, |extents| extents.iter().map(|extent| extent.len).sum());
        } else {
            self.without_data(member).map_err(at(member))?;
        }
        self.done.members += 1;
        Ok(())
    }

    /// Writes a file's data as it arrives.
    fn fill<R: Read>(
        &mut self,
        mut file: &File,
        size: u64,
        archive: &mut Archive<R>,
        member: &Member,
    ) -> Result<Option<Digest>, UnpackError> {
        let disk = |error| at(member)(UnpackCause::Disk(error));
        let mut large = self.large.begin(file, size).map_err(disk)?;
        let mut digester = self.digests.as_ref().map(|_| FileDigester::of_size(size));
        while let Some(chunk) = archive.data()? {
            if let Some(digester) = &mut digester {
                digester.update(chunk);
            }
            match &mut large {
                Some(large) => large.write(chunk),
                None => file.write_all(chunk),
            }
            .map_err(disk)?;
        }
        large.map_or(Ok(()), LargeFile::end).map_err(disk)?;
        Ok(digester.map(FileDigester::finish))
    }

    /// Writes the data of a sparse file as it arrives.
    fn fill_extents<R: Read>(
        &self,
        file: &File,
        size: u64,
        extents: &[Extent],
        archive: &mut Archive<R>,
        member: &Member,
    ) -> Result<Option<Digest>, UnpackError> {
        let mut digester = self.digests.as_ref().map(|_| FileDigester::of_size(size));
        let mut extents = extents.iter().copied();
        let mut run = Extent { offset: 0, len: 0 };
        while let Some(mut chunk) = archive.data()? {
            while !chunk.is_empty() {
                if run.len == 0 {
                    // `sparse::checked` makes sure that the map covers exactly the data, so that this does not happen.
                    let Some(next) = extents.next() else { break };
                    run = next;
                }
                let (part, rest) = chunk.split_at(usize::try_from(run.len).unwrap_or(usize::MAX).min(chunk.len()));
                if let Some(digester) = &mut digester {
                    digester.zeros_to(run.offset);
                    digester.update(part);
                }
                file.write_all_at(part, run.offset).map_err(UnpackCause::Disk).map_err(at(member))?;
                run.offset += part.len() as u64;
                run.len -= part.len() as u64;
                chunk = rest;
            }
        }
        Ok(digester.map(|mut digester| {
            digester.zeros_to(size);
            digester.finish()
        }))
    }

    /// Records the digest of a path, if it has one.
    fn note(&mut self, path: &TreePath, digest: Option<Digest>) -> Result<(), UnpackCause> {
        let (Some(digests), Some(digest)) = (&mut self.digests, digest) else { return Ok(()) };
        digests.put(path.as_bytes(), digest).map_err(UnpackCause::Disk)
    }

    /// Records that a path has no digest any more.
    fn note_gone(&mut self, path: &TreePath) -> Result<(), UnpackCause> {
        let Some(digests) = &mut self.digests else { return Ok(()) };
        digests.remove(path.as_bytes()).map_err(UnpackCause::Disk)
    }

    fn without_data(&mut self, member: &Member) -> Result<(), UnpackCause> {
        match &member.kind {
            Kind::Directory => {
                self.directory(member)?;
                self.done.directories += 1;
            }
            Kind::HardLink(target) => {
                self.hard_link(&member.path, target)?;
                self.done.hard_links += 1;
            }
            Kind::Symlink(target) => {
                // A short one is charged as an inode only, which `make` has done.
                if target.len() > INLINE_LINK {
                    self.account.spend(DISK_BLOCK - INODE)?;
                }
                let (parent, name) = self.make(member, |parent, name| symlinkat(target.as_slice(), parent, name))?;
                self.finish_special(member, &parent, name, false)?;
                self.note(&member.path, Some(Digest::of_link(target)))?;
                self.done.symlinks += 1;
            }
            Kind::Fifo => {
                self.node(member, FileType::Fifo, 0)?;
            }
            Kind::Device { .. } if !self.policy.devices => return Err(Rule::Device.into()),
            Kind::Device { block, major, minor } => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                self.node(member, kind, makedev(*major, *minor))?;
            }
            Kind::File { .. } => {}
        }
        Ok(())
    }

    fn new_file(&mut self, member: &Member, size: u64, extents: Option<&[Extent]>) -> Result<File, UnpackCause> {
        self.account.file(size, extents)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = if self.is_plain(member) { member.mode } else { 0o600 };
        let create = |parent: &Directory, name: &[u8]| openat2(parent, name, flags, mode.into(), BENEATH);
        let (parent, name) = member.path.split().ok_or(Rule::Root)?;
        let parent = self.directories.enter(parent, &mut self.account)?;
        let fd = match create(&parent, name) {
            Err(Errno::EXIST) => {
                self.directories.vacate(&parent, &member.path, name)?;
                create(&parent, name)
            }
            created => created,
        }?;
        if self.chowns(member, &parent) {
            fchown(&fd, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))?;
        }
        Ok(File::from(fd))
    }

    /// Whether a file needs no change after it was created with the member's mode.
    fn is_plain(&self, member: &Member) -> bool {
        member.mode & (self.umask | 0o7000) == 0
            && member.attributes.is_empty()
            && (self.policy.owners == Owners::Ignore || self.me == (member.uid, member.gid))
    }

    fn chowns(&self, member: &Member, parent: &Directory) -> bool {
        self.policy.owners == Owners::Keep && (parent.passes_group || self.me != (member.uid, member.gid))
    }

    /// Sets the metadata of a file after its data was written, since writing clears some of it.
    fn finish_file(&mut self, member: &Member, file: &File, sparse: Option<u64>) -> Result<(), UnpackCause> {
        if let Some(size) = sparse {
            ftruncate(file, size)?;
        }
        self.drop_attributes(member.unread_attributes)?;
        self.account.attributes(member.attributes.iter())?;
        for (name, value) in &member.attributes {
            let kept = name.starts_with(b"user.")
                || name.as_slice() == ACL_ACCESS
                || (name.as_slice() == CAPABILITY && self.policy.capabilities);
            if kept {
                set_attribute(file, name, value)?;
            } else {
                self.drop_attributes(1)?;
            }
        }
        let plain = self.is_plain(member);
        let mode = self.mode(member);
        if !plain {
            fchmod(file, mode.into())?;
        }
        futimens(file, &timestamps(member.mtime))?;
        Ok(())
    }

    fn directory(&mut self, member: &Member) -> Result<(), UnpackCause> {
        self.drop_attributes(member.unread_attributes)?;
        self.account.attributes(member.attributes.iter())?;
        let (mut lists, mut now) = (Vec::new(), Vec::new());
        for (name, value) in &member.attributes {
            if [ACL_ACCESS, ACL_DEFAULT].contains(&name.as_slice()) {
                lists.push((name.clone(), value.clone()));
            } else if name.starts_with(b"user.") {
                now.push((name, value));
            } else {
                self.drop_attributes(1)?;
            }
        }
        let later = Later { mode: Some(self.mode(member)), mtime: Some(member.mtime), lists };
        let (directory, replaces) = self.directories.describe(&member.path, later, &mut self.account)?;
        if replaces {
            self.note_gone(&member.path)?;
        }
        for (name, value) in now {
            set_attribute(&*directory, name, value)?;
        }
        if self.policy.owners == Owners::Keep {
            fchown(&*directory, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))?;
        }
        Ok(())
    }

    fn hard_link(&mut self, path: &TreePath, target: &TreePath) -> Result<(), UnpackCause> {
        self.account.inode()?;
        self.account.spend(INODE)?;
        let ((above, name), (target_above, target_name)) =
            path.split().zip(target.split()).ok_or(UnpackCause::from(Rule::HardLink))?;
        let from = self.directories.look_up(target_above).map_err(|cause| match cause {
            UnpackCause::Disk(error) if error.kind() == io::ErrorKind::NotFound => Rule::HardLink.into(),
            cause => cause,
        })?;
        let file = match statat(&*from, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if !FileType::from_raw_mode(stat.st_mode).is_dir() => stat,
            Ok(_) | Err(Errno::NOENT) => return Err(Rule::HardLink.into()),
            Err(error) => return Err(error.into()),
        };
        let parent = self.directories.enter(above, &mut self.account)?;
        match linkat(&*from, target_name, &*parent, name, AtFlags::empty()) {
            Err(Errno::EXIST) => {
                let there = statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if (there.st_dev, there.st_ino) == (file.st_dev, file.st_ino) {
                    return Ok(());
                }
                self.directories.vacate(&parent, path, name)?;
                self.note_gone(path)?;
                linkat(&*from, target_name, &*parent, name, AtFlags::empty())?;
            }
            linked => linked?,
        }
        if let Some(digests) = &mut self.digests
            && matches!(FileType::from_raw_mode(file.st_mode), FileType::RegularFile | FileType::Symlink)
        {
            digests.link(path.as_bytes(), target.as_bytes()).map_err(UnpackCause::Disk)?;
        }
        Ok(())
    }

    fn node(&mut self, member: &Member, kind: FileType, device: u64) -> Result<(), UnpackCause> {
        let private = Mode::RUSR | Mode::WUSR;
        let (parent, name) = self.make(member, |parent, name| mknodat(parent, name, kind, private, device))?;
        self.finish_special(member, &parent, name, true)?;
        self.done.special += 1;
        Ok(())
    }

    /// Creates an entry that has no descriptor to work on, in the place of any other with its name.
    fn make<'m>(
        &mut self,
        member: &'m Member,
        create: impl Fn(&Directory, &[u8]) -> Result<(), Errno>,
    ) -> Result<(Rc<Directory>, &'m [u8]), UnpackCause> {
        self.account.inode()?;
        self.account.spend(INODE)?;
        let (above, name) = member.path.split().ok_or(Rule::Root)?;
        let parent = self.directories.enter(above, &mut self.account)?;
        match create(&parent, name) {
            Err(Errno::EXIST) => {
                self.directories.vacate(&parent, &member.path, name)?;
                self.note_gone(&member.path)?;
                create(&parent, name)?;
            }
            outcome => outcome?,
        }
        Ok((parent, name))
    }

    /// Sets the owner, mode and time of a link, pipe or device. None of them is opened: this goes by name, without
    /// following links.
    fn finish_special(
        &mut self,
        member: &Member,
        parent: &Directory,
        name: &[u8],
        has_mode: bool,
    ) -> Result<(), UnpackCause> {
        self.drop_attributes(member.unread_attributes + member.attributes.len() as u64)?;
        if self.chowns(member, parent) {
            let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
            chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if has_mode {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let path = openat2(parent, name, flags, Mode::empty(), BENEATH)?;
            chmod_path(&path, self.mode(member))?;
        }
        utimensat(parent, name, &timestamps(member.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn drop_attributes(&mut self, count: u64) -> Result<(), Rule> {
        if count > 0 && self.policy.foreign == ForeignAttributes::Refuse {
            return Err(Rule::Attribute);
        }
        self.done.dropped_attributes += count;
        Ok(())
    }

    fn mode(&mut self, member: &Member) -> u32 {
        if self.policy.set_id || member.mode & 0o6000 == 0 {
            return member.mode;
        }
        self.done.cleared_set_id += 1;
        member.mode & !0o6000
    }
}

fn set_attribute(fd: impl AsFd, name: &[u8], value: &[u8]) -> Result<(), UnpackCause> {
    fsetxattr(&fd, name, value, XattrFlags::empty()).map_err(|error| match error {
        Errno::INVAL | Errno::TOOBIG | Errno::RANGE | Errno::OPNOTSUPP => Rule::AttributeRoom.into(),
        // ext4 also reports this for an inode without room for more attributes.
        Errno::NOSPC if fstatvfs(&fd).is_ok_and(|disk| disk.f_bavail > 1024) => Rule::AttributeRoom.into(),
        error => error.into(),
    })
}

fn at(member: &Member) -> impl Fn(UnpackCause) -> UnpackError {
    |cause| UnpackError { place: member.place(), cause }
}

/// The mode bits that this process clears in new files; all bits if unknown, so that every mode is set again. Read from
/// /proc, since the system call changes the mask of all threads.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    field.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}
