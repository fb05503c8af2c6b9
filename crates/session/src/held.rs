//! What a statement takes hold of on its connection, and lets go: the pins that follow from it.

use usher_backend::{Fault, Lent};
use usher_sql::holds::{LockName, TableHold, lock_calls, table_hold};
use usher_sql::{DdlKind, Kind, TableName};
use usher_wire::stmt::Param;

use crate::execute::Order;
use crate::pins::{CARRIED, Pins, Reason};
use crate::programs::leaves_nothing;
use crate::session::{Bound, Session};
use crate::user_vars::Carried;

/// Stands for a temporary table that may have got a new name.
const RENAMED: &[u8] = b"renamed";
/// Bytes of a lock's name that servers take at most: 64 characters.
const LOCK_NAME_BYTES_MAX: usize = 256;

impl Session {
    /// Pins the connection for what the statement has left on it, and unpins it of what it has ended. Returns whether
    /// the server has to be asked which named locks are held.
    pub(crate) fn note_holds(&mut self, bound: &mut Bound, order: &Order<'_>, failed: bool) -> bool {
        let plan = order.plan;
        let locks = plan.uses.named_lock && self.note_locks(&mut bound.pins, order.body.text());
        if let Some(thread) = lock_thread(bound) {
            // Before the client hears of its lock and others may ask whose it is.
            self.handle.has_locks_on(thread);
        }
        if failed {
            return locks;
        }
        let counts = &self.shared.metrics.pinned;
        if self.obscure {
            bound.pins.add(counts, Reason::Variable, b"");
        }
        match plan.kind {
            Kind::LockTables | Kind::UnlockTables | Kind::Handler | Kind::Admin | Kind::Other => {
                match table_hold(order.body.text(), self.mode) {
                    Some(TableHold::Tables) => bound.pins.add(counts, Reason::LockedTables, b""),
                    Some(TableHold::Flushed) => bound.pins.add(counts, Reason::LockedTables, b"flushed"),
                    Some(TableHold::NoTables) => {
                        bound.pins.remove(Reason::LockedTables, b"");
                        bound.pins.remove(Reason::LockedTables, b"flushed");
                    }
                    Some(TableHold::Instance) => bound.pins.add(counts, Reason::LockedTables, b"instance"),
                    Some(TableHold::NoInstance) => bound.pins.remove(Reason::LockedTables, b"instance"),
                    Some(TableHold::Handler(name)) => {
                        bound.pins.add(counts, Reason::Handler, name.as_bytes())
                    }
                    Some(TableHold::NoHandler(name)) => bound.pins.remove(Reason::Handler, name.as_bytes()),
                    // Named by a text of its own: EXECUTE.
                    None if plan.kind == Kind::LockTables => {
                        bound.pins.add(counts, Reason::LockedTables, b"");
                    }
                    None if plan.kind == Kind::UnlockTables => bound.pins.remove(Reason::LockedTables, b""),
                    None => {}
                }
            }
            Kind::Call if leaves_nothing(order.body.text(), self.mode) => {}
            Kind::Call if self.says_plain_call(order) => bound.pins.add(counts, Reason::Procedure, CARRIED),
            Kind::Call => bound.pins.add(counts, Reason::Procedure, b""),
            Kind::Ddl(DdlKind::CreateTemporaryTable) => {
                for table in &plan.tables {
                    bound.pins.add(counts, Reason::TemporaryTable, &named(table));
                }
            }
            // It may have been of a temporary table, which has another name from now on.
            Kind::Ddl(DdlKind::AlterTable | DdlKind::RenameTable)
                if bound.pins.names(Reason::TemporaryTable).next().is_some() =>
            {
                bound.pins.add(counts, Reason::TemporaryTable, RENAMED);
            }
            Kind::Ddl(DdlKind::DropTemporaryTable | DdlKind::DropTable) => {
                for table in &plan.tables {
                    bound.pins.remove(Reason::TemporaryTable, &named(table));
                }
            }
            _ => {}
        }
        locks
    }

    /// The names that a prepared statement gives to GET_LOCK, as SQL.
    pub(crate) fn lock_names(&self, text: &[u8], params: &[Param<'_>]) -> Vec<Option<Box<str>>> {
        let taken = lock_calls(text, self.mode).taken;
        taken.iter().filter_map(|name| self.lock_name(name, params)).collect()
    }

    /// `Some(None)` if only a server knows; `None` if there can be no such lock.
    fn lock_name(&self, name: &LockName, params: &[Param<'_>]) -> Option<Option<Box<str>>> {
        let text = |bytes: &[u8]| {
            let charset = self.settings.client_charset();
            let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02X}"));
            let takes = !bytes.is_empty() && bytes.len() <= LOCK_NAME_BYTES_MAX;
            takes.then(|| Some(format!("_{charset} x'{hex}'").into()))
        };
        match name {
            LockName::Text(bytes) => text(bytes),
            LockName::Param(index) => match params.get(usize::from(*index)) {
                Some(Param::Bytes(bytes)) => text(bytes),
                Some(Param::Null) => None,
                _ => Some(None),
            },
            LockName::Variable(name) => {
                let value = self.settings.variable(&format!("@{name}"));
                match (value, Carried::of(value)) {
                    (Some(sql), Carried::Bytes { .. } | Carried::Number(_)) => Some(Some(sql.into())),
                    _ => Some(None),
                }
            }
            LockName::Other => Some(None),
        }
    }

    /// A lock may be held whether or not the statement failed: each may be till the server says that it is not.
    fn note_locks(&mut self, pins: &mut Pins, text: &[u8]) -> bool {
        let calls = lock_calls(text, self.mode);
        let prepared = std::mem::take(&mut self.locks);
        let mut names = prepared;
        if names.is_empty() {
            names = calls.taken.iter().filter_map(|name| self.lock_name(name, &[])).collect();
        }
        if calls.releases_all && calls.taken.is_empty() {
            pins.remove_all(Reason::NamedLock);
        }
        let unseen = self.naming.is_some();
        for name in names.into_iter().chain(unseen.then_some(None)) {
            let name = name.unwrap_or_default();
            pins.add(&self.shared.metrics.pinned, Reason::NamedLock, name.as_bytes());
        }
        pins.names(Reason::NamedLock).any(|name| !name.is_empty())
    }

    /// Unpins a connection of the locks that it does not hold (any more).
    pub(crate) async fn ask_for_locks(&self, lent: &mut Lent, pins: &mut Pins) -> Result<(), Fault> {
        let names: Vec<Vec<u8>> =
            pins.names(Reason::NamedLock).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
        if names.is_empty() {
            return Ok(());
        }
        let column =
            |name: &Vec<u8>| format!("IS_USED_LOCK({}) <=> CONNECTION_ID()", String::from_utf8_lossy(name));
        let columns: Vec<String> = names.iter().map(column).collect();
        let reply = lent.query(format!("SELECT {}", columns.join(", ")).as_bytes()).await?;
        let Some(row) = reply.rows.first() else { return Ok(()) };
        for (name, cell) in names.iter().zip(row) {
            if cell.as_deref() == Some(b"0") {
                pins.remove(Reason::NamedLock, name);
            }
        }
        Ok(())
    }
}

/// The thread of the global master's writer that may have named locks.
pub(crate) fn lock_thread(bound: &Bound) -> Option<u32> {
    (bound.shard.is_global() && bound.pins.may_lock()).then(|| bound.lent.thread_id())
}

/// What a temporary table is told apart by.
fn named(table: &TableName) -> Vec<u8> {
    format!("{}.{}", table.schema.as_deref().unwrap_or_default(), table.name).to_lowercase().into_bytes()
}
