//! XA transactions. A branch begins where its first statement has a place, as BEGIN does, and is prepared, committed or
//! rolled back there. Prepared, it belongs to no session any more: the servers keep it, and whoever ends it asks them
//! where it is.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::timeout;
use usher_backend::{Reply, Settings};
use usher_sql::effects::{Assignment, Constant, Scope};
use usher_sql::xa::{Xa, Xid, parse};
use usher_sql::{Kind, Plan, Target};
use usher_topology::{Key, ShardId};
use usher_wire::result::{BINARY, Column, Format, NOT_NULL, Value};
use usher_wire::sqlerr::{ErrorId, Executed, Failure};
use usher_wire::stmt::ParamType;

use crate::execute::{Body, Order, checkout_failure, said};
use crate::pins::Reason;
use crate::query::{Text, is_temporary, unsupported};
use crate::relay::Outcome;
use crate::route::Place;
use crate::session::{Bound, Served, Session, Stop, Transaction, Turn};
use crate::text_prepare::server_error;

/// Prepared branches that are remembered, with the users whose rows they have changed.
const PREPARED_MAX: usize = 4096;
/// A server's error for a branch that is not there.
const UNKNOWN_XID: u16 = 1397;

/// A branch as a name to look up: what a server tells branches apart by.
type Name = Box<[u8]>;

/// What is known of a branch.
#[derive(Debug, Default)]
struct Known {
    /// A session of this proxy has it.
    held: bool,
    /// Prepared, on this shard, with changes of these users.
    prepared: Option<(ShardId, Vec<Key>)>,
}

/// The branches that this proxy knows of.
#[derive(Debug, Default)]
pub(crate) struct Branches(Mutex<HashMap<Name, Known>>);

impl Branches {
    /// The right to begin a branch of this name; `None` if a session has it.
    fn claim(self: &Arc<Self>, name: &[u8]) -> Option<Claim> {
        let mut known = self.0.lock();
        let branch = known.entry(name.into()).or_default();
        if std::mem::replace(&mut branch.held, true) {
            return None;
        }
        branch.prepared = None;
        Some(Claim { all: Arc::clone(self), name: name.into() })
    }

    fn is_held(&self, name: &[u8]) -> bool {
        self.0.lock().get(name).is_some_and(|known| known.held)
    }

    fn prepared(&self, name: &[u8], shard: ShardId, keys: Vec<Key>) {
        let mut known = self.0.lock();
        if known.len() >= PREPARED_MAX {
            // Ended elsewhere, perhaps. Who is not remembered is looked for.
            known.retain(|_, known| known.held);
        }
        known.entry(name.into()).or_default().prepared = Some((shard, keys));
    }

    fn place(&self, name: &[u8]) -> Option<ShardId> {
        self.0.lock().get(name)?.prepared.as_ref().map(|(shard, _)| *shard)
    }

    /// It has ended; the users that it has changed, if they are known.
    pub(crate) fn forget(&self, name: &[u8]) -> Option<Vec<Key>> {
        let mut all = self.0.lock();
        let known = all.get_mut(name)?;
        let keys = known.prepared.take().map(|(_, keys)| keys);
        if !known.held {
            all.remove(name);
        }
        keys
    }
}

/// A session's hold on a branch.
#[derive(Debug)]
struct Claim {
    all: Arc<Branches>,
    name: Name,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(known) = all.get_mut(&self.name) {
            known.held = false;
            if known.prepared.is_none() {
                all.remove(&self.name);
            }
        }
    }
}

/// How far a branch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Active,
    Idle,
    Prepared,
    RollbackOnly,
}

impl Stage {
    fn words(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Idle => "IDLE",
            Self::Prepared => "PREPARED",
            Self::RollbackOnly => "ROLLBACK ONLY",
        }
    }
}

/// What the statement under way does to the branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    End,
    Prepare,
    Finish,
}

/// The session's branch.
#[derive(Debug)]
pub(crate) struct Branch {
    claim: Claim,
    stage: Stage,
    step: Option<Step>,
}

/// What the servers say of prepared branches.
struct Found {
    /// Where there is one of the name.
    shards: Vec<ShardId>,
    /// Who does not answer.
    silent: Vec<String>,
}

impl Session {
    /// Serves an XA statement. `hinted`: the shard that the client names.
    #[cold]
    pub(crate) async fn xa(
        &mut self,
        statement: Text<'_>,
        plan: &Plan,
        (hinted, format): (Option<ShardId>, Format),
        turn: Turn,
    ) -> Served {
        let end = statement.digest.end.min(statement.text.len());
        let text = statement.text.get(..end).unwrap_or_default();
        let xa = parse(text, self.mode);
        match xa {
            Some(Xa::Recover) => self.recover(text, format, turn).await,
            Some(xa) if self.branch.is_some() => self.within_branch(&xa, statement, plan, turn).await,
            Some(Xa::Start { xid, joins: false }) => self.start_branch(&xid, text, turn).await,
            Some(Xa::Commit { xid, one_phase }) if !(one_phase && self.is_mariadb()) => {
                self.end_prepared(&xid, "COMMIT", text, hinted, turn).await
            }
            Some(Xa::Rollback(xid)) => self.end_prepared(&xid, "ROLLBACK", text, hinted, turn).await,
            _ => self.refused_by_server(text).await,
        }
    }

    pub(crate) fn is_mariadb(&self) -> bool {
        self.shared.server_version.contains("MariaDB")
    }

    fn name_of(&self, xid: &Xid) -> Name {
        let format = if self.is_mariadb() { 0 } else { xid.format };
        let length = xid.gtrid.len() as u64;
        [&length.to_le_bytes()[..], &xid.gtrid, &xid.bqual, &format.to_le_bytes()].concat().into()
    }

    /// Refuses what a server refuses at this stage of the branch, before the session does anything for it.
    pub(crate) fn check_branch(&self, plan: &Plan) -> Result<(), Stop> {
        let Some(branch) = &self.branch else { return Ok(()) };
        let ends = match plan.kind {
            Kind::Begin { .. } | Kind::Commit { .. } | Kind::Rollback { .. } => true,
            Kind::LockTables | Kind::Admin => true,
            Kind::Ddl(kind) => !is_temporary(kind),
            _ => false,
        };
        let placed = !matches!(plan.target, Target::Session | Target::AnyServer);
        let touches = match plan.kind {
            Kind::Savepoint(_) | Kind::RollbackTo(_) | Kind::ReleaseSavepoint(_) => true,
            Kind::Show(_) | Kind::Describe | Kind::Set => false,
            _ => placed,
        };
        match branch.stage {
            _ if ends => Err(wrong_stage(branch.stage.words())),
            Stage::Idle | Stage::Prepared if touches => Err(wrong_stage(branch.stage.words())),
            _ => Ok(()),
        }
    }

    /// Switching autocommit on would commit.
    pub(crate) fn check_branch_set(&self, assignments: &[Assignment]) -> Result<(), Stop> {
        let Some(branch) = &self.branch else { return Ok(()) };
        let switches_on = |assignment: &Assignment| {
            matches!(assignment, Assignment::Variable { scope: Scope::Session, name, value }
                if name == "autocommit" && !matches!(value.constant, Some(Constant::Int(0))))
        };
        match !self.autocommit && assignments.iter().any(switches_on) {
            true => Err(wrong_stage(branch.stage.words())),
            false => Ok(()),
        }
    }

    async fn start_branch(&mut self, xid: &Xid, text: &[u8], turn: Turn) -> Served {
        let locked = self.bound.iter().any(|bound| bound.pins.has(Reason::LockedTables, b""));
        if self.is_in_transaction() || locked {
            return Err(outside());
        }
        if xid.gtrid.is_empty() && self.is_mariadb() {
            return self.refused_by_server(text).await;
        }
        let name = self.name_of(xid);
        let Some(claim) = self.shared.branches.claim(&name) else { return Err(duplicate()) };
        let found = self.find_prepared(&name).await?;
        if !found.shards.is_empty() {
            return Err(duplicate());
        }
        self.end_transaction();
        self.transaction = Transaction::Pending { begun: true, statements: vec![text.into()] };
        self.branch = Some(Box::new(Branch { claim, stage: Stage::Active, step: None }));
        self.answer_ok(turn).await
    }

    fn is_in_transaction(&self) -> bool {
        !matches!(self.transaction, Transaction::None | Transaction::Pending { begun: false, .. })
    }

    /// Of a branch that has no place yet what is plain is done here. All else goes to a server, which knows best.
    async fn within_branch(&mut self, xa: &Xa, statement: Text<'_>, plan: &Plan, turn: Turn) -> Served {
        let (xid, step) = match xa {
            Xa::End { xid, .. } => (xid, Some(Step::End)),
            Xa::Prepare(xid) => (xid, Some(Step::Prepare)),
            Xa::Commit { xid, .. } | Xa::Rollback(xid) => (xid, Some(Step::Finish)),
            Xa::Start { xid, .. } => (xid, None),
            Xa::Recover => return Err(unsupported("XA RECOVER here")),
        };
        let name = self.name_of(xid);
        let Some(branch) = &mut self.branch else { return Err(unsupported("XA without a branch")) };
        let own = name == branch.claim.name;
        let place = match &mut self.transaction {
            Transaction::Open(shard) => *shard,
            Transaction::Pending { statements, .. } if own => match (xa, branch.stage) {
                (Xa::End { suspends: false, .. }, Stage::Active) => {
                    statements.push(statement.text.into());
                    branch.stage = Stage::Idle;
                    return self.answer_ok(turn).await;
                }
                (Xa::Commit { one_phase: true, .. } | Xa::Rollback(_), Stage::Idle) => {
                    self.next_transaction.clear();
                    self.end_transaction();
                    return self.answer_ok(turn).await;
                }
                _ => self.bound.first().map_or(ShardId::GLOBAL, |bound| bound.shard),
            },
            _ => self.bound.first().map_or(ShardId::GLOBAL, |bound| bound.shard),
        };
        branch.step = step;
        let place = Place::writer(place);
        let body = Body::Text(statement.packets);
        let order = Order { plan, place, key: None, body, insert_id: None, writer_hint: true };
        let served = self.run(order, turn).await;
        if let Some(branch) = &mut self.branch {
            branch.step = None;
        }
        served
    }

    /// What a statement on this connection, whose transaction this is, has made of the branch. Whether it is still
    /// there.
    pub(crate) fn note_branch(&mut self, bound: &mut Bound, outcome: &Outcome, in_trans: bool) -> bool {
        if self.transaction == Transaction::None {
            return false;
        }
        let Some(branch) = &mut self.branch else { return false };
        let step = branch.step.take();
        let stays = match (step, outcome.error) {
            (Some(Step::End), None) => {
                branch.stage = Stage::Idle;
                true
            }
            (Some(Step::Prepare), None) => {
                branch.stage = Stage::Prepared;
                self.shared.branches.prepared(&branch.claim.name, bound.shard, self.written.clone());
                // MySQL lets go of what is prepared.
                in_trans
            }
            (Some(Step::Finish), None) => {
                self.shared.branches.forget(&branch.claim.name);
                false
            }
            (Some(Step::Finish), Some(code)) if !in_trans && branch.stage == Stage::RollbackOnly => {
                !is_rolled_back(code)
            }
            (Some(Step::Prepare | Step::Finish), Some(_)) if !in_trans => branch.stage == Stage::RollbackOnly,
            _ => {
                if !in_trans {
                    branch.stage = Stage::RollbackOnly;
                }
                true
            }
        };
        match stays {
            true => bound.pins.add(&self.shared.metrics.pinned, Reason::Xa, b""),
            false => {
                bound.pins.remove(Reason::Xa, b"");
                bound.lent.dirty |= outcome.error.is_some();
            }
        }
        stays
    }

    /// XA COMMIT and XA ROLLBACK of a branch that no statement of this session has begun, or that it has prepared.
    async fn end_prepared(
        &mut self,
        xid: &Xid,
        how: &'static str,
        text: &[u8],
        hinted: Option<ShardId>,
        turn: Turn,
    ) -> Served {
        if self.is_in_transaction() {
            return Err(if self.is_mariadb() { outside() } else { wrong_stage("NON-EXISTING") });
        }
        let name = self.name_of(xid);
        // Without ONE PHASE, by which MySQL would leave the branch prepared on copies.
        let statement = format!("XA {how} {}", xid.to_sql());
        if let Some(shard) = hinted.or_else(|| self.shared.branches.place(&name)) {
            match self.end_prepared_on(shard, &name, &statement, false, turn).await {
                Err(Stop::Pass(payload)) if hinted.is_none() && is_unknown_xid(&payload) => {
                    // Ended past this proxy, and perhaps begun and prepared anew since.
                    self.shared.branches.forget(&name);
                }
                served => return served,
            }
        }
        let found = self.find_prepared(&name).await?;
        match (&found.shards[..], &found.silent[..]) {
            ([shard], _) => {
                let listed = !self.shared.branches.is_held(&name);
                self.end_prepared_on(*shard, &name, &statement, listed, turn).await
            }
            ([], []) => self.refused_by_server(text).await,
            ([], silent) => {
                let note =
                    format!("whether the branch is prepared there is not known: {}", silent.join(", "));
                Err(Failure::new(ErrorId::ShardUnreachable)
                    .note(note)
                    .executed(Executed::No)
                    .safe_to_retry()
                    .into())
            }
            (several, _) => {
                let state = self.shared.directory.state();
                let names = several.iter().filter_map(|id| Some(state.topology.shard(*id)?.name.as_str()));
                let note = format!(
                    "branches of this name are prepared on shards {}; say which one is meant by /* usher: shard=.. */",
                    names.collect::<Vec<_>>().join(" and ")
                );
                Err(Failure::new(ErrorId::CrossShardTransaction).note(note).executed(Executed::No).into())
            }
        }
    }

    /// Asks all writers which branches they keep prepared.
    async fn prepared_everywhere(&self, statement: &[u8]) -> Vec<(ShardId, String, Result<Reply, Failure>)> {
        let state = self.shared.directory.state();
        let settings = Settings::at_login(self.settings.found_rows());
        let limit = std::time::Duration::from_millis(self.shared.limits.connect_ms);
        let ask = |shard: &usher_topology::Shard| {
            let (id, name, writer) = (shard.id, shard.name.clone(), shard.writer);
            let settings = Arc::clone(&settings);
            async move {
                let asked = async {
                    let pool = self.shared.pools.of(writer).map_err(|error| checkout_failure(&error))?;
                    let mut lent =
                        pool.checkout(&settings).await.map_err(|error| checkout_failure(&error))?;
                    let reply = lent.query(statement).await;
                    reply.map_err(|fault| Failure::new(ErrorId::ShardUnreachable).note(fault.to_string()))
                };
                let late = || Failure::new(ErrorId::ShardUnreachable).note("it does not answer in time");
                let reply = timeout(limit, asked).await.unwrap_or_else(|_| Err(late()));
                (id, name, reply)
            }
        };
        join_all(state.topology.shards.iter().map(ask)).await
    }

    async fn find_prepared(&self, name: &Name) -> Result<Found, Stop> {
        let mut found = Found { shards: Vec::new(), silent: Vec::new() };
        for (shard, label, reply) in self.prepared_everywhere(b"XA RECOVER").await {
            match reply {
                Ok(Reply { error: None, rows, .. }) => {
                    if rows.iter().filter_map(|row| xid_of(row)).any(|xid| self.name_of(&xid) == *name) {
                        found.shards.push(shard);
                    }
                }
                Ok(refused) => {
                    let why = refused.error_text().unwrap_or_default();
                    found.silent.push(format!("{label} ({why})"));
                }
                Err(failure) => found.silent.push(format!("{label} ({})", failure.message())),
            }
        }
        Ok(found)
    }

    /// XA RECOVER: what is prepared on any shard or the global master.
    async fn recover(&mut self, text: &[u8], format: Format, turn: Turn) -> Served {
        let mut rows = Vec::new();
        let (mut data, mut told) = (Column::text("data"), false);
        for (_, label, reply) in self.prepared_everywhere(text).await {
            let reply = reply.map_err(|failure| failure.field("shard", label))?;
            if let Some((_, payload)) = reply.error {
                return Err(Stop::Pass(payload));
            }
            if let Some((_, flags)) = reply.columns.get(3).filter(|_| !told) {
                told = true;
                data.flags = *flags;
            }
            rows.extend(reply.rows);
        }
        let binary = data.flags & BINARY != 0;
        (data.collation, data.length) = match (binary, self.is_mariadb()) {
            (true, _) => (63, 128),
            (false, true) => (data.collation, 1076),
            (false, false) => (data.collation, 1032),
        };
        data.decimals = if self.is_mariadb() { 39 } else { 31 };
        let length = if self.is_mariadb() { 11 } else { 12 };
        let number = |name| Column { length, flags: NOT_NULL | BINARY, ..Column::bigint(name) };
        let columns = [number("formatID"), number("gtrid_length"), number("bqual_length"), data];
        self.row_count = -1;
        self.answer(turn, |answer, status| {
            let mut table = answer.rows(format, &columns, status)?;
            for row in &rows {
                let cells: Vec<Value<'_>> =
                    row.iter().zip(&columns).map(|(cell, column)| value(cell, column)).collect();
                table.row(&cells)?;
            }
            Ok(table.end(status, 0).seq())
        })
        .await
    }

    /// What a server will not do, in its own words. If it does it all the same, what it has begun ends with the
    /// connection.
    async fn refused_by_server(&mut self, text: &[u8]) -> Served {
        let state = self.shared.directory.state();
        let writer = state.topology.shard(ShardId::GLOBAL).map(|shard| shard.writer);
        let writer = writer.ok_or_else(|| Failure::new(ErrorId::ShardUnreachable))?;
        let pool = self.shared.pools.of(writer).map_err(|error| checkout_failure(&error))?;
        let mut lent = self.lend(&pool).await.map_err(|error| match error {
            usher_backend::BackendError::Settings { payload, .. } => Stop::Pass(payload),
            error => checkout_failure(&error).into(),
        })?;
        match said(lent.query(text).await) {
            Err(crate::execute::Start::Refused(_, payload)) => Err(Stop::Pass(payload)),
            Err(crate::execute::Start::Lost(fault)) => {
                lent.discard();
                Err(Failure::new(ErrorId::OutcomeUnknown)
                    .note(fault.to_string())
                    .executed(Executed::Unknown)
                    .into())
            }
            Ok(_) => {
                lent.dirty = true;
                Err(unsupported("this form of an XA statement; write its xid as X'..',X'..',1"))
            }
        }
    }
}

fn value<'a>(cell: &'a Option<Vec<u8>>, column: &Column<'_>) -> Value<'a> {
    let Some(bytes) = cell else { return Value::Null };
    let number = (column.ty == ParamType::LONGLONG).then(|| std::str::from_utf8(bytes).ok()?.parse().ok());
    number.flatten().map_or(Value::Bytes(bytes), Value::Int)
}

fn xid_of(row: &[Option<Vec<u8>>]) -> Option<Xid> {
    let number = |at: usize| std::str::from_utf8(row.get(at)?.as_deref()?).ok()?.parse::<usize>().ok();
    let data = row.get(3)?.as_deref()?;
    let (gtrid, bqual) = data.split_at_checked(number(1)?)?;
    Some(Xid { gtrid: gtrid.into(), bqual: bqual.into(), format: u32::try_from(number(0)?).ok()? })
}

fn is_unknown_xid(payload: &[u8]) -> bool {
    usher_wire::packet::ErrPacket::parse(payload).is_ok_and(|error| error.code == UNKNOWN_XID)
}

/// The server has given the branch up and said so: the last that is heard of it.
fn is_rolled_back(code: u16) -> bool {
    matches!(code, 1402 | 1613 | 1614)
}

fn outside() -> Stop {
    server_error(1400, *b"XAE09", "XAER_OUTSIDE: Some work is done outside global transaction")
}

fn duplicate() -> Stop {
    server_error(1440, *b"XAE08", "XAER_DUPID: The XID already exists")
}

fn wrong_stage(stage: &str) -> Stop {
    let message = "XAER_RMFAIL: The command cannot be executed when global transaction is in the ";
    server_error(1399, *b"XAE07", &format!("{message} {stage} state"))
}
