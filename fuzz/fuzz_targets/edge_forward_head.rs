//! What an upstream gets of a stranger's head is the same whether its fields stay bytes or are put into a map, and it can
//! be read in one way only.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use mainstay_edge::passing::both_ways;
use mainstay_http::h1::lines::{HeadScanner, Scan};

fuzz_target!(|input: (u8, &[u8])| {
    let (flags, bytes) = input;
    let Ok(Scan::Complete { start, end }) = HeadScanner::default().scan(bytes) else { return };
    let peer = match flags & 3 {
        0 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        1 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped()),
    };
    let both = both_ways(&bytes[start..end], peer, flags & 4 != 0, flags & 8 != 0);
    if let Some((short, long)) = both {
        assert_eq!(short, long);
    }
});
