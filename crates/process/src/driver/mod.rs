//! Carries out what [`supervise`](crate::supervise) decides: one task that owns all children of a server.

mod adoption;
mod report;
mod start;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use crate::ChildSpec;
use crate::account::Account;
use crate::adopt::{Record, Records};
use crate::cgroup::Cgroups;
use crate::child::{Child, log_name, order_of};
use crate::fdstore::Notifier;
use crate::files::{make_folder, write_file};
use crate::launch::Launcher;
use crate::logs::{LastWords, LogPipe, LogReader, Rotation, Source};
use crate::reload;
use crate::running::{Running, Told};
use crate::sockets::Sockets;
use crate::supervise::{Action, Adopted, Event, Machine, Phase, State};
use crate::supervisor::{Change, Command, Error, Setup};

/// All children of a server, owned by one task.
pub(crate) struct Driver {
    launcher: Launcher,
    records: Records,
    records_path: PathBuf,
    logs: PathBuf,
    rotation: Rotation,
    server: String,
    cgroups: Option<Cgroups>,
    notifier: Option<Rc<Notifier>>,
    kept_logs: BTreeMap<String, OwnedFd>,
    sockets: Sockets,
    children: BTreeMap<String, Child>,
    tell: mpsc::Sender<Told>,
    publish: watch::Sender<BTreeMap<String, State>>,
}

impl Driver {
    pub(crate) fn new(
        setup: Setup,
        tell: mpsc::Sender<Told>,
        publish: watch::Sender<BTreeMap<String, State>>,
    ) -> Result<Self, Error> {
        let records = Records::open(&setup.records)
            .map_err(|source| Error::Records { path: setup.records.clone(), source })?;
        let notifier = setup.notifier.map(Rc::new);
        let (logs, sockets): (Vec<_>, Vec<_>) =
            setup.kept.into_iter().partition(|(name, _)| name.starts_with("log|"));
        Ok(Self {
            launcher: setup.launcher,
            records,
            records_path: setup.records,
            logs: setup.logs,
            rotation: setup.rotation,
            server: setup.server,
            cgroups: setup.cgroups,
            sockets: Sockets::new(sockets, notifier.clone()),
            notifier,
            kept_logs: logs.into_iter().collect(),
            children: BTreeMap::new(),
            tell,
            publish,
        })
    }

    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Command>, mut told: mpsc::Receiver<Told>) {
        loop {
            let wake = self.children.values().filter_map(|child| child.machine.wake_at()).min();
            let wake = wake.map(tokio::time::Instant::from_std);
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What happened comes before what is wanted.
                biased;
                Some((name, event)) = told.recv() => self.handle(&name, event),
                command = inbox.recv() => match command {
                    None | Some(Command::Leave) => return,
                    Some(command) => self.obey(command),
                },
                () = sleep => {
                    let names: Vec<String> = self.children.keys().cloned().collect();
                    for name in names {
                        self.handle(&name, Event::Tick);
                    }
                }
            }
            self.publish();
        }
    }

    pub(crate) fn publish(&self) {
        let states: BTreeMap<String, State> =
            self.children.iter().map(|(name, child)| (name.clone(), child.machine.state())).collect();
        self.publish.send_if_modified(|old| {
            let changed = *old != states;
            *old = states;
            changed
        });
    }

    /// Answers that nobody waits for any more are dropped: the one who asked has gone.
    fn obey(&mut self, command: Command) {
        match command {
            Command::OpenSockets(specs, reply) => {
                let result = specs.iter().try_for_each(|spec| self.sockets.open(spec));
                let _ = reply.send(result);
            }
            Command::ReleaseSocketsBut(specs) => self.sockets.release_all_but(&specs),
            Command::Run(spec, reply) => {
                let _ = reply.send(self.run_child(*spec));
            }
            Command::Restart(name, reply) => {
                let result = match self.children.get_mut(&name) {
                    Some(child) => {
                        let order = child.restart();
                        self.handle(&name, Event::Replace(order));
                        Ok(())
                    }
                    None => Err(Error::NoChild { name }),
                };
                let _ = reply.send(result);
            }
            Command::Stop(name, forget, reply) => {
                // Without such a child the reply is dropped with `Ok`: it does not run, as asked.
                let Some(child) = self.children.get_mut(&name) else {
                    let _ = reply.send(());
                    return;
                };
                child.forget |= forget;
                child.stopping.push(reply);
                self.handle(&name, Event::Stop);
                self.finish_stop(&name);
            }
            Command::Status(reply) => {
                let status = self.children.iter().map(|(name, child)| {
                    let group = self.cgroups.as_ref().map(|groups| groups.role_without_limits(name));
                    child.status(name, group.as_ref())
                });
                let _ = reply.send(status.collect());
            }
            Command::Leave => {}
        }
    }

    fn run_child(&mut self, spec: ChildSpec) -> Result<Change, Error> {
        let name = spec.name.clone();
        let failed = |source| Error::Folder { name: name.clone(), source };
        spec.folders.iter().try_for_each(make_folder).map_err(failed)?;
        spec.sockets.iter().try_for_each(|socket| self.sockets.open(socket))?;
        if !self.children.contains_key(&name) {
            self.clear_unknown(&name);
            let child = self.make_child(spec, 1, None)?;
            self.children.insert(name.clone(), child);
            self.handle(&name, Event::Start);
            return Ok(Change::Started);
        }
        let Some(child) = self.children.get_mut(&name) else { return Err(Error::NoChild { name }) };
        child.forget = false;
        let was_stopped = matches!(child.machine.state(), State::Stopped | State::Draining);
        let mut change = if was_stopped { Change::Started } else { Change::Unchanged };
        if *child.spec() != spec {
            let account =
                Account::of(&spec.user).map_err(|source| Error::Account { name: name.clone(), source })?;
            if let Err(source) = child.pipe.give_to(account.uid, account.gid) {
                return Err(Error::Log { name, source });
            }
            let order = child.order(spec);
            self.handle(&name, Event::Replace(order));
            change = if was_stopped { Change::Started } else { Change::Replaced };
        }
        self.handle(&name, Event::Start);
        Ok(change)
    }

    fn make_child(
        &mut self,
        spec: ChildSpec,
        first_generation: u64,
        held_by_child: Option<OwnedFd>,
    ) -> Result<Child, Error> {
        let name = spec.name.clone();
        let account =
            Account::of(&spec.user).map_err(|source| Error::Account { name: name.clone(), source })?;
        let failed = |source| Error::Log { name: name.clone(), source };
        let kept = self.kept_logs.remove(&log_name(&name)).and_then(LogPipe::from_kept);
        let pipe = if let Some(pipe) = kept {
            pipe
        } else {
            let held = held_by_child.and_then(LogPipe::from_kept).map(Ok);
            let pipe = held.unwrap_or_else(|| LogPipe::new(account.uid, account.gid)).map_err(failed)?;
            self.keep(&log_name(&name), pipe.as_fd());
            pipe
        };
        let words = LastWords::default();
        let source = Source { server: self.server.clone(), role: name.clone() };
        let reader =
            LogReader::new(&pipe, &self.logs, source, self.rotation, words.clone()).map_err(failed)?;
        let (reading, end) = oneshot::channel();
        tokio::spawn(reader.run(end));
        let order = order_of(1, &spec);
        Ok(Child {
            machine: Machine::new(order, first_generation),
            specs: BTreeMap::from([(1, spec)]),
            next_order: 2,
            running: BTreeMap::new(),
            pipe,
            words,
            _reading: reading,
            last_exit: None,
            forget: false,
            stopping: Vec::new(),
        })
    }

    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) {
        if let Some(notifier) = &self.notifier
            && let Err(error) = notifier.keep(name, &[descriptor])
        {
            tracing::warn!(name, %error, "this descriptor cannot be kept across the end of this agent");
        }
    }

    fn handle(&mut self, name: &str, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(child) = self.children.get_mut(name) else { return };
            let cleared = match &event {
                Event::Exited { generation, exit } => {
                    child.note_exit(*generation, *exit);
                    None
                }
                Event::Cleared { generation } | Event::SpawnFailed { generation, .. } => Some(*generation),
                _ => None,
            };
            let actions = child.machine.handle(event, Instant::now());
            if let Some(generation) = cleared {
                self.clear_away(name, generation);
            }
            self.act(name, actions, &mut events);
        }
        self.write_phases(name);
        self.finish_stop(name);
        if let Some(child) = self.children.get_mut(name) {
            let machine = &child.machine;
            child.specs.retain(|id, _| machine.needs_order(*id));
        }
    }

    fn clear_away(&mut self, name: &str, generation: u64) {
        if let Some(child) = self.children.get_mut(name)
            && let Some(running) = child.running.remove(&generation)
            && let Some(group) = &running.group
            && let Err(error) = group.remove()
        {
            tracing::debug!(child = name, generation, %error, "its control group stays for now");
        }
        if let Err(error) = self.records.remove(name, generation) {
            tracing::error!(child = name, generation, %error, "its record cannot be removed");
        }
    }

    fn act(&mut self, name: &str, actions: Vec<Action>, events: &mut VecDeque<Event>) {
        for action in actions {
            match action {
                Action::Spawn { generation, order } => {
                    if let Err(error) = self.start(name, generation, order) {
                        events.push_back(Event::SpawnFailed { generation, reason: error.to_string() });
                    }
                }
                Action::Report(report) => self.report(name, &report),
                Action::Probe { generation } => {
                    let tell = self.tell.clone();
                    let others = self.children.get(name).is_some_and(|child| {
                        child.machine.generations().iter().any(|g| matches!(g.phase, Phase::Ready { .. }))
                    });
                    self.with(name, generation, |running, spec| {
                        let is_shared = others && !spec.sockets.is_empty();
                        running.probe(name, generation, spec.ready.clone(), is_shared, tell);
                    });
                }
                Action::Reload { generation, order } => {
                    if let Err(reason) = self.reload(name, generation, order) {
                        events.push_back(Event::ReloadRefused { generation, order, reason });
                    }
                }
                Action::AskToStop { generation } => {
                    self.with(name, generation, |running, spec| running.ask_to_stop(spec.stop.signal));
                }
                Action::Kill { generation } => self.with(name, generation, |running, _| running.kill()),
                Action::EndOrphans { generation } => {
                    let tell = self.tell.clone();
                    self.with(name, generation, |running, spec| {
                        running.end_orphans(name, generation, spec.stop.signal, tell);
                    });
                }
            }
        }
    }

    /// Does something with a generation that was started; one that could not be is told of by `SpawnFailed`.
    fn with(&mut self, name: &str, generation: u64, act: impl FnOnce(&mut Running, &ChildSpec)) {
        let Some(child) = self.children.get_mut(name) else { return };
        let order = child.machine.generations().iter().find(|g| g.number == generation).map(|g| g.order.id);
        let Some(spec) = order.and_then(|id| child.specs.get(&id)) else { return };
        if let Some(running) = child.running.get_mut(&generation) {
            act(running, spec);
        }
    }

    /// Writes the files of an order and lets a running generation read them.
    fn reload(&mut self, name: &str, generation: u64, order: u64) -> Result<(), String> {
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        let spec = child.specs[&order].clone();
        let told = spec.folders.iter().try_for_each(make_folder);
        told.and_then(|()| spec.files.iter().try_for_each(write_file)).map_err(|error| error.to_string())?;
        let question =
            reload::Question::of(&spec).ok_or("nothing tells whether it has taken a change over")?;
        let tell = self.tell.clone();
        if let Some(running) = child.running.get_mut(&generation) {
            running.reload(name, generation, order, question, tell);
        }
        Ok(())
    }

    /// Keeps the records true.
    fn write_phases(&mut self, name: &str) {
        let Some(child) = self.children.get_mut(name) else { return };
        for generation in child.machine.generations() {
            let phase = match generation.phase {
                Phase::Starting { .. } => Adopted::Starting,
                Phase::Ready { .. } => Adopted::Ready,
                Phase::Draining { .. } | Phase::Killed { .. } | Phase::Clearing { .. } => Adopted::Draining,
            };
            let Some(running) = child.running.get_mut(&generation.number) else { continue };
            // One that fell is not drained by the next supervisor either: it finds the process gone.
            let known = (phase, generation.order.id);
            if running.recorded == known || matches!(generation.phase, Phase::Clearing { .. }) {
                continue;
            }
            running.recorded = known;
            let record = Record {
                generation: generation.number,
                phase,
                since: running.since.as_second().try_into().unwrap_or_default(),
                spec: child.specs[&generation.order.id].clone(),
            };
            if let Err(error) = self.records.write(&record) {
                tracing::error!(child = name, %error, "its record cannot be written");
            }
        }
    }

    fn finish_stop(&mut self, name: &str) {
        let Some(child) = self.children.get_mut(name) else { return };
        if !child.machine.is_stopped() {
            return;
        }
        for waiting in child.stopping.drain(..) {
            let _ = waiting.send(());
        }
        if child.forget {
            self.children.remove(name);
            if let Some(notifier) = &self.notifier
                && let Err(error) = notifier.drop_kept(&log_name(name))
            {
                tracing::warn!(child = name, %error, "its log pipe is still kept outside this agent");
            }
            if let Some(groups) = &self.cgroups
                && let Err(error) = groups.role_without_limits(name).remove()
            {
                tracing::debug!(child = name, %error, "its control group stays for now");
            }
        }
    }
}
