//! The embedded coordinator, on a Unix socket in a folder of its own.

use std::future::Future;
use std::pin::Pin;

use mainstay_coordinator::Endpoint;
use mainstay_coordinator::embedded::{Embedded, Listener};
use mainstay_coordinator::etcd::Upkeep;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::{Server, client_at};

pub struct EmbeddedServer {
    serving: JoinHandle<()>,
    folder: TempDir,
}

impl EmbeddedServer {
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("mainstay-test-coordinator-").tempdir().unwrap();
        let embedded = Embedded::open(&folder.path().join("store")).unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let serving = tokio::spawn(async move {
            let _ = embedded.serve(Listener::Unix(listener)).await;
        });
        Self { serving, folder }
    }
}

impl Server for EmbeddedServer {
    fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.folder.path().join("socket"))
    }

    fn compact(&self, revision: i64) -> Pin<Box<dyn Future<Output = ()> + '_>> {
        Box::pin(async move { Upkeep::new(client_at(self.endpoint())).compact(revision).await.unwrap() })
    }
}

impl Drop for EmbeddedServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
