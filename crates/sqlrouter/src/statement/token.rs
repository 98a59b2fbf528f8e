//! Cuts a statement into tokens. Comments are skipped, but what is in `/*! ... */` is read: some server runs it.

use super::{Hint, Mode};

/// A piece of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword, or a name without quotes.
    Word(&'a [u8]),
    /// A name in quotes.
    Name(&'a [u8]),
    /// A string.
    Text,
    /// A number.
    Number(&'a [u8]),
    /// `@name`.
    UserVariable,
    /// `@@name`, the name without its scope.
    SystemVariable(&'a [u8]),
    /// One character of punctuation; `:=` is `:`.
    Sign(u8),
}

/// Reads tokens from front to back.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    mode: Mode,
    /// Inside of `/*! ... */`.
    in_executed: bool,
    pub(super) hint: Option<Hint>,
    /// There is a comment that some servers run and others skip.
    pub(super) is_conditional: bool,
    /// A string or comment does not end: the statement is not understood.
    pub(super) is_broken: bool,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8], mode: Mode) -> Self {
        Self { text, at: 0, mode, in_executed: false, hint: None, is_conditional: false, is_broken: false }
    }

    /// Where the next token is looked for.
    pub(super) fn place(&self) -> usize {
        self.at
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Skips what is no token; whether something is left.
    fn skip(&mut self) -> bool {
        while let Some(byte) = self.text.get(self.at).copied() {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'#' => self.skip_line(),
                b'-' if self.peek(1) == b'-' && (self.peek(2) <= b' ') => self.skip_line(),
                b'/' if self.peek(1) == b'*' => self.comment(),
                b'*' if self.in_executed && self.peek(1) == b'/' => {
                    self.in_executed = false;
                    self.at += 2;
                }
                _ => return true,
            }
        }
        self.is_broken |= self.in_executed;
        false
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
    }

    fn comment(&mut self) {
        let executed = self.peek(2) == b'!' || (self.peek(2) == b'M' && self.peek(3) == b'!');
        if executed {
            self.is_broken |= self.in_executed;
            self.in_executed = true;
            self.is_conditional = true;
            self.at += if self.peek(2) == b'!' { 3 } else { 4 };
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
            return;
        }
        let begin = self.at + 2;
        let rest = self.text.get(begin..).unwrap_or_default();
        if let Some(length) = memchr::memmem::find(rest, b"*/") {
            self.hint = hint(&rest[..length]).or(self.hint);
            self.at = begin + length + 2;
        } else {
            self.is_broken = true;
            self.at = self.text.len();
        }
    }

    fn word(&mut self) -> &'a [u8] {
        let begin = self.at;
        while self.text.get(self.at).copied().is_some_and(is_word) {
            self.at += 1;
        }
        &self.text[begin..self.at]
    }

    /// From an opening quote to the closing one; a doubled one is part of it.
    fn quoted(&mut self, quote: u8, escapes: bool) -> &'a [u8] {
        self.at += 1;
        let begin = self.at;
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let found =
                if escapes { memchr::memchr2(quote, b'\\', rest) } else { memchr::memchr(quote, rest) };
            let Some(found) = found else {
                self.is_broken = true;
                self.at = self.text.len();
                return &self.text[begin.min(self.at)..];
            };
            self.at += found;
            if self.text[self.at] == b'\\' || self.peek(1) == quote {
                self.at += 2;
                continue;
            }
            let inside = &self.text[begin..self.at];
            self.at += 1;
            return inside;
        }
    }

    fn variable(&mut self) -> Token<'a> {
        self.at += 1;
        if self.peek(0) == b'@' {
            self.at += 1;
            let mut name = self.variable_name();
            let is_scope =
                [&b"session"[..], b"local", b"global"].iter().any(|scope| name.eq_ignore_ascii_case(scope));
            if is_scope && self.peek(0) == b'.' {
                self.at += 1;
                // A global value is a server's own.
                name = if name.eq_ignore_ascii_case(b"global") { b"global" } else { self.variable_name() };
            }
            return Token::SystemVariable(name);
        }
        match self.peek(0) {
            quote @ (b'\'' | b'"' | b'`') => {
                self.quoted(quote, quote != b'`' && !self.mode.no_backslash_escapes);
            }
            _ => {
                while is_word(self.peek(0)) || self.peek(0) == b'.' {
                    self.at += 1;
                }
            }
        }
        Token::UserVariable
    }

    fn variable_name(&mut self) -> &'a [u8] {
        if self.peek(0) == b'`' { self.quoted(b'`', false) } else { self.word() }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if !self.skip() {
            return None;
        }
        let byte = self.text[self.at];
        let token = match byte {
            b'"' if self.mode.ansi_quotes => Token::Name(self.quoted(byte, false)),
            b'\'' | b'"' => {
                self.quoted(byte, !self.mode.no_backslash_escapes);
                Token::Text
            }
            b'`' => Token::Name(self.quoted(byte, false)),
            b'@' => self.variable(),
            b'0'..=b'9' => {
                let word = self.word();
                // A name may begin with a digit.
                if word.iter().all(u8::is_ascii_digit) { Token::Number(word) } else { Token::Word(word) }
            }
            byte if is_word(byte) => Token::Word(self.word()),
            b':' if self.peek(1) == b'=' => {
                self.at += 2;
                Token::Sign(b':')
            }
            b':' => {
                self.at += 1;
                Token::Sign(b'?')
            }
            byte => {
                self.at += 1;
                Token::Sign(byte)
            }
        };
        Some(token)
    }
}

/// The wish in a comment, if it is one: `mainstay: primary`.
fn hint(comment: &[u8]) -> Option<Hint> {
    let text = std::str::from_utf8(comment).ok()?.trim();
    let wish = text.strip_prefix("mainstay:")?.trim();
    match wish {
        "primary" => Some(Hint::Primary),
        "replica" => Some(Hint::Replica),
        "eventual" => Some(Hint::Eventual),
        "session" => Some(Hint::Session),
        "strong" => Some(Hint::Strong),
        _ => None,
    }
}
