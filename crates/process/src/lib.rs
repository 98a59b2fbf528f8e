//! Child processes: started as their own users, watched, restarted with back-off, replaced without a gap, stopped in order.
//!
//! A [`ChildSpec`] says what a child is. [`supervise`] decides, without I/O, when it is started, asked to stop, killed and
//! replaced; [`Supervisor`] carries that out. What has to outlive the supervisor does: listening sockets
//! ([`sockets`]) and log pipes ([`logs`]) lie in the service manager's descriptor store ([`fdstore`]), running
//! children are recorded on disk ([`adopt`]), and the next supervisor takes all of them over.
//!
//! A child is started through a shim ([`launch`], [`exec_child`]) that joins its control group ([`cgroup`]), gives up every
//! privilege that it does not need, and only then becomes the program.

pub mod account;
pub mod adopt;
pub mod cgroup;
mod child;
mod descriptors;
mod driver;
mod exec;
pub mod fdstore;
mod files;
mod inherited;
pub mod launch;
pub mod logs;
pub mod probe;
pub mod procfs;
mod reload;
mod running;
pub mod sockets;
mod spec;
mod status;
pub mod supervise;
mod supervisor;

pub use descriptors::{InheritedError, inherited_descriptors, watch};
pub use exec::{EXIT_NOT_STARTED, exec_child};
pub use files::{FilesError, make_folder, write_file};
pub use inherited::{InheritedSocket, WorkerSocketsError, inherited_sockets, worker_sockets};
pub use spec::{ChildSpec, FileSpec, FolderSpec, Probe, Replace, Signal, SocketSpec, Stop};
pub use status::{ChildStatus, LastExit};
pub use supervisor::{Change, Error, Setup, Supervisor};
