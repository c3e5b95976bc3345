//! Maps of stretches in any order, compared with a list of what every part of the drive holds.

use proptest::prelude::*;

use super::*;
use crate::store::pieces::{piece_digest, pieces_of};

/// The least that a stretch of the model has.
const UNIT: u64 = 64 << 10;
const UNITS: usize = 3 * (PIECE / UNIT) as usize + 5;

fn size() -> ByteCount {
    ByteCount::new(UNITS as u64 * UNIT).unwrap()
}

/// What a client of a map does.
#[derive(Clone, Debug)]
enum Step {
    /// Writes so many units from this one on; each byte has this value.
    Write(usize, usize, u8),
    /// Writes the map down and goes on with what is read again.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Stretches that begin where a piece does, and as many that begin anywhere.
    let start = prop_oneof![0..UNITS, (0..4usize).prop_map(|piece| piece * (PIECE / UNIT) as usize)];
    let len = prop_oneof![1..UNITS, 1..20usize];
    let write = (start, len, 0..4u8).prop_map(|(start, len, byte)| Step::Write(start, len, byte));
    prop::collection::vec(prop_oneof![8 => write, 1 => Just(Step::Restart)], 0..12)
}

/// A map and the stretch that is written, of which every byte is added at once.
#[derive(Default)]
struct Filling {
    map: PieceMap,
    stretch: Stretch,
}

impl Filling {
    fn of(map: PieceMap) -> Self {
        // No stretch goes on here.
        Self { map, stretch: Stretch::at(u64::MAX) }
    }

    fn seek(&mut self, offset: u64) -> Result<(), Scattered> {
        if self.stretch.position() != offset {
            self.map.admits(offset)?;
            self.stretch = Stretch::at(offset);
        }
        Ok(())
    }

    fn advance(&mut self, advance: impl FnOnce(&mut Stretch)) {
        let start = self.stretch.position();
        advance(&mut self.stretch);
        self.map.add(start..self.stretch.position(), self.stretch.take_digested());
    }

    fn write(&mut self, bytes: &[u8]) {
        self.advance(|stretch| stretch.write(bytes));
    }

    fn write_zeros(&mut self, len: u64) {
        self.advance(|stretch| stretch.write_zeros(len));
    }

    fn finish(mut self, size: ByteCount) -> Result<Pieces, Unfinished> {
        if self.stretch.position() == size.get() {
            self.advance(Stretch::end);
        }
        self.map.finish(size)
    }
}

/// A drive as a list of units, and which of its pieces one stretch brought whole.
struct Model {
    units: Vec<Option<u8>>,
    digested: [bool; 4],
    /// Where the present stretch began, and where it is.
    stretch: Option<(usize, usize)>,
}

impl Model {
    fn new() -> Self {
        Self { units: vec![None; UNITS], digested: [false; 4], stretch: Some((0, 0)) }
    }

    fn units_of(piece: usize) -> Range<usize> {
        let units = (PIECE / UNIT) as usize;
        piece * units..((piece + 1) * units).min(UNITS)
    }

    fn write(&mut self, start: usize, len: usize, byte: u8) {
        let began = self.stretch.filter(|(_, at)| *at == start).map_or(start, |(began, _)| began);
        let end = (start + len).min(UNITS);
        self.stretch = Some((began, end));
        self.units[start..end].fill(Some(byte));
        for (piece, is_digested) in self.digested.iter_mut().enumerate() {
            let units = Self::units_of(piece);
            if start < units.end && units.start < end {
                // The last piece ends where the drive does, which a map knows only when it is finished.
                *is_digested = began <= units.start && units.end <= end && piece < 3;
            }
        }
    }

    fn bytes_of(&self, piece: usize) -> Vec<u8> {
        let units = &self.units[Self::units_of(piece)];
        units.iter().map(|byte| vec![byte.unwrap_or(0); UNIT as usize]).collect::<Vec<_>>().concat()
    }

    /// What is there, and 0 for every digest.
    fn piece(&self, piece: usize) -> Piece {
        let units = Self::units_of(piece);
        let there = || units.clone().filter(|unit| self.units[*unit].is_some());
        if self.digested[piece] {
            return Piece::Whole(0);
        }
        if there().count() == 0 {
            return Piece::Missing;
        }
        if there().count() == units.len() {
            return Piece::Undigested;
        }
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for bytes in there().map(|unit| unit as u64 * UNIT..(unit as u64 + 1) * UNIT) {
            match ranges.last_mut() {
                Some(last) if last.end == bytes.start => last.end = bytes.end,
                _ => ranges.push(bytes),
            }
        }
        Piece::Mixed(ranges)
    }
}

/// Writes a stretch in parts of an odd length.
fn write(filling: &mut Filling, offset: u64, len: u64, byte: u8) {
    filling.seek(offset).unwrap();
    match byte {
        0 => filling.write_zeros(len),
        _ => vec![byte; len as usize].chunks(999_983).for_each(|part| filling.write(part)),
    }
    assert_eq!(filling.stretch.position(), offset + len);
}

fn pieces(map: &PieceMap) -> Vec<Piece> {
    (0..4).map(|index| map.piece(index, size())).collect()
}

/// The same, with 0 for every digest: digesting what the model holds after each step would take long.
fn undigested(map: &PieceMap) -> Vec<Piece> {
    let without = |piece| if matches!(piece, Piece::Whole(_)) { Piece::Whole(0) } else { piece };
    pieces(map).into_iter().map(without).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_map_tells_what_came_in_whatever_order(steps in steps(), flipped in any::<prop::sample::Index>()) {
        let (mut filling, mut model) = (Filling::default(), Model::new());
        for step in steps {
            match step {
                Step::Write(start, len, byte) => {
                    let len = len.min(UNITS - start);
                    write(&mut filling, start as u64 * UNIT, len as u64 * UNIT, byte);
                    model.write(start, len, byte);
                }
                Step::Restart => {
                    filling = Filling::of(PieceMap::decode(&filling.map.encode(), size()).expect("what was just encoded"));
                    model.stretch = None;
                }
            }
            let expected: Vec<_> = (0..4).map(|piece| model.piece(piece)).collect();
            prop_assert_eq!(undigested(&filling.map), expected);
        }
        let mut encoded = filling.map.encode();
        let again = PieceMap::decode(&encoded, size()).expect("what was just encoded");
        prop_assert_eq!(pieces(&again), pieces(&filling.map));
        prop_assert_eq!(again.extents(), filling.map.extents());
        prop_assert!(again.encode() == encoded);
        prop_assert!(PieceMap::decode(&encoded[..flipped.index(encoded.len())], size()).is_none());
        let bit = flipped.index(encoded.len() * 8);
        encoded[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(PieceMap::decode(&encoded, size()).is_none(), "bit {}", bit);

        for (index, piece) in pieces(&filling.map).into_iter().enumerate() {
            if let Piece::Whole(digest) = piece {
                prop_assert_eq!(digest, piece_digest(&model.bytes_of(index)));
            }
        }

        // What is missing comes, and what must be is read back.
        while let Some(gap) = filling.map.extents().first_gap(0..size().get()) {
            let (start, len) = (gap.start / UNIT, (gap.end - gap.start) / UNIT);
            write(&mut filling, gap.start, gap.end - gap.start, 9);
            model.write(start as usize, len as usize, 9);
        }
        for index in 0..4 {
            if filling.map.piece(index, size()) == Piece::Undigested {
                filling.map.set_digest(index, piece_digest(&model.bytes_of(index as usize)));
            }
        }
        let content = (0..4).map(|piece| model.bytes_of(piece)).collect::<Vec<_>>().concat();
        prop_assert_eq!(filling.finish(size()), Ok(pieces_of(&content)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn the_digests_of_a_stream_do_not_depend_on_how_it_is_cut(cuts in prop::collection::vec(1usize..2_000_000, 1..8)) {
        let data: Vec<u8> = (0..cuts.iter().sum::<usize>()).map(|i| (i * 31 % 253) as u8).collect();
        let mut filling = Filling::default();
        let mut rest = &data[..];
        for cut in cuts {
            let (now, later) = rest.split_at(cut);
            filling.write(now);
            rest = later;
        }
        prop_assert_eq!(filling.finish(ByteCount::new(data.len() as u64).unwrap()), Ok(pieces_of(&data)));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_of_an_encoded_map_is_refused() {
    let size = ByteCount::new(3 * PIECE).unwrap();
    let mut filling = Filling::default();
    write(&mut filling, PIECE, 2 * PIECE, 1);
    write(&mut filling, 100, 17, 2);
    let good = filling.map.encode();
    assert!(PieceMap::decode(&good, size).is_some());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(PieceMap::decode(&bad, size).is_none(), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(PieceMap::decode(&good[..len], size).is_none(), "{len} bytes");
    }
}

#[test]
fn what_cannot_be_is_refused_though_its_checksum_is_right() {
    let size = ByteCount::new(3 * PIECE).unwrap();
    let mut filling = Filling::default();
    write(&mut filling, PIECE, 2 * PIECE, 1);
    write(&mut filling, 100, 17, 2);
    let good = filling.map.encode();
    assert!(PieceMap::decode(&good, ByteCount::new(3 * PIECE - 1).unwrap()).is_none(), "bytes behind the drive");
    // Another magic, version, count of extents and of runs; extents that are empty, overlap, are out of order; a
    // stretch of which a byte is missing.
    for (at, byte) in
        [(0, b'X'), (8, 2), (12, 1), (12, 3), (16, 0), (16, 2), (24, 117), (32, 99), (42, 0), (42, 0x41), (56, 0)]
    {
        let mut bytes = good.clone();
        bytes[at] = byte;
        let content = bytes.len() - 16;
        let checksum = XxHash3_128::oneshot(&bytes[..content]).to_le_bytes();
        bytes[content..].copy_from_slice(&checksum);
        assert!(PieceMap::decode(&bytes, size).is_none(), "byte {at}");
    }
}

#[test]
fn extents_that_are_apart_are_bounded_and_those_that_go_on_are_not() {
    let mut filling = Filling::default();
    for n in 1..=MOST_EXTENTS as u64 {
        write(&mut filling, n * 10, 1, 1);
    }
    let full = filling.map.encode();
    let size = ByteCount::mib(1);
    for mut filling in [filling, Filling::of(PieceMap::decode(&full, size).unwrap())] {
        assert_eq!(filling.seek(5), Err(Scattered));
        assert_eq!(filling.seek(10 * (MOST_EXTENTS as u64 + 1)), Err(Scattered));
        for n in 1..10 {
            write(&mut filling, n * 10 + 1, 9, 2);
        }
        assert_eq!(filling.map.extents().ranges().len(), MOST_EXTENTS - 9);
        filling.seek(5).unwrap();
    }
}

#[test]
fn a_map_that_is_not_complete_tells_why() {
    let size = ByteCount::new(2 * PIECE).unwrap();
    let with = |stretches: &[(u64, u64)]| {
        let mut filling = Filling::default();
        for (offset, len) in stretches {
            write(&mut filling, *offset, *len, 1);
        }
        filling
    };
    assert_eq!(with(&[]).finish(size), Err(Unfinished::Missing(0..2 * PIECE)));
    assert_eq!(with(&[(0, 5), (100, 2 * PIECE - 100)]).finish(size), Err(Unfinished::Missing(5..100)));
    assert_eq!(with(&[(5, 2 * PIECE - 5), (0, 5)]).finish(size), Err(Unfinished::Undigested(0)));
    assert_eq!(with(&[(0, 2 * PIECE)]).finish(size), Ok(pieces_of(&vec![1; 2 * PIECE as usize])));
}

#[test]
fn digests_do_not_depend_on_zeros_at_the_end() {
    let size = |bytes: u64| ByteCount::new(bytes).unwrap();
    let data: Vec<u8> = (0..PIECE + 1000).map(|i| (i % 251) as u8).collect();
    let mut grown = Filling::default();
    grown.write(&data);
    grown.write_zeros(3 * PIECE);
    assert_eq!(grown.finish(size(4 * PIECE + 1000)), Ok(pieces_of(&data)));
    let mut blank = Filling::default();
    blank.write_zeros(2 * PIECE + 5);
    assert_eq!(blank.finish(size(2 * PIECE + 5)), Ok(Pieces::default()));
    assert_eq!(PieceMap::default().finish(ByteCount::ZERO), Ok(Pieces::default()));
}
