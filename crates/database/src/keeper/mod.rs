//! The keeper: the process beside every mariadbd of a cluster. It is mariadbd's parent, and joins the failover machine
//! ([`crate::cluster`]), the coordinator, and the hands ([`crate::mariadb`]).
//!
//! Nothing is decided here. Events go to the machine one at a time, and what it asks for is done: transactions and leases by
//! [`store`], the process by [`mariadbd`], everything else by [`jobs`]. mariadbd is killed by the kernel when its keeper ends:
//! then the coordinator's lease runs out, and another takes over.

mod config;
mod copies;
mod jobs;
mod look;
mod mariadbd;
mod provision;
mod stamp;
mod store;

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mainstay_coordinator::{EndpointError, SettingsError, TlsError};
use mainstay_site::ServerName;
use mainstay_site::plan::cluster::ClusterMember;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::cluster::{Action, Event, Failure, Job, Machine, Observed, Probed};
use crate::mariadb::server::Start;
use crate::mariadb::{primary, replica};
use crate::server_program;
use config::Setup;
pub use config::{Config, KeeperPlan};
use look::Looks;
use mariadbd::Mariadbd;
use store::Store;

/// The machine's clock ticks so often.
const TICK: Duration = Duration::from_millis(50);
/// Between two looks at mariadbd.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A look takes no longer.
const LOOK_WITHIN: Duration = Duration::from_millis(400);
/// A probe that is not committed after so long waits.
const PROBE_WAITS: Duration = Duration::from_millis(100);
/// A probe that waits is left alone; this only bounds what a hung server holds.
const PROBE_WITHIN: Duration = Duration::from_hours(1);
/// The row of [`primary::push`] that a probe writes.
const PROBE_ROW: u8 = 1;
/// Between two writes that push a waiting one on; each waits as long itself.
const PUSH_EVERY: Duration = Duration::from_millis(250);
/// A replica that is asked to stop has so long.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Why a keeper cannot run.
#[derive(Debug, Error)]
pub enum Error {
    /// The plan has a database of one server.
    #[error("the database of this plan has no cluster")]
    NoCluster,
    /// The plan's cluster does not have this server.
    #[error("the server {0} is no member of its own cluster")]
    NoMember(ServerName),
    /// Members are numbered by their IPv4 addresses.
    #[error("the member {0} has no IPv4 address")]
    NoIpv4(ServerName),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address of the coordinator is none.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The coordinator cannot be spoken to.
    #[error(transparent)]
    Coordinator(#[from] SettingsError),
    /// The server program is missing.
    #[error(transparent)]
    Program(#[from] crate::Error),
    /// A file.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// The verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address for copies is taken.
    #[error("copies cannot be handed out: {0}")]
    Copies(#[source] io::Error),
    /// What the coordinator holds cannot follow what it held.
    #[error("{0}")]
    Store(String),
}

/// What jobs and looks share.
pub(crate) struct Hands {
    setup: Setup,
    program: PathBuf,
    mariadbd: Mariadbd,
    looks: Looks,
    /// Held by whatever changes mariadbd.
    changing: tokio::sync::Mutex<()>,
    /// Since when a probe waits for its acknowledgement.
    waits_since: Cell<Option<Instant>>,
}

impl Hands {
    fn relay_index(&self) -> PathBuf {
        self.setup.place.data.join("relay.index")
    }

    fn binlog_index(&self) -> PathBuf {
        self.setup.place.data.join("binlog.index")
    }
}

/// What a keeper tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Told {
    /// The epoch in which this server takes writes, if it does.
    pub open_epoch: Option<u64>,
    /// Whether its lease is certain to live.
    pub covered: bool,
    /// Why it could not be promoted, if it could not.
    pub not_promotable: Option<String>,
    /// What its mariadbd does.
    pub running: bool,
}

/// Keeps a member until `stop` is done, on the current thread's local tasks. `told` hears how it is whenever that changes.
///
/// # Errors
/// [`Error`]; mariadbd is killed then.
pub async fn keep(config: Config, stop: impl Future<Output = ()>, told: impl Fn(&Told)) -> Result<(), Error> {
    let setup = Setup::new(config)?;
    for folder in [&setup.log, &setup.place.temporary()] {
        std::fs::create_dir_all(folder).map_err(|source| Error::File {
            doing: "make",
            path: folder.clone(),
            source,
        })?;
    }
    let program = server_program(setup.plan.engine)?;
    write_configuration(&setup)?;
    // A swap of the data that was interrupted is finished before anyone looks at them.
    crate::mariadb::seed::Seeding::open(&setup.place).map_err(|error| Error::Store(error.to_string()))?;
    let found = stamp::found(&setup.place)?;
    let began = Instant::now();
    let (tell, mut events) = unbounded_channel();
    let start = Start {
        program: program.clone(),
        file: setup.configuration_file(),
        error_log: setup.log.join("mariadbd.log"),
        socket: setup.place.socket(),
        user: setup.place.user.clone(),
        become_user: (setup.place.user == "root").then(|| "root".to_owned()),
        dies_with_keeper: true,
    };
    let store = Store::new(&setup.coordinator()?, setup.prefix(), began, tell.clone());
    let copies_at = setup.member(&setup.me).map(|member: &ClusterMember| member.copies);
    let mut machine = Machine::new(setup.settings(), found, began.elapsed());
    let lease_ttl = setup.lease();
    let mariadbd = Mariadbd::new(start, tell.clone());
    let looks = Looks::default();
    let hands = Rc::new(Hands {
        setup,
        program,
        mariadbd,
        looks,
        changing: tokio::sync::Mutex::default(),
        waits_since: Cell::new(None),
    });

    let mut tasks = Tasks::default();
    if let Some(address) = copies_at {
        let listener = TcpListener::bind(address).await.map_err(Error::Copies)?;
        let hands = hands.clone();
        tasks.keep(async move {
            if let Err(error) = copies::serve(hands, listener).await {
                tracing::error!(%error, "copies are not handed out");
            }
        });
    }
    tasks.keep(watch_mariadbd(hands.clone(), began, tell.clone()));
    let (gone_back, mut store_is_another) = tokio::sync::oneshot::channel();
    let follower = store.clone();
    tasks.keep(async move {
        let why = follower.follow().await;
        // Without a receiver the keeper ends.
        let _ = gone_back.send(why);
    });

    let mut driver = Driver {
        hands,
        store,
        began,
        tell,
        lease_ttl,
        lease: None,
        renewing: None,
        job: None,
        provisioned: None,
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last_told = Told::default();
    tokio::pin!(stop);
    let result = loop {
        let event = tokio::select! {
            biased;
            () = &mut stop => break Ok(()),
            Ok(why) = &mut store_is_another => break Err(Error::Store(why)),
            Some(event) = events.recv() => event,
            _ = ticks.tick() => Event::Tick { wall_ms: wall_ms() },
        };
        driver.note(&event);
        for action in machine.step(event, began.elapsed()) {
            driver.act(action);
        }
        let now = Told {
            open_epoch: machine.open_epoch().map(|epoch| epoch.0),
            covered: machine.is_covered(began.elapsed()),
            not_promotable: machine.not_promotable(),
            running: driver.hands.mariadbd.runs(),
        };
        driver.provision(now.open_epoch);
        if now != last_told {
            told(&now);
            last_told = now;
        }
    };
    drop(tasks);
    driver.end(machine.open_epoch().is_some()).await;
    result
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn write_configuration(setup: &Setup) -> Result<(), Error> {
    let path = setup.configuration_file();
    std::fs::write(&path, setup.configuration()).map_err(|source| Error::File {
        doing: "write",
        path: path.clone(),
        source,
    })
}

/// Tasks that end with their keeper.
#[derive(Default)]
struct Tasks(Vec<AbortHandle>);

impl Tasks {
    fn keep(&mut self, task: impl Future<Output = ()> + 'static) {
        self.0.push(tokio::task::spawn_local(task).abort_handle());
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Looks again and again. A stream whose primary is silent is renewed, so that it can be stopped at once if that primary is
/// to be left: a stream that was alive takes a second to stop.
async fn watch_mariadbd(hands: Rc<Hands>, began: Instant, tell: UnboundedSender<Event>) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if !hands.mariadbd.runs() {
            continue;
        }
        let taken_at = began.elapsed();
        match timeout(LOOK_WITHIN, hands.looks.look(&hands, LOOK_WITHIN)).await {
            Ok(Ok(observed)) => {
                let is_silent = observed.io == crate::cluster::Io::Streaming { alive: false };
                // Without a receiver the keeper ends.
                let _ = tell.send(Event::Observed { taken_at, observed });
                if is_silent && let Ok(_alone) = hands.changing.try_lock() {
                    renew(&hands).await;
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "mariadbd does not tell how it is"),
            Err(_) => tracing::debug!("mariadbd does not answer"),
        }
    }
}

async fn renew(hands: &Hands) {
    const WITHIN: Duration = Duration::from_secs(2);
    let Ok(mut session) = hands.mariadbd.session().await else { return };
    if let Err(error) = replica::renew(&mut session, WITHIN).await {
        tracing::debug!(%error, "a silent stream cannot be renewed");
    }
}

/// Writes again and again while a write waits. A stream that broke took the acknowledgement with it that was under way, and
/// it is never repeated: only that of a later write ends the waiting.
async fn push_on(hands: Rc<Hands>) {
    for row in PROBE_ROW + 1..=u8::MAX {
        tokio::time::sleep(PUSH_EVERY).await;
        let is_attached = seen(&hands).await.is_some_and(|seen| !seen.attached.is_empty() && !seen.read_only);
        let Ok(mut session) = hands.mariadbd.session().await else { return };
        if is_attached && primary::push(&mut session, row, PUSH_EVERY).await.is_ok() {
            return;
        }
    }
}

/// Does what the machine asks for.
struct Driver {
    hands: Rc<Hands>,
    store: Store,
    began: Instant,
    tell: UnboundedSender<Event>,
    lease_ttl: Duration,
    lease: Option<crate::cluster::LeaseId>,
    renewing: Option<AbortHandle>,
    job: Option<(u64, AbortHandle)>,
    /// The epoch that is being, or was, provisioned.
    provisioned: Option<(u64, AbortHandle)>,
}

impl Driver {
    fn note(&mut self, event: &Event) {
        match event {
            Event::LeaseGranted { lease, .. } => self.lease = Some(*lease),
            Event::LeaseLost { lease } => {
                self.lease.take_if(|known| known == lease);
            }
            Event::Done { id, .. } | Event::Failed { id, .. } => {
                self.job.take_if(|(known, _)| known == id);
            }
            _ => {}
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Transact { id, transaction } => {
                let store = self.store.clone();
                tokio::task::spawn_local(async move { store.transact(id, transaction).await });
            }
            Action::GrantLease => {
                let (store, ttl) = (self.store.clone(), self.lease_ttl);
                let task = tokio::task::spawn_local(async move { store.hold_lease(ttl).await });
                if let Some(earlier) = self.renewing.replace(task.abort_handle()) {
                    earlier.abort();
                }
            }
            Action::Do { id, job, within } => self.begin(id, job, within),
            Action::Kill { why } => {
                tracing::warn!(why, "mariadbd is killed");
                if let Some((id, job)) = self.job.take() {
                    job.abort();
                    self.say(Event::Failed {
                        id,
                        failure: Failure::Failed("mariadbd was killed".to_owned()),
                    });
                }
                if self.hands.mariadbd.runs() {
                    self.hands.mariadbd.kill();
                } else {
                    self.say(Event::Exited);
                }
            }
            Action::Probe { id } => self.probe(id),
            Action::Report(text) => tracing::info!("{text}"),
        }
    }

    fn begin(&mut self, id: u64, job: Job, within: Duration) {
        tracing::info!(?job, "does");
        let (hands, tell) = (self.hands.clone(), self.tell.clone());
        let task = tokio::task::spawn_local(async move {
            let alone = hands.changing.lock().await;
            let result = timeout(within, hands.job(job, within)).await.unwrap_or(Err(Failure::TimedOut));
            drop(alone);
            let event = match result {
                Ok(()) => Event::Done { id, observed: seen(&hands).await },
                Err(failure) => {
                    tracing::info!(?failure, "it failed");
                    Event::Failed { id, failure }
                }
            };
            // Without a receiver the keeper ends.
            let _ = tell.send(event);
        });
        self.job = Some((id, task.abort_handle()));
    }

    fn probe(&self, id: u64) {
        let (hands, tell, began) = (self.hands.clone(), self.tell.clone(), self.began);
        tokio::task::spawn_local(async move {
            let sent_at = began.elapsed();
            let say = |result| {
                // Without a receiver the keeper ends.
                let _ = tell.send(Event::Probed { id, sent_at, result });
            };
            let mut session = match hands.mariadbd.session().await {
                Ok(session) => session,
                Err(error) => return say(Probed::Failed(error.to_string())),
            };
            let push = primary::push(&mut session, PROBE_ROW, PROBE_WITHIN);
            tokio::pin!(push);
            let result = if let Ok(result) = timeout(PROBE_WAITS, &mut push).await {
                result
            } else {
                say(Probed::Waiting);
                hands.waits_since.set(Some(Instant::now()));
                let pushing = tokio::task::spawn_local(push_on(hands.clone()));
                let result = push.await;
                pushing.abort();
                hands.waits_since.set(None);
                result
            };
            match result {
                Ok(()) => say(Probed::Committed),
                Err(error) => say(Probed::Failed(error.to_string())),
            }
        });
    }

    /// Databases, accounts and schemas are brought about by whoever takes writes.
    fn provision(&mut self, open_epoch: Option<u64>) {
        if self.provisioned.as_ref().map(|(epoch, _)| *epoch) == open_epoch {
            return;
        }
        if let Some((_, task)) = self.provisioned.take() {
            task.abort();
        }
        if let Some(epoch) = open_epoch {
            let task = tokio::task::spawn_local(provision::until_done(self.hands.clone()));
            self.provisioned = Some((epoch, task.abort_handle()));
        }
    }

    fn say(&self, event: Event) {
        // Without a receiver the keeper ends.
        let _ = self.tell.send(event);
    }

    /// Leaves the cluster: others take over at once. A clean stop would commit what waits for an acknowledgement, so a
    /// primary is killed.
    async fn end(mut self, is_open: bool) {
        for task in [self.renewing.take(), self.job.take().map(|(_, task)| task)].into_iter().flatten() {
            task.abort();
        }
        if let Some((_, task)) = self.provisioned.take() {
            task.abort();
        }
        if is_open {
            self.hands.mariadbd.kill();
        }
        if let Some(lease) = self.lease {
            self.store.give_up(lease).await;
        }
        self.hands.mariadbd.stop(STOP_WITHIN).await;
    }
}

async fn seen(hands: &Rc<Hands>) -> Option<Observed> {
    if !hands.mariadbd.runs() {
        return None;
    }
    timeout(LOOK_WITHIN, hands.looks.look(hands, LOOK_WITHIN)).await.ok()?.ok()
}
