//! How an instance is, in its own words.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Client, Error};

/// What a running instance tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The server program's version, such as `10.11.19-MariaDB-0+deb12u1-log`.
    pub version: String,
    /// Seconds since its start.
    pub uptime_secs: u64,
    /// Client connections that are open, this question's own among them.
    pub connections: u32,
    /// The most client connections that it takes.
    pub most_connections: u32,
    /// Whether it refuses writes.
    pub read_only: bool,
}

impl Status {
    /// Since its start.
    pub fn uptime(&self) -> Duration {
        Duration::from_secs(self.uptime_secs)
    }

    /// Out of rows of a name, a tab and a value.
    fn of(rows: &[String]) -> Option<Self> {
        let values: BTreeMap<String, &str> = rows
            .iter()
            .filter_map(|row| row.split_once('\t'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        Some(Self {
            version: (*values.get("version")?).to_owned(),
            uptime_secs: values.get("uptime")?.parse().ok()?,
            connections: values.get("threads_connected")?.parse().ok()?,
            most_connections: values.get("max_connections")?.parse().ok()?,
            // `ON`, or one of the stricter words that later versions have.
            read_only: *values.get("read_only")? != "OFF",
        })
    }
}

const WHAT: &str = "the question how it is";
const QUESTION: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Uptime', 'Threads_connected');\n\
    SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'max_connections', 'read_only');\n";

/// Asks an instance how it is. One that does not answer is not waited for.
///
/// # Errors
/// [`Error::Statement`] if it does not answer.
pub fn status(client: &Client) -> Result<Status, Error> {
    let rows = client.run_now(WHAT, QUESTION)?;
    Status::of(&rows)
        .ok_or_else(|| Error::Statement { what: WHAT.to_owned(), reason: format!("it answered {rows:?}") })
}
