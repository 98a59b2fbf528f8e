//! A watch: every change once and in order, across lost connections, members that die and leaders that change.
//!
//! A task reads one member's stream at a time and remembers the next revision that it has not seen. Whatever happens to the
//! stream, the next one begins exactly there. A member that is silent is asked on a second connection whether it still follows
//! the store, since a frozen or cut-off member would be silent for ever; one that does not say so in time is left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::answers::{key_value, text};
use super::call::{Patience, Shared, request};
use super::connection::{Broken, Sender, Target, Times};
use super::{range_end, range_start};
use crate::wire::{
    EventType, RangeRequest, RangeResponse, Streamed, WatchCreateRequest, WatchRequest, WatchResponse,
    WireEvent,
};
use crate::{Change, Endpoint, Event, Revision};

/// How many batches wait for a slow reader. Then the stream is no longer read, and the server keeps the rest.
const BATCHES_MOST: usize = 16;

/// The largest message of a stream. The server sends a whole revision at once, and what a late watch missed in batches.
const MESSAGE_MOST_BYTES: usize = 64 << 20;

/// After this much silence the member is asked whether it still follows the store.
const SILENCE: Duration = Duration::from_secs(1);

/// After this much silence, in which the store moved on, the stream is opened again where it stood: most likely nothing of what
/// changed was for this watch, but it could also be that something on the way swallows what the member says.
const STALE: Duration = Duration::from_secs(5);

/// The wait between two attempts to watch, doubling.
const RETRY_LEAST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_millis(500);

/// What a watch has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// Changes, in the order in which they happened. Those of one revision always come together.
    Changed(Vec<Event>),
    /// The watch is over: what came between is no longer to be had, for the store's history was compacted, or because it is
    /// another store now. List the keys, and watch from there.
    StartOver {
        /// Why, for the log.
        why: String,
    },
}

/// An ordered stream of changes. See [`crate::Client::watch`].
#[derive(Debug)]
pub struct Watch {
    batches: mpsc::Receiver<Watched>,
    heard: watch::Receiver<Instant>,
    over: Option<Watched>,
    task: AbortHandle,
}

impl Watch {
    pub(super) fn start(shared: Arc<Shared>, patience: Patience, prefix: &str, from: Revision) -> Self {
        let (sender, batches) = mpsc::channel(BATCHES_MOST);
        let (heard_sender, heard) = watch::channel(Instant::now());
        let follower = Follower {
            shared,
            patience,
            prefix: prefix.to_owned(),
            next: from,
            store: None,
            batches: sender,
            heard: heard_sender,
        };
        let task = tokio::spawn(follower.run()).abort_handle();
        Self { batches, heard, over: None, task }
    }

    /// The next changes. May be dropped while it waits, and loses nothing by that.
    pub async fn next(&mut self) -> Watched {
        if let Some(over) = &self.over {
            return over.clone();
        }
        let next =
            self.batches.recv().await.unwrap_or_else(|| Watched::StartOver {
                why: "the runtime of the watch has ended".to_owned(),
            });
        if matches!(next, Watched::StartOver { .. }) {
            self.over = Some(next.clone());
        }
        next
    }

    /// When a member last proved that it follows the store: what happened before may still be on its way, but no more than
    /// that is missing.
    pub fn last_heard(&self) -> Instant {
        *self.heard.borrow()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a stream ended.
enum Ended {
    /// The same member may have more to say on another stream.
    Stale,
    /// Another stream can go on where this one ended.
    Lost(String),
    /// None can.
    StartOver(String),
    /// Nobody reads any more.
    Dropped,
}

struct Follower {
    shared: Arc<Shared>,
    patience: Patience,
    prefix: String,
    next: Revision,
    /// The store that the revisions are of.
    store: Option<u64>,
    batches: mpsc::Sender<Watched>,
    heard: watch::Sender<Instant>,
}

impl Follower {
    async fn run(mut self) {
        let mut place = self.shared.preferred();
        let mut pause = RETRY_LEAST;
        loop {
            let begun = Instant::now();
            let shared = Arc::clone(&self.shared);
            match self.follow(&shared, place).await {
                Ended::Dropped => return,
                Ended::StartOver(why) => {
                    let _ = self.batches.send(Watched::StartOver { why }).await;
                    return;
                }
                Ended::Stale => continue,
                Ended::Lost(why) => {
                    tracing::debug!(endpoint = %shared.targets[place].endpoint, why, "a watch lost its stream");
                }
            }
            // Another member first. What worked for a while is tried again at once.
            place = (place + 1) % shared.targets.len();
            pause = if begun.elapsed() > SILENCE { RETRY_LEAST } else { (pause * 2).min(RETRY_MOST) };
            tokio::time::sleep(pause).await;
        }
    }

    /// Follows one member's stream until it ends.
    async fn follow(&mut self, shared: &Shared, place: usize) -> Ended {
        let target = &shared.targets[place];
        let mut stream = match self.open(shared, &target.endpoint).await {
            Ok(stream) => stream,
            Err(why) => return Ended::Lost(why),
        };
        let mut said = Instant::now();
        loop {
            let message = match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ended::Lost("the stream ended".to_owned()),
                Ok(Err(MessageError::TooLarge)) => {
                    return Ended::StartOver(format!(
                        "changes of more than {MESSAGE_MOST_BYTES} bytes at once"
                    ));
                }
                Ok(Err(MessageError::Broken(why))) => return Ended::Lost(why),
                Err(_) => match self.still_follows(shared, place).await {
                    Ok(revision) if revision >= self.next && said.elapsed() >= STALE => return Ended::Stale,
                    Ok(_) => continue,
                    Err(why) => return Ended::Lost(why),
                },
            };
            said = Instant::now();
            if let Err(ended) = self.take(message).await {
                return ended;
            }
        }
    }

    async fn open(&self, shared: &Shared, endpoint: &Endpoint) -> Result<Messages, String> {
        let create = WatchCreateRequest {
            key: range_start(&self.prefix),
            range_end: range_end(&self.prefix),
            start_revision: crate::wire::Int64(self.next),
            progress_notify: true,
        };
        let body = serde_json::to_vec(&WatchRequest { create_request: create })
            .map_err(|error| error.to_string())?;
        let request =
            request(endpoint, "/v3/watch", Bytes::from(body), None).map_err(|error| error.to_string())?;
        let (connect, answer) = (self.patience.connect, self.patience.answer);
        let times = Times { connect, answer, end: (Instant::now() + connect + answer).into() };
        // A connection of its own, which no other request shares.
        let (sender, response) = Target::new(endpoint.clone())
            .send(shared.tls.as_ref(), times, request)
            .await
            .map_err(|broken| match broken {
                Broken::NotSent(why) | Broken::Sent(why) => why,
            })?;
        if response.status() != StatusCode::OK {
            return Err(format!("status {}", response.status()));
        }
        Ok(Messages { body: response.into_body(), buffer: BytesMut::new(), searched: 0, _sender: sender })
    }

    async fn take(&mut self, message: Streamed<WatchResponse>) -> Result<(), Ended> {
        let response = match message {
            Streamed { error: Some(error), .. } => return Err(Ended::Lost(error.message)),
            Streamed { result: None, .. } => return Err(Ended::Lost("an empty message".to_owned())),
            Streamed { result: Some(response), .. } => response,
        };
        let cluster = response.header.cluster_id.0;
        match self.store {
            Some(known) if known != cluster => {
                return Err(Ended::StartOver(
                    "another store answers: its revisions are not those of the old one".to_owned(),
                ));
            }
            _ => self.store = Some(cluster),
        }
        if response.compact_revision.0 != 0 {
            let why =
                format!("revision {} was compacted away (up to {})", self.next, response.compact_revision.0);
            return Err(Ended::StartOver(why));
        }
        if response.canceled {
            return Err(Ended::Lost(format!("the member ended the watch: {}", response.cancel_reason)));
        }
        let _ = self.heard.send(Instant::now());
        let nothing = response.events.is_empty();
        let events: Result<Vec<Event>, String> = response
            .events
            .into_iter()
            .filter(|event| event.kv.mod_revision.0 >= self.next)
            .map(event)
            .collect();
        // A key that is not text would be skipped in silence otherwise.
        let events = events.map_err(Ended::StartOver)?;
        if let Some(last) = events.last() {
            self.next = last.revision + 1;
            self.batches.send(Watched::Changed(events)).await.map_err(|_| Ended::Dropped)?;
        } else if nothing && !response.created {
            // The member says how far it is: there was nothing for this watch until then.
            self.next = self.next.max(response.header.revision.0 + 1);
        }
        Ok(())
    }

    /// Asks a silent member for a read that it can only answer with a leader and after it has applied all that was
    /// written before. A frozen or cut-off member does not answer. What comes back is how far the store is.
    async fn still_follows(&self, shared: &Shared, place: usize) -> Result<Revision, String> {
        let request =
            RangeRequest { key: range_start(&self.prefix), count_only: true, ..RangeRequest::default() };
        let patience = Patience { deadline: self.patience.answer, ..self.patience };
        let asked = Instant::now();
        let answer: RangeResponse = shared
            .call_at(place, "/v3/kv/range", &request, patience)
            .await
            .map_err(|error| error.to_string())?;
        let _ = self.heard.send(asked);
        Ok(answer.header.revision.0)
    }
}

fn event(wire: WireEvent) -> Result<Event, String> {
    let revision = wire.kv.mod_revision.0;
    let change = match wire.kind {
        EventType::Put => Change::Put(key_value(wire.kv).map_err(|error| error.to_string())?),
        EventType::Delete => Change::Deleted { key: text(wire.kv.key).map_err(|error| error.to_string())? },
    };
    Ok(Event { revision, change })
}

enum MessageError {
    TooLarge,
    Broken(String),
}

/// The messages of a stream: JSON objects, each ended by a line feed.
struct Messages {
    body: Incoming,
    buffer: BytesMut,
    /// How much of the buffer has no line feed.
    searched: usize,
    /// The connection lives as long as its sender.
    _sender: Sender,
}

impl Messages {
    /// The next message; may be dropped while it waits.
    async fn message(&mut self) -> Result<Option<Streamed<WatchResponse>>, MessageError> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + at + 1);
                self.searched = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    MessageError::Broken(format!("a message that cannot be read: {error}"))
                });
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MESSAGE_MOST_BYTES {
                return Err(MessageError::TooLarge);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(MessageError::Broken(super::connection::chain(&error))),
            }
        }
    }
}
