//! What COM_STMT_PREPARE asks of a server: its words for errors and warnings, and what the columns are.

use usher_backend::{BackendError, Fault, Lent};
use usher_sql::Target;
use usher_topology::ShardId;
use usher_wire::caps::Caps;
use usher_wire::command::{COM_STMT_CLOSE, COM_STMT_PREPARE};
use usher_wire::frame::{frame, write_packet};
use usher_wire::relay::{Kind, Progress, Relay};
use usher_wire::sqlerr::{ErrorId, Executed, Failure};
use usher_wire::stmt::PrepareOk;

use super::Prepared;
use crate::buffers;
use crate::execute::{READ_ATTEMPTS, checkout_failure, is_connection, lost, under};
use crate::pins::Pins;
use crate::route::Place;
use crate::session::{Answered, Bound, End, Served, Session, Stop, Turn};

/// What a server has said.
struct Told {
    /// Its answer, as the client gets it.
    out: Vec<u8>,
    /// Its id, if it prepared.
    server_id: Option<u32>,
    warnings: u16,
}

impl Session {
    /// Has a server prepare, and keeps the statement if it did.
    pub(super) async fn prepare_on_server(&mut self, prepared: Prepared, id: u32, turn: Turn) -> Served {
        let place = match &prepared.plan.target {
            Target::Global => Place::writer(ShardId::GLOBAL),
            _ => self.any_place(),
        };
        let held = self.bound.iter().position(|bound| bound.shard == place.shard);
        let (mut bound, told) = match held {
            Some(at) => {
                let mut bound = self.bound.swap_remove(at);
                if let Err(stop) = self.bring_settings(&mut bound).await {
                    if !bound.lent.is_discarded() {
                        self.bound.push(bound);
                    }
                    return Err(stop);
                }
                match self.tell_prepared(&mut bound.lent, &prepared, id, turn).await {
                    Ok(told) => (bound, told),
                    Err(fault) => return Err(self.lost_bound(&mut bound, &fault, false).into()),
                }
            }
            None => self.prepare_on_any(place, &prepared, id, turn).await?,
        };
        let failed = told.server_id.is_none();
        if let Some(server_id) = told.server_id {
            self.keep_prepared(&mut bound.lent, prepared, id, server_id).await;
        }
        let tells = failed || told.warnings > 0;
        if held.is_none() && tells {
            self.put(bound, true);
        } else if held.is_some() && !bound.lent.is_discarded() {
            self.ran_on = tells.then_some(bound.shard);
            self.bound.push(bound);
        }
        self.shared.metrics.in_proxy.inc();
        self.send_tail(told.out).await?;
        Ok(Answered { failed, seq: turn.seq })
    }

    /// On a writer that is not the session's: it changes nothing, so another is asked if one does not answer.
    async fn prepare_on_any(
        &mut self,
        mut place: Place,
        prepared: &Prepared,
        id: u32,
        turn: Turn,
    ) -> Result<(Bound, Told), Stop> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let last = attempt == READ_ATTEMPTS;
            let state = self.shared.directory.state();
            let shard = state.topology.shard(place.shard);
            let shard = shard.ok_or_else(|| Failure::new(ErrorId::ShardUnreachable))?;
            let of_shard = |failure: Failure| failure.field("shard", &shard.name);
            let pool = self.shared.pools.of(shard.writer);
            let pool = pool.map_err(|error| of_shard(checkout_failure(&error)))?;
            let failure = match self.lend(&pool).await {
                Ok(mut lent) => match self.tell_prepared(&mut lent, prepared, id, turn).await {
                    Ok(told) => {
                        return Ok((Bound { shard: shard.id, lent, pins: Pins::default() }, told));
                    }
                    Err(_) if self.handle.is_ended() => {
                        lent.discard();
                        return Err(End::Refused(ErrorId::Killed).into());
                    }
                    Err(fault) => {
                        lent.discard();
                        lost(pool.server(), &fault, ErrorId::BackendLost, Executed::No)
                    }
                },
                Err(BackendError::Settings { payload, .. }) => return Err(Stop::Pass(payload)),
                Err(error) if is_connection(&error) => checkout_failure(&error),
                Err(error) => return Err(of_shard(checkout_failure(&error)).into()),
            };
            if last {
                return Err(of_shard(failure).safe_to_retry().into());
            }
            self.shared.metrics.retried.inc();
            place = self.another_place(place);
        }
    }

    /// Keeps a statement that a server has prepared under its id there.
    async fn keep_prepared(&mut self, lent: &mut Lent, prepared: Prepared, id: u32, server_id: u32) {
        let hash = under(prepared.hash, &lent.settings);
        let max = self.shared.limits.statements_per_backend_max;
        if let Some(old) = lent.remember_statement(hash, server_id, max) {
            let sent = lent.send_command(COM_STMT_CLOSE, &old.to_le_bytes()).await;
            if sent.is_ok() { lent.rest() } else { lent.discard() }
        }
        self.statements.insert(id, Box::new(prepared));
        self.last_prepared = Some(id);
    }

    /// Has a server prepare, and makes its answer the client's: another id, no hidden parameters.
    async fn tell_prepared(
        &self,
        lent: &mut Lent,
        prepared: &Prepared,
        id: u32,
        turn: Turn,
    ) -> Result<Told, Fault> {
        lent.send_command(COM_STMT_PREPARE, &prepared.server_text).await?;
        let mut relay = Relay::with_seq(Kind::Prepare, self.form(), 1, turn.seq);
        let mut server_id = None;
        let mut counts = (0, 0);
        let mut warnings = 0;
        loop {
            match relay.advance(&mut lent.buf)? {
                Progress::More => lent.read().await?,
                Progress::Prepared(head) => {
                    server_id = Some(head.statement_id);
                    counts = (head.params, head.columns);
                    warnings = head.warnings;
                    head.set_id(&mut lent.buf, id);
                    relay.pass(&mut lent.buf)?;
                }
                Progress::Ok(_) | Progress::Err(_) | Progress::LocalInfile(_) => relay.pass(&mut lent.buf)?,
                Progress::Done => break,
            }
        }
        let ready = relay.ready();
        let mut out = buffers::take();
        let bytes = lent.buf.get(..ready).unwrap_or_default();
        let hidden = prepared.added.len();
        if hidden == 0 || server_id.is_none() {
            out.extend_from_slice(bytes);
        } else {
            without_parameters(bytes, counts, hidden, self.client.caps, id, turn, &mut out);
        }
        lent.consume(ready);
        lent.rest();
        Ok(Told { out, server_id, warnings })
    }
}

/// Writes the answer again with fewer parameters. Their definitions are all alike, so any may go.
fn without_parameters(
    mut bytes: &[u8],
    (params, columns): (u16, u16),
    hidden: usize,
    caps: Caps,
    id: u32,
    turn: Turn,
    out: &mut Vec<u8>,
) {
    let kept = usize::from(params).saturating_sub(hidden);
    let mut seq = turn.seq;
    let mut index = 0;
    let eof = usize::from(!caps.has(Caps::DEPRECATE_EOF));
    while let Some(found) = frame(bytes) {
        bytes = bytes.get(found.wire_len()..).unwrap_or_default();
        // 0 is the head, then parameters, then perhaps an EOF, then columns.
        let is_hidden = (1 + kept..1 + usize::from(params)).contains(&index);
        let is_their_eof = kept == 0 && eof == 1 && index == 1 + usize::from(params);
        if index == 0 {
            let head =
                PrepareOk { id, columns, params: u16::try_from(kept).unwrap_or(u16::MAX), warnings: 0 };
            write_packet(out, &mut seq, |out| head.encode(out));
        } else if !is_hidden && !is_their_eof {
            write_packet(out, &mut seq, |out| out.extend_from_slice(found.payload));
        }
        index += 1;
    }
}
