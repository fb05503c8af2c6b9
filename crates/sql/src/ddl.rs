//! Schema changes: which tables, and how a new one is sharded.

use crate::catalog::Sharded;
use crate::declaration::{self, Declaration};
use crate::key::{KeyType, string_value};
use crate::lex::{LiteralKind, TokenKind};
use crate::mode::Mode;
use crate::plan::{DdlKind, TableName, Tokens};

/// A schema change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ddl {
    /// What it does.
    pub kind: DdlKind,
    /// The tables it changes. RENAME lists old and new names in turn.
    pub tables: Vec<TableName>,
    /// CREATE TABLE .. LIKE this one: a sharded one's comment is copied, and so the new table is sharded too.
    pub like: Option<TableName>,
    /// IF EXISTS or IF NOT EXISTS.
    pub conditional: bool,
    /// For databases: the name.
    pub database: Option<String>,
    /// The columns and options of CREATE TABLE with a list of columns.
    pub create: Option<CreateTable>,
    /// What a COMMENT of CREATE or ALTER TABLE declares.
    pub declaration: Option<Declaration>,
}

/// CREATE TABLE, as far as sharding goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateTable {
    /// In order.
    pub columns: Vec<Column>,
    /// Column names of the primary key; empty if there is none.
    pub primary_key: Vec<String>,
    /// The table's COLLATE.
    pub collation: Option<String>,
    /// The table's CHARSET.
    pub charset: Option<String>,
    /// CREATE TABLE .. SELECT.
    pub from_query: bool,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name, quotes removed.
    pub name: String,
    /// The type's first word, lower case: `bigint`, `varchar`.
    pub data_type: String,
    /// UNSIGNED or ZEROFILL, which implies it.
    pub unsigned: bool,
    /// COLLATE, BINARY as `_bin`, or CHARACTER SET binary.
    pub collation: Option<String>,
    /// CHARACTER SET.
    pub charset: Option<String>,
    /// AUTO_INCREMENT, or the type SERIAL.
    pub auto_increment: bool,
}

/// Why a declaration does not fit its table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DdlError {
    /// The comment does not say what it should.
    #[error("{0}")]
    Declaration(#[from] declaration::DeclarationError),
    /// The key column is not there.
    #[error("the table comment says key={0}, and the table has no such column")]
    NoKeyColumn(String),
    /// The sequence column is not there.
    #[error("the table comment says sequence={0}, and the table has no such column")]
    NoSequenceColumn(String),
    /// Sequence values are integers.
    #[error("the sequence column {0} is not an integer column")]
    SequenceType(String),
    /// The type cannot be a key.
    #[error("column {column} cannot be the key: {reason}")]
    KeyType {
        /// The key column.
        column: String,
        /// Why.
        reason: String,
    },
    /// Moves need one.
    #[error("a sharded table needs a primary key")]
    NoPrimaryKey,
    /// The statement ends early or has an unknown form.
    #[error("usher cannot read this CREATE TABLE near {0}")]
    Unreadable(String),
}

/// The kind and tables of a schema change: what a plan needs.
pub(crate) struct Head {
    pub(crate) kind: DdlKind,
    pub(crate) tables: Vec<TableName>,
    pub(crate) like: Option<TableName>,
    conditional: bool,
    database: Option<String>,
    /// Index behind the table's name.
    next: usize,
}

/// Whether the first words are those of a schema change.
pub(crate) fn is_ddl(tokens: &Tokens<'_>) -> bool {
    tokens.is_any(0, &["CREATE", "ALTER", "DROP", "TRUNCATE", "RENAME"])
}

/// Reads the head of a schema change; None for accounts, servers and whatever else CREATE and its kin can do.
pub(crate) fn head(tokens: &Tokens<'_>, default_schema: Option<&str>) -> Option<Head> {
    if tokens.is_word(0, "TRUNCATE") {
        let at = 1 + usize::from(tokens.is_word(1, "TABLE"));
        return listed(tokens, default_schema, DdlKind::TruncateTable, at);
    }
    if tokens.is_word(0, "RENAME") {
        return tokens.is_any(1, &["TABLE", "TABLES"]).then(|| renames(tokens, default_schema)).flatten();
    }
    let verb = tokens.bytes(0).to_ascii_uppercase();
    let mut at = 1;
    let mut temporary = false;
    let fillers = [
        "OR",
        "REPLACE",
        "TEMPORARY",
        "UNIQUE",
        "FULLTEXT",
        "SPATIAL",
        "ONLINE",
        "OFFLINE",
        "IGNORE",
        "AGGREGATE",
    ];
    while tokens.is_any(at, &fillers) {
        temporary |= tokens.is_word(at, "TEMPORARY");
        at += 1;
    }
    let object = tokens.bytes(at).to_ascii_uppercase();
    match (verb.as_slice(), object.as_slice()) {
        (b"CREATE", b"TABLE") => create_table(tokens, default_schema, at + 1, temporary),
        (b"ALTER", b"TABLE") => listed_one(tokens, default_schema, DdlKind::AlterTable, at + 1),
        (b"DROP", b"TABLE" | b"TABLES") => {
            let kind = if temporary { DdlKind::DropTemporaryTable } else { DdlKind::DropTable };
            listed(tokens, default_schema, kind, at + 1)
        }
        (b"CREATE", b"INDEX") => index(tokens, default_schema, DdlKind::CreateIndex, at + 1),
        (b"DROP", b"INDEX") => index(tokens, default_schema, DdlKind::DropIndex, at + 1),
        (_, b"DATABASE" | b"SCHEMA") => database(tokens, &verb, at + 1),
        (
            _,
            b"USER" | b"ROLE" | b"SERVER" | b"INSTANCE" | b"TABLESPACE" | b"LOGFILE" | b"RESOURCE" | b"UNDO",
        ) => None,
        _ => Some(Head { database: None, ..plain(DdlKind::Other, Vec::new(), at) }),
    }
}

fn plain(kind: DdlKind, tables: Vec<TableName>, next: usize) -> Head {
    Head { kind, tables, like: None, conditional: false, database: None, next }
}

/// The index behind `IF [NOT] EXISTS`, and whether it was there.
fn skip_if(tokens: &Tokens<'_>, at: usize) -> (usize, bool) {
    if tokens.are_words(at, &["IF", "NOT", "EXISTS"]) {
        (at + 3, true)
    } else if tokens.are_words(at, &["IF", "EXISTS"]) {
        (at + 2, true)
    } else {
        (at, false)
    }
}

fn table_at(tokens: &Tokens<'_>, default_schema: Option<&str>, at: usize) -> Option<(TableName, usize)> {
    let (schema, name, next) = tokens.dotted_name(at)?;
    let schema = schema.or_else(|| default_schema.map(str::to_owned));
    Some((TableName { schema, name }, next))
}

fn listed(tokens: &Tokens<'_>, default_schema: Option<&str>, kind: DdlKind, at: usize) -> Option<Head> {
    let (mut at, conditional) = skip_if(tokens, at);
    let mut tables = Vec::new();
    loop {
        let (table, next) = table_at(tokens, default_schema, at)?;
        tables.push(table);
        if !tokens.is_op(next, ",") {
            return Some(Head { conditional, ..plain(kind, tables, next) });
        }
        at = next + 1;
    }
}

fn listed_one(tokens: &Tokens<'_>, default_schema: Option<&str>, kind: DdlKind, at: usize) -> Option<Head> {
    let (at, conditional) = skip_if(tokens, at);
    let (table, next) = table_at(tokens, default_schema, at)?;
    Some(Head { conditional, ..plain(kind, vec![table], next) })
}

fn renames(tokens: &Tokens<'_>, default_schema: Option<&str>) -> Option<Head> {
    let (mut at, conditional) = skip_if(tokens, 2);
    let mut tables = Vec::new();
    loop {
        let (old, next) = table_at(tokens, default_schema, at)?;
        let to = tokens.find(next..tokens.len(), |at| tokens.is_word(at, "TO"))?;
        let (new, next) = table_at(tokens, default_schema, to + 1)?;
        tables.extend([old, new]);
        if !tokens.is_op(next, ",") {
            return Some(Head { conditional, ..plain(DdlKind::RenameTable, tables, next) });
        }
        at = next + 1;
    }
}

fn create_table(
    tokens: &Tokens<'_>,
    default_schema: Option<&str>,
    at: usize,
    temporary: bool,
) -> Option<Head> {
    let kind = if temporary { DdlKind::CreateTemporaryTable } else { DdlKind::CreateTable };
    let (at, conditional) = skip_if(tokens, at);
    let (table, next) = table_at(tokens, default_schema, at)?;
    let like = next + usize::from(tokens.is_op(next, "("));
    let like = tokens.is_word(like, "LIKE").then(|| table_at(tokens, default_schema, like + 1)).flatten();
    Some(Head { conditional, like: like.map(|(table, _)| table), ..plain(kind, vec![table], next) })
}

/// `name [USING ..] ON table`.
fn index(tokens: &Tokens<'_>, default_schema: Option<&str>, kind: DdlKind, at: usize) -> Option<Head> {
    let (at, conditional) = skip_if(tokens, at);
    let on = tokens.find(at..tokens.len(), |at| tokens.is_word(at, "ON"))?;
    let (table, next) = table_at(tokens, default_schema, on + 1)?;
    Some(Head { conditional, ..plain(kind, vec![table], next) })
}

fn database(tokens: &Tokens<'_>, verb: &[u8], at: usize) -> Option<Head> {
    let kind = match verb {
        b"CREATE" => DdlKind::CreateDatabase,
        b"DROP" => DdlKind::DropDatabase,
        _ => DdlKind::AlterDatabase,
    };
    let (at, conditional) = skip_if(tokens, at);
    Some(Head { conditional, database: tokens.name(at), ..plain(kind, Vec::new(), at + 1) })
}

/// Reads a schema change; `None` if the statement is none.
///
/// # Errors
/// Where a table comment begins with `usher:` and does not go on as it should.
pub fn parse(text: &[u8], default_schema: Option<&str>, mode: Mode) -> Result<Option<Ddl>, DdlError> {
    let tokens = Tokens::new(text, mode);
    if !is_ddl(&tokens) {
        return Ok(None);
    }
    let Some(head) = head(&tokens, default_schema) else { return Ok(None) };
    let (mut create, mut declaration) = (None, None);
    match head.kind {
        DdlKind::CreateTable | DdlKind::CreateTemporaryTable if head.like.is_none() => {
            let (table, comment) = match columns_and_options(&tokens, head.next) {
                // Its place is the global master's, and so is the word on what is wrong with it.
                Err(DdlError::Unreadable(_)) if !may_declare(text) => (CreateTable::default(), None),
                read => read?,
            };
            create = Some(table);
            declaration = comment.map(|comment| Declaration::parse(&comment)).transpose()?.flatten();
        }
        DdlKind::AlterTable => {
            let comment = table_comment(&tokens, head.next);
            declaration = comment.map(|comment| Declaration::parse(&comment)).transpose()?.flatten();
        }
        _ => {}
    }
    let Head { kind, tables, like, conditional, database, .. } = head;
    Ok(Some(Ddl { kind, tables, like, conditional, database, create, declaration }))
}

/// Whether a comment of the text could declare a sharded table.
fn may_declare(text: &[u8]) -> bool {
    text.windows(5).any(|part| part.eq_ignore_ascii_case(b"usher"))
}

/// The value of COMMENT outside parentheses, behind a comma or among table options. In ALTER a column's COMMENT
/// stands in the same part as ADD, MODIFY or CHANGE.
fn table_comment(tokens: &Tokens<'_>, from: usize) -> Option<String> {
    let column_words = ["ADD", "MODIFY", "CHANGE", "ALTER"];
    let parts = tokens.split_commas(from..tokens.len());
    let mut of_table = parts.into_iter().filter(|part| !tokens.is_any(part.start, &column_words));
    of_table.find_map(|part| {
        let at = tokens.find(part, |at| tokens.is_word(at, "COMMENT"))?;
        option_text(tokens, at + 1)
    })
}

/// `[=] 'text'` or `[=] word`.
fn option_text(tokens: &Tokens<'_>, at: usize) -> Option<String> {
    let at = at + usize::from(tokens.is_op(at, "="));
    match tokens.kind(at)? {
        TokenKind::Literal(LiteralKind::Text | LiteralKind::National) => {
            Some(String::from_utf8_lossy(&string_value(tokens.bytes(at), tokens.mode)).into_owned())
        }
        TokenKind::Word | TokenKind::Quoted => tokens.name(at),
        _ => None,
    }
}

fn unreadable(tokens: &Tokens<'_>, at: usize) -> DdlError {
    DdlError::Unreadable(String::from_utf8_lossy(tokens.bytes(at)).chars().take(32).collect())
}

fn columns_and_options(tokens: &Tokens<'_>, at: usize) -> Result<(CreateTable, Option<String>), DdlError> {
    let mut table = CreateTable::default();
    let mut options = at;
    let is_query = |at: usize| tokens.is_any(at, &["SELECT", "WITH", "VALUES", "TABLE"]);
    // A query may stand in any number of parentheses.
    let inner = (at..tokens.len()).find(|at| !tokens.is_op(*at, "(")).unwrap_or(at);
    if tokens.is_op(at, "(") && !is_query(inner) {
        let close = tokens.closing(at, tokens.len()).ok_or_else(|| unreadable(tokens, at))?;
        for part in tokens.split_commas(at + 1..close) {
            definition(tokens, part.start, part.end, &mut table)?;
        }
        options = close + 1;
    }
    let find = |word: &str| tokens.find(options..tokens.len(), |at| tokens.is_word(at, word));
    table.from_query = (options..tokens.len()).any(is_query);
    table.collation = find("COLLATE").and_then(|at| option_text(tokens, at + 1));
    table.charset = find("CHARSET").and_then(|at| option_text(tokens, at + 1)).or_else(|| {
        let at = find("SET").filter(|at| tokens.is_any(at - 1, &["CHARACTER", "CHAR"]))?;
        option_text(tokens, at + 1)
    });
    let comment = find("COMMENT").and_then(|at| option_text(tokens, at + 1));
    Ok((table, comment))
}

/// One part of the list: a column, or an index or constraint.
fn definition(
    tokens: &Tokens<'_>,
    start: usize,
    end: usize,
    table: &mut CreateTable,
) -> Result<(), DdlError> {
    let constraint_words = [
        "PRIMARY",
        "KEY",
        "INDEX",
        "UNIQUE",
        "FULLTEXT",
        "SPATIAL",
        "CONSTRAINT",
        "FOREIGN",
        "CHECK",
        "PERIOD",
        "VECTOR",
    ];
    if tokens.is_any(start, &constraint_words) {
        if let Some(key) = tokens.find(start..end, |at| tokens.are_words(at, &["PRIMARY", "KEY"])) {
            let open = (key..end).find(|at| tokens.is_op(*at, "(")).ok_or_else(|| unreadable(tokens, key))?;
            let close = tokens.closing(open, end).ok_or_else(|| unreadable(tokens, open))?;
            let names =
                tokens.split_commas(open + 1..close).into_iter().filter_map(|part| tokens.name(part.start));
            table.primary_key = names.collect();
        }
        return Ok(());
    }
    let name = tokens.name(start).ok_or_else(|| unreadable(tokens, start))?;
    let column = column(tokens, name, start + 1, end);
    // `KEY` alone means PRIMARY KEY in a column, `UNIQUE KEY` does not.
    let key = tokens.find(start + 1..end, |at| {
        tokens.is_word(at, "KEY") && !tokens.is_word(at - 1, "UNIQUE") || tokens.are_words(at, &["PRIMARY"])
    });
    if key.is_some() {
        table.primary_key = vec![column.name.clone()];
    }
    table.columns.push(column);
    Ok(())
}

fn column(tokens: &Tokens<'_>, name: String, at: usize, end: usize) -> Column {
    let has = |word: &str| tokens.find(at..end, |at| tokens.is_word(at, word));
    let after = |word: &str| has(word).and_then(|at| option_text(tokens, at + 1));
    let data_type = String::from_utf8_lossy(tokens.bytes(at)).to_ascii_lowercase();
    let serial = data_type == "serial";
    let charset = after("CHARSET").or_else(|| {
        let at = has("SET").filter(|at| tokens.is_any(at - 1, &["CHARACTER", "CHAR"]))?;
        option_text(tokens, at + 1)
    });
    Column {
        unsigned: serial || has("UNSIGNED").is_some() || has("ZEROFILL").is_some(),
        auto_increment: serial || has("AUTO_INCREMENT").is_some(),
        collation: after("COLLATE"),
        data_type: if serial { "bigint".into() } else { data_type },
        charset,
        name,
    }
}

impl CreateTable {
    /// The AUTO_INCREMENT column.
    #[must_use]
    pub fn auto_increment(&self) -> Option<&str> {
        self.columns.iter().find(|column| column.auto_increment).map(|column| column.name.as_str())
    }

    /// The catalog entry of this table under a declaration. `default_collation` is the schema's, for text keys
    /// without one of their own.
    ///
    /// # Errors
    /// Where key, sequence or primary key do not fit.
    pub fn sharded(
        &self,
        key: &str,
        sequence: Option<&str>,
        default_collation: Option<&str>,
    ) -> Result<Sharded, DdlError> {
        let find = |name: &str| self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
        let column = find(key).ok_or_else(|| DdlError::NoKeyColumn(key.to_owned()))?;
        let key_type = self.key_type(column, default_collation)?;
        if self.primary_key.is_empty() {
            return Err(DdlError::NoPrimaryKey);
        }
        let sequence = match sequence.or_else(|| self.auto_increment()) {
            None => None,
            Some(name) => {
                let column = find(name).ok_or_else(|| DdlError::NoSequenceColumn(name.to_owned()))?;
                let is_int = matches!(
                    KeyType::from_column(&column.data_type, "", Some("binary")),
                    Ok(KeyType::Int { .. })
                );
                if !is_int {
                    return Err(DdlError::SequenceType(name.to_owned()));
                }
                Some(column.name.clone())
            }
        };
        let columns = self.columns.iter().map(|column| column.name.clone()).collect();
        Ok(Sharded { key_column: column.name.clone(), key_type, sequence, columns })
    }

    fn key_type(&self, column: &Column, default_collation: Option<&str>) -> Result<KeyType, DdlError> {
        let own = column.collation.clone().or_else(|| column.charset.as_deref().and_then(default_of));
        // A charset of its own hides the table's collation.
        let inherited = if column.charset.is_some() {
            None
        } else {
            let of_table = self.collation.clone().or_else(|| self.charset.as_deref().and_then(default_of));
            of_table.or_else(|| default_collation.filter(|_| self.charset.is_none()).map(str::to_owned))
        };
        let unsigned = if column.unsigned { "unsigned" } else { "" };
        KeyType::from_column(&column.data_type, unsigned, own.or(inherited).as_deref())
            .map_err(|reason| DdlError::KeyType { column: column.name.clone(), reason })
    }
}

/// The default collation of a charset, where all servers agree on how it compares what we route by. utf8mb4's
/// differs from server to server in how trailing spaces count.
fn default_of(charset: &str) -> Option<String> {
    let collation = match charset.to_ascii_lowercase().as_str() {
        "binary" => "binary",
        "latin1" => "latin1_swedish_ci",
        "ascii" => "ascii_general_ci",
        "utf8" | "utf8mb3" => "utf8mb3_general_ci",
        _ => return None,
    };
    Some(collation.to_owned())
}
