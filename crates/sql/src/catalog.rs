//! What tables are sharded, as the planner needs to know it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::key::KeyType;

/// The tables of the application that are not plain unsharded ones. Built anew at each change.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    version: u64,
    fold_case: bool,
    schemas: HashMap<String, HashMap<String, Table>>,
    sharded_names: HashSet<Vec<u8>>,
    /// Those that are not on every server yet, in no order.
    creating: Vec<(String, String)>,
    count: usize,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Table {
    /// Rows live with their user.
    Sharded(Sharded),
    /// The same on every shard, written through the global master.
    Reference {
        /// Column names in order.
        columns: Vec<String>,
    },
    /// Lives in the global master only; the same as no entry.
    Unsharded,
}

/// How a table is sharded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharded {
    /// The column that holds the user, one of `columns`.
    pub key_column: String,
    /// Its type.
    pub key_type: KeyType,
    /// The column filled from the global sequence, one of `columns`; may be the key column itself.
    pub sequence: Option<String>,
    /// Column names in order.
    pub columns: Vec<String>,
}

impl Sharded {
    /// Whether `column` is the key, in any case.
    #[must_use]
    pub fn is_key(&self, column: &str) -> bool {
        self.key_column.eq_ignore_ascii_case(column)
    }

    /// Place of a column, from 0.
    #[must_use]
    pub fn column_index(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|name| name.eq_ignore_ascii_case(column))
    }
}

impl Catalog {
    /// An empty catalog. `fold_case` is for servers with `lower_case_table_names` other than 0.
    #[must_use]
    pub fn new(version: u64, fold_case: bool) -> Self {
        Self { version, fold_case, ..Self::default() }
    }

    /// Adds or replaces a table.
    pub fn insert(&mut self, schema: &str, table: &str, entry: Table) {
        let (schema, table) = (self.fold(schema).into_owned(), self.fold(table).into_owned());
        if matches!(entry, Table::Sharded(_)) {
            self.sharded_names.insert(table.to_ascii_lowercase().into_bytes());
        }
        self.count += usize::from(self.schemas.entry(schema).or_default().insert(table, entry).is_none());
    }

    /// Adds a table that is being created: plans that name it say so.
    pub fn insert_creating(&mut self, schema: &str, table: &str, entry: Table) {
        self.insert(schema, table, entry);
        self.creating.push((self.fold(schema).into_owned(), self.fold(table).into_owned()));
    }

    /// Whether the table is not on every server yet.
    #[must_use]
    pub fn is_creating(&self, schema: &str, table: &str) -> bool {
        // None nearly always.
        !self.creating.is_empty() && {
            let (schema, table) = (self.fold(schema), self.fold(table));
            self.creating.iter().any(|(s, t)| *s == schema && *t == table)
        }
    }

    /// Counts changes; part of the plan cache's key.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entry of a table.
    #[must_use]
    pub fn table(&self, schema: &str, table: &str) -> Option<&Table> {
        self.schemas.get(self.fold(schema).as_ref())?.get(self.fold(table).as_ref())
    }

    /// All entries: schema, table, entry, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Table)> {
        self.schemas.iter().flat_map(|(schema, tables)| {
            tables.iter().map(move |(name, table)| (schema.as_str(), name.as_str(), table))
        })
    }

    /// Whether some sharded table of any schema bears this name, in any case: what decides that a statement is
    /// looked at closely.
    #[must_use]
    pub fn names_sharded(&self, word: &[u8]) -> bool {
        if self.sharded_names.is_empty() {
            return false;
        }
        if self.fold_case && !word.is_ascii() {
            return self.sharded_names.contains(String::from_utf8_lossy(word).to_lowercase().as_bytes());
        }
        let mut buffer = [0u8; 64];
        match buffer.get_mut(..word.len()) {
            Some(lower) => {
                lower.copy_from_slice(word);
                lower.make_ascii_lowercase();
                self.sharded_names.contains(&*lower)
            }
            None => self.sharded_names.contains(&word.to_ascii_lowercase()),
        }
    }

    fn fold<'n>(&self, name: &'n str) -> Cow<'n, str> {
        if self.fold_case { Cow::Owned(name.to_lowercase()) } else { Cow::Borrowed(name) }
    }
}
