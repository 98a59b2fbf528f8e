//! What the hosts need: the binary, plans, secrets and releases, put where a real server has them too.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mainstay_app::{release, venv};
use mainstay_identity::Subject;
use mainstay_process::fdstore::Notifier;
use mainstay_site::model::{IdentityPart, SecretSource};
use mainstay_site::plan::Runtime;
use mainstay_site::{Plan, paths};
use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};

use super::Up;
use crate::error::{Error, file, host};
use crate::host::{BINARY, Service};
use crate::state::{HostRecord, SiteState, write_atomically};
use crate::{INTERNET, internet, status};

/// Copies this very binary to where the hosts run it from, named by its content, and returns the name.
pub(super) fn binary(state: &SiteState) -> Result<String, Error> {
    let own = Path::new("/proc/self/exe");
    let mut digest = Sha256::new();
    let mut content = fs::File::open(own).map_err(file("read", own))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = content.read(&mut buffer).map_err(file("read", own))?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
    }
    let name: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let folder = state.folder.join("bin").join(&name);
    if !folder.join("mainstay").exists() {
        fs::create_dir_all(&folder).map_err(file("make", &folder))?;
        let new = folder.join("new");
        fs::copy(own, &new).map_err(file("copy to", &new))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).map_err(file("change", &new))?;
        fs::rename(&new, folder.join("mainstay")).map_err(file("name", &folder))?;
    }
    let current = state.folder.join("bin/current");
    if fs::read_link(&current).is_ok_and(|target| target == Path::new(&name)) {
        return Ok(name);
    }
    let new = state.folder.join("bin/.current");
    let _ = fs::remove_file(&new);
    symlink(&name, &new).map_err(file("link", &new))?;
    fs::rename(&new, &current).map_err(file("name", &current))?;
    Ok(name)
}

/// Brings one server's files to it, and lets its agent carry the plan out.
pub(super) fn server(up: &Up<'_>, plan: &Plan, host: &HostRecord, binary: &str) -> Result<(), Error> {
    let name = plan.server.as_str();
    let inside = |path: &Path| host.inside(path);
    for app in &plan.apps {
        let failed = |error: mainstay_app::Error| Error::Release {
            app: app.name.to_string(),
            reason: error.to_string(),
        };
        let releases = inside(&paths::releases(&app.name));
        fs::create_dir_all(&releases).map_err(file("make", &releases))?;
        if !releases.join(&app.release).is_dir() {
            (up.said)(name, &format!("release {} of {}", app.release, app.name));
        }
        release::copy(&up.built(&app.name).join(&app.release), &releases, &app.release).map_err(failed)?;
        release::prune(&releases, &app.release).map_err(failed)?;
        if let Runtime::Python { environment, .. } = &app.runtime {
            let id = environment.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let venvs = inside(&venv::folder(""));
            fs::create_dir_all(&venvs).map_err(file("make", &venvs))?;
            release::copy(&up.environments().join(&id), &venvs, &id).map_err(failed)?;
        }
    }
    // The schema comes with the release, also where no app runs.
    for database in plan.database.iter().flat_map(|database| &database.databases) {
        let Some(schema) = &database.schema else { continue };
        let releases = paths::releases(&database.app);
        let id = schema.strip_prefix(&releases).ok().and_then(|rest| rest.iter().next());
        let Some(id) = id.and_then(|id| id.to_str()) else { continue };
        let there = inside(&releases);
        fs::create_dir_all(&there).map_err(file("make", &there))?;
        release::copy(&up.built(&database.app).join(id), &there, id)
            .map_err(|error| Error::Release { app: database.app.to_string(), reason: error.to_string() })?;
    }
    let has_new_secrets = secrets(up, plan, host)?;
    let plan_file = inside(&paths::plan_file());
    let text = serde_json::to_vec_pretty(plan).map_err(|error| crate::error::host(name, error))?;
    let is_known = fs::read(&plan_file).is_ok_and(|known| known == text);
    if is_known && !has_new_secrets && is_current(up, plan, host, binary) {
        return Ok(());
    }
    write_atomically(&plan_file, &text, 0o600)?;
    let service = Service {
        name: "agent".to_owned(),
        program: BINARY.into(),
        args: vec!["agent".to_owned(), "--server".to_owned(), name.to_owned()],
        env: BTreeMap::new(),
        version: binary.to_owned(),
        adopts: true,
    };
    if services(up, name, host, &[service], &[])? {
        (up.said)(name, "agent starting");
        return Ok(());
    }
    (up.said)(name, if is_known { "applying changed secrets" } else { "applying the changed plan" });
    status::apply(&up.state.host(name)).map_err(|reason| Error::Agent { server: name.to_owned(), reason })
}

/// Whether the server's agent has this very plan and binary.
fn is_current(up: &Up<'_>, plan: &Plan, _host: &HostRecord, binary: &str) -> bool {
    let folder = up.state.host(plan.server.as_str());
    let same_binary = fs::read_to_string(folder.services()).is_ok_and(|text| text.contains(binary));
    same_binary && status::server_status(&folder).is_ok_and(|server| server.plan == plan.revision)
}

/// Brings a server its secrets; tells whether any is other than it was.
fn secrets(up: &Up<'_>, plan: &Plan, host: &HostRecord) -> Result<bool, Error> {
    let site = up.options.site;
    let Some(server) = site.servers.iter().find(|server| server.name == plan.server) else {
        return Ok(false);
    };
    let mut is_new = false;
    let subject = Subject { server: plan.server.clone(), addresses: plan.addresses.clone() };
    let issued = || up.identity.server(&subject, SystemTime::now());
    let folder = host.inside(&paths::secrets());
    fs::create_dir_all(&folder).map_err(file("make", &folder))?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(file("change", &folder))?;
    for (name, source) in site.secrets_of(server) {
        let text = match source {
            SecretSource::Generated(_) => generated(&up.state.folder.join("secrets").join(&name))?,
            SecretSource::File(path) => {
                let path = up.options.folder.join(path);
                fs::read_to_string(&path).map_err(file("read", &path))?
            }
            SecretSource::Identity(part) => match part {
                IdentityPart::Authority => up.identity.trusted().to_owned(),
                IdentityPart::Certificate => issued()?.certificate,
                IdentityPart::Key => issued()?.key,
            },
        };
        let path = folder.join(&name);
        if fs::read_to_string(&path).is_ok_and(|known| known == text) {
            continue;
        }
        write_atomically(&path, text.as_bytes(), 0o600)?;
        is_new = true;
    }
    Ok(is_new)
}

/// A secret that was made once and is kept: 32 random bytes in hexadecimal.
fn generated(path: &Path) -> Result<String, Error> {
    if let Ok(text) = fs::read_to_string(path) {
        return Ok(text);
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::File {
        doing: "make the secret",
        path: path.to_owned(),
        source: std::io::Error::other(error),
    })?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // Two servers that need the same one are served at the same time: the first to name it wins.
    // The random part stands in the name itself, so that what is written on the way there differs too.
    let mut own = path.as_os_str().to_owned();
    own.push(format!("-{}", &text[16..32]));
    let own = PathBuf::from(own);
    write_atomically(&own, text.as_bytes(), 0o600)?;
    let linked = fs::hard_link(&own, path);
    fs::remove_file(&own).map_err(file("remove", &own))?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(file("make", path)(error)),
        _ => fs::read_to_string(path).map_err(file("read", path)),
    }
}

/// The root name server and the resolver.
pub(super) fn internet(up: &Up<'_>, host: &HostRecord, binary: &str) -> Result<(), Error> {
    let site = up.options.site;
    let run = paths::RUN;
    let folder = up.state.host(INTERNET).run();
    let config =
        mainstay_dns::Config { plan: internet::root_zone(site), run: PathBuf::from(run).join("dns") };
    let config =
        serde_json::to_string_pretty(&config).map_err(|error| crate::error::host(INTERNET, error))?;
    let resolver = internet::resolver(site, run);
    let files =
        [("root.json", &config), ("unbound.conf", &resolver), ("root.hints", &internet::root_hints(site))];
    fs::create_dir_all(folder.join("dns")).map_err(file("make", &folder.join("dns")))?;
    for (name, content) in files {
        write_atomically(&folder.join(name), content.as_bytes(), 0o644)?;
    }
    let service = |name: &str, program: &str, args: &[&str], version: String| Service {
        name: name.to_owned(),
        program: program.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::new(),
        version,
        adopts: false,
    };
    let (root_config, resolver_config) = (format!("{run}/root.json"), format!("{run}/unbound.conf"));
    let wanted = [
        service("root", BINARY, &["role", "dns", "--config", &root_config], format!("{binary} {config}")),
        service("resolver", "/usr/sbin/unbound", &["-d", "-p", "-c", &resolver_config], resolver),
    ];
    if services(up, INTERNET, host, &wanted, &[])? {
        (up.said)(INTERNET, "root name server and resolver starting");
    }
    Ok(())
}

/// Lets a host run these services; tells whether that was anything new. `descriptors` go to the first service's store.
pub(super) fn services(
    up: &Up<'_>,
    name: &str,
    record: &HostRecord,
    wanted: &[Service],
    descriptors: &[(&str, std::os::fd::BorrowedFd<'_>)],
) -> Result<bool, Error> {
    let folder = up.state.host(name);
    let text = serde_json::to_vec_pretty(wanted).map_err(|error| host(name, error))?;
    if fs::read(folder.services()).is_ok_and(|known| known == text) {
        return Ok(false);
    }
    write_atomically(&folder.services(), &text, 0o600)?;
    let store = wanted.first().map(|service| folder.run().join(format!("notify-{}", service.name)));
    let is_new = store.as_ref().is_some_and(|store| !store.exists());
    let keep = |store: &Path| -> Result<(), Error> {
        let notifier = Notifier::to(store).map_err(|error| host(name, error))?;
        for (descriptor_name, descriptor) in descriptors {
            notifier.keep(descriptor_name, &[*descriptor]).map_err(|error| host(name, error))?;
        }
        Ok(())
    };
    if let Some(store) = store.as_ref().filter(|_| !is_new && !descriptors.is_empty()) {
        keep(store)?;
    }
    crate::down::signal(record, Signal::SIGHUP);
    if let Some(store) = store.filter(|_| is_new && !descriptors.is_empty()) {
        // The host makes the store when it reads its services, a moment before it starts them.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !store.exists() && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        keep(&store)?;
    }
    Ok(true)
}
