//! Purging through a role's admin socket.

use std::future::ready;
use std::sync::Arc;

use http::{Method, StatusCode};
use mainstay_http::admin::{Call, Reply, Router};
use serde::{Deserialize, Serialize};

use super::Cache;

/// What is to be forgotten: `{"url": "https://..."}`, `{"prefix": "https://..."}` or `"all"`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Purge {
    Url(String),
    Prefix(String),
    All,
}

/// How many responses were forgotten.
#[derive(Debug, Serialize)]
struct Purged {
    purged: usize,
}

/// Adds `POST /cache/purge`.
#[must_use]
pub fn route(router: Router, cache: &Arc<Cache>) -> Router {
    let cache = Arc::clone(cache);
    router.route(Method::POST, "/cache/purge", move |call| ready(purge(&cache, &call)))
}

fn purge(cache: &Cache, call: &Call) -> Reply {
    let purged = match call.json() {
        Ok(Purge::Url(url)) => cache.purge_url(&url),
        Ok(Purge::Prefix(url)) => cache.purge_prefix(&url),
        Ok(Purge::All) => Some(cache.purge_all()),
        Err(reply) => return reply,
    };
    match purged {
        Some(purged) => Reply::json(&Purged { purged }),
        None => Reply::text(StatusCode::BAD_REQUEST, "this is no http or https URL\n"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, Method};
    use mainstay_http::admin::Call;
    use mainstay_http::metrics::Registry;
    use mainstay_site::ByteSize;
    use mainstay_site::plan::edge::CachePlan;

    use super::{Cache, purge};

    #[test]
    fn what_is_asked_for_is_purged_and_nonsense_is_refused() {
        let plan = CachePlan {
            memory: ByteSize::from_mebibytes(1),
            object: ByteSize::from_bytes(1000),
            heuristic_ms: 0,
            stale_while_revalidate_ms: 0,
            stale_if_error_ms: 0,
        };
        let cache = Cache::new(&plan, &Registry::default());
        for (body, status) in [
            (r#"{"url":"https://a.test/x"}"#, 200),
            (r#"{"prefix":"https://a.test/x"}"#, 200),
            (r#""all""#, 200),
            (r#"{"url":"/x"}"#, 400),
            ("{}", 400),
            ("", 400),
        ] {
            let call = Call {
                method: Method::POST,
                path: "/cache/purge".to_owned(),
                query: String::new(),
                headers: HeaderMap::new(),
                body: Bytes::from_static(body.as_bytes()),
            };
            assert_eq!(purge(&cache, &call).status.as_u16(), status, "{body}");
        }
    }
}
