//! The load balancer: it alone keeps secrets of its own, and takes changes of its plan over while it runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_process::{ChildSpec, FileSpec, FolderSpec, Replace, SocketSpec};
use mainstay_site::paths;
use mainstay_site::plan::EdgePlan;
use sha2::{Digest, Sha256};

use super::{MARGIN, SpecError, access_log, digits, own_role};

/// The role, and its secrets as files that only its user reads.
pub(super) fn spec(
    plan: &EdgePlan,
    digest: &str,
    shares: u16,
    secret: impl Fn(&str) -> Result<String, mainstay_app::Error>,
) -> Result<ChildSpec, SpecError> {
    let secrets: Vec<(String, String)> = names(plan)
        .into_iter()
        .map(|name| Ok((name.clone(), secret(&name)?)))
        .collect::<Result<_, SpecError>>()?;
    let folder = folder(&secrets);
    let tcp = |address| SocketSpec::Tcp { address, shares };
    let mut addresses: Vec<_> = plan.listeners.iter().map(|listener| listener.address).collect();
    addresses.extend(plan.tcp.iter().map(|service| service.listen));
    let sockets = addresses.into_iter().map(tcp).collect();
    let grace = Duration::from_millis(plan.drain_ms) + MARGIN;
    let mut spec = own_role("edge", plan, Some(folder.clone()), digest, sockets, grace)?;
    let user = spec.user.clone();
    spec.folders.push(access_log("edge", &user));
    let parent = folder.parent().map(Path::to_owned);
    for path in parent.into_iter().chain([folder.clone()]) {
        spec.folders.push(FolderSpec { path, group: user.clone(), user: user.clone(), mode: 0o700 });
    }
    spec.files.extend(secrets.into_iter().map(|(name, content)| FileSpec {
        path: folder.join(name),
        content,
        user: user.clone(),
        group: user.clone(),
        mode: 0o600,
    }));
    spec.replace = Replace::Reload;
    Ok(spec)
}

/// The secrets that the plan names.
fn names(plan: &EdgePlan) -> Vec<String> {
    let of_upstreams = plan.groups.iter().filter_map(|group| group.tls.as_ref());
    let shown = of_upstreams.clone().filter_map(|tls| tls.certificate.as_ref());
    let pairs = plan.certificates.iter().chain(shown);
    let mut names: Vec<String> =
        pairs.flat_map(|pair| [pair.chain_secret.clone(), pair.key_secret.clone()]).collect();
    names.extend(of_upstreams.filter_map(|tls| tls.authorities_secret.clone()));
    names.extend(plan.client_certificates.as_ref().map(|clients| clients.authorities_secret.clone()));
    names.push(plan.cookie_secret.clone());
    names.sort();
    names.dedup();
    names
}

/// `RUN/edge/secrets/DIGEST`: other contents lie in another folder, so that the configuration changes with them and the
/// role learns of a renewed certificate as of any other change.
fn folder(secrets: &[(String, String)]) -> PathBuf {
    let mut hasher = Sha256::new();
    for (name, content) in secrets {
        for text in [name, content] {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text.as_bytes());
        }
    }
    paths::role_run("edge").join("secrets").join(digits(hasher))
}

/// Removes the secrets of earlier plans. A start or a change writes those that it needs again.
pub(crate) fn forget_old_secrets(spec: &ChildSpec) {
    let Some(current) = spec.files.get(1).and_then(|file| file.path.parent()) else { return };
    let Some(Ok(entries)) = current.parent().map(std::fs::read_dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path != current) {
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "secrets that nobody needs are still there");
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_site::{Inputs, Site};

    use super::*;

    const SITE: &str = r#"
[site]
domain = "foobar.com"

[server.edge1]
address = "10.10.0.5"
roles = ["edge"]

[server.server1]
address = "10.10.0.11"
roles = ["web"]

[tls]
certificate = "a.pem"
key = "a.key"

[edge.tcp.sql]
listen = 3306
servers = ["server1"]
port = 3306
"#;

    fn spec_with(certificate: &str) -> ChildSpec {
        let site = Site::parse(SITE, "site.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let plan = site.plans(&Inputs::default()).remove(0).edge.unwrap();
        spec(&plan, "aaaa", 2, |name| Ok(format!("{name} {certificate}"))).unwrap()
    }

    #[test]
    fn every_listener_has_a_share_for_each_worker() {
        let spec = spec_with("one");
        let names: Vec<String> = spec.sockets.iter().map(SocketSpec::name).collect();
        assert_eq!(spec.sockets.iter().map(SocketSpec::count).sum::<usize>(), 6, "{names:?}");
    }

    #[test]
    fn secrets_lie_where_only_the_role_reads_them_and_not_in_its_configuration() {
        let spec = spec_with("one");
        assert!(!spec.files[0].content.contains("tls-key-1 one"));
        let key = spec.files.iter().find(|file| file.path.ends_with("tls-key-1")).unwrap();
        assert_eq!(
            (key.mode, key.user.as_str(), key.content.as_str()),
            (0o600, "mainstay-edge", "tls-key-1 one")
        );
        let folder = key.path.parent().unwrap();
        assert!(spec.folders.iter().any(|made| made.path == folder && made.mode == 0o700));
    }

    #[test]
    fn a_renewed_certificate_is_a_change_of_the_configuration() {
        let (one, other) = (spec_with("one"), spec_with("two"));
        assert_ne!(one.files[0].content, other.files[0].content);
        // And of nothing that takes a new process.
        assert_eq!(ChildSpec { files: one.files.clone(), folders: one.folders.clone(), ..other }, one);
    }
}
