//! What a SET statement assigns.

use std::ops::Range;

use crate::key::string_value;
use crate::lex::{LiteralKind, TokenKind};
use crate::mode::Mode;
use crate::plan::Tokens;

/// What a SET does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Set {
    /// A list of assignments, in order.
    Assignments(Vec<Assignment>),
    /// MariaDB's `SET STATEMENT a=1 FOR ..`: the assignments hold for the statement at this offset only.
    Statement {
        /// What holds.
        assignments: Vec<Assignment>,
        /// Where the statement begins.
        statement: usize,
    },
    /// SET PASSWORD, SET ROLE, SET DEFAULT ROLE, SET RESOURCE GROUP: accounts, not variables.
    Account,
}

/// One assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// A system variable.
    Variable {
        /// Where it is set.
        scope: Scope,
        /// Lower case, with a component's prefix if there is one.
        name: String,
        /// The value.
        value: Value,
    },
    /// `@name`, lower case.
    UserVar {
        /// Without the @.
        name: String,
        /// The value.
        value: Value,
    },
    /// SET NAMES.
    Names {
        /// None for DEFAULT.
        charset: Option<String>,
        /// COLLATE.
        collation: Option<String>,
    },
    /// SET CHARACTER SET; None for DEFAULT.
    CharacterSet(Option<String>),
    /// SET TRANSACTION.
    Transaction {
        /// `NextTransaction` if neither SESSION nor GLOBAL is written.
        scope: Scope,
        /// `READ-COMMITTED` and so on, as the variable spells it.
        isolation: Option<&'static str>,
        /// READ ONLY or READ WRITE.
        read_only: Option<bool>,
    },
}

/// Where a variable is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// SESSION, LOCAL, `@@x`, or nothing.
    Session,
    /// GLOBAL, and PERSIST.
    Global,
    /// SET TRANSACTION without a scope.
    NextTransaction,
}

/// The right side of an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its bytes in the statement.
    pub span: Range<usize>,
    /// What it is, if that is plain to see.
    pub constant: Option<Constant>,
}

/// A right side that needs no server to evaluate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constant {
    /// A whole number with its sign.
    Int(i128),
    /// A number with a point or exponent, as written.
    Real(String),
    /// A string's value, or a bare word such as ON, utf8mb4 or TRUE.
    Text(Vec<u8>),
    /// DEFAULT.
    Default,
    /// NULL.
    Null,
}

/// Why a SET cannot be read; the server will have its own words for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("usher cannot read this SET near {0}")]
pub struct SetError(pub String);

/// Reads a SET statement; `None` if it is none.
///
/// # Errors
/// Where the statement has an unknown form.
pub fn parse(text: &[u8], mode: Mode) -> Result<Option<Set>, SetError> {
    let tokens = Tokens::new(text, mode);
    if !tokens.is_word(0, "SET") {
        return Ok(None);
    }
    if tokens.is_word(1, "STATEMENT") {
        let at =
            tokens.find(2..tokens.len(), |at| tokens.is_word(at, "FOR")).ok_or_else(|| error(&tokens, 2))?;
        let statement = tokens.item(at + 1).ok_or_else(|| error(&tokens, at))?.token.span().start;
        let assignments = assignments(&tokens, 2..at)?;
        return Ok(Some(Set::Statement { assignments, statement }));
    }
    let account = tokens.is_any(1, &["PASSWORD", "ROLE"]) && !tokens.is_op(2, "=")
        || tokens.is_word(1, "PASSWORD")
        || tokens.are_words(1, &["DEFAULT", "ROLE"])
        || tokens.are_words(1, &["RESOURCE", "GROUP"]);
    if account {
        return Ok(Some(Set::Account));
    }
    Ok(Some(Set::Assignments(assignments(&tokens, 1..tokens.len())?)))
}

/// The SET without its assignments of variables for which `dropped` holds: `None` if there are none of these, an empty
/// text if there are no others.
#[must_use]
pub fn without(text: &[u8], mode: Mode, dropped: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    let tokens = Tokens::new(text, mode);
    let (mut kept, mut sticky): (Vec<&[u8]>, _) = (Vec::new(), Scope::Session);
    let parts = tokens.split_commas(1..tokens.len());
    for part in &parts {
        let is_dropped = matches!(
            assignment(&tokens, part.clone(), &mut sticky),
            Ok(Assignment::Variable { scope: Scope::Session, name, .. }) if dropped(&name)
        );
        let (first, last) = (tokens.item(part.start)?, tokens.item(part.end.checked_sub(1)?)?);
        if !is_dropped {
            kept.push(text.get(first.token.span().start..last.token.span().end)?);
        }
    }
    match (kept.len() == parts.len(), kept.is_empty()) {
        (true, _) => None,
        (_, true) => Some(Vec::new()),
        _ => Some([b"SET ", &kept.join(&b", "[..])[..]].concat()),
    }
}

fn error(tokens: &Tokens<'_>, at: usize) -> SetError {
    SetError(String::from_utf8_lossy(tokens.bytes(at)).chars().take(32).collect())
}

fn assignments(tokens: &Tokens<'_>, range: Range<usize>) -> Result<Vec<Assignment>, SetError> {
    let mut found = Vec::new();
    // SET TRANSACTION ISOLATION LEVEL x, READ ONLY: commas are its own.
    let scope = usize::from(tokens.is_any(range.start, &["SESSION", "LOCAL", "GLOBAL"]));
    if tokens.is_word(range.start + scope, "TRANSACTION")
        && tokens.is_any(range.start + scope + 1, &["ISOLATION", "READ"])
    {
        return Ok(vec![transaction(tokens, range, scope == 1)?]);
    }
    // A scope word holds for the variables behind it, up to the next scope word.
    let mut sticky = Scope::Session;
    for part in tokens.split_commas(range) {
        found.push(assignment(tokens, part, &mut sticky)?);
    }
    Ok(found)
}

fn scope_word(tokens: &Tokens<'_>, at: usize) -> Option<Scope> {
    if tokens.is_op(at + 1, "=") || tokens.is_op(at + 1, ":=") {
        return None;
    }
    if tokens.is_any(at, &["SESSION", "LOCAL"]) {
        Some(Scope::Session)
    } else if tokens.is_any(at, &["GLOBAL", "PERSIST", "PERSIST_ONLY"]) {
        Some(Scope::Global)
    } else {
        None
    }
}

fn assignment(tokens: &Tokens<'_>, part: Range<usize>, sticky: &mut Scope) -> Result<Assignment, SetError> {
    let mut at = part.start;
    if tokens.is_word(at, "NAMES") && !tokens.is_op(at + 1, "=") {
        return Ok(names(tokens, at + 1, part.end));
    }
    let character_set =
        if tokens.are_words(at, &["CHARACTER", "SET"]) || tokens.are_words(at, &["CHAR", "SET"]) {
            Some(at + 2)
        } else {
            (tokens.is_word(at, "CHARSET") && !tokens.is_op(at + 1, "=")).then_some(at + 1)
        };
    if let Some(at) = character_set {
        return Ok(Assignment::CharacterSet(charset_word(tokens, at)));
    }
    if let Some(scope) = scope_word(tokens, at) {
        *sticky = scope;
        at += 1;
    }
    let equals = (at + 1..part.end).find(|at| tokens.is_op(*at, "=") || tokens.is_op(*at, ":="));
    let Some(equals) = equals.filter(|at| at + 1 < part.end) else { return Err(error(tokens, at)) };
    let value = value(tokens, equals + 1..part.end);
    if tokens.kind(at) == Some(TokenKind::UserVar) && equals == at + 1 {
        return Ok(Assignment::UserVar { name: crate::plan::user_variable_name(tokens.bytes(at)), value });
    }
    let (scope, name) = variable(tokens, at..equals, *sticky).ok_or_else(|| error(tokens, at))?;
    Ok(Assignment::Variable { scope, name, value })
}

/// `x`, `a.x`, `@@x`, `@@global.x`.
fn variable(tokens: &Tokens<'_>, range: Range<usize>, sticky: Scope) -> Option<(Scope, String)> {
    let mut raw = Vec::new();
    for at in range.clone() {
        raw.extend_from_slice(tokens.bytes(at));
    }
    let text = String::from_utf8_lossy(&raw).replace(['`', '"'], "").to_ascii_lowercase();
    if tokens.kind(range.start) != Some(TokenKind::SysVar) {
        return tokens.is_name(range.start).then_some((sticky, text));
    }
    let name = text.trim_start_matches('@');
    let scopes = [
        ("session.", Scope::Session),
        ("local.", Scope::Session),
        ("global.", Scope::Global),
        ("persist.", Scope::Global),
        ("persist_only.", Scope::Global),
    ];
    let scoped = scopes.iter().find_map(|(word, scope)| Some((*scope, name.strip_prefix(word)?.to_owned())));
    // `@@x` is the session's whatever scope word came before. For the variables of SET TRANSACTION the server takes
    // it as the next transaction's.
    Some(scoped.unwrap_or_else(|| {
        let next = ["transaction_isolation", "tx_isolation", "transaction_read_only", "tx_read_only"]
            .contains(&name);
        (if next { Scope::NextTransaction } else { Scope::Session }, name.to_owned())
    }))
}

fn value(tokens: &Tokens<'_>, range: Range<usize>) -> Value {
    let start = tokens.item(range.start).map_or(tokens.text.len(), |item| item.token.span().start);
    let end = tokens.item(range.end - 1).map_or(tokens.text.len(), |item| item.token.span().end);
    Value { span: start..end, constant: constant(tokens, range) }
}

fn constant(tokens: &Tokens<'_>, range: Range<usize>) -> Option<Constant> {
    let negative = tokens.is_op(range.start, "-");
    let at = range.start + usize::from(negative || tokens.is_op(range.start, "+"));
    if at + 1 != range.end {
        return None;
    }
    let bytes = tokens.bytes(at);
    match tokens.kind(at)? {
        TokenKind::Literal(LiteralKind::Int) => {
            let value: i128 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
            Some(Constant::Int(if negative { -value } else { value }))
        }
        TokenKind::Literal(LiteralKind::Real) => {
            let sign = if negative { "-" } else { "" };
            Some(Constant::Real(format!("{sign}{}", String::from_utf8_lossy(bytes))))
        }
        _ if at != range.start => None,
        TokenKind::Literal(LiteralKind::Text | LiteralKind::National) => {
            Some(Constant::Text(string_value(bytes, tokens.mode).into_owned()))
        }
        TokenKind::Word if tokens.is_word(at, "DEFAULT") => Some(Constant::Default),
        TokenKind::Word if tokens.is_word(at, "NULL") => Some(Constant::Null),
        TokenKind::Word => Some(Constant::Text(bytes.to_vec())),
        TokenKind::Quoted => Some(Constant::Text(crate::lex::unquote_name(bytes))),
        _ => None,
    }
}

/// A charset or collation: a word or a string; None for DEFAULT.
fn charset_word(tokens: &Tokens<'_>, at: usize) -> Option<String> {
    match constant(tokens, at..at + 1)? {
        Constant::Text(text) => Some(String::from_utf8_lossy(&text).to_ascii_lowercase()),
        _ => None,
    }
}

fn names(tokens: &Tokens<'_>, at: usize, end: usize) -> Assignment {
    let collate = (at..end).find(|at| tokens.is_word(*at, "COLLATE"));
    let collation = collate.and_then(|at| charset_word(tokens, at + 1));
    Assignment::Names { charset: charset_word(tokens, at), collation }
}

fn transaction(tokens: &Tokens<'_>, range: Range<usize>, scoped: bool) -> Result<Assignment, SetError> {
    let scope = match scope_word(tokens, range.start) {
        Some(scope) if scoped => scope,
        _ => Scope::NextTransaction,
    };
    let (mut isolation, mut read_only) = (None, None);
    for part in tokens.split_commas(range.start + usize::from(scoped) + 1..range.end) {
        let at = part.start;
        if tokens.are_words(at, &["ISOLATION", "LEVEL"]) {
            isolation = Some(isolation_level(tokens, at + 2).ok_or_else(|| error(tokens, at + 2))?);
        } else if tokens.are_words(at, &["READ", "ONLY"]) {
            read_only = Some(true);
        } else if tokens.are_words(at, &["READ", "WRITE"]) {
            read_only = Some(false);
        } else {
            return Err(error(tokens, at));
        }
    }
    Ok(Assignment::Transaction { scope, isolation, read_only })
}

fn isolation_level(tokens: &Tokens<'_>, at: usize) -> Option<&'static str> {
    let levels = [
        (&["READ", "UNCOMMITTED"][..], "READ-UNCOMMITTED"),
        (&["READ", "COMMITTED"][..], "READ-COMMITTED"),
        (&["REPEATABLE", "READ"][..], "REPEATABLE-READ"),
        (&["SERIALIZABLE"][..], "SERIALIZABLE"),
    ];
    levels.iter().find(|(words, _)| tokens.are_words(at, words)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_left_out() {
        for (text, rest) in [
            ("SET session_track_schema = 1", Some("")),
            ("SET a = 1, @@session.session_track_gtids = f(1, 2), @b = (3)", Some("SET a = 1, @b = (3)")),
            ("SET SESSION session_track_schema = 1, NAMES utf8mb4", Some("SET NAMES utf8mb4")),
            ("SET a = 1", None),
            ("SET GLOBAL session_track_schema = 1", None),
        ] {
            let left = without(text.as_bytes(), Mode::default(), |name| name.starts_with("session_track_"));
            assert_eq!(
                left.map(|text| String::from_utf8_lossy(&text).into_owned()).as_deref(),
                rest,
                "{text}"
            );
        }
    }
}
