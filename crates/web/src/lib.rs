//! The web server: what people expect of nginx on one server.
//!
//! [`run`] is the role's process. It serves a [`WebPlan`](mainstay_site::plan::WebPlan) with one worker per listening
//! socket, each with files, pools and log of its own. A request's path is read in one way only ([`path`](mainstay_http::path)); [`route`]
//! finds who answers; then it is a file ([`files`], with [`conditional`](mainstay_http::conditional), [`range`](mainstay_http::range) and
//! [`encoding`](mainstay_http::encoding)), a PHP script
//! ([`script`], [`php`], [`fastcgi`]), or an app that speaks HTTP itself ([`proxy`]). [`service`] is where all of that
//! comes together, and [`record`] tells of it afterwards in the access log and in metrics.
//!
//! What is parsed from strangers and apps is parsed by pure code, which the fuzz targets reach.

pub mod fastcgi;
mod files;
mod forwarded;
mod metrics;
mod php;
mod proxy;
mod record;
mod role;
mod route;
mod script;
mod service;
mod site;

pub use role::{Config, Error, Server, run};
