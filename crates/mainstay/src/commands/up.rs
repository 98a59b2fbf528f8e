//! `mainstay up`: preflight, plan, progress, proof, card.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use mainstay_lab::proof::Check;
use mainstay_lab::{SiteState, State, logs, preflight, proof, up};
use mainstay_site::{Site, smallest};

use super::{Done, Failure, plan};
use crate::output::{self, Progress};

/// Log lines that are shown of what failed.
const SHOWN_LINES: usize = 12;

pub(super) fn run(path: Option<PathBuf>, detach: bool, state: &Path) -> Done {
    let path = match path {
        Some(path) => path,
        None => write_smallest(Path::new("."))?,
    };
    let site = Site::load(&path)?;
    let missing = preflight::check(&site);
    if !missing.is_empty() {
        let lines: Vec<String> = missing
            .iter()
            .map(|missing| format!("  {}\n    remedy: {}", missing.what, missing.remedy))
            .collect();
        return Err(Failure::Told(format!("this machine lacks what the site needs:\n{}", lines.join("\n"))));
    }
    let text =
        fs::read_to_string(&path).map_err(|error| Failure::other(path.display().to_string(), error))?;
    let state = State::at(state)?;
    let site_state = state.site(&site.name);
    output::line(plan::overview(&site).trim_end());
    output::line("");
    let progress = Progress::begin();
    let said = |who: &str, what: &str| progress.say(who, what);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let options = up::Options { site: &site, folder, text: &text, detach, said: &said };
    let outcome = match up::up(&state, &options) {
        Ok(outcome) => outcome,
        Err(error) => {
            output::error(&error.to_string());
            return Err(Failure::Told(last_words(&site_state)));
        }
    };
    if detach {
        output::line("The servers run; `mainstay status --watch` shows how the site comes up.");
        return Ok(ExitCode::SUCCESS);
    }
    if outcome.unchanged {
        output::line(&format!(
            "The site {} is up already, and just as the file says: nothing to do.",
            site.name
        ));
    } else {
        output::line(&format!("  {:>6.2} s  all roles are ready", progress.seconds()));
    }
    prove(&site, &site_state)?;
    output::line(&card(&site, &site_state, outcome.ports));
    Ok(ExitCode::SUCCESS)
}

/// Writes the smallest site beside the user, unless there is a site file already.
fn write_smallest(folder: &Path) -> Result<PathBuf, Failure> {
    let file = folder.join("site.toml");
    if file.exists() {
        output::line("Using ./site.toml\n");
        return Ok(file);
    }
    for (name, content) in smallest::FILES {
        let path = folder.join(name);
        let failed =
            |error: std::io::Error| Failure::other(format!("cannot write {}", path.display()), error);
        if path.exists() {
            return Err(Failure::Usage(format!(
                "there is no site.toml here, and {} is in the way of writing the smallest one; go to an empty folder, \
                 or name a site file: mainstay up SITE",
                path.display()
            )));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::write(&path, content).map_err(failed)?;
    }
    output::line("No site file here, so this one was written to ./site.toml, with a small app in ./app:\n");
    for line in smallest::SITE_FILE.lines() {
        output::line(&format!("    {line}"));
    }
    output::line("");
    Ok(file)
}

fn prove(site: &Site, state: &SiteState) -> Result<(), Failure> {
    let begun = Instant::now();
    let checks = proof::prove(site, state)?;
    let failed: Vec<&Check> = checks.iter().filter(|check| check.failure.is_some()).collect();
    if failed.is_empty() {
        let seconds = begun.elapsed().as_secs_f64();
        output::line(&format!(
            "\n{} checks passed in {seconds:.1} s",
            output::strong(&checks.len().to_string())
        ));
        return Ok(());
    }
    output::line("");
    for check in &checks {
        output::line(&format!("  {:<6} {}", output::mark(check.failure.is_none()), check.promise));
        if let Some(failure) = &check.failure {
            output::line(&format!("         {failure}"));
        }
    }
    let words = last_words(state);
    Err(Failure::Told(format!("{} of {} checks failed\n{words}", failed.len(), checks.len())))
}

/// What the site's processes said last.
fn last_words(state: &SiteState) -> String {
    let lines: Vec<String> =
        logs::Reader::new(state, logs::Filter::default()).read().iter().map(logs::Line::readable).collect();
    let last = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ");
    format!("the last lines of the logs (all of them: `mainstay logs`):\n  {last}")
}

fn card(site: &Site, state: &SiteState, ports: up::Ports) -> String {
    let port = ports.http;
    let host =
        site.hosts.iter().find(|host| !host.wildcard).map_or(site.domain.as_str(), |host| host.name.as_str());
    let web =
        if site.has_edge() || site.web.port == 80 { String::new() } else { format!(":{}", site.web.port) };
    // The certificate is for the site's own names, which lead elsewhere on this machine.
    let https = ports.https.map_or_else(String::new, |port| {
        format!(
            "\x20 https      https://localhost:{port}/ (the browser warns: the certificate is for {host})\n\
             \x20            curl -k --resolve {host}:{port}:127.0.0.1 https://{host}:{port}/\n"
        )
    });
    let first = site.servers.first().map_or("server1", |server| server.name.as_str());
    format!(
        "\n{title}\n\
         \x20 browser    http://localhost:{port}/\n\
         {https}\
         \x20 visitor    mainstay exec client -- curl -s http://{host}{web}/\n\
         \x20 logs       {logs}/hosts/*/log\n\
         \n\
         Next\n\
         \x20 mainstay status              servers, roles, restarts\n\
         \x20 mainstay logs -f             what they say\n\
         \x20 mainstay exec {first} -- ps aux\n\
         \n\
         `mainstay down` takes it down and keeps its data; `mainstay down --purge` leaves nothing.",
        title = output::strong(&format!("{host} stands")),
        logs = state.folder.display(),
    )
}
