//! Stories of the web role: a running server, real files, the real php-fpm, and clients that speak raw HTTP.

mod apps;
mod client;
mod files;
mod php;
mod php_fpm;
mod routes;
mod server;
