//! Collects the digests of a tree that is being unpacked, until they are written beside it.
//!
//! The last entry of a path counts, as the last member of a name does. Entries that do not fit into memory are written
//! to a scratch file in sorted runs, which are merged at the end.
//!
//! # Invariants
//! - Memory: 64 Ki paths, about 5 MiB, and a page for each run at the end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io;
use std::sync::Arc;

use super::{Digest, Digests, DigestsError, Entry, PAGE, Writer, sum};

/// The most paths in memory.
const HELD: usize = 64 << 10;

/// The entry of a path that is no file or link any more. No file has this size.
const GONE: Digest = Digest { size: u64::MAX, sum: 0 };

/// See the module.
pub struct DigestLog {
    seed: u64,
    most: usize,
    recent: BTreeMap<u128, Digest>,
    /// Runs in the scratch file, the oldest first.
    runs: Vec<Digests>,
    scratch: Scratch,
}

/// The file of the runs, made when it is first needed.
struct Scratch {
    make: Box<dyn FnMut() -> io::Result<File> + Send>,
    file: Option<Arc<File>>,
    end: u64,
}

impl std::fmt::Debug for DigestLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DigestLog")
            .field("recent", &self.recent.len())
            .field("runs", &self.runs.len())
            .finish_non_exhaustive()
    }
}

impl DigestLog {
    /// Creates an empty log; `scratch` makes an empty file that is open for reading and writing and has no other user.
    pub fn new(scratch: impl FnMut() -> io::Result<File> + Send + 'static) -> Self {
        let seed = uuid::Uuid::new_v4().as_u64_pair().1;
        let scratch = Scratch { make: Box::new(scratch), file: None, end: 0 };
        Self { seed, most: HELD, recent: BTreeMap::new(), runs: Vec::new(), scratch }
    }

    /// Sets the digest of a path.
    pub(in crate::tree) fn put(&mut self, path: &[u8], digest: Digest) -> io::Result<()> {
        self.put_key(sum(self.seed, path), digest)
    }

    /// Gives a path the digest of another one.
    pub(in crate::tree) fn link(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let (key, target) = (sum(self.seed, path), sum(self.seed, target));
        let known = match self.recent.get(&target) {
            Some(digest) => Some(*digest),
            None => self.find_in_runs(target).map_err(io::Error::other)?,
        };
        self.put_key(key, known.unwrap_or(GONE))
    }

    /// Removes the digest of a path.
    pub(in crate::tree) fn remove(&mut self, path: &[u8]) -> io::Result<()> {
        self.put_key(sum(self.seed, path), GONE)
    }

    /// Writes everything into an empty file, in the format of [`Digests`]. Nothing is durable when it returns.
    pub fn finish(mut self, file: File) -> io::Result<()> {
        let mut writer = Writer::new(Arc::new(file), 0, self.seed);
        if self.runs.is_empty() {
            for (key, digest) in self.recent {
                if digest != GONE {
                    writer.push(Entry { key, digest })?;
                }
            }
            return writer.finish();
        }
        self.spill()?;
        merge(&self.runs, &mut writer).map_err(io::Error::other)?;
        writer.finish()
    }

    fn put_key(&mut self, key: u128, digest: Digest) -> io::Result<()> {
        self.recent.insert(key, digest);
        if self.recent.len() >= self.most { self.spill() } else { Ok(()) }
    }

    fn find_in_runs(&self, key: u128) -> Result<Option<Digest>, DigestsError> {
        for run in self.runs.iter().rev() {
            if let Some(digest) = run.find_key(key)? {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    fn spill(&mut self) -> io::Result<()> {
        let file = match &self.scratch.file {
            Some(file) => file.clone(),
            None => self.scratch.file.insert(Arc::new((self.scratch.make)()?)).clone(),
        };
        let mut writer = Writer::new(file, self.scratch.end, self.seed);
        for (key, digest) in std::mem::take(&mut self.recent) {
            writer.push(Entry { key, digest })?;
        }
        let (run, end) = writer.end_pages()?;
        self.runs.push(run);
        self.scratch.end = end;
        Ok(())
    }
}

/// A reader of one run, in order.
struct Cursor<'a> {
    run: &'a Digests,
    page: usize,
    entries: std::vec::IntoIter<Entry>,
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<Option<Entry>, DigestsError> {
        if let Some(entry) = self.entries.next() {
            return Ok(Some(entry));
        }
        if self.page == self.run.index.len() {
            return Ok(None);
        }
        let entries: Vec<Entry> = self.run.page(self.page, &mut [0; PAGE])?.collect();
        self.page += 1;
        self.entries = entries.into_iter();
        Ok(self.entries.next())
    }
}

/// Merges all runs in order; the last run's entry of a path counts.
fn merge(runs: &[Digests], writer: &mut Writer) -> Result<(), DigestsError> {
    let mut cursors = Vec::new();
    let mut heads = BinaryHeap::new();
    for (number, run) in runs.iter().enumerate() {
        let mut cursor = Cursor { run, page: 0, entries: Vec::new().into_iter() };
        let head = cursor.next()?;
        heads.extend(head.map(|entry| head_of(&entry, number)));
        cursors.push((cursor, head));
    }
    let mut last = None;
    while let Some(Reverse((key, Reverse(number)))) = heads.pop() {
        let (cursor, head) = &mut cursors[number];
        let next = cursor.next()?;
        heads.extend(next.map(|entry| head_of(&entry, number)));
        let entry = std::mem::replace(head, next);
        if last.replace(key) == Some(key) {
            continue;
        }
        if let Some(entry) = entry.filter(|entry| entry.digest != GONE) {
            writer.push(entry)?;
        }
    }
    Ok(())
}

/// Sorts by the least key, and for equal keys by the last run.
type Head = Reverse<(u128, Reverse<usize>)>;

fn head_of(entry: &Entry, run: usize) -> Head {
    Reverse((entry.key, Reverse(run)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::fs::FileExt as _;

    use proptest::prelude::*;

    use super::*;

    fn log(most: usize) -> DigestLog {
        DigestLog { most, ..DigestLog::new(tempfile::tempfile) }
    }

    fn digest(of: usize) -> Digest {
        Digest::of_link(of.to_string().as_bytes())
    }

    fn finished(log: DigestLog) -> File {
        let file = tempfile::tempfile().unwrap();
        log.finish(file.try_clone().unwrap()).unwrap();
        file
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(usize, usize),
        Link(usize, usize),
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..400_usize, any::<usize>()).prop_map(|(path, of)| Step::Put(path, of)),
            2 => (0..400_usize, 0..400_usize).prop_map(|(path, target)| Step::Link(path, target)),
            1 => (0..400_usize).prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..1500)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_last_that_was_said_of_a_path_is_found_however_much_was_held(
            steps in steps(),
            most in prop_oneof![1..5_usize, 50..2000_usize],
        ) {
            let path = |number: usize| format!("folder/{number}").into_bytes();
            let (mut log, mut model) = (log(most), HashMap::new());
            for step in &steps {
                match *step {
                    Step::Put(at, of) => {
                        log.put(&path(at), digest(of)).unwrap();
                        model.insert(at, digest(of));
                    }
                    Step::Link(at, target) => {
                        log.link(&path(at), &path(target)).unwrap();
                        match model.get(&target).copied() {
                            Some(digest) => model.insert(at, digest),
                            None => model.remove(&at),
                        };
                    }
                    Step::Remove(at) => {
                        log.remove(&path(at)).unwrap();
                        model.remove(&at);
                    }
                }
            }
            let digests = Digests::open(finished(log)).unwrap();
            prop_assert_eq!(digests.count(), model.len() as u64);
            for at in 0..400 {
                prop_assert_eq!(digests.find(&path(at)).unwrap(), model.get(&at).copied());
            }
        }
    }

    #[test]
    fn no_bit_of_the_file_can_flip_unnoticed() {
        let mut log = log(1 << 20);
        for number in 0..250 {
            log.put(number.to_string().as_bytes(), digest(number)).unwrap();
        }
        let file = finished(log);
        let len = file.metadata().unwrap().len();
        let read_all = |file: &File| -> Result<(), DigestsError> {
            let digests = Digests::open(file.try_clone()?)?;
            (0..250).try_for_each(|number: usize| {
                assert_eq!(digests.find(number.to_string().as_bytes())?, Some(digest(number)));
                Ok(())
            })
        };
        read_all(&file).unwrap();
        for at in (0..len).step_by(13).chain(len - 100..len) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            assert!(matches!(read_all(&file), Err(DigestsError::Damaged)), "byte {at} of {len}");
            file.write_all_at(&byte, at).unwrap();
        }
        for len in [0, 1, len / 2, len - 1] {
            file.set_len(len).unwrap();
            assert!(matches!(read_all(&file), Err(DigestsError::Damaged)), "cut to {len}");
        }
    }

    #[test]
    fn a_page_in_the_place_of_another_is_damage() {
        let mut log = log(1 << 20);
        for number in 0..250 {
            log.put(number.to_string().as_bytes(), digest(number)).unwrap();
        }
        let file = finished(log);
        let mut page = [0; PAGE];
        file.read_exact_at(&mut page, 0).unwrap();
        file.write_all_at(&page, PAGE as u64).unwrap();
        let digests = Digests::open(file).unwrap();
        assert!((0..250).any(|number| digests.find(number.to_string().as_bytes()).is_err()));
    }

    #[test]
    fn a_tree_without_files_has_digests_of_none() {
        let digests = Digests::open(finished(log(9))).unwrap();
        assert_eq!(digests.count(), 0);
        assert_eq!(digests.find(b"a").unwrap(), None);
    }
}
