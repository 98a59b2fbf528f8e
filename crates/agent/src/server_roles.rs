//! The roles that are this very binary: `edge`, `web` and `dns`.
//!
//! They run `/proc/self/exe`, which is the agent's own program even after its file was replaced. Its digest is part of
//! their environment, so that the roles of another version are other children, and are replaced by overlap.

pub(crate) mod edge;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use mainstay_process::{ChildSpec, FileSpec, FolderSpec, Probe, Replace, Signal, SocketSpec, Stop};
use mainstay_site::paths;
use mainstay_site::plan::{DnsPlan, Plan, WebPlan};
use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The names of these roles.
pub(crate) const OWN_ROLES: [&str; 3] = ["edge", "web", "dns"];
/// This binary, whatever has become of its file.
const THIS_BINARY: &str = "/proc/self/exe";
/// What an edge or a web server needs to end when it is replaced, besides the time that the plan gives to connections that
/// left HTTP. The role itself ends a little sooner.
const MARGIN: Duration = Duration::from_secs(40);
/// A question is answered at once.
const DNS_GRACE: Duration = Duration::from_secs(5);
/// A role reads its configuration and serves.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// More workers than this gain nothing here.
const MOST_WORKERS: u16 = 64;
/// Digits of the digest that tell versions apart.
const DIGEST_DIGITS: usize = 16;
/// A role's threads are few; what is more is a fault.
const PROCESSES: u32 = 256;

/// What an own role reads at its start.
#[derive(Serialize)]
struct RoleConfig<'a, P> {
    plan: &'a P,
    run: PathBuf,
    log: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<PathBuf>,
}

/// The first digits of the SHA-256 of this binary. It is read once: what runs does not change.
pub(crate) fn binary_digest() -> io::Result<String> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let digest = digest_of_this_binary()?;
    Ok(KNOWN.get_or_init(|| digest).clone())
}

fn digest_of_this_binary() -> io::Result<String> {
    let mut file = std::fs::File::open(THIS_BINARY)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        hasher.update(&chunk[..count]);
    }
    Ok(digits(hasher))
}

/// The first digits of a digest.
fn digits(hasher: Sha256) -> String {
    let mut text = String::new();
    for byte in hasher.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.truncate(DIGEST_DIGITS);
    text
}

/// Why an own role cannot be described.
#[derive(Debug, Error)]
pub(crate) enum SpecError {
    #[error("the configuration of a role cannot be written: {0}")]
    Config(#[from] serde_json::Error),
    #[error("{0}")]
    Secret(#[from] mainstay_app::Error),
}

/// Edge, web and dns, where the plan has them. `secret` reads one of the server's secrets.
pub(crate) fn specs(
    plan: &Plan,
    digest: &str,
    secret: impl Fn(&str) -> Result<String, mainstay_app::Error>,
) -> Result<Vec<ChildSpec>, SpecError> {
    let workers = workers(plan);
    let mut specs = Vec::new();
    if let Some(edge) = &plan.edge {
        specs.push(edge::spec(edge, digest, workers, secret)?);
    }
    if let Some(web) = &plan.web {
        specs.push(self::web(web, digest, workers)?);
    }
    if let Some(dns) = &plan.dns {
        specs.push(self::dns(dns, digest, workers)?);
    }
    Ok(specs)
}

fn web(plan: &WebPlan, digest: &str, shares: u16) -> Result<ChildSpec, serde_json::Error> {
    let tcp = |address: &SocketAddr| SocketSpec::Tcp { address: *address, shares };
    let sockets = plan.listen.iter().map(tcp).collect();
    let grace = Duration::from_millis(plan.drain_ms) + MARGIN;
    let mut spec = own_role("web", plan, None, digest, sockets, grace)?;
    spec.folders.push(access_log("web", &spec.user));
    Ok(spec)
}

/// The folder of a role's access log, which is the role's own: its lines do not pass through the agent.
fn access_log(name: &str, user: &str) -> FolderSpec {
    let (path, user) = (PathBuf::from(paths::LOG).join(name), user.to_owned());
    FolderSpec { path, group: user.clone(), user, mode: 0o750 }
}

fn dns(plan: &DnsPlan, digest: &str, shares: u16) -> Result<ChildSpec, serde_json::Error> {
    let both = |address: &SocketAddr| {
        let address = *address;
        [SocketSpec::Udp { address, shares }, SocketSpec::Tcp { address, shares }]
    };
    let sockets = plan.listen.iter().flat_map(both).collect();
    own_role("dns", plan, None, digest, sockets, DNS_GRACE)
}

fn own_role<P: Serialize>(
    name: &str,
    plan: &P,
    secrets: Option<PathBuf>,
    digest: &str,
    sockets: Vec<SocketSpec>,
    grace: Duration,
) -> Result<ChildSpec, serde_json::Error> {
    let user = format!("mainstay-{name}");
    let run = paths::role_run(name);
    let config = run.join("config.json");
    let content = RoleConfig { plan, run: run.clone(), log: PathBuf::from(paths::LOG), secrets };
    let content = serde_json::to_string_pretty(&content)?;
    let env = [("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("MAINSTAY_BINARY", digest)];
    Ok(ChildSpec {
        name: name.to_owned(),
        program: THIS_BINARY.into(),
        args: ["role", name, "--config", &config.to_string_lossy()].map(str::to_owned).into(),
        env: BTreeMap::from(env.map(|(key, value)| (key.to_owned(), value.to_owned()))),
        directory: run.clone(),
        sockets,
        folders: vec![FolderSpec { path: run.clone(), user: user.clone(), group: user.clone(), mode: 0o750 }],
        files: vec![FileSpec {
            path: config,
            content,
            user: "root".to_owned(),
            group: user.clone(),
            mode: 0o640,
        }],
        user,
        ready: Probe::OwnHttp { socket: paths::admin_socket(name), path: "/health".to_owned() },
        ready_within: READY_WITHIN,
        stop: Stop { signal: Signal::Terminate, grace },
        replace: Replace::Overlap,
        memory: None,
        processes: Some(PROCESSES),
        capabilities: Vec::new(),
    })
}

/// One worker per processor that the server has, and one listening socket for each.
fn workers(plan: &Plan) -> u16 {
    let machine = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let given = plan.resources.cpus.map_or(machine, |cpus| cpus.ceil().max(1.0) as usize);
    u16::try_from(machine.min(given)).unwrap_or(MOST_WORKERS).min(MOST_WORKERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns_plan() -> DnsPlan {
        DnsPlan {
            listen: vec!["127.0.0.1:5300".parse().unwrap()],
            zones: Vec::new(),
            responses_per_second: 50,
        }
    }

    #[test]
    fn another_version_of_the_binary_is_another_child() {
        let old = dns(&dns_plan(), "aaaa", 2).unwrap();
        assert_eq!(old, dns(&dns_plan(), "aaaa", 2).unwrap());
        assert_ne!(old, dns(&dns_plan(), "bbbb", 2).unwrap());
        assert_eq!(binary_digest().unwrap().len(), DIGEST_DIGITS);
    }

    #[test]
    fn a_role_listens_on_udp_and_tcp_with_one_share_per_worker() {
        let spec = dns(&dns_plan(), "aaaa", 3).unwrap();
        assert_eq!(spec.sockets.iter().map(SocketSpec::count).sum::<usize>(), 6);
        assert_eq!(spec.user, "mainstay-dns");
        assert!(spec.files[0].content.contains("\"responses_per_second\": 50"));
    }
}
