//! The servers that stories are told by, and what is between them and their clients.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses its part")]

pub mod certificates;
mod embedded;
mod etcd;
mod wire;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use mainstay_coordinator::{Client, ClientSettings, Endpoint, Tls};

pub use certificates::{Authority, Usage};
pub use embedded::EmbeddedServer;
pub use etcd::{EtcdServer, Process, loopback};
pub use wire::Wire;

/// How long a story waits for what must come. Long, since others may use the machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server that runs.
pub trait Server {
    /// Where it listens.
    fn endpoint(&self) -> Endpoint;
    /// Makes the store forget the changes up to a revision.
    fn compact(&self, revision: i64) -> Pin<Box<dyn Future<Output = ()> + '_>>;
}

/// A server, a wire to it, and a client at the wire's other end.
pub struct Story {
    pub server: Box<dyn Server>,
    pub wire: Wire,
    /// Goes through the wire.
    pub client: Client,
    /// Goes past it.
    pub direct: Client,
}

impl Story {
    pub async fn new(server: impl Server + 'static) -> Self {
        let wire = Wire::to(server.endpoint()).await;
        let client = client(vec![wire.endpoint()], None);
        let direct = client_at(server.endpoint());
        Self { server: Box::new(server), wire, client, direct }
    }

    /// A client of its own, through the wire.
    pub fn another(&self) -> Client {
        client(vec![self.wire.endpoint()], None)
    }
}

pub fn client_at(endpoint: Endpoint) -> Client {
    client(vec![endpoint], None)
}

/// A client that is more patient than usual, since the machine may be busy.
pub fn client(endpoints: Vec<Endpoint>, tls: Option<Tls>) -> Client {
    let settings = ClientSettings {
        connect_timeout: Duration::from_secs(2),
        answer_timeout: Duration::from_secs(4),
        deadline: Duration::from_secs(10),
        ..ClientSettings::new(endpoints, tls)
    };
    Client::new(&settings).unwrap()
}

/// Tells a story in a runtime like that of a role: one thread.
pub fn run<S, F, T>(start: S, story: T)
where
    S: FnOnce() -> F,
    F: Future<Output = Story>,
    T: for<'a> FnOnce(&'a Story) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
{
    block_on(async {
        let started = start().await;
        story(&started).await;
    });
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        tokio::time::timeout(Duration::from_mins(2), future).await.expect("the story takes too long")
    })
}

/// Waits until something holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "{what} does not come true");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
