//! From the file's text to a [`Site`], or to everything that is wrong with it.
//!
//! Each part of the file has a module that reads it and notes its own problems; [`agree`] then holds the
//! parts against each other.

mod agree;
mod app;
mod database;
mod dns;
mod edge;
mod later;
mod secret;
mod server;

use std::time::Duration;

use toml::de::DeTable;

use crate::model::{Network, Network4, RouteRule, RouteTarget, Site, WebSettings};
use crate::plan::{HostPattern, WebLimits};
use crate::problem::{Problem, SiteErrors};
use crate::section::{At, Problems, Section};
use crate::{ByteSize, DomainName, SiteName};

/// The longest site file, in bytes. A thousand servers fit several times over.
pub const MOST_BYTES: usize = 1024 * 1024;

impl Site {
    /// Reads a site file. `file` is its name as messages show it.
    ///
    /// # Errors
    /// Every problem of the file at once, each with its place.
    pub fn parse(text: &str, file: &str) -> Result<Site, SiteErrors> {
        let fail = |problems| SiteErrors::new(file, text, problems);
        if text.len() > MOST_BYTES {
            let message = format!("the file has {} bytes; a site file has at most {MOST_BYTES}", text.len());
            return Err(SiteErrors::new(file, "", vec![Problem { at: 0..0, message, help: None }]));
        }
        if text.trim().is_empty() {
            let message = "the file is empty".to_owned();
            let help = Some("run `mainstay up` without a file: it writes the smallest site file".to_owned());
            return Err(fail(vec![Problem { at: 0..0, message, help }]));
        }
        let (document, syntax) = DeTable::parse_recoverable(text);
        if !syntax.is_empty() {
            let problems = syntax.iter().map(|error| Problem {
                at: error.span().unwrap_or(0..0),
                message: format!("this is no TOML: {}", error.message().trim_end()),
                help: None,
            });
            return Err(fail(problems.collect()));
        }
        let problems = Problems::default();
        let root = Section::new(String::new(), 0..0, document.get_ref(), &problems);
        let site = read_site(root);
        let problems = problems.into_vec();
        match site {
            Some(site) if problems.is_empty() => Ok(site),
            _ => Err(fail(problems)),
        }
    }
}

/// Reads every part, so that every problem is noted; `None` when something needed is missing.
fn read_site(root: Section<'_>) -> Option<Site> {
    let (name, domain, hosts) = read_identity(&root);
    let network = read_network(&root);
    let servers = server::read(&root, &network.value);
    let apps = app::read(&root, domain.as_ref());
    let routes = read_routes(&root, &apps);
    let web = read_web(&root);
    let database = database::read(&root, &servers);
    let dns = dns::read(&root, domain.as_ref(), &servers);
    let edge = edge::read(&root, domain.as_ref(), &servers);
    let tls = later::tls(&root);
    let firewall = later::firewall(&root);
    let monitor = later::monitor(&root);
    let coordinator = later::coordinator(&root);
    let backup = later::backup(&root);
    let asks = |route: &&crate::plan::edge::EdgeRoute| route.client_certificate;
    if tls.as_ref().is_none_or(|tls| tls.clients.is_none())
        && let Some(route) = edge.value.routes.iter().find(asks)
    {
        let message =
            format!("route `{}` wants certificates of clients, who are not asked for them", route.name);
        let help = "name who issues them:  [tls]  client_authorities = \"clients.pem\"";
        root.problems.help(&edge.at, message, help);
    }
    agree::check(&root, &network, &servers, &apps, &web, &database, &edge);
    database::agree(&root, &servers, &database, coordinator.as_ref());
    secret::refuse_in(&root);
    let problems = root.problems;
    root.finish();
    let domain = domain?;
    let name = match name {
        Some(name) => name.value,
        None => default_name(&domain, problems)?,
    };
    Some(Site {
        name,
        hosts: if hosts.is_empty() { default_hosts(&domain) } else { hosts },
        domain: domain.value,
        network: network.value,
        servers: servers.into_iter().map(|server| server.value).collect(),
        apps: apps.into_iter().map(|app| app.value).collect(),
        routes,
        web: web.value,
        database: database.value,
        dns,
        edge: edge.value,
        tls,
        firewall,
        monitor,
        coordinator,
        plans_replicas: false,
        backup,
    })
}

fn read_identity(root: &Section<'_>) -> (Option<At<SiteName>>, Option<At<DomainName>>, Vec<HostPattern>) {
    let Some(section) = root.section("site") else {
        if !root.has("site") {
            root.problems.help(
                &(0..0),
                "the file has no [site]",
                "begin with:  [site]  and under it  domain = \"example.com\"",
            );
        }
        return (None, None, Vec::new());
    };
    let name = section.parsed("name", "a site's name");
    let domain = section.parsed("domain", "a domain name");
    if domain.is_none() && !section.has("domain") {
        section.missing("domain", "add the site's zone, such as  domain = \"example.com\"");
    }
    let hosts = section.strings("hosts").map(|hosts| {
        if hosts.value.is_empty() {
            section.problems.help(
                &hosts.at,
                "`hosts` is an empty list",
                "leave it out to answer to the domain and www",
            );
        }
        hosts.value.iter().filter_map(|host| read_host(host, domain.as_ref(), section.problems)).collect()
    });
    section.finish();
    (name, domain, hosts.unwrap_or_default())
}

/// A host name or `*.name`, which must lie in the site's zone: a name outside it would never lead here.
fn read_host(text: &At<String>, domain: Option<&At<DomainName>>, problems: &Problems) -> Option<HostPattern> {
    let (wildcard, name) = match text.value.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text.value.as_str()),
    };
    let name: DomainName = match name.parse() {
        Ok(name) => name,
        Err(error) => {
            problems.note(&text.at, format!("`{}` is not a host name: {error}", text.value));
            return None;
        }
    };
    if let Some(domain) = domain.filter(|domain| !name.is_within(&domain.value)) {
        problems.help(
            &text.at,
            format!("the host `{name}` is not in the site's zone {}", domain.value),
            format!("use {} or a name that ends with .{}", domain.value, domain.value),
        );
        return None;
    }
    Some(HostPattern { name, wildcard })
}

fn default_hosts(domain: &At<DomainName>) -> Vec<HostPattern> {
    let names = [format!("www.{}", domain.value).parse().ok(), Some(domain.value.clone())];
    names.into_iter().flatten().map(|name| HostPattern { name, wildcard: false }).collect()
}

fn default_name(domain: &At<DomainName>, problems: &Problems) -> Option<SiteName> {
    let label = domain.value.as_str().split('.').next().unwrap_or_default();
    match label.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("the site's name would be `{label}`, the domain's first part, but {error}");
            problems.help(&domain.at, message, "give it a name of its own: add  name = \"...\"  to [site]");
            None
        }
    }
}

fn read_network(root: &Section<'_>) -> At<Network> {
    let default = Network4 { base: [10, 10, 0, 0].into(), prefix: 24 };
    let Some(section) = root.section("network") else {
        return At { value: Network { servers: default, floating_ips: Vec::new(), prefix6: 64 }, at: 0..0 };
    };
    let servers = section.parsed::<Network4>("servers", "an IPv4 network");
    let floating = section.parsed_list("floating_ips", "an IPv4 address").unwrap_or_default();
    let prefix6 = section.integer("prefix6", 8..=126).map_or(64, |prefix| prefix.value as u8);
    let network = servers.as_ref().map_or(default, |servers| servers.value);
    for address in &floating {
        if !network.contains(address.value) {
            let message =
                format!("the floating IP {} is not in the servers' network {network}", address.value);
            section.problems.help(&address.at, message, "choose a free address of that network");
        }
    }
    let at = section.at.clone();
    section.finish();
    let floating_ips = floating.into_iter().map(|address| address.value).collect();
    At { value: Network { servers: network, floating_ips, prefix6 }, at }
}

const REDIRECTS: [i64; 5] = [301, 302, 303, 307, 308];

fn read_routes(root: &Section<'_>, apps: &[At<crate::model::App>]) -> Vec<RouteRule> {
    let mut routes = Vec::new();
    for section in root.list("route") {
        let host = section.string("host").and_then(|host| read_host(&host, None, section.problems));
        let path = read_path(&section, "path").unwrap_or_else(|| "/".to_owned());
        let app = section.string("app");
        let folder = section.string("static");
        let redirect = section.string("redirect");
        let status = section.integer("status", 300..=399);
        if let Some(status) = status.as_ref().filter(|status| !REDIRECTS.contains(&status.value)) {
            let message = format!("{} is no redirect that clients follow", status.value);
            section.problems.help(&status.at, message, "use 301, 302, 303, 307 or 308");
        }
        let named = app.as_ref().and_then(|name| {
            let found = apps.iter().find(|app| app.value.name.as_str() == name.value);
            if found.is_none() {
                let names: Vec<&str> = apps.iter().map(|app| app.value.name.as_str()).collect();
                let help = crate::section::suggestion(&name.value, &names);
                section.problems.help(&name.at, format!("there is no app `{}`", name.value), help);
            }
            found.map(|app| app.value.name.clone())
        });
        let target = match (app.is_some(), folder, redirect) {
            (true, Some(folder), None) => named.map(|app| RouteTarget::Static { app, folder: folder.value }),
            (true, None, None) => named.map(RouteTarget::App),
            (false, None, Some(to)) => {
                let status = status.map_or(308, |status| status.value as u16);
                Some(RouteTarget::Redirect { to: to.value, status })
            }
            _ => {
                section.problems.help(
                    &section.at,
                    "a route needs one target",
                    "give it  app = \"NAME\"  (and  static = \"FOLDER\"  for files only), or  redirect = \"https://...\"",
                );
                None
            }
        };
        section.finish();
        routes.extend(target.map(|target| RouteRule { host, path, target }));
    }
    routes
}

/// A path of the site: starts with `/`, without dot segments, query or a final slash (but for `/` itself).
fn read_path(section: &Section<'_>, key: &'static str) -> Option<String> {
    let path = section.string(key)?;
    let text = path.value.as_str();
    let odd = text.contains(['?', '#', '%', '\\', '\0']) || text.contains("//");
    let dots = text.split('/').any(|segment| segment == "." || segment == "..");
    if !text.starts_with('/') || odd || dots {
        let message = format!("`{text}` is not a path of the site");
        section.problems.help(&path.at, message, "write it as /folder, plain and without . or .. segments");
        return None;
    }
    let trimmed = text.trim_end_matches('/');
    Some(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
}

fn read_web(root: &Section<'_>) -> At<WebSettings> {
    let mut settings = WebSettings {
        port: 80,
        limits: WebLimits::default(),
        compress: true,
        drain_timeout: Duration::from_hours(1),
    };
    let Some(section) = root.section("web") else { return At { value: settings, at: 0..0 } };
    if let Some(port) = section.integer("port", 1..=65535) {
        settings.port = port.value as u16;
    }
    read_request_limits(&section, &mut settings.limits);
    if let Some(time) = later::duration(&section, "backend_timeout") {
        settings.limits.backend_timeout_secs = time.as_secs().max(1) as u32;
    }
    if let Some(compress) = section.boolean("compress") {
        settings.compress = compress;
    }
    let week = Duration::from_hours(24 * 7);
    if let Some(timeout) = edge::words::time(&section, "drain_timeout", Duration::ZERO, week) {
        settings.drain_timeout = timeout;
    }
    let at = section.at.clone();
    section.finish();
    At { value: settings, at }
}

/// Limits on what clients may send: keys that `[web]` and `[edge]` share.
fn read_request_limits(section: &Section<'_>, limits: &mut WebLimits) {
    if let Some(body) = section.parsed::<ByteSize>("body", "a size") {
        limits.body = body.value;
    }
    if let Some(head) = section.parsed::<ByteSize>("head", "a size") {
        limits.head = head.value;
        if !(1024..=1024 * 1024).contains(&head.value.bytes()) {
            let message = format!("`head` in {} must be from 1KiB to 1MiB", section.title);
            section.problems.note(&head.at, message);
        }
    }
    if let Some(headers) = section.integer("headers", 10..=1000) {
        limits.headers = headers.value as u16;
    }
    if let Some(count) = section.integer("connections", 10..=1_000_000) {
        limits.connections = count.value as u32;
    }
    let seconds: [(&'static str, &mut u32); 3] = [
        ("head_timeout", &mut limits.head_timeout_secs),
        ("body_timeout", &mut limits.body_timeout_secs),
        ("idle_timeout", &mut limits.idle_timeout_secs),
    ];
    for (key, field) in seconds {
        if let Some(time) = later::duration(section, key) {
            *field = time.as_secs().max(1) as u32;
        }
    }
}
