//! The site file, and what follows from it.
//!
//! One TOML file describes a site. `site` turns it into types in which a wrong site cannot be said, and derives from them one
//! [`Plan`](plan::Plan) per server: what that server runs, listens on, and lets in and out. Everything
//! above this crate sees plans, never the file.

pub mod names;
pub mod paths;
pub mod plan;
mod size;

pub use names::{AppName, DomainName, NameError, ServerName, SiteName};
pub use plan::Plan;
pub use size::{ByteSize, ByteSizeError};
