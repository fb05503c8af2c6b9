//! The lexer, the digest and the splice: whatever text comes, spans lie in it in order, and a digest stands for every
//! statement that differs in its literals only.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_fuzz::Input;
use usher_sql::{
    KeyType, Lexer, Literal, LiteralKind, Mode, TextRule, TokenKind, bound_key, canonical_key, digest,
    splice, string_value, unquote_name,
};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mode = usher_fuzz::mode(input.byte());
    let text = input.rest();
    let mut at = 0;
    for token in Lexer::new(text, mode) {
        assert!(at <= token.start && token.start < token.end && token.end as usize <= text.len());
        at = token.end;
        if token.kind == TokenKind::Quoted {
            assert!(unquote_name(token.bytes(text)).len() <= token.bytes(text).len());
        }
    }
    let mut literals = Vec::new();
    let found = digest(text, mode, &mut literals);
    assert!(found.end <= text.len());
    assert!(found.second_statement.is_none_or(|at| found.end <= at && at < text.len()));
    let mut at = 0;
    for literal in &literals {
        let span = literal.span();
        assert!(at <= span.start && span.start < span.end && span.end <= found.end);
        at = span.end;
        keys(&text[span], literal.kind, mode);
    }
    others_of_the_digest(text, mode, found.hash, &literals);
});

/// The key of a literal, if it has one, is short and is the same when it is bound.
fn keys(raw: &[u8], kind: LiteralKind, mode: Mode) {
    let rule = TextRule { fold_case: true, pad: true, ascii_only: true };
    for key_type in [KeyType::BIGINT, KeyType::Text(TextRule::BINARY), KeyType::Text(rule)] {
        for negative in [false, true] {
            let _ = canonical_key(raw, kind, negative, key_type, mode);
        }
    }
    if kind == LiteralKind::Text {
        let value = string_value(raw, mode);
        assert!(value.len() <= raw.len());
        let literal = canonical_key(raw, kind, false, KeyType::Text(TextRule::BINARY), mode);
        let bound = bound_key(usher_sql::Bound::Bytes(&value), KeyType::Text(TextRule::BINARY), mode);
        assert_eq!(literal, bound);
    }
}

/// The text with other literals has the same digest, and as many literals.
fn others_of_the_digest(text: &[u8], mode: Mode, hash: u128, literals: &[Literal]) {
    // A comment that some servers run has its literals in the digest.
    if Lexer::new(text, mode).any(|token| token.kind == TokenKind::CodeOpen) {
        return;
    }
    let changed: Vec<_> = literals
        .iter()
        .filter_map(|literal| match literal.kind {
            LiteralKind::Int => Some((literal.span(), &b"31415"[..])),
            // Another mark might make one literal of two.
            LiteralKind::Text if text[literal.span()][0] == b'"' => Some((literal.span(), &b"\"a\"\"\""[..])),
            LiteralKind::Text => Some((literal.span(), &b"'it''s'"[..])),
            _ => None,
        })
        .collect();
    let mut other = Vec::new();
    splice(text, &changed, &mut other).expect("literals are in order");
    let mut its_literals = Vec::new();
    let found = digest(&other, mode, &mut its_literals);
    assert_eq!(found.hash, hash, "{}", String::from_utf8_lossy(&other));
    assert_eq!(its_literals.len(), literals.len());
}
