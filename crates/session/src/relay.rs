//! From a server's answer to the client, bytes as they come, and what the session learns on the way.

use std::sync::Arc;

use usher_backend::{Fault, Lent, gtid_of};
use usher_topology::GtidPosition;
use usher_wire::packet::{Change, ErrPacket};
use usher_wire::relay::{End as OkEnd, Kind, OkEdit, Progress, Relay};
use usher_wire::result::Answer;
use usher_wire::sqlerr::{ErrorId, Failure};
use usher_wire::status::Status;

use crate::buffers;
use crate::cursor::Cursor;
use crate::own_variables::LISTED_BYTES_MAX;
use crate::session::{End, Session, Turn};

/// What a relay looks out for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Watch {
    /// An error that says that the server is read-only is not passed on if it comes first: the caller has a better way.
    pub(crate) intercept: bool,
    /// The generated id to report instead of the server's.
    pub(crate) insert_id: Option<u64>,
    /// The statement runs in a transaction of ours that the client does not know of.
    pub(crate) hide_transaction: bool,
    /// The client's statement loads a file of its own, so that the server may ask for one.
    pub(crate) local_file: bool,
    /// A result set of it is never the last answer: a procedure's.
    pub(crate) several: bool,
    /// It is looked through before any of it is passed on, unless it is a long one.
    pub(crate) held: bool,
}

/// What an answer was.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The answer's last bytes, not sent yet: the connection can be given back first. Goes back to the free list.
    pub(crate) tail: Vec<u8>,
    /// An error that was held back, with its payload.
    pub(crate) intercepted: Option<(u16, Vec<u8>)>,
    /// Code of the error that ended the answer.
    pub(crate) error: Option<u16>,
    /// Its message.
    pub(crate) message: Option<String>,
    /// A part of the answer has gone to the client.
    pub(crate) forwarded: bool,
    /// The client's next sequence id.
    pub(crate) seq: u8,
    pub(crate) affected_rows: u64,
    pub(crate) insert_id: u64,
    pub(crate) warnings: u16,
    pub(crate) had_rows: bool,
    /// Rows of all result sets.
    pub(crate) rows: u64,
    /// The cursor that was opened.
    pub(crate) cursor: Option<Cursor>,
    /// Where the writes stand in the server's history.
    pub(crate) position: Option<Arc<GtidPosition>>,
    /// Variables that the statement changed, other than by a SET of ours.
    pub(crate) variables: Vec<(String, String)>,
}

/// How a relay broke off.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The client went; the server's connection is in the middle of its answer.
    Client(std::io::Error),
    /// The server went, or made no sense.
    Server {
        fault: Fault,
        /// Something of its answer has gone to the client.
        forwarded: bool,
        /// The client's next sequence id; `None` if half a packet has gone to it.
        seq: Option<u8>,
    },
}

impl Session {
    /// Relays the answer to one command that was sent on `lent`.
    pub(crate) async fn relay(
        &mut self,
        lent: &mut Lent,
        kind: Kind,
        turn: Turn,
        watch: Watch,
    ) -> Result<Outcome, Broken> {
        let mut form = self.form();
        if turn.more || watch.several {
            // Clients without DEPRECATE_EOF look for it behind the definitions too.
            form.status = form.status.with(Status::MORE_RESULTS);
        }
        let mut relay = Relay::with_seq(kind, form, lent.answer_seq, turn.seq);
        let mut outcome = Outcome::default();
        let mut forwarded = false;
        loop {
            let progress = match relay.advance(&mut lent.buf) {
                Ok(progress) => progress,
                Err(error) => return Err(server(error.into(), forwarded, &relay)),
            };
            let step = match progress {
                Progress::More if watch.held && lent.buf.len() < LISTED_BYTES_MAX => {
                    lent.read().await.map_err(|fault| server(fault, forwarded, &relay))
                }
                Progress::More => self.more(lent, &mut relay, &mut forwarded).await,
                Progress::Ok(end) => {
                    self.learn(lent, &end, &mut outcome);
                    let told = self.state_to_tell(&end, &lent.buf, watch.hide_transaction);
                    let edit = OkEdit { state: told.as_deref(), ..edit(turn, watch, self.aside, &end) };
                    let passed = relay.pass_ok(&mut lent.buf, &edit);
                    match passed.map_err(|error| server(error.into(), forwarded, &relay)) {
                        Ok(()) if end.more_results() && self.client.channel.is_compressed() => {
                            self.end_frames(lent, &mut relay, &mut forwarded).await
                        }
                        passed => passed,
                    }
                }
                Progress::Err(at) => {
                    let payload = lent.buf.get(at).unwrap_or_default();
                    let parsed = ErrPacket::parse(payload).ok();
                    let code = parsed.as_ref().map_or(0, |error| error.code);
                    if watch.intercept && is_read_only(payload) && !forwarded && relay.ready() == 0 {
                        outcome.intercepted = Some((code, payload.to_vec()));
                        lent.buf.clear();
                        lent.rest();
                        return Ok(outcome);
                    }
                    outcome.error = Some(code);
                    outcome.message = parsed.map(|error| error.text().into_owned());
                    relay.pass(&mut lent.buf).map_err(|error| server(error.into(), forwarded, &relay))
                }
                Progress::Done => break,
                Progress::LocalInfile(_) if watch.local_file => {
                    forwarded = true;
                    self.local_file(lent, &mut relay).await
                }
                Progress::Prepared(_) | Progress::LocalInfile(_) => {
                    let error = usher_wire::Error::Malformed("an answer that was not asked for");
                    Err(server(error.into(), forwarded, &relay))
                }
            };
            step?;
        }
        outcome.seq = relay.client_seq();
        outcome.rows = relay.rows();
        if relay.ready() != lent.buf.len() {
            let error = usher_wire::Error::Malformed("bytes behind an answer");
            return Err(server(error.into(), true, &relay));
        }
        outcome.forwarded = forwarded;
        outcome.tail = std::mem::replace(&mut lent.buf, buffers::take());
        lent.rest();
        Ok(outcome)
    }

    /// Sends on what is ready and reads more.
    async fn more(&mut self, lent: &mut Lent, relay: &mut Relay, forwarded: &mut bool) -> Result<(), Broken> {
        self.pass_on(lent, relay, forwarded).await?;
        lent.read().await.map_err(|fault| server(fault, *forwarded, relay))
    }

    /// Sends a result to a compressed client, whose packets then go on with the number of its frames.
    #[cold]
    async fn end_frames(
        &mut self,
        lent: &mut Lent,
        relay: &mut Relay,
        forwarded: &mut bool,
    ) -> Result<(), Broken> {
        self.pass_on(lent, relay, forwarded).await?;
        if let Some(seq) = self.client.channel.next_seq() {
            relay.renumber(seq);
        }
        Ok(())
    }

    async fn pass_on(
        &mut self,
        lent: &mut Lent,
        relay: &mut Relay,
        forwarded: &mut bool,
    ) -> Result<(), Broken> {
        let ready = relay.ready();
        if ready > 0 {
            let bytes = lent.buf.get(..ready).unwrap_or_default();
            self.client.write(bytes).await.map_err(Broken::Client)?;
            lent.consume(ready);
            relay.sent(ready);
            *forwarded = true;
        }
        Ok(())
    }

    fn learn(&mut self, lent: &mut Lent, end: &OkEnd, outcome: &mut Outcome) {
        outcome.affected_rows = end.affected_rows;
        outcome.insert_id = end.last_insert_id;
        outcome.warnings = end.warnings;
        outcome.had_rows = end.rows_end;
        lent.status = end.status;
        if !end.has_changes() {
            return;
        }
        for change in end.changes(&lent.buf) {
            if let Some(gtid) = gtid_of(&change) {
                outcome.position = GtidPosition::parse(&gtid).ok().map(Arc::new);
            } else if let Change::Variable { name, value } = change {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                outcome.variables.push((text(name), text(value)));
            }
        }
    }

    /// Sends an answer's last bytes and takes their buffer back.
    pub(crate) async fn send_tail(&mut self, tail: Vec<u8>) -> Result<(), End> {
        let sent = self.client.write(&tail).await;
        buffers::give_back(tail);
        Ok(sent?)
    }

    /// Tells the client, in place of the rest of the rows, that the server was lost.
    pub(crate) async fn end_rows_with(&mut self, seq: u8, failure: &Failure) -> Result<(), End> {
        let mut out = buffers::take();
        Answer::new(&mut out, seq, self.client.caps).failure(failure);
        self.send_tail(out).await
    }
}

/// Whether an error says that the server is read-only: 1290 says it of other options too, and names the option in
/// every language.
pub(crate) fn is_read_only(payload: &[u8]) -> bool {
    const OPTION_PREVENTS_STATEMENT: u16 = 1290;
    const READ_ONLY_MODE: u16 = 1836;
    let Ok(error) = ErrPacket::parse(payload) else { return false };
    match error.code {
        READ_ONLY_MODE => true,
        OPTION_PREVENTS_STATEMENT => {
            let text = error.text();
            text.contains("read-only") || text.contains("read_only")
        }
        _ => false,
    }
}

pub(crate) fn server(fault: Fault, forwarded: bool, relay: &Relay) -> Broken {
    Broken::Server { fault, forwarded, seq: relay.is_between_packets().then(|| relay.client_seq()) }
}

fn edit<'a>(turn: Turn, watch: Watch, aside: Option<Status>, end: &OkEnd) -> OkEdit<'a> {
    let mut edit = OkEdit::default();
    if let Some(status) = aside {
        let of_transactions = Status::IN_TRANS.with(Status::AUTOCOMMIT).with(Status::IN_TRANS_READONLY);
        let shown = Status(end.status.0 & of_transactions.0);
        let wanted = Status(status.0 & of_transactions.0);
        if shown != wanted {
            edit.clear_status = of_transactions;
            edit.set_status = wanted;
        }
    }
    if turn.more {
        edit.set_status = edit.set_status.with(Status::MORE_RESULTS);
    }
    if watch.hide_transaction {
        edit.clear_status = Status::IN_TRANS;
    }
    if !end.rows_end {
        edit.last_insert_id = watch.insert_id;
    }
    edit
}

/// The failure of a read whose server was lost in the middle.
pub(crate) fn interrupted(server: &str, fault: &Fault) -> Failure {
    Failure::new(ErrorId::ReadInterrupted)
        .field("server", server)
        .note(format!("lost in the middle of the rows: {fault}"))
}
