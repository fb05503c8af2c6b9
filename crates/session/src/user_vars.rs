//! User variables. Their values are read back after a statement that may have assigned them, and go with the session's
//! settings to any server: no connection has to stay with the session for their sake.

use usher_backend::{Fault, Lent, NULL_USER_VARIABLE};
use usher_topology::ShardId;

use crate::pins::Reason;
use crate::session::{Bound, Session, Transaction};

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
    /// The id that the server has told, generated or not.
    pub(crate) reported: u64,
    /// It was a procedure.
    pub(crate) called: bool,
    /// How many rows there would have been without LIMIT.
    pub(crate) found_rows: bool,
    /// Which named locks are held.
    pub(crate) locks: bool,
    /// User variables that it may have assigned.
    pub(crate) variables: Vec<String>,
    /// Settings that it has set to the values of expressions, of which the server did not tell.
    pub(crate) settings: Vec<String>,
}

impl Owed {
    pub(crate) fn is_nothing(&self) -> bool {
        !self.id && !self.found_rows && !self.locks && self.variables.is_empty() && self.settings.is_empty()
    }

    /// Whether the next statement cannot even be read before this is asked.
    pub(crate) fn is_urgent(&self) -> bool {
        self.settings.iter().any(|name| matches!(name.as_str(), "sql_mode" | "character_set_client"))
    }

    /// Takes over what is still owed of a statement before this one, on the same connection.
    pub(crate) fn add(&mut self, before: Self) {
        if before.id {
            (self.id, self.reported, self.called) = (true, before.reported, before.called);
        }
        self.found_rows |= before.found_rows;
        self.locks |= before.locks;
        self.variables.extend(before.variables);
        self.settings.extend(before.settings);
    }
}

impl Session {
    /// Asks what is owed, on the connection that the statement ran on. Before the next statement that may change it.
    #[cold]
    pub(crate) async fn settle_debts(&mut self) {
        let Some(owed) = self.owed.take() else { return };
        if let Some(mut kept) = self.kept.take_if(|kept| kept.shard == owed.shard) {
            self.ask(&mut kept, &owed).await;
            self.put(kept, false);
        } else if let Some(at) = self.bound.iter().position(|bound| bound.shard == owed.shard) {
            let mut bound = self.bound.swap_remove(at);
            self.ask(&mut bound, &owed).await;
            match bound.lent.is_discarded() {
                true if self.transaction == Transaction::Open(bound.shard) => self.end_transaction(),
                true => {}
                false => self.put(bound, false),
            }
        }
    }

    /// Asks for what is owed. A connection with a value that cannot be carried along is pinned for it.
    pub(crate) async fn ask(&mut self, bound: &mut Bound, owed: &Owed) {
        let Bound { lent, pins, .. } = bound;
        let asked = async {
            if owed.found_rows {
                let reply = lent.query(b"SELECT FOUND_ROWS()").await?;
                self.found_rows = reply.cell().and_then(|cell| cell.parse().ok()).unwrap_or(self.found_rows);
            }
            if owed.id {
                self.ask_for_id(lent, owed).await?;
            }
            self.read_settings(lent, &owed.settings).await?;
            if owed.locks {
                self.ask_for_locks(lent, pins).await?;
            }
            self.read_back(lent, &owed.variables).await
        };
        match asked.await {
            Ok(true) => {}
            Ok(false) => pins.add(&self.shared.metrics.pinned, Reason::Variable, b""),
            Err(fault) => {
                tracing::debug!(server = %lent.server().name, %fault, "lost while asking what a statement did");
                lent.discard();
            }
        }
    }

    async fn read_settings(&mut self, lent: &mut Lent, names: &[String]) -> Result<(), Fault> {
        if names.is_empty() {
            return Ok(());
        }
        let columns: Vec<String> = names.iter().map(|name| format!("@@session.{name}")).collect();
        let reply = lent.query(format!("SELECT {}", columns.join(", ")).as_bytes()).await?;
        match reply.rows.into_iter().next().filter(|_| reply.error.is_none()) {
            Some(row) => {
                let text =
                    |cell: Option<Vec<u8>>| cell.map(|cell| String::from_utf8_lossy(&cell).into_owned());
                let values =
                    names.iter().cloned().zip(row.into_iter().map(|cell| text(cell).unwrap_or_default()));
                self.take_over(lent, &values.collect::<Vec<_>>());
            }
            // Nobody else must get what cannot be told.
            None => lent.dirty = true,
        }
        Ok(())
    }

    pub(crate) async fn read_back(&mut self, lent: &mut Lent, names: &[String]) -> Result<bool, Fault> {
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
    let Some(text) = text else { return Some(null(charset, collation, (ty, flags))) };
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

/// NULL as SQL: it has a type, by which a server makes columns.
fn null(charset: &Option<Vec<u8>>, collation: &Option<Vec<u8>>, (ty, flags): (u8, u16)) -> String {
    let word = |cell: &Option<Vec<u8>>| String::from_utf8(cell.clone()?).ok();
    match (ty, word(charset), word(collation)) {
        (TYPE_LONGLONG, ..) if flags & UNSIGNED != 0 => "CAST(NULL AS UNSIGNED)".to_owned(),
        (TYPE_LONGLONG, ..) => "CAST(NULL AS SIGNED)".to_owned(),
        (TYPE_DECIMAL, ..) => "CAST(NULL AS DECIMAL(65, 30))".to_owned(),
        (TYPE_DOUBLE, ..) => "CAST(NULL AS DOUBLE)".to_owned(),
        (_, Some(charset), Some(collation)) if charset != "binary" => {
            format!("CAST(NULL AS CHAR CHARACTER SET {charset}) COLLATE {collation}")
        }
        _ => NULL_USER_VARIABLE.to_owned(),
    }
}

/// A variable's value, read out of the settings that carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Carried {
    Null,
    /// A number as it is written.
    Number(String),
    /// A string.
    Bytes {
        bytes: Vec<u8>,
        /// Its introducer and its COLLATE clause, with the value in between.
        sql: String,
        /// It may stand in the statement's own character set.
        is_utf8: bool,
    },
}

impl Carried {
    /// `None` is a variable that was never set.
    pub(crate) fn of(sql: Option<&str>) -> Self {
        let Some(sql) = sql.filter(|sql| !sql.starts_with("CAST(NULL AS ")) else { return Self::Null };
        if let Some(number) = sql.strip_prefix("CAST(").and_then(|sql| sql.strip_suffix(" AS UNSIGNED)")) {
            return Self::Number(number.to_owned());
        }
        let Some((introducer, rest)) = sql.split_once("x'") else { return Self::Number(sql.to_owned()) };
        let hex = rest.split('\'').next().unwrap_or_default().as_bytes();
        let digit =
            |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
        let bytes: Vec<u8> =
            hex.chunks(2).map(|pair| pair.iter().fold(0, |byte, half| byte << 4 | digit(*half))).collect();
        let charset = introducer.trim().trim_start_matches('_');
        let is_utf8 = !charset.is_empty() && (usher_sql::is_utf8(charset) || bytes.is_ascii());
        Self::Bytes { bytes, sql: sql.to_owned(), is_utf8 }
    }

    /// The value as a literal of a statement; plain where it can be, so that it can name a user.
    pub(crate) fn literal(&self, mode: usher_sql::Mode) -> String {
        match self {
            Self::Null => "NULL".to_owned(),
            Self::Number(number) => number.clone(),
            Self::Bytes { bytes, is_utf8: true, .. } if !mode.foreign_charset || bytes.is_ascii() => {
                let mut quoted = vec![b'\''];
                crate::text_prepare::escape(bytes, mode, &mut quoted);
                quoted.push(b'\'');
                String::from_utf8_lossy(&quoted).into_owned()
            }
            Self::Bytes { sql, .. } => sql.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, hex: &str, charset: &str, collation: &str, ty: u8, flags: u16) -> Option<String> {
        let cell = |text: &str| Some(text.as_bytes().to_vec());
        value(&[cell(text), cell(hex), cell(charset), cell(collation)], (ty, flags))
    }

    #[test]
    fn carried_values_are_read_again() {
        let literal = |sql| Carried::of(Some(sql)).literal(usher_sql::Mode::default());
        assert_eq!(literal("CAST(5 AS UNSIGNED)"), "5");
        assert_eq!(literal("-1.50"), "-1.50");
        assert_eq!(literal("_utf8mb4 x'6127C3A9' COLLATE utf8mb4_bin"), "'a''é'");
        assert_eq!(literal("_latin1 x'E9' COLLATE latin1_bin"), "_latin1 x'E9' COLLATE latin1_bin");
        assert_eq!(literal("x'00FF'"), "x'00FF'");
        assert_eq!(Carried::of(None), Carried::Null);
        assert_eq!(Carried::of(Some(NULL_USER_VARIABLE)), Carried::Null);
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
        assert_eq!(value(&[None, None, None, None], (6, 0)).as_deref(), Some(NULL_USER_VARIABLE));
        let (charset, collation) = (Some(b"latin1".to_vec()), Some(b"latin1_bin".to_vec()));
        for (of, sql) in [
            ((TYPE_LONGLONG, 0x20), "CAST(NULL AS UNSIGNED)"),
            ((TYPE_DOUBLE, 0), "CAST(NULL AS DOUBLE)"),
            ((251, 0), "CAST(NULL AS CHAR CHARACTER SET latin1) COLLATE latin1_bin"),
        ] {
            assert_eq!(value(&[None, None, charset.clone(), collation.clone()], of).as_deref(), Some(sql));
            assert_eq!(Carried::of(Some(sql)), Carried::Null);
        }
    }
}
