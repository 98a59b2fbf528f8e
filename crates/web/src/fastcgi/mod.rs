//! A FastCGI client (version 1, the responder role) for php-fpm.
//!
//! [`record`] and [`head`] are pure; [`exchange`] carries one request over one connection; [`pool`] keeps connections
//! and their number; [`client`] puts them together with the retries that are safe.

pub mod head;
pub mod record;

pub(crate) mod client;
mod exchange;
mod pool;

pub(crate) use client::{Client, Failure, FastCgiRequest};
pub(crate) use pool::Permits;
