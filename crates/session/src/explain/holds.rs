//! What a statement would keep of its connection, and for how long.

use usher_sql::effects;
use usher_sql::holds::{TableHold, lock_calls, table_hold};
use usher_sql::{DdlKind, Kind, Plan};

use crate::query::Text;
use crate::session::{Session, Transaction};

const UNTIL_RESET: &str = "a reset or the session's end";

impl Session {
    /// One line for each thing; the last word is how long.
    pub(super) fn would_hold(&self, statement: Text<'_>, plan: &Plan) -> Vec<String> {
        let mut held = Vec::new();
        let mut keep =
            |what: &str, until: &str| held.push(format!("its connection for {what}, until {until}"));
        let in_transaction = self.transaction != Transaction::None || !self.autocommit;
        let has_place = matches!(
            plan.kind,
            Kind::Read | Kind::LockingRead | Kind::Insert | Kind::Replace | Kind::Update | Kind::Delete
        );
        if in_transaction && has_place {
            keep("the transaction", "COMMIT or ROLLBACK");
        }
        match (&plan.kind, table_hold(statement.text, self.mode)) {
            (_, Some(TableHold::Tables | TableHold::Flushed)) => keep("locked tables", "UNLOCK TABLES"),
            (_, Some(TableHold::Instance)) => {
                keep("the lock on the server", "UNLOCK INSTANCE or BACKUP STAGE END")
            }
            (_, Some(TableHold::Handler(name))) => {
                keep(&format!("the handler {name}"), &format!("HANDLER {name} CLOSE"));
            }
            (Kind::Call, _) => keep("what a procedure may leave", UNTIL_RESET),
            (Kind::Ddl(DdlKind::CreateTemporaryTable), _) => {
                let names: Vec<String> = plan.tables.iter().map(ToString::to_string).collect();
                keep(
                    &format!("the temporary table {}", names.join(", ")),
                    "it is dropped or the session is reset",
                );
            }
            (Kind::Set, _) if !matches!(effects::parse(statement.text, self.mode), Ok(Some(_))) => {
                keep("a SET that only the server understands", UNTIL_RESET);
            }
            _ => {}
        }
        let locks = lock_calls(statement.text, self.mode);
        if !locks.taken.is_empty() {
            keep("the named locks that it takes", "the last of them is released");
        }
        if !plan.uses.writes_user_vars.is_empty() {
            held.push(
                "user variables go with the session; one over 4096 bytes keeps its connection".to_owned(),
            );
        }
        if held.is_empty() && has_place {
            held.push("nothing: the connection goes back behind the answer, or behind the next statement if it warns".to_owned());
        }
        held
    }
}
