//! RFC 9111, section by section.

use http::StatusCode;
use mainstay_edge::cache::directives::RequestDirectives;
use mainstay_edge::cache::policy::{Moment, Refusal, Terms, Use};

use crate::stage::{START, Stage, date_at, headers, ok, plan, request, response};

const NOW: Moment = Moment { monotonic_ms: 0, wall_secs: START };

fn terms_of(status: u16, request: &[(&str, &str)], response: &[(&str, &str)]) -> Result<Terms, Refusal> {
    let status = StatusCode::from_u16(status).unwrap();
    Terms::of(&plan(), &headers(request), status, &headers(response), NOW, 0).map(|(terms, _)| terms)
}

fn lifetime(response: &[(&str, &str)]) -> Option<u64> {
    terms_of(200, &[], response).ok().map(|terms| terms.lifetime_ms / 1000)
}

const CC: &str = "cache-control";

#[test]
fn freshness_comes_from_the_first_of_s_maxage_max_age_and_expires() {
    let (now, later, before) = (date_at(0), date_at(90), date_at(-1000));
    assert_eq!(lifetime(&[(CC, "max-age=60, s-maxage=30"), ("expires", &later)]), Some(30));
    assert_eq!(lifetime(&[(CC, "max-age=60"), ("expires", &later)]), Some(60));
    assert_eq!(lifetime(&[("expires", &later), ("date", &now)]), Some(90));
    assert_eq!(lifetime(&[("expires", &later)]), Some(90));
    assert_eq!(lifetime(&[("expires", &later), ("date", &before)]), Some(1090));
    // In the past, or no date at all: worth keeping only to have it confirmed.
    assert_eq!(lifetime(&[("expires", "0")]), None);
    assert_eq!(lifetime(&[("expires", "0"), ("etag", "\"a\"")]), Some(0));
    assert_eq!(lifetime(&[("expires", &later), ("expires", "0"), ("etag", "\"a\"")]), Some(0));
    assert_eq!(lifetime(&[(CC, "max-age=5"), ("cdn-cache-control", "max-age=50")]), Some(50));
    assert_eq!(lifetime(&[]), None);
}

#[test]
fn heuristics_need_a_date_of_change_and_nobody_who_says_who_they_are() {
    let modified = date_at(-100);
    let old = date_at(-1_000_000);
    assert_eq!(lifetime(&[("last-modified", &modified)]), Some(10));
    assert_eq!(lifetime(&[("last-modified", &old)]), Some(60), "the plan's bound");
    for person in ["cookie", "authorization"] {
        assert!(terms_of(200, &[(person, "x")], &[("last-modified", &modified)]).is_err());
    }
    assert!(terms_of(302, &[], &[("last-modified", &modified)]).is_err());
    assert!(terms_of(404, &[], &[("last-modified", &modified)]).is_ok());
    assert_eq!(lifetime(&[("last-modified", &date_at(100))]), None);
    assert_eq!(lifetime(&[("etag", "\"a\"")]), None, "a tag alone is no leave");
}

#[test]
fn the_age_is_the_greater_of_what_is_told_and_what_is_seen() {
    let age = |fields: &[(&str, &str)], delay_ms| {
        let fields = [&[(CC, "max-age=999")], fields].concat();
        let (terms, _) =
            Terms::of(&plan(), &headers(&[]), StatusCode::OK, &headers(&fields), NOW, delay_ms).unwrap();
        terms.initial_age_ms
    };
    assert_eq!(age(&[], 500), 0);
    assert_eq!(age(&[("age", "7")], 500), 7500);
    assert_eq!(age(&[("date", &date_at(-9)), ("age", "7")], 500), 9000);
    assert_eq!(age(&[("date", &date_at(9))], 0), 0);
    assert_eq!(age(&[("age", "-1")], 0), 0);
}

#[test]
fn what_is_not_for_others_is_not_kept() {
    let fresh = (CC, "max-age=60");
    let refused = |status, request: &[(&str, &str)], fields: &[(&str, &str)]| {
        terms_of(status, request, fields).unwrap_err()
    };
    assert_eq!(refused(200, &[], &[(CC, "max-age=60, no-store")]), Refusal::NoStore);
    assert_eq!(refused(200, &[(CC, "no-store")], &[fresh]), Refusal::NoStore);
    assert_eq!(refused(200, &[], &[(CC, "max-age=60, private")]), Refusal::Private);
    assert_eq!(refused(200, &[], &[(CC, "max-age=60, private=\"x-user\"")]), Refusal::Private);
    assert_eq!(refused(200, &[], &[fresh, ("set-cookie", "a=1")]), Refusal::Private);
    assert_eq!(refused(200, &[], &[(CC, "public, max-age=60"), ("set-cookie", "a=1")]), Refusal::Private);
    assert_eq!(refused(200, &[("authorization", "x")], &[fresh]), Refusal::Private);
    assert_eq!(refused(200, &[("cookie", "a=1")], &[fresh, ("vary", "cookie")]), Refusal::Private);
    assert_eq!(refused(200, &[], &[fresh, ("vary", "*")]), Refusal::Vary);
    assert_eq!(refused(206, &[], &[fresh]), Refusal::Partial);
    assert_eq!(refused(200, &[], &[fresh, ("content-range", "bytes 0-1/2")]), Refusal::Partial);
    assert_eq!(refused(200, &[], &[fresh, ("trailer", "x")]), Refusal::Partial);
    for status in [201, 202, 226, 304, 400, 401, 403, 429, 500, 502, 503, 504] {
        assert_eq!(refused(status, &[], &[fresh]), Refusal::Status, "{status}");
    }
}

#[test]
fn what_answers_an_authorised_request_is_kept_if_it_says_so() {
    for says in ["public, max-age=1", "s-maxage=1", "must-revalidate, max-age=1"] {
        let terms = terms_of(200, &[("authorization", "x")], &[(CC, says)]).unwrap();
        assert!(terms.authorized, "{says}");
    }
    assert!(terms_of(200, &[], &[(CC, "max-age=1, no-store, must-understand")]).is_ok());
}

#[test]
fn statuses_that_are_kept_are_those_of_the_list() {
    for status in [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501] {
        assert!(terms_of(status, &[], &[(CC, "max-age=1")]).is_ok(), "{status}");
    }
}

fn usage(says: &str, request: &str, age_secs: u64) -> Use {
    let terms = terms_of(200, &[], &[(CC, says), ("etag", "\"a\"")]).unwrap();
    let request = if request.is_empty() { headers(&[]) } else { headers(&[(CC, request)]) };
    terms.usage(&RequestDirectives::of(&request), age_secs * 1000)
}

#[test]
fn what_is_fresh_is_given_and_what_is_stale_only_as_allowed() {
    assert_eq!(usage("max-age=60", "", 59), Use::Fresh);
    assert_eq!(usage("max-age=60", "", 60), Use::StaleWhileRevalidate, "the plan's ten seconds");
    assert_eq!(usage("max-age=60", "", 70), Use::Validate);
    assert_eq!(usage("max-age=60, stale-while-revalidate=100", "", 159), Use::StaleWhileRevalidate);
    assert_eq!(usage("max-age=60, stale-while-revalidate=0", "", 60), Use::Validate);
    assert_eq!(usage("s-maxage=60", "", 60), Use::Validate, "no stale shared responses by default");
    assert_eq!(usage("s-maxage=60, stale-while-revalidate=5", "", 64), Use::StaleWhileRevalidate);
    for never in ["must-revalidate", "proxy-revalidate"] {
        assert_eq!(usage(&format!("max-age=60, stale-while-revalidate=9, {never}"), "", 60), Use::Validate);
        assert_eq!(usage(&format!("max-age=60, {never}"), "max-stale", 60), Use::Validate);
    }
    assert_eq!(usage("max-age=60, no-cache", "", 0), Use::Validate);
    assert_eq!(usage("max-age=0", "", 0), Use::Validate);
}

#[test]
fn requests_may_ask_for_more_or_for_less() {
    assert_eq!(usage("max-age=60", "no-cache", 0), Use::Validate);
    assert_eq!(usage("max-age=60", "max-age=10", 10), Use::Fresh);
    assert_eq!(usage("max-age=60", "max-age=10", 11), Use::Validate);
    assert_eq!(usage("max-age=60", "min-fresh=10", 50), Use::Fresh);
    assert_eq!(usage("max-age=60", "min-fresh=10", 51), Use::Validate);
    assert_eq!(usage("s-maxage=60", "max-stale=10", 70), Use::Stale);
    assert_eq!(usage("s-maxage=60", "max-stale=10", 71), Use::Validate);
    assert_eq!(usage("s-maxage=60", "max-stale", 7100), Use::Stale);
}

#[test]
fn a_failing_origin_is_covered_as_long_as_allowed() {
    let usable = |says: &str, age_secs: u64| {
        terms_of(200, &[], &[(CC, says), ("etag", "\"a\"")]).unwrap().usable_on_error(age_secs * 1000)
    };
    assert!(usable("max-age=60", 659));
    assert!(!usable("max-age=60", 660));
    assert!(usable("max-age=60, stale-if-error=5", 64));
    assert!(!usable("max-age=60, stale-if-error=5", 65));
    assert!(!usable("max-age=60, must-revalidate", 61));
    assert!(!usable("no-cache", 0));
    assert!(!usable("max-age=0", 1), "what was never fresh is not covered by default");
}

#[test]
fn a_second_request_is_answered_from_the_cache_with_its_age() {
    let stage = Stage::new();
    let first = stage.get("/a?b", &[], ok(&[(CC, "max-age=60"), ("x-a", "1"), ("x-request-id", "7")]));
    assert_eq!((first.outcome(), first.field("age")), ("miss", ""));
    assert_eq!(first.field("cache-status"), "Mainstay; fwd=uri-miss; fwd-status=200; ttl=60; stored");
    stage.pass_secs(7);
    let second = stage.hit("//./a?b", &[]);
    assert_eq!((second.outcome(), second.body.as_str(), second.field("x-a")), ("hit", "hello", "1"));
    assert_eq!((second.field("age"), second.field("cache-status")), ("7", "Mainstay; hit; ttl=53"));
    assert_eq!((second.field("date"), second.field("x-request-id")), (date_at(0).as_str(), ""));
}

#[test]
fn conditions_and_ranges_are_answered_from_the_cache() {
    let stage = Stage::new();
    let modified = date_at(-100);
    let kept = [
        (CC, "max-age=60"),
        ("etag", "\"a\""),
        ("last-modified", &*modified),
        ("content-type", "text/plain"),
    ];
    assert_eq!(stage.get("/", &[("if-none-match", "\"b\"")], ok(&kept)).status, 200);
    let unchanged = stage.hit("/", &[("if-none-match", "W/\"a\"")]);
    assert_eq!((unchanged.status.as_u16(), unchanged.body.as_str()), (304, ""));
    assert_eq!((unchanged.field("etag"), unchanged.field("content-type")), ("\"a\"", ""));
    assert_eq!(stage.hit("/", &[("if-modified-since", &modified)]).status, 304);
    assert_eq!(stage.hit("/", &[("if-modified-since", &date_at(-101))]).status, 200);
    let part = stage.hit("/", &[("range", "bytes=1-3")]);
    assert_eq!(
        (part.status.as_u16(), part.body.as_str(), part.field("content-range")),
        (206, "ell", "bytes 1-3/5")
    );
    let none = stage.hit("/", &[("range", "bytes=9-")]);
    assert_eq!((none.status.as_u16(), none.field("content-range")), (416, "bytes */5"));
    assert_eq!(stage.hit("/", &[("range", "bytes=1-3"), ("if-range", "\"b\"")]).body, "hello");
    assert_eq!(stage.hit("/", &[("range", "bytes=0-1,3-3")]).status, 200);
    let head = stage.ask(request("HEAD", "/", &[]), |_| async { panic!("the origin was asked") });
    assert_eq!((head.status.as_u16(), head.body.as_str(), head.field("content-length")), (200, "", "5"));
}

#[test]
fn a_client_that_has_the_page_learns_so_also_when_the_cache_had_to_fetch_it() {
    let stage = Stage::new();
    let asked = stage.ask(request("GET", "/", &[("if-none-match", "\"a\"")]), |request| async move {
        assert!(!request.headers.contains_key("if-none-match"));
        ok(&[(CC, "max-age=60"), ("etag", "\"a\"")])
    });
    assert_eq!(asked.status, 304);
    assert_eq!(stage.hit("/", &[]).body, "hello");
    let private =
        stage.get("/private", &[("if-none-match", "\"a\"")], ok(&[(CC, "private"), ("etag", "\"a\"")]));
    assert_eq!(private.status, 304);
}

#[test]
fn a_stale_response_is_confirmed_by_the_origin_and_fresh_again() {
    let stage = Stage::new();
    stage.get("/", &[], ok(&[(CC, "max-age=60, must-revalidate"), ("etag", "\"a\""), ("x-a", "1")]));
    stage.pass_secs(61);
    let confirmed = stage.ask(request("GET", "/", &[("range", "bytes=0-0")]), |request| async move {
        assert_eq!(request.headers["if-none-match"], "\"a\"");
        assert!(!request.headers.contains_key("range"));
        response(304, &[(CC, "max-age=30"), ("etag", "\"a\""), ("x-a", "2")], "")
    });
    assert_eq!(
        (confirmed.outcome(), confirmed.body.as_str(), confirmed.status.as_u16()),
        ("revalidated", "h", 206)
    );
    assert_eq!(confirmed.field("cache-status"), "Mainstay; fwd=stale; fwd-status=304; ttl=30; stored");
    stage.pass_secs(29);
    assert_eq!(stage.hit("/", &[]).field("x-a"), "2");
    stage.pass_secs(20);
    let replaced = stage.get("/", &[], response(200, &[(CC, "max-age=30")], "new"));
    assert_eq!((replaced.outcome(), replaced.body.as_str()), ("expired", "new"));
    assert_eq!(stage.hit("/", &[]).body, "new");
}

#[test]
fn a_confirmation_that_forbids_keeping_is_obeyed() {
    for fields in [&[(CC, "private")][..], &[("set-cookie", "a=1")], &[("etag", "\"b\"")]] {
        let stage = Stage::new();
        stage.get("/", &[], ok(&[(CC, "s-maxage=60"), ("etag", "\"a\"")]));
        stage.pass_secs(61);
        let confirmed = stage.get("/", &[], response(304, fields, ""));
        assert_eq!((confirmed.body.as_str(), stage.cache.size()), ("hello", (0, 0)), "{fields:?}");
        assert_eq!(confirmed.headers.contains_key("set-cookie"), fields[0].0 == "set-cookie");
    }
}

#[test]
fn what_became_uncacheable_takes_the_old_one_with_it() {
    let stage = Stage::new();
    stage.get("/", &[], ok(&[(CC, "s-maxage=60")]));
    stage.pass_secs(61);
    stage.get("/", &[], response(200, &[(CC, "no-store")], "secret"));
    assert_eq!(stage.cache.size(), (0, 0));
    assert_eq!(stage.get("/", &[], response(200, &[(CC, "no-store")], "other")).body, "other");
}

#[test]
fn what_must_be_checked_is_checked_each_time() {
    let stage = Stage::new();
    stage.get("/", &[], ok(&[(CC, "no-cache"), ("etag", "\"a\"")]));
    for _ in 0..3 {
        let checked = stage.get("/", &[], response(304, &[], ""));
        assert_eq!((checked.outcome(), checked.body.as_str()), ("revalidated", "hello"));
    }
}

#[test]
fn variants_are_kept_apart() {
    let stage = Stage::new();
    let vary = [(CC, "max-age=60"), ("vary", "accept-language")];
    assert_eq!(stage.get("/", &[("accept-language", "de")], response(200, &vary, "hallo")).outcome(), "miss");
    assert_eq!(
        stage.get("/", &[("accept-language", "en")], response(200, &vary, "hello")).outcome(),
        "vary_miss"
    );
    assert_eq!(stage.hit("/", &[("accept-language", "de")]).body, "hallo");
    assert_eq!(stage.hit("/", &[("accept-language", "en")]).body, "hello");
    assert_eq!(stage.get("/", &[], response(200, &vary, "?")).outcome(), "vary_miss");
}

#[test]
fn variants_of_one_url_are_bounded() {
    let stage = Stage::new();
    for number in 0..200 {
        let fields = [(CC, "max-age=60"), ("vary", "x-any")];
        stage.get("/", &[("x-any", &number.to_string())], ok(&fields));
    }
    assert_eq!(stage.cache.size().1, 32);
    stage.hit("/", &[("x-any", "199")]);
}

#[test]
fn coded_and_plain_forms_are_not_mixed_even_if_the_upstream_forgets_vary() {
    let stage = Stage::new();
    let coded = response(200, &[(CC, "max-age=60"), ("content-encoding", "gzip")], "coded");
    stage.get("/", &[("accept-encoding", "gzip, br")], coded);
    assert_eq!(stage.hit("/", &[("accept-encoding", "br, gzip;q=0.5")]).body, "coded");
    assert_eq!(stage.get("/", &[], ok(&[(CC, "max-age=60")])).body, "hello");
}

#[test]
fn unsafe_methods_invalidate() {
    let stage = Stage::new();
    let fresh = [(CC, "max-age=60")];
    for path in ["/a", "/a?x", "/b", "/c"] {
        stage.get(path, &[], ok(&fresh));
    }
    let post = |path: &str, answer| stage.ask(request("POST", path, &[]), |_| async { answer });
    assert_eq!(post("/a", response(403, &[], "")).outcome(), "pass_method");
    assert_eq!(stage.hit("/a", &[]).body, "hello");
    post("/a", response(303, &[("location", "/b"), ("content-location", "https://evil.test/c")], ""));
    for (path, there) in [("/a", false), ("/a?x", true), ("/b", false), ("/c", true)] {
        let got = stage.ask(request("GET", path, &[(CC, "only-if-cached")]), |_| async { panic!("asked") });
        assert_eq!(got.status == 200, there, "{path}");
    }
    let options = stage.ask(request("OPTIONS", "/c", &[]), |_| async { response(200, &[], "") });
    assert_eq!((options.outcome(), stage.hit("/c", &[]).status.as_u16()), ("pass_method", 200));
}

#[test]
fn one_who_says_who_they_are_gets_only_what_is_for_them_too() {
    let stage = Stage::new();
    stage.get("/plain", &[], ok(&[(CC, "max-age=60")]));
    stage.get("/public", &[], ok(&[(CC, "max-age=60, public")]));
    let person = [("authorization", "Basic x")];
    assert_eq!(stage.get("/plain", &person, response(200, &[(CC, "max-age=60")], "yours")).body, "yours");
    assert_eq!(stage.hit("/plain", &[]).body, "hello", "what was theirs was not kept");
    assert_eq!(stage.hit("/public", &person).body, "hello");
}

#[test]
fn a_page_that_only_looks_like_a_static_file_is_not_kept() {
    let stage = Stage::new();
    for path in ["/account/x.css", "/account/logo.png", "/account;.js", "/account%0a.css"] {
        let cookie = [("cookie", "session=1")];
        if mainstay_edge::cache::Key::of(&request("GET", path, &[]), true, &"r".into()).is_none() {
            continue;
        }
        stage.get(path, &cookie, response(200, &[("content-type", "text/css")], "secret"));
        assert_eq!(stage.get(path, &[], response(200, &[], "login")).body, "login", "{path}");
    }
    assert_eq!(stage.cache.size(), (0, 0));
}

#[test]
fn requests_that_could_poison_a_url_are_not_looked_up() {
    let stage = Stage::new();
    let fresh = [(CC, "max-age=60")];
    for poison in [("x-http-method-override", "POST"), ("x-original-url", "/admin"), ("if-match", "\"a\"")] {
        assert_eq!(stage.get("/", &[poison], response(200, &fresh, "poison")).outcome(), "pass");
    }
    let mut fat = request("GET", "/", &[]);
    fat.body = mainstay_http::Body::Full("x=1".into());
    assert_eq!(
        stage.ask(fat, |_| async { response(200, &[(CC, "max-age=60")], "poison") }).outcome(),
        "pass"
    );
    let mut port = request("GET", "/", &[]);
    port.headers.insert("host", "a.test:1337".parse().unwrap());
    stage.ask(port, |_| async { response(200, &[(CC, "max-age=60")], "link to :1337") });
    assert_eq!(stage.get("/", &[], ok(&fresh)).body, "hello");
}

#[test]
fn parts_and_other_methods_are_not_kept() {
    let stage = Stage::new();
    let part = response(206, &[(CC, "max-age=60"), ("content-range", "bytes 0-0/5")], "h");
    assert_eq!(stage.get("/", &[("range", "bytes=0-0")], part).status, 206);
    stage.ask(request("HEAD", "/", &[]), |_| async { response(200, &[(CC, "max-age=60")], "") });
    stage.ask(request("POST", "/", &[]), |_| async { ok(&[(CC, "max-age=60")]) });
    assert_eq!(stage.cache.size(), (0, 0));
}

#[test]
fn a_client_may_refuse_to_wait_for_the_origin() {
    let stage = Stage::new();
    let only = stage.hit("/", &[(CC, "only-if-cached")]);
    assert_eq!((only.status.as_u16(), only.outcome()), (504, "only_if_cached"));
}

#[test]
fn purging_is_by_url_by_beginning_or_of_all() {
    let stage = Stage::new();
    let fill = || ["/a", "/a/b", "/c"].map(|path| stage.get(path, &[], ok(&[(CC, "max-age=60")])).status);
    fill();
    assert_eq!(stage.cache.purge_url("HTTPS://A.test/./a"), Some(1));
    assert_eq!(stage.cache.purge_prefix("https://a.test/a"), Some(1));
    assert_eq!((stage.cache.purge_all(), stage.cache.size()), (1, (0, 0)));
    assert_eq!(stage.cache.purge_url("/a"), None);
    fill();
    assert_eq!(stage.cache.size().1, 3);
    assert_eq!(stage.metric("mainstay_edge_cache_entries"), 3);
    assert_eq!(stage.metric("mainstay_edge_cache_purged_total"), 3);
}
