//! Making the data folder, once. An interrupted attempt leaves nothing that looks finished.

use std::fs;
use std::io;
use std::process::Command;

use mainstay_process::account::Account;
use mainstay_site::plan::{DatabasePlan, Engine};

use crate::error::file;
use crate::{Error, Place, find, server_program};

/// Lines of the server program's output that an error shows.
const SHOWN_LINES: usize = 15;

/// Makes the data folder if there is none: the system tables, root by its Unix user only, no anonymous account, no test database.
///
/// # Errors
/// [`Error`] if the server program is missing or fails.
pub fn prepare(plan: &DatabasePlan, place: &Place) -> Result<(), Error> {
    if place.data.join("mysql").is_dir() {
        return Ok(());
    }
    let new = place.data.with_extension("new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file("remove", &new)(error)),
        _ => {}
    }
    fs::create_dir_all(&new).map_err(file("make", &new))?;
    chown(&new, &place.user)?;
    let temporary = place.temporary();
    fs::create_dir_all(&temporary).map_err(file("make", &temporary))?;
    chown(&temporary, &place.user)?;
    let mut command = match plan.engine {
        Engine::Mariadb => {
            let program = find("mariadb-install-db").ok_or(Error::NotInstalled {
                program: "mariadb-install-db",
                package: "mariadb-server-core",
            })?;
            let mut command = Command::new(program);
            command.arg("--no-defaults").args([
                "--auth-root-authentication-method=socket",
                "--skip-test-db",
                "--skip-name-resolve",
                // Nothing is there yet that a crash could take: it is all made safe by one sync at the end.
                "--innodb-flush-method=nosync",
                "--innodb-log-file-size=16M",
            ]);
            // The system's root is let in anyway; the keeper, who runs as the server's own user, is too.
            command.arg(format!("--auth-root-socket-user={}", place.user));
            command
        }
        Engine::Mysql => {
            let mut command = Command::new(server_program(plan.engine)?);
            command.arg("--no-defaults").arg("--initialize-insecure");
            command
        }
    };
    command
        .arg(format!("--datadir={}", new.display()))
        .arg(format!("--tmpdir={}", temporary.display()))
        .arg(format!("--user={}", place.user));
    let output = command.output().map_err(file("run", command.get_program().as_ref()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        return Err(Error::Initialise {
            output: lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n"),
        });
    }
    sync(&new)?;
    // The folder may have been made empty beforehand, to be mounted on or owned; then it is taken over.
    match fs::remove_dir(&place.data) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file("replace", &place.data)(error));
        }
        _ => {}
    }
    fs::rename(&new, &place.data).map_err(file("name", &place.data))?;
    // The new name itself is on disk only with the folder that holds it.
    let Some(parent) = place.data.parent() else { return Ok(()) };
    fs::File::open(parent).and_then(|open| open.sync_all()).map_err(file("sync", parent))
}

fn chown(path: &std::path::Path, user: &str) -> Result<(), Error> {
    let account = Account::of(user).map_err(io::Error::other).map_err(file("find the owner of", path))?;
    std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).map_err(file("give away", path))
}

/// Everything is on disk before the folder gets its name. One call for the whole file system: the hundreds of small
/// files one by one would each wait for the disk.
fn sync(folder: &std::path::Path) -> Result<(), Error> {
    let open = fs::File::open(folder).map_err(file("open", folder))?;
    rustix::fs::syncfs(&open).map_err(io::Error::from).map_err(file("sync", folder))
}
