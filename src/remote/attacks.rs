//! Attacks by users and servers on fetches of files over HTTP.

use std::sync::Arc;
use std::time::Duration;

use super::testing::{Names, Reply, SHORT, Stub, distrusting, fetch, file, ok, redirect, remote, resolving};
use super::{Flaw, Policy, Refusal, RemoteError, Scheme, Surplus};

fn refusal(result: Result<String, RemoteError>) -> Refusal {
    match result {
        Err(RemoteError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn flaw(result: Result<String, RemoteError>) -> Flaw {
    match result {
        Err(RemoteError::Flaw(flaw)) => flaw,
        other => panic!("{other:?}"),
    }
}

/// Fetches a file whose answer is given.
async fn answered(answer: impl Into<Vec<u8>>) -> Result<String, RemoteError> {
    let answer = answer.into();
    let stub = Stub::start(|_| vec![Reply::Close(answer)]).await;
    fetch(&remote(stub.policy()), &stub.url("/x")).await
}

#[tokio::test]
async fn a_file_comes_whole_with_its_name_and_its_length() {
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n";
    let stub = Stub::start(|_| vec![Reply::Close(ok("hello")), Reply::Close(chunked.to_vec())]).await;
    let remote = remote(stub.policy());
    let mut opened = remote.open(&file(&stub.url("/a/READ%20ME.md?x=y"))).await.unwrap();
    assert_eq!((opened.name(), opened.length()), ("READ ME.md", Some(5)));
    assert_eq!(opened.next().await.unwrap().as_deref(), Some(&b"hello"[..]));
    assert_eq!(opened.next().await.unwrap(), None);
    let opened = remote.open(&file(&stub.url("/"))).await.unwrap();
    assert_eq!((opened.name(), opened.length()), ("index", None));
    assert_eq!(answered(chunked).await.unwrap(), "abcde");
    assert_eq!(answered(ok("")).await.unwrap(), "");
}

#[tokio::test]
async fn nothing_of_ours_is_sent() {
    let stub = Stub::start(|_| vec![Reply::Close(redirect(302, "/b?c")), Reply::Close(ok(""))]).await;
    fetch(&remote(stub.policy()), &stub.url("/a%20?b=%2F#c")).await.unwrap();
    let head = |target: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nuser-agent: longshore\r\naccept-encoding: identity\r\n\
             connection: close\r\n\r\n",
            stub.port
        )
    };
    assert_eq!(stub.requests(), [head("/a%20?b=%2F"), head("/b?c")]);
}

#[tokio::test]
async fn an_address_that_is_not_allowed_gets_no_connection_however_it_is_spelled() {
    let stub = Stub::start(|_| Vec::new()).await;
    let remote = remote(Policy { networks: Vec::new(), ..stub.policy() });
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "10.0.0.1",
    ] {
        let result = fetch(&remote, &format!("http://{host}:{}/", stub.port)).await;
        assert_eq!(refusal(result), Refusal::Address, "{host}");
    }
    assert!(stub.requests().is_empty());
}

#[tokio::test]
async fn one_bad_address_among_the_good_ones_refuses_them_all() {
    let stub = Stub::start(|_| vec![Reply::Close(ok("x"))]).await;
    for answer in [["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "::1"]] {
        let remote = resolving(stub.policy(), Arc::new(Names::new(&[&answer])));
        let result = fetch(&remote, &format!("http://two.test:{}/", stub.port)).await;
        assert_eq!(refusal(result), Refusal::Address, "{answer:?}");
    }
    assert!(stub.requests().is_empty());
}

#[tokio::test]
async fn a_name_is_resolved_once_and_for_each_redirect_again() {
    let stub = Stub::start(|port| {
        let again = format!("http://rebound.test:{port}/2");
        vec![Reply::Close(ok("x")), Reply::Close(redirect(307, &again))]
    })
    .await;
    let url = format!("http://rebound.test:{}/1", stub.port);
    let names = Arc::new(Names::new(&[&["127.0.0.1"], &["10.0.0.1"]]));
    assert_eq!(fetch(&resolving(stub.policy(), Arc::clone(&names)), &url).await.unwrap(), "x");
    assert_eq!(names.asked(), ["rebound.test"]);

    let names = Arc::new(Names::new(&[&["127.0.0.1"], &["10.0.0.1"]]));
    let result = fetch(&resolving(stub.policy(), Arc::clone(&names)), &url).await;
    assert_eq!(refusal(result), Refusal::Address);
    assert_eq!(names.asked(), ["rebound.test", "rebound.test"]);
    assert_eq!(stub.requests().len(), 2);
}

#[tokio::test]
async fn a_name_without_an_address_and_an_address_without_a_server_are_told_apart() {
    let stub = Stub::start(|_| Vec::new()).await;
    let url = format!("http://nowhere.test:{}/", stub.port);
    assert!(matches!(fetch(&remote(stub.policy()), &url).await, Err(RemoteError::Unresolved(Some(_)))));
    let empty = resolving(stub.policy(), Arc::new(Names::new(&[&[]])));
    assert!(matches!(fetch(&empty, &url).await, Err(RemoteError::Unresolved(None))));
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let remote = remote(Policy { ports: vec![unused], ..stub.policy() });
    let result = fetch(&remote, &format!("http://127.0.0.1:{unused}/")).await;
    assert!(matches!(result, Err(RemoteError::Unreachable(_))), "{result:?}");
}

#[tokio::test]
async fn a_redirect_is_judged_like_the_source_itself() {
    for (to, why) in [
        ("http://169.254.169.254:{port}/latest/meta-data/", Refusal::Address),
        ("http://127.0.0.2:{port}/", Refusal::Address),
        ("http://[::1]:{port}/", Refusal::Address),
        ("http://10.0.0.1:{port}/", Refusal::Address),
        ("//0x7f.2:{port}/", Refusal::Address),
        ("http://127.0.0.1:22/", Refusal::Port),
        ("http://127.0.0.1/", Refusal::Port),
        ("file:///etc/passwd", Refusal::Redirect),
        ("gopher://127.0.0.1:{port}/", Refusal::Redirect),
        ("git://127.0.0.1:{port}/x", Refusal::Redirect),
        ("http://user:password@127.0.0.1:{port}/", Refusal::Redirect),
        ("http://%2F:{port}/", Refusal::Redirect),
    ] {
        for status in [301, 302, 303, 307, 308] {
            let stub = Stub::start(|port| {
                vec![Reply::Close(redirect(status, &to.replace("{port}", &port.to_string()))), Reply::Close(ok("x"))]
            })
            .await;
            assert_eq!(refusal(fetch(&remote(stub.policy()), &stub.url("/")).await), why, "{to}");
            assert_eq!(stub.requests().len(), 1, "{to}");
        }
    }
}

#[tokio::test]
async fn as_many_redirects_are_followed_as_the_policy_says() {
    for (redirects, works) in [(2, true), (1, false), (0, false)] {
        let stub = Stub::start(|port| {
            let absolute = format!("http://127.0.0.1:{port}/c");
            vec![Reply::Close(redirect(301, "b")), Reply::Close(redirect(308, &absolute)), Reply::Close(ok("x"))]
        })
        .await;
        let result = fetch(&remote(Policy { redirects, ..stub.policy() }), &stub.url("/a")).await;
        if works {
            assert_eq!(result.unwrap(), "x");
        } else {
            assert_eq!(refusal(result), Refusal::Redirects);
            assert_eq!(stub.requests().len(), redirects as usize + 1);
        }
    }
    let nowhere = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(refusal(answered(nowhere).await), Refusal::Redirect);
}

#[tokio::test]
async fn a_scheme_or_a_port_outside_the_policy_is_refused() {
    let stub = Stub::start(|_| Vec::new()).await;
    let web = remote(Policy { schemes: vec![Scheme::Https], ..stub.policy() });
    assert_eq!(refusal(fetch(&web, &stub.url("/")).await), Refusal::Scheme);
    let ports = remote(Policy { ports: vec![80, 443], ..stub.policy() });
    assert_eq!(refusal(fetch(&ports, &stub.url("/")).await), Refusal::Port);
    assert!(stub.requests().is_empty());
}

#[tokio::test]
async fn only_who_proves_to_be_the_host_of_the_url_is_asked_over_tls() {
    let stub = Stub::start_tls(|_| vec![Reply::Close(ok("secret")), Reply::Close(ok("secret"))]).await;
    let url = |host: &str| format!("https://{host}:{}/", stub.port);
    assert_eq!(fetch(&remote(stub.policy()), &url("127.0.0.1")).await.unwrap(), "secret");
    let here = || Arc::new(Names::new(&[&["127.0.0.1"]]));
    assert_eq!(fetch(&resolving(stub.policy(), here()), &url("localhost.")).await.unwrap(), "secret");
    let other = fetch(&resolving(stub.policy(), here()), &url("other.test")).await;
    assert!(matches!(other, Err(RemoteError::Tls(_))), "{other:?}");
    let distrusted = fetch(&distrusting(stub.policy()), &url("127.0.0.1")).await;
    assert!(matches!(distrusted, Err(RemoteError::Tls(_))), "{distrusted:?}");
    assert_eq!(stub.requests().len(), 2);
    let plain = Stub::start(|_| Vec::new()).await;
    let url = format!("https://127.0.0.1:{}/", plain.port);
    let plain = fetch(&remote(Policy { stall: SHORT, ..plain.policy() }), &url).await;
    assert!(matches!(plain, Err(RemoteError::Tls(_) | RemoteError::Stalled(_))), "{plain:?}");
}

#[tokio::test]
async fn a_redirect_does_not_leave_tls() {
    let stub = Stub::start_tls(|port| {
        let same = format!("https://127.0.0.1:{port}/");
        let plain = format!("http://127.0.0.1:{port}/");
        vec![Reply::Close(redirect(302, &same)), Reply::Close(redirect(302, &plain))]
    })
    .await;
    let result = fetch(&remote(stub.policy()), &format!("https://127.0.0.1:{}/", stub.port)).await;
    assert_eq!(refusal(result), Refusal::Downgrade);
    assert_eq!(stub.requests().len(), 2);
}

#[tokio::test]
async fn only_a_200_counts() {
    for status in [201, 204, 206, 300, 304, 400, 401, 403, 404, 407, 410, 500, 502, 503, 599] {
        let answer = format!("HTTP/1.1 {status} Because I <b>say</b> so\r\nContent-Length: 0\r\n\r\n");
        match answered(answer).await {
            Err(error @ RemoteError::Status(_)) => {
                assert!(error.to_string().starts_with(&format!("the source answered {status}")), "{error}");
                assert!(!error.to_string().contains("Because"));
            }
            other => panic!("{status}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_body_whose_end_cannot_be_told_is_refused() {
    for (fields, why) in [
        ("", Flaw::Unbounded),
        ("Content-Encoding: gzip\r\nContent-Length: 1\r\n", Flaw::Encoded),
        ("Content-Encoding: identity\r\nContent-Encoding: br\r\nContent-Length: 1\r\n", Flaw::Encoded),
        ("Transfer-Encoding: gzip\r\n", Flaw::Framing),
        ("Transfer-Encoding: gzip, chunked\r\n", Flaw::Framing),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Flaw::Framing),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", Flaw::Framing),
    ] {
        let result = answered(format!("HTTP/1.1 200 OK\r\n{fields}\r\n1\r\nx\r\n0\r\n\r\n")).await;
        assert_eq!(flaw(result), why, "{fields}");
    }
    let identity = "HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(answered(identity).await.unwrap(), "x");
}

#[tokio::test]
async fn a_body_that_ends_too_early_is_an_error_and_what_follows_it_is_ignored() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\nab\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nab",
    ] {
        let result = answered(answer).await;
        assert!(matches!(result, Err(RemoteError::BrokeOff(_))), "{answer}: {result:?}");
    }
    assert_eq!(answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabcd").await.unwrap(), "ab");
}

#[tokio::test]
async fn too_large_a_file_is_refused_by_its_length_or_else_by_its_bytes() {
    let most = |most: u64, answer: Reply| async move {
        let stub = Stub::start(|_| vec![answer]).await;
        fetch(&remote(stub.policy()).at_most(most), &stub.url("/")).await
    };
    let length = |length: u64| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    // The refusal does not wait for the body, which never comes.
    let result = most(10, Reply::Hold(length(11))).await;
    assert!(matches!(result, Err(RemoteError::TooLarge(Surplus::Bytes(10)))), "{result:?}");
    let result = most(10, Reply::Hold(length(u64::MAX - 1))).await;
    assert!(result.is_err(), "{result:?}");
    assert_eq!(most(10, Reply::Close(ok("0123456789"))).await.unwrap(), "0123456789");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n5\r\nghijk\r\n0\r\n\r\n";
    assert_eq!(most(11, Reply::Close(chunked.into())).await.unwrap(), "abcdefghijk");
    let result = most(10, Reply::Hold(chunked.into())).await;
    assert!(matches!(result, Err(RemoteError::TooLarge(Surplus::Bytes(10)))), "{result:?}");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_not_waited_for() {
    for begun in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na",
    ] {
        let stub = Stub::start(|_| vec![Reply::Hold(begun.into()), Reply::Hold(begun.into())]).await;
        let stalled = remote(Policy { stall: SHORT, ..stub.policy() });
        let result = fetch(&stalled, &stub.url("/")).await;
        assert!(matches!(result, Err(RemoteError::Stalled(_))), "{begun}: {result:?}");
        let timed = remote(Policy { time: SHORT, stall: Duration::from_mins(1), ..stub.policy() });
        let result = fetch(&timed, &stub.url("/")).await;
        assert!(matches!(result, Err(RemoteError::TooSlow(_))), "{begun}: {result:?}");
    }
}

#[tokio::test]
async fn what_is_not_http_or_has_an_endless_head_is_refused() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(200_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(200));
    for answer in ["SSH-2.0-OpenSSH\r\n", "", "HTTP/0.9\r\n\r\n", "<html>", &long, &many] {
        let result = answered(answer).await;
        assert!(matches!(result, Err(RemoteError::Http(_))), "{result:?}");
    }
}
