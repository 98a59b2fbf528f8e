//! What this machine lacks for a site, each with the exact remedy, before anything is begun.

use std::path::Path;

use mainstay_site::Role;
use mainstay_site::model::{AppKind, Site};
use mainstay_site::plan::Engine;
use serde::Serialize;

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What, and what for.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// Memory that a lab needs besides what its servers are given, in MiB.
const OWN_MEMORY_MIB: u64 = 128;
/// What a server without roles that need memory takes at least, in MiB.
const LEAST_SERVER_MIB: u64 = 200;

/// Looks for everything that the site needs here.
pub fn check(site: &Site) -> Vec<Missing> {
    let mut missing = Vec::new();
    let mut need = |there: bool, what: &str, remedy: &str| {
        if !there {
            missing.push(Missing { what: what.to_owned(), remedy: remedy.to_owned() });
        }
    };
    need(
        nix::unistd::geteuid().is_root(),
        "root: the lab makes network, process and mount namespaces, and each role runs as its own user",
        "run it as root, for example with sudo",
    );
    for (file, name) in
        [("net", "network"), ("pid", "process"), ("mnt", "mount"), ("cgroup", "control group")]
    {
        let there = Path::new("/proc/self/ns").join(file).exists();
        need(there, &format!("the kernel's {name} namespaces"), "boot a kernel of Debian's");
    }
    let mut package = |program: &str, purpose: &str, package: &str| {
        need(find(program), &format!("{program}, for {purpose}"), &format!("apt-get install {package}"));
    };
    package("ip", "the lab's network", "iproute2");
    package("nsenter", "entering the lab's hosts", "util-linux");
    package("mount", "the servers' disks", "mount");
    package("mkfs.ext4", "the servers' disks", "e2fsprogs");
    package("unbound", "the resolver of the lab's internet", "unbound");
    package("curl", "the proof from outside", "curl");
    if site.with_role(Role::Database).next().is_some() {
        match site.database.engine {
            Engine::Mariadb => {
                package("mariadbd", "the database", "mariadb-server-core");
                package("mariadb", "the database's accounts", "mariadb-client-core");
            }
            Engine::Mysql => package("mysqld", "the database", "mysql-server-core"),
        }
    }
    for app in &site.apps {
        match &app.kind {
            AppKind::Php { .. } => {
                need(
                    php_fpm(),
                    &format!("php-fpm, for the app {}", app.name),
                    "apt-get install php-fpm php-mysql",
                );
            }
            AppKind::Python { .. } => {
                let there = Path::new("/usr/lib/python3/dist-packages").exists() || find("python3");
                need(
                    there,
                    &format!("python3, for the app {}", app.name),
                    "apt-get install python3 python3-venv",
                );
            }
            AppKind::Command { .. } => {}
        }
    }
    let wanted: u64 = OWN_MEMORY_MIB + site.servers.len() as u64 * LEAST_SERVER_MIB;
    if let Some(free) = available_mebibytes() {
        need(
            free >= wanted,
            &format!("memory: {free} MiB are free, and this site takes at least {wanted} MiB"),
            "end other programs, or put fewer servers into the file",
        );
    }
    missing
}

fn find(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}

fn php_fpm() -> bool {
    let programs = std::fs::read_dir("/usr/sbin").into_iter().flatten().flatten();
    programs.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| name.starts_with("php-fpm"))
}

fn available_mebibytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes / 1024)
}
