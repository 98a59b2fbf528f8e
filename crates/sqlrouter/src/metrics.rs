//! What the role counts.

use mainstay_http::metrics::{Counter, Family, Gauge, Histogram, Registry};
use mainstay_http::tls::TlsMetrics;

const STATEMENT_SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// The role's metrics. Clones count into the same.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) clients: Gauge,
    pub(crate) accepted: Counter,
    pub(crate) refused: Family<Counter>,
    pub(crate) logins: Family<Counter>,
    pub(crate) commands: Family<Counter>,
    pub(crate) seconds: Family<Histogram>,
    pub(crate) slow: Counter,
    pub(crate) slow_dropped: Counter,
    pub(crate) backends: Gauge,
    pub(crate) backend_logins: Family<Counter>,
    pub(crate) backend_lost: Counter,
    pub(crate) queued: Counter,
    pub(crate) held: Gauge,
    pub(crate) held_total: Counter,
    pub(crate) hold_expired: Counter,
    pub(crate) retried: Family<Counter>,
    pub(crate) unknown_outcome: Counter,
    pub(crate) rolled_back: Counter,
    pub(crate) waits: Family<Counter>,
    pub(crate) panics: Counter,
    pub(crate) tls: TlsMetrics,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            clients: registry.gauge("sqlrouter_clients", "Clients that are connected now."),
            accepted: registry.counter("sqlrouter_clients_accepted_total", "Clients that connected."),
            refused: registry.counters(
                "sqlrouter_clients_refused_total",
                "Clients that were refused, by reason.",
                &["reason"],
            ),
            logins: registry.counters("sqlrouter_logins_total", "Logins of clients.", &["account", "result"]),
            commands: registry.counters("sqlrouter_commands_total", "Commands of clients.", &["command"]),
            seconds: registry.histograms(
                "sqlrouter_statement_seconds",
                "Time from a statement to the end of its answer, by the server that gave it.",
                STATEMENT_SECONDS,
                &["server"],
            ),
            slow: registry
                .counter("sqlrouter_slow_statements_total", "Statements that took longer than the limit."),
            slow_dropped: registry.counter(
                "sqlrouter_slow_log_dropped_total",
                "Lines that the slow-query log had no room for.",
            ),
            backends: registry.gauge("sqlrouter_backends", "Connections to servers."),
            backend_logins: registry.counters(
                "sqlrouter_backend_logins_total",
                "Connections made to servers, by server and result.",
                &["server", "result"],
            ),
            backend_lost: registry.counter(
                "sqlrouter_backends_lost_total",
                "Connections to servers that broke while they were used.",
            ),
            queued: registry.counter(
                "sqlrouter_queued_total",
                "Times that a client waited for a connection to a server.",
            ),
            held: registry.gauge("sqlrouter_held", "Statements that wait for a primary now."),
            held_total: registry.counter("sqlrouter_held_total", "Statements that waited for a primary."),
            hold_expired: registry
                .counter("sqlrouter_hold_expired_total", "Statements for which no primary came in time."),
            retried: registry.counters(
                "sqlrouter_retried_total",
                "Statements that were sent again because they surely had no effect, by reason.",
                &["reason"],
            ),
            unknown_outcome: registry.counter(
                "sqlrouter_unknown_outcome_total",
                "Statements of which nobody knows whether they took effect.",
            ),
            rolled_back: registry
                .counter("sqlrouter_rolled_back_total", "Transactions that were lost with their server."),
            waits: registry.counters(
                "sqlrouter_position_waits_total",
                "Waits for a replica to have what a session wrote, by result.",
                &["result"],
            ),
            panics: registry.counter("sqlrouter_panics_total", "Connections lost to a panic: bugs."),
            tls: TlsMetrics::new(registry),
        }
    }
}
