//! Bytes to tokens, as MySQL's and MariaDB's own scanners cut them.

use std::ops::Range;

use crate::charset;
use crate::mode::Mode;

/// What kind of constant a literal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LiteralKind {
    /// Digits only. A sign is a token of its own.
    Int,
    /// Digits with a point, or an exponent.
    Real,
    /// `'..'`, and `".."` outside ANSI_QUOTES; adjacent strings are one literal.
    Text,
    /// `N'..'`.
    National,
    /// A string or hex literal behind a charset introducer, `_binary'..'`; the span covers both.
    Introduced,
    /// `0x..`.
    HexNumber,
    /// `x'..'`.
    HexText,
    /// `0b..` or `b'..'`.
    Bits,
    /// The `?` of a prepared statement and its index.
    Param(u16),
}

/// One literal of a statement. Its place in the list of literals is its *ordinal*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Literal {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// What it is.
    pub kind: LiteralKind,
}

impl Literal {
    /// The bytes it covers, as a range to index the statement with.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An unquoted name or keyword.
    Word,
    /// An unquoted name right behind a point: never a keyword.
    Dotted,
    /// A quoted name, quotes included.
    Quoted,
    /// A constant.
    Literal(LiteralKind),
    /// `@x`, `` @`x` ``, `@'x'`.
    UserVar,
    /// `@@x`, `@@global.x`.
    SysVar,
    /// Punctuation, the longest that fits (`<=>`, `:=`, `->>`).
    Op,
    /// `/*+ .. */`.
    Hint,
    /// The opening of a comment that servers run: `/*!`, `/*!50003`, `/*M!`, `/*M!100100`.
    CodeOpen,
    /// The `*/` that ends it.
    CodeClose,
    /// A string, name or comment without its end, or a malformed hex or bit literal. Runs to the end of the text.
    Bad,
}

/// A token: a kind and a span of bytes. Spans are ordered and never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Token {
    /// The bytes it covers, as a range to index the statement with.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The bytes of this token.
    #[must_use]
    pub fn bytes<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        text.get(self.span()).unwrap_or_default()
    }
}

const SPACE: u8 = 1;
const NAME: u8 = 2;
const DIGIT: u8 = 4;
/// Begins a word and nothing else, but for `n'..'`, `x'..'` and `b'..'`.
const LETTER: u8 = 8;
/// Punctuation that is a token by itself whatever stands behind it.
const ALONE: u8 = 16;

const fn class_table() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut i = 0usize;
    while i < 256 {
        #[allow(clippy::cast_possible_truncation)] // i < 256
        let b = i as u8;
        table[i] = match b {
            b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r' => SPACE,
            b'0'..=b'9' => NAME | DIGIT,
            b'_' => NAME,
            b'a'..=b'z' | b'A'..=b'Z' | b'$' | 0x80..=0xff => NAME | LETTER,
            b',' | b'(' | b')' | b'=' => ALONE,
            _ => 0,
        };
        i += 1;
    }
    table
}

static CLASS: [u8; 256] = class_table();

#[inline]
fn is(b: u8, class: u8) -> bool {
    CLASS[b as usize] & class != 0
}

/// Cuts a statement into tokens; plain comments and spaces are dropped.
#[derive(Debug, Clone)]
pub struct Lexer<'t> {
    text: &'t [u8],
    mode: Mode,
    pos: usize,
    in_code: bool,
    /// The last token was a name that ends here, so that a point may join it to the next.
    name_end: usize,
    /// The last token was a point that ends here.
    dot_end: usize,
    params: u16,
    first_comment: Option<(u32, u32)>,
    started: bool,
}

impl<'t> Lexer<'t> {
    /// Starts at the first byte. Text beyond 4 GiB - 1 is not looked at: no packet can carry it.
    #[must_use]
    pub fn new(text: &'t [u8], mode: Mode) -> Self {
        let text = &text[..text.len().min(u32::MAX as usize)];
        Self {
            text,
            mode,
            pos: 0,
            in_code: false,
            name_end: usize::MAX,
            dot_end: usize::MAX,
            params: 0,
            first_comment: None,
            started: false,
        }
    }

    /// The first plain `/* */` comment before the first token, if one was passed.
    #[must_use]
    pub fn leading_comment(&self) -> Option<Range<usize>> {
        self.first_comment.map(|(start, end)| start as usize..end as usize)
    }

    #[inline]
    fn at(&self, pos: usize) -> u8 {
        self.text.get(pos).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn token(&mut self, kind: TokenKind, start: usize, end: usize) -> Token {
        self.pos = end;
        self.started = true;
        // Offsets fit: `new` cuts the text at u32::MAX.
        #[allow(clippy::cast_possible_truncation)]
        Token { kind, start: start as u32, end: end as u32 }
    }

    fn bad(&mut self, start: usize) -> Token {
        let end = self.text.len();
        self.token(TokenKind::Bad, start, end)
    }

    #[inline]
    fn op(&mut self, start: usize, len: usize) -> Token {
        self.token(TokenKind::Op, start, start + len)
    }

    #[inline]
    fn literal(&mut self, kind: LiteralKind, start: usize, end: usize) -> Token {
        self.token(TokenKind::Literal(kind), start, end)
    }

    /// The next token if it is of the commonest and simplest: a word (true) or one byte of punctuation (false), with
    /// its span. `None` leaves the token, if there is one, to `next`, which would give the same.
    #[inline(always)]
    pub(crate) fn plain(&mut self) -> Option<(bool, usize, usize)> {
        let mut start = self.pos;
        let class = loop {
            let class = CLASS[*self.text.get(start)? as usize];
            if class & SPACE == 0 {
                break class;
            }
            start += 1;
        };
        self.pos = start;
        if class & ALONE != 0 {
            self.started = true;
            self.pos = start + 1;
            return Some((false, start, start + 1));
        }
        if class & LETTER == 0 || self.dot_end == start {
            return None;
        }
        let end = self.run(start + 1, NAME);
        if end == start + 1 && self.at(end) == b'\'' {
            return None;
        }
        self.started = true;
        self.name_end = end;
        self.pos = end;
        Some((true, start, end))
    }

    /// The next token that begins at or behind `pos`.
    #[inline]
    fn scan(&mut self) -> Option<Token> {
        loop {
            let start = self.pos;
            let b = *self.text.get(start)?;
            if is(b, SPACE) {
                self.pos += 1;
                continue;
            }
            if is(b, NAME) {
                return Some(self.name_or_number(b, start));
            }
            return Some(match b {
                b'\'' => self.string(start, start, LiteralKind::Text),
                b'"' if !self.mode.ansi_quotes => self.string(start, start, LiteralKind::Text),
                b'`' | b'"' => self.quoted_name(start, b),
                b'?' => {
                    let index = self.params;
                    self.params = index.saturating_add(1);
                    self.literal(LiteralKind::Param(index), start, start + 1)
                }
                b'@' => self.variable(start),
                b'.' => self.point(start),
                b'#' => {
                    self.skip_line();
                    continue;
                }
                b'-' if self.at(start + 1) == b'-' && self.ends_dashes(start + 2) => {
                    self.skip_line();
                    continue;
                }
                b'/' if self.at(start + 1) == b'*' => match self.comment(start) {
                    Some(token) => token,
                    None => continue,
                },
                b'*' if self.in_code && self.at(start + 1) == b'/' => {
                    self.in_code = false;
                    self.token(TokenKind::CodeClose, start, start + 2)
                }
                b'\\' if self.at(start + 1) == b'N' => self.token(TokenKind::Word, start, start + 2),
                _ => self.operator(b, start),
            });
        }
    }

    /// `--` begins a comment only before a space, a control character or the end.
    fn ends_dashes(&self, pos: usize) -> bool {
        self.text.get(pos).is_none_or(|b| is(*b, SPACE) || b.is_ascii_control())
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.pos..];
        self.pos = memchr::memchr(b'\n', rest).map_or(self.text.len(), |at| self.pos + at + 1);
    }

    /// Skips a plain comment (None) or gives the token that a special one makes.
    #[cold]
    fn comment(&mut self, start: usize) -> Option<Token> {
        let digits = match (self.at(start + 2), self.at(start + 3)) {
            (b'!', _) => Some(start + 3),
            (b'M', b'!') => Some(start + 4),
            _ => None,
        };
        match digits {
            Some(digits) if !self.is_of_no_server(digits) => Some(self.code_open(start, digits)),
            _ => {
                let Some(end) = memchr::memmem::find(&self.text[start + 2..], b"*/") else {
                    return Some(self.bad(start));
                };
                let end = start + 2 + end + 2;
                if self.at(start + 2) == b'+' {
                    return Some(self.token(TokenKind::Hint, start, end));
                }
                if !self.started && self.first_comment.is_none() {
                    #[allow(clippy::cast_possible_truncation)] // `new` cuts the text at u32::MAX
                    let span = (start as u32, end as u32);
                    self.first_comment = Some(span);
                }
                self.pos = end;
                None
            }
        }
    }

    /// Whether no server's version is high enough to run the comment: dumps begin with one, `/*M!999999\- ..`. One with
    /// another comment in it ends where that does, or not, as servers have it.
    fn is_of_no_server(&self, digits: usize) -> bool {
        let count = self.text[digits..].iter().take(6).take_while(|b| b.is_ascii_digit()).count();
        let inner = &self.text[digits..];
        let inner = &inner[..memchr::memmem::find(inner, b"*/").unwrap_or(inner.len())];
        count == 6 && inner.starts_with(b"99") && memchr::memmem::find(inner, b"/*").is_none()
    }

    fn code_open(&mut self, start: usize, digits: usize) -> Token {
        let count = self.text[digits..].iter().take(6).take_while(|b| b.is_ascii_digit()).count();
        let end = if count >= 5 { digits + count } else { digits };
        self.in_code = true;
        self.token(TokenKind::CodeOpen, start, end)
    }

    #[inline(always)]
    fn run(&self, from: usize, class: u8) -> usize {
        let rest = self.text.get(from..).unwrap_or_default();
        from + rest.iter().position(|b| !is(*b, class)).unwrap_or(rest.len())
    }

    #[inline]
    fn name_run(&self, pos: usize) -> usize {
        self.run(pos, NAME)
    }

    #[inline]
    fn digit_run(&self, pos: usize) -> usize {
        self.run(pos, DIGIT)
    }

    #[inline]
    fn name_or_number(&mut self, first: u8, start: usize) -> Token {
        if self.dot_end == start {
            let end = self.name_run(start);
            self.name_end = end;
            return self.token(TokenKind::Dotted, start, end);
        }
        if is(first, DIGIT) {
            return self.number(first, start);
        }
        let end = self.name_run(start + 1);
        let quoted = end - start == 1 && self.at(end) == b'\'';
        if (quoted || (first == b'_' && charset::is_introducer(&self.text[start..end])))
            && let Some(token) = self.prefixed(first, start, end)
        {
            return token;
        }
        self.name_end = end;
        self.token(TokenKind::Word, start, end)
    }

    /// `N'..'`, `x'..'`, `b'..'`, `_charset '..'`, `_charset 0x..`; None if this is just a name.
    #[cold]
    fn prefixed(&mut self, first: u8, start: usize, end: usize) -> Option<Token> {
        match first {
            b'n' | b'N' => Some(self.string(start, end, LiteralKind::National)),
            b'x' | b'X' => Some(self.quoted_digits(start, end, LiteralKind::HexText)),
            b'b' | b'B' => Some(self.quoted_digits(start, end, LiteralKind::Bits)),
            b'_' => self.introduced(start, end),
            _ => None,
        }
    }

    fn introduced(&mut self, start: usize, end: usize) -> Option<Token> {
        let mut at = end;
        while is(self.at(at), SPACE) {
            at += 1;
        }
        match (self.at(at), self.at(at + 1)) {
            (b'\'', _) => Some(self.string(start, at, LiteralKind::Introduced)),
            (b'"', _) if !self.mode.ansi_quotes => Some(self.string(start, at, LiteralKind::Introduced)),
            (b'x' | b'X' | b'b' | b'B', b'\'') => {
                Some(self.quoted_digits(start, at + 1, LiteralKind::Introduced))
            }
            (b'0', b'x' | b'b') => {
                let end = self.name_run(at);
                Some(self.literal(LiteralKind::Introduced, start, end))
            }
            _ => None,
        }
    }

    /// `'4D79'` behind an x or b.
    fn quoted_digits(&mut self, start: usize, quote: usize, kind: LiteralKind) -> Token {
        let binary = self.at(quote - 1) | 0x20 == b'b';
        let mut end = quote + 1;
        while if binary { matches!(self.at(end), b'0' | b'1') } else { self.at(end).is_ascii_hexdigit() } {
            end += 1;
        }
        if self.at(end) != b'\'' || (!binary && (end - quote).is_multiple_of(2)) {
            return self.bad(start);
        }
        self.literal(kind, start, end + 1)
    }

    /// A string whose quote is at `quote`; further strings behind spaces belong to it.
    fn string(&mut self, start: usize, quote: usize, kind: LiteralKind) -> Token {
        let mut at = quote;
        loop {
            let Some(end) = self.string_end(at) else { return self.bad(start) };
            let mut next = end;
            while next < self.text.len() && is(self.text[next], SPACE) {
                next += 1;
            }
            match self.at(next) {
                b'\'' => at = next,
                b'"' if !self.mode.ansi_quotes => at = next,
                _ => return self.literal(kind, start, end),
            }
        }
    }

    /// One past the closing quote of the string that opens at `open`.
    fn string_end(&self, open: usize) -> Option<usize> {
        let quote = self.text[open];
        let mut pos = open + 1;
        loop {
            let rest = self.text.get(pos..)?;
            let found = if self.mode.no_backslash_escapes {
                memchr::memchr(quote, rest)?
            } else {
                memchr::memchr2(quote, b'\\', rest)?
            };
            pos += found;
            if self.text[pos] != b'\\' && self.at(pos + 1) != quote {
                return Some(pos + 1);
            }
            // An escaped character or a doubled quote.
            pos += 2;
        }
    }

    fn quoted_name(&mut self, start: usize, quote: u8) -> Token {
        match self.quoted_name_end(start, quote) {
            Some(end) => {
                self.name_end = usize::MAX;
                self.token(TokenKind::Quoted, start, end)
            }
            None => self.bad(start),
        }
    }

    fn quoted_name_end(&self, start: usize, quote: u8) -> Option<usize> {
        let mut pos = start + 1;
        loop {
            pos += memchr::memchr(quote, self.text.get(pos..)?)?;
            if self.at(pos + 1) != quote {
                return Some(pos + 1);
            }
            pos += 2;
        }
    }

    #[inline]
    fn number(&mut self, first: u8, start: usize) -> Token {
        if first == b'0' && matches!(self.at(start + 1), b'x' | b'b') {
            return self.prefixed_number(start);
        }
        let end = self.digit_run(start);
        match self.at(end) {
            b'.' => self.real(start, end + 1),
            b'e' | b'E' => {
                let sign = usize::from(matches!(self.at(end + 1), b'+' | b'-'));
                if is(self.at(end + 1 + sign), DIGIT) {
                    let end = self.digit_run(end + 1 + sign);
                    return self.literal(LiteralKind::Real, start, end);
                }
                self.digit_led_name(start, end)
            }
            b if end < self.text.len() && is(b, NAME) => self.digit_led_name(start, end),
            _ => self.literal(LiteralKind::Int, start, end),
        }
    }

    fn prefixed_number(&mut self, start: usize) -> Token {
        let end = self.name_run(start);
        let digits = &self.text[start + 2..end];
        let hex = self.at(start + 1) == b'x';
        let fits = |b: &u8| if hex { b.is_ascii_hexdigit() } else { matches!(b, b'0' | b'1') };
        if digits.is_empty() || !digits.iter().all(fits) {
            return self.digit_led_name(start, end);
        }
        let kind = if hex { LiteralKind::HexNumber } else { LiteralKind::Bits };
        self.literal(kind, start, end)
    }

    fn digit_led_name(&mut self, start: usize, from: usize) -> Token {
        let end = self.name_run(from);
        self.name_end = end;
        self.token(TokenKind::Word, start, end)
    }

    /// Digits behind a decimal point and an exponent, if any.
    fn real(&mut self, start: usize, from: usize) -> Token {
        let mut end = self.digit_run(from);
        if matches!(self.at(end), b'e' | b'E') {
            let sign = usize::from(matches!(self.at(end + 1), b'+' | b'-'));
            if is(self.at(end + 1 + sign), DIGIT) {
                end = self.digit_run(end + 1 + sign);
            }
        }
        self.literal(LiteralKind::Real, start, end)
    }

    fn point(&mut self, start: usize) -> Token {
        let next = self.at(start + 1);
        if is(next, DIGIT) && self.name_end != start {
            return self.real(start, start + 1);
        }
        self.dot_end = start + 1;
        self.op(start, 1)
    }

    fn variable(&mut self, start: usize) -> Token {
        if self.at(start + 1) == b'@' {
            let mut end = start + 2;
            loop {
                let from = end;
                end = match self.at(end) {
                    b'`' => match self.quoted_name_end(end, b'`') {
                        Some(end) => end,
                        None => return self.bad(start),
                    },
                    _ => self.name_run(end),
                };
                if end == from || self.at(end) != b'.' {
                    break;
                }
                end += 1;
            }
            return self.token(TokenKind::SysVar, start, end);
        }
        match self.at(start + 1) {
            quote @ (b'`' | b'"') => match self.quoted_name_end(start + 1, quote) {
                Some(end) => self.token(TokenKind::UserVar, start, end),
                None => self.bad(start),
            },
            b'\'' => match self.string_end(start + 1) {
                Some(end) => self.token(TokenKind::UserVar, start, end),
                None => self.bad(start),
            },
            _ => {
                let mut end = start + 1;
                while is(self.at(end), NAME) || self.at(end) == b'.' {
                    end += 1;
                }
                self.token(TokenKind::UserVar, start, end)
            }
        }
    }

    #[inline]
    fn operator(&mut self, b: u8, start: usize) -> Token {
        if is(b, ALONE) || matches!(b, b';' | b'*') {
            return self.op(start, 1);
        }
        let len = match (b, self.at(start + 1), self.at(start + 2)) {
            (b'<', b'=', b'>') | (b'-', b'>', b'>') => 3,
            (b'<', b'=' | b'>' | b'<', _)
            | (b'>', b'=' | b'>', _)
            | (b'!' | b':', b'=', _)
            | (b'|', b'|', _)
            | (b'&', b'&', _)
            | (b'-', b'>', _) => 2,
            _ => 1,
        };
        self.op(start, len)
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    #[inline]
    fn next(&mut self) -> Option<Token> {
        self.scan()
    }
}

/// Whether every server that usher supports runs what follows this mark: `/*!` and versions before 5.7.
pub(crate) fn runs_everywhere(mark: &[u8]) -> bool {
    match mark.strip_prefix(b"/*!") {
        Some([]) => true,
        Some(version) => version.len() == 5 && version < b"50700".as_slice(),
        None => false,
    }
}

/// Whether it depends on a server's version what the text says: it has a comment that only some servers run.
#[must_use]
pub fn depends_on_version(text: &[u8], mode: Mode) -> bool {
    let mut tokens = Lexer::new(text, mode);
    tokens.any(|token| token.kind == TokenKind::CodeOpen && !runs_everywhere(token.bytes(text)))
}

/// The name that a word or quoted token stands for, quotes removed and doubled quotes undone.
#[must_use]
pub fn unquote_name(raw: &[u8]) -> Vec<u8> {
    let Some(&quote @ (b'`' | b'"')) = raw.first() else { return raw.to_vec() };
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    let mut name = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(b) = bytes.next() {
        name.push(b);
        if b == quote {
            bytes.next();
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tokens as `digest` takes them.
    fn plain_first(text: &[u8], mode: Mode) -> Vec<(bool, u32, u32)> {
        let mut lexer = Lexer::new(text, mode);
        let mut tokens = Vec::new();
        loop {
            while let Some((is_word, start, end)) = lexer.plain() {
                tokens.push((is_word, start as u32, end as u32));
            }
            let Some(token) = lexer.next() else { return tokens };
            tokens.push((token.kind == TokenKind::Word, token.start, token.end));
        }
    }

    proptest! {
        #[test]
        fn the_short_way_gives_the_same_tokens(text in r#"([abnx_5.'"`,()=;* /#@?\\\-!]|SELECT |[^a]){0,40}"#, ansi in any::<bool>()) {
            let mode = Mode { ansi_quotes: ansi, ..Mode::default() };
            let tokens: Vec<_> = Lexer::new(text.as_bytes(), mode)
                .map(|token| (token.kind == TokenKind::Word, token.start, token.end))
                .collect();
            prop_assert_eq!(plain_first(text.as_bytes(), mode), tokens);
        }
    }
}
