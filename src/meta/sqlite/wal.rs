//! The file of the write-ahead log, as a start finds it: how much of it is whole, and making all of that true.
//!
//! After a flush that failed, Linux keeps the pages that it could not write, as clean ones. So whoever reads a log that
//! an earlier process has left may read what the disk never got, and what is appended behind that is lost with it at
//! the next power cut, flushed or not. Writing the same bytes again makes the pages dirty, and a flush that is good
//! then is true (<https://www.sqlite.org/fileformat2.html#walformat> for the format).
//!
//! # Crash
//! Every byte is replaced by itself, so at any moment the disk has the old one or the one that was read: recovery finds
//! what it would have found before, or more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const HEAD: usize = 32;
const FRAME_HEAD: usize = 24;
/// About as much is read and written at once.
const CHUNK: usize = 1 << 20;
/// The first bytes of a log whose checksums read the words of a page in little-endian order, and in big-endian order.
const MAGIC: [u32; 2] = [0x377f_0682, 0x377f_0683];

/// What a log lies on.
pub(super) trait Device {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn flush(&self) -> io::Result<()>;
}

impl Device for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.sync_all()
    }
}

/// The end of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ending {
    /// Frames from its beginning that are whole.
    pub(super) whole: u64,
    /// Frames of the same log behind one that is not: what they hold is never read again.
    pub(super) lost: u64,
}

/// Makes what the log holds durable, whatever an earlier flush said. Nobody may write to it meanwhile.
pub(super) fn rewrite(log: &impl Device) -> io::Result<Ending> {
    let mut head = [0; HEAD];
    let len = read_full(log, &mut head, 0)?;
    log.write_all_at(&head[..len], 0)?;
    let mut chain = Chain::begin(&head);
    let mut chunk = vec![0; chain.frame * (CHUNK / chain.frame).max(1)];
    let mut at = len;
    loop {
        let len = read_full(log, &mut chunk, at as u64)?;
        if len == 0 {
            break;
        }
        log.write_all_at(&chunk[..len], at as u64)?;
        chunk[..len].chunks_exact(chain.frame).for_each(|frame| chain.add(frame));
        at += len;
    }
    log.flush()?;
    Ok(chain.ending)
}

/// Reads until the bytes are full or the log ends.
fn read_full(log: &impl Device, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match log.read_at(&mut bytes[len..], offset + len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// The frames of a log, each of which has a checksum over all before it.
struct Chain {
    /// The length of one, with its head.
    frame: usize,
    /// What tells its frames from those of a log before it in the same file.
    salt: Option<[u8; 8]>,
    sums: [u32; 2],
    is_little_endian: bool,
    is_broken: bool,
    ending: Ending,
}

impl Chain {
    fn begin(head: &[u8; HEAD]) -> Self {
        let magic = word(head, 0);
        let page = word(head, 8) as usize;
        let mut chain = Self {
            frame: FRAME_HEAD + 4096,
            salt: None,
            sums: [0; 2],
            is_little_endian: magic == MAGIC[0],
            is_broken: true,
            ending: Ending::default(),
        };
        if !MAGIC.contains(&magic) || !(512..=65_536).contains(&page) || !page.is_power_of_two() {
            return chain;
        }
        chain.frame = FRAME_HEAD + page;
        chain.sum(&head[..24]);
        if chain.sums == [word(head, 24), word(head, 28)] {
            chain.salt = head[16..24].try_into().ok();
            chain.is_broken = false;
        }
        chain
    }

    fn add(&mut self, frame: &[u8]) {
        let salt: Option<[u8; 8]> = frame[8..16].try_into().ok();
        // Of a log whose head is broken, the first frame has the salt.
        let is_ours = *self.salt.get_or_insert(salt.unwrap_or_default()) == salt.unwrap_or_default();
        if self.is_broken {
            self.ending.lost += u64::from(is_ours && word(frame, 0) != 0);
            return;
        }
        self.sum(&frame[..8]);
        self.sum(&frame[FRAME_HEAD..]);
        self.is_broken = !is_ours || word(frame, 0) == 0 || self.sums != [word(frame, 16), word(frame, 20)];
        self.ending.whole += u64::from(!self.is_broken);
    }

    fn sum(&mut self, bytes: &[u8]) {
        let [mut first, mut second] = self.sums;
        for (n, four) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let next = if self.is_little_endian { u32::from_le_bytes(*four) } else { u32::from_be_bytes(*four) };
            if n % 2 == 0 {
                first = first.wrapping_add(next).wrapping_add(second);
            } else {
                second = second.wrapping_add(next).wrapping_add(first);
            }
        }
        self.sums = [first, second];
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const SECTOR: usize = 512;

    /// A file on a disk that fails for a moment, beneath a page cache that takes what it could not write as written.
    #[derive(Default)]
    struct Lying {
        cache: RefCell<Vec<u8>>,
        disk: RefCell<Vec<u8>>,
        dirty: RefCell<std::collections::BTreeSet<usize>>,
    }

    impl Lying {
        fn fail_to_flush(&self) {
            self.dirty.borrow_mut().clear();
        }
    }

    impl Device for Lying {
        fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
            let cache = self.cache.borrow();
            let from = cache.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
            // As a read may be cut.
            let len = bytes.len().min(from.len()).min(100_000);
            bytes[..len].copy_from_slice(&from[..len]);
            Ok(len)
        }

        fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let offset = usize::try_from(offset).unwrap();
            let mut cache = self.cache.borrow_mut();
            let end = cache.len().max(offset + bytes.len());
            cache.resize(end, 0);
            cache[offset..offset + bytes.len()].copy_from_slice(bytes);
            self.dirty.borrow_mut().extend(offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR));
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            let (cache, mut disk) = (self.cache.borrow(), self.disk.borrow_mut());
            disk.resize(cache.len(), 0);
            for sector in std::mem::take(&mut *self.dirty.borrow_mut()) {
                let within = sector * SECTOR..((sector + 1) * SECTOR).min(cache.len());
                disk[within.clone()].copy_from_slice(&cache[within]);
            }
            Ok(())
        }
    }

    /// A log of so many frames, as `SQLite` writes them.
    fn log_of(frames: u64, magic: u32) -> Vec<u8> {
        let mut head = [0; HEAD];
        let numbers = [magic, 3_007_000, 1024, 7, 0x1234_5678, 0x9abc_def0];
        for (place, number) in head.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
            *place = number.to_be_bytes();
        }
        let mut chain = Chain { sums: [0; 2], is_little_endian: magic == MAGIC[0], ..Chain::begin(&[0; HEAD]) };
        chain.sum(&head[..24]);
        let sums = |chain: &Chain| [chain.sums[0].to_be_bytes(), chain.sums[1].to_be_bytes()].concat();
        head[24..].copy_from_slice(&sums(&chain));
        let mut log = head.to_vec();
        for n in 1..=frames {
            let mut frame = vec![u8::try_from(n % 251).unwrap(); FRAME_HEAD + 1024];
            frame[..4].copy_from_slice(&u32::try_from(n).unwrap().to_be_bytes());
            frame[8..16].copy_from_slice(&head[16..24]);
            chain.sum(&frame[..8]);
            chain.sum(&frame[FRAME_HEAD..]);
            frame[16..24].copy_from_slice(&sums(&chain));
            log.extend(frame);
        }
        log
    }

    fn read(log: &[u8]) -> Ending {
        let device = Lying::default();
        device.write_all_at(log, 0).unwrap();
        rewrite(&device).unwrap()
    }

    #[test]
    fn what_the_page_cache_alone_has_is_on_the_disk_when_a_log_was_rewritten() {
        let device = Lying::default();
        let log = log_of(3_000, MAGIC[0]);
        device.write_all_at(&log[..1_500_000], 0).unwrap();
        device.flush().unwrap();
        device.write_all_at(&log[1_500_000..], 1_500_000).unwrap();
        device.fail_to_flush();
        // Another process flushes, and is told that all is well.
        device.flush().unwrap();
        assert_ne!(*device.disk.borrow(), log);
        assert_eq!(rewrite(&device).unwrap(), Ending { whole: 3_000, lost: 0 });
        assert_eq!(*device.disk.borrow(), log);
    }

    #[test]
    fn a_flipped_bit_loses_the_frames_behind_it_and_their_number_is_told() {
        for magic in MAGIC {
            let good = log_of(20, magic);
            assert_eq!(read(&good), Ending { whole: 20, lost: 0 });
            let frame = |n: usize| HEAD + n * (FRAME_HEAD + 1024);
            for at in [frame(12), frame(12) + 5, frame(12) + 16, frame(12) + 700] {
                let mut bad = good.clone();
                bad[at] ^= 4;
                assert_eq!(read(&bad), Ending { whole: 12, lost: 7 }, "byte {at}");
            }
            // Its last frame may have been cut while it was written.
            let mut bad = good.clone();
            bad[frame(19) + 100] ^= 1;
            assert_eq!(read(&bad), Ending { whole: 19, lost: 0 });
            assert_eq!(read(&good[..frame(19) + 100]), Ending { whole: 19, lost: 0 });
            // Without its head nothing of it is read.
            for at in [13, 17, 25] {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert_eq!(read(&bad), Ending { whole: 0, lost: 20 }, "byte {at}");
            }
        }
    }

    #[test]
    fn frames_of_an_earlier_log_in_the_same_file_are_none_of_this_one() {
        let mut log = log_of(20, MAGIC[0]);
        let rest = log_of(40, MAGIC[0])[log.len()..].to_vec();
        let behind = log.len();
        log.extend(rest);
        for frame in log[behind..].chunks_exact_mut(FRAME_HEAD + 1024) {
            frame[8] ^= 1;
        }
        assert_eq!(read(&log), Ending { whole: 20, lost: 0 });
        assert_eq!(read(b""), Ending::default());
        assert_eq!(read(&log[..10]), Ending::default());
    }
}
