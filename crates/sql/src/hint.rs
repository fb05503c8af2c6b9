//! `/* usher: user=623 writer */` before a statement.

use std::ops::Range;

/// What a leading comment asks for. Which of these are given is part of the digest, their values are not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    /// `user=623`: the value, quotes removed, as a range of the statement.
    pub user: Option<Range<usize>>,
    /// `shard=s1`.
    pub shard: Option<Range<usize>>,
    /// `writer`: do not use a replica.
    pub writer: bool,
    /// A word that usher does not know: the statement should be refused rather than misunderstood.
    pub unknown: Option<Range<usize>>,
}

impl Hints {
    /// True if nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Two bytes for the digest, the lower one unlike that of any token.
    pub(crate) fn tag(&self) -> u64 {
        let bits = u64::from(self.user.is_some())
            | u64::from(self.shard.is_some()) << 1
            | u64::from(self.writer) << 2
            | u64::from(self.unknown.is_some()) << 3;
        0xf1 | (bits << 8)
    }
}

/// Reads the comment at `comment`; one that does not begin with `usher:` asks for nothing.
pub(crate) fn parse(text: &[u8], comment: Range<usize>) -> Hints {
    let mut hints = Hints::default();
    let mut at = comment.start + 2;
    let end = comment.end.saturating_sub(2);
    skip(text, &mut at, end, |b| b.is_ascii_whitespace());
    if !text.get(at..end).is_some_and(|body| body.len() >= 6 && body[..6].eq_ignore_ascii_case(b"usher:")) {
        return hints;
    }
    at += 6;
    loop {
        skip(text, &mut at, end, |b| b.is_ascii_whitespace() || b == b',');
        if at >= end {
            return hints;
        }
        let start = at;
        skip(text, &mut at, end, |b| !b.is_ascii_whitespace() && b != b',' && b != b'=');
        let name = text[start..at].to_ascii_lowercase();
        let value = value(text, &mut at, end);
        match (name.as_slice(), value) {
            (b"user", Some(value)) => hints.user = Some(value),
            (b"shard", Some(value)) => hints.shard = Some(value),
            (b"writer", None) => hints.writer = true,
            _ => hints.unknown = Some(start..at),
        }
    }
}

/// `=value`, `='value'` or `="value"`; quotes cannot be escaped.
fn value(text: &[u8], at: &mut usize, end: usize) -> Option<Range<usize>> {
    if *at >= end || text[*at] != b'=' {
        return None;
    }
    *at += 1;
    let quote = text[..end].get(*at).copied().filter(|b| matches!(b, b'\'' | b'"'));
    let Some(quote) = quote else {
        let start = *at;
        skip(text, at, end, |b| !b.is_ascii_whitespace() && b != b',');
        return Some(start..*at);
    };
    *at += 1;
    let start = *at;
    skip(text, at, end, |b| b != quote);
    let span = start..*at;
    *at = (*at + 1).min(end);
    Some(span)
}

fn skip(text: &[u8], at: &mut usize, end: usize, while_true: impl Fn(u8) -> bool) {
    while *at < end && while_true(text[*at]) {
        *at += 1;
    }
}
