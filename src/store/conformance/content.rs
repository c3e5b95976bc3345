//! What is read is what was written, and zeros where nothing was.

use super::*;

#[test]
fn what_was_published_is_what_is_read_at_every_odd_size() {
    on_every_store(async |subject| {
        for size in [1, 511, 4095, 4096, 4097, GRANULE + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 12345] {
            let content = noise(size, 1);
            let id = subject.publish(&content).await;
            assert!(subject.read(id).await == content, "{size}");
            let image = subject.store.open(id).await.unwrap();
            assert_eq!(image.size(), bytes(size));
            assert_eq!(image.pieces().await.unwrap(), pieces_of(&content));
            let length = image.file().map(|file| file.metadata().unwrap().len());
            assert_eq!(length, subject.store.capabilities().kernel_file.then_some(size as u64));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Writes of any split, in any order, with zeros anywhere and a size beyond the last write.
    #[test]
    fn any_split_in_any_order_reads_back_as_written(
        granules in prop::collection::vec(0..3u8, 0..40),
        tail in 0..GRANULE,
        beyond in 0..3 * BLOCK,
        cuts in prop::collection::vec(1..256usize, 1..20),
        swaps in prop::collection::vec(any::<prop::sample::Index>(), 20),
    ) {
        let mut content: Vec<u8> = Vec::new();
        for kind in &granules {
            let mut granule = vec![0; GRANULE];
            match kind {
                0 => {}
                1 => granule[GRANULE / 2] = 9,
                _ => granule = noise(GRANULE, content.len()),
            }
            content.extend(granule);
        }
        content.extend(noise(tail, 3));
        let mut writes = Vec::new();
        let mut at = 0;
        for cut in cuts.iter().cycle() {
            if at == content.len() {
                break;
            }
            let end = content.len().min(at + cut * ALIGN);
            writes.push(at..end);
            at = end;
        }
        for (n, swap) in swaps.iter().enumerate().take(writes.len()) {
            let other = swap.index(writes.len());
            writes.swap(n, other);
        }
        on_every_store(async |subject| {
            let id = ContentId::random();
            let draft = subject.draft(id, content.len()).await;
            let mut running = Vec::new();
            for write in &writes {
                // The data lies anywhere in its block that is aligned.
                let lead = if write.len() + ALIGN <= BLOCK - ALIGN { ALIGN } else { 0 };
                let mut padded = vec![0xdd; lead];
                padded.extend_from_slice(&content[write.clone()]);
                let block = subject.block(&padded).await;
                running.push(draft.write_at(block, lead..padded.len(), write.start as u64));
                if running.len() == 4 {
                    running.remove(0).await.unwrap();
                }
            }
            for write in running {
                write.await.unwrap();
            }
            let size = content.len() + beyond;
            draft.publish(bytes(size), Pieces::default()).await.unwrap();
            let read = subject.read(id).await;
            assert!(read[..content.len()] == content[..] && is_zero(&read[content.len()..]));
        });
    }
}

#[test]
fn runs_of_zeros_take_no_space_and_are_told_as_holes() {
    on_every_store(async |subject| {
        let mut content = vec![0; 8 * BLOCK];
        content[2 * BLOCK..3 * BLOCK].copy_from_slice(&noise(BLOCK, 1));
        content[6 * BLOCK + GRANULE] = 1;
        let id = subject.publish(&content).await;
        assert!(subject.read(id).await == content);
        let taken = subject.outside.takes(id);
        assert!(taken <= (BLOCK + GRANULE) as u64, "it takes {taken} B");

        let image = subject.store.open(id).await.unwrap();
        let within = Extent { offset: 1000, len: 7 * BLOCK as u64 };
        let runs = image.runs(within).await.unwrap();
        let mut end = within.offset;
        for run in &runs {
            assert!(run.extent.offset == end && run.extent.len > 0, "{runs:?}");
            end = run.extent.end();
            let part = &content[run.extent.offset as usize..end as usize];
            assert!(!run.hole || is_zero(part), "data is called a hole");
        }
        assert_eq!(end, within.end());
        assert!(runs.iter().any(|run| run.hole), "{runs:?}");
        assert!(image.runs(Extent { offset: 1, len: 8 * BLOCK as u64 }).await.is_err());
    });
}

#[test]
fn bytes_never_written_read_as_zero() {
    on_every_store(async |subject| {
        let id = ContentId::random();
        let draft = subject.draft(id, 100).await;
        subject.fill(&*draft, &noise(100, 5)).await;
        draft.publish(bytes(3 * BLOCK), Pieces::default()).await.unwrap();
        assert!(is_zero(&subject.read(id).await[100..]));

        let blank = ContentId::random();
        subject.draft(blank, 0).await.publish(bytes(BLOCK), Pieces::default()).await.unwrap();
        assert!(is_zero(&subject.read(blank).await));
    });
}

#[test]
fn a_read_beyond_the_end_is_an_error_and_returns_the_block() {
    on_every_store(async |subject| {
        let id = subject.publish(&noise(5000, 1)).await;
        let image = subject.store.open(id).await.unwrap();
        let (block, outcome) = image.read_at(subject.pool.take().await, 1000, 4096).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(block.len(), BLOCK);
    });
}
