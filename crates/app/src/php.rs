//! PHP: a php-fpm of the app's own, running as the app's user.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_process::{ChildSpec, FileSpec, Replace, Signal, SocketSpec, Stop};
use mainstay_site::paths;
use mainstay_site::plan::{AppPlan, WebApp};

use crate::{Error, WEB_USER, readiness, release_folder, role_name, temporary, user};

/// The path on which php-fpm itself answers, so that no script is run to see whether it lives.
pub const PING_PATH: &str = "/-/mainstay-ping";
/// The path on which php-fpm tells how busy its workers are. Like the ping, it is no script's name: visitors cannot reach it.
pub const STATUS_PATH: &str = "/-/mainstay-status";

pub(crate) fn child(
    plan: &AppPlan,
    workers: u32,
    settings: &BTreeMap<String, String>,
    web: Option<&WebApp>,
) -> Result<ChildSpec, Error> {
    let program = newest().ok_or(Error::NotInstalled { program: "php-fpm", package: "php-fpm" })?;
    let name = role_name(&plan.name);
    let user = user(&plan.name);
    let socket = paths::app_socket(&plan.name);
    let run = paths::role_run(&name);
    let file = |file: &str, content| FileSpec {
        path: run.join(file),
        content,
        user: "root".to_owned(),
        group: user.clone(),
        mode: 0o640,
    };
    let (pool, ini) = (run.join("php-fpm.conf"), run.join("php.ini"));
    // php-fpm takes over sockets named here instead of opening them: its own way to restart without a gap. The
    // socket is descriptor 3, the first that a child is given. When php-fpm ends it removes the file of that name, which
    // its successor still needs; so the name is one that leads nowhere.
    let inherited = run.join("inherited.sock");
    let files = vec![
        file("php-fpm.conf", configuration(plan, workers, &inherited)),
        file("php.ini", php_ini(plan, settings)),
    ];
    let env = [("FPM_SOCKETS".to_owned(), format!("{}=3", inherited.display()))].into();
    Ok(ChildSpec {
        name,
        program,
        args: ["--nodaemonize", "--force-stderr", "--fpm-config"]
            .map(str::to_owned)
            .into_iter()
            .chain([pool.display().to_string(), "--php-ini".to_owned(), ini.display().to_string()])
            .collect(),
        env,
        user: user.clone(),
        directory: release_folder(plan),
        sockets: vec![SocketSpec::Unix { path: socket.clone(), user, group: WEB_USER.to_owned() }],
        folders: Vec::new(),
        files,
        ready: readiness::php(plan.readiness_path.as_deref(), web, socket),
        ready_within: Duration::from_secs(30),
        stop: Stop { signal: Signal::Quit, grace: Duration::from_secs(30) },
        replace: Replace::Overlap,
        memory: plan.memory,
        processes: Some(plan.processes),
        capabilities: Vec::new(),
    })
}

/// The newest php-fpm of Debian's: their names carry the version.
fn newest() -> Option<PathBuf> {
    let version = |path: &Path| -> Option<(u32, u32)> {
        let (major, minor) = path.file_name()?.to_str()?.strip_prefix("php-fpm")?.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let programs = std::fs::read_dir("/usr/sbin").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    programs.filter(|path| version(path).is_some()).max_by_key(|path| version(path))
}

fn configuration(plan: &AppPlan, workers: u32, socket: &Path) -> String {
    format!(
        "[global]\n\
         error_log = /proc/self/fd/2\n\
         log_limit = 8192\n\
         process_control_timeout = 20s\n\
         \n\
         [{name}]\n\
         listen = {socket}\n\
         listen.backlog = 4096\n\
         pm = static\n\
         pm.max_children = {workers}\n\
         pm.max_requests = 10000\n\
         ping.path = {PING_PATH}\n\
         pm.status_path = {STATUS_PATH}\n\
         catch_workers_output = yes\n\
         decorate_workers_output = no\n\
         ; the environment holds what the plan gives and nothing else\n\
         clear_env = no\n\
         security.limit_extensions = .php\n\
         request_terminate_timeout = 120s\n",
        name = plan.name,
        socket = socket.display(),
    )
}

fn php_ini(plan: &AppPlan, settings: &BTreeMap<String, String>) -> String {
    let temporary = temporary(&plan.name).display().to_string();
    let sessions = paths::app_data(&plan.name).join(".sessions").display().to_string();
    let database = plan.database.as_ref().and_then(|database| database.socket.as_ref());
    let database = database.map(|socket| socket.display().to_string()).unwrap_or_default();
    let defaults = [
        ("expose_php", "0"),
        ("display_errors", "0"),
        ("log_errors", "1"),
        ("error_log", "/proc/self/fd/2"),
        ("memory_limit", "128M"),
        ("post_max_size", "64M"),
        ("upload_max_filesize", "64M"),
        ("upload_tmp_dir", temporary.as_str()),
        ("sys_temp_dir", temporary.as_str()),
        ("session.save_path", sessions.as_str()),
        ("session.cookie_httponly", "1"),
        ("session.cookie_samesite", "Lax"),
        ("session.use_strict_mode", "1"),
        ("cgi.fix_pathinfo", "0"),
        ("date.timezone", "UTC"),
        ("opcache.enable", "1"),
        // A release never changes under its path, so nothing has to be looked at twice; what an app writes itself, such
        // as plugins, may be code too.
        ("opcache.validate_timestamps", if plan.writable.is_empty() { "0" } else { "1" }),
        ("opcache.revalidate_freq", "2"),
        ("realpath_cache_size", "4096K"),
        ("zend.exception_ignore_args", "1"),
        // Where `localhost` is, for apps that know no other name of the database.
        ("mysqli.default_socket", database.as_str()),
        ("pdo_mysql.default_socket", database.as_str()),
    ];
    let mut all: BTreeMap<&str, &str> = defaults.into();
    all.extend(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    all.into_iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = \"{}\"", value.replace(['"', '\n'], ""));
        text
    })
}
