//! How a site is: its hosts, and what each server's agent says of its roles.

use std::collections::BTreeMap;

use mainstay_agent::ServerStatus;
use mainstay_http::client;
use serde::Serialize;

use crate::state::{HostState, SiteState};
use crate::{CLIENT, INTERNET};

/// A site, as it is now.
#[derive(Debug, Clone, Serialize)]
pub struct SiteStatus {
    /// Its name.
    pub site: String,
    /// Whether every host is alive and every role of every server is ready.
    pub healthy: bool,
    /// Where a browser of the real machine finds the website.
    pub url: Option<String>,
    /// The port of 127.0.0.1 that leads to it by HTTPS, where it has that.
    pub https_port: Option<u16>,
    /// The hosts by name.
    pub hosts: BTreeMap<String, HostStatus>,
}

/// One host.
#[derive(Debug, Clone, Serialize)]
pub struct HostStatus {
    /// Whether its first process lives.
    pub alive: bool,
    /// The first process, as numbered on the real machine.
    pub pid: i32,
    /// What its agent says; absent for hosts without one, and while it does not answer.
    pub server: Option<ServerStatus>,
    /// Why there is nothing from the agent, where there should be.
    pub trouble: Option<String>,
}

impl HostStatus {
    /// Whether the host does all that it should.
    pub fn is_ready(&self) -> bool {
        self.alive
            && self.trouble.is_none()
            && self.server.as_ref().is_none_or(|server| {
                server.settled
                    && server.problems.is_empty()
                    && server.roles.iter().all(|role| is_ready(&role.state))
            })
    }
}

/// Whether a role is in the state that it should be in: it serves, or it left the plan and finishes what it began.
pub fn is_ready(state: &impl Serialize) -> bool {
    matches!(state_name(state).as_str(), "ready" | "draining")
}

/// The state's name, as the agent's API tells it.
pub fn state_name(state: &impl Serialize) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.as_object().and_then(|fields| fields.keys().next().cloned()).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// Asks everything of a site how it is.
pub fn status(site: &SiteState) -> SiteStatus {
    let record = site.record();
    let mut hosts = BTreeMap::new();
    for (name, host) in &record.hosts {
        let alive = host.is_alive();
        let has_agent = name != CLIENT && name != INTERNET;
        let (server, trouble) = match (alive, has_agent) {
            (false, _) => (None, Some("it is down".to_owned())),
            (true, false) => (None, None),
            (true, true) => match server_status(&site.host(name)) {
                Ok(server) => (Some(server), None),
                Err(reason) => (None, Some(reason)),
            },
        };
        hosts.insert(name.clone(), HostStatus { alive, pid: host.pid, server, trouble });
    }
    let healthy = !hosts.is_empty() && hosts.values().all(HostStatus::is_ready);
    let url = record.http_port.map(|port| format!("http://localhost:{port}/"));
    SiteStatus { site: site.name.to_string(), healthy, url, https_port: record.https_port, hosts }
}

pub(crate) fn server_status(host: &HostState) -> Result<ServerStatus, String> {
    let answer = call(host, "GET", "/v1/status")?;
    answer.json().map_err(|error| format!("the agent's answer makes no sense: {error}"))
}

pub(crate) fn apply(host: &HostState) -> Result<(), String> {
    call(host, "POST", "/v1/apply").map(drop)
}

fn call(host: &HostState, method: &str, path: &str) -> Result<client::Answer, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let socket = host.agent_socket();
    let answer = runtime.block_on(async {
        if method == "GET" {
            client::get(&socket, path).await
        } else {
            client::post(&socket, path, None).await
        }
    });
    let answer = answer.map_err(|error| format!("the agent does not answer: {error}"))?;
    if answer.status.is_success() {
        Ok(answer)
    } else {
        Err(format!("the agent answered {}: {}", answer.status, answer.text()))
    }
}
