//! Leases: granted, renewed, ended.

use std::time::{Duration, Instant};

use super::Client;
use super::answers;
use super::call::{Answered, Kind};
use crate::wire::{
    GrantRequest, GrantResponse, Int64, KeepAliveRequest, KeepAliveResponse, RevokeRequest, RevokeResponse,
    Streamed, TimeToLiveRequest, TimeToLiveResponse,
};
use crate::{Error, LeaseId};

/// A lease that was granted or renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// The lease.
    pub lease: LeaseId,
    /// The time to live that the server gave: what was asked for, or more.
    pub ttl: Duration,
    /// When the request was sent. The lease cannot end before this moment and the time to live have passed.
    pub sent: Instant,
}

/// What a lease has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// The time to live that it was granted with.
    pub granted: Duration,
    /// What of it is left. etcd says whole seconds, rounded down.
    pub left: Duration,
    /// The keys that end with it.
    pub keys: Vec<String>,
}

impl Client {
    /// A new lease. etcd counts in whole seconds, rounded up, and gives no less than 1.5 of its election timeouts; the
    /// embedded coordinator counts in milliseconds. Either way [`Granted::ttl`] is what was given.
    pub async fn grant(&self, ttl: Duration) -> Result<Granted, Error> {
        let begun = Instant::now();
        let lease = new_lease_id()?;
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1);
        let request = GrantRequest {
            ttl: Int64((ttl_ms / 1000 + i64::from(ttl_ms % 1000 != 0)).max(1)),
            id: Int64(lease.0),
            ttl_ms: Int64(ttl_ms),
        };
        // Repeatable, since the name is ours: a lease of that name can only be from an attempt whose answer was lost.
        let granted: Result<Answered<GrantResponse>, Error> =
            self.shared.call("/v3/lease/grant", &request, Kind::Repeatable, self.patience).await;
        match granted {
            // Counted from before the first attempt, for no one knows which of them the server did.
            Ok(Answered { answer, .. }) => {
                Ok(Granted { lease, ttl: duration(answer.ttl, answer.ttl_ms), sent: begun })
            }
            Err(Error::Rejected { why }) if why.contains("lease already exists") => {
                let state = self.lease(lease).await?.ok_or(Error::LeaseGone { lease })?;
                Ok(Granted { lease, ttl: state.granted, sent: begun })
            }
            Err(error) => Err(error),
        }
    }

    /// Renews a lease to its full time to live. [`Error::LeaseGone`] if it has ended; any other error says that it was not
    /// renewed as far as anyone knows.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<Granted, Error> {
        let request = KeepAliveRequest { id: Int64(lease.0) };
        let answered: Answered<Streamed<KeepAliveResponse>> =
            self.shared.call("/v3/lease/keepalive", &request, Kind::Repeatable, self.patience).await?;
        match answered.answer {
            Streamed { result: Some(result), .. } if result.ttl.0 > 0 => {
                Ok(Granted { lease, ttl: duration(result.ttl, result.ttl_ms), sent: answered.sent })
            }
            Streamed { result: Some(_), .. } => Err(Error::LeaseGone { lease }),
            Streamed { error, .. } => Err(Error::Uncertain {
                why: error.map_or_else(|| "an empty answer".to_owned(), |error| error.message),
            }),
        }
    }

    /// Ends a lease, and with it its keys. That it has ended already is no error.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let request = RevokeRequest { id: Int64(lease.0) };
        let revoked: Result<Answered<RevokeResponse>, Error> =
            self.shared.call("/v3/lease/revoke", &request, Kind::Repeatable, self.patience).await;
        match revoked {
            Ok(_) | Err(Error::LeaseGone { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What a lease has left, or nothing if it has ended.
    pub async fn lease(&self, lease: LeaseId) -> Result<Option<LeaseState>, Error> {
        let request = TimeToLiveRequest { id: Int64(lease.0), keys: true };
        let answer: TimeToLiveResponse = match self.read("/v3/lease/timetolive", &request).await {
            Ok(answer) => answer,
            Err(Error::LeaseGone { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if answer.ttl.0 < 0 {
            return Ok(None);
        }
        Ok(Some(LeaseState {
            granted: duration(answer.granted_ttl, answer.granted_ttl_ms),
            left: duration(answer.ttl, answer.ttl_ms),
            keys: answer.keys.into_iter().map(answers::text).collect::<Result<_, _>>()?,
        }))
    }
}

/// The time to live: ours in milliseconds, or etcd's in seconds.
fn duration(seconds: Int64, millis: Int64) -> Duration {
    if millis.0 > 0 {
        Duration::from_millis(millis.0.unsigned_abs())
    } else {
        Duration::from_secs(seconds.0.max(0).unsigned_abs())
    }
}

/// A name for a lease that nobody else uses.
fn new_lease_id() -> Result<LeaseId, Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::Unavailable { why: format!("no random number: {error}") })?;
    Ok(LeaseId((i64::from_le_bytes(bytes) & i64::MAX).max(1)))
}
