//! A directory to unpack in, with a neighbour that must not be touched.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use longshore::tree::{
    DigestLog, Digests, Limits, PackLimits, Policy, UnpackError, Unpacked, pack, remove, unpack_digested,
};
use tempfile::TempDir;

use crate::tree::snapshot::{Tree, snapshot};

/// The variable that names another directory to unpack in.
pub(crate) const PLACE: &str = "TREE_SCRATCH";

pub(crate) struct Scratch {
    folder: TempDir,
    before: Tree,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        match std::env::var_os(PLACE) {
            Some(place) => Self::within(Path::new(&place)),
            None => Self::within(Path::new(env!("CARGO_TARGET_TMPDIR"))),
        }
    }

    /// A directory in memory, where thousands of trees take seconds; on the disk if there is none.
    pub(crate) fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::within(memory) } else { Self::new() }
    }

    pub(crate) fn within(place: &Path) -> Self {
        let folder = tempfile::tempdir_in(place).expect("a directory");
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).expect("a directory");
        fs::write(outside.join("secret"), "secret").expect("a file");
        fs::set_permissions(outside.join("secret"), fs::Permissions::from_mode(0o600)).expect("a mode");
        let before = snapshot(&outside);
        Self { folder, before }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes and opens a new directory beside the others.
    pub(crate) fn root(&self, name: &str) -> (PathBuf, File) {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).expect("a directory");
        let root = File::open(&path).expect("a directory");
        (path, root)
    }

    /// Unpacks into `tree`, and checks that nothing beside it has changed and that the tree matches its digests.
    pub(crate) fn unpack(
        &self,
        archive: &[u8],
        limits: &Limits,
        policy: Policy,
    ) -> (PathBuf, Result<Unpacked, UnpackError>) {
        let (path, root) = self.root("tree");
        let mut log = DigestLog::new(tempfile::tempfile);
        let result = unpack_digested(archive, &root, limits, &policy, &mut log);
        self.assert_untouched();
        if result.is_ok() {
            // Only root can compare files that only root can read.
            let differs = pack(&root, Some(&stored(log)), std::io::sink(), &PackLimits::default()).err();
            assert_eq!(differs.and_then(|error| error.damage()), None);
        }
        (path, result)
    }

    pub(crate) fn assert_untouched(&self) {
        assert_eq!(snapshot(&self.path().join("outside")), self.before, "something outside was changed");
        for entry in fs::read_dir(self.path()).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            assert!(["outside", "tree"].iter().any(|known| *known == name), "{} was made outside", name.display());
        }
    }

    /// Removes `tree`, so that the next one can be unpacked.
    pub(crate) fn clear(&self) {
        let folder = File::open(self.path()).expect("a directory");
        remove(&folder, b"tree").expect("the tree is removed");
        assert!(!self.path().join("tree").exists());
        self.assert_untouched();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Removed by the code under test: the trees may be too deep or too restricted for other means.
        let folder = File::open(self.folder.path()).expect("a directory");
        for entry in fs::read_dir(self.folder.path()).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            remove(&folder, name.as_encoded_bytes()).expect("it is removed");
        }
    }
}

/// Returns the digests of a tree as they are stored.
pub(crate) fn stored(log: DigestLog) -> Digests {
    let file = tempfile::tempfile().expect("a file");
    log.finish(file.try_clone().expect("a descriptor")).expect("they are written");
    Digests::open(file).expect("they are read")
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
