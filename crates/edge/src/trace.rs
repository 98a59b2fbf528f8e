//! Trace context (W3C Trace Context): a request keeps the trace that it came with, and gets one if it came without.

use http::{HeaderMap, HeaderName, HeaderValue};
use mainstay_http::request_id::RequestId;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Bytes of a `tracestate` that is passed on; the specification asks for 512 at least.
pub(crate) const STATE_BYTES: usize = 1024;

/// 32 hexadecimal digits.
pub(crate) type TraceId = [u8; 32];

/// Puts the trace of a request into its fields and answers its id. `fresh` is random: its first half becomes the new
/// span's id, and all of it the trace's where there was none.
pub(crate) fn pass_on(headers: &mut HeaderMap, fresh: &RequestId) -> TraceId {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let came = match (values.next(), values.next()) {
        (Some(value), None) => parse(value.as_bytes()),
        _ => None,
    };
    let (trace, text) = parent(came, fresh);
    if let Ok(mut value) = HeaderValue::from_bytes(&text) {
        // No two requests have the same: h2 must not remember it.
        value.set_sensitive(true);
        headers.insert(TRACEPARENT, value);
    }
    // Without a valid parent the state is of no trace (2.3, "Processing model").
    let state_fits = || {
        let bytes: usize = headers.get_all(TRACESTATE).iter().map(HeaderValue::len).sum();
        bytes <= STATE_BYTES
    };
    if headers.contains_key(TRACESTATE) && (came.is_none() || !state_fits()) {
        headers.remove(TRACESTATE);
    }
    trace
}

/// The trace that a request belongs to, and the `traceparent` that it goes on with.
pub(crate) fn parent(came: Option<(TraceId, [u8; 2])>, fresh: &RequestId) -> (TraceId, [u8; 55]) {
    let (trace, flags) = came.unwrap_or((*fresh, *b"01"));
    // Its own span: those behind us are below it.
    let mut text = [b'-'; 55];
    text[..2].copy_from_slice(b"00");
    text[3..35].copy_from_slice(&trace);
    text[36..52].copy_from_slice(&fresh[16..]);
    text[53..].copy_from_slice(&flags);
    (trace, text)
}

/// Trace and flags of a valid `traceparent` (3.2). A higher version is read as far as this one goes.
pub(crate) fn parse(value: &[u8]) -> Option<(TraceId, [u8; 2])> {
    let hex = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == b'0');
    let (head, rest) = value.split_at_checked(55)?;
    let whole = match &head[..2] {
        b"ff" => false,
        b"00" => rest.is_empty(),
        _ => rest.is_empty() || rest[0] == b'-',
    };
    let (version, trace, span, flags) = (&head[..2], &head[3..35], &head[36..52], &head[53..]);
    let dashes = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    let digits = [version, trace, span, flags].into_iter().all(hex);
    if !whole || !dashes || !digits || zero(trace) || zero(span) {
        return None;
    }
    // What later versions mean by further flags is not ours to pass on (4.3).
    let sampled = if flags[1] & 1 == 1 && flags[1].is_ascii_digit() || matches!(flags[1], b'b' | b'd' | b'f')
    {
        *b"01"
    } else {
        *b"00"
    };
    Some((trace.try_into().ok()?, sampled))
}

#[cfg(test)]
mod tests {
    use super::{parse, pass_on};
    use http::HeaderMap;
    use proptest::prelude::*;

    const FRESH: [u8; 32] = *b"00112233445566778899aabbccddeeff";
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn passed(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        pass_on(&mut headers, &FRESH);
        headers
    }

    #[test]
    fn a_valid_trace_goes_on_under_a_span_of_our_own() {
        let headers = passed(&[("traceparent", PARENT), ("tracestate", "a=b")]);
        assert_eq!(headers["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-8899aabbccddeeff-01");
        assert_eq!(headers["tracestate"], "a=b");
    }

    #[test]
    fn what_is_no_trace_is_replaced_with_its_state() {
        for wrong in [
            "",
            "x",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            let headers = passed(&[("traceparent", wrong), ("tracestate", "a=b")]);
            assert_eq!(
                headers["traceparent"], "00-00112233445566778899aabbccddeeff-8899aabbccddeeff-01",
                "{wrong}"
            );
            assert!(!headers.contains_key("tracestate"));
        }
        let twice = passed(&[("traceparent", PARENT), ("traceparent", PARENT)]);
        assert_eq!(twice.get_all("traceparent").iter().count(), 1);
        assert!(parse(b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later").is_some());
    }

    proptest! {
        #[test]
        fn what_we_send_is_always_valid(value in "[ -~]{0,70}") {
            let headers = passed(&[("traceparent", &value)]);
            prop_assert!(parse(headers["traceparent"].as_bytes()).is_some());
        }
    }
}
