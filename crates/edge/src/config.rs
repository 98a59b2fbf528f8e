//! What the role is to do.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use aws_lc_rs::digest::{SHA256, digest};
use mainstay_site::plan::EdgePlan;
use serde::{Deserialize, Serialize};

/// Bytes of a secret at most: a chain of certificates is the largest of them.
const SECRET_BYTES: u64 = 1 << 20;

/// What the role is to do, as the agent writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The role's part of the server's plan.
    pub plan: EdgePlan,
    /// The role's run folder; the admin socket is made in it.
    pub run: PathBuf,
    /// The folder of logs; the access log is `edge/access.log` in it.
    pub log: PathBuf,
    /// The folder of secrets: a file for each name that the plan names, readable by the role's user.
    pub secrets: PathBuf,
}

impl Config {
    /// SHA-256, in hexadecimal, of the configuration as indented JSON: the text that the agent writes.
    pub fn digest(&self) -> String {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether a running process can take `next` over in place; if not, why. What it cannot change are its sockets and
    /// the bounds that the engine was started with: for those the role is replaced by a new process.
    pub fn allows(&self, next: &Self) -> Result<(), String> {
        if addresses(&self.plan) != addresses(&next.plan) {
            return Err("the listening addresses are others; that takes a new process".to_owned());
        }
        if self.plan.limits != next.plan.limits
            || self.plan.connections_per_client != next.plan.connections_per_client
            || self.plan.drain_ms != next.plan.drain_ms
        {
            return Err("the limits on clients are others; that takes a new process".to_owned());
        }
        let proxies_matter = self.plan.connections_per_client > 0
            || self.plan.listeners.iter().any(|listener| listener.proxy_protocol);
        if proxies_matter && self.plan.trusted_proxies != next.plan.trusted_proxies {
            return Err("the trusted proxies are others; that takes a new process".to_owned());
        }
        if (&self.run, &self.log) != (&next.run, &next.log) {
            return Err("the folders are others; that takes a new process".to_owned());
        }
        Ok(())
    }

    /// The content of a secret.
    pub(crate) fn secret(&self, name: &str) -> Result<Vec<u8>, String> {
        use std::io::Read as _;
        if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
            return Err(format!("`{name}` is no name of a secret"));
        }
        let path = self.secrets.join(name);
        let failed = |error: std::io::Error| format!("the secret {} cannot be read: {error}", path.display());
        let file = std::fs::File::open(&path).map_err(failed)?;
        let mut content = Vec::new();
        file.take(SECRET_BYTES).read_to_end(&mut content).map_err(failed)?;
        Ok(content)
    }
}

/// Listeners as the kernel and the TLS layer know them: a change of any of this needs new ones.
fn addresses(plan: &EdgePlan) -> HashSet<(SocketAddr, &'static str, bool)> {
    let http = plan.listeners.iter().map(|listener| {
        (listener.address, if listener.tls { "https" } else { "http" }, listener.proxy_protocol)
    });
    http.chain(plan.tcp.iter().map(|service| (service.listen, "tcp", service.proxy_protocol))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::Config;

    #[test]
    fn a_secret_is_a_name_in_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "k").unwrap();
        let config = Config {
            plan: crate::fixture::plan("127.0.0.1:80".parse().unwrap(), Vec::new()),
            run: PathBuf::new(),
            log: PathBuf::new(),
            secrets: folder.path().to_owned(),
        };
        assert_eq!(config.secret("key").unwrap(), b"k");
        for name in ["../key", "", ".key", "a/b", "absent"] {
            assert!(config.secret(name).is_err(), "{name}");
        }
        assert_eq!(config.digest().len(), 64);
        assert!(config.allows(&config).is_ok());
        let mut other = config.clone();
        other.plan.listeners[0].tls = true;
        assert!(config.allows(&other).is_err());
    }
}
