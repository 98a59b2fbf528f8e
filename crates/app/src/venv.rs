//! Virtual environments for Python apps, made once per content of `requirements.txt`.
//!
//! They are made where there is a way to the package index (where `up` or a deploy runs) and copied to the servers,
//! to the same path everywhere; `bin/python -m ...` works from any path, so nothing in them has to be rewritten.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mainstay_site::paths;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::error::file;

/// The servers that run apps, added to what the app asks for; its own requirements decide if they name another version.
const SERVERS: [&str; 2] = ["gunicorn", "uvicorn"];
/// Lines of pip's output that an error shows.
const SHOWN_LINES: usize = 12;

/// Where an environment lies on a server.
pub fn folder(id: &str) -> PathBuf {
    Path::new(paths::LIB).join("venvs").join(id)
}

/// The id of the environment that a requirements file asks for: a digest of its content and of Python's version.
///
/// # Errors
/// [`Error`] if the file cannot be read or Python does not run.
pub fn identity(requirements: &Path) -> Result<String, Error> {
    let text = fs::read(requirements).map_err(file("read", requirements))?;
    let version = run(Command::new(python()).arg("--version"))?;
    let mut digest = Sha256::new();
    digest.update(&version.stdout);
    digest.update(SERVERS.join(" "));
    digest.update(&text);
    Ok(digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

/// Makes the environment below `cache` unless it is there, and returns its id.
///
/// # Errors
/// [`Error::Environment`] with the last lines of what pip said.
pub fn build(requirements: &Path, cache: &Path) -> Result<String, Error> {
    let id = identity(requirements)?;
    let environment = cache.join(&id);
    if environment.is_dir() {
        return Ok(id);
    }
    let new = cache.join(format!(".{id}.new"));
    if new.exists() {
        fs::remove_dir_all(&new).map_err(file("remove", &new))?;
    }
    fs::create_dir_all(cache).map_err(file("make", cache))?;
    run(Command::new(python()).args(["-m", "venv"]).arg(&new))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "-r"];
    run(Command::new(new.join("bin/python")).args(pip).arg(requirements).args(SERVERS))?;
    fs::rename(&new, &environment).map_err(file("name", &environment))?;
    Ok(id)
}

/// Debian's Python, which is at the same path on every server; what is first on the PATH otherwise.
fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

fn run(command: &mut Command) -> Result<Output, Error> {
    let line = format!("{command:?}").replace('"', "");
    let failed = |output: String| Error::Environment { command: line.clone(), output };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output);
    }
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    Err(failed(lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")))
}
