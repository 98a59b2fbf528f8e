//! A request's way to upstreams and back: what it holds until its response is complete, and what is told of it.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use mainstay_http::{Body, BodyError, BodyStream};

use crate::admission::Admitted;
use crate::flight::Flight;

/// A way to upstreams.
pub(crate) struct Trip {
    pub(crate) started: Instant,
    /// When all of it must be done.
    pub(crate) deadline: Option<Instant>,
    /// The client came by TLS.
    pub(crate) secure: bool,
    pub(crate) journey: Journey,
    /// Held until the response is complete.
    pub(crate) flight: Option<Flight>,
    pub(crate) admitted: Option<Admitted>,
}

/// What is told of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journey {
    /// The name of the upstream that answered, or was asked last.
    pub(crate) upstream: Option<Rc<str>>,
    pub(crate) upstream_time: Option<Duration>,
    pub(crate) tries: u32,
    pub(crate) queued: Option<Duration>,
    /// Why it was turned away.
    pub(crate) refused: Option<&'static str>,
}

impl Trip {
    pub(crate) fn new(started: Instant, secure: bool) -> Self {
        Self { started, deadline: None, secure, journey: Journey::default(), flight: None, admitted: None }
    }

    /// It ends now: what is dropped with it need not read the clock again.
    pub(crate) fn ends(&mut self, now: Instant) {
        if let Some(flight) = &mut self.flight {
            flight.ends = Some(now);
        }
        if let Some(admitted) = &mut self.admitted {
            admitted.ends = Some(now);
        }
    }

    /// The response's body broke off.
    pub(crate) fn broke(&mut self, error: &BodyError) {
        if let Some(flight) = &mut self.flight {
            flight.broke(error, Instant::now());
        }
    }

    /// Goes along with a body until its end, where the body has a life of its own.
    pub(crate) fn carry(self, body: Body) -> Body {
        match body {
            Body::Stream(stream) => Body::Stream(Box::new(Carried { stream, trip: self })),
            Body::Upgrade(task) => Body::Upgrade(Box::new(move |io| {
                Box::pin(async move {
                    task(io).await;
                    drop(self);
                })
            })),
            body => body,
        }
    }
}

struct Carried {
    stream: Box<dyn BodyStream>,
    trip: Trip,
}

impl BodyStream for Carried {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let polled = self.stream.poll_data(cx);
        if let Poll::Ready(Some(Err(error))) = &polled {
            self.trip.broke(error);
        }
        polled
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        self.stream.trailers()
    }

    fn remaining(&self) -> Option<u64> {
        self.stream.remaining()
    }
}
