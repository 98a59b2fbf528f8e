//! The way in for a browser on the real machine: sockets on its 127.0.0.1 lead to the site, as `client` reaches it.
//!
//! The sockets are opened by `up` in the real machine's network and kept by `client`'s first process; this process
//! lives in `client`, so what it opens itself goes through the lab's own network.
//!
//! Where the site redirects HTTP to HTTPS, the gateway does that itself: it alone knows the port on the real machine.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use mainstay_http::metrics::{EngineMetrics, Registry};
use mainstay_http::settings::Limits;
use mainstay_http::{Listener, Request, Response, Server, Service, Settings, Shutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Browsers on this machine at once, in connections.
const MOST_CONNECTIONS: usize = 1024;
/// How long an entry may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The name of the listening socket that leads to the entries' port for HTTPS; any other leads to the port that is given.
pub(crate) const HTTPS: &str = "https";
const HTTPS_PORT: u16 = 443;

/// Runs the gateway: `mainstay lab-gateway [--redirect-to PORT] ADDRESS...`, with the listening sockets inherited. With a
/// port, all but the socket for HTTPS redirect there.
///
/// # Errors
/// If there is no socket to listen on.
pub fn run(entries: &[SocketAddr], redirect_to: Option<u16>) -> io::Result<()> {
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
            if let Some(port) = redirect_to.filter(|_| name != HTTPS) {
                // Its threads run for as long as the process does.
                drop(redirect(listener, port, &Shutdown::new())?);
                continue;
            }
            tasks.spawn(accept(TcpListener::from_std(listener)?, Arc::clone(entries), Arc::clone(&room)));
        }
        if tasks.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no listening socket was handed over"));
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    })
}

/// Answers everything with the same under `https`, at another port.
fn redirect(listener: std::net::TcpListener, port: u16, shutdown: &Shutdown) -> io::Result<Server> {
    let limits = Limits { connections: MOST_CONNECTIONS, ..Limits::default() };
    let settings = Settings { limits, ..Settings::default() };
    let metrics = EngineMetrics::new(&Registry::default());
    Server::start(vec![vec![Listener::Tcp(listener)]], &settings, &metrics, shutdown, move |_| ToHttps {
        port,
    })
}

struct ToHttps {
    port: u16,
}

impl Service for ToHttps {
    fn call(self: Rc<Self>, request: Request) -> impl Future<Output = Response> + 'static {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        let host = request.host.as_deref().unwrap_or("localhost");
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
        match HeaderValue::try_from(format!("https://{host}:{}{target}", self.port)) {
            Ok(location) => drop(response.headers_mut().insert(header::LOCATION, location)),
            Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
        }
        // A browser would remember it, and the port may lead to another site tomorrow.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        ready(response)
    }
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn a_browser_is_sent_to_the_https_port_of_the_real_machine() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let server = redirect(listener, 8443, &shutdown).unwrap();
        let ask = |host: &str| {
            let mut browser = std::net::TcpStream::connect(address).unwrap();
            let request = format!("GET /a%20b?c=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            browser.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            browser.read_to_string(&mut answer).unwrap();
            answer
        };
        for host in ["localhost:8080", "localhost"] {
            let answer = ask(host);
            assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
            assert!(answer.contains("location: https://localhost:8443/a%20b?c=1\r\n"), "{answer}");
        }
        assert!(ask("shop.localhost:8080").contains("location: https://shop.localhost:8443/a%20b?c=1\r\n"));
        shutdown.end();
        server.join().unwrap();
    }
}
