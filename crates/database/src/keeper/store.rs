//! The coordinator as the machine sees it: a view of all keys, transactions, and a lease that is renewed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_coordinator as coordinator;
use mainstay_coordinator::{Change, Client, Compare, Error, KeyValue, Operation, Txn, Watched};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;

use crate::cluster::{Event, Key, LeaseId, Outcome, Transaction, Value, View};

/// A request without an answer is given up.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Between two attempts to read all keys.
const PAUSE: Duration = Duration::from_millis(100);

/// The keys below a prefix.
#[derive(Clone)]
pub(super) struct Store {
    client: Client,
    prefix: String,
    began: Instant,
    tell: UnboundedSender<Event>,
}

impl Store {
    pub(super) fn new(client: &Client, prefix: String, began: Instant, tell: UnboundedSender<Event>) -> Self {
        Self { client: client.with_deadline(ANSWER_WITHIN), prefix, began, tell }
    }

    /// Tells every change of the keys, for ever; returns only if the store went back in time, which no keeper survives.
    pub(super) async fn follow(&self) -> String {
        let mut view = View::default();
        loop {
            let listing = match self.client.list(&self.prefix).await {
                Ok(listing) => listing,
                Err(error) => {
                    tracing::debug!(%error, "the coordinator's keys cannot be read");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            if listing.revision.cast_unsigned() < view.revision {
                return format!(
                    "the coordinator is at revision {}, and was at {} before: it is another store, or an old copy",
                    listing.revision, view.revision
                );
            }
            view = View { revision: listing.revision.cast_unsigned(), ..View::default() };
            for key_value in &listing.keys {
                self.put(&mut view, key_value);
            }
            self.tell(Event::View(Arc::new(view.clone())));
            let mut watch = self.client.watch(&self.prefix, listing.revision + 1);
            loop {
                match watch.next().await {
                    Watched::Changed(events) => {
                        for event in events {
                            view.revision = view.revision.max(event.revision.cast_unsigned());
                            match &event.change {
                                Change::Put(key_value) => self.put(&mut view, key_value),
                                Change::Deleted { key } => {
                                    if let Some(key) = self.key(key) {
                                        view.delete(&key);
                                    }
                                }
                            }
                        }
                        self.tell(Event::View(Arc::new(view.clone())));
                    }
                    Watched::StartOver { why } => {
                        tracing::info!(why, "the coordinator's keys are read anew");
                        break;
                    }
                }
            }
        }
    }

    fn key(&self, key: &str) -> Option<Key> {
        Key::parse(key.strip_prefix(&self.prefix)?)
    }

    fn put(&self, view: &mut View, key_value: &KeyValue) {
        let Some(key) = self.key(&key_value.key) else { return };
        match Value::from_json(&key, &key_value.value) {
            Ok(value) => {
                let lease = key_value.lease.map(|lease| lease.0.cast_unsigned());
                view.put(value, key_value.mod_revision.cast_unsigned(), lease);
            }
            Err(error) => {
                tracing::error!(key = key_value.key, %error, "a key holds what cannot be understood");
            }
        }
    }

    /// Does a transaction, once.
    pub(super) async fn transact(&self, id: u64, transaction: Transaction) {
        let outcome = match self.txn(&transaction) {
            Ok(txn) => match self.client.txn(&txn).await {
                Ok(committed) => Outcome::Won { revision: committed.revision.cast_unsigned() },
                Err(Error::Refused(refusal)) => Outcome::Lost { revision: refusal.revision.cast_unsigned() },
                Err(error) => {
                    tracing::info!(%error, "a transaction with the coordinator has no answer");
                    Outcome::Unknown
                }
            },
            Err(error) => {
                tracing::error!(%error, "a transaction cannot be written");
                Outcome::Unknown
            }
        };
        self.tell(Event::Answer { id, outcome });
    }

    fn txn(&self, transaction: &Transaction) -> Result<Txn, serde_json::Error> {
        let path = |key: &Key| format!("{}{}", self.prefix, key.path());
        let mut txn = Txn::new();
        for (key, revision) in &transaction.compare {
            txn = txn.when(Compare::mod_revision(path(key), revision.cast_signed()));
        }
        for (value, lease) in &transaction.put {
            let (key, json) = (path(&value.key()), value.to_json()?);
            txn = txn.then(match lease {
                Some(lease) => Operation::put_leased(key, json, coordinator::LeaseId(lease.cast_signed())),
                None => Operation::put(key, json),
            });
        }
        for key in &transaction.delete {
            txn = txn.then(Operation::delete(path(key)));
        }
        Ok(txn)
    }

    /// Asks for a lease, and renews it every sixth of its time until it is gone.
    pub(super) async fn hold_lease(&self, ttl: Duration) {
        let sent_at = self.began.elapsed();
        let granted = match self.client.grant(ttl).await {
            Ok(granted) => granted,
            Err(error) => {
                tracing::info!(%error, "no lease can be had");
                sleep(PAUSE).await;
                return self.tell(Event::LeaseFailed);
            }
        };
        let lease: LeaseId = granted.lease.0.cast_unsigned();
        self.tell(Event::LeaseGranted { lease, sent_at });
        let mut next = Instant::now() + ttl / 6;
        loop {
            sleep(next.saturating_duration_since(Instant::now())).await;
            next = Instant::now() + ttl / 6;
            let sent_at = self.began.elapsed();
            match self.client.keep_alive(granted.lease).await {
                Ok(_) => self.tell(Event::LeaseRenewed { lease, sent_at }),
                Err(Error::LeaseGone { .. }) => return self.tell(Event::LeaseLost { lease }),
                Err(error) => tracing::info!(%error, "the lease could not be renewed"),
            }
        }
    }

    /// Gives a lease up, so that what is bound to it goes at once.
    pub(super) async fn give_up(&self, lease: LeaseId) {
        if let Err(error) = self.client.revoke(coordinator::LeaseId(lease.cast_signed())).await {
            tracing::warn!(%error, "the lease could not be given up; it runs out by itself");
        }
    }

    fn tell(&self, event: Event) {
        // Without a receiver the keeper ends.
        let _ = self.tell.send(event);
    }
}
