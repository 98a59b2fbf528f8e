//! What was found out of statements, kept by their exact text.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::digest::{Digest, Digests, form};
use super::{Mode, Statement, classify};

/// Statements that are kept.
const ENTRIES: usize = 8192;
/// Longer statements are not kept: they hold data, and seldom come twice.
const LONGEST: usize = 2048;

/// What is known of a statement, and where its time is counted.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) statement: Statement,
    pub(crate) digest: Arc<Digest>,
}

/// A worker's statements. When it is full it begins anew, which costs one reading of each statement in use.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    known: HashMap<Mode, HashMap<Box<[u8]>, Rc<Known>>>,
    entries: usize,
    digests: Digests,
    /// Those that this worker has met.
    forms: HashMap<String, Arc<Digest>>,
}

impl Cache {
    pub(crate) fn new(digests: Digests) -> Self {
        Self { digests, ..Self::default() }
    }

    /// What the statement does.
    pub(crate) fn of(&mut self, text: &[u8], mode: Mode) -> Rc<Known> {
        if let Some(known) = self.known.get(&mode).and_then(|known| known.get(text)) {
            return Rc::clone(known);
        }
        let digest = self.digest(form(text, mode));
        let known = Rc::new(Known { statement: classify(text, mode), digest });
        if text.len() > LONGEST {
            return known;
        }
        if self.entries == ENTRIES {
            self.known.clear();
            self.entries = 0;
        }
        self.known.entry(mode).or_default().insert(text.into(), Rc::clone(&known));
        self.entries += 1;
        known
    }

    fn digest(&mut self, form: String) -> Arc<Digest> {
        if let Some(digest) = self.forms.get(&form) {
            return Arc::clone(digest);
        }
        if self.forms.len() == ENTRIES {
            self.forms.clear();
        }
        let digest = self.digests.of(&form);
        self.forms.insert(form, Arc::clone(&digest));
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded() {
        let mut cache = Cache::default();
        for number in 0..ENTRIES + 10 {
            cache.of(format!("SELECT {number}").as_bytes(), Mode::default());
        }
        assert_eq!((cache.entries, cache.forms.len()), (10, 1));
    }
}
