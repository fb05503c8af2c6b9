//! Columns of a SELECT's list that servers name by their text.

use std::ops::Range;

use crate::lex::{Lexer, LiteralKind, Token, TokenKind};
use crate::mode::Mode;

/// Words behind SELECT that are not of its list.
const OPTIONS: &[&str] = &[
    "ALL",
    "DISTINCT",
    "DISTINCTROW",
    "HIGH_PRIORITY",
    "STRAIGHT_JOIN",
    "SQL_BIG_RESULT",
    "SQL_BUFFER_RESULT",
    "SQL_CACHE",
    "SQL_CALC_FOUND_ROWS",
    "SQL_NO_CACHE",
    "SQL_SMALL_RESULT",
];
/// Words that end the list.
const ENDS: &[&str] = &[
    "EXCEPT",
    "FOR",
    "FROM",
    "GROUP",
    "HAVING",
    "INTERSECT",
    "INTO",
    "LIMIT",
    "LOCK",
    "MINUS",
    "ORDER",
    "PROCEDURE",
    "UNION",
    "WHERE",
    "WINDOW",
];
/// Names may be longer, but not all servers take that.
const NAME_BYTES_MAX: usize = 250;

/// The columns of the outermost SELECT's list that surely have no name of their own, so that a server gives each its text
/// for a name. A changed text needs it as an alias.
#[must_use]
pub fn unnamed_columns(text: &[u8], mode: Mode) -> Vec<Range<usize>> {
    let mut tokens = Lexer::new(text, mode).filter(|token| token.kind != TokenKind::Hint).peekable();
    let mut depth = 0_usize;
    for token in tokens.by_ref() {
        match token.bytes(text) {
            b"(" => depth += 1,
            b")" => depth = depth.saturating_sub(1),
            _ if depth == 0 && is(token, text, &["SELECT"]) => break,
            _ => {}
        }
    }
    while tokens.next_if(|token| is(*token, text, OPTIONS)).is_some() {}
    let mut found = Vec::new();
    let mut column: Option<(Token, Token)> = None;
    let end = |column: &mut Option<(Token, Token)>, found: &mut Vec<Range<usize>>| {
        if let Some((first, last)) = column.take().filter(|(_, last)| is_no_name(*last, text)) {
            let span = first.span().start..last.span().end;
            if span.len() <= NAME_BYTES_MAX {
                found.push(span);
            }
        }
    };
    depth = 0;
    for token in tokens {
        match token.bytes(text) {
            b"(" => depth += 1,
            b")" if depth == 0 => break,
            b")" => depth -= 1,
            b";" => break,
            b"," if depth == 0 => {
                end(&mut column, &mut found);
                continue;
            }
            _ if depth == 0 && is(token, text, ENDS) => break,
            _ => {}
        }
        column = Some((column.map_or(token, |(first, _)| first), token));
    }
    end(&mut column, &mut found);
    found
}

fn is(token: Token, text: &[u8], words: &[&str]) -> bool {
    token.kind == TokenKind::Word
        && words.iter().any(|word| token.bytes(text).eq_ignore_ascii_case(word.as_bytes()))
}

/// Whether a column that ends so cannot have an alias.
fn is_no_name(last: Token, text: &[u8]) -> bool {
    match last.kind {
        TokenKind::Op => last.bytes(text) == b")",
        TokenKind::Literal(kind) => !matches!(kind, LiteralKind::Text | LiteralKind::National),
        TokenKind::UserVar | TokenKind::SysVar => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unnamed(text: &str) -> Vec<&str> {
        unnamed_columns(text.as_bytes(), Mode::default()).into_iter().map(|span| &text[span]).collect()
    }

    #[test]
    fn columns_without_an_alias() {
        assert_eq!(unnamed("SELECT ROW_COUNT(), FOUND_ROWS()"), ["ROW_COUNT()", "FOUND_ROWS()"]);
        assert_eq!(unnamed("select  hex( concat(row_count()) ) ;"), ["hex( concat(row_count()) )"]);
        assert_eq!(
            unnamed("SELECT DISTINCT /* x */ 1 + FOUND_ROWS() > 0, a, f(1, 2) FROM t"),
            ["1 + FOUND_ROWS() > 0", "f(1, 2)"]
        );
        assert_eq!(unnamed("CREATE TABLE t (a INT) AS SELECT CONNECTION_ID()"), ["CONNECTION_ID()"]);
        assert_eq!(unnamed("SELECT EXTRACT(DAY FROM NOW()), @a"), ["EXTRACT(DAY FROM NOW())", "@a"]);
        assert_eq!(unnamed("SELECT (SELECT ROW_COUNT()) LIMIT 1"), ["(SELECT ROW_COUNT())"]);
        assert_eq!(unnamed("SELECT f() UNION SELECT g()"), ["f()"]);
    }

    #[test]
    fn columns_that_have_or_may_have_one() {
        let text = "SELECT f() AS a, f() b, f() 'c', f() `d`, a, t.b, f() = 'e', CASE f() WHEN 1 THEN 2 END";
        assert!(unnamed(text).is_empty());
        assert!(unnamed("(SELECT f())").is_empty());
        assert!(unnamed("DO f()").is_empty());
        assert!(unnamed(&format!("SELECT f({})", "1, ".repeat(100) + "1")).is_empty());
    }
}
