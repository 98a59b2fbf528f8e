//! Writes PROXY headers.

use std::net::IpAddr;

use super::parse::SIGNATURE;
use super::{Addresses, Version};

/// The header for a client's connection; without addresses, for one of our own.
pub fn header(version: Version, addresses: Option<Addresses>) -> Vec<u8> {
    match (version, addresses) {
        (Version::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (Version::V1, Some(addresses)) => {
            let (source, destination, v6) = one_family(addresses);
            let family = if v6 { "TCP6" } else { "TCP4" };
            let (from, to) = (addresses.source.port(), addresses.destination.port());
            format!("PROXY {family} {source} {destination} {from} {to}\r\n").into_bytes()
        }
        (Version::V2, None) => [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
        (Version::V2, Some(addresses)) => {
            let (source, destination, v6) = one_family(addresses);
            let mut bytes = SIGNATURE.to_vec();
            bytes.extend_from_slice(if v6 { &[0x21, 0x21, 0, 36] } else { &[0x21, 0x11, 0, 12] });
            for address in [source, destination] {
                match address {
                    IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
                    IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
                }
            }
            bytes.extend_from_slice(&addresses.source.port().to_be_bytes());
            bytes.extend_from_slice(&addresses.destination.port().to_be_bytes());
            bytes
        }
    }
}

/// A header has room for one family: where the two differ, the IPv4 one is mapped into IPv6.
fn one_family(addresses: Addresses) -> (IpAddr, IpAddr, bool) {
    let (source, destination) =
        (addresses.source.ip().to_canonical(), addresses.destination.ip().to_canonical());
    let map = |address: IpAddr| match address {
        IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
        address @ IpAddr::V6(_) => address,
    };
    if source.is_ipv4() && destination.is_ipv4() {
        (source, destination, false)
    } else {
        (map(source), map(destination), true)
    }
}
