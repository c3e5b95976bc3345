use proptest::prelude::*;

use super::*;
use crate::domain::{DriveFilter, Page, Quota, QuotaChange, UnixTime, VolumeEvent};
use crate::meta::JobKind;
use crate::meta::Lane;
use crate::meta::testing::{Scene, count, drive, quota, scene, scene_with};

async fn used(scene: &Scene) -> (u64, u64) {
    let usage = scene.meta.usage(scene.tenant).await.unwrap().1;
    (usage.volumes, usage.bytes.get())
}

#[tokio::test]
async fn a_clone_begins_and_ends_in_one_transaction_each() {
    let scene = scene().await;
    let meta = &scene.meta;
    let source = drive(scene.tenant, 10);
    meta.insert_volumes(vec![source.clone()], vec![]).await.unwrap();

    let mut target = Volume { state: VolumeState::CloningTarget, ..drive(scene.tenant, 10) };
    let kind = JobKind::Clone { source: source.id, content: source.image(), size: source.size };
    let begin = Batch {
        update: vec![source],
        insert: vec![target.clone()],
        enqueue: vec![NewJob::new(kind, target.id, UnixTime(5))],
        ..Batch::default()
    };
    let mut source = meta.apply(begin).await.unwrap().remove(0);
    assert_eq!(source.revision, 2);
    assert_eq!(used(&scene).await, (2, 20));

    let job = meta.claim("worker", UnixTime(6), 60, Lane::Prompt).await.unwrap().unwrap();
    assert_eq!((job.kind, job.volume, job.attempts()), (kind, target.id, 1));
    source.name = "copied".to_owned();
    target.step(VolumeEvent::Completed).unwrap();
    let end = Batch { finish: Some(job.lease), update: vec![target, source], ..Batch::default() };
    let ended = meta.apply(end.clone()).await.unwrap();
    assert!(ended.iter().all(|volume| volume.state == VolumeState::Available));
    for volume in &ended {
        assert_eq!(meta.volume_any(volume.id).await.unwrap().as_ref(), Some(volume));
    }
    assert!(matches!(meta.apply(end).await, Err(MetaError::LeaseLost)), "a job ends once");
    assert!(meta.claim("worker", UnixTime(9_999_999), 60, Lane::Prompt).await.unwrap().is_none());
}

#[tokio::test]
async fn an_update_of_an_old_revision_is_refused_and_takes_its_whole_batch_with_it() {
    let scene = scene().await;
    let (first, second) = (drive(scene.tenant, 1), drive(scene.tenant, 1));
    scene.meta.insert_volumes(vec![first.clone(), second.clone()], vec![]).await.unwrap();
    let renamed = Volume { name: "new".to_owned(), ..second.clone() };
    let renamed = scene.meta.update(renamed).await.unwrap();
    assert_eq!(renamed.revision, 2);

    let batch = Batch {
        remove: vec![first.id],
        update: vec![second],
        insert: vec![drive(scene.tenant, 7)],
        ..Batch::default()
    };
    assert!(matches!(scene.meta.apply(batch).await, Err(MetaError::Conflict)));
    assert_eq!(used(&scene).await, (2, 2));
    assert_eq!(scene.meta.volume_any(first.id).await.unwrap(), Some(first));
    assert_eq!(scene.meta.volume_any(renamed.id).await.unwrap(), Some(renamed));
}

#[tokio::test]
async fn an_update_moves_no_volume_to_another_tenant_or_time() {
    let scene = scene().await;
    let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
    let volume = drive(scene.tenant, 1);
    scene.meta.insert_volumes(vec![volume.clone()], vec![]).await.unwrap();
    let moved = Volume { tenant: other, created: UnixTime(5), charged: count(3), ..volume.clone() };
    scene.meta.update(moved).await.unwrap();
    let stored = scene.meta.volume(scene.tenant, volume.id).await.unwrap().unwrap();
    assert_eq!(stored.created, volume.created);
    assert_eq!(used(&scene).await, (1, 3));
}

#[tokio::test]
async fn what_is_not_there_cannot_be_updated_but_may_be_removed_twice() {
    let scene = scene().await;
    let volume = drive(scene.tenant, 4);
    assert!(matches!(scene.meta.update(volume.clone()).await, Err(MetaError::NotFound)));
    scene.meta.insert_volumes(vec![volume.clone()], vec![]).await.unwrap();
    let again = scene.meta.insert_volumes(vec![volume.clone()], vec![]).await;
    assert!(matches!(again, Err(MetaError::Duplicate)));
    for _ in 0..2 {
        scene.meta.remove_volume(volume.id).await.unwrap();
        assert_eq!(used(&scene).await, (0, 0));
    }
    let orphan = Volume { tenant: TenantId::random(), ..volume };
    assert!(matches!(scene.meta.insert_volumes(vec![orphan], vec![]).await, Err(MetaError::NotFound)));
}

#[tokio::test]
async fn several_volumes_are_admitted_together_or_not_at_all() {
    let scene = scene_with(quota(3, 100)).await;
    let four = (0..4).map(|_| drive(scene.tenant, 1)).collect();
    assert!(matches!(scene.meta.insert_volumes(four, vec![]).await, Err(MetaError::TooManyVolumes(3))));
    let heavy = vec![drive(scene.tenant, 60), drive(scene.tenant, 41)];
    assert!(matches!(scene.meta.insert_volumes(heavy, vec![]).await, Err(MetaError::QuotaExceeded)));
    assert_eq!(used(&scene).await, (0, 0));
    let fitting = vec![drive(scene.tenant, 60), drive(scene.tenant, 40)];
    scene.meta.insert_volumes(fitting.clone(), vec![]).await.unwrap();
    assert_eq!(used(&scene).await, (2, 100));

    // What the batch frees, it may use.
    let swap = Batch { remove: vec![fitting[0].id], insert: vec![drive(scene.tenant, 55)], ..Batch::default() };
    scene.meta.apply(swap).await.unwrap();
    assert_eq!(used(&scene).await, (2, 95));
}

#[tokio::test]
async fn a_record_is_as_long_as_it_may_be_and_one_of_old_can_only_get_shorter() {
    let scene = scene().await;
    let named = |length: usize| Volume { name: "x".repeat(length), ..drive(scene.tenant, 1) };
    let texts = json(&serde_json::Map::new()).len() * 2;
    let insert = |volume: Volume| scene.meta.insert_volumes(vec![volume], vec![]);
    assert!(matches!(insert(named(LONGEST_ROW - texts + 1)).await, Err(MetaError::TooLong)));
    let mut long = named(LONGEST_ROW - texts);
    insert(long.clone()).await.unwrap();
    long.name.push('x');
    assert!(matches!(scene.meta.update(long.clone()).await, Err(MetaError::TooLong)));
    sqlx::query("UPDATE volumes SET name = $1").bind(&long.name).execute(&scene.meta.db.writer).await.unwrap();
    let long = scene.meta.update(long).await.unwrap();
    let longer = Volume { name: format!("{}x", long.name), ..long.clone() };
    assert!(matches!(scene.meta.update(longer).await, Err(MetaError::TooLong)));
    scene.meta.remove_volume(long.id).await.unwrap();
}

#[tokio::test]
async fn backups_are_charged_by_size_and_number_and_refunded() {
    let scene = scene_with(quota(9, 100)).await;
    let meta = &scene.meta;
    let backup = |size| crate::meta::testing::backup(scene.tenant, size);
    let insert = |backups| meta.apply(Batch { insert_backups: backups, ..Batch::default() });
    let first = backup(60);
    insert(vec![first.clone()]).await.unwrap();
    let refused = insert(vec![backup(41)]).await;
    assert!(matches!(refused, Err(MetaError::BackupsExceeded)), "as many bytes as volumes may have: {refused:?}");
    let limits = Quota { backups: Some(2), backup_bytes: Some(count(1000)), ..quota(9, 100) };
    meta.set_quota(scene.tenant, limits).await.unwrap();
    insert(vec![backup(500)]).await.unwrap();
    assert!(matches!(insert(vec![backup(1)]).await, Err(MetaError::TooManyBackups(2))));
    let (told, usage) = meta.usage(scene.tenant).await.unwrap();
    assert_eq!((told, usage.backups, usage.backup_bytes, usage.volumes), (limits, 2, count(560), 0));
    for _ in 0..2 {
        let remove = Batch { remove_backups: vec![first.id], ..Batch::default() };
        meta.apply(remove).await.unwrap();
    }
    let usage = meta.usage(scene.tenant).await.unwrap().1;
    assert_eq!((usage.backups, usage.backup_bytes), (1, count(500)));
}

#[tokio::test]
async fn snapshots_are_counted_apart_and_a_volume_has_a_size_at_most() {
    let scene = scene().await;
    let meta = &scene.meta;
    let limits = Quota { snapshots: Some(1), volume_bytes: Some(count(10)), ..quota(2, 100) };
    meta.set_quota(scene.tenant, limits).await.unwrap();
    let insert = |volume: &Volume| meta.insert_volumes(vec![volume.clone()], vec![]);
    let volume = drive(scene.tenant, 10);
    insert(&volume).await.unwrap();
    assert!(
        matches!(insert(&drive(scene.tenant, 11)).await, Err(MetaError::VolumeTooLarge(most)) if most == count(10))
    );
    // A snapshot is of a volume that was as large as this before the limit was set.
    let snapshot = Volume { kind: VolumeKind::Snapshot, ..drive(scene.tenant, 20) };
    insert(&snapshot).await.unwrap();
    let another = Volume { kind: VolumeKind::Snapshot, ..drive(scene.tenant, 1) };
    assert!(matches!(insert(&another).await, Err(MetaError::TooManySnapshots(1))));
    let usage = meta.usage(scene.tenant).await.unwrap().1;
    assert_eq!((usage.volumes, usage.snapshots, usage.bytes), (1, 1, count(30)));
    // Shrinking is always allowed, growing no further than the limit.
    meta.set_quota(scene.tenant, Quota { volume_bytes: Some(count(5)), ..limits }).await.unwrap();
    let smaller = meta.update(Volume { charged: count(8), ..volume }).await.unwrap();
    let grown = Volume { charged: count(9), ..smaller };
    assert!(matches!(meta.update(grown).await, Err(MetaError::VolumeTooLarge(_))));
    meta.remove_volume(snapshot.id).await.unwrap();
    assert_eq!(meta.usage(scene.tenant).await.unwrap().1.snapshots, 0);
    // What grows as it comes stops there.
    let upload = Volume { state: VolumeState::Uploading, ..drive(scene.tenant, 0) };
    insert(&upload).await.unwrap();
    assert_eq!(meta.charge_upto(upload.id, count(90), count(1)).await.unwrap(), count(5));
    let refused = meta.charge_upto(upload.id, count(1), count(1)).await;
    assert!(matches!(refused, Err(MetaError::VolumeTooLarge(_))), "{refused:?}");
}

#[tokio::test]
async fn limits_that_a_tenant_has_not_are_the_default_ones() {
    let scene = scene().await;
    let meta = &scene.meta;
    let change = QuotaChange { volumes: Some(Some(1)), bytes: Some(Some(count(50))), ..QuotaChange::default() };
    meta.change_default_quota(change).await.unwrap();
    assert_eq!(meta.default_quota().await.unwrap(), quota(1, 50));
    assert_eq!(meta.usage(scene.tenant).await.unwrap().0, quota(1, 50));
    let insert = |bytes| meta.insert_volumes(vec![drive(scene.tenant, bytes)], vec![]);
    assert!(matches!(insert(51).await, Err(MetaError::QuotaExceeded)));
    insert(50).await.unwrap();
    assert!(matches!(insert(0).await, Err(MetaError::TooManyVolumes(1))));
    let own = QuotaChange { volumes: Some(None), backup_bytes: Some(None), ..QuotaChange::default() };
    meta.change_quota(scene.tenant, own).await.unwrap();
    let backup_bytes = Some(ByteCount::MAX);
    let told = Quota { volumes: None, bytes: Some(count(50)), backup_bytes, ..Quota::default() };
    assert_eq!(meta.usage(scene.tenant).await.unwrap().0, told);
    insert(0).await.unwrap();
    let large = crate::meta::testing::backup(scene.tenant, 1_000);
    meta.apply(Batch { insert_backups: vec![large], ..Batch::default() }).await.unwrap();
    meta.change_default_quota(QuotaChange { bytes: Some(None), ..QuotaChange::default() }).await.unwrap();
    insert(1_000).await.unwrap();
    assert!(matches!(meta.change_quota(TenantId::random(), own).await, Err(MetaError::NotFound)));
}

#[tokio::test]
async fn usage_cannot_overflow_even_without_a_quota() {
    let scene = scene().await;
    let max = ByteCount::MAX.get();
    scene.meta.insert_volumes(vec![drive(scene.tenant, max - 1)], vec![]).await.unwrap();
    let more = |bytes| scene.meta.insert_volumes(vec![drive(scene.tenant, bytes)], vec![]);
    assert!(matches!(more(2).await, Err(MetaError::QuotaExceeded)));
    assert!(matches!(more(max).await, Err(MetaError::QuotaExceeded)));
    more(1).await.unwrap();
    assert_eq!(used(&scene).await, (2, max));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_who_want_a_vacant_name_one_gets_it() {
    let scene = scene().await;
    let fields = Placement { region: "r".to_owned(), volume_type: "t".to_owned(), user: "alice".to_owned() };
    let named = |is_hpc: bool| {
        let mut volume = Volume { name: "data".to_owned(), ..drive(scene.tenant, 1) };
        if is_hpc {
            fields.put(&mut volume.attributes);
        }
        volume
    };
    let vacant = || vec![Vacancy { tenant: scene.tenant, name: "data".to_owned() }];
    let wish = |volume| Batch { insert: vec![volume], vacant: vacant(), ..Batch::default() };
    // A label of another dialect takes no name.
    scene.meta.insert_volumes(vec![named(false)], vec![]).await.unwrap();
    let mut wishes = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (meta, batch) = (scene.meta.clone(), wish(named(true)));
        wishes.spawn(async move { meta.apply(batch).await });
    }
    let outcomes = wishes.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(MetaError::Duplicate))));
    assert_eq!(used(&scene).await, (2, 2));
    // It is free again as soon as the removal of what had it has begun; and it is another tenant's own.
    let (all, _) =
        scene.meta.list(scene.tenant, &DriveFilter::default(), Page { limit: None, offset: 0 }).await.unwrap().unwrap();
    let taken = all.into_iter().find(|volume| Placement::of(&volume.attributes).is_some()).unwrap();
    scene.meta.update(Volume { state: VolumeState::Deleting, ..taken }).await.unwrap();
    scene.meta.apply(wish(named(true))).await.unwrap();
    let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
    let theirs = Vacancy { tenant: other, name: "data".to_owned() };
    scene.meta.apply(Batch { vacant: vec![theirs], ..Batch::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_concurrent_creations_a_quota_of_ten_admits_ten() {
    let scene = scene_with(quota(10, 1_000)).await;
    let mut creations = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (meta, tenant) = (scene.meta.clone(), scene.tenant);
        creations.spawn(async move { meta.insert_volumes(vec![drive(tenant, 7)], vec![]).await });
    }
    let mut admitted = 0;
    while let Some(done) = creations.join_next().await {
        match done.unwrap() {
            Ok(()) => admitted += 1,
            Err(MetaError::TooManyVolumes(10)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(admitted, 10);
    assert_eq!(used(&scene).await, (10, 70));
}

#[tokio::test]
async fn a_growing_upload_is_charged_for_what_the_quota_has_room_for() {
    let scene = scene_with(quota(5, 100)).await;
    let upload = Volume { state: VolumeState::Uploading, ..drive(scene.tenant, 0) };
    let other = drive(scene.tenant, 20);
    scene.meta.insert_volumes(vec![upload.clone(), other.clone()], vec![]).await.unwrap();
    let charge = |want, least| scene.meta.charge_upto(upload.id, count(want), count(least));

    assert_eq!(charge(64, 64).await.unwrap(), count(64));
    assert_eq!(charge(64, 1).await.unwrap(), count(1), "little is left: others that grow find some");
    assert_eq!(charge(64, 15).await.unwrap(), count(15));
    assert!(matches!(charge(64, 1).await, Err(MetaError::QuotaExceeded)));
    assert_eq!(used(&scene).await, (2, 100));

    // A change based on the record before the charges would undo them.
    assert!(matches!(scene.meta.update(upload.clone()).await, Err(MetaError::Conflict)));
    let now = scene.meta.volume_any(upload.id).await.unwrap().unwrap();
    assert_eq!(now.charged, count(80));
    let done = Volume { state: VolumeState::Available, charged: count(70), size: count(70), ..now };
    scene.meta.update(done).await.unwrap();
    assert_eq!(used(&scene).await, (2, 90));
    assert!(matches!(charge(1, 1).await, Err(MetaError::Conflict)), "not uploading any more");
    assert!(matches!(scene.meta.charge_upto(VolumeId::random(), count(1), count(1)).await, Err(MetaError::NotFound)));
}

/// One step of a random history. The index picks among the volumes that there are.
#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<u64>),
    Recharge(prop::sample::Index, u64),
    ChargeUpto(prop::sample::Index, u64, u64),
    Remove(prop::sample::Index),
    Swap(prop::sample::Index, u64),
    Requota(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => prop::collection::vec(0..40_u64, 1..4).prop_map(Step::Insert),
        2 => (index(), 0..80_u64).prop_map(|(i, bytes)| Step::Recharge(i, bytes)),
        2 => (index(), 0..40_u64, 0..10_u64).prop_map(|(i, want, least)| Step::ChargeUpto(i, want, least)),
        2 => index().prop_map(Step::Remove),
        1 => (index(), 0..60_u64).prop_map(|(i, bytes)| Step::Swap(i, bytes)),
        1 => (0..8_u64, 0..150_u64).prop_map(|(volumes, bytes)| Step::Requota(volumes, bytes)),
    ]
}

async fn take(scene: &Scene, step: Step, quota_now: &mut (u64, u64)) -> Result<(), MetaError> {
    let meta = &scene.meta;
    let (there, _) = meta.list(scene.tenant, &DriveFilter::default(), Page { limit: None, offset: 0 }).await?.unwrap();
    let uploading = |bytes| Volume { state: VolumeState::Uploading, ..drive(scene.tenant, bytes) };
    match step {
        Step::Insert(sizes) => meta.insert_volumes(sizes.into_iter().map(uploading).collect(), vec![]).await,
        Step::Requota(volumes, bytes) => {
            *quota_now = (volumes, bytes);
            meta.set_quota(scene.tenant, quota(volumes, bytes)).await
        }
        _ if there.is_empty() => Ok(()),
        Step::Recharge(i, bytes) => {
            meta.update(Volume { charged: count(bytes), ..i.get(&there).clone() }).await.map(drop)
        }
        Step::ChargeUpto(i, want, least) => {
            let granted = meta.charge_upto(i.get(&there).id, count(want), count(least)).await?;
            assert!(granted >= count(least).min(count(want)) && granted <= count(want));
            Ok(())
        }
        Step::Remove(i) => meta.remove_volume(i.get(&there).id).await,
        Step::Swap(i, bytes) => {
            let swap = Batch { remove: vec![i.get(&there).id], insert: vec![uploading(bytes)], ..Batch::default() };
            meta.apply(swap).await.map(drop)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn usage_is_always_the_sum_of_the_volumes_and_never_grows_above_the_quota(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut quota_now = (5, 100);
            let scene = scene_with(quota(5, 100)).await;
            let mut before = (0, 0);
            for step in steps {
                match take(&scene, step, &mut quota_now).await {
                    Ok(()) | Err(MetaError::QuotaExceeded | MetaError::TooManyVolumes(_)) => {}
                    Err(other) => panic!("{other}"),
                }
                let all = scene.meta.volumes_in(&[VolumeState::Uploading]).await.unwrap();
                let sum = (all.len() as u64, all.iter().map(|volume| volume.charged.get()).sum::<u64>());
                let now = used(&scene).await;
                assert_eq!(now, sum);
                assert!(now.0 <= before.0.max(quota_now.0) && now.1 <= before.1.max(quota_now.1));
                before = now;
            }
        });
    }
}
