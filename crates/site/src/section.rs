//! Reading one table of the file: typed values with their places, and every problem noted instead of the first.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::problem::Problem;

/// A value and the bytes of the file that it came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: Range<usize>,
}

/// Where problems are noted.
#[derive(Debug, Default)]
pub(crate) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(crate) fn note(&self, at: &Range<usize>, message: impl Into<String>) {
        self.0.borrow_mut().push(Problem { at: at.clone(), message: message.into(), help: None });
    }

    pub(crate) fn help(&self, at: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let help = Some(help.into());
        self.0.borrow_mut().push(Problem { at: at.clone(), message: message.into(), help });
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// One table of the file. Asking for a key makes it known; [`Section::finish`] complains of the rest.
pub(crate) struct Section<'a> {
    /// How people name it: `[server.server1]`.
    pub(crate) title: String,
    pub(crate) at: Range<usize>,
    pub(crate) problems: &'a Problems,
    table: &'a DeTable<'a>,
    known: RefCell<Vec<&'static str>>,
}

/// The entry of a list or table that holds more than this is refused: no site needs it, and all checks stay quick.
const MOST_ENTRIES: usize = 1000;

impl<'a> Section<'a> {
    pub(crate) fn new(
        title: String,
        at: Range<usize>,
        table: &'a DeTable<'a>,
        problems: &'a Problems,
    ) -> Self {
        Self { title, at, problems, table, known: RefCell::default() }
    }

    fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().push(key);
        self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
    }

    /// Whether the key is there, right or wrong.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref().as_ref() == key)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = value.get_ref().type_str();
        self.problems
            .note(&value.span(), format!("`{key}` in {} must be {wanted}, not a {found}", self.title));
    }

    /// Notes that a key that must be there is not.
    pub(crate) fn missing(&self, key: &str, help: &str) {
        self.problems.help(&self.at, format!("{} has no `{key}`", self.title), help);
    }

    pub(crate) fn string(&self, key: &'static str) -> Option<At<String>> {
        let value = self.value(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, "a text in quotes");
            return None;
        };
        Some(At { value: text.to_owned(), at: value.span() })
    }

    /// A text that a type parses; its error says why not.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, key: &'static str, what: &str) -> Option<At<T>> {
        let text = self.string(key)?;
        match text.value.parse() {
            Ok(value) => Some(At { value, at: text.at }),
            Err(error) => {
                self.problems.note(&text.at, format!("`{}` is not {what}: {error}", text.value));
                None
            }
        }
    }

    /// A text out of a fixed choice.
    pub(crate) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<At<T>> {
        let text = self.string(key)?;
        self.choose(&text, key, choices)
    }

    /// The choice that a text names.
    pub(crate) fn choose<T: Copy>(
        &self,
        text: &At<String>,
        what: &str,
        choices: &[(&str, T)],
    ) -> Option<At<T>> {
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text.value) {
            return Some(At { value: *value, at: text.at.clone() });
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let help = suggestion(&text.value, &names);
        self.problems.help(&text.at, format!("unknown {what} `{}` in {}", text.value, self.title), help);
        None
    }

    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        if let DeValue::Boolean(flag) = value.get_ref() {
            return Some(*flag);
        }
        self.wrong_type(key, value, "true or false");
        None
    }

    pub(crate) fn integer(&self, key: &'static str, range: RangeInclusive<i64>) -> Option<At<i64>> {
        let value = self.value(key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_type(key, value, "a whole number");
            return None;
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
        if let Some(number) = parsed.filter(|number| range.contains(number)) {
            return Some(At { value: number, at: value.span() });
        }
        self.problems.note(
            &value.span(),
            format!("`{key}` in {} must be from {} to {}", self.title, range.start(), range.end()),
        );
        None
    }

    /// A whole or decimal number.
    pub(crate) fn number(&self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.value(key)?;
        let text = match value.get_ref() {
            DeValue::Integer(number) => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => {
                self.wrong_type(key, value, "a number");
                return None;
            }
        };
        if let Some(number) = text.parse().ok().filter(|number| range.contains(number)) {
            return Some(number);
        }
        self.problems.note(
            &value.span(),
            format!("`{key}` in {} must be from {} to {}", self.title, range.start(), range.end()),
        );
        None
    }

    /// A list of texts, with the place of each; `None` if the key is absent.
    pub(crate) fn strings(&self, key: &'static str) -> Option<At<Vec<At<String>>>> {
        let value = self.value(key)?;
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of texts, such as [\"a\", \"b\"]");
            return None;
        };
        self.bounded(key, list.len(), &value.span());
        let mut texts = Vec::new();
        for item in list.iter().take(MOST_ENTRIES) {
            match item.get_ref().as_str() {
                Some(text) => texts.push(At { value: text.to_owned(), at: item.span() }),
                None => self.wrong_type(key, item, "a list of texts only"),
            }
        }
        Some(At { value: texts, at: value.span() })
    }

    /// A list of texts that a type parses.
    pub(crate) fn parsed_list<T: FromStr<Err: Display>>(
        &self,
        key: &'static str,
        what: &str,
    ) -> Option<Vec<At<T>>> {
        let texts = self.strings(key)?;
        let mut values = Vec::new();
        for text in texts.value {
            match text.value.parse() {
                Ok(value) => values.push(At { value, at: text.at }),
                Err(error) => {
                    self.problems.note(&text.at, format!("`{}` is not {what}: {error}", text.value));
                }
            }
        }
        Some(values)
    }

    /// A table of texts: `{ NAME = "value" }`.
    pub(crate) fn map(&self, key: &'static str) -> BTreeMap<String, At<String>> {
        let mut map = BTreeMap::new();
        let Some(value) = self.value(key) else { return map };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table of texts, such as { NAME = \"value\" }");
            return map;
        };
        self.bounded(key, table.len(), &value.span());
        for (name, item) in table.iter().take(MOST_ENTRIES) {
            let text = match item.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.as_str().to_owned(),
                DeValue::Float(number) => number.as_str().to_owned(),
                DeValue::Boolean(flag) => flag.to_string(),
                _ => {
                    self.wrong_type(name.get_ref(), item, "a text in quotes");
                    continue;
                }
            };
            map.insert(name.get_ref().to_string(), At { value: text, at: item.span() });
        }
        map
    }

    /// A table inside this one.
    pub(crate) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        let value = self.value(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table");
            return None;
        };
        Some(Section::new(format!("[{}]", self.path(key)), value.span(), table, self.problems))
    }

    /// How people name what stands under a key of this table: `edge.cache`.
    fn path(&self, key: &str) -> String {
        match self.title.trim_matches(['[', ']']) {
            "" => key.to_owned(),
            own => format!("{own}.{key}"),
        }
    }

    /// Whether a list stands under the key.
    pub(crate) fn is_list(&self, key: &str) -> bool {
        self.table.iter().any(|(name, value)| name.get_ref().as_ref() == key && value.get_ref().is_array())
    }

    /// Whether a text stands under the key.
    pub(crate) fn is_text(&self, key: &str) -> bool {
        self.table.iter().any(|(name, value)| name.get_ref().as_ref() == key && value.get_ref().is_str())
    }

    /// Whether this text stands under the key.
    pub(crate) fn is(&self, key: &str, text: &str) -> bool {
        let mut values = self.table.iter().filter(|(name, _)| name.get_ref().as_ref() == key);
        values.any(|(_, value)| value.get_ref().as_str() == Some(text))
    }

    /// A table of whole numbers, with the place of each name: `{ NAME = 5 }`.
    pub(crate) fn numbers(&self, key: &'static str, range: RangeInclusive<i64>) -> Vec<(At<String>, i64)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table of whole numbers, such as { NAME = 5 }");
            return Vec::new();
        };
        self.bounded(key, table.len(), &value.span());
        let mut numbers = Vec::new();
        for (name, item) in table.iter().take(MOST_ENTRIES) {
            let number = match item.get_ref() {
                DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
                _ => None,
            };
            match number.filter(|number| range.contains(number)) {
                Some(number) => {
                    numbers.push((At { value: name.get_ref().to_string(), at: name.span() }, number));
                }
                None => self.problems.note(
                    &item.span(),
                    format!(
                        "`{}` in [{}] must be a whole number from {} to {}",
                        name.get_ref(),
                        self.path(key),
                        range.start(),
                        range.end()
                    ),
                ),
            }
        }
        numbers.sort_by_key(|(name, _)| name.at.start);
        numbers
    }

    /// The texts directly in the table under a key, whatever their names; nothing becomes known by it.
    pub(crate) fn peek(&self, key: &str) -> Option<Vec<(String, At<String>)>> {
        let (_, value) = self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
        let table = value.get_ref().as_table()?;
        let texts = table.iter().filter_map(|(name, item)| {
            let text = item.get_ref().as_str()?.to_owned();
            Some((name.get_ref().to_string(), At { value: text, at: item.span() }))
        });
        Some(texts.collect())
    }

    /// The named tables under a key, in the order of the file: `[server.a]`, `[server.b]`.
    pub(crate) fn named(&self, key: &'static str) -> Vec<(At<String>, Section<'a>)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, &format!("tables with names, such as [{}.NAME]", self.path(key)));
            return Vec::new();
        };
        self.bounded(key, table.len(), &value.span());
        let mut found = Vec::new();
        for (name, item) in table.iter().take(MOST_ENTRIES) {
            let name = At { value: name.get_ref().to_string(), at: name.span() };
            match item.get_ref().as_table() {
                Some(inner) => {
                    let title = format!("[{}.{}]", self.path(key), name.value);
                    found.push((name, Section::new(title, item.span(), inner, self.problems)));
                }
                None => self.problems.help(
                    &name.at,
                    format!("`{}` in [{}] is not a table", name.value, self.path(key)),
                    format!("give each {key} a name and a table of its own: [{}.NAME]", self.path(key)),
                ),
            }
        }
        found.sort_by_key(|(name, _)| name.at.start);
        found
    }

    /// The tables of a list: `[[route]]`, or `[ { ... }, { ... } ]`.
    pub(crate) fn list(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(key, value, &format!("a list of tables, such as [[{}]]", self.path(key)));
            return Vec::new();
        };
        self.bounded(key, list.len(), &value.span());
        let mut found = Vec::new();
        for item in list.iter().take(MOST_ENTRIES) {
            match item.get_ref().as_table() {
                Some(table) => {
                    found.push(Section::new(
                        format!("[[{}]]", self.path(key)),
                        item.span(),
                        table,
                        self.problems,
                    ));
                }
                None => self.wrong_type(key, item, "a list of tables only"),
            }
        }
        found
    }

    fn bounded(&self, key: &str, count: usize, at: &Range<usize>) {
        if count > MOST_ENTRIES {
            self.problems.note(
                at,
                format!("`{key}` in {} has {count} entries; at most {MOST_ENTRIES} are allowed", self.title),
            );
        }
    }

    /// Complains of every key that nobody asked for.
    pub(crate) fn finish(self) {
        let known = self.known.borrow();
        for (name, _) in self.table {
            let name_text = name.get_ref().as_ref();
            if !known.contains(&name_text) {
                let message = if self.title.is_empty() {
                    format!("unknown section `{name_text}`")
                } else {
                    format!("unknown key `{name_text}` in {}", self.title)
                };
                self.problems.help(&name.span(), message, suggestion(name_text, &known));
            }
        }
    }
}

/// "did you mean", or what there is.
pub(crate) fn suggestion(found: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&found.to_ascii_lowercase(), name), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len().min(found.len()) / 3)
        .min();
    if let Some((_, name)) = nearest {
        return format!("did you mean `{name}`?");
    }
    let mut names: Vec<&str> = known.to_vec();
    names.sort_unstable();
    names.dedup();
    format!("known here: {}", names.join(", "))
}
