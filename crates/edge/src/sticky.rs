//! A signed cookie that keeps a client at its upstream.
