//! Sends requests to one php-fpm, with the retries that are safe.

use std::future::poll_fn;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use mainstay_http::{Body, BodyStream};

use super::exchange::{Broken, Exchange, ResponseBody, Uploading};
use super::head::ResponseHead;
use super::pool::{NoConnection, Permits, Pool};
use super::record::{put_begin, put_stdin};

/// One worker's way to one php-fpm.
pub(crate) struct Client {
    pool: Rc<Pool>,
    /// Until the response's head.
    timeout: Duration,
}

/// A request as FastCGI has it.
pub(crate) struct FastCgiRequest {
    /// Parameters, encoded.
    pub(crate) params: Vec<u8>,
    /// The part of the body that was read already; all of it, without an upload.
    pub(crate) body: Vec<u8>,
    /// The rest, sent as it comes.
    pub(crate) upload: Option<Box<dyn BodyStream>>,
    /// Whether it may be worked on twice without harm (GET, HEAD).
    pub(crate) is_safe: bool,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    NoConnection(#[from] NoConnection),
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("the app sent no response within {0:?}")]
    TimedOut(Duration),
}

impl Failure {
    /// The status that the client gets.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NoConnection(_) | Self::Broken(Broken::Refused) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken(Broken::RequestBody(error)) => error.status(),
            Self::Broken(_) => StatusCode::BAD_GATEWAY,
            Self::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// In metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoConnection(NoConnection::Busy) => "queue_full",
            Self::NoConnection(NoConnection::WaitTimedOut(_)) => "queue_timeout",
            Self::NoConnection(NoConnection::Refused(_)) => "connect",
            Self::Broken(Broken::Refused) => "refused",
            Self::Broken(Broken::RequestBody(_)) => "request_body",
            Self::Broken(Broken::Closed { .. } | Broken::Truncated) => "closed",
            Self::Broken(Broken::Record(_) | Broken::Head(_)) => "malformed",
            Self::TimedOut(_) => "timeout",
        }
    }
}

impl Client {
    pub(crate) fn new(socket: PathBuf, permits: Arc<Permits>, timeout: Duration) -> Self {
        Self { pool: Pool::new(socket, permits), timeout }
    }

    /// Keeps no idle connections any longer, so that another process of this role can have them.
    pub(crate) fn close_idle(&self) {
        self.pool.close_idle();
    }

    /// The response as soon as its head is there; small ones with their whole body.
    ///
    /// A request is sent a second time if its body is still at hand and either nothing of it was sent (a kept
    /// connection was closed) or it is safe and no byte of a response came.
    pub(crate) async fn send(&self, request: FastCgiRequest) -> Result<(ResponseHead, Body), Failure> {
        let FastCgiRequest { params, body, mut upload, is_safe } = request;
        let mut output = Vec::with_capacity(params.len() + body.len() + 64);
        put_begin(&mut output, &params);
        if !body.is_empty() {
            put_stdin(&mut output, &body);
        }
        if upload.is_none() {
            put_stdin(&mut output, b"");
        }
        let mut may_retry = upload.is_none();
        loop {
            let connection = self.pool.connection(self.timeout).await?;
            let mut exchange = Exchange::new(connection, output);
            let mut first = BytesMut::new();
            let head = poll_fn(|cx| exchange.poll_head(cx, &mut upload, &mut first));
            match tokio::time::timeout(self.timeout, head).await {
                Ok(Ok(head)) => return Ok((head, self.body(exchange, first, upload))),
                Ok(Err(Broken::Closed { sent }))
                    if may_retry && (is_safe || (exchange.is_reused() && !sent)) =>
                {
                    may_retry = false;
                    output = exchange.take_output();
                }
                Ok(Err(broken)) => {
                    exchange.finish(&self.pool, true);
                    return Err(broken.into());
                }
                Err(_) => {
                    exchange.finish(&self.pool, true);
                    return Err(Failure::TimedOut(self.timeout));
                }
            }
        }
    }

    fn body(&self, mut exchange: Exchange, mut first: BytesMut, upload: Uploading) -> Body {
        if matches!(exchange.take_rest(&mut first), Ok(true)) {
            exchange.finish(&self.pool, upload.is_some());
            return if first.is_empty() { Body::Empty } else { Body::Full(first.freeze()) };
        }
        Body::Stream(Box::new(ResponseBody::new(exchange, first.freeze(), upload, Rc::clone(&self.pool))))
    }
}
