//! What is answered to which question, without a socket: one zone, one query, one response.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use mainstay_dns::{Answered, Kind, Transport, ZoneError, Zones, answer};
use mainstay_site::plan::{self, RecordData, Soa};
use proptest::prelude::*;

const SITE: &str = "foobar.com";

fn zone(apex: &str, records: Vec<plan::Record>) -> plan::Zone {
    let below = |label: &str| if apex.is_empty() { label.to_owned() } else { format!("{label}.{apex}") };
    let soa = Soa {
        primary: below("ns1"),
        mailbox: below("hostmaster"),
        serial: 2026,
        refresh: 3600,
        retry: 600,
        expire: 86400,
        minimum: 30,
    };
    plan::Zone { apex: apex.to_owned(), soa, records }
}

fn record(name: &str, data: RecordData) -> plan::Record {
    plan::Record { name: name.to_owned(), ttl: 60, data }
}

fn a(name: &str, last: u8) -> plan::Record {
    record(name, RecordData::A { address: Ipv4Addr::new(10, 10, 0, last) })
}

fn ns(name: &str, target: &str) -> plan::Record {
    record(name, RecordData::Ns { target: target.to_owned() })
}

fn cname(name: &str, target: &str) -> plan::Record {
    record(name, RecordData::Cname { target: target.to_owned() })
}

fn txt(name: &str, text: &str) -> plan::Record {
    record(name, RecordData::Txt { text: text.to_owned() })
}

/// The zone of the stories.
fn site() -> Zones {
    let mut records = vec![
        ns("foobar.com", "ns1.foobar.com"),
        a("foobar.com", 11),
        a("ns1.foobar.com", 11),
        a("www.foobar.com", 11),
        record("www.foobar.com", RecordData::Aaaa { address: Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0x11) }),
        record("foobar.com", RecordData::Mx { preference: 10, target: "mail.foobar.com".into() }),
        record("foobar.com", RecordData::Mx { preference: 20, target: "mx.elsewhere.net".into() }),
        a("mail.foobar.com", 25),
        record(
            "foobar.com",
            RecordData::Caa { critical: true, tag: "issue".into(), value: "letsencrypt.org".into() },
        ),
        txt("foobar.com", "v=spf1 mx -all"),
        txt("long.foobar.com", &"x".repeat(600)),
        cname("blog.foobar.com", "www.foobar.com"),
        cname("chain.foobar.com", "blog.foobar.com"),
        cname("away.foobar.com", "www.elsewhere.net"),
        cname("dangling.foobar.com", "nowhere.foobar.com"),
        cname("loop1.foobar.com", "loop2.foobar.com"),
        cname("loop2.foobar.com", "loop1.foobar.com"),
        cname("into.foobar.com", "host.sub.foobar.com"),
        a("deep.empty.foobar.com", 40),
        a("*.wild.foobar.com", 50),
        txt("*.wild.foobar.com", "wild"),
        a("known.wild.foobar.com", 51),
        a("x.closed.wild.foobar.com", 52),
        ns("sub.foobar.com", "ns.sub.foobar.com"),
        ns("sub.foobar.com", "ns1.foobar.com"),
        a("ns.sub.foobar.com", 60),
        a("hidden.sub.foobar.com", 61),
    ];
    records.extend((0..60).map(|last| a("many.foobar.com", last)));
    Zones::new(&[zone(SITE, records)]).unwrap()
}

fn root() -> Zones {
    let records =
        vec![ns("", "a.root"), a("a.root", 1), ns("foobar.com", "ns1.foobar.com"), a("ns1.foobar.com", 11)];
    Zones::new(&[zone("", records)]).unwrap()
}

fn query(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

fn respond(zones: &Zones, query: &Message, transport: Transport) -> (Message, Answered, usize) {
    let mut response = Vec::new();
    let answered = answer(zones, &query.to_vec().unwrap(), transport, &mut response).expect("a response");
    let message = Message::from_vec(&response).unwrap();
    assert_eq!(message.id, query.id);
    assert_eq!(message.message_type, MessageType::Response);
    assert!(!message.recursion_available);
    (message, answered, response.len())
}

fn ask_at(zones: &Zones, name: &str, record_type: RecordType) -> Message {
    respond(zones, &query(name, record_type), Transport::Udp).0
}

fn ask(name: &str, record_type: RecordType) -> Message {
    ask_at(&site(), name, record_type)
}

fn assert_negative(response: &Message, code: ResponseCode) {
    assert_eq!(response.response_code, code);
    assert!(response.authoritative);
    assert!(response.answers.is_empty());
    let [soa] = response.authorities.as_slice() else { panic!("one SOA, not {:?}", response.authorities) };
    assert_eq!((soa.record_type(), soa.ttl), (RecordType::SOA, 30));
    assert_eq!(soa.name, Name::from_ascii("foobar.com.").unwrap());
}

fn owners(records: &[hickory_proto::rr::Record]) -> Vec<String> {
    records.iter().map(|record| format!("{} {}", record.name, record.record_type())).collect()
}

#[test]
fn each_type_of_the_zone_is_answered_with_authority() {
    for (name, record_type, count) in [
        ("www.foobar.com.", RecordType::A, 1),
        ("www.foobar.com.", RecordType::AAAA, 1),
        ("foobar.com.", RecordType::NS, 1),
        ("foobar.com.", RecordType::SOA, 1),
        ("foobar.com.", RecordType::MX, 2),
        ("foobar.com.", RecordType::CAA, 1),
        ("foobar.com.", RecordType::TXT, 1),
        ("blog.foobar.com.", RecordType::CNAME, 1),
    ] {
        let response = ask(name, record_type);
        assert_eq!(response.response_code, ResponseCode::NoError, "{name} {record_type}");
        assert!(response.authoritative);
        assert_eq!(response.answers.len(), count, "{name} {record_type}");
        assert!(response.answers.iter().all(|record| record.record_type() == record_type));
        assert!(response.authorities.is_empty());
    }
}

#[test]
fn a_record_says_what_the_plan_says() {
    let response = ask("foobar.com.", RecordType::CAA);
    let RData::CAA(caa) = &response.answers[0].data else { panic!("no CAA") };
    assert!(caa.issuer_critical);
    assert_eq!((caa.tag.as_str(), caa.value.as_slice()), ("issue", &b"letsencrypt.org"[..]));
    let response = ask("foobar.com.", RecordType::SOA);
    let RData::SOA(soa) = &response.answers[0].data else { panic!("no SOA") };
    assert_eq!((soa.serial, soa.minimum), (2026, 30));
}

#[test]
fn long_text_is_split_into_strings_of_255_bytes() {
    let (response, ..) = respond(&site(), &query("long.foobar.com.", RecordType::TXT), Transport::Tcp);
    let RData::TXT(text) = &response.answers[0].data else { panic!("no TXT") };
    assert_eq!(text.txt_data.iter().map(|part| part.len()).collect::<Vec<_>>(), [255, 255, 90]);
}

#[test]
fn names_match_in_any_case_and_come_back_as_they_were_asked() {
    let asked = query("wWw.FOOBAR.cOm.", RecordType::A);
    let (response, ..) = respond(&site(), &asked, Transport::Udp);
    assert!(response.queries[0].name.eq_case(&asked.queries[0].name));
    assert!(response.answers[0].name.eq_case(&asked.queries[0].name));
}

#[test]
fn an_alias_is_followed_inside_the_zone() {
    let response = ask("chain.foobar.com.", RecordType::A);
    assert_eq!(
        owners(&response.answers),
        ["chain.foobar.com. CNAME", "blog.foobar.com. CNAME", "www.foobar.com. A"]
    );
    let response = ask("away.foobar.com.", RecordType::A);
    assert_eq!(owners(&response.answers), ["away.foobar.com. CNAME"]);
    assert_eq!(response.response_code, ResponseCode::NoError);
}

#[test]
fn an_alias_to_nothing_says_so() {
    let response = ask("dangling.foobar.com.", RecordType::A);
    // RFC 6604: the code is that of the last name of the chain.
    assert_eq!(response.response_code, ResponseCode::NXDomain);
    assert_eq!(owners(&response.answers), ["dangling.foobar.com. CNAME"]);
    assert_eq!(owners(&response.authorities), ["foobar.com. SOA"]);
    let response = ask("blog.foobar.com.", RecordType::MX);
    assert_eq!(response.response_code, ResponseCode::NoError);
    assert_eq!(owners(&response.authorities), ["foobar.com. SOA"]);
}

#[test]
fn aliases_in_a_circle_end() {
    let response = ask("loop1.foobar.com.", RecordType::A);
    assert!(response.answers.len() <= 8);
    assert_eq!(response.response_code, ResponseCode::NoError);
}

#[test]
fn an_alias_into_another_zone_comes_with_the_referral() {
    let response = ask("into.foobar.com.", RecordType::A);
    assert!(response.authoritative);
    assert_eq!(owners(&response.answers), ["into.foobar.com. CNAME"]);
    assert!(response.authorities.iter().all(|record| record.record_type() == RecordType::NS));
}

#[test]
fn a_name_that_does_not_exist_and_a_type_that_does_not_are_told_apart() {
    assert_negative(&ask("nowhere.foobar.com.", RecordType::A), ResponseCode::NXDomain);
    assert_negative(&ask("www.foobar.com.", RecordType::MX), ResponseCode::NoError);
    // An empty non-terminal exists: `deep.empty` is below it.
    assert_negative(&ask("empty.foobar.com.", RecordType::A), ResponseCode::NoError);
    assert_negative(&ask("www.foobar.com.", RecordType::DS), ResponseCode::NoError);
}

#[test]
fn a_wildcard_stands_for_what_does_not_exist_and_for_nothing_else() {
    let response = ask("any.thing.wild.foobar.com.", RecordType::A);
    assert_eq!(owners(&response.answers), ["any.thing.wild.foobar.com. A"]);
    assert_eq!(owners(&ask("any.wild.foobar.com.", RecordType::TXT).answers), ["any.wild.foobar.com. TXT"]);
    assert_negative(&ask("any.wild.foobar.com.", RecordType::MX), ResponseCode::NoError);
    // A name that exists is not covered, not even for types it does not have ...
    assert_negative(&ask("known.wild.foobar.com.", RecordType::TXT), ResponseCode::NoError);
    // ... nor are the names below it, nor below an empty non-terminal (RFC 4592, 2.2.1).
    assert_negative(&ask("below.known.wild.foobar.com.", RecordType::A), ResponseCode::NXDomain);
    assert_negative(&ask("y.closed.wild.foobar.com.", RecordType::A), ResponseCode::NXDomain);
    assert_negative(&ask("closed.wild.foobar.com.", RecordType::A), ResponseCode::NoError);
    assert_negative(&ask("wild.foobar.com.", RecordType::A), ResponseCode::NoError);
    assert_eq!(owners(&ask("*.wild.foobar.com.", RecordType::A).answers), ["*.wild.foobar.com. A"]);
}

#[test]
fn names_below_a_cut_are_referred_to_who_has_them() {
    for name in ["sub.foobar.com.", "host.sub.foobar.com.", "hidden.sub.foobar.com.", "ns.sub.foobar.com."] {
        let (response, answered, _) = respond(&site(), &query(name, RecordType::A), Transport::Udp);
        assert_eq!(answered.kind, Kind::Referral, "{name}");
        assert!(!response.authoritative && response.answers.is_empty(), "{name}");
        assert_eq!(owners(&response.authorities), ["sub.foobar.com. NS", "sub.foobar.com. NS"]);
        assert_eq!(owners(&response.additionals), ["ns.sub.foobar.com. A", "ns1.foobar.com. A"]);
    }
    assert_negative(&ask("sub.foobar.com.", RecordType::DS), ResponseCode::NoError);
}

#[test]
fn the_root_zone_delegates_the_site() {
    let response = ask_at(&root(), "www.foobar.com.", RecordType::A);
    assert!(!response.authoritative);
    assert_eq!(owners(&response.authorities), ["foobar.com. NS"]);
    assert_eq!(owners(&response.additionals), ["ns1.foobar.com. A"]);
    let priming = ask_at(&root(), ".", RecordType::NS);
    assert_eq!(
        (owners(&priming.answers), owners(&priming.additionals)),
        (vec![". NS".into()], vec!["a.root. A".into()])
    );
    assert_eq!(ask_at(&root(), "example.org.", RecordType::A).response_code, ResponseCode::NXDomain);
    assert_eq!(ask_at(&root(), "com.", RecordType::A).response_code, ResponseCode::NoError);
}

#[test]
fn ds_is_asked_of_the_parent() {
    let parent = zone("com", vec![ns("foobar.com", "ns1.foobar.com"), a("ns1.foobar.com", 11)]);
    let child = zone(SITE, vec![ns("foobar.com", "ns1.foobar.com"), a("ns1.foobar.com", 11)]);
    let zones = Zones::new(&[parent, child]).unwrap();
    let response = ask_at(&zones, "foobar.com.", RecordType::DS);
    assert_eq!(owners(&response.authorities), ["com. SOA"]);
    assert_eq!(owners(&ask_at(&zones, "foobar.com.", RecordType::NS).answers), ["foobar.com. NS"]);
}

#[test]
fn servers_for_names_and_mail_come_with_their_addresses() {
    assert_eq!(owners(&ask("foobar.com.", RecordType::NS).additionals), ["ns1.foobar.com. A"]);
    assert_eq!(owners(&ask("foobar.com.", RecordType::MX).additionals), ["mail.foobar.com. A"]);
}

#[test]
fn any_gets_one_set_of_records() {
    let response = ask("www.foobar.com.", RecordType::ANY);
    assert_eq!(owners(&response.answers), ["www.foobar.com. A"]);
    assert_negative(&ask("empty.foobar.com.", RecordType::ANY), ResponseCode::NoError);
    assert_negative(&ask("nowhere.foobar.com.", RecordType::ANY), ResponseCode::NXDomain);
}

#[test]
fn what_is_not_ours_is_refused() {
    for (name, record_type) in [
        ("www.elsewhere.net.", RecordType::A),
        ("com.", RecordType::NS),
        (".", RecordType::NS),
        ("foobar.com.", RecordType::AXFR),
        ("foobar.com.", RecordType::IXFR),
    ] {
        let mut asked = query(name, record_type);
        asked.metadata.recursion_desired = true;
        let (response, answered, _) = respond(&site(), &asked, Transport::Tcp);
        assert_eq!(response.response_code, ResponseCode::Refused, "{name} {record_type}");
        assert_eq!(answered.kind, Kind::Error);
        assert!(response.recursion_desired && !response.authoritative);
        assert_eq!(response.queries.len(), 1);
    }
    let mut version = query("version.bind.", RecordType::TXT);
    version.queries[0].query_class = DNSClass::CH;
    assert_eq!(respond(&site(), &version, Transport::Udp).0.response_code, ResponseCode::Refused);
}

#[test]
fn other_operations_are_not_implemented() {
    for operation in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let mut asked = query("foobar.com.", RecordType::SOA);
        asked.metadata.op_code = operation;
        let (response, ..) = respond(&site(), &asked, Transport::Udp);
        assert_eq!((response.response_code, response.op_code), (ResponseCode::NotImp, operation));
    }
    for command in [RecordType::TSIG, RecordType::Unknown(249), RecordType::Unknown(253)] {
        assert_eq!(ask("foobar.com.", command).response_code, ResponseCode::NotImp, "{command}");
    }
}

#[test]
fn malformed_queries_get_an_error_and_no_echo_of_nonsense() {
    let zones = site();
    let mut response = Vec::new();
    let good = query("www.foobar.com.", RecordType::A).to_vec().unwrap();

    for cut in 12..good.len() {
        let answered = answer(&zones, &good[..cut], Transport::Udp, &mut response).unwrap();
        assert_eq!(answered.code, ResponseCode::FormErr, "cut at {cut}");
        assert_eq!(response.len(), 12);
    }
    for count in [0, 2, 255] {
        let mut message = good.clone();
        message[5] = count;
        let answered = answer(&zones, &message, Transport::Udp, &mut response).unwrap();
        assert_eq!(answered.code, ResponseCode::FormErr, "{count} questions");
    }
    let mut promised = good.clone();
    promised[11] = 1;
    answer(&zones, &promised, Transport::Udp, &mut response).unwrap();
    let message = Message::from_vec(&response).unwrap();
    assert_eq!((message.response_code, message.queries.len()), (ResponseCode::FormErr, 1));
}

#[test]
fn responses_and_scraps_are_met_with_silence() {
    let zones = site();
    let mut response = Vec::new();
    let mut good = query("www.foobar.com.", RecordType::A).to_vec().unwrap();
    for cut in 0..12 {
        assert!(answer(&zones, &good[..cut], Transport::Udp, &mut response).is_none());
    }
    good[2] |= 0x80;
    assert!(answer(&zones, &good, Transport::Udp, &mut response).is_none());
    assert!(response.is_empty());
}

fn with_edns(name: &str, record_type: RecordType, payload: u16) -> Message {
    let mut asked = query(name, record_type);
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    asked.set_edns(edns);
    asked
}

#[test]
fn edns_is_answered_with_edns_and_nothing_else_is() {
    let (response, ..) = respond(&site(), &with_edns("www.foobar.com.", RecordType::A, 4096), Transport::Udp);
    assert_eq!(response.edns.unwrap().max_payload(), 1232);
    assert!(ask("www.foobar.com.", RecordType::A).edns.is_none());
    let (refused, ..) = respond(&site(), &with_edns("elsewhere.net.", RecordType::A, 4096), Transport::Udp);
    assert!(refused.edns.is_some());
}

#[test]
fn an_unknown_version_of_edns_is_told_so() {
    let mut asked = with_edns("www.foobar.com.", RecordType::A, 4096);
    asked.edns.as_mut().unwrap().set_version(1);
    let (response, answered, _) = respond(&site(), &asked, Transport::Udp);
    assert_eq!(answered.code, ResponseCode::BADVERS);
    // The codec reads the same number as BADSIG, which means it only in a TSIG record.
    assert_eq!(u16::from(response.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(response.edns.as_ref().unwrap().version(), 0);
    assert!(response.answers.is_empty());
}

#[test]
fn the_wish_for_signatures_is_sent_back_and_nothing_is_signed() {
    let mut asked = with_edns("www.foobar.com.", RecordType::A, 4096);
    asked.edns.as_mut().unwrap().set_dnssec_ok(true);
    let (response, ..) = respond(&site(), &asked, Transport::Udp);
    assert!(response.edns.unwrap().flags().dnssec_ok);
    assert_eq!(response.answers.len(), 1);
}

#[test]
fn two_opt_records_are_malformed() {
    let mut bytes = with_edns("www.foobar.com.", RecordType::A, 4096).to_vec().unwrap();
    let opt = bytes[bytes.len() - 11..].to_vec();
    bytes.extend_from_slice(&opt);
    bytes[11] = 2;
    let mut response = Vec::new();
    let answered = answer(&site(), &bytes, Transport::Udp, &mut response).unwrap();
    assert_eq!(answered.code, ResponseCode::FormErr);
}

#[test]
fn a_response_is_cut_to_what_the_client_takes_and_1232_bytes_at_most() {
    let zones = site();
    let plain = respond(&zones, &query("many.foobar.com.", RecordType::A), Transport::Udp);
    assert!(plain.0.truncation && plain.1.truncated && plain.2 <= 512);
    assert!(plain.0.answers.is_empty() && plain.0.queries.len() == 1);
    // 60 addresses have some 1,000 bytes.
    let large = respond(&zones, &with_edns("many.foobar.com.", RecordType::A, 1100), Transport::Udp);
    assert!(!large.0.truncation && large.0.answers.len() == 60 && large.2 <= 1100);
    let small = respond(&zones, &with_edns("many.foobar.com.", RecordType::A, 900), Transport::Udp);
    assert!(small.0.truncation && small.0.edns.is_some());
    let tcp = respond(&zones, &query("many.foobar.com.", RecordType::A), Transport::Tcp);
    assert!(!tcp.0.truncation && tcp.0.answers.len() == 60);
}

#[test]
fn addresses_beside_the_answer_are_left_out_rather_than_the_answer() {
    let mut records = vec![];
    for server in 0..20 {
        records.push(ns("foobar.com", &format!("server-{server}.foobar.com")));
        records.push(a(&format!("server-{server}.foobar.com"), server));
    }
    let zones = Zones::new(&[zone(SITE, records.clone())]).unwrap();
    let (response, ..) = respond(&zones, &query("foobar.com.", RecordType::NS), Transport::Udp);
    assert!(!response.truncation && response.answers.len() == 20 && response.additionals.len() < 20);

    // In a referral they cannot be left out (RFC 9471).
    let root = Zones::new(&[zone("", records)]).unwrap();
    let (response, ..) = respond(&root, &query("www.foobar.com.", RecordType::A), Transport::Udp);
    assert!(response.truncation);
    let (response, ..) = respond(&root, &query("www.foobar.com.", RecordType::A), Transport::Tcp);
    assert_eq!(response.additionals.len(), 20);
}

#[test]
fn records_of_one_set_share_the_shortest_time_to_live_and_appear_once() {
    let mut long = a("www.foobar.com", 1);
    long.ttl = 600;
    let zones =
        Zones::new(&[zone(SITE, vec![long, a("WWW.foobar.com", 2), a("www.foobar.com", 1)])]).unwrap();
    let response = ask_at(&zones, "www.foobar.com.", RecordType::A);
    assert_eq!(response.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [60, 60]);
}

#[test]
fn zones_that_make_no_sense_are_refused() {
    let refused = |records| Zones::new(&[zone(SITE, records)]).unwrap_err();
    assert!(matches!(refused(vec![a("www.elsewhere.net", 1)]), ZoneError::Outside { .. }));
    assert!(matches!(refused(vec![a("www..foobar.com", 1)]), ZoneError::Name { .. }));
    assert!(matches!(refused(vec![a(&format!("{}.foobar.com", "x".repeat(64)), 1)]), ZoneError::Name { .. }));
    let mixed = vec![cname("www.foobar.com", "foobar.com"), a("www.foobar.com", 1)];
    assert!(matches!(refused(mixed), ZoneError::AliasNotAlone { .. }));
    assert!(matches!(refused(vec![cname("foobar.com", "x.foobar.com")]), ZoneError::AliasNotAlone { .. }));
    let tag = RecordData::Caa { critical: false, tag: "not a tag".into(), value: String::new() };
    assert!(matches!(refused(vec![record("foobar.com", tag)]), ZoneError::CaaTag { .. }));
    let twice = Zones::new(&[zone(SITE, vec![]), zone("FOOBAR.com", vec![])]);
    assert!(matches!(twice.unwrap_err(), ZoneError::Twice { .. }));
}

/// Checks what holds for every response to anything.
fn check_bounds(zones: &Zones, message: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut response = Vec::new();
        let Some(answered) = answer(zones, message, transport, &mut response) else {
            assert!(response.is_empty());
            continue;
        };
        let parsed = Message::from_vec(&response).expect("every response can be read");
        assert_eq!(response[..2], message[..2]);
        assert_eq!(parsed.truncation, answered.truncated);
        if transport == Transport::Udp {
            assert!(response.len() <= 1232, "{} bytes", response.len());
        }
    }
}

fn labels() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let known = prop::sample::select(vec![
        "www", "foobar", "com", "wild", "sub", "empty", "deep", "many", "loop1", "blog", "*", "closed",
    ]);
    let label = prop_oneof![
        8 => known.prop_map(|label| label.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..64),
    ];
    prop::collection::vec(label, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_it_panic(message in prop::collection::vec(any::<u8>(), 0..600)) {
        check_bounds(&site(), &message);
        check_bounds(&root(), &message);
    }

    #[test]
    fn queries_with_damage_are_answered_within_bounds(
        mut labels in labels(),
        within in any::<bool>(),
        record_type in prop_oneof![0..300_u16, Just(257)],
        edns in prop::option::of((any::<u16>(), any::<u8>())),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        if within {
            labels.extend([b"foobar".to_vec(), b"com".to_vec()]);
        }
        let Ok(name) = Name::from_labels(labels.iter().map(Vec::as_slice)) else { return Ok(()) };
        let mut asked = Message::new(1, MessageType::Query, OpCode::Query);
        asked.add_query(Query::query(name, RecordType::from(record_type)));
        if let Some((payload, version)) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_version(version);
            asked.set_edns(edns);
        }
        let mut message = asked.to_vec().unwrap();
        for (place, value) in damage {
            let place = place.index(message.len());
            message[place] = value;
        }
        if let Some(cut) = cut {
            message.truncate(cut.index(message.len()));
        }
        check_bounds(&site(), &message);
        check_bounds(&root(), &message);
    }
}
