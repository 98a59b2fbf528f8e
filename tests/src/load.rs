//! A visitor who asks at a steady rate while something is broken, and what he saw.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Lab;

/// What a visitor saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Requests that were not answered with 200: when they were begun (ms after the beginning), and what came instead.
    pub failed: Vec<(u64, String)>,
    /// The longest time until an answer, in ms.
    pub longest_ms: u64,
    /// By how much a request was begun too late at worst, in ms: then the visitor, not the site, was the slow one.
    pub late_ms: u64,
    /// When the last failed or slow (over 500 ms) request ended, in ms after the beginning.
    pub last_trouble_ms: u64,
}

/// A running visitor.
pub struct Load {
    child: Child,
    begun: Instant,
}

impl Load {
    pub(crate) fn begin(lab: &Lab, program: &Path, url: &str, per_second: u32) -> Self {
        let rate = per_second.to_string();
        let program = program.to_str().unwrap();
        let mut child = lab
            .command(&["exec", "client", "--", program, url, &rate])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The visitor says a word when the first answer came: from then on the site is under load.
        let mut word = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut word).expect("a first answer");
        Self { child, begun: Instant::now() }
    }

    /// For how long the site has been under load.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Ends the visit and tells what was seen.
    pub fn end(mut self) -> Report {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("the visitor's report: {error}\n{text}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A visitor whose test failed leaves too; one that has left already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
