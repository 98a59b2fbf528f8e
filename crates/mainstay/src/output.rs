//! Writing to people: the only place that prints.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Instant;

/// Writes a line to standard output. A reader who has gone away (`| head`) ends the program quietly.
pub(crate) fn line(text: &str) {
    let written = writeln!(io::stdout().lock(), "{text}");
    if written.is_err() {
        std::process::exit(0);
    }
}

/// Writes an error to standard error.
pub(crate) fn error(text: &str) {
    let colour = io::stderr().is_terminal();
    let prefix = if text.starts_with("error") {
        String::new()
    } else if colour {
        "\u{1b}[1;31merror:\u{1b}[0m ".to_owned()
    } else {
        "error: ".to_owned()
    };
    // Nobody reads it: then nobody is to be told.
    let _ = writeln!(io::stderr().lock(), "{prefix}{text}");
}

/// A word that stands out on a terminal and is plain elsewhere.
pub(crate) fn strong(text: &str) -> String {
    if io::stdout().is_terminal() { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// Good or bad, in green or red on a terminal.
pub(crate) fn mark(good: bool) -> String {
    let text = if good { "ok" } else { "FAILED" };
    if io::stdout().is_terminal() {
        let colour = if good { 32 } else { 31 };
        return format!("\u{1b}[{colour}m{text}\u{1b}[0m");
    }
    text.to_owned()
}

/// Progress of long work: a line for everything that happens, with the time since the beginning.
pub(crate) struct Progress {
    begun: Instant,
    /// Guards the order of lines only.
    order: Mutex<()>,
}

impl Progress {
    pub(crate) fn begin() -> Self {
        Self { begun: Instant::now(), order: Mutex::new(()) }
    }

    pub(crate) fn say(&self, who: &str, what: &str) {
        let _in_order = self.order.lock();
        line(&format!("  {:>6.2} s  {who:<12} {what}", self.begun.elapsed().as_secs_f64()));
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

/// Rows as columns of equal width, two spaces apart.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width + 2 - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
