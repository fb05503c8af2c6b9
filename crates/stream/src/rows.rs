//! Rows events: those rows of a followed table that are the user's.
//!
//! Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/classbinary__log_1_1Rows__event.html>.

use std::sync::Arc;

use mysql_async::Value;

use crate::table_map::{lenenc, little};
use crate::value::cut;
use crate::{Change, Columns, Images, Result, Row, StreamError};

/// What an event does to its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Insert,
    Update,
    Delete,
}

/// Number of the table that an event is about.
pub(crate) fn table_id(data: &[u8]) -> Result<u64> {
    Ok(little(data.get(..6).ok_or_else(malformed)?))
}

fn malformed() -> StreamError {
    StreamError::Malformed("a rows event")
}

/// A followed table, as rows are picked from its events.
pub(crate) struct Picked<'a> {
    pub(crate) columns: &'a Arc<Columns>,
    /// Its place among the followed tables.
    pub(crate) table: usize,
    /// Whether a row with this value in the key column is wanted.
    pub(crate) wanted: &'a (dyn Fn(&Value) -> bool + Send + Sync),
}

/// Gives each change of a wanted row to `found`. `extra` tells whether the header has a variable part (version 2).
///
/// # Errors
/// [`StreamError::NotFull`], [`StreamError::OwnerChanged`], [`StreamError::Malformed`], and those of `found`.
pub(crate) fn pick(
    picked: &Picked<'_>,
    deed: Deed,
    extra: bool,
    mut data: &[u8],
    mut found: impl FnMut(Change),
) -> Result<()> {
    cut(&mut data, 8)?;
    if extra {
        let n = little(cut(&mut data, 2)?) as usize;
        cut(&mut data, n.checked_sub(2).ok_or_else(malformed)?)?;
    }
    let columns = picked.columns;
    let count = lenenc(&mut data)?;
    if count != columns.codecs.len() {
        return Err(malformed());
    }
    let bitmaps = if deed == Deed::Update { 2 } else { 1 };
    for _ in 0..bitmaps {
        let present = cut(&mut data, count.div_ceil(8))?;
        if (0..count).any(|at| !bit(present, at)) {
            return Err(StreamError::NotFull(columns.label()));
        }
    }
    while !data.is_empty() {
        let first = Image::take(columns, &mut data)?;
        let images = if deed == Deed::Update {
            let second = Image::take(columns, &mut data)?;
            match ((picked.wanted)(&first.key), (picked.wanted)(&second.key)) {
                (true, true) => Images::Update { before: first.row(columns)?, after: second.row(columns)? },
                (false, false) => continue,
                _ => return Err(StreamError::OwnerChanged(columns.label())),
            }
        } else {
            match (picked.wanted)(&first.key) {
                false => continue,
                true if deed == Deed::Insert => Images::Insert(first.row(columns)?),
                true => Images::Delete(first.row(columns)?),
            }
        };
        found(Change { columns: Arc::clone(columns), table: picked.table, images });
    }
    Ok(())
}

fn bit(bits: &[u8], at: usize) -> bool {
    bits[at / 8] & 1 << (at % 8) != 0
}

/// A row image of which only the key has been read.
struct Image<'a> {
    nulls: &'a [u8],
    values: &'a [u8],
    key: Value,
}

impl<'a> Image<'a> {
    fn take(columns: &Columns, data: &mut &'a [u8]) -> Result<Self> {
        let nulls = cut(data, columns.codecs.len().div_ceil(8))?;
        let (start, mut key) = (*data, Value::NULL);
        for (at, codec) in columns.codecs.iter().enumerate() {
            if bit(nulls, at) {
                continue;
            }
            if at == columns.key {
                key = codec.read(data)?;
            } else {
                codec.skip(data)?;
            }
        }
        Ok(Self { nulls, values: &start[..start.len() - data.len()], key })
    }

    fn row(&self, columns: &Columns) -> Result<Row> {
        let mut data = self.values;
        let read = |(at, codec): (usize, &crate::value::Codec)| {
            if bit(self.nulls, at) { Ok(Value::NULL) } else { codec.read(&mut data) }
        };
        columns.codecs.iter().enumerate().map(read).collect()
    }
}
