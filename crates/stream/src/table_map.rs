//! The event that describes a table before its rows.
//!
//! Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/classbinary__log_1_1Table__map__event.html>.

use crate::value::{Codec, cut};
use crate::{Result, StreamError};

/// Table, columns and what is known of their values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TableMap {
    pub(crate) id: u64,
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) codecs: Vec<Codec>,
    /// Empty unless the server logs full metadata.
    pub(crate) names: Vec<String>,
}

fn malformed() -> StreamError {
    StreamError::Malformed("a table map")
}

pub(crate) fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A length-encoded integer.
pub(crate) fn lenenc(data: &mut &[u8]) -> Result<usize> {
    let n = match cut(data, 1)?[0] {
        first @ 0..=250 => return Ok(usize::from(first)),
        252 => 2,
        253 => 3,
        254 => 8,
        _ => return Err(malformed()),
    };
    usize::try_from(little(cut(data, n)?)).map_err(|_| malformed())
}

fn name(data: &mut &[u8]) -> Result<String> {
    let n = usize::from(cut(data, 1)?[0]);
    let name = String::from_utf8(cut(data, n)?.to_vec()).map_err(|_| malformed())?;
    cut(data, 1)?;
    Ok(name)
}

/// Number, schema and name alone: most tables in a log are not followed.
pub(crate) fn head<'a>(data: &mut &'a [u8]) -> Result<(u64, String, String, &'a [u8])> {
    let id = little(cut(data, 6)?);
    cut(data, 2)?;
    let (schema, table) = (name(data)?, name(data)?);
    Ok((id, schema, table, data))
}

/// The whole of it.
pub(crate) fn read(mut data: &[u8]) -> Result<TableMap> {
    let (id, schema, table, mut data) = head(&mut data)?;
    let count = lenenc(&mut data)?;
    let types = cut(&mut data, count)?;
    let n = lenenc(&mut data)?;
    let mut about = cut(&mut data, n)?;
    cut(&mut data, count.div_ceil(8))?;
    let (signs, names) = metadata(data)?;
    // Of the numeric columns alone, the highest bit first; without the field there is none that is unsigned.
    let mut numeric = 0;
    let mut codecs = Vec::with_capacity(count);
    for &kind in types {
        let mut unsigned = false;
        // YEAR counts as a number too.
        if matches!(kind, 0..=5 | 8 | 9 | 13 | 246) {
            unsigned = signs.get(numeric / 8).is_some_and(|byte| byte & (0x80 >> (numeric % 8)) != 0);
            numeric += 1;
        }
        match codec(kind, unsigned, &mut about)? {
            Ok(codec) => codecs.push(codec),
            Err(why) => {
                let column = names.get(codecs.len()).cloned();
                let column = column.unwrap_or_else(|| format!("number {}", codecs.len() + 1));
                return Err(StreamError::Column { table: format!("{schema}.{table}"), column, why });
            }
        }
    }
    if !names.is_empty() && names.len() != count {
        return Err(malformed());
    }
    Ok(TableMap { id, schema, table, codecs, names })
}

/// The optional fields that matter: signs and names.
fn metadata(mut data: &[u8]) -> Result<(&[u8], Vec<String>)> {
    const SIGNEDNESS: u8 = 1;
    const COLUMN_NAME: u8 = 4;
    let (mut signs, mut names): (&[u8], _) = (&[], Vec::new());
    while !data.is_empty() {
        let field = cut(&mut data, 1)?[0];
        let n = lenenc(&mut data)?;
        let mut value = cut(&mut data, n)?;
        match field {
            SIGNEDNESS => signs = value,
            COLUMN_NAME => {
                while !value.is_empty() {
                    let n = lenenc(&mut value)?;
                    let name = cut(&mut value, n)?;
                    names.push(String::from_utf8(name.to_vec()).map_err(|_| malformed())?);
                }
            }
            _ => {}
        }
    }
    Ok((signs, names))
}

/// How values of a type are written, or why that can't be told.
fn codec(kind: u8, unsigned: bool, about: &mut &[u8]) -> Result<std::result::Result<Codec, &'static str>> {
    let int = |bytes| Codec::Int { bytes, unsigned };
    let mut byte = || cut(about, 1).map(|bytes| bytes[0]);
    let codec = match kind {
        1 => int(1),
        2 => int(2),
        3 => int(4),
        8 => int(8),
        9 => int(3),
        4 => byte().map(|_| Codec::Float)?,
        5 => byte().map(|_| Codec::Double)?,
        10 | 14 => Codec::Date,
        13 => Codec::Year,
        15 | 253 => {
            let length = u16::from_le_bytes([byte()?, byte()?]);
            Codec::Bytes { prefix: if length > 255 { 2 } else { 1 } }
        }
        16 => {
            let (bits, bytes) = (byte()?, byte()?);
            Codec::Bit { bytes: bytes + u8::from(bits > 0) }
        }
        17 => Codec::Timestamp { digits: byte()? },
        18 => Codec::Datetime { digits: byte()? },
        19 => Codec::Time { digits: byte()? },
        242 | 249..=252 | 255 => Codec::Bytes { prefix: byte()? },
        245 => Codec::Json { prefix: byte()? },
        246 => Codec::Decimal { precision: byte()?, scale: byte()? },
        247 | 248 | 254 => {
            let (first, second) = (byte()?, byte()?);
            string(first, second)
        }
        7 | 11 | 12 => return Ok(Err("a moment in the format of before MySQL 5.6")),
        140 | 141 => return Ok(Err("a COMPRESSED column")),
        _ => return Ok(Err("a type that is not known")),
    };
    Ok(Ok(codec))
}

/// `CHAR`, `BINARY`, `ENUM` and `SET` share a type: the real one, and for texts two bits of the length, stand in the
/// first byte.
fn string(first: u8, second: u8) -> Codec {
    match first | 0x30 {
        247 | 248 => Codec::Numbered { bytes: second },
        _ => {
            let length = u16::from(second) | u16::from((first & 0x30) ^ 0x30) << 4;
            Codec::Bytes { prefix: if length > 255 { 2 } else { 1 } }
        }
    }
}
