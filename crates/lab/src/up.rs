//! Bringing a site up, or finding out that it is: what is alive and right stays, the rest is made so.

mod browser;
mod deliver;
mod hosts;

pub use browser::Ports;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mainstay_app::{release, venv};
use mainstay_identity::Store as Identities;
use mainstay_site::model::AppKind;
use mainstay_site::plan::HostPattern;
use mainstay_site::{AppName, DomainName, Inputs, Plan, Site};

use crate::error::{Error, file};
use crate::state::{SiteState, State};
use crate::status;
use crate::{CLIENT, INTERNET};

/// How long a server may take until all its roles are ready. A database that recovers a large log takes longest.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(15);

/// What `up` is to do.
pub struct Options<'a> {
    /// The site.
    pub site: &'a Site,
    /// The folder that the site file's paths are relative to.
    pub folder: &'a Path,
    /// The site file's text, kept beside the state.
    pub text: &'a str,
    /// Whether to return as soon as the hosts and agents run.
    pub detach: bool,
    /// Hears what is being done: host, and what.
    pub said: &'a (dyn Fn(&str, &str) + Sync),
}

/// What `up` found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether everything was up and right already.
    pub unchanged: bool,
    /// The ports on 127.0.0.1 that lead to the website.
    pub ports: Ports,
}

/// Brings a site up.
///
/// # Errors
/// [`Error`] with what failed, on what, and why. What was made until then stays, and the next `up` goes on from it.
pub fn up(state: &State, options: &Options<'_>) -> Result<Outcome, Error> {
    let site_state = state.site(&options.site.name);
    site_state.prepare()?;
    let _lock = site_state.lock()?;
    let changed = AtomicBool::new(false);
    let said = |host: &str, what: &str| {
        changed.store(true, Ordering::Relaxed);
        (options.said)(host, what);
    };
    let folder = site_state.folder.join("identity");
    let identity = Identities::open(&folder, &options.site.name, SystemTime::now())?;
    let up = Up { options, state: &site_state, identity, said: &said };
    let binary = deliver::binary(&site_state)?;
    let inputs = up.inputs()?;
    let plans = options.site.plans(&inputs);
    let hosts = up.hosts(&plans)?;
    let ports = std::thread::scope(|scope| {
        let servers: Vec<_> = plans
            .iter()
            .map(|plan| {
                let (up, hosts, binary) = (&up, &hosts, &binary);
                scope.spawn(move || deliver::server(up, plan, &hosts[plan.server.as_str()], binary))
            })
            .collect();
        let outside = deliver::internet(&up, &hosts[INTERNET], &binary)
            .and_then(|()| browser::gateway(&up, &hosts[CLIENT], &binary));
        servers.into_iter().try_for_each(joined)?;
        outside
    })?;
    fs::write(site_state.folder.join("site.toml"), options.text)
        .map_err(file("write", &site_state.folder.join("site.toml")))?;
    if !options.detach {
        for plan in &plans {
            up.wait(plan)?;
        }
    }
    Ok(Outcome { unchanged: !changed.into_inner(), ports })
}

fn joined(thread: std::thread::ScopedJoinHandle<'_, Result<(), Error>>) -> Result<(), Error> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What the steps share.
struct Up<'a> {
    options: &'a Options<'a>,
    state: &'a SiteState,
    /// The site's certificate authority.
    identity: Identities,
    said: &'a (dyn Fn(&str, &str) + Sync),
}

impl Up<'_> {
    /// Releases, environments and the rest of what plans need and the file does not hold.
    fn inputs(&self) -> Result<Inputs, Error> {
        let site = self.options.site;
        let mut releases = BTreeMap::new();
        let mut environments = BTreeMap::new();
        for app in &site.apps {
            let failed = |error: mainstay_app::Error| Error::Release {
                app: app.name.to_string(),
                reason: error.to_string(),
            };
            let code = self.options.folder.join(&app.code);
            let source = release::Source {
                app: &app.name,
                code: &code,
                follow_links: app.follow_links,
                writable: &app.writable,
            };
            let id = release::build(&source, &self.built(&app.name)).map_err(failed)?;
            release::prune(&self.built(&app.name), &id).map_err(failed)?;
            releases.insert(app.name.clone(), id);
            if let AppKind::Python { requirements, .. } = &app.kind {
                let requirements = code.join(requirements);
                let id = venv::identity(&requirements).map_err(failed)?;
                if !self.environments().join(&id).is_dir() {
                    (self.said)(app.name.as_str(), "making its virtual environment");
                }
                let id = venv::build(&requirements, &self.environments()).map_err(failed)?;
                environments.insert(app.name.clone(), venv::folder(&id));
            }
        }
        Ok(Inputs { releases, environments, serial: serial(site), more_hosts: browser_hosts() })
    }

    /// Where an app's releases are built on this machine.
    fn built(&self, app: &AppName) -> std::path::PathBuf {
        self.state.folder.join("releases").join(app.as_str())
    }

    /// Where virtual environments are made on this machine.
    fn environments(&self) -> std::path::PathBuf {
        self.state.folder.join("venvs")
    }

    /// Waits until a server carries its plan out and all its roles are ready.
    fn wait(&self, plan: &Plan) -> Result<(), Error> {
        let host = self.state.host(plan.server.as_str());
        let deadline = Instant::now() + READY_WITHIN;
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let problem = match status::server_status(&host) {
                Ok(server) if server.plan == plan.revision => {
                    for role in &server.roles {
                        let state = status::state_name(&role.state);
                        let known = told.insert(role.name.clone(), state.clone());
                        if known.as_ref().is_some_and(|known| *known != state)
                            || (known.is_none() && state != "ready")
                        {
                            (self.said)(
                                plan.server.as_str(),
                                &format!("{} {}", role.name, state.replace('_', " ")),
                            );
                        }
                    }
                    let waiting: Vec<&str> = server
                        .roles
                        .iter()
                        .filter(|role| role.changing || !status::is_ready(&role.state))
                        .map(|role| role.name.as_str())
                        .collect();
                    if server.settled && waiting.is_empty() && server.problems.is_empty() {
                        return Ok(());
                    }
                    if server.problems.is_empty() {
                        format!("still waits for {}", waiting.join(", "))
                    } else {
                        format!("says: {}", server.problems.join("; "))
                    }
                }
                Ok(server) => format!("carries out an older plan ({})", server.plan),
                Err(reason) => format!("does not answer: {reason}"),
            };
            if Instant::now() >= deadline {
                let server = plan.server.to_string();
                return Err(Error::Agent { server, reason: problem });
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// The zone's serial (RFC 1912, 2.2): follows from the zone's content, so that it changes just when that does.
fn serial(site: &Site) -> u32 {
    let zone = site.plans(&Inputs::default()).into_iter().find_map(|plan| plan.dns);
    let text = serde_json::to_vec(&zone.map(|dns| dns.zones)).unwrap_or_default();
    text.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
        & 0x7fff_ffff
}

/// The names under which a browser of this machine asks for the site: `localhost`, and any name under it (RFC 6761, 6.3).
fn browser_hosts() -> Vec<HostPattern> {
    let name = DomainName::localhost();
    vec![HostPattern { name: name.clone(), wildcard: false }, HostPattern { name, wildcard: true }]
}
