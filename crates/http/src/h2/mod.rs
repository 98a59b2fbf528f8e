//! The server's side of an HTTP/2 connection, over the `h2` crate.
//!
//! Requests that are answered at once (small files, redirects) are answered in the connection's own task, all those of
//! one read together, and go out in one write. Only those that have to wait get a task of their own.

mod body;
mod interim;
mod meter;
mod request;
mod stream;
pub(crate) mod tunnel;
mod wire;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use tokio::task::JoinSet;

use crate::Service;
use crate::h1::connection::H2_PREFACE;
use crate::message::Peer;
use crate::rewound::Rewound;
use crate::transport::Transport;
use crate::watch::{NEVER, Watch};
use crate::worker::{Worker, note};
use wire::Wire;

/// Streams reset by us because of what the client did, before the connection is cut (CVE-2025-8671).
const LOCAL_RESETS: usize = 256;
/// Streams reset by the client before we took them.
const PENDING_RESETS: usize = 32;

/// Serves a connection until it ends. `read` is what was already read, from the preface on.
pub(crate) async fn serve<T: Transport, S: Service>(
    io: T,
    read: BytesMut,
    peer: Peer,
    worker: Rc<Worker>,
    watch: Rc<Watch>,
    service: Rc<S>,
) {
    let clock = &worker.watches.clock;
    let (settings, timeouts) = (&worker.settings, &worker.settings.timeouts);
    let io = Rewound::new(io, read.freeze());
    let wire = Wire::new(io, Rc::clone(&worker), Rc::clone(&watch), H2_PREFACE.len());
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(settings.h2.streams)
        .max_header_list_size(settings.limits.head_bytes as u32)
        .initial_window_size(settings.h2.stream_window)
        .initial_connection_window_size(settings.h2.connection_window)
        .max_send_buffer_size(settings.h2.send_buffer)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .enable_connect_protocol();
    watch.read_by.set(clock.after(timeouts.head));
    let mut handshake = std::pin::pin!(builder.handshake(wire.clone()));
    let shaken = poll_fn(|cx| {
        watch.set_task(cx);
        let shaken = handshake.as_mut().poll(cx);
        // Our settings leave even if the client is slow to send more than its preface; a failure shows up above.
        let _ = wire.poll_drain(cx);
        match shaken {
            Poll::Ready(shaken) => Poll::Ready(Some(shaken)),
            Poll::Pending if watch.read_by.get().min(watch.write_by.get()) <= clock.now_ms() => {
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    let Some(Ok(connection)) = shaken else {
        worker.metrics.protocol_error("h2 handshake");
        return;
    };
    let mut serving = Serving {
        connection,
        wire,
        peer,
        worker: Rc::clone(&worker),
        watch,
        service,
        tasks: JoinSet::new(),
        leaving: false,
    };
    serving.begin_idle();
    poll_fn(|cx| serving.poll(cx)).await;
    serving.tasks.shutdown().await;
}

struct Serving<T: Transport, S> {
    wire: Wire<Rewound<T>>,
    connection: Connection<Wire<Rewound<T>>, Bytes>,
    peer: Peer,
    worker: Rc<Worker>,
    watch: Rc<Watch>,
    service: Rc<S>,
    tasks: JoinSet<()>,
    /// We have said GOAWAY.
    leaving: bool,
}

type Accepted = (http::Request<h2::RecvStream>, SendResponse<Bytes>);

impl<T: Transport, S: Service> Serving<T, S> {
    fn begin_idle(&self) {
        self.watch.idle.set(true);
        self.watch.read_by.set(self.worker.watches.clock.after(self.worker.settings.timeouts.idle));
    }

    /// Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.watch.set_task(cx);
        if self.worker.draining.get() && !self.leaving {
            self.leave();
        }
        let mut batch = Vec::new();
        loop {
            let ended = self.poll_accept(cx, &mut batch);
            let busy = !batch.is_empty();
            if busy {
                self.watch.idle.set(false);
                self.watch.read_by.set(NEVER);
            }
            for (request, respond) in batch.drain(..) {
                self.begin(request, respond, cx);
            }
            if ended {
                return Poll::Ready(());
            }
            if busy {
                continue;
            }
            match self.wire.poll_drain(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(false)) | Poll::Pending => break,
            }
        }
        while let Poll::Ready(Some(ended)) = self.tasks.poll_join_next(cx) {
            note(&self.worker, ended);
        }
        let now = self.worker.watches.clock.now_ms();
        if self.watch.write_by.get() <= now {
            self.worker.metrics.protocol_error("response not taken");
            return Poll::Ready(());
        }
        let silent = self.tasks.is_empty() && !self.connection.has_streams();
        if silent && self.watch.read_by.get() == NEVER {
            self.begin_idle();
        } else if silent && self.watch.read_by.get() <= now {
            if self.leaving {
                return Poll::Ready(());
            }
            self.leave();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Says GOAWAY; requests that are on their way are still answered.
    fn leave(&mut self) {
        self.leaving = true;
        self.connection.graceful_shutdown();
        if self.watch.read_by.get() != NEVER {
            let soon = self.worker.settings.timeouts.drain_idle;
            self.watch.read_by.set(self.worker.watches.clock.after(soon));
        }
    }

    /// Takes all requests that are there, before any of them is answered, so that the answers leave together.
    fn poll_accept(&mut self, cx: &mut Context<'_>, batch: &mut Vec<Accepted>) -> bool {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok(accepted))) => batch.push(accepted),
                Poll::Ready(Some(Err(error))) => {
                    if !error.is_io() {
                        self.worker.metrics.protocol_error("h2 protocol error");
                    }
                    tracing::debug!(%error, "an h2 connection broke");
                    return true;
                }
                Poll::Ready(None) => return true,
                Poll::Pending => return false,
            }
        }
    }

    /// Answers a request here if that needs no waiting, and otherwise in a task.
    fn begin(
        &mut self,
        request: http::Request<h2::RecvStream>,
        respond: SendResponse<Bytes>,
        cx: &mut Context<'_>,
    ) {
        let answer = stream::answer(
            request,
            respond,
            self.peer.clone(),
            Rc::clone(&self.worker),
            Rc::clone(&self.watch),
            Rc::clone(&self.service),
        );
        let mut answer: Pin<Box<dyn Future<Output = ()>>> = Box::pin(answer);
        if answer.as_mut().poll(cx).is_pending() {
            self.tasks.spawn_local(answer);
        }
    }
}
