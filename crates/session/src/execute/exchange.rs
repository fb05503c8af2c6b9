//! Sending a statement on a connection, with what has to be there first, and relaying its answer.

use std::sync::Arc;

use usher_backend::{Fault, Lent, Settings};
use usher_sql::{Found, Kind};
use usher_wire::command::{COM_STMT_CLOSE, COM_STMT_PREPARE};
use usher_wire::packet::ErrPacket;
use usher_wire::relay::Kind as AnswerKind;
use usher_wire::status::Status;
use usher_wire::stmt::Execute;

use super::{Body, Order, Start, lost_between, said, unsent};
use crate::cursor::Cursor;
use crate::relay::{Broken, Outcome, Watch};
use crate::session::{Session, Turn};
use crate::text_prepare::{Named, Naming, meant_under, read_again_under};

/// The server no longer knows a prepared statement.
const UNKNOWN_STATEMENT: u16 = 1243;

impl Session {
    /// Sends the statement and relays its answer.
    pub(super) async fn exchange(
        &mut self,
        lent: &mut Lent,
        order: &mut Order<'_>,
        turn: Turn,
        watch: Watch,
    ) -> Result<Outcome, Broken> {
        let uses = &order.plan.uses;
        let is_call = order.plan.kind == Kind::Call;
        if (uses.last_insert_id || uses.sets_last_insert_id || is_call || uses.unknown_function.is_some())
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
        if self.naming.is_some()
            && let Some(refused) = self.name_on(lent).await.map_err(unsent)?
        {
            self.handle.rests(lent);
            return Ok(self.refused(refused, turn));
        }
        let mut statement = None;
        let watch = Watch { held: order.plan.of_variables, ..watch };
        match &mut order.body {
            Body::Text(packets) | Body::FieldList(packets) | Body::Simple(packets) => {
                lent.send(packets).await.map_err(unsent)?
            }
            Body::Execute { text, hash, packet, meant, again, cursor } => {
                let max = self.shared.limits.statements_per_backend_max;
                let target = match meant.reads_as(&lent.settings) {
                    true => None,
                    false => Some(meant_under(meant, &lent.settings)),
                };
                let hash = under(*hash, target.as_ref().unwrap_or(&lent.settings));
                // MySQL prepares a statement again, under the settings of the moment, when the types of its parameters are
                // others: one that is executed under others than its own is for nobody else. Where the client's had these
                // types before, it was not prepared again.
                let alone = target.is_some() && !lent.is_mariadb();
                let hash = if alone { !hash } else { hash };
                // A MySQL server gives no rows of a statement any more that has once had a cursor, closed or not.
                let hash = if *cursor && !lent.is_mariadb() { hash ^ WITH_CURSOR } else { hash };
                // MySQL gives a user variable the type that it has while the statement is prepared.
                let known = match !alone && uses.reads_user_vars.is_empty() || lent.is_mariadb() {
                    true => lent.statement(hash),
                    false => None,
                };
                let prepared = match known {
                    Some(id) => Ok(id),
                    None => {
                        let back = target.is_some().then(|| match alone {
                            true => read_again_under((*again, text), meant, &lent.settings),
                            false => Arc::clone(&lent.settings),
                        });
                        Box::pin(prepare_under(lent, text, (hash, max), target.zip(back))).await
                    }
                };
                let id = match prepared {
                    Ok(id) => id,
                    Err(Start::Lost(fault)) => return Err(unsent(fault)),
                    Err(Start::Refused(_, payload)) => {
                        self.handle.rests(lent);
                        return Ok(self.refused(payload, turn));
                    }
                };
                let payload = packet.get_mut(4..).unwrap_or_default();
                // A packet too short for an id was refused when its parameters were read.
                let _ = Execute::patch_id(payload, id);
                statement = Some((id, hash));
                lent.send(packet).await.map_err(unsent)?;
            }
        }
        let mut outcome = self.relay(lent, order.body.answer(), turn, watch).await?;
        if watch.held && !outcome.forwarded {
            let binary = matches!(order.body, Body::Execute { .. });
            let tail = std::mem::take(&mut outcome.tail);
            outcome.tail = self.overlay(tail, order.body.text(), binary);
        }
        self.handle.rests(lent);
        if let Some((id, hash)) = statement.filter(|_| order.body.asks_for_cursor())
            && outcome.error.is_none()
            && order.plan.kind != Kind::Call
            && lent.status.has(Status::CURSOR_EXISTS)
        {
            outcome.cursor = Some(Cursor::open(lent, id, hash, order.plan.uses.found == Found::Rows));
        }
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
        if let (Some(UNKNOWN_STATEMENT), Some((_, hash))) = (outcome.error, statement) {
            lent.forget_statement(hash);
        }
        Ok(outcome)
    }

    /// Makes a connection know the statement that is to be executed by its name. The server's error if it refuses it: its
    /// table, say, is gone by now.
    #[cold]
    pub(super) async fn name_on(&mut self, lent: &mut Lent) -> Result<Option<Vec<u8>>, Fault> {
        let Some(Naming::Uses(named)) = self.naming.clone() else { return Ok(None) };
        if lent.knows_name(named.name(), named.hash()) {
            return Ok(None);
        }
        lent.forget_name(named.name());
        let own = Arc::clone(&lent.settings);
        if named.settings().reads_as(&own) {
            return self.say_name(lent, &named).await;
        }
        let target = meant_under(named.settings(), &own);
        lent.bring_to(&target).await.map_err(lost_between)?;
        let refused = self.say_name(lent, &named).await?;
        lent.bring_to(&own).await.map_err(lost_between)?;
        Ok(refused)
    }

    async fn say_name(&self, lent: &mut Lent, named: &Named) -> Result<Option<Vec<u8>>, Fault> {
        if let Some((_, payload)) = lent.query(&named.prepare()).await?.error {
            return Ok(Some(payload));
        }
        let max = self.shared.limits.statements_per_backend_max;
        lent.remember_name(named.name(), named.hash(), max);
        Ok(None)
    }

    /// The outcome of a statement that the server would not prepare: its own error, for the client.
    pub(super) fn refused(&mut self, payload: Vec<u8>, turn: Turn) -> Outcome {
        let parsed = ErrPacket::parse(&payload).ok();
        let code = parsed.as_ref().map_or(0, |error| error.code);
        // What came after it may have cleared the server's diagnostics.
        self.failure = parsed.map(|error| Box::new((error.code, error.text().into_owned())));
        let mut outcome = Outcome { error: Some(code), tail: crate::buffers::take(), ..Outcome::default() };
        let mut answer = usher_wire::result::Answer::new(&mut outcome.tail, turn.seq, self.client.caps);
        answer.packet(|out| out.extend_from_slice(&payload));
        outcome.seq = answer.seq();
        outcome
    }
}

/// Tells the statements that have cursors from the same ones without.
const WITH_CURSOR: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834;

/// The hash of a statement prepared under these settings: sql_mode and character set are part of what it means.
pub(crate) fn under(hash: u128, settings: &usher_backend::Settings) -> u128 {
    hash ^ (u128::from(settings.meaning()) << 64 | u128::from(settings.meaning().rotate_left(32)))
}

/// As [`prepare_on`], under the first of these settings; afterwards the connection has the second.
#[cold]
async fn prepare_under(
    lent: &mut Lent,
    text: &[u8],
    (hash, max): (u128, usize),
    under: Option<(Arc<Settings>, Arc<Settings>)>,
) -> Result<u32, Start> {
    let Some((target, back)) = under else { return prepare_on(lent, text, hash, max).await };
    let lost = |error| Start::Lost(lost_between(error));
    lent.bring_to(&target).await.map_err(lost)?;
    let prepared = prepare_on(lent, text, hash, max).await;
    lent.bring_to(&back).await.map_err(lost)?;
    prepared
}

/// The server's id of the statement, preparing it if this connection has not.
#[cold]
pub(super) async fn prepare_on(lent: &mut Lent, text: &[u8], hash: u128, max: usize) -> Result<u32, Start> {
    lent.send_command(COM_STMT_PREPARE, text).await.map_err(Start::Lost)?;
    let reply = said(lent.reply(AnswerKind::Prepare).await)?;
    let Some(id) = reply.statement_id else { return Err(Start::Lost(Fault::Closed)) };
    if let Some(old) = lent.remember_statement(hash, id, max) {
        // COM_STMT_CLOSE has no answer.
        lent.send_command(COM_STMT_CLOSE, &old.to_le_bytes()).await.map_err(Start::Lost)?;
        lent.rest();
    }
    Ok(id)
}
