//! Metrics in the Prometheus text format. Every thread counts in a shard of its own; only a scrape adds them up.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::tls::TlsMetrics;

/// Shards of a metric. More threads than this share, which is slower but still right.
const SHARDS: usize = 16;
/// Label combinations of one family; whatever comes later counts as `other`.
const SERIES: usize = 500;
/// The value of every label of what came after the bound.
const OVERFLOW: &str = "other";

/// Upper bounds of a histogram of seconds for requests.
pub const REQUEST_SECONDS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    MINE.with(|mine| *mine)
}

/// A number on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Padded<T>(T);

/// A number that only grows.
#[derive(Clone, Default)]
pub struct Counter(Arc<[Padded<AtomicU64>; SHARDS]>);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds.
    pub fn add(&self, count: u64) {
        self.0[shard()].0.fetch_add(count, Ordering::Relaxed);
    }

    /// The sum of all threads.
    pub fn value(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

/// A number that goes up and down.
#[derive(Clone, Default)]
pub struct Gauge(Arc<[Padded<AtomicI64>; SHARDS]>);

impl Gauge {
    /// Adds, or takes away.
    pub fn add(&self, count: i64) {
        self.0[shard()].0.fetch_add(count, Ordering::Relaxed);
    }

    /// Sets it, for gauges that one thread alone writes.
    pub fn set(&self, value: i64) {
        let others = self.value() - self.0[shard()].0.load(Ordering::Relaxed);
        self.0[shard()].0.store(value - others, Ordering::Relaxed);
    }

    /// The sum of all threads.
    pub fn value(&self) -> i64 {
        self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

/// How long things took, counted in buckets with fixed bounds.
#[derive(Clone)]
pub struct Histogram(Arc<HistogramData>);

struct HistogramData {
    bounds: &'static [f64],
    shards: Vec<Padded<HistogramShard>>,
}

#[derive(Default)]
struct HistogramShard {
    buckets: Vec<AtomicU64>,
    sum_micros: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let shard = || {
            let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
            Padded(HistogramShard { buckets, sum_micros: AtomicU64::new(0) })
        };
        Self(Arc::new(HistogramData { bounds, shards: (0..SHARDS).map(|_| shard()).collect() }))
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.0.bounds.partition_point(|bound| *bound < seconds);
        let shard = &self.0.shards[shard()].0;
        shard.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        shard.sum_micros.fetch_add(duration.as_micros() as u64, Ordering::Relaxed);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        (0..=self.0.bounds.len()).map(|bucket| self.bucket(bucket)).sum()
    }

    fn bucket(&self, bucket: usize) -> u64 {
        self.0.shards.iter().map(|shard| shard.0.buckets[bucket].load(Ordering::Relaxed)).sum()
    }

    fn sum_seconds(&self) -> f64 {
        let micros: u64 = self.0.shards.iter().map(|shard| shard.0.sum_micros.load(Ordering::Relaxed)).sum();
        micros as f64 / 1e6
    }
}

/// All metrics of a process. Clones are the same registry; asking twice for one name gives the same metric, so that
/// each worker may ask for itself.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<BTreeMap<&'static str, Entry>>>);

struct Entry {
    help: &'static str,
    family: AnyFamily,
}

#[derive(Clone)]
enum AnyFamily {
    Counter(Family<Counter>),
    Gauge(Family<Gauge>),
    Histogram(Family<Histogram>),
    Computed(Arc<dyn Fn() -> f64 + Send + Sync>),
}

/// A metric with labels. Ask for a series once and keep it: asking takes a lock.
#[derive(Clone)]
pub struct Family<M> {
    labels: &'static [&'static str],
    make: fn(&'static [f64]) -> M,
    bounds: &'static [f64],
    /// The series by the values of their labels.
    series: Arc<Mutex<BTreeMap<Vec<String>, M>>>,
}

impl<M: Clone> Family<M> {
    fn new(labels: &'static [&'static str], bounds: &'static [f64], make: fn(&'static [f64]) -> M) -> Self {
        Self { labels, make, bounds, series: Arc::default() }
    }

    /// The series with these values of the labels, in the order in which the labels were named.
    ///
    /// # Panics
    /// If the number of values is not that of the labels: a mistake in the program.
    pub fn with(&self, values: &[&str]) -> M {
        assert_eq!(values.len(), self.labels.len(), "a value for each of {:?}", self.labels);
        let mut series = lock(&self.series);
        let mut key: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        if series.len() >= SERIES && !series.contains_key(&key) {
            key = vec![OVERFLOW.to_owned(); values.len()];
        }
        series.entry(key).or_insert_with(|| (self.make)(self.bounds)).clone()
    }
}

/// A panic elsewhere does not make counters wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// A counter family; the name ends with `_total`.
    pub fn counters(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Counter> {
        let new = || AnyFamily::Counter(Family::new(labels, &[], |_| Counter::default()));
        match self.entry(name, help, new) {
            AnyFamily::Counter(family) => family,
            _ => panic!("{name} is no counter"),
        }
    }

    /// A counter without labels; the name ends with `_total`.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.counters(name, help, &[]).with(&[])
    }

    /// A gauge family.
    pub fn gauges(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Gauge> {
        let new = || AnyFamily::Gauge(Family::new(labels, &[], |_| Gauge::default()));
        match self.entry(name, help, new) {
            AnyFamily::Gauge(family) => family,
            _ => panic!("{name} is no gauge"),
        }
    }

    /// A gauge without labels.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        self.gauges(name, help, &[]).with(&[])
    }

    /// A gauge that is asked for at each scrape.
    pub fn computed(
        &self,
        name: &'static str,
        help: &'static str,
        compute: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        self.entry(name, help, move || AnyFamily::Computed(Arc::new(compute)));
    }

    /// A histogram family; the name ends with `_seconds` and the bounds are in seconds, rising.
    pub fn histograms(
        &self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [f64],
        labels: &'static [&'static str],
    ) -> Family<Histogram> {
        let new = || AnyFamily::Histogram(Family::new(labels, bounds, Histogram::new));
        match self.entry(name, help, new) {
            AnyFamily::Histogram(family) => family,
            _ => panic!("{name} is no histogram"),
        }
    }

    fn entry(&self, name: &'static str, help: &'static str, new: impl FnOnce() -> AnyFamily) -> AnyFamily {
        lock(&self.0).entry(name).or_insert_with(|| Entry { help, family: new() }).family.clone()
    }

    /// The text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(8192);
        for (name, entry) in lock(&self.0).iter() {
            let kind = match entry.family {
                AnyFamily::Counter(_) => "counter",
                AnyFamily::Gauge(_) | AnyFamily::Computed(_) => "gauge",
                AnyFamily::Histogram(_) => "histogram",
            };
            let help = entry.help.replace('\\', "\\\\").replace('\n', "\\n");
            // Writing to a String cannot fail.
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            match &entry.family {
                AnyFamily::Counter(family) => {
                    put_series(&mut out, name, family, |counter| counter.value().to_string());
                }
                AnyFamily::Gauge(family) => {
                    put_series(&mut out, name, family, |gauge| gauge.value().to_string());
                }
                AnyFamily::Computed(compute) => {
                    let _ = writeln!(out, "{name} {}", compute());
                }
                AnyFamily::Histogram(family) => put_histograms(&mut out, name, family),
            }
        }
        out
    }
}

fn put_series<M>(out: &mut String, name: &str, family: &Family<M>, value: impl Fn(&M) -> String) {
    for (values, metric) in lock(&family.series).iter() {
        let _ = writeln!(out, "{name}{} {}", label_text(family.labels, values, None), value(metric));
    }
}

fn put_histograms(out: &mut String, name: &str, family: &Family<Histogram>) {
    for (values, histogram) in lock(&family.series).iter() {
        let mut count = 0;
        for (bucket, bound) in histogram.0.bounds.iter().enumerate() {
            count += histogram.bucket(bucket);
            let labels = label_text(family.labels, values, Some(&bound.to_string()));
            let _ = writeln!(out, "{name}_bucket{labels} {count}");
        }
        count += histogram.bucket(histogram.0.bounds.len());
        let all = label_text(family.labels, values, Some("+Inf"));
        let labels = label_text(family.labels, values, None);
        let sum = histogram.sum_seconds();
        let _ = write!(
            out,
            "{name}_bucket{all} {count}\n{name}_sum{labels} {sum}\n{name}_count{labels} {count}\n"
        );
    }
}

fn label_text(labels: &[&str], values: &[String], bound: Option<&str>) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut pairs: Vec<String> =
        labels.iter().zip(values).map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
    pairs.extend(bound.map(|bound| format!("le=\"{bound}\"")));
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

/// What the engine counts of itself. Clones count into the same metrics.
#[derive(Clone)]
pub struct EngineMetrics {
    pub(crate) accepted: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) accept_paused: Counter,
    pub(crate) client_refused: Counter,
    pub(crate) open: Gauge,
    pub(crate) in_flight: Gauge,
    pub(crate) requests: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) panics: Counter,
    pub(crate) tls: TlsMetrics,
    protocol_errors: Family<Counter>,
}

impl EngineMetrics {
    /// Registers the engine's metrics.
    pub fn new(registry: &Registry) -> Self {
        Self {
            accepted: registry.counter("http_connections_accepted_total", "Connections accepted."),
            accept_errors: registry.counter("http_accept_errors_total", "Failures to accept a connection."),
            accept_paused: registry.counter(
                "http_accept_paused_total",
                "Times that accepting paused because the connection limit was reached.",
            ),
            client_refused: registry.counter(
                "http_client_connections_refused_total",
                "Connections closed at once because their client had as many as it may.",
            ),
            open: registry.gauge("http_connections_open", "Connections that are open now."),
            in_flight: registry.gauge("http_engine_requests_in_flight", "Requests being answered now."),
            requests: registry.counter("http_engine_requests_total", "Requests handed to the service."),
            received_bytes: registry.counter("http_received_bytes_total", "Bytes received from clients."),
            sent_bytes: registry.counter("http_sent_bytes_total", "Bytes sent to clients."),
            panics: registry.counter("http_panics_total", "Connections lost to a panic: bugs."),
            tls: TlsMetrics::new(registry),
            protocol_errors: registry.counters(
                "http_protocol_errors_total",
                "Requests refused and connections closed by the engine, by reason.",
                &["reason"],
            ),
        }
    }

    pub(crate) fn protocol_error(&self, reason: &str) {
        self.protocol_errors.with(&[reason]).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Registry;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let registry = Registry::default();
        registry.counters("a_total", "An \\ and\na line.", &["path"]).with(&["/\"x\"\n"]).add(3);
        registry.gauge("b", "Now.").set(-2);
        let seconds = registry.histograms("c_seconds", "Time.", &[0.1, 1.0], &["kind"]).with(&["x"]);
        seconds.observe(Duration::from_millis(100));
        seconds.observe(Duration::from_secs(5));
        let expected = "# HELP a_total An \\\\ and\\na line.\n# TYPE a_total counter\na_total{path=\"/\\\"x\\\"\\n\"} 3\n\
            # HELP b Now.\n# TYPE b gauge\nb -2\n\
            # HELP c_seconds Time.\n# TYPE c_seconds histogram\nc_seconds_bucket{kind=\"x\",le=\"0.1\"} 1\n\
            c_seconds_bucket{kind=\"x\",le=\"1\"} 1\nc_seconds_bucket{kind=\"x\",le=\"+Inf\"} 2\n\
            c_seconds_sum{kind=\"x\"} 5.1\nc_seconds_count{kind=\"x\"} 2\n";
        assert_eq!(registry.render(), expected);
    }

    #[test]
    fn threads_count_into_one_sum() {
        let registry = Registry::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let registry = registry.clone();
                scope.spawn(move || (0..1000).for_each(|_| registry.counter("n_total", "N.").inc()));
            }
        });
        assert_eq!(registry.counter("n_total", "N.").value(), 8000);
    }

    #[test]
    fn labels_are_bounded() {
        let registry = Registry::default();
        let family = registry.counters("n_total", "N.", &["host"]);
        (0..2000).for_each(|host| family.with(&[&host.to_string()]).inc());
        assert!(registry.render().lines().count() < 510);
        assert!(registry.render().contains("n_total{host=\"other\"} 1500"));
    }
}
