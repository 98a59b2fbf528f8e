//! Networks, and whether an address lies in one of them: whom a server believes, lets in or keeps out.
//!
//! An IPv4 address that arrives on an IPv6 socket (`::ffff:192.0.2.1`, RFC 4291, 2.5.5.2) is that IPv4 address here:
//! otherwise a list of IPv4 networks would not hold on a listener of both families.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// All bits after the prefix are zero.
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// What is before the slash is no address.
    #[error("{0:?} is no network: expected an address such as 192.0.2.1, or a network such as 10.0.0.0/8")]
    Address(String),
    /// What is after the slash is no length of a prefix.
    #[error("{text:?} is no network: after the slash expected a number from 0 to {most}")]
    Prefix {
        /// What was given.
        text: String,
        /// The longest prefix of this family.
        most: u8,
    },
    /// The address lies inside the network and does not name it.
    #[error("{text:?} names an address inside a network: write {network} for the network")]
    HostBits {
        /// What was given.
        text: String,
        /// The network that the address lies in.
        network: Cidr,
    },
}

impl Cidr {
    /// The network with this prefix length that holds the address; `None` if the prefix is too long for the family.
    pub fn of(address: IpAddr, prefix: u8) -> Option<Self> {
        let (address, prefix) = match (address, address.to_canonical()) {
            // A mapped address with less than the 96 bits that map it is a network of IPv6.
            (IpAddr::V6(_), IpAddr::V4(mapped)) if prefix >= 96 => (IpAddr::V4(mapped), prefix - 96),
            (address, _) => (address, prefix),
        };
        if prefix > longest(address) {
            return None;
        }
        Some(match address {
            IpAddr::V4(address) => {
                let bits = address.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Self { address: IpAddr::V4(bits.into()), prefix }
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Self { address: IpAddr::V6(bits.into()), prefix }
            }
        })
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (first, last) = self.range();
        let key = key(address.to_canonical());
        (first..=last).contains(&key)
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits all its addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    fn range(&self) -> (Key, Key) {
        let first = key(self.address);
        let free = u32::from(longest(self.address) - self.prefix);
        let last = first.1 | u128::MAX.checked_shr(128 - free).unwrap_or(0);
        (first, (first.0, last))
    }
}

/// The family and the address as a number: networks of one family never hold addresses of the other.
type Key = (bool, u128);

fn key(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(address) => (false, u128::from(address.to_bits())),
        IpAddr::V6(address) => (true, address.to_bits()),
    }
}

fn longest(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address(text.to_owned()))?;
        let wrong = || CidrError::Prefix { text: text.to_owned(), most: longest(address) };
        let prefix = match prefix {
            None => longest(address),
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
        };
        let network = Self::of(address, prefix).ok_or_else(wrong)?;
        let named = if network.address.is_ipv4() { address.to_canonical() } else { address };
        if named != network.address {
            return Err(CidrError::HostBits { text: text.to_owned(), network });
        }
        Ok(network)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

/// A list of networks. Asking it costs a binary search, however the networks overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    /// First and last addresses, sorted, none touching the next.
    ranges: Vec<(Key, Key)>,
}

impl Networks {
    /// Reads networks; the error says which text is none, and why.
    pub fn parse(networks: &[String]) -> Result<Self, String> {
        let networks = networks.iter().map(|text| text.parse::<Cidr>());
        networks.collect::<Result<Self, _>>().map_err(|error| error.to_string())
    }

    /// Whether the address lies in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let key = key(address.to_canonical());
        let after = self.ranges.partition_point(|(first, _)| *first <= key);
        after > 0 && key <= self.ranges[after - 1].1
    }

    /// Whether there is no network, so that no address lies in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromIterator<Cidr> for Networks {
    fn from_iter<I: IntoIterator<Item = Cidr>>(networks: I) -> Self {
        let mut ranges: Vec<(Key, Key)> = networks.into_iter().map(|network| network.range()).collect();
        ranges.sort_unstable();
        // Two networks are either apart, or one lies in the other: then the larger one came first.
        ranges.dedup_by(|next, kept| {
            let overlaps = next.0 <= kept.1;
            if overlaps {
                kept.1 = kept.1.max(next.1);
            }
            overlaps
        });
        Self { ranges }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::{Cidr, Networks};

    fn networks(texts: &[&str]) -> Networks {
        Networks::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_in_its_network_and_in_no_other() {
        let networks = networks(&["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "10.1.0.0/16"]);
        for inside in ["10.0.0.0", "10.255.255.255", "192.0.2.1", "2001:db8::1", "::ffff:10.1.2.3"] {
            assert!(networks.contains(address(inside)), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.0.2.2", "2001:db9::", "::a00:1", "::1"] {
            assert!(!networks.contains(address(outside)), "{outside}");
        }
        assert!(!Networks::default().contains(address("127.0.0.1")));
    }

    #[test]
    fn all_of_one_family_is_none_of_the_other() {
        assert!(networks(&["0.0.0.0/0"]).contains(address("255.255.255.255")));
        assert!(!networks(&["0.0.0.0/0"]).contains(address("::1")));
        assert!(networks(&["::/0"]).contains(address("ffff::1")));
        assert!(!networks(&["::/0"]).contains(address("1.2.3.4")));
        assert!(!networks(&["::/0"]).contains(address("::ffff:1.2.3.4")));
        assert!(networks(&["::ffff:10.0.0.0/104"]).contains(address("10.9.9.9")));
    }

    #[test]
    fn what_is_no_network_is_refused_with_what_would_be_right() {
        let error = |text: &str| text.parse::<Cidr>().unwrap_err().to_string();
        assert!(error("localhost").contains("is no network"));
        assert!(error("10.0.0.0/33").contains("from 0 to 32"));
        assert!(error("10.0.0.0/").contains("from 0 to 32"));
        assert!(error("10.0.0.0/+8").contains("from 0 to 32"));
        assert!(error("::/129").contains("from 0 to 128"));
        assert!(error("10.1.2.3/8").contains("10.0.0.0/8"));
        assert!(Networks::parse(&["10.0.0.0/8".into(), "x".into()]).unwrap_err().contains("\"x\""));
    }

    proptest! {
        #[test]
        fn a_list_contains_what_one_of_its_networks_contains(
            nets in prop::collection::vec((any::<bool>(), any::<u128>(), 0_u8..=128), 0..12),
            bits in any::<u128>(),
            near in any::<prop::sample::Index>(),
            flip in 0_u32..128,
        ) {
            let make = |v6: bool, bits: u128| -> IpAddr {
                if v6 { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits(bits as u32).into() }
            };
            let cidrs: Vec<Cidr> = nets.iter()
                .filter_map(|(v6, bits, prefix)| Cidr::of(make(*v6, *bits), if *v6 { *prefix } else { prefix % 33 }))
                .collect();
            let list: Networks = cidrs.iter().copied().collect();
            let mut asked = vec![make(true, bits), make(false, bits)];
            if !nets.is_empty() {
                let (v6, bits, _) = nets[near.index(nets.len())];
                asked.push(make(v6, bits ^ (1 << flip)));
                asked.push(make(v6, bits));
            }
            for address in asked {
                prop_assert_eq!(list.contains(address), cidrs.iter().any(|cidr| cidr.contains(address)));
            }
            for cidr in cidrs {
                prop_assert_eq!(cidr.to_string().parse::<Cidr>(), Ok(cidr));
            }
        }
    }
}
