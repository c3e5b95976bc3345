//! Archives of random files; the same in every run.

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tar::Header;

/// Files of 1 to 16 KiB, a hundred to a directory; or, of fewer than a hundred, files of 256 MiB.
pub(crate) fn make(files: usize) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(1);
    let mut archive = Vec::new();
    let mut entry = |name: &str, kind: u8, len: usize, random: &mut StdRng| {
        let mut header = Header::new_ustar();
        header.set_path(name).expect("a short name");
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        header.set_mtime(1_700_000_000);
        header.set_size(len as u64);
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        let start = archive.len();
        archive.resize(start + len.next_multiple_of(512), 0);
        random.fill_bytes(&mut archive[start..start + len]);
    };
    if files < 100 {
        for n in 0..files {
            entry(&format!("file-{n}"), b'0', 256 << 20, &mut random);
        }
    } else {
        for n in 0..files {
            if n % 100 == 0 {
                entry(&format!("directory-{}/", n / 100), b'5', 0, &mut random);
            }
            let len = random.random_range(1 << 10..=16 << 10);
            entry(&format!("directory-{}/file-{n}", n / 100), b'0', len, &mut random);
        }
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}
