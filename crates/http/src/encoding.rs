//! Content codings: which one a client gets (RFC 9110, 12.5.3).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// A content coding, in the order of preference among those that a client likes equally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coding {
    /// Brotli.
    Brotli,
    /// Zstandard.
    Zstandard,
    /// gzip.
    Gzip,
}

impl Coding {
    /// All of them, best first.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstandard, Self::Gzip];

    /// The name in `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstandard => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// What a precompressed file's name ends with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstandard => ".zst",
            Self::Gzip => ".gz",
        }
    }
}

/// The coding that a client likes best among those available; `None`: no coding.
pub fn choose(headers: &HeaderMap, available: &[Coding]) -> Option<Coding> {
    let mut weights: [Option<u16>; 3] = [None; 3];
    let mut others = None;
    for field in headers.get_all(ACCEPT_ENCODING) {
        for element in field.to_str().unwrap_or_default().split(',') {
            let (name, parameters) = element.split_once(';').unwrap_or((element, ""));
            let (name, weight) = (name.trim(), weight(parameters));
            if name == "*" {
                others = Some(weight);
            } else if let Some(coding) = Coding::ALL.iter().position(|coding| {
                name.eq_ignore_ascii_case(coding.name())
                    || (*coding == Coding::Gzip && name.eq_ignore_ascii_case("x-gzip"))
            }) {
                weights[coding] = Some(weight);
            }
        }
    }
    let weight = |coding: Coding| weights[coding as usize].or(others).unwrap_or(0);
    let mut best = None;
    for coding in available.iter().copied() {
        if weight(coding) > best.map_or(0, weight) {
            best = Some(coding);
        }
    }
    best
}

/// A weight in thousandths; one that is malformed is none at all.
fn weight(parameters: &str) -> u16 {
    let Some((name, value)) = parameters.split_once('=') else { return 1000 };
    if !name.trim().eq_ignore_ascii_case("q") {
        return 1000;
    }
    let value = value.trim();
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    match (whole, digits) {
        ("1", true) => 1000,
        ("0", true) => format!("{fraction:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{Coding, choose};
    use http::HeaderMap;

    fn chosen(field: &str, available: &[Coding]) -> Option<Coding> {
        let mut headers = HeaderMap::new();
        headers.insert("accept-encoding", field.parse().unwrap());
        choose(&headers, available)
    }

    #[test]
    fn the_client_weighs_and_equal_weights_go_to_the_better_coding() {
        assert_eq!(chosen("gzip, deflate, br, zstd", &Coding::ALL), Some(Coding::Brotli));
        assert_eq!(chosen("gzip, br;q=0.5", &Coding::ALL), Some(Coding::Gzip));
        assert_eq!(chosen("GZIP;Q=0.001", &Coding::ALL), Some(Coding::Gzip));
        assert_eq!(chosen("*", &[Coding::Gzip]), Some(Coding::Gzip));
        assert_eq!(chosen("br;q=0, *;q=0.1", &Coding::ALL), Some(Coding::Zstandard));
        assert_eq!(chosen("x-gzip", &Coding::ALL), Some(Coding::Gzip));
    }

    #[test]
    fn what_a_client_does_not_take_it_does_not_get() {
        for field in ["", "identity", "gzip;q=0", "gzip;q=0.000", "gzip;q=2", "gzip;q=abc", "deflate"] {
            assert_eq!(chosen(field, &Coding::ALL), None, "{field}");
        }
        assert_eq!(chosen("br", &[Coding::Gzip]), None);
        assert_eq!(choose(&HeaderMap::new(), &Coding::ALL), None);
    }
}
