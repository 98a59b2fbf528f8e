//! From bytes to lines, and from lines to log entries.

use serde_json::{Map, Value};

/// Longer lines are cut there, and say so.
const LINE_BYTES: usize = 16 << 10;

/// Who wrote a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The server.
    pub server: String,
    /// The role.
    pub role: String,
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    is_cut: bool,
}

impl Lines {
    /// Takes bytes in and gives the lines that end in them, without their ends. Empty lines are left out.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.extend(&rest[..end]);
            rest = &rest[end + 1..];
            let is_cut = std::mem::take(&mut self.is_cut);
            let line = std::mem::take(&mut self.partial);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if !line.is_empty() {
                lines.push(if is_cut { format!("{line} [cut]") } else { line.to_owned() });
            }
        }
        self.extend(rest);
        lines
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES - self.partial.len();
        self.is_cut |= bytes.len() > room;
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// A line as a log entry: one JSON object with `ts`, `server`, `role`, `level` and `message`. A line that is a JSON
/// object already keeps its fields; those below `fields`, where our own roles put them, move up. The second part is the message alone.
pub fn entry(line: &str, source: &Source, now: jiff::Timestamp) -> (String, String) {
    let mut fields = match serde_json::from_str(line) {
        Ok(Value::Object(fields)) if line.starts_with('{') => fields,
        _ => Map::from_iter([("message".to_owned(), Value::from(line))]),
    };
    if let Some(Value::Object(inner)) = fields.remove("fields") {
        for (key, value) in inner {
            fields.entry(key).or_insert(value);
        }
    }
    let ts = fields.remove("timestamp").or_else(|| fields.remove("ts"));
    let ts = ts.filter(Value::is_string).unwrap_or_else(|| Value::from(format!("{now:.6}")));
    let text = |value: Option<Value>| match value {
        Some(Value::String(text)) => Some(text),
        Some(other) => Some(other.to_string()),
        None => None,
    };
    let message = text(fields.remove("message")).unwrap_or_default();
    let level =
        text(fields.remove("level")).map_or_else(|| guess_level(&message), |level| level.to_lowercase());

    let mut entry = Map::from_iter([
        ("ts".to_owned(), ts),
        ("server".to_owned(), Value::from(source.server.as_str())),
        ("role".to_owned(), Value::from(source.role.as_str())),
        ("level".to_owned(), Value::from(level)),
        ("message".to_owned(), Value::from(message.as_str())),
    ]);
    for (key, value) in fields {
        entry.entry(key).or_insert(value);
    }
    (Value::Object(entry).to_string(), message)
}

/// Programs that log plain text say how bad it is somewhere near the front: `[ERROR]`, `NOTICE:`, `PHP Warning:`.
fn guess_level(message: &str) -> String {
    let front: String = message.chars().take(80).collect::<String>().to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| front.contains(word));
    let level = if says(&["[error]", "error:", "fatal", "alert:", "traceback"]) {
        "error"
    } else if says(&["[warning]", "warning:", "[warn]"]) {
        "warn"
    } else {
        "info"
    };
    level.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry_of(line: &str) -> Value {
        let source = Source { server: "server1".into(), role: "web".into() };
        let now = "2026-01-02T03:04:05.000006Z".parse().unwrap();
        serde_json::from_str(&entry(line, &source, now).0).unwrap()
    }

    #[test]
    fn a_plain_line_becomes_the_message() {
        let expected = serde_json::json!({
            "ts": "2026-01-02T03:04:05.000006Z", "server": "server1", "role": "web", "level": "warn",
            "message": "PHP Warning: odd \"quotes\"",
        });
        assert_eq!(entry_of("PHP Warning: odd \"quotes\""), expected);
    }

    #[test]
    fn the_fields_of_a_json_line_are_kept_and_who_wrote_it_cannot_be_forged() {
        let line = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","server":"evil","fields":{"message":"up","workers":2},"target":"web"}"#;
        let expected = serde_json::json!({
            "ts": "2026-01-01T00:00:00Z", "server": "server1", "role": "web", "level": "info",
            "message": "up", "workers": 2, "target": "web",
        });
        assert_eq!(entry_of(line), expected);
    }

    #[test]
    fn lines_are_whole_however_their_bytes_arrive() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntw"), ["one"]);
        assert_eq!(lines.push(b"o\r\n\nthree\n"), ["two", "three"]);
    }

    #[test]
    fn a_line_without_an_end_takes_no_more_than_its_bound() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            assert_eq!(lines.push(&[b'x'; 1024]), Vec::<String>::new());
        }
        assert_eq!(lines.partial.len(), LINE_BYTES);
        let cut = lines.push(b"\nnext\n");
        assert!(cut[0].ends_with("x [cut]") && cut[0].len() == LINE_BYTES + 6);
        assert_eq!(cut[1], "next");
    }
}
