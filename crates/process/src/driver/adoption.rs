//! What an earlier supervisor left running, and what nobody knows of.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::Driver;
use crate::ChildSpec;
use crate::adopt::Found;
use crate::child::order_of;
use crate::descriptors::FIRST;
use crate::running::Running;
use crate::supervise::{Event, Exit};
use crate::supervisor::Error;

/// The descriptor that a child has its log pipe as.
const STDOUT: i32 = 1;

impl Driver {
    /// Takes over what an earlier supervisor left running.
    pub(crate) fn adopt(&mut self) -> Result<(), Error> {
        let found = self
            .records
            .find()
            .map_err(|source| Error::Records { path: self.records_path.clone(), source })?;
        for one in found {
            let name = one.record.spec.name.clone();
            let generation = one.record.generation;
            if let Err(error) = self.adopt_one(one) {
                tracing::error!(child = name, generation, %error, "a running child cannot be adopted");
            }
        }
        let names: Vec<String> = self.children.keys().cloned().collect();
        for name in names {
            self.clear_unknown(&name);
            self.handle(&name, Event::Tick);
        }
        Ok(())
    }

    fn adopt_one(&mut self, found: Found) -> Result<(), Error> {
        let Found { record, identity, handle } = found;
        let (name, generation) = (record.spec.name.clone(), record.generation);
        if let Some(handle) = &handle {
            self.recover_sockets(&record.spec, handle.as_fd());
        }
        if !self.children.contains_key(&name) {
            let held = handle.as_ref().and_then(|handle| taken_from(handle.as_fd(), STDOUT));
            let child = self.make_child(record.spec.clone(), generation, held)?;
            self.children.insert(name.clone(), child);
        }
        let tell = self.tell.clone();
        let groups = self.cgroups.as_ref().map(|groups| groups.role_without_limits(&name));
        let Some(child) = self.children.get_mut(&name) else { return Err(Error::NoChild { name }) };
        let known = child.specs.iter().find(|(_, spec)| **spec == record.spec).map(|(id, _)| *id);
        let order = match known {
            Some(id) => order_of(id, &record.spec),
            None => child.order(record.spec.clone()),
        };
        let group = groups
            .map(|group| group.generation(generation))
            .filter(|group| !group.members().is_empty() || handle.is_none());
        let since = i64::try_from(record.since).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
        let is_alive = handle.is_some();
        let recorded = (record.phase, order.id);
        let mut running = Running::new(identity, handle, group, since.unwrap_or_default(), recorded);
        if let Err(source) = running.watch(&name, generation, tell) {
            return Err(Error::Records { path: self.records_path.clone(), source });
        }
        tracing::info!(child = name, generation, pid = identity.pid, is_alive, "adopted");
        child.running.insert(generation, running);
        let actions = child.machine.adopt(generation, order, record.phase, Instant::now());
        self.act(&name, actions, &mut VecDeque::new());
        if !is_alive {
            self.handle(&name, Event::Exited { generation, exit: Exit::Unknown });
        }
        Ok(())
    }

    /// Gets the listening sockets back out of a running child, where nobody kept them.
    fn recover_sockets(&mut self, spec: &ChildSpec, handle: BorrowedFd<'_>) {
        let specs = spec.sockets.iter().flat_map(|socket| std::iter::repeat_n(socket, socket.count()));
        for (number, socket) in (FIRST..).zip(specs) {
            if self.sockets.of(std::slice::from_ref(socket)).is_err()
                && let Some(descriptor) = taken_from(handle, number)
            {
                self.sockets.recover(socket, descriptor);
            }
        }
    }

    /// Ends processes in a role's groups that no record tells of.
    pub(super) fn clear_unknown(&self, name: &str) {
        let Some(groups) = &self.cgroups else { return };
        let group = groups.role_without_limits(name);
        for number in group.generations() {
            let is_known = self.children.get(name).is_some_and(|child| child.running.contains_key(&number));
            if !is_known {
                let unknown = group.generation(number);
                unknown.kill();
                // Busy for a moment longer; the next start of this role takes it along.
                let _ = unknown.remove();
            }
        }
    }
}

/// A copy of a descriptor of another process.
fn taken_from(process: BorrowedFd<'_>, number: i32) -> Option<OwnedFd> {
    pidfd_getfd(process, number, PidfdGetfdFlags::empty()).ok()
}
