//! Which upstreams are fit to take requests.
