//! Keys, values and transactions.

use serde::{Deserialize, Serialize};

use super::{Base64, Header, Int64, is_default};

/// A key with its value.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct KeyValue {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) key: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) create_revision: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) mod_revision: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) version: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) value: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) lease: Int64,
}

/// `/v3/kv/range`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RangeRequest {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) key: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) range_end: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) limit: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) serializable: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) keys_only: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) count_only: bool,
}

/// What a range holds.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RangeResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) kvs: Vec<KeyValue>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) more: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) count: Int64,
}

/// `/v3/kv/put`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PutRequest {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) key: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) value: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) lease: Int64,
}

/// The answer to a put.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PutResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
}

/// `/v3/kv/deleterange`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DeleteRangeRequest {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) key: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) range_end: Base64,
}

/// How many keys a deletion found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DeleteRangeResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) deleted: Int64,
}

#[expect(clippy::struct_field_names, reason = "the names are the wire's")]
/// One operation of a transaction: exactly one field is there.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RequestOp {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) request_range: Option<RangeRequest>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) request_put: Option<PutRequest>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) request_delete_range: Option<DeleteRangeRequest>,
}

#[expect(clippy::struct_field_names, reason = "the names are the wire's")]
/// The answer to one operation of a transaction.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ResponseOp {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) response_range: Option<RangeResponse>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) response_put: Option<PutResponse>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) response_delete_range: Option<DeleteRangeResponse>,
}

/// One comparison of a transaction. The field that `target` names is what is compared with; without it, zero.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WireCompare {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) result: WireRelation,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) target: WireTarget,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) key: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) version: Option<Int64>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) create_revision: Option<Int64>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) mod_revision: Option<Int64>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) value: Option<Base64>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) lease: Option<Int64>,
}

/// `/v3/kv/txn`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TxnRequest {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) compare: Vec<WireCompare>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) success: Vec<RequestOp>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) failure: Vec<RequestOp>,
}

/// Which branch of a transaction ran, and what its operations answered.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TxnResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) succeeded: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) responses: Vec<ResponseOp>,
}

/// `/v3/kv/compaction`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CompactionRequest {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) revision: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) physical: bool,
}

/// The answer to a compaction.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CompactionResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
}

/// How a comparison relates the key to its operand.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum WireRelation {
    #[default]
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// What of a key is compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum WireTarget {
    #[default]
    Version,
    Create,
    Mod,
    Value,
    Lease,
}
