//! One child as the supervisor holds it.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::cgroup::RoleGroup;
use crate::logs::{LastWords, LogPipe};
use crate::running::Running;
use crate::status::{ChildStatus, LastExit};
use crate::supervise::{Exit, Machine, Order, Phase};
use crate::{ChildSpec, Replace, SocketSpec};

/// One child: its decisions, what it may run, and what runs.
pub(crate) struct Child {
    pub(crate) machine: Machine,
    pub(crate) specs: BTreeMap<u64, ChildSpec>,
    pub(crate) next_order: u64,
    pub(crate) running: BTreeMap<u64, Running>,
    pub(crate) pipe: LogPipe,
    pub(crate) words: LastWords,
    /// The log is read for as long as this is here.
    pub(crate) _reading: oneshot::Sender<()>,
    pub(crate) last_exit: Option<LastExit>,
    pub(crate) forget: bool,
    pub(crate) stopping: Vec<oneshot::Sender<()>>,
}

impl Child {
    /// The spec that is to run.
    pub(crate) fn spec(&self) -> &ChildSpec {
        &self.specs[&self.machine.target().id]
    }

    pub(crate) fn order(&mut self, spec: ChildSpec) -> Order {
        let known = self.machine.target();
        let family = known.family.filter(|_| differ_in_files_only(&self.specs[&known.id], &spec));
        self.order_in(family, spec)
    }

    /// An order for a new process in any case.
    pub(crate) fn restart(&mut self) -> Order {
        let spec = self.spec().clone();
        self.order_in(None, spec)
    }

    fn order_in(&mut self, family: Option<u64>, spec: ChildSpec) -> Order {
        let id = self.next_order;
        self.next_order += 1;
        let order = order_of(id, &spec);
        let order = Order { family: family.or(order.family), ..order };
        self.specs.insert(id, spec);
        order
    }

    /// Keeps how a generation ended.
    pub(crate) fn note_exit(&mut self, generation: u64, exit: Exit) {
        let asked = self.running.get(&generation).is_some_and(|running| running.asked);
        let (code, signal) = match exit {
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal)),
            Exit::Unknown => (None, None),
        };
        let at = rfc3339(jiff::Timestamp::now());
        self.last_exit = Some(LastExit { generation, code, signal, at, asked });
    }

    pub(crate) fn status(&self, name: &str, group: Option<&RoleGroup>) -> ChildStatus {
        let current = self.machine.current();
        let running = current.and_then(|generation| self.running.get(&generation.number));
        let spec = self.spec();
        let usage = group.map(RoleGroup::usage);
        ChildStatus {
            name: name.to_owned(),
            state: self.machine.state(),
            pid: running.map(|running| running.identity.pid),
            generation: current.map(|generation| generation.number),
            since: running.map(|running| rfc3339(running.since)),
            changing: current.is_some_and(|generation| generation.order.id != self.machine.target().id),
            draining: self.machine.generations().iter().filter(|g| !is_active(&g.phase)).count(),
            restarts: self.machine.restarts(),
            falls: self.machine.falls(),
            last_exit: self.last_exit.clone(),
            rejected: self.machine.rejected().map(|rejected| rejected.failure.to_string()),
            user: spec.user.clone(),
            listens: spec.sockets.iter().map(SocketSpec::name).collect(),
            memory_bytes: usage.map(|usage| usage.memory_bytes),
            cpu_seconds: usage.map(|usage| usage.cpu.as_secs_f64()),
            processes: usage.map(|usage| usage.processes),
            not_ready: self.running.values().rev().find_map(Running::not_ready),
            last_words: self.words.lines(),
            log_lines_dropped: self.words.dropped(),
        }
    }
}

pub(crate) fn is_active(phase: &Phase) -> bool {
    matches!(phase, Phase::Starting { .. } | Phase::Ready { .. })
}

pub(crate) fn order_of(id: u64, spec: &ChildSpec) -> Order {
    // The first of its family, unless someone knows better.
    let family = (spec.replace == Replace::Reload).then_some(id);
    Order { id, replace: spec.replace, ready_within: spec.ready_within, grace: spec.stop.grace, family }
}

/// Whether a process that runs as one spec says can become the other by reading its files again.
fn differ_in_files_only(one: &ChildSpec, other: &ChildSpec) -> bool {
    // What is made before a start, or bounds it, is no business of the process itself; what it is started with is.
    let same = ChildSpec { files: one.files.clone(), folders: one.folders.clone(), ..other.clone() };
    one.replace == Replace::Reload && *one == same
}

pub(crate) fn rfc3339(at: jiff::Timestamp) -> String {
    format!("{at:.3}")
}

pub(crate) fn log_name(role: &str) -> String {
    format!("log|{role}")
}
