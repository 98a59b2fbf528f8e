//! What happened to a store, as its file keeps it. Each record is applied to the machine in the same way when it happens and
//! when the file is read again.

use serde::{Deserialize, Serialize};

use crate::wire::Base64;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Record {
    /// The first record of a file: where the store stood when the file was begun, and how many lines say what it held.
    Base { revision: i64, compacted: i64, lines: u64 },
    /// Part of the beginning: a key as it stood.
    Key { key: Base64, value: Base64, created: i64, modified: i64, version: i64, lease: i64 },
    /// Part of the beginning: a change that watches may still ask for.
    Past(Past),
    /// Keys were changed together.
    Write { revision: i64, changes: Vec<Change> },
    /// A lease was granted; in the beginning: there was one.
    Grant { lease: i64, ttl_ms: u64 },
    /// A lease ended, and with it its keys, at this revision if it had any.
    Revoke { lease: i64, revision: i64 },
    /// Changes up to this revision were forgotten.
    Compact { revision: i64 },
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Change {
    Put {
        key: Base64,
        value: Base64,
        #[serde(default, skip_serializing_if = "crate::wire::is_default")]
        lease: i64,
    },
    Delete {
        key: Base64,
    },
}

/// A change that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Past {
    pub(crate) revision: i64,
    pub(crate) key: Base64,
    /// What the key became; nothing if it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) put: Option<PastPut>,
}

/// What a key became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PastPut {
    pub(crate) value: Base64,
    pub(crate) created: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}
