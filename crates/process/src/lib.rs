//! Child processes: started as their own users, watched, restarted with back-off, replaced without a gap, stopped in order.

mod spec;

pub use spec::{ChildSpec, FileSpec, FolderSpec, Probe, Replace, Signal, SocketSpec, Stop};
