//! Networks of IP addresses in their written form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A network in CIDR notation (RFC 4632), or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// The reason why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotANetwork {
    /// It lacks an address or the length of a prefix.
    #[error("a network is an address, a slash and the length of its prefix")]
    Syntax,
    /// The address is that of a host in the network.
    #[error("the address has bits beyond the prefix")]
    HostBits,
}

impl Network {
    /// Returns an IPv4 network, from the first three bytes of its base.
    pub const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Self {
        Self(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)))
    }

    /// Returns an IPv6 network, from the first 32 bits of its base.
    pub const fn v6(a: u16, b: u16, prefix: u8) -> Self {
        Self(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)))
    }

    /// Returns the networks of all addresses.
    pub const fn everywhere() -> [Self; 2] {
        [Self::v4(0, 0, 0, 0), Self::v6(0, 0, 0)]
    }

    /// Reports whether the network contains an address. No IPv6 network contains an IPv4 address, nor the reverse.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network: IpNet = network.map_err(|_| NotANetwork::Syntax)?;
        if network.trunc() == network { Ok(Self(network)) } else { Err(NotANetwork::HostBits) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_network_is_refused() {
        for text in
            ["", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/", "10/8", "::/129", "a/8", "10.0.0.0/8/8"]
        {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork::Syntax), "{text}");
        }
        for text in ["10.0.0.1/8", "fd00::1/64", "1.0.0.0/0"] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork::HostBits), "{text}");
        }
    }
}
