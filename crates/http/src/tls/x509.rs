//! Reads of a certificate (RFC 5280) what a server has to know of its own, and what it tells of a client's: names,
//! dates, subject and issuer. Signatures are not checked here: that is rustls' part.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate<'a> {
    /// DNS names of `subjectAltName`, in lower case; `*.` may begin one.
    pub(crate) names: Vec<String>,
    /// Addresses of `subjectAltName`.
    pub(crate) addresses: Vec<IpAddr>,
    /// The first second in which it is valid, since 1970.
    pub(crate) not_before: u64,
    /// The last second in which it is valid, since 1970.
    pub(crate) not_after: u64,
    /// Whom it is for, encoded.
    pub(crate) subject: &'a [u8],
    /// Who issued it, encoded.
    pub(crate) issuer: &'a [u8],
    /// The public key with its algorithm, encoded.
    pub(crate) public_key: &'a [u8],
}

/// Reads a certificate in DER; `None` if it is none.
pub(crate) fn parse(der: &[u8]) -> Option<Certificate<'_>> {
    let mut certificate = Der(Der(der).expect(SEQUENCE)?);
    let mut body = Der(certificate.expect(SEQUENCE)?);
    if body.0.first() == Some(&0xa0) {
        body.next()?;
    }
    body.expect(INTEGER)?;
    body.expect(SEQUENCE)?;
    let issuer = body.whole(SEQUENCE)?;
    let mut validity = Der(body.expect(SEQUENCE)?);
    let (not_before, not_after) = (validity.time()?, validity.time()?);
    let subject = body.whole(SEQUENCE)?;
    let public_key = body.whole(SEQUENCE)?;
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    while let Some((tag, content)) = body.next() {
        if tag != 0xa3 {
            continue;
        }
        let mut extensions = Der(Der(content).expect(SEQUENCE)?);
        while !extensions.0.is_empty() {
            let mut extension = Der(extensions.expect(SEQUENCE)?);
            if extension.expect(OBJECT)? != SUBJECT_ALT_NAME {
                continue;
            }
            let value = loop {
                let (tag, content) = extension.next()?;
                if tag == OCTET_STRING {
                    break content;
                }
            };
            let mut list = Der(Der(value).expect(SEQUENCE)?);
            while !list.0.is_empty() {
                match list.next()? {
                    (0x82, name) => {
                        let name = std::str::from_utf8(name).ok()?;
                        names.push(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
                    }
                    (0x87, address) => addresses.push(self::address(address)?),
                    _ => {}
                }
            }
        }
    }
    Some(Certificate { names, addresses, not_before, not_after, subject, issuer, public_key })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

/// Writes an encoded name as RFC 4514 does: `CN=alice,O=Example`.
pub(crate) fn name_text(name: &[u8]) -> String {
    name_parts(name).unwrap_or_default().into_iter().rev().collect::<Vec<_>>().join(",")
}

fn name_parts(name: &[u8]) -> Option<Vec<String>> {
    let mut sets = Der(Der(name).expect(SEQUENCE)?);
    let mut parts = Vec::new();
    while !sets.0.is_empty() {
        let mut set = Der(sets.expect(SET)?);
        let mut attributes = Vec::new();
        while !set.0.is_empty() {
            let mut attribute = Der(set.expect(SEQUENCE)?);
            let kind = attribute.expect(OBJECT)?;
            let (_, value) = attribute.next()?;
            attributes.push(format!("{}={}", attribute_name(kind), escaped(&String::from_utf8_lossy(value))));
        }
        parts.push(attributes.join("+"));
    }
    Some(parts)
}

fn attribute_name(kind: &[u8]) -> String {
    let known = match kind {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        _ => return format!("OID.{}", kind.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    };
    known.to_owned()
}

/// Characters that would end a part, or a header field that the name is put in.
fn escaped(value: &str) -> String {
    let mut out = String::new();
    for (at, character) in value.chars().enumerate() {
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => {
                out.push('\\');
                out.push(character);
            }
            '#' | ' ' if at == 0 => {
                out.push('\\');
                out.push(character);
            }
            character if character.is_control() || character == char::REPLACEMENT_CHARACTER => out.push('?'),
            character => out.push(character),
        }
    }
    out
}

/// Encoded values, read from front to back (X.690, distinguished encoding rules).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 3 {
                return None;
            }
            let (digits, rest) = rest.split_at_checked(count)?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The next value with its tag and length.
    fn whole(&mut self, tag: u8) -> Option<&'a [u8]> {
        let before = self.0;
        self.expect(tag)?;
        Some(&before[..before.len() - self.0.len()])
    }

    /// Seconds since 1970 (RFC 5280, 4.1.2.5).
    fn time(&mut self) -> Option<u64> {
        let (tag, text) = self.next()?;
        let text = text.strip_suffix(b"Z")?;
        if !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number =
            |digits: &[u8]| digits.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        let (year, rest) = match tag {
            UTC_TIME => {
                let (year, rest) = text.split_at_checked(2)?;
                let year = number(year);
                (if year < 50 { 2000 + year } else { 1900 + year }, rest)
            }
            GENERALIZED_TIME => {
                let (year, rest) = text.split_at_checked(4)?;
                (number(year), rest)
            }
            _ => return None,
        };
        let rest = <[u8; 10]>::try_from(rest).ok()?;
        let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        // What is before 1970 is long over.
        let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        Some(u64::try_from(seconds).unwrap_or(0))
    }
}

/// Days since 1970 of a date in the Gregorian calendar; years begin in March here, so that leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let of_years = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    of_years + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate() -> Vec<u8> {
        let names = ["a.example".to_owned(), "*.B.example".to_owned(), "192.0.2.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Ann, the \"first\"");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Ex\nample");
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 3, 1);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_dates_are_those_of_the_certificate() {
        let der = certificate();
        let read = parse(&der).unwrap();
        assert_eq!(read.names, ["a.example", "*.b.example"]);
        assert_eq!(read.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!((read.not_before, read.not_after), (1_709_164_800, 2_561_241_600));
        assert_eq!(read.subject, read.issuer);
        assert!(
            name_text(read.subject).contains("CN=Ann\\, the \\\"first\\\""),
            "{}",
            name_text(read.subject)
        );
        assert!(name_text(read.subject).contains("O=Ex?ample"));
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 2, 29), 11_016);
        assert_eq!(days(2000, 3, 1), 11_017);
        assert_eq!(days(2100, 3, 1), 47_541);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut der = certificate();
            for (at, byte) in changes {
                let at = at.index(der.len());
                der[at] = byte;
            }
            if let Some(read) = parse(&der) {
                name_text(read.subject);
            }
            prop_assert_eq!(parse(&der[..cut.index(der.len())]), None);
        }
    }
}
