//! Child processes.
mod spec;
pub mod supervise;

pub use spec::{ChildSpec, FileSpec, FolderSpec, Probe, Replace, Signal, SocketSpec, Stop};
