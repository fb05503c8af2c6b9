//! The tokens of one statement, with ordinals, for looking ahead and back.

use std::borrow::Cow;
use std::ops::Range;

use crate::digest::is_stored_program;
use crate::lex::{Lexer, LiteralKind, Token, TokenKind, runs_everywhere, unquote_name};
use crate::mode::Mode;

/// Most tokens of a statement that is analysed: beyond it a statement on a sharded table is refused.
pub(crate) const TOKENS_MAX: usize = 4_000_000;

/// One token and, if it is a literal, its ordinal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) token: Token,
    pub(crate) ordinal: u32,
}

/// The tokens of the first statement of a text. Optimizer hints and the marks of comments that every server
/// runs are left out.
pub(crate) struct Tokens<'t> {
    pub(crate) text: &'t [u8],
    pub(crate) mode: Mode,
    items: Vec<Item>,
    /// For each `(` the index of its `)`, else 0.
    pairs: Vec<u32>,
    pub(crate) literals: u32,
    pub(crate) params: u16,
    /// Why the text may mean something else to a server than to us.
    pub(crate) odd: Option<&'static str>,
}

impl<'t> Tokens<'t> {
    pub(crate) fn new(text: &'t [u8], mode: Mode) -> Self {
        Self::up_to(text, mode, usize::MAX)
    }

    /// Only the first `most` tokens.
    pub(crate) fn up_to(text: &'t [u8], mode: Mode, most: usize) -> Self {
        let mut tokens =
            Self { text, mode, items: Vec::new(), pairs: Vec::new(), literals: 0, params: 0, odd: None };
        let mut in_program = None;
        for token in Lexer::new(text, mode) {
            match token.kind {
                TokenKind::Op
                    if token.bytes(text) == b";"
                        && !*in_program.get_or_insert_with(|| is_stored_program(text, mode)) =>
                {
                    break;
                }
                TokenKind::Hint | TokenKind::CodeClose => continue,
                TokenKind::CodeOpen => {
                    if !runs_everywhere(token.bytes(text)) {
                        tokens.odd = Some("a comment that only some server versions run");
                    }
                    continue;
                }
                TokenKind::Bad => tokens.odd = Some("a string, name or comment without its end"),
                _ => {}
            }
            tokens.push(token);
            if tokens.items.len() >= most {
                break;
            }
            if tokens.items.len() > TOKENS_MAX {
                tokens.odd = Some("too many tokens; split it");
                break;
            }
        }
        tokens.pair_parentheses();
        tokens
    }

    fn pair_parentheses(&mut self) {
        self.pairs = vec![0; self.items.len()];
        let mut open = Vec::new();
        for at in 0..self.items.len() {
            if self.is_op(at, "(") {
                open.push(at);
            } else if self.is_op(at, ")") {
                match open.pop() {
                    Some(start) => self.pairs[start] = u32::try_from(at).unwrap_or(0),
                    None => self.odd = Some("unbalanced parentheses"),
                }
            }
        }
        if !open.is_empty() {
            self.odd = Some("unbalanced parentheses");
        }
    }

    fn push(&mut self, token: Token) {
        let ordinal = self.literals;
        if let TokenKind::Literal(kind) = token.kind {
            self.literals = self.literals.saturating_add(1);
            if let LiteralKind::Param(index) = kind {
                self.params = index.saturating_add(1);
            }
        }
        self.items.push(Item { token, ordinal });
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn kind(&self, at: usize) -> Option<TokenKind> {
        self.items.get(at).map(|item| item.token.kind)
    }

    pub(crate) fn item(&self, at: usize) -> Option<Item> {
        self.items.get(at).copied()
    }

    pub(crate) fn bytes(&self, at: usize) -> &'t [u8] {
        self.items.get(at).map_or(&[], |item| item.token.bytes(self.text))
    }

    /// Whether token `at` is the unquoted word, in any case.
    /// Where these tokens stand in the text.
    pub(crate) fn span(&self, range: Range<usize>) -> Range<usize> {
        let of = |at: usize| self.item(at).map(|item| item.token.span());
        match (of(range.start), range.end.checked_sub(1).and_then(of)) {
            (Some(first), Some(last)) if first.start < last.end => first.start..last.end,
            _ => 0..0,
        }
    }

    pub(crate) fn is_word(&self, at: usize, word: &str) -> bool {
        self.kind(at) == Some(TokenKind::Word) && self.bytes(at).eq_ignore_ascii_case(word.as_bytes())
    }

    /// Whether the tokens from `at` are these unquoted words.
    pub(crate) fn are_words(&self, at: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, word)| self.is_word(at + i, word))
    }

    /// Whether token `at` is one of the unquoted words.
    pub(crate) fn is_any(&self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.is_word(at, word))
    }

    pub(crate) fn is_op(&self, at: usize, op: &str) -> bool {
        self.kind(at) == Some(TokenKind::Op) && self.bytes(at) == op.as_bytes()
    }

    /// Whether token `at` can be a name: a word, quoted or behind a point.
    pub(crate) fn is_name(&self, at: usize) -> bool {
        matches!(self.kind(at), Some(TokenKind::Word | TokenKind::Dotted | TokenKind::Quoted))
    }

    /// The name at `at`, quotes removed.
    pub(crate) fn name(&self, at: usize) -> Option<String> {
        self.is_name(at).then(|| String::from_utf8_lossy(&unquote_name(self.bytes(at))).into_owned())
    }

    /// Raw bytes of a name, for comparing with the catalog.
    pub(crate) fn raw_name(&self, at: usize) -> Option<Cow<'t, [u8]>> {
        match self.kind(at)? {
            TokenKind::Word | TokenKind::Dotted => Some(Cow::Borrowed(self.bytes(at))),
            TokenKind::Quoted => Some(Cow::Owned(unquote_name(self.bytes(at)))),
            _ => None,
        }
    }

    /// `name` or `name . name`: the first part if there are two, the last part, and the index behind.
    pub(crate) fn dotted_name(&self, at: usize) -> Option<(Option<String>, String, usize)> {
        let first = self.name(at)?;
        if self.is_op(at + 1, ".") {
            return Some((Some(first), self.name(at + 2)?, at + 3));
        }
        Some((None, first, at + 1))
    }

    /// The `)` that closes the `(` at `open`; None if there is none before `end`.
    pub(crate) fn closing(&self, open: usize, end: usize) -> Option<usize> {
        let close = *self.pairs.get(open)? as usize;
        (close > open && close < end).then_some(close)
    }

    /// The index behind the token at `at`, or behind its `)` if it is a `(`.
    pub(crate) fn skip(&self, at: usize, end: usize) -> usize {
        if self.is_op(at, "(") { self.closing(at, end).map_or(end, |close| close + 1) } else { at + 1 }
    }

    /// First index in the range, outside parentheses, for which `wanted` holds.
    pub(crate) fn find(&self, range: Range<usize>, wanted: impl Fn(usize) -> bool) -> Option<usize> {
        let mut at = range.start;
        while at < range.end {
            if wanted(at) {
                return Some(at);
            }
            at = self.skip(at, range.end);
        }
        None
    }

    /// The parts of a range between its commas outside parentheses.
    pub(crate) fn split_commas(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let mut start = range.start;
        while let Some(comma) = self.find(start..range.end, |at| self.is_op(at, ",")) {
            parts.push(start..comma);
            start = comma + 1;
        }
        parts.push(start..range.end);
        parts
    }
}
