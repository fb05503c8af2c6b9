//! BEGIN, COMMIT, ROLLBACK and savepoints. A transaction is begun on a server by its first statement that has a
//! place, since only that tells which.

use usher_sql::{Kind, Plan};
use usher_wire::packet::Change;

use crate::execute::{Body, Order, said};
use crate::pins::Reason;
use crate::query::{Text, unsupported};
use crate::route::Place;
use crate::session::{Bound, Served, Session, Transaction, Turn};
use crate::text_prepare::server_error;

/// Savepoints remembered before the first statement.
const PENDING_MAX: usize = 64;

impl Session {
    /// The client is told that its transaction is rolled back: so it has to be.
    pub(crate) async fn roll_back(&mut self) {
        if let Transaction::Open(shard) = self.transaction
            && let Some(at) = self.bound.iter().position(|bound| bound.shard == shard)
        {
            let mut bound = self.bound.swap_remove(at);
            match said(bound.lent.query(b"ROLLBACK").await) {
                Ok(_) => {
                    self.end_transaction();
                    self.put(bound, false);
                }
                Err(_) => bound.lent.discard(),
            }
        }
        self.end_transaction();
    }

    /// BEGIN: ends the transaction before, as a server does, and remembers to begin a new one.
    pub(crate) async fn begin(&mut self, text: &[u8], turn: Turn) -> Served {
        if let Transaction::Open(_) = self.transaction {
            self.end_open(b"COMMIT").await?;
        }
        if self.transaction != Transaction::None {
            // SET TRANSACTION was said of that one.
            self.next_transaction.clear();
        }
        self.end_transaction();
        self.unlock_tables().await;
        self.transaction = Transaction::Pending { begun: true, statements: vec![text.into()] };
        self.answer_transaction(turn).await
    }

    /// The answer to a statement that has begun or ended a transaction which no server knows of yet.
    async fn answer_transaction(&mut self, turn: Turn) -> Served {
        let Some(wanted) = self.transaction_info() else { return self.answer_ok(turn).await };
        let with_characteristics = wanted == "CHARACTERISTICS";
        let (characteristics, state): (Vec<u8>, &[u8]) = match &self.transaction {
            Transaction::Pending { statements, .. } => {
                let said = self.next_transaction.iter().chain(statements.iter().take(1));
                (said.flat_map(|text| [begin_words(text), b"; ".to_vec()].concat()).collect(), b"T_______")
            }
            _ => (Vec::new(), b"________"),
        };
        let characteristics = characteristics.trim_ascii_end();
        let changes = [Change::TransactionState(state), Change::TransactionCharacteristics(characteristics)];
        let told = if with_characteristics { &changes[..] } else { &changes[..1] };
        self.answer_changes(told, turn).await
    }

    /// Whether the transaction that was begun is a read-only one.
    pub(crate) fn is_read_only(&self) -> bool {
        match &self.transaction {
            Transaction::None | Transaction::Pending { begun: false, .. } => false,
            Transaction::Pending { .. } if self.read_only => true,
            Transaction::Pending { statements, .. } => {
                let said = statements
                    .iter()
                    .take(usize::from(self.branch.is_none()))
                    .chain(self.next_transaction.iter().rev())
                    .find_map(|text| access(text));
                said.unwrap_or_else(|| {
                    let set = self.settings.variable("transaction_read_only");
                    set.is_some_and(|value| matches!(value.trim_matches('\''), "1" | "ON" | "on"))
                })
            }
            Transaction::Open(_) => self.read_only,
        }
    }

    /// BEGIN ends LOCK TABLES, at once and not only where the transaction begins.
    async fn unlock_tables(&mut self) {
        let locks = |bound: &Bound| bound.pins.has(Reason::LockedTables, b"");
        while let Some(at) = self.bound.iter().position(locks) {
            let mut bound = self.bound.swap_remove(at);
            bound.pins.remove(Reason::LockedTables, b"");
            match bound.lent.query(b"UNLOCK TABLES").await {
                Ok(_) => self.put(bound, false),
                Err(_) => bound.lent.discard(),
            }
        }
    }

    /// The connection with locked tables goes to the front, where UNLOCK TABLES is said.
    pub(crate) fn put_locked_first(&mut self) {
        let locks = |bound: &Bound| bound.pins.names(Reason::LockedTables).next().is_some();
        if let Some(at) = self.bound.iter().position(locks) {
            self.bound.swap(0, at);
        }
    }

    /// COMMIT and ROLLBACK.
    pub(crate) async fn end_by_statement(&mut self, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        if let Kind::Commit { release: true, .. } | Kind::Rollback { release: true, .. } = plan.kind {
            return Err(unsupported("COMMIT or ROLLBACK .. RELEASE; close the connection"));
        }
        let chain =
            matches!(plan.kind, Kind::Commit { chain: true, .. } | Kind::Rollback { chain: true, .. });
        let open = match self.transaction {
            Transaction::Open(shard) => Some(shard),
            // A connection that stays may have something to tell of: temporary tables are not rolled back.
            _ => self.bound.iter().find(|bound| bound.pins.bind()).map(|bound| bound.shard),
        };
        let Some(shard) = open else {
            // AND CHAIN begins a new one like the one before, or just a new one.
            let first = match &mut self.transaction {
                Transaction::Pending { begun, statements } => {
                    self.next_transaction.clear();
                    statements.drain(..).next().filter(|_| *begun)
                }
                _ => None,
            };
            self.end_transaction();
            if chain {
                let begin = first.unwrap_or_else(|| Box::from(&b"START TRANSACTION"[..]));
                self.transaction = Transaction::Pending { begun: true, statements: vec![begin] };
            }
            return self.answer_transaction(turn).await;
        };
        let place = Place::writer(shard);
        let body = Body::Text(statement.packets);
        let order = Order { plan, place, key: None, body, insert_id: None, writer_hint: false };
        self.run(order, turn).await
    }

    /// SAVEPOINT and its kin: on the open transaction, or remembered until it has a place.
    pub(crate) async fn savepoint(&mut self, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        if let Transaction::Open(shard) = self.transaction {
            let place = Place::writer(shard);
            let body = Body::Text(statement.packets);
            let order = Order { plan, place, key: None, body, insert_id: None, writer_hint: false };
            return self.run(order, turn).await;
        }
        if self.transaction == Transaction::None
            && !self.autocommit
            && matches!(plan.kind, Kind::Savepoint(_))
        {
            self.transaction = Transaction::Pending { begun: false, statements: Vec::new() };
        }
        let Transaction::Pending { begun, statements } = &mut self.transaction else {
            // Without a transaction a savepoint has no effect; one that is not there is an error that a server words.
            return self.anywhere(plan, statement.packets, turn).await;
        };
        // Behind what begins it stands one statement for each savepoint that there is: nothing else has happened.
        let first = usize::from(*begun);
        let known = |name: &str| self.savepoints.iter().position(|other| other.eq_ignore_ascii_case(name));
        match &plan.kind {
            Kind::Savepoint(name) => {
                if let Some(at) = known(name).filter(|at| first + at < statements.len()) {
                    self.savepoints.remove(at);
                    statements.remove(first + at);
                } else if statements.len() >= PENDING_MAX {
                    return Err(unsupported("that many savepoints before the first statement"));
                }
                self.savepoints.push(name.clone());
                statements.push(statement.text.into());
            }
            Kind::RollbackTo(name) | Kind::ReleaseSavepoint(name) => {
                let Some(at) = known(name) else {
                    return Err(server_error(1305, *b"42000", &format!("SAVEPOINT {name} does not exist")));
                };
                let kept = at + usize::from(matches!(plan.kind, Kind::RollbackTo(_)));
                self.savepoints.truncate(kept);
                statements.truncate(first + kept);
            }
            _ => {}
        }
        self.answer_ok(turn).await
    }

    /// Ends the open transaction by a statement of our own, as an implicit commit does.
    pub(crate) async fn end_open(&mut self, how: &[u8]) -> Result<(), crate::session::Stop> {
        let Transaction::Open(shard) = self.transaction else { return Ok(()) };
        let Some(at) = self.bound.iter().position(|bound| bound.shard == shard) else { return Ok(()) };
        let mut bound = self.bound.swap_remove(at);
        match crate::execute::said(bound.lent.query(how).await) {
            Ok(reply) => {
                let position = crate::execute::position(reply.gtid);
                for key in &self.written {
                    self.shared.watermarks.wrote(shard, key, position.clone());
                }
                self.end_transaction();
                self.put(bound, false);
                Ok(())
            }
            Err(crate::execute::Start::Refused(_, payload)) => {
                bound.lent.dirty = true;
                self.end_transaction();
                Err(crate::session::Stop::Pass(payload))
            }
            Err(crate::execute::Start::Lost(fault)) => {
                bound.lent.discard();
                self.end_transaction();
                use usher_wire::sqlerr::{ErrorId, Executed, Failure};
                let failure = Failure::new(ErrorId::OutcomeUnknown).note(fault.to_string());
                Err(failure.executed(Executed::Unknown).into())
            }
        }
    }
}

/// As servers spell the beginning of a transaction.
fn begin_words(text: &[u8]) -> Vec<u8> {
    let upper = text.trim_ascii().to_ascii_uppercase();
    match upper.starts_with(b"BEGIN") {
        true => b"START TRANSACTION".to_vec(),
        false => upper,
    }
}

/// What START TRANSACTION or SET TRANSACTION says of access: whether READ ONLY, if it says it.
fn access(text: &[u8]) -> Option<bool> {
    let words: Vec<&[u8]> =
        text.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.windows(2).find_map(|pair| match pair {
        [read, only] if read.eq_ignore_ascii_case(b"READ") && only.eq_ignore_ascii_case(b"ONLY") => {
            Some(true)
        }
        [read, write] if read.eq_ignore_ascii_case(b"READ") && write.eq_ignore_ascii_case(b"WRITE") => {
            Some(false)
        }
        _ => None,
    })
}
