//! `mainstay plan`, and the plan that `up` shows before it begins.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use mainstay_site::plan::edge::{BalancePlan, EdgePlan, Upstream};
use mainstay_site::plan::{Direction, Peer, Protocol};
use mainstay_site::{Inputs, Plan, Site};

use super::Done;
use crate::output;

pub(super) fn run(path: &Path, json: bool) -> Done {
    let site = Site::load(path)?;
    let plans = site.plans(&Inputs::default());
    if json {
        output::line(&serde_json::to_string_pretty(&plans).unwrap_or_default());
        return Ok(ExitCode::SUCCESS);
    }
    output::line(overview(&site).trim_end());
    for plan in &plans {
        output::line(&format!("\n{}", server(plan).trim_end()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Servers with their roles and addresses, and what survives what.
pub(super) fn overview(site: &Site) -> String {
    let hosts: Vec<String> = site
        .hosts
        .iter()
        .map(|host| format!("{}{}", if host.wildcard { "*." } else { "" }, host.name))
        .collect();
    let mut text = format!("The site {} answers to {}\n\n", site.name, hosts.join(", "));
    let mut rows =
        vec![vec!["SERVER".to_owned(), "ADDRESS".to_owned(), "ROLES".to_owned(), "IF IT DIES".to_owned()]];
    for (server, loss) in site.servers.iter().zip(site.survival()) {
        let roles: Vec<&str> = server.roles.iter().map(|role| role.name()).collect();
        let fate = if loss.survives { "the site stands" } else { "the site is down" };
        let mut address = server.address.to_string();
        if let Some(six) = server.address6 {
            let _ = write!(address, " {six}");
        }
        rows.push(vec![
            server.name.to_string(),
            address,
            roles.join(" "),
            format!("{fate}: {}", loss.reason),
        ]);
    }
    text.push_str(&output::table(&rows));
    let missing = site.not_yet();
    if !missing.is_empty() {
        text.push_str("\nThe file asks for more than this version carries out; left out for now:\n");
        for part in missing {
            let _ = writeln!(text, "  {part}");
        }
    }
    text
}

fn server(plan: &Plan) -> String {
    let mut text = format!("{} runs\n", output::strong(plan.server.as_str()));
    let mut run = |name: &str, what: String| {
        let _ = writeln!(text, "  {name:<10} {what}");
    };
    if let Some(dns) = &plan.dns {
        let zones: Vec<&str> = dns.zones.iter().map(|zone| zone.apex.as_str()).collect();
        run("dns", format!("answers for {} on {}", zones.join(", "), list(&dns.listen)));
    }
    if let Some(edge) = &plan.edge {
        for line in balances(edge) {
            run("edge", line);
        }
    }
    if let Some(web) = &plan.web {
        run("web", format!("HTTP/1.1 and h2c on {}", list(&web.listen)));
    }
    for app in &plan.apps {
        let kind = match &app.runtime {
            mainstay_site::plan::Runtime::Php { workers, .. } => {
                format!("php-fpm, {workers} requests at once")
            }
            mainstay_site::plan::Runtime::Python { entry, workers, .. } => {
                format!("Python {entry}, {workers} workers")
            }
            mainstay_site::plan::Runtime::Command { command, .. } => command.join(" "),
        };
        run("app", format!("{}: {kind}", app.name));
    }
    if let Some(database) = &plan.database {
        let engine = match database.engine {
            mainstay_site::plan::Engine::Mariadb => "MariaDB",
            mainstay_site::plan::Engine::Mysql => "MySQL",
        };
        let names: Vec<&str> = database.databases.iter().map(|database| database.name.as_str()).collect();
        run(
            "database",
            format!("{engine} on {} with {} ({})", database.listen, database.memory, names.join(", ")),
        );
    }
    text.push_str("  and lets pass\n");
    if plan.flows.is_empty() {
        text.push_str("    nothing\n");
    }
    for flow in &plan.flows {
        let protocol = match flow.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let peer = match &flow.peer {
            Peer::Anywhere => "anywhere".to_owned(),
            Peer::Server(name) => name.to_string(),
            Peer::Network(name) => name.clone(),
        };
        let way = match flow.direction {
            Direction::In => format!("in  from {peer}"),
            Direction::Out => format!("out to {peer}"),
        };
        let _ = writeln!(text, "    {protocol}/{:<5} {way:<18} {}", flow.port, flow.purpose);
    }
    text
}

/// What a load balancer does, a line for each thing.
fn balances(edge: &EdgePlan) -> Vec<String> {
    let of = |tls: bool| {
        let listeners = edge.listeners.iter().filter(|listener| listener.tls == tls);
        listeners.map(|listener| listener.address).collect::<Vec<_>>()
    };
    let mut lines = vec![format!("HTTP/1.1 and h2c on {}", list(&of(false)))];
    if !of(true).is_empty() {
        let redirect = if edge.redirect_to_tls { "; HTTP is redirected to it" } else { "" };
        lines.push(format!("HTTPS (HTTP/1.1 and h2) on {}{redirect}", list(&of(true))));
    }
    for service in &edge.tcp {
        let group = service.group.as_deref().unwrap_or("those that the names lead to");
        lines.push(format!("{} on {}, to {group}", service.name, service.listen));
    }
    for group in &edge.groups {
        let way = match &group.balance {
            BalancePlan::RoundRobin => "each in turn",
            BalancePlan::LeastConnections => "the least busy first",
            BalancePlan::Latency => "the faster of two at random",
            BalancePlan::ConsistentHash { .. } => "the same key to the same server",
        };
        let upstreams: Vec<String> = group.upstreams.iter().map(upstream).collect();
        lines.push(format!("{}: {} ({way})", group.name, upstreams.join(", ")));
    }
    let own = edge.routes.len().saturating_sub(1);
    if own > 0 {
        lines.push(format!("{own} routes before the one for all"));
    }
    lines
}

fn upstream(upstream: &Upstream) -> String {
    let mut text = format!("{} {}", upstream.name, upstream.address);
    for (is_so, word) in [(upstream.backup, " (backup)"), (upstream.drain, " (draining)")] {
        if is_so {
            text.push_str(word);
        }
    }
    text
}

fn list(addresses: &[std::net::SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_as_plain_words() {
        let site = Site::parse(mainstay_site::smallest::SITE_FILE, "site.toml").unwrap();
        let plans = site.plans(&Inputs::default());
        insta::assert_snapshot!(format!("{}\n{}", overview(&site), server(&plans[0])));
    }

    #[test]
    fn a_load_balancer_says_whom_it_leads_where() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/2-distributed/site.toml");
        let site = Site::parse(&std::fs::read_to_string(path).unwrap(), "site.toml").unwrap();
        let plans = site.plans(&Inputs::default());
        insta::assert_snapshot!(format!("{}\n{}{}", overview(&site), server(&plans[0]), server(&plans[2])));
    }
}
