//! The statement with its literals replaced, as a keyed 128-bit hash.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use crate::hint::{self, Hints};
use crate::lex::{Lexer, Literal, LiteralKind, Token, TokenKind, runs_everywhere};
use crate::mode::Mode;

/// What one pass over a statement finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// Hash of the shape. Its key is random per process: it must not be stored or compared across processes.
    pub hash: u128,
    /// Number of `?`.
    pub params: u16,
    /// What a leading `/* usher: .. */` comment asks for.
    pub hints: Hints,
    /// Where the statement ends: its last token, without a closing `;`.
    pub end: usize,
    /// Where a second statement behind a `;` begins. The hash and the literals cover the first only.
    pub second_statement: Option<usize>,
}

static KEY: LazyLock<(u64, u64)> =
    LazyLock::new(|| (RandomState::new().hash_one(1u8), RandomState::new().hash_one(2u8)));

/// Lexes the first statement of `text` once: its hash, its hints, and its literals (`literals` is cleared first,
/// and reused so that a warm caller does not allocate).
///
/// Two statements of one digest differ in the values of literals, in plain comments and in spaces only: not in
/// the number or kinds of literals, in letter case, or in optimizer hints. One with a comment that only some server
/// versions run has a digest of its own, literals included.
pub fn digest(text: &[u8], mode: Mode, literals: &mut Vec<Literal>) -> Digest {
    literals.clear();
    let (k0, k1) = *KEY;
    let mut hash = Sip::new(k0, k1);
    let mut lexer = Lexer::new(text, mode);
    let mut program = None;
    let mut found = Digest { hash: 0, params: 0, hints: Hints::default(), end: 0, second_statement: None };
    loop {
        while let Some((is_word, start, end)) = lexer.plain() {
            hash.plain(is_word, text, start, end);
            found.end = end;
        }
        let Some(token) = lexer.next() else { break };
        match token.kind {
            TokenKind::Literal(kind) => {
                if let LiteralKind::Param(index) = kind {
                    found.params = index.saturating_add(1);
                }
                hash.push(literal_tag(kind), 1);
                literals.push(Literal { start: token.start, end: token.end, kind });
            }
            TokenKind::Op if text.get(token.start as usize) == Some(&b';') => {
                // Asked once: a body of semicolons only would be walked from each of them.
                if !*program.get_or_insert_with(|| is_stored_program(text, mode)) {
                    let next = lexer.by_ref().find(|token| !is_semicolon(text, token));
                    found.second_statement = next.map(|token| token.start as usize);
                    break;
                }
                hash.token(text, token);
            }
            // Where this comment ends depends on the server: the text itself is the shape.
            TokenKind::CodeOpen if !runs_everywhere(token.bytes(text)) => {
                hash.bytes(token_tag(token.kind), text, token.start as usize, text.len());
            }
            _ => hash.token(text, token),
        }
        found.end = token.end as usize;
    }
    if let Some(comment) = lexer.leading_comment() {
        found.hints = hint::parse(text, comment);
        if !found.hints.is_empty() {
            hash.push(found.hints.tag(), 2);
        }
    }
    found.hash = hash.finish();
    found
}

fn is_semicolon(text: &[u8], token: &Token) -> bool {
    token.kind == TokenKind::Op && token.bytes(text) == b";"
}

/// Whether the text creates a routine, trigger or event, or is one of MariaDB's compound statements: its body has `;`.
pub(crate) fn is_stored_program(text: &[u8], mode: Mode) -> bool {
    let tokens =
        || Lexer::new(text, mode).filter(|token| matches!(token.kind, TokenKind::Word | TokenKind::Op));
    // A label may stand before a block or a loop.
    let labelled = tokens().nth(1).is_some_and(|token| token.bytes(text) == b":");
    let words = tokens()
        .skip(usize::from(labelled) * 2)
        .filter(|token| token.kind == TokenKind::Word)
        .map(|token| token.bytes(text).to_ascii_uppercase());
    let mut words = behind_settings(words).take(24);
    match words.next().as_deref() {
        Some(b"BEGIN") => words.next().as_deref() == Some(b"NOT"),
        // In sql_mode ORACLE a block may begin with its variables.
        Some(b"FOR" | b"WHILE" | b"LOOP" | b"REPEAT" | b"IF" | b"CASE" | b"DECLARE") => true,
        Some(b"CREATE" | b"ALTER") => {
            for word in words {
                match word.as_slice() {
                    b"PROCEDURE" | b"FUNCTION" | b"TRIGGER" | b"EVENT" | b"PACKAGE" => return true,
                    b"TABLE" | b"VIEW" | b"INDEX" | b"DATABASE" | b"SCHEMA" | b"USER" => return false,
                    _ => {}
                }
            }
            false
        }
        _ => false,
    }
}

/// The words behind MariaDB's `SET STATEMENT .. FOR`, or all of them if it does not begin so.
fn behind_settings(words: impl Iterator<Item = Vec<u8>>) -> impl Iterator<Item = Vec<u8>> {
    let mut words = words.peekable();
    let mut first = None;
    if words.peek().is_some_and(|word| word == b"SET") {
        first = words.next();
        if words.peek().is_some_and(|word| word == b"STATEMENT") {
            first = None;
            words.by_ref().find(|word| word == b"FOR");
        }
    }
    first.into_iter().chain(words)
}

/// One byte that stands for a literal of this kind: 0x80 and up.
fn literal_tag(kind: LiteralKind) -> u64 {
    match kind {
        LiteralKind::Int => 0x81,
        LiteralKind::Real => 0x82,
        LiteralKind::Text => 0x83,
        LiteralKind::National => 0x84,
        LiteralKind::Introduced => 0x85,
        LiteralKind::HexNumber => 0x86,
        LiteralKind::HexText => 0x87,
        LiteralKind::Bits => 0x88,
        LiteralKind::Param(_) => 0x89,
    }
}

const WORD: u64 = 1;
const OP: u64 = 6;

/// The kind of a token, to be shifted by three bits, which hold its length.
fn token_tag(kind: TokenKind) -> u64 {
    match kind {
        TokenKind::Word => WORD,
        TokenKind::Dotted => 2,
        TokenKind::Quoted => 3,
        TokenKind::UserVar => 4,
        TokenKind::SysVar => 5,
        TokenKind::Op => OP,
        TokenKind::Hint => 7,
        TokenKind::CodeOpen => 8,
        TokenKind::CodeClose => 9,
        TokenKind::Bad => 10,
        TokenKind::Literal(_) => 11,
    }
}

/// SipHash-1-3 with a 128-bit result over a stream of bytes in which no token's bytes begin another's.
///
/// A token of up to seven bytes is a byte `kind * 8 + length` and its bytes; a longer one is `0xc0 + kind`, four
/// bytes of length and its bytes; a literal is one byte.
struct Sip {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
    /// Bytes that do not fill a word yet, the first one lowest, and how many.
    tail: u64,
    tail_len: u32,
    words: u64,
}

impl Sip {
    fn new(k0: u64, k1: u64) -> Self {
        Self {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            v1: k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
            tail: 0,
            tail_len: 0,
            words: 0,
        }
    }

    /// What `Lexer::plain` gives.
    #[inline(always)]
    fn plain(&mut self, is_word: bool, text: &[u8], start: usize, end: usize) {
        if is_word {
            self.bytes(WORD, text, start, end);
        } else {
            self.push((OP << 3 | 1) | (u64::from(text[start]) << 8), 2);
        }
    }

    fn token(&mut self, text: &[u8], token: Token) {
        let span = token.span();
        self.bytes(token_tag(token.kind), text, span.start, span.end);
    }

    #[inline(always)]
    fn bytes(&mut self, tag: u64, text: &[u8], start: usize, end: usize) {
        let len = end - start;
        if len >= 8 {
            return self.long(tag, &text[start..end]);
        }
        // Most tokens are not among the last bytes, so one load and a mask do instead of a loop.
        let raw = match text[start..].first_chunk::<8>() {
            Some(chunk) => u64::from_le_bytes(*chunk) & ((1 << (8 * len)) - 1),
            None => text[start..end].iter().rev().fold(0, |word, b| (word << 8) | u64::from(*b)),
        };
        self.push((tag << 3) | len as u64 | (raw << 8), len as u32 + 1);
    }

    #[inline(always)]
    fn long(&mut self, tag: u64, bytes: &[u8]) {
        self.push((0xc0 + tag) | ((bytes.len() as u64) << 8), 5);
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.push(u64::from_le_bytes(*chunk), 8);
        }
        if !rest.is_empty() {
            let last = rest.iter().rev().fold(0, |word, b| (word << 8) | u64::from(*b));
            self.push(last, rest.len() as u32);
        }
    }

    /// Adds the lowest `len` bytes of `word`, 1 to 8; the others are 0.
    #[inline(always)]
    fn push(&mut self, word: u64, len: u32) {
        self.tail |= word << (8 * self.tail_len);
        let total = self.tail_len + len;
        if total >= 8 {
            let taken = 8 - self.tail_len;
            self.word(self.tail);
            self.tail = word.checked_shr(8 * taken).unwrap_or(0);
            self.tail_len = total - 8;
        } else {
            self.tail_len = total;
        }
    }

    #[inline(always)]
    fn word(&mut self, word: u64) {
        self.words += 1;
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }

    fn finish(mut self) -> u128 {
        // The last word has at most seven bytes of text; its top byte tells the length, as in SipHash.
        let last = self.tail | ((self.words * 8 + u64::from(self.tail_len)) << 56);
        self.word(last);
        self.v2 ^= 0xee;
        (0..3).for_each(|_| self.round());
        let low = self.v0 ^ self.v1 ^ self.v2 ^ self.v3;
        self.v1 ^= 0xdd;
        (0..3).for_each(|_| self.round());
        let high = self.v0 ^ self.v1 ^ self.v2 ^ self.v3;
        (u128::from(high) << 64) | u128::from(low)
    }
}
