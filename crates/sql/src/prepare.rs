//! PREPARE, EXECUTE and DEALLOCATE in text.

use std::ops::Range;

use crate::key::string_value;
use crate::lex::{LiteralKind, TokenKind};
use crate::mode::Mode;
use crate::plan::{Tokens, user_variable_name};

/// One of these statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepare {
    /// PREPARE name FROM source.
    Prepare {
        /// Lower case.
        name: String,
        /// What is prepared.
        source: Source,
    },
    /// EXECUTE name USING ..
    Execute {
        /// Lower case.
        name: String,
        /// The values for its parameters.
        using: Vec<Operand>,
    },
    /// MariaDB's EXECUTE IMMEDIATE source USING ..
    Immediate {
        /// What is executed.
        source: Source,
        /// The values for its parameters.
        using: Vec<Operand>,
    },
    /// DEALLOCATE or DROP PREPARE name.
    Deallocate {
        /// Lower case.
        name: String,
    },
}

/// Where the text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A string.
    Text(Vec<u8>),
    /// A user variable, lower case, without the @.
    Variable(String),
    /// An expression, which only a server can evaluate.
    Other(Range<usize>),
}

/// What stands behind USING.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// A user variable, lower case, without the @.
    Variable(String),
    /// An expression, which only a server can evaluate.
    Other(Range<usize>),
}

/// Reads one; `None` if it is none, or of a form that a server will refuse.
#[must_use]
pub fn parse(text: &[u8], mode: Mode) -> Option<Prepare> {
    let tokens = Tokens::new(text, mode);
    let name = |at| tokens.name(at).map(|name: String| name.to_lowercase());
    if tokens.is_word(0, "PREPARE") {
        let source = tokens.is_word(2, "FROM").then(|| source(&tokens, 3, tokens.len()))?;
        return Some(Prepare::Prepare { name: name(1)?, source });
    }
    if tokens.are_words(0, &["EXECUTE", "IMMEDIATE"]) {
        let using = tokens.find(2..tokens.len(), |at| tokens.is_word(at, "USING")).unwrap_or(tokens.len());
        return Some(Prepare::Immediate {
            source: source(&tokens, 2, using),
            using: operands(&tokens, using),
        });
    }
    if tokens.is_word(0, "EXECUTE") {
        let using = (tokens.len() == 2 || tokens.is_word(2, "USING")).then(|| operands(&tokens, 2))?;
        return Some(Prepare::Execute { name: name(1)?, using });
    }
    let deallocates = tokens.is_any(0, &["DEALLOCATE", "DROP"]) && tokens.is_word(1, "PREPARE");
    (deallocates && tokens.len() == 3).then(|| name(2)).flatten().map(|name| Prepare::Deallocate { name })
}

fn source(tokens: &Tokens<'_>, at: usize, end: usize) -> Source {
    match tokens.kind(at) {
        Some(TokenKind::Literal(LiteralKind::Text)) if at + 1 == end => {
            Source::Text(string_value(tokens.bytes(at), tokens.mode).into_owned())
        }
        Some(TokenKind::UserVar) if at + 1 == end => Source::Variable(user_variable_name(tokens.bytes(at))),
        _ => Source::Other(tokens.span(at..end)),
    }
}

/// What stands behind USING at `at`.
fn operands(tokens: &Tokens<'_>, at: usize) -> Vec<Operand> {
    if at >= tokens.len() {
        return Vec::new();
    }
    let one = |part: Range<usize>| match tokens.kind(part.start) {
        Some(TokenKind::UserVar) if part.len() == 1 => {
            Operand::Variable(user_variable_name(tokens.bytes(part.start)))
        }
        _ => Operand::Other(tokens.span(part)),
    };
    tokens.split_commas(at + 1..tokens.len()).into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Prepare> {
        parse(text.as_bytes(), Mode::default())
    }

    #[test]
    fn each_form_is_read() {
        let text = |text: &str| Source::Text(text.as_bytes().to_vec());
        let names = |names: &[&str]| names.iter().map(|name| Operand::Variable((*name).to_owned())).collect();
        assert_eq!(
            read("prepare `One` from 'SELECT ''x'''"),
            Some(Prepare::Prepare { name: "one".into(), source: text("SELECT 'x'") })
        );
        assert_eq!(
            read("PREPARE a FROM @Sql"),
            Some(Prepare::Prepare { name: "a".into(), source: Source::Variable("sql".into()) })
        );
        assert_eq!(read("EXECUTE a"), Some(Prepare::Execute { name: "a".into(), using: names(&[]) }));
        assert_eq!(
            read("EXECUTE a USING @x, @`y z`"),
            Some(Prepare::Execute { name: "a".into(), using: names(&["x", "y z"]) })
        );
        let mixed = vec![Operand::Variable("x".into()), Operand::Other(20..27)];
        assert_eq!(
            read("EXECUTE a USING @x, f(5, 1)"),
            Some(Prepare::Execute { name: "a".into(), using: mixed })
        );
        assert_eq!(
            read("EXECUTE IMMEDIATE 'DO ?' USING @x"),
            Some(Prepare::Immediate { source: text("DO ?"), using: names(&["x"]) })
        );
        assert_eq!(
            read("EXECUTE IMMEDIATE CONCAT('a', @b)"),
            Some(Prepare::Immediate { source: Source::Other(18..33), using: names(&[]) })
        );
        assert_eq!(read("DROP PREPARE a"), Some(Prepare::Deallocate { name: "a".into() }));
        assert_eq!(read("DROP TABLE a"), None);
        assert_eq!(read("PREPARE a"), None);
    }
}
