//! Where the servers of a site meet: leases, compare-and-set, ordered watches, lists.
//!
//! There is one client and there are two servers. [`Client`] speaks the JSON gateway of etcd's v3 API over HTTP/1.1. It is
//! answered by etcd, which [`etcd`] says how to run on several servers, or by the [`embedded`] coordinator from one
//! durable file, for a site that has only one server for it. The same conformance stories hold for both, and [`transfer`]
//! takes a site from one to the other.
//!
//! How a change travels: a caller builds a [`Txn`] that compares what it was decided on; [`Client::txn`] sends it to one endpoint
//! after the other until one takes it on, and says whether it was done, certainly not done, or may have been
//! ([`Error`]). Everyone who follows the key gets the change from their [`Watch`], once and in order, whatever happens to
//! connections and members in between. Who holds a lease renews it and asks [`LeaseClock`] when to stop acting as its holder.
//!
//! Keys are text, values are bytes. Every call has a deadline, every answer and every queue a bound.

mod client;
pub mod embedded;
mod endpoint;
mod error;
pub mod etcd;
mod lease_clock;
mod operation;
mod tls;
pub mod transfer;
mod wire;

pub use client::{Client, ClientSettings, Granted, LeaseState, SettingsError, Status, Watch, Watched};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{Error, Refusal};
pub use lease_clock::LeaseClock;
pub use operation::{
    Change, Committed, Compare, Event, KeyValue, LeaseId, Listing, Operand, Operation, OperationResult,
    Relation, Revision, Txn,
};
pub use tls::{Tls, TlsError};
