//! Whether a write may go where it is to go: the shard takes writes, and the user lives there and is not being moved.

use std::sync::Arc;

use usher_backend::Lent;
use usher_directory::rows::MoveMode;
use usher_directory::{EntityState, State};
use usher_topology::{Generation, Key, ServerId, Shard, ShardId, ShardState};
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use super::{Order, Start, find, said};
use crate::hold::Hold;
use crate::in_flight::InFlight;
use crate::route::Place;
use crate::session::{Bound, Session, Stop, Transaction};

/// How often a user is looked up again when the state changes under the look-up.
const ADMIT_ATTEMPTS: usize = 8;

/// Leave to write.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) writer: ServerId,
    pub(super) shard: ShardId,
    /// The ownership row must show this.
    pub(super) fence: Option<Generation>,
    pub(super) version: u64,
    /// Of the directory: another one since means that this proxy was shut out meanwhile.
    pub(super) era: u64,
}

pub(crate) enum Verdict {
    Go(Option<Generation>),
    Hold(Failure),
    Refuse(Failure),
}

/// Whether a write may go on a connection that the session holds.
pub(super) enum Admitted {
    /// It may, once the ownership row shows this.
    Here(Option<Generation>),
    /// The user does not live there.
    Elsewhere,
}

impl Session {
    /// Waits until the statement may go, and enters it as under way. Whoever changes the deployment from then on
    /// waits for it.
    pub(super) async fn admit(
        &mut self,
        order: &mut Order<'_>,
        hold: &mut Hold<'_>,
    ) -> Result<Admission, Stop> {
        let mut attempts = 0;
        // Waits do not count: while it waits, other users' moves bring new states, too.
        while attempts < ADMIT_ATTEMPTS {
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
                    attempts += 1;
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
    pub(super) async fn is_still_there(&self, state: &State, order: &Order<'_>) -> Result<bool, Stop> {
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

    pub(super) async fn relocate(&mut self, order: &mut Order<'_>) -> Result<(), Stop> {
        if let Some(key) = order.key
            && !order.place.shard.is_global()
            && let Some(located) = self.locate(key).await?
        {
            order.place = Place::of(located);
        }
        Ok(())
    }

    /// Whether a write may go to this shard now.
    pub(crate) fn judge(&self, state: &State, shard: &Shard, order: &Order<'_>) -> Verdict {
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
            EntityState::Locked if self.waits_for_move(moving.row.mode, order) => {
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

    /// Whether a statement about a locked user is not to go where the user still lives. A transaction that begins with a
    /// read may write later, and could not do so once the user has left from under it.
    fn waits_for_move(&self, mode: MoveMode, order: &Order<'_>) -> bool {
        let begins = matches!(self.transaction, Transaction::Pending { .. });
        order.writes() || mode == MoveMode::Online && begins
    }

    /// Lets a write in on a connection that the session holds.
    pub(super) async fn admit_bound(
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
    pub(super) async fn admit_key(
        &mut self,
        bound: &mut Bound,
        key: &Key,
        order: &Order<'_>,
        hold: &mut Hold<'_>,
    ) -> Result<bool, Stop> {
        let touched = InFlight::has_key(&self.slot, key);
        let mut attempts = 0;
        while attempts < ADMIT_ATTEMPTS {
            let state = self.shared.directory.state();
            self.entered = true;
            InFlight::enter(&self.slot, bound.shard, Some(key), state.version);
            let there = self.is_still_there(&state, order).await?;
            if !Arc::ptr_eq(&state, &self.shared.directory.state()) {
                attempts += 1;
                continue;
            }
            let Some(moving) = state.moving.get(key) else { return Ok(there) };
            let to = state.topology.shard(moving.row.dst).map_or("?", |shard| shard.name.as_str());
            match (moving.located.state, moving.row.mode) {
                (EntityState::Active, _) => return Ok(there),
                (EntityState::Locked, MoveMode::Locked) => {
                    return Err(locked(key, to, moving.row.eta_ms, true).into());
                }
                (EntityState::Locked, MoveMode::Online) if !touched => {
                    // The cutover must not wait for this write while it waits for the cutover.
                    self.shared.in_flight.leave_key(&self.slot, key);
                    hold.wait_newer(state.version, &locked(key, to, moving.row.eta_ms, true)).await?;
                }
                // A transaction that has begun before the cutover goes on: the cutover waits for its end. One that fails
                // here must end at once, as it has locked the row that the mover is about to change.
                (EntityState::Moving | EntityState::Settling | EntityState::Locked, _) => {
                    return Ok(there && self.fence_bound(bound, key, moving.located.own_gen).await?);
                }
            }
        }
        Ok(false)
    }

    /// Checks, and locks against the mover, that this shard owns the user: `false` if it does not.
    pub(super) async fn fence(
        &mut self,
        lent: &mut Lent,
        key: &Key,
        own_gen: Generation,
    ) -> Result<bool, Start> {
        self.shared.metrics.fenced.inc();
        let quoted = key.to_string().replace('\\', "\\\\").replace('\'', "''");
        let statement = format!(
            "SELECT 1 FROM usher.ownership WHERE entity = 'user' AND entity_key = '{quoted}' \
             AND own_gen = {own_gen} AND state = 'owned' LOCK IN SHARE MODE"
        );
        let reply = said(lent.query(statement.as_bytes()).await)?;
        Ok(!reply.rows.is_empty())
    }

    pub(super) async fn fence_bound(
        &mut self,
        bound: &mut Bound,
        key: &Key,
        own_gen: Generation,
    ) -> Result<bool, Stop> {
        match self.fence(&mut bound.lent, key, own_gen).await {
            Ok(owned) => Ok(owned),
            Err(Start::Refused(_, payload)) => Err(Stop::Pass(payload)),
            Err(Start::Lost(fault)) => Err(self.lost_bound(bound, &fault, false).into()),
        }
    }
}

/// The message of a user that is being moved the locked way.
pub(super) fn locked(key: &Key, to: &str, eta_ms: Option<u64>, in_transaction: bool) -> Failure {
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
