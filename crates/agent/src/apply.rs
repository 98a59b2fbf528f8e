//! Carrying a plan out: what is opened, started, replaced and stopped, and in which order.
//!
//! 1. Every listening socket of the plan is opened. From here on nobody is refused, only kept waiting.
//! 2. `edge`, `web` and `dns` start at once: they wait for what lies behind them by themselves.
//! 3. The database starts; when it answers, accounts and schemas are brought about.
//! 4. The apps start.
//! 5. Sockets that the plan no longer has are closed.
//!
//! Meanwhile, roles that the plan no longer has are stopped: an app when the new `web` serves, so that nobody is sent to it any
//! more and no idle connection keeps it. The plan counts as carried out without waiting for the end of their work.
//!
//! What already runs as the plan says is left alone, so carrying out the same plan twice changes nothing. One role's trouble
//! does not keep the others from running: it is reported, and tried again.

use std::sync::Arc;
use std::time::Duration;

use mainstay_app::Secrets;
use mainstay_process::supervise::State;
use mainstay_process::{Change, ChildSpec, ChildStatus, SocketSpec, Supervisor, make_folder};
use mainstay_site::Plan;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::backends::{self, Database};
use crate::control::Shared;
use crate::server_roles::{self, edge};

/// What failed is tried again after this long.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Between two looks at a role that is being replaced.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// The role that everything else may need.
const DATABASE: &str = "database";

/// Carries plans out, one at a time.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    /// Held while the database is prepared or provisioned: that work goes on when a newer plan interrupts this one.
    database: Arc<tokio::sync::Mutex<()>>,
}

impl Applier {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, database: Arc::default() }
    }

    /// Begins with a plan. Abort it to begin with another: whatever it has done so far is where the other goes on.
    pub(crate) fn begin(&self, plan: Plan) -> AbortHandle {
        self.shared.begin(&plan);
        let work = Work { shared: self.shared.clone(), database: self.database.clone(), plan };
        tokio::task::spawn_local(Arc::new(work).carry_out()).abort_handle()
    }
}

struct Work {
    shared: Arc<Shared>,
    database: Arc<tokio::sync::Mutex<()>>,
    plan: Plan,
}

impl Work {
    async fn carry_out(self: Arc<Self>) {
        let own = self.until_done(|| own_specs(&self.plan)).await;
        self.open_early(&own).await;

        // Each goes its own way, so that one that is stuck does not keep the others from running. When this task is
        // aborted, the set goes with it, and so do they.
        let mut ways = JoinSet::new();
        let mut leaving = JoinSet::new();
        let (front_done, front_is_done) = watch::channel(false);
        let work = self.clone();
        leaving.spawn_local(async move { work.stop_what_is_gone(front_is_done).await });
        let work = self.clone();
        ways.spawn_local(async move {
            let sockets = work.run_front(own).await;
            front_done.send_replace(true);
            sockets
        });
        let (database_done, database_is_done) = watch::channel(false);
        let work = self.clone();
        ways.spawn_local(async move {
            let sockets = work.bring_database_up().await;
            database_done.send_replace(true);
            sockets
        });
        for app in self.plan.apps.clone() {
            let (work, mut ready) = (self.clone(), database_is_done.clone());
            ways.spawn_local(async move {
                // An error means that the database's way ended; then there is nothing to wait for.
                let _ = ready.wait_for(|done| *done).await;
                let spec = work.until_done(|| backends::app(&work.plan, &app)).await;
                work.run(spec).await.0
            });
        }
        let mut sockets = Vec::new();
        while let Some(way) = ways.join_next().await {
            sockets.extend(way.unwrap_or_default());
        }
        if let Err(error) = self.shared.supervisor.release_sockets_but(sockets).await {
            tracing::warn!(%error, "sockets that nobody needs stay open");
        }
        self.shared.settle();
        tracing::info!(plan = self.plan.revision, "the plan is carried out");
        while leaving.join_next().await.is_some() {}
    }

    /// Tries until it works. What stands in the way is shown meanwhile.
    async fn until_done<T>(&self, attempt: impl Fn() -> Result<T, String>) -> T {
        let mut known: Option<String> = None;
        loop {
            let result = attempt();
            if let Some(problem) = known.take() {
                self.shared.solved(&problem);
            }
            match result {
                Ok(done) => return done,
                Err(problem) => {
                    self.shared.problem(problem.clone());
                    known = Some(problem);
                    tokio::time::sleep(TRY_AGAIN_AFTER).await;
                }
            }
        }
    }

    /// Opens all sockets that can be opened by now. What cannot is reported when its role is run.
    async fn open_early(&self, own: &[ChildSpec]) {
        let apps = self.plan.apps.iter().filter_map(|app| backends::app(&self.plan, app).ok());
        for spec in own.iter().cloned().chain(apps) {
            if let Err(error) = spec.folders.iter().try_for_each(make_folder) {
                tracing::warn!(child = spec.name, %error, "a folder cannot be made yet");
            }
            if let Err(error) = self.shared.supervisor.open_sockets(spec.sockets).await {
                tracing::warn!(child = spec.name, %error, "a socket cannot be opened yet");
            }
        }
    }

    async fn stop_what_is_gone(&self, mut front_is_done: watch::Receiver<bool>) {
        let wanted = names(&self.plan);
        let states = self.shared.supervisor.states().borrow().clone();
        let gone = states.into_keys().filter(|name| !wanted.contains(name));
        let [front, apps, database] = in_stop_order(gone.collect());
        remove_together(&self.shared.supervisor, front).await;
        // An error means that the front's way ended; then there is nothing to wait for.
        let _ = front_is_done.wait_for(|done| *done).await;
        remove_together(&self.shared.supervisor, apps).await;
        remove_together(&self.shared.supervisor, database).await;
    }

    /// Makes `edge`, `web` and `dns` run, each until it serves by this plan.
    async fn run_front(self: &Arc<Self>, specs: Vec<ChildSpec>) -> Vec<SocketSpec> {
        let mut running = JoinSet::new();
        for spec in specs {
            let work = self.clone();
            running.spawn_local(async move {
                let (name, patience) = (spec.name.clone(), spec.ready_within);
                let (sockets, change) = work.run(spec).await;
                if change == Change::Replaced {
                    // One that does not get ready is tried again by itself; the others go on without it.
                    let _ = tokio::time::timeout(patience, work.until_taken_over(&name)).await;
                }
                sockets
            });
        }
        let mut sockets = Vec::new();
        while let Some(role) = running.join_next().await {
            sockets.extend(role.unwrap_or_default());
        }
        sockets
    }

    async fn status_of(&self, name: &str) -> Option<ChildStatus> {
        let roles = self.shared.supervisor.status().await.unwrap_or_default();
        roles.into_iter().find(|role| role.name == name)
    }

    /// Waits until what serves is what is to run, or that was refused.
    async fn until_taken_over(&self, name: &str) {
        while let Some(now) = self.status_of(name).await {
            if now.rejected.is_some() || (now.state == State::Ready && !now.changing) {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Makes a role run as its spec says, and tells its sockets and what had to be done.
    async fn run(&self, spec: ChildSpec) -> (Vec<SocketSpec>, Change) {
        let name = spec.name.clone();
        let mut known: Option<String> = None;
        loop {
            let result = self.shared.supervisor.run(spec.clone()).await;
            if let Some(problem) = known.take() {
                self.shared.solved(&problem);
            }
            match result {
                Ok(change) => {
                    if change != Change::Unchanged {
                        tracing::info!(child = name, ?change, "runs as the plan says");
                    }
                    if name == "edge" {
                        edge::forget_old_secrets(&spec);
                    }
                    return (spec.sockets, change);
                }
                Err(error) => {
                    let problem = error.to_string();
                    self.shared.problem(problem.clone());
                    known = Some(problem);
                    tokio::time::sleep(TRY_AGAIN_AFTER).await;
                }
            }
        }
    }

    async fn bring_database_up(&self) -> Vec<SocketSpec> {
        let database = self.until_done(|| backends::database(&self.plan)).await;
        let Some(Database { spec, prepare, provision }) = database else { return Vec::new() };
        let mut states = self.shared.supervisor.states();
        let state = states.borrow().get(DATABASE).copied();
        if state.is_none_or(|state| state == State::Stopped) {
            self.blocking(prepare).await;
        }
        let (sockets, _) = self.run(spec).await;
        // An error means that the supervisor has ended, and so has all of this.
        if states.wait_for(|states| states.get(DATABASE) == Some(&State::Ready)).await.is_ok() {
            self.blocking(provision).await;
        }
        sockets
    }

    /// Does work that takes a while on a thread of its own, until it succeeds.
    async fn blocking(&self, work: backends::Step) {
        let mut known: Option<String> = None;
        loop {
            let alone = self.database.clone().lock_owned().await;
            let step = work.clone();
            let result = tokio::task::spawn_blocking(move || {
                let result = step();
                drop(alone);
                result
            })
            .await
            .unwrap_or_else(|error| Err(format!("the database's set-up ended badly: {error}")));
            if let Some(problem) = known.take() {
                self.shared.solved(&problem);
            }
            match result {
                Ok(()) => return,
                Err(problem) => {
                    self.shared.problem(problem.clone());
                    known = Some(problem);
                    tokio::time::sleep(TRY_AGAIN_AFTER).await;
                }
            }
        }
    }
}

/// The names of all roles of a plan.
fn names(plan: &Plan) -> Vec<String> {
    let own = [
        ("edge", plan.edge.is_some()),
        ("web", plan.web.is_some()),
        ("dns", plan.dns.is_some()),
        (DATABASE, plan.database.is_some()),
    ];
    let own = own.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned());
    own.chain(plan.apps.iter().map(|app| format!("app-{}", app.name))).collect()
}

fn own_specs(plan: &Plan) -> Result<Vec<ChildSpec>, String> {
    let digest =
        server_roles::binary_digest().map_err(|error| format!("this binary cannot be read: {error}"))?;
    let secrets = Secrets::default();
    server_roles::specs(plan, &digest, |name| secrets.read(name)).map_err(|error| error.to_string())
}

/// Stops every role: first those that visitors reach, so that no request meets a closed door behind them.
pub(crate) async fn stop_all(supervisor: &Arc<Supervisor>) {
    let names = supervisor.states().borrow().keys().cloned().collect();
    for names in in_stop_order(names) {
        remove_together(supervisor, names).await;
    }
}

/// Edge, web and dns, then the apps, then the database.
fn in_stop_order(names: Vec<String>) -> [Vec<String>; 3] {
    let mut order = [Vec::new(), Vec::new(), Vec::new()];
    for name in names {
        let rank = match name.as_str() {
            own if server_roles::OWN_ROLES.contains(&own) => 0,
            DATABASE => 2,
            _ => 1,
        };
        order[rank].push(name);
    }
    order
}

async fn remove_together(supervisor: &Arc<Supervisor>, names: Vec<String>) {
    let mut stopping = JoinSet::new();
    for name in names {
        let supervisor = supervisor.clone();
        stopping.spawn_local(async move {
            if let Err(error) = supervisor.remove(&name).await {
                tracing::error!(child = name, %error, "cannot be stopped");
            }
        });
    }
    while stopping.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_are_turned_away_first_and_the_database_goes_last() {
        let names = ["app-shop", "database", "dns", "edge", "web", "app-blog"].map(str::to_owned).to_vec();
        assert_eq!(
            in_stop_order(names),
            [vec!["dns", "edge", "web"], vec!["app-shop", "app-blog"], vec!["database"]]
                .map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>())
        );
    }
}
