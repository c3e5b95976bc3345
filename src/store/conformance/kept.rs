//! Drafts that outlive whoever fills them: what a checkpoint says is there, whatever happens after it.

use super::*;
use crate::store::Stretch;

/// A draft that is kept, and what of it is on the disk.
struct Kept<'a> {
    subject: &'a Subject,
    id: ContentId,
    draft: Arc<dyn Draft>,
    map: PieceMap,
}

fn options(subject: &Subject, size: usize) -> DraftOptions {
    let reservation = subject.store.space().reserve(bytes(size)).unwrap();
    DraftOptions { expected: Some(bytes(size)), reservation, record: record(), is_kept: true }
}

impl<'a> Kept<'a> {
    async fn begin(subject: &'a Subject, size: usize) -> Self {
        let id = ContentId::random();
        let draft = subject.store.draft(id, options(subject, size)).await.unwrap();
        Self { subject, id, draft, map: PieceMap::default() }
    }

    /// Goes on with it as another process would.
    async fn resumed(self, size: usize) -> Self {
        drop(self.draft);
        let (draft, map) = self.subject.store.resume(self.id, options(self.subject, size)).await.unwrap();
        Self { draft, map, ..self }
    }

    /// Writes whole sectors.
    async fn write(&mut self, offset: usize, content: &[u8]) {
        let mut stretch = Stretch::at(offset as u64);
        for (n, part) in content.chunks(BLOCK).enumerate() {
            let block = self.subject.block(part).await;
            self.draft.write_at(block, 0..part.len(), (offset + n * BLOCK) as u64).await.unwrap();
        }
        stretch.write(content);
        self.map.add(offset as u64..stretch.position(), stretch.take_digested());
    }

    async fn edge(&mut self, offset: usize, content: &[u8]) {
        self.draft.write_edge(content.to_vec(), offset as u64).await.unwrap();
        self.map.add(offset as u64..(offset + content.len()) as u64, Vec::new());
    }

    /// How many extents the map has, where the first begins, and how many bytes they have.
    fn there(&self) -> (usize, Option<u64>, u64) {
        let extents = self.map.extents();
        (extents.ranges().len(), extents.ranges().first().map(|first| first.start), extents.total())
    }

    async fn checkpoint(&self) {
        self.draft.checkpoint(self.map.clone()).await.unwrap();
    }

    async fn read(&self, size: usize) -> Vec<u8> {
        let mut read = self.draft.read_back(bytes(size)).await.unwrap();
        let mut content = Vec::new();
        for index in 0..read.count() {
            content.extend_from_slice(read.piece(index).unwrap().bytes);
        }
        content
    }

    async fn publish(&self, content: &[u8]) {
        self.draft.publish(bytes(content.len()), pieces_of(content)).await.unwrap();
        assert!(self.subject.read(self.id).await == content);
        assert_eq!(self.subject.pieces(self.id).await, pieces_of(content));
    }
}

#[test]
fn what_a_checkpoint_has_is_there_and_what_came_after_it_is_zero_again() {
    on_every_store(async |subject| {
        let size = 3 * BLOCK;
        let mut kept = Kept::begin(subject, size).await;
        kept.write(BLOCK, &noise(BLOCK, 1)).await;
        kept.checkpoint().await;
        kept.write(0, &noise(BLOCK, 2)).await;
        kept.edge(2 * BLOCK, &noise(100, 3)).await;
        let mut kept = kept.resumed(size).await;
        assert_eq!(kept.there(), (1, Some(BLOCK as u64), BLOCK as u64));
        let mut expected = vec![0; size];
        expected[BLOCK..2 * BLOCK].copy_from_slice(&noise(BLOCK, 1));
        assert!(kept.read(size).await == expected);
        // Zeros where other bytes were, which nobody was told of.
        kept.write(0, &vec![0; BLOCK]).await;
        kept.write(2 * BLOCK, &noise(BLOCK, 4)).await;
        expected[2 * BLOCK..].copy_from_slice(&noise(BLOCK, 4));
        kept.publish(&expected).await;
        assert_eq!(subject.left(), [kept.id.to_string()]);
    });
}

#[test]
fn zeros_over_other_bytes_are_zeros() {
    on_every_store(async |subject| {
        let size = 2 * BLOCK;
        let mut kept = Kept::begin(subject, size).await;
        kept.write(0, &noise(size, 1)).await;
        kept.write(0, &vec![0; BLOCK]).await;
        kept.draft.zero(Extent { offset: BLOCK as u64 + 100, len: 200_000 }).await.unwrap();
        let mut expected = noise(size, 1);
        expected[..BLOCK].fill(0);
        expected[BLOCK + 100..BLOCK + 200_100].fill(0);
        assert!(kept.read(size).await == expected);
        kept.publish(&expected).await;
        if subject.outside.takes(kept.id) > 0 {
            assert!(subject.outside.takes(kept.id) < 2 * BLOCK as u64, "what was made zero takes space");
        }
    });
}

#[test]
fn an_edge_leaves_the_rest_of_its_sector() {
    on_every_store(async |subject| {
        let size = BLOCK + 5_000;
        let mut kept = Kept::begin(subject, size).await;
        let content = noise(size, 1);
        kept.write(0, &content[..BLOCK]).await;
        for range in [BLOCK + 4_500..size, BLOCK..BLOCK + 100, BLOCK + 100..BLOCK + 4_096, BLOCK + 4_096..BLOCK + 4_500]
        {
            kept.edge(range.start, &content[range.clone()]).await;
        }
        let across = kept.draft.write_edge(vec![1; 2], 4_095);
        assert!(across.await.is_err(), "two sectors");
        let mut kept = {
            kept.checkpoint().await;
            kept.resumed(size).await
        };
        assert!(kept.read(size).await == content);
        kept.edge(10, &[9; 20]).await;
        let mut expected = content;
        expected[10..30].fill(9);
        kept.publish(&expected).await;
    });
}

#[test]
fn only_what_is_kept_takes_checkpoints_edges_and_zeros_and_can_be_gone_on_with() {
    on_every_store(async |subject| {
        let id = ContentId::random();
        let draft = subject.draft(id, 2 * BLOCK).await;
        assert!(draft.checkpoint(PieceMap::default()).await.is_err());
        assert!(draft.write_edge(vec![1], 0).await.is_err());
        assert!(draft.zero(Extent { offset: 0, len: 10 }).await.is_err());
        let missing = subject.store.resume(ContentId::random(), options(subject, BLOCK)).await;
        assert!(matches!(missing, Err(StoreError::Missing(_))));
        assert!(subject.store.resume(id, options(subject, BLOCK)).await.is_err());
        let kept = Kept::begin(subject, BLOCK).await;
        let part = kept.draft.write_at(subject.block(&[1; 10]).await, 0..10, 0);
        assert!(part.await.is_err(), "a part of a sector");
        let content = noise(BLOCK, 1);
        let mut kept = kept;
        kept.write(0, &content).await;
        kept.publish(&content).await;
        let published = subject.store.resume(kept.id, options(subject, BLOCK)).await;
        assert!(matches!(published, Err(StoreError::Missing(_))));
    });
}

#[test]
fn a_byte_that_comes_again_takes_no_more_space() {
    on_every_store(async |subject| {
        let size = 2 * BLOCK;
        let mut kept = Kept::begin(subject, size).await;
        let outstanding = || format!("{:?}", subject.store.space());
        for _ in 0..3 {
            kept.write(0, &noise(BLOCK, 1)).await;
            assert_eq!(outstanding(), "Ledger(2097152 B outstanding)");
        }
        kept.checkpoint().await;
        let kept = kept.resumed(BLOCK).await;
        kept.draft.zero(Extent { offset: 0, len: BLOCK as u64 }).await.unwrap();
        assert_eq!(outstanding(), "Ledger(2097152 B outstanding)");
        kept.draft.zero(Extent { offset: BLOCK as u64 + 1, len: BLOCK as u64 - 1 }).await.unwrap();
        assert_eq!(outstanding(), "Ledger(1 B outstanding)");
    });
}

#[test]
fn a_draft_whose_flush_failed_takes_no_checkpoint_and_is_not_published() {
    on_every_store(async |subject| {
        let mut kept = Kept::begin(subject, BLOCK).await;
        kept.write(0, &noise(BLOCK, 1)).await;
        kept.checkpoint().await;
        subject.outside.fail_next_flush(Errno::IO);
        assert!(kept.draft.checkpoint(kept.map.clone()).await.is_err());
        assert!(kept.draft.checkpoint(kept.map.clone()).await.is_err(), "it is lost");
        assert!(kept.draft.publish(bytes(BLOCK), pieces_of(&noise(BLOCK, 1))).await.is_err());
        // A later process has what the last good checkpoint said.
        let kept = kept.resumed(BLOCK).await;
        assert_eq!(kept.there(), (1, Some(0), BLOCK as u64));
        kept.publish(&noise(BLOCK, 1)).await;
    });
}

#[test]
fn a_write_that_failed_or_was_not_told_of_keeps_no_kept_draft_from_being_published() {
    on_every_store(async |subject| {
        let mut kept = Kept::begin(subject, BLOCK).await;
        let mut block = subject.pool.take().await;
        block.fill(0xee);
        assert!(kept.draft.write_at(block.freeze(), 0..100, 0).await.is_err());
        let content = noise(BLOCK, 1);
        kept.write(0, &content).await;
        kept.publish(&content).await;
    });
}

#[test]
fn what_is_copied_into_a_kept_draft_is_what_its_source_had_wherever_it_lies() {
    on_every_store(async |subject| {
        let mut content = noise(2 * BLOCK + 77, 1);
        content[BLOCK / 2..BLOCK / 2 + 300_000].fill(0);
        let image = subject.publish(&content).await;
        let mut other = Kept::begin(subject, 3 * BLOCK).await;
        other.write(0, &content[..2 * BLOCK]).await;
        other.edge(2 * BLOCK, &content[2 * BLOCK..]).await;
        for source in [image, other.id] {
            let size = 3 * BLOCK;
            let mut kept = Kept::begin(subject, size).await;
            let mut expected = vec![0; size];
            kept.write(BLOCK, &noise(BLOCK, 2)).await;
            expected[BLOCK..2 * BLOCK].copy_from_slice(&noise(BLOCK, 2));
            // Each offset in the source, its length, and where that goes: aligned alike, and not, and within a sector.
            for (from, len, to) in [
                (0, content.len(), 0),
                (0, BLOCK / 2, BLOCK),
                (100, BLOCK / 4 + 4_000, 4_096 + 100),
                (4_096, 100_000, 5),
                (10, 20, 4_090),
                (content.len() - 5, 5, size - 5),
                (BLOCK, 0, 0),
            ] {
                let extent = Extent { offset: from as u64, len: len as u64 };
                kept.draft.copy(source, extent, to as u64).await.unwrap();
                expected[to..to + len].copy_from_slice(&content[from..from + len]);
            }
            kept.map.add(0..size as u64, Vec::new());
            kept.checkpoint().await;
            assert!(kept.read(size).await == expected);
            let mut kept = kept.resumed(size).await;
            // It is written over as what else came.
            kept.write(0, &vec![0; BLOCK / 8]).await;
            expected[..BLOCK / 8].fill(0);
            kept.publish(&expected).await;
        }
        assert!(subject.read(image).await == content, "it is written to by no copy");
        assert!(other.read(2 * BLOCK).await == content[..2 * BLOCK]);
    });
}

#[test]
fn a_copy_takes_no_more_space_than_was_set_aside_and_no_hole_any() {
    on_every_store(async |subject| {
        let mut content = noise(BLOCK, 1);
        content[BLOCK / 2..].fill(0);
        let image = subject.publish(&content).await;
        let mut kept = Kept::begin(subject, 2 * BLOCK).await;
        let outstanding = || format!("{:?}", subject.store.space());
        let all = Extent { offset: 0, len: BLOCK as u64 };
        for _ in 0..2 {
            kept.draft.copy(image, all, 0).await.unwrap();
            assert_eq!(outstanding(), format!("Ledger({BLOCK} B outstanding)"));
        }
        kept.map.add(0..BLOCK as u64, Vec::new());
        kept.checkpoint().await;
        let kept = kept.resumed(2 * BLOCK).await;
        kept.draft.copy(image, all, BLOCK as u64).await.unwrap();
        let expected = [&content[..], &content[..]].concat();
        kept.publish(&expected).await;
        assert!(subject.outside.takes(kept.id) <= BLOCK as u64 + 8_192, "holes take space");
    });
}

#[test]
fn a_copy_of_what_is_not_there_or_into_what_is_not_kept_is_refused() {
    on_every_store(async |subject| {
        let image = subject.publish(&noise(BLOCK, 1)).await;
        let all = Extent { offset: 0, len: BLOCK as u64 };
        let plain = subject.draft(ContentId::random(), BLOCK).await;
        assert!(plain.copy(image, all, 0).await.is_err());
        let kept = Kept::begin(subject, 2 * BLOCK).await;
        let of_nothing = kept.draft.copy(ContentId::random(), all, 0).await.unwrap_err();
        assert_eq!(of_nothing.kind(), io::ErrorKind::NotFound);
        let behind = kept.draft.copy(image, Extent { offset: 1, len: BLOCK as u64 }, 0).await.unwrap_err();
        assert_eq!(behind.kind(), io::ErrorKind::UnexpectedEof);
        let of_plain = ContentId::random();
        let _begun = subject.draft(of_plain, BLOCK).await;
        assert!(kept.draft.copy(of_plain, all, 0).await.is_err());
        assert!(matches!(subject.store.read_source(of_plain).await, Err(StoreError::Missing(_))));
    });
}

#[test]
fn a_source_is_read_as_it_is_whether_it_is_published_or_not() {
    on_every_store(async |subject| {
        let content = noise(PIECE as usize + BLOCK, 1);
        let image = subject.publish(&content).await;
        let mut kept = Kept::begin(subject, content.len()).await;
        kept.write(0, &content).await;
        for source in [image, kept.id] {
            let mut read = subject.store.read_source(source).await.unwrap();
            assert_eq!(read.count(), 2);
            assert!(read.piece(0).unwrap().bytes == &content[..PIECE as usize]);
            assert!(read.piece(1).unwrap().bytes == &content[PIECE as usize..]);
        }
    });
}
