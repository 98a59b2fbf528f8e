//! The way in for a browser on the real machine: sockets on its 127.0.0.1 lead to the site, as `client` reaches it.
//!
//! The sockets are opened by `up` in the real machine's network and kept by `client`'s first process; this process
//! lives in `client`, so what it opens itself goes through the lab's own network.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Browsers on this machine at once, in connections.
const MOST_CONNECTIONS: usize = 1024;
/// How long an entry may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The name of the listening socket that leads to the entries' port for HTTPS; any other leads to the port that is given.
pub(crate) const HTTPS: &str = "https";
const HTTPS_PORT: u16 = 443;

/// Runs the gateway: `mainstay lab-gateway ADDRESS...`, with the listening sockets inherited.
///
/// # Errors
/// If there is no socket to listen on.
pub fn run(entries: &[SocketAddr]) -> io::Result<()> {
    let descriptors = mainstay_process::inherited_descriptors().map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let plain: Arc<[SocketAddr]> = entries.into();
        let secure: Arc<[SocketAddr]> =
            entries.iter().map(|entry| SocketAddr::new(entry.ip(), HTTPS_PORT)).collect();
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut tasks = tokio::task::JoinSet::new();
        for (name, descriptor) in descriptors {
            let entries = if name == HTTPS { &secure } else { &plain };
            let listener = std::net::TcpListener::from(descriptor);
            listener.set_nonblocking(true)?;
            tasks.spawn(accept(TcpListener::from_std(listener)?, Arc::clone(entries), Arc::clone(&room)));
        }
        if tasks.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no listening socket was handed over"));
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    })
}

async fn accept(listener: TcpListener, entries: Arc<[SocketAddr]>, room: Arc<Semaphore>) {
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((browser, _)) => {
                let entries = Arc::clone(&entries);
                tokio::spawn(async move {
                    // Either side may go away at any time; that ends both.
                    let _ = relay(browser, &entries).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn relay(mut browser: TcpStream, entries: &[SocketAddr]) -> io::Result<()> {
    browser.set_nodelay(true)?;
    for entry in entries {
        if let Ok(Ok(mut site)) = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(entry)).await {
            site.set_nodelay(true)?;
            tokio::io::copy_bidirectional(&mut browser, &mut site).await?;
            return Ok(());
        }
    }
    Ok(())
}
