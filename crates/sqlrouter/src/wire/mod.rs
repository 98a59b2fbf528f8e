//! The MySQL client/server protocol, without I/O.
//!
//! [`packet`] cuts packets and reads what is in them, [`handshake`] and [`reply`] are what both sides say, and
//! [`response`] follows a server's answer to a command through a stream of bytes, looking only at the heads of packets.

pub mod capability;
pub mod command;
pub mod compress;
pub mod handshake;
pub mod packet;
pub mod reply;
pub mod response;
pub mod resultset;
