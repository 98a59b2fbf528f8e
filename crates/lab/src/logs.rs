//! Reading the logs of all hosts in the order of time.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::state::SiteState;

/// One line of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// When, as RFC 3339 text; empty for lines without a time.
    pub time: String,
    /// The host.
    pub host: String,
    /// The role: the log file's name.
    pub role: String,
    /// The line's fields, or its text.
    pub content: Value,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this host.
    pub host: Option<String>,
    /// Only this role.
    pub role: Option<String>,
    /// Only from this time on, as RFC 3339 text.
    pub since: Option<String>,
}

/// Reads logs, and then what is appended to them.
#[derive(Debug)]
pub struct Reader {
    site: SiteState,
    filter: Filter,
    positions: std::collections::BTreeMap<PathBuf, u64>,
}

/// At most this much of one file is read at once; a log of several rotations is larger than anyone reads.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

impl Reader {
    /// A reader of a site's logs.
    pub fn new(site: &SiteState, filter: Filter) -> Self {
        Self { site: site.clone(), filter, positions: std::collections::BTreeMap::new() }
    }

    /// All lines that were added since the last call, in the order of time.
    pub fn read(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        let hosts = fs::read_dir(self.site.folder.join("hosts")).into_iter().flatten().flatten();
        let mut names: Vec<String> = hosts.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names.retain(|name| self.filter.host.as_ref().is_none_or(|wanted| wanted == name));
        for host in names {
            for path in log_files(&self.site.host(&host).log()) {
                self.read_file(&host, &path, &mut lines);
            }
        }
        lines.sort_by(|one, other| one.time.cmp(&other.time));
        lines
    }

    fn read_file(&mut self, host: &str, path: &Path, lines: &mut Vec<Line>) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let role = name.split('.').next().unwrap_or_default().to_owned();
        if self.filter.role.as_ref().is_some_and(|wanted| *wanted != role) {
            return;
        }
        let Ok(mut file) = fs::File::open(path) else { return };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let position =
            self.positions.entry(path.to_owned()).or_insert_with(|| length.saturating_sub(MOST_BYTES));
        if *position > length {
            // Rotated: what was there lies in another file, and this one begins anew.
            *position = 0;
        }
        let mut bytes = Vec::new();
        let read =
            file.seek(SeekFrom::Start(*position)).and_then(|_| file.take(MOST_BYTES).read_to_end(&mut bytes));
        if read.is_err() {
            return;
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        *position += whole as u64;
        for text in String::from_utf8_lossy(&bytes[..whole]).lines() {
            let content: Value =
                serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
            let time = ["ts", "time", "timestamp"]
                .iter()
                .find_map(|key| content.get(key)?.as_str())
                .unwrap_or_default();
            let early = self.filter.since.as_ref().is_some_and(|since| time < since.as_str());
            if !early {
                lines.push(Line {
                    time: time.to_owned(),
                    host: host.to_owned(),
                    role: role.clone(),
                    content,
                });
            }
        }
    }
}

/// All log files below a folder, rotated ones first.
fn log_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(log_files(&path)),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found.sort_by(|one, other| other.cmp(one));
    found
}

impl Line {
    /// The line for people: time, host, role, and the message with its fields.
    pub fn readable(&self) -> String {
        let time = self.time.get(11..23).unwrap_or(&self.time);
        let mut text = format!("{time} {} {} ", self.host, self.role);
        match &self.content {
            Value::String(line) => text.push_str(line),
            Value::Object(fields) => {
                if let Some(message) = message(fields) {
                    text.push_str(message);
                }
                for (name, value) in fields {
                    let shown =
                        ["ts", "time", "timestamp", "message", "server", "site", "role", "target", "fields"];
                    if !shown.contains(&name.as_str()) {
                        text.push_str(&format!(" {name}={}", plain(value)));
                    }
                }
                for (name, value) in fields.get("fields").and_then(Value::as_object).into_iter().flatten() {
                    if name != "message" {
                        text.push_str(&format!(" {name}={}", plain(value)));
                    }
                }
            }
            other => text.push_str(&other.to_string()),
        }
        text
    }

    /// The line for programs: its fields with host and role.
    pub fn json(&self) -> Value {
        let mut fields = match &self.content {
            Value::Object(fields) => fields.clone(),
            other => [("message".to_owned(), other.clone())].into_iter().collect(),
        };
        fields.insert("host".to_owned(), self.host.clone().into());
        fields.insert("role".to_owned(), self.role.clone().into());
        Value::Object(fields)
    }
}

fn message(fields: &serde_json::Map<String, Value>) -> Option<&str> {
    fields.get("message").or_else(|| fields.get("fields")?.get("message"))?.as_str()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
