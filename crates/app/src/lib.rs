//! The app server: from an app's plan to the process that runs it, and from a code base to a release.
//!
//! [`child`] says how php-fpm, gunicorn, uvicorn or any command is started, with what environment and as whom; the
//! agent keeps it running. [`release`] makes a release of a code base, named by its content, and [`venv`] the virtual environment that a
//! Python release needs; [`seed`] gives an app's writable folders what they begin with. All of this is description and files; no process is kept here.

pub mod command;
mod environment;
mod error;
pub mod php;
mod python;
mod readiness;
pub mod release;
mod seed;
pub mod venv;

use std::path::PathBuf;

use mainstay_process::{ChildSpec, FolderSpec};
use mainstay_site::plan::{AppPlan, Runtime, WebApp};
use mainstay_site::{AppName, ServerName, SiteName, paths};

pub use environment::Secrets;
pub use error::Error;
pub use seed::seed;

/// The user of the web server, whose group may connect to the apps' sockets and read what they store.
pub const WEB_USER: &str = "mainstay-web";

/// Where and for whom an app runs.
#[derive(Debug)]
pub struct Context<'a> {
    /// The site.
    pub site: &'a SiteName,
    /// The server.
    pub server: &'a ServerName,
    /// The secrets that the plan names.
    pub secrets: &'a Secrets,
    /// What the web server beside the app knows of it.
    pub web: Option<&'a WebApp>,
}

/// The user that an app runs as.
pub fn user(app: &AppName) -> String {
    format!("mainstay-app-{app}")
}

/// The name of an app's process among the roles of its server.
pub fn role_name(app: &AppName) -> String {
    format!("app-{app}")
}

/// The process that runs an app.
///
/// # Errors
/// [`Error`] if a secret is missing or the program that runs the app is not installed.
pub fn child(plan: &AppPlan, context: &Context<'_>) -> Result<ChildSpec, Error> {
    let mut env = environment::of(plan, context)?;
    let mut spec = match &plan.runtime {
        Runtime::Php { workers, settings } => php::child(plan, *workers, settings, context.web)?,
        Runtime::Python { interface, entry, workers, environment } => {
            python::child(plan, *interface, entry, *workers, environment)
        }
        Runtime::Command { command, listen } => command::child(plan, command, *listen),
    };
    // What the runtime itself needs, such as the socket it is handed, is not the app's to change.
    env.append(&mut spec.env);
    spec.env = env;
    spec.folders.extend(folders(plan));
    Ok(spec)
}

fn release_folder(plan: &AppPlan) -> PathBuf {
    paths::releases(&plan.name).join(&plan.release)
}

/// Temporary files of an app, such as uploads on their way.
fn temporary(app: &AppName) -> PathBuf {
    paths::app_data(app).join(".tmp")
}

/// What the app may write. What it stores belongs to the web server's group too, which serves it.
fn folders(plan: &AppPlan) -> Vec<FolderSpec> {
    let user = user(&plan.name);
    let folder = |path: PathBuf, group: &str, mode| FolderSpec {
        path,
        user: user.clone(),
        group: group.to_owned(),
        mode,
    };
    let data = paths::app_data(&plan.name);
    let mut folders = vec![
        folder(paths::role_run(&role_name(&plan.name)), WEB_USER, 0o2750),
        folder(data.clone(), WEB_USER, 0o2750),
        folder(temporary(&plan.name), &user, 0o700),
        folder(data.join(".sessions"), &user, 0o700),
    ];
    for writable in &plan.writable {
        let mut path = data.clone();
        for part in writable.split('/') {
            path.push(part);
            if !folders.iter().any(|known| known.path == path) {
                folders.push(folder(path.clone(), WEB_USER, 0o2750));
            }
        }
    }
    folders
}
