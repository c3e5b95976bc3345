//! A scripted git daemon.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// The answers of a daemon: the first, to the request for refs (version 2 only), and to that for a pack.
#[derive(Clone, Default)]
pub(super) struct Script {
    pub(super) hello: Vec<u8>,
    pub(super) refs: Vec<u8>,
    pub(super) pack: Vec<u8>,
    /// Whether it stays silent after the first answer.
    pub(super) holds: bool,
}

impl Script {
    /// Returns a script of version 2, with a HEAD, a branch `main` and a tag `v1` of one commit.
    pub(super) fn second(tip: &str, pack: &[u8]) -> Self {
        let hello = [line("version 2\n"), line("agent=x\n"), line("ls-refs=unborn\n"), line("fetch=shallow wait\n")];
        let hello = [hello.concat(), line("object-format=sha1\n"), "0000".into()].concat();
        let named = |name: &str| line(&format!("{tip} {name}\n"));
        let refs = [
            line(&format!("{tip} HEAD symref-target:refs/heads/main\n")),
            named("refs/heads/main"),
            named("refs/heads/main3"),
            line(&format!("{tip} refs/tags/v1 peeled:{tip}\n")),
            "0000".into(),
        ];
        let answer = [line("shallow-info\n"), line(&format!("shallow {tip}\n")), "0001".into(), line("packfile\n")];
        Self { hello: hello.into(), refs: refs.concat().into(), pack: packed(&answer.concat(), pack), holds: false }
    }

    /// Returns a script of version 0 or 1, with the same refs.
    pub(super) fn first(version: u8, tip: &str, pack: &[u8]) -> Self {
        let mut hello = if version == 1 { line("version 1\n") } else { String::new() };
        hello +=
            &line(&format!("{tip} HEAD\0multi_ack side-band-64k ofs-delta shallow no-progress object-format=sha1\n"));
        for name in ["refs/heads/main", "refs/tags/v1", "refs/tags/v1^{}"] {
            hello += &line(&format!("{tip} {name}\n"));
        }
        let answer = [line(&format!("shallow {tip}\n")), "0000".into(), line("NAK\n")].concat();
        Self { hello: (hello + "0000").into(), refs: Vec::new(), pack: packed(&answer, pack), holds: false }
    }
}

/// A daemon. Its thread ends with the process.
pub(super) struct Daemon {
    pub(super) port: u16,
}

impl Daemon {
    pub(super) fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let script = script.clone();
                thread::spawn(move || serve(stream.unwrap(), &script));
            }
        });
        Self { port }
    }
}

/// Reading and writing end when a client refuses and closes.
fn serve(mut stream: TcpStream, script: &Script) -> Option<()> {
    let call = read_packet(&mut stream)??;
    assert!(call.starts_with(b"git-upload-pack /x"), "{call:?}");
    stream.write_all(&script.hello).ok()?;
    if script.holds {
        let _ = stream.read(&mut [0; 1]);
        return None;
    }
    if !script.refs.is_empty() {
        read_list(&mut stream)?;
        stream.write_all(&script.refs).ok()?;
    }
    read_list(&mut stream)?;
    stream.write_all(&script.pack).ok()
}

/// Reads a packet line: `None` at the end of the stream, an inner `None` for a special packet.
#[expect(clippy::option_option, reason = "two ends")]
fn read_packet(stream: &mut TcpStream) -> Option<Option<Vec<u8>>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let length = usize::from_str_radix(std::str::from_utf8(&length).unwrap(), 16).unwrap();
    if length < 4 {
        return Some((length == 1).then(Vec::new));
    }
    let mut line = vec![0; length - 4];
    stream.read_exact(&mut line).ok()?;
    Some(Some(line))
}

/// Reads lines up to a flush.
fn read_list(stream: &mut TcpStream) -> Option<()> {
    while read_packet(stream)?.is_some() {}
    Some(())
}

pub(super) fn line(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

/// Returns a packet of a sideband.
pub(super) fn sideband(band: u8, data: &[u8]) -> Vec<u8> {
    let mut packet = format!("{:04x}", data.len() + 5).into_bytes();
    packet.push(band);
    packet.extend_from_slice(data);
    packet
}

/// Returns an answer with a pack in uneven packets and progress among them.
fn packed(answer: &str, pack: &[u8]) -> Vec<u8> {
    let mut bytes = answer.as_bytes().to_vec();
    for (number, part) in pack.chunks(997).enumerate() {
        if number.is_multiple_of(3) {
            bytes.extend(sideband(2, b"working\r"));
        }
        bytes.extend(sideband(1, part));
    }
    bytes.extend_from_slice(b"0000");
    bytes
}
