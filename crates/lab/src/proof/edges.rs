//! What visitors see of load balancers: every web server answers through them, hidden files stay hidden, HTTPS is spoken.

use std::collections::BTreeSet;

use mainstay_site::Role;
use mainstay_site::model::{AppKind, Server};
use mainstay_site::plan::edge::BalancePlan;

use super::{Check, Proof, check};
use crate::network::redirects_to_https;
use crate::status;

/// Requests in which every server has to be seen.
const REQUESTS: u32 = 90;
/// How many are asked at once: one after the other, all would go to the fastest server.
const AT_ONCE: &str = "30";

impl Proof<'_> {
    pub(super) fn through_edges(&self, checks: &mut Vec<Check>) {
        if !self.site.has_edge() {
            return;
        }
        let host = self.first_host().to_owned();
        let secure = !self.site.certificate_files().is_empty();
        let scheme = if secure { "https" } else { "http" };
        if secure {
            let url = format!("https://{host}/");
            let format = "%{http_code} %header{x-served-by}";
            let curl = ["curl", "-k", "-s", "-o", "/dev/null", "--max-time", "10", "-w", format, &url];
            let result = self.visitor(&curl).and_then(|text| self.served(&text));
            check(checks, format!("{url} is answered by one of the site's servers"), result);
        }
        let expected = self.expected();
        for edge in self.site.with_role(Role::Edge) {
            let port = if secure { 443 } else { 80 };
            let way = format!("{host}:{port}:{}", edge.address);
            if expected.len() > 1 {
                let url = format!("{scheme}://{host}/?proof=[1-{REQUESTS}]");
                let result = self.seen(&way, &url).and_then(|seen| {
                    let missing: Vec<&str> =
                        expected.iter().filter(|name| !seen.contains(*name)).map(String::as_str).collect();
                    if missing.is_empty() {
                        return Ok(());
                    }
                    Err(format!("in {REQUESTS} requests {} answered none", missing.join(" and ")))
                });
                let names: Vec<&str> = expected.iter().map(String::as_str).collect();
                check(checks, format!("{} spreads requests over {}", edge.name, names.join(", ")), result);
            }
            if self.files_are_served() {
                self.hidden(checks, edge, &way, &format!("{scheme}://{host}/.env"));
            }
        }
        self.fitness(checks);
    }

    fn hidden(&self, checks: &mut Vec<Check>, edge: &Server, way: &str, url: &str) {
        let curl = [
            "curl",
            "-k",
            "-s",
            "-o",
            "/dev/null",
            "--max-time",
            "5",
            "-w",
            "%{http_code}",
            "--resolve",
            way,
            url,
        ];
        let result = self.visitor(&curl).and_then(|text| {
            if text.starts_with('4') { Ok(()) } else { Err(format!("a hidden file was answered {text}")) }
        });
        check(checks, format!("{} passes on no hidden file", edge.name), result);
    }

    /// Whether what is asked for without a script's name is a file. An app that speaks HTTP itself may answer every path, one that
    /// looks hidden too.
    fn files_are_served(&self) -> bool {
        let mut at_root = self.site.apps.iter().filter(|app| app.path == "/");
        at_root.all(|app| matches!(app.kind, AppKind::Php { .. }))
    }

    fn first_host(&self) -> &str {
        let host = self.site.hosts.iter().find(|host| !host.wildcard);
        host.map_or(self.site.domain.as_str(), |host| host.name.as_str())
    }

    /// The web servers that have to be seen by one visitor: none where he is kept at one of them, or where routes of the
    /// file lead elsewhere.
    fn expected(&self) -> BTreeSet<String> {
        let edge = &self.site.edge;
        let keeps =
            edge.pool.sticky.is_some() || matches!(edge.pool.balance, BalancePlan::ConsistentHash { .. });
        let described =
            edge.groups.iter().any(|group| group.name == mainstay_site::model::edge::DEFAULT_GROUP);
        if keeps || described || !edge.routes.is_empty() || edge.maintenance.is_some() {
            return BTreeSet::new();
        }
        let weight = |name| edge.weights.get(name).copied().unwrap_or(1);
        let web = self.site.with_role(Role::Web).map(|server| &server.name);
        let takes = web.filter(|name| weight(*name) > 0 && !edge.draining.contains(*name));
        takes.map(ToString::to_string).collect()
    }

    /// Who answers a number of requests, by `X-Served-By`.
    fn seen(&self, way: &str, url: &str) -> Result<BTreeSet<String>, String> {
        let format = "%header{x-served-by}\\n";
        let curl =
            ["curl", "-k", "-s", "-o", "/dev/null", "--max-time", "20", "-w", format, "--resolve", way];
        let text = self.visitor(&[&curl[..], &["--parallel", "--parallel-max", AT_ONCE, url]].concat())?;
        Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// What the load balancers themselves say of the servers.
    fn fitness(&self, checks: &mut Vec<Check>) {
        for (name, host) in status::status(self.state).hosts {
            let Some(edge) = host.server.and_then(|server| server.edge) else { continue };
            for group in edge.groups {
                let out = group.upstreams.iter().find(|upstream| upstream.is_in_trouble());
                let result = match out {
                    None => Ok(()),
                    Some(out) => Err(format!("{} is {}: {}", out.name, out.state, out.why)),
                };
                check(checks, format!("{name} finds all of the group {} fit", group.name), result);
            }
        }
    }

    /// An answer of the site, or an edge's word that it speaks HTTPS only.
    pub(super) fn served_or_redirected(&self, text: &str) -> Result<(), String> {
        if redirects_to_https(self.site) && text.starts_with("308") { Ok(()) } else { self.served(text) }
    }
}
