//! Which requests go where, and what is changed of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ByteSize;
use crate::plan::HostPattern;

/// Which requests go where, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdgeRoute {
    /// Its name, in metrics and logs.
    pub name: String,
    /// What a request must be like.
    pub condition: RouteCondition,
    /// What becomes of it.
    pub action: RouteAction,
    /// Edits of the request's fields on the way to the upstream.
    pub request_fields: FieldEdits,
    /// Edits of the response's fields on the way to the client.
    pub response_fields: FieldEdits,
    /// The largest request body, where the route has a limit of its own.
    pub body: Option<ByteSize>,
    /// From the request's head to the end of the response; 0: no limit.
    pub timeout_ms: u64,
    /// Names of rate limits that requests must pass.
    pub rates: Vec<String>,
    /// Requests of this route worked on at once; 0: no limit.
    pub concurrent: u32,
    /// Whether responses may be kept in the cache, where there is one.
    pub cache: bool,
    /// Whether clients that showed no certificate are refused.
    #[serde(default)]
    pub client_certificate: bool,
}

/// What a request must be like; all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteCondition {
    /// One of these hosts; empty: every host.
    pub hosts: Vec<HostPattern>,
    /// The path, decoded and normalised.
    pub path: PathCondition,
    /// One of these methods; empty: every method.
    pub methods: Vec<String>,
    /// All of these fields.
    pub fields: Vec<FieldCondition>,
    /// All of these parameters of the query: name, and value if a certain one is wanted.
    pub query: Vec<(String, Option<String>)>,
    /// The client is in one of these networks; empty: everywhere.
    pub clients: Vec<String>,
}

/// What a path must be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathCondition {
    /// Equal to it, or below it (`/shop` takes `/shop` and `/shop/cart`, not `/shopping`). `/` takes all.
    Prefix(String),
    /// Equal to it.
    Exact(String),
    /// Ends with it, such as `.php`.
    Suffix(String),
}

impl Default for PathCondition {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

/// What a field must be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldCondition {
    /// The field's name, in lower case.
    pub name: String,
    /// What one of its values must be; without it, the field must be there.
    pub value: Option<FieldValue>,
}

/// What a field's value must be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldValue {
    /// Equal to it.
    Exact(String),
    /// Begins with it.
    Prefix(String),
    /// Contains it.
    Contains(String),
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RouteAction {
    /// To a group; with several, by their weights, a client's sticky cookie first.
    Forward {
        /// Names of groups with their weights.
        groups: Vec<(String, u32)>,
        /// How the path changes on the way.
        rewrite: Option<Rewrite>,
        /// The `Host` that the upstream sees; without it, the client's.
        host: Option<String>,
    },
    /// A redirect to `to`; a final `*` in it is replaced by the path and query that follow the route's prefix.
    Redirect {
        /// The new location.
        to: String,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// A fixed answer.
    Respond {
        /// The status.
        status: u16,
        /// The body, as `text/plain` unless a response field says otherwise.
        body: String,
    },
}

/// How a path changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rewrite {
    /// The condition's prefix is replaced by this one.
    Prefix(String),
    /// The whole path is replaced; the query stays.
    Path(String),
}

/// Edits of header fields, in this order: remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldEdits {
    /// Names of fields to remove.
    pub remove: Vec<String>,
    /// Fields whose values are replaced.
    pub set: BTreeMap<String, String>,
    /// Fields that get one more value.
    pub add: BTreeMap<String, String>,
}
