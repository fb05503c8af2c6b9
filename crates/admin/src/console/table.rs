//! A small result set.

use usher_wire::Error;
use usher_wire::result::{Answer, Column, Format, Value};
use usher_wire::status::Status;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Int(i64),
    UInt(u64),
    Text(String),
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn yes(is: bool) -> Self {
        Self::text(if is { "yes" } else { "no" })
    }

    /// A count of things in memory.
    pub(super) fn count(n: usize) -> Self {
        Self::UInt(n as u64)
    }

    fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Int(v) => Value::Int(*v),
            Self::UInt(v) => Value::UInt(*v),
            Self::Text(text) => Value::Bytes(text.as_bytes()),
        }
    }
}

impl From<u64> for Cell {
    fn from(n: u64) -> Self {
        Self::UInt(n)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Columns and rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    names: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(names: &[&str]) -> Self {
        Self { names: names.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    pub(super) fn of_one(row: Vec<(String, Cell)>) -> Self {
        let (names, cells) = row.into_iter().unzip();
        Self { names, rows: vec![cells] }
    }

    /// Adds a row; it must have a value for each column.
    pub(super) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// Writes it as the answer to a COM_QUERY. A column's type is that of its values.
    pub(super) fn write(&self, answer: Answer<'_>, status: Status) -> Result<(), Error> {
        let columns: Vec<Column<'_>> =
            self.names.iter().enumerate().map(|(n, name)| self.column(n, name)).collect();
        let mut rows = answer.rows(Format::Text, &columns, status)?;
        for row in &self.rows {
            let values: Vec<Value<'_>> = row.iter().map(Cell::value).collect();
            rows.row(&values)?;
        }
        rows.end(status, 0);
        Ok(())
    }

    fn column<'a>(&self, n: usize, name: &'a str) -> Column<'a> {
        let mut cells =
            self.rows.iter().filter_map(|row| row.get(n)).filter(|cell| **cell != Cell::Null).peekable();
        let Some(first) = cells.peek().copied() else { return Column::text(name) };
        match first {
            Cell::Int(_) if cells.all(|cell| matches!(cell, Cell::Int(_))) => Column::bigint(name),
            Cell::UInt(_) if cells.all(|cell| matches!(cell, Cell::UInt(_))) => Column::unsigned(name),
            _ => Column::text(name),
        }
    }
}
