//! The server's side of a watch: reads the store's history whenever it has grown.
//!
//! Nothing is queued for a watch: it remembers the next revision and asks for what came since. One that reads too slowly falls
//! behind what is kept, and is told so.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::api::{self, Request, Response};
use super::writer::Handle;
use crate::wire::{Failure, Header, Int64, StreamFailure, Streamed, WatchCreateRequest, WatchResponse};

/// The wait after the store was too busy.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How often a watch is told that there was nothing for it, at most.
const PROGRESS: Duration = Duration::from_secs(1);

/// Messages that wait for the connection.
const MESSAGES_MOST: usize = 2;

/// Starts a watch, which ends when nobody reads its messages any more.
pub(super) fn start(
    handle: Handle,
    create: WatchCreateRequest,
    permit: OwnedSemaphorePermit,
) -> mpsc::Receiver<Bytes> {
    let (sender, messages) = mpsc::channel(MESSAGES_MOST);
    tokio::spawn(async move {
        let _permit = permit;
        if let Err(Ended::Failed(failure)) = follow(&handle, create, &sender).await {
            let error = StreamFailure {
                grpc_code: failure.code,
                http_code: i32::from(api::status(failure.code)),
                message: failure.message,
            };
            let message = Streamed::<()> { result: None, error: Some(error) };
            let mut line = api::json(&message);
            line.push(b'\n');
            let _ = sender.send(Bytes::from(line)).await;
        }
    });
    messages
}

enum Ended {
    /// Nobody reads any more.
    Gone,
    Failed(Failure),
}

async fn follow(
    handle: &Handle,
    create: WatchCreateRequest,
    sender: &mpsc::Sender<Bytes>,
) -> Result<(), Ended> {
    let mut revision = handle.revision();
    let Response::Status(status) = ask(handle, Request::Status).await? else { return Ok(()) };
    let mut next = match create.start_revision.0 {
        from @ 1.. => from,
        _ => status.header.revision.0 + 1,
    };
    send(sender, &WatchResponse { created: true, ..message(status.header) }).await?;
    let mut said = Instant::now();
    loop {
        // Marked as seen before it is asked about, so that nothing that comes in between is missed.
        let known = *revision.borrow_and_update();
        let events =
            Request::Events { key: create.key.clone(), range_end: create.range_end.clone(), from: next };
        match ask(handle, events).await? {
            Response::Events { header, events, next: further } => {
                next = further;
                // Without events it says how far the watch is, so that one with few keys does not fall behind the history.
                let progress =
                    create.progress_notify && next > header.revision.0 && said.elapsed() >= PROGRESS;
                if !events.is_empty() || progress {
                    said = Instant::now();
                    send(sender, &WatchResponse { events, ..message(header) }).await?;
                }
            }
            Response::Compacted { header, compacted } => {
                let canceled =
                    WatchResponse { canceled: true, compact_revision: Int64(compacted), ..message(header) };
                return send(sender, &canceled).await;
            }
            _ => return Ok(()),
        }
        if next > known {
            tokio::select! {
                changed = revision.changed() => if changed.is_err() { return Ok(()) },
                () = sender.closed() => return Err(Ended::Gone),
            }
        }
    }
}

async fn ask(handle: &Handle, request: Request) -> Result<Response, Ended> {
    loop {
        match handle.ask(request.clone()).await {
            Ok(response) => return Ok(response),
            Err(failure) if failure.code == 8 => tokio::time::sleep(BUSY_PAUSE).await,
            Err(failure) => return Err(Ended::Failed(failure)),
        }
    }
}

async fn send(sender: &mpsc::Sender<Bytes>, response: &WatchResponse) -> Result<(), Ended> {
    sender.send(Bytes::from(api::line(response))).await.map_err(|_| Ended::Gone)
}

fn message(header: Header) -> WatchResponse {
    WatchResponse { header, ..WatchResponse::default() }
}
