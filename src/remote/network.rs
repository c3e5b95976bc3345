//! Addresses that may be connected to: public ones, and those of networks that the policy names.

use std::net::{IpAddr, Ipv4Addr};

use crate::domain::Network;

/// Networks that are not public: the registry of IANA (RFC 6890 and its updates), multicast, and reserved ones.
const NOT_PUBLIC_V4: &[Network] = &[
    Network::v4(0, 0, 0, 8),
    Network::v4(10, 0, 0, 8),
    // Shared by providers and their customers (RFC 6598).
    Network::v4(100, 64, 0, 10),
    Network::v4(127, 0, 0, 8),
    // Link-local, with the metadata services of clouds.
    Network::v4(169, 254, 0, 16),
    Network::v4(172, 16, 0, 12),
    Network::v4(192, 0, 0, 24),
    Network::v4(192, 0, 2, 24),
    // 6to4 relays, withdrawn (RFC 7526).
    Network::v4(192, 88, 99, 24),
    Network::v4(192, 168, 0, 16),
    Network::v4(198, 18, 0, 15),
    Network::v4(198, 51, 100, 24),
    Network::v4(203, 0, 113, 24),
    Network::v4(224, 0, 0, 4),
    // Reserved; its last address is broadcast.
    Network::v4(240, 0, 0, 4),
];

/// All unicast addresses that were ever allocated. Unique-local, link-local, multicast, loopback and the deprecated
/// IPv4-compatible addresses are outside.
const PUBLIC_V6: Network = Network::v6(0x2000, 0, 3);

/// Networks within it that are not public.
const NOT_PUBLIC_V6: &[Network] = &[
    // Protocol assignments: Teredo, benchmarking, ORCHID.
    Network::v6(0x2001, 0, 23),
    Network::v6(0x2001, 0xdb8, 32),
    // 6to4, which holds an IPv4 address; withdrawn.
    Network::v6(0x2002, 0, 16),
    Network::v6(0x3fff, 0, 20),
];

/// Whether an address may be connected to.
pub(super) fn is_permitted(address: IpAddr, networks: &[Network]) -> bool {
    let reached = reached(address);
    let is_named = |address| networks.iter().any(|network| network.contains(address));
    is_named(address) || is_named(reached) || is_public(reached)
}

/// Returns the address at which packets arrive: for mapped (RFC 4291) and translated (RFC 6052) addresses, the IPv4
/// address in them.
fn reached(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)).into(),
        _ => address,
    }
}

fn is_public(address: IpAddr) -> bool {
    let is_in = |networks: &[Network]| networks.iter().any(|network| network.contains(address));
    if address.is_ipv4() { !is_in(NOT_PUBLIC_V4) } else { PUBLIC_V6.contains(address) && !is_in(NOT_PUBLIC_V6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permitted(address: &str, networks: &[&str]) -> bool {
        let networks: Vec<Network> = networks.iter().map(|network| network.parse().unwrap()).collect();
        is_permitted(address.parse().unwrap(), &networks)
    }

    #[test]
    fn no_address_of_a_private_or_reserved_network_is_permitted() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "100.100.100.200",
            "127.0.0.1",
            "127.1.2.3",
            "169.254.0.1",
            "169.254.169.254",
            "169.254.170.2",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::7f00:1",
            "::8.8.8.8",
            "::ffff:0.0.0.0",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:a9fe:a9fe",
            "::ffff:192.168.1.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1",
            "64:ff9b:1::8.8.8.8",
            "100::1",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "2002:808:808::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fe80::1",
            "fe80::a9fe:a9fe",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
        ] {
            assert!(!permitted(address, &[]), "{address}");
        }
    }

    #[test]
    fn public_addresses_are_permitted() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert!(permitted(address, &[]), "{address}");
        }
    }

    #[test]
    fn a_named_network_is_permitted_and_its_neighbours_are_not() {
        assert!(permitted("10.1.2.3", &["10.1.0.0/16"]));
        assert!(!permitted("10.2.2.3", &["10.1.0.0/16"]));
        assert!(permitted("::ffff:10.1.2.3", &["10.1.0.0/16"]));
        assert!(!permitted("::ffff:10.2.2.3", &["10.1.0.0/16"]));
        assert!(permitted("127.0.0.1", &["192.168.0.0/16", "127.0.0.1"]));
        assert!(!permitted("127.0.0.2", &["127.0.0.1"]));
        assert!(permitted("fd00:1::2", &["fd00:1::/32"]));
        assert!(!permitted("fd00:2::2", &["fd00:1::/32"]));
        assert!(permitted("::1", &["::1/128"]));
        assert!(permitted("10.0.0.1", &["0.0.0.0/0"]) && !permitted("fe80::1", &["0.0.0.0/0"]));
        assert!(permitted("fe80::1", &["::/0"]) && !permitted("10.0.0.1", &["::/0"]));
    }
}
