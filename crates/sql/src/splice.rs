//! A new statement from an old one and a list of replacements.

use std::ops::Range;

/// Why a splice was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpliceError {
    /// A span lies outside the text or ends before it begins.
    #[error("a replaced span lies outside the statement")]
    OutOfBounds,
    /// Spans overlap or are not sorted.
    #[error("replaced spans overlap or are not in order")]
    OutOfOrder,
}

/// Copies `text` to the end of `out`, with each span replaced. Spans must be sorted and must not overlap; empty ones
/// insert. `out` is left as it was on an error.
///
/// # Errors
/// Where the spans do not fit the text.
pub fn splice<R: AsRef<[u8]>>(
    text: &[u8],
    replacements: &[(Range<usize>, R)],
    out: &mut Vec<u8>,
) -> Result<(), SpliceError> {
    let mut at = 0;
    for (span, _) in replacements {
        if span.start > span.end || span.end > text.len() {
            return Err(SpliceError::OutOfBounds);
        }
        if span.start < at {
            return Err(SpliceError::OutOfOrder);
        }
        at = span.end;
    }
    let added: usize = replacements.iter().map(|(_, with)| with.as_ref().len()).sum();
    out.reserve(text.len() + added);
    at = 0;
    for (span, with) in replacements {
        out.extend_from_slice(&text[at..span.start]);
        out.extend_from_slice(with.as_ref());
        at = span.end;
    }
    out.extend_from_slice(&text[at..]);
    Ok(())
}
