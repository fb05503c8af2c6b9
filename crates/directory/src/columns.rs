//! Reads a result row column by column: wide rows would not fit a tuple.

use mysql_async::Row;
use mysql_async::prelude::FromValue;

use crate::{Error, Result};

/// The columns of one row, taken in order.
pub(crate) struct Columns {
    row: Row,
    at: usize,
}

impl Columns {
    pub(crate) fn of(row: Row) -> Self {
        Self { row, at: 0 }
    }

    /// The next column as `T`.
    pub(crate) fn take<T: FromValue>(&mut self) -> Result<T> {
        let at = self.at;
        self.at += 1;
        match self.row.take_opt::<T, _>(at) {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => {
                let name =
                    self.row.columns_ref().get(at).map_or_else(String::new, |c| c.name_str().into_owned());
                Err(Error::data(format!("column {name}: {error}")))
            }
            None => Err(Error::data(format!("a row has no column {at}"))),
        }
    }

    /// The next column, text that `parse` understands.
    pub(crate) fn parse<T>(&mut self, parse: impl FnOnce(&str) -> Result<T>) -> Result<T> {
        parse(&self.take::<String>()?)
    }
}

/// The key's stored form as a checked text.
pub(crate) fn key_text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::data("an entity_key is not UTF-8"))
}
