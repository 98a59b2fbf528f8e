//! Any path and body as a request to the embedded coordinator: never a panic, and what a request changed is the same when the
//! record of it is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mainstay_coordinator::embedded::read_request;

const PATHS: [&str; 12] = [
    "/v3/kv/range", "/v3/kv/put", "/v3/kv/deleterange", "/v3/kv/txn", "/v3/kv/compaction", "/v3/lease/grant",
    "/v3/lease/keepalive", "/v3/lease/revoke", "/v3/lease/timetolive", "/v3/lease/leases", "/v3/maintenance/status",
    "/v3/watch",
];

fuzz_target!(|input: &[u8]| {
    let Some((which, body)) = input.split_first() else { return };
    match PATHS.get(usize::from(*which)) {
        Some(path) => read_request(path, body),
        None => read_request(&String::from_utf8_lossy(body), b"{}"),
    };
});
