//! What statements have in common when their values are left out, and how long such statements take.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::Mode;
use super::token::{Token, Tokens};

/// Digests that are told apart; later ones count as one.
const DIGESTS: usize = 2000;
/// Bytes of a digest's text.
const SHOWN: usize = 512;

/// The counts of statements that are alike.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    text: String,
    count: AtomicU64,
    errors: AtomicU64,
    sum_micros: AtomicU64,
    most_micros: AtomicU64,
}

impl Digest {
    /// Counts one statement.
    pub(crate) fn count(&self, taken: Duration, failed: bool) {
        let micros = taken.as_micros() as u64;
        self.count.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
        self.most_micros.fetch_max(micros, Ordering::Relaxed);
    }
}

/// A digest as the admin socket shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Shown {
    digest: String,
    count: u64,
    errors: u64,
    seconds: f64,
    most_seconds: f64,
}

/// The digests of all workers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Digests(
    /// Held to find a digest that a worker has not met yet, and to show them.
    Arc<Mutex<HashMap<String, Arc<Digest>>>>,
);

impl Digests {
    /// The counts of statements of this form.
    pub(crate) fn of(&self, form: &str) -> Arc<Digest> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let form = if known.len() < DIGESTS || known.contains_key(form) { form } else { "others" };
        let new = || Arc::new(Digest { text: form.to_owned(), ..Digest::default() });
        Arc::clone(known.entry(form.to_owned()).or_insert_with(new))
    }

    /// Those that took the most time.
    pub(crate) fn slowest(&self, count: usize) -> Vec<Shown> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = |micros: &AtomicU64| micros.load(Ordering::Relaxed) as f64 / 1e6;
        let mut shown: Vec<_> = known
            .values()
            .map(|digest| Shown {
                digest: digest.text.clone(),
                count: digest.count.load(Ordering::Relaxed),
                errors: digest.errors.load(Ordering::Relaxed),
                seconds: seconds(&digest.sum_micros),
                most_seconds: seconds(&digest.most_micros),
            })
            .collect();
        shown.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        shown.truncate(count);
        shown
    }
}

/// The statement without its values: `select a from t where b in ( ? )`.
pub(crate) fn form(text: &[u8], mode: Mode) -> String {
    let mut out = String::new();
    let mut before = None;
    for token in Tokens::new(text, mode) {
        let piece = match token {
            Token::Text | Token::Number(_) | Token::Sign(b'?') => "?".into(),
            Token::Word(word) => String::from_utf8_lossy(word).to_lowercase(),
            Token::Name(name) => format!("`{}`", String::from_utf8_lossy(name)),
            Token::UserVariable => "@?".into(),
            Token::SystemVariable(name) => format!("@@{}", String::from_utf8_lossy(name)),
            Token::Sign(b':') => ":=".into(),
            Token::Sign(sign) => char::from(sign).to_string(),
        };
        // However many values there are in a list, or lists after one another.
        match (before.as_deref(), piece.as_str()) {
            (Some("?"), ",") if out.ends_with('?') => {
                before = Some("?,".to_owned());
                continue;
            }
            (Some("?,"), "?") => {
                before = Some("?".to_owned());
                continue;
            }
            (Some("?,"), _) => out.push_str(" ,"),
            _ => {}
        }
        if out.len() + piece.len() > SHOWN {
            out.push_str(" ...");
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&piece);
        while let Some(one_less) = out.strip_suffix("( ? ) , ( ? )") {
            out.truncate(one_less.len());
            out.push_str("( ? )");
        }
        before = Some(piece);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_left_out_however_many_there_are() {
        let of = |text: &str| form(text.as_bytes(), Mode::default());
        assert_eq!(
            of("SELECT a FROM t WHERE b IN (1, 'x', ?) AND c=5"),
            "select a from t where b in ( ? ) and c = ?"
        );
        assert_eq!(of("INSERT INTO t VALUES (1,'a'),(2,'b'),(3,'c')"), "insert into t values ( ? )");
        assert_eq!(of("SELECT 1, a"), "select ? , a");
        assert_eq!(of("SELECT /* x */ `A`.b"), "select `A` . b");
        assert!(of(&"a ".repeat(5000)).len() < 600);
    }

    #[test]
    fn digests_are_bounded_and_the_slowest_come_first() {
        let digests = Digests::default();
        for number in 0..DIGESTS + 10 {
            digests.of(&number.to_string()).count(Duration::from_millis(1), false);
        }
        digests.of("7").count(Duration::from_secs(1), true);
        let slowest = digests.slowest(3);
        assert_eq!((slowest[0].digest.as_str(), slowest[0].errors), ("7", 1));
        assert_eq!((slowest[1].digest.as_str(), slowest[1].count), ("others", 10));
    }
}
