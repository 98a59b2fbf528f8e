//! Members and their upkeep.

use serde::{Deserialize, Serialize};

use super::{Header, Int64, Uint64, is_default};

/// A request that says nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Empty {}

/// `/v3/maintenance/status`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StatusResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) version: String,
    #[serde(rename = "dbSize", skip_serializing_if = "is_default")]
    pub(crate) db_size: Int64,
    #[serde(rename = "dbSizeInUse", skip_serializing_if = "is_default")]
    pub(crate) db_size_in_use: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) leader: Uint64,
    #[serde(rename = "raftIndex", skip_serializing_if = "is_default")]
    pub(crate) raft_index: Uint64,
    #[serde(rename = "raftAppliedIndex", skip_serializing_if = "is_default")]
    pub(crate) raft_applied_index: Uint64,
    #[serde(rename = "isLearner", skip_serializing_if = "is_default")]
    pub(crate) is_learner: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) errors: Vec<String>,
}

/// `/v3/maintenance/alarm`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AlarmRequest {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) action: String,
    #[serde(rename = "memberID", skip_serializing_if = "is_default")]
    pub(crate) member_id: Uint64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) alarm: String,
}

/// The alarms that are raised.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AlarmResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) alarms: Vec<AlarmEntry>,
}

/// One alarm; without a kind it is none.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AlarmEntry {
    #[serde(rename = "memberID", skip_serializing_if = "is_default")]
    pub(crate) member_id: Uint64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) alarm: String,
}

/// A member of the cluster.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MemberInfo {
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub(crate) id: Uint64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) name: String,
    #[serde(rename = "peerURLs", skip_serializing_if = "is_default")]
    pub(crate) peer_urls: Vec<String>,
    #[serde(rename = "clientURLs", skip_serializing_if = "is_default")]
    pub(crate) client_urls: Vec<String>,
    #[serde(rename = "isLearner", skip_serializing_if = "is_default")]
    pub(crate) is_learner: bool,
}

/// `/v3/cluster/member/list`, and the answer to an addition or a removal.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MemberListResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) member: Option<MemberInfo>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) members: Vec<MemberInfo>,
}

/// `/v3/cluster/member/add`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MemberAddRequest {
    #[serde(rename = "peerURLs", skip_serializing_if = "is_default")]
    pub(crate) peer_urls: Vec<String>,
}

/// `/v3/cluster/member/remove`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MemberRemoveRequest {
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub(crate) id: Uint64,
}
