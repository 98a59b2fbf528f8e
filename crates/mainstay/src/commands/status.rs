//! `mainstay status`.

use std::process::ExitCode;
use std::time::Duration;

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
    for trouble in troubles {
        text.push_str(&format!("\n  {trouble}"));
    }
    text
}
