//! What strangers and apps say about caching: any bytes are read, what forbids keeping is obeyed, and a response is for
//! the request that it answered.
#![no_main]

use http::{HeaderMap, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use mainstay_edge::cache::directives::{RequestDirectives, ResponseDirectives};
use mainstay_edge::cache::policy::{Moment, Terms};
use mainstay_edge::cache::{normalise, reply, vary::Vary};
use mainstay_site::ByteSize;
use mainstay_site::plan::edge::CachePlan;

const RESPONSE: [&str; 10] = [
    "cache-control", "cdn-cache-control", "expires", "age", "date", "vary", "last-modified", "etag", "set-cookie",
    "content-encoding",
];
const REQUEST: [&str; 6] = ["cache-control", "pragma", "accept-encoding", "range", "if-none-match", "if-modified-since"];

fuzz_target!(|input: (Vec<(u8, &[u8])>, Vec<(u8, &[u8])>, u32, &str)| {
    let (response, request, age_secs, url) = input;
    let fields = |names: &[&'static str], fields: &[(u8, &[u8])]| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(names[usize::from(*name) % names.len()], value);
            }
        }
        headers
    };
    let (response, request) = (fields(&RESPONSE, &response), fields(&REQUEST, &request));
    let says = ResponseDirectives::of(&response);
    let asks = RequestDirectives::of(&request);
    let plan = CachePlan {
        memory: ByteSize::from_mebibytes(1),
        object: ByteSize::from_mebibytes(1),
        heuristic_ms: 1000,
        stale_while_revalidate_ms: 1000,
        stale_if_error_ms: 1000,
    };
    let now = Moment { monotonic_ms: 0, wall_secs: 1_800_000_000 };
    if let Ok((terms, vary)) = Terms::of(&plan, &request, StatusCode::OK, &response, now, 0) {
        assert!(!says.no_store || says.must_understand);
        assert!(!says.private && !asks.no_store && !response.contains_key("set-cookie"));
        assert!(vary.matches(&request));
        terms.usage(&asks, u64::from(age_secs) * 1000);
        terms.usable_on_error(u64::from(age_secs) * 1000);
    }
    let _ = Vary::of(&response, &request);
    reply::part(&http::Method::GET, &request, StatusCode::OK, &response, Some(u64::from(age_secs)));
    if let Some(url) = normalise(url) {
        assert_eq!(normalise(&url).as_deref(), Some(&*url));
    }
});
