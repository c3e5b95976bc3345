//! With a real Keystone, whose tokens are accepted, and a real Glance, from whose images volumes are made.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::clients::{openstack, printed, said};
use crate::harness::openstack::OpenStack;
use crate::harness::{Cloud, Server, Setup, image, wait_for};

/// Starts a server that uses these services.
fn beside(services: &OpenStack) -> Server {
    Setup::default().config(&services.settings()).start()
}

/// Logs in with a token of Keystone.
fn cloud_of(services: &OpenStack, server: &Server) -> Cloud {
    let (token, project) = services.token();
    Cloud { endpoint: server.endpoint().to_owned(), token, project }
}

/// Runs `openstack` against Keystone.
fn run(services: &OpenStack, server: &Server, words: &[&str]) -> String {
    let mut command = openstack(server, &OpenStack::credentials(), words).expect("it is installed");
    command.env("OS_AUTH_URL", format!("{}/v3", services.identity));
    said(&command)
}

fn json_of(services: &OpenStack, server: &Server, words: &[&str]) -> Value {
    let mut command = openstack(server, &OpenStack::credentials(), words).expect("it is installed");
    command.env("OS_AUTH_URL", format!("{}/v3", services.identity));
    printed(command)
}

/// Uploads a file to Glance; returns the image's id.
fn add_image(services: &OpenStack, server: &Server, name: &str, format: &str, file: &Path) -> String {
    let file = file.to_str().expect("a path in text");
    let words = ["image", "create", "--disk-format", format, "--container-format", "bare", "--file", file, name];
    json_of(services, server, &words)["id"].as_str().expect("an id").to_owned()
}

/// An empty image in the format of QEMU (`docs/interop/qcow2.rst`), as far as Glance checks it.
fn qcow2() -> Vec<u8> {
    let (version, cluster_bits, size, l1_size, l1_table, refcounts) =
        (2_u32, 16_u32, 1_u64 << 20, 1_u32, 3 << 16, 1 << 16);
    let (backing, backing_size, encryption, snapshots) = (0_u64, 0_u32, 0_u32, 0_u32);
    let mut image = b"QFI\xfb".to_vec();
    image.extend(version.to_be_bytes());
    image.extend(backing.to_be_bytes());
    image.extend([backing_size, cluster_bits].map(u32::to_be_bytes).concat());
    image.extend(size.to_be_bytes());
    image.extend([encryption, l1_size].map(u32::to_be_bytes).concat());
    image.extend([l1_table, refcounts].map(u64::to_be_bytes).concat());
    image.extend([1, snapshots].map(u32::to_be_bytes).concat());
    image.resize(4 << 16, 0);
    image
}

#[test]
fn keystone_and_glance_and_longshore_are_one_cloud() {
    let Some(mut services) = OpenStack::start() else { return };
    let server = beside(&services);
    if openstack(&server, "a:b", &[]).is_none() {
        return;
    }
    for (name, kind, url) in [
        ("cinderv3", "volumev3", format!("{}/v3/%(project_id)s", server.endpoint())),
        ("glance", "image", services.images.clone()),
    ] {
        run(&services, &server, &["service", "create", "--name", name, kind]);
        run(&services, &server, &["endpoint", "create", "--region", "RegionOne", name, "public", &url]);
    }
    let file = server.scratch().join("image.raw");
    image::random(&file, 3_000_000, 1);
    let raw = add_image(&services, &server, "raw", "raw", &file);

    // The server fetches the image with the caller's token, and stores the bytes that curl gets.
    let made = json_of(&services, &server, &["volume", "create", "--image", "raw", "--size", "1", "of-image"]);
    let id = made["id"].as_str().unwrap().to_owned();
    let cloud = cloud_of(&services, &server);
    cloud.wait("volumes", &id, "available");
    let shown = json_of(&services, &server, &["volume", "show", "of-image"]);
    assert_eq!((&shown["size"], &shown["bootable"]), (&json!(1), &json!(true)), "{shown}");
    assert_eq!(shown["volume_image_metadata"]["image_id"], json!(raw), "{shown}");
    let (want, back) = (server.scratch().join("want.raw"), server.scratch().join("back.raw"));
    fs::copy(&file, &want).unwrap();
    fs::OpenOptions::new().write(true).open(&want).unwrap().set_len(1 << 30).unwrap();
    let download = server.anonymous_curl(&format!("/api/2.0/drives/{id}/download/"));
    let response = download.header(&format!("X-Auth-Token: {}", cloud.token)).arg("--location").output(&back).run();
    assert_eq!(response.status, 200, "{response:?}");
    image::assert_same(&want, &back);

    // An image that is not raw, one that is larger than the volume, and one that does not exist.
    let refused = |wish: Value| {
        let response = cloud.post("volumes", &json!({"volume": wish}));
        (response.status, response.text())
    };
    let other = server.scratch().join("image.qcow2");
    fs::write(&other, qcow2()).unwrap();
    let other = add_image(&services, &server, "other", "qcow2", &other);
    let (status, text) = refused(json!({"size": 1, "imageRef": other}));
    assert!(status == 400 && text.contains("raw"), "{status} {text}");
    let large = server.scratch().join("large.raw");
    image::zero(&large, (1 << 30) + 1);
    let large = add_image(&services, &server, "large", "raw", &large);
    let (status, text) = refused(json!({"size": 1, "imageRef": large}));
    assert!(status == 400 && text.contains("larger than volume size"), "{status} {text}");
    let (status, text) = refused(json!({"size": 1, "imageRef": "00000000-0000-4000-8000-000000000000"}));
    assert!(matches!(status, 400 | 404) && text.contains("could not be found"), "{status} {text}");

    // The bytes changed in the image service.
    let stored = fs::OpenOptions::new().write(true).open(services.image_file(&raw)).unwrap();
    stored.write_all_at(b"changed", 1_000_000).unwrap();
    let response = cloud.post("volumes", &json!({"volume": {"size": 1, "imageRef": raw, "name": "changed"}}));
    assert_eq!(response.status, 202, "{response:?}");
    let changed = response.json()["volume"]["id"].as_str().unwrap().to_owned();
    cloud.wait("volumes", &changed, "error");
    server.wait_for_line("the image has another digest than it should have");
    assert_eq!(cloud.delete(&format!("volumes/{changed}")).status, 202);

    // A token for another project, a revoked one, and an invalid one.
    let elsewhere = Cloud { project: "0".repeat(32), ..cloud.clone() };
    assert!(matches!(elsewhere.get("volumes").status, 200 | 404));
    run(&services, &server, &["project", "create", "shop"]);
    run(&services, &server, &["user", "create", "--password", "secret", "alice"]);
    run(&services, &server, &["role", "add", "--project", "shop", "--user", "alice", "member"]);
    let mut as_alice = openstack(&server, "alice:secret", &["volume", "list"]).unwrap();
    as_alice.env("OS_AUTH_URL", format!("{}/v3", services.identity)).env("OS_PROJECT_NAME", "shop");
    assert_eq!(printed(as_alice), json!([]));
    assert_eq!(services.revoke(&cloud.token).status, 204);
    let answer = wait_for("the token to be refused", || {
        let response = cloud.get("volumes");
        (response.status == 401).then_some(response)
    });
    let uri = format!("Keystone uri=\"{}/v3\"", services.identity);
    assert_eq!(answer.field("www-authenticate"), uri);
    run(&services, &server, &["volume", "delete", "of-image"]);

    let cloud = cloud_of(&services, &server);
    assert_eq!(cloud.get("volumes").status, 200);
    services.stop();
    let unknown = Cloud { token: "of nobody".to_owned(), ..cloud };
    let answer = unknown.get("volumes");
    assert_eq!((answer.status, answer.field("www-authenticate")), (401, &*uri));
    assert!(!server.logged().contains("of a test"), "the password of the service user is not told");
}
