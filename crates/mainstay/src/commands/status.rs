//! `mainstay status`.

use std::process::ExitCode;
use std::time::Duration;

use mainstay_agent::EdgeStatus;
use mainstay_lab::status::{SiteStatus, state_name, status};

use super::Done;
use crate::cli::Where;
use crate::output;

pub(super) fn run(json: bool, watch: bool, place: &Where) -> Done {
    let site = super::site(place)?;
    loop {
        let status = status(&site);
        if json {
            output::line(&serde_json::to_string_pretty(&status).unwrap_or_default());
        } else {
            let clear = if watch { "\u{1b}[H\u{1b}[2J" } else { "" };
            output::line(&format!("{clear}{}", readable(&status).trim_end()));
        }
        if !watch {
            return Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn readable(status: &SiteStatus) -> String {
    let health = match (status.hosts.is_empty(), status.healthy) {
        (true, _) => "is down",
        (false, true) => "stands",
        (false, false) => "is not well",
    };
    let mut text = format!("The site {} {health}.", status.site);
    if let Some(url) = status.url.as_ref().filter(|_| !status.hosts.is_empty()) {
        text.push_str(&format!(" In a browser: {url}"));
    }
    text.push_str("\n\n");
    let mut rows =
        vec![["HOST", "ROLE", "STATE", "PID", "RESTARTS", "MEMORY", "SINCE"].map(str::to_owned).to_vec()];
    let mut troubles = Vec::new();
    for (name, host) in &status.hosts {
        let alive = if host.alive { "up" } else { "down" };
        let blank = String::new;
        rows.push(vec![
            name.clone(),
            blank(),
            alive.to_owned(),
            host.pid.to_string(),
            blank(),
            blank(),
            blank(),
        ]);
        if let Some(trouble) = &host.trouble {
            troubles.push(format!("{name}: {trouble}"));
        }
        let Some(server) = &host.server else { continue };
        troubles.extend(server.problems.iter().map(|problem| format!("{name}: {problem}")));
        for role in &server.roles {
            if let Some(reason) = &role.rejected {
                troubles.push(format!("{name}: the last change of {} was not taken: {reason}", role.name));
            }
            rows.push(vec![
                blank(),
                role.name.clone(),
                state_name(&role.state).replace('_', " "),
                role.pid.map_or_else(blank, |pid| pid.to_string()),
                role.restarts.to_string(),
                role.memory_bytes
                    .map_or_else(blank, |bytes| format!("{:.1} MiB", bytes as f64 / 1_048_576.0)),
                role.since.clone().unwrap_or_default(),
            ]);
        }
    }
    text.push_str(&output::table(&rows));
    for (name, host) in &status.hosts {
        if let Some(edge) = host.server.as_ref().and_then(|server| server.edge.as_ref()) {
            text.push_str(&balanced(name, edge));
        }
    }
    for trouble in troubles {
        text.push_str(&format!("\n  {trouble}"));
    }
    text
}

/// How a load balancer finds the servers.
fn balanced(name: &str, edge: &EdgeStatus) -> String {
    let rate = edge.requests_per_second.map(|rate| format!("{rate} requests/s, ")).unwrap_or_default();
    let closed = if edge.maintenance { "; visitors are turned away (maintenance)" } else { "" };
    let mut text = format!(
        "\n{name} balances: {rate}{} in flight, {} connections{closed}\n",
        edge.requests_in_flight, edge.connections_open
    );
    let head = ["GROUP", "UPSTREAM", "STATE", "WEIGHT", "IN FLIGHT", "REQUESTS", "FAILED", "LATENCY", "WHY"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for group in &edge.groups {
        for upstream in &group.upstreams {
            rows.push(vec![
                group.name.clone(),
                upstream.name.clone(),
                upstream.state.clone(),
                upstream.weight.to_string(),
                upstream.in_flight.to_string(),
                upstream.requests.to_string(),
                upstream.failures.to_string(),
                upstream.latency_ms.map_or_else(String::new, |latency| format!("{latency:.1} ms")),
                upstream.why.clone(),
            ]);
        }
    }
    text.push_str(&output::table(&rows));
    for group in edge.groups.iter().filter(|group| group.waiting > 0) {
        text.push_str(&format!("  {} wait for room in {}\n", group.waiting, group.name));
    }
    for service in &edge.services {
        text.push_str(&format!(
            "  {} at {}: {} of {} connections\n",
            service.name, service.listen, service.connections_open, service.connections
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use mainstay_agent::{GroupStatus, ServiceStatus, UpstreamStatus};

    use super::*;

    #[test]
    fn what_a_load_balancer_sees_reads_as_a_table() {
        let up = UpstreamStatus {
            name: "server1".to_owned(),
            state: "up".to_owned(),
            why: "up for 3 m".to_owned(),
            weight: 100,
            in_flight: 2,
            requests: 1234,
            latency_ms: Some(1.25),
            ..UpstreamStatus::default()
        };
        let down = UpstreamStatus {
            name: "server2".to_owned(),
            state: "down".to_owned(),
            why: "down for 4 s: connection refused".to_owned(),
            weight: 100,
            failures: 3,
            ..UpstreamStatus::default()
        };
        let group = GroupStatus {
            name: "web".to_owned(),
            fit: 1,
            waiting: 4,
            upstreams: vec![up, down],
            ..GroupStatus::default()
        };
        let edge = EdgeStatus {
            requests_per_second: Some(200.0),
            requests_in_flight: 2,
            connections_open: 7,
            groups: vec![group],
            services: vec![ServiceStatus {
                name: "sql".to_owned(),
                listen: "10.10.0.5:3306".to_owned(),
                connections_open: 3,
                connections: 1024,
                ..ServiceStatus::default()
            }],
            ..EdgeStatus::default()
        };
        insta::assert_snapshot!(balanced("edge1", &edge));
    }
}
