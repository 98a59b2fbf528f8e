//! One module per command, and what their failures mean to the shell.

mod check;
mod down;
mod logs;
mod plan;
mod roles;
mod status;
mod up;

use std::process::ExitCode;

use mainstay_lab::State;
use thiserror::Error;

use crate::cli::{Arguments, Command, LabHost, Where};

/// Why a command did not do what it was asked.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The site file cannot be used.
    #[error(transparent)]
    Site(#[from] mainstay_site::LoadError),
    /// The lab.
    #[error(transparent)]
    Lab(#[from] mainstay_lab::Error),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] mainstay_agent::AgentError),
    /// A role, or a file that the command line works with.
    #[error("{what}: {reason}")]
    Other {
        /// What was to be done.
        what: String,
        /// Why not.
        reason: String,
    },
    /// Asked for in a way that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Everything has been said already.
    #[error("{0}")]
    Told(String),
}

impl Failure {
    pub(crate) fn other(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Other { what: what.into(), reason: reason.to_string() }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Site(mainstay_site::LoadError::Wrong(_)) | Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

pub(crate) type Done = Result<ExitCode, Failure>;

pub(crate) fn run(arguments: Arguments) -> Done {
    match arguments.command {
        Command::Check { site, json } => check::run(&site, json),
        Command::Plan { site, json } => plan::run(&site, json),
        Command::Up { site, detach, state } => up::run(site, detach, &state),
        Command::Down { purge, place } => down::run(purge, &place),
        Command::Status { json, watch, place } => status::run(json, watch, &place),
        Command::Exec { host, command, place } => {
            Err(mainstay_lab::exec(&site(&place)?, &host, &command).into())
        }
        Command::Logs { host, role, follow, since, json, place } => {
            logs::run(&site(&place)?, &logs::Options { host, role, follow, since, json })
        }
        Command::Agent { server, plan } => {
            let ended = mainstay_agent::run(mainstay_agent::AgentOptions { server, plan })?;
            Ok(ExitCode::from(ended.exit_code()))
        }
        Command::Role(role) => roles::run(role),
        Command::ExecChild => Ok(ExitCode::from(mainstay_process::exec_child() as u8)),
        Command::LabHost(LabHost::Launch(host)) => {
            mainstay_lab::processes::launch(&host.spec)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::LabHost(LabHost::Init(host)) => {
            mainstay_lab::processes::init(&host.spec)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::LabGateway { redirect_to, entries } => {
            mainstay_lab::processes::gateway(&entries, redirect_to)
                .map_err(|error| Failure::other("the gateway", error))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The site of the lab that is meant.
fn site(place: &Where) -> Result<mainstay_lab::SiteState, Failure> {
    Ok(State::at(&place.state)?.choose(place.site.as_ref())?)
}
