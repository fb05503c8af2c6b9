//! Reads that find nothing whatever the tables hold, `LIMIT 0` and `WHERE 1 = 0`: tools learn columns by them.

use std::ops::Range;

use crate::lex::{Literal, LiteralKind, TokenKind};
use crate::plan::tokens::Tokens;

/// What must hold of a statement's literals, so that no row of any table has a part in its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nothing {
    /// This is 0.
    Zero(Number),
    /// These two are not equal.
    Differ(Number, Number),
}

/// A number in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// A literal, by its ordinal.
    Literal(u32),
    /// TRUE and FALSE.
    Constant(u64),
}

impl Nothing {
    /// Whether it holds of these literals, which the digest of `text` gave.
    #[must_use]
    pub fn holds(self, text: &[u8], literals: &[Literal]) -> bool {
        let value = |number: Number| {
            let ordinal = match number {
                Number::Constant(value) => return Some(value),
                Number::Literal(ordinal) => ordinal as usize,
            };
            let raw = text.get(literals.get(ordinal)?.span())?;
            std::str::from_utf8(raw).ok()?.parse::<u64>().ok()
        };
        match self {
            Self::Zero(number) => value(number) == Some(0),
            Self::Differ(a, b) => matches!((value(a), value(b)), (Some(a), Some(b)) if a != b),
        }
    }
}

/// Of a SELECT in a range of tokens.
pub(crate) fn nothing(tokens: &Tokens<'_>, range: Range<usize>) -> Vec<Nothing> {
    if !tokens.is_word(range.start, "SELECT") {
        return Vec::new();
    }
    no_limit(tokens, range.clone()).into_iter().chain(no_condition(tokens, range)).collect()
}

/// `LIMIT n`, `LIMIT m, n` or `LIMIT n OFFSET m` at the end.
fn no_limit(tokens: &Tokens<'_>, range: Range<usize>) -> Option<Nothing> {
    let limit = tokens.find(range.clone(), |at| tokens.is_word(at, "LIMIT"))?;
    let count = match range.end - limit {
        2 => limit + 1,
        4 if tokens.is_op(limit + 2, ",") => limit + 3,
        4 if tokens.is_word(limit + 2, "OFFSET") => limit + 1,
        _ => return None,
    };
    number(tokens, count).map(Nothing::Zero)
}

/// A condition of WHERE that no row meets. Queries in other places than FROM would be asked all the same.
fn no_condition(tokens: &Tokens<'_>, range: Range<usize>) -> Option<Nothing> {
    let outside = |words: &[&str]| tokens.find(range.clone(), |at| tokens.is_any(at, words));
    let has_query =
        |mut range: Range<usize>| range.any(|at| tokens.is_any(at, &["SELECT", "TABLE", "VALUES"]));
    let (from, start) = (outside(&["FROM"])?, outside(&["WHERE"])? + 1);
    let joined = outside(&["UNION", "EXCEPT", "INTERSECT", "MINUS"]).is_some();
    if joined || has_query(range.start + 1..from) || has_query(start..range.end) {
        return None;
    }
    let clauses = ["GROUP", "HAVING", "ORDER", "LIMIT", "WINDOW", "PROCEDURE", "INTO", "FOR", "LOCK"];
    let end = tokens.find(start..range.end, |at| tokens.is_any(at, &clauses)).unwrap_or(range.end);
    let unclear = |at| {
        tokens.is_any(at, &["OR", "XOR", "NOT", "BETWEEN", "CASE", "IS"])
            || ["||", "&&", ":="].iter().any(|op| tokens.is_op(at, op))
    };
    if tokens.find(start..end, unclear).is_some() {
        return None;
    }
    let mut at = start;
    loop {
        let and = tokens.find(at..end, |at| tokens.is_word(at, "AND")).unwrap_or(end);
        if let Some(found) = never(tokens, at..and) {
            return Some(found);
        }
        if and >= end {
            return None;
        }
        at = and + 1;
    }
}

/// `0`, `FALSE`, `1 = 0`, also in parentheses.
fn never(tokens: &Tokens<'_>, mut range: Range<usize>) -> Option<Nothing> {
    while tokens.is_op(range.start, "(") && tokens.closing(range.start, range.end) == Some(range.end - 1) {
        range = range.start + 1..range.end - 1;
    }
    match range.len() {
        1 => number(tokens, range.start).map(Nothing::Zero),
        3 if tokens.is_op(range.start + 1, "=") => {
            Some(Nothing::Differ(number(tokens, range.start)?, number(tokens, range.start + 2)?))
        }
        _ => None,
    }
}

/// A literal of digits, TRUE or FALSE.
fn number(tokens: &Tokens<'_>, at: usize) -> Option<Number> {
    let item = tokens.item(at)?;
    match item.token.kind {
        TokenKind::Literal(LiteralKind::Int) => Some(Number::Literal(item.ordinal)),
        _ if tokens.is_word(at, "FALSE") => Some(Number::Constant(0)),
        _ if tokens.is_word(at, "TRUE") => Some(Number::Constant(1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Mode;

    fn finds_nothing(text: &str) -> bool {
        let text = text.as_bytes();
        let mut literals = Vec::new();
        let _ = crate::digest(text, Mode::default(), &mut literals);
        let tokens = Tokens::new(text, Mode::default());
        nothing(&tokens, 0..tokens.len()).iter().any(|nothing| nothing.holds(text, &literals))
    }

    #[test]
    fn what_can_find_nothing_is_told_from_what_might() {
        for text in [
            "SELECT * FROM t LIMIT 0",
            "SELECT a, 5 FROM t WHERE b = 7 ORDER BY c LIMIT 10, 0",
            "SELECT * FROM (SELECT * FROM t) x LIMIT 0 OFFSET 3;",
            "SELECT a FROM t UNION SELECT b FROM u LIMIT 0",
            "SELECT * FROM t WHERE 1=0",
            "SELECT COUNT(*) FROM (SELECT * FROM t) AS x WHERE (1 = 2) GROUP BY a",
            "SELECT * FROM t WHERE a > 5 AND false AND b = 'x' LIMIT 5",
            "SELECT * FROM t WHERE 0 ORDER BY 1",
            "SELECT * FROM t WHERE false = 1",
        ] {
            assert!(finds_nothing(text), "{text}");
        }
        for text in [
            "SELECT * FROM t LIMIT 1",
            "SELECT * FROM t LIMIT 0, 10",
            "(SELECT a FROM t LIMIT 0) UNION SELECT b FROM u",
            "SELECT * FROM t WHERE 1=1",
            "SELECT * FROM t WHERE 1",
            "SELECT * FROM t WHERE TRUE = 1",
            "SELECT * FROM t WHERE a = 1 OR 1 = 0",
            "SELECT * FROM t WHERE NOT 1 = 0",
            "SELECT * FROM t WHERE a BETWEEN 1 AND 0",
            "SELECT (SELECT COUNT(*) FROM u) FROM t WHERE 1=0",
            "SELECT a FROM t WHERE 1=0 UNION SELECT b FROM u",
            "SELECT a FROM t WHERE 1 = 0 HAVING (SELECT 1 FROM u)",
            "SELECT a FROM t WHERE (1 = 0 OR b)",
            "SELECT a FROM t WHERE 1 = 0 + a",
            "SELECT a FROM t WHERE (0) + 1",
            "DELETE FROM t LIMIT 0",
        ] {
            assert!(!finds_nothing(text), "{text}");
        }
    }
}
