//! Any bytes as a DNS query: never a panic, and every response is readable and within its bounds.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mainstay_dns::{Transport, Zones, answer};

/// A zone with one of everything that the search treats in its own way.
const ZONES: &str = r#"[{
    "apex": "foobar.com",
    "soa": {"primary": "ns1.foobar.com", "mailbox": "hostmaster.foobar.com", "serial": 1, "refresh": 1, "retry": 1,
            "expire": 1, "minimum": 1},
    "records": [
        {"name": "foobar.com", "ttl": 1, "data": {"type": "Ns", "target": "ns1.foobar.com"}},
        {"name": "ns1.foobar.com", "ttl": 1, "data": {"type": "A", "address": "10.10.0.11"}},
        {"name": "foobar.com", "ttl": 1, "data": {"type": "Mx", "preference": 1, "target": "ns1.foobar.com"}},
        {"name": "a.b.foobar.com", "ttl": 1, "data": {"type": "Aaaa", "address": "fd10::11"}},
        {"name": "c.foobar.com", "ttl": 1, "data": {"type": "Cname", "target": "d.foobar.com"}},
        {"name": "d.foobar.com", "ttl": 1, "data": {"type": "Cname", "target": "c.foobar.com"}},
        {"name": "*.w.foobar.com", "ttl": 1, "data": {"type": "Txt", "text": "wild"}},
        {"name": "s.foobar.com", "ttl": 1, "data": {"type": "Ns", "target": "n.s.foobar.com"}},
        {"name": "n.s.foobar.com", "ttl": 1, "data": {"type": "A", "address": "10.10.0.12"}}
    ]
}]"#;

static SITE: LazyLock<Zones> = LazyLock::new(|| {
    let plan: Vec<mainstay_site::plan::Zone> = serde_json::from_str(ZONES).expect("the zones above are JSON");
    Zones::new(&plan).expect("the zones above make sense")
});

fuzz_target!(|message: &[u8]| {
    for (transport, most) in [(Transport::Udp, 1232), (Transport::Tcp, 65535)] {
        let mut response = Vec::new();
        let Some(answered) = answer(&SITE, message, transport, &mut response) else {
            assert!(response.is_empty());
            continue;
        };
        assert!(response.len() <= most);
        let parsed = hickory_proto::op::Message::from_vec(&response).expect("a response can be read");
        assert_eq!(parsed.truncation, answered.truncated);
    }
});
