//! Virtual environments for Python apps, made once per content of `requirements.txt`.
//!
//! They are made where there is a way to the package index (where `up` or a deploy runs) and copied to the servers,
//! to the same path everywhere; `bin/python -m ...` works from any path, so nothing in them has to be rewritten.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mainstay_site::paths;
use sha2::{Digest, Sha256};

use crate::error::file;
use crate::{Error, release};

/// The servers that run apps, and their versions. They are added to what the app asks for; if it asks for one of them
/// itself, its own words decide the version.
const SERVERS: [(&str, &str); 2] = [("gunicorn", "27.0.1"), ("uvicorn", "0.54.0")];
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
    let text = fs::read_to_string(requirements).map_err(file("read", requirements))?;
    let version = run(Command::new(python()).arg("--version"))?;
    let mut digest = Sha256::new();
    digest.update(&version.stdout);
    digest.update(servers(&text).join(" "));
    digest.update(&text);
    Ok(release::short(&digest.finalize()))
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
    let text = fs::read_to_string(requirements).map_err(file("read", requirements))?;
    // Of several that make it at the same time, the first to name it wins.
    let new = cache.join(format!(".{id}.{}.new", std::process::id()));
    release::remove_tree(&new)?;
    fs::create_dir_all(cache).map_err(file("make", cache))?;
    run(Command::new(python()).args(["-m", "venv"]).arg(&new))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "-r"];
    run(Command::new(new.join("bin/python")).args(pip).arg(requirements).args(servers(&text)))?;
    compile(&new, &folder(&id))?;
    release::publish(&new, &environment)?;
    Ok(id)
}

/// Byte code that is used whatever the times of the files, which a copy does not keep: the folder's name vouches for them.
fn compile(new: &Path, at_last: &Path) -> Result<(), Error> {
    let mut command = Command::new(new.join("bin/python"));
    command.args(["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s"]);
    command.arg(new).arg("-p").arg(at_last).arg(new.join("lib"));
    // Packages may carry files for other versions of Python, which do not compile here and are not needed.
    command.output().map(drop).map_err(file("compile", new))
}

/// What pip installs besides the app's own requirements.
fn servers(requirements: &str) -> Vec<String> {
    let asked_for: Vec<String> = requirements.lines().map(package).collect();
    SERVERS
        .iter()
        .map(|(name, version)| {
            if asked_for.iter().any(|asked| asked == name) {
                (*name).to_owned()
            } else {
                format!("{name}=={version}")
            }
        })
        .collect()
}

/// The name of the package that a line of `requirements.txt` asks for.
fn package(line: &str) -> String {
    let is_part = |symbol: char| symbol.is_ascii_alphanumeric() || "-_.".contains(symbol);
    line.trim_start().chars().take_while(|symbol| is_part(*symbol)).collect::<String>().to_ascii_lowercase()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_names_its_server_decides_the_version() {
        assert_eq!(servers("flask==3.1\n"), ["gunicorn==27.0.1", "uvicorn==0.54.0"]);
        assert_eq!(
            servers("# ours\n Gunicorn[gevent]>=23 ; python_version > '3'\n"),
            ["gunicorn", "uvicorn==0.54.0"]
        );
        assert_eq!(servers("uvicorn-worker\n"), ["gunicorn==27.0.1", "uvicorn==0.54.0"]);
    }
}
