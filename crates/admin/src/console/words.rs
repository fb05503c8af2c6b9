//! A console statement as words, quoted texts and signs.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name, keyword or number; names may hold `-`, `.`, `$` and `@`.
    Word,
    /// A text in quotes of any of the three kinds.
    Quoted,
    /// Any other character.
    Sign,
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Without quotes.
    pub(super) text: String,
    /// Byte offsets in the statement.
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The tokens of a statement without comments and closing semicolons; `None` where a quote or comment has no end.
pub(super) fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = text.get(at..)?;
        if next.is_whitespace() || next == '\0' {
            at += next.len_utf8();
        } else if rest.starts_with("/*") {
            at += rest.find("*/")? + 2;
        } else if rest.starts_with('#') || is_dash_comment(rest) {
            at += rest.find('\n').unwrap_or(rest.len());
        } else {
            let (kind, token, len) = match next {
                '\'' | '"' | '`' => {
                    let (token, len) = quoted(rest, next)?;
                    (Kind::Quoted, token, len)
                }
                _ => match word(rest) {
                    0 => (Kind::Sign, next.to_string(), next.len_utf8()),
                    len => (Kind::Word, rest.get(..len)?.to_owned(), len),
                },
            };
            found.push(Token { kind, text: token, start: at, end: at + len });
            at += len;
        }
    }
    while found.last().is_some_and(|token| token.kind == Kind::Sign && token.text == ";") {
        found.pop();
    }
    Some(found)
}

fn is_dash_comment(rest: &str) -> bool {
    rest.strip_prefix("--").is_some_and(|behind| behind.is_empty() || behind.starts_with(char::is_whitespace))
}

/// The length of the word at the front; 0 if there is none. A sign stands before a number only.
fn word(rest: &str) -> usize {
    let is_start = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '@');
    let mut chars = rest.chars();
    let starts = match chars.next() {
        Some('-') => chars.next().is_some_and(|c| c.is_ascii_digit()),
        Some(first) => is_start(first),
        None => false,
    };
    if !starts {
        return 0;
    }
    let is_inside = |c: char| is_start(c) || matches!(c, '-' | '.');
    rest.char_indices().find(|(_, c)| !is_inside(*c)).map_or(rest.len(), |(at, _)| at)
}

/// The quoted text at the front, and its length with quotes.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            if chars.next_if(|(_, next)| *next == quote).is_none() {
                return Some((text, at + 1));
            }
            text.push(quote);
        } else if c == '\\' && quote != '`' {
            text.push(chars.next()?.1);
        } else {
            text.push(c);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        tokens(text).unwrap().into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn words_quotes_and_signs() {
        assert_eq!(
            texts("show user 'o''b\\'x' ; -- end"),
            ["show", "user", "o'b'x", ";"].map(String::from)[..3]
        );
        assert_eq!(texts("/* tool */ SHOW\tUSER -7;;"), ["SHOW", "USER", "-7"]);
        assert_eq!(texts("set shard s-1 writer `db.a-1`"), ["set", "shard", "s-1", "writer", "db.a-1"]);
        assert_eq!(texts("select @@a.b, f()"), ["select", "@@a.b", ",", "f", "(", ")"]);
        assert_eq!(texts("  # nothing"), Vec::<String>::new());
        assert_eq!(texts("'ü' ≠"), ["ü", "≠"]);
        assert_eq!(texts("- 1"), ["-", "1"]);
    }

    #[test]
    fn what_has_no_end_is_no_statement() {
        for text in ["show user 'x", "show /* x", "`", "'a\\"] {
            assert_eq!(tokens(text), None, "{text}");
        }
    }
}
