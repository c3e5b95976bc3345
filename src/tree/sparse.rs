//! Maps of sparse files: the old GNU format, and GNU's three PAX formats 0.0, 0.1 and 1.0.
//!
//! A map is accepted only if all readers see the same file: its runs are in order, without overlap, inside the file,
//! and cover exactly the data. Every run but the last consists of whole blocks, since GNU tar starts each run in a new
//! block and others do not. The last run, which may be empty, ends at the end of the file: GNU tar takes that for the
//! file's end, others take the size.

use super::error::{Budget, Flaw, UnpackCause};
use super::pax::{SparseRecords, decimal, size};
use super::stream::BLOCK;
use crate::domain::Extent;

/// What the extended header of a member says about its map.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Announced {
    /// There is none: the member is not sparse.
    Dense,
    /// The file's size and its map.
    Map(u64, Vec<Extent>),
    /// The file's size; the map precedes the data (format 1.0).
    InData(u64),
}

impl SparseRecords {
    /// Finds the format, and the map if it is in the header.
    pub(super) fn announced(&mut self, most: usize) -> Result<Announced, UnpackCause> {
        const WRONG: UnpackCause = UnpackCause::Malformed(Flaw::SparseMap);
        let pairs = std::mem::take(&mut self.pairs);
        match self {
            Self {
                major: None, minor: None, size: None, real_size: None, count: None, map: None, name: None, ..
            } if pairs.is_empty() => Ok(Announced::Dense),
            Self {
                major: Some(1),
                minor: Some(0),
                real_size: Some(real_size),
                size: None,
                count: None,
                map: None,
                ..
            } if pairs.is_empty() => Ok(Announced::InData(*real_size)),
            Self { major: None | Some(0), size: Some(size), real_size: None, count: Some(count), map, .. } => {
                let extents = match map {
                    Some(map) if pairs.is_empty() => listed(map, most)?,
                    Some(_) => return Err(WRONG),
                    None => pairs,
                };
                if extents.len() as u64 != *count {
                    return Err(WRONG);
                }
                Ok(Announced::Map(*size, extents))
            }
            _ => Err(WRONG),
        }
    }
}

/// Parses the map of format 0.1.
fn listed(map: &[u8], most: usize) -> Result<Vec<Extent>, UnpackCause> {
    let mut extents = Vec::new();
    if map.is_empty() {
        return Ok(extents);
    }
    let mut numbers = map.split(|byte| *byte == b',');
    while let Some(offset) = numbers.next() {
        if extents.len() >= most {
            return Err(Budget::Extents.into());
        }
        let len = numbers.next().ok_or(Flaw::SparseMap)?;
        extents.push(Extent { offset: size(offset, "GNU.sparse.map")?, len: size(len, "GNU.sparse.map")? });
    }
    Ok(extents)
}

/// Checks a map against the file's size and the number of stored bytes. Drops empty runs, which only mark the end of
/// the file.
pub(super) fn checked(extents: Vec<Extent>, size: u64, stored: u64) -> Result<Vec<Extent>, UnpackCause> {
    let (mut end, mut sum) = (0, 0_u64);
    let mut whole = true;
    for Extent { offset, len } in &extents {
        let next = offset.checked_add(*len).filter(|next| *next <= size).ok_or(Flaw::SparseMap)?;
        if *offset < end || (*len > 0 && !whole) {
            return Err(Flaw::SparseMap.into());
        }
        whole = whole && len.is_multiple_of(BLOCK as u64);
        // This cannot overflow: the runs do not overlap, and end within a u64.
        sum += len;
        end = next;
    }
    if sum != stored || end != size {
        return Err(Flaw::SparseMap.into());
    }
    let mut extents = extents;
    extents.retain(|extent| extent.len > 0);
    Ok(extents)
}

/// Parses the map of format 1.0 as its bytes arrive, line by line.
#[derive(Debug)]
pub(super) struct MapReader {
    line: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    extents: Vec<Extent>,
    most: usize,
}

impl MapReader {
    pub(super) fn new(most: usize) -> Self {
        Self { line: Vec::new(), count: None, offset: None, extents: Vec::new(), most }
    }

    /// Parses one block; returns the map when it ends in this block. The rest of that block is padding.
    pub(super) fn block(&mut self, block: &[u8; BLOCK]) -> Result<Option<Vec<Extent>>, UnpackCause> {
        const NAME: &str = "sparse map";
        for byte in block {
            if *byte != b'\n' {
                // A number has at most 19 digits.
                if self.line.len() >= 20 {
                    return Err(Flaw::SparseMap.into());
                }
                self.line.push(*byte);
                continue;
            }
            match (self.count, self.offset.take()) {
                (None, _) => {
                    let count = decimal(&self.line, NAME)?;
                    if count > self.most as u64 {
                        return Err(Budget::Extents.into());
                    }
                    self.count = Some(count);
                }
                (Some(_), None) => self.offset = Some(size(&self.line, NAME)?),
                (Some(_), Some(offset)) => self.extents.push(Extent { offset, len: size(&self.line, NAME)? }),
            }
            self.line.clear();
            if self.count == Some(self.extents.len() as u64) && self.offset.is_none() {
                return Ok(Some(std::mem::take(&mut self.extents)));
            }
        }
        Ok(None)
    }
}

/// Encodes the map of format 1.0, padded to whole blocks.
pub(super) fn write_map(extents: &[Extent]) -> Vec<u8> {
    let mut map = format!("{}\n", extents.len()).into_bytes();
    for Extent { offset, len } in extents {
        map.extend_from_slice(format!("{offset}\n{len}\n").as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(pairs: &[(u64, u64)]) -> Vec<Extent> {
        pairs.iter().map(|(offset, len)| Extent { offset: *offset, len: *len }).collect()
    }

    #[test]
    fn a_map_is_taken_if_all_readers_see_the_same_file_in_it() {
        for (map, size, stored) in [
            (runs(&[]), 0, 0),
            (runs(&[(4096, 0)]), 4096, 0),
            (runs(&[(0, 512), (1024, 512), (1536, 100)]), 1636, 1124),
            (runs(&[(0, 100), (4096, 0)]), 4096, 100),
            (runs(&[(0, 0), (4096, 0)]), 4096, 0),
        ] {
            assert!(checked(map.clone(), size, stored).is_ok(), "{map:?}");
        }
        for (map, size, stored) in [
            (runs(&[]), 4096, 0),
            (runs(&[(0, 512)]), 4096, 512),
            (runs(&[(0, 512), (4095, 0)]), 4096, 512),
            (runs(&[(0, 512), (0, 512)]), 4096, 1024),
            (runs(&[(512, 512), (0, 512)]), 4096, 1024),
            (runs(&[(0, 1024), (512, 512)]), 4096, 1536),
            (runs(&[(0, 512)]), 511, 512),
            (runs(&[(u64::MAX, 2)]), u64::MAX, 2),
            (runs(&[(0, 512)]), 4096, 511),
            (runs(&[(0, 512)]), 4096, 1024),
            (runs(&[(0, 100), (4096, 512)]), 8192, 612),
            (runs(&[(5000, 0)]), 4096, 0),
        ] {
            assert!(checked(map.clone(), size, stored).is_err(), "{map:?}");
        }
    }

    #[test]
    fn a_map_in_the_data_is_read_as_it_was_written() {
        for count in [0, 1, 2, 40, 41, 1000] {
            let map: Vec<_> = (0..count).map(|n| Extent { offset: n << 20, len: 4096 }).collect();
            let mut reader = MapReader::new(1000);
            let written = write_map(&map);
            let mut found = None;
            for block in written.chunks(BLOCK) {
                assert!(found.is_none(), "the map ended before its last block");
                found = reader.block(block.try_into().expect("whole blocks")).expect("a map");
            }
            assert_eq!(found, Some(map));
        }
    }

    #[test]
    fn a_broken_or_endless_map_in_the_data_is_refused() {
        let read = |text: &str| {
            let mut block = [0; BLOCK];
            block[..text.len()].copy_from_slice(text.as_bytes());
            MapReader::new(10).block(&block)
        };
        for text in
            ["x\n", "\n", "-1\n", "1\n1\n-1\n", "1\n99999999999999999999\n1\n", "111111111111111111111111111", ""]
        {
            assert!(read(text).is_err(), "{text:?}");
        }
        assert!(matches!(read("11\n"), Err(UnpackCause::OverBudget(Budget::Extents))));
        assert!(matches!(read("18446744073709551615\n"), Err(UnpackCause::OverBudget(Budget::Extents))));
    }

    #[test]
    fn records_of_two_formats_are_not_mixed() {
        let one = |records: &mut SparseRecords| records.announced(9);
        let mut mixed = SparseRecords {
            major: Some(1),
            minor: Some(0),
            real_size: Some(4096),
            map: Some(b"0,512".to_vec()),
            ..Default::default()
        };
        assert!(one(&mut mixed).is_err());
        mixed.map = None;
        assert_eq!(one(&mut mixed).expect("format 1.0"), Announced::InData(4096));
        mixed.minor = Some(1);
        assert!(one(&mut mixed).is_err());
        let mut listed =
            SparseRecords { size: Some(9), count: Some(2), map: Some(b"0,1,2,3".to_vec()), ..Default::default() };
        assert_eq!(one(&mut listed).expect("format 0.1"), Announced::Map(9, runs(&[(0, 1), (2, 3)])));
        listed.count = Some(3);
        assert!(one(&mut listed).is_err());
        listed.map = Some(b"0,1,2".to_vec());
        assert!(one(&mut listed).is_err());
    }
}
