//! What the load balancer says of itself, with the rate that follows from two answers.

use std::time::{Duration, Instant};

use http::Method;
use mainstay_http::client::{Bounds, Upstream, call};
use mainstay_site::paths;

use crate::status::EdgeStatus;

/// One answer may take this long; status is asked for by people, who wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A status of a thousand upstreams fits.
const ANSWER_BYTES: usize = 1 << 20;
/// Two answers closer than this give no rate worth telling.
const LEAST_BETWEEN: Duration = Duration::from_millis(500);
/// The rate is over this long at most: what was longer ago is of no interest.
const MOST_BETWEEN: Duration = Duration::from_secs(30);

/// Counts of earlier answers.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    last: Option<(Instant, u64)>,
    known: Option<f64>,
}

impl Rate {
    /// Requests a second since an earlier answer; nothing until there are two that lie well apart.
    fn take(&mut self, requests: u64, now: Instant) -> Option<f64> {
        match self.last {
            Some((then, _)) if now.saturating_duration_since(then) < LEAST_BETWEEN => return self.known,
            Some((then, before)) if requests >= before => {
                let between = now.saturating_duration_since(then);
                let rate = (requests - before) as f64 / between.as_secs_f64();
                self.known = (between <= MOST_BETWEEN).then_some((rate * 10.0).round() / 10.0);
            }
            // A new process counts from 0.
            _ => self.known = None,
        }
        self.last = Some((now, requests));
        self.known
    }
}

/// Asks the load balancer; nothing if it does not answer in time.
pub(crate) async fn ask() -> Option<EdgeStatus> {
    let upstream = Upstream::Unix(paths::admin_socket("edge"));
    let bounds = Bounds { timeout: ANSWER_WITHIN, body_bytes: ANSWER_BYTES };
    let answer = call(&upstream, &Method::GET, "/status", None, bounds).await.ok()?;
    answer.json().ok()
}

/// Puts the rate into an answer.
pub(crate) fn with_rate(mut status: EdgeStatus, rate: &mut Rate, now: Instant) -> EdgeStatus {
    status.requests_per_second = rate.take(status.requests(), now);
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_from_two_answers_and_a_new_process_starts_over() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut rate = Rate::default();
        assert_eq!(rate.take(100, at(0)), None);
        assert_eq!(rate.take(150, at(100)), None, "too close to tell");
        assert_eq!(rate.take(300, at(1000)), Some(200.0));
        assert_eq!(rate.take(310, at(1100)), Some(200.0));
        assert_eq!(rate.take(5, at(2000)), None);
        assert_eq!(rate.take(5, at(3000)), Some(0.0));
    }

    #[test]
    fn an_answer_is_read_with_all_that_a_newer_edge_adds() {
        let text = r#"{"config": "ab", "requests_in_flight": 3, "groups": [{"name": "web", "fit": 1, "zone": "a",
            "upstreams": [{"name": "server1", "state": "down", "why": "refused, for 3 s", "colour": "red"}]}]}"#;
        let status: EdgeStatus = serde_json::from_str(text).unwrap();
        assert_eq!(status.groups[0].upstreams[0].state, "down");
        let again = serde_json::to_value(&status).unwrap();
        assert_eq!((again["config"].as_str(), again["groups"][0]["zone"].as_str()), (Some("ab"), Some("a")));
    }
}
