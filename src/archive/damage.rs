//! Storage that lost or changed something, by accident or by an attacker: a restore gives the right bytes or an error.

use std::fs;
use std::path::Path;

use super::chunk::{STAMP, Stamp, digest};
use super::manifest::{Chunk, Chunks};
use super::testing::{CHUNK, Scene, head_of, noise, scene};
use super::{ArchiveError, BackupHead, Manifest};
use crate::domain::{BackupId, ByteCount};

fn sample() -> Vec<u8> {
    // Bytes that compress somewhat, so that there is more in a frame than one raw block.
    let mut data = noise(3 * CHUNK as usize + 777, 1);
    for byte in &mut data {
        *byte &= 0x3f;
    }
    data[CHUNK as usize..2 * CHUNK as usize].fill(0);
    data
}

async fn stored() -> (Scene, BackupHead, Vec<u8>) {
    let (scene, data) = (scene(), sample());
    let head = head_of(&data);
    assert_eq!(scene.back_up(&head, &data).await.unwrap().objects, 3);
    (scene, head, data)
}

#[track_caller]
fn is_damage(result: &Result<Vec<u8>, ArchiveError>, what: &str) {
    assert!(matches!(result, Err(ArchiveError::Damaged(_))), "{what}: {:?}", result.as_ref().map(Vec::len));
}

#[tokio::test]
async fn no_changed_byte_is_restored_as_if_it_were_right() {
    let (scene, head, data) = stored().await;
    let manifest = scene.manifest(&head);
    for path in scene.files() {
        let whole = fs::read(&path).unwrap();
        let len = whole.len();
        // Every byte of the manifest and of the stamps, and some of the frames.
        let ends = len.saturating_sub(STAMP);
        let sampled =
            (0..ends).step_by(if path == manifest { 7 } else { 997 }).chain((0..ends).take(40)).chain(ends..len);
        for at in sampled {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(&path, &changed).unwrap();
            match scene.restore(&head).await {
                Err(ArchiveError::Damaged(_)) => {}
                // RFC 8878 section 3.1.1.1.1.3: a decoder does not interpret the unused bit of a frame's header.
                Ok(bytes) => assert!(path != manifest && at < 8 && bytes == data, "{at} of {}", path.display()),
                Err(error) => panic!("{at} of {}: {error:?}", path.display()),
            }
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(scene.restore(&head).await.unwrap() == data);
}

#[tokio::test]
async fn an_object_that_is_cut_or_goes_on_is_damage() {
    let (scene, head, data) = stored().await;
    let path = scene.object(&head, 1);
    let whole = fs::read(&path).unwrap();
    let manifest = fs::read(scene.manifest(&head)).unwrap();
    for len in [0, 1, STAMP - 1, STAMP, STAMP + 1, whole.len() / 2, whole.len() - STAMP, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        is_damage(&scene.restore(&head).await, &format!("cut at {len}"));
        // An attacker who can write an object can write a manifest that fits.
        scene.forge(&head, |manifest| set_stored(manifest, 1, len.max(STAMP) as u64));
        is_damage(&scene.restore(&head).await, &format!("cut at {len}, and so in the manifest"));
        scene.forge(&head, |manifest| set_stored(manifest, 1, whole.len() as u64));
    }
    let (frame, stamp) = whole.split_at(whole.len() - STAMP);
    for (what, parts) in [
        ("a byte more", [frame, stamp, b"x", b""]),
        ("a byte between", [frame, b"x", stamp, b""]),
        ("another frame", [frame, frame, stamp, b""]),
        ("another stamp", [frame, stamp, stamp, b""]),
        ("no stamp", [frame, &[0; STAMP], b"", b""]),
    ] {
        let changed = parts.concat();
        fs::write(&path, &changed).unwrap();
        fs::write(scene.manifest(&head), &manifest).unwrap();
        scene.forge(&head, |manifest| set_stored(manifest, 1, changed.len() as u64));
        is_damage(&scene.restore(&head).await, what);
    }
    fs::write(&path, &whole).unwrap();
    fs::write(scene.manifest(&head), &manifest).unwrap();
    assert!(scene.restore(&head).await.unwrap() == data);
}

#[tokio::test]
async fn an_object_that_is_missing_or_another_is_damage() {
    let (scene, head, data) = stored().await;
    let whole = fs::read(scene.object(&head, 3)).unwrap();
    fs::remove_file(scene.object(&head, 3)).unwrap();
    is_damage(&scene.restore(&head).await, "missing");
    fs::copy(scene.object(&head, 1), scene.object(&head, 3)).unwrap();
    is_damage(&scene.restore(&head).await, "another chunk of the same backup");

    // The same bytes in another backup: the digest is right, the stamp is not.
    let other = BackupHead { backup: BackupId::random(), number: 8, ..head.clone() };
    scene.back_up(&other, &data).await.unwrap();
    fs::copy(scene.object(&other, 3), scene.object(&head, 3)).unwrap();
    is_damage(&scene.restore(&head).await, "the same chunk of another backup");
    fs::write(scene.object(&head, 3), whole).unwrap();
    assert!(scene.restore(&head).await.unwrap() == data);
}

#[tokio::test]
async fn a_manifest_that_speaks_of_others_is_damage() {
    let (scene, head, data) = stored().await;
    let other = BackupHead { backup: BackupId::random(), number: 8, ..head.clone() };
    scene.back_up(&other, &noise(data.len(), 3)).await.unwrap();
    let whole = fs::read(scene.manifest(&head)).unwrap();
    fs::copy(scene.manifest(&other), scene.manifest(&head)).unwrap();
    is_damage(&scene.restore(&head).await, "that of another backup");
    fs::write(scene.manifest(&head), &whole).unwrap();

    scene.forge(&head, |manifest| manifest.head.size = ByteCount::new(head.size.get() - 1).unwrap());
    is_damage(&scene.restore(&head).await, "another size");
    fs::write(scene.manifest(&head), &whole).unwrap();

    scene.forge(&head, |manifest| {
        let numbered: Vec<_> = manifest.chunks.numbered().map(|(_, chunk)| chunk).collect();
        let mut chunks = Chunks::default();
        for chunk in [numbered[2], numbered[1], numbered[0], numbered[3]] {
            chunks.push(chunk);
        }
        manifest.chunks = chunks;
    });
    is_damage(&scene.restore(&head).await, "chunks in another order");
    fs::write(scene.manifest(&head), &whole).unwrap();

    scene.forge(&head, |manifest| manifest.chunk_size = 4096);
    is_damage(&scene.restore(&head).await, "other chunks");
    fs::write(scene.manifest(&head), &whole).unwrap();

    fs::remove_file(scene.manifest(&head)).unwrap();
    assert!(matches!(scene.restore(&head).await, Err(ArchiveError::Missing)));
}

#[tokio::test]
async fn a_manifest_that_is_too_large_is_not_read() {
    let (scene, head, _) = stored().await;
    let file = fs::File::options().write(true).open(scene.manifest(&head)).unwrap();
    file.set_len(super::manifest::LONGEST + 1).unwrap();
    is_damage(&scene.restore(&head).await, "larger than any");
    file.set_len(100).unwrap();
    is_damage(&scene.restore(&head).await, "cut");
    file.set_len(0).unwrap();
    is_damage(&scene.restore(&head).await, "empty");
}

/// An object and a manifest made by an attacker: all digests are right, but the object inflates to more than its chunk.
#[tokio::test]
async fn a_bomb_ends_at_the_length_of_its_chunk() {
    let (scene, head, _) = stored().await;
    let bomb = zstd::encode_all(&*vec![0; 256 << 20], 1).unwrap();
    let sha256 = digest(&bomb);
    let stamp = Stamp { backup: head.backup, number: 1, plain: CHUNK, sha256 };
    forge_object(&scene, &head, &[&bomb[..], &stamp.encode()].concat(), Chunk::Data { stored: 0, sha256 });
    // The sink of the scene has the size of the drive and accepts no byte more.
    let result = scene.restore(&head).await;
    is_damage(&result, "bomb");
    assert_eq!(result.unwrap_err().to_string(), "the backup is damaged: an object holds more bytes than its piece");
}

#[tokio::test]
async fn a_frame_of_other_bytes_or_fewer_is_damage() {
    let (scene, head, data) = stored().await;
    let right = zstd::encode_all(&data[..CHUNK as usize], 1).unwrap();
    for plain in [noise(CHUNK as usize, 99), data[..CHUNK as usize - 1].to_vec(), vec![]] {
        let frame = zstd::encode_all(&*plain, 1).unwrap();
        // The first is not the frame that was digested; the second is, but does not decode to a whole chunk.
        let digests = [digest(&right), digest(&frame)];
        let lies = if plain.len() < CHUNK as usize { 2 } else { 1 };
        for sha256 in digests.into_iter().take(lies) {
            let stamp = Stamp { backup: head.backup, number: 1, plain: CHUNK, sha256 };
            forge_object(&scene, &head, &[&frame[..], &stamp.encode()].concat(), Chunk::Data { stored: 0, sha256 });
            is_damage(&scene.restore(&head).await, &format!("{} bytes", plain.len()));
        }
    }
}

#[tokio::test]
async fn links_and_directories_in_the_place_of_objects_restore_nothing_else() {
    let (scene, head, _) = stored().await;
    let path = scene.object(&head, 1);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(Path::new("/etc/hostname"), &path).unwrap();
    is_damage(&scene.restore(&head).await, "a link to a file of the system");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(scene.restore(&head).await.is_err());
}

/// Replaces the first object and its entry in the manifest.
fn forge_object(scene: &Scene, head: &BackupHead, bytes: &[u8], chunk: Chunk) {
    fs::write(scene.object(head, 1), bytes).unwrap();
    scene.forge(head, |manifest| {
        replace(manifest, 1, |_| chunk);
        set_stored(manifest, 1, bytes.len() as u64);
    });
}

fn set_stored(manifest: &mut Manifest, number: u64, stored: u64) {
    replace(manifest, number, |chunk| match chunk {
        Chunk::Data { sha256, .. } => Chunk::Data { stored, sha256 },
        zeros @ Chunk::Zeros(_) => zeros,
    });
}

fn replace(manifest: &mut Manifest, number: u64, with: impl FnOnce(Chunk) -> Chunk) {
    let mut with = Some(with);
    let mut chunks = Chunks::default();
    for (at, chunk) in manifest.chunks.numbered() {
        chunks.push(if at == number { with.take().unwrap()(chunk) } else { chunk });
    }
    manifest.chunks = chunks;
}
