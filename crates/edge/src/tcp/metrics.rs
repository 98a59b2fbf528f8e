//! What is counted of TCP services.

use mainstay_http::metrics::{Counter, Family, Gauge, Registry};
use mainstay_http::tls::TlsMetrics;

/// The metrics of all services. Clones count into the same.
#[derive(Clone)]
pub struct TcpMetrics {
    open: Family<Gauge>,
    connections: Family<Counter>,
    received: Family<Counter>,
    sent: Family<Counter>,
    errors: Family<Counter>,
    paused: Family<Counter>,
    upstreams: Family<Counter>,
    pub(crate) tls: TlsMetrics,
}

/// Those of one service, kept by each thread.
pub(crate) struct ServiceMetrics {
    name: String,
    pub(crate) open: Gauge,
    pub(crate) connections: Counter,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) paused: Counter,
    errors: Family<Counter>,
    upstreams: Family<Counter>,
    pub(crate) tls: TlsMetrics,
}

impl TcpMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let service = &["service"];
        Self {
            open: registry.gauges(
                "mainstay_edge_tcp_connections_open",
                "Connections of TCP services that are open now.",
                service,
            ),
            connections: registry.counters(
                "mainstay_edge_tcp_connections_total",
                "Connections of TCP services that were accepted.",
                service,
            ),
            received: registry.counters(
                "mainstay_edge_tcp_received_bytes_total",
                "Bytes that clients of TCP services sent.",
                service,
            ),
            sent: registry.counters(
                "mainstay_edge_tcp_sent_bytes_total",
                "Bytes that were sent to clients of TCP services.",
                service,
            ),
            errors: registry.counters(
                "mainstay_edge_tcp_errors_total",
                "Connections of TCP services that did not end as both sides wanted, by reason.",
                &["service", "reason"],
            ),
            paused: registry.counters(
                "mainstay_edge_tcp_accept_paused_total",
                "Times that accepting paused because a TCP service had as many connections as it may.",
                service,
            ),
            upstreams: registry.counters(
                "mainstay_edge_tcp_upstream_connects_total",
                "Tries to connect to upstreams of TCP services, by result (ok, failed).",
                &["service", "upstream", "result"],
            ),
            tls: TlsMetrics::new(registry),
        }
    }

    pub(crate) fn of(&self, service: &str) -> ServiceMetrics {
        ServiceMetrics {
            name: service.to_owned(),
            open: self.open.with(&[service]),
            connections: self.connections.with(&[service]),
            received: self.received.with(&[service]),
            sent: self.sent.with(&[service]),
            paused: self.paused.with(&[service]),
            errors: self.errors.clone(),
            upstreams: self.upstreams.clone(),
            tls: self.tls.clone(),
        }
    }
}

impl ServiceMetrics {
    pub(crate) fn error(&self, reason: &str) {
        self.errors.with(&[&self.name, reason]).inc();
    }

    pub(crate) fn connect(&self, upstream: &str, taken: bool) {
        self.upstreams.with(&[&self.name, upstream, if taken { "ok" } else { "failed" }]).inc();
    }
}
