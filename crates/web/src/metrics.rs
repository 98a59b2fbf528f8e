//! What the role counts. Series are asked for once per worker and target and then kept.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use http::{Method, StatusCode};
use mainstay_http::metrics::{Counter, Family, Gauge, Histogram, REQUEST_SECONDS, Registry};

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// All metrics of one worker. Workers with the same registry count into the same series.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) in_flight: Gauge,
    pub(crate) files: FileMetrics,
    pub(crate) log_dropped: Counter,
    requests: Family<Counter>,
    durations: Family<Histogram>,
    received: Family<Counter>,
    sent: Family<Counter>,
    upstream_durations: Family<Histogram>,
    upstream_errors: Family<Counter>,
}

/// How the file cache does.
#[derive(Clone)]
pub(crate) struct FileMetrics {
    pub(crate) hits: Counter,
    pub(crate) revalidated: Counter,
    pub(crate) misses: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let files = registry.counters(
            "mainstay_web_file_cache_total",
            "Look-ups of files, by what the cache had: a hit, an entry that was looked at again, a miss.",
            &["result"],
        );
        Self {
            in_flight: registry.gauge("mainstay_web_requests_in_flight", "Requests being answered now."),
            files: FileMetrics {
                hits: files.with(&["hit"]),
                revalidated: files.with(&["revalidated"]),
                misses: files.with(&["miss"]),
            },
            log_dropped: registry.counter(
                "mainstay_web_access_log_dropped_total",
                "Lines of the access log that were dropped because the disk was too slow.",
            ),
            requests: registry.counters(
                "mainstay_web_requests_total",
                "Requests, by who answered, method and class of the status.",
                &["target", "method", "class"],
            ),
            durations: registry.histograms(
                "mainstay_web_request_duration_seconds",
                "From a request's head to the end of its response, by who answered.",
                REQUEST_SECONDS,
                &["target"],
            ),
            received: registry.counters(
                "mainstay_web_request_body_bytes_total",
                "Announced bytes of request bodies, by who answered.",
                &["target"],
            ),
            sent: registry.counters(
                "mainstay_web_response_body_bytes_total",
                "Bytes of response bodies, by who answered.",
                &["target"],
            ),
            upstream_durations: registry.histograms(
                "mainstay_web_upstream_duration_seconds",
                "From asking an app to the head of its response.",
                REQUEST_SECONDS,
                &["target"],
            ),
            upstream_errors: registry.counters(
                "mainstay_web_upstream_errors_total",
                "Requests that an app did not answer, by reason.",
                &["target", "reason"],
            ),
        }
    }

    /// The series of one target.
    pub(crate) fn target(&self, name: &str) -> TargetMetrics {
        TargetMetrics {
            duration: self.durations.with(&[name]),
            received: self.received.with(&[name]),
            sent: self.sent.with(&[name]),
            upstream_duration: OnceCell::new(),
            requests: RefCell::default(),
            families: self.clone(),
            name: name.to_owned(),
        }
    }
}

/// The series of one target: an app, `static`, `redirect` or `none`.
pub(crate) struct TargetMetrics {
    pub(crate) duration: Histogram,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    upstream_duration: OnceCell<Histogram>,
    requests: RefCell<HashMap<(u8, u8), Counter>>,
    families: Metrics,
    name: String,
}

impl TargetMetrics {
    /// Counts a request that was answered.
    pub(crate) fn answered(&self, method: &Method, status: StatusCode) {
        let last = METHODS.len() - 1;
        let method = METHODS[..last].iter().position(|name| *name == method.as_str()).unwrap_or(last);
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.requests
            .borrow_mut()
            .entry((method as u8, class as u8))
            .or_insert_with(|| self.families.requests.with(&[&self.name, METHODS[method], CLASSES[class]]))
            .inc();
    }

    /// Counts what an app took until its response's head.
    pub(crate) fn upstream_answered(&self, duration: Duration) {
        self.upstream_duration
            .get_or_init(|| self.families.upstream_durations.with(&[&self.name]))
            .observe(duration);
    }

    /// Counts a request that an app did not answer.
    pub(crate) fn upstream_failed(&self, reason: &str) {
        self.families.upstream_errors.with(&[&self.name, reason]).inc();
    }
}
