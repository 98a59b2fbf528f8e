//! Watches.

use serde::{Deserialize, Serialize};

use super::{Base64, Header, Int64, KeyValue, is_default};

/// `/v3/watch`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WatchRequest {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) create_request: WatchCreateRequest,
}

/// What is watched, and from which revision.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WatchCreateRequest {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) key: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) range_end: Base64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) start_revision: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) progress_notify: bool,
}

/// One message of a watch.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WatchResponse {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) header: Header,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) watch_id: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) created: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) canceled: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) compact_revision: Int64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) cancel_reason: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) events: Vec<WireEvent>,
}

/// One change.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WireEvent {
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub(crate) kind: EventType,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) kv: KeyValue,
}

/// What happened to a key.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum EventType {
    #[default]
    Put,
    Delete,
}
