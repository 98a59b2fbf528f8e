use http::header::COOKIE;
use mainstay_site::plan::edge::BalancePlan;
use proptest::prelude::*;

use super::*;

const SECRET: &str = "a secret of thirty-two characters";

fn group(name: &str, upstreams: usize) -> UpstreamGroup {
    let mut group = crate::balance::tests::group(BalancePlan::RoundRobin, &vec![1; upstreams]);
    group.name = name.to_owned();
    group
}

fn sticky(group: &UpstreamGroup, secret: &str) -> Sticky {
    let plan = StickyPlan { cookie: "srv".to_owned(), max_age_secs: 0 };
    Sticky::new(&plan, group, secret).unwrap()
}

fn value(sticky: &Sticky, index: usize) -> String {
    let field = sticky.set_cookie(index, false).unwrap();
    let pair = field.to_str().unwrap().split(';').next().unwrap();
    pair.strip_prefix("srv=").unwrap().to_owned()
}

fn fields(lines: &[&str]) -> HeaderMap {
    lines.iter().map(|line| (COOKIE, HeaderValue::from_bytes(line.as_bytes()).unwrap())).collect()
}

#[test]
fn the_cookie_leads_back_to_its_upstream() {
    let sticky = sticky(&group("web", 3), SECRET);
    for index in 0..3 {
        let value = value(&sticky, index);
        let sent = fields(&[&format!("lang=de; srv={value}; theme=dark")]);
        assert_eq!(sticky.upstream(&sent), Some(index));
        // h2 splits them; some clients quote them.
        assert_eq!(sticky.upstream(&fields(&["lang=de", &format!("srv=\"{value}\"")])), Some(index));
    }
    assert_eq!(sticky.set_cookie(3, false), None);
}

#[test]
fn the_field_has_what_browsers_want() {
    let group = group("web", 1);
    let set = |secure, max_age_secs| {
        let plan = StickyPlan { cookie: "srv".to_owned(), max_age_secs };
        let field = Sticky::new(&plan, &group, SECRET).unwrap().set_cookie(0, secure).unwrap();
        field.to_str().unwrap().split_once(';').unwrap().1.to_owned()
    };
    assert_eq!(set(false, 0), " Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(set(true, 3600), " Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=3600");
}

#[test]
fn an_upstream_keeps_its_cookie_when_it_moves_and_tells_no_name() {
    let mut group = group("web", 3);
    let before = value(&sticky(&group, SECRET), 2);
    group.upstreams[2].address = "192.0.2.9:8080".parse().unwrap();
    group.upstreams.remove(0);
    let after = sticky(&group, SECRET);
    assert_eq!(after.upstream(&fields(&[&format!("srv={before}")])), Some(1));
    group.upstreams.remove(1);
    assert_eq!(sticky(&group, SECRET).upstream(&fields(&[&format!("srv={before}")])), None);
    assert!(!before.contains("web"));
}

#[test]
fn a_cookie_of_another_group_or_site_is_none() {
    let web = sticky(&group("web", 2), SECRET);
    for other in [sticky(&group("api", 2), SECRET), sticky(&group("web", 2), "another secret")] {
        assert_eq!(web.upstream(&fields(&[&format!("srv={}", value(&other, 0))])), None);
    }
}

#[test]
fn a_genuine_one_is_found_among_a_few_others_but_not_among_many() {
    let sticky = sticky(&group("web", 2), SECRET);
    let good = value(&sticky, 1);
    let among = |others: usize| format!("{}srv={good}", "srv=0; ".repeat(others));
    assert_eq!(sticky.upstream(&fields(&[&among(3)])), Some(1));
    assert_eq!(sticky.upstream(&fields(&[&among(4)])), None);
    let late = format!("{}srv={good}", "a=1;".repeat(300));
    assert_eq!(sticky.upstream(&fields(&[&late])), None);
}

#[test]
fn a_name_that_would_split_the_field_is_refused() {
    for name in ["", "a b", "a;b", "a=b", "a\r\nSet-Cookie: x", "é"] {
        let plan = StickyPlan { cookie: name.to_owned(), max_age_secs: 0 };
        assert!(Sticky::new(&plan, &group("web", 1), SECRET).is_err(), "{name:?}");
    }
}

proptest! {
    #[test]
    fn no_altered_cookie_is_genuine(index in 0_usize..3, place in 0_usize..49, byte: u8) {
        let sticky = sticky(&group("web", 3), SECRET);
        let mut altered = value(&sticky, index).into_bytes();
        prop_assume!(altered[place] != byte);
        altered[place] = byte;
        prop_assert_eq!(sticky.read(&altered), None);
    }

    #[test]
    fn no_part_or_mixture_of_cookies_is_genuine(cut in 0_usize..49, insert in proptest::collection::vec(any::<u8>(), 0..4)) {
        let sticky = sticky(&group("web", 3), SECRET);
        let (one, other) = (value(&sticky, 0), value(&sticky, 1));
        prop_assert_eq!(sticky.read(&one.as_bytes()[..cut]), None);
        let mixed = [&one.as_bytes()[..cut], &other.as_bytes()[cut..]].concat();
        if mixed != one.as_bytes() && mixed != other.as_bytes() {
            prop_assert_eq!(sticky.read(&mixed), None);
        }
        if !insert.is_empty() {
            let longer = [&one.as_bytes()[..cut], &insert, &one.as_bytes()[cut..]].concat();
            prop_assert_eq!(sticky.read(&longer), None);
        }
    }

    #[test]
    fn garbage_is_passed_over(lines in proptest::collection::vec(proptest::collection::vec(0x20_u8..0xff, 0..200), 0..5)) {
        let sticky = sticky(&group("web", 3), SECRET);
        let mut sent = HeaderMap::new();
        for line in &lines {
            if let Ok(line) = HeaderValue::from_bytes(line) {
                sent.append(COOKIE, line);
            }
        }
        prop_assert_eq!(sticky.upstream(&sent), None);
        sent.append(COOKIE, HeaderValue::try_from(format!("srv={}", value(&sticky, 1))).unwrap());
        prop_assert_eq!(sticky.upstream(&sent), Some(1));
    }
}
