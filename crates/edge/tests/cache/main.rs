//! The cache as its users meet it: what it keeps and gives, from one thread and from many.

mod properties;
mod rfc;
mod stage;
mod stories;
