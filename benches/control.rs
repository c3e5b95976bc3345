//! Control requests by their parts: a request becomes a command, the database executes it, an outcome becomes an
//! answer. The database is asked with 10,000 volumes of a tenant in it and with 1,000,000: a page must not cost more
//! with more.
//!
//! `cargo bench --bench control`; it makes a database of about 1 GiB in the build's target directory. What a whole
//! request costs, with its socket and its flush, is in the row `control` of `cargo bench --bench peers`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, header};
use longshore::dialect::{Call, Endpoint, Places, resolve};
use longshore::domain::{
    BlockQuery, ByteCount, Direction, Outcome, Paged, Principal, SortKey, TenantId, UnixTime, UserId, Volume, VolumeId,
    VolumeKind, VolumeState,
};
use longshore::meta::{Meta, Owner};
use serde_json::json;
use tokio::runtime::Runtime;

const TENANT: &str = "e56a97501ac64da4af7c7a6f4ecb7426";

fn tenant() -> TenantId {
    TenantId::from_plain(TENANT).expect("an id")
}

/// A volume as a client makes it, the `n`th of them.
fn volume(tenant: TenantId, n: u32) -> Volume {
    let pairs = |pairs: serde_json::Value| pairs.as_object().cloned().unwrap_or_default();
    let (kind, state, size) = (VolumeKind::Drive, VolumeState::Available, ByteCount::mib(1024));
    let now = UnixTime(1_700_000_000_000 + i64::from(n));
    Volume {
        meta: pairs(json!({"owner": "bench"})),
        attributes: pairs(json!({"block": {"description": "of a bench", "zone": "nova", "bootable": false}})),
        ..Volume::begun(tenant, kind, format!("volume {}", n % 1000), size, state, now)
    }
}

/// A request, taken apart as the server does before a dialect sees it.
struct Request {
    method: Method,
    path: String,
    query: &'static str,
    headers: HeaderMap,
    body: &'static str,
}

impl Request {
    fn new(method: Method, path: &str, query: &'static str, media: &'static str, body: &'static str) -> Self {
        let media = HeaderValue::from_static(media);
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media.clone()), (header::ACCEPT, media)]);
        Self { method, path: path.to_owned(), query, headers, body }
    }

    fn with<T>(&self, then: impl FnOnce(&'static Endpoint, &Call) -> T) -> T {
        let length = Some(self.body.len() as u64);
        let resolved = resolve(&self.method, &self.path, self.query, &self.headers, length);
        then(resolved.endpoint.expect("an endpoint"), &resolved.call)
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let base = |version: &str| format!("/{version}/{TENANT}");
    let caller =
        Principal { user: "alice".to_owned(), user_id: UserId::from_bytes([1; 16]), tenant: tenant(), is_admin: false };
    for (name, request) in [
        (
            "create, JSON",
            Request::new(
                Method::POST,
                &(base("v3") + "/volumes"),
                "",
                "application/json",
                r#"{"volume": {"name": "one", "description": "first", "size": 10, "metadata": {"a": "b", "c": "d"}}}"#,
            ),
        ),
        (
            "create, XML",
            Request::new(
                Method::POST,
                &(base("v1") + "/volumes"),
                "",
                "application/xml",
                r#"<volume display_name="one" display_description="first" size="10"><metadata><meta key="a">b</meta>
                <meta key="c">d</meta></metadata></volume>"#,
            ),
        ),
        (
            "a page with conditions",
            Request::new(
                Method::GET,
                &(base("v3") + "/volumes/detail"),
                "limit=100&marker=01938c2e-7d10-7a42-9b51-3f0c5d2e8a77&sort=name:asc,id:desc&status=available",
                "application/json",
                "",
            ),
        ),
    ] {
        request.with(|endpoint, call| {
            let decode = || endpoint.decode(black_box(call), &caller, request.body.as_bytes());
            assert!(decode().is_ok(), "{name}");
            group.bench_function(name, |bencher| bencher.iter(|| black_box(decode())));
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let here = "http://127.0.0.1:8700".to_owned();
    let places = Places {
        control: here.clone(),
        control_relative: true,
        direct: here.clone(),
        direct_relative: true,
        identity: here,
    };
    let items = (0..100).map(|n| volume(tenant(), n).into()).collect();
    let page = Outcome::Page(Paged { items, has_more: true });
    let one = Outcome::Volume(Box::new(volume(tenant(), 0).into()));
    let id = VolumeId::from_bytes([7; 16]);
    for (name, version, path, media, outcome) in [
        ("one, JSON", "v3", format!("volumes/{id}"), "application/json", &one),
        ("one, XML", "v1", format!("volumes/{id}"), "application/xml", &one),
        ("a page of 100, JSON", "v3", "volumes/detail".to_owned(), "application/json", &page),
        ("a page of 100, XML", "v1", "volumes/detail".to_owned(), "application/xml", &page),
    ] {
        Request::new(Method::GET, &format!("/{version}/{TENANT}/{path}"), "limit=100", media, "").with(
            |endpoint, call| {
                let answer = endpoint.answer();
                let length = answer.encode(call, outcome, &places).expect("a reply").body().len();
                group.throughput(Throughput::Bytes(length as u64));
                group.bench_function(name, |bencher| {
                    bencher.iter(|| black_box(answer.encode(call, black_box(outcome), &places)));
                });
            },
        );
    }
    group.finish();
}

fn execute(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut group = criterion.benchmark_group("execute");
    for count in [10_000, 1_000_000] {
        let path = folder.path().join(format!("{count}.db"));
        let (meta, tenant, middle) = runtime.block_on(filled(&path, count));
        let owner = Owner::Tenant(tenant);
        let mut measure = |name: &str, query: BlockQuery, expected: usize| {
            let ask =
                || async { meta.block_volumes(owner, VolumeKind::Drive, &query).await.expect("a page").items.len() };
            assert_eq!(runtime.block_on(ask()), expected, "{name}");
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| runtime.block_on(ask()));
            });
        };
        let (page, behind) = (BlockQuery { limit: Some(100), ..BlockQuery::default() }, Some(middle));
        let by_name = |direction| vec![(SortKey::Name, direction)];
        measure("the first page", page.clone(), 100);
        measure("a page in the middle", BlockQuery { marker: behind, ..page.clone() }, 100);
        measure(
            "a page by name",
            BlockQuery { marker: behind, sort: by_name(Direction::Ascending), ..page.clone() },
            100,
        );
        measure("one by its name", BlockQuery { name: Some("volume 7".to_owned()), limit: Some(1), ..page }, 1);
        group.bench_function(BenchmarkId::new("one by its id", count), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async { meta.volume_any(middle).await.expect("an answer").expect("a volume") })
            });
        });
        group.bench_function(BenchmarkId::new("a new one, durable", count), |bencher| {
            bencher.iter(|| {
                let new = volume(tenant, 7);
                runtime.block_on(async { meta.insert_volumes(vec![new], vec![]).await.expect("room") });
            });
        });
        runtime.block_on(meta.close());
    }
    group.finish();
}

/// A database with so many volumes of one tenant, whose it is, and the volume in the middle.
async fn filled(path: &std::path::Path, count: u32) -> (Meta, TenantId, VolumeId) {
    let meta = Meta::open(path).await.expect("a database");
    let tenant = meta.add_user("alice", "", "alice", None, UnixTime(0)).await.expect("a user");
    let mut middle = None;
    let all: Vec<u32> = (0..count).collect();
    for some in all.chunks(10_000) {
        let volumes: Vec<Volume> = some.iter().map(|n| volume(tenant, *n)).collect();
        if some.contains(&(count / 2)) {
            middle = volumes.get(volumes.len() / 2).map(|volume| volume.id);
        }
        meta.insert_volumes(volumes, vec![]).await.expect("room");
    }
    (meta, tenant, middle.expect("one is in the middle"))
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = decode, encode, execute
}
criterion_main!(benches);
