//! Authoritative DNS for the site's zone.
