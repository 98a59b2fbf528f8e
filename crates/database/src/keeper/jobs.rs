//! The machine's jobs, carried out.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::config::ipv4;
use super::look::position;
use super::{Hands, copies, stamp};
use crate::cluster::{Failure, Gtid, Job, Name, Role, Stamp};
use crate::mariadb::accounts;
use crate::mariadb::replica::{self, Upstream, Was};
use crate::mariadb::seed::{Seeding, State};
use crate::mariadb::{self, ActionError, SqlError, primary, rejoin};

/// For what is done at once.
const SOON: Duration = Duration::from_secs(2);
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(20);
/// What preparing a copy may use beside the old server, which does not run.
const PREPARE_BYTES: u64 = 256 << 20;

impl Hands {
    /// Does a job. The caller bounds its time.
    pub(super) async fn job(&self, job: Job, within: Duration) -> Result<(), Failure> {
        match job {
            Job::Initialise => self.initialise().await,
            Job::Start { role } => self.start(role).await,
            Job::Revoke => {
                let mut session = self.mariadbd.session().await.map_err(sql)?;
                replica::revoke(&mut session, within).await.map_err(action)?;
                self.flush().await
            }
            Job::Drain { to } => {
                let mut session = self.mariadbd.session().await.map_err(sql)?;
                replica::drain(&mut session, &position(to), within).await.map_err(action)
            }
            Job::RescueRelay => {
                let mut session = self.mariadbd.session().await.map_err(sql)?;
                let rescued =
                    replica::rescue(&mut session, &self.relay_index(), within).await.map_err(action)?;
                if let Some(rescued) = rescued {
                    tracing::info!(first = %rescued.first, last = %rescued.last, "applied what a crash had left in the relay log");
                }
                Ok(())
            }
            Job::CatchUp { from, to, lineage } => {
                self.write_stamp(Stamp { epoch: lineage, led: false })?;
                self.catch_up(&from, to, within).await
            }
            Job::Promote { epoch, semi_sync, admit } => {
                self.write_stamp(Stamp { epoch, led: true })?;
                let mut session = self.mariadbd.session().await.map_err(sql)?;
                primary::promote(&mut session, &self.relay_index(), within).await.map_err(action)?;
                self.admit(&admit).await?;
                self.set_semi_sync(semi_sync).await
            }
            Job::OpenWrites => self.say("SET GLOBAL read_only = 0").await,
            Job::CloseWrites => {
                let mut session = self.mariadbd.session().await.map_err(sql)?;
                primary::close(&mut session, within).await.map_err(action)?;
                primary::end_clients(&mut session, SOON).await.map_err(action)?;
                self.flush().await
            }
            Job::Admit { members } => self.admit(&members).await,
            Job::SetSemiSync { on } => self.set_semi_sync(on).await,
            Job::Follow { primary, epoch, demote, acknowledging } => {
                self.write_stamp(Stamp { epoch, led: false })?;
                self.admit(&[]).await?;
                let was = if demote { Was::Primary } else { Was::Replica };
                let mut session = self.mariadbd.session().await.map_err(sql)?;
                primary::retire(&mut session, SOON).await.map_err(action)?;
                self.follow(&primary, was, acknowledging, within).await
            }
            Job::SetAcknowledging { on } => {
                let mut session = self.mariadbd.session().await.map_err(sql)?;
                replica::acknowledge(&mut session, on, within).await.map_err(action)
            }
            Job::KeepArtifact { beyond } => self.keep(beyond, within).await,
            Job::Seed { from, epoch } => self.seed(&from, Stamp { epoch, led: false }).await,
        }
    }

    /// The first data, with the accounts that replicas need: they are in no binary log, for every replica begins with a copy.
    async fn initialise(&self) -> Result<(), Failure> {
        let (plan, place) = (self.setup.plan.clone(), self.setup.place.clone());
        let password = self.secret(&self.setup.cluster.replication_secret)?;
        let statements =
            accounts::first_statements(&self.setup.addresses(), &self.setup.replicas_from, &password);
        let (program, file) = (self.program.clone(), self.setup.configuration_file());
        let made = tokio::task::spawn_blocking(move || {
            // Data without their accounts are none: they get their name only when both are there.
            let data = place.data.clone();
            let unnamed = crate::Place { data: data.with_extension("first"), ..place };
            let _ = std::fs::remove_dir_all(&unnamed.data);
            crate::prepare(&plan, &unnamed).map_err(|error| error.to_string())?;
            bootstrap(&program, &file, &unnamed.data, &unnamed.user, &statements)?;
            stamp::write(&unnamed, Stamp { epoch: crate::cluster::Epoch(0), led: false })
                .map_err(|error| error.to_string())?;
            std::fs::rename(&unnamed.data, &data).map_err(|error| error.to_string())
        });
        made.await.unwrap_or_else(|error| Err(error.to_string())).map_err(Failure::Failed)
    }

    async fn start(&self, role: Role) -> Result<(), Failure> {
        self.looks.forget();
        let role = match role {
            Role::Master => mariadb::Role::Primary,
            Role::Slave => mariadb::Role::Replica,
        };
        let server_id = stamp::server_id(&self.setup.place, self.setup.address).map_err(failed)?;
        self.mariadbd.start(role, server_id).await?;
        let mut seeding = Seeding::open(&self.setup.place).map_err(failed)?;
        if let State::Swapped { position } = seeding.state().clone() {
            let mut session = self.mariadbd.session().await.map_err(sql)?;
            replica::begin_at(&mut session, &position, SOON).await.map_err(sql)?;
            seeding.finish().map_err(failed)?;
        }
        Ok(())
    }

    async fn catch_up(&self, from: &Name, to: Gtid, within: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + within;
        self.follow_as(accounts::BACKUP, from, Was::Replica, false, within).await?;
        loop {
            let seen = self.looks.look(self, SOON).await.map_err(action)?;
            if seen.received.reaches(to) && seen.applied.reaches(to) {
                return self.say("STOP SLAVE").await;
            }
            if Instant::now() >= deadline {
                return Err(Failure::TimedOut);
            }
            sleep(PAUSE).await;
        }
    }

    async fn follow(
        &self,
        primary: &Name,
        was: Was,
        acknowledging: bool,
        within: Duration,
    ) -> Result<(), Failure> {
        let user = accounts::replica_of(self.setup.address);
        self.follow_as(&user, primary, was, acknowledging, within).await
    }

    async fn follow_as(
        &self,
        user: &str,
        primary: &Name,
        was: Was,
        acknowledging: bool,
        within: Duration,
    ) -> Result<(), Failure> {
        let member = self.member(primary)?;
        let password = self.secret(&self.setup.cluster.replication_secret)?;
        let upstream = Upstream {
            host: member.address.ip(),
            port: member.address.port(),
            user,
            password: &password,
            tls: &self.setup.tls_files,
            verify_name: true,
        };
        let mut session = self.mariadbd.session().await.map_err(sql)?;
        replica::follow(&mut session, &upstream, was, acknowledging, &self.relay_index(), within)
            .await
            .map_err(action)
    }

    pub(super) async fn admit(&self, members: &[Name]) -> Result<(), Failure> {
        let admitted: Vec<Ipv4Addr> = members
            .iter()
            .map(|name| self.member(name).and_then(|member| ipv4(member).map_err(failed)))
            .collect::<Result<_, _>>()?;
        let mut session = self.mariadbd.session().await.map_err(sql)?;
        let all = self.setup.addresses();
        accounts::admit(&mut session, &all, &self.setup.replicas_from, &admitted, SOON).await.map_err(action)
    }

    async fn set_semi_sync(&self, on: bool) -> Result<(), Failure> {
        self.say(&format!("SET GLOBAL rpl_semi_sync_master_enabled = {}", u8::from(on))).await
    }

    async fn flush(&self) -> Result<(), Failure> {
        self.say("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS").await
    }

    async fn say(&self, statement: &str) -> Result<(), Failure> {
        let mut session = self.mariadbd.session().await.map_err(sql)?;
        session.query(statement, SOON).await.map(drop).map_err(sql)
    }

    async fn keep(&self, beyond: Gtid, within: Duration) -> Result<(), Failure> {
        let now = std::time::SystemTime::now();
        let seconds = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let folder = self.setup.place.data.with_extension("kept");
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let file = folder.join(format!("{seconds}.sql"));
        let kept =
            rejoin::keep(&self.binlog_index(), &position(beyond), &file, within).await.map_err(action)?;
        if let Some(kept) = kept {
            tracing::warn!(
                file = %kept.file.display(),
                transactions = kept.transactions.len(),
                "kept what only this server had; none of it was ever acknowledged"
            );
        }
        Ok(())
    }

    async fn seed(&self, from: &Name, stamp: Stamp) -> Result<(), Failure> {
        let member = self.member(from)?;
        let mut source = copies::ask(&self.setup.tls, member.copies).await.map_err(failed)?;
        let mut seeding = Seeding::open(&self.setup.place).map_err(failed)?;
        if matches!(seeding.state(), State::Swapped { .. }) {
            // The last copy was never started well; it makes room for this one.
            seeding.finish().map_err(failed)?;
        }
        let mut told = Instant::now();
        let progress = |now: mariadb::seed::Progress| {
            if told.elapsed() >= Duration::from_secs(5) {
                told = Instant::now();
                tracing::info!(bytes = now.bytes, about_bytes = now.about_bytes, "copying");
            }
        };
        let at =
            seeding.receive(from.as_str(), &mut source, PREPARE_BYTES, progress).await.map_err(failed)?;
        seeding.swap().map_err(failed)?;
        stamp::write(&self.setup.place, stamp).map_err(failed)?;
        tracing::info!(%from, position = %at, "has the data of another member");
        Ok(())
    }

    fn write_stamp(&self, stamp: Stamp) -> Result<(), Failure> {
        stamp::write(&self.setup.place, stamp).map_err(failed)
    }

    pub(super) fn secret(&self, name: &str) -> Result<String, Failure> {
        self.setup.secret(name).map_err(failed)
    }

    fn member(&self, name: &Name) -> Result<&mainstay_site::plan::cluster::ClusterMember, Failure> {
        self.setup.member(name).ok_or_else(|| Failure::Failed(format!("no member is called {name}")))
    }
}

/// Runs statements on data that no server serves yet.
fn bootstrap(
    program: &std::path::Path,
    file: &std::path::Path,
    data: &std::path::Path,
    user: &str,
    statements: &[String],
) -> Result<(), String> {
    let mut child = Command::new(program)
        .arg(format!("--defaults-file={}", file.display()))
        .arg("--bootstrap")
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--secure-file-priv={}", data.display()))
        .arg(format!("--user={user}"))
        .arg("--skip-log-bin")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    // Without it, accounts are not looked at in this mode.
    let mut text = String::from("FLUSH PRIVILEGES;\n");
    for statement in statements {
        text.push_str(statement);
        text.push_str(";\n");
    }
    let input = child.stdin.take();
    if let Some(mut input) = input {
        input.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let words = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || words.contains("ERROR:") {
        return Err(format!("the accounts of the first data cannot be made: {}", words.trim()));
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

fn sql(error: SqlError) -> Failure {
    action(error.into())
}

fn action(error: ActionError) -> Failure {
    match error {
        ActionError::Sql(SqlError::TimedOut(_)) => Failure::TimedOut,
        error => Failure::Failed(error.to_string()),
    }
}
