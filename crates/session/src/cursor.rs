//! Cursors: rows of a prepared statement that a server keeps and the client fetches bit by bit. The server has made them
//! all when it opened the cursor, so that one outlives its transaction, and neither moves nor flips change what it gives.
//! Its connection is only fetched from, unless a transaction or other state binds the session to it, too.

use usher_backend::Lent;
use usher_topology::ServerId;
use usher_wire::command::{COM_STMT_CLOSE, COM_STMT_FETCH};
use usher_wire::packet::ErrPacket;
use usher_wire::relay::Kind;
use usher_wire::sqlerr::{Executed, Failure};
use usher_wire::status::Status;

use crate::pins::Reason;
use crate::prepared::unknown;
use crate::relay::{Broken, Outcome, Watch, interrupted};
use crate::session::{Answered, Bound, End, Served, Session, Stop, Turn};

/// A cursor that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    server: ServerId,
    /// The server's id of the connection.
    thread: u32,
    /// The server's id of the statement, which no other one of this connection's uses meanwhile.
    statement: u32,
    /// Under which the connection would know the statement.
    hash: u128,
    /// Rows fetched so far.
    fetched: u64,
    /// Their number is what FOUND_ROWS() gives.
    counts: bool,
}

impl Cursor {
    /// Of a statement that has just been executed on `lent`, and which the connection forgets for so long.
    pub(crate) fn open(lent: &mut Lent, statement: u32, hash: u128, counts: bool) -> Self {
        lent.forget_statement(hash);
        Self { server: lent.server().id, thread: lent.thread_id(), statement, hash, fetched: 0, counts }
    }

    fn name(&self) -> [u8; 4] {
        self.statement.to_le_bytes()
    }

    fn is(&self, other: &Self) -> bool {
        (self.server, self.thread, self.statement) == (other.server, other.thread, other.statement)
    }

    fn is_on(&self, bound: &Bound) -> bool {
        bound.pins.has(Reason::Cursor, &self.name())
            && !bound.lent.is_discarded()
            && (bound.lent.server().id, bound.lent.thread_id()) == (self.server, self.thread)
    }
}

impl Session {
    /// A cursor has been opened on this connection.
    pub(crate) fn note_cursor(&mut self, bound: &mut Bound, cursor: Cursor) {
        bound.pins.add(&self.shared.metrics.pinned, Reason::Cursor, &cursor.name());
        self.opened = Some(cursor);
    }

    /// COM_STMT_FETCH.
    pub(crate) async fn fetch(&mut self, id: u32, rows: u32, turn: Turn) -> Served {
        let Some(prepared) = self.statements.get(&id) else { return Err(unknown(id, "mysqld_stmt_fetch")) };
        self.handle.says(prepared.text());
        let Some(mut cursor) = prepared.cursor else { return Err(no_cursor(id)) };
        if self.owed.is_some() {
            self.settle_debts().await;
        }
        (self.failure, self.ran_on) = (None, None);
        let keeps = self.kept.as_ref().is_some_and(|kept| cursor.is_on(kept));
        let Some(mut bound) = self.take_cursors(&cursor) else {
            self.forget_cursor(id);
            return Err(lost("its connection is gone").into());
        };
        self.let_go_of_kept();
        let in_transaction = self.is_of_transaction(&bound);
        match self.fetch_on(&mut bound, &cursor, rows, in_transaction, turn).await {
            Ok(outcome) if bound.lent.is_discarded() => {
                self.forget_cursor(id);
                if in_transaction {
                    self.end_transaction();
                }
                Ok(Answered { failed: true, seq: outcome.seq })
            }
            Ok(mut outcome) => {
                let failed = outcome.error.is_some();
                let last = failed || bound.lent.status.has(Status::LAST_ROW_SENT);
                cursor.fetched += outcome.rows;
                if let Some(prepared) = self.statements.get_mut(&id) {
                    prepared.cursor = (!last).then_some(cursor);
                }
                if last {
                    self.count_found(&mut bound, &cursor).await;
                    self.end_cursor(&mut bound, &cursor, failed).await;
                }
                self.row_count = -1;
                let keep = outcome.warnings > 0 || failed || keeps;
                let tail = std::mem::take(&mut outcome.tail);
                self.put(bound, keep);
                self.send_tail(tail).await?;
                Ok(Answered { failed, seq: outcome.seq })
            }
            Err(stop) => {
                self.forget_cursor(id);
                bound.lent.discard();
                if in_transaction {
                    self.end_transaction();
                }
                Err(stop)
            }
        }
    }

    async fn fetch_on(
        &mut self,
        bound: &mut Bound,
        cursor: &Cursor,
        rows: u32,
        in_transaction: bool,
        turn: Turn,
    ) -> Result<Outcome, Stop> {
        if bound.lent.is_shut_out() {
            return Err(lost("this proxy was shut out meanwhile").into());
        }
        // Texts are converted as they are fetched.
        let settings = match in_transaction || self.autocommit {
            true => std::sync::Arc::clone(&self.settings),
            false => self.settings.edit().unset("autocommit").build(),
        };
        bound.lent.bring_to(&settings).await.map_err(|error| match error {
            usher_backend::BackendError::Settings { payload, .. } => Stop::Pass(payload),
            error => lost(&error.to_string()).into(),
        })?;
        let mut body = [0; 8];
        let (id, count) = body.split_at_mut(4);
        id.copy_from_slice(&cursor.statement.to_le_bytes());
        count.copy_from_slice(&rows.to_le_bytes());
        self.handle.runs_on(&bound.lent);
        let server = bound.lent.server().name.clone();
        let sent = bound.lent.send_command(COM_STMT_FETCH, &body).await;
        sent.map_err(|fault| interrupted(&server, &fault))?;
        self.aside = (!in_transaction).then(|| self.status());
        let relayed = self.relay(&mut bound.lent, Kind::Fetch, turn, Watch::default()).await;
        self.aside = None;
        match relayed {
            Ok(outcome) => {
                self.handle.rests(&mut bound.lent);
                Ok(outcome)
            }
            Err(Broken::Client(error)) => Err(End::Io(error).into()),
            Err(Broken::Server { fault, forwarded: false, .. }) => Err(interrupted(&server, &fault).into()),
            Err(Broken::Server { fault, seq: Some(seq), .. }) => {
                bound.lent.discard();
                self.end_rows_with(seq, &interrupted(&server, &fault)).await?;
                Ok(Outcome { error: Some(0), seq: seq.wrapping_add(1), ..Outcome::default() })
            }
            Err(Broken::Server { .. }) => Err(End::Torn.into()),
        }
    }

    /// Closes a cursor, if it is open: COM_STMT_RESET, COM_STMT_CLOSE, or the statement is executed anew.
    pub(crate) async fn close_cursor(&mut self, cursor: Option<Cursor>) {
        let Some(cursor) = cursor else { return };
        if self.owed.is_some() {
            self.settle_debts().await;
        }
        let keep = self.kept.as_ref().is_some_and(|kept| cursor.is_on(kept));
        let Some(mut bound) = self.take_cursors(&cursor) else { return };
        self.end_cursor(&mut bound, &cursor, true).await;
        self.put(bound, keep);
    }

    /// The connection is pinned for it no longer, and may use the statement for others: unless the cursor may be open.
    async fn end_cursor(&mut self, bound: &mut Bound, cursor: &Cursor, is_open: bool) {
        bound.pins.remove(Reason::Cursor, &cursor.name());
        let max = self.shared.limits.statements_per_backend_max;
        let closed = match is_open {
            true => Some(cursor.statement),
            false => bound.lent.remember_statement(cursor.hash, cursor.statement, max),
        };
        if let Some(closed) = closed {
            // It has no answer.
            match bound.lent.send_command(COM_STMT_CLOSE, &closed.to_le_bytes()).await {
                Ok(()) => bound.lent.rest(),
                Err(_) => bound.lent.dirty = true,
            }
        }
    }

    /// All rows of the cursor have been fetched.
    async fn count_found(&mut self, bound: &mut Bound, cursor: &Cursor) {
        if self.found_rows_on.take_if(|on| on.is(cursor)).is_none() {
            return;
        }
        self.found_rows = cursor.fetched;
        if !cursor.counts {
            match bound.lent.query(b"SELECT FOUND_ROWS()").await {
                Ok(reply) => {
                    let found = reply.cell().and_then(|cell| cell.parse().ok());
                    self.found_rows = found.unwrap_or(self.found_rows);
                }
                Err(_) => bound.lent.dirty = true,
            }
        }
    }

    /// FOUND_ROWS() is asked for: of a cursor only its connection knows.
    pub(crate) async fn settle_found_rows(&mut self) {
        let Some(cursor) = self.found_rows_on.take() else { return };
        let Some(mut bound) = self.take_cursors(&cursor) else { return };
        match bound.lent.query(b"SELECT FOUND_ROWS()").await {
            Ok(reply) => {
                let found = reply.cell().and_then(|cell| cell.parse().ok());
                self.found_rows = found.unwrap_or(self.found_rows);
                self.put(bound, false);
            }
            Err(_) => {
                let open = self.is_of_transaction(&bound);
                bound.lent.discard();
                if open {
                    self.end_transaction();
                }
            }
        }
    }

    fn forget_cursor(&mut self, id: u32) {
        if let Some(prepared) = self.statements.get_mut(&id) {
            prepared.cursor = None;
        }
    }

    /// The connection that has it, taken from where the session keeps it.
    fn take_cursors(&mut self, cursor: &Cursor) -> Option<Bound> {
        if let Some(kept) = self.kept.take_if(|kept| cursor.is_on(kept)) {
            return Some(kept);
        }
        for held in [&mut self.cursors, &mut self.bound] {
            if let Some(at) = held.iter().position(|bound| cursor.is_on(bound)) {
                return Some(held.swap_remove(at));
            }
        }
        None
    }

    /// Brings a connection that has cursors to the session's settings. One that cannot be is lost, and they with it.
    pub(crate) async fn bring_cursors(&self, mut lent: Lent) -> Result<Lent, usher_backend::BackendError> {
        match lent.bring_to(&self.settings).await {
            Ok(()) => Ok(lent),
            Err(error) => {
                lent.discard();
                Err(error)
            }
        }
    }

    /// A connection to this server that has cursors already may have one more.
    pub(crate) fn take_cursors_on(&mut self, server: ServerId) -> Option<Bound> {
        let fits = |bound: &Bound| bound.lent.server().id == server && !bound.lent.is_shut_out();
        let at = self.cursors.iter().position(fits)?;
        Some(self.cursors.swap_remove(at))
    }
}

fn no_cursor(id: u32) -> Stop {
    let message = format!("The statement ({id}) has no open cursor");
    let mut payload = Vec::new();
    ErrPacket { code: 1421, sqlstate: *b"HY000", message: message.as_bytes() }.encode(&mut payload);
    Stop::Pass(payload)
}

/// The rows of a cursor that nobody has any more.
fn lost(why: &str) -> Failure {
    use usher_wire::sqlerr::ErrorId::ReadInterrupted;
    Failure::new(ReadInterrupted).note(format!("the cursor is lost: {why}")).executed(Executed::Silent)
}
