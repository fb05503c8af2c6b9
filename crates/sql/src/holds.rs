//! What a statement takes hold of on its connection, and what it lets go.

use crate::key::string_value;
use crate::lex::{LiteralKind, TokenKind};
use crate::mode::Mode;
use crate::plan::{Tokens, user_variable_name};

/// The name of a lock in a call of GET_LOCK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockName {
    /// A string, in the statement's character set.
    Text(Vec<u8>),
    /// The value of a `?`, counted from 0.
    Param(u16),
    /// The value of a user variable, lower case, without the @.
    Variable(String),
    /// Some other expression.
    Other,
}

/// Calls of a statement that take and release named locks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockCalls {
    /// The names of GET_LOCK.
    pub taken: Vec<LockName>,
    /// RELEASE_ALL_LOCKS is called.
    pub releases_all: bool,
}

/// Finds these calls.
#[must_use]
pub fn lock_calls(text: &[u8], mode: Mode) -> LockCalls {
    let tokens = Tokens::new(text, mode);
    let mut calls = LockCalls::default();
    for at in (0..tokens.len()).filter(|at| tokens.is_op(at + 1, "(")) {
        if tokens.is_word(at, "GET_LOCK") {
            calls.taken.push(name(&tokens, at + 2));
        }
        calls.releases_all |= tokens.is_word(at, "RELEASE_ALL_LOCKS");
    }
    calls
}

fn name(tokens: &Tokens<'_>, at: usize) -> LockName {
    match tokens.kind(at) {
        _ if !tokens.is_op(at + 1, ",") => LockName::Other,
        Some(TokenKind::Literal(LiteralKind::Text)) => {
            LockName::Text(string_value(tokens.bytes(at), tokens.mode).into_owned())
        }
        Some(TokenKind::Literal(LiteralKind::Param(index))) => LockName::Param(index),
        Some(TokenKind::UserVar) => LockName::Variable(user_variable_name(tokens.bytes(at))),
        _ => LockName::Other,
    }
}

/// What a statement does about locks on whole tables or on the server, and about open handlers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableHold {
    /// LOCK TABLES.
    Tables,
    /// FLUSH TABLES .. WITH READ LOCK or FOR EXPORT.
    Flushed,
    /// UNLOCK TABLES, which ends both.
    NoTables,
    /// LOCK INSTANCE FOR BACKUP, MariaDB's BACKUP STAGE and BACKUP LOCK.
    Instance,
    /// Their ends.
    NoInstance,
    /// HANDLER x OPEN: the name that it is known by, lower case.
    Handler(String),
    /// HANDLER x CLOSE.
    NoHandler(String),
}

/// Reads that; `None` if the statement does nothing of the kind.
#[must_use]
pub fn table_hold(text: &[u8], mode: Mode) -> Option<TableHold> {
    let tokens = Tokens::new(text, mode);
    let ends = |words: &[&str]| (1..tokens.len()).any(|at| tokens.are_words(at, words));
    let is = |words: &[&str]| tokens.are_words(0, words);
    if is(&["LOCK", "INSTANCE"])
        || is(&["BACKUP", "STAGE"]) && !tokens.is_word(2, "END")
        || is(&["BACKUP", "LOCK"])
    {
        return Some(TableHold::Instance);
    }
    if is(&["UNLOCK", "INSTANCE"]) || is(&["BACKUP", "STAGE"]) || is(&["BACKUP", "UNLOCK"]) {
        return Some(TableHold::NoInstance);
    }
    if is(&["UNLOCK"]) {
        return Some(TableHold::NoTables);
    }
    if is(&["LOCK"]) {
        return Some(TableHold::Tables);
    }
    if is(&["FLUSH"]) && (ends(&["WITH", "READ", "LOCK"]) || ends(&["FOR", "EXPORT"])) {
        return Some(TableHold::Flushed);
    }
    if !is(&["HANDLER"]) {
        return None;
    }
    // HANDLER [schema.]table OPEN [[AS] alias]
    let verb = if tokens.is_op(2, ".") { 4 } else { 2 };
    let named = |at: usize| tokens.name(at).map(|name| name.to_lowercase());
    if tokens.is_word(verb, "OPEN") {
        let alias = verb + 1 + usize::from(tokens.is_word(verb + 1, "AS"));
        return named(alias).or_else(|| named(verb - 1)).map(TableHold::Handler);
    }
    let closes = tokens.is_word(verb, "CLOSE");
    closes.then(|| named(verb - 1)).flatten().map(TableHold::NoHandler)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_locks_are_read_where_they_are_plain() {
        let calls = |text: &str| lock_calls(text.as_bytes(), Mode::default());
        let found =
            calls("SELECT GET_LOCK('a''b', 10), get_lock(?, 1), GET_LOCK(@X, 0), GET_LOCK(CONCAT('a'), 1)");
        let expected = [
            LockName::Text(b"a'b".to_vec()),
            LockName::Param(0),
            LockName::Variable("x".into()),
            LockName::Other,
        ];
        assert_eq!(found.taken, expected);
        assert!(!found.releases_all && calls("DO RELEASE_ALL_LOCKS()").releases_all);
        assert_eq!(calls("SELECT 'GET_LOCK(1, 2)', RELEASE_LOCK('x')"), LockCalls::default());
    }

    #[test]
    fn holds_and_their_ends() {
        let hold = |text: &str| table_hold(text.as_bytes(), Mode::default());
        assert_eq!(hold("LOCK TABLES t READ"), Some(TableHold::Tables));
        assert_eq!(hold("flush tables t with read lock"), Some(TableHold::Flushed));
        assert_eq!(hold("FLUSH TABLES"), None);
        assert_eq!(hold("UNLOCK TABLES"), Some(TableHold::NoTables));
        assert_eq!(hold("BACKUP STAGE START"), Some(TableHold::Instance));
        assert_eq!(hold("BACKUP STAGE END"), Some(TableHold::NoInstance));
        assert_eq!(hold("HANDLER app.T OPEN"), Some(TableHold::Handler("t".into())));
        assert_eq!(hold("HANDLER t OPEN AS `H`"), Some(TableHold::Handler("h".into())));
        assert_eq!(hold("HANDLER h CLOSE"), Some(TableHold::NoHandler("h".into())));
        assert_eq!(hold("HANDLER h READ NEXT"), None);
    }
}
