//! XA statements: what each does, and to which branch.

use crate::key::string_value;
use crate::lex::{LiteralKind, TokenKind};
use crate::mode::Mode;
use crate::plan::Tokens;

/// Bytes of either part of a branch's name that servers take at most.
const PART_BYTES_MAX: usize = 64;

/// The name of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xid {
    /// The global transaction.
    pub gtrid: Vec<u8>,
    /// Its branch; empty if it is not said.
    pub bqual: Vec<u8>,
    /// Told by XA RECOVER; MySQL tells branches apart by it, MariaDB does not.
    pub format: u32,
}

/// One XA statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Xa {
    /// XA START, XA BEGIN.
    Start {
        /// Which.
        xid: Xid,
        /// JOIN or RESUME, which no server does.
        joins: bool,
    },
    /// XA END.
    End {
        /// Which.
        xid: Xid,
        /// SUSPEND, which no server does.
        suspends: bool,
    },
    /// XA PREPARE.
    Prepare(Xid),
    /// XA COMMIT.
    Commit {
        /// Which.
        xid: Xid,
        /// ONE PHASE: of a branch that is not prepared.
        one_phase: bool,
    },
    /// XA ROLLBACK.
    Rollback(Xid),
    /// XA RECOVER; in what form is for the server to say.
    Recover,
}

impl Xid {
    /// As SQL that every server reads alike, whatever the session's settings are.
    #[must_use]
    pub fn to_sql(&self) -> String {
        let hex = |part: &[u8]| part.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
        format!("X'{}',X'{}',{}", hex(&self.gtrid), hex(&self.bqual), self.format)
    }
}

/// Reads one; `None` if it is none, or of a form that servers refuse.
#[must_use]
pub fn parse(text: &[u8], mode: Mode) -> Option<Xa> {
    let tokens = Tokens::new(text, mode);
    if !tokens.is_word(0, "XA") || tokens.odd.is_some() {
        return None;
    }
    if tokens.is_word(1, "RECOVER") {
        let form = tokens.len() == 2
            || tokens.are_words(2, &["CONVERT", "XID"]) && tokens.len() == 4
            || tokens.is_word(2, "FORMAT") && tokens.is_op(3, "=") && tokens.len() == 5;
        return form.then_some(Xa::Recover);
    }
    let (xid, end) = xid(&tokens, 2)?;
    let said = |words: &[&str]| tokens.are_words(end, words) && tokens.len() == end + words.len();
    let nothing = tokens.len() == end;
    if tokens.is_any(1, &["START", "BEGIN"]) {
        let joins = said(&["JOIN"]) || said(&["RESUME"]);
        return (nothing || joins).then_some(Xa::Start { xid, joins });
    }
    if tokens.is_word(1, "END") {
        let suspends = said(&["SUSPEND"]) || said(&["SUSPEND", "FOR", "MIGRATE"]);
        return (nothing || suspends).then_some(Xa::End { xid, suspends });
    }
    if tokens.is_word(1, "COMMIT") {
        let one_phase = said(&["ONE", "PHASE"]);
        return (nothing || one_phase).then_some(Xa::Commit { xid, one_phase });
    }
    match nothing {
        true if tokens.is_word(1, "PREPARE") => Some(Xa::Prepare(xid)),
        true if tokens.is_word(1, "ROLLBACK") => Some(Xa::Rollback(xid)),
        _ => None,
    }
}

/// A branch's name from token `at` on, and the token behind it.
fn xid(tokens: &Tokens<'_>, at: usize) -> Option<(Xid, usize)> {
    let mut found = Xid { gtrid: part(tokens, at)?, bqual: Vec::new(), format: 1 };
    if !tokens.is_op(at + 1, ",") {
        return Some((found, at + 1));
    }
    found.bqual = part(tokens, at + 2)?;
    if !tokens.is_op(at + 3, ",") {
        return Some((found, at + 3));
    }
    let digits = std::str::from_utf8(tokens.bytes(at + 4)).ok()?;
    found.format = match tokens.kind(at + 4)? {
        TokenKind::Literal(LiteralKind::Int) => digits.parse().ok()?,
        TokenKind::Literal(LiteralKind::HexNumber) => u32::from_str_radix(digits.get(2..)?, 16).ok()?,
        _ => return None,
    };
    Some((found, at + 5))
}

fn part(tokens: &Tokens<'_>, at: usize) -> Option<Vec<u8>> {
    let raw = tokens.bytes(at);
    let bytes = match tokens.kind(at)? {
        TokenKind::Literal(LiteralKind::Text) if is_one(raw, tokens.mode) => {
            string_value(raw, tokens.mode).into_owned()
        }
        TokenKind::Literal(LiteralKind::HexText) => number(raw.get(2..raw.len().checked_sub(1)?)?, 4)?,
        TokenKind::Literal(LiteralKind::HexNumber) => number(raw.get(2..)?, 4)?,
        TokenKind::Literal(LiteralKind::Bits) => {
            let digits = raw.get(2..)?;
            number(digits.strip_suffix(b"'").unwrap_or(digits), 1)?
        }
        _ => return None,
    };
    (bytes.len() <= PART_BYTES_MAX).then_some(bytes)
}

/// Whether a literal is one string, and not several that stand beside each other.
fn is_one(raw: &[u8], mode: Mode) -> bool {
    let Some((&quote, _)) = raw.split_first() else { return false };
    let mut at = 1;
    while let Some(&byte) = raw.get(at) {
        let doubled = byte == quote && raw.get(at + 1) == Some(&quote);
        match byte {
            b'\\' if !mode.no_backslash_escapes => at += 2,
            _ if doubled => at += 2,
            _ if byte == quote => return at + 1 == raw.len(),
            _ => at += 1,
        }
    }
    false
}

/// The bytes of digits of so many bits each, filled up with zeros in front.
fn number(digits: &[u8], bits: usize) -> Option<Vec<u8>> {
    let each = 8 / bits;
    let first = digits.len() % each;
    let chunks = std::iter::once(digits.get(..first)?).chain(digits.get(first..)?.chunks(each));
    chunks
        .filter(|chunk| !chunk.is_empty())
        .map(|chunk| u8::from_str_radix(std::str::from_utf8(chunk).ok()?, 1 << bits).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Xa> {
        parse(text.as_bytes(), Mode::default())
    }

    fn xid(gtrid: &str, bqual: &str, format: u32) -> Xid {
        Xid { gtrid: gtrid.into(), bqual: bqual.into(), format }
    }

    #[test]
    fn each_form_is_read() {
        let a = || xid("a", "", 1);
        for (text, xa) in [
            ("xa start 'a'", Xa::Start { xid: a(), joins: false }),
            ("XA BEGIN 'a' ;", Xa::Start { xid: a(), joins: false }),
            ("/* c */ XA /* d */ START 'a' RESUME", Xa::Start { xid: a(), joins: true }),
            ("XA START 'a' JOIN", Xa::Start { xid: a(), joins: true }),
            ("XA END 'a'", Xa::End { xid: a(), suspends: false }),
            ("XA END 'a' SUSPEND FOR MIGRATE", Xa::End { xid: a(), suspends: true }),
            ("XA PREPARE \"a\"", Xa::Prepare(a())),
            ("XA COMMIT 'a'", Xa::Commit { xid: a(), one_phase: false }),
            ("XA COMMIT 'a' ONE PHASE", Xa::Commit { xid: a(), one_phase: true }),
            ("XA ROLLBACK 'a''b', 'c\\n'", Xa::Rollback(xid("a'b", "c\n", 1))),
            ("XA ROLLBACK X'61', 0x162, 0x10", Xa::Rollback(xid("a", "\u{1}b", 16))),
            ("XA ROLLBACK b'01100001', 0b1100010, 4294967295", Xa::Rollback(xid("a", "b", u32::MAX))),
            ("XA RECOVER", Xa::Recover),
            ("XA RECOVER CONVERT XID", Xa::Recover),
            ("XA RECOVER FORMAT='SQL'", Xa::Recover),
        ] {
            assert_eq!(read(text), Some(xa), "{text}");
        }
        assert_eq!(xid("a'", "", 7).to_sql(), "X'6127',X'',7");
    }

    #[test]
    fn what_servers_refuse_is_none() {
        let long = format!("XA START '{}'", "x".repeat(65));
        for text in [
            "XA",
            "XA FOO 'a'",
            "XA START",
            "XA START a",
            "XA START ?",
            "XA START 'a',",
            "XA START 'a','b','c'",
            "XA START 'a','b',-1",
            "XA START 'a' 'b'",
            "XA START N'a'",
            "XA START _utf8mb4'a'",
            "XA PREPARE 'a' ONE PHASE",
            "XA END 'a' FOO",
            "XA RECOVER FOO",
            &long,
            "BEGIN",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
