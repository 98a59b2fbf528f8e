//! Any bytes as a greeting, a login, a change of user: never a panic, and what was read can be written and read again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use mainstay_sqlrouter::wire::handshake::{ChangeUser, Greeting, Login, parse_switch, tls_request};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(login) = Login::parse(bytes) {
        // Lengths of one byte do not hold what a length-encoded one held.
        if login.response.len() < 256 && !login.account.contains(&0) {
            let mut out = BytesMut::new();
            login.put(&mut out);
            let _ = Login::parse(&out);
        }
    }
    let _ = (Greeting::parse(bytes), parse_switch(bytes), tls_request(bytes));
    for capabilities in [0, u64::MAX] {
        let _ = ChangeUser::parse(bytes, capabilities);
    }
});
