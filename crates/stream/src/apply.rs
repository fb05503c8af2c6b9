//! Changes as statements that another server runs. What many changes make of a row is placed once: all rows that they
//! touch are deleted by primary key, then those that are left are inserted. Doing it again changes nothing, and no order
//! of unique values within the batch matters. Never `REPLACE`: a clash with a row that no change touched is an error.

use std::collections::HashMap;
use std::fmt::Write as _;

use mysql_async::Value;
use mysql_async::prelude::Queryable;

use crate::mariadb::{inet4_text, inet6_text, uuid_text};
use crate::{Change, Images, Result, Row, StreamError};

/// Parameters of one prepared statement, a limit of the protocol.
const PARAMETERS_MAX: usize = 65_535;
/// Rows of one statement; the counts are powers of two, so that few statements are prepared.
const ROWS_MAX: usize = 256;

/// A column of the table that is written.
#[derive(Debug, Clone)]
pub struct ShapeColumn {
    /// Its name.
    pub name: String,
    /// Computed by the server, never written.
    pub generated: bool,
    /// What is made of the parameter, `?` in it, such as `CONVERT(? USING utf8mb4)`.
    pub write: String,
    /// The same where the parameter is compared with the column.
    pub compare: String,
    /// How the log's value becomes the parameter.
    pub conversion: Conversion,
}

/// How a value of the log becomes one that a statement takes and a server gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// It is one already.
    None,
    /// `BINARY` of this many bytes: the log leaves zero bytes at the end away.
    Pad(usize),
    /// MariaDB's `UUID`.
    Uuid,
    /// MariaDB's `INET6`.
    Inet6,
    /// MariaDB's `INET4`.
    Inet4,
}

impl Conversion {
    fn convert(self, value: Value) -> Value {
        match (self, value) {
            (Self::Pad(length), Value::Bytes(mut bytes)) => {
                if bytes.len() < length {
                    bytes.resize(length, 0);
                }
                Value::Bytes(bytes)
            }
            (Self::Uuid, value) => uuid_text(value),
            (Self::Inet6, value) => inet6_text(value),
            (Self::Inet4, value) => inet4_text(value),
            (_, value) => value,
        }
    }
}

/// The table that is written, as the target defines it. It must be defined as the source's is.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Quoted schema and name.
    pub path: String,
    /// In the table's order.
    pub columns: Vec<ShapeColumn>,
    /// Places of the primary key's columns.
    pub primary: Vec<usize>,
}

/// What is to become of one row.
#[derive(Debug)]
struct Fate {
    /// Values of the primary key.
    primary: Row,
    /// The row; `None` when it is gone.
    last: Option<Row>,
}

/// Changes gathered from whole transactions, one fate for each row.
#[derive(Debug)]
pub struct Batch<'a> {
    shapes: &'a [Shape],
    /// For each table the rows touched, by the bytes of their primary key.
    fates: Vec<HashMap<Vec<u8>, Fate>>,
    bytes: usize,
    rows: usize,
}

impl<'a> Batch<'a> {
    /// An empty one. `shapes` are in the order of the tables that the tail was opened with.
    #[must_use]
    pub fn new(shapes: &'a [Shape]) -> Self {
        Self { shapes, fates: shapes.iter().map(|_| HashMap::new()).collect(), bytes: 0, rows: 0 }
    }

    /// Rows it touches.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of values gathered, those that later changes replaced included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a change behind all that were added before.
    ///
    /// # Errors
    /// [`StreamError::Redefined`] when the log's columns are not the shape's.
    pub fn add(&mut self, change: Change) -> Result<()> {
        let shape = &self.shapes[change.table];
        let names = change.columns.names();
        let same = names.len() == shape.columns.len()
            && names.iter().zip(&shape.columns).all(|(name, column)| *name == column.name);
        if !same {
            return Err(StreamError::Redefined(change.columns.label()));
        }
        match change.images {
            Images::Insert(row) => self.place(change.table, row),
            Images::Delete(row) => self.remove(change.table, row),
            Images::Update { before, after } => {
                self.remove(change.table, before);
                self.place(change.table, after);
            }
        }
        Ok(())
    }

    /// Adds a row that was read from the source with a statement: the values of the columns that are not generated.
    pub fn add_stored(&mut self, table: usize, stored: Row) {
        let shape = &self.shapes[table];
        self.bytes += stored.iter().map(size).sum::<usize>();
        let row = shape.with_generated(stored);
        let primary = shape.primary_values(&row);
        self.set(table, Fate { primary, last: Some(row) });
    }

    fn remove(&mut self, table: usize, row: Row) {
        let row = self.shapes[table].converted(row);
        let primary = self.shapes[table].primary_values(&row);
        self.set(table, Fate { primary, last: None });
    }

    fn place(&mut self, table: usize, row: Row) {
        let row = self.shapes[table].converted(row);
        self.bytes += row.iter().map(size).sum::<usize>();
        let primary = self.shapes[table].primary_values(&row);
        self.set(table, Fate { primary, last: Some(row) });
    }

    fn set(&mut self, table: usize, fate: Fate) {
        let key = identity(&fate.primary);
        if self.fates[table].insert(key, fate).is_none() {
            self.rows += 1;
        }
    }

    /// Runs the statements on a connection, within the transaction that is open there.
    ///
    /// # Errors
    /// The server's own; 1062 among them when a row that no change touched has the same unique value.
    pub async fn write(&self, conn: &mut mysql_async::Conn) -> Result<()> {
        for (shape, fates) in self.shapes.iter().zip(&self.fates) {
            let keys: Vec<_> = fates.values().map(|fate| fate.primary.as_slice()).collect();
            for chunk in chunks(&keys, shape.primary.len()) {
                conn.exec_drop(shape.delete(chunk.len()), parameters(chunk)).await?;
            }
        }
        for (shape, fates) in self.shapes.iter().zip(&self.fates) {
            let rows: Vec<Row> = fates
                .values()
                .filter_map(|fate| fate.last.as_ref())
                .map(|row| shape.stored_values(row))
                .collect();
            let rows: Vec<_> = rows.iter().map(Vec::as_slice).collect();
            for chunk in chunks(&rows, shape.stored().count()) {
                conn.exec_drop(shape.insert(chunk.len()), parameters(chunk)).await?;
            }
        }
        Ok(())
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Bytes(bytes) => bytes.len() + 4,
        _ => 8,
    }
}

fn parameters(rows: &[&[Value]]) -> Vec<Value> {
    rows.iter().flat_map(|row| row.iter().cloned()).collect()
}

/// Slices whose lengths are powers of two, within the limits of one statement.
fn chunks<'r, 'v>(rows: &'r [&'v [Value]], width: usize) -> impl Iterator<Item = &'r [&'v [Value]]> {
    let most = (PARAMETERS_MAX / width.max(1)).clamp(1, ROWS_MAX);
    let mut rest = rows;
    std::iter::from_fn(move || {
        let n = rest.len().min(most);
        // The greatest power of two that is not above.
        let n = (n > 0).then(|| 1 << n.ilog2())?;
        let (chunk, left) = rest.split_at(n);
        rest = left;
        Some(chunk)
    })
}

/// The bytes that tell one primary key from another. Keys that the server takes for equal under a collation may
/// differ: then both are deleted, and at most one is inserted.
fn identity(primary: &[Value]) -> Vec<u8> {
    let mut text = String::new();
    for value in primary {
        // Writing to a String never fails.
        let _ = match value {
            Value::Bytes(bytes) => write!(text, "{}:{bytes:02x?};", bytes.len()),
            Value::UInt(number) => write!(text, "{number};"),
            Value::Int(number) => write!(text, "{number};"),
            other => write!(text, "{other:?};"),
        };
    }
    text.into_bytes()
}

impl Shape {
    /// The bytes that tell one row from another, of a row that was read with a statement.
    #[must_use]
    pub fn primary_of_stored(&self, stored: &[Value]) -> Vec<u8> {
        identity(&self.primary_values(&self.with_generated(stored.to_vec())))
    }

    /// The same of each row that a change names: one, or two when the primary key has changed.
    pub fn primaries_of(&self, change: &Change) -> impl Iterator<Item = Vec<u8>> {
        let (first, second) = match &change.images {
            Images::Insert(row) | Images::Delete(row) => (row, None),
            Images::Update { before, after } => (before, Some(after)),
        };
        let primary = |row: &Row| {
            let values = self.primary.iter().map(|&at| self.columns[at].conversion.convert(row[at].clone()));
            identity(&values.collect::<Row>())
        };
        [Some(first), second].into_iter().flatten().map(primary).collect::<Vec<_>>().into_iter()
    }

    /// In the table's order again.
    fn with_generated(&self, stored: Row) -> Row {
        let mut stored = stored.into_iter();
        let value = |column: &ShapeColumn| {
            if column.generated { Value::NULL } else { stored.next().unwrap_or(Value::NULL) }
        };
        self.columns.iter().map(value).collect()
    }

    fn stored(&self) -> impl Iterator<Item = (usize, &ShapeColumn)> {
        self.columns.iter().enumerate().filter(|(_, column)| !column.generated)
    }

    fn converted(&self, row: Row) -> Row {
        row.into_iter().zip(&self.columns).map(|(value, column)| column.conversion.convert(value)).collect()
    }

    fn primary_values(&self, row: &[Value]) -> Row {
        self.primary.iter().map(|&at| row[at].clone()).collect()
    }

    fn stored_values(&self, row: &[Value]) -> Row {
        self.stored().map(|(at, _)| row[at].clone()).collect()
    }

    fn delete(&self, rows: usize) -> String {
        let one = self
            .primary
            .iter()
            .map(|&at| format!("{} = {}", quoted(&self.columns[at].name), self.columns[at].compare))
            .collect::<Vec<_>>()
            .join(" AND ");
        let all = vec![format!("({one})"); rows].join(" OR ");
        format!("DELETE FROM {} WHERE {all}", self.path)
    }

    fn insert(&self, rows: usize) -> String {
        let names = self.stored().map(|(_, column)| quoted(&column.name)).collect::<Vec<_>>().join(", ");
        let one = self.stored().map(|(_, column)| column.write.as_str()).collect::<Vec<_>>().join(", ");
        let all = vec![format!("({one})"); rows].join(", ");
        format!("INSERT INTO {} ({names}) VALUES {all}", self.path)
    }
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::Columns;
    use crate::value::Codec;

    fn shape() -> Shape {
        let column = |name: &str| ShapeColumn {
            name: name.into(),
            generated: name == "g",
            write: "?".into(),
            compare: "?".into(),
            conversion: Conversion::None,
        };
        Shape { path: "`app`.`t`".into(), columns: ["id", "g", "v"].map(column).into(), primary: vec![0] }
    }

    fn change(images: Images) -> Change {
        let names: Vec<String> = ["id", "g", "v"].map(Into::into).into();
        let codecs = vec![Codec::Int { bytes: 8, unsigned: false }; 3];
        let columns = Columns { schema: "app".into(), table: "t".into(), names, codecs, key: 0 };
        Change { columns: Arc::new(columns), table: 0, images }
    }

    fn row(id: i64, v: i64) -> Row {
        vec![Value::Int(id), Value::Int(0), Value::Int(v)]
    }

    #[test]
    fn each_row_has_one_fate() {
        let shapes = [shape()];
        let mut batch = Batch::new(&shapes);
        batch.add(change(Images::Insert(row(1, 10)))).unwrap();
        batch.add(change(Images::Update { before: row(1, 10), after: row(1, 11) })).unwrap();
        batch.add(change(Images::Update { before: row(1, 11), after: row(2, 11) })).unwrap();
        batch.add(change(Images::Delete(row(3, 0)))).unwrap();
        assert_eq!(batch.rows(), 3);
        let left: Vec<_> = batch.fates[0].values().filter_map(|fate| fate.last.clone()).collect();
        assert_eq!(left, [row(2, 11)], "the key went from 1 to 2");
    }

    #[test]
    fn other_columns_are_refused() {
        let mut other = shape();
        other.columns.swap(1, 2);
        let shapes = [other];
        let error = Batch::new(&shapes).add(change(Images::Insert(row(1, 1)))).unwrap_err();
        assert!(matches!(error, StreamError::Redefined(table) if table == "app.t"));
    }

    #[test]
    fn generated_columns_are_not_written() {
        assert_eq!(shape().insert(2), "INSERT INTO `app`.`t` (`id`, `v`) VALUES (?, ?), (?, ?)");
        assert_eq!(shape().delete(2), "DELETE FROM `app`.`t` WHERE (`id` = ?) OR (`id` = ?)");
        assert_eq!(shape().stored_values(&row(1, 2)), [Value::Int(1), Value::Int(2)]);
    }

    #[test]
    fn statements_come_in_few_sizes() {
        let values = [Value::Int(1)];
        let rows = vec![&values[..]; 700];
        let sizes: Vec<_> = chunks(&rows, 1).map(<[_]>::len).collect();
        assert_eq!(sizes, [256, 256, 128, 32, 16, 8, 4]);
    }
}
