//! Load by `wrk` and `h2load`.

use std::io;
use std::process::{Command, Stdio};

/// What one run of a load generator came to.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Requests that were answered well.
    pub requests: u64,
    /// Requests per second.
    pub rate: f64,
    /// The time within which half of the requests were answered, in milliseconds, where it was looked at.
    pub p50_ms: Option<f64>,
    /// The time within which 99 of 100 requests were answered, in milliseconds, where it was looked at.
    pub p99_ms: Option<f64>,
    /// Requests that were not answered well.
    pub failures: u64,
}

/// HTTP/1.1 over kept connections.
pub fn h1(url: &str, host: &str, connections: u32, seconds: u32) -> io::Result<Load> {
    let text = run(Command::new("wrk").args([
        "-t1",
        &format!("-c{connections}"),
        &format!("-d{seconds}s"),
        "--latency",
        "-H",
        &format!("Host: {host}"),
        url,
    ]))?;
    let mut load = Load::default();
    for line in text.lines().map(str::trim) {
        if let Some(time) = line.strip_prefix("99%") {
            load.p99_ms = milliseconds(time.trim());
        } else if let Some(rate) = line.strip_prefix("Requests/sec:") {
            load.rate = rate.trim().parse().unwrap_or(0.0);
        } else if let Some((count, _)) = line.split_once(" requests in ") {
            load.requests = count.parse().unwrap_or(0);
        } else if line.starts_with("Socket errors:") || line.starts_with("Non-2xx") {
            load.failures +=
                line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
        }
    }
    load.requests = load.requests.saturating_sub(load.failures);
    Ok(load)
}

/// HTTP/2 with prior knowledge, several requests at once on each connection.
pub fn h2(url: &str, host: &str, connections: u32, streams: u32, seconds: u32) -> io::Result<Load> {
    let text = run(Command::new("h2load").args([
        "-t1",
        &format!("-c{connections}"),
        &format!("-m{streams}"),
        &format!("-D{seconds}"),
        "-H",
        &format!(":authority: {host}"),
        url,
    ]))?;
    let mut load = Load::default();
    for line in text.lines() {
        if let Some(counts) = line.strip_prefix("requests: ") {
            let of = |name: &str| {
                let part = counts.split(", ").find(|part| part.ends_with(name));
                part.and_then(|part| part.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
            };
            load.requests = of("succeeded");
            load.failures = of("failed") + of("errored");
        }
    }
    load.rate = load.requests as f64 / f64::from(seconds);
    Ok(load)
}

fn run(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `1.23ms`, `456.00us` or `1.02s`.
fn milliseconds(text: &str) -> Option<f64> {
    let (number, factor) = if let Some(number) = text.strip_suffix("us") {
        (number, 0.001)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1.0)
    } else {
        (text.strip_suffix('s')?, 1000.0)
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}
