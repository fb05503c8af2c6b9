//! MySQL's binary JSON as the text that the server makes of it. MariaDB's JSON is a text already.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mysql_async::Value as Plain;
use mysql_common::binlog::decimal::Decimal;
use mysql_common::binlog::jsonb::{OpaqueValue, Value};
use mysql_common::constants::ColumnType;
use mysql_common::io::ParseBuf;

use crate::{Result, StreamError};

/// Deeper documents no server takes (its own limit).
const DEPTH_MAX: usize = 100;

fn malformed() -> StreamError {
    StreamError::Malformed("a JSON document")
}

/// The document as text. An empty one, which a server writes for a `NOT NULL` column without a value, is `null`.
///
/// # Errors
/// [`StreamError::Malformed`].
pub(crate) fn text(bytes: &[u8]) -> Result<String> {
    if bytes.is_empty() {
        return Ok("null".to_owned());
    }
    let value: Value<'_> = ParseBuf(bytes).parse(()).map_err(|_| malformed())?;
    let mut text = String::with_capacity(bytes.len());
    write(&mut text, &value, DEPTH_MAX)?;
    Ok(text)
}

fn write(text: &mut String, value: &Value<'_>, depth: usize) -> Result<()> {
    let deeper = depth.checked_sub(1).ok_or_else(malformed)?;
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::I16(number) => text.push_str(&number.to_string()),
        Value::U16(number) => text.push_str(&number.to_string()),
        Value::I32(number) => text.push_str(&number.to_string()),
        Value::U32(number) => text.push_str(&number.to_string()),
        Value::I64(number) => text.push_str(&number.to_string()),
        Value::U64(number) => text.push_str(&number.to_string()),
        // With a point or an exponent, so that it is read as a double again.
        Value::F64(number) => text.push_str(&format!("{number:?}")),
        Value::String(string) => quote(text, std::str::from_utf8(string.str_raw()).map_err(|_| malformed())?),
        Value::SmallArray(array) => elements(text, array.iter(), deeper)?,
        Value::LargeArray(array) => elements(text, array.iter(), deeper)?,
        Value::SmallObject(object) => {
            members(
                text,
                object.iter().map(|item| item.map(|(key, value)| (key.value().into_owned(), value))),
                deeper,
            )?;
        }
        Value::LargeObject(object) => {
            members(
                text,
                object.iter().map(|item| item.map(|(key, value)| (key.value().into_owned(), value))),
                deeper,
            )?;
        }
        Value::Opaque(opaque) => opaque_text(text, opaque)?,
    }
    Ok(())
}

fn elements<'a>(
    text: &mut String,
    items: impl Iterator<Item = std::io::Result<Value<'a>>>,
    depth: usize,
) -> Result<()> {
    text.push('[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            text.push_str(", ");
        }
        write(text, &item.map_err(|_| malformed())?, depth)?;
    }
    text.push(']');
    Ok(())
}

fn members<'a>(
    text: &mut String,
    items: impl Iterator<Item = std::io::Result<(String, Value<'a>)>>,
    depth: usize,
) -> Result<()> {
    text.push('{');
    for (at, item) in items.enumerate() {
        let (key, value) = item.map_err(|_| malformed())?;
        if at > 0 {
            text.push_str(", ");
        }
        quote(text, &key);
        text.push_str(": ");
        write(text, &value, depth)?;
    }
    text.push('}');
    Ok(())
}

fn quote(text: &mut String, string: &str) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            c if c < ' ' => text.push_str(&format!("\\u{:04x}", c as u32)),
            c => text.push(c),
        }
    }
    text.push('"');
}

/// A value of one of SQL's types within a document.
fn opaque_text(text: &mut String, opaque: &OpaqueValue<'_>) -> Result<()> {
    let data = opaque.data_raw();
    match opaque.value_type() {
        ColumnType::MYSQL_TYPE_NEWDECIMAL => {
            let number = Decimal::read_packed(data, false).map_err(|_| malformed())?;
            text.push_str(&number.to_string());
        }
        kind @ (ColumnType::MYSQL_TYPE_DATE
        | ColumnType::MYSQL_TYPE_DATETIME
        | ColumnType::MYSQL_TYPE_TIMESTAMP
        | ColumnType::MYSQL_TYPE_TIME) => moment(text, kind, data)?,
        kind => {
            let encoded = BASE64_STANDARD.encode(data);
            text.push_str(&format!("\"base64:type{}:{encoded}\"", kind as u8));
        }
    }
    Ok(())
}

fn moment(text: &mut String, kind: ColumnType, data: &[u8]) -> Result<()> {
    use mysql_common::binlog::misc::{datetime_from_packed, time_from_packed};
    let packed = i64::from_le_bytes(data.try_into().map_err(|_| malformed())?);
    if kind == ColumnType::MYSQL_TYPE_TIME {
        let Plain::Time(negative, d, h, mi, s, us) = time_from_packed(packed) else {
            return Err(malformed());
        };
        let sign = if negative { "-" } else { "" };
        text.push_str(&format!("\"{sign}{:02}:{mi:02}:{s:02}.{us:06}\"", d * 24 + u32::from(h)));
        return Ok(());
    }
    let Plain::Date(y, mo, d, h, mi, s, us) = datetime_from_packed(packed) else { return Err(malformed()) };
    text.push_str(&match kind {
        ColumnType::MYSQL_TYPE_DATE => format!("\"{y:04}-{mo:02}-{d:02}\""),
        _ => format!("\"{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}:{s:02}.{us:06}\""),
    });
    Ok(())
}
