//! Who a server is: the site's own certificate authority, and a certificate per server that the others believe.
//!
//! [`Authority`] issues; it does no I/O. [`Store`] keeps an authority and what it issued in a folder, and issues anew what
//! is old or no longer fits. Certificates are for both ends of a connection: every server is now client, now server.

mod authority;
mod store;

pub use authority::{Authority, Error, Issued, Subject, VALID};
pub use store::{Store, StoreError};
