//! The role's process: its configuration, its topology, and how it ends.

use tokio::signal::unix::{SignalKind, signal};

use crate::config::SqlRouterConfig;
use crate::follow::follow;
use crate::server::{Error, Server, Sockets};
use crate::topology::{Topology, channel, follow_file, read};
use mainstay_http::Phase;

/// Runs the role until it is asked to stop (SIGTERM or SIGINT) and has drained. A second signal ends it at once.
pub fn run(config: &SqlRouterConfig) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        Ok::<_, Error>((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    })?;
    let (teller, source) = channel(Topology::default());
    match (&config.coordinator, &config.topology) {
        (Some(coordinator), _) => {
            let client = coordinator.client()?;
            let coordinator = coordinator.clone();
            // Of its own, so that a busy worker does not keep it from hearing of a new primary.
            let follower = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            std::thread::spawn(move || follower.block_on(follow(coordinator, client, teller)));
        }
        (None, Some(path)) => {
            match read(path) {
                Ok(first) => drop(teller.tell(first)),
                // Until the file is there, statements wait.
                Err(why) => tracing::warn!("there is no topology yet: {why}"),
            }
            follow_file(path.clone(), teller)?;
        }
        (None, None) => return Err(Error::Config("it names no coordinator and no topology".to_owned())),
    }
    let sockets = Sockets::open(config)?;
    let server = Server::start(config, sockets, &source)?;
    let shutdown = server.shutdown().clone();
    runtime.block_on(async {
        let mut asked = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tokio::select! {
            () = asked() => {}
            () = shutdown.reached(Phase::Draining) => {}
        }
        tracing::info!("draining");
        shutdown.drain();
        tokio::select! {
            () = asked() => {}
            () = over(&server) => {}
        }
        shutdown.end();
    });
    server.join()
}

async fn over(server: &Server) {
    while !server.is_over() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
