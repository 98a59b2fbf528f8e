//! The role's process: its configuration, its topology, and how it ends.

use tokio::signal::unix::{SignalKind, signal};

use crate::config::SqlRouterConfig;
use crate::server::{Error, Server, Sockets};
use crate::topology::{Topology, channel, follow_file, read};
use mainstay_http::Phase;

/// Runs the role until it is asked to stop (SIGTERM or SIGINT) and has drained. A second signal ends it at once.
pub fn run(config: &SqlRouterConfig) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        Ok::<_, Error>((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    })?;
    let first = match &config.topology {
        // Until the file is there, statements wait.
        Some(path) => read(path).unwrap_or_else(|why| {
            tracing::warn!("there is no topology yet: {why}");
            Topology::default()
        }),
        None => return Err(Error::Config("it names no topology".to_owned())),
    };
    let (teller, source) = channel(first);
    if let Some(path) = &config.topology {
        follow_file(path.clone(), teller)?;
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
