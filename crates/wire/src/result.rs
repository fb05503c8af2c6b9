//! Answers made in the proxy: OK, ERR, result sets in text or binary form, prepare answers.

use crate::Error;
use crate::caps::Caps;
use crate::codec::{Reader, put_lenenc_bytes, put_lenenc_int};
use crate::frame::write_packet;
use crate::packet::{EofPacket, OkPacket};
use crate::sqlerr::Failure;
use crate::status::Status;
use crate::stmt::{ParamType, PrepareOk};

/// A column definition, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column<'a> {
    /// Schema.
    pub schema: &'a [u8],
    /// Table, by its alias.
    pub table: &'a [u8],
    /// Table, by its own name.
    pub org_table: &'a [u8],
    /// Column, by its alias.
    pub name: &'a [u8],
    /// Column, by its own name.
    pub org_name: &'a [u8],
    /// Id of the collation; 63 for numbers and binary strings.
    pub collation: u16,
    /// Display width in bytes.
    pub length: u32,
    /// Type, as [`ParamType`] numbers them.
    pub ty: u8,
    /// Flags.
    pub flags: u16,
    /// Digits behind the point; 31 for "not fixed".
    pub decimals: u8,
}

/// Column flag: never NULL.
pub const NOT_NULL: u16 = 0x0001;
/// Column flag: unsigned.
pub const UNSIGNED: u16 = 0x0020;
/// Column flag: binary.
pub const BINARY: u16 = 0x0080;
const BINARY_COLLATION: u16 = 63;
const UTF8MB4_GENERAL_CI: u16 = 45;

impl<'a> Column<'a> {
    const fn plain(name: &'a str, ty: u8, collation: u16, length: u32, flags: u16) -> Self {
        let name = name.as_bytes();
        Self {
            schema: b"",
            table: b"",
            org_table: b"",
            name,
            org_name: b"",
            collation,
            length,
            ty,
            flags,
            decimals: 0,
        }
    }

    /// A text column (utf8mb4).
    pub const fn text(name: &'a str) -> Self {
        let column = Self::plain(name, ParamType::VAR_STRING, UTF8MB4_GENERAL_CI, 1024 * 4, 0);
        Self { decimals: 31, ..column }
    }

    /// A BIGINT column.
    pub const fn bigint(name: &'a str) -> Self {
        Self::plain(name, ParamType::LONGLONG, BINARY_COLLATION, 21, BINARY)
    }

    /// A BIGINT UNSIGNED column.
    pub const fn unsigned(name: &'a str) -> Self {
        Self::plain(name, ParamType::LONGLONG, BINARY_COLLATION, 21, BINARY | UNSIGNED)
    }

    /// A DOUBLE column.
    pub const fn double(name: &'a str) -> Self {
        let column = Self::plain(name, ParamType::DOUBLE, BINARY_COLLATION, 22, BINARY);
        Self { decimals: 31, ..column }
    }

    /// A placeholder's definition, as servers give it.
    pub const fn placeholder() -> Self {
        Self::plain("?", ParamType::VAR_STRING, BINARY_COLLATION, 0, BINARY)
    }

    /// Parses a payload. Extended metadata of MariaDB must not be negotiated.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader::new(payload, "column definition");
        r.lenenc_bytes()?;
        let (schema, table, org_table) = (r.lenenc_bytes()?, r.lenenc_bytes()?, r.lenenc_bytes()?);
        let (name, org_name) = (r.lenenc_bytes()?, r.lenenc_bytes()?);
        r.lenenc_int()?;
        let (collation, length, ty) = (r.u16()?, r.u32()?, r.u8()?);
        let (flags, decimals) = (r.u16()?, r.u8()?);
        Ok(Self { schema, table, org_table, name, org_name, collation, length, ty, flags, decimals })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for text in [b"def", self.schema, self.table, self.org_table, self.name, self.org_name] {
            put_lenenc_bytes(out, text);
        }
        out.push(0x0c);
        out.extend_from_slice(&self.collation.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.push(self.ty);
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&[self.decimals, 0, 0]);
    }
}

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    UInt(u64),
    /// A floating-point number.
    Double(f64),
    /// Text or bytes.
    Bytes(&'a [u8]),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Bytes(text.as_bytes())
    }
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For COM_QUERY.
    Text,
    /// For COM_STMT_EXECUTE.
    Binary,
}

/// Where an answer goes: the buffer, the next sequence id, the client's flags.
#[derive(Debug)]
pub struct Answer<'o> {
    out: &'o mut Vec<u8>,
    seq: u8,
    caps: Caps,
}

impl<'o> Answer<'o> {
    /// Appends an answer to `out`, from sequence id `seq` on.
    pub fn new(out: &'o mut Vec<u8>, seq: u8, caps: Caps) -> Self {
        Self { out, seq, caps }
    }

    /// The next sequence id.
    pub fn seq(&self) -> u8 {
        self.seq
    }

    /// Writes a packet.
    pub fn packet(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        write_packet(self.out, &mut self.seq, fill);
    }

    /// Writes an OK packet.
    pub fn ok(&mut self, ok: &OkPacket<'_>) {
        let track = self.caps.has(Caps::SESSION_TRACK);
        self.packet(|out| ok.encode(out, track));
    }

    /// Writes an ERR packet for an error of our own.
    pub fn failure(&mut self, failure: &Failure) {
        self.packet(|out| failure.encode(out));
    }

    /// Writes what the client takes for the end of rows: an OK packet under 0xFE, or an EOF packet.
    pub fn end(&mut self, status: Status, warnings: u16) {
        let ok = OkPacket { header: OkPacket::ROWS_END, status, warnings, ..OkPacket::default() };
        if self.caps.has(Caps::DEPRECATE_EOF) {
            self.ok(&ok);
        } else {
            self.packet(|out| out.extend_from_slice(&ok.to_eof().bytes()));
        }
    }

    /// Writes the head of a result set. Rows and [`Rows::end`] follow. No columns at all is a misuse: that is an
    /// OK packet.
    pub fn rows<'c>(
        self,
        format: Format,
        columns: &'c [Column<'c>],
        status: Status,
    ) -> Result<Rows<'o, 'c>, Error> {
        if columns.is_empty() {
            return Err(Error::Misuse("a result set without columns"));
        }
        let mut answer = self;
        answer.packet(|out| put_lenenc_int(out, columns.len() as u64));
        answer.definitions(columns, status);
        Ok(Rows { answer, format, columns })
    }

    /// Writes the answer to COM_STMT_PREPARE; the counts are those of the slices.
    pub fn prepared(
        &mut self,
        id: u32,
        params: &[Column<'_>],
        columns: &[Column<'_>],
        status: Status,
    ) -> Result<(), Error> {
        let count = |n: usize| u16::try_from(n).map_err(|_| Error::Misuse("too many columns or parameters"));
        let ok = PrepareOk { id, columns: count(columns.len())?, params: count(params.len())?, warnings: 0 };
        self.packet(|out| ok.encode(out));
        for group in [params, columns] {
            if !group.is_empty() {
                self.definitions(group, status);
            }
        }
        Ok(())
    }

    /// Writes column definitions and, where the client wants it, an EOF packet.
    pub fn definitions(&mut self, columns: &[Column<'_>], status: Status) {
        for column in columns {
            self.packet(|out| column.encode(out));
        }
        if !self.caps.has(Caps::DEPRECATE_EOF) {
            self.packet(|out| out.extend_from_slice(&EofPacket { warnings: 0, status }.bytes()));
        }
    }
}

/// A result set being written.
#[derive(Debug)]
pub struct Rows<'o, 'c> {
    answer: Answer<'o>,
    format: Format,
    columns: &'c [Column<'c>],
}

impl<'o> Rows<'o, '_> {
    /// Writes a row. It must have a value for each column, of a kind that the column's type can hold.
    pub fn row(&mut self, values: &[Value<'_>]) -> Result<(), Error> {
        if values.len() != self.columns.len() {
            return Err(Error::Misuse("a row of another length than its columns"));
        }
        let (format, columns) = (self.format, self.columns);
        let mut result = Ok(());
        let rollback = (self.answer.out.len(), self.answer.seq);
        self.answer.packet(|out| match format {
            Format::Text => values.iter().for_each(|value| put_text(out, value)),
            Format::Binary => result = put_binary_row(out, columns, values),
        });
        if result.is_err() {
            self.answer.out.truncate(rollback.0);
            self.answer.seq = rollback.1;
        }
        result
    }

    /// Writes the end of the rows.
    pub fn end(mut self, status: Status, warnings: u16) -> Answer<'o> {
        self.answer.end(status, warnings);
        self.answer
    }

    /// Ends the rows by an error.
    pub fn fail(mut self, failure: &Failure) {
        self.answer.failure(failure);
    }
}

fn put_text(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Null => out.push(0xfb),
        Value::Int(v) => put_lenenc_bytes(out, v.to_string().as_bytes()),
        Value::UInt(v) => put_lenenc_bytes(out, v.to_string().as_bytes()),
        Value::Double(v) => put_lenenc_bytes(out, v.to_string().as_bytes()),
        Value::Bytes(v) => put_lenenc_bytes(out, v),
    }
}

fn put_binary_row(out: &mut Vec<u8>, columns: &[Column<'_>], values: &[Value<'_>]) -> Result<(), Error> {
    out.push(0);
    // Bit n+2 of the bitmap belongs to column n.
    let nulls_at = out.len();
    out.resize(nulls_at + (columns.len() + 9) / 8, 0);
    for (n, (column, value)) in columns.iter().zip(values).enumerate() {
        if *value != Value::Null {
            put_binary(out, column.ty, value)?;
        } else if let Some(byte) = out.get_mut(nulls_at + (n + 2) / 8) {
            *byte |= 1 << ((n + 2) % 8);
        }
    }
    Ok(())
}

fn put_binary(out: &mut Vec<u8>, ty: u8, value: &Value<'_>) -> Result<(), Error> {
    type T = ParamType;
    match (ty, value) {
        (T::LONGLONG, Value::Int(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (T::LONGLONG, Value::UInt(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (T::LONG | T::INT24, Value::Int(v)) => {
            let v = i32::try_from(*v).map_err(|_| Error::Misuse("a number too big for its column"))?;
            out.extend_from_slice(&v.to_le_bytes());
        }
        (T::DOUBLE, Value::Double(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (T::VARCHAR | T::DECIMAL | T::JSON..=T::GEOMETRY, value) => put_text(out, value),
        _ => return Err(Error::Misuse("a value that its column's type cannot hold")),
    }
    Ok(())
}
