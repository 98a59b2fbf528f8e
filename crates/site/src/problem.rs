//! What is wrong with a site file, each with its place, told so that a person can mend it without a manual.

use std::fmt;
use std::ops::Range;

use serde::Serialize;
use thiserror::Error;

/// One thing that is wrong, at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The bytes of the file that are wrong.
    pub(crate) at: Range<usize>,
    /// What is wrong, and why.
    pub(crate) message: String,
    /// What would be right.
    pub(crate) help: Option<String>,
}

/// Everything that is wrong with one file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct SiteErrors {
    file: String,
    text: String,
    problems: Vec<Problem>,
}

/// A problem with its place as people count: lines and columns from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacedProblem {
    /// The file's name as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and why.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

impl SiteErrors {
    pub(crate) fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        debug_assert!(
            problems.iter().all(|problem| problem.at.start <= problem.at.end && problem.at.end <= text.len()),
            "a problem lies outside the file: {problems:?}"
        );
        problems.sort_by_key(|problem| (problem.at.start, problem.at.end));
        problems.dedup();
        Self { file: file.to_owned(), text: text.to_owned(), problems }
    }

    /// The problems with their places, for programs.
    pub fn placed(&self) -> Vec<PlacedProblem> {
        self.problems
            .iter()
            .map(|problem| {
                let place = Place::of(&self.text, problem.at.start);
                PlacedProblem {
                    file: self.file.clone(),
                    line: place.line,
                    column: place.column,
                    message: problem.message.clone(),
                    help: problem.help.clone(),
                }
            })
            .collect()
    }
}

/// Where a byte lies, and the line it lies in.
struct Place<'a> {
    line: usize,
    column: usize,
    source: &'a str,
    line_start: usize,
}

impl<'a> Place<'a> {
    fn of(text: &'a str, byte: usize) -> Self {
        let mut byte = byte.min(text.len());
        while !text.is_char_boundary(byte) {
            byte -= 1;
        }
        let before = &text[..byte];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let source = text[line_start..].lines().next().unwrap_or("");
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            source,
            line_start,
        }
    }
}

/// Source lines longer than this are cut in messages, so that a file of one huge line stays readable.
const SHOWN_CHARACTERS: usize = 160;

impl fmt::Display for SiteErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            let place = Place::of(&self.text, problem.at.start);
            let number = place.line.to_string();
            let margin = " ".repeat(number.len());
            writeln!(f, "error: {}", problem.message)?;
            writeln!(f, "{margin}--> {}:{}:{}", self.file, place.line, place.column)?;
            if !place.source.trim().is_empty() && place.column <= SHOWN_CHARACTERS {
                let shown: String = place.source.chars().take(SHOWN_CHARACTERS).collect();
                let before: String = shown
                    .chars()
                    .take(place.column - 1)
                    .map(|character| if character == '\t' { '\t' } else { ' ' })
                    .collect();
                let end = problem.at.end.min(place.line_start + place.source.len()).max(problem.at.start);
                let width = self.text.get(problem.at.start..end).map_or(1, |marked| marked.chars().count());
                let width = width.clamp(1, SHOWN_CHARACTERS + 1 - place.column);
                writeln!(f, "{margin} |")?;
                writeln!(f, "{number} | {shown}")?;
                writeln!(f, "{margin} | {before}{}", "^".repeat(width))?;
            }
            if let Some(help) = &problem.help {
                writeln!(f, "{margin} = help: {help}")?;
            }
            writeln!(f)?;
        }
        match self.problems.len() {
            1 => write!(f, "{}: 1 error", self.file),
            count => write!(f, "{}: {count} errors", self.file),
        }
    }
}
