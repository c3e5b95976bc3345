use super::*;
use crate::domain::{Fault, FaultKind, Media, Volume, VolumeState};
use crate::meta::Batch;
use crate::meta::testing::{Scene, count, drive, scene, transfer_of};

use TransferState::{Cancelled, Done, Expired, Failed, Finishing, Open};

/// A transfer of the scene's user that was begun then, and the drive that it fills.
async fn new(scene: &Scene, created: i64) -> (Transfer, Volume) {
    let volume = Volume { state: VolumeState::Uploading, ..drive(scene.tenant, 1) };
    let user = scene.meta.user("alice").await.unwrap().unwrap().id;
    let at = UnixTime(created);
    (Transfer { user, created: at, updated: at, ..transfer_of(&volume) }, volume)
}

async fn begin_with(scene: &Scene, transfer: &Transfer, volume: Volume) -> Result<(), MetaError> {
    let batch = Batch { begin: Some(transfer.clone()), insert: vec![volume], ..Batch::default() };
    scene.meta.apply(batch).await.map(drop)
}

async fn begun(scene: &Scene, created: i64) -> Transfer {
    let (transfer, volume) = new(scene, created).await;
    begin_with(scene, &transfer, volume).await.unwrap();
    transfer
}

fn stepping(id: TransferId, from: TransferState, to: TransferState, now: i64) -> TransferStep {
    TransferStep::new(id, from, to, UnixTime(now))
}

async fn take(scene: &Scene, step: TransferStep) -> Result<(), MetaError> {
    scene.meta.apply(Batch { step: Some(step), ..Batch::default() }).await.map(drop)
}

async fn stored(scene: &Scene, id: TransferId) -> Transfer {
    scene.meta.transfer(id).await.unwrap().unwrap()
}

fn all() -> TransferQuery {
    TransferQuery { reference: None, state: None, limit: 2_000, after: None }
}

async fn listed(scene: &Scene, query: &TransferQuery) -> Vec<i64> {
    let page = scene.meta.transfers(scene.tenant, query).await.unwrap();
    page.items.iter().map(|transfer| transfer.created.0).collect()
}

#[tokio::test]
async fn a_transfer_comes_back_as_it_was_begun_also_after_close_and_open() {
    let scene = scene().await;
    let plain = begun(&scene, 10).await;
    let (full, volume) = new(&scene, 20).await;
    let full = Transfer {
        size: Some(count(5)),
        reference: Some("mine".to_owned()),
        media: Media::Cdrom,
        metadata: Some("filename YQ==".to_owned()),
        origin: Some(Origin::PutTogether(vec![plain.id, plain.id])),
        asserted: Digests {
            sha256: Some(Sha256([1; 32])),
            blake3: Some(Blake3([3; 32])),
            pieces: Some(Blake3([5; 32])),
        },
        epoch: 3,
        state: Finishing,
        reason: Some("why".to_owned()),
        updated: UnixTime(25),
        data: ByteCount::new(7),
        digests: Digests {
            sha256: Some(Sha256([2; 32])),
            blake3: Some(Blake3([4; 32])),
            pieces: Some(Blake3([6; 32])),
        },
        ..full
    };
    begin_with(&scene, &full, volume).await.unwrap();
    scene.meta.close().await;
    let again = Meta::open(&scene.path).await.unwrap();
    for transfer in [&plain, &full] {
        assert_eq!(again.transfer(transfer.id).await.unwrap().as_ref(), Some(transfer));
        assert_eq!(again.transfer_of(transfer.volume).await.unwrap().as_ref(), Some(transfer));
    }
    assert_eq!(again.open_transfers().await.unwrap(), [plain, full]);
    assert_eq!(again.transfer(TransferId::random()).await.unwrap(), None);
    assert_eq!(again.transfer_of(VolumeId::random()).await.unwrap(), None);
}

#[tokio::test]
async fn a_volume_is_filled_by_one_transfer_and_a_refused_one_leaves_nothing() {
    let scene = scene().await;
    let first = begun(&scene, 1).await;
    let (mut second, volume) = new(&scene, 2).await;
    second.volume = first.volume;
    let refused = begin_with(&scene, &second, volume.clone()).await;
    assert!(matches!(refused, Err(MetaError::Duplicate)), "{refused:?}");
    assert_eq!(scene.meta.transfer(second.id).await.unwrap(), None);
    assert_eq!(scene.meta.usage(scene.tenant).await.unwrap().1.volumes, 1);
    take(&scene, stepping(first.id, Open, Expired, 5)).await.unwrap();
    assert_eq!(scene.meta.transfer_of(first.volume).await.unwrap(), None);
    begin_with(&scene, &second, volume).await.unwrap();
    assert_eq!(scene.meta.transfer_of(first.volume).await.unwrap(), Some(second.clone()));

    let made = async |tenant| {
        let transfer = scene.meta.transfer_that_made(tenant, second.volume).await.unwrap();
        transfer.map(|transfer| transfer.id)
    };
    assert_eq!(made(scene.tenant).await, None);
    take(&scene, stepping(second.id, Open, Done, 6)).await.unwrap();
    assert_eq!(made(scene.tenant).await, Some(second.id));
    assert_eq!(made(TenantId::from_bytes([9; 16])).await, None);
}

#[tokio::test]
async fn a_tenants_transfers_are_listed_newest_first_by_pages() {
    let scene = scene().await;
    let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
    let mut ids = Vec::new();
    // Two of each time, so that pages end between them.
    for n in 0..7 {
        ids.push(begun(&scene, n / 2).await.id);
    }
    let (strange, volume) = new(&scene, 2).await;
    let strange = Transfer { tenant: other, ..strange };
    begin_with(&scene, &strange, Volume { tenant: other, ..volume }).await.unwrap();
    let (mut seen, mut query) = (Vec::new(), TransferQuery { limit: 3, ..all() });
    loop {
        let page = scene.meta.transfers(scene.tenant, &query).await.unwrap();
        query.after = page.items.last().map(|transfer| transfer.id);
        seen.extend(page.items);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(seen.iter().map(|transfer| transfer.created.0).collect::<Vec<_>>(), [3, 2, 2, 1, 1, 0, 0]);
    seen.dedup_by_key(|transfer| transfer.id);
    assert_eq!(seen.len(), ids.len());
    let exact = scene.meta.transfers(scene.tenant, &TransferQuery { limit: 7, ..all() }).await.unwrap();
    assert_eq!((exact.items.len(), exact.has_more), (7, false));
    for unknown in [strange.id, TransferId::random()] {
        let after = TransferQuery { after: Some(unknown), ..all() };
        assert!(matches!(scene.meta.transfers(scene.tenant, &after).await, Err(MetaError::NotFound)));
    }
}

#[tokio::test]
async fn a_list_is_of_a_reference_or_of_a_name_without_one_and_of_a_state() {
    let scene = scene().await;
    for (created, name, reference) in
        [(1, "a", Some("b")), (2, "b", None), (3, "b", Some("c")), (4, "d", Some("b")), (5, "a", None)]
    {
        let (transfer, volume) = new(&scene, created).await;
        let (name, reference) = (name.to_owned(), reference.map(str::to_owned));
        let transfer = Transfer { name, reference, ..transfer };
        begin_with(&scene, &transfer, volume).await.unwrap();
        if created == 2 {
            take(&scene, stepping(transfer.id, Open, Cancelled, 9)).await.unwrap();
        }
    }
    let of = |reference: &str| TransferQuery { reference: Some(reference.to_owned()), ..all() };
    assert_eq!(listed(&scene, &of("b")).await, [4, 2, 1]);
    assert_eq!(listed(&scene, &of("a")).await, [5]);
    assert!(listed(&scene, &of("d")).await.is_empty());
    let state = Some(Cancelled);
    assert_eq!(listed(&scene, &TransferQuery { state, ..all() }).await, [2]);
    assert!(listed(&scene, &TransferQuery { state, ..of("c") }).await.is_empty());
    assert_eq!(listed(&scene, &TransferQuery { state: Some(Open), limit: 1, ..of("b") }).await, [4]);
}

#[tokio::test]
async fn a_page_of_long_texts_is_cut_short_and_says_so() {
    let scene = scene().await;
    for created in 0..10 {
        let (transfer, volume) = new(&scene, created).await;
        let transfer = Transfer { reference: Some("x".repeat(LONGEST_ROW - 100)), ..transfer };
        begin_with(&scene, &transfer, volume).await.unwrap();
    }
    let page = scene.meta.transfers(scene.tenant, &all()).await.unwrap();
    assert_eq!((page.items.len(), page.has_more), (9, true));
    let after = page.items.last().map(|transfer| transfer.id);
    assert_eq!(listed(&scene, &TransferQuery { after, ..all() }).await, [0]);
    let (transfer, volume) = new(&scene, 20).await;
    let transfer = Transfer { reference: Some("x".repeat(LONGEST_ROW)), ..transfer };
    assert!(matches!(begin_with(&scene, &transfer, volume).await, Err(MetaError::TooLong)));
}

#[tokio::test]
async fn a_step_sets_what_it_knows_and_is_taken_from_one_state_only() {
    let scene = scene().await;
    let transfer = begun(&scene, 1).await;
    let id = transfer.id;
    let (size, blake3) = (Some(count(9)), Some(Blake3([1; 32])));
    let asserted = Digests { blake3, ..Digests::NONE };
    take(&scene, TransferStep { size, asserted, ..stepping(id, Open, Open, 5) }).await.unwrap();
    let now = Transfer { size, asserted, updated: UnixTime(5), ..transfer };
    assert_eq!(stored(&scene, id).await, now);
    take(&scene, stepping(id, Open, Finishing, 6)).await.unwrap();
    let now = Transfer { state: Finishing, updated: UnixTime(6), ..now };
    assert_eq!(stored(&scene, id).await, now);
    for wrong in [stepping(id, Open, Cancelled, 7), stepping(TransferId::random(), Open, Cancelled, 7)] {
        assert!(matches!(take(&scene, wrong).await, Err(MetaError::Conflict)));
    }
    assert_eq!(stored(&scene, id).await, now);
    let digests = Digests { sha256: Some(Sha256([2; 32])), ..Digests::NONE };
    let reason = Some("no".to_owned());
    take(&scene, TransferStep { reason: reason.clone(), digests, ..stepping(id, Finishing, Failed, 8) }).await.unwrap();
    assert_eq!(stored(&scene, id).await, Transfer { state: Failed, reason, digests, updated: UnixTime(8), ..now });
}

#[tokio::test]
async fn a_batch_whose_step_conflicts_changes_nothing() {
    let scene = scene().await;
    let transfer = begun(&scene, 1).await;
    let volume = scene.meta.volume_any(transfer.volume).await.unwrap().unwrap();
    let (other, its) = new(&scene, 2).await;
    let batch = Batch {
        step: Some(stepping(transfer.id, Finishing, Done, 5)),
        update: vec![Volume { state: VolumeState::Available, ..volume.clone() }],
        insert: vec![its],
        begin: Some(other.clone()),
        ..Batch::default()
    };
    assert!(matches!(scene.meta.apply(batch.clone()).await, Err(MetaError::Conflict)));
    assert_eq!(scene.meta.volume_any(volume.id).await.unwrap(), Some(volume.clone()));
    assert_eq!(stored(&scene, transfer.id).await, transfer);
    assert_eq!(scene.meta.transfer(other.id).await.unwrap(), None);
    // Neither is the step taken of a batch that something else conflicts with.
    let step = Some(stepping(transfer.id, Open, Done, 5));
    let stale = Batch { step, update: vec![Volume { revision: 9, ..volume }], ..Batch::default() };
    assert!(matches!(scene.meta.apply(stale).await, Err(MetaError::Conflict)));
    assert_eq!(stored(&scene, transfer.id).await, transfer);
    scene.meta.apply(Batch { step: Some(stepping(transfer.id, Open, Done, 5)), ..batch }).await.unwrap();
    let volume = scene.meta.volume_any(transfer.volume).await.unwrap().unwrap();
    assert_eq!((stored(&scene, transfer.id).await.state, volume.state), (Done, VolumeState::Available));
    assert_eq!(stored(&scene, other.id).await, other);
}

#[tokio::test]
async fn a_tenant_has_so_many_open_transfers_and_no_more() {
    let scene = scene().await;
    let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
    let (template, volume) = new(&scene, 1).await;
    let mut tx = scene.meta.db.begin().await.unwrap();
    let mut ids = Vec::new();
    for n in 0..MOST_OPEN {
        let state = if n % 2 == 0 { Open } else { Finishing };
        let (id, volume) = (TransferId::random(), VolumeId::random());
        begin(&mut tx, &Transfer { id, volume, state, ..template.clone() }).await.unwrap();
        ids.push(id);
    }
    scene.meta.db.commit(tx).await.unwrap();
    let refused = begin_with(&scene, &template, volume.clone()).await;
    assert!(matches!(refused, Err(MetaError::TooManyTransfers(256))), "{refused:?}");
    let fault = Fault::from(refused.unwrap_err());
    assert_eq!(fault.kind, FaultKind::QuotaExceeded);
    assert_eq!(fault.told, "the project has 256 open transfers, and may have no more");
    assert_eq!(scene.meta.usage(scene.tenant).await.unwrap().1.volumes, 0);
    let (theirs, its) = new(&scene, 1).await;
    begin_with(&scene, &Transfer { tenant: other, ..theirs }, Volume { tenant: other, ..its }).await.unwrap();
    take(&scene, stepping(ids[1], Finishing, Done, 5)).await.unwrap();
    begin_with(&scene, &template, volume).await.unwrap();
    assert_eq!(scene.meta.open_transfers().await.unwrap().len(), 257);
}

#[tokio::test]
async fn the_latest_ended_transfers_are_kept() {
    let scene = scene().await;
    let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
    let open = begun(&scene, 0).await;
    let (template, _) = new(&scene, 0).await;
    let template = Transfer { name: "x".to_owned(), state: Done, ..template };
    let mut tx = scene.meta.db.begin().await.unwrap();
    for n in 1..=MOST_ENDED + 5 {
        let id = TransferId::random();
        let ended = Transfer { id, created: UnixTime(n), updated: UnixTime(10_000 - n), ..template.clone() };
        begin(&mut tx, &ended).await.unwrap();
    }
    let (id, tenant) = (TransferId::random(), other);
    begin(&mut tx, &Transfer { id, tenant, ..template.clone() }).await.unwrap();
    scene.meta.db.commit(tx).await.unwrap();
    // Those that ended first are gone, not those that began first.
    let mut expected: Vec<i64> = (0..=MOST_ENDED).rev().collect();
    assert_eq!(listed(&scene, &all()).await, expected);
    assert!(scene.meta.transfer(id).await.unwrap().is_some());

    let (mut long, volume) = new(&scene, 3_000).await;
    long.reference = Some("y".repeat(LONGEST_ROW - 100));
    begin_with(&scene, &long, volume).await.unwrap();
    expected.insert(0, 3_000);
    assert_eq!(listed(&scene, &all()).await, expected, "short ones are not too long together");
    let mut tx = scene.meta.db.begin().await.unwrap();
    for n in 4_000..4_010 {
        let (id, now) = (TransferId::random(), UnixTime(20_000 + n));
        let ended = Transfer { id, created: UnixTime(n), updated: now, state: Failed, ..long.clone() };
        begin(&mut tx, &ended).await.unwrap();
    }
    scene.meta.db.commit(tx).await.unwrap();
    let mut expected: Vec<i64> = (4_003..4_010).rev().collect();
    expected.extend([3_000, open.created.0]);
    let seen = listed(&scene, &all()).await;
    assert!(seen.starts_with(&expected[..8]) && seen.ends_with(&[0]) && seen.len() < 700, "{seen:?}");
}

#[tokio::test]
async fn what_nothing_comes_for_is_overdue_and_activity_keeps_it() {
    let scene = scene().await;
    let (first, second) = (begun(&scene, 1_000).await, begun(&scene, 2_000).await);
    let overdue = async |now| scene.meta.overdue_transfers(UnixTime(now)).await.unwrap();
    assert_eq!(first.expires(), UnixTime(61_000));
    assert_eq!(overdue(61_000).await, []);
    assert_eq!(overdue(61_001).await, [first.id]);
    scene.meta.touch_transfer(first.id, UnixTime(3_000)).await.unwrap();
    assert_eq!(stored(&scene, first.id).await, Transfer { updated: UnixTime(3_000), ..first });
    assert_eq!(overdue(62_001).await, [second.id]);
    assert_eq!(overdue(63_001).await.len(), 2);
    take(&scene, stepping(second.id, Open, Finishing, 4_000)).await.unwrap();
    scene.meta.touch_transfer(second.id, UnixTime(5_000)).await.unwrap();
    assert_eq!(stored(&scene, second.id).await.updated, UnixTime(4_000));
    assert_eq!(overdue(i64::MAX).await, [first.id], "what is being finished is not left alone by its client");
}

#[tokio::test]
async fn a_life_is_shortened_and_never_made_longer() {
    let scene = scene().await;
    let (one, other) = (begun(&scene, 1_000).await, begun(&scene, 90_000).await);
    let ids = [one.id, other.id, TransferId::random()];
    scene.meta.shorten_transfers(&ids, 30, UnixTime(80_000)).await.unwrap();
    assert_eq!(stored(&scene, one.id).await, one, "it has ended before");
    assert_eq!(stored(&scene, other.id).await.expires(), UnixTime(110_000));
    scene.meta.shorten_transfers(&ids, 300, UnixTime(80_000)).await.unwrap();
    assert_eq!(stored(&scene, other.id).await.expires(), UnixTime(110_000));
}

#[tokio::test]
async fn who_takes_a_transfer_up_gets_an_epoch_of_their_own() {
    let scene = scene().await;
    let id = begun(&scene, 1).await.id;
    for epoch in 1..4 {
        assert_eq!(scene.meta.take_up_transfer(id).await.unwrap(), epoch);
        assert_eq!(stored(&scene, id).await.epoch, epoch);
    }
    assert!(matches!(scene.meta.take_up_transfer(TransferId::random()).await, Err(MetaError::NotFound)));
}

#[tokio::test]
async fn ended_transfers_are_forgotten_by_the_time_of_their_end() {
    let scene = scene().await;
    let (open, finishing) = (begun(&scene, 1).await, begun(&scene, 2).await);
    take(&scene, stepping(finishing.id, Open, Finishing, 2)).await.unwrap();
    for (at, state) in [(10, Done), (11, Failed), (12, Expired), (13, Cancelled)] {
        let id = begun(&scene, at - 7).await.id;
        take(&scene, stepping(id, Open, state, at)).await.unwrap();
    }
    assert_eq!(scene.meta.forget_ended_transfers(UnixTime(10)).await.unwrap(), 0);
    assert_eq!(scene.meta.forget_ended_transfers(UnixTime(12)).await.unwrap(), 2);
    assert_eq!(listed(&scene, &all()).await, [6, 5, 2, 1]);
    assert_eq!(scene.meta.forget_ended_transfers(UnixTime(1_000)).await.unwrap(), 2);
    let left = scene.meta.open_transfers().await.unwrap();
    assert_eq!(left.iter().map(|transfer| transfer.id).collect::<Vec<_>>(), [open.id, finishing.id]);
}

#[tokio::test]
async fn transfers_end_with_the_login_that_they_were_begun_with() {
    let scene = scene().await;
    scene.meta.add_user("bob", "h", "red", None, UnixTime(1)).await.unwrap();
    let blue = scene.meta.add_user("carol", "h", "blue", None, UnixTime(1)).await.unwrap();
    let overdue = async || scene.meta.overdue_transfers(UnixTime(0)).await.unwrap();
    let (here, finishing) = (begun(&scene, 1).await, begun(&scene, 2).await);
    take(&scene, stepping(finishing.id, Open, Finishing, 2)).await.unwrap();
    scene.meta.add_member("alice", blue).await.unwrap();
    let (there, volume) = new(&scene, 3).await;
    let there = Transfer { tenant: blue, ..there };
    begin_with(&scene, &there, Volume { tenant: blue, ..volume }).await.unwrap();

    scene.meta.set_password("bob", "new").await.unwrap();
    assert_eq!(overdue().await, [], "of another user");
    scene.meta.remove_member("alice", blue).await.unwrap();
    assert_eq!(overdue().await, [there.id], "of one project");
    scene.meta.set_password("alice", "new").await.unwrap();
    let mut both = overdue().await;
    both.sort_by_key(|id| *id == there.id);
    assert_eq!(both, [here.id, there.id]);
    assert_eq!(stored(&scene, finishing.id).await.reason, None);

    scene.meta.touch_transfer(here.id, UnixTime(50)).await.unwrap();
    take(&scene, TransferStep { size: Some(count(1)), ..stepping(here.id, Open, Open, 60) }).await.unwrap();
    assert_eq!(overdue().await.len(), 2, "nothing that comes keeps it");
    let reason = Some("the login that it was begun with has ended".to_owned());
    assert_eq!(stored(&scene, here.id).await.reason, reason);
    let (last, volume) = new(&scene, 4).await;
    begin_with(&scene, &last, volume).await.unwrap();
    scene.meta.remove_user("alice").await.unwrap();
    assert_eq!(stored(&scene, last.id).await.reason, reason);
}

#[tokio::test]
async fn transfers_are_found_by_indices() {
    let scene = scene().await;
    for (question, index) in [
        (
            "SELECT * FROM transfers WHERE tenant = ? AND (created, id) < (?, ?) ORDER BY created DESC, id DESC",
            "transfers_of_tenant",
        ),
        (
            "SELECT * FROM transfers WHERE tenant = ? AND COALESCE(reference, name) = ? ORDER BY created DESC, id DESC",
            "transfers_by_reference",
        ),
        (
            "SELECT * FROM transfers WHERE tenant = ? AND state NOT IN ('open', 'finishing') AND state = 'done' AND volume = ?",
            "ended_transfers_of_tenant",
        ),
    ] {
        let mut explained = Sql::new("EXPLAIN QUERY PLAN ");
        explained.push(question);
        let rows = explained.build().fetch_all(&scene.meta.db.readers).await.unwrap();
        let steps: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        assert!(matches!(&steps[..], [one] if one.contains(&format!("USING INDEX {index} "))), "{steps:?}");
    }
}
