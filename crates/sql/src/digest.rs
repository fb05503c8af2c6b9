//! The statement with its literals replaced, as a keyed 128-bit hash.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use crate::hint::{self, Hints};
use crate::lex::{Lexer, Literal, LiteralKind, Token, TokenKind};
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
/// the number or kinds of literals, in letter case, or in optimizer hints.
pub fn digest(text: &[u8], mode: Mode, literals: &mut Vec<Literal>) -> Digest {
    literals.clear();
    let (k0, k1) = *KEY;
    let mut hash = Sip::new(k0, k1);
    let mut lexer = Lexer::new(text, mode);
    let mut found = Digest { hash: 0, params: 0, hints: Hints::default(), end: 0, second_statement: None };
    while let Some(token) = lexer.next() {
        match token.kind {
            TokenKind::Literal(kind) => {
                if let LiteralKind::Param(index) = kind {
                    found.params = index.saturating_add(1);
                }
                hash.word(literal_tag(kind));
                literals.push(Literal { start: token.start, end: token.end, kind });
            }
            TokenKind::Op if text.get(token.start as usize) == Some(&b';') => {
                if let Some(next) = following_statement(text, mode, &mut lexer) {
                    found.second_statement = next;
                    break;
                }
                hash.token(token.kind, b";");
            }
            kind => hash.token(kind, token.bytes(text)),
        }
        found.end = token.end as usize;
    }
    if let Some(comment) = lexer.leading_comment() {
        found.hints = hint::parse(text, comment);
        if !found.hints.is_empty() {
            hash.word(found.hints.tag());
        }
    }
    found.hash = hash.finish();
    found
}

/// Behind a `;`: `Some(None)` at the end of the text, `Some(Some(offset))` before a second statement, `None`
/// inside a stored program, whose `;` end nothing.
#[cold]
fn following_statement(text: &[u8], mode: Mode, lexer: &mut Lexer<'_>) -> Option<Option<usize>> {
    let ahead = lexer.clone().find(|token| !is_semicolon(text, token));
    match ahead {
        None => Some(None),
        Some(_) if is_stored_program(text, mode) => None,
        Some(token) => Some(Some(token.start as usize)),
    }
}

fn is_semicolon(text: &[u8], token: &Token) -> bool {
    token.kind == TokenKind::Op && token.bytes(text) == b";"
}

/// Whether the text creates a routine, trigger or event, or is MariaDB's BEGIN NOT ATOMIC: its body has `;`.
pub(crate) fn is_stored_program(text: &[u8], mode: Mode) -> bool {
    let mut words = Lexer::new(text, mode)
        .filter(|token| matches!(token.kind, TokenKind::Word))
        .take(24)
        .map(|token| token.bytes(text).to_ascii_uppercase());
    match words.next().as_deref() {
        Some(b"BEGIN") => words.next().as_deref() == Some(b"NOT"),
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

fn literal_tag(kind: LiteralKind) -> u64 {
    let kind = match kind {
        LiteralKind::Int => 1,
        LiteralKind::Real => 2,
        LiteralKind::Text => 3,
        LiteralKind::National => 4,
        LiteralKind::Introduced => 5,
        LiteralKind::HexNumber => 6,
        LiteralKind::HexText => 7,
        LiteralKind::Bits => 8,
        LiteralKind::Param(_) => 9,
    };
    (0x80 + kind) << 56
}

fn token_tag(kind: TokenKind) -> u64 {
    match kind {
        TokenKind::Word => 0x08,
        TokenKind::Dotted => 0x10,
        TokenKind::Quoted => 0x18,
        TokenKind::UserVar => 0x20,
        TokenKind::SysVar => 0x28,
        TokenKind::Op => 0x30,
        TokenKind::Hint => 0x38,
        TokenKind::CodeOpen => 0x40,
        TokenKind::CodeClose => 0x48,
        TokenKind::Bad => 0x50,
        TokenKind::Literal(_) => 0x58,
    }
}

/// SipHash-1-3 with a 128-bit result over a prefix-free stream of words.
///
/// A token of up to seven bytes is one word, `kind + length` in the top byte; a longer one is a word with bit 63
/// and bit 62 set, its kind and its length, and then its bytes eight at a time.
struct Sip {
    v: [u64; 4],
    words: u64,
}

impl Sip {
    fn new(k0: u64, k1: u64) -> Self {
        Self {
            v: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
            words: 0,
        }
    }

    #[inline]
    fn token(&mut self, kind: TokenKind, bytes: &[u8]) {
        if bytes.len() < 8 {
            let mut word = (token_tag(kind) + bytes.len() as u64) << 56;
            for (i, b) in bytes.iter().enumerate() {
                word |= u64::from(*b) << (8 * i);
            }
            self.word(word);
        } else {
            self.long(kind, bytes);
        }
    }

    fn long(&mut self, kind: TokenKind, bytes: &[u8]) {
        self.word((0xc0 << 56) | (token_tag(kind) << 48) | bytes.len() as u64);
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.word(u64::from_le_bytes(*chunk));
        }
        if !rest.is_empty() {
            let mut last = [0u8; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(last));
        }
    }

    #[inline]
    fn word(&mut self, word: u64) {
        self.words += 1;
        self.v[3] ^= word;
        self.round();
        self.v[0] ^= word;
    }

    #[inline]
    fn round(&mut self) {
        let [v0, v1, v2, v3] = &mut self.v;
        *v0 = v0.wrapping_add(*v1);
        *v2 = v2.wrapping_add(*v3);
        *v1 = v1.rotate_left(13) ^ *v0;
        *v3 = v3.rotate_left(16) ^ *v2;
        *v0 = v0.rotate_left(32);
        *v2 = v2.wrapping_add(*v1);
        *v0 = v0.wrapping_add(*v3);
        *v1 = v1.rotate_left(17) ^ *v2;
        *v3 = v3.rotate_left(21) ^ *v0;
        *v2 = v2.rotate_left(32);
    }

    fn finish(mut self) -> u128 {
        let count = self.words;
        self.word(count);
        self.v[2] ^= 0xee;
        (0..3).for_each(|_| self.round());
        let low = self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3];
        self.v[1] ^= 0xdd;
        (0..3).for_each(|_| self.round());
        let high = self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3];
        (u128::from(high) << 64) | u128::from(low)
    }
}
