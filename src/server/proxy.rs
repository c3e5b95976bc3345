//! Finds the client behind the proxies in front of this server, from the reports of trusted proxies only.
//!
//! A proxy reports it for a connection by the PROXY protocol (versions 1 and 2, of `HAProxy`), or for a request by
//! `Forwarded` (RFC 7239) or `X-Forwarded-For`. Only addresses are read: the configuration gives the scheme and host by
//! which clients reach the server.
//!
//! # Invariants
//! - Reports from an address that is not trusted are ignored.
//! - No byte after a PROXY header is read from the socket.

use std::io;
use std::iter::once;
use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::domain::Network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The most proxies in a chain that are followed; more than anybody has.
const MOST_HOPS: usize = 32;

/// The longest header of version 1, its end of line included.
const LONGEST_LINE: usize = 107;
/// The beginning of a header of version 2, before its version.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The length of a header of version 2 up to and including its length field.
const FIXED: usize = 16;
/// Version 2 with the command for a connection of the proxy itself, such as a health check.
const LOCAL: u8 = 0x20;

/// The proxies in front of this server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    /// The networks of the trusted proxies.
    pub(crate) trusted: Vec<Network>,
    /// Whether they begin every connection with a header of the PROXY protocol.
    pub(crate) protocol: bool,
}

/// Why a connection of a trusted proxy is closed before its first request.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoPeer {
    /// It begins with something else, or with a header for another transport.
    #[error("the connection does not begin with a header of the PROXY protocol for TCP")]
    Malformed,
    /// The connection ended early.
    #[error("the connection ended before its PROXY header")]
    Broken(#[from] io::Error),
}

impl Proxies {
    /// Whether an address is that of a trusted proxy, with possibly many clients behind it.
    pub(super) fn is_trusted(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Returns the peer of a new connection, from its PROXY header if one is expected.
    pub(super) async fn peer_of(&self, stream: &mut TcpStream, peer: SocketAddr) -> Result<SocketAddr, NoPeer> {
        if !self.protocol || !self.is_trusted(peer.ip()) {
            return Ok(peer);
        }
        let header = read_header(stream).await?;
        if header.get(SIGNATURE.len()) == Some(&LOCAL) && header.starts_with(SIGNATURE) {
            return Ok(peer);
        }
        let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
        let (parsed, length) = ProxyHeader::parse(&header, config).map_err(|_| NoPeer::Malformed)?;
        match parsed.proxied_address() {
            _ if length != header.len() => Err(NoPeer::Malformed),
            Some(address) if address.protocol == Protocol::Stream => Ok(address.source),
            Some(_) => Err(NoPeer::Malformed),
            // The proxy does not know the peer, or got the connection from its own machine.
            None => Ok(peer),
        }
    }

    /// Returns the client of a request with these fields, on a connection of this peer.
    ///
    /// A proxy sets one of the two fields, and often passes on the other as the client sent it. So if they differ,
    /// neither is trusted, and the proxy's own address counts.
    pub(super) fn client_of(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.is_trusted(peer) {
            return peer;
        }
        let listed = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let listed = listed.flat_map(|value| value.to_str().unwrap_or("?").rsplit(',')).map(address_of);
        let listed = headers.contains_key(X_FORWARDED_FOR).then(|| self.first_stranger(peer, listed));
        let told = headers.get_all(FORWARDED).iter().rev();
        let told = told.flat_map(|value| forwarded_for(value.to_str().unwrap_or("?")).into_iter().rev());
        let told = headers.contains_key(FORWARDED).then(|| self.first_stranger(peer, told));
        match (told, listed) {
            (Some(one), Some(other)) if one != other => peer,
            (Some(client), _) | (None, Some(client)) => client,
            (None, None) => peer,
        }
    }

    /// Returns the last hop that is not a trusted proxy. If a hop is unknown, it is the proxy that did not report it;
    /// if all hops are proxies, the first one.
    fn first_stranger(&self, peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut known = peer;
        for hop in hops.take(MOST_HOPS) {
            let Some(address) = hop else { break };
            known = address;
            if !self.is_trusted(known) {
                break;
            }
        }
        known
    }
}

/// Reads a header, or as many bytes as show that it is none.
async fn read_header(stream: &mut TcpStream) -> Result<Vec<u8>, NoPeer> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        header.resize(FIXED, 0);
        stream.read_exact(&mut header[SIGNATURE.len()..]).await?;
        let length = u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]);
        header.resize(FIXED + usize::from(length), 0);
        stream.read_exact(&mut header[FIXED..]).await?;
        return Ok(header);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(NoPeer::Malformed);
    }
    let mut ahead = [0; LONGEST_LINE];
    while header.last() != Some(&b'\n') {
        let seen = stream.peek(&mut ahead).await?;
        let line = ahead[..seen].iter().position(|byte| *byte == b'\n').map_or(seen, |end| end + 1);
        if line == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if header.len() + line > LONGEST_LINE {
            return Err(NoPeer::Malformed);
        }
        let so_far = header.len();
        header.resize(so_far + line, 0);
        stream.read_exact(&mut header[so_far..]).await?;
    }
    Ok(header)
}

/// Parses the address of a hop: alone, with a port, or in brackets.
fn address_of(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0.parse().map(IpAddr::V6).ok(),
        None => text.parse().ok().or_else(|| text.split_once(':')?.0.parse().map(IpAddr::V4).ok()),
    };
    address.map(|address| address.to_canonical())
}

/// Returns the `for` address of each element of a `Forwarded` field; `None` if it is missing or is no address.
fn forwarded_for(field: &str) -> Vec<Option<IpAddr>> {
    let (mut is_quoted, mut begin) = (false, 0);
    let mut hops = Vec::new();
    let mut hop = None;
    for (at, byte) in field.bytes().enumerate().chain(once((field.len(), b','))) {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b';' | b',' if !is_quoted || at == field.len() => {
                let (name, value) = field[begin..at].split_once('=').unwrap_or_default();
                if name.trim().eq_ignore_ascii_case("for") {
                    hop = address_of(value.trim().trim_matches('"'));
                }
                begin = at + 1;
                if byte == b',' {
                    hops.push(hop.take());
                }
            }
            _ => {}
        }
    }
    hops
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn proxies() -> Proxies {
        Proxies { trusted: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], protocol: true }
    }

    fn client(peer: &str, fields: &[(HeaderName, &str)]) -> String {
        let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        fields.for_each(|(name, value)| {
            headers.append(name, value);
        });
        proxies().client_of(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_last_address_that_is_no_proxy_of_ours_is_the_client() {
        let cases: [(&[&str], &str); 11] = [
            (&["192.0.2.7"], "192.0.2.7"),
            (&["1.1.1.1, 192.0.2.7"], "192.0.2.7"),
            (&["1.1.1.1, 192.0.2.7, 10.1.1.1,10.2.2.2"], "192.0.2.7"),
            (&["1.1.1.1", "192.0.2.7", "fd00::5"], "192.0.2.7"),
            (&["192.0.2.7:5555"], "192.0.2.7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7]:80"], "2001:db8::7"),
            (&["::ffff:192.0.2.7"], "192.0.2.7"),
            (&["10.9.9.9, 10.1.1.1"], "10.9.9.9"),
            (&["192.0.2.7, unknown, 10.1.1.1"], "10.1.1.1"),
            (&["", "\u{7f}"], PROXY),
        ];
        for (values, expected) in cases {
            let values = values.iter().filter(|value| HeaderValue::from_str(value).is_ok());
            let fields: Vec<_> = values.map(|value| (X_FORWARDED_FOR, *value)).collect();
            assert_eq!(client(PROXY, &fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        for (value, expected) in [
            ("for=192.0.2.7", "192.0.2.7"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
            ("for=192.0.2.43;host=\"a,for=1.1.1.1;\", proto=https;for=10.0.0.3", "192.0.2.43"),
            ("for=192.0.2.43, for=_hidden", PROXY),
            ("for=192.0.2.43, for=\"_hidden\", for=10.0.0.7", "10.0.0.7"),
            ("for=192.0.2.43, proto=https", PROXY),
            ("for=unknown", PROXY),
            ("for=\"192.0.2.43", "192.0.2.43"),
            ("", PROXY),
        ] {
            assert_eq!(client(PROXY, &[(FORWARDED, value)]), expected, "{value}");
        }
    }

    #[test]
    fn who_is_not_trusted_says_nothing_about_others() {
        let fields = [(X_FORWARDED_FOR, "192.0.2.7"), (FORWARDED, "for=192.0.2.7")];
        assert_eq!(client("203.0.113.9", &fields), "203.0.113.9");
        assert_eq!(client("::ffff:10.0.0.1", &fields), "192.0.2.7");
        assert_eq!(Proxies::default().client_of([127, 0, 0, 1].into(), &HeaderMap::new()).to_string(), "127.0.0.1");
    }

    #[test]
    fn a_field_that_the_client_put_beside_the_proxys_gains_it_nothing() {
        assert_eq!(client(PROXY, &[(X_FORWARDED_FOR, "192.0.2.7"), (FORWARDED, "for=198.51.100.1")]), PROXY);
        assert_eq!(client(PROXY, &[(X_FORWARDED_FOR, "192.0.2.7"), (FORWARDED, "for=192.0.2.7")]), "192.0.2.7");
    }

    /// Sends these bytes from a trusted address, in two parts, split at `cut`. Returns the server's result, and the
    /// bytes left on the socket.
    async fn served(bytes: &[u8], cut: usize) -> (Result<String, String>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, peer) = listener.accept().await.unwrap();
        let proxies = Proxies { trusted: vec!["127.0.0.0/8".parse().unwrap()], protocol: true };
        let sends = async {
            client.write_all(&bytes[..cut]).await.unwrap();
            tokio::task::yield_now().await;
            client.write_all(&bytes[cut..]).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (found, ()) = tokio::join!(proxies.peer_of(&mut stream, peer), sends);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        let told = |found: SocketAddr| if found == peer { "the proxy".to_owned() } else { found.to_string() };
        (found.map(told).map_err(|error| error.to_string()), rest)
    }

    fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, block].concat()
    }

    fn block_v4() -> Vec<u8> {
        [&[192, 0, 2, 7, 10, 0, 0, 1][..], &4711_u16.to_be_bytes(), &80_u16.to_be_bytes()].concat()
    }

    #[tokio::test]
    async fn headers_of_both_versions_tell_the_peer_and_leave_the_rest_to_who_reads_next() {
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 16], &4711_u16.to_be_bytes(), &[0, 80]].concat();
        let extended = [&block_v4()[..], &[0xe5, 0, 3, 1, 2, 3, 0x04, 0, 0]].concat();
        let cases: [(Vec<u8>, &str); 10] = [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n".to_vec(), "192.0.2.7:4711"),
            (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n".to_vec(), "[2001:db8::7]:4711"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "the proxy"),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), "the proxy"),
            (version_2(0x21, 0x11, &block_v4()), "192.0.2.7:4711"),
            (version_2(0x21, 0x21, &v6), "[2001:db8::7]:4711"),
            (version_2(0x21, 0x11, &extended), "192.0.2.7:4711"),
            (version_2(0x20, 0, &[]), "the proxy"),
            (version_2(0x20, 0x11, &[1, 2, 3]), "the proxy"),
            (version_2(0x21, 0, &[9; 40]), "the proxy"),
        ];
        for (header, expected) in cases {
            let bytes = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            for cut in [0, 5, 13, header.len() - 1, header.len()] {
                let (found, rest) = served(&bytes, cut.min(header.len())).await;
                assert_eq!(found.as_deref(), Ok(expected), "{header:?}");
                assert_eq!(rest, b"GET / HTTP/1.1\r\n");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_ends_the_connection() {
        let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.700 10.0.0.1 4711 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 ::1 4711 80\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.7 10.0.0.1 4711 80\r\n".to_vec(),
            long.into_bytes(),
            version_2(0x31, 0x11, &block_v4()),
            version_2(0x22, 0x11, &block_v4()),
            version_2(0x21, 0x12, &block_v4()),
            version_2(0x21, 0x41, &block_v4()),
            version_2(0x21, 0x11, &block_v4()[..11]),
        ] {
            assert_eq!(served(&bytes, 1).await.0, Err(NoPeer::Malformed.to_string()), "{bytes:?}");
        }
        for bytes in [&b""[..], b"PROXY", b"PROXY TCP4 192.0.2.7", &version_2(0x21, 0x11, &block_v4())[..20]] {
            assert!(served(bytes, 0).await.0.unwrap_err().contains("ended"), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_of_somebody_else_is_left_as_it_is() {
        let (mut stream, mut client) = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            (listener.accept().await.unwrap().0, client)
        };
        let line = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n";
        client.write_all(line).await.unwrap();
        let peer = client.local_addr().unwrap();
        assert_eq!(proxies().peer_of(&mut stream, peer).await.unwrap(), peer);
        let mut rest = vec![0; line.len()];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(rest, line);
    }
}
