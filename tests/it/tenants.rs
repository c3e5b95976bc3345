//! Two tenants: neither can see, read, change or remove anything of the other.

use serde_json::json;

use crate::harness::server::uuid_of;
use crate::harness::{Server, image};

#[test]
fn another_tenants_drive_does_not_exist() {
    let server = Server::start();
    let (alice, bob) = (server.add_user("alice"), server.add_user("bob"));
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 200_000, 31);
    let hers = uuid_of(&server.curl_as(&alice, "/api/2.0/drives/upload/").upload("POST", &disk).run());
    let his = uuid_of(&server.curl_as(&bob, "/api/2.0/drives/upload/").upload("POST", &disk).run());

    assert_eq!(server.drives_of(&alice), [hers.as_str()]);
    assert_eq!(server.drives_of(&bob), [his.as_str()]);
    assert!(server.drives().is_empty(), "the first user has a tenant of its own");

    let drive = format!("/api/2.0/drives/{hers}/");
    let as_bob = |path: &str| server.curl_as(&bob, path);
    let one = json!({"name": "mine now", "media": "disk", "size": 200_000});
    let several = json!({"objects": [{"uuid": hers}]});
    let attempts = [
        as_bob(&drive),
        as_bob(&format!("{drive}download/")),
        as_bob(&drive).json("PUT", &one),
        as_bob(&drive).method("DELETE"),
        as_bob("/api/2.0/drives/").json("DELETE", &several),
        as_bob(&format!("{drive}action/?do=clone")).json("POST", &json!({})),
        as_bob(&format!("{drive}action/?do=resize")).json("POST", &json!({"size": 1 << 20})),
    ];
    // Bob gets the same answers for a drive of alice as for one that never existed.
    for attempt in attempts {
        let response = attempt.run();
        assert_eq!(response.status, 404, "{response:?}");
        assert_eq!(response.json()[0]["error_type"], json!("notexist"));
        assert!(!response.text().contains("alice"), "{response:?}");
    }

    let back = server.scratch().join("back.img");
    let response = server.curl_as(&alice, &format!("{drive}download/")).arg("--location").output(&back).run();
    assert_eq!(response.status, 200);
    image::assert_same(&disk, &back);
}

/// The many forms of a list must all be filtered.
#[test]
fn no_list_shows_another_tenants_drives() {
    let server = Server::start();
    let bob = server.add_user("bob");
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 70_000, 32);
    let uuid = server.upload(&disk);
    for query in ["", "?limit=0", "?limit=100&offset=0", "?name__contains=disk", "?status=unmounted", "?fields=uuid"] {
        for path in ["/api/2.0/drives/", "/api/2.0/drives/detail/"] {
            let response = server.curl_as(&bob, &format!("{path}{query}")).run();
            assert_eq!(response.status, 200, "{path}{query}: {response:?}");
            assert_eq!(response.json()["meta"]["total_count"], json!(0), "{path}{query}");
            assert!(!response.text().contains(&uuid), "{path}{query}");
        }
    }
}
