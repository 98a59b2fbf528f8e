//! The small words of `[edge]`: networks, shares in per cent, keys, field names, ranges of a status.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::plan::edge::{HashKey, RateWindow};
use crate::section::{At, Section};

/// A network such as `10.0.0.0/8`, or a single address.
pub(super) struct Network(IpAddr, u8);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write it as 10.0.0.0/8, 2001:db8::/32, or as one address";
        let (address, prefix) = text.split_once('/').map_or((text, None), |(one, two)| (one, Some(two)));
        let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is no address; {example}"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|prefix| *prefix <= most)
                .ok_or_else(|| format!("`{prefix}` is no prefix length from 0 to {most}; {example}"))?,
        };
        let has_host_bits = match address {
            IpAddr::V4(address) => u32::from(address).checked_shl(u32::from(prefix)).unwrap_or(0) != 0,
            IpAddr::V6(address) => u128::from(address).checked_shl(u32::from(prefix)).unwrap_or(0) != 0,
        };
        if has_host_bits {
            return Err(format!("it has host bits set below /{prefix}"));
        }
        Ok(Self(address, prefix))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

/// A list of networks.
pub(super) fn networks(section: &Section<'_>, key: &'static str) -> Vec<String> {
    let list = section.parsed_list::<Network>(key, "a network").unwrap_or_default();
    list.into_iter().map(|network| network.value.to_string()).collect()
}

/// A share such as `20%`.
pub(super) struct Percent(pub(super) u32);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
        number.filter(|number| *number <= 10_000).map(Self).ok_or_else(|| "write it as 20%".to_owned())
    }
}

/// A share in per cent within bounds.
pub(super) fn percent(
    section: &Section<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<u32>,
) -> Option<u32> {
    let share = section.parsed::<Percent>(key, "a share")?;
    if range.contains(&share.value.0) {
        return Some(share.value.0);
    }
    let message = format!("`{key}` in {} must be from {}% to {}%", section.title, range.start(), range.end());
    section.problems.note(&share.at, message);
    None
}

/// A time within bounds.
pub(in crate::read) fn time(
    section: &Section<'_>,
    key: &'static str,
    least: Duration,
    most: Duration,
) -> Option<Duration> {
    let time = super::super::later::duration_at(section, key)?;
    if (least..=most).contains(&time.value) {
        return Some(time.value);
    }
    section.problems.note(
        &time.at,
        format!("`{key}` in {} must be from {} to {}", section.title, shown(least), shown(most)),
    );
    None
}

fn shown(time: Duration) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let millis = time.as_millis();
    let unit = units.iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
    unit.map_or_else(|| "0s".to_owned(), |(unit, name)| format!("{}{name}", millis / unit))
}

/// What requests are known by: `client`, `path`, `field:NAME` or `cookie:NAME`.
pub(super) struct Key(pub(super) HashKey);

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = match text.split_once(':') {
            None if text == "client" => HashKey::Client,
            None if text == "path" => HashKey::Path,
            Some(("field", name)) => HashKey::Field { name: FieldName::from_str(name)?.0 },
            Some(("cookie", name)) => HashKey::Cookie { name: CookieName::from_str(name)?.0 },
            _ => return Err("write client, path, field:NAME or cookie:NAME".to_owned()),
        };
        Ok(Self(key))
    }
}

/// The name of a header field (RFC 9110, 5.6.2), kept in lower case.
pub(super) struct FieldName(pub(super) String);

impl FromStr for FieldName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_token(text) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err("a field's name has letters, digits and - only, such as X-Beta".to_owned())
    }
}

/// The name of a cookie (RFC 6265, 4.1.1).
pub(super) struct CookieName(pub(super) String);

impl FromStr for CookieName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_token(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a cookie's name has letters, digits, - and _ only".to_owned())
        }
    }
}

pub(super) fn is_token(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The value of a field: printable, so that it cannot end a line.
pub(super) fn is_field_value(text: &str) -> bool {
    text.len() <= 4096 && text.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte))
}

/// `200`, or `200-399`.
pub(super) struct StatusRange(pub(super) u16, pub(super) u16);

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self(first, last)),
            _ => Err("write it as 200 or 200-399".to_owned()),
        }
    }
}

/// `10/s`, `100/m`, `1000/h` or `10/30s`.
pub(super) struct Window(pub(super) RateWindow);

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write it as 10/s, 100/m, 1000/h or 50/10s".to_owned();
        let (requests, per) = text.split_once('/').ok_or_else(wrong)?;
        let requests = requests.trim().parse::<u32>().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
        let per = per.trim();
        let digits = per.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let count: u64 = if digits == 0 { 1 } else { per[..digits].parse().map_err(|_| wrong())? };
        let unit = match &per[digits..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let per_ms =
            count.checked_mul(unit).filter(|per| (1..=86_400_000).contains(per)).ok_or_else(wrong)?;
        Ok(Self(RateWindow { requests, per_ms, burst: requests }))
    }
}

/// The name of a route, group, service or limit: it becomes a label in metrics and logs.
pub(super) fn name(name: &At<String>, what: &str, section: &Section<'_>) -> Option<String> {
    match name.value.parse::<crate::AppName>() {
        Ok(_) => Some(name.value.clone()),
        Err(error) => {
            section.problems.note(&name.at, format!("`{}` is not the name of {what}: {error}", name.value));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_are_read_with_and_without_a_prefix_and_host_bits_are_refused() {
        let read = |text: &str| text.parse::<Network>().map(|network| network.to_string());
        assert_eq!(read("10.0.0.0/8").unwrap(), "10.0.0.0/8");
        assert_eq!(read("192.0.2.7").unwrap(), "192.0.2.7/32");
        assert_eq!(read("2001:db8::/32").unwrap(), "2001:db8::/32");
        assert_eq!(read("0.0.0.0/0").unwrap(), "0.0.0.0/0");
        assert!(read("10.0.0.1/8").is_err() && read("10.0.0.0/33").is_err() && read("x").is_err());
    }

    #[test]
    fn rates_are_requests_in_a_time() {
        let read = |text: &str| text.parse::<Window>().map(|window| (window.0.requests, window.0.per_ms));
        assert_eq!(read("10/s"), Ok((10, 1000)));
        assert_eq!(read("100/m"), Ok((100, 60_000)));
        assert_eq!(read("50/10s"), Ok((50, 10_000)));
        assert!(
            read("0/s").is_err() && read("10").is_err() && read("10/x").is_err() && read("1/0s").is_err()
        );
    }

    proptest! {
        #[test]
        fn no_text_brings_a_word_down(text in "\\PC{0,20}") {
            let _ = text.parse::<Network>();
            let _ = text.parse::<Percent>();
            let _ = text.parse::<Window>();
            let _ = text.parse::<StatusRange>();
            let _ = text.parse::<Key>();
        }
    }
}
