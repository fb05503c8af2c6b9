//! One binary value of a parameter.

use crate::Error;
use crate::codec::{Reader, put_lenenc_bytes};

/// Type of a parameter, as the protocol numbers column types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ParamType {
    /// One of the constants.
    pub code: u8,
    /// True for unsigned integers.
    pub unsigned: bool,
}

macro_rules! codes {
    ($($name:ident = $code:expr;)*) => {
        #[allow(missing_docs)]
        impl ParamType { $(pub const $name: u8 = $code;)* }
    };
}

codes! {
    DECIMAL = 0x00; TINY = 0x01; SHORT = 0x02; LONG = 0x03; FLOAT = 0x04; DOUBLE = 0x05; NULL = 0x06;
    TIMESTAMP = 0x07; LONGLONG = 0x08; INT24 = 0x09; DATE = 0x0a; TIME = 0x0b; DATETIME = 0x0c; YEAR = 0x0d;
    VARCHAR = 0x0f; BIT = 0x10; VECTOR = 0xf2; JSON = 0xf5; NEWDECIMAL = 0xf6; ENUM = 0xf7; SET = 0xf8;
    TINY_BLOB = 0xf9; MEDIUM_BLOB = 0xfa; LONG_BLOB = 0xfb; BLOB = 0xfc; VAR_STRING = 0xfd; STRING = 0xfe;
    GEOMETRY = 0xff;
}

impl ParamType {
    /// A signed or otherwise plain type.
    pub const fn new(code: u8) -> Self {
        Self { code, unsigned: false }
    }

    /// Whether its values are strings: all types that are neither numbers nor times.
    pub fn is_text(self) -> bool {
        !matches!(self.code, Self::DECIMAL..=Self::YEAR | Self::BIT | Self::NEWDECIMAL)
    }

    /// The type's two bytes on the wire.
    pub fn bytes(self) -> [u8; 2] {
        [self.code, if self.unsigned { 0x80 } else { 0 }]
    }

    /// The type from its two bytes.
    pub fn from_bytes([code, flags]: [u8; 2]) -> Self {
        Self { code, unsigned: flags & 0x80 != 0 }
    }
}

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Param<'a> {
    /// NULL.
    Null,
    /// A signed integer of any width.
    Int(i64),
    /// An unsigned integer of any width.
    UInt(u64),
    /// FLOAT.
    Float(f32),
    /// DOUBLE.
    Double(f64),
    /// Strings, blobs, decimals, JSON and so on.
    Bytes(&'a [u8]),
    /// DATE, DATETIME or TIMESTAMP.
    Date {
        /// Year.
        year: u16,
        /// Month, 0 to 12.
        month: u8,
        /// Day, 0 to 31.
        day: u8,
        /// Hour.
        hour: u8,
        /// Minute.
        minute: u8,
        /// Second.
        second: u8,
        /// Microsecond.
        micro: u32,
    },
    /// TIME.
    Time {
        /// Before zero.
        negative: bool,
        /// Days.
        days: u32,
        /// Hour.
        hour: u8,
        /// Minute.
        minute: u8,
        /// Second.
        second: u8,
        /// Microsecond.
        micro: u32,
    },
    /// Its data came ahead by COM_STMT_SEND_LONG_DATA.
    Long,
}

impl<'a> Param<'a> {
    /// Reads a value of this type.
    pub(crate) fn read(r: &mut Reader<'a>, ty: ParamType) -> Result<Self, Error> {
        type T = ParamType;
        Ok(match (ty.code, ty.unsigned) {
            (T::NULL, _) => Param::Null,
            (T::TINY, false) => Param::Int(i8::from_le_bytes(r.array()?).into()),
            (T::TINY, true) => Param::UInt(r.u8()?.into()),
            (T::SHORT | T::YEAR, false) => Param::Int(i16::from_le_bytes(r.array()?).into()),
            (T::SHORT | T::YEAR, true) => Param::UInt(r.u16()?.into()),
            (T::LONG | T::INT24, false) => Param::Int(i32::from_le_bytes(r.array()?).into()),
            (T::LONG | T::INT24, true) => Param::UInt(r.u32()?.into()),
            (T::LONGLONG, false) => Param::Int(i64::from_le_bytes(r.array()?)),
            (T::LONGLONG, true) => Param::UInt(r.u64()?),
            (T::FLOAT, _) => Param::Float(f32::from_le_bytes(r.array()?)),
            (T::DOUBLE, _) => Param::Double(f64::from_le_bytes(r.array()?)),
            (T::DATE | T::DATETIME | T::TIMESTAMP, _) => read_date(r)?,
            (T::TIME, _) => read_time(r)?,
            (T::DECIMAL | T::VARCHAR | T::BIT | T::VECTOR | T::JSON..=T::GEOMETRY, _) => {
                Param::Bytes(r.lenenc_bytes()?)
            }
            _ => return Err(Error::Malformed("parameter type")),
        })
    }

    /// The type under which [`Param::put`] writes this value, if it cannot go under `wanted`.
    pub(super) fn fitting_type(&self, wanted: ParamType) -> ParamType {
        type T = ParamType;
        let plain = |codes: &[u8], default| {
            if codes.contains(&wanted.code) { wanted } else { T::new(default) }
        };
        match self {
            Param::Null | Param::Long => wanted,
            Param::Int(_) => T::new(T::LONGLONG),
            Param::UInt(_) => T { code: T::LONGLONG, unsigned: true },
            Param::Float(_) => T::new(T::FLOAT),
            Param::Double(_) => T::new(T::DOUBLE),
            Param::Date { .. } => plain(&[T::DATE, T::DATETIME, T::TIMESTAMP], T::DATETIME),
            Param::Time { .. } => T::new(T::TIME),
            Param::Bytes(_) => match wanted.code {
                T::DECIMAL | T::VARCHAR | T::BIT | T::VECTOR | T::JSON..=T::GEOMETRY => wanted,
                _ => T::new(T::VAR_STRING),
            },
        }
    }

    /// Appends the value; integers take eight bytes, NULL and long data none.
    pub fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Param::Null | Param::Long => {}
            Param::Int(v) => out.extend_from_slice(&v.to_le_bytes()),
            Param::UInt(v) => out.extend_from_slice(&v.to_le_bytes()),
            Param::Float(v) => out.extend_from_slice(&v.to_le_bytes()),
            Param::Double(v) => out.extend_from_slice(&v.to_le_bytes()),
            Param::Bytes(v) => put_lenenc_bytes(out, v),
            Param::Date { year, month, day, hour, minute, second, micro } => {
                let len = match (hour, minute, second, micro) {
                    (0, 0, 0, 0) => 4,
                    (.., 0) => 7,
                    _ => 11,
                };
                let [y0, y1] = year.to_le_bytes();
                let [u0, u1, u2, u3] = micro.to_le_bytes();
                let all = [len, y0, y1, month, day, hour, minute, second, u0, u1, u2, u3];
                out.extend(all.iter().take(usize::from(len) + 1));
            }
            Param::Time { negative, days, hour, minute, second, micro } => {
                let len = if micro == 0 { 8 } else { 12 };
                let [d0, d1, d2, d3] = days.to_le_bytes();
                let [u0, u1, u2, u3] = micro.to_le_bytes();
                let all = [len, negative.into(), d0, d1, d2, d3, hour, minute, second, u0, u1, u2, u3];
                out.extend(all.iter().take(usize::from(len) + 1));
            }
        }
    }
}

fn read_date<'a>(r: &mut Reader<'a>) -> Result<Param<'a>, Error> {
    let len = r.u8()?;
    let (mut year, mut month, mut day, mut hour, mut minute, mut second, mut micro) = (0, 0, 0, 0, 0, 0, 0);
    if !matches!(len, 0 | 4 | 7 | 11) {
        return Err(Error::Malformed("date parameter"));
    }
    if len >= 4 {
        (year, month, day) = (r.u16()?, r.u8()?, r.u8()?);
    }
    if len >= 7 {
        (hour, minute, second) = (r.u8()?, r.u8()?, r.u8()?);
    }
    if len == 11 {
        micro = r.u32()?;
    }
    Ok(Param::Date { year, month, day, hour, minute, second, micro })
}

fn read_time<'a>(r: &mut Reader<'a>) -> Result<Param<'a>, Error> {
    let len = r.u8()?;
    if !matches!(len, 0 | 8 | 12) {
        return Err(Error::Malformed("time parameter"));
    }
    if len == 0 {
        return Ok(Param::Time { negative: false, days: 0, hour: 0, minute: 0, second: 0, micro: 0 });
    }
    let (negative, days) = (r.u8()? != 0, r.u32()?);
    let (hour, minute, second) = (r.u8()?, r.u8()?, r.u8()?);
    let micro = if len == 12 { r.u32()? } else { 0 };
    Ok(Param::Time { negative, days, hour, minute, second, micro })
}
