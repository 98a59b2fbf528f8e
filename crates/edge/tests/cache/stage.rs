//! A cache with a clock that stands still, and requests to it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, Method, StatusCode, Version};
use mainstay_edge::cache::policy::Moment;
use mainstay_edge::cache::{Cache, CacheStatus, Key, WorkerCache};
use mainstay_http::metrics::Registry;
use mainstay_http::{Body, Request, Response, date, read_all};
use mainstay_site::ByteSize;
use mainstay_site::plan::edge::CachePlan;
use tokio::runtime::LocalOptions;

/// Seconds since 1970 when the clock begins.
pub(crate) const START: u64 = 1_800_000_000;

pub(crate) fn plan() -> CachePlan {
    CachePlan {
        memory: ByteSize::from_bytes(64 << 20),
        object: ByteSize::from_bytes(1 << 20),
        heuristic_ms: 60_000,
        stale_while_revalidate_ms: 10_000,
        stale_if_error_ms: 600_000,
    }
}

pub(crate) struct Stage {
    pub(crate) cache: Arc<Cache>,
    pub(crate) registry: Registry,
    clock_ms: Arc<AtomicU64>,
}

/// What a request got.
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) cache: CacheStatus,
}

impl Got {
    pub(crate) fn outcome(&self) -> &'static str {
        self.cache.outcome.name()
    }

    pub(crate) fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::of(&plan())
    }

    pub(crate) fn of(plan: &CachePlan) -> Self {
        let clock_ms = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&clock_ms);
        let registry = Registry::default();
        let cache = Cache::with_clock(plan, &registry, move || {
            let monotonic_ms = clock.load(Ordering::SeqCst);
            Moment { monotonic_ms, wall_secs: START + monotonic_ms / 1000 }
        });
        Self { cache, registry, clock_ms }
    }

    pub(crate) fn pass_secs(&self, seconds: u64) {
        self.clock_ms.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    pub(crate) fn worker(&self) -> WorkerCache {
        WorkerCache::new(&self.cache)
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.registry.render();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// Asks once, on a thread and a runtime of its own.
    pub(crate) fn ask<Fut: Future<Output = Response> + 'static>(
        &self,
        request: Request,
        fetch: impl FnOnce(Request) -> Fut + 'static,
    ) -> Got {
        local(async {
            let worker = self.worker();
            let got = ask(&worker, request, fetch).await;
            settle().await;
            got
        })
    }

    /// Asks with an origin that answers this.
    pub(crate) fn get(&self, path: &str, fields: &[(&str, &str)], origin: Response) -> Got {
        self.ask(request("GET", path, fields), |_| async { origin })
    }

    /// Asks and must not meet the origin.
    pub(crate) fn hit(&self, path: &str, fields: &[(&str, &str)]) -> Got {
        self.ask(request("GET", path, fields), |_| async { panic!("the origin was asked") })
    }
}

/// Runs on a runtime like a worker's.
pub(crate) fn local<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap()
        .block_on(future)
}

/// Lets tasks that are ready run to where they wait.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn ask<Fut: Future<Output = Response> + 'static>(
    worker: &WorkerCache,
    request: Request,
    fetch: impl FnOnce(Request) -> Fut + 'static,
) -> Got {
    let key = Key::of(&request, true, &"route".into()).unwrap();
    let (response, cache) = worker.answer(request, key, fetch).await;
    let (head, body) = response.into_parts();
    let body = read_all(body, 1 << 24).await.unwrap();
    let body = String::from_utf8_lossy(&body).into_owned();
    Got { status: head.status, headers: head.headers, body, cache }
}

pub(crate) fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request {
    let mut headers = headers(fields);
    headers.insert("host", "a.test".parse().unwrap());
    Request {
        method: Method::from_bytes(method.as_bytes()).unwrap(),
        uri: path.parse().unwrap(),
        version: Version::HTTP_11,
        headers,
        body: Body::Empty,
        peer: None,
        host: Some("a.test".to_owned()),
        upgrade: None,
    }
}

pub(crate) fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    headers
}

pub(crate) fn response(status: u16, fields: &[(&str, &str)], body: &str) -> Response {
    let body = if body.is_empty() { Body::Empty } else { Body::Full(body.to_owned().into()) };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    *response.headers_mut() = headers(fields);
    response
}

pub(crate) fn ok(fields: &[(&str, &str)]) -> Response {
    response(200, fields, "hello")
}

/// A date so many seconds before (or after) the clock's beginning.
pub(crate) fn date_at(offset: i64) -> String {
    String::from_utf8(date::format(START.checked_add_signed(offset).unwrap()).to_vec()).unwrap()
}
