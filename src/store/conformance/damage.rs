//! What is not as it was stored is told, and not passed on.

use super::*;

#[test]
fn a_checked_image_gives_every_byte_or_an_error_and_remembers_what_is_wrong() {
    on_every_store(async |subject| {
        let piece = PIECE as usize;
        let mut content = vec![0; 3 * piece + 77];
        content[..10].copy_from_slice(&noise(10, 1));
        content[2 * piece - 5..2 * piece + 5].copy_from_slice(&noise(10, 2));
        content[3 * piece..].copy_from_slice(&noise(77, 3));
        let id = subject.publish(&content).await;
        let open = async || {
            let image = subject.store.open(id).await.unwrap();
            CheckedImage::new(image, id, bytes(content.len())).await.unwrap()
        };
        let read = async |image: &CheckedImage, offset: usize, len: usize| {
            let (block, outcome) = image.read_at(subject.pool.take().await, len, offset as u64).await;
            outcome.map(|()| block[..len].to_vec())
        };
        let whole = Extent::whole(bytes(content.len()));
        let image = open().await;
        for (offset, len) in [(0, BLOCK), (piece - 100, 200), (2 * piece - 6, 20), (3 * piece - 1, 78), (5, 1)] {
            assert!(read(&image, offset, len).await.unwrap() == content[offset..offset + len], "{offset}");
        }
        assert_eq!(read(&image, 3 * piece, 78).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut seen = vec![0; content.len()];
        for run in image.data(whole).await.unwrap() {
            for at in (run.offset..run.end()).step_by(BLOCK) {
                let len = (run.end() - at).min(BLOCK as u64) as usize;
                let at = at as usize;
                seen[at..at + len].copy_from_slice(&read(&image, at, len).await.unwrap());
            }
        }
        assert!(seen == content);
        assert_eq!(image.damage(), None);

        subject.outside.spoil(id, PIECE + 9, &[0xff]);
        let image = open().await;
        // The other half of the piece is as it was: it is not given out all the same.
        assert!(read(&image, 2 * piece - 5, 5).await.is_err());
        assert!(read(&image, 0, 10).await.is_ok());
        assert_eq!(image.damage(), Some(CHANGED));
        // And where data is gone altogether, its hole is no zeros.
        subject.outside.lose_end(id, PIECE * 3);
        let image = open().await;
        let last = Extent { offset: 3 * PIECE - 5, len: 10 };
        assert!(image.data(last).await.is_err());
        assert_eq!(image.damage(), Some(CHANGED));
    });
}

#[test]
fn a_clone_takes_nothing_that_is_not_as_it_was_stored() {
    on_every_store(async |subject| {
        if subject.store.capabilities().shares_clones {
            // Nothing is read for it.
            return;
        }
        let id = subject.publish(&noise(3 * BLOCK, 1)).await;
        subject.outside.spoil(id, PIECE + 9, &[0]);
        let target = ContentId::random();
        assert!(matches!(subject.copy(id, target).await, Err(StoreError::Damaged(damaged, _)) if damaged == id));
        assert!(subject.is_missing(target).await);
        assert_eq!(subject.left(), [id.to_string()]);
    });
}

#[test]
fn what_is_read_back_is_what_was_stored_or_is_told_by_its_piece() {
    on_every_store(async |subject| {
        let piece = PIECE as usize;
        let mut content = vec![0; 4 * piece];
        content[2 * piece - 7..2 * piece].fill(3);
        let id = subject.publish(&content).await;
        let image = subject.store.open(id).await.unwrap();
        assert!(image.written().is_some_and(|written| written > UnixTime(0)));
        let mut whole = image.read_back().await.unwrap();
        assert_eq!((whole.count(), whole.next_in_doubt(0).unwrap()), (4, Some(1)));
        assert_eq!(whole.next_in_doubt(2).unwrap(), None);
        for index in 0..4 {
            let read = whole.piece(index).unwrap();
            assert!(read.is_whole && read.bytes == &content[index as usize * piece..][..piece], "{index}");
            assert_eq!(read.read > 0, index == 1);
        }
        subject.outside.spoil(id, 3 * PIECE + 1, &[1]);
        subject.outside.lose_end(id, 3 * PIECE + 2);
        let spoilt = subject.store.open(id).await.unwrap();
        let mut read_back = spoilt.read_back().await.unwrap();
        assert_eq!(read_back.next_in_doubt(2).unwrap(), Some(3));
        assert!(read_back.piece(1).unwrap().is_whole && !read_back.piece(3).unwrap().is_whole);

        let removal = spoilt.removal();
        assert!(!read_back.is_removed() && !removal());
        subject.store.remove(id).await.unwrap();
        assert!(read_back.is_removed() && removal());
        drop((spoilt, read_back, image, whole));
        assert!(removal());
    });
}
