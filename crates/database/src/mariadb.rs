//! What is done to a `mariadbd` that is a member of a cluster: the hands of its keeper.
//!
//! Nothing here decides. The cluster's machine decides; its keeper calls these with what was decided, and each call either
//! does it, or says in a type why not, in bounded time.
//!
//! - [`settings`]: the configuration file, and the role on the command line.
//! - [`server`]: the process: started as a [`settings::Role`], watched until it answers, its known ways to fail recognised.
//! - [`session`]: root's connection over the Unix socket, every call with a deadline.
//! - [`gtid`], [`binlog`]: places in the history of writes; the server's log files read without the server.
//! - [`view`]: how a member is, in one exchange.
//! - [`replica`]: follow, revoke, drain, acknowledge or not, rescue what a crash left in the relay log.
//! - [`primary`]: promote, open, close, count waiters, end a replica's stream, purge logs.
//! - [`rejoin`]: whether an old primary's last write is in the new primary's history, and keeping what is not.
//! - [`accounts`]: replication, backup and monitoring, none without a certificate.
//! - [`seed`]: a new member's data, from another member, over any stream.

pub mod accounts;
pub mod binlog;
mod error;
pub mod gtid;
mod packet;
pub mod primary;
pub mod rejoin;
pub mod replica;
pub mod seed;
pub mod server;
pub mod session;
pub mod settings;
pub mod view;

pub use error::ActionError;
pub use gtid::{BinlogState, Gtid, Position, Standing};
pub use session::{Rows, Session, SqlError};
pub use settings::{Acknowledged, Role, Settings, TlsFiles};
pub use view::View;
