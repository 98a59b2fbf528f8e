//! Leases. etcd counts in whole seconds; `ttl_ms` is ours.

use serde::{Deserialize, Serialize};

use super::{Base64, Header, Int64, is_default};

/// `/v3/lease/grant`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GrantRequest {
    #[serde(rename = "TTL", skip_serializing_if = "is_default")]
    pub(crate) ttl: Int64,
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub(crate) id: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) ttl_ms: Int64,
}

/// A lease that was granted.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GrantResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub(crate) id: Int64,
    #[serde(rename = "TTL", skip_serializing_if = "is_default")]
    pub(crate) ttl: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) ttl_ms: Int64,
}

/// `/v3/lease/revoke`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RevokeRequest {
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub(crate) id: Int64,
}

/// The answer to a revocation.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RevokeResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
}

/// `/v3/lease/keepalive`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KeepAliveRequest {
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub(crate) id: Int64,
}

/// A lease that was renewed; one that is gone has no `TTL`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct KeepAliveResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub(crate) id: Int64,
    #[serde(rename = "TTL", skip_serializing_if = "is_default")]
    pub(crate) ttl: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) ttl_ms: Int64,
}

/// `/v3/lease/timetolive`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TimeToLiveRequest {
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub(crate) id: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) keys: bool,
}

/// What a lease has left; -1 seconds where it is gone.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TimeToLiveResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub(crate) id: Int64,
    #[serde(rename = "TTL", skip_serializing_if = "is_default")]
    pub(crate) ttl: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) ttl_ms: Int64,
    #[serde(rename = "grantedTTL", skip_serializing_if = "is_default")]
    pub(crate) granted_ttl: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) granted_ttl_ms: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) keys: Vec<Base64>,
}

/// One lease of the list.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LeaseEntry {
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub(crate) id: Int64,
}

/// `/v3/lease/leases`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LeasesResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) leases: Vec<LeaseEntry>,
}
