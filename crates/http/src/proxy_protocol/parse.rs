//! Reads PROXY headers, without I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, Header};

/// What a version 2 header begins with.
pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a version 1 header with its line end (section 2.1).
const V1_BYTES: usize = 107;
/// Bytes of a version 2 header before addresses.
const V2_FIXED: usize = 16;
/// Bytes of the largest addresses (Unix) and of the fields after them.
const V2_REST: usize = 216 + 4096;
/// No header is longer.
pub const MOST_BYTES: usize = V2_FIXED + V2_REST;
/// The field that holds a checksum (section 2.2.3).
const TYPE_CRC32C: u8 = 0x03;

/// Why bytes are no PROXY header. Each is a name that metrics count by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Something else came, perhaps a client that was not led through the proxy.
    #[error("no PROXY header")]
    Missing,
    /// It does not end where it must.
    #[error("PROXY header too long")]
    TooLong,
    /// It contradicts itself or the specification.
    #[error("malformed PROXY header")]
    Malformed,
    /// A command or a protocol that no TCP connection has.
    #[error("unsupported PROXY header")]
    Unsupported,
    /// The bytes were changed on the way.
    #[error("wrong checksum of PROXY header")]
    Checksum,
}

/// Reads a header at the start of `bytes`: what it says and how long it is. `None`: all of `bytes` belongs to a header
/// whose end is still to come.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let begins = |with: &[u8]| {
        let seen = bytes.len().min(with.len());
        bytes[..seen] == with[..seen]
    };
    if begins(SIGNATURE) {
        parse_v2(bytes)
    } else if begins(b"PROXY ") {
        parse_v1(bytes)
    } else {
        Err(ProxyError::Missing)
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let seen = &bytes[..bytes.len().min(V1_BYTES)];
    let Some(end) = memchr::memchr(b'\n', seen) else {
        return if seen.len() == V1_BYTES { Err(ProxyError::TooLong) } else { Ok(None) };
    };
    let line = seen[..end].strip_suffix(b"\r").ok_or(ProxyError::Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Malformed)?;
    let mut words = line.split(' ').skip(1);
    let v6 = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => return Ok(Some((Header::Own, end + 1))),
        Some("TCP4") => false,
        Some("TCP6") => true,
        _ => return Err(ProxyError::Unsupported),
    };
    let mut word = || words.next().ok_or(ProxyError::Malformed);
    let (source, destination) = (address(word()?, v6)?, address(word()?, v6)?);
    let (source_port, destination_port) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(ProxyError::Malformed);
    }
    Ok(Some((client((source, source_port), (destination, destination_port)), end + 1)))
}

fn address(word: &str, v6: bool) -> Result<IpAddr, ProxyError> {
    let address: IpAddr = word.parse().map_err(|_| ProxyError::Malformed)?;
    if address.is_ipv6() == v6 { Ok(address) } else { Err(ProxyError::Malformed) }
}

fn port(word: &str) -> Result<u16, ProxyError> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if plain { word.parse().map_err(|_| ProxyError::Malformed) } else { Err(ProxyError::Malformed) }
}

/// Mapped addresses become what they stand for, so that lists of networks and logs see one form.
fn client(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Header {
    Header::Client(Addresses {
        source: SocketAddr::new(source.0.to_canonical(), source.1),
        destination: SocketAddr::new(destination.0.to_canonical(), destination.1),
    })
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else { return Ok(None) };
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let own = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Unsupported),
    };
    if rest > V2_REST {
        return Err(ProxyError::TooLong);
    }
    let Some(whole) = bytes.get(..V2_FIXED + rest) else { return Ok(None) };
    let rest = &whole[V2_FIXED..];
    if own {
        // Family, addresses and fields of a connection of the proxy's own are to be skipped.
        return Ok(Some((Header::Own, whole.len())));
    }
    let (header, fields) = match fixed[13] {
        0x00 => (Header::Own, rest),
        0x11 => {
            let (ends, fields) = rest.split_first_chunk::<12>().ok_or(ProxyError::Malformed)?;
            let address =
                |at: usize| IpAddr::from(Ipv4Addr::new(ends[at], ends[at + 1], ends[at + 2], ends[at + 3]));
            let port = |at: usize| u16::from_be_bytes([ends[at], ends[at + 1]]);
            (client((address(0), port(8)), (address(4), port(10))), fields)
        }
        0x21 => {
            let (ends, fields) = rest.split_first_chunk::<36>().ok_or(ProxyError::Malformed)?;
            let address = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&ends[at..at + 16]);
                IpAddr::from(Ipv6Addr::from(octets))
            };
            let port = |at: usize| u16::from_be_bytes([ends[at], ends[at + 1]]);
            (client((address(0), port(32)), (address(16), port(34))), fields)
        }
        0x31 => (Header::Unix, rest.get(216..).ok_or(ProxyError::Malformed)?),
        _ => return Err(ProxyError::Unsupported),
    };
    check_fields(whole, whole.len() - fields.len())?;
    Ok(Some((header, whole.len())))
}

/// The fields must fill the header exactly, and a checksum must be right. What else they say is not used.
fn check_fields(whole: &[u8], start: usize) -> Result<(), ProxyError> {
    let mut at = start;
    while at < whole.len() {
        let (kind, length) = match &whole[at..] {
            [kind, high, low, ..] => (*kind, usize::from(u16::from_be_bytes([*high, *low]))),
            _ => return Err(ProxyError::Malformed),
        };
        let value = whole.get(at + 3..at + 3 + length).ok_or(ProxyError::Malformed)?;
        if kind == TYPE_CRC32C {
            let told = <[u8; 4]>::try_from(value).map_err(|_| ProxyError::Malformed)?;
            let blank = at + 3..at + 7;
            if crc32c(whole, blank) != u32::from_be_bytes(told) {
                return Err(ProxyError::Checksum);
            }
        }
        at += 3 + length;
    }
    Ok(())
}

/// CRC-32C (RFC 9260, appendix A) with some bytes taken as zero. Headers are short and rare: no table is needed.
fn crc32c(bytes: &[u8], blank: std::ops::Range<usize>) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in bytes.iter().enumerate() {
        crc ^= if blank.contains(&at) { 0 } else { u32::from(*byte) };
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Version, header};
    use super::*;

    fn ends(source: &str, destination: &str) -> Addresses {
        Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn text_headers_are_read_as_the_specification_shows_them() {
        let line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\nGET";
        let expected = ends("255.255.255.255:65535", "255.255.255.255:65535");
        assert_eq!(parse(line), Ok(Some((Header::Client(expected), line.len() - 3))));
        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n";
        let expected = ends("[2001:db8::1]:1", "[2001:db8::2]:2");
        assert_eq!(parse(line), Ok(Some((Header::Client(expected), line.len()))));
        assert_eq!(parse(b"PROXY UNKNOWN whatever 1 2 3\r\n"), Ok(Some((Header::Own, 30))));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Ok(Some((Header::Own, 15))));
    }

    #[test]
    fn wrong_text_headers_are_refused() {
        use ProxyError::{Malformed, Missing, TooLong, Unsupported};
        for (line, error) in [
            ("GET / HTTP/1.1\r\n", Missing),
            ("proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n", Missing),
            ("PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n", Malformed),
            ("PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n", Malformed),
            ("PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n", Malformed),
            ("PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n", Malformed),
            ("PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n", Malformed),
            ("PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n", Malformed),
            ("PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n", Malformed),
            ("PROXY TCP4 ::1 ::1 1 1\r\n", Malformed),
            ("PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n", Malformed),
            ("PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n", Unsupported),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(error), "{line}");
        }
        let mut long = b"PROXY UNKNOWN ".to_vec();
        long.resize(V1_BYTES, b'x');
        assert_eq!(parse(&long), Err(TooLong));
        assert_eq!(parse(&long[..V1_BYTES - 1]), Ok(None));
    }

    #[test]
    fn the_proxys_own_connections_and_unix_sockets_have_no_client_address() {
        assert_eq!(parse(&v2(0x20, 0x00, b"")), Ok(Some((Header::Own, 16))));
        assert_eq!(parse(&v2(0x20, 0xff, b"skipped")), Ok(Some((Header::Own, 23))));
        assert_eq!(parse(&v2(0x21, 0x00, b"")), Ok(Some((Header::Own, 16))));
        assert_eq!(parse(&v2(0x21, 0x31, &[b'x'; 216])), Ok(Some((Header::Unix, 232))));
        assert_eq!(parse(&v2(0x21, 0x31, &[b'x'; 215])), Err(ProxyError::Malformed));
    }

    #[test]
    fn wrong_binary_headers_are_refused() {
        use ProxyError::{Malformed, TooLong, Unsupported};
        assert_eq!(parse(&v2(0x11, 0x11, &[0; 12])), Err(Unsupported));
        assert_eq!(parse(&v2(0x22, 0x11, &[0; 12])), Err(Unsupported));
        assert_eq!(parse(&v2(0x21, 0x12, &[0; 12])), Err(Unsupported));
        assert_eq!(parse(&v2(0x21, 0x11, &[0; 11])), Err(Malformed));
        assert_eq!(parse(&v2(0x21, 0x21, &[0; 35])), Err(Malformed));
        assert_eq!(parse(&v2(0x21, 0x11, &[0; 13])), Err(Malformed));
        assert_eq!(parse(&v2(0x21, 0x11, &[&[0; 12][..], &[4, 0, 2, 0]].concat())), Err(Malformed));
        assert_eq!(parse(&v2(0x21, 0x11, &[&[0; 12][..], &[3, 0, 3, 0, 0, 0]].concat())), Err(Malformed));
        // Refused by its length, before so many bytes are waited for.
        assert_eq!(parse(&v2(0x21, 0x11, &vec![0; V2_REST + 1])[..16]), Err(TooLong));
    }

    #[test]
    fn a_checksum_is_checked_where_there_is_one() {
        assert_eq!(crc32c(b"123456789", 0..0), 0xE306_9283);
        let mut bytes = v2(0x21, 0x11, &[&[1; 12][..], &[4, 0, 1, 0], &[3, 0, 4, 0, 0, 0, 0]].concat());
        let end = bytes.len();
        let crc = crc32c(&bytes, end - 4..end);
        bytes[end - 4..].copy_from_slice(&crc.to_be_bytes());
        assert!(matches!(parse(&bytes), Ok(Some((Header::Client(_), _)))));
        bytes[17] ^= 1;
        assert_eq!(parse(&bytes), Err(ProxyError::Checksum));
    }

    fn any_end() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>())
            .prop_map(|(address, port)| SocketAddr::new(address.to_canonical(), port))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_however_it_is_cut(
            source in any_end(), destination in any_end(), second in any::<bool>(), rest in any::<Vec<u8>>(),
        ) {
            let addresses = Addresses { source, destination };
            let version = if second { Version::V2 } else { Version::V1 };
            let mut bytes = header(version, Some(addresses));
            let length = bytes.len();
            bytes.extend(rest);
            for cut in 0..length {
                prop_assert_eq!(parse(&bytes[..cut]), Ok(None));
            }
            prop_assert_eq!(parse(&bytes), Ok(Some((Header::Client(addresses), length))));
        }

        #[test]
        fn any_bytes_are_read_without_harm(start in 0_usize..3, bytes in any::<Vec<u8>>()) {
            let start: &[u8] = [&b""[..], b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"][start];
            let bytes = [start, &bytes].concat();
            if let Ok(Some((_, length))) = parse(&bytes) {
                prop_assert!(length <= bytes.len() && length <= MOST_BYTES);
                prop_assert!(matches!(parse(&bytes[..length - 1]), Ok(None)));
            }
        }
    }
}
