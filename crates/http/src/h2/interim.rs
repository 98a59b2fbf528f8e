//! The responding half of an h2 stream, shared by the engine and whoever sends interim responses.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, StatusCode, Version};
use std::task::{Context, Poll};

use crate::h1::respond::hop_by_hop;
use crate::interim::{InterimWay, MOST_INTERIM};

/// What a request is answered through.
pub(super) struct Responder {
    send: RefCell<SendResponse<Bytes>>,
    /// The client waits for 100 before it sends the body.
    awaits_continue: Cell<bool>,
    interim_left: Cell<usize>,
}

impl Responder {
    pub(super) fn new(send: SendResponse<Bytes>, awaits_continue: bool) -> Self {
        let interim_left = Cell::new(MOST_INTERIM);
        Self { send: RefCell::new(send), awaits_continue: Cell::new(awaits_continue), interim_left }
    }

    /// Begins the final response; no interim one can follow.
    pub(super) fn respond(
        &self,
        head: http::Response<()>,
        is_whole: bool,
    ) -> Result<SendStream<Bytes>, h2::Error> {
        self.interim_left.set(0);
        self.awaits_continue.set(false);
        self.send.borrow_mut().send_response(head, is_whole)
    }

    pub(super) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        self.send.borrow_mut().poll_reset(cx)
    }

    /// Lets a client that waits for it send its body.
    pub(super) fn send_continue(&self) {
        if self.awaits_continue.get() {
            self.send_interim(0, StatusCode::CONTINUE, &HeaderMap::new());
        }
    }
}

impl InterimWay for Responder {
    fn send_interim(&self, _request: u64, status: StatusCode, headers: &HeaderMap) {
        let Some(left) = self.interim_left.get().checked_sub(1) else { return };
        if status == StatusCode::CONTINUE && !self.awaits_continue.replace(false) {
            return;
        }
        self.interim_left.set(left);
        let mut head = http::Response::new(());
        *head.status_mut() = status;
        *head.version_mut() = Version::HTTP_2;
        for (name, value) in headers {
            if !hop_by_hop(name) {
                head.headers_mut().append(name, value.clone());
            }
        }
        // If the client is gone, whoever works on the final response learns of it.
        let _ = self.send.borrow_mut().send_informational(head);
    }
}
