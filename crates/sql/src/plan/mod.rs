//! From a statement's shape to what the proxy does with it.

mod analyse;
mod classify;
mod facts;
mod functions;
mod insert;
mod nothing;
mod print;
mod query;
mod reach;
mod tokens;
mod uses;

pub use classify::{ExplainRoute, explain_route};
pub use insert::{InsertPoints, ValuePoint, insert_points};
pub use nothing::{Nothing, Number};
pub use reach::{OWN_SCHEMA, Reach};
pub use uses::{Found, USER_VARS_MAX, Uses, find_calls, find_variables, user_variable_name};

pub(crate) use tokens::Tokens;

use crate::catalog::Catalog;
use crate::key::KeyType;
use crate::mode::Mode;

/// What the proxy does with statements of one digest, one default schema, one [`Mode`] and one catalog version.
/// It holds ordinals of literals and never offsets, so that it fits every statement of the digest.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What the statement is.
    pub kind: Kind,
    /// Where it goes.
    pub target: Target,
    /// It changes rows, tables or accounts.
    pub is_write: bool,
    /// It takes row locks, or calls what a replica must not run: never to a replica.
    pub needs_writer: bool,
    /// `Target::Unsupported` for no other reason than that no condition holds it to one user: a user or shard named
    /// outside the statement would settle where it goes.
    pub needs_hint: bool,
    /// Of a read that only a hint could settle: any of these makes its answer empty, so that it may run anywhere.
    pub nothing: Vec<Nothing>,
    /// It reads nothing but `information_schema` and `performance_schema`.
    pub of_catalog: bool,
    /// It lists system variables or figures of the server, perhaps with the session's values: SHOW VARIABLES, SHOW STATUS,
    /// and what names their tables.
    pub of_variables: bool,
    /// MariaDB's SET STATEMENT .. FOR stands before it: its settings end with it.
    pub has_settings: bool,
    /// Session state that it reads or leaves.
    pub uses: Uses,
    /// Schemas that it can reach, and whether it is an administrator's.
    pub reach: Reach,
    /// For INSERT and REPLACE into a sharded table.
    pub insert: Option<InsertShape>,
    /// Tables of the statement as written, resolved with the default schema: for statistics, and for DDL. Empty
    /// where no sharded table is named and the statement is not DDL.
    pub tables: Vec<TableName>,
    /// The one of `tables` that is being created, so that the statement has to wait; never for DDL.
    pub creating: Option<Box<TableName>>,
    /// Version of the catalog that this was made by.
    pub catalog: u64,
    /// Number of literals, `?` included.
    pub literals: u32,
    /// Number of `?`.
    pub params: u16,
}

/// A table, with its schema if that is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// As written, else the default schema.
    pub schema: Option<String>,
    /// As written, quotes removed.
    pub name: String,
}

/// What a statement is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// SELECT, TABLE, VALUES, WITH .. SELECT, without locks.
    Read,
    /// SELECT .. FOR UPDATE, FOR SHARE, LOCK IN SHARE MODE.
    LockingRead,
    /// INSERT.
    Insert,
    /// REPLACE.
    Replace,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
    /// Changes of the schema; details by `ddl::parse`.
    Ddl(DdlKind),
    /// BEGIN, START TRANSACTION.
    Begin {
        /// READ ONLY was said.
        read_only: bool,
        /// WITH CONSISTENT SNAPSHOT was said.
        consistent_snapshot: bool,
    },
    /// COMMIT.
    Commit {
        /// AND CHAIN.
        chain: bool,
        /// RELEASE: the connection ends.
        release: bool,
    },
    /// ROLLBACK, not to a savepoint.
    Rollback {
        /// AND CHAIN.
        chain: bool,
        /// RELEASE: the connection ends.
        release: bool,
    },
    /// SAVEPOINT x.
    Savepoint(String),
    /// ROLLBACK TO x.
    RollbackTo(String),
    /// RELEASE SAVEPOINT x.
    ReleaseSavepoint(String),
    /// SET; details by `effects::parse`.
    Set,
    /// MariaDB's SET STATEMENT .. FOR.
    SetStatement,
    /// USE x.
    Use(String),
    /// SHOW.
    Show(ShowKind),
    /// DESCRIBE t, EXPLAIN t.
    Describe,
    /// EXPLAIN or ANALYZE of a statement; the target is that statement's.
    Explain,
    /// EXPLAIN ROUTE: `explain_route` gives the statement to plan.
    ExplainRoute,
    /// CALL.
    Call,
    /// DO.
    Do,
    /// KILL.
    Kill,
    /// LOCK TABLES, and what else holds locks until the session gives them up: FLUSH TABLES .. WITH READ LOCK, BACKUP.
    LockTables,
    /// UNLOCK TABLES.
    UnlockTables,
    /// PREPARE name FROM. The text may name any table: plan it, not this.
    Prepare(String),
    /// EXECUTE name; also EXECUTE IMMEDIATE with an empty name.
    Execute(String),
    /// DEALLOCATE PREPARE, DROP PREPARE.
    Deallocate(String),
    /// XA.
    Xa,
    /// LOAD DATA, LOAD XML.
    Load {
        /// LOCAL: the file comes from the client.
        local: bool,
    },
    /// HANDLER.
    Handler,
    /// GET DIAGNOSTICS.
    GetDiagnostics,
    /// SIGNAL, RESIGNAL.
    Signal,
    /// Accounts, FLUSH, ANALYZE TABLE, replication and so on.
    Admin,
    /// Anything else: passed on as it is.
    Other,
    /// No token at all.
    Empty,
}

/// Kinds of schema changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DdlKind {
    /// CREATE TABLE.
    CreateTable,
    /// CREATE TEMPORARY TABLE: stays on the session's connection.
    CreateTemporaryTable,
    /// ALTER TABLE.
    AlterTable,
    /// DROP TABLE.
    DropTable,
    /// DROP TEMPORARY TABLE.
    DropTemporaryTable,
    /// TRUNCATE.
    TruncateTable,
    /// RENAME TABLE.
    RenameTable,
    /// CREATE INDEX.
    CreateIndex,
    /// DROP INDEX.
    DropIndex,
    /// CREATE DATABASE.
    CreateDatabase,
    /// ALTER DATABASE.
    AlterDatabase,
    /// DROP DATABASE.
    DropDatabase,
    /// Views, triggers, routines, events, sequences.
    Other,
}

/// Kinds of SHOW that the session answers in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShowKind {
    /// SHOW WARNINGS, SHOW COUNT(*) WARNINGS: of the statement before.
    Warnings,
    /// SHOW ERRORS, SHOW COUNT(*) ERRORS.
    Errors,
    /// SHOW [GLOBAL | SESSION] VARIABLES.
    Variables,
    /// SHOW [GLOBAL | SESSION] STATUS.
    Status,
    /// SHOW PROCESSLIST, also FULL.
    Processlist,
    /// SHOW DATABASES.
    Databases,
    /// Anything else: the global master answers.
    Other,
}

/// Where a statement goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The global master pair.
    Global,
    /// The shard of one user. All `sources` must turn out to be the same user, else the statement is refused.
    User {
        /// Never empty, unless the user is a new one whose id comes from the sequence (`InsertShape::key`).
        sources: Vec<KeySource>,
    },
    /// No table is touched: any server, best the one in use.
    AnyServer,
    /// DDL of a sharded table: the global master and all shards.
    Everywhere,
    /// Answered by the session, or run on the connection it holds.
    Session,
    /// Refused with error 1235.
    Unsupported {
        /// For the message: what the statement does that cannot be routed, and the way out.
        reason: String,
    },
}

/// Where the user's key stands in the statement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeySource {
    /// The value.
    pub value: KeyValue,
    /// Type of the column it is compared with or stored in.
    pub key_type: KeyType,
}

/// A value that names a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyValue {
    /// A literal or `?`.
    Literal {
        /// Index into the literals of the digest.
        ordinal: u32,
        /// A minus stands before it.
        negative: bool,
    },
    /// NULL: finds nothing.
    Null,
    /// LAST_INSERT_ID().
    LastInsertId,
    /// `@name`, lower case.
    UserVar(String),
}

/// How an INSERT or REPLACE fills the key and the sequence column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsertShape {
    /// The table.
    pub table: TableName,
    /// Rows in VALUES; 1 for SET; 0 for INSERT .. SELECT.
    pub rows: u32,
    /// The key column.
    pub key_column: String,
    /// Its type.
    pub key_type: KeyType,
    /// What each row has for the key.
    pub key: Vec<RowValue>,
    /// The sequence column, if the table has one.
    pub sequence: Option<SequenceShape>,
    /// ON DUPLICATE KEY UPDATE.
    pub on_duplicate: bool,
    /// IGNORE.
    pub ignore: bool,
    /// MariaDB's RETURNING.
    pub returning: bool,
    /// INSERT .. SELECT.
    pub from_select: bool,
}

/// The sequence column in an INSERT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceShape {
    /// Its name.
    pub column: String,
    /// It is the key column too: a row without it makes a new user.
    pub is_key: bool,
    /// Place in each row, from 0; None if the column is not named.
    pub place: Option<u32>,
    /// What each row has for it. Empty if `from_select`.
    pub values: Vec<RowValue>,
}

/// What a row of an INSERT has for a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowValue {
    /// The column is not named: `insert_points` tells where to add it.
    Omitted,
    /// NULL or DEFAULT.
    Default,
    /// A value that can be read before the statement runs.
    Given(KeyValue),
    /// Some other expression.
    Expression,
}

/// Plans the first statement of `text`. Never fails: what cannot be routed has `Target::Unsupported`.
///
/// A statement that names no sharded table, quoted or not, goes to the global master without a closer look. Of the
/// others each reference to a sharded table must be pinned to one user by conditions that every row has to meet.
#[must_use]
pub fn plan(text: &[u8], default_schema: Option<&str>, mode: Mode, catalog: &Catalog) -> Plan {
    let mut plan = classify::plan(text, default_schema, mode, catalog);
    plan.catalog = catalog.version();
    if !matches!(plan.kind, Kind::Ddl(_)) {
        let creating = |table: &&TableName| {
            table.schema.as_deref().is_some_and(|schema| catalog.is_creating(schema, &table.name))
        };
        plan.creating = plan.tables.iter().find(creating).cloned().map(Box::new);
    }
    plan
}

impl Plan {
    /// Whether it tells what tables look like, and reads no rows of theirs.
    #[must_use]
    pub fn describes(&self) -> bool {
        self.of_catalog || matches!(self.kind, Kind::Show(_) | Kind::Describe)
    }

    /// The same for literals by which it finds nothing.
    #[must_use]
    pub fn finding_nothing(&self) -> Self {
        let nobody = KeySource { value: KeyValue::Null, key_type: KeyType::BIGINT };
        Self { target: Target::User { sources: vec![nobody] }, needs_hint: false, ..self.clone() }
    }

    /// Rough size in memory: a plan of an INSERT of thousands of rows is better not cached.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let rows = self.insert.as_ref().map_or(0, |shape| {
            shape.key.len() + shape.sequence.as_ref().map_or(0, |sequence| sequence.values.len())
        });
        let sources = match &self.target {
            Target::User { sources } => sources.len(),
            _ => 0,
        };
        size_of::<Self>()
            + rows * size_of::<RowValue>()
            + sources * size_of::<KeySource>()
            + (self.tables.len() + self.reach.qualifiers.len() + self.reach.schemas.len()) * 64
    }

    /// The plan of a statement that is only looked at by its first words.
    fn simple(kind: Kind, target: Target) -> Self {
        Self {
            kind,
            target,
            is_write: false,
            needs_writer: false,
            needs_hint: false,
            nothing: Vec::new(),
            of_catalog: false,
            of_variables: false,
            has_settings: false,
            uses: Uses::default(),
            reach: Reach::default(),
            insert: None,
            tables: Vec::new(),
            creating: None,
            catalog: 0,
            literals: 0,
            params: 0,
        }
    }
}
