//! Running one statement: which server it goes to, and what is tried next if that one cannot take it.

mod admit;
mod bound;
mod exchange;
mod finish;
mod xa;

use std::fmt::Display;
use std::sync::Arc;

use usher_backend::{BackendError, Fault, Lent, Pool, Settings};
use usher_directory::State;
use usher_sql::{Kind as PlanKind, Plan, Target};
use usher_topology::{GtidPosition, Key, Server, Shard, ShardId, Want, choose};
use usher_wire::frame::frame;
use usher_wire::relay::Kind;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};
use usher_wire::status::Status;

use crate::diagnostics::asks_of_the_one_before;
use crate::hold::Hold;
use crate::in_flight::InFlight;
use crate::pins::Pins;
use crate::relay::{Broken, Outcome, Watch, interrupted, is_read_only};
use crate::route::Place;
use crate::session::{Answered, Bound, End, Served, Session, Stop, Transaction, Turn};
use crate::sessions::Wait;
use crate::text_prepare::Again;
use crate::watermark::Needs;

pub(crate) use admit::Verdict;
pub(crate) use exchange::under;

use admit::Admission;

/// Attempts of a read, each on another server where there is one.
pub(crate) const READ_ATTEMPTS: usize = 3;

/// What is sent for a statement.
#[derive(Debug)]
pub(crate) enum Body<'a> {
    /// Whole packets of COM_QUERY.
    Text(&'a [u8]),
    /// A packet of COM_FIELD_LIST.
    FieldList(&'a [u8]),
    /// A packet of a command that is answered by OK or ERR alone.
    Simple(&'a [u8]),
    /// A COM_STMT_EXECUTE packet, into which the server's statement id is put.
    Execute {
        /// The text to prepare where it is not prepared yet, and its hash.
        text: &'a [u8],
        hash: u128,
        packet: &'a mut [u8],
        /// Settings that decide what the text means.
        meant: &'a Settings,
        again: Again,
        /// A cursor is asked for. The server may send the rows all the same.
        cursor: bool,
    },
}

impl Body<'_> {
    fn answer(&self) -> Kind {
        match self {
            Self::Execute { cursor: true, .. } => Kind::Cursor,
            Self::Text(_) | Self::Execute { .. } => Kind::Query,
            Self::FieldList(_) => Kind::FieldList,
            Self::Simple(_) => Kind::Simple,
        }
    }

    fn asks_for_cursor(&self) -> bool {
        matches!(self, Self::Execute { cursor: true, .. })
    }

    /// The statement; empty if it came in several packets.
    pub(crate) fn text(&self) -> &[u8] {
        match self {
            Self::Text(packets) => {
                frame(packets).and_then(|found| found.payload.get(1..)).unwrap_or_default()
            }
            Self::Execute { text, .. } => text,
            Self::FieldList(_) | Self::Simple(_) => &[],
        }
    }
}

/// One statement to run.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) place: Place,
    /// The user, if it is one user's statement.
    pub(crate) key: Option<&'a Key>,
    pub(crate) body: Body<'a>,
    /// The generated id to report.
    pub(crate) insert_id: Option<u64>,
    /// The client asked for the writer.
    pub(crate) writer_hint: bool,
}

impl Order<'_> {
    fn loads_local_file(&self) -> bool {
        matches!(self.plan.kind, usher_sql::Kind::Load { local: true })
    }

    fn writes(&self) -> bool {
        self.plan.is_write || self.plan.needs_writer
    }
}

impl Session {
    /// Runs a statement where it belongs and answers the client.
    pub(crate) async fn run(&mut self, order: Order<'_>, turn: Turn) -> Served {
        if order.plan.is_write && order.key.is_none() && order.place.shard.is_global() {
            return Box::pin(self.run_unsharded(order, turn)).await;
        }
        self.run_placed(order, turn).await
    }

    /// A write that is unsharded by the catalog it was planned by. Whoever makes a sharded table of that name waits for
    /// it, and it waits for nobody: planned before and sent after, its rows would never be seen again.
    async fn run_unsharded(&mut self, order: Order<'_>, turn: Turn) -> Served {
        let shared = Arc::clone(&self.shared);
        InFlight::unsharded(&self.slot, order.plan.catalog);
        let served = if shared.catalog.load().version() == order.plan.catalog {
            self.run_placed(order, turn).await
        } else {
            let why = Failure::new(ErrorId::CatalogChanged).executed(Executed::No);
            Err(why.note("the tables changed while it was on its way").safe_to_retry().into())
        };
        shared.in_flight.unsharded_over(&self.slot);
        served
    }

    async fn run_placed(&mut self, mut order: Order<'_>, turn: Turn) -> Served {
        self.let_go_of_kept();
        self.drop_soft_that_is_lost();
        if !self.next_transaction.is_empty() && !begins_transaction(order.plan) {
            return Box::pin(self.run_aside(order, turn)).await;
        }
        // What is held on another shard for other reasons is not a way around the open transaction.
        let beside = self.is_open_beside(order.place.shard);
        let bound = self.bound.iter().position(|bound| bound.shard == order.place.shard);
        if let Some(at) = bound.filter(|_| !beside) {
            return self.run_bound(at, order, turn).await;
        }
        if let Transaction::Open(_) = self.transaction {
            return Err(self.crosses(order.place.shard, order.key));
        }
        let opens = self.transaction != Transaction::None || !self.autocommit;
        if order.writes() || opens || !self.next_transaction.is_empty() {
            self.run_on_writer(&mut order, turn).await
        } else {
            self.run_read(&mut order, turn).await
        }
    }

    /// Nothing is lost with a connection that the session can do without.
    fn drop_soft_that_is_lost(&mut self) {
        let is_lost = |bound: &Bound| bound.lent.is_shut_out() || !self.is_writer(bound);
        if let Some(at) = self.bound.iter().position(|bound| self.can_do_without(bound) && is_lost(bound)) {
            self.bound.swap_remove(at).lent.discard();
        }
    }

    /// Why a statement for this shard cannot run in the transaction that is open on another.
    pub(crate) fn crosses(&self, shard: ShardId, key: Option<&Key>) -> Stop {
        if key.is_some_and(|key| InFlight::has_key(&self.slot, key)) {
            let left = Failure::new(ErrorId::FenceClosed);
            return left.executed(Executed::No).safe_to_retry().into();
        }
        let state = self.shared.directory.state();
        let name = |id| state.topology.shard(id).map_or("?", |shard: &Shard| shard.name.as_str());
        let open = match self.transaction {
            Transaction::Open(open) => name(open),
            _ => "?",
        };
        Failure::new(ErrorId::CrossShardTransaction)
            .field("shard", name(shard))
            .field("transaction", open)
            .executed(Executed::No)
            .into()
    }

    /// A connection with the session's settings. Who has to wait for one is seen to.
    pub(crate) async fn lend(&self, pool: &Arc<Pool>) -> Result<Lent, BackendError> {
        if let Some(lent) = pool.try_checkout(&self.settings) {
            return Ok(lent);
        }
        self.handle.wait_for(Wait::Connection);
        let lent = pool.checkout(&self.settings).await;
        self.handle.wait_for(Wait::Nothing);
        lent
    }

    /// A read outside of a transaction: any server that is fresh enough, and another if that one is lost.
    async fn run_read(&mut self, order: &mut Order<'_>, turn: Turn) -> Served {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let last = attempt == READ_ATTEMPTS;
            let (pool, is_writer) = self.choose_for_read(order, last)?;
            let shared = match order.body.asks_for_cursor() {
                true => self.take_cursors_on(pool.server().id),
                false => None,
            };
            let (lent, pins) = match shared {
                Some(bound) => (self.bring_cursors(bound.lent).await, bound.pins),
                None => (self.lend(&pool).await, Pins::default()),
            };
            let mut lent = match lent {
                Ok(lent) => lent,
                Err(error) if last || !is_connection(&error) => return Err(self.checkout_stop(error, order)),
                Err(_) => {
                    self.shared.metrics.retried.inc();
                    order.place = self.another_place(order.place);
                    continue;
                }
            };
            let counter =
                if is_writer { &self.shared.metrics.to_writer } else { &self.shared.metrics.to_copy };
            counter.inc();
            match self.exchange(&mut lent, order, turn, Watch::default()).await {
                Ok(outcome) => {
                    let bound = Bound { shard: order.place.shard, lent, pins };
                    return self.finish_bound(bound, outcome, order).await;
                }
                // A KILL has ended its thread on the server, too.
                Err(Broken::Server { .. }) if self.handle.is_ended() => {
                    lent.discard();
                    return Err(End::Refused(ErrorId::Killed).into());
                }
                Err(Broken::Server { fault, forwarded: false, .. }) if !last => {
                    tracing::debug!(server = %lent.server().name, %fault, "read is tried again");
                    lent.discard();
                    self.shared.metrics.retried.inc();
                    order.place = self.another_place(order.place);
                }
                Err(broken) => return self.broken(lent, broken, order, false).await,
            }
        }
    }

    /// The next shard whose writer is up, for what any shard can answer: that a writer is down is known to the monitor
    /// only a moment later.
    pub(crate) fn another_place(&self, place: Place) -> Place {
        if !place.or_another {
            return place;
        }
        let state = self.shared.directory.state();
        let health = self.shared.monitor.health();
        let shards = &state.topology.shards;
        let at = shards.iter().position(|shard| shard.id == place.shard).unwrap_or_default();
        let others = shards.iter().cycle().skip(at + 1).take(shards.len());
        let up = others.into_iter().find(|shard| health.get(&shard.writer).is_some_and(|seen| seen.up));
        Place { shard: up.map_or(place.shard, |shard| shard.id), ..place }
    }

    /// Outside of any transaction of the client's: a statement that touches no table, or that can find nothing. It
    /// neither opens nor needs a transaction, so it does not decide where the client's goes.
    pub(crate) async fn run_aside(&mut self, mut order: Order<'_>, turn: Turn) -> Served {
        let bound = self.bound.iter().position(|bound| bound.shard == order.place.shard);
        let in_it = matches!(self.transaction, Transaction::Open(shard) if shard == order.place.shard);
        if let Some(at) = bound.filter(|_| in_it) {
            return self.run_bound(at, order, turn).await;
        }
        self.let_go_of_kept();
        let own = Arc::clone(&self.settings);
        let shows_autocommit =
            order.plan.of_variables || order.plan.uses.system_vars.iter().any(|name| name == "autocommit");
        // On MySQL a SET clears what these ask for. They begin no transaction.
        let asks = asks_of_the_one_before(order.plan)
            && matches!(order.plan.target, Target::AnyServer | Target::Session);
        if !self.autocommit && !shows_autocommit && !asks {
            self.settings = self.settings.edit().unset("autocommit").build();
        }
        self.aside = Some(self.status());
        let in_transaction = std::mem::replace(&mut self.transaction, Transaction::None);
        // The transaction's entry and what it wrote are not this statement's to end.
        let entered = std::mem::take(&mut self.entered);
        let written = std::mem::take(&mut self.written);
        let cleared = std::mem::take(&mut self.cleared);
        let branch = self.branch.take();
        // Nor is what a move and a flip wait for.
        let open = matches!(in_transaction, Transaction::Open(_));
        if open {
            let own = self.shared.in_flight.register();
            self.parked = Some(std::mem::replace(&mut self.slot, own));
        }
        let next = std::mem::take(&mut self.next_transaction);
        let before = Arc::clone(&self.settings);
        let served = match bound {
            Some(at) => self.run_bound(at, order, turn).await,
            None => self.run_read(&mut order, turn).await,
        };
        self.aside = None;
        if let Some(slot) = self.parked.take() {
            let own = std::mem::replace(&mut self.slot, slot);
            self.shared.in_flight.leave(&own);
            self.shared.in_flight.unregister(&own);
        }
        (self.transaction, self.entered) = (in_transaction, entered);
        (self.written, self.cleared) = (written, cleared);
        (self.branch, self.next_transaction) = (branch, next);
        if Arc::ptr_eq(&self.settings, &before) {
            self.settings = own;
        } else if !self.autocommit {
            // The statement has changed settings.
            self.settings = self.settings.edit().variable("autocommit", "0").build();
        }
        served
    }

    /// Whether the open transaction is on another shard than this one.
    fn is_open_beside(&self, shard: ShardId) -> bool {
        matches!(self.transaction, Transaction::Open(open) if open != shard)
    }

    /// Whether its connection may have to stay with the session, which a copy's cannot: what is written later goes to
    /// the writer.
    fn may_leave_state(&self, plan: &Plan) -> bool {
        self.obscure || !plan.uses.writes_user_vars.is_empty()
    }

    fn choose_for_read(&mut self, order: &Order<'_>, last: bool) -> Result<(Arc<Pool>, bool), Stop> {
        let state = self.shared.directory.state();
        let shard = find(&state, order.place.shard)?;
        let needs = self.shared.watermarks.needs(shard.id, order.key);
        let writer_only = order.place.from_writer
            || order.writer_hint
            || shard.id.is_global()
            || self.may_leave_state(order.plan)
            || matches!(needs, Needs::Writer);
        let want = match &needs {
            _ if writer_only => Want::Writer,
            Needs::Position(position) => {
                Want::Read { lag_ms_max: self.shared.limits.lag_ms_max, watermark: Some(position) }
            }
            _ => Want::Read { lag_ms_max: self.shared.limits.lag_ms_max, watermark: None },
        };
        self.turn = self.turn.wrapping_add(1);
        let health = self.shared.monitor.health();
        let choice = choose(shard, if last { Want::Writer } else { want }, self.turn, |id| health.get(&id));
        let is_writer = choice.server == shard.writer;
        if is_writer && matches!(needs, Needs::Position(_)) && !order.place.from_writer {
            self.shared.metrics.watermark_reads.inc();
        }
        let pool = self.shared.pools.of(choice.server).map_err(|error| self.checkout_stop(error, order))?;
        Ok((pool, is_writer))
    }

    /// A write, or the first statement of a transaction: on the writer, held while the shard or the user is between
    /// two places.
    async fn run_on_writer(&mut self, order: &mut Order<'_>, turn: Turn) -> Served {
        let shared = Arc::clone(&self.shared);
        let in_transaction = self.transaction != Transaction::None;
        let handle = Arc::clone(&self.handle);
        let mut hold = Hold::new(&shared, &handle, in_transaction);
        loop {
            self.cleared.clear();
            let leave =
                self.admit(order, &mut hold).await.inspect_err(|_| shared.in_flight.leave(&self.slot))?;
            match self.try_on_writer(order, &leave, turn).await {
                Ok(Tried::Answered(answered)) => return Ok(answered),
                Ok(Tried::Later(why)) => {
                    shared.in_flight.leave(&self.slot);
                    hold.wait_moment(leave.version, &why).await?;
                    shared.metrics.retried.inc();
                }
                Err(stop) => {
                    if !matches!(self.transaction, Transaction::Open(_)) {
                        shared.in_flight.leave(&self.slot);
                    }
                    return Err(stop);
                }
            }
        }
    }

    async fn try_on_writer(
        &mut self,
        order: &mut Order<'_>,
        leave: &Admission,
        turn: Turn,
    ) -> Result<Tried, Stop> {
        let pool = match self.shared.pools.of(leave.writer) {
            Ok(pool) => pool,
            Err(error) => return Err(self.checkout_stop(error, order)),
        };
        let mut lent = match self.lend(&pool).await {
            Ok(lent) => lent,
            Err(error) if is_connection(&error) => {
                let why = Failure::new(ErrorId::ShardUnreachable).field("server", &pool.server().name);
                return Ok(Tried::Later(why.note(error.to_string())));
            }
            Err(error) => return Err(self.checkout_stop(error, order)),
        };
        if self.shared.directory.era() != leave.era {
            // Admitted before this proxy was shut out, and perhaps connected after it was let in again: what it was
            // admitted by may have changed in between.
            return Ok(Tried::Later(
                Failure::new(ErrorId::BackendLost).note("the proxy was revoked meanwhile"),
            ));
        }
        self.shared.metrics.to_writer.inc();
        let own = self.transaction == Transaction::None && self.autocommit && leave.fence.is_some();
        let begun = self.begin_on(&mut lent, own).await;
        // Also for what a transaction begins with: the target may not own the user yet, and it is to write there later.
        let fences = order.writes() || matches!(self.transaction, Transaction::Pending { .. });
        let fenced = match (begun, leave.fence, order.key) {
            (Ok(()), Some(own_gen), Some(key)) if fences => self.fence(&mut lent, key, own_gen).await,
            (begun, ..) => begun.map(|()| true),
        };
        match fenced {
            Ok(true) => {
                // A read that took no lock leaves a write that comes later to be let in by itself.
                if let Some(key) = order.key.filter(|_| order.writes() || fences && leave.fence.is_some()) {
                    self.cleared.push(key.clone());
                }
            }
            Ok(false) => {
                lent.dirty = true;
                return Ok(Tried::Later(Failure::new(ErrorId::FenceClosed)));
            }
            Err(Start::Refused(_, payload)) if is_read_only(&payload) => {
                lent.dirty = true;
                return Ok(Tried::Later(read_only(lent.server())));
            }
            Err(Start::Refused(_, payload)) => {
                lent.dirty = true;
                return Err(Stop::Pass(payload));
            }
            Err(Start::Lost(fault)) => {
                let why = Failure::new(ErrorId::BackendLost).field("server", &lent.server().name);
                lent.discard();
                return Ok(Tried::Later(why.note(fault.to_string())));
            }
        }
        // A procedure may have committed parts of its work before it came to that.
        let intercept = order.plan.kind != PlanKind::Call;
        let watch = Watch {
            intercept,
            insert_id: order.insert_id,
            hide_transaction: own,
            local_file: order.loads_local_file(),
            several: order.plan.kind == PlanKind::Call,
            held: false,
        };
        match self.exchange(&mut lent, order, turn, watch).await {
            Ok(outcome) if outcome.intercepted.is_some() => {
                // Nothing of this transaction has been done: it begins anew on the right server.
                lent.dirty |= lent.status.has(Status::IN_TRANS);
                let why = read_only(lent.server());
                Ok(Tried::Later(why))
            }
            Ok(outcome) if own => {
                let outcome = self.commit_own(&mut lent, outcome).await?;
                self.finish(lent, outcome, order).await.map(Tried::Answered)
            }
            Ok(outcome) => {
                if lent.status.has(Status::IN_TRANS) {
                    self.transaction = Transaction::Open(leave.shard);
                }
                self.finish(lent, outcome, order).await.map(Tried::Answered)
            }
            Err(broken) => {
                let in_transaction = lent.status.has(Status::IN_TRANS) && !own;
                self.broken(lent, broken, order, in_transaction).await.map(Tried::Answered)
            }
        }
    }

    /// Begins the client's pending transaction, or one of our own, on this connection.
    async fn begin_on(&mut self, lent: &mut Lent, own: bool) -> Result<(), Start> {
        for statement in &self.next_transaction {
            said(lent.query(statement).await)?;
        }
        if let Transaction::Pending { statements, .. } = &self.transaction {
            for statement in statements {
                said(lent.query(statement).await)?;
            }
            self.read_only = lent.status.has(Status::IN_TRANS_READONLY);
        } else if own {
            said(lent.query(b"START TRANSACTION").await)?;
        }
        Ok(())
    }

    /// Ends the transaction of our own around a fenced write.
    async fn commit_own(&mut self, lent: &mut Lent, mut outcome: Outcome) -> Result<Outcome, Stop> {
        let end: &[u8] = if outcome.error.is_some() { b"ROLLBACK" } else { b"COMMIT" };
        outcome.position = self.end_own(lent, end).await?.or(outcome.position);
        Ok(outcome)
    }

    async fn end_own(&mut self, lent: &mut Lent, how: &[u8]) -> Result<Option<Arc<GtidPosition>>, Stop> {
        match said(lent.query(how).await) {
            Ok(reply) => Ok(position(reply.gtid)),
            Err(Start::Refused(_, payload)) => {
                lent.dirty = true;
                Err(Stop::Pass(payload))
            }
            Err(Start::Lost(fault)) => {
                let failure = lost(lent.server(), &fault, ErrorId::OutcomeUnknown, Executed::Unknown);
                lent.discard();
                Err(failure.into())
            }
        }
    }

    /// The failure of a statement whose server was lost.
    async fn broken(
        &mut self,
        mut lent: Lent,
        broken: Broken,
        order: &Order<'_>,
        in_transaction: bool,
    ) -> Served {
        let stop = match broken {
            Broken::Client(error) => Stop::End(End::Io(error)),
            Broken::Server { fault, forwarded: false, .. } => {
                let (id, executed) = match (may_be_done(order, in_transaction), in_transaction) {
                    (true, _) => (ErrorId::OutcomeUnknown, Executed::Unknown),
                    (false, true) => (ErrorId::BackendLostInTransaction, Executed::No),
                    (false, false) => (ErrorId::ShardUnreachable, Executed::No),
                };
                Stop::Fail(lost(lent.server(), &fault, id, executed))
            }
            Broken::Server { fault, seq: Some(seq), .. } => {
                let failure = torn(lent.server(), &fault, order);
                lent.discard();
                self.end_transaction();
                self.end_rows_with(seq, &failure).await?;
                if failure.id() == ErrorId::OutcomeUnknown {
                    return Err(End::Refused(failure.id()).into());
                }
                return Ok(Answered { failed: true, seq: seq.wrapping_add(1) });
            }
            Broken::Server { .. } => Stop::End(End::Torn),
        };
        lent.discard();
        self.end_transaction();
        Err(stop)
    }

    pub(crate) fn checkout_stop(&self, error: BackendError, order: &Order<'_>) -> Stop {
        if let BackendError::Settings { payload, .. } = error {
            return Stop::Pass(payload);
        }
        let state = self.shared.directory.state();
        let shard = state.topology.shard(order.place.shard).map_or("?", |shard| shard.name.as_str());
        checkout_failure(&error).field("shard", shard).into()
    }
}

/// What became of an attempt on the writer.
enum Tried {
    Answered(Answered),
    /// Nothing was executed; another attempt may find things changed.
    Later(Failure),
}

/// Why a statement of ours in front of the client's did not succeed.
pub(crate) enum Start {
    /// The server's error and its payload.
    Refused(u16, Vec<u8>),
    /// The connection is gone.
    Lost(Fault),
}

/// Takes a server's error for a refusal.
pub(crate) fn said(reply: Result<usher_backend::Reply, Fault>) -> Result<usher_backend::Reply, Start> {
    match reply {
        Ok(mut reply) => match reply.error.take() {
            None => Ok(reply),
            Some((code, payload)) => Err(Start::Refused(code, payload)),
        },
        Err(fault) => Err(Start::Lost(fault)),
    }
}

/// Whether a statement whose server was lost may have been carried out for good. In a transaction only one that
/// commits may have been: the rest is rolled back when its connection goes.
fn may_be_done(order: &Order<'_>, in_transaction: bool) -> bool {
    // What a read does to its session, or locks, goes with the connection. A stored function may do more.
    let plan = order.plan;
    if !in_transaction && (plan.is_write || plan.uses.unknown_function.is_some()) {
        return true;
    }
    return may_commit(&plan.kind);

    fn may_commit(kind: &PlanKind) -> bool {
        !matches!(
            kind,
            PlanKind::Read
                | PlanKind::LockingRead
                | PlanKind::Insert
                | PlanKind::Replace
                | PlanKind::Update
                | PlanKind::Delete
                | PlanKind::Rollback { .. }
                | PlanKind::Savepoint(_)
                | PlanKind::RollbackTo(_)
                | PlanKind::ReleaseSavepoint(_)
                | PlanKind::Show(_)
                | PlanKind::Describe
                | PlanKind::Explain
                | PlanKind::Use(_)
                | PlanKind::Do
                | PlanKind::GetDiagnostics
                | PlanKind::Signal
                | PlanKind::Empty
        )
    }
}

/// Whether a statement uses up what SET TRANSACTION has said of the next transaction.
fn begins_transaction(plan: &Plan) -> bool {
    !matches!(
        plan.kind,
        PlanKind::Show(_) | PlanKind::Describe | PlanKind::Explain | PlanKind::Do | PlanKind::GetDiagnostics
    )
}

fn find(state: &State, id: ShardId) -> Result<&Shard, Stop> {
    state.topology.shard(id).ok_or_else(|| {
        Failure::new(ErrorId::ShardUnreachable).field("shard", id).note("not in the topology").into()
    })
}

pub(crate) fn is_connection(error: &BackendError) -> bool {
    matches!(
        error,
        BackendError::Connect { .. }
            | BackendError::Refused { .. }
            | BackendError::ShutOut { .. }
            | BackendError::Unknown(_)
    )
}

pub(crate) fn checkout_failure(error: &BackendError) -> Failure {
    let id = match error {
        BackendError::Exhausted { .. } => ErrorId::PoolExhausted,
        BackendError::Refused { .. } => ErrorId::BackendLoginRefused,
        _ => ErrorId::ShardUnreachable,
    };
    Failure::new(id).note(error.to_string()).safe_to_retry()
}

/// Settings that a server had taken before are not what it refuses: the connection is not what it seems.
fn lost_between(error: BackendError) -> Fault {
    match error {
        BackendError::Connect { fault, .. } => fault,
        _ => Fault::Closed,
    }
}

fn unsent(fault: Fault) -> Broken {
    // Sending failed: the server may have read a part, but never a whole statement... unless all had left before the
    // error came, which a socket does not tell. A write therefore counts as of unknown outcome.
    Broken::Server { fault, forwarded: false, seq: None }
}

pub(crate) fn position(gtid: Option<String>) -> Option<Arc<GtidPosition>> {
    gtid.and_then(|gtid| GtidPosition::parse(&gtid).ok()).map(Arc::new)
}

/// The failure of a statement whose server was lost when a part of its answer had gone to the client.
fn torn(server: &Server, fault: &Fault, order: &Order<'_>) -> Failure {
    match order.writes() {
        true => lost(server, fault, ErrorId::OutcomeUnknown, Executed::Unknown),
        false => interrupted(&server.name, fault),
    }
}

fn read_only(server: &Server) -> Failure {
    Failure::new(ErrorId::NoWriter).field("server", &server.name).note("is read-only")
}

pub(crate) fn lost(server: &Server, why: &dyn Display, id: ErrorId, executed: Executed) -> Failure {
    Failure::new(id).field("server", &server.name).note(format!("{}: {why}", id.summary())).executed(executed)
}
