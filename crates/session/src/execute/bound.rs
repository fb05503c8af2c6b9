//! Statements on a connection that the session holds: of its transaction, or with state that stays there.

use std::fmt::Display;

use usher_backend::{BackendError, Fault};
use usher_sql::Kind as PlanKind;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};
use usher_wire::status::Status;

use super::admit::Admitted;
use super::{Order, Start, lost, may_be_done, said};
use crate::in_flight::InFlight;
use crate::relay::{Broken, Outcome, Watch};
use crate::session::{Bound, End, Served, Session, Stop, Transaction, Turn};

impl Session {
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
    pub(super) async fn hold_on_to(&mut self, mut bound: Bound) {
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
    pub(super) async fn run_on_bound(
        &mut self,
        bound: &mut Bound,
        order: &mut Order<'_>,
        turn: Turn,
    ) -> Result<Option<Outcome>, Stop> {
        let open = matches!(self.transaction, Transaction::Open(shard) if shard == bound.shard);
        if bound.pins.bind() && !open && !self.is_writer(bound) {
            let gone =
                Fault::Protocol(usher_wire::Error::Misuse("the shard's writer is another server by now"));
            return Err(self.lost_bound(bound, &gone, false).into());
        }
        if bound.lent.is_shut_out() {
            return Err(self.lost_bound(bound, &Fault::Closed, false).into());
        }
        // What is asked of the statement before would be gone, and a statement of MySQL may have run under a mix.
        if !self.keeps {
            self.bring_settings(bound).await?;
        }
        // What a transaction begins with is entered as well: a move waits for its end.
        let begins = !open && (self.transaction != Transaction::None || !self.autocommit);
        let fence = match order.writes() || begins {
            true => match self.admit_bound(bound, open, order).await? {
                Admitted::Here(fence) => fence.filter(|_| order.writes()),
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
            held: false,
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
                let unknown = may_be_done(order, self.transaction != Transaction::None);
                let failure = self.lost_bound(bound, &fault, unknown);
                let Some(seq) = seq else { return Err(End::Torn.into()) };
                self.end_rows_with(seq, &failure).await?;
                match failure.id() {
                    ErrorId::BackendLostInTransaction => Err(Stop::Told(seq.wrapping_add(1))),
                    id => Err(End::Refused(id).into()),
                }
            }
            Err(Broken::Client(error)) => {
                bound.lent.discard();
                Err(End::Io(error).into())
            }
        }
    }

    pub(super) fn is_writer(&self, bound: &Bound) -> bool {
        let state = self.shared.directory.state();
        state.topology.shard(bound.shard).is_some_and(|shard| shard.writer == bound.lent.server().id)
    }

    /// Begins what is pending, or a transaction of our own, on a connection that the session holds.
    pub(super) async fn begin_bound(&mut self, bound: &mut Bound, own: bool) -> Result<(), Stop> {
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

    pub(crate) async fn bring_settings(&mut self, bound: &mut Bound) -> Result<(), Stop> {
        match bound.lent.bring_to(&self.settings).await {
            Ok(()) => Ok(()),
            Err(BackendError::Settings { payload, .. }) => Err(Stop::Pass(payload)),
            Err(error) => Err(self.lost_bound(bound, &error, false).into()),
        }
    }

    /// Of a connection that is gone. With the transaction on it that is over; with anything else the session is, and with it
    /// a transaction that it has elsewhere.
    pub(crate) fn lost_bound(&mut self, bound: &mut Bound, why: &dyn Display, unknown: bool) -> Failure {
        let open = matches!(self.transaction, Transaction::Open(shard) if shard == bound.shard);
        let (id, executed) = match (unknown, open) {
            (true, _) => (ErrorId::OutcomeUnknown, Executed::Unknown),
            (false, true) => (ErrorId::BackendLostInTransaction, Executed::No),
            (false, false) => (ErrorId::SessionStateLost, Executed::No),
        };
        let failure = lost(bound.lent.server(), why, id, executed);
        bound.lent.discard();
        self.end_transaction();
        failure
    }
}
