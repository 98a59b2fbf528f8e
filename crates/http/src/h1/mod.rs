//! HTTP/1.1: parsing without I/O in `lines`, `head`, `answer` and `chunked`; the server's loop in `connection`.

pub mod answer;
pub mod chunked;
pub mod fields;
pub mod head;
pub mod lines;

pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod marks;
pub(crate) mod outgoing;
pub(crate) mod respond;
pub(crate) mod serve;
