//! One value of a row image: its length, and the value as a prepared statement takes it.
//!
//! Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/classbinary__log_1_1Table__map__event.html>, and the
//! servers' own behaviour.

use mysql_async::Value;
use mysql_common::binlog::decimal::{Decimal, decimal_bin_size};

use crate::{Result, StreamError, json};

/// How the values of one column stand in a row image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Little-endian integer of this many bytes.
    Int {
        bytes: u8,
        unsigned: bool,
    },
    Float,
    Double,
    Year,
    Date,
    /// Seconds since 1970 and a fraction of this many digits.
    Timestamp {
        digits: u8,
    },
    Datetime {
        digits: u8,
    },
    Time {
        digits: u8,
    },
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// Big-endian bits in this many bytes.
    Bit {
        bytes: u8,
    },
    /// Number of the member, or of the set's bits, in this many bytes.
    Numbered {
        bytes: u8,
    },
    /// Bytes behind their length in this many bytes.
    Bytes {
        prefix: u8,
    },
    /// MySQL's binary JSON behind its length in this many bytes.
    Json {
        prefix: u8,
    },
}

fn short() -> StreamError {
    StreamError::Malformed("a row image ends early")
}

/// Cuts the first `n` bytes off.
pub(crate) fn cut<'a>(data: &mut &'a [u8], n: usize) -> Result<&'a [u8]> {
    let (head, tail) = data.split_at_checked(n).ok_or_else(short)?;
    *data = tail;
    Ok(head)
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn big(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Bytes of a fraction of so many digits.
fn fraction_bytes(digits: u8) -> usize {
    usize::from(digits.div_ceil(2))
}

/// A fraction as microseconds.
fn microseconds(bytes: &[u8]) -> u32 {
    // At most three bytes.
    let value = big(bytes) as u32;
    match bytes.len() {
        1 => value * 10_000,
        2 => value * 100,
        _ => value,
    }
}

impl Codec {
    /// The bytes of the value that `data` begins with, which they are cut from.
    fn bytes<'a>(self, data: &mut &'a [u8]) -> Result<&'a [u8]> {
        let n = match self {
            Self::Int { bytes, .. } | Self::Bit { bytes } | Self::Numbered { bytes } => usize::from(bytes),
            Self::Float => 4,
            Self::Double => 8,
            Self::Year => 1,
            Self::Date => 3,
            Self::Timestamp { digits } => 4 + fraction_bytes(digits),
            Self::Datetime { digits } => 5 + fraction_bytes(digits),
            Self::Time { digits } => 3 + fraction_bytes(digits),
            Self::Decimal { precision, scale } => {
                decimal_bin_size(usize::from(precision), usize::from(scale))
            }
            Self::Bytes { prefix } | Self::Json { prefix } => {
                usize::try_from(little(cut(data, usize::from(prefix))?)).map_err(|_| short())?
            }
        };
        cut(data, n)
    }

    /// Passes over a value.
    pub(crate) fn skip(self, data: &mut &[u8]) -> Result<()> {
        self.bytes(data).map(|_| ())
    }

    /// Reads a value: numbers of `ENUM`, `SET` and `BIT` as integers, texts as bytes in the column's own character set,
    /// moments in UTC.
    pub(crate) fn read(self, data: &mut &[u8]) -> Result<Value> {
        let bytes = self.bytes(data)?;
        Ok(match self {
            Self::Int { unsigned, .. } => integer(bytes, unsigned),
            Self::Float => Value::Float(f32::from_le_bytes(bytes.try_into().map_err(|_| short())?)),
            Self::Double => Value::Double(f64::from_le_bytes(bytes.try_into().map_err(|_| short())?)),
            Self::Year if bytes == [0] => Value::Int(0),
            Self::Year => Value::Int(1900 + i64::from(bytes[0])),
            Self::Date => date(little(bytes)),
            Self::Timestamp { .. } => timestamp(big(&bytes[..4]), microseconds(&bytes[4..])),
            Self::Datetime { .. } => datetime(big(&bytes[..5]), microseconds(&bytes[5..])),
            Self::Time { .. } => time(bytes),
            Self::Decimal { precision, scale } => decimal(bytes, precision, scale)?,
            Self::Bit { .. } => Value::UInt(big(bytes)),
            Self::Numbered { .. } => Value::UInt(little(bytes)),
            Self::Bytes { .. } => Value::Bytes(bytes.to_vec()),
            Self::Json { .. } => Value::Bytes(json::text(bytes)?.into_bytes()),
        })
    }
}

fn integer(bytes: &[u8], unsigned: bool) -> Value {
    let value = little(bytes);
    if unsigned {
        return Value::UInt(value);
    }
    // The sign bit of the narrow type becomes that of the wide one.
    let unused = 64 - 8 * bytes.len() as u32;
    Value::Int((value << unused) as i64 >> unused)
}

fn date(packed: u64) -> Value {
    Value::Date((packed >> 9) as u16, (packed >> 5 & 15) as u8, (packed & 31) as u8, 0, 0, 0, 0)
}

fn datetime(packed: u64, micros: u32) -> Value {
    let packed = packed & 0x7f_ffff_ffff;
    let (ymd, hms) = (packed >> 17, packed & 0x1_ffff);
    let month = ymd >> 5;
    Value::Date(
        (month / 13) as u16,
        (month % 13) as u8,
        (ymd & 31) as u8,
        (hms >> 12) as u8,
        (hms >> 6 & 63) as u8,
        (hms & 63) as u8,
        micros,
    )
}

/// In UTC. Second 0 is the servers' zero date.
fn timestamp(seconds: u64, micros: u32) -> Value {
    if seconds == 0 && micros == 0 {
        return Value::Date(0, 0, 0, 0, 0, 0, 0);
    }
    let (days, second) = (seconds / 86_400, (seconds % 86_400) as u32);
    let (year, month, day) = civil(days);
    Value::Date(
        year,
        month,
        day,
        (second / 3600) as u8,
        (second / 60 % 60) as u8,
        (second % 60) as u8,
        micros,
    )
}

/// Year, month and day of a day since 1970, in the Gregorian calendar
/// (<https://howardhinnant.github.io/date_algorithms.html>, for days not before the epoch).
fn civil(days: u64) -> (u16, u8, u8) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    (year as u16, month as u8, day as u8)
}

/// Hours, minutes, seconds and fraction as one big-endian number around a middle that stands for zero.
fn time(bytes: &[u8]) -> Value {
    let fraction = bytes.len() - 3;
    let middle = 0x80_0000_i64 << (8 * fraction);
    let packed = big(bytes) as i64 - middle;
    let (negative, packed) = (packed < 0, packed.unsigned_abs());
    let hms = packed >> (8 * fraction);
    let rest = packed & ((1 << (8 * fraction)) - 1);
    let micros = microseconds(&rest.to_be_bytes()[8 - fraction..]);
    let hours = (hms >> 12 & 0x3ff) as u32;
    Value::Time(
        negative,
        hours / 24,
        (hours % 24) as u8,
        (hms >> 6 & 63) as u8,
        (hms & 63) as u8,
        if fraction == 0 { 0 } else { micros },
    )
}

fn decimal(bytes: &[u8], precision: u8, scale: u8) -> Result<Value> {
    let number = Decimal::read_bin(bytes, usize::from(precision), usize::from(scale), false)
        .map_err(|_| StreamError::Malformed("a decimal number"))?;
    Ok(Value::Bytes(number.to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn integers_keep_their_sign() {
        assert_eq!(integer(&[0xff, 0xff, 0xff], false), Value::Int(-1));
        assert_eq!(integer(&[0xff, 0xff, 0xff], true), Value::UInt(0xff_ffff));
        assert_eq!(integer(&[0x80], false), Value::Int(-128));
        assert_eq!(integer(&i64::MIN.to_le_bytes(), false), Value::Int(i64::MIN));
        assert_eq!(integer(&u64::MAX.to_le_bytes(), true), Value::UInt(u64::MAX));
    }

    #[test]
    fn moments_are_in_utc() {
        assert_eq!(timestamp(0, 0), Value::Date(0, 0, 0, 0, 0, 0, 0));
        assert_eq!(timestamp(1, 0), Value::Date(1970, 1, 1, 0, 0, 1, 0));
        assert_eq!(timestamp(951_827_696, 5), Value::Date(2000, 2, 29, 12, 34, 56, 5));
        assert_eq!(timestamp(2_147_483_648, 0), Value::Date(2038, 1, 19, 3, 14, 8, 0));
        assert_eq!(timestamp(u64::from(u32::MAX), 0), Value::Date(2106, 2, 7, 6, 28, 15, 0));
    }

    #[test]
    fn times_may_be_negative() {
        // -00:00:00.1 with one digit: one below the middle.
        assert_eq!(time(&[0x7f, 0xff, 0xff, 0xf6]), Value::Time(true, 0, 0, 0, 0, 100_000));
        assert_eq!(time(&[0x80, 0x00, 0x01]), Value::Time(false, 0, 0, 0, 1, 0));
        assert_eq!(time(&[0x7f, 0xff, 0xff]), Value::Time(true, 0, 0, 0, 1, 0));
    }

    #[test]
    fn short_images_are_told() {
        let mut data: &[u8] = &[5, b'a'];
        assert!(Codec::Bytes { prefix: 1 }.read(&mut data).is_err());
        assert!(Codec::Double.read(&mut &[0_u8; 7][..]).is_err());
    }
}
