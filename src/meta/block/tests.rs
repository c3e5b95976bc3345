//! Tests of the queries and changes of block storage.

use serde_json::json;

use super::*;
use crate::domain::VolumeState;
use crate::meta::Batch;
use crate::meta::testing::{Scene, count, drive, scene};

fn query() -> BlockQuery {
    BlockQuery::default()
}

async fn listed(scene: &Scene, query: &BlockQuery) -> (Vec<VolumeId>, bool) {
    let owner = Owner::Tenant(scene.tenant);
    let page = scene.meta.block_volumes(owner, VolumeKind::Drive, query).await.unwrap();
    (page.items.into_iter().map(|told| told.volume.id).collect(), page.has_more)
}

#[tokio::test]
async fn pages_in_any_order_hold_each_volume_once() {
    let scene = scene().await;
    let volumes: Vec<Volume> = (0..23_u64)
        .map(|n| Volume {
            name: format!("n{}", n % 3),
            size: count(n % 4),
            charged: count(n % 4),
            created: UnixTime((n / 5).cast_signed()),
            ..drive(scene.tenant, 0)
        })
        .collect();
    scene.meta.insert_volumes(volumes.clone(), vec![]).await.unwrap();
    let keys = [SortKey::Created, SortKey::Name, SortKey::Size, SortKey::Id, SortKey::State, SortKey::Updated];
    for first in keys {
        for second in keys {
            for (one, two) in
                [(Direction::Ascending, Direction::Descending), (Direction::Descending, Direction::Ascending)]
            {
                let sort = vec![(first, one), (second, two)];
                let (whole, _) = listed(&scene, &BlockQuery { sort: sort.clone(), ..query() }).await;
                assert_eq!(whole.len(), volumes.len());
                let (mut paged, mut marker) = (Vec::new(), None);
                loop {
                    let page = BlockQuery { sort: sort.clone(), limit: Some(4), marker, ..query() };
                    let (ids, has_more) = listed(&scene, &page).await;
                    marker = ids.last().copied();
                    paged.extend(ids);
                    if !has_more {
                        break;
                    }
                }
                assert_eq!(paged, whole, "{sort:?}");
            }
        }
    }
}

#[tokio::test]
async fn without_an_order_the_newest_come_first_and_a_foreign_marker_is_none() {
    let scene = scene().await;
    let made = [3, 1, 2].map(|time| Volume { created: UnixTime(time), ..drive(scene.tenant, 1) });
    scene.meta.insert_volumes(made.to_vec(), vec![]).await.unwrap();
    assert_eq!(listed(&scene, &query()).await.0, [made[0].id, made[2].id, made[1].id]);
    let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
    let marker = BlockQuery { marker: Some(made[0].id), ..query() };
    let refused = scene.meta.block_volumes(Owner::Tenant(other), VolumeKind::Drive, &marker).await;
    assert!(matches!(refused, Err(MetaError::NotFound)));
    let all = scene.meta.block_volumes(Owner::Anyone, VolumeKind::Drive, &marker).await.unwrap();
    assert_eq!(all.items.len(), 2);
    let refused = scene.meta.block_volumes(Owner::Anyone, VolumeKind::Snapshot, &marker).await;
    assert!(matches!(refused, Err(MetaError::NotFound)));
}

#[tokio::test]
async fn every_condition_narrows_a_list() {
    let scene = scene().await;
    let pairs = |value: serde_json::Value| value.as_object().unwrap().clone();
    let plain = drive(scene.tenant, 1);
    let sources = [VolumeId::random(), VolumeId::random()];
    let ids = sources.map(|id| id.to_string());
    let labelled = Volume {
        name: "b".to_owned(),
        size: count((1 << 30) + 1),
        meta: pairs(json!({"key \" '": "value", "n": 5})),
        attributes: pairs(json!({"block": {
            "zone": "az2", "description": "d", "user": "u", "snapshot": ids[0], "volume": ids[1],
            "volume_type": "gold", "bootable": true, "image": {"image_id": "i"},
        }})),
        state: VolumeState::Restoring,
        ..drive(scene.tenant, 1)
    };
    let snapshot = Volume { kind: VolumeKind::Snapshot, source: Some(plain.id.to_string()), ..drive(scene.tenant, 1) };
    let gone = Volume { state: VolumeState::Deleting, ..drive(scene.tenant, 1) };
    let all = vec![plain.clone(), labelled.clone(), snapshot.clone(), gone];
    scene.meta.insert_volumes(all, vec![]).await.unwrap();
    assert_eq!(listed(&scene, &query()).await.0.len(), 2);
    for found in [
        BlockQuery { name: Some("b".to_owned()), ..query() },
        BlockQuery { zone: Some("az2".to_owned()), ..query() },
        BlockQuery { id: Some(labelled.id), ..query() },
        BlockQuery { user: Some("u".to_owned()), ..query() },
        BlockQuery { gib: Some(2), ..query() },
        BlockQuery { description: Some("d".to_owned()), ..query() },
        BlockQuery { snapshot: Some(sources[0]), ..query() },
        BlockQuery { source: Some(sources[1]), ..query() },
        BlockQuery { volume_type: Some("gold".to_owned()), ..query() },
        BlockQuery { bootable: Some(true), ..query() },
        BlockQuery { image: pairs(json!({"image_id": "i"})), ..query() },
        BlockQuery { metadata: pairs(json!({"key \" '": "value"})), ..query() },
        BlockQuery { metadata: pairs(json!({"n": "5"})), ..query() },
        BlockQuery { states: Some(vec![VolumeState::Restoring]), ..query() },
    ] {
        assert_eq!(listed(&scene, &found).await.0, [labelled.id], "{found:?}");
    }
    for none in [
        BlockQuery { name: Some("B".to_owned()), ..query() },
        BlockQuery { metadata: pairs(json!({"n": "5", "key": "value"})), ..query() },
        BlockQuery { states: Some(vec![]), ..query() },
        BlockQuery { limit: Some(0), ..query() },
        BlockQuery { tenant: Some(TenantId::random()), ..query() },
        BlockQuery { gib: Some(3), ..query() },
        BlockQuery { gib: Some(u64::MAX), ..query() },
        BlockQuery { image: pairs(json!({"image_id": "j"})), ..query() },
        BlockQuery { volume_type: Some("silver".to_owned()), ..query() },
    ] {
        assert_eq!(listed(&scene, &none).await.0, [], "{none:?}");
    }
    for other in [
        BlockQuery { bootable: Some(false), ..query() },
        BlockQuery { description: Some(String::new()), ..query() },
        BlockQuery { zone: Some(BlockFields::ZONE.to_owned()), ..query() },
        BlockQuery { gib: Some(1), tenant: Some(scene.tenant), ..query() },
    ] {
        assert_eq!(listed(&scene, &other).await.0, [plain.id], "{other:?}");
    }
    let of = BlockQuery { volume: Some(plain.id), ..query() };
    let owner = Owner::Tenant(scene.tenant);
    let snapshots = scene.meta.block_volumes(owner, VolumeKind::Snapshot, &of).await.unwrap();
    assert_eq!(**snapshots.items[0].volume, snapshot);
    assert_eq!(scene.meta.snapshots_of(scene.tenant, plain.id).await.unwrap(), [snapshot.id]);
    assert_eq!(scene.meta.usage(scene.tenant).await.unwrap().1.volumes, 3, "a snapshot is charged for bytes alone");
}

#[tokio::test]
async fn a_list_tells_of_every_change_at_once_whoever_made_it() {
    let scene = scene().await;
    let made: Vec<Volume> = (0..40).map(|time| Volume { created: UnixTime(time), ..drive(scene.tenant, 1) }).collect();
    scene.meta.insert_volumes(made.clone(), vec![]).await.unwrap();
    let owner = Owner::Tenant(scene.tenant);
    let names = async || {
        let page = scene.meta.block_volumes(owner, VolumeKind::Drive, &query()).await.unwrap();
        page.items.into_iter().map(|told| (told.volume.id, told.volume.name.clone())).collect::<Vec<_>>()
    };
    let mut expected: Vec<_> = made.iter().rev().map(|volume| (volume.id, volume.name.clone())).collect();
    assert_eq!(names().await, expected);
    // Few and many, by this process and by another.
    let other = Meta::open(&scene.path).await.unwrap();
    for (meta, some) in [(&scene.meta, 3), (&scene.meta, 40), (&other, 3), (&other, 40)] {
        for (at, (id, name)) in expected.iter_mut().enumerate().take(some) {
            let volume = meta.volume(scene.tenant, *id).await.unwrap().unwrap();
            assert_eq!(volume.name, *name);
            *name = format!("{some} {at}");
            meta.update(Volume { name: name.clone(), ..volume }).await.unwrap();
        }
        assert_eq!(names().await, expected);
    }
    other.remove_volume(expected.remove(5).0).await.unwrap();
    assert_eq!(names().await, expected);
}

fn at(volume: VolumeId, server: &str, device: &str) -> Attachment {
    let (server, device) = (Some(server.to_owned()), device.to_owned());
    Attachment { volume, server, host: None, device, read_only: false, created: UnixTime(9) }
}

#[tokio::test]
async fn a_volume_has_one_server_and_a_device_one_volume() {
    let scene = scene().await;
    let attached = |_| Volume { state: VolumeState::InUse, ..drive(scene.tenant, 1) };
    let [one, two, three] = [0, 1, 2].map(attached);
    scene.meta.insert_volumes(vec![one.clone(), two.clone()], vec![]).await.unwrap();
    let attach = async |attachment: &Attachment| {
        let attach = vec![(scene.tenant, attachment.clone())];
        scene.meta.apply(Batch { attach, ..Batch::default() }).await.map(drop)
    };
    let first = at(one.id, "s", "/dev/vdb");
    attach(&first).await.unwrap();
    assert!(matches!(attach(&at(one.id, "t", "/dev/vdb")).await, Err(MetaError::Duplicate)));
    assert!(matches!(attach(&at(two.id, "s", "/dev/vdb")).await, Err(MetaError::Duplicate)));
    attach(&at(two.id, "s", "/dev/vdaa")).await.unwrap();
    let devices: Vec<String> =
        scene.meta.attachments(scene.tenant, "s").await.unwrap().into_iter().map(|there| there.device).collect();
    assert_eq!(devices, ["/dev/vdb", "/dev/vdaa"]);
    let told = scene.meta.with_attachments(vec![Seen::new(one.clone())]).await.unwrap();
    assert_eq!(told[0].attachment, Some(first));
    let servers = async |owner, marker: Option<&str>, limit| {
        let query = ServerQuery { limit, marker: marker.map(str::to_owned), ..ServerQuery::default() };
        let page = scene.meta.attached_servers(owner, &query).await.unwrap();
        (page.items.into_iter().map(|server| (server.id, server.volumes)).collect::<Vec<_>>(), page.has_more)
    };
    let owner = Owner::Tenant(scene.tenant);
    let both = ("s".to_owned(), vec![one.id, two.id]);
    assert_eq!(servers(owner, None, 5).await, (vec![both.clone()], false));
    assert_eq!(servers(Owner::Anyone, None, 5).await, (vec![both.clone()], false));
    assert_eq!(servers(Owner::Tenant(TenantId::random()), None, 5).await, (vec![], false));
    scene.meta.insert_volumes(vec![three.clone()], vec![]).await.unwrap();
    attach(&at(three.id, "t", "/dev/vdb")).await.unwrap();
    assert_eq!(servers(owner, None, 1).await, (vec![both], true));
    assert_eq!(servers(owner, Some("s"), 1).await, (vec![("t".to_owned(), vec![three.id])], false));
    scene.meta.apply(Batch { detach: vec![one.id], ..Batch::default() }).await.unwrap();
    scene.meta.remove_volume(two.id).await.unwrap();
    assert_eq!(scene.meta.attachments(scene.tenant, "s").await.unwrap(), []);
}

fn backup(scene: &Scene, created: i64) -> Backup {
    Backup {
        id: BackupId::random(),
        number: 0,
        tenant: scene.tenant,
        volume: VolumeId::random(),
        snapshot: Some(VolumeId::random()),
        name: Some("b".to_owned()),
        description: None,
        container: Some("c".to_owned()),
        zone: Some("z".to_owned()),
        size: count(5),
        objects: Some(3),
        state: BackupState::Creating,
        reason: Some("r".to_owned()),
        origin: Some((9, TenantId::random())),
        created: UnixTime(created),
        updated: UnixTime(7),
    }
}

#[tokio::test]
async fn backups_keep_their_fields_and_never_share_a_number() {
    let scene = scene().await;
    let [one, two, three] = [1, 2, 3].map(|created| backup(&scene, created));
    let owner = Owner::Tenant(scene.tenant);
    let insert = async |backup: &Backup| {
        scene.meta.apply(Batch { insert_backups: vec![backup.clone()], ..Batch::default() }).await.unwrap();
    };
    insert(&one).await;
    insert(&two).await;
    scene.meta.apply(Batch { remove_backups: vec![two.id], ..Batch::default() }).await.unwrap();
    insert(&three).await;
    let page = scene.meta.backups(owner, &query()).await.unwrap();
    let expected = [Backup { number: 3, ..three.clone() }, Backup { number: 1, ..one.clone() }];
    assert_eq!(page.items, expected);
    let marker = BlockQuery { backup_marker: Some(BackupRef::Number(3)), ..query() };
    assert_eq!(scene.meta.backups(owner, &marker).await.unwrap().items, expected[1..]);
    assert_eq!(scene.meta.backup(owner, BackupRef::Number(3)).await.unwrap().unwrap().id, three.id);
    assert_eq!(scene.meta.backup(owner, BackupRef::Number(2)).await.unwrap(), None);

    let done = Backup { state: BackupState::Available, ..one.clone() };
    let update = async |from| {
        let update_backups = vec![(done.clone(), from)];
        scene.meta.apply(Batch { update_backups, ..Batch::default() }).await.map(drop)
    };
    assert!(matches!(update(BackupState::Error).await, Err(MetaError::Conflict)));
    update(BackupState::Creating).await.unwrap();
    assert!(matches!(update(BackupState::Creating).await, Err(MetaError::Conflict)));
    assert_eq!(scene.meta.backups_in(BackupState::Available).await.unwrap()[0].id, one.id);
}

#[tokio::test]
async fn backups_are_narrowed_and_sorted_as_volumes_are() {
    use Direction::{Ascending, Descending};
    let scene = scene().await;
    let owner = Owner::Tenant(scene.tenant);
    let sizes = [3_u64, 1, 2].map(|gib| gib * GIB);
    let made: Vec<Backup> = sizes
        .into_iter()
        .zip(1..)
        .map(|(size, created)| Backup { size: count(size), name: None, ..backup(&scene, created) })
        .collect();
    scene.meta.apply(Batch { insert_backups: made.clone(), ..Batch::default() }).await.unwrap();
    let listed = async |query: BlockQuery| {
        let page = scene.meta.backups(owner, &query).await.unwrap();
        page.items.into_iter().map(|backup| backup.number).collect::<Vec<_>>()
    };
    let sorted = |sort| BlockQuery { sort, ..query() };
    assert_eq!(listed(query()).await, [3, 2, 1]);
    assert_eq!(listed(sorted(vec![(SortKey::Created, Ascending)])).await, [1, 2, 3]);
    assert_eq!(listed(sorted(vec![(SortKey::Size, Ascending)])).await, [2, 3, 1]);
    let by_name = vec![(SortKey::Name, Ascending), (SortKey::Size, Descending)];
    assert_eq!(listed(sorted(by_name.clone())).await, [1, 3, 2]);
    let behind = BlockQuery { backup_marker: Some(BackupRef::Number(1)), ..sorted(by_name) };
    assert_eq!(listed(behind).await, [3, 2], "backups without a name are paged too");
    for found in [
        BlockQuery { id: Some(VolumeId::from_bytes(*made[1].id.as_bytes())), ..query() },
        BlockQuery { gib: Some(1), ..query() },
        BlockQuery { snapshot: made[1].snapshot, ..query() },
        BlockQuery { volume: Some(made[1].volume), ..query() },
    ] {
        assert_eq!(listed(found).await, [2]);
    }
    for none in [
        BlockQuery { zone: Some("y".to_owned()), ..query() },
        BlockQuery { description: Some("d".to_owned()), ..query() },
        BlockQuery { tenant: Some(TenantId::random()), ..query() },
    ] {
        assert!(listed(none).await.is_empty());
    }
}

#[tokio::test]
async fn a_page_is_entered_by_an_index_and_only_what_is_few_is_sorted() {
    use Direction::{Ascending, Descending};
    use SortKey::{Created, Id, Name};
    let scene = scene().await;
    let marker = Mark::of_volume(&drive(scene.tenant, 1));
    let (tenant, anyone) = (Owner::Tenant(scene.tenant), Owner::Anyone);
    let named = Some("b".to_owned());
    for (owner, sort, name, entry) in [
        (tenant, vec![], named.clone(), "volumes_by_name (tenant=? AND kind=? AND name=?)"),
        (tenant, vec![], None, "volumes_of_tenant (tenant=? AND kind=? AND (created,id)<(?,?))"),
        (tenant, vec![(Created, Ascending)], None, "volumes_of_tenant (tenant=? AND kind=? AND (created,id)>(?,?))"),
        (tenant, vec![(Name, Ascending)], None, "volumes_by_name (tenant=? AND kind=? AND (name,id)>(?,?))"),
        (tenant, vec![(Name, Descending), (Id, Ascending)], None, "volumes_by_name (tenant=? AND kind=? AND name<?)"),
        (tenant, vec![(Id, Ascending)], named, "volumes_by_name (tenant=? AND kind=? AND name=? AND id>?)"),
        (anyone, vec![], None, "volumes_by_kind (kind=? AND (created,id)<(?,?))"),
    ] {
        let query = BlockQuery { sort, name, limit: Some(9), ..query() };
        let sql = page_of(SELECT_VOLUMES, owner, VolumeKind::Drive, &query, Some(&marker)).into_string();
        let mut explained = Sql::new("EXPLAIN QUERY PLAN ");
        explained.push(sql);
        let rows = explained.build().fetch_all(&scene.meta.db.readers).await.unwrap();
        let plan = rows.iter().map(|row| row.get::<String, _>("detail")).collect::<Vec<_>>().join("; ");
        let is_sorted = query.sort.len() > 1 || query.sort.is_empty() && query.name.is_some();
        assert!(plan.contains(entry) && plan.contains("TEMP B-TREE") == is_sorted, "{query:?}: {plan}");
    }
}
