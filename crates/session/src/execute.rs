//! Running one statement on one server: admission, checkout, exchange, and what follows from the answer.

use std::sync::Arc;

use usher_backend::{BackendError, Fault, Lent, Pool};
use usher_directory::rows::MoveMode;
use usher_directory::{EntityState, State};
use usher_sql::{DdlKind, Kind as PlanKind, Plan};
use usher_topology::{
    Generation, GtidPosition, Key, Server, ServerId, Shard, ShardId, ShardState, Want, choose,
};
use usher_wire::command::{COM_PING, COM_STMT_CLOSE, COM_STMT_PREPARE};
use usher_wire::relay::Kind;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};
use usher_wire::status::Status;
use usher_wire::stmt::Execute;

use crate::hold::Hold;
use crate::in_flight::InFlight;
use crate::relay::{Broken, Outcome, Watch, interrupted, is_read_only};
use crate::route::Place;
use crate::session::{Answered, Bound, End, Served, Session, Stop, Transaction, Turn};
use crate::text_prepare::{Named, Naming};
use crate::user_vars::Owed;
use crate::watermark::Needs;

/// The server no longer knows a prepared statement.
const UNKNOWN_STATEMENT: u16 = 1243;
/// Attempts of a read, each on another server where there is one.
const READ_ATTEMPTS: usize = 3;
/// How often a user is looked up again when the state changes under the look-up.
const ADMIT_ATTEMPTS: usize = 8;

/// What is sent for a statement.
#[derive(Debug)]
pub(crate) enum Body<'a> {
    /// Whole packets of COM_QUERY.
    Text(&'a [u8]),
    /// A packet of COM_FIELD_LIST.
    FieldList(&'a [u8]),
    /// A COM_STMT_EXECUTE packet, into which the server's statement id is put.
    Execute {
        /// The text to prepare where it is not prepared yet, and its hash.
        text: &'a [u8],
        hash: u128,
        packet: &'a mut [u8],
    },
}

impl Body<'_> {
    fn answer(&self) -> Kind {
        match self {
            Self::Text(_) | Self::Execute { .. } => Kind::Query,
            Self::FieldList(_) => Kind::FieldList,
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

/// Leave to write.
#[derive(Debug)]
struct Admission {
    writer: ServerId,
    shard: ShardId,
    /// The ownership row must show this.
    fence: Option<Generation>,
    version: u64,
    /// Of the directory: another one since means that this proxy was shut out meanwhile.
    era: u64,
}

enum Verdict {
    Go(Option<Generation>),
    Hold(Failure),
    Refuse(Failure),
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
        self.kept = None;
        if !self.next_transaction.is_empty() && !begins_transaction(order.plan) {
            return Box::pin(self.run_aside(order, turn)).await;
        }
        // What is held on another shard for other reasons is not a way around the open transaction.
        let beside = self.is_open_beside(order.place.shard);
        let bound = self.bound.iter().position(|bound| bound.shard == order.place.shard);
        if let Some(at) = bound.filter(|_| !beside) {
            return self.run_bound(at, order, turn).await;
        }
        if let Transaction::Open(shard) = self.transaction {
            if order.key.is_some_and(|key| InFlight::has_key(&self.slot, key)) {
                let left = Failure::new(ErrorId::FenceClosed);
                return Err(left.executed(Executed::No).safe_to_retry().into());
            }
            let state = self.shared.directory.state();
            let name = |id| state.topology.shard(id).map_or("?", |shard: &Shard| shard.name.as_str());
            return Err(Failure::new(ErrorId::CrossShardTransaction)
                .field("shard", name(order.place.shard))
                .field("transaction", name(shard))
                .executed(Executed::No)
                .into());
        }
        let opens = self.transaction != Transaction::None || !self.autocommit;
        if order.writes() || opens || !self.next_transaction.is_empty() {
            self.run_on_writer(&mut order, turn).await
        } else {
            self.run_read(&mut order, turn).await
        }
    }

    /// A read outside of a transaction: any server that is fresh enough, and another if that one is lost.
    async fn run_read(&mut self, order: &mut Order<'_>, turn: Turn) -> Served {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let last = attempt == READ_ATTEMPTS;
            let (pool, is_writer) = self.choose_for_read(order, last)?;
            let mut lent = match pool.checkout(&self.settings).await {
                Ok(lent) => lent,
                Err(error) if last || !is_connection(&error) => return Err(self.checkout_stop(error, order)),
                Err(_) => {
                    self.shared.metrics.retried.inc();
                    continue;
                }
            };
            let counter =
                if is_writer { &self.shared.metrics.to_writer } else { &self.shared.metrics.to_copy };
            counter.inc();
            match self.exchange(&mut lent, order, turn, Watch::default()).await {
                Ok(outcome) => return self.finish(lent, outcome, order).await,
                Err(Broken::Server { fault, forwarded: false, .. }) if !last => {
                    tracing::debug!(server = %lent.server().name, %fault, "read is tried again");
                    lent.discard();
                    self.shared.metrics.retried.inc();
                }
                Err(broken) => return self.broken(lent, broken, order, false).await,
            }
        }
    }

    /// Outside of any transaction of the client's: a statement that touches no table, or that can find nothing. It
    /// neither opens nor needs a transaction, so it does not decide where the client's goes.
    pub(crate) async fn run_aside(&mut self, mut order: Order<'_>, turn: Turn) -> Served {
        let bound = self.bound.iter().position(|bound| bound.shard == order.place.shard);
        let in_it = matches!(self.transaction, Transaction::Open(shard) if shard == order.place.shard);
        if let Some(at) = bound.filter(|_| in_it) {
            return self.run_bound(at, order, turn).await;
        }
        self.kept = None;
        let own = Arc::clone(&self.settings);
        let shows_autocommit = order.plan.uses.system_vars.iter().any(|name| name == "autocommit");
        if !self.autocommit && !shows_autocommit {
            self.settings = self.settings.edit().unset("autocommit").build();
        }
        self.aside = Some(self.status());
        let in_transaction = std::mem::replace(&mut self.transaction, Transaction::None);
        // The transaction's entry and what it wrote are not this statement's to end.
        let entered = std::mem::take(&mut self.entered);
        let written = std::mem::take(&mut self.written);
        let cleared = std::mem::take(&mut self.cleared);
        let next = std::mem::take(&mut self.next_transaction);
        let before = Arc::clone(&self.settings);
        let served = match bound {
            Some(at) => self.run_bound(at, order, turn).await,
            None => self.run_read(&mut order, turn).await,
        };
        self.aside = None;
        (self.transaction, self.entered) = (in_transaction, entered);
        (self.written, self.cleared) = (written, cleared);
        self.next_transaction = next;
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

    fn choose_for_read(&mut self, order: &Order<'_>, last: bool) -> Result<(Arc<Pool>, bool), Stop> {
        let state = self.shared.directory.state();
        let shard = find(&state, order.place.shard)?;
        let needs = self.shared.watermarks.needs(shard.id, order.key);
        let writer_only = order.place.from_writer
            || order.writer_hint
            || shard.id.is_global()
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

    /// Waits until the statement may go, and enters it as under way. Whoever changes the deployment from then on
    /// waits for it.
    async fn admit(&mut self, order: &mut Order<'_>, hold: &mut Hold<'_>) -> Result<Admission, Stop> {
        for _ in 0..ADMIT_ATTEMPTS {
            let era = self.shared.directory.era();
            let state = self.shared.directory.state();
            let shard = find(&state, order.place.shard)?;
            match self.judge(&state, shard, order) {
                Verdict::Refuse(failure) => return Err(failure.into()),
                Verdict::Hold(why) => {
                    hold.wait_newer(state.version, &why).await?;
                    self.relocate(order).await?;
                }
                Verdict::Go(fence) => {
                    self.entered = true;
                    InFlight::enter(&self.slot, shard.id, order.key, state.version);
                    let current = Arc::ptr_eq(&state, &self.shared.directory.state());
                    let there = current && self.is_still_there(&state, order).await?;
                    if there && Arc::ptr_eq(&state, &self.shared.directory.state()) {
                        let (writer, shard) = (shard.writer, shard.id);
                        return Ok(Admission { writer, shard, fence, version: state.version, era });
                    }
                    self.shared.in_flight.leave(&self.slot);
                    self.relocate(order).await?;
                    let moving = order.key.and_then(|key| state.moving.get(key));
                    if current && moving.is_some_and(|moving| moving.located.shard != order.place.shard) {
                        // The directory already says the target and the state still the source: the move has just
                        // been committed, and the next state says so.
                        let why =
                            Failure::new(ErrorId::HoldExpired).note("the user's move is being committed");
                        hold.wait_newer(state.version, &why).await?;
                    }
                }
            }
        }
        Err(Failure::new(ErrorId::DirectoryBusy)
            .note("the user's place kept changing while it was looked up")
            .safe_to_retry()
            .into())
    }

    /// Whether the user lives where the statement is about to go, by the state that lets it go.
    async fn is_still_there(&self, state: &State, order: &Order<'_>) -> Result<bool, Stop> {
        let Some(key) = order.key.filter(|_| !order.place.shard.is_global()) else { return Ok(true) };
        if let Some(moving) = state.moving.get(key) {
            return Ok(moving.located.shard == order.place.shard);
        }
        let located = match self.shared.directory.cached(key) {
            Some(located) => located,
            None => self.locate(key).await?,
        };
        Ok(located.is_some_and(|located| located.shard == order.place.shard))
    }

    async fn relocate(&mut self, order: &mut Order<'_>) -> Result<(), Stop> {
        if let Some(key) = order.key
            && !order.place.shard.is_global()
            && let Some(located) = self.locate(key).await?
        {
            order.place = Place::of(located);
        }
        Ok(())
    }

    /// Whether a write may go to this shard now.
    fn judge(&self, state: &State, shard: &Shard, order: &Order<'_>) -> Verdict {
        match shard.state {
            ShardState::Rw => {}
            ShardState::Switching | ShardState::Down => {
                let note = if shard.state == ShardState::Switching { "flipping" } else { "has no writer" };
                return Verdict::Hold(
                    Failure::new(ErrorId::HoldExpired).field("shard", &shard.name).note(note),
                );
            }
            ShardState::Ro => {
                let failure = Failure::new(ErrorId::NoWriter).field("shard", &shard.name);
                return Verdict::Refuse(failure.executed(Executed::No));
            }
        }
        let Some((key, moving)) = order.key.and_then(|key| Some((key, state.moving.get(key)?))) else {
            return Verdict::Go(None);
        };
        match moving.located.state {
            EntityState::Active => Verdict::Go(None),
            EntityState::Moving | EntityState::Settling => Verdict::Go(Some(moving.located.own_gen)),
            EntityState::Locked if !self.reads_only(order) => {
                let to = state.topology.shard(moving.row.dst).map_or("?", |shard| shard.name.as_str());
                let failure = locked(key, to, moving.row.eta_ms, self.transaction != Transaction::None);
                match moving.row.mode {
                    MoveMode::Locked => Verdict::Refuse(failure),
                    MoveMode::Online => Verdict::Hold(failure),
                }
            }
            EntityState::Locked => Verdict::Go(None),
        }
    }

    fn reads_only(&self, order: &Order<'_>) -> bool {
        !order.writes()
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
        let mut lent = match pool.checkout(&self.settings).await {
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
        let fenced = match (begun, leave.fence, order.key) {
            (Ok(()), Some(own_gen), Some(key)) if order.writes() => self.fence(&mut lent, key, own_gen).await,
            (begun, ..) => begun.map(|()| true),
        };
        match fenced {
            Ok(true) => {
                if let Some(key) = order.key.filter(|_| order.writes()) {
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
        } else if own {
            said(lent.query(b"START TRANSACTION").await)?;
        }
        Ok(())
    }

    /// Checks, and locks against the mover, that this shard owns the user: `false` if it does not.
    async fn fence(&mut self, lent: &mut Lent, key: &Key, own_gen: Generation) -> Result<bool, Start> {
        self.shared.metrics.fenced.inc();
        let quoted = key.to_string().replace('\\', "\\\\").replace('\'', "''");
        let statement = format!(
            "SELECT 1 FROM usher.ownership WHERE entity = 'user' AND entity_key = '{quoted}' \
             AND own_gen = {own_gen} AND state = 'owned' LOCK IN SHARE MODE"
        );
        let reply = said(lent.query(statement.as_bytes()).await)?;
        Ok(!reply.rows.is_empty())
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

    /// On a connection that the session holds already: of its transaction, or pinned.
    pub(crate) async fn run_bound(&mut self, at: usize, mut order: Order<'_>, turn: Turn) -> Served {
        let mut bound = self.bound.swap_remove(at);
        let served = self.run_on_bound(&mut bound, &mut order, turn).await;
        let outcome = match served {
            Ok(Some(outcome)) => outcome,
            Ok(None) => {
                // The user lives elsewhere by now; the state on this connection stays with the session.
                self.shared.in_flight.leave(&self.slot);
                self.bound.push(bound);
                return Box::pin(self.run_on_writer(&mut order, turn)).await;
            }
            Err(Stop::End(end)) => {
                self.end_transaction();
                return Err(end.into());
            }
            Err(stop) => {
                self.hold_on_to(bound).await;
                return Err(stop);
            }
        };
        self.shared.metrics.to_writer.inc();
        self.finish_bound(bound, outcome, &order).await
    }

    /// Keeps a connection, and the client's transaction on it, after a statement that was not carried out.
    async fn hold_on_to(&mut self, mut bound: Bound) {
        if matches!(self.transaction, Transaction::Open(shard) if shard == bound.shard) {
            match bound.lent.is_discarded() {
                true => self.end_transaction(),
                false => self.bound.push(bound),
            }
            return;
        }
        self.entered = false;
        self.shared.in_flight.leave(&self.slot);
        if bound.lent.is_discarded() {
            return;
        }
        // A transaction of our own around the statement.
        if bound.lent.status.has(Status::IN_TRANS) && said(bound.lent.query(b"ROLLBACK").await).is_err() {
            bound.lent.discard();
            return;
        }
        self.bound.push(bound);
    }

    /// `None`: nothing was done, as the user does not live here.
    async fn run_on_bound(
        &mut self,
        bound: &mut Bound,
        order: &mut Order<'_>,
        turn: Turn,
    ) -> Result<Option<Outcome>, Stop> {
        let open = matches!(self.transaction, Transaction::Open(shard) if shard == bound.shard);
        if bound.pinned && !open && !self.is_writer(bound) {
            let gone =
                Fault::Protocol(usher_wire::Error::Misuse("the shard's writer is another server by now"));
            return Err(self.lost_bound(bound, &gone, false).into());
        }
        if bound.lent.is_shut_out() {
            return Err(self.lost_bound(bound, &Fault::Closed, false).into());
        }
        self.bring_settings(bound).await?;
        let fence = match order.writes() {
            true => match self.admit_bound(bound, open, order).await? {
                Admitted::Here(fence) => fence,
                Admitted::Elsewhere if open => {
                    return Err(Failure::new(ErrorId::FenceClosed).safe_to_retry().into());
                }
                Admitted::Elsewhere => return Ok(None),
            },
            false => {
                if let Some(key) = order.key.filter(|_| open) {
                    InFlight::enter(
                        &self.slot,
                        bound.shard,
                        Some(key),
                        self.shared.directory.state().version,
                    );
                }
                None
            }
        };
        let own = fence.is_some() && self.autocommit && self.transaction == Transaction::None;
        if !open {
            self.begin_bound(bound, own).await?;
        }
        if let (Some(own_gen), Some(key)) = (fence, order.key)
            && !self.fence_bound(bound, key, own_gen).await?
        {
            if own {
                self.end_own(&mut bound.lent, b"ROLLBACK").await?;
                return Ok(None);
            }
            return Err(Failure::new(ErrorId::FenceClosed).safe_to_retry().into());
        }
        let watch = Watch {
            intercept: false,
            insert_id: order.insert_id,
            hide_transaction: own,
            local_file: order.loads_local_file(),
            several: order.plan.kind == PlanKind::Call,
        };
        match self.exchange(&mut bound.lent, order, turn, watch).await {
            Ok(outcome) if own => self.commit_own(&mut bound.lent, outcome).await.map(Some),
            Ok(outcome) => Ok(Some(outcome)),
            Err(Broken::Server { fault, forwarded: false, .. }) => {
                let in_transaction = self.transaction != Transaction::None;
                let unknown = may_be_done(order, in_transaction);
                Err(self.lost_bound(bound, &fault, unknown).into())
            }
            Err(Broken::Server { fault, seq, .. }) => {
                let failure = torn(bound.lent.server(), &fault, order);
                bound.lent.discard();
                self.end_transaction();
                match seq {
                    Some(seq) => {
                        self.end_rows_with(seq, &failure).await?;
                        Err(End::Refused(ErrorId::SessionStateLost).into())
                    }
                    None => Err(End::Torn.into()),
                }
            }
            Err(Broken::Client(error)) => {
                bound.lent.discard();
                Err(End::Io(error).into())
            }
        }
    }

    fn is_writer(&self, bound: &Bound) -> bool {
        let state = self.shared.directory.state();
        state.topology.shard(bound.shard).is_some_and(|shard| shard.writer == bound.lent.server().id)
    }

    /// Begins what is pending, or a transaction of our own, on a connection that the session holds.
    async fn begin_bound(&mut self, bound: &mut Bound, own: bool) -> Result<(), Stop> {
        let pending = matches!(self.transaction, Transaction::Pending { .. });
        match self.begin_on(&mut bound.lent, own).await {
            Ok(()) => {}
            Err(Start::Refused(_, payload)) => return Err(Stop::Pass(payload)),
            Err(Start::Lost(fault)) => return Err(self.lost_bound(bound, &fault, false).into()),
        }
        if pending {
            self.transaction = Transaction::Open(bound.shard);
        }
        Ok(())
    }

    /// Lets a write in on a connection that the session holds.
    async fn admit_bound(
        &mut self,
        bound: &mut Bound,
        open: bool,
        order: &mut Order<'_>,
    ) -> Result<Admitted, Stop> {
        let shared = Arc::clone(&self.shared);
        let handle = Arc::clone(&self.handle);
        let mut hold = Hold::new(&shared, &handle, self.transaction != Transaction::None);
        if !open {
            let leave = self.admit(order, &mut hold).await?;
            let here = order.place.shard == bound.shard;
            return Ok(if here { Admitted::Here(leave.fence) } else { Admitted::Elsewhere });
        }
        match order.key {
            Some(key) if !self.cleared.contains(key) => {
                // What the transaction has read stays in its slot: a move waits for it.
                let touched = InFlight::has_key(&self.slot, key);
                let admitted = self.admit_key(bound, key, order, &mut hold).await;
                match admitted {
                    Ok(true) => self.cleared.push(key.clone()),
                    _ if touched => {}
                    _ => shared.in_flight.leave_key(&self.slot, key),
                }
                Ok(if admitted? { Admitted::Here(None) } else { Admitted::Elsewhere })
            }
            _ => Ok(Admitted::Here(None)),
        }
    }

    /// Lets a further user's first write into the open transaction, by the same rules as the first user's.
    async fn admit_key(
        &mut self,
        bound: &mut Bound,
        key: &Key,
        order: &Order<'_>,
        hold: &mut Hold<'_>,
    ) -> Result<bool, Stop> {
        let touched = InFlight::has_key(&self.slot, key);
        for _ in 0..ADMIT_ATTEMPTS {
            let state = self.shared.directory.state();
            self.entered = true;
            InFlight::enter(&self.slot, bound.shard, Some(key), state.version);
            let there = self.is_still_there(&state, order).await?;
            if !Arc::ptr_eq(&state, &self.shared.directory.state()) {
                continue;
            }
            let Some(moving) = state.moving.get(key) else { return Ok(there) };
            match (moving.located.state, moving.row.mode) {
                (EntityState::Active, _) => return Ok(there),
                (EntityState::Moving | EntityState::Settling, _) => {
                    return Ok(there && self.fence_bound(bound, key, moving.located.own_gen).await?);
                }
                (EntityState::Locked, mode) => {
                    let to = state.topology.shard(moving.row.dst).map_or("?", |shard| shard.name.as_str());
                    let failure = locked(key, to, moving.row.eta_ms, true);
                    if mode == MoveMode::Locked {
                        return Err(failure.into());
                    }
                    if !touched {
                        // The cutover must not wait for this write while it waits for the cutover.
                        self.shared.in_flight.leave_key(&self.slot, key);
                    }
                    hold.wait_newer(state.version, &failure).await?;
                }
            }
        }
        Ok(false)
    }

    async fn fence_bound(&mut self, bound: &mut Bound, key: &Key, own_gen: Generation) -> Result<bool, Stop> {
        match self.fence(&mut bound.lent, key, own_gen).await {
            Ok(owned) => Ok(owned),
            Err(Start::Refused(_, payload)) => Err(Stop::Pass(payload)),
            Err(Start::Lost(fault)) => Err(self.lost_bound(bound, &fault, false).into()),
        }
    }

    async fn bring_settings(&mut self, bound: &mut Bound) -> Result<(), Stop> {
        match bound.lent.bring_to(&self.settings).await {
            Ok(()) => Ok(()),
            Err(BackendError::Settings { payload, .. }) => Err(Stop::Pass(payload)),
            Err(error) => {
                bound.lent.discard();
                self.end_transaction();
                Err(Failure::new(ErrorId::BackendLostInTransaction)
                    .note(error.to_string())
                    .safe_to_retry()
                    .into())
            }
        }
    }

    fn lost_bound(&mut self, bound: &mut Bound, fault: &Fault, unknown: bool) -> Failure {
        let open = matches!(self.transaction, Transaction::Open(_));
        let (id, executed) = match (unknown, open) {
            (true, _) => (ErrorId::OutcomeUnknown, Executed::Unknown),
            (false, true) => (ErrorId::BackendLostInTransaction, Executed::No),
            (false, false) => (ErrorId::SessionStateLost, Executed::No),
        };
        let failure = lost(bound.lent.server(), fault, id, executed);
        bound.lent.discard();
        self.end_transaction();
        failure
    }

    /// Sends the statement and relays its answer.
    async fn exchange(
        &mut self,
        lent: &mut Lent,
        order: &mut Order<'_>,
        turn: Turn,
        watch: Watch,
    ) -> Result<Outcome, Broken> {
        let uses = &order.plan.uses;
        if (uses.last_insert_id || uses.sets_last_insert_id)
            && lent.last_insert_id != Some(self.last_insert_id)
        {
            let set = format!("SET last_insert_id = {}", self.last_insert_id);
            lent.query(set.as_bytes()).await.map_err(unsent)?;
            lent.last_insert_id = Some(self.last_insert_id);
        }
        self.handle.runs_on(lent);
        if let Some(prelude) = &self.prelude {
            lent.query(prelude.as_bytes()).await.map_err(unsent)?;
        }
        if self.naming.is_some() {
            self.name_on(lent).await.map_err(unsent)?;
        }
        match &mut order.body {
            Body::Text(packets) | Body::FieldList(packets) => lent.send(packets).await.map_err(unsent)?,
            Body::Execute { text, hash, packet } => {
                let max = self.shared.limits.statements_per_backend_max;
                let hash = under(*hash, &lent.settings);
                // MySQL gives a user variable the type that it has while the statement is prepared.
                let known = match uses.reads_user_vars.is_empty() || lent.is_mariadb() {
                    true => lent.statement(hash),
                    false => None,
                };
                let prepared = match known {
                    Some(id) => Ok(id),
                    None => Box::pin(prepare_on(lent, text, hash, max)).await,
                };
                let id = match prepared {
                    Ok(id) => id,
                    Err(Start::Lost(fault)) => return Err(unsent(fault)),
                    Err(Start::Refused(_, payload)) => return Ok(self.refused(payload, turn)),
                };
                let payload = packet.get_mut(4..).unwrap_or_default();
                // A packet too short for an id was refused when its parameters were read.
                let _ = Execute::patch_id(payload, id);
                lent.send(packet).await.map_err(unsent)?;
            }
        }
        let outcome = self.relay(lent, order.body.answer(), turn, watch).await?;
        self.handle.rests(lent);
        if let Some(Naming::Gives(named)) = &self.naming {
            match outcome.error {
                None => lent.remember_name(
                    named.name(),
                    named.hash(),
                    self.shared.limits.statements_per_backend_max,
                ),
                Some(_) => lent.forget_name(named.name()),
            }
        }
        if let (Some(UNKNOWN_STATEMENT), Body::Execute { hash, .. }) = (outcome.error, &order.body) {
            let hash = under(*hash, &lent.settings);
            lent.forget_statement(hash);
        }
        Ok(outcome)
    }

    /// Makes a connection know the statement that is to be executed by its name. If the server refuses it, it has its
    /// own words for that when the name is used.
    #[cold]
    async fn name_on(&mut self, lent: &mut Lent) -> Result<(), Fault> {
        let Some(Naming::Uses(named)) = self.naming.clone() else { return Ok(()) };
        if lent.knows_name(named.name(), named.hash()) {
            return Ok(());
        }
        lent.forget_name(named.name());
        let own = Arc::clone(&lent.settings);
        let target = named.meant_under(&own);
        if own.meaning() == target.meaning() {
            return self.say_name(lent, &named).await;
        }
        lent.bring_to(&target).await.map_err(lost_between)?;
        self.say_name(lent, &named).await?;
        lent.bring_to(&own).await.map_err(lost_between)
    }

    async fn say_name(&self, lent: &mut Lent, named: &Named) -> Result<(), Fault> {
        if lent.query(&named.prepare()).await?.error.is_none() {
            let max = self.shared.limits.statements_per_backend_max;
            lent.remember_name(named.name(), named.hash(), max);
        }
        Ok(())
    }

    /// The outcome of a statement that the server would not prepare: its own error, for the client.
    fn refused(&mut self, payload: Vec<u8>, turn: Turn) -> Outcome {
        let mut outcome = Outcome { error: Some(0), tail: crate::buffers::take(), ..Outcome::default() };
        let mut answer = usher_wire::result::Answer::new(&mut outcome.tail, turn.seq, self.client.caps);
        answer.packet(|out| out.extend_from_slice(&payload));
        outcome.seq = answer.seq();
        outcome
    }

    /// After an answer on a connection that was not bound: binds it if a transaction is open or it holds state,
    /// else gives it back, then sends what is left to send.
    async fn finish(&mut self, lent: Lent, outcome: Outcome, order: &Order<'_>) -> Served {
        let bound = Bound { shard: order.place.shard, lent, pinned: false };
        self.finish_bound(bound, outcome, order).await
    }

    async fn finish_bound(&mut self, mut bound: Bound, mut outcome: Outcome, order: &Order<'_>) -> Served {
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
        if matches!(plan.kind, PlanKind::Call) || plan.uses.unknown_function.is_some() {
            bound.lent.last_insert_id = None;
        }
        self.note_counts(&outcome, order, failed);
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
        if !outcome.variables.is_empty() {
            self.take_over(&mut bound.lent, &outcome.variables);
        }
        bound.pinned |= !failed && leaves_state(plan);
        let open = bound.lent.status.has(Status::IN_TRANS);
        if open {
            self.transaction = Transaction::Open(bound.shard);
        } else if !self.savepoints.is_empty() && self.begins_nothing(plan, failed) {
            // With autocommit off savepoints go on waiting for what begins the transaction.
            bound.lent.dirty = true;
            self.entered = false;
            self.shared.in_flight.leave(&self.slot);
        } else if self.entered || self.transaction != Transaction::None {
            self.close_transaction(bound.shard, &outcome, failed);
        }
        let mut owed = Owed {
            shard: bound.shard,
            id: self.asks_for_id(order, &outcome, failed),
            reported: outcome.insert_id,
            found_rows: !failed && plan.uses.calc_found_rows,
            // Some rows may have been looked at before it failed.
            variables: plan.uses.writes_user_vars.clone(),
        };
        // GET DIAGNOSTICS asks of the one before, and may itself assign a variable.
        if let Some(before) = self.owed.take_if(|before| before.shard == owed.shard) {
            owed.add(*before);
        }
        let keep = outcome.warnings > 0 || failed || self.keeps;
        let seq = outcome.seq;
        let mut kept = Some(bound);
        if owed.is_nothing() || keep {
            if !owed.is_nothing() {
                self.owed = Some(Box::new(owed));
            }
            if let Some(bound) = kept.take_if(|bound| open || bound.pinned) {
                self.ran_on = Some(bound.shard);
                self.bound.push(bound);
            } else if !keep {
                kept = None;
            }
            self.kept = kept;
            self.send_tail(outcome.tail).await?;
            return Ok(Answered { failed, seq });
        }
        self.send_tail(outcome.tail).await?;
        if let Some(mut bound) = kept {
            bound.pinned |= !self.ask(&mut bound.lent, &owed).await;
            match bound.lent.is_discarded() {
                true if open => self.end_transaction(),
                false if open || bound.pinned => self.bound.push(bound),
                _ => {}
            }
        }
        Ok(Answered { failed, seq })
    }

    /// Whether a statement that failed cannot have left a transaction open.
    fn surely_without_transaction(&self, bound: &Bound, plan: &Plan) -> bool {
        use usher_sql::Kind::{Delete, Insert, LockingRead, Read, Replace, Update};
        let simple = matches!(plan.kind, Read | LockingRead | Insert | Replace | Update | Delete)
            && !plan.uses.needs_writer();
        self.autocommit && simple && !bound.lent.status.has(Status::IN_TRANS)
    }

    /// Whether the transaction still is what it was before: waiting, by savepoints alone, for what begins it.
    fn begins_nothing(&self, plan: &Plan, failed: bool) -> bool {
        use usher_sql::Kind::{Delete, Do, Insert, LockingRead, Read, Replace, Set, Update};
        let commits_not =
            failed || matches!(plan.kind, Read | LockingRead | Insert | Replace | Update | Delete | Set | Do);
        commits_not && matches!(self.transaction, Transaction::Pending { begun: false, .. })
    }

    fn note_counts(&mut self, outcome: &Outcome, order: &Order<'_>, failed: bool) {
        self.row_count = match (failed, outcome.had_rows) {
            (true, _) | (_, true) => -1,
            _ => i64::try_from(outcome.affected_rows).unwrap_or(i64::MAX),
        };
        if outcome.had_rows && !failed {
            self.found_rows = outcome.rows;
        }
        if let Some(id) = order.insert_id.filter(|_| !failed && outcome.affected_rows > 0) {
            self.last_insert_id = id;
        }
    }

    /// Whether the server must be asked what LAST_INSERT_ID() gives now: the OK packet also tells ids that the
    /// client gave itself.
    fn asks_for_id(&self, order: &Order<'_>, outcome: &Outcome, failed: bool) -> bool {
        use usher_sql::Kind::{Insert, Replace};
        let unsharded_insert = order.insert_id.is_none() && order.plan.is_write && outcome.insert_id != 0;
        // One that failed may have used an id up before.
        let failed_insert =
            failed && order.insert_id.is_none() && matches!(order.plan.kind, Insert | Replace);
        unsharded_insert || failed_insert || order.plan.uses.sets_last_insert_id
    }

    /// Asks a server what LAST_INSERT_ID() gives now: what it told of the statement may also be an id that the client
    /// gave itself, or that of a row which was there. Leaves 0 on the connection: no id is mistaken for an earlier one.
    pub(crate) async fn ask_for_id(&mut self, lent: &mut Lent, reported: u64) -> Result<(), Fault> {
        let reply = lent.query(b"SELECT LAST_INSERT_ID(), LAST_INSERT_ID(0)").await?;
        if let Some(id) = reply.cell().and_then(|cell| cell.parse().ok()) {
            let before = lent.last_insert_id.replace(0);
            if before.is_some_and(|before| before != id) || (id == reported && id != 0) {
                self.last_insert_id = id;
            }
        }
        Ok(())
    }

    /// A transaction or a single write has ended: its users' next reads must see it.
    fn close_transaction(&mut self, shard: ShardId, outcome: &Outcome, failed: bool) {
        let wrote =
            !failed && (outcome.position.is_some() || outcome.affected_rows > 0 || self.written.len() > 1);
        if !shard.is_global() && (wrote || self.transaction != Transaction::None) {
            for key in &self.written {
                self.shared.watermarks.wrote(shard, key, outcome.position.clone());
            }
        }
        self.end_transaction();
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

/// Whether a write may go on a connection that the session holds.
enum Admitted {
    /// It may, once the ownership row shows this.
    Here(Option<Generation>),
    /// The user does not live there.
    Elsewhere,
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

/// The hash of a statement prepared under these settings: sql_mode and character set are part of what it means.
pub(crate) fn under(hash: u128, settings: &usher_backend::Settings) -> u128 {
    hash ^ (u128::from(settings.meaning()) << 64 | u128::from(settings.meaning().rotate_left(32)))
}

/// The server's id of the statement, preparing it if this connection has not.
#[cold]
async fn prepare_on(lent: &mut Lent, text: &[u8], hash: u128, max: usize) -> Result<u32, Start> {
    lent.send_command(COM_STMT_PREPARE, text).await.map_err(Start::Lost)?;
    let reply = said(lent.reply(Kind::Prepare).await)?;
    let Some(id) = reply.statement_id else { return Err(Start::Lost(Fault::Closed)) };
    if let Some(old) = lent.remember_statement(hash, id, max) {
        // COM_STMT_CLOSE has no answer.
        lent.send_command(COM_STMT_CLOSE, &old.to_le_bytes()).await.map_err(Start::Lost)?;
        lent.rest();
    }
    Ok(id)
}

/// Whether a statement whose server was lost may have been carried out for good. In a transaction only one that
/// commits may have been: the rest is rolled back when its connection goes.
fn may_be_done(order: &Order<'_>, in_transaction: bool) -> bool {
    if !in_transaction {
        return order.writes() || may_commit(&order.plan.kind);
    }
    return may_commit(&order.plan.kind);

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

/// Whether a statement leaves something on its connection that settings cannot replay.
fn leaves_state(plan: &Plan) -> bool {
    plan.uses.named_lock
        || matches!(
            plan.kind,
            PlanKind::LockTables
                | PlanKind::Handler
                | PlanKind::Call
                | PlanKind::Ddl(DdlKind::CreateTemporaryTable)
        )
}

fn find(state: &State, id: ShardId) -> Result<&Shard, Stop> {
    state.topology.shard(id).ok_or_else(|| {
        Failure::new(ErrorId::ShardUnreachable).field("shard", id).note("not in the topology").into()
    })
}

fn is_connection(error: &BackendError) -> bool {
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

fn lost(server: &Server, fault: &Fault, id: ErrorId, executed: Executed) -> Failure {
    Failure::new(id)
        .field("server", &server.name)
        .note(format!("{}: {fault}", id.summary()))
        .executed(executed)
}

/// The message of a user that is being moved the locked way.
fn locked(key: &Key, to: &str, eta_ms: Option<u64>, in_transaction: bool) -> Failure {
    let id = if in_transaction { ErrorId::UserReadOnlyInTransaction } else { ErrorId::UserReadOnly };
    let left = match eta_ms.map(|ms| ms.div_ceil(60_000).max(1)) {
        Some(1) => "about 1 minute left".to_owned(),
        Some(minutes) => format!("about {minutes} minutes left"),
        None => "time left not known yet".to_owned(),
    };
    Failure::new(id)
        .note(format!("user {key} is being moved to shard {to}, {left}; reads go on"))
        .executed(Executed::No)
        .advice("try again later")
}
