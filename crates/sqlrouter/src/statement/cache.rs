//! What was found out of statements, kept by their exact text.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Mode, Statement, classify};

/// Statements that are kept.
const ENTRIES: usize = 8192;
/// Longer statements are not kept: they hold data, and seldom come twice.
const LONGEST: usize = 2048;

/// A worker's statements. When it is full it begins anew, which costs one reading of each statement in use.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    known: HashMap<Mode, HashMap<Box<[u8]>, Rc<Statement>>>,
    entries: usize,
}

impl Cache {
    /// What the statement does.
    pub(crate) fn of(&mut self, text: &[u8], mode: Mode) -> Rc<Statement> {
        if text.len() > LONGEST {
            return Rc::new(classify(text, mode));
        }
        if let Some(known) = self.known.get(&mode).and_then(|known| known.get(text)) {
            return Rc::clone(known);
        }
        if self.entries == ENTRIES {
            self.known.clear();
            self.entries = 0;
        }
        let statement = Rc::new(classify(text, mode));
        self.known.entry(mode).or_default().insert(text.into(), Rc::clone(&statement));
        self.entries += 1;
        statement
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
        assert_eq!(cache.entries, 10);
    }
}
