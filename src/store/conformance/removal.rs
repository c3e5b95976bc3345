//! What is removed, swept, set aside and brought back.

use super::*;

#[test]
fn removing_twice_succeeds_and_an_open_image_reads_on() {
    on_every_store(async |subject| {
        for size in [BLOCK, 3 * BLOCK] {
            let content = noise(size, 1);
            let id = subject.publish(&content).await;
            let image = subject.store.open(id).await.unwrap();
            for _ in 0..2 {
                subject.store.remove(id).await.unwrap();
            }
            assert!(subject.is_missing(id).await);
            assert_eq!(subject.left(), [""; 0]);
            let (block, outcome) = image.read_at(subject.pool.take().await, BLOCK, 0).await;
            outcome.unwrap();
            assert!(block[..] == content[..BLOCK]);
            match image.pieces().await {
                // An attribute is as open as its file.
                Ok(pieces) => assert_eq!(pieces, pieces_of(&content)),
                Err(error) => assert!(matches!(error, StoreError::Missing(_)), "removed is not damaged: {error}"),
            }
        }
    });
}

#[test]
fn a_sweep_sets_aside_what_nobody_keeps_and_removes_drafts_that_nobody_fills() {
    on_every_store(async |subject| {
        let kept = subject.publish(&noise(10, 1)).await;
        let unknown = subject.publish(&noise(10, 2)).await;
        let [running, stale] = [ContentId::random(), ContentId::random()];
        let draft = subject.draft(running, 10).await;
        drop(subject.draft(stale, 10).await);

        let keep = Arc::new(move |id| id != unknown);
        let past = UnixTime(0);
        let swept = subject.store.sweep(keep, Arc::new(move |id| id == running), past).await.unwrap();
        assert_eq!((swept.removed, swept.set_aside), (vec![stale], vec![unknown]));
        assert!(matches!(subject.store.open(unknown).await, Err(StoreError::Missing(_))));
        let lost = subject.store.lost().await.unwrap();
        let expected = subject.outside.keeps_records().then(record);
        assert_eq!((lost.len(), lost[0].id, lost[0].size, &lost[0].record), (1, unknown, bytes(10), &expected));
        let mut left = subject.left();
        left.sort_unstable();
        let mut expected = [kept.to_string(), running.to_string()];
        expected.sort_unstable();
        assert_eq!(left, expected);
        draft.publish(bytes(10), Pieces::default()).await.unwrap();
    });
}

#[test]
fn what_was_set_aside_comes_back_when_it_is_known_again_or_is_forgotten_in_time() {
    on_every_store(async |subject| {
        let sizes = [10, 3 * BLOCK];
        let ids = [subject.publish(&noise(sizes[0], 1)).await, subject.publish(&noise(sizes[1], 2)).await];
        let sweep = async |keeps: bool, before| {
            subject.store.sweep(Arc::new(move |_| keeps), Arc::new(|_| false), UnixTime(before)).await.unwrap()
        };
        let aside = sweep(false, 0).await;
        assert_eq!((aside.set_aside.len(), aside.returned, aside.forgotten), (2, 0, 0));
        assert!(aside.bytes >= sizes[1] as u64, "{aside:?}");
        assert_eq!(sweep(true, i64::MAX).await.returned, 2);
        for (n, id) in ids.into_iter().enumerate() {
            assert!(subject.read(id).await == noise(sizes[n], n + 1));
            subject.pieces(id).await;
        }
        sweep(false, 0).await;
        subject.store.bring_back(ids[0]).await.unwrap();
        assert!(subject.read(ids[0]).await == noise(sizes[0], 1));
        subject.store.forget(ids[1]).await.unwrap();
        assert_eq!(sweep(false, 0).await.set_aside, [ids[0]]);
        assert_eq!(sweep(false, i64::MAX).await.forgotten, 1);
        assert!(subject.store.lost().await.unwrap().is_empty());
    });
}
