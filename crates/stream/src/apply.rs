//! Changes as statements that another server runs. What many changes make of a row is placed once: all rows that they
//! touch are deleted by primary key, then those that are left are inserted. Doing it again changes nothing, and no order
//! of unique values within the batch matters. Never `REPLACE`: a clash with a row that no change touched is an error.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use mysql_async::Value;
use mysql_async::prelude::Queryable;

use crate::mariadb::{inet4_text, inet6_text, uuid_text};
use crate::{Change, Columns, Images, Result, Row, StreamError};

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
    /// The condition that the followed rows fulfil, in SQL.
    pub followed: String,
}

/// A foreign key by which deleting a parent changes its children, which the log need not show. Places are those in the
/// shapes. Its columns must have the same form in the log as in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cascade {
    /// The table that is referred to.
    pub parent: usize,
    /// Its columns that are referred to.
    pub parent_columns: Vec<usize>,
    /// The table that refers.
    pub child: usize,
    /// Its columns, in the same order.
    pub child_columns: Vec<usize>,
    /// What becomes of the children of a parent that is deleted.
    pub on_delete: Orphans,
    /// Whether they follow a parent whose columns change. That can't be done over again: it ends in an error.
    pub on_update: bool,
}

/// What becomes of the children of a parent that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    /// The parent can't be deleted as long as there are any.
    None,
    /// They go too.
    Deleted,
    /// Their columns become NULL.
    Unset,
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
    cascades: &'a [Cascade],
    /// For each table the rows touched, by the bytes of their primary key.
    fates: Vec<HashMap<Vec<u8>, Fate>>,
    /// Which children have lost their parent, by the cascade's place and the parent's values.
    orphaned: Vec<(usize, Row)>,
    /// Rows read with a statement, by table: placed unless a change says otherwise.
    read: Vec<(usize, Row)>,
    bytes: usize,
    rows: usize,
}

impl<'a> Batch<'a> {
    /// An empty one. `shapes` are in the order of the tables that the tail was opened with.
    #[must_use]
    pub fn new(shapes: &'a [Shape], cascades: &'a [Cascade]) -> Self {
        let fates = shapes.iter().map(|_| HashMap::new()).collect();
        Self { shapes, cascades, fates, orphaned: Vec::new(), read: Vec::new(), bytes: 0, rows: 0 }
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
            Images::Delete(row) => {
                let row = self.shapes[change.table].converted(row);
                self.orphan(change.table, &row);
                self.remove_converted(change.table, &row);
            }
            Images::Update { before, after } => {
                self.check_referred(&change.columns, change.table, (&before, &after))?;
                self.remove(change.table, before);
                self.place(change.table, after);
            }
        }
        Ok(())
    }

    /// Adds a row that was read from the source with a statement at some time within what the changes tell of: the
    /// values of the columns that are not generated. It is placed if no change of the batch touches it.
    pub fn add_read(&mut self, table: usize, stored: Row) {
        self.bytes += stored.iter().map(size).sum::<usize>();
        self.read.push((table, self.shapes[table].with_generated(stored)));
    }

    fn remove(&mut self, table: usize, row: Row) {
        let row = self.shapes[table].converted(row);
        self.remove_converted(table, &row);
    }

    fn remove_converted(&mut self, table: usize, row: &[Value]) {
        let primary = self.shapes[table].primary_values(row);
        self.set(table, Fate { primary, last: None });
    }

    /// A row that others refer to keeps what they refer to, unless they need not follow.
    fn check_referred(&self, columns: &Columns, table: usize, (before, after): (&Row, &Row)) -> Result<()> {
        let follows = |cascade: &&Cascade| {
            let changed = cascade.parent_columns.iter().any(|&at| before[at] != after[at]);
            cascade.parent == table && cascade.on_update && changed
        };
        match self.cascades.iter().find(follows) {
            Some(_) => Err(StreamError::ReferredKey(columns.label())),
            None => Ok(()),
        }
    }

    /// Does to the children in the batch what the source's foreign keys did, and remembers it for all others.
    fn orphan(&mut self, table: usize, row: &[Value]) {
        let of_table =
            |(_, cascade): &(usize, &Cascade)| cascade.parent == table && cascade.on_delete != Orphans::None;
        for (at, cascade) in self.cascades.iter().enumerate().filter(of_table) {
            let key: Row = cascade.parent_columns.iter().map(|&column| row[column].clone()).collect();
            self.orphan_children(at, key);
        }
    }

    fn orphan_children(&mut self, at: usize, key: Row) {
        let cascade = &self.cascades[at];
        let wanted = identity(&key);
        if key.contains(&Value::NULL) {
            return;
        }
        self.orphaned.push((at, key));
        let mut gone = Vec::new();
        for fate in self.fates[cascade.child].values_mut() {
            let Some(row) = fate.last.as_mut().filter(|row| cascade.child_key(row) == wanted) else {
                continue;
            };
            if cascade.on_delete == Orphans::Unset {
                cascade.unset(row);
            } else {
                gone.extend(fate.last.take());
            }
        }
        for row in gone {
            self.orphan(cascade.child, &row);
        }
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
    pub async fn write(mut self, conn: &mut mysql_async::Conn) -> Result<()> {
        self.delete(conn).await?;
        let mut next = 0;
        while let Some((at, key)) = self.orphaned.get(next).cloned() {
            self.cascade(conn, at, &key).await?;
            next += 1;
        }
        self.settle_read();
        self.insert(conn).await
    }

    async fn delete(&self, conn: &mut mysql_async::Conn) -> Result<()> {
        for (table, (shape, fates)) in self.shapes.iter().zip(&self.fates).enumerate() {
            let mut keys: Vec<Row> = fates.values().map(|fate| fate.primary.clone()).collect();
            let read = self.read.iter().filter(|(of, _)| *of == table);
            keys.extend(read.map(|(_, row)| shape.primary_values(row)));
            let keys: Vec<_> = keys.iter().map(Vec::as_slice).collect();
            for chunk in chunks(&keys, shape.primary.len()) {
                conn.exec_drop(shape.delete(chunk.len()), parameters(chunk)).await?;
            }
        }
        Ok(())
    }

    /// Does to the target's children what the source's foreign key did, and finds out who were theirs.
    async fn cascade(&mut self, conn: &mut mysql_async::Conn, at: usize, key: &Row) -> Result<()> {
        let cascade = &self.cascades[at];
        let shape = &self.shapes[cascade.child];
        let condition = shape.condition(&cascade.child_columns);
        if cascade.on_delete == Orphans::Unset {
            let unset =
                cascade.child_columns.iter().map(|&at| format!("{} = NULL", quoted(&shape.columns[at].name)));
            let unset = unset.collect::<Vec<_>>().join(", ");
            conn.exec_drop(format!("UPDATE {} SET {unset} WHERE {condition}", shape.path), key.clone())
                .await?;
            return Ok(());
        }
        for (further, below) in
            self.cascades.iter().enumerate().filter(|(_, below)| below.parent == cascade.child)
        {
            let names = below.parent_columns.iter().map(|&at| quoted(&shape.columns[at].name));
            let names = names.collect::<Vec<_>>().join(", ");
            let query = format!("SELECT {names} FROM {} WHERE {condition}", shape.path);
            let keys: Vec<mysql_async::Row> = conn.exec(query, key.clone()).await?;
            for key in keys {
                // Not what panics: the values of a row of which none was taken before.
                self.orphan_children(further, key.unwrap());
            }
        }
        conn.exec_drop(format!("DELETE FROM {} WHERE {condition}", shape.path), key.clone()).await?;
        Ok(())
    }

    /// Rows that were read become rows to place, unless the changes say otherwise.
    fn settle_read(&mut self) {
        let lost: HashSet<(usize, Vec<u8>)> =
            self.orphaned.iter().map(|(at, key)| (*at, identity(key))).collect();
        for (table, mut row) in std::mem::take(&mut self.read) {
            let mut gone = false;
            for (at, cascade) in
                self.cascades.iter().enumerate().filter(|(_, cascade)| cascade.child == table)
            {
                if !lost.contains(&(at, cascade.child_key(&row))) {
                    continue;
                }
                if cascade.on_delete == Orphans::Unset { cascade.unset(&mut row) } else { gone = true }
            }
            let primary = self.shapes[table].primary_values(&row);
            let key = identity(&primary);
            if !gone && !self.fates[table].contains_key(&key) {
                self.fates[table].insert(key, Fate { primary, last: Some(row) });
                self.rows += 1;
            }
        }
    }

    async fn insert(&self, conn: &mut mysql_async::Conn) -> Result<()> {
        for (shape, fates) in self.shapes.iter().zip(&self.fates) {
            let last = fates.values().filter_map(|fate| fate.last.as_ref());
            let rows: Vec<Row> = last.map(|row| shape.stored_values(row)).collect();
            let rows: Vec<_> = rows.iter().map(Vec::as_slice).collect();
            for chunk in chunks(&rows, shape.stored().count()) {
                conn.exec_drop(shape.insert(chunk.len()), parameters(chunk)).await?;
            }
        }
        Ok(())
    }
}

impl Cascade {
    /// The bytes that tell whose child a row is.
    fn child_key(&self, row: &[Value]) -> Vec<u8> {
        identity(&self.child_columns.iter().map(|&at| row[at].clone()).collect::<Row>())
    }

    fn unset(&self, row: &mut Row) {
        self.child_columns.iter().for_each(|&at| row[at] = Value::NULL);
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

    fn equal(&self, columns: &[usize]) -> String {
        let one = |&at: &usize| format!("{} = {}", quoted(&self.columns[at].name), self.columns[at].compare);
        columns.iter().map(one).collect::<Vec<_>>().join(" AND ")
    }

    /// Followed rows with certain values in some columns.
    fn condition(&self, columns: &[usize]) -> String {
        format!("{} AND {}", self.followed, self.equal(columns))
    }

    fn delete(&self, rows: usize) -> String {
        let one = self.equal(&self.primary);
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
    use crate::value::Codec;

    fn shape() -> Shape {
        let column = |name: &str| ShapeColumn {
            name: name.into(),
            generated: name == "g",
            write: "?".into(),
            compare: "?".into(),
            conversion: Conversion::None,
        };
        Shape {
            path: "`app`.`t`".into(),
            columns: ["id", "g", "v"].map(column).into(),
            primary: vec![0],
            followed: "1 = 1".into(),
        }
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
        let mut batch = Batch::new(&shapes, &[]);
        batch.add(change(Images::Insert(row(1, 10)))).unwrap();
        batch.add(change(Images::Update { before: row(1, 10), after: row(1, 11) })).unwrap();
        batch.add(change(Images::Update { before: row(1, 11), after: row(2, 11) })).unwrap();
        batch.add(change(Images::Delete(row(3, 0)))).unwrap();
        assert_eq!(batch.rows(), 3);
        let left: Vec<_> = batch.fates[0].values().filter_map(|fate| fate.last.clone()).collect();
        assert_eq!(left, [row(2, 11)], "the key went from 1 to 2");
    }

    /// The column v names the parent.
    fn cascade(on_delete: Orphans) -> Cascade {
        Cascade {
            parent: 0,
            parent_columns: vec![0],
            child: 0,
            child_columns: vec![2],
            on_delete,
            on_update: true,
        }
    }

    #[test]
    fn children_go_with_their_parent_unless_they_come_back() {
        let (shapes, cascades) = ([shape()], [cascade(Orphans::Deleted)]);
        let mut batch = Batch::new(&shapes, &cascades);
        for images in [Images::Insert(row(2, 1)), Images::Insert(row(3, 2)), Images::Delete(row(1, 0))] {
            batch.add(change(images)).unwrap();
        }
        batch.add(change(Images::Insert(row(4, 1)))).unwrap();
        for read in [[5, 1], [6, 9], [4, 7]] {
            batch.add_read(0, read.map(Value::Int).to_vec());
        }
        batch.settle_read();
        let mut left: Vec<_> = batch.fates[0].values().filter_map(|fate| fate.last.clone()).collect();
        left.sort_by_key(|row| format!("{row:?}"));
        let mut read = row(6, 9);
        read[1] = Value::NULL;
        assert_eq!(left, [row(4, 1), read], "2 and its child 3 went with 1, and so did 5; 4 came later");
    }

    #[test]
    fn a_key_that_children_follow_may_not_change() {
        let (shapes, cascades) = ([shape()], [cascade(Orphans::None)]);
        let mut batch = Batch::new(&shapes, &cascades);
        batch.add(change(Images::Update { before: row(1, 1), after: row(1, 2) })).unwrap();
        let error = batch.add(change(Images::Update { before: row(1, 1), after: row(2, 1) })).unwrap_err();
        assert!(matches!(error, StreamError::ReferredKey(table) if table == "app.t"));
    }

    #[test]
    fn other_columns_are_refused() {
        let mut other = shape();
        other.columns.swap(1, 2);
        let shapes = [other];
        let error = Batch::new(&shapes, &[]).add(change(Images::Insert(row(1, 1)))).unwrap_err();
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
