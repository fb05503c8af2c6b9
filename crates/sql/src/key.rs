//! From a literal or a bound parameter to the canonical text of a key, as the directory stores it.

use std::borrow::Cow;
use std::fmt;

use crate::lex::LiteralKind;
use crate::mode::Mode;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 190;

/// The type of a key column, as far as comparing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// An integer column.
    Int {
        /// 8, 16, 24, 32 or 64.
        bits: u8,
        /// No negative values.
        unsigned: bool,
    },
    /// A character or binary column.
    Text(TextRule),
}

impl KeyType {
    /// `BIGINT`.
    pub const BIGINT: Self = Self::Int { bits: 64, unsigned: false };
    /// `BIGINT UNSIGNED`.
    pub const BIGINT_UNSIGNED: Self = Self::Int { bits: 64, unsigned: true };

    /// From `data_type`, `column_type` and `collation_name` of `information_schema.columns`.
    ///
    /// # Errors
    /// A text that says why such a column cannot be a key.
    pub fn from_column(data_type: &str, column_type: &str, collation: Option<&str>) -> Result<Self, String> {
        let unsigned = column_type.to_ascii_lowercase().contains("unsigned");
        let bits = match data_type.to_ascii_lowercase().as_str() {
            "tinyint" | "int1" => 8,
            "smallint" | "int2" => 16,
            "mediumint" | "int3" | "middleint" => 24,
            "int" | "integer" | "int4" => 32,
            "bigint" | "int8" => 64,
            "binary" => return Err("BINARY pads with zero bytes; use VARBINARY or VARCHAR".into()),
            "varbinary" => return Ok(Self::Text(TextRule::BINARY)),
            "char" | "varchar" | "nchar" | "nvarchar" | "character" => {
                let collation = collation.ok_or("its collation is not known")?;
                return TextRule::from_collation(collation).map(Self::Text);
            }
            other => return Err(format!("a key must be an integer or a string, and this is {other}")),
        };
        Ok(Self::Int { bits, unsigned })
    }
}

/// When two texts of a column are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TextRule {
    /// `a` equals `A`.
    pub fold_case: bool,
    /// Trailing spaces do not count.
    pub pad: bool,
    /// Beyond ASCII the collation has rules that are not known here, so such keys are refused.
    pub ascii_only: bool,
}

impl TextRule {
    /// Byte for byte.
    pub const BINARY: Self = Self { fold_case: false, pad: false, ascii_only: false };

    /// From the name of a collation.
    ///
    /// # Errors
    /// A text that names the collation, where its rules for ASCII letters are not just case.
    pub fn from_collation(collation: &str) -> Result<Self, String> {
        let name = collation.to_ascii_lowercase();
        let no_pad =
            name == "binary" || name.contains("_0900_") || name.contains("nopad") || name.contains("uca1400");
        if name == "binary" || name.ends_with("_bin") {
            // Other charsets than these hold the same letter in other bytes than a client sends.
            let utf8 =
                ["binary", "utf8_", "utf8mb3_", "utf8mb4_"].iter().any(|start| name.starts_with(start));
            return Ok(Self { fold_case: false, pad: !no_pad, ascii_only: !utf8 });
        }
        let known = [
            "_general_ci",
            "_unicode_ci",
            "_unicode_520_ci",
            "_general_nopad_ci",
            "_unicode_nopad_ci",
            "_0900_ai_ci",
            "_0900_as_ci",
            "_0900_as_cs",
            "uca1400_ai_ci",
            "uca1400_as_ci",
            "uca1400_as_cs",
            "uca1400_nopad_ai_ci",
            "uca1400_nopad_as_ci",
            "uca1400_nopad_as_cs",
            "_general_cs",
        ];
        let plain = known.iter().any(|end| name.ends_with(end)) || name == "latin1_swedish_ci";
        // Language collations carry the language before the version: utf8mb4_tr_0900_ai_ci.
        let words = name.split('_').count();
        let of_language = name.contains("_0900_") && words > 4 || name.contains("uca1400") && words > 5;
        if !plain || of_language {
            return Err(format!(
                "collation {collation} has rules that usher does not know; use a _bin collation"
            ));
        }
        // UCA 14 names without "nopad" pad.
        let no_pad = no_pad && (!name.contains("uca1400") || name.contains("nopad"));
        Ok(Self { fold_case: name.ends_with("_ci"), pad: !no_pad, ascii_only: true })
    }
}

/// A canonical key. Equal keys, and only those, are one user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// The directory's text: integers in decimal, texts folded as their collation compares them.
    Is(String),
    /// NULL: equal to nothing.
    Null,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(key) => f.write_str(key),
            Self::Null => f.write_str("NULL"),
        }
    }
}

/// Why a value cannot be used to route. The caller reports it with the table and column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum KeyError {
    /// MySQL would compare as floating point or cut the text off.
    #[error("cannot route: the value is not an integer and the key column is")]
    NotInteger,
    /// No row can hold it.
    #[error("cannot route: the value is out of the key column's range")]
    OutOfRange,
    /// A number compared with a text column makes MySQL convert every row.
    #[error("cannot route: the key column is a text and the value is a number; quote it")]
    NumberForText,
    /// The collation's rules beyond ASCII are not known.
    #[error(
        "cannot route: the key has characters whose collation rules usher does not know (beyond printable ASCII)"
    )]
    NotAscii,
    /// The client's charset is not UTF-8.
    #[error("cannot route: the key is not ASCII and the connection's charset is not utf8mb4")]
    ForeignCharset,
    /// Bytes that are not UTF-8.
    #[error("cannot route: the key is not valid UTF-8")]
    NotUtf8,
    /// Over [`KEY_BYTES_MAX`].
    #[error("cannot route: the key is longer than 190 bytes")]
    TooLong,
    /// A form of literal that servers read differently.
    #[error("cannot route: write the key as a plain number or a plain string")]
    OddLiteral,
    /// A placeholder has no value in the text.
    #[error("cannot route: the key is a placeholder without a value")]
    Unbound,
}

/// A bound parameter of a prepared statement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound<'v> {
    /// NULL.
    Null,
    /// Signed integer types.
    Int(i64),
    /// Unsigned integer types.
    UInt(u64),
    /// FLOAT and DOUBLE.
    Float(f64),
    /// Strings, blobs and DECIMAL, without quotes or escapes.
    Bytes(&'v [u8]),
    /// Dates and times: never a key.
    Time,
}

/// The key that a literal of a statement stands for. `raw` is its span of text, `negative` says that a minus stands
/// before it.
///
/// # Errors
/// Where the server might take the value for another user than we would.
pub fn canonical_key(
    raw: &[u8],
    kind: LiteralKind,
    negative: bool,
    key_type: KeyType,
    mode: Mode,
) -> Result<Key, KeyError> {
    match (kind, key_type) {
        (LiteralKind::Param(_), _) => Err(KeyError::Unbound),
        (LiteralKind::Int | LiteralKind::Real, KeyType::Int { .. }) => integer(raw, negative, key_type),
        (LiteralKind::HexNumber, KeyType::Int { .. }) if !negative => {
            let digits =
                raw.get(2..).and_then(|hex| std::str::from_utf8(hex).ok()).ok_or(KeyError::OddLiteral)?;
            let value = u64::from_str_radix(digits, 16).map_err(|_| KeyError::OutOfRange)?;
            in_range(i128::from(value), key_type)
        }
        (LiteralKind::Text, KeyType::Int { .. }) if !negative => {
            integer(string_value(raw, mode).trim_ascii(), false, key_type)
        }
        (LiteralKind::Text | LiteralKind::National, KeyType::Text(rule)) if !negative => {
            text(&string_value(raw, mode), rule, mode)
        }
        (LiteralKind::Introduced, KeyType::Text(rule)) if !negative => introduced(raw, rule, mode),
        (LiteralKind::Int | LiteralKind::Real, KeyType::Text(_)) => Err(KeyError::NumberForText),
        _ => Err(KeyError::OddLiteral),
    }
}

/// The key that a bound parameter stands for.
///
/// # Errors
/// As [`canonical_key`].
pub fn bound_key(value: Bound<'_>, key_type: KeyType, mode: Mode) -> Result<Key, KeyError> {
    match (value, key_type) {
        (Bound::Null, _) => Ok(Key::Null),
        (Bound::Int(value), KeyType::Int { .. }) => in_range(i128::from(value), key_type),
        (Bound::UInt(value), KeyType::Int { .. }) => in_range(i128::from(value), key_type),
        (Bound::Float(value), KeyType::Int { .. }) => whole_float(value, key_type),
        (Bound::Bytes(bytes), KeyType::Int { .. }) => integer(bytes.trim_ascii(), false, key_type),
        (Bound::Bytes(bytes), KeyType::Text(rule)) => text(bytes, rule, mode),
        (Bound::Time, _) => Err(KeyError::OddLiteral),
        (_, KeyType::Text(_)) => Err(KeyError::NumberForText),
    }
}

/// Whether a literal in an AUTO_INCREMENT column asks for a new id: 0, in any numeric or text form. NULL and
/// DEFAULT are not literals, see `RowValue`.
#[must_use]
pub fn asks_for_id(raw: &[u8], kind: LiteralKind, mode: Mode) -> bool {
    canonical_key(raw, kind, false, KeyType::BIGINT, mode) == Ok(Key::Is("0".into()))
}

/// Beyond 2^53 a double no longer names one integer.
fn whole_float(value: f64, key_type: KeyType) -> Result<Key, KeyError> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() != 0.0 || value.abs() >= EXACT {
        return Err(KeyError::NotInteger);
    }
    #[allow(clippy::cast_possible_truncation)] // whole and below 2^53
    in_range(value as i128, key_type)
}

/// `[+-]digits[.000]`; a fraction or an exponent is refused.
fn integer(raw: &[u8], negative: bool, key_type: KeyType) -> Result<Key, KeyError> {
    let (negative, digits) = match raw.split_first() {
        Some((b'-', rest)) => (!negative, rest),
        Some((b'+', rest)) => (negative, rest),
        _ => (negative, raw),
    };
    let point = digits.iter().position(|b| *b == b'.').unwrap_or(digits.len());
    let (whole, fraction) = digits.split_at(point);
    if whole.is_empty() || !whole.iter().all(u8::is_ascii_digit) {
        return Err(KeyError::NotInteger);
    }
    if !fraction.iter().skip(1).all(|b| *b == b'0') {
        return Err(KeyError::NotInteger);
    }
    let mut value = 0i128;
    for digit in whole {
        value = value * 10 + i128::from(digit - b'0');
        if value > i128::from(u64::MAX) {
            return Err(KeyError::OutOfRange);
        }
    }
    in_range(if negative { -value } else { value }, key_type)
}

fn in_range(value: i128, key_type: KeyType) -> Result<Key, KeyError> {
    let KeyType::Int { bits, unsigned } = key_type else { return Err(KeyError::NumberForText) };
    let bits = u32::from(bits).clamp(8, 64);
    let (low, high) =
        if unsigned { (0, (1i128 << bits) - 1) } else { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) };
    if !(low..=high).contains(&value) {
        return Err(KeyError::OutOfRange);
    }
    Ok(Key::Is(value.to_string()))
}

fn text(value: &[u8], rule: TextRule, mode: Mode) -> Result<Key, KeyError> {
    let mut value = std::str::from_utf8(value).map_err(|_| KeyError::NotUtf8)?;
    if rule.pad {
        value = value.trim_end_matches(' ');
    }
    if value.len() > KEY_BYTES_MAX {
        return Err(KeyError::TooLong);
    }
    if !value.is_ascii() {
        if mode.foreign_charset {
            return Err(KeyError::ForeignCharset);
        }
        if rule.ascii_only {
            return Err(KeyError::NotAscii);
        }
    }
    // Some collations skip control characters, and a PAD one puts them before the end of the text.
    if (rule.ascii_only || rule.pad) && value.bytes().any(|b| b.is_ascii_control()) {
        return Err(KeyError::NotAscii);
    }
    Ok(Key::Is(if rule.fold_case { value.to_ascii_lowercase() } else { value.to_owned() }))
}

/// `_utf8mb4'..'`: only charsets whose ASCII is ASCII, and only where the comparison stays the column's.
fn introduced(raw: &[u8], rule: TextRule, mode: Mode) -> Result<Key, KeyError> {
    let end = raw.iter().position(|b| matches!(b, b'\'' | b'"')).ok_or(KeyError::OddLiteral)?;
    let name = raw[..end].trim_ascii().to_ascii_lowercase();
    let binary = name == b"_binary";
    let utf8 = matches!(name.as_slice(), b"_utf8" | b"_utf8mb3" | b"_utf8mb4");
    let value = string_value(&raw[end..], mode);
    // `_binary` makes the comparison one of bytes, which a folding or padding column would not do.
    let exact = rule == TextRule::BINARY || !(rule.fold_case || rule.pad);
    if (binary && !exact) || !(binary || utf8 || name == b"_ascii" || name == b"_latin1") {
        return Err(KeyError::OddLiteral);
    }
    if !(value.is_ascii() || utf8 || binary) {
        return Err(KeyError::OddLiteral);
    }
    text(&value, rule, Mode { foreign_charset: false, ..mode })
}

/// The value of a string literal: quotes and introducing N removed, escapes undone, adjacent strings joined.
#[must_use]
pub fn string_value(raw: &[u8], mode: Mode) -> Cow<'_, [u8]> {
    let raw = match raw.first() {
        Some(b'n' | b'N') => &raw[1..],
        _ => raw,
    };
    let Some((&quote, rest)) = raw.split_first() else { return Cow::Borrowed(raw) };
    if let Some((last, inner)) = rest.split_last()
        && *last == quote
        && !inner.iter().any(|b| *b == quote || *b == b'\\')
    {
        return Cow::Borrowed(inner);
    }
    Cow::Owned(unescape(raw, mode))
}

fn unescape(raw: &[u8], mode: Mode) -> Vec<u8> {
    let mut value = Vec::with_capacity(raw.len());
    let mut quote = None;
    let mut bytes = raw.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        match quote {
            None if matches!(b, b'\'' | b'"') => quote = Some(b),
            None => {}
            Some(open) if b == open => {
                if bytes.peek() == Some(&open) {
                    bytes.next();
                    value.push(open);
                } else {
                    quote = None;
                }
            }
            Some(_) if b == b'\\' && !mode.no_backslash_escapes => match bytes.next() {
                Some(b'0') => value.push(0),
                Some(b'b') => value.push(8),
                Some(b'n') => value.push(b'\n'),
                Some(b'r') => value.push(b'\r'),
                Some(b't') => value.push(b'\t'),
                Some(b'Z') => value.push(26),
                // Outside LIKE, `\%` and `\_` keep their backslash.
                Some(wild @ (b'%' | b'_')) => value.extend([b'\\', wild]),
                Some(other) => value.push(other),
                None => {}
            },
            Some(_) => value.push(b),
        }
    }
    value
}
