//! Foreign keys between sharded tables: in which order tables are copied and purged, and what a source deletes without
//! its log saying so.

use std::collections::{BTreeMap, HashMap};

use mysql_async::prelude::Queryable;
use usher_stream::{Cascade, Orphans};

use crate::sessions::Session;
use crate::table::Table;
use crate::{Refusal, Result};

/// A foreign key between two of the tables, by their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignKey {
    name: String,
    child: usize,
    parent: usize,
    /// Names of the child's columns and of the parent's, in order.
    columns: Vec<(String, String)>,
    on_delete: String,
    on_update: String,
}

/// Those of the tables as the server has them.
///
/// # Errors
/// The server's own.
pub(crate) async fn load(session: &mut Session, tables: &[Table]) -> Result<Vec<ForeignKey>> {
    type Found = (String, String, String, String, String, String, String, String, String);
    let rows: Vec<Found> = session
        .conn
        .query(
            "SELECT k.constraint_schema, k.constraint_name, k.table_name, k.column_name, k.referenced_table_schema, \
             k.referenced_table_name, k.referenced_column_name, r.delete_rule, r.update_rule \
             FROM information_schema.key_column_usage k JOIN information_schema.referential_constraints r \
             ON r.constraint_schema = k.constraint_schema AND r.constraint_name = k.constraint_name \
             AND r.table_name = k.table_name ORDER BY k.constraint_schema, k.constraint_name, k.ordinal_position",
        )
        .await
        .map_err(session.error())?;
    let places: HashMap<String, usize> =
        tables.iter().enumerate().map(|(at, table)| (table.label(), at)).collect();
    let mut keys: BTreeMap<(usize, String), ForeignKey> = BTreeMap::new();
    for (schema, name, child, column, parent_schema, parent, parent_column, on_delete, on_update) in rows {
        let place = |schema: &str, table: &str| places.get(&format!("{schema}.{table}")).copied();
        let (Some(child), Some(parent)) = (place(&schema, &child), place(&parent_schema, &parent)) else {
            continue;
        };
        let key = keys.entry((child, name.clone())).or_insert_with(|| ForeignKey {
            name,
            child,
            parent,
            columns: Vec::new(),
            on_delete,
            on_update,
        });
        key.columns.push((column, parent_column));
    }
    Ok(keys.into_values().collect())
}

/// Places of the tables, those that refer to others before these.
pub(crate) fn children_first(keys: &[ForeignKey], tables: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..tables).collect();
    let mut order = Vec::with_capacity(tables);
    while !left.is_empty() {
        let referred = |at: usize| {
            keys.iter().any(|key| key.parent == at && key.child != at && left.contains(&key.child))
        };
        // Tables that refer to each other in a circle come in any order.
        let next = left.iter().position(|&at| !referred(at)).unwrap_or(0);
        order.push(left.remove(next));
    }
    order
}

/// What deletes of parents do to children.
///
/// # Errors
/// [`Refusal::OnlineCascade`] for those that can't be done over again from the log.
pub(crate) fn cascades(keys: &[ForeignKey], tables: &[Table]) -> Result<Vec<Cascade>> {
    let acts = |rule: &str| matches!(rule, "CASCADE" | "SET NULL");
    let mut found = Vec::new();
    for key in keys.iter().filter(|key| acts(&key.on_delete) || acts(&key.on_update)) {
        let (child, parent) = (&tables[key.child], &tables[key.parent]);
        let refused = || Refusal::OnlineCascade { table: child.label(), constraint: key.name.clone() };
        let place = |table: &Table, name: &str| table.columns.iter().position(|column| column.name == name);
        let mut cascade = Cascade {
            parent: key.parent,
            parent_columns: Vec::new(),
            child: key.child,
            child_columns: Vec::new(),
            on_delete: match key.on_delete.as_str() {
                "CASCADE" => Orphans::Deleted,
                "SET NULL" => Orphans::Unset,
                _ => Orphans::None,
            },
            on_update: acts(&key.on_update),
        };
        for (ours, theirs) in &key.columns {
            let (Some(ours), Some(theirs)) = (place(child, ours), place(parent, theirs)) else {
                return Err(refused().into());
            };
            // Texts may be equal under a collation and yet differ.
            let plain = |table: &Table, at: usize| {
                table.columns[at].identifies() && table.columns[at].charset.is_none()
            };
            if !plain(child, ours) || !plain(parent, theirs) {
                return Err(refused().into());
            }
            cascade.child_columns.push(ours);
            cascade.parent_columns.push(theirs);
        }
        found.push(cascade);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pairs: &[(usize, usize)]) -> Vec<ForeignKey> {
        let key = |&(child, parent): &(usize, usize)| ForeignKey {
            name: String::new(),
            child,
            parent,
            columns: Vec::new(),
            on_delete: String::new(),
            on_update: String::new(),
        };
        pairs.iter().map(key).collect()
    }

    #[test]
    fn children_come_before_their_parents() {
        assert_eq!(children_first(&keys(&[(2, 1), (1, 0), (0, 0)]), 3), [2, 1, 0]);
        assert_eq!(children_first(&[], 2), [0, 1]);
        assert_eq!(children_first(&keys(&[(0, 1), (1, 0)]), 2).len(), 2);
    }
}
