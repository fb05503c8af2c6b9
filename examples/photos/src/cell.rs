//! One expected value of one column, and whether what the server sent is that value to the last bit.
//!
//! The text protocol sends every value as text and the binary protocol sends most of them typed; both must agree.

use mysql_async::Value;

/// A date and time of day with microseconds; time zones are the session's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) date: (u16, u8, u8),
    pub(crate) time: (u8, u8, u8),
    pub(crate) micros: u32,
}

/// An expected column value, named by what must be equal for it to be the same value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    UInt(u64),
    Text(String),
    Bytes(Vec<u8>),
    /// Equal as documents: MySQL stores JSON in its own order and spacing.
    Json(serde_json::Value),
    /// Digits as the column's scale writes them.
    Decimal(String),
    Double(f64),
    Float(f32),
    Date(u16, u8, u8),
    DateTime(Moment),
    /// A TIME in microseconds, maybe below zero.
    Time(i64),
    Bits(u64),
}

impl Cell {
    /// The value as a statement parameter.
    pub(crate) fn param(&self) -> Value {
        match self {
            Cell::Null => Value::NULL,
            Cell::Int(number) => Value::Int(*number),
            Cell::UInt(number) | Cell::Bits(number) => Value::UInt(*number),
            Cell::Text(text) | Cell::Decimal(text) => Value::Bytes(text.clone().into_bytes()),
            Cell::Bytes(bytes) => Value::Bytes(bytes.clone()),
            Cell::Json(document) => Value::Bytes(document.to_string().into_bytes()),
            Cell::Double(number) => Value::Double(*number),
            Cell::Float(number) => Value::Float(*number),
            Cell::Date(year, month, day) => Value::Date(*year, *month, *day, 0, 0, 0, 0),
            Cell::DateTime(Moment { date: (year, month, day), time: (hour, minute, second), micros }) => {
                Value::Date(*year, *month, *day, *hour, *minute, *second, *micros)
            }
            Cell::Time(micros) => time_value(*micros),
        }
    }

    /// Whether the server's value is exactly this one.
    pub(crate) fn matches(&self, got: &Value) -> bool {
        match self {
            Cell::Null => matches!(got, Value::NULL),
            Cell::Int(number) => integer(got) == Some(i128::from(*number)),
            Cell::UInt(number) => integer(got) == Some(i128::from(*number)),
            Cell::Text(text) | Cell::Decimal(text) => bytes(got) == Some(text.as_bytes()),
            Cell::Bytes(expected) => bytes(got) == Some(expected.as_slice()),
            Cell::Json(document) => {
                bytes(got).and_then(|raw| serde_json::from_slice(raw).ok()).as_ref() == Some(document)
            }
            Cell::Double(number) => double(got).is_some_and(|found| found.to_bits() == number.to_bits()),
            Cell::Float(number) => float(got).is_some_and(|found| found.to_bits() == number.to_bits()),
            Cell::Date(year, month, day) => {
                moment(got) == Some(Moment { date: (*year, *month, *day), time: (0, 0, 0), micros: 0 })
            }
            Cell::DateTime(expected) => moment(got) == Some(*expected),
            Cell::Time(expected) => time_micros(got) == Some(*expected),
            Cell::Bits(expected) => bits(got) == Some(*expected),
        }
    }
}

/// A whole number of either protocol; sums of integers come as decimals without a fraction.
pub(crate) fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::UInt(number) => Some(i128::from(*number)),
        Value::Bytes(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

/// A DECIMAL(…,2) in hundredths.
pub(crate) fn cents(value: &Value) -> Option<i64> {
    let text = std::str::from_utf8(bytes(value)?).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "00"));
    if fraction.len() != 2 {
        return None;
    }
    format!("{whole}{fraction}").parse().ok()
}

/// Hundredths written as a DECIMAL(…,2).
pub(crate) fn decimal(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100)
}

/// The raw bytes of a string-like value.
pub(crate) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Bytes(raw) => Some(raw),
        _ => None,
    }
}

/// The text of a string-like value, with anything that is not UTF-8 shown as such.
pub(crate) fn text(value: &Value) -> String {
    bytes(value).map_or_else(|| format!("{value:?}"), |raw| String::from_utf8_lossy(raw).into_owned())
}

fn double(value: &Value) -> Option<f64> {
    match value {
        Value::Double(number) => Some(*number),
        Value::Float(number) => Some(f64::from(*number)),
        Value::Bytes(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

fn float(value: &Value) -> Option<f32> {
    match value {
        Value::Float(number) => Some(*number),
        Value::Bytes(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

fn bits(value: &Value) -> Option<u64> {
    match value {
        Value::Bytes(raw) if raw.len() <= 8 => {
            Some(raw.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        }
        Value::UInt(number) => Some(*number),
        _ => None,
    }
}

fn time_value(micros: i64) -> Value {
    const SECOND: u64 = 1_000_000;
    let rest = micros.unsigned_abs();
    let (seconds, fraction) = (rest / SECOND, rest % SECOND);
    let part = |number: u64| u8::try_from(number % 60).unwrap_or_default();
    let days = u32::try_from(seconds / 86_400).unwrap_or(u32::MAX);
    let hours = u8::try_from(seconds / 3600 % 24).unwrap_or_default();
    Value::Time(
        micros < 0,
        days,
        hours,
        part(seconds / 60),
        part(seconds),
        u32::try_from(fraction).unwrap_or_default(),
    )
}

fn time_micros(value: &Value) -> Option<i64> {
    let (negative, hours, minutes, seconds, micros) = match value {
        Value::Time(negative, days, hours, minutes, seconds, micros) => {
            (*negative, i64::from(*days) * 24 + i64::from(*hours), *minutes, *seconds, *micros)
        }
        Value::Bytes(raw) => {
            let text = std::str::from_utf8(raw).ok()?;
            let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
            let (hours, rest) = text.split_once(':')?;
            let (minutes, seconds) = rest.split_once(':')?;
            let (seconds, micros) = fraction(seconds)?;
            (negative, hours.parse().ok()?, minutes.parse().ok()?, seconds.parse().ok()?, micros)
        }
        _ => return None,
    };
    let total = ((hours * 60 + i64::from(minutes)) * 60 + i64::from(seconds)) * 1_000_000 + i64::from(micros);
    Some(if negative { -total } else { total })
}

fn moment(value: &Value) -> Option<Moment> {
    match value {
        Value::Date(year, month, day, hour, minute, second, micros) => {
            Some(Moment { date: (*year, *month, *day), time: (*hour, *minute, *second), micros: *micros })
        }
        Value::Bytes(raw) => {
            let text = std::str::from_utf8(raw).ok()?;
            let (date, time) = text.split_once(' ').unwrap_or((text, "0:0:0"));
            let mut date = date.splitn(3, '-');
            let mut time = time.splitn(3, ':');
            let (year, month, day) = (date.next()?, date.next()?, date.next()?);
            let (hour, minute) = (time.next()?, time.next()?);
            let (second, micros) = fraction(time.next()?)?;
            Some(Moment {
                date: (year.parse().ok()?, month.parse().ok()?, day.parse().ok()?),
                time: (hour.parse().ok()?, minute.parse().ok()?, second.parse().ok()?),
                micros,
            })
        }
        _ => None,
    }
}

/// Splits `12.345` into its whole seconds and its microseconds.
fn fraction(seconds: &str) -> Option<(&str, u32)> {
    let Some((whole, digits)) = seconds.split_once('.') else {
        return Some((seconds, 0));
    };
    if digits.is_empty() || digits.len() > 6 {
        return None;
    }
    format!("{digits:0<6}").parse().ok().map(|micros| (whole, micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_value(text: &str) -> Value {
        Value::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn both_protocols_give_the_same_value() {
        let moment = Moment { date: (2021, 3, 4), time: (5, 6, 7), micros: 89_000 };
        assert!(Cell::DateTime(moment).matches(&text_value("2021-03-04 05:06:07.089")));
        assert!(Cell::DateTime(moment).matches(&Value::Date(2021, 3, 4, 5, 6, 7, 89_000)));
        assert!(Cell::Date(2021, 3, 4).matches(&text_value("2021-03-04")));
        assert!(Cell::Time(-3_723_500_000).matches(&text_value("-01:02:03.500000")));
        assert!(Cell::Time(-3_723_500_000).matches(&time_value(-3_723_500_000)));
        assert!(Cell::Bits(0x0a05).matches(&Value::Bytes(vec![0x0a, 0x05])));
        assert!(Cell::Double(-0.125).matches(&text_value("-0.125")));
        assert!(Cell::UInt(u64::MAX).matches(&text_value("18446744073709551615")));
    }

    #[test]
    fn a_near_miss_is_a_miss() {
        assert!(!Cell::Null.matches(&text_value("")));
        assert!(!Cell::Text(String::new()).matches(&Value::NULL));
        assert!(!Cell::Text("straße".into()).matches(&text_value("strasse")));
        assert!(!Cell::Decimal("1.50".into()).matches(&text_value("1.5")));
        assert!(!Cell::Double(0.0).matches(&text_value("-0")));
    }

    #[test]
    fn cents_are_exact_in_both_directions() {
        for amount in [0, 5, -5, 99, -100, 1_234_567] {
            assert_eq!(cents(&text_value(&decimal(amount))), Some(amount));
        }
        assert_eq!(cents(&text_value("1.5")), None);
    }
}
