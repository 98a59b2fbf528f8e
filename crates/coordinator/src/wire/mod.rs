//! The messages of etcd's v3 API as its JSON gateway carries them: keys and values in base64, 64-bit numbers as
//! strings, fields that have their zero value left out. Field names and paths are etcd's own (`rpc.proto`).
//!
//! Requests refuse fields that they do not know, for a server that ignored one would do something else than it was asked.
//! Answers ignore them, so that a newer etcd may say more. One field is ours: `ttl_ms` beside `TTL`, which etcd ignores.

mod base64_bytes;
mod cluster;
mod kv;
mod lease;
mod numbers;
mod watch;

pub(crate) use base64_bytes::Base64;
pub(crate) use cluster::{
    AlarmRequest, AlarmResponse, Empty, MemberAddRequest, MemberListResponse, MemberRemoveRequest,
    StatusResponse,
};
pub(crate) use kv::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse, WireCompare,
    WireRelation, WireTarget,
};
pub(crate) use lease::{
    GrantRequest, GrantResponse, KeepAliveRequest, KeepAliveResponse, LeaseEntry, LeasesResponse,
    RevokeRequest, RevokeResponse, TimeToLiveRequest, TimeToLiveResponse,
};
pub(crate) use numbers::{Int64, Uint64};
pub(crate) use watch::{EventType, WatchCreateRequest, WatchRequest, WatchResponse, WireEvent};

use serde::{Deserialize, Serialize};

/// The largest request: about what etcd takes (1.5 MiB, in base64).
pub(crate) const BODY_MOST_BYTES: usize = 2 << 20;

/// Whether a field has the value that the gateway leaves out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What every answer says of the store that gave it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) cluster_id: Uint64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) member_id: Uint64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) revision: Int64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) raft_term: Uint64,
}

/// An error, with the code of gRPC.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    #[serde(default)]
    pub(crate) error: String,
    #[serde(default)]
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) code: i32,
}

/// One message of a streaming answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Streamed<T> {
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<StreamFailure>,
}

/// The error that ends a streaming answer. The gateway words it otherwise than the error of a plain answer.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamFailure {
    #[serde(default)]
    pub(crate) grpc_code: i32,
    #[serde(default)]
    pub(crate) http_code: i32,
    #[serde(default)]
    pub(crate) message: String,
}
