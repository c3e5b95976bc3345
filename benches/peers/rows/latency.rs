//! How long a client waits: for the first byte of a download, and for `100 Continue`; each on a connection of its own,
//! from before it is made. On an idle server, and beside four uploads and four downloads that take all there is.
//!
//! The clients run on the same cores. What a wait is made of that no server can help, the queue for a core, shows in
//! the waits of a bare receiver that answers an empty request while the same streams keep Longshore busy.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::load::{Host, Streams, beside_streams};
use crate::Bench;
use crate::client::Client;
use crate::http::{Connection, Target};
use crate::report::{Bound, Waits};
use crate::servers::{Floor, Longshore, Peer, UPLOAD};

/// A sample asks for this much, so that its answer is as long as one write of a download, and no longer.
const SAMPLE: u64 = 64 << 10;

/// Uploads, and downloads, that keep a server busy.
const BUSY: u64 = 4;

/// The waits of one server in one state.
struct Taken {
    link: Waits,
    redirect: Option<Waits>,
    leave: Waits,
    bare: Waits,
}

pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    let (image, _) = bench.image(0.0)?;
    let our_key = bench.longshore.upload(Client::Fast, &image)?.0;
    bench.longshore.compare(&our_key, &image)?;
    let their_key = bench.nginx.upload(Client::Fast, &image)?.0;
    bench.nginx.compare(&their_key, &image)?;
    let image = File::open(&image)?;
    let (ours, theirs) = (Host::longshore(&bench.longshore), Host::nginx(&bench.nginx));
    let floor = Floor::start(&bench.dir.join("floor"))?;
    let (samples, size, bare) = (bench.args.samples, bench.args.size, floor.place(""));
    for (state, bound, busy) in [("idle", 2.0, 0), ("beside 4 + 4 streams", 20.0, BUSY)] {
        let take = |host: &Host, key: &str| {
            bench.settle()?;
            if busy == 0 {
                return sample(host, &bare, key, size, samples);
            }
            let streams = Streams { each: busy, up: size / 8, down: size };
            beside_streams(host, key, &image, streams, |_| sample(host, &bare, key, size, samples))
        };
        let (us, them) = (take(&ours, &our_key)?, take(&theirs, &their_key)?);
        let bound = Bound::AtMost(bound);
        let (client, beside) = (Client::Fast.name(), theirs.name);
        let work = |what| format!("{what}, {state}");
        let report = &mut bench.report;
        let floor = ("bare receiver", &us.bare);
        let first = "first byte of a download";
        report.waits(&work(first), client, &us.link, &[(beside, &them.link), floor], bound);
        if let Some(redirect) = &us.redirect {
            report.waits(&work("redirect, then first byte"), client, redirect, &[floor], bound);
        }
        report.waits(&work("100 Continue"), client, &us.leave, &[(beside, &them.leave), floor], bound);
    }
    bench.longshore.remove(&our_key)?;
    bench.nginx.remove(&their_key)
}

/// The kinds of wait take turns, so that each sees the same of the other work.
fn sample(host: &Host, bare: &Target, key: &str, size: u64, samples: u32) -> Result<Taken> {
    let ours = host.name == "longshore";
    let (mut links, mut redirects, mut leaves, mut bares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut link = host.link(key)?;
    let mut link_from = Instant::now();
    for turn in 0..samples {
        // It is good for five minutes.
        if link_from.elapsed() > Duration::from_mins(4) {
            (link, link_from) = (host.link(key)?, Instant::now());
        }
        let at = u64::from(turn) * SAMPLE % (size - SAMPLE);
        links.push(first_byte(host, &link, at)?);
        if ours {
            redirects.push(first_byte(host, &Longshore::download_path(key), at)?);
        }
        leaves.push(leave(host, if ours { ("POST", UPLOAD) } else { ("PUT", "/leave") })?);
        bares.push(answered(bare)?);
    }
    let redirect = if ours { Some(Waits::of(redirects)?) } else { None };
    Ok(Taken { link: Waits::of(links)?, redirect, leave: Waits::of(leaves)?, bare: Waits::of(bares)? })
}

/// From before the connection is made to the first byte of the body, whether or not a redirect comes first.
fn first_byte(host: &Host, path: &str, at: u64) -> Result<Duration> {
    let start = Instant::now();
    let mut connection = Connection::open(&host.server)?;
    let range = format!("Range: bytes={at}-{}\r\n", at + SAMPLE - 1);
    connection.ask("GET", path, &range)?;
    let mut answer = connection.answer()?;
    if answer.status / 100 == 3 {
        let link = connection.path_of(answer.location.as_deref().unwrap_or_default())?;
        connection.discard(&answer)?;
        connection.ask("GET", &link, &range)?;
        answer = connection.answer()?;
    }
    connection.first_byte(&mut answer)?;
    let took = start.elapsed();
    ensure!(answer.status == 206, "the server answered {}", answer.status);
    connection.discard(&answer)?;
    Ok(took)
}

/// From before the connection is made to `100 Continue`. The upload then breaks off.
fn leave(host: &Host, (method, path): (&str, &str)) -> Result<Duration> {
    let start = Instant::now();
    let mut connection = Connection::open(&host.server)?;
    let fields = format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", 64 << 20);
    connection.ask(method, path, &format!("{fields}Expect: 100-continue\r\n"))?;
    let answer = connection.answer()?;
    let took = start.elapsed();
    ensure!(answer.status == 100, "the server answered {} instead of 100", answer.status);
    Ok(took)
}

/// From before the connection is made to the answer to an empty upload.
fn answered(server: &Target) -> Result<Duration> {
    let start = Instant::now();
    let mut connection = Connection::open(server)?;
    connection.ask("PUT", "/", "Content-Length: 0\r\n")?;
    connection.answer()?;
    Ok(start.elapsed())
}
