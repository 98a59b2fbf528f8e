//! A host's first process: mounts, reaps, keeps services running, and ends the host when it is asked to.
//!
//! SIGHUP: read the services again; start new ones, restart changed ones, stop those that are gone. SIGTERM: end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mainstay_process::fdstore::FdStore;
use mainstay_site::paths;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::signal::unix::{SignalKind, signal};

use super::launch::read_spec;
use super::mounts::{self, eprint_line};
use super::readings::{self, Readings};
use super::service::{Pace, Service};
use crate::error::{Error, file, host};

/// Descriptors that one service may keep.
const MOST_DESCRIPTORS: usize = 512;
/// How long services may take to end in order: a database writes out what it holds.
const SERVICES_GRACE: Duration = Duration::from_mins(2);
/// How long processes may take to end before the host is switched off.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// Runs a host's first process: `mainstay lab-host init --spec FILE`. Returns when the host is to end.
///
/// # Errors
/// If the host's inside cannot be arranged.
pub fn init(spec_file: &Path) -> Result<(), Error> {
    let spec = read_spec(spec_file)?;
    nix::unistd::sethostname(&spec.name).map_err(|error| host(&spec.name, error))?;
    mounts::arrange(&spec)?;
    let readings = Readings::begin(spec.processors.as_ref().map(Vec::len))?;
    let settings = [
        ("/proc/sys/net/ipv4/ip_forward", spec.forwards),
        ("/proc/sys/net/ipv6/conf/all/forwarding", spec.forwards),
        // A link that is taken down and up again has its addresses, as in IPv4.
        ("/proc/sys/net/ipv6/conf/all/keep_addr_on_down", true),
    ];
    for (setting, wanted) in settings {
        if wanted && Path::new(setting).exists() {
            fs::write(setting, "1").map_err(file("set", Path::new(setting)))?;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| host(&spec.name, error))?;
    runtime.block_on(async {
        let mut first = FirstProcess::new(readings);
        first.run().await.map_err(|error| host(&spec.name, error))
    })
}

struct Running {
    service: Service,
    store: FdStore,
    /// The same socket as the store's, for the runtime to watch.
    notices: UnixDatagram,
    pid: Option<Pid>,
    started: Instant,
    pace: Pace,
    start_at: Option<Instant>,
}

struct FirstProcess {
    run: PathBuf,
    services: BTreeMap<String, Running>,
    readings: Readings,
}

impl FirstProcess {
    fn new(readings: Readings) -> Self {
        Self { run: PathBuf::from(paths::RUN), services: BTreeMap::new(), readings }
    }

    async fn run(&mut self) -> std::io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut child = signal(SignalKind::child())?;
        self.read_services()?;
        fs::write(self.run.join("host-ready"), "")?;
        let mut read_itself = tokio::time::interval(readings::EVERY);
        read_itself.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.reap();
            self.start_due();
            let next = self.services.values().filter_map(|running| running.start_at).min();
            let pause =
                next.map_or(Duration::from_hours(1), |at| at.saturating_duration_since(Instant::now()));
            tokio::select! {
                _ = hangup.recv() => self.read_services()?,
                _ = child.recv() => {}
                _ = terminate.recv() => break,
                () = tokio::time::sleep(pause) => {}
                () = notifications(&mut self.services) => {}
                _ = read_itself.tick() => self.readings.refresh(),
            }
        }
        self.end(&mut child).await;
        Ok(())
    }

    fn read_services(&mut self) -> std::io::Result<()> {
        let text = fs::read_to_string(self.run.join("services.json")).unwrap_or_else(|_| "[]".to_owned());
        let wanted: Vec<Service> = serde_json::from_str(&text)?;
        let gone: Vec<String> = self
            .services
            .keys()
            .filter(|name| !wanted.iter().any(|service| service.name == **name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(pid) = self.services.remove(&name).and_then(|running| running.pid) {
                let _ = kill(pid, Signal::SIGTERM);
            }
        }
        for service in wanted {
            match self.services.get_mut(&service.name) {
                Some(running) if running.service == service => {}
                Some(running) => {
                    // An agent that is hung up leaves its roles running for the next one.
                    let signal = if service.adopts { Signal::SIGHUP } else { Signal::SIGTERM };
                    running.service = service;
                    match running.pid {
                        Some(pid) => drop(kill(pid, signal)),
                        None => running.start_at = Some(Instant::now()),
                    }
                }
                None => {
                    let path = self.run.join(format!("notify-{}", service.name));
                    let store = FdStore::listen(&path, MOST_DESCRIPTORS)?;
                    let notices = store.as_fd().try_clone_to_owned()?;
                    let notices = UnixDatagram::from_std(notices.into())?;
                    let now = Instant::now();
                    let running = Running {
                        store,
                        notices,
                        pid: None,
                        started: now,
                        pace: Pace::default(),
                        start_at: Some(now + START_DELAY),
                        service,
                    };
                    self.services.insert(running.service.name.clone(), running);
                }
            }
        }
        Ok(())
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        for running in self.services.values_mut() {
            if running.start_at.is_some_and(|at| at <= now) {
                running.start_at = None;
                running.started = now;
                receive_all(&mut running.store);
                match start(&running.service, &running.store) {
                    Ok(pid) => running.pid = Some(pid),
                    Err(error) => {
                        eprint_line(&format!("cannot start {}: {error}", running.service.name));
                        running.start_at =
                            Some(now + running.pace.pause_after(Duration::ZERO).max(START_DELAY));
                    }
                }
            }
        }
    }

    /// Takes in every child that ended: services, and orphans that others left behind.
    fn reap(&mut self) {
        loop {
            let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => pid,
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            let now = Instant::now();
            for running in self.services.values_mut().filter(|running| running.pid == Some(ended)) {
                running.pid = None;
                receive_all(&mut running.store);
                let pause = running.pace.pause_after(now - running.started);
                eprint_line(&format!(
                    "{} ended; it is started again in {} ms",
                    running.service.name,
                    pause.as_millis()
                ));
                running.start_at = Some(now + pause);
            }
        }
    }

    /// The services are asked to end and may take their time (the agent stops its roles in order), then whatever is
    /// left, and the kernel takes the rest with the namespace.
    async fn end(&mut self, child: &mut tokio::signal::unix::Signal) {
        let mut left: Vec<Pid> = self.services.values().filter_map(|running| running.pid).collect();
        for pid in &left {
            let _ = kill(*pid, Signal::SIGTERM);
        }
        let deadline = Instant::now() + SERVICES_GRACE;
        while !left.is_empty() && Instant::now() < deadline {
            if !reap_one(child, |ended| left.retain(|pid| *pid != ended)).await {
                break;
            }
        }
        let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
        let deadline = Instant::now() + LAST_GRACE;
        while Instant::now() < deadline && reap_one(child, |_| {}).await {}
    }
}

/// Takes in one ended child, or waits a moment for one; tells whether there are any left.
async fn reap_one(child: &mut tokio::signal::unix::Signal, ended: impl FnOnce(Pid)) -> bool {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Err(_) => return false,
        Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => ended(pid),
        Ok(_) => {
            // The signal wakes it; the bound is for one that came between looking and waiting.
            let _ = tokio::time::timeout(Duration::from_millis(100), child.recv()).await;
        }
    }
    true
}

/// A new service starts this much after it was read, so that descriptors sent right behind it are there at its first start.
const START_DELAY: Duration = Duration::from_millis(20);

/// Takes in what services send to their stores; returns after some did.
async fn notifications(services: &mut BTreeMap<String, Running>) {
    std::future::poll_fn(|cx| {
        let mut any = false;
        for running in services.values_mut() {
            while running.notices.poll_recv_ready(cx).is_ready() {
                // Read until the socket would block, so that the runtime watches it again.
                let store = &mut running.store;
                let read = running.notices.try_io(Interest::READABLE, || match store.receive()? {
                    Some(_) => Ok(()),
                    None => Err(std::io::ErrorKind::WouldBlock.into()),
                });
                any |= read.is_ok();
            }
        }
        if any { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

fn receive_all(store: &mut FdStore) {
    while let Ok(Some(_)) = store.receive() {}
}

fn start(service: &Service, store: &FdStore) -> std::io::Result<Pid> {
    let log = Path::new(paths::LOG).join(format!("{}.out", service.name));
    let output = fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(&service.program);
    command
        .args(&service.args)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(&service.env)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .current_dir("/");
    store.hand_over(&mut command)?;
    let child = command.spawn()?;
    // Reaped with all other children, by number.
    i32::try_from(child.id()).map(Pid::from_raw).map_err(std::io::Error::other)
}
