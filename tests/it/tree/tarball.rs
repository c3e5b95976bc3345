//! Writes tar archives byte by byte, valid or not, without the code under test and the crate it uses.

/// The fields of a header. Those that a test does not set are those of an ordinary file.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    pub(crate) mtime: u64,
    pub(crate) link: Vec<u8>,
    pub(crate) magic: [u8; 8],
    pub(crate) device: (u32, u32),
}

pub(crate) const USTAR: [u8; 8] = *b"ustar\x0000";
pub(crate) const GNU: [u8; 8] = *b"ustar  \0";
pub(crate) const OLD: [u8; 8] = [0; 8];

impl Head {
    pub(crate) fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 1000,
            gid: 1000,
            size: 0,
            mtime: 1_700_000_000,
            link: Vec::new(),
            magic: USTAR,
            device: (0, 0),
        }
    }

    pub(crate) fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, most: usize, bytes: &[u8]| {
            let len = bytes.len().min(most);
            block[at..at + len].copy_from_slice(&bytes[..len]);
        };
        put(0, 100, &self.name);
        put(100, 8, format!("{:07o}\0", self.mode).as_bytes());
        put(108, 8, &number(self.uid, 8));
        put(116, 8, &number(self.gid, 8));
        put(124, 12, &number(self.size, 12));
        put(136, 12, &number(self.mtime, 12));
        put(156, 1, &[self.kind]);
        put(157, 100, &self.link);
        put(257, 8, &self.magic);
        if self.magic != OLD {
            put(329, 8, format!("{:07o}\0", self.device.0).as_bytes());
            put(337, 8, format!("{:07o}\0", self.device.1).as_bytes());
        }
        seal(&mut block);
        block
    }
}

fn number(value: u64, width: usize) -> Vec<u8> {
    let digits = format!("{value:0width$o}\0", width = width - 1);
    if digits.len() <= width {
        return digits.into_bytes();
    }
    let mut bytes = vec![0; width];
    bytes[0] = 0x80;
    let value = value.to_be_bytes();
    let len = value.len().min(width - 1);
    bytes[width - len..].copy_from_slice(&value[value.len() - len..]);
    bytes
}

/// Sets the correct checksum.
pub(crate) fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive that is being written.
#[derive(Clone, Default)]
pub(crate) struct Tarball {
    pub(crate) bytes: Vec<u8>,
}

impl Tarball {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a header, unchanged, and its data.
    pub(crate) fn entry(self, head: &Head, data: &[u8]) -> Self {
        self.raw(&head.block()).data(data)
    }

    /// Appends a header that is changed before its checksum is set.
    pub(crate) fn changed(self, head: &Head, data: &[u8], change: impl FnOnce(&mut [u8; 512])) -> Self {
        let mut block = head.block();
        change(&mut block);
        seal(&mut block);
        self.raw(&block).data(data)
    }

    pub(crate) fn data(self, data: &[u8]) -> Self {
        let padding = data.len().next_multiple_of(512) - data.len();
        self.raw(data).raw(&[0; 512][..padding])
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        let data = data.as_ref();
        self.entry(&Head { size: data.len() as u64, ..Head::new(b'0', name) }, data)
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(&Head::new(b'5', name), &[])
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(&Head { mode: 0o777, link: target.as_ref().to_vec(), ..Head::new(b'2', name) }, &[])
    }

    pub(crate) fn hard(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(&Head { link: target.as_ref().to_vec(), ..Head::new(b'1', name) }, &[])
    }

    /// Appends an extended header with these records.
    pub(crate) fn pax(self, records: &[(&[u8], &[u8])]) -> Self {
        self.extension(b'x', "PaxHeaders/x", &self::records(records))
    }

    pub(crate) fn global(self, records: &[(&[u8], &[u8])]) -> Self {
        self.extension(b'g', "GlobalHead/g", &self::records(records))
    }

    /// Appends a long name (`L`) or link (`K`) of GNU tar.
    pub(crate) fn long(self, kind: u8, name: &[u8]) -> Self {
        let head = Head { magic: GNU, size: name.len() as u64 + 1, mode: 0, ..Head::new(kind, "././@LongLink") };
        self.entry(&head, &[name, b"\0"].concat())
    }

    pub(crate) fn extension(self, kind: u8, name: &str, data: &[u8]) -> Self {
        self.entry(&Head { size: data.len() as u64, ..Head::new(kind, name) }, data)
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }
}

pub(crate) fn records(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let len = (rest..rest + 20).find(|len| *len == rest + len.to_string().len()).expect("a length");
        out.extend_from_slice(format!("{len} ").as_bytes());
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out
}
