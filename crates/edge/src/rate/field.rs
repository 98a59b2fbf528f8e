//! The fields that tell clients about limits (draft-ietf-httpapi-ratelimit-headers-10).

use std::fmt::Write as _;
use std::time::Duration;

use mainstay_site::plan::edge::RateLimit;

use super::Verdict;

/// `RateLimit-Policy`: what is allowed, such as `"login";q=10;w=60`; with several windows, `"login-1"` and so on. It is the
/// same for all requests: made once per plan. `q` is what a whole window lets pass, `w` its seconds.
pub fn policy_field(limit: &RateLimit) -> String {
    let mut field = String::new();
    for (index, window) in limit.windows.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let seconds = whole_seconds(Duration::from_millis(window.per_ms)).max(1);
        let name = policy_name(limit, index);
        // Writing to a String cannot fail.
        let _ = write!(field, "{separator}\"{name}\";q={};w={seconds}", window.requests);
    }
    field
}

/// Writes `RateLimit` for one limit.
#[derive(Debug)]
pub struct RateFields {
    names: Vec<String>,
}

impl RateFields {
    /// For a limit of a plan.
    pub fn new(limit: &RateLimit) -> Self {
        Self { names: (0..limit.windows.len()).map(|index| policy_name(limit, index)).collect() }
    }

    /// `RateLimit`: what is left, such as `"login";r=7;t=18`, of the window that is nearest to its end.
    pub fn limit_field(&self, verdict: &Verdict) -> String {
        let (window, remaining, reset) = match verdict {
            Verdict::Allowed { window, remaining, reset } => (*window, *remaining, whole_seconds(*reset)),
            Verdict::Refused { window, retry_after } => (*window, 0, whole_seconds(*retry_after).max(1)),
        };
        let name = self.names.get(window).map_or("limit", String::as_str);
        format!("\"{name}\";r={remaining};t={reset}")
    }
}

/// Whole seconds, rounded up: who waits for them has waited long enough.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The name of a window's policy, as the content of a string in a structured field (RFC 9651, section 3.3.3).
fn policy_name(limit: &RateLimit, index: usize) -> String {
    let plain = |letter: &char| letter.is_ascii_graphic() && !matches!(letter, '"' | '\\');
    let mut name: String = limit.name.chars().filter(plain).collect();
    if limit.windows.len() > 1 {
        let _ = write!(name, "-{}", index + 1);
    }
    name
}
