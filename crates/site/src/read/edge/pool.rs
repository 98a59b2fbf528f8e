//! How a group is balanced and watched: keys of `[edge]`, and of each `[edge.group.NAME]` that wants another way.

use std::time::Duration;

use super::words::{CookieName, Key, StatusRange, percent, time};
use crate::model::edge::{HealthKind, HealthSettings, PoolSettings};
use crate::plan::edge::{BalancePlan, HashKey, OutlierPlan, ProxyVersion, StickyPlan, UpstreamProtocol};
use crate::section::Section;

/// One upstream may have this many per cent of the mean when requests go by a key.
const HASH_BOUND_PERCENT: u32 = 125;
/// The sticky cookie's name where the file gives none.
const STICKY_COOKIE: &str = "mainstay-server";
/// The longest of the waits.
const LONGEST: Duration = Duration::from_hours(24);
/// Times that are no waits may be 0.
const NONE: Duration = Duration::ZERO;
const MILLISECOND: Duration = Duration::from_millis(1);

#[derive(Clone, Copy)]
enum Way {
    RoundRobin,
    LeastConnections,
    Latency,
    ConsistentHash,
}

const WAYS: [(&str, Way); 4] = [
    ("round-robin", Way::RoundRobin),
    ("least-connections", Way::LeastConnections),
    ("latency", Way::Latency),
    ("consistent-hash", Way::ConsistentHash),
];

const KINDS: [(&str, HealthKind); 4] = [
    ("http", HealthKind::Http),
    ("tcp", HealthKind::Tcp),
    ("grpc", HealthKind::Grpc),
    ("none", HealthKind::None),
];

/// Reads what the section says of it; all else stays as in `defaults`.
pub(super) fn read(section: &Section<'_>, defaults: &PoolSettings) -> PoolSettings {
    let mut pool = defaults.clone();
    if let Some(balance) = read_balance(section, &defaults.balance) {
        pool.balance = balance;
    }
    read_sticky(section, &mut pool);
    read_health(section, &mut pool.health);
    read_outlier(section, &mut pool.outlier);
    let times: [(&'static str, Duration, &mut Duration); 6] = [
        ("slow_start", NONE, &mut pool.slow_start),
        ("queue_timeout", MILLISECOND, &mut pool.queue_timeout),
        ("connect_timeout", MILLISECOND, &mut pool.connect_timeout),
        ("first_byte_timeout", MILLISECOND, &mut pool.first_byte_timeout),
        ("between_bytes_timeout", MILLISECOND, &mut pool.between_bytes_timeout),
        ("upstream_idle_timeout", MILLISECOND, &mut pool.idle_timeout),
    ];
    for (key, least, field) in times {
        if let Some(found) = time(section, key, least, LONGEST) {
            *field = found;
        }
    }
    if let Some(most) = section.integer("max_connections", 0..=1_000_000) {
        pool.max_connections = most.value as u32;
    }
    if let Some(most) = section.integer("queue", 0..=1_000_000) {
        pool.queue = most.value as u32;
    }
    if let Some(attempts) = section.integer("retries", 0..=10) {
        pool.retry.attempts = attempts.value as u32;
    }
    if let Some(budget) = percent(section, "retry_budget", 0..=100) {
        pool.retry.budget_percent = budget;
    }
    if let Some(on_status) = section.boolean("retry_on_status") {
        pool.retry.on_status = on_status;
    }
    let protocols = [("h1", UpstreamProtocol::Http1), ("h2", UpstreamProtocol::Http2)];
    if let Some(protocol) = section.choice("protocol", &protocols) {
        pool.protocol = protocol.value;
    }
    let versions = [("none", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))];
    if let Some(version) = section.choice("send_proxy_protocol", &versions) {
        pool.send_proxy_protocol = version.value;
    }
    pool
}

fn read_balance(section: &Section<'_>, known: &BalancePlan) -> Option<BalancePlan> {
    let way = section.choice("balance", &WAYS);
    let by = section.parsed::<Key>("hash_by", "what requests are known by");
    let is_hash = match &way {
        Some(way) => matches!(way.value, Way::ConsistentHash),
        None => matches!(known, BalancePlan::ConsistentHash { .. }),
    };
    if let Some(by) = by.as_ref().filter(|_| !is_hash) {
        let help = "set  balance = \"consistent-hash\"  to send the same key to the same server";
        section.problems.help(&by.at, "`hash_by` belongs to consistent hashing", help);
    }
    let hashed = |by: HashKey| BalancePlan::ConsistentHash { by, bound_percent: HASH_BOUND_PERCENT };
    match way {
        None if is_hash => by.map(|by| hashed(by.value.0)),
        None => None,
        Some(way) => Some(match way.value {
            Way::RoundRobin => BalancePlan::RoundRobin,
            Way::LeastConnections => BalancePlan::LeastConnections,
            Way::Latency => BalancePlan::Latency,
            Way::ConsistentHash => hashed(by.map_or(HashKey::Client, |by| by.value.0)),
        }),
    }
}

/// `true`, `false`, or the cookie's name.
fn read_sticky(section: &Section<'_>, pool: &mut PoolSettings) {
    let cookie = if section.is_text("sticky") {
        section.parsed::<CookieName>("sticky", "a cookie's name").map(|name| Some(name.value.0))
    } else {
        section.boolean("sticky").map(|on| on.then(|| STICKY_COOKIE.to_owned()))
    };
    let max_age = time(section, "sticky_time", NONE, Duration::from_hours(24 * 365));
    if let Some(cookie) = cookie {
        pool.sticky = cookie.map(|cookie| StickyPlan { cookie, max_age_secs: 0 });
    }
    if let (Some(sticky), Some(max_age)) = (&mut pool.sticky, max_age) {
        sticky.max_age_secs = max_age.as_secs();
    }
}

fn read_health(section: &Section<'_>, health: &mut HealthSettings) {
    if let Some(kind) = section.choice("health", &KINDS) {
        health.kind = kind.value;
    }
    if let Some(path) = section.string("health_path") {
        let is_plain = path.value.starts_with('/')
            && path.value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if is_plain {
            health.path = Some(path.value);
        } else {
            let message = format!("`{}` is not a path to ask for", path.value);
            section.problems.help(&path.at, message, "write it as  health_path = \"/health\"");
        }
    }
    if let Some(host) = section.parsed::<crate::DomainName>("health_host", "a host name") {
        health.host = Some(host.value.to_string());
    }
    if let Some(status) = section.parsed::<StatusRange>("health_status", "a range of statuses") {
        health.status = (status.value.0, status.value.1);
    }
    if let Some(body) = section.string("health_body") {
        health.body = Some(body.value);
    }
    if let Some(port) = section.integer("health_port", 1..=65535) {
        health.port = Some(port.value as u16);
    }
    let hundredth = Duration::from_millis(10);
    if let Some(interval) = time(section, "health_interval", hundredth * 10, LONGEST) {
        health.interval = interval;
    }
    if let Some(timeout) = time(section, "health_timeout", hundredth, LONGEST) {
        health.timeout = timeout;
    }
    if let Some(rise) = section.integer("health_rise", 1..=100) {
        health.rise = rise.value as u32;
    }
    if let Some(fall) = section.integer("health_fall", 1..=100) {
        health.fall = fall.value as u32;
    }
}

fn read_outlier(section: &Section<'_>, outlier: &mut Option<OutlierPlan>) {
    let after = section.integer("eject_after", 0..=1000);
    let latency = percent(section, "eject_latency", 0..=10_000);
    let base = time(section, "eject_time", Duration::from_millis(100), LONGEST);
    let most = percent(section, "eject_most", 0..=100);
    if after.as_ref().is_some_and(|after| after.value == 0) {
        *outlier = None;
        return;
    }
    let Some(outlier) = outlier else { return };
    if let Some(after) = after {
        outlier.consecutive = after.value as u32;
    }
    if let Some(latency) = latency {
        outlier.latency_percent = latency;
    }
    if let Some(base) = base {
        outlier.base_ms = base.as_millis() as u64;
        outlier.most_ms = outlier.most_ms.max(outlier.base_ms);
    }
    if let Some(most) = most {
        outlier.most_percent = most;
    }
}
