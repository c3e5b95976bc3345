//! The two forms of a drive, one file or a folder, with what each keeps beside the bytes; and what is found there that
//! this version did not make.

use super::*;
use crate::domain::UnixTime;
use crate::io::BLOCK;
use crate::store::conformance::{bytes, noise};
use crate::store::pieces::pieces_of;

#[test]
fn damaged_or_missing_pieces_are_told_and_are_not_cloned() {
    on_every_local(async |local| {
        let id = local.publish(&noise(10 * BLOCK, 1)).await;
        let image = local.store.open(id).await.unwrap();
        let sidecar = local.drive(id).join("pieces");
        let good = fs::read(&sidecar).unwrap();
        let mut flipped = good.clone();
        flipped[30] ^= 1;
        for bad in [&flipped[..], &good[..good.len() - 1], &[good.clone(), good.clone()].concat(), &[]] {
            fs::write(&sidecar, bad).unwrap();
            assert!(matches!(image.pieces().await, Err(StoreError::Damaged(damaged, _)) if damaged == id));
        }
        let target = ContentId::random();
        assert!(matches!(local.copy(id, target).await, Err(StoreError::Damaged(..))));
        assert!(local.is_missing(target).await);
        fs::remove_file(&sidecar).unwrap();
        assert!(matches!(image.pieces().await, Err(StoreError::Damaged(..))));
    });
}

#[test]
fn a_drive_of_one_piece_is_one_file_and_keeps_its_digest_through_clone_and_growth() {
    on_every_local(async |local| {
        if !local.attaches() {
            return;
        }
        let content = noise(2 * BLOCK, 1);
        let source = local.publish(&content).await;
        let large = local.publish(&noise(2 * BLOCK + 1, 1)).await;
        let target = ContentId::random();
        local.copy(source, target).await.unwrap();
        local.store.grow(target, bytes(7 * BLOCK)).await.unwrap();
        assert!(local.drive(source).is_file() && local.drive(target).is_file() && local.drive(large).is_dir());
        let grown = local.read(target).await;
        assert!(grown[..content.len()] == content[..] && is_zero(&grown[content.len()..]));
        for id in [source, target] {
            assert_eq!(local.pieces(id).await, pieces_of(&content));
            local.store.remove(id).await.unwrap();
            assert!(local.is_missing(id).await);
        }
        assert_eq!(local.left(), [large.to_string()]);
    });
}

#[test]
fn a_damaged_or_missing_attribute_is_told_and_is_not_cloned() {
    on_every_local(async |local| {
        if !local.attaches() {
            return;
        }
        let id = local.publish(&noise(10, 1)).await;
        let image = local.store.open(id).await.unwrap();
        let (path, name) = (local.drive(id), "user.pieces");
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
        assert!(matches!(local.copy(id, target).await, Err(StoreError::Damaged(..))));
        assert!(local.is_missing(target).await);
    });
}

/// What a file system that does not rename in one step may show after a power cut: only `drives/` is flushed when a
/// drive that is one file is published.
#[test]
fn a_drive_that_is_back_under_its_draft_s_name_too_stays_whole_when_that_is_swept() {
    on_every_local(async |local| {
        if !local.attaches() {
            return;
        }
        let content = noise(BLOCK, 1);
        let id = local.publish(&content).await;
        fs::hard_link(local.drive(id), local.root.join("incoming").join(id.to_string())).unwrap();
        let swept = local.store.sweep(Arc::new(|_| true), Arc::new(|_| false), UnixTime(0)).await.unwrap();
        assert_eq!(swept.removed, [id]);
        assert!(local.read(id).await == content);
        assert_eq!(local.left(), [id.to_string()]);
    });
}

/// What an earlier version had linked for its jobs.
#[test]
fn what_was_held_for_a_job_is_a_content_of_its_own_and_what_no_job_wants_goes() {
    on_every_local(async |local| {
        let held = local.root.join("held");
        fs::create_dir(&held).unwrap();
        let [small, large] = [noise(10, 1), noise(3 * BLOCK, 2)];
        let of = [local.publish(&small).await, local.publish(&large).await, local.publish(&small).await];
        let jobs = of.map(|_| ContentId::random());
        for (job, image) in jobs.iter().zip(of) {
            let (from, to) = (local.drive(image), held.join(job.to_string()));
            if from.is_dir() {
                fs::create_dir(&to).unwrap();
                for name in ["image", "pieces"] {
                    fs::hard_link(from.join(name), to.join(name)).unwrap();
                }
            } else {
                fs::hard_link(from, to).unwrap();
            }
        }
        for _ in 0..2 {
            local.store.take_over_held(move |id| id != jobs[2]).await.unwrap();
        }
        for id in of {
            local.store.remove(id).await.unwrap();
        }
        assert!(!held.exists() && local.is_missing(jobs[2]).await);
        for (id, content) in jobs.into_iter().zip([small, large]) {
            assert!(local.read(id).await == content);
            assert_eq!(local.pieces(id).await, pieces_of(&content));
        }
    });
}

#[test]
fn a_sweep_unlinks_what_is_in_the_trash_and_leaves_what_is_not_ours() {
    on_every_local(async |local| {
        fs::create_dir(local.root.join("trash/old")).unwrap();
        fs::create_dir(local.root.join("drives/lost+found")).unwrap();
        let swept = local.store.sweep(Arc::new(|_| false), Arc::new(|_| false), UnixTime(0)).await.unwrap();
        assert_eq!((swept, local.left()), (Swept::default(), vec!["lost+found".to_owned()]));
    });
}
