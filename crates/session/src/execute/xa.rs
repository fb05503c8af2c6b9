//! Ending a prepared XA branch, which is no session's, on the shard that keeps it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use usher_sql::{Catalog, Plan};
use usher_topology::ShardId;
use usher_wire::packet::ErrPacket;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};

use super::admit::Admission;
use super::{Body, Order, Start, is_connection, lost, position, read_only, said};
use crate::hold::Hold;
use crate::relay::is_read_only;
use crate::route::Place;
use crate::session::{Served, Session, Stop, Turn};

/// A branch is its session's until the server has seen that session end. How long that may take.
const DETACHED_WITHIN: Duration = Duration::from_secs(2);
/// A server's error for a branch that is not there, or is another connection's.
const UNKNOWN_XID: u16 = 1397;

/// What became of an attempt.
enum Tried {
    /// The position of what was committed.
    Done(Option<String>),
    /// Nothing was done; another attempt may find things changed.
    Later(Failure),
    Unknown(Vec<u8>),
}

impl Session {
    /// Runs XA COMMIT or XA ROLLBACK there, held while the shard flips. `listed`: the branch was there a moment ago.
    pub(crate) async fn end_prepared_on(
        &mut self,
        shard: ShardId,
        name: &[u8],
        statement: &str,
        listed: bool,
        turn: Turn,
    ) -> Served {
        let (shared, handle) = (Arc::clone(&self.shared), Arc::clone(&self.handle));
        let mut hold = Hold::new(&shared, &handle, false);
        let given_up = Instant::now() + DETACHED_WITHIN;
        let plan = usher_sql::plan(statement.as_bytes(), None, self.mode, &Catalog::default());
        self.let_go_of_kept();
        loop {
            let leave = self.admit_branch(shard, &plan, &mut hold).await?;
            let tried = self.try_to_end(&leave, statement).await;
            self.end_transaction();
            match tried? {
                Tried::Done(gtid) => {
                    let keys = shared.branches.forget(name);
                    if statement.starts_with("XA COMMIT") && !shard.is_global() {
                        shared.watermarks.wrote_of(shard, keys.as_deref(), position(gtid));
                    }
                    return self.answer_ok(turn).await;
                }
                Tried::Later(why) => hold.wait_moment(leave.version, &why).await?,
                Tried::Unknown(payload) if !listed || Instant::now() >= given_up => {
                    return Err(Stop::Pass(payload));
                }
                Tried::Unknown(_) => {
                    let why = Failure::new(ErrorId::HoldExpired).note("the branch is another connection's");
                    hold.wait_moment(leave.version, &why).await?;
                }
            }
        }
    }

    async fn admit_branch(
        &mut self,
        shard: ShardId,
        plan: &Plan,
        hold: &mut Hold<'_>,
    ) -> Result<Admission, Stop> {
        let place = Place::writer(shard);
        let body = Body::Text(&[]);
        let mut order = Order { plan, place, key: None, body, insert_id: None, writer_hint: true };
        let admitted = self.admit(&mut order, hold).await;
        admitted.inspect_err(|_| self.end_transaction())
    }

    async fn try_to_end(&mut self, leave: &Admission, statement: &str) -> Result<Tried, Stop> {
        let pool = self.shared.pools.of(leave.writer);
        let pool = pool.map_err(|error| super::checkout_failure(&error))?;
        let mut lent = match self.lend(&pool).await {
            Ok(lent) => lent,
            Err(error) if is_connection(&error) => {
                let why = Failure::new(ErrorId::ShardUnreachable).field("server", &pool.server().name);
                return Ok(Tried::Later(why.note(error.to_string())));
            }
            Err(usher_backend::BackendError::Settings { payload, .. }) => return Err(Stop::Pass(payload)),
            Err(error) => return Err(super::checkout_failure(&error).into()),
        };
        if self.shared.directory.era() != leave.era {
            let why = Failure::new(ErrorId::BackendLost).note("the proxy was revoked meanwhile");
            return Ok(Tried::Later(why));
        }
        self.shared.metrics.to_writer.inc();
        match said(lent.query(statement.as_bytes()).await) {
            Ok(reply) => Ok(Tried::Done(reply.gtid)),
            Err(Start::Refused(_, payload)) if is_read_only(&payload) => {
                Ok(Tried::Later(read_only(lent.server())))
            }
            Err(Start::Refused(_, payload)) => {
                let unknown = ErrPacket::parse(&payload).is_ok_and(|error| error.code == UNKNOWN_XID);
                if unknown { Ok(Tried::Unknown(payload)) } else { Err(Stop::Pass(payload)) }
            }
            Err(Start::Lost(fault)) => {
                let failure = lost(lent.server(), &fault, ErrorId::OutcomeUnknown, Executed::Unknown);
                lent.discard();
                Err(failure.into())
            }
        }
    }
}
