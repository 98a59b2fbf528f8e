//! Stories of the web role: a running server, real files, the real php-fpm, and clients that speak raw HTTP.
#![allow(clippy::unwrap_used, reason = "a story that cannot go on fails")]

mod apps;
mod client;
mod files;
mod php;
mod php_fpm;
mod routes;
mod server;
