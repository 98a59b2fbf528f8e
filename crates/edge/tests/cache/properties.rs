//! What holds for any traffic.

use mainstay_site::ByteSize;
use proptest::prelude::*;

use crate::stage::{Stage, ask, local, ok, plan, request, response, settle};

/// A word that says whom a body was made for.
fn owner(cookie: Option<u8>, language: u8) -> String {
    format!("{cookie:?} {language}")
}

/// What an upstream says of its response; the number of each is a kind of origin.
const SAYS: [(&str, bool); 8] = [
    ("", true),
    ("private, max-age=60", true),
    ("no-store", true),
    ("max-age=60, private=\"x\"", true),
    ("no-cache, private", true),
    ("max-age=60", false),
    ("public, s-maxage=60", false),
    ("no-cache", false),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_private_reaches_another_one_and_no_variant_a_wrong_request(
        steps in proptest::collection::vec((0usize..8, 0u8..3, proptest::option::of(0u8..3), 0u8..3, 0u64..40), 1..60),
    ) {
        let stage = Stage::new();
        local(async {
            let worker = stage.worker();
            for (kind, place, cookie, language, passed) in steps {
                let (says, is_private) = SAYS[kind];
                // Each origin answers under URLs of its own.
                let path = format!("/{kind}/{place}.css");
                let language_text = language.to_string();
                let cookie_text = cookie.map(|cookie| format!("session={cookie}"));
                let mut fields = vec![("accept-language", language_text.as_str())];
                if let Some(cookie) = &cookie_text {
                    fields.push(("cookie", cookie));
                }
                let body = if is_private { owner(cookie, language) } else { owner(None, language) };
                let made = body.clone();
                let got = ask(&worker, request("GET", &path, &fields), move |_| async move {
                    let mut answer = response(200, &[("vary", "accept-language"), ("etag", &format!("\"{made}\""))], &made);
                    if !says.is_empty() {
                        answer.headers_mut().insert("cache-control", says.parse().unwrap());
                    }
                    answer
                }).await;
                assert_eq!(got.body, body, "kind {kind}: {}", got.outcome());
                if is_private {
                    assert!(!got.cache.stored && got.outcome() != "hit");
                }
                stage.pass_secs(passed);
                settle().await;
            }
        });
    }

    #[test]
    fn memory_stays_within_its_bound(
        steps in proptest::collection::vec((0u16..400, 1usize..60_000), 1..300),
    ) {
        let mut plan = plan();
        plan.memory = ByteSize::from_bytes(1 << 20);
        plan.object = ByteSize::from_bytes(64 << 10);
        let stage = Stage::of(&plan);
        local(async {
            let worker = stage.worker();
            for (name, bytes) in steps {
                let body = "x".repeat(bytes);
                let got = ask(&worker, request("GET", &format!("/{name}"), &[]), move |_| async move {
                    response(200, &[("cache-control", "max-age=60")], &body)
                }).await;
                assert_eq!(got.status, 200);
                assert!(stage.cache.size().0 <= 1 << 20, "{:?}", stage.cache.size());
            }
        });
    }
}

#[test]
fn a_response_that_is_too_large_is_passed_on_and_not_kept() {
    let stage = Stage::new();
    let body = "x".repeat((1 << 20) + 1);
    let got = stage.get("/", &[], response(200, &[("cache-control", "max-age=60")], &body));
    assert_eq!((got.body.len(), got.cache.stored, stage.cache.size()), (body.len(), false, (0, 0)));
    assert_eq!(stage.get("/", &[], ok(&[("cache-control", "max-age=60")])).body, "hello");
    assert_eq!(stage.hit("/", &[]).body, "hello");
}
