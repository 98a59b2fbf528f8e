//! The agent's control API: HTTP on `RUN/agent.sock`, for root alone.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | a [`ServerStatus`] |
//! | `POST /v1/apply` | 202; the plan file is read again and carried out |
//! | `POST /v1/stop` | 202; all roles stop in order, then the agent ends |
//! | `GET /health` | 200 when the plan is carried out and every role serves; else 503 and why |
//! | `GET /metrics` | Prometheus text |

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::{Method, StatusCode};
use mainstay_http::admin::{AdminSocket, Reply, Router, serve};
use mainstay_process::Supervisor;
use mainstay_process::cgroup::Cgroups;
use mainstay_process::supervise::State;
use mainstay_site::{Plan, ServerName, paths};
use tokio::sync::mpsc;

use crate::status::{AgentInfo, ServerStatus, Totals};
use crate::{edge, metrics};

/// What the control API asks of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Read the plan again and carry it out.
    Apply,
    /// Stop all roles in order and end.
    Stop,
}

/// What the parts of the agent share.
pub(crate) struct Shared {
    pub(crate) server: ServerName,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) cgroups: Option<Cgroups>,
    pub(crate) started: Instant,
    /// Guards how far the plan has come; held only to look or to write a few words.
    progress: Mutex<Progress>,
    /// Guards what the load balancer counted last; held only to compare.
    rate: Mutex<edge::Rate>,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    site: String,
    revision: String,
    settled: bool,
    problems: Vec<String>,
}

impl Shared {
    pub(crate) fn new(server: ServerName, supervisor: Arc<Supervisor>, cgroups: Option<Cgroups>) -> Self {
        let progress = Mutex::new(Progress::default());
        Self { server, supervisor, cgroups, started: Instant::now(), progress, rate: Mutex::default() }
    }

    /// A plan begins to be carried out.
    pub(crate) fn begin(&self, plan: &Plan) {
        self.with(|progress| {
            *progress = Progress {
                site: plan.site.to_string(),
                revision: plan.revision.clone(),
                ..Progress::default()
            };
        });
    }

    /// The plan is carried out, except for what was reported as a problem.
    pub(crate) fn settle(&self) {
        self.with(|progress| progress.settled = progress.problems.is_empty());
    }

    /// A plan is about to be carried out: whoever asked for that is not to take the earlier one's end for this one's.
    fn expect(&self) {
        self.with(|progress| progress.settled = false);
    }

    /// Everything is about to be stopped.
    pub(crate) fn end(&self) {
        self.with(|progress| progress.settled = false);
    }

    /// Something stands in the way.
    pub(crate) fn problem(&self, problem: String) {
        tracing::error!(problem, "the plan cannot be carried out whole");
        self.with(|progress| {
            if !progress.problems.contains(&problem) {
                progress.problems.push(problem);
            }
        });
    }

    /// What stood in the way of one thing no longer does.
    pub(crate) fn solved(&self, problem: &str) {
        self.with(|progress| progress.problems.retain(|known| known != problem));
    }

    fn with<T>(&self, look: impl FnOnce(&mut Progress) -> T) -> T {
        look(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) async fn status(&self) -> Result<ServerStatus, mainstay_process::Error> {
        let roles = self.supervisor.status().await?;
        let progress = self.with(|progress| progress.clone());
        let totals = self.cgroups.as_ref().map(Cgroups::usage).map(|usage| Totals {
            memory_bytes: usage.memory_bytes,
            cpu_seconds: usage.cpu.as_secs_f64(),
            processes: usage.processes,
        });
        let has_edge = roles.iter().any(|role| role.name == "edge");
        let edge = if has_edge { edge::ask().await } else { None };
        let edge = edge.map(|edge| {
            let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
            edge::with_rate(edge, &mut rate, Instant::now())
        });
        Ok(ServerStatus {
            server: self.server.to_string(),
            site: progress.site,
            plan: progress.revision,
            settled: progress.settled,
            problems: progress.problems,
            agent: AgentInfo {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_seconds: self.started.elapsed().as_secs(),
            },
            roles,
            totals,
            edge,
        })
    }
}

/// Why a server is not well; none if it is.
pub(crate) fn unwell(status: &ServerStatus) -> Option<String> {
    if let Some(problem) = status.problems.first() {
        return Some(problem.clone());
    }
    if !status.settled {
        return Some("the plan is still being carried out".to_owned());
    }
    // One that drains is no part of the plan any more and only finishes what it began.
    let is_well = |state| matches!(state, State::Ready | State::Draining);
    let role = status.roles.iter().find(|role| !is_well(role.state))?;
    let reason = role.not_ready.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let said = role.last_words.last().map(|line| format!("; it said last: {line}")).unwrap_or_default();
    Some(format!("the role {} is not ready{reason}{said}", role.name))
}

/// Answers on the agent's socket until it is dropped.
pub(crate) fn begin(shared: &Arc<Shared>, requests: &mpsc::Sender<Request>) -> std::io::Result<AdminSocket> {
    let asked = |request: Request| {
        let (shared, requests) = (shared.clone(), requests.clone());
        move |_| {
            let (shared, requests) = (shared.clone(), requests.clone());
            async move {
                if request == Request::Apply {
                    shared.expect();
                }
                match requests.send(request).await {
                    Ok(()) => {
                        Reply::json(&serde_json::json!({"accepted": true})).with_status(StatusCode::ACCEPTED)
                    }
                    Err(_) => Reply::text(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending\n"),
                }
            }
        }
    };
    let told = |answer: fn(&ServerStatus) -> Reply| {
        let shared = shared.clone();
        move |_| {
            let shared = shared.clone();
            async move {
                match shared.status().await {
                    Ok(status) => answer(&status),
                    Err(error) => Reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
                }
            }
        }
    };
    let router = Router::new()
        .route(Method::GET, "/v1/status", told(Reply::json))
        .route(Method::POST, "/v1/apply", asked(Request::Apply))
        .route(Method::POST, "/v1/stop", asked(Request::Stop))
        .route(Method::GET, "/metrics", told(|status| Reply::text(StatusCode::OK, metrics::render(status))))
        .route(
            Method::GET,
            "/health",
            told(|status| match unwell(status) {
                None => Reply::text(StatusCode::OK, "ok\n"),
                Some(reason) => Reply::text(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
            }),
        );
    serve(&paths::agent_socket(), 0o600, router)
}
