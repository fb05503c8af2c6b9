//! What follows from an answer: what the session remembers of it, and whether the connection stays.

use usher_backend::{Fault, Lent};
use usher_sql::{Found, Kind as PlanKind, Mode, Plan, ShowKind};
use usher_topology::ShardId;
use usher_wire::command::COM_PING;
use usher_wire::status::Status;

use super::{Body, Order};
use crate::counts::Counts;
use crate::pins::{Pins, Reason};
use crate::programs::may_change_programs;
use crate::relay::Outcome;
use crate::session::{Answered, Bound, Served, Session, Transaction};
use crate::text_prepare::Naming;
use crate::user_vars::Owed;

/// Behind the packet's header and the command's byte.
const COM_QUERY_TEXT_AT: usize = 5;

impl Session {
    /// After an answer on a connection that was not bound: binds it if a transaction is open or it holds state,
    /// else gives it back, then sends what is left to send.
    pub(super) async fn finish(&mut self, lent: Lent, outcome: Outcome, order: &Order<'_>) -> Served {
        let bound = Bound { shard: order.place.shard, lent, pins: Pins::default() };
        self.finish_bound(bound, outcome, order).await
    }

    pub(super) async fn finish_bound(
        &mut self,
        mut bound: Bound,
        mut outcome: Outcome,
        order: &Order<'_>,
    ) -> Served {
        let plan = order.plan;
        let failed = outcome.error.is_some();
        let writes = order.writes();
        if failed && !self.surely_without_transaction(&bound, plan) {
            // A deadlock rolls the transaction back, other errors do not, and what failed may have begun one: the
            // server knows.
            if let (Some(code), Some(message), false) =
                (outcome.error, outcome.message.take(), bound.lent.is_mariadb())
            {
                // MySQL forgets the error over this.
                self.failure = Some(Box::new((code, message)));
            }
            if bound.lent.command(COM_PING, &[]).await.is_err() {
                bound.lent.discard();
                self.end_transaction();
                self.send_tail(outcome.tail).await?;
                return Ok(Answered { failed, seq: outcome.seq });
            }
        }
        if failed && (plan.kind == PlanKind::Call || plan.uses.unknown_function.is_some()) {
            // It may have left something there before it failed.
            bound.lent.dirty = true;
        }
        let passed_over = self.passed_over;
        self.note_counts(&outcome, order, failed);
        self.passed_over = None;
        let asks_for_found = !failed && asks_for_found(plan, &outcome, passed_over);
        if !self.next_transaction.is_empty() {
            // It was for this transaction, or for this statement alone; what it may have left over is nobody's.
            self.next_transaction.clear();
            bound.lent.dirty |= !bound.lent.status.has(Status::IN_TRANS);
        }
        if writes
            && !failed
            && let Some(key) = order.key
            && !self.written.contains(key)
        {
            self.written.push(key.clone());
        }
        if !failed && !self.edits.is_empty() {
            self.take_over_edits(&mut bound.lent);
        }
        if plan.has_settings {
            // MariaDB tells with this answer what held for it, and with the next one that it has taken it back.
            bound.lent.dirty |= !outcome.variables.is_empty();
        } else if !outcome.variables.is_empty() {
            self.take_over(&mut bound.lent, &outcome.variables);
        }
        let mut untold = std::mem::take(&mut self.unknown_settings);
        untold.retain(|name| !failed && !outcome.variables.iter().any(|(told, _)| told == name));
        let locks = self.note_holds(&mut bound, order, failed);
        if let Some(cursor) = outcome.cursor.take() {
            self.note_cursor(&mut bound, cursor);
        }
        // What such a statement leaves behind is for nobody else.
        bound.lent.dirty |=
            matches!(plan.kind, PlanKind::Admin | PlanKind::Other) && !leaves_nothing(order.body.text());
        if plan.kind == PlanKind::Admin && !failed && leaves_nothing(order.body.text()) {
            self.counts = Counts::default();
        }
        let in_trans = bound.lent.status.has(Status::IN_TRANS);
        let open = self.note_branch(&mut bound, &outcome, in_trans) || in_trans;
        if open {
            self.transaction = Transaction::Open(bound.shard);
            self.read_only = bound.lent.status.has(Status::IN_TRANS_READONLY);
        } else if !self.savepoints.is_empty() && self.begins_nothing(plan, failed) {
            // With autocommit off savepoints go on waiting for what begins the transaction. All else is over, leave to
            // write above all: a move waits for this session no longer.
            let waiting = (self.transaction.clone(), std::mem::take(&mut self.savepoints));
            self.close_transaction(bound.shard, &outcome, failed);
            (self.transaction, self.savepoints) = waiting;
            bound.lent.dirty = true;
        } else if self.entered || self.transaction != Transaction::None {
            self.close_transaction(bound.shard, &outcome, failed);
        }
        let mut variables = plan.uses.writes_user_vars.clone();
        let (text, mode) = self.statement_said(order);
        if let Some(effects) = self.shared.programs.effects(plan, text, mode) {
            variables.extend(effects.variables);
            if effects.holds {
                bound.pins.add(&self.shared.metrics.pinned, Reason::Procedure, b"");
            }
        }
        if plan.uses.writes_user_vars.len() >= usher_sql::USER_VARS_MAX {
            // There may be some that are not named.
            bound.pins.add(&self.shared.metrics.pinned, Reason::Variable, b"");
        }
        let learns = !failed && may_change_programs(plan);
        let mut owed = Owed {
            shard: bound.shard,
            id: self.asks_for_id(order, &outcome, failed),
            reported: outcome.insert_id,
            called: plan.kind == PlanKind::Call,
            found_rows: asks_for_found,
            locks,
            // Some rows may have been looked at before it failed.
            variables,
            settings: untold,
        };
        // GET DIAGNOSTICS asks of the one before, and may itself assign a variable.
        if let Some(before) = self.owed.take_if(|before| before.shard == owed.shard) {
            owed.add(*before);
        }
        let tells = plan.kind == PlanKind::GetDiagnostics;
        let keep = (outcome.warnings > 0 || failed || self.keeps || tells) && !owed.is_urgent();
        let seq = outcome.seq;
        if owed.is_nothing() || keep {
            if !owed.is_nothing() {
                self.owed = Some(Box::new(owed));
            }
            if open || bound.pins.bind() {
                self.ran_on = Some(bound.shard);
            }
            self.put(bound, keep);
            if learns {
                // Before the client knows that it is there, and so before anybody can set it off.
                Box::pin(self.shared.learn_programs()).await;
            }
            self.send_tail(outcome.tail).await?;
            return Ok(Answered { failed, seq });
        }
        if learns {
            Box::pin(self.shared.learn_programs()).await;
        }
        self.send_tail(outcome.tail).await?;
        self.ask(&mut bound, &owed).await;
        match bound.lent.is_discarded() {
            true if open => self.end_transaction(),
            true => {}
            false => self.put(bound, false),
        }
        Ok(Answered { failed, seq })
    }

    /// The text of the statement itself where it is run by its name, and how it is read.
    fn statement_said<'a>(&'a self, order: &'a Order<'_>) -> (&'a [u8], Mode) {
        match &self.naming {
            Some(Naming::Uses(named)) => (named.text(), named.mode()),
            _ => (order.body.text(), self.mode),
        }
    }

    /// Whether it calls a procedure that leaves nothing but what is known.
    pub(crate) fn says_plain_call(&self, order: &Order<'_>) -> bool {
        let (text, mode) = self.statement_said(order);
        self.shared.programs.leaves_no_more(text, mode)
    }

    /// Whether a statement that failed cannot have left a transaction open.
    pub(super) fn surely_without_transaction(&self, bound: &Bound, plan: &Plan) -> bool {
        use usher_sql::Kind::{Delete, Insert, LockingRead, Read, Replace, Update};
        let simple = matches!(plan.kind, Read | LockingRead | Insert | Replace | Update | Delete)
            && !plan.uses.needs_writer();
        self.autocommit && simple && !bound.lent.status.has(Status::IN_TRANS)
    }

    /// Whether the transaction still is what it was before: waiting, by savepoints alone, for what begins it.
    pub(super) fn begins_nothing(&self, plan: &Plan, failed: bool) -> bool {
        use usher_sql::Kind::{Delete, Do, Insert, LockingRead, Read, Replace, Set, Update};
        let commits_not =
            failed || matches!(plan.kind, Read | LockingRead | Insert | Replace | Update | Delete | Set | Do);
        commits_not && matches!(self.transaction, Transaction::Pending { begun: false, .. })
    }

    pub(super) fn note_counts(&mut self, outcome: &Outcome, order: &Order<'_>, failed: bool) {
        self.row_count = match (failed, outcome.had_rows) {
            (true, _) | (_, true) => -1,
            _ => i64::try_from(outcome.affected_rows).unwrap_or(i64::MAX),
        };
        if order.plan.kind == PlanKind::Read && !failed && !outcome.had_rows {
            // INTO variables or a file.
            self.found_rows = outcome.affected_rows;
        }
        if order.plan.kind == PlanKind::Do && !failed && !self.shared.server_version.contains("MariaDB") {
            // To MySQL it is a query of one row.
            self.found_rows = 1;
        }
        if outcome.had_rows && !failed && counts_found_rows(order) {
            self.found_rows = outcome.rows + self.passed_over.unwrap_or_default();
            self.found_rows_on = outcome.cursor.filter(|_| !order.plan.uses.calc_found_rows);
        }
        if let Some(id) = order.insert_id.filter(|_| !failed && outcome.affected_rows > 0) {
            self.last_insert_id = id;
        }
    }

    /// Whether the server must be asked what LAST_INSERT_ID() gives now: the OK packet also tells ids that the
    /// client gave itself.
    pub(super) fn asks_for_id(&self, order: &Order<'_>, outcome: &Outcome, failed: bool) -> bool {
        use usher_sql::Kind::{Insert, Replace};
        let unsharded_insert = order.insert_id.is_none() && order.plan.is_write && outcome.insert_id != 0;
        // One that failed may have used an id up before.
        let failed_insert =
            failed && order.insert_id.is_none() && matches!(order.plan.kind, Insert | Replace);
        // What a procedure has inserted is its caller's; what a function or a trigger has is not.
        let called = order.plan.kind == PlanKind::Call;
        unsharded_insert || failed_insert || called || order.plan.uses.sets_last_insert_id
    }

    /// Asks a server what LAST_INSERT_ID() gives now: what it told of the statement may also be an id that the client
    /// gave itself, or that of a row which was there. Leaves 0 on the connection: no id is mistaken for an earlier one.
    pub(crate) async fn ask_for_id(&mut self, lent: &mut Lent, owed: &Owed) -> Result<(), Fault> {
        let reported = owed.reported;
        let told = if owed.called && lent.is_mariadb() {
            // Without a row: warnings of the next procedure count on from the rows of the last query.
            let told = lent.query(b"SET last_insert_id = LAST_INSERT_ID()").await?.id_set;
            if told != Some(0) {
                lent.query(b"SET last_insert_id = 0").await?;
            }
            // Nothing is told where the procedure has stopped it.
            lent.dirty |= told.is_none();
            told
        } else {
            let reply = lent.query(b"SELECT LAST_INSERT_ID(), LAST_INSERT_ID(0)").await?;
            reply.cell().and_then(|cell| cell.parse().ok())
        };
        if let Some(id) = told {
            let before = lent.last_insert_id.replace(0);
            if before.is_some_and(|before| before != id) || (id == reported && id != 0) {
                self.last_insert_id = id;
            }
        }
        Ok(())
    }

    /// A transaction or a single write has ended: its users' next reads must see it.
    pub(super) fn close_transaction(&mut self, shard: ShardId, outcome: &Outcome, failed: bool) {
        let wrote =
            !failed && (outcome.position.is_some() || outcome.affected_rows > 0 || self.written.len() > 1);
        if !shard.is_global() && (wrote || self.transaction != Transaction::None) {
            for key in &self.written {
                self.shared.watermarks.wrote(shard, key, outcome.position.clone());
            }
        }
        self.end_transaction();
    }
}

/// FLUSH STATUS sets the connection's counters to nothing: whoever asks for them next has to get these.
fn leaves_nothing(text: &[u8]) -> bool {
    let mut words =
        text.split(|byte| byte.is_ascii_whitespace() || *byte == b';').filter(|word| !word.is_empty());
    let mut is = |word: &[u8]| words.next().is_some_and(|next| next.eq_ignore_ascii_case(word));
    is(b"FLUSH") && is(b"STATUS") && words.next().is_none()
}

/// Whether FOUND_ROWS() counts the rows of this answer: it does those of SELECT, and of SHOW where a server looks into
/// `information_schema` for it.
fn counts_found_rows(order: &Order<'_>) -> bool {
    const OTHERWISE: [&[u8]; 8] =
        [b"CREATE", b"GRANTS", b"BINARY", b"BINLOG", b"MASTER", b"SLAVE", b"REPLICA", b"REPLICAS"];
    match order.plan.kind {
        PlanKind::Show(ShowKind::Warnings | ShowKind::Errors | ShowKind::Processlist)
        | PlanKind::Admin
        | PlanKind::Explain
        | PlanKind::Other => false,
        PlanKind::Show(ShowKind::Other) => {
            let text = match &order.body {
                Body::Text(packets) => packets.get(COM_QUERY_TEXT_AT..).unwrap_or_default(),
                Body::Execute { text, .. } => text,
                Body::FieldList(_) | Body::Simple(_) => return true,
            };
            let words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let what = words.skip(1).find(|word| !word.eq_ignore_ascii_case(b"ALL")).unwrap_or_default();
            !OTHERWISE.iter().any(|other| other.eq_ignore_ascii_case(what))
        }
        _ => true,
    }
}

/// Whether only the server knows what FOUND_ROWS() gives. Of a cursor its connection is asked once it matters.
fn asks_for_found(plan: &Plan, outcome: &Outcome, passed_over: Option<u64>) -> bool {
    let asks = match plan.uses.found {
        _ if plan.uses.calc_found_rows => return true,
        Found::Rows => false,
        Found::Behind(_) => outcome.rows == 0 || passed_over.is_none(),
        Found::Asked => true,
    };
    asks && outcome.had_rows && outcome.cursor.is_none()
}
