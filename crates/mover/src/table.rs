//! How a sharded table is read and written bytewise: its columns, its primary key, and the statements made of them.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use usher_directory::rows::{KeyType, TableRow};
use usher_stream::{Conversion, Shape, ShapeColumn};
use usher_topology::Key;

use crate::{MoveError, Refusal, Result};

/// Parameters of one prepared statement, a limit of the protocol.
const PARAMETERS_MAX: usize = 65_535;

/// A column, as far as a copy needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Lower-case type without length: `varchar`.
    pub(crate) data_type: String,
    pub(crate) charset: Option<String>,
    /// Computed by the server: read for comparison, never written.
    pub(crate) generated: bool,
    /// Bytes that a value may have, of texts and binaries.
    pub(crate) octets: Option<u64>,
}

/// A sharded table as one server defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) key_column: String,
    /// The key column holds text, not integers.
    pub(crate) key_is_text: bool,
    /// Its collation does not tell case apart.
    pub(crate) key_folds_case: bool,
    pub(crate) columns: Vec<Column>,
    /// Places in `columns` of the primary key's columns, without the key column: that one is the same in all rows.
    pub(crate) keyset: Vec<usize>,
    pub(crate) has_primary_key: bool,
    /// An index begins with the key column.
    pub(crate) has_key_index: bool,
    pub(crate) engine: String,
    /// The server's own definition, without its counter.
    pub(crate) definition: String,
}

/// Puts a name between backticks.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text as a literal that no session setting changes the meaning of.
fn hex_literal(charset: &str, bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2 + charset.len() + 5);
    if !charset.is_empty() {
        text.push('_');
        text.push_str(charset);
        text.push(' ');
    }
    text.push_str("X'");
    for byte in bytes {
        use std::fmt::Write;
        // Writing to a String never fails.
        let _ = write!(text, "{byte:02X}");
    }
    text.push('\'');
    text
}

impl Table {
    /// Reads the definition from a server.
    ///
    /// # Errors
    /// [`Refusal::NoTable`], or the server's own.
    pub(crate) async fn load(conn: &mut Conn, server: &str, row: &TableRow) -> Result<Self> {
        let (schema, name) = (row.schema.as_str(), row.name.as_str());
        let key_column = row.key_column.as_deref().ok_or_else(|| {
            MoveError::Data(format!("the catalog has no key column for table {schema}.{name}"))
        })?;
        let mut table = Self {
            schema: schema.to_owned(),
            name: name.to_owned(),
            key_column: key_column.to_owned(),
            key_is_text: matches!(row.key_type, Some(KeyType::Text | KeyType::TextCi)),
            key_folds_case: row.key_type == Some(KeyType::TextCi),
            columns: Vec::new(),
            keyset: Vec::new(),
            has_primary_key: false,
            has_key_index: false,
            engine: String::new(),
            definition: String::new(),
        };
        let missing = || Refusal::NoTable { table: format!("{schema}.{name}"), server: server.to_owned() };
        let at = || MoveError::at(server);
        let engine: Option<(String, Option<String>)> = conn
            .exec_first(
                "SELECT table_type, engine FROM information_schema.tables WHERE table_schema = ? AND table_name = ?",
                (schema, name),
            )
            .await
            .map_err(at())?;
        let (kind, engine) = engine.ok_or_else(missing)?;
        table.engine = if kind == "BASE TABLE" { engine.unwrap_or_default() } else { kind };
        table.load_columns(conn).await.map_err(at())?;
        table.load_indexes(conn).await.map_err(at())?;
        let create: Option<Row> =
            conn.query_first(format!("SHOW CREATE TABLE {}", table.path())).await.map_err(at())?;
        let create: String = create.and_then(|row| row.get(1)).ok_or_else(missing)?;
        table.definition = without_counter(&create);
        if !table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(key_column)) {
            return Err(MoveError::Data(format!("table {schema}.{name} has no column {key_column}")));
        }
        Ok(table)
    }

    async fn load_columns(&mut self, conn: &mut Conn) -> mysql_async::Result<()> {
        type ColumnRow = (String, String, Option<String>, Option<String>, Option<u64>);
        let rows: Vec<ColumnRow> = conn
            .exec(
                "SELECT column_name, data_type, character_set_name, CAST(generation_expression AS BINARY(20)), \
                 character_octet_length FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position",
                (self.schema.as_str(), self.name.as_str()),
            )
            .await?;
        self.columns = rows
            .into_iter()
            .map(|(name, data_type, charset, expression, octets)| Column {
                name,
                data_type: data_type.to_ascii_lowercase(),
                charset,
                generated: expression.is_some_and(|text| !text.trim_matches('\0').is_empty()),
                octets,
            })
            .collect();
        Ok(())
    }

    async fn load_indexes(&mut self, conn: &mut Conn) -> mysql_async::Result<()> {
        let rows: Vec<(String, u64, Option<String>)> = conn
            .exec(
                "SELECT index_name, seq_in_index, column_name FROM information_schema.statistics \
                 WHERE table_schema = ? AND table_name = ? ORDER BY index_name, seq_in_index",
                (self.schema.as_str(), self.name.as_str()),
            )
            .await?;
        for (index, place, column) in rows {
            let Some(column) = column else { continue };
            let is_key = column.eq_ignore_ascii_case(&self.key_column);
            self.has_key_index |= place == 1 && is_key;
            if index == "PRIMARY" {
                self.has_primary_key = true;
                if !is_key && let Some(at) = self.columns.iter().position(|c| c.name == column) {
                    self.keyset.push(at);
                }
            }
        }
        Ok(())
    }

    /// `` `schema`.`table` ``.
    pub(crate) fn path(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// `schema.table`, for people and for the progress row.
    pub(crate) fn label(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Columns that are copied.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (usize, &Column)> {
        self.columns.iter().enumerate().filter(|(_, column)| !column.generated)
    }

    /// The condition that makes a row the user's. The column's own collation compares texts; a key of the other kind
    /// has no rows here, where a comparison of numbers with texts would find some.
    pub(crate) fn of_user(&self, key: &Key) -> String {
        let literal = match (self.key_is_text, key) {
            (true, key) => hex_literal("utf8mb4", key.to_string().as_bytes()),
            (false, Key::Int(number)) => number.to_string(),
            (false, Key::Text(_)) => return "1 = 0".to_owned(),
        };
        format!("{} = {literal}", quoted(&self.key_column))
    }

    /// Reads the user's next rows after a place in primary key order. The values of `keyset` come behind the stored
    /// columns.
    pub(crate) fn select(&self, key: &Key, after: Option<&[String]>, limit: usize) -> String {
        let stored = self.stored().map(|(_, column)| column.read());
        let keyset = self.keyset.iter().map(|&at| self.columns[at].read_for_place());
        let list = stored.chain(keyset).collect::<Vec<_>>().join(", ");
        let mut text = format!("SELECT {list} FROM {} WHERE {}", self.path(), self.of_user(key));
        if let Some(after) = after.filter(|after| !after.is_empty()) {
            text.push_str(" AND ");
            text.push_str(&self.beyond(after));
        }
        text.push_str(&self.order());
        text.push_str(&format!(" LIMIT {limit}"));
        text
    }

    /// Deletes some of the user's rows.
    pub(crate) fn delete(&self, key: &Key, limit: usize) -> String {
        format!("DELETE FROM {} WHERE {}{} LIMIT {limit}", self.path(), self.of_user(key), self.order())
    }

    /// Counts the user's rows.
    pub(crate) fn count(&self, key: &Key) -> String {
        format!("SELECT COUNT(*) FROM {} WHERE {}", self.path(), self.of_user(key))
    }

    /// Places `rows` rows.
    pub(crate) fn insert(&self, rows: usize) -> String {
        let names = self.stored().map(|(_, column)| quoted(&column.name)).collect::<Vec<_>>().join(", ");
        let one = self.stored().map(|(_, column)| column.write()).collect::<Vec<_>>().join(", ");
        let all = vec![format!("({one})"); rows].join(", ");
        format!("INSERT INTO {} ({names}) VALUES {all}", self.path())
    }

    /// How changes of its rows are applied. The key column counts to the primary key: the user's rows alone are touched.
    pub(crate) fn shape(&self, user: &Key) -> Shape {
        let key = self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(&self.key_column));
        Shape {
            path: self.path(),
            columns: self.columns.iter().map(Column::shape).collect(),
            primary: key.into_iter().chain(self.keyset.iter().copied()).collect(),
            followed: self.of_user(user),
        }
    }

    /// The most rows of one INSERT.
    pub(crate) fn rows_per_insert(&self) -> usize {
        (PARAMETERS_MAX / self.stored().count().max(1)).clamp(1, 128)
    }

    /// The place of a row that `select` has read, as literals.
    pub(crate) fn place(&self, values: &[Value]) -> Vec<String> {
        self.keyset.iter().zip(values).map(|(&at, value)| self.columns[at].literal(value)).collect()
    }

    fn order(&self) -> String {
        let names: Vec<_> = self.keyset.iter().map(|&at| quoted(&self.columns[at].name)).collect();
        // Without a keyset the user has one row at most.
        if names.is_empty() { String::new() } else { format!(" ORDER BY {}", names.join(", ")) }
    }

    /// `a > x OR (a = x AND b > y)`, with the plain range in front that an index can use.
    fn beyond(&self, after: &[String]) -> String {
        let names: Vec<_> = self.keyset.iter().map(|&at| quoted(&self.columns[at].name)).collect();
        let mut text = String::new();
        for (name, literal) in names.iter().zip(after).rev() {
            text = if text.is_empty() {
                format!("{name} > {literal}")
            } else {
                format!("{name} >= {literal} AND ({name} > {literal} OR ({text}))")
            };
        }
        text
    }
}

impl Column {
    fn is_numbered(&self) -> bool {
        matches!(self.data_type.as_str(), "enum" | "set")
    }

    /// What the copier selects: values that can be written back exactly.
    fn read(&self) -> String {
        let name = quoted(&self.name);
        // By number: a value outside the list (0) has no name of its own.
        if self.is_numbered() { format!("CAST({name} AS UNSIGNED)") } else { name }
    }

    fn read_for_place(&self) -> String {
        let name = quoted(&self.name);
        if self.is_numbered() || self.data_type == "bit" { format!("CAST({name} AS UNSIGNED)") } else { name }
    }

    /// How a parameter becomes this column's value.
    fn write(&self) -> &'static str {
        match self.data_type.as_str() {
            // These read binary strings as raw values, and what was read is text.
            "uuid" | "inet6" | "inet4" => "CONVERT(? USING latin1)",
            // MySQL's own type refuses binary strings; MariaDB's is a text.
            "json" => "CONVERT(? USING utf8mb4)",
            _ => "?",
        }
    }

    fn shape(&self) -> ShapeColumn {
        let length = self.octets.and_then(|octets| usize::try_from(octets).ok()).unwrap_or(0);
        // A binary text beside a column is compared by the column's own collation, which an index can serve.
        let compare = if self.is_numbered() || self.charset.is_some() { "?" } else { self.write() };
        ShapeColumn {
            name: self.name.clone(),
            generated: self.generated,
            write: self.write().to_owned(),
            compare: compare.to_owned(),
            conversion: match self.data_type.as_str() {
                "binary" => Conversion::Pad(length),
                "uuid" => Conversion::Uuid,
                "inet6" => Conversion::Inet6,
                "inet4" => Conversion::Inet4,
                _ => Conversion::None,
            },
        }
    }

    /// Whether the log and a statement give values of this column in the same form, so that one can be found by the
    /// other.
    pub(crate) fn identifies(&self) -> bool {
        const TYPES: [&str; 17] = [
            "tinyint",
            "smallint",
            "mediumint",
            "int",
            "bigint",
            "char",
            "varchar",
            "binary",
            "varbinary",
            "date",
            "datetime",
            "timestamp",
            "time",
            "year",
            "enum",
            "set",
            "uuid",
        ];
        TYPES.contains(&self.data_type.as_str()) && !self.generated
    }

    /// A value as it stands in a comparison with this column.
    fn literal(&self, value: &Value) -> String {
        match value {
            Value::NULL => "NULL".to_owned(),
            Value::Int(number) => number.to_string(),
            Value::UInt(number) => number.to_string(),
            Value::Float(number) => format!("{:e}", f64::from(*number)),
            Value::Double(number) => format!("{number:e}"),
            Value::Bytes(bytes) => self.bytes_literal(bytes),
            Value::Date(y, mo, d, ..) if self.data_type == "date" => {
                format!("_latin1'{y:04}-{mo:02}-{d:02}'")
            }
            Value::Date(y, mo, d, h, mi, s, us) => {
                format!("_latin1'{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}:{s:02}.{us:06}'")
            }
            Value::Time(negative, d, h, mi, s, us) => {
                let sign = if *negative { "-" } else { "" };
                format!("_latin1'{sign}{}:{mi:02}:{s:02}.{us:06}'", d * 24 + u32::from(*h))
            }
        }
    }

    fn bytes_literal(&self, bytes: &[u8]) -> String {
        match (self.charset.as_deref(), self.data_type.as_str()) {
            (Some(charset), _) => hex_literal(charset, bytes),
            (None, "decimal" | "uuid" | "inet6" | "inet4") => hex_literal("latin1", bytes),
            (None, _) => hex_literal("", bytes),
        }
    }

    /// What the verifier selects, in the text protocol: every value to its last bit.
    pub(crate) fn read_as_text(&self) -> String {
        let name = quoted(&self.name);
        match self.data_type.as_str() {
            // As text a FLOAT has six digits.
            "float" => format!("CAST({name} AS DOUBLE)"),
            "enum" | "set" => format!("CONCAT(CAST({name} AS BINARY), ':', {name} + 0)"),
            _ => name,
        }
    }
}

/// The definition without its counter, which each server has at its own value.
fn without_counter(create: &str) -> String {
    let Some(start) = create
        .rfind(") ENGINE=")
        .and_then(|options| create[options..].find(" AUTO_INCREMENT=").map(|at| options + at))
    else {
        return create.to_owned();
    };
    let digits = start + " AUTO_INCREMENT=".len();
    let end = create[digits..].find(|c: char| !c.is_ascii_digit()).map_or(create.len(), |at| digits + at);
    format!("{}{}", &create[..start], &create[end..])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn column(name: &str, data_type: &str, charset: Option<&str>) -> Column {
        Column {
            name: name.into(),
            data_type: data_type.into(),
            charset: charset.map(Into::into),
            generated: name == "g",
            octets: None,
        }
    }

    fn table() -> Table {
        Table {
            schema: "photos".into(),
            name: "com`ments".into(),
            key_column: "user_id".into(),
            key_is_text: false,
            key_folds_case: false,
            columns: vec![
                column("user_id", "bigint", None),
                column("name", "varchar", Some("utf8mb4")),
                column("at", "datetime", None),
                column("g", "int", None),
                column("kind", "enum", Some("latin1")),
            ],
            keyset: vec![1, 2],
            has_primary_key: true,
            has_key_index: true,
            engine: "InnoDB".into(),
            definition: String::new(),
        }
    }

    #[test]
    fn reads_go_on_behind_a_place() {
        let table = table();
        let place = table.place(&[Value::Bytes(b"a'b".to_vec()), Value::Date(2020, 1, 2, 3, 4, 5, 6)]);
        assert_eq!(place, ["_utf8mb4 X'612762'", "_latin1'2020-01-02 03:04:05.000006'"]);
        assert_eq!(
            table.select(&Key::Int(7), Some(&["1".into(), "2".into()]), 10),
            "SELECT `user_id`, `name`, `at`, CAST(`kind` AS UNSIGNED), `name`, `at` FROM `photos`.`com``ments` \
             WHERE `user_id` = 7 AND `name` >= 1 AND (`name` > 1 OR (`at` > 2)) ORDER BY `name`, `at` LIMIT 10"
        );
    }

    #[test]
    fn generated_columns_are_not_written() {
        assert_eq!(
            table().insert(2),
            "INSERT INTO `photos`.`com``ments` (`user_id`, `name`, `at`, `kind`) VALUES (?, ?, ?, ?), (?, ?, ?, ?)"
        );
    }

    #[test]
    fn keys_are_compared_as_what_the_column_holds() {
        let mut table = table();
        assert_eq!(table.of_user(&Key::Int(-7)), "`user_id` = -7");
        assert_eq!(table.of_user(&Key::Text("7b".into())), "1 = 0", "not the user 7");
        table.key_is_text = true;
        assert_eq!(table.of_user(&Key::Text("o'x".into())), "`user_id` = _utf8mb4 X'6F2778'");
        assert_eq!(table.of_user(&Key::Int(7)), "`user_id` = _utf8mb4 X'37'");
    }

    #[test]
    fn only_the_counter_of_the_table_goes() {
        let create = "CREATE TABLE `t` (\n  `a` int COMMENT ' AUTO_INCREMENT=5'\n) ENGINE=InnoDB AUTO_INCREMENT=77 \
                      DEFAULT CHARSET=utf8mb4";
        assert_eq!(without_counter(create), create.replace(" AUTO_INCREMENT=77", ""));
        assert_eq!(without_counter("CREATE TABLE x"), "CREATE TABLE x");
    }
}
