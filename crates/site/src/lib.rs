//! The site file, and what follows from it.
//!
//! One TOML file describes a site. [`Site::load`] turns it into types in which a wrong site cannot be said, or into
//! [`SiteErrors`]: everything that is wrong, each with its place and what would be right. [`Site::plans`] derives one
//! [`Plan`] per server: what that server runs, listens on, and lets in and out. Everything above this crate sees
//! plans, never the file.

mod derive;
mod load;
pub mod model;
pub mod names;
pub mod paths;
pub mod plan;
mod problem;
mod read;
mod section;
mod size;
pub mod smallest;
mod survival;

pub use derive::Inputs;
pub use load::LoadError;
pub use model::{Role, Site};
pub use names::{AppName, DomainName, NameError, ServerName, SiteName};
pub use plan::Plan;
pub use problem::{PlacedProblem, SiteErrors};
pub use read::MOST_BYTES;
pub use size::{ByteSize, ByteSizeError};
pub use survival::Loss;
