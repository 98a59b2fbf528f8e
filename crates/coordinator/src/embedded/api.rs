//! What a stranger sends, as what the machine understands: path and body in, request or failure out. No I/O.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::{
    Base64, CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, Empty, Failure,
    GrantRequest, GrantResponse, Header, KeepAliveRequest, KeepAliveResponse, LeasesResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RevokeRequest, RevokeResponse, StatusResponse,
    TimeToLiveRequest, TimeToLiveResponse, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest,
    WireEvent,
};

/// A request that one answer answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(GrantRequest),
    KeepAlive(KeepAliveRequest),
    Revoke(RevokeRequest),
    TimeToLive(TimeToLiveRequest),
    Leases,
    Status,
    /// What a watch asks for when something has changed; not on the wire.
    Events {
        key: Base64,
        range_end: Base64,
        from: i64,
    },
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Response {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    Grant(GrantResponse),
    /// A stream of one message on the wire.
    KeepAlive(KeepAliveResponse),
    Revoke(RevokeResponse),
    TimeToLive(TimeToLiveResponse),
    Leases(LeasesResponse),
    Status(StatusResponse),
    /// The changes, and the revision to ask from next.
    Events {
        header: Header,
        events: Vec<WireEvent>,
        next: i64,
    },
    /// What was asked for is no longer there.
    Compacted {
        header: Header,
        compacted: i64,
    },
}

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    Request(Request),
    Watch(WatchCreateRequest),
}

/// Reads a request.
pub(crate) fn read(path: &str, body: &[u8]) -> Result<Incoming, Failure> {
    let request = match path {
        "/v3/kv/range" => Request::Range(parse(body)?),
        "/v3/kv/put" => Request::Put(parse(body)?),
        "/v3/kv/deleterange" => Request::DeleteRange(parse(body)?),
        "/v3/kv/txn" => Request::Txn(parse(body)?),
        "/v3/kv/compaction" => Request::Compact(parse(body)?),
        "/v3/lease/grant" => Request::Grant(parse(body)?),
        "/v3/lease/keepalive" => Request::KeepAlive(parse(body)?),
        "/v3/lease/revoke" | "/v3/kv/lease/revoke" => Request::Revoke(parse(body)?),
        "/v3/lease/timetolive" | "/v3/kv/lease/timetolive" => Request::TimeToLive(parse(body)?),
        "/v3/lease/leases" | "/v3/kv/lease/leases" => {
            let Empty {} = parse(body)?;
            Request::Leases
        }
        "/v3/maintenance/status" => {
            let Empty {} = parse(body)?;
            Request::Status
        }
        "/v3/watch" => {
            let WatchRequest { create_request } = parse(body)?;
            return Ok(Incoming::Watch(create_request));
        }
        _ => return Err(failure(12, format!("the embedded coordinator has no {path}"))),
    };
    Ok(Incoming::Request(request))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| failure(3, error.to_string()))
}

/// An error with the code of gRPC.
pub(crate) fn failure(code: i32, why: impl Into<String>) -> Failure {
    let why = why.into();
    Failure { error: why.clone(), message: why, code }
}

/// The status that the gateway of etcd 3.4 gives a code.
pub(crate) fn status(code: i32) -> u16 {
    match code {
        3 | 11 => 400,
        5 => 404,
        8 => 429,
        9 => 412,
        12 => 501,
        14 => 503,
        _ => 500,
    }
}

impl Response {
    /// The answer's body.
    pub(crate) fn body(&self) -> Vec<u8> {
        match self {
            Self::Range(answer) => json(answer),
            Self::Put(answer) => json(answer),
            Self::DeleteRange(answer) => json(answer),
            Self::Txn(answer) => json(answer),
            Self::Compact(answer) => json(answer),
            Self::Grant(answer) => json(answer),
            Self::KeepAlive(answer) => line(answer),
            Self::Revoke(answer) => json(answer),
            Self::TimeToLive(answer) => json(answer),
            Self::Leases(answer) => json(answer),
            Self::Status(answer) => json(answer),
            Self::Events { .. } | Self::Compacted { .. } => Vec::new(),
        }
    }
}

/// A message of a stream.
pub(crate) fn line(result: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Message<'a, T> {
        result: &'a T,
    }
    let mut line = json(&Message { result });
    line.push(b'\n');
    line
}

pub(crate) fn json(answer: &impl Serialize) -> Vec<u8> {
    // Our own structs have neither maps with keys that are no text nor a serializer that fails.
    serde_json::to_vec(answer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_done_otherwise_than_asked_is_refused() {
        for (path, body) in [
            ("/v3/kv/range", r#"{"key":"YQ==","revision":"3"}"#),
            ("/v3/kv/range", r#"{"key":"YQ==","sort_order":"DESCEND"}"#),
            ("/v3/kv/put", r#"{"key":"YQ==","prev_kv":true}"#),
            ("/v3/watch", r#"{"create_request":{"key":"YQ==","filters":["NOPUT"]}}"#),
            ("/v3/kv/put", r#"{"key":"not base64!"}"#),
            ("/v3/kv/put", r#"{"key":"YQ==","lease":"9223372036854775808"}"#),
            ("/v3/kv/put", "[]x"),
            ("/v3/kv/put", ""),
            ("/v3/nothing", "{}"),
        ] {
            assert!(read(path, body.as_bytes()).is_err(), "{path} {body}");
        }
    }

    #[test]
    fn numbers_may_be_text_or_not() {
        for body in [r#"{"TTL":"5","ID":"7"}"#, r#"{"TTL":5,"ID":7}"#] {
            let Ok(Incoming::Request(Request::Grant(grant))) = read("/v3/lease/grant", body.as_bytes())
            else {
                panic!("{body}");
            };
            assert_eq!((grant.ttl.0, grant.id.0), (5, 7));
        }
    }
}
