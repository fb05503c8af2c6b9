//! Plans as one line of text, for EXPLAIN ROUTE, logs and tests.

use std::fmt;

use crate::key::KeyType;
use crate::plan::{InsertShape, KeySource, KeyValue, Kind, Plan, RowValue, TableName, Target, Uses};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.kind, self.target)?;
        if self.is_write {
            f.write_str(" write")?;
        } else if self.needs_writer {
            f.write_str(" writer")?;
        }
        if self.needs_hint {
            f.write_str(" hintable")?;
        }
        if !self.nothing.is_empty() {
            f.write_str(" may-find-nothing")?;
        }
        if self.of_catalog {
            f.write_str(" of-catalog")?;
        }
        if self.of_variables {
            f.write_str(" of-variables")?;
        }
        if let Some(insert) = &self.insert {
            write!(f, " {insert}")?;
        }
        if !self.tables.is_empty() {
            f.write_str(" tables=")?;
            list(f, &self.tables)?;
        }
        write!(f, "{}", self.uses)
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            f.write_str(",")?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl fmt::Display for Kind {
    /// The variant's name with its fields, in lower case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::AnyServer => f.write_str("any"),
            Self::Everywhere => f.write_str("everywhere"),
            Self::Session => f.write_str("session"),
            Self::Unsupported { reason } => write!(f, "unsupported: {reason}"),
            Self::User { sources } => {
                f.write_str("user(")?;
                list(f, sources)?;
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key_type {
            KeyType::Int { .. } => write!(f, "{}", self.value),
            KeyType::Text(_) => write!(f, "text {}", self.value),
        }
    }
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal { ordinal, negative } => {
                write!(f, "{}#{ordinal}", if *negative { "-" } else { "" })
            }
            Self::Null => f.write_str("null"),
            Self::LastInsertId => f.write_str("last_insert_id"),
            Self::UserVar(name) => write!(f, "@{name}"),
        }
    }
}

impl fmt::Display for RowValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Omitted => f.write_str("omitted"),
            Self::Default => f.write_str("default"),
            Self::Given(value) => write!(f, "{value}"),
            Self::Expression => f.write_str("expression"),
        }
    }
}

impl fmt::Display for InsertShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "into {} rows={} {}=[", self.table, self.rows, self.key_column)?;
        list(f, &self.key)?;
        f.write_str("]")?;
        if let Some(sequence) = &self.sequence {
            write!(f, " sequence {}{}=[", sequence.column, if sequence.is_key { "(key)" } else { "" })?;
            list(f, &sequence.values)?;
            f.write_str("]")?;
        }
        let flags = [
            (self.on_duplicate, " on-duplicate"),
            (self.ignore, " ignore"),
            (self.returning, " returning"),
            (self.from_select, " from-select"),
        ];
        flags.iter().filter(|(on, _)| *on).try_for_each(|(_, name)| f.write_str(name))
    }
}

impl fmt::Display for Uses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [
            (self.last_insert_id, " last_insert_id"),
            (self.sets_last_insert_id, " sets_last_insert_id"),
            (self.found_rows, " found_rows"),
            (self.calc_found_rows, " calc_found_rows"),
            (self.row_count, " row_count"),
            (self.connection_id, " connection_id"),
            (self.database, " database"),
            (self.user, " user"),
            (self.named_lock, " named_lock"),
            (self.diagnostics, " diagnostics"),
            (self.outfile, " outfile"),
        ];
        flags.iter().filter(|(on, _)| *on).try_for_each(|(_, name)| f.write_str(name))?;
        for name in &self.reads_user_vars {
            write!(f, " reads@{name}")?;
        }
        for name in &self.writes_user_vars {
            write!(f, " writes@{name}")?;
        }
        for name in &self.system_vars {
            write!(f, " @@{name}")?;
        }
        match &self.unknown_function {
            Some(name) => write!(f, " calls:{name}"),
            None => Ok(()),
        }
    }
}
