//! What is counted of handshakes.

use std::time::Duration;

use super::accept::HandshakeError;
use super::info::TlsInfo;
use crate::metrics::{Counter, Family, Histogram, Registry};

/// Upper bounds of a histogram of handshakes: from a round trip nearby to a slow client.
const HANDSHAKE_SECONDS: &[f64] =
    &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Metrics of handshakes with clients. Clones count into the same.
#[derive(Clone)]
pub struct TlsMetrics {
    /// By version, full ones first.
    done: [[Counter; 2]; 2],
    failed: Family<Counter>,
    seconds: Histogram,
}

impl TlsMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let done = registry.counters(
            "http_tls_handshakes_total",
            "TLS handshakes with clients, by version and whether they continued a session.",
            &["version", "resumed"],
        );
        let of = |version| [done.with(&[version, "no"]), done.with(&[version, "yes"])];
        Self {
            done: [of("TLSv1.2"), of("TLSv1.3")],
            failed: registry.counters(
                "http_tls_handshake_failures_total",
                "TLS handshakes with clients that failed, by reason.",
                &["reason"],
            ),
            seconds: registry
                .histograms(
                    "http_tls_handshake_seconds",
                    "Time of TLS handshakes with clients, their waiting included.",
                    HANDSHAKE_SECONDS,
                    &[],
                )
                .with(&[]),
        }
    }

    /// Counts a handshake that was done.
    pub fn done(&self, info: &TlsInfo, time: Duration) {
        self.done[usize::from(info.version == "TLSv1.3")][usize::from(info.resumed)].inc();
        self.seconds.observe(time);
    }

    /// Counts one that failed.
    pub fn failed(&self, error: &HandshakeError) {
        self.failed.with(&[error.reason()]).inc();
    }
}
