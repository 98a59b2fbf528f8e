//! The process of mariadbd: started, watched, killed.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep};

use crate::cluster::{Event, Failure};
use crate::mariadb::server::{Server, Start, StartError};
use crate::mariadb::{Role, Session, SqlError};

/// Between two attempts to reach a server that starts.
const PAUSE: Duration = Duration::from_millis(10);
/// For the first exchange with a server that greets.
const ANSWER: Duration = Duration::from_secs(2);

/// mariadbd, if it runs.
#[derive(Clone)]
pub(super) struct Mariadbd {
    start: Rc<Start>,
    running: Rc<RefCell<Option<UnboundedSender<Order>>>>,
    tell: UnboundedSender<Event>,
}

enum Order {
    Kill,
    Stop(Duration),
}

impl Mariadbd {
    pub(super) fn new(start: Start, tell: UnboundedSender<Event>) -> Self {
        Self { start: Rc::new(start), running: Rc::default(), tell }
    }

    pub(super) fn runs(&self) -> bool {
        self.running.borrow().is_some()
    }

    /// A session with it.
    pub(super) async fn session(&self) -> Result<Session, SqlError> {
        Session::connect(&self.start.socket, &self.start.user, ANSWER).await
    }

    /// Starts it, and waits until it answers.
    pub(super) async fn start(&self, role: Role, server_id: u32) -> Result<(), Failure> {
        if self.runs() {
            return Err(Failure::Failed("it runs already".to_owned()));
        }
        let failed = |error: StartError| Failure::Failed(error.to_string());
        let (server, begun) = self.start.spawn(role, Some(server_id)).await.map_err(failed)?;
        self.watch(server);
        loop {
            if !self.runs() {
                let failure = begun.failure().map_err(|error| Failure::Failed(error.to_string()))?;
                let text = format!("the database ended as it started: {failure}");
                return Err(if failure.needs_seeding() {
                    Failure::Hopeless(text)
                } else {
                    Failure::Failed(text)
                });
            }
            match self.session().await {
                Ok(_) => return Ok(()),
                Err(error @ SqlError::Refused { .. }) => return Err(Failure::Failed(error.to_string())),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Tells its end, and does what it is ordered meanwhile.
    fn watch(&self, mut server: Server) {
        let (orders, mut ordered) = unbounded_channel();
        *self.running.borrow_mut() = Some(orders);
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let ended = tokio::select! {
                ended = server.ended() => ended,
                Some(order) = ordered.recv() => match order {
                    Order::Kill => server.kill().await,
                    Order::Stop(grace) => stop(&mut server, grace, &mut ordered).await,
                },
            };
            match ended {
                Ok(status) => {
                    let status = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
                    tracing::info!(status, "mariadbd has ended");
                }
                Err(error) => tracing::error!(%error, "mariadbd cannot be watched any more"),
            }
            *this.running.borrow_mut() = None;
            // Without a receiver the keeper ends.
            let _ = this.tell.send(Event::Exited);
        });
    }

    /// SIGKILL. Its end is told when it is gone.
    pub(super) fn kill(&self) {
        self.order(Order::Kill);
    }

    /// Stops it in an orderly way and waits for that; kills it where that lasts longer than `grace`.
    pub(super) async fn stop(&self, grace: Duration) {
        self.order(Order::Stop(grace));
        let deadline = Instant::now() + grace + ANSWER;
        while self.runs() && Instant::now() < deadline {
            sleep(PAUSE).await;
        }
    }

    fn order(&self, order: Order) {
        if let Some(orders) = self.running.borrow().as_ref() {
            // Without a receiver it has just ended.
            let _ = orders.send(order);
        }
    }
}

/// Stops it, unless it is to be killed meanwhile.
async fn stop(
    server: &mut Server,
    grace: Duration,
    ordered: &mut tokio::sync::mpsc::UnboundedReceiver<Order>,
) -> io::Result<Option<std::process::ExitStatus>> {
    tokio::select! {
        ended = server.stop(grace) => return ended,
        Some(_) = ordered.recv() => {}
    }
    server.kill().await
}
