//! Compares every row of both sides: for each table the count and the order-free sum of 128-bit hashes. Reads in the
//! text protocol, through code of its own, so that it does not share the copier's mistakes.

use std::sync::atomic::{AtomicU64, Ordering};

use mysql_async::Value;
use mysql_async::prelude::Queryable;
use sha2::{Digest, Sha256};
use usher_topology::Key;

use crate::sessions::Session;
use crate::table::{Table, quoted};
use crate::{MoveError, Result};

/// What one side has of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sum {
    pub(crate) rows: u64,
    hashes: u128,
}

impl Sum {
    fn add(&mut self, row: &[Value]) {
        self.rows += 1;
        self.hashes = self.hashes.wrapping_add(hash(row));
    }
}

/// Each value with its length, NULL apart from the empty text.
fn hash(row: &[Value]) -> u128 {
    let mut hasher = Sha256::new();
    for value in row {
        match value {
            Value::NULL => hasher.update([0]),
            Value::Bytes(bytes) => {
                hasher.update([1]);
                hasher.update((bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            }
            // The text protocol knows nothing else.
            other => hasher.update(format!("{other:?}")),
        }
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize()[..16]);
    u128::from_le_bytes(first)
}

fn query(table: &Table, key: &Key) -> String {
    let columns = table.columns.iter().map(|column| column.read_as_text()).collect::<Vec<_>>().join(", ");
    format!(
        "SELECT {columns} FROM {}.{} WHERE {}",
        quoted(&table.schema),
        quoted(&table.name),
        table.of_user(key)
    )
}

/// Reads one side. `seen` grows with each row.
async fn sum(session: &mut Session, table: &Table, key: &Key, seen: Option<&AtomicU64>) -> Result<Sum> {
    let mut sum = Sum::default();
    let mut rows =
        session.conn.query_iter(query(table, key)).await.map_err(MoveError::at(&session.server))?;
    while let Some(row) = rows.next().await.map_err(MoveError::at(&session.server))? {
        // Not what panics: the values of a row of which none was taken before.
        sum.add(&row.unwrap());
        if let Some(seen) = seen {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(sum)
}

/// Compares one table's rows of the user on both sides.
///
/// # Errors
/// [`MoveError::Different`]; servers' own.
pub(crate) async fn compare(
    source: &mut Session,
    target: &mut Session,
    table: &Table,
    key: &Key,
    seen: &AtomicU64,
) -> Result<Sum> {
    let (left, right) = tokio::try_join!(sum(source, table, key, Some(seen)), sum(target, table, key, None))?;
    if left == right {
        return Ok(left);
    }
    Err(MoveError::Different {
        table: table.label(),
        source_rows: left.rows,
        target_rows: right.rows,
        sums: if left.hashes == right.hashes { "agree" } else { "differ" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Vec<Value> {
        values.iter().map(|value| Value::Bytes(value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn sums_do_not_depend_on_the_order_but_on_all_else() {
        let sum = |rows: &[Vec<Value>]| {
            let mut sum = Sum::default();
            rows.iter().for_each(|row| sum.add(row));
            sum
        };
        let (a, b) = (row(&["1", "x"]), row(&["2", "y"]));
        assert_eq!(sum(&[a.clone(), b.clone()]), sum(&[b.clone(), a.clone()]));
        assert_ne!(sum(&[a.clone(), a.clone()]), sum(&[b.clone(), b.clone()]));
        assert_ne!(sum(&[row(&["1x", ""])]), sum(&[row(&["1", "x"])]));
        assert_ne!(sum(&[vec![Value::NULL]]), sum(&[row(&[""])]));
        assert_ne!(sum(std::slice::from_ref(&a)), sum(&[a.clone(), a.clone()]));
    }
}
