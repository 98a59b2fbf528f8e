//! From words to what a statement does.

use super::functions::{only_computes, takes_parenthesis};
use super::token::{Token, Tokens};
use super::{Bind, Kind, Mode, Statement};

/// Schemas whose tables tell of the server that is asked.
const OF_THE_SERVER: [&[u8]; 4] = [b"information_schema", b"performance_schema", b"mysql", b"sys"];
/// System variables whose value is the session's, or the same on all servers of a site.
const PLAIN_VARIABLES: [&[u8]; 17] = [
    b"autocommit",
    b"auto_increment_increment",
    b"character_set_client",
    b"character_set_connection",
    b"character_set_results",
    b"character_set_server",
    b"collation_connection",
    b"collation_server",
    b"interactive_timeout",
    b"lower_case_table_names",
    b"max_allowed_packet",
    b"sql_mode",
    b"time_zone",
    b"tx_isolation",
    b"version",
    b"version_comment",
    b"wait_timeout",
];

const STORED: &str = "a stored function may do anything";

/// Finds out what a statement does.
pub fn classify(text: &[u8], mode: Mode) -> Statement {
    let mut tokens = Tokens::new(text, mode);
    let mut statement = Statement {
        kind: Kind::Write,
        why: "it is not known to be a plain read",
        bind: Bind::Nothing,
        hint: None,
        several: false,
        last_insert_id: false,
        tableless: false,
        harmless: false,
        may_commit: false,
    };
    let first = loop {
        match tokens.next() {
            // `(SELECT ...) UNION ...`
            Some(Token::Sign(b'(' | b';')) => {}
            Some(Token::Word(word)) => break upper(word),
            Some(_) => break Upper::default(),
            None => {
                statement.kind = Kind::Empty;
                statement.hint = tokens.hint;
                return statement;
            }
        }
    };
    match first.text() {
        b"SELECT" | b"WITH" | b"VALUES" | b"TABLE" => {
            read(&mut tokens, &mut statement, first.text() == b"WITH");
        }
        other => {
            statement.may_commit = true;
            leading(other, &mut tokens, &mut statement);
            rest(&mut tokens, &mut statement);
        }
    }
    if statement.several {
        statement.harmless = false;
        (statement.kind, statement.why) = (Kind::Write, "several statements go together");
        statement.may_commit = true;
        if statement.bind == Bind::Nothing {
            // What the others did was not looked at.
            statement.bind = Bind::Connection("several statements were sent in one");
        }
    }
    if tokens.is_conditional {
        // What it does depends on the server's version, and what was taken for its first word may be skipped.
        if statement.kind == Kind::Read {
            (statement.kind, statement.why) = (Kind::Write, "a comment in it is run by some servers only");
        }
        (statement.tableless, statement.harmless, statement.may_commit) = (false, false, true);
    }
    if tokens.is_broken {
        (statement.kind, statement.why) = (Kind::Write, "it cannot be read");
        statement.bind = Bind::Connection("a statement could not be read");
        statement.may_commit = true;
    }
    statement.hint = tokens.hint;
    statement
}

/// Statements that begin with something else than a read.
fn leading(first: &[u8], tokens: &mut Tokens<'_>, statement: &mut Statement) {
    let changes = |statement: &mut Statement, why| (statement.kind, statement.why) = (Kind::Write, why);
    match first {
        b"INSERT" | b"UPDATE" | b"DELETE" | b"REPLACE" | b"LOAD" => {
            changes(statement, "it changes data");
            statement.may_commit = false;
        }
        b"BEGIN" | b"START" => (statement.kind, statement.why) = (Kind::Begin, "a transaction begins"),
        b"COMMIT" => (statement.kind, statement.why) = (Kind::Commit, "a transaction ends"),
        b"ROLLBACK" | b"SAVEPOINT" | b"RELEASE" => {
            (statement.kind, statement.why) = (Kind::Rollback, "it belongs to a transaction");
            statement.may_commit = false;
        }
        b"SET" => set(tokens, statement),
        b"USE" => {
            (statement.kind, statement.why) = (Kind::Use, "it changes the schema");
            statement.may_commit = false;
        }
        b"SHOW" => show(tokens, statement),
        b"DESC" | b"DESCRIBE" | b"EXPLAIN" | b"ANALYZE" | b"HELP" | b"CHECKSUM" => {
            changes(statement, "it asks about the server");
            statement.harmless = true;
        }
        b"GET" => (statement.kind, statement.why) = (Kind::Diagnostics, "it asks about the last statement"),
        b"KILL" => kill(tokens, statement),
        b"CALL" | b"EXECUTE" => {
            changes(statement, "a procedure may do anything");
            statement.bind = Bind::Connection("a procedure may have left variables or temporary tables");
        }
        b"CREATE" | b"DROP" | b"ALTER" => create(tokens, statement),
        b"LOCK" => {
            changes(statement, "it locks");
            statement.bind = Bind::Connection("tables are locked");
        }
        b"UNLOCK" => {
            changes(statement, "it unlocks");
            statement.bind = Bind::Unlocked;
        }
        b"FLUSH" => {
            changes(statement, "it is for the server");
            statement.bind = Bind::Connection("tables may be locked");
        }
        b"PREPARE" | b"DEALLOCATE" => {
            changes(statement, "the statement that it prepares is the connection's");
            statement.bind = Bind::Connection("a statement was prepared by PREPARE");
        }
        b"HANDLER" => {
            changes(statement, "a handler is the connection's");
            statement.bind = Bind::Connection("a handler is open");
        }
        b"XA" => {
            changes(statement, "it belongs to a distributed transaction");
            statement.bind = Bind::Connection("a distributed transaction");
        }
        b"DO" => changes(statement, "DO is for what it does besides computing"),
        _ => {}
    }
}

fn show(tokens: &mut Tokens<'_>, statement: &mut Statement) {
    (statement.kind, statement.why) = (Kind::Write, "it asks about the server");
    (statement.may_commit, statement.harmless) = (false, true);
    match tokens.next() {
        Some(Token::Word(word)) if is(word, b"WARNINGS") || is(word, b"ERRORS") || is(word, b"COUNT") => {
            (statement.kind, statement.why) = (Kind::Diagnostics, "it asks about the last statement");
        }
        Some(Token::Word(word)) if is(word, b"MAINSTAY") => {
            let mut next_is =
                |expected| matches!(tokens.next(), Some(Token::Word(word)) if is(word, expected));
            if next_is(b"ROUTE") && next_is(b"FOR") {
                let begin = tokens.place();
                (statement.kind, statement.why) = (Kind::Explain { begin }, "the router answers it");
            }
        }
        _ => {}
    }
}

fn kill(tokens: &mut Tokens<'_>, statement: &mut Statement) {
    statement.why = "it ends what another connection does";
    statement.may_commit = false;
    let mut query = false;
    for token in tokens.by_ref() {
        match token {
            Token::Word(word) if is(word, b"QUERY") => query = true,
            Token::Word(word) if is(word, b"CONNECTION") || is(word, b"HARD") || is(word, b"SOFT") => {}
            Token::Number(digits) => {
                if let Some(connection) = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok())
                {
                    statement.kind = Kind::Kill { connection, query };
                }
                return;
            }
            _ => return,
        }
    }
}

fn create(tokens: &mut Tokens<'_>, statement: &mut Statement) {
    (statement.kind, statement.why) = (Kind::Write, "it changes definitions");
    // CREATE [OR REPLACE] TEMPORARY TABLE
    for _ in 0..3 {
        match tokens.next() {
            Some(Token::Word(word)) if is(word, b"TEMPORARY") => {
                statement.bind = Bind::Connection("it has temporary tables");
                return;
            }
            Some(Token::Word(word)) if is(word, b"OR") || is(word, b"REPLACE") => {}
            // The bodies of routines hold statements and semicolons of their own.
            Some(Token::Sign(b';')) => statement.several = true,
            _ => return,
        }
    }
}

fn set(tokens: &mut Tokens<'_>, statement: &mut Statement) {
    (statement.kind, statement.why) = (Kind::Set, "it changes the session's settings");
    let mut first = true;
    // At the beginning of an assignment.
    let mut begins = true;
    let mut depth = 0_u32;
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) if begins => {
                begins = is(word, b"SESSION") || is(word, b"LOCAL");
                match upper(word).text() {
                    b"NAMES" | b"CHARACTER" | b"CHARSET" if first => {
                        (statement.kind, statement.why) =
                            (Kind::SetNames, "it changes the session's character set");
                    }
                    b"TRANSACTION" if first => {
                        statement.bind = Bind::NextTransaction;
                        statement.kind = Kind::Write;
                    }
                    b"GLOBAL" | b"PASSWORD" | b"ROLE" | b"DEFAULT" | b"STATEMENT" | b"PERSIST" if first => {
                        (statement.kind, statement.why) =
                            (Kind::Write, "it changes more than the session's settings");
                        if is(word, b"ROLE") {
                            statement.bind = Bind::Connection("it has another role");
                        }
                    }
                    b"SESSION_TRACK_SYSTEM_VARIABLES" => {
                        statement.bind = Bind::Connection("it changed what the server reports");
                    }
                    b"GLOBAL" => statement.kind = Kind::Write,
                    _ => {}
                }
                first = false;
            }
            Token::UserVariable if begins => {
                statement.bind = Bind::Connection("it has variables of its own (@name)");
                (begins, first) = (false, false);
            }
            Token::SystemVariable(name) if begins => {
                if is(name, b"GLOBAL") {
                    (statement.kind, statement.why) =
                        (Kind::Write, "it changes more than the session's settings");
                }
                (begins, first) = (false, false);
            }
            Token::Sign(b'(') => depth += 1,
            Token::Sign(b')') => depth = depth.saturating_sub(1),
            Token::Sign(b',') if depth == 0 => begins = true,
            Token::Sign(b';') => {
                statement.several |= tokens.next().is_some();
                return;
            }
            _ => (begins, first) = (false, false),
        }
    }
}

/// What may come in any statement that is no read.
fn rest(tokens: &mut Tokens<'_>, statement: &mut Statement) {
    let mut previous = None;
    while let Some(token) = tokens.next() {
        match token {
            // The body of a routine, or several statements: it goes to the primary in either case.
            Token::Sign(b';') => statement.several |= tokens.next().is_some(),
            Token::Sign(b'(') => {
                if let Some(Token::Word(word)) = previous {
                    function(upper(word).text(), statement);
                }
            }
            Token::Sign(b':') => bind(statement, "it has variables of its own (@name)"),
            Token::UserVariable if matches!(previous, Some(Token::Word(word)) if is(word, b"INTO")) => {
                bind(statement, "it has variables of its own (@name)");
            }
            _ => {}
        }
        previous = Some(token);
    }
}

fn bind(statement: &mut Statement, why: &'static str) {
    if statement.bind == Bind::Nothing {
        statement.bind = Bind::Connection(why);
    }
}

/// Functions that bind the session, or read what the last INSERT gave; in any statement.
fn function(name: &[u8], statement: &mut Statement) {
    match name {
        b"GET_LOCK" | b"RELEASE_LOCK" | b"RELEASE_ALL_LOCKS" => {
            bind(statement, "it may hold a lock of GET_LOCK");
        }
        b"LAST_INSERT_ID" => statement.last_insert_id = true,
        _ => {}
    }
}

/// A statement that begins like a read.
fn read(tokens: &mut Tokens<'_>, statement: &mut Statement, with: bool) {
    (statement.kind, statement.why, statement.tableless) = (Kind::Read, "it is a plain read", true);
    let primary = |statement: &mut Statement, why| {
        if statement.kind == Kind::Read {
            (statement.kind, statement.why) = (Kind::Write, why);
        }
    };
    let mut previous: Option<Token<'_>> = None;
    let mut before: Option<Token<'_>> = None;
    while let Some(token) = tokens.next() {
        let after = |word: &[u8]| matches!(previous, Some(Token::Word(last)) if is(last, word));
        match token {
            Token::Word(word) => match upper(word).text() {
                b"FROM" | b"TABLE" | b"JOIN" => statement.tableless = false,
                b"UPDATE" | b"SHARE" if after(b"FOR") => {
                    (statement.kind, statement.why) = (Kind::LockingRead, "it locks what it reads");
                }
                b"SHARE" if after(b"IN") => {
                    (statement.kind, statement.why) = (Kind::LockingRead, "it locks what it reads");
                }
                b"UPDATE" | b"DELETE" | b"INSERT" if with => primary(statement, "it changes data"),
                b"OUTFILE" | b"DUMPFILE" => primary(statement, "it writes a file"),
                b"INTO" => primary(statement, "its result goes somewhere else than to the client"),
                b"VALUE" if after(b"NEXT") => primary(statement, "it takes a number of a sequence"),
                b"VALUE" if after(b"PREVIOUS") => {
                    primary(statement, "it reads the last number of a sequence");
                }
                b"PROCEDURE" => primary(statement, "a procedure may do anything"),
                b"SQL_CALC_FOUND_ROWS" => {
                    primary(statement, "FOUND_ROWS() may be asked for next");
                }
                _ => {}
            },
            Token::UserVariable => {
                primary(statement, "it reads or sets variables of the session");
                if after(b"INTO") {
                    bind(statement, "it has variables of its own (@name)");
                }
            }
            Token::SystemVariable(name) => {
                let name = upper(name);
                if [&b"LAST_INSERT_ID"[..], b"IDENTITY"].contains(&name.text()) {
                    statement.last_insert_id = true;
                    primary(statement, "it asks what the last INSERT gave");
                } else if [&b"WARNING_COUNT"[..], b"ERROR_COUNT"].contains(&name.text()) {
                    (statement.kind, statement.why) = (Kind::Diagnostics, "it asks about the last statement");
                } else if !PLAIN_VARIABLES.iter().any(|plain| is(plain, name.text())) {
                    primary(statement, "it reads a variable of the server");
                }
            }
            Token::Sign(b'(') => match previous {
                Some(Token::Word(word)) => {
                    let name = upper(word);
                    function(name.text(), statement);
                    if before == Some(Token::Sign(b'.')) {
                        primary(statement, STORED);
                    } else {
                        match name.text() {
                            b"FOUND_ROWS" | b"ROW_COUNT" => {
                                (statement.kind, statement.why) =
                                    (Kind::Diagnostics, "it asks about the last statement");
                            }
                            b"GET_LOCK" | b"RELEASE_LOCK" | b"IS_FREE_LOCK" | b"IS_USED_LOCK"
                            | b"RELEASE_ALL_LOCKS" => primary(statement, "locks are the primary's"),
                            b"LAST_INSERT_ID" => primary(statement, "it asks what the last INSERT gave"),
                            text if takes_parenthesis(text) || only_computes(text) => {}
                            _ => primary(statement, STORED),
                        }
                    }
                }
                Some(Token::Name(_)) if !matches!(before, Some(Token::Word(word)) if is(word, b"WITH")) => {
                    primary(statement, STORED);
                }
                _ => {}
            },
            Token::Sign(b'.') => {
                if let Some(Token::Word(name) | Token::Name(name)) = previous
                    && OF_THE_SERVER.iter().any(|schema| is(schema, name))
                {
                    primary(statement, "it reads tables about the server");
                }
            }
            Token::Sign(b':') => {
                primary(statement, "it sets a variable of the session");
                bind(statement, "it has variables of its own (@name)");
            }
            Token::Sign(b';') => statement.several |= tokens.next().is_some(),
            Token::Name(_) | Token::Text | Token::Number(_) | Token::Sign(_) => {}
        }
        (before, previous) = (previous, Some(token));
    }
    statement.tableless &= statement.kind == Kind::Read;
    statement.harmless = ![STORED, "it changes data", "a procedure may do anything"].contains(&statement.why);
}

fn is(word: &[u8], expected: &[u8]) -> bool {
    word.eq_ignore_ascii_case(expected)
}

/// A word in capitals; longer ones than any that is looked for are cut.
#[derive(Default)]
struct Upper {
    bytes: [u8; 32],
    length: usize,
}

impl Upper {
    fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn upper(word: &[u8]) -> Upper {
    let mut upper = Upper { length: word.len().min(32), ..Upper::default() };
    for (to, from) in upper.bytes.iter_mut().zip(word) {
        *to = from.to_ascii_uppercase();
    }
    upper
}

#[cfg(test)]
mod tests;
