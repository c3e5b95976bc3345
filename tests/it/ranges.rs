//! Parts of a drive, compared with its image.

use rand::RngExt as _;

use crate::harness::{Response, Server, image};

const SIZE: u64 = (9 << 20) + 777;

/// Starts a server with one drive; returns the path of its image, and a path that serves it.
fn with_drive() -> (Server, std::path::PathBuf, String) {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::sparse(&disk, SIZE, 11);
    let uuid = server.upload(&disk);
    let path = server.capability(&uuid);
    (server, disk, path)
}

fn get(server: &Server, path: &str, lines: &[&str]) -> Response {
    let mut client = server.raw();
    client.send_head(&format!("GET {path}"), lines);
    client.response()
}

#[test]
fn a_thousand_random_ranges_are_the_files_bytes() {
    let (server, disk, path) = with_drive();
    let whole = std::fs::read(&disk).unwrap();
    let mut numbers = image::numbers(12);
    let mut client = server.raw();
    for _ in 0..1000 {
        let first = numbers.random_range(0..SIZE);
        let (last, spelled) = match numbers.random_range(0..4) {
            0 => (SIZE - 1, format!("{first}-")),
            1 => (SIZE - 1, format!("-{}", SIZE - first)),
            // A last byte beyond the end means the end.
            2 => (SIZE - 1, format!("{first}-{}", SIZE + first)),
            _ => {
                let last = (first + numbers.random_range(0..512 << 10)).min(SIZE - 1);
                (last, format!("{first}-{last}"))
            }
        };
        client.send_head(&format!("GET {path}"), &[&format!("Range: bytes={spelled}")]);
        let response = client.response();
        assert_eq!(response.status, 206, "{spelled}: {:?}", response.fields);
        assert_eq!(response.field("content-range"), format!("bytes {first}-{last}/{SIZE}"), "{spelled}");
        assert!(response.body == whole[first as usize..=last as usize], "the bytes of {spelled} differ");
    }
}

#[test]
fn several_ranges_come_as_parts_in_the_order_asked() {
    let (server, disk, path) = with_drive();
    let whole = std::fs::read(&disk).unwrap();
    let response = get(&server, &path, &["Range: bytes=5000000-5099999, 0-0, -1000"]);
    assert_eq!(response.status, 206);
    let kind = response.field("content-type");
    let boundary =
        kind.strip_prefix("multipart/byteranges; boundary=").expect("parts have a boundary").trim_matches('"');
    let parts = parts_of(&response.body, boundary);
    let wanted: [(u64, u64); 3] = [(5_000_000, 5_099_999), (0, 0), (SIZE - 1000, SIZE - 1)];
    assert_eq!(parts.len(), wanted.len());
    for ((head, body), (first, last)) in parts.iter().zip(wanted) {
        assert_eq!(head.field("content-range"), format!("bytes {first}-{last}/{SIZE}"));
        assert_eq!(head.field("content-type"), "application/octet-stream");
        assert!(*body == &whole[first as usize..=last as usize], "the bytes of {first}-{last} differ");
    }
}

/// RFC 9110 section 14.2: a server may refuse ranges that only waste its time.
#[test]
fn many_overlapping_ranges_do_not_multiply_the_drive() {
    let (server, _, path) = with_drive();
    let spelled = vec!["0-"; 500].join(",");
    let response = get(&server, &path, &[&format!("Range: bytes={spelled}")]);
    assert!(response.body.len() as u64 <= SIZE + 4096, "{} bytes of a drive of {SIZE}", response.body.len());
}

#[test]
fn a_range_outside_the_drive_is_416_with_its_size() {
    let (server, _, path) = with_drive();
    for spelled in [format!("{SIZE}-"), format!("{SIZE}-{}", SIZE + 5), "-0".to_owned()] {
        let response = get(&server, &path, &[&format!("Range: bytes={spelled}")]);
        assert_eq!(response.status, 416, "{spelled}");
        assert_eq!(response.field("content-range"), format!("bytes */{SIZE}"), "{spelled}");
    }
}

#[test]
fn a_range_that_makes_no_sense_is_ignored() {
    let (server, _, path) = with_drive();
    for spelled in ["bytes=9-5", "bytes=x", "lines=1-2", "bytes=", "bytes=1-2-3"] {
        let response = get(&server, &path, &[&format!("Range: {spelled}")]);
        assert_eq!((response.status, response.body.len() as u64), (200, SIZE), "{spelled}");
    }
}

#[test]
fn if_range_gives_the_part_only_of_the_same_drive() {
    let (server, _, path) = with_drive();
    let etag = get(&server, &path, &["Range: bytes=0-0"]).field("etag").to_owned();
    let range = "Range: bytes=10-19";
    let same = get(&server, &path, &[range, &format!("If-Range: {etag}")]);
    assert_eq!((same.status, same.body.len()), (206, 10));
    for other in ["\"other\"".to_owned(), format!("W/{etag}"), "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()] {
        let whole = get(&server, &path, &[range, &format!("If-Range: {other}")]);
        assert_eq!((whole.status, whole.body.len() as u64), (200, SIZE), "{other}");
    }
}

#[test]
fn conditions_compare_the_entity_tag() {
    let (server, _, path) = with_drive();
    let etag = get(&server, &path, &["Range: bytes=0-0"]).field("etag").to_owned();
    for known in [etag.clone(), format!("\"other\", {etag}"), format!("W/{etag}"), "*".to_owned()] {
        let response = get(&server, &path, &[&format!("If-None-Match: {known}")]);
        assert_eq!(response.status, 304, "{known}");
        assert_eq!(response.field("etag"), etag);
    }
    let response = get(&server, &path, &["If-None-Match: \"other\""]);
    assert_eq!((response.status, response.body.len() as u64), (200, SIZE));
    assert_eq!(get(&server, &path, &["If-Match: \"other\""]).status, 412);
    assert_eq!(get(&server, &path, &[&format!("If-Match: {etag}"), "Range: bytes=0-9"]).status, 206);
}

/// Splits a multipart body: the fields and the bytes of each part.
fn parts_of<'a>(body: &'a [u8], boundary: &str) -> Vec<(Response, &'a [u8])> {
    let find = |from: usize, what: &[u8]| {
        body[from..].windows(what.len()).position(|window| window == what).map(|at| from + at)
    };
    let delimiter = format!("--{boundary}");
    let mut at = find(0, delimiter.as_bytes()).expect("the first delimiter") + delimiter.len();
    let mut parts = Vec::new();
    while &body[at..at + 2] != b"--" {
        let head_end = find(at, b"\r\n\r\n").expect("the end of a part's head");
        // The rest of the delimiter's line is in the place of a status line.
        let head = Response::parse_head(&String::from_utf8_lossy(&body[at..head_end]));
        let next = find(head_end, format!("\r\n{delimiter}").as_bytes()).expect("the next delimiter");
        parts.push((head, &body[head_end + 4..next]));
        at = next + 2 + delimiter.len();
    }
    parts
}
