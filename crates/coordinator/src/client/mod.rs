//! The client: one interface to a coordinator, whichever of the two it is.

mod answers;
mod call;
mod connection;
mod lease;
mod verdict;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use lease::{Granted, LeaseState};
pub use watch::{Watch, Watched};

use crate::wire::{Base64, RangeRequest, RangeResponse, StatusResponse, TxnResponse};
use crate::{
    Committed, Compare, Endpoint, Error, KeyValue, LeaseId, Listing, Operation, Refusal, Revision, Tls,
    TlsError, Txn,
};
use answers::{key_value, key_values, operation_results, txn_request};
use call::{Answered, Kind, Patience, Shared};

/// How a client reaches its coordinator.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Where it listens: one address, or one for each member. They are tried in turn, beginning with the one that answered last.
    pub endpoints: Vec<Endpoint>,
    /// What is shown to https endpoints, and asked of them.
    pub tls: Option<Tls>,
    /// How long one endpoint may take to accept a connection, TLS included.
    pub connect_timeout: Duration,
    /// How long one endpoint may take to answer before another one is asked, where asking twice does no harm.
    pub answer_timeout: Duration,
    /// How long a call may take in all.
    pub deadline: Duration,
}

impl ClientSettings {
    /// 300 ms to connect, 1 s to answer, 3 s in all.
    pub fn new(endpoints: Vec<Endpoint>, tls: Option<Tls>) -> Self {
        Self {
            endpoints,
            tls,
            connect_timeout: Duration::from_millis(300),
            answer_timeout: Duration::from_secs(1),
            deadline: Duration::from_secs(3),
        }
    }
}

/// Settings that no client can be made of.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SettingsError {
    /// There is no address to go to.
    #[error("a coordinator needs at least one endpoint")]
    NoEndpoint,
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A coordinator's client. Cloning is cheap, and clones share their connections. Needs a tokio runtime.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    patience: Patience,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// What one endpoint says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// The store's revision, as far as this endpoint knows.
    pub revision: Revision,
    /// The member that answered; the embedded coordinator has one.
    pub member: u64,
    /// The member that leads, 0 if this one knows of none.
    pub leader: u64,
    /// Bytes of the store's file.
    pub size_bytes: u64,
    /// Bytes of it that are in use; defragmenting gives the rest back.
    pub used_bytes: u64,
    /// What is wrong with it, in its own words.
    pub errors: Vec<String>,
}

impl Client {
    /// A client. Connects with its first call.
    pub fn new(settings: &ClientSettings) -> Result<Self, SettingsError> {
        if settings.endpoints.is_empty() {
            return Err(SettingsError::NoEndpoint);
        }
        let tls = settings.tls.as_ref().map(Tls::client).transpose()?;
        let patience = Patience {
            connect: settings.connect_timeout,
            answer: settings.answer_timeout,
            deadline: settings.deadline,
        };
        Ok(Self { shared: Arc::new(Shared::new(settings.endpoints.clone(), tls)), patience })
    }

    /// The same client with another deadline for its calls. One endpoint may take at most half of it, so that another one can
    /// still be asked.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        let answer = self.patience.answer.min(deadline / 2);
        let connect = self.patience.connect.min(deadline / 2);
        Self { shared: Arc::clone(&self.shared), patience: Patience { connect, answer, deadline } }
    }

    fn with_whole_deadline(&self, deadline: Duration) -> Self {
        Self { shared: Arc::clone(&self.shared), patience: Patience { deadline, ..self.patience } }
    }

    /// The key, if it is there, as of now: a read that another client's earlier write cannot be missing from.
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let request = RangeRequest { key: base64(key), ..RangeRequest::default() };
        let answer: RangeResponse = self.read("/v3/kv/range", &request).await?;
        answer.kvs.into_iter().next().map(key_value).transpose()
    }

    /// Every key that begins with `prefix`, at one moment.
    pub async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let request = RangeRequest {
            key: range_start(prefix),
            range_end: range_end(prefix),
            ..RangeRequest::default()
        };
        let answer: RangeResponse = self.read("/v3/kv/range", &request).await?;
        Ok(Listing { revision: answer.header.revision.0, keys: key_values(answer.kvs)? })
    }

    /// Does all of a transaction's operations, or none. A comparison that fails is [`Error::Refused`].
    ///
    /// It is sent only once. After [`Error::Uncertain`] the store itself tells what became of it: put something that only this
    /// transaction puts, and look for it.
    pub async fn txn(&self, txn: &Txn) -> Result<Committed, Error> {
        let request = txn_request(txn);
        let only_reads =
            txn.operations.iter().chain(&txn.otherwise).all(|one| matches!(one, Operation::Get { .. }));
        let kind = if only_reads { Kind::Read } else { Kind::Once };
        let answered: Result<Answered<TxnResponse>, Error> =
            self.shared.call("/v3/kv/txn", &request, kind, self.patience).await;
        let answered = answered.map_err(|error| match error {
            // The server does not say which.
            Error::LeaseGone { .. } => Error::LeaseGone { lease: only_lease(txn) },
            error => error,
        })?;
        let answer = answered.answer;
        let revision = answer.header.revision.0;
        let operations = if answer.succeeded { &txn.operations } else { &txn.otherwise };
        let results = operation_results(operations, answer.responses)?;
        if answer.succeeded {
            Ok(Committed { revision, results })
        } else {
            Err(Error::Refused(Refusal { revision, results }))
        }
    }

    /// Does a transaction and finds out by itself what became of it, until the deadline: tried again when nobody took it on or
    /// nobody says what became of it. A member whose leader has just died swallows what it is asked to write, so this is how
    /// a write gets through an election.
    ///
    /// `proof` is a key and a value which this transaction puts and nobody else ever does (a random number in it is enough),
    /// and the transaction's comparisons must not hold any more once it is done. Then it is done at most once. What comes
    /// back is the revision at which it was done.
    ///
    /// After an error an attempt that nobody answered may still come through, for as long as its comparisons hold: bind
    /// what it puts to a lease, and revoke that before giving up.
    pub async fn txn_settled(&self, txn: &Txn, proof: (&str, &[u8])) -> Result<Revision, Error> {
        let end = Instant::now() + self.patience.deadline;
        let mut uncertain = false;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let attempt = self.with_whole_deadline(left.min(self.patience.answer / 2));
            let error = match attempt.txn(txn).await {
                Ok(committed) => return Ok(committed.revision),
                Err(error) => error,
            };
            uncertain |= error.may_have_been_done();
            let decided = !matches!(error, Error::Unavailable { .. } | Error::Uncertain { .. });
            if uncertain {
                match self
                    .with_whole_deadline(end.saturating_duration_since(Instant::now()))
                    .get(proof.0)
                    .await
                {
                    Ok(Some(kv)) if kv.value == proof.1 => return Ok(kv.mod_revision),
                    Ok(_) if decided => return Err(error),
                    Ok(_) => {}
                    Err(asked) => {
                        let why = format!("{error}; and what became of it cannot be found out: {asked}");
                        return Err(Error::Uncertain { why });
                    }
                }
            } else if decided {
                return Err(error);
            }
            if Instant::now() >= end {
                return Err(if uncertain { Error::Uncertain { why: error.to_string() } } else { error });
            }
        }
    }

    /// Sets a key, whatever it was.
    pub async fn put(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        lease: Option<LeaseId>,
    ) -> Result<Committed, Error> {
        self.txn(&Txn::new().then(Operation::Put { key: key.to_owned(), value: value.into(), lease })).await
    }

    /// Makes a key that must not be there yet.
    pub async fn create(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        lease: Option<LeaseId>,
    ) -> Result<Committed, Error> {
        let put = Operation::Put { key: key.to_owned(), value: value.into(), lease };
        self.txn(&Txn::new().when(Compare::absent(key)).then(put)).await
    }

    /// Deletes a key, if it is there.
    pub async fn delete(&self, key: &str) -> Result<Committed, Error> {
        self.txn(&Txn::new().then(Operation::delete(key))).await
    }

    /// Every change of the keys that begin with `prefix`, from revision `from` on: one more than that of a
    /// [`Listing`] continues where that ended. At least 1.
    ///
    /// Needs the runtime that the client's calls run in, and ends when it is dropped.
    pub fn watch(&self, prefix: &str, from: Revision) -> Watch {
        Watch::start(Arc::clone(&self.shared), self.patience, prefix, from.max(1))
    }

    /// What the endpoint at `place` of the settings' list says of itself. Others are not asked.
    pub async fn status(&self, place: usize) -> Result<Status, Error> {
        let answer: StatusResponse = self.at(place, "/v3/maintenance/status", &crate::wire::Empty {}).await?;
        Ok(Status {
            version: answer.version,
            revision: answer.header.revision.0,
            member: answer.header.member_id.0,
            leader: answer.leader.0,
            size_bytes: answer.db_size.0.unsigned_abs(),
            used_bytes: answer.db_size_in_use.0.unsigned_abs(),
            errors: answer.errors,
        })
    }

    /// How many endpoints there are.
    pub fn endpoints(&self) -> usize {
        self.shared.targets.len()
    }

    pub(crate) async fn at<T: DeserializeOwned>(
        &self,
        place: usize,
        path: &str,
        message: &impl Serialize,
    ) -> Result<T, Error> {
        if place >= self.endpoints() {
            return Err(Error::Rejected { why: format!("there is no endpoint {place}") });
        }
        self.shared.call_at(place, path, message, self.patience).await
    }

    pub(crate) async fn read<T: DeserializeOwned>(
        &self,
        path: &str,
        message: &impl Serialize,
    ) -> Result<T, Error> {
        Ok(self.shared.call(path, message, Kind::Read, self.patience).await?.answer)
    }

    pub(crate) async fn once<T: DeserializeOwned>(
        &self,
        path: &str,
        message: &impl Serialize,
    ) -> Result<T, Error> {
        Ok(self.shared.call(path, message, Kind::Once, self.patience).await?.answer)
    }
}

/// The lease of a transaction's puts; 0 if there are several.
fn only_lease(txn: &Txn) -> LeaseId {
    let mut leases = txn.operations.iter().chain(&txn.otherwise).filter_map(|operation| match operation {
        Operation::Put { lease, .. } => *lease,
        _ => None,
    });
    let first = leases.next().unwrap_or(LeaseId(0));
    if leases.all(|lease| lease == first) { first } else { LeaseId(0) }
}

fn base64(text: &str) -> Base64 {
    Base64(text.as_bytes().to_vec())
}

/// Where the keys that begin with a prefix begin. A single zero byte stands for "from the first key on".
fn range_start(prefix: &str) -> Base64 {
    if prefix.is_empty() { Base64(vec![0]) } else { base64(prefix) }
}

/// The first key after all that begin with a prefix. A single zero byte stands for "to the end".
fn range_end(prefix: &str) -> Base64 {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Base64(end);
        }
    }
    Base64(vec![0])
}
