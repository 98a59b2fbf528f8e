//! Static files.
//!
//! [`root`] opens files so that nothing outside a folder can be reached; [`cache`] keeps small ones in memory;
//! [`answer`] makes responses of them: conditions, ranges, codings.

pub(crate) mod answer;
pub(crate) mod cache;
mod multipart;
pub(crate) mod pieces;
mod root;

pub(crate) use cache::{Cache, Found, RootId};
pub(crate) use root::Root;
