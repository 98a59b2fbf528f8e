//! The app server.
