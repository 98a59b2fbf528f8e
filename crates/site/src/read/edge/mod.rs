//! `[edge]`: the load balancer. Every key has a default, so that the role alone is enough.

mod group;
mod pool;
mod route;
pub(super) mod words;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::edge::{DEFAULT_GROUP, EdgeSettings};
use crate::model::{Role, Server};
use crate::plan::edge::{CachePlan, HashKey, Maintenance, RateLimit};
use crate::plan::{HostPattern, WebLimits};
use crate::section::{At, Section, suggestion};
use crate::{ByteSize, DomainName};
use words::{Key, Window, networks, time};

/// The parts of the file that `[edge]` refers to.
struct Known<'a> {
    domain: Option<&'a At<DomainName>>,
    servers: &'a [At<Server>],
}

impl Known<'_> {
    fn hosts(&self, section: &Section<'_>, key: &'static str) -> Vec<HostPattern> {
        let Some(hosts) = section.strings(key) else { return Vec::new() };
        let read = |host| super::read_host(host, self.domain, section.problems);
        hosts.value.iter().filter_map(read).collect()
    }
}

/// The names that routes and services may use.
struct Names<'a> {
    groups: Vec<&'a str>,
    rates: Vec<&'a str>,
}

impl Names<'_> {
    fn group(&self, name: &At<String>, section: &Section<'_>) -> Option<String> {
        Self::of(&self.groups, "group", name, section)
    }

    fn rate(&self, name: &At<String>, section: &Section<'_>) -> Option<String> {
        Self::of(&self.rates, "rate", name, section)
    }

    fn of(known: &[&str], what: &str, name: &At<String>, section: &Section<'_>) -> Option<String> {
        if known.contains(&name.value.as_str()) {
            return Some(name.value.clone());
        }
        let help = if known.is_empty() {
            format!("add it:  [edge.{what}.{}]", name.value)
        } else {
            suggestion(&name.value, known)
        };
        section.problems.help(&name.at, format!("there is no {what} `{}`", name.value), help);
        None
    }

    fn default_group(&self, section: &Section<'_>) -> Option<String> {
        if self.groups.contains(&DEFAULT_GROUP) {
            return Some(DEFAULT_GROUP.to_owned());
        }
        section.problems.help(
            &section.at,
            "this route leads to the web servers, but no server has the role `web`",
            "name another group:  group = \"NAME\"",
        );
        None
    }
}

pub(super) fn read(
    root: &Section<'_>,
    domain: Option<&At<DomainName>>,
    servers: &[At<Server>],
) -> At<EdgeSettings> {
    let mut settings = EdgeSettings::default();
    let Some(section) = root.section("edge") else { return At { value: settings, at: 0..0 } };
    let known = Known { domain, servers };
    settings.pool = pool::read(&section, &settings.pool);
    read_limits(&section, &mut settings);
    settings.rates =
        section.named("rate").into_iter().filter_map(|(name, rate)| read_rate(&name, rate)).collect();
    settings.cache = section.section("cache").map(read_cache);
    settings.maintenance = section.section("maintenance").map(read_maintenance);
    for (name, weight) in section.numbers("weight", 0..=1000) {
        if let Some(server) = known.server(&name, &section) {
            settings.weights.insert(server, weight as u32);
        }
    }
    let draining = section.strings("drain").map_or_else(Vec::new, |drain| drain.value);
    settings.draining = draining.iter().filter_map(|server| known.server(server, &section)).collect();
    let named = section.named("group");
    for (name, group) in named {
        settings.groups.extend(group::read(&group, &name, &known, &settings.pool));
        group.finish();
    }
    read_names_users(&section, &known, &mut settings);
    let at = section.at.clone();
    section.finish();
    At { value: settings, at }
}

/// Services and routes, which name groups and limits.
fn read_names_users(section: &Section<'_>, known: &Known<'_>, settings: &mut EdgeSettings) {
    let mut groups: Vec<String> = settings.groups.iter().map(|group| group.name.clone()).collect();
    if known.servers.iter().any(|server| server.value.has(Role::Web)) {
        groups.push(DEFAULT_GROUP.to_owned());
    }
    let rates: Vec<String> = settings.rates.iter().map(|rate| rate.name.clone()).collect();
    let names = Names {
        groups: groups.iter().map(String::as_str).collect(),
        rates: rates.iter().map(String::as_str).collect(),
    };
    let mut own_groups = Vec::new();
    for (name, service) in section.named("tcp") {
        if let Some((rule, group)) = group::read_tcp(&service, &name, known, &names, settings) {
            if let Some(group) = group.as_ref().filter(|group| names.groups.contains(&group.name.as_str())) {
                let message = format!("the service needs the name `{}` for its group", group.name);
                service.problems.help(&name.at, message, "give the other group another name");
            }
            settings.tcp.push(rule);
            own_groups.extend(group);
        }
        service.finish();
    }
    let mut seen = BTreeSet::new();
    for (index, entry) in section.list("route").into_iter().enumerate() {
        if let Some(route) = route::read(&entry, index, known, &names, settings.request_timeout) {
            if !seen.insert(route.name.clone()) {
                let message = format!("two routes are called `{}`", route.name);
                entry.problems.help(&entry.at, message, "give each a  name  of its own");
            }
            settings.routes.push(route);
        }
        entry.finish();
    }
    settings.groups.extend(own_groups);
}

fn read_limits(section: &Section<'_>, settings: &mut EdgeSettings) {
    let limits: &mut WebLimits = &mut settings.limits;
    super::read_request_limits(section, limits);
    if let Some(count) = section.integer("connections_per_client", 0..=1_000_000) {
        settings.connections_per_client = count.value as u32;
    }
    settings.trusted_proxies = networks(section, "trusted_proxies");
    let flags: [(&'static str, &mut bool); 4] = [
        ("proxy_protocol", &mut settings.proxy_protocol),
        ("compress", &mut settings.compress),
        ("shed", &mut settings.shed),
        ("keep_request_ids", &mut settings.keep_request_ids),
    ];
    for (key, field) in flags {
        if let Some(flag) = section.boolean(key) {
            *field = flag;
        }
    }
    if settings.proxy_protocol && settings.trusted_proxies.is_empty() && !section.has("trusted_proxies") {
        section.problems.help(
            &section.at,
            "`proxy_protocol` is on, but nobody is trusted to send PROXY headers",
            "name who stands before the edges:  trusted_proxies = [\"192.0.2.0/24\"]",
        );
    }
    let week = Duration::from_hours(24 * 7);
    if let Some(timeout) = time(section, "request_timeout", Duration::from_millis(1), week) {
        settings.request_timeout = timeout;
    }
    if let Some(timeout) = time(section, "drain_timeout", Duration::ZERO, week) {
        settings.drain_timeout = timeout;
    }
}

fn read_rate(name: &At<String>, section: Section<'_>) -> Option<RateLimit> {
    let title = words::name(name, "a rate", &section);
    let by = if section.is("by", "all") {
        let _ = section.string("by");
        None
    } else {
        Some(
            section
                .parsed::<Key>("by", "what requests are known by")
                .map_or(HashKey::Client, |by| by.value.0),
        )
    };
    let windows = section.parsed_list::<Window>("limits", "a rate");
    let burst = section.integer("burst", 1..=1_000_000);
    if windows.as_ref().is_none_or(Vec::is_empty) {
        section.missing("limits", "say how often:  limits = [\"10/s\", \"100/m\"]");
    }
    let windows = windows.unwrap_or_default().into_iter().map(|window| {
        let mut window = window.value.0;
        if let Some(burst) = &burst {
            window.burst = burst.value as u32;
        }
        window
    });
    let windows = windows.collect();
    section.finish();
    Some(RateLimit { name: title?, by, windows })
}

fn read_cache(section: Section<'_>) -> CachePlan {
    let mut memory = ByteSize::from_mebibytes(64);
    if let Some(given) = section.parsed::<ByteSize>("memory", "a size") {
        if given.value < ByteSize::from_mebibytes(1) {
            section.problems.note(&given.at, "`memory` in [edge.cache] must be at least 1MiB");
        }
        memory = given.value;
    }
    let mut object = ByteSize::from_mebibytes(1);
    if let Some(given) = section.parsed::<ByteSize>("object", "a size") {
        if given.value > memory {
            let help = format!("the cache has {memory}; give it more `memory`, or name a smaller size");
            section.problems.help(&given.at, "`object` in [edge.cache] is larger than the cache", help);
        }
        object = given.value;
    }
    let day = Duration::from_hours(24);
    let millis = |key, default: u64| {
        time(&section, key, Duration::ZERO, day * 365).map_or(default, |time| time.as_millis() as u64)
    };
    let cache = CachePlan {
        memory,
        object,
        heuristic_ms: millis("heuristic", 0),
        stale_while_revalidate_ms: millis("stale_while_revalidate", 0),
        stale_if_error_ms: millis("stale_if_error", 0),
    };
    section.finish();
    cache
}

fn read_maintenance(section: Section<'_>) -> Maintenance {
    let message = section.string("message").map(|message| message.value);
    let retry = time(&section, "retry_after", Duration::from_secs(1), Duration::from_hours(24 * 30));
    let maintenance = Maintenance {
        message: message.unwrap_or_else(|| "The site is being worked on and will be back soon.".to_owned()),
        retry_after_secs: retry.map_or(300, |retry| retry.as_secs() as u32),
        allow: networks(&section, "allow"),
    };
    section.finish();
    maintenance
}
