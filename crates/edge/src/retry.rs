//! What is tried again on another upstream.
