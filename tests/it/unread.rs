//! Bodies that are not read to their end: the connection goes on, or the answer says that it ends.

use crate::harness::raw::basic;
use crate::harness::{Cloud, RawClient, Server, image};

/// Requests of every kind of endpoint that are answered without their bodies.
fn requests(server: &Server, cloud: &Cloud) -> Vec<(String, Vec<String>)> {
    let (known, unknown) = (basic(&server.credentials()), basic("admin:wrong"));
    let token = format!("X-Auth-Token: {}", cloud.token);
    let json = "Content-Type: application/json".to_owned();
    let octets = "Content-Type: application/octet-stream".to_owned();
    let v3 = |path: &str| format!("/v3/{}/{path}", cloud.project);
    let missing = "01938c2e-7d10-7a42-9b51-3f0c5d2e8a77";
    vec![
        (format!("POST {}", v3("volumes")), vec![json.clone()]),
        (format!("DELETE {}", v3(&format!("volumes/{missing}"))), vec![token.clone(), json.clone()]),
        (format!("GET {}", v3("volumes")), vec![token.clone()]),
        (format!("PUT {}", v3("nowhere")), vec![token, json.clone()]),
        ("GET /".to_owned(), Vec::new()),
        ("GET /healthz".to_owned(), Vec::new()),
        ("POST /api/2.0/drives/".to_owned(), vec![unknown.clone(), json.clone()]),
        ("GET /api/2.0/drives/".to_owned(), vec![known.clone()]),
        (format!("DELETE /api/2.0/drives/{missing}/"), vec![known.clone()]),
        (format!("POST /api/2.0/drives/{missing}/action/?do=clone"), vec![unknown.clone(), json.clone()]),
        ("POST /api/2.0/drives/upload/".to_owned(), vec![unknown, octets.clone()]),
        ("POST /api/2.0/drives/upload/?nonsense=1".to_owned(), vec![known.clone(), octets]),
        ("POST /api/v1/transfers".to_owned(), vec![json]),
        ("PATCH /nowhere".to_owned(), vec![known]),
    ]
}

/// Sends a request with a body of this length, and returns its answer.
fn send(client: &mut RawClient, (request, fields): &(String, Vec<String>), body: &[u8]) -> crate::harness::Response {
    let length = format!("Content-Length: {}", body.len());
    let fields: Vec<&str> = fields.iter().map(String::as_str).chain([length.as_str()]).collect();
    client.send_head(request, &fields);
    // It may be cut off.
    let _ = client.try_send(body);
    client.response()
}

#[test]
fn a_short_body_that_nobody_reads_leaves_the_connection_as_it_was() {
    let server = Server::start();
    let requests = requests(&server, &Cloud::of(&server));
    let mut client = server.raw();
    for request in &requests {
        let answer = send(&mut client, request, b"{\"volume\": {}}");
        assert_eq!(answer.values("connection"), Vec::<&str>::new(), "{request:?}: {answer:?}");
        client.send_head("GET /healthz", &[]);
        assert_eq!(client.response().status, 200, "{request:?}");
    }
}

#[test]
fn a_long_body_that_nobody_reads_ends_the_connection_by_word() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let mut requests = requests(&server, &cloud);
    let fields = vec![format!("X-Auth-Token: {}", cloud.token), "Content-Type: application/json".to_owned()];
    requests.push((format!("POST /v3/{}/volumes", cloud.project), fields));
    for request in &requests {
        for length in [300_000, 3_000_000] {
            let mut client = server.raw();
            let answer = send(&mut client, request, &image::bytes(140, length));
            assert_eq!(answer.values("connection"), ["close"], "{request:?}: {answer:?}");
            assert!(client.is_closed(), "{request:?}");
        }
    }
    let mut client = server.raw();
    let answer = send(&mut client, requests.last().expect("one"), &image::bytes(141, 70_000));
    assert_eq!(answer.status, 413, "{answer:?}");
}

#[test]
fn a_body_that_was_not_asked_for_is_not_waited_for() {
    let server = Server::start();
    let mut client = server.raw();
    let fields = [&basic("admin:wrong"), "Content-Length: 20", "Expect: 100-continue"];
    client.send_head("POST /api/2.0/drives/", &fields);
    let answer = client.response();
    assert_eq!((answer.status, answer.values("connection")), (401, vec!["close"]), "{answer:?}");
    assert!(client.is_closed());
}
