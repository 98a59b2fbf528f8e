//! What is asked of a coordinator: comparisons, operations, transactions; and what comes back.

use std::fmt;

use serde::de::DeserializeOwned;

/// A moment of the store: each change raises it by one, and it never goes back. An empty store has revision 1.
pub type Revision = i64;

/// The name of a lease. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// A key with its value and its past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// When the key was made; a key that was deleted and put again is made anew.
    pub create_revision: Revision,
    /// When the key was last put.
    pub mod_revision: Revision,
    /// How often it was put since it was made: 1 for a new key.
    pub version: i64,
    /// The lease that it ends with.
    pub lease: Option<LeaseId>,
}

impl KeyValue {
    /// The value, read as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.value)
    }
}

/// How a key relates to the operand of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// The key's is greater.
    Greater,
    /// The key's is less.
    Less,
}

/// What of a key is compared, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// How often it was put; 0 for a key that is absent.
    Version(i64),
    /// When it was made; 0 for a key that is absent.
    CreateRevision(Revision),
    /// When it was last put; 0 for a key that is absent.
    ModRevision(Revision),
    /// Its value. False for a key that is absent, whatever the relation.
    Value(Vec<u8>),
    /// Its lease.
    Lease(LeaseId),
}

/// One comparison of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// How the key relates to the operand.
    pub relation: Relation,
    /// With what it is compared.
    pub operand: Operand,
}

impl Compare {
    /// A comparison with any relation.
    pub fn new(key: impl Into<String>, relation: Relation, operand: Operand) -> Self {
        Self { key: key.into(), relation, operand }
    }

    /// The key is not there.
    pub fn absent(key: impl Into<String>) -> Self {
        Self::new(key, Relation::Equal, Operand::Version(0))
    }

    /// The key is there.
    pub fn present(key: impl Into<String>) -> Self {
        Self::new(key, Relation::Greater, Operand::Version(0))
    }

    /// The key was put this often since it was made.
    pub fn version(key: impl Into<String>, version: i64) -> Self {
        Self::new(key, Relation::Equal, Operand::Version(version))
    }

    /// The key was last put at this revision: nobody changed it since it was read.
    pub fn mod_revision(key: impl Into<String>, revision: Revision) -> Self {
        Self::new(key, Relation::Equal, Operand::ModRevision(revision))
    }

    /// The key has this value.
    pub fn value(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::new(key, Relation::Equal, Operand::Value(value.into()))
    }

    /// The key is bound to this lease.
    pub fn lease(key: impl Into<String>, lease: LeaseId) -> Self {
        Self::new(key, Relation::Equal, Operand::Lease(lease))
    }
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key. Without a lease it stays until it is deleted, even if it had one before.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// The lease that it ends with.
        lease: Option<LeaseId>,
    },
    /// Deletes a key, if it is there.
    Delete {
        /// The key.
        key: String,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: String,
    },
}

impl Operation {
    /// Sets a key that ends with no lease.
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }

    /// Sets a key that ends with a lease.
    pub fn put_leased(key: impl Into<String>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    /// Deletes a key, if it is there.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// Reads a key.
    pub fn get(key: impl Into<String>) -> Self {
        Self::Get { key: key.into() }
    }
}

/// What one operation answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationResult {
    /// The key was set.
    Put,
    /// Whether there was a key to delete.
    Deleted(bool),
    /// The key, if it is there.
    Got(Option<KeyValue>),
}

/// Operations that are done together if every comparison holds, and not at all if one does not.
///
/// At most 128 operations a branch, and one key may be put only once: etcd's own bounds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Txn {
    pub(crate) compares: Vec<Compare>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) otherwise: Vec<Operation>,
}

impl Txn {
    /// A transaction that does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a comparison.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds an operation that is done if all comparisons hold.
    pub fn then(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// Adds an operation that is done if one comparison does not hold.
    pub fn otherwise(mut self, operation: Operation) -> Self {
        self.otherwise.push(operation);
        self
    }
}

/// A transaction whose comparisons held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The store's revision after it: the mod revision of what it put.
    pub revision: Revision,
    /// What its operations answered, in their order.
    pub results: Vec<OperationResult>,
}

/// Every key below a prefix, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The moment: a watch from the next revision on misses nothing.
    pub revision: Revision,
    /// The keys, in their order.
    pub keys: Vec<KeyValue>,
}

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When it happened. What one transaction changed has one revision.
    pub revision: Revision,
    /// What happened.
    pub change: Change,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was set.
    Put(KeyValue),
    /// It was deleted, or ended with its lease.
    Deleted {
        /// Which key.
        key: String,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match &self.change {
            Change::Put(kv) => &kv.key,
            Change::Deleted { key } => key,
        }
    }
}
