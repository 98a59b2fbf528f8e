//! The roles' own processes.

use std::path::Path;
use std::process::ExitCode;

use serde::de::DeserializeOwned;

use super::{Done, Failure};
use crate::cli::Role;

pub(super) fn run(role: Role) -> Done {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MAINSTAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter).init();
    let failed = |error: &dyn std::fmt::Display| Failure::other("the role cannot run", error);
    match role {
        Role::Edge(role) => {
            let path = role.config.clone();
            let again = move || read(&path).map_err(|error| error.to_string());
            mainstay_edge::run(read(&role.config)?, again).map_err(|error| failed(&error))?;
        }
        Role::Web(role) => mainstay_web::run(&read(&role.config)?).map_err(|error| failed(&error))?,
        Role::Dns(role) => mainstay_dns::run(&read(&role.config)?).map_err(|error| failed(&error))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::other(format!("the configuration {}", path.display()), error)
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    serde_json::from_str(&text).map_err(|error| failed(&error))
}
