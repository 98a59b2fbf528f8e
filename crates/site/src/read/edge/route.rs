//! `[[edge.route]]`: which requests go where, and what is changed of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::words::{FieldName, is_field_value, is_token, name, networks, time};
use super::{Known, Names};
use crate::ByteSize;
use crate::plan::edge::{
    EdgeRoute, FieldCondition, FieldEdits, FieldValue, PathCondition, Rewrite, RouteAction, RouteCondition,
};
use crate::section::{At, Section};

/// Fields whose meaning is between two neighbours (RFC 9110, 7.6.1), or that frame a message: the edge sets them itself.
const OWN_FIELDS: [&str; 9] = [
    "connection",
    "keep-alive",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "content-length",
    "proxy-connection",
    "host",
];

pub(super) fn read(
    section: &Section<'_>,
    index: usize,
    known: &Known<'_>,
    names: &Names<'_>,
    request_timeout: Duration,
) -> Option<EdgeRoute> {
    let route_name = match section.string("name") {
        Some(text) => name(&text, "a route", section),
        None => Some(format!("route-{}", index + 1)),
    };
    let path = read_path_condition(section);
    let condition = RouteCondition {
        hosts: known.hosts(section, "hosts"),
        path,
        methods: read_methods(section),
        fields: read_field_conditions(section),
        query: section
            .map("query")
            .into_iter()
            .map(|(name, value)| (name, Some(value.value).filter(|value| value != "*")))
            .collect(),
        clients: networks(section, "clients"),
    };
    let action = read_action(section, &condition.path, names);
    let timeout = time(section, "timeout", Duration::from_millis(1), Duration::from_hours(24 * 7));
    let route = EdgeRoute {
        name: String::new(),
        condition,
        request_fields: read_edits(section, "request_fields"),
        response_fields: read_edits(section, "response_fields"),
        body: section.parsed::<ByteSize>("body", "a size").map(|size| size.value),
        timeout_ms: timeout.unwrap_or(request_timeout).as_millis() as u64,
        rates: section.strings("rates").map_or_else(Vec::new, |rates| {
            rates.value.iter().filter_map(|rate| names.rate(rate, section)).collect()
        }),
        concurrent: section.integer("concurrent", 1..=1_000_000).map_or(0, |most| most.value as u32),
        cache: section.boolean("cache").unwrap_or(true),
        client_certificate: section.boolean("client_certificate").unwrap_or(false),
        action: action?,
    };
    Some(EdgeRoute { name: route_name?, ..route })
}

fn read_path_condition(section: &Section<'_>) -> PathCondition {
    let prefix = super::super::read_path(section, "path");
    let exact = super::super::read_path(section, "path_exact");
    let suffix = section.string("path_suffix");
    let given = [section.has("path"), section.has("path_exact"), section.has("path_suffix")];
    if given.iter().filter(|given| **given).count() > 1 {
        section.problems.help(
            &section.at,
            format!("{} names a path in more than one way", section.title),
            "give it one of  path = \"/shop\"  (it and all below),  path_exact  or  path_suffix = \".png\"",
        );
    }
    if let Some(suffix) = suffix {
        if suffix.value.is_empty() || suffix.value.contains(['?', '#', '%', '\\', '\0']) {
            let message = format!("`{}` is not the end of a path", suffix.value);
            section.problems.help(&suffix.at, message, "write it as  path_suffix = \".png\"");
        }
        return PathCondition::Suffix(suffix.value);
    }
    exact.map(PathCondition::Exact).or(prefix.map(PathCondition::Prefix)).unwrap_or_default()
}

fn read_methods(section: &Section<'_>) -> Vec<String> {
    let Some(methods) = section.strings("methods") else { return Vec::new() };
    let wrong = |method: &At<String>| {
        let message = format!("`{}` is not a method", method.value);
        section.problems.help(&method.at, message, "write methods in capitals: [\"GET\", \"POST\"]");
    };
    let is_method = |method: &&At<String>| {
        let right = is_token(&method.value) && method.value == method.value.to_ascii_uppercase();
        if !right {
            wrong(method);
        }
        right
    };
    methods.value.iter().filter(is_method).map(|method| method.value.clone()).collect()
}

/// `*`: it is there; `abc*`: begins with; `*abc*`: contains; else equal to.
fn read_field_conditions(section: &Section<'_>) -> Vec<FieldCondition> {
    let mut conditions = Vec::new();
    for (name, value) in section.map("fields") {
        let Some(name) = field_name(&name, &value, section) else { continue };
        let text = value.value.as_str();
        let value = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            _ if text == "*" => None,
            (Some(rest), Some(_)) => {
                Some(FieldValue::Contains(rest.strip_suffix('*').unwrap_or(rest).to_owned()))
            }
            (None, Some(start)) => Some(FieldValue::Prefix(start.to_owned())),
            _ => Some(FieldValue::Exact(text.to_owned())),
        };
        conditions.push(FieldCondition { name, value });
    }
    conditions
}

fn field_name(name: &str, value: &At<String>, section: &Section<'_>) -> Option<String> {
    match name.parse::<FieldName>() {
        Ok(name) => Some(name.0),
        Err(error) => {
            section.problems.note(&value.at, format!("`{name}` is not a header field: {error}"));
            None
        }
    }
}

fn read_action(section: &Section<'_>, path: &PathCondition, names: &Names<'_>) -> Option<RouteAction> {
    let redirect = section.string("redirect");
    let respond = section.string("respond");
    let group = section.string("group");
    let shares = section.numbers("groups", 0..=1000);
    let status = section.integer("status", 200..=599);
    let rewrite = super::super::read_path(section, "rewrite");
    let host = section.parsed::<crate::DomainName>("host", "a host name").map(|host| host.value.to_string());
    let forwards = section.has("group") || section.has("groups");
    let ways = [redirect.is_some(), respond.is_some(), forwards];
    if ways.iter().filter(|way| **way).count() > 1 || (section.has("group") && section.has("groups")) {
        section.problems.help(
            &section.at,
            "an edge route does one thing",
            "give it  group = \"NAME\",  or shares such as  groups = { stable = 95, canary = 5 },  or  redirect,  or  respond",
        );
        return None;
    }
    if let Some(redirect) = redirect {
        let status = match status {
            Some(status) if super::super::REDIRECTS.contains(&status.value) => status.value as u16,
            Some(status) => {
                let message = format!("{} is no redirect that clients follow", status.value);
                section.problems.help(&status.at, message, "use 301, 302, 303, 307 or 308");
                return None;
            }
            None => 308,
        };
        if !is_field_value(&redirect.value) || redirect.value.is_empty() {
            section.problems.note(&redirect.at, "a redirect's address has printable ASCII characters only");
        }
        return Some(RouteAction::Redirect { to: redirect.value, status });
    }
    if let Some(respond) = respond {
        let status = status.map_or(200, |status| status.value as u16);
        return Some(RouteAction::Respond { status, body: respond.value });
    }
    if let Some(status) = status {
        let help = "`status` belongs to  redirect  and  respond";
        section.problems.help(&status.at, "a route that forwards takes the upstream's status", help);
    }
    let groups = match group {
        Some(group) => vec![(names.group(&group, section)?, 1)],
        None if section.has("groups") => {
            if !shares.is_empty() && shares.iter().all(|(_, share)| *share == 0) {
                section.problems.note(&section.at, "all shares in `groups` are 0, so nobody would answer");
            }
            let named =
                |(name, share): &(At<String>, i64)| Some((names.group(name, section)?, *share as u32));
            shares.iter().map(named).collect::<Option<Vec<_>>>()?
        }
        None => vec![(names.default_group(section)?, 1)],
    };
    let rewrite = rewrite.map(|to| match path {
        PathCondition::Prefix(_) => Rewrite::Prefix(to),
        PathCondition::Exact(_) | PathCondition::Suffix(_) => Rewrite::Path(to),
    });
    Some(RouteAction::Forward { groups, rewrite, host })
}

/// `{ remove = ["X"], set = { X = "1" }, add = { X = "2" } }`.
fn read_edits(section: &Section<'_>, key: &'static str) -> FieldEdits {
    let Some(edits) = section.section(key) else { return FieldEdits::default() };
    let own = |name: &str, at: &std::ops::Range<usize>| {
        let is_own = OWN_FIELDS.contains(&name);
        if is_own {
            let message = format!("`{name}` is set by the load balancer itself");
            edits.problems.help(
                at,
                message,
                "leave it out; `host` of the route sets the Host that upstreams see",
            );
        }
        is_own
    };
    let remove = edits.parsed_list::<FieldName>("remove", "a header field").unwrap_or_default();
    let remove = remove.into_iter().filter(|name| !own(&name.value.0, &name.at));
    let remove = remove.map(|name| name.value.0).collect();
    let values = |key: &'static str| {
        let mut fields = BTreeMap::new();
        for (name, value) in edits.map(key) {
            let Some(name) = field_name(&name, &value, &edits) else { continue };
            if own(&name, &value.at) {
                continue;
            }
            if is_field_value(&value.value) {
                fields.insert(name, value.value);
            } else {
                edits.problems.note(&value.at, "a field's value has printable ASCII characters only");
            }
        }
        fields
    };
    let read = FieldEdits { remove, set: values("set"), add: values("add") };
    edits.finish();
    read
}
