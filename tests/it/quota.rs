//! Quotas, from the request to the records and back.

use std::thread;

use serde_json::json;

use crate::harness::raw::basic;
use crate::harness::server::uuid_of;
use crate::harness::stored::{self, used};
use crate::harness::{Response, Server, image, wait_for};

const DRIVES: &str = "/api/2.0/drives/";
const UPLOAD: &str = "/api/2.0/drives/upload/";
const OCTETS: &str = "Content-Type: application/octet-stream";

/// Starts a server, and adds a user with this limit of drives and bytes.
fn limited(drives: u64, bytes: u64) -> (Server, String) {
    let server = Server::start();
    let (drives, bytes) = (drives.to_string(), format!("{bytes} B"));
    let output = server.user_command(&["add", "small", "--max-drives", &drives, "--max-bytes", &bytes]);
    assert!(output.status.success(), "{output:?}");
    let user = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (server, user)
}

/// Fails unless this answer refuses a full quota.
#[track_caller]
fn assert_over(response: &Response) {
    assert_eq!(response.status, 403, "{response:?}");
    let fault = &response.json()[0];
    assert_eq!(fault["error_type"], json!("permission"));
    assert!(fault["error_message"].as_str().is_some_and(|message| message.contains("quota")), "{fault}");
}

#[track_caller]
fn wait_for_usage(server: &Server, usage: (u64, u64)) {
    wait_for(&format!("the usage to be {usage:?}"), || (used(server, "small") == usage).then_some(()));
}

#[test]
fn the_number_of_drives_is_limited_for_uploads_blank_drives_and_clones() {
    let (server, user) = limited(2, 100 << 20);
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 100_000, 110);
    let first = uuid_of(&server.curl_as(&user, UPLOAD).upload("POST", &disk).run());
    let spec = json!({"name": "blank", "media": "disk", "size": 70_000});
    let both = json!({"objects": [spec, spec]});
    assert_over(&server.curl_as(&user, DRIVES).json("POST", &both).run());
    assert_eq!(used(&server, "small"), (1, 100_000), "both or none");
    let blank = stored::started(&server.curl_as(&user, DRIVES).json("POST", &spec).run());
    assert_eq!(used(&server, "small"), (2, 170_000));
    assert_over(&server.curl_as(&user, UPLOAD).upload("POST", &disk).try_run().1);
    assert_over(&server.curl_as(&user, UPLOAD).upload_stream("POST", &disk).try_run().1);
    assert_over(&server.curl_as(&user, DRIVES).json("POST", &spec).run());
    let clone = format!("{DRIVES}{first}/action/?do=clone");
    assert_over(&server.curl_as(&user, &clone).json("POST", &json!({})).run());
    let shown = server.curl_as(&user, &format!("{DRIVES}{first}/")).run().json();
    assert_eq!(shown["status"], json!("unmounted"), "a refused clone changes nothing");
    assert_eq!(server.curl_as(&user, &format!("{DRIVES}{blank}/")).method("DELETE").run().status, 204);
    assert_eq!(used(&server, "small"), (1, 100_000));
    assert_eq!(server.curl_as(&user, &clone).json("POST", &json!({})).run().status, 202);
    assert_eq!(used(&server, "small"), (2, 200_000));
}

#[test]
fn uploads_at_once_never_overshoot_the_bytes() {
    let (server, user) = limited(100, 5_000_000);
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 1_500_000, 111);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let uploads: Vec<_> = (0..8)
            .map(|n| {
                let (server, user, disk) = (&server, &user, &disk);
                scope.spawn(move || {
                    let curl = server.curl_as(user, UPLOAD);
                    let chunked = n % 2 == 1;
                    let curl = if chunked { curl.upload_stream("POST", disk) } else { curl.upload("POST", disk) };
                    curl.try_run().1.status
                })
            })
            .collect();
        uploads.into_iter().map(|upload| upload.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| matches!(status, 201 | 403)), "{statuses:?}");
    let made = statuses.iter().filter(|status| **status == 201).count() as u64;
    assert!((1..=3).contains(&made), "{statuses:?}");
    assert_eq!(used(&server, "small"), (made, made * 1_500_000));
    assert_eq!(server.drives_of(&user).len() as u64, made);
}

#[test]
fn what_an_upload_will_take_is_charged_when_it_is_admitted() {
    let (server, user) = limited(10, 5_000_000);
    let ask = |length: u64| {
        let mut client = server.raw();
        let length = format!("Content-Length: {length}");
        client.send_head(&format!("POST {UPLOAD}"), &[&basic(&user), OCTETS, &length, "Expect: 100-continue"]);
        let status = client.head().status;
        (client, status)
    };
    assert_eq!(ask(5_000_001).1, 403);
    let (client, status) = ask(3_000_000);
    assert_eq!(status, 100);
    assert_eq!(used(&server, "small"), (1, 3_000_000));
    assert_eq!(ask(2_000_001).1, 403);
    assert_eq!(ask(2_000_000).1, 100);
    drop(client);
    wait_for_usage(&server, (0, 0));
    // A size below the minimum is charged as the minimum.
    assert_eq!(ask(1).1, 100);
    wait_for_usage(&server, (0, 0));
}

#[test]
fn a_stream_is_charged_as_it_comes_and_cut_at_the_limit() {
    let (server, user) = limited(10, 5_000_000);
    let mut client = server.raw();
    client.send_head(
        &format!("POST {UPLOAD}"),
        &[&basic(&user), OCTETS, "Transfer-Encoding: chunked", "Expect: 100-continue"],
    );
    assert_eq!(client.head().status, 100);
    assert_eq!(used(&server, "small"), (1, 64 << 10));
    let part = image::bytes(112, 1_000_000);
    for n in 0..5 {
        client.send(format!("{:x}\r\n", part.len()).as_bytes());
        client.send(&part);
        client.send(b"\r\n");
        let sent = (n + 1) * 1_000_000;
        wait_for("what came to be charged", || (used(&server, "small").1 >= sent).then_some(()));
        assert!(used(&server, "small").1 <= 5_000_000);
    }
    client.send(b"1\r\nx\r\n");
    assert_over(&client.response());
    wait_for_usage(&server, (0, 0));
    assert!(server.drives_of(&user).is_empty());

    let disk = server.scratch().join("disk.img");
    image::random(&disk, 5_000_000, 113);
    let exact = uuid_of(&server.curl_as(&user, UPLOAD).upload_stream("POST", &disk).run());
    assert_eq!(used(&server, "small"), (1, 5_000_000));
    assert_eq!(server.curl_as(&user, &format!("{DRIVES}{exact}/")).method("DELETE").run().status, 204);
    image::random(&disk, 1_000_000, 114);
    uuid_of(&server.curl_as(&user, UPLOAD).upload_stream("POST", &disk).run());
    assert_eq!(used(&server, "small"), (1, 1_000_000), "what was taken ahead is given back");
}

#[test]
fn growth_is_charged_and_refused_over_the_limit() {
    let (server, user) = limited(10, 1_000_000);
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 400_000, 115);
    let drive = uuid_of(&server.curl_as(&user, UPLOAD).upload("POST", &disk).run());
    let grow = |size: u64| {
        let curl = server.curl_as(&user, &format!("{DRIVES}{drive}/action/?do=resize"));
        curl.json("POST", &json!({"size": size})).run()
    };
    assert_over(&grow(1_000_001));
    let shown = server.curl_as(&user, &format!("{DRIVES}{drive}/")).run().json();
    assert_eq!((&shown["status"], &shown["size"]), (&json!("unmounted"), &json!(400_000)));
    assert_eq!(used(&server, "small"), (1, 400_000));
    assert_eq!(grow(1_000_000).status, 202);
    assert_eq!(used(&server, "small"), (1, 1_000_000));
    wait_for("the drive to be grown", || {
        let shown = server.curl_as(&user, &format!("{DRIVES}{drive}/")).run().json();
        (shown["status"] == "unmounted").then_some(())
    });
    assert_eq!(server.curl_as(&user, &format!("{DRIVES}{drive}/")).method("DELETE").run().status, 204);
    assert_eq!(used(&server, "small"), (0, 0));
}

#[test]
fn what_failed_is_refunded() {
    let (server, user) = limited(10, 5_000_000);
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 3_000_000, 116);
    let wrong = "Repr-Digest: sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
    let (_, response) = server.curl_as(&user, UPLOAD).upload("POST", &disk).header(wrong).try_run();
    assert_eq!(response.status, 400, "{response:?}");
    assert_eq!(used(&server, "small"), (0, 0), "before the refusal is read");
    for end in ["closed", "half closed"] {
        let mut client = server.raw();
        client.send_head(&format!("POST {UPLOAD}"), &[&basic(&user), OCTETS, "Content-Length: 3000000"]);
        client.send(&image::bytes(117, 1_000_000));
        wait_for_usage(&server, (1, 3_000_000));
        if end == "closed" {
            drop(client);
        } else {
            client.half_close();
        }
        wait_for_usage(&server, (0, 0));
    }
    uuid_of(&server.curl_as(&user, UPLOAD).upload("POST", &disk).run());
}

/// Each takes little more of the quota than it has sent, so that all that fit get their share.
#[test]
fn streams_of_unknown_length_that_fit_together_are_all_taken() {
    let (server, user) = limited(50, 100 << 20);
    let part = image::bytes(112, 1 << 20);
    let authorization = basic(&user);
    let mut clients: Vec<_> = (0..15)
        .map(|_| {
            let mut client = server.raw();
            client.send_head(&format!("POST {UPLOAD}"), &[&authorization, OCTETS, "Transfer-Encoding: chunked"]);
            client
        })
        .collect();
    // All at once, part by part.
    for _ in 0..5 {
        for client in &mut clients {
            client.send(b"100000\r\n");
            client.send(&part);
            client.send(b"\r\n");
        }
    }
    for client in &mut clients {
        client.send(b"0\r\n\r\n");
    }
    for client in &mut clients {
        let response = client.response();
        assert_eq!(response.status, 201, "{response:?}");
    }
    wait_for_usage(&server, (15, 75 << 20));
}
