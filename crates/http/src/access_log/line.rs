//! One line of the access log.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::date;
use http::{Method, Version};

/// Bytes of a text from the client that are logged.
const MOST_TEXT: usize = 2048;

/// What is known of a request at its end.
#[derive(Debug)]
pub struct Line<'a> {
    /// The request id.
    pub id: &'a [u8],
    /// The client's address; none on a Unix socket.
    pub client: Option<IpAddr>,
    /// The method.
    pub method: &'a Method,
    /// The host that was asked for.
    pub host: &'a str,
    /// Path and query as the client sent them.
    pub path: &'a str,
    /// The protocol.
    pub version: Version,
    /// 499: the client left before there was a response.
    pub status: u16,
    /// Bytes of the response's body.
    pub bytes: u64,
    /// From the request's head to the end of the response.
    pub duration: Duration,
    /// From asking the upstream to its response's head.
    pub upstream: Option<Duration>,
    /// Who answered: an app, a route.
    pub target: &'a str,
    /// The release that answered.
    pub release: Option<&'a str>,
    /// What the client calls itself.
    pub user_agent: &'a [u8],
    /// What a load balancer adds.
    pub balanced: Option<Balanced<'a>>,
}

/// What a load balancer knows of a request beyond what every server does.
#[derive(Debug, Clone, Copy)]
pub struct Balanced<'a> {
    /// The route that took it.
    pub route: &'a str,
    /// The upstream that answered, or was asked last.
    pub upstream: Option<&'a str>,
    /// How often upstreams were asked.
    pub tries: u32,
    /// How long it waited for an upstream to have room.
    pub queue: Option<Duration>,
    /// The client's version of TLS.
    pub tls: Option<&'a str>,
    /// The trace that it belongs to.
    pub trace: Option<&'a [u8]>,
    /// What the cache had.
    pub cache: Option<&'a str>,
    /// Why it was turned away.
    pub refused: Option<&'a str>,
}

impl Balanced<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, b",\"route\":\"", self.route.as_bytes());
        if let Some(upstream) = self.upstream {
            put_text(out, b"\",\"upstream\":\"", upstream.as_bytes());
        }
        out.extend_from_slice(b"\",\"tries\":");
        put_decimal(out, u64::from(self.tries));
        if let Some(queue) = self.queue {
            out.extend_from_slice(b",\"queue_duration\":");
            put_seconds(out, queue);
        }
        let texts: [(&[u8], Option<&[u8]>); 4] = [
            (b",\"tls\":\"", self.tls.map(str::as_bytes)),
            (b",\"trace_id\":\"", self.trace),
            (b",\"cache\":\"", self.cache.map(str::as_bytes)),
            (b",\"refused\":\"", self.refused.map(str::as_bytes)),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                put_text(out, name, text);
                out.push(b'"');
            }
        }
    }
}

/// The last second that was formatted.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    second: Cell<u64>,
    text: Cell<[u8; 19]>,
}

impl Line<'_> {
    /// Writes the line with the time of now.
    pub(crate) fn put(&self, out: &mut Vec<u8>, clock: &Clock) {
        out.extend_from_slice(b"{\"time\":\"");
        clock.put(out);
        out.extend_from_slice(b"\",\"request_id\":\"");
        out.extend_from_slice(self.id);
        out.extend_from_slice(b"\",\"client\":\"");
        match self.client {
            Some(IpAddr::V4(address)) => {
                for (place, byte) in address.octets().into_iter().enumerate() {
                    if place > 0 {
                        out.push(b'.');
                    }
                    put_decimal(out, u64::from(byte));
                }
            }
            Some(address) => out.extend_from_slice(address.to_string().as_bytes()),
            None => out.extend_from_slice(b"unix"),
        }
        // A token has nothing that JSON would have to escape.
        out.extend_from_slice(b"\",\"method\":\"");
        let method = self.method.as_str().as_bytes();
        out.extend_from_slice(&method[..method.len().min(MOST_TEXT)]);
        put_text(out, b"\",\"host\":\"", self.host.as_bytes());
        put_text(out, b"\",\"path\":\"", self.path.as_bytes());
        out.extend_from_slice(b"\",\"protocol\":\"");
        out.extend_from_slice(match self.version {
            Version::HTTP_10 => b"HTTP/1.0",
            Version::HTTP_2 => b"HTTP/2.0",
            _ => b"HTTP/1.1",
        });
        out.extend_from_slice(b"\",\"status\":");
        put_decimal(out, u64::from(self.status));
        out.extend_from_slice(b",\"bytes\":");
        put_decimal(out, self.bytes);
        out.extend_from_slice(b",\"duration\":");
        put_seconds(out, self.duration);
        if let Some(upstream) = self.upstream {
            out.extend_from_slice(b",\"upstream_duration\":");
            put_seconds(out, upstream);
        }
        put_text(out, b",\"target\":\"", self.target.as_bytes());
        if let Some(release) = self.release {
            put_text(out, b"\",\"release\":\"", release.as_bytes());
        }
        out.push(b'"');
        if let Some(balanced) = &self.balanced {
            balanced.put(out);
        }
        put_text(out, b",\"user_agent\":\"", self.user_agent);
        out.extend_from_slice(b"\"}\n");
    }
}

impl Clock {
    /// `2026-11-23T21:00:00.123Z`.
    fn put(&self, out: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = now.as_secs();
        if self.second.replace(second) != second {
            self.text.set(format(second));
        }
        out.extend_from_slice(&self.text.get());
        let millis = now.subsec_millis();
        let digit = |value: u32| b'0' + (value % 10) as u8;
        out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
    }
}

/// From an HTTP date, whose calendar is the same.
fn format(second: u64) -> [u8; 19] {
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let date = date::format(second);
    let month = MONTHS.chunks_exact(3).position(|name| name == &date[8..11]).unwrap_or(0) as u8 + 1;
    let mut out = *b"0000-00-00T00:00:00";
    out[..4].copy_from_slice(&date[12..16]);
    out[5] = b'0' + month / 10;
    out[6] = b'0' + month % 10;
    out[8..10].copy_from_slice(&date[5..7]);
    out[11..].copy_from_slice(&date[17..25]);
    out
}

fn put_decimal(out: &mut Vec<u8>, mut value: u64) {
    if value < 10 {
        out.push(b'0' + value as u8);
        return;
    }
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Seconds with six places.
fn put_seconds(out: &mut Vec<u8>, duration: Duration) {
    put_decimal(out, duration.as_secs());
    let mut micros = duration.subsec_micros();
    let mut digits = [b'0'; 7];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (micros % 10) as u8;
        micros /= 10;
    }
    digits[0] = b'.';
    out.extend_from_slice(&digits);
}

/// A name and a text in JSON. What is no UTF-8 is replaced; control characters cannot end a line or colour a terminal.
fn put_text(out: &mut Vec<u8>, name: &[u8], text: &[u8]) {
    out.extend_from_slice(name);
    let text = &text[..text.len().min(MOST_TEXT)];
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    // Without a way out of the middle, which would keep it from looking at many bytes at once.
    if text.iter().fold(true, |all, byte| all & plain(*byte)) {
        out.extend_from_slice(text);
        return;
    }
    for char in String::from_utf8_lossy(text).chars() {
        match char {
            '"' | '\\' => out.extend_from_slice(&[b'\\', char as u8]),
            char if char.is_control() || matches!(char, '\u{2028}' | '\u{2029}') => {
                let escaped = format!("\\u{:04x}", u32::from(char));
                out.extend_from_slice(escaped.as_bytes());
            }
            char => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Line, format, put_decimal, put_seconds};
    use http::{Method, Version};
    use proptest::prelude::*;
    use std::time::Duration;

    fn line<'a>(path: &'a str, user_agent: &'a [u8]) -> Line<'a> {
        Line {
            id: b"0123",
            client: Some("192.0.2.1".parse().unwrap()),
            method: &Method::GET,
            host: "a.b",
            path,
            version: Version::HTTP_11,
            status: 200,
            bytes: 12,
            duration: Duration::from_micros(1_000_042),
            upstream: Some(Duration::from_micros(7)),
            target: "app",
            release: Some("r1"),
            user_agent,
            balanced: None,
        }
    }

    fn text(line: &Line<'_>) -> String {
        let mut out = Vec::new();
        line.put(&mut out, &Clock::default());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_tells_everything() {
        let text = text(&line("/x?y", b"agent"));
        let rest = text.split_once("Z\",").unwrap().1;
        assert_eq!(
            rest,
            "\"request_id\":\"0123\",\"client\":\"192.0.2.1\",\"method\":\"GET\",\"host\":\"a.b\",\"path\":\"/x?y\",\
             \"protocol\":\"HTTP/1.1\",\"status\":200,\"bytes\":12,\"duration\":1.000042,\
             \"upstream_duration\":0.000007,\"target\":\"app\",\"release\":\"r1\",\"user_agent\":\"agent\"}\n"
        );
    }

    #[test]
    fn a_load_balancer_says_more() {
        let balanced = super::Balanced {
            route: "all",
            upstream: Some("u1"),
            tries: 2,
            queue: Some(Duration::from_micros(5)),
            tls: Some("1.3"),
            trace: Some(b"abc"),
            cache: Some("hit"),
            refused: None,
        };
        let text = text(&Line { balanced: Some(balanced), ..line("/", b"agent") });
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((read["route"].as_str(), read["upstream"].as_str()), (Some("all"), Some("u1")));
        assert_eq!((read["tries"].as_u64(), read["queue_duration"].as_f64()), (Some(2), Some(0.000_005)));
        assert_eq!((read["tls"].as_str(), read["trace_id"].as_str()), (Some("1.3"), Some("abc")));
        assert_eq!((read["cache"].as_str(), read["user_agent"].as_str()), (Some("hit"), Some("agent")));
        assert!(read.get("refused").is_none());
    }

    #[test]
    fn times_are_written_for_machines() {
        assert_eq!(&format(784_111_777), b"1994-11-06T08:49:37");
        let mut out = Vec::new();
        put_decimal(&mut out, u64::MAX);
        put_seconds(&mut out, Duration::from_micros(10));
        assert_eq!(out, b"184467440737095516150.000010");
    }

    proptest! {
        #[test]
        fn no_client_can_forge_a_line(path in ".{0,40}", agent in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text = text(&line(&path, &agent));
            prop_assert_eq!(text.matches('\n').count(), 1);
            prop_assert!(!text.trim_end_matches('\n').chars().any(char::is_control));
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read["path"].as_str().unwrap(), path);
        }
    }
}
