//! User variables. Their values are read back after a statement that may have assigned them, and go with the session's
//! settings to any server: no connection has to stay with the session for their sake.

use usher_backend::{Fault, Lent};
use usher_topology::ShardId;

use crate::session::Session;

/// Variables of one session that are carried along; with more, the connection that holds them stays bound.
const VARIABLES_MAX: usize = 256;
/// Bytes of one value that is carried along.
const VALUE_BYTES_MAX: usize = 4096;

const TYPE_DOUBLE: u8 = 5;
const TYPE_LONGLONG: u8 = 8;
const TYPE_DECIMAL: u8 = 246;
const UNSIGNED: u16 = 0x20;

/// What a server has still to be asked about the statement before. Asking clears its warnings, so that it waits until
/// they are not asked for.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    /// Where the statement ran.
    pub(crate) shard: ShardId,
    /// The generated id.
    pub(crate) id: bool,
    /// User variables that it may have assigned.
    pub(crate) variables: Vec<String>,
}

impl Owed {
    pub(crate) fn is_nothing(&self) -> bool {
        !self.id && self.variables.is_empty()
    }
}

impl Session {
    /// Asks what is owed, on the connection that the statement ran on. Before the next statement that may change it.
    #[cold]
    pub(crate) async fn settle_debts(&mut self) {
        let Some(owed) = self.owed.take() else { return };
        if let Some(mut kept) = self.kept.take_if(|kept| kept.shard == owed.shard) {
            let carried = self.ask(&mut kept.lent, &owed).await;
            if carried || kept.lent.is_discarded() {
                return;
            }
            kept.pinned = true;
            self.bound.push(kept);
        } else if let Some(at) = self.bound.iter().position(|bound| bound.shard == owed.shard) {
            let mut bound = self.bound.swap_remove(at);
            bound.pinned |= !self.ask(&mut bound.lent, &owed).await;
            match bound.lent.is_discarded() {
                true => self.end_transaction(),
                false => self.bound.push(bound),
            }
        }
    }

    /// Asks for what is owed; `false` if a value cannot be carried along, so that the connection must stay.
    pub(crate) async fn ask(&mut self, lent: &mut Lent, owed: &Owed) -> bool {
        let asked = async {
            if owed.id {
                self.ask_for_id(lent).await?;
            }
            self.read_back(lent, &owed.variables).await
        };
        match asked.await {
            Ok(carried) => carried,
            Err(fault) => {
                tracing::debug!(server = %lent.server().name, %fault, "lost while asking what a statement did");
                lent.discard();
                true
            }
        }
    }

    async fn read_back(&mut self, lent: &mut Lent, names: &[String]) -> Result<bool, Fault> {
        if names.is_empty() {
            return Ok(true);
        }
        let columns: Vec<String> = names
            .iter()
            .map(|name| {
                let name = usher_backend::quoted_user_variable(name);
                format!("{name}, HEX({name}), CHARSET({name}), COLLATION({name})")
            })
            .collect();
        let reply = lent.query(format!("SELECT {}", columns.join(", ")).as_bytes()).await?;
        let Some(row) = reply.rows.first().filter(|_| reply.error.is_none()) else { return Ok(false) };
        let (mut ours, mut theirs) = (self.settings.edit(), lent.settings.edit());
        for (name, (cells, columns)) in names.iter().zip(row.chunks(4).zip(reply.columns.chunks(4))) {
            let Some(sql) = value(cells, columns.first().copied().unwrap_or_default()) else {
                return Ok(false);
            };
            let name = format!("@{name}");
            ours.variable(&name, &sql);
            theirs.variable(&name, &sql);
        }
        if ours.len() > VARIABLES_MAX {
            return Ok(false);
        }
        self.settings = ours.build();
        lent.settings = theirs.build();
        Ok(true)
    }
}

/// A value as SQL that gives it again with its type, character set and collation, whatever the session's are.
fn value(cells: &[Option<Vec<u8>>], (ty, flags): (u8, u16)) -> Option<String> {
    let [text, hex, charset, collation] = cells else { return None };
    let Some(text) = text else { return Some("NULL".to_owned()) };
    if text.len() > VALUE_BYTES_MAX {
        return None;
    }
    let text = String::from_utf8_lossy(text);
    Some(match ty {
        TYPE_LONGLONG if flags & UNSIGNED != 0 => format!("CAST({text} AS UNSIGNED)"),
        TYPE_LONGLONG | TYPE_DECIMAL => text.into_owned(),
        TYPE_DOUBLE if text.contains('e') => text.into_owned(),
        TYPE_DOUBLE => format!("{text}e0"),
        _ => {
            let word = |cell: &Option<Vec<u8>>| String::from_utf8(cell.clone()?).ok();
            let (hex, charset, collation) = (word(hex)?, word(charset)?, word(collation)?);
            match charset.as_str() {
                "binary" => format!("x'{hex}'"),
                _ => format!("_{charset} x'{hex}' COLLATE {collation}"),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, hex: &str, charset: &str, collation: &str, ty: u8, flags: u16) -> Option<String> {
        let cell = |text: &str| Some(text.as_bytes().to_vec());
        value(&[cell(text), cell(hex), cell(charset), cell(collation)], (ty, flags))
    }

    #[test]
    fn values_keep_their_types() {
        assert_eq!(said("5", "5", "binary", "binary", TYPE_LONGLONG, 0).as_deref(), Some("5"));
        assert_eq!(
            said("5", "5", "binary", "binary", TYPE_LONGLONG, 0x20).as_deref(),
            Some("CAST(5 AS UNSIGNED)")
        );
        assert_eq!(said("1.50", "2", "binary", "binary", TYPE_DECIMAL, 0).as_deref(), Some("1.50"));
        assert_eq!(said("1.5", "2", "binary", "binary", TYPE_DOUBLE, 0).as_deref(), Some("1.5e0"));
        assert_eq!(
            said("a'", "6127", "utf8mb4", "utf8mb4_bin", 250, 0).as_deref(),
            Some("_utf8mb4 x'6127' COLLATE utf8mb4_bin")
        );
        assert_eq!(said("a", "61", "binary", "binary", 250, 0).as_deref(), Some("x'61'"));
        assert_eq!(value(&[None, None, None, None], (6, 0)).as_deref(), Some("NULL"));
    }
}
