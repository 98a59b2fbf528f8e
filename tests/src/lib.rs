//! Whole-site tests: each brings a site up as a user would, does something to it, and looks at it from outside.
//!
//! [`Lab`] is a site in a folder of its own that is gone when the test ends, however it ends. [`Lab::visit`] asks for a page
//! from the visitor's host, [`Lab::load`] keeps asking at a steady rate while something is broken.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says so by panicking")]

mod lab;
mod load;

pub use lab::{Answer, Lab, example, wait_for};
pub use load::{Load, Report};
