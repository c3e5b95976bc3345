//! Up and down over TLS 1.3, with one certificate on both servers.

use anyhow::Result;

use super::whole::{downloads, uploads};
use crate::Bench;
use crate::client::Client;
use crate::report::Bound;
use crate::servers::{Longshore, Nginx, Peer};

pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    let (image, _) = bench.image(0.0)?;
    let mut longshore = Longshore::start(&bench.dir.join("longshore-tls"), Some(&bench.certificate))?;
    let mut nginx = Nginx::start(&bench.dir.join("nginx-tls"), Some(&bench.certificate))?;
    let (size, runs) = (bench.args.size, bench.args.runs);
    let up = uploads(&mut [&mut longshore, &mut nginx], Client::Curl, &image, runs)?;
    let row = ("TLS, durable upload", Client::Curl.name());
    bench.report.costs(row, size, &up[0], ("nginx", &up[1]), [Bound::AtMost(1.05), Bound::Open]);

    let mut peers: [&mut dyn Peer; 2] = [&mut longshore, &mut nginx];
    let mut keys = Vec::new();
    for peer in &mut peers {
        let (key, _) = peer.upload(Client::Curl, &image)?;
        peer.compare(&key, &image)?;
        keys.push(key);
    }
    for client in [Client::Curl, Client::CurlHttp2] {
        let down = downloads(&peers, &keys, client, size, runs, |_, _| Ok(()))?;
        let row = ("TLS, download, page cache", client.name());
        bench.report.costs(row, size, &down[0], ("nginx", &down[1]), [Bound::AtMost(1.2), Bound::Open]);
    }
    for (peer, key) in peers.into_iter().zip(&keys) {
        peer.remove(key)?;
    }
    Ok(())
}
