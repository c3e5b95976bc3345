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

        let file = fs::OpenOptions::new().write(true).open(subject.image(id)).unwrap();
        file.write_all_at(&[0xff], PIECE + 9).unwrap();
        let image = open().await;
        // The other half of the piece is as it was: it is not given out all the same.
        assert!(read(&image, 2 * piece - 5, 5).await.is_err());
        assert!(read(&image, 0, 10).await.is_ok());
        assert_eq!(image.damage(), Some(CHANGED));
        // And where data is gone altogether, its hole is no zeros.
        file.set_len(PIECE * 3).unwrap();
        file.set_len(content.len() as u64).unwrap();
        let image = open().await;
        let last = Extent { offset: 3 * PIECE - 5, len: 10 };
        assert!(image.data(last).await.is_err());
        assert_eq!(image.damage(), Some(CHANGED));
    });
}

#[test]
fn damaged_or_missing_pieces_are_told_and_are_not_cloned() {
    on_every_store(async |subject| {
        let id = subject.publish(&noise(10 * BLOCK, 1)).await;
        let image = subject.store.open(id).await.unwrap();
        let sidecar = subject.drive(id).join("pieces");
        let good = fs::read(&sidecar).unwrap();
        let mut flipped = good.clone();
        flipped[30] ^= 1;
        for bad in [&flipped[..], &good[..good.len() - 1], &[good.clone(), good.clone()].concat(), &[]] {
            fs::write(&sidecar, bad).unwrap();
            assert!(matches!(image.pieces().await, Err(StoreError::Damaged(damaged, _)) if damaged == id));
        }
        let target = ContentId::random();
        assert!(matches!(subject.copy(id, target).await, Err(StoreError::Damaged(..))));
        assert!(subject.is_missing(target).await);
        fs::remove_file(&sidecar).unwrap();
        assert!(matches!(image.pieces().await, Err(StoreError::Damaged(..))));
    });
}

#[test]
fn a_drive_of_one_piece_is_one_file_and_keeps_its_digest_through_clone_and_growth() {
    on_every_store(async |subject| {
        if !attaches(subject) {
            return;
        }
        let content = noise(2 * BLOCK, 1);
        let source = subject.publish(&content).await;
        let large = subject.publish(&noise(2 * BLOCK + 1, 1)).await;
        let target = ContentId::random();
        subject.copy(source, target).await.unwrap();
        subject.store.grow(target, bytes(7 * BLOCK)).await.unwrap();
        assert!(subject.drive(source).is_file() && subject.drive(target).is_file() && subject.drive(large).is_dir());
        let grown = subject.read(target).await;
        assert!(grown[..content.len()] == content[..] && is_zero(&grown[content.len()..]));
        for id in [source, target] {
            assert_eq!(subject.store.open(id).await.unwrap().pieces().await.unwrap(), pieces_of(&content));
            subject.store.remove(id).await.unwrap();
            assert!(subject.is_missing(id).await);
        }
        assert_eq!(subject.left(), [large.to_string()]);
    });
}

#[test]
fn a_damaged_or_missing_attribute_is_told_and_is_not_cloned() {
    on_every_store(async |subject| {
        if !attaches(subject) {
            return;
        }
        let id = subject.publish(&noise(10, 1)).await;
        let image = subject.store.open(id).await.unwrap();
        let (path, name) = (subject.drive(id), "user.pieces");
        let mut good = vec![0; 200];
        let len = rustix::fs::getxattr(&path, name, &mut good[..]).unwrap();
        good.truncate(len);
        let mut flipped = good.clone();
        flipped[30] ^= 1;
        for bad in [&flipped[..], &good[..len - 1], &[good.clone(), good.clone()].concat(), &[]] {
            rustix::fs::setxattr(&path, name, bad, rustix::fs::XattrFlags::empty()).unwrap();
            assert!(matches!(image.pieces().await, Err(StoreError::Damaged(damaged, _)) if damaged == id));
        }
        rustix::fs::removexattr(&path, name).unwrap();
        assert!(matches!(image.pieces().await, Err(StoreError::Damaged(..))));
        let target = ContentId::random();
        assert!(matches!(subject.copy(id, target).await, Err(StoreError::Damaged(..))));
        assert!(subject.is_missing(target).await);
    });
}
