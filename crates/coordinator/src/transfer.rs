//! Moving a site from one coordinator to another: copying what is below a prefix.
//!
//! Nobody may write meanwhile, for two coordinators would then both be followed. The caller sees to that (the site's roles are
//! paused, and begin again with the new address); here it is checked that nothing changed between the first look and the last.
//!
//! Keys that are bound to a lease are not copied: they say that somebody is alive, and that one says so again at the new place.
//! What was copied before is found and left, so a copy that broke off is simply begun again.

use std::collections::BTreeMap;

use crate::{Client, Compare, Error, KeyValue, Operation, Revision, Txn};

/// Keys in one transaction, so that with large values the request is still within what a server takes.
const KEYS_AT_ONCE: usize = 32;

/// Bytes of values in one transaction.
const BYTES_AT_ONCE: usize = 512 << 10;

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transferred {
    /// Keys that are at the new place now.
    pub copied: usize,
    /// Keys that were there already, with the same values.
    pub found: usize,
    /// Keys that were left, for they are bound to leases.
    pub leased: Vec<String>,
    /// The old store's revision that this is a copy of.
    pub revision: Revision,
}

/// Why a copy is not one.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// One of the two did not do its part.
    #[error("the {side} coordinator: {error}")]
    Coordinator {
        /// Which: `old` or `new`.
        side: &'static str,
        /// What it said.
        #[source]
        error: Error,
    },
    /// The new place has something else there.
    #[error(
        "the new coordinator has another value for {key} already. Delete what is below the prefix there, if it is not in use"
    )]
    Occupied {
        /// The key.
        key: String,
    },
    /// Somebody wrote to the old one meanwhile.
    #[error("{key} changed while it was copied. Stop or pause what uses the coordinator, and begin again")]
    Changed {
        /// The key.
        key: String,
    },
}

/// Copies every key below a prefix that is not bound to a lease, and checks the copy.
pub async fn transfer(old: &Client, new: &Client, prefix: &str) -> Result<Transferred, TransferError> {
    let at_old = |error| TransferError::Coordinator { side: "old", error };
    let at_new = |error| TransferError::Coordinator { side: "new", error };
    let listing = old.list(prefix).await.map_err(at_old)?;
    let (leased, lasting): (Vec<KeyValue>, Vec<KeyValue>) =
        listing.keys.into_iter().partition(|kv| kv.lease.is_some());
    let there: BTreeMap<String, Vec<u8>> =
        new.list(prefix).await.map_err(at_new)?.keys.into_iter().map(|kv| (kv.key, kv.value)).collect();
    let mut missing = Vec::new();
    for kv in &lasting {
        match there.get(&kv.key) {
            None => missing.push(kv),
            Some(value) if *value == kv.value => {}
            Some(_) => return Err(TransferError::Occupied { key: kv.key.clone() }),
        }
    }
    for group in groups(&missing) {
        let txn = group.iter().fold(Txn::new(), |txn, kv| {
            txn.when(Compare::absent(&kv.key)).then(Operation::put(&kv.key, kv.value.clone()))
        });
        match new.txn(&txn).await {
            Ok(_) => {}
            // What became of it shows in the check below.
            Err(Error::Uncertain { why }) => tracing::warn!(why, "part of the copy may not have arrived"),
            Err(Error::Refused(_)) => return Err(TransferError::Occupied { key: group[0].key.clone() }),
            Err(error) => return Err(at_new(error)),
        }
    }
    let copied: BTreeMap<String, Vec<u8>> =
        new.list(prefix).await.map_err(at_new)?.keys.into_iter().map(|kv| (kv.key, kv.value)).collect();
    if let Some(kv) = lasting.iter().find(|kv| copied.get(&kv.key) != Some(&kv.value)) {
        let why = format!("{} did not arrive as it was; begin again", kv.key);
        return Err(at_new(Error::Uncertain { why }));
    }
    let still: Vec<KeyValue> =
        old.list(prefix).await.map_err(at_old)?.keys.into_iter().filter(|kv| kv.lease.is_none()).collect();
    if let Some(key) = difference(&lasting, &still) {
        return Err(TransferError::Changed { key });
    }
    Ok(Transferred {
        copied: missing.len(),
        found: lasting.len() - missing.len(),
        leased: leased.into_iter().map(|kv| kv.key).collect(),
        revision: listing.revision,
    })
}

fn groups<'a>(keys: &[&'a KeyValue]) -> Vec<Vec<&'a KeyValue>> {
    let mut groups: Vec<Vec<&KeyValue>> = Vec::new();
    let mut bytes = 0;
    for kv in keys {
        bytes += kv.value.len();
        match groups.last_mut() {
            Some(group) if group.len() < KEYS_AT_ONCE && bytes <= BYTES_AT_ONCE => group.push(kv),
            _ => {
                groups.push(vec![kv]);
                bytes = kv.value.len();
            }
        }
    }
    groups
}

/// A key that is not the same in both.
fn difference(before: &[KeyValue], after: &[KeyValue]) -> Option<String> {
    let first = before.iter().zip(after).find(|(old, new)| old != new).map(|(old, _)| old);
    first.or_else(|| before.get(after.len())).or_else(|| after.get(before.len())).map(|kv| kv.key.clone())
}
