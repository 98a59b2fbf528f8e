//! Makes sure that there is a connection for a statement, with the session's state, and waits for a primary if it must.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::Session;
use crate::backend::{Acquire, ConnectError, Connection, Key, Role, State};
use crate::channel::Command;
use crate::route::{Await, To};
use crate::topology::{Server, Topology};
use crate::wire::capability::{MULTI_STATEMENTS, PASSED_ON};
use crate::wire::reply::err;
use crate::wire::response::Kind;
use crate::wire::resultset::first_value;

/// Between attempts to reach a primary: the first, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// How long a replica may take to answer beyond the time that it was asked to wait.
const PATIENCE: Duration = Duration::from_millis(500);

/// Why there is no connection, as the client is told it.
pub(super) struct Refusal {
    pub(super) payload: BytesMut,
}

impl Refusal {
    fn new(code: u16, state: &str, message: &str) -> Self {
        Self { payload: err(code, state, message) }
    }
}

/// Why a connection cannot be had now.
enum Missing {
    /// Another attempt may succeed.
    Now(String),
    /// It will not.
    Final(Refusal),
}

/// Counts a statement that waits for a primary.
struct Held(Rc<crate::worker::Worker>);

impl Held {
    fn begin(worker: &Rc<crate::worker::Worker>) -> Option<Self> {
        let held: &Cell<usize> = &worker.held;
        if held.get() >= worker.limits.held {
            return None;
        }
        held.set(held.get() + 1);
        worker.metrics.held.add(1);
        worker.metrics.held_total.inc();
        Some(Self(Rc::clone(worker)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.set(self.0.held.get() - 1);
        self.0.metrics.held.add(-1);
    }
}

impl Session {
    /// Makes a connection ready; which of the two it is.
    pub(super) async fn ready(&mut self, to: To, wait: Await, deadline: Instant) -> Result<Role, Refusal> {
        let topology = self.worker.topology();
        let role = match to {
            To::Replica => Role::Replica,
            To::Last if self.is_usable(self.last, &topology) => self.last,
            To::Any if self.is_usable(Role::Primary, &topology) => Role::Primary,
            To::Any if self.is_usable(Role::Replica, &topology) || topology.primary.is_none() => {
                Role::Replica
            }
            To::Primary | To::Last | To::Any => Role::Primary,
        };
        if role == Role::Replica && self.ready_replica(&topology, to, wait).await {
            return Ok(Role::Replica);
        }
        self.ready_primary(deadline).await.map(|()| Role::Primary)
    }

    /// Whether there is a connection that may be used, as far as is known.
    fn is_usable(&mut self, role: Role, topology: &Topology) -> bool {
        self.slot(role).as_ref().is_some_and(|connection| crate::backend::is_current(connection, topology))
    }

    /// Whether the connection is as the session needs it, so that nothing has to be done.
    fn is_ready(&mut self, role: Role, server: &str) -> bool {
        let version = self.version;
        self.slot(role).as_mut().is_some_and(|connection| {
            connection.version == version && &*connection.key.server == server && !connection.is_stale()
        })
    }

    async fn ready_replica(&mut self, topology: &Topology, to: To, wait: Await) -> bool {
        let wanted = (wait == Await::OwnWrites && !self.position.is_empty()).then(|| self.position.clone());
        for _ in 0..2 {
            let current = self.replica.as_ref().map(|connection| Rc::clone(&connection.key.server));
            let now = Instant::now();
            let chosen = self.worker.replica(topology, wanted.as_ref(), current.as_deref(), now);
            let Some((server, has)) = chosen else { return false };
            if to == To::Last
                && current.as_deref() == Some(&server.name)
                && self.is_ready(Role::Replica, &server.name)
            {
                return true;
            }
            if !self.is_ready(Role::Replica, &server.name) {
                match self.connect(Role::Replica, &server, topology.epoch).await {
                    Ok(()) => {}
                    Err(Missing::Now(why)) => {
                        tracing::debug!(server = server.name, why, "a replica is passed over");
                        self.worker.avoid(&server.name, now);
                        continue;
                    }
                    Err(Missing::Final(_)) => return false,
                }
            }
            let Some(position) = wanted.as_ref().filter(|_| !has) else { return true };
            return self.wait_for(&server, position).await;
        }
        false
    }

    /// Waits until the replica has applied what the session wrote; whether it has.
    async fn wait_for(&mut self, server: &Server, position: &crate::gtid::Position) -> bool {
        let Some(connection) = &mut self.replica else { return false };
        let seconds = Duration::from_millis(self.worker.limits.wait_ms).as_secs_f64();
        let mut question = Command::query(&format!("SELECT MASTER_GTID_WAIT('{position}',{seconds})"));
        let limit = Duration::from_millis(self.worker.limits.wait_ms) + PATIENCE;
        let answer = tokio::time::timeout(limit, connection.ask(&mut question, Kind::Results)).await;
        let capabilities = connection.capabilities;
        let Ok(Ok(answer)) = answer else {
            self.drop_slot(Role::Replica);
            self.worker.avoid(&server.name, Instant::now());
            return false;
        };
        let reached = first_value(&answer, capabilities) == Ok(Some(b"0".to_vec()));
        self.worker.metrics.waits.with(&[if reached { "reached" } else { "timed out" }]).inc();
        if reached {
            self.worker.applied(&server.name, position);
        }
        reached
    }

    async fn ready_primary(&mut self, deadline: Instant) -> Result<(), Refusal> {
        let mut held = None;
        let mut back_off = BACK_OFF.0;
        let mut source = None;
        // The client sent another command already: it is there.
        let mut has_more = !self.client.input.is_empty();
        loop {
            let topology = self.worker.topology();
            // While a switchover is prepared, transactions end but none begins.
            let paused = topology.paused && !self.is_in_transaction() && self.bound.is_none();
            let why = match &topology.primary {
                Some(_) if paused => "a switchover is on its way".to_owned(),
                Some(server) => {
                    let current = self.primary.as_ref().is_some_and(|held| held.epoch == topology.epoch);
                    if current && self.is_ready(Role::Primary, &server.name) {
                        return Ok(());
                    }
                    // A server that does not answer is not waited for when another takes over.
                    let mut changes = self.worker.source.clone();
                    let other = changes.wait_for(|now| {
                        let name =
                            |topology: &Topology| topology.primary.as_ref().map(|server| server.name.clone());
                        now.epoch != topology.epoch || name(now) != name(&topology)
                    });
                    let connected = tokio::select! {
                        biased;
                        connected = self.connect(Role::Primary, server, topology.epoch) => connected,
                        Ok(_) = other => Err(Missing::Now("the primary changed".to_owned())),
                    };
                    match connected {
                        Ok(()) => return Ok(()),
                        Err(Missing::Final(refusal)) => return Err(refusal),
                        Err(Missing::Now(why)) => why,
                    }
                }
                None => "no server takes writes now".to_owned(),
            };
            if held.is_none() {
                held = Some(Held::begin(&self.worker).ok_or_else(|| {
                    Refusal::new(
                        1203,
                        "42000",
                        "too many statements wait for a primary; this one did not run",
                    )
                })?);
            }
            let now = Instant::now();
            if now >= deadline {
                self.worker.metrics.hold_expired.inc();
                let message = format!("there was no primary in time ({why}); the statement did not run");
                return Err(Refusal::new(1290, "HY000", &message));
            }
            let source = source.get_or_insert_with(|| self.worker.source.clone());
            let watched = !has_more;
            tokio::select! {
                // The worker takes it over first; it is woken by the same change.
                _ = source.changed() => tokio::task::yield_now().await,
                // A statement whose client has given up is not run.
                read = self.client.fill(), if watched => match read {
                    Ok(0) | Err(_) => return Err(Refusal::new(1053, "08S01", "the client is gone")),
                    Ok(_) => has_more = true,
                },
                () = tokio::time::sleep(back_off.min(deadline - now)) => back_off = (back_off * 2).min(BACK_OFF.1),
            }
        }
    }

    /// Takes or makes a connection to a server, and gives it the session's state.
    async fn connect(&mut self, role: Role, server: &Server, epoch: u64) -> Result<(), Missing> {
        let topology = self.worker.topology();
        let same = self.slot(role).as_mut().is_some_and(|connection| {
            *connection.key.server == *server.name
                && crate::backend::is_current(connection, &topology)
                && !connection.is_stale()
        });
        if !same {
            self.give_back(role);
            let connection = self.acquire(role, server, epoch).await?;
            self.entry.target.connected(role, Some((server.clone(), connection.thread)));
            *self.slot(role) = Some(connection);
        }
        let (state, version) = (self.state.clone(), self.version);
        let Some(connection) = self.slot(role) else { return Err(Missing::Now("it is gone".to_owned())) };
        if connection.version == version {
            return Ok(());
        }
        match connection.become_like(&state).await {
            Ok(Ok(())) => {
                connection.version = version;
                Ok(())
            }
            Ok(Err(payload)) => Err(Missing::Final(Refusal { payload })),
            Err(error) => {
                self.drop_slot(role);
                Err(Missing::Now(format!("the connection to {} broke: {error}", server.name)))
            }
        }
    }

    async fn acquire(&mut self, role: Role, server: &Server, epoch: u64) -> Result<Connection, Missing> {
        let key = Key {
            account: Rc::clone(&self.account.name),
            server: server.name.as_str().into(),
            profile: self.capabilities & PASSED_ON,
            collation: self.collation,
        };
        let worker = Rc::clone(&self.worker);
        let topology = worker.topology();
        let deadline = Instant::now() + worker.limits.hold();
        let permit = loop {
            let found = worker.pool.take(&key, role, self.state.schema.as_deref(), &topology);
            if let Acquire::Idle(connection) = found {
                return Ok(*connection);
            }
            if let Some(permit) = self.permit(role, deadline).await? {
                break permit;
            }
        };
        let account = Rc::clone(&self.account);
        let dialled =
            worker.dialer.connect(server, &account.name, &account.password, key.profile, key.collation).await;
        let result = if dialled.is_ok() { "ok" } else { "failed" };
        worker.metrics.backend_logins.with(&[&server.name, result]).inc();
        let (channel, greeting, capabilities) = dialled.map_err(|error| missing(&error, server))?;
        worker.learned.replace(crate::backend::Learned::from(&greeting));
        let socket = channel.socket().map_err(|error| Missing::Now(error.to_string()))?;
        let live = crate::backend::LiveConnection { server: server.name.clone(), role, epoch, socket };
        let place = worker.pool.enter(worker.number(), permit, live);
        let mut connection = Connection {
            channel,
            role,
            epoch,
            thread: greeting.connection,
            capabilities,
            state: State { several: key.profile & MULTI_STATEMENTS != 0, ..State::default() },
            key: Rc::new(key),
            version: 0,
            statements: std::collections::HashMap::new(),
            busy: false,
            inserted_for: 0,
            _place: place,
        };
        let tracked = connection.track().await;
        tracked.map_err(|error| Missing::Now(format!("{} broke off: {error}", server.name)))?;
        Ok(connection)
    }

    /// The right to one more connection to a server, which may have to be waited for; `None` if one was given back instead.
    async fn permit(
        &mut self,
        role: Role,
        deadline: Instant,
    ) -> Result<Option<tokio::sync::OwnedSemaphorePermit>, Missing> {
        let account = Rc::clone(&self.account);
        let backends = || std::sync::Arc::clone(&account.backends);
        loop {
            if let Ok(permit) = backends().try_acquire_owned() {
                return Ok(Some(permit));
            }
            if !self.worker.pool.evict(&account.name) {
                break;
            }
        }
        let message = "the account has all its connections to servers in use; the statement did not run";
        let refused = || Missing::Final(Refusal::new(1226, "42000", message));
        if role == Role::Replica {
            // The read can go to the primary, where this session may have a connection.
            return Err(refused());
        }
        // Whoever waits gives back what others may wait for.
        self.give_back(Role::Replica);
        self.worker.metrics.queued.inc();
        tokio::select! {
            permit = backends().acquire_owned() => permit.map(Some).map_err(|_| refused()),
            () = account.returned.notified() => Ok(None),
            () = tokio::time::sleep_until(deadline.into()) => Err(refused()),
        }
    }
}

fn missing(error: &ConnectError, server: &Server) -> Missing {
    if error.may_pass() {
        return Missing::Now(format!("{} at {} cannot be reached: {error}", server.name, server.address));
    }
    tracing::warn!(server = server.name, %error, "a server cannot be used");
    let code = if let ConnectError::Refused { code, .. } = error { *code } else { 1158 };
    Missing::Final(Refusal::new(code, "HY000", &format!("the router cannot use {}: {error}", server.name)))
}
