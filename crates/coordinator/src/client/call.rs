//! One request, tried at one endpoint after the other until one answers or the deadline is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::time::timeout_at;

use super::connection::{Broken, Target, Times};
use super::verdict::{Verdict, verdict};
use crate::wire::{BODY_MOST_BYTES, Failure, Streamed};
use crate::{Endpoint, Error};

/// The largest answer that is read: a list of all that a store may hold, in base64.
const ANSWER_MOST_BYTES: usize = 64 << 20;

/// With less time left another attempt could only make uncertain what is certain.
const ATTEMPT_LEAST: Duration = Duration::from_millis(50);

/// The wait after every endpoint was tried once, so that an election is not met with a flood.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

/// What a request that was sent, and not answered, means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It changes nothing.
    Read,
    /// It changes something, and asking twice does no more than asking once.
    Repeatable,
    /// It must not be sent twice.
    Once,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
    pub(crate) deadline: Duration,
}

/// An answer, and when the request that it answers was sent.
pub(crate) struct Answered<T> {
    pub(crate) answer: T,
    pub(crate) sent: Instant,
}

pub(crate) struct Shared {
    pub(super) targets: Vec<Target>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// The endpoint that answered last, where the next request begins.
    preferred: AtomicUsize,
}

impl Shared {
    pub(super) fn new(endpoints: Vec<Endpoint>, tls: Option<Arc<ClientConfig>>) -> Self {
        let targets = endpoints.into_iter().map(Target::new).collect();
        Self { targets, tls, preferred: AtomicUsize::new(0) }
    }

    /// The place in the list of the endpoint to begin with.
    pub(super) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed) % self.targets.len()
    }

    pub(super) fn prefer(&self, place: usize) {
        self.preferred.store(place, Ordering::Relaxed);
    }

    /// Asks one endpoint after the other.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        message: &impl Serialize,
        kind: Kind,
        patience: Patience,
    ) -> Result<Answered<T>, Error> {
        let body = body(message)?;
        let end = Instant::now() + patience.deadline;
        let mut place = self.preferred();
        let mut tried = 0_usize;
        let mut uncertain = false;
        let mut last = String::from("the deadline was over before the first attempt");
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || (tried > 0 && left < ATTEMPT_LEAST) {
                let why = format!("{last} (after {:?})", patience.deadline);
                return Err(if uncertain { Error::Uncertain { why } } else { Error::Unavailable { why } });
            }
            let target = &self.targets[place];
            let sent = Instant::now();
            // What must not be sent twice waits for its answer as long as it may.
            let answer = if kind == Kind::Once { left } else { left.min(patience.answer) };
            let times = Times { connect: left.min(patience.connect), answer, end: end.into() };
            let outcome = exchange(target, self.tls.as_ref(), path, body.clone(), times).await;
            let (why, sent_at_all) = match outcome {
                Verdict::Done(bytes) => match serde_json::from_slice(&bytes) {
                    Ok(answer) => {
                        self.prefer(place);
                        return Ok(Answered { answer, sent });
                    }
                    Err(error) => (format!("an answer that cannot be read: {error}"), true),
                },
                Verdict::Refused(error) => {
                    self.prefer(place);
                    return Err(error);
                }
                Verdict::NotDone(why) => (why, false),
                Verdict::Unknown(why) => {
                    target.forget();
                    (why, true)
                }
            };
            last = format!("{}: {why}", target.endpoint);
            tracing::debug!(endpoint = %target.endpoint, path, why, "a coordinator did not answer a request");
            if sent_at_all && kind != Kind::Read {
                uncertain = true;
                if kind == Kind::Once {
                    return Err(Error::Uncertain { why: last });
                }
            }
            place = (place + 1) % self.targets.len();
            tried += 1;
            if tried.is_multiple_of(self.targets.len()) {
                let pause = ROUND_PAUSE.min(end.saturating_duration_since(Instant::now()));
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Asks exactly one endpoint, once.
    pub(crate) async fn call_at<T: DeserializeOwned>(
        &self,
        place: usize,
        path: &str,
        message: &impl Serialize,
        patience: Patience,
    ) -> Result<T, Error> {
        let target = &self.targets[place];
        let end = Instant::now() + patience.deadline;
        let times = Times { connect: patience.connect, answer: patience.deadline, end: end.into() };
        let why = match exchange(target, self.tls.as_ref(), path, body(message)?, times).await {
            Verdict::Done(bytes) => match serde_json::from_slice(&bytes) {
                Ok(answer) => return Ok(answer),
                Err(error) => format!("an answer that cannot be read: {error}"),
            },
            Verdict::Refused(error) => return Err(error),
            Verdict::NotDone(why) => {
                return Err(Error::Unavailable { why: format!("{}: {why}", target.endpoint) });
            }
            Verdict::Unknown(why) => why,
        };
        target.forget();
        Err(Error::Uncertain { why: format!("{}: {why}", target.endpoint) })
    }
}

fn body(message: &impl Serialize) -> Result<Bytes, Error> {
    match serde_json::to_vec(message) {
        Ok(body) if body.len() <= BODY_MOST_BYTES => Ok(Bytes::from(body)),
        Ok(body) => Err(Error::Rejected {
            why: format!("a request of {} bytes: {BODY_MOST_BYTES} at most", body.len()),
        }),
        Err(error) => Err(Error::Rejected { why: error.to_string() }),
    }
}

/// The request as the gateway wants it.
pub(super) fn request(
    endpoint: &Endpoint,
    path: &str,
    body: Bytes,
    within: Option<Duration>,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let mut builder = Request::post(path)
        .header("host", endpoint.authority())
        .header("content-type", "application/json")
        // A member that lost its leader is to say so at once, not to wait for it.
        .header("grpc-metadata-hasleader", "true");
    if let Some(within) = within {
        builder = builder.header("grpc-timeout", format!("{}m", within.as_millis().max(1)));
    }
    builder.body(Full::new(body))
}

async fn exchange(
    target: &Target,
    tls: Option<&Arc<ClientConfig>>,
    path: &str,
    body: Bytes,
    times: Times,
) -> Verdict {
    let request = match request(&target.endpoint, path, body, Some(times.answer)) {
        Ok(request) => request,
        Err(error) => return Verdict::Refused(Error::Rejected { why: error.to_string() }),
    };
    let (sender, response) = match target.send(tls, times, request).await {
        Ok(sent) => sent,
        Err(Broken::NotSent(why)) => return Verdict::NotDone(why),
        Err(Broken::Sent(why)) => return Verdict::Unknown(why),
    };
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MOST_BYTES).collect();
    let body = match timeout_at(times.answer_by(), body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return Verdict::Unknown(format!("the answer broke off: {error}")),
        Err(_) => return Verdict::Unknown(times.silence()),
    };
    target.keep(sender);
    if status == StatusCode::OK {
        return Verdict::Done(body);
    }
    if let Ok(failure) = serde_json::from_slice::<Failure>(&body)
        && failure.code != 0
    {
        return verdict(
            failure.code,
            if failure.error.is_empty() { &failure.message } else { &failure.error },
        );
    }
    // A stream that fails before its first message words it so.
    if let Ok(Streamed { error: Some(failure), .. }) = serde_json::from_slice::<Streamed<IgnoredAny>>(&body) {
        return verdict(failure.grpc_code, &failure.message);
    }
    if status == StatusCode::NOT_FOUND {
        let why = format!("{} has no {path}: it is no etcd 3.4 or newer", target.endpoint);
        return Verdict::Refused(Error::Rejected { why });
    }
    Verdict::Unknown(format!("status {status} without a reason"))
}
