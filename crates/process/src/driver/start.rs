//! How a generation is started.

use std::io;
use std::os::fd::BorrowedFd;

use thiserror::Error;

use super::Driver;
use crate::account::{Account, AccountError};
use crate::adopt::Record;
use crate::cgroup::GenerationGroup;
use crate::files::{FilesError, make_folder, write_file};
use crate::launch::Launch;
use crate::running::Running;
use crate::sockets::SocketError;
use crate::supervise::Adopted;

/// Why a generation cannot be started. It is retried with back-off like any other fall.
#[derive(Debug, Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("its control group cannot be made: {0}")]
    Cgroup(io::Error),
    #[error("it cannot be recorded: {0}")]
    Record(io::Error),
    #[error("the shim cannot be started: {0}")]
    Launch(io::Error),
}

impl Driver {
    pub(super) fn start(&mut self, name: &str, generation: u64, order: u64) -> Result<(), StartError> {
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        let spec = child.specs[&order].clone();
        let account = Account::of(&spec.user)?;
        spec.folders.iter().try_for_each(make_folder)?;
        spec.files.iter().try_for_each(write_file)?;
        let role = self.cgroups.as_ref().map(|groups| groups.role(name, spec.memory, spec.processes));
        let role = role.transpose().map_err(StartError::Cgroup)?;
        let group = role.map(|role| role.make_generation(generation));
        let group = group.transpose().map_err(StartError::Cgroup)?;
        let now = jiff::Timestamp::now();
        let record = Record {
            generation,
            phase: Adopted::Starting,
            since: now.as_second().try_into().unwrap_or_default(),
            spec: spec.clone(),
        };
        self.records.write(&record).map_err(StartError::Record)?;
        let sockets = self.sockets.of(&spec.sockets)?;
        let launch = Launch {
            program: spec.program.clone(),
            args: spec.args.clone(),
            env: spec.env.clone(),
            directory: spec.directory.clone(),
            uid: account.uid,
            gid: account.gid,
            groups: account.groups.clone(),
            capabilities: spec.capabilities.clone(),
            cgroups: group.iter().flat_map(GenerationGroup::procs_files).collect(),
            descriptor_names: sockets.iter().map(|(name, _)| name.clone()).collect(),
            identity_file: Some(self.records.identity_file(name, generation)),
        };
        let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, descriptor)| *descriptor).collect();
        let process =
            self.launcher.start(&launch, &descriptors, child.pipe.as_fd()).map_err(StartError::Launch)?;
        let pid = process.id().cast_signed();
        let recorded = (Adopted::Starting, order);
        let running = Running::begin(name, generation, process, group, now, recorded, self.tell.clone())
            .map_err(StartError::Launch)?;
        child.running.insert(generation, running);
        tracing::info!(child = name, generation, pid, "started");
        Ok(())
    }
}
