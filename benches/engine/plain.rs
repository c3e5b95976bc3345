#![expect(unsafe_code, reason = "hands the kernel addresses of buffers, as every use of the plain io_uring does")]
//! One ring driven by hand on the calling thread: the least that `io_uring` can cost, for the engines to be beside.
//!
//! # Invariants
//! - Buffers and files outlive what is in flight: a call returns only when nothing is, errors or not.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd as _;

use io_uring::{IoUring, opcode, squeue, types};
use longshore::io::SharedFile;

use crate::Work;

/// As many slots as a ring of the engine has.
const ENTRIES: u32 = 256;

/// The ring.
pub(crate) struct Plain {
    ring: RefCell<IoUring>,
}

impl Plain {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { ring: RefCell::new(IoUring::new(ENTRIES)?) })
    }

    /// Writes the start of `block` all over the files.
    pub(crate) fn write(&self, files: &[SharedFile], block: &[u8], work: Work) -> io::Result<()> {
        let data = &block[..work.unit];
        self.drive(files.len(), work, |file, _, offset| {
            opcode::Write::new(types::Fd(files[file].as_raw_fd()), data.as_ptr(), data.len() as u32)
                .offset(offset)
                .build()
        })
    }

    /// Reads the files, each operation in flight into a buffer of its own: at least `depth` of them for each file.
    pub(crate) fn read(&self, files: &[SharedFile], buffers: &mut [impl AsMut<[u8]>], work: Work) -> io::Result<()> {
        self.drive(files.len(), work, |file, slot, offset| {
            let buffer = &mut buffers[slot].as_mut()[..work.unit];
            opcode::Read::new(types::Fd(files[file].as_raw_fd()), buffer.as_mut_ptr(), buffer.len() as u32)
                .offset(offset)
                .build()
        })
    }

    /// Keeps `depth` operations of each file in flight; `entry` makes one out of file, slot and offset.
    fn drive(
        &self,
        files: usize,
        work: Work,
        mut entry: impl FnMut(usize, usize, u64) -> squeue::Entry,
    ) -> io::Result<()> {
        let mut ring = self.ring.borrow_mut();
        let (mut next, mut in_flight, mut outcome) = (vec![0; files], 0, Ok(()));
        let mut free: Vec<usize> = (0..files * work.depth).collect();
        loop {
            for slot in free.drain(..) {
                let offset = &mut next[slot / work.depth];
                if *offset < work.size && outcome.is_ok() {
                    let entry = entry(slot / work.depth, slot, *offset).user_data(slot as u64);
                    // SAFETY: what the entry points to is borrowed by this call, which stays until it has ended.
                    unsafe { ring.submission().push(&entry) }.expect("a slot for each operation in flight");
                    *offset += work.unit as u64;
                    in_flight += 1;
                }
            }
            if in_flight == 0 {
                return outcome;
            }
            match ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => outcome = Err(error),
                _ => {}
            }
            for done in ring.completion() {
                in_flight -= 1;
                free.push(done.user_data() as usize);
                match usize::try_from(done.result()) {
                    Ok(moved) if moved == work.unit => {}
                    Ok(_) => outcome = Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(_) => outcome = Err(io::Error::from_raw_os_error(-done.result())),
                }
            }
        }
    }
}
