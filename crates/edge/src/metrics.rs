//! What the role counts. Series are asked for once per worker and label, and then kept.

use std::cell::OnceCell;
use std::time::Duration;

use http::{Method, StatusCode};
use mainstay_http::metrics::{Counter, Family, Gauge, Histogram, REQUEST_SECONDS, Registry};

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// All metrics of the role. Workers with the same registry count into the same series.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) in_flight: Gauge,
    pub(crate) log_dropped: Counter,
    /// What was told to the control thread but found no room.
    pub(crate) events_dropped: Counter,
    pub(crate) reloads: Family<Counter>,
    pub(crate) queue_length: Family<Gauge>,
    pub(crate) upstream_up: Family<Gauge>,
    pub(crate) upstream_ejected: Family<Gauge>,
    pub(crate) upstream_in_flight: Family<Gauge>,
    pub(crate) upstream_requests: Family<Counter>,
    upstream_failures: Family<Counter>,
    upstream_durations: Family<Histogram>,
    requests: Family<Counter>,
    durations: Family<Histogram>,
    received: Family<Counter>,
    sent: Family<Counter>,
    refusals: Family<Counter>,
    retries: Family<Counter>,
    checks: Family<Counter>,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let upstream = &["group", "upstream"];
        Self {
            registry: registry.clone(),
            in_flight: registry.gauge("mainstay_edge_requests_in_flight", "Requests being answered now."),
            log_dropped: registry.counter(
                "mainstay_edge_access_log_dropped_total",
                "Lines of the access log that were dropped because the disk was too slow.",
            ),
            events_dropped: registry.counter(
                "mainstay_edge_events_dropped_total",
                "Observations of upstreams that were dropped because the control thread was too slow.",
            ),
            reloads: registry.counters(
                "mainstay_edge_reloads_total",
                "New configurations, by what became of them.",
                &["result"],
            ),
            queue_length: registry.gauges(
                "mainstay_edge_queue_length",
                "Requests that wait for an upstream to have room.",
                &["group"],
            ),
            upstream_up: registry.gauges(
                "mainstay_edge_upstream_up",
                "Whether an upstream may get requests.",
                upstream,
            ),
            upstream_ejected: registry.gauges(
                "mainstay_edge_upstream_ejected",
                "Whether an upstream is left out for a while because it failed requests.",
                upstream,
            ),
            upstream_in_flight: registry.gauges(
                "mainstay_edge_upstream_requests_in_flight",
                "Requests that an upstream works on now.",
                upstream,
            ),
            upstream_requests: registry.counters(
                "mainstay_edge_upstream_requests_total",
                "Requests that were sent to an upstream, repeated ones too.",
                upstream,
            ),
            upstream_failures: registry.counters(
                "mainstay_edge_upstream_failures_total",
                "Requests that an upstream failed, by reason.",
                &["group", "upstream", "reason"],
            ),
            upstream_durations: registry.histograms(
                "mainstay_edge_upstream_duration_seconds",
                "From asking an upstream to the head of its response.",
                REQUEST_SECONDS,
                upstream,
            ),
            requests: registry.counters(
                "mainstay_edge_requests_total",
                "Requests, by route, method and class of the status.",
                &["route", "method", "class"],
            ),
            durations: registry.histograms(
                "mainstay_edge_request_duration_seconds",
                "From a request's head to the end of its response.",
                REQUEST_SECONDS,
                &["route"],
            ),
            received: registry.counters(
                "mainstay_edge_request_body_bytes_total",
                "Announced bytes of request bodies.",
                &["route"],
            ),
            sent: registry.counters(
                "mainstay_edge_response_body_bytes_total",
                "Bytes of response bodies.",
                &["route"],
            ),
            refusals: registry.counters(
                "mainstay_edge_refusals_total",
                "Requests that were turned away, by reason.",
                &["route", "reason"],
            ),
            retries: registry.counters(
                "mainstay_edge_retries_total",
                "Requests that were sent again, by why the try before failed.",
                &["group", "reason"],
            ),
            checks: registry.counters(
                "mainstay_edge_health_checks_total",
                "Health checks, by what they found.",
                &["group", "upstream", "result"],
            ),
        }
    }

    /// The series of one route.
    pub(crate) fn route(&self, name: &str) -> RouteMetrics {
        RouteMetrics {
            duration: self.durations.with(&[name]),
            received: self.received.with(&[name]),
            sent: self.sent.with(&[name]),
            requests: std::array::from_fn(|_| OnceCell::new()),
            families: self.clone(),
            name: name.to_owned(),
        }
    }

    pub(crate) fn retried(&self, group: &str, reason: &str) {
        self.retries.with(&[group, reason]).inc();
    }

    pub(crate) fn checked(&self, group: &str, upstream: &str, passed: bool) {
        self.checks.with(&[group, upstream, if passed { "passed" } else { "failed" }]).inc();
    }

    /// The series of one upstream, for one worker.
    pub(crate) fn upstream(&self, group: &str, upstream: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            duration: OnceCell::new(),
            families: self.clone(),
            group: group.to_owned(),
            upstream: upstream.to_owned(),
        }
    }
}

/// The series of one upstream.
pub(crate) struct UpstreamMetrics {
    duration: OnceCell<Histogram>,
    families: Metrics,
    group: String,
    upstream: String,
}

impl UpstreamMetrics {
    pub(crate) fn answered(&self, duration: Duration) {
        self.duration
            .get_or_init(|| self.families.upstream_durations.with(&[&self.group, &self.upstream]))
            .observe(duration);
    }

    pub(crate) fn failed(&self, reason: &str) {
        self.families.upstream_failures.with(&[&self.group, &self.upstream, reason]).inc();
    }
}

/// The series of one route.
pub(crate) struct RouteMetrics {
    pub(crate) duration: Histogram,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    /// By method and class.
    requests: [OnceCell<Counter>; METHODS.len() * CLASSES.len()],
    families: Metrics,
    name: String,
}

impl RouteMetrics {
    /// Counts a request that was answered.
    pub(crate) fn answered(&self, method: &Method, status: StatusCode) {
        let last = METHODS.len() - 1;
        let method = METHODS[..last].iter().position(|name| *name == method.as_str()).unwrap_or(last);
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[method * CLASSES.len() + class]
            .get_or_init(|| self.families.requests.with(&[&self.name, METHODS[method], CLASSES[class]]))
            .inc();
    }

    pub(crate) fn refused(&self, reason: &str) {
        self.families.refusals.with(&[&self.name, reason]).inc();
    }
}
