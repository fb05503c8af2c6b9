//! One client's session: its state, and the loop that takes commands and serves them.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use usher_backend::{Lent, Settings, Stream};
use usher_sql::{Literal, Mode};
use usher_topology::{Key, ShardId};
use usher_wire::caps::Caps;
use usher_wire::command::{
    COM_QUERY, COM_QUIT, COM_STMT_CLOSE, COM_STMT_PREPARE, COM_STMT_SEND_LONG_DATA, Command,
};
use usher_wire::frame::message;
use usher_wire::handshake::{ChangeUser, Salt};
use usher_wire::packet::ErrPacket;
use usher_wire::relay::ClientForm;
use usher_wire::result::Answer;
use usher_wire::sqlerr::{ErrorId, Failure};
use usher_wire::status::Status;

use crate::account::{Account, Seat};
use crate::channel::Channel;
use crate::counts::Counts;
use crate::cursor::Cursor;
use crate::diagnostics::{RanOn, Told};
use crate::gate::Pass;
use crate::held::lock_thread;
use crate::in_flight::Slot;
use crate::pins::Pins;
use crate::prepared::Prepared;
use crate::sessions::Handle;
use crate::set::{Edit, mode_of};
use crate::shared::{Shared, Stopping};
use crate::text_prepare::{Named, Naming};
use crate::tracking::Tracking;
use crate::user_vars::Owed;
use crate::xa::Branch;
use crate::{buffers, login};

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// COM_QUIT, or the client just went.
    #[error("the client is gone")]
    Gone,
    /// The client's socket failed.
    #[error("{0}")]
    Io(std::io::Error),
    /// The client's bytes make no sense.
    #[error("{0}")]
    Wire(#[from] usher_wire::Error),
    /// It was told why.
    #[error("refused: {}", .0.summary())]
    Refused(ErrorId),
    /// It was told, in the answer to its command, that the proxy stops.
    #[error("sent away, as the proxy stops")]
    SentAway,
    /// A server was lost with half a packet sent on: the client can't be told in the protocol.
    #[error("the server was lost in the middle of a packet")]
    Torn,
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        match error.downcast::<usher_wire::Error>() {
            Ok(error) => Self::Wire(error),
            Err(error) => Self::Io(error),
        }
    }
}

/// The client's side of a session.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
    pub(crate) caps: Caps,
    pub(crate) id: u32,
    pub(crate) salt: Salt,
    pub(crate) from: SocketAddr,
    /// The longest it may take no byte of an answer.
    pub(crate) write_max: Duration,
    /// Its place among the connections of its address.
    pub(crate) _pass: Pass,
}

impl Client {
    /// Sends a part of an answer.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.channel.write_within(bytes, self.write_max).await
    }
}

/// Where a transaction stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Transaction {
    /// None.
    None,
    /// Not yet on a server: its first statement decides which.
    Pending {
        /// By BEGIN. With autocommit off a savepoint, too, waits for its transaction, which is not begun by it.
        begun: bool,
        /// What to send there first.
        statements: Vec<Box<[u8]>>,
    },
    /// On the server of the bound connection of this shard.
    Open(ShardId),
}

/// A connection that stays with the session.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) shard: ShardId,
    pub(crate) lent: Lent,
    /// What it holds that cannot be replayed elsewhere.
    pub(crate) pins: Pins,
}

/// A command's place in the conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// Sequence id that its answer starts with.
    pub(crate) seq: u8,
    /// Another answer of the same command follows.
    pub(crate) more: bool,
}

/// What became of a statement whose answer was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    /// It was an error, so the rest of a multi-statement is not run.
    pub(crate) failed: bool,
    /// Next sequence id.
    pub(crate) seq: u8,
}

/// A statement's way: answered, refused with an error that goes to the client, or the session's end.
pub(crate) type Served = Result<Answered, Stop>;

/// What ends a statement early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The client gets this error and the session goes on.
    Fail(Failure),
    /// The client gets this ERR payload of a server, and the session goes on.
    Pass(Vec<u8>),
    /// The client was told in the middle of an answer; its next sequence id. The session goes on.
    Told(u8),
    /// The session ends.
    End(End),
}

impl Stop {
    /// Whether it is this failure of ours.
    pub(crate) fn is_of(&self, id: ErrorId) -> bool {
        matches!(self, Self::Fail(failure) if failure.id() == id)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Fail(failure)
    }
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::End(error.into())
    }
}

impl From<usher_wire::Error> for Stop {
    fn from(error: usher_wire::Error) -> Self {
        Self::Fail(Failure::new(ErrorId::MalformedPacket).note(error.to_string()))
    }
}

/// One client's session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Client,
    pub(crate) account: Arc<Account>,
    /// Of all accounts, when this one was last looked for.
    accounts_version: Option<u64>,
    /// Its place among the account's connections.
    seat: Seat,
    pub(crate) settings: Arc<Settings>,
    /// Character set as at login, for a reset.
    names_at_login: Box<str>,
    pub(crate) schema_hash: u64,
    pub(crate) mode: Mode,
    pub(crate) autocommit: bool,
    /// What the client asks to be told of changes, if that is not the default.
    pub(crate) tracking: Option<Box<Tracking>>,
    pub(crate) transaction: Transaction,
    /// The transaction is this XA branch.
    pub(crate) branch: Option<Box<Branch>>,
    /// A server says that the transaction is a read-only one.
    pub(crate) read_only: bool,
    /// Keys written in the open transaction: their positions are learnt at its end.
    pub(crate) written: Vec<Key>,
    /// Keys whose writes the open transaction may send: their lock and fence have been looked at.
    pub(crate) cleared: Vec<Key>,
    pub(crate) bound: Vec<Bound>,
    /// Connections that have nothing of the session but open cursors.
    pub(crate) cursors: Vec<Bound>,
    /// The cursor that the statement under way has opened.
    pub(crate) opened: Option<Cursor>,
    /// The connection of the last statement, kept while its warnings may be asked for.
    pub(crate) kept: Option<Bound>,
    /// What there was to be told of the statement before when its connection was wanted by somebody else.
    pub(crate) told: Option<Box<Told>>,
    /// What has to be asked of the statement before, before the next one.
    pub(crate) owed: Option<Box<Owed>>,
    /// The connection of the statement under way is kept after it as it was before.
    pub(crate) keeps: bool,
    /// The statement under way is a SET that only the server understands.
    pub(crate) obscure: bool,
    /// What the SET under way plainly changes.
    pub(crate) edits: Vec<Edit>,
    /// What it sets to values that only the server knows.
    pub(crate) unknown_settings: Vec<String>,
    /// Names of savepoints in a transaction that is not on a server yet.
    pub(crate) savepoints: Vec<String>,
    /// Where the statement before ran, if the session holds that connection.
    pub(crate) ran_on: RanOn,
    /// To be said on a connection before the statement under way.
    pub(crate) prelude: Option<Box<str>>,
    /// Names of locks that the prepared statement under way may take, as SQL; `None` of what only a server knows.
    pub(crate) locks: Vec<Option<Box<str>>>,
    /// What FOUND_ROWS() gives.
    pub(crate) found_rows: u64,
    /// Rows that LIMIT passes over in the statement under way, if it is known.
    pub(crate) passed_over: Option<u64>,
    /// The cursor whose connection knows that better.
    pub(crate) found_rows_on: Option<Cursor>,
    /// Error of the statement before, if it was answered by the session: for SHOW WARNINGS.
    pub(crate) failure: Option<Box<(u16, String)>>,
    /// What the statement before has to remark, if it was answered by the session: for SHOW WARNINGS.
    pub(crate) notices: Vec<String>,
    /// Statements prepared in text, by their names in lower case.
    pub(crate) named: HashMap<Box<str>, Arc<Named>>,
    /// What the statement under way does with such a name.
    pub(crate) naming: Option<Naming>,
    /// SET TRANSACTION statements for the next transaction only.
    pub(crate) next_transaction: Vec<Box<[u8]>>,
    /// What the client is to be told of its transaction while a statement runs beside it.
    pub(crate) aside: Option<Status>,
    pub(crate) last_insert_id: u64,
    pub(crate) row_count: i64,
    /// Of prepared statements, for SHOW STATUS.
    pub(crate) counts: Counts,
    pub(crate) statements: HashMap<u32, Box<Prepared>>,
    pub(crate) next_statement: u32,
    /// Id of the statement that was prepared last, if that went well.
    pub(crate) last_prepared: Option<u32>,
    pub(crate) slot: Arc<Slot>,
    /// The open transaction's, while a statement beside it has one of its own.
    pub(crate) parked: Option<Arc<Slot>>,
    pub(crate) handle: Arc<Handle>,
    /// The slot shows a write, or the transaction, as under way.
    pub(crate) entered: bool,
    pub(crate) literals: Vec<Literal>,
    /// Spreads reads over replicas.
    pub(crate) turn: usize,
    last_active: Instant,
    /// When it had logged in.
    began: Instant,
}

/// Since its login, while the proxy stops.
const JUST_COME: Duration = Duration::from_secs(1);

/// The longest a client that is to go is listened to while it sends the rest of a command.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Literals of a usual statement; what a long one took is given back.
const LITERALS_KEPT: usize = 32;

impl Session {
    pub(crate) fn start(
        shared: Arc<Shared>,
        client: Client,
        (account, seat): (Arc<Account>, Seat),
        settings: Arc<Settings>,
    ) -> Self {
        let slot = shared.in_flight.register();
        let handle = shared.sessions.enter(client.id, &account.name, client.from, &settings);
        let schema_hash = shared.plans.schema_hash(settings.schema());
        let turn = client.id as usize;
        Self {
            names_at_login: settings.names().into(),
            shared,
            client,
            account,
            accounts_version: None,
            seat,
            mode: mode_of(&settings),
            autocommit: settings.variable("autocommit").is_none(),
            tracking: None,
            settings,
            schema_hash,
            transaction: Transaction::None,
            branch: None,
            read_only: false,
            written: Vec::new(),
            cleared: Vec::new(),
            bound: Vec::new(),
            cursors: Vec::new(),
            opened: None,
            kept: None,
            told: None,
            owed: None,
            failure: None,
            notices: Vec::new(),
            keeps: false,
            obscure: false,
            edits: Vec::new(),
            unknown_settings: Vec::new(),
            savepoints: Vec::new(),
            ran_on: None,
            prelude: None,
            locks: Vec::new(),
            found_rows: 0,
            passed_over: None,
            found_rows_on: None,
            named: HashMap::new(),
            naming: None,
            next_transaction: Vec::new(),
            aside: None,
            last_insert_id: 0,
            row_count: 0,
            counts: Counts::default(),
            statements: HashMap::new(),
            next_statement: 1,
            last_prepared: None,
            slot,
            parked: None,
            handle,
            entered: false,
            literals: Vec::new(),
            turn,
            last_active: Instant::now(),
            began: Instant::now(),
        }
    }

    /// Serves commands until the client goes.
    pub(crate) async fn serve(mut self: Box<Self>) {
        let mut buf = Vec::new();
        let mut patience = Patience::new(&self.shared, &self.handle);
        loop {
            let served = match self.next(&mut buf).await {
                Ok(true) => Ok(()),
                Ok(false) => self.read_more(&mut buf, &mut patience).await,
                Err(end) => Err(end),
            };
            if let Err(end) = served {
                self.say_goodbye(&end, !buf.is_empty()).await;
                tracing::debug!(client = self.client.id, reason = %end, "session ended");
                return;
            }
        }
    }

    /// Waits for bytes of the client: without a buffer, if it is idle. Not for ever, nor when the proxy stops.
    async fn read_more(&mut self, buf: &mut Vec<u8>, patience: &mut Patience) -> Result<(), End> {
        if self.handle.is_ended() {
            return Err(End::Refused(ErrorId::Killed));
        }
        (patience.idle_max, patience.idle_why) = self.idle_max();
        if buf.is_empty() {
            self.client.channel.expect_command();
        }
        while buf.is_empty() {
            buffers::give_back(std::mem::take(buf));
            self.give_kept_to_who_waits(patience).await?;
            let stream = &mut self.client.channel;
            patience.wait_for(stream.readable(), self.last_active).await?;
            *buf = buffers::take();
            match stream.read_arrived(buf).await {
                Ok(0) => return Err(End::Gone),
                // Inside TLS what has arrived may be half a record.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                read => return Ok(read.map(drop)?),
            }
        }
        // Who has sent half of a packet may never send the rest.
        self.give_kept_to_who_waits(patience).await?;
        match patience.wait_for(self.client.channel.read(buf), self.last_active).await? {
            0 => Err(End::Gone),
            _ => Ok(()),
        }
    }

    /// Waits for bytes of the client, and gives the connections that it could do without to whoever wants them before they
    /// come: that kept for its questions, and those kept for what procedures may have left.
    async fn give_kept_to_who_waits(&mut self, patience: &mut Patience) -> Result<(), End> {
        loop {
            let soft = self.bound.iter().find(|bound| self.can_do_without(bound));
            let Some(wanted) = self.kept.as_ref().or(soft) else { return Ok(()) };
            let either = async {
                tokio::select! {
                    biased;
                    ready = self.client.channel.readable() => ready.map(|()| false),
                    () = wanted.lent.wanted() => Ok(true),
                }
            };
            if !patience.wait_for(either, self.last_active).await? {
                return Ok(());
            }
            match self.kept.is_some() {
                true => self.remember_diagnostics().await,
                false => self.let_go_of_soft().await,
            }
        }
    }

    /// Whether a connection is bound for nothing but what a procedure may have left, all that is known of it being carried
    /// along.
    pub(crate) fn can_do_without(&self, bound: &Bound) -> bool {
        bound.pins.are_soft() && !matches!(self.transaction, Transaction::Open(shard) if shard == bound.shard)
    }

    /// Closes the connections that the session can do without.
    pub(crate) async fn let_go_of_soft(&mut self) {
        while let Some(at) = self.bound.iter().position(|bound| self.can_do_without(bound)) {
            let mut bound = self.bound.swap_remove(at);
            let shard = bound.shard;
            if self.ran_on == Some(shard) {
                self.remember(&mut bound).await;
                self.ran_on = None;
            }
            if let Some(owed) = self.owed.take_if(|owed| owed.shard == shard)
                && !bound.lent.is_discarded()
            {
                self.ask(&mut bound, &owed).await;
            }
            bound.lent.dirty = true;
        }
    }

    /// The longest it may be idle, and why: what the client has set itself, if that is less, and in a transaction on a
    /// server what others may have to wait.
    fn idle_max(&self) -> (Duration, ErrorId) {
        let limits = &self.shared.limits;
        let set = self.settings.variable("wait_timeout").and_then(|value| value.parse().ok());
        let most = match self.client.caps.has(Caps::INTERACTIVE) {
            true => limits.idle_interactive_client_s,
            false => limits.idle_client_s,
        };
        let of_all = set.unwrap_or(u64::MAX).min(most);
        let in_transaction = limits.idle_in_transaction_s;
        let holds = matches!(self.transaction, Transaction::Open(_));
        if holds && in_transaction > 0 && in_transaction < of_all {
            return (Duration::from_secs(in_transaction), ErrorId::IdleInTransaction);
        }
        (Duration::from_secs(of_all), ErrorId::IdleTimeout)
    }

    /// Serves one command, if it is in the buffer as a whole.
    async fn next(&mut self, buf: &mut Vec<u8>) -> Result<bool, End> {
        match message(buf, self.shared.limits.packet_bytes_max) {
            Ok(Some(found)) => {
                if found.seq != 0 {
                    self.send_failure(0, &Failure::new(ErrorId::PacketOrder)).await?;
                    return Err(End::Refused(ErrorId::PacketOrder));
                }
                let (wire_len, seq) = (found.wire_len, found.next_seq);
                let joined = match found.payload {
                    std::borrow::Cow::Borrowed(_) => None,
                    std::borrow::Cow::Owned(payload) => Some(payload),
                };
                self.dispatch(buf, wire_len, joined, seq).await?;
                if wire_len == buf.len() {
                    buf.clear()
                } else {
                    drop(buf.drain(..wire_len))
                }
                self.last_active = Instant::now();
                self.handle.sleeps(&self.settings, self.last_active);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(usher_wire::Error::Oversized { len, max }) => {
                let failure = Failure::new(ErrorId::PacketTooBig)
                    .field("bytes", len)
                    .field("limits.packet_bytes_max", max);
                self.send_failure(1, &failure).await?;
                Err(End::Refused(ErrorId::PacketTooBig))
            }
            Err(error) => {
                let failure = Failure::new(ErrorId::PacketOrder).note(error.to_string());
                self.send_failure(1, &failure).await?;
                Err(End::Refused(ErrorId::PacketOrder))
            }
        }
    }

    /// Serves one command: `buf[..wire_len]` is its bytes as they came, `joined` its payload if it came in several
    /// packets.
    async fn dispatch(
        &mut self,
        buf: &mut [u8],
        wire_len: usize,
        joined: Option<Vec<u8>>,
        seq: u8,
    ) -> Result<(), End> {
        let Some(raw) = buf.get_mut(..wire_len) else { return Err(End::Gone) };
        if self.shared.is_stopping() && self.may_be_sent_away(head_byte(raw)) {
            self.send_failure(seq, &ErrorId::Draining.into()).await?;
            return Err(End::SentAway);
        }
        if self.accounts_version != Some(self.shared.accounts.version()) {
            self.renew_account()?;
        }
        let caps = self.client.caps;
        let turn = Turn { seq, more: false };
        let head = joined.as_deref().or_else(|| raw.get(4..)).unwrap_or_default();
        // The text of a prepared statement follows when it has been found.
        let (command, text) = head.split_first().unwrap_or((&0, &[]));
        let text = if matches!(*command, COM_QUERY | COM_STMT_PREPARE) { text } else { &[] };
        self.handle.begins(*command, text, &self.settings);
        self.counts.saw(*command);
        let served = match Command::parse(head, caps) {
            Ok(Command::Query(query)) => {
                let at = query.text_at;
                match (self.account.charge(), joined) {
                    (Err(over), _) => Err(over.into()),
                    (Ok(()), None) => self.query(raw, at, turn).await,
                    (Ok(()), Some(payload)) => Box::pin(self.query_joined(payload, at, turn)).await,
                }
            }
            Ok(Command::StmtExecute { id, .. }) => match self.account.charge() {
                Ok(()) => {
                    let id = self.meant(id);
                    self.execute_prepared(raw, joined.as_deref(), id, turn).await
                }
                Err(over) => Err(over.into()),
            },
            Ok(Command::Quit) => return Err(End::Gone),
            Ok(command) => Box::pin(self.other(command, turn)).await,
            Err(error) => Err(error.into()),
        };
        if self.literals.capacity() > LITERALS_KEPT {
            self.literals = Vec::new();
        }
        self.handle.holds(self.pins());
        self.handle.has_locks_on(self.bound.iter().find_map(lock_thread).unwrap_or_default());
        self.settle(served, seq).await
    }

    /// While the proxy stops: between transactions, by an answer that the client waits for. Who has only just come may
    /// have connected to the successor's address and reached this proxy: it has time to do what it came for.
    #[cold]
    fn may_be_sent_away(&self, command: u8) -> bool {
        let is_answered = !matches!(command, COM_QUIT | COM_STMT_CLOSE | COM_STMT_SEND_LONG_DATA);
        is_answered && !self.status().has(Status::IN_TRANS) && self.began.elapsed() >= JUST_COME
    }

    /// Rights and limits are those of now; of an account that is gone the session is, too.
    #[cold]
    fn renew_account(&mut self) -> Result<(), End> {
        let version = self.shared.accounts.version();
        let account = self.shared.accounts.named(self.account.name.as_bytes());
        self.account = account.ok_or(End::Refused(ErrorId::Killed))?;
        self.accounts_version = Some(version);
        Ok(())
    }

    /// Tells the client of a failure, if there is one.
    async fn settle(&mut self, served: Served, seq: u8) -> Result<(), End> {
        match served {
            Ok(_) => Ok(()),
            Err(stop) => self.tell(stop, seq).await.map(drop),
        }
    }

    /// Tells the client what ended a statement early, in a packet with this sequence id.
    pub(crate) async fn tell(&mut self, stop: Stop, seq: u8) -> Result<Answered, End> {
        self.row_count = -1;
        match stop {
            Stop::Fail(failure) => {
                if failure.id().rolls_back() {
                    self.roll_back().await;
                }
                self.failure = Some(Box::new((failure.id().code(), failure.message())));
                self.send_failure(seq, &failure).await?;
                // What may have happened must not look like something that can be sent again on this session.
                if matches!(failure.id(), ErrorId::OutcomeUnknown | ErrorId::SessionStateLost) {
                    return Err(End::Refused(failure.id()));
                }
            }
            Stop::Pass(payload) => {
                let parsed = ErrPacket::parse(&payload).ok();
                self.failure = parsed.map(|error| Box::new((error.code, error.text().into_owned())));
                let mut out = buffers::take();
                Answer::new(&mut out, seq, self.client.caps).packet(|out| out.extend_from_slice(&payload));
                self.send_tail(out).await?;
            }
            Stop::Told(seq) => return Ok(Answered { failed: true, seq }),
            Stop::End(end) => return Err(end),
        }
        Ok(Answered { failed: true, seq: seq.wrapping_add(1) })
    }

    pub(crate) async fn send_failure(&mut self, seq: u8, failure: &Failure) -> Result<(), End> {
        self.shared.metrics.errors.inc();
        tracing::debug!(client = self.client.id, error = %failure, "failure sent");
        let mut out = buffers::take();
        Answer::new(&mut out, seq, self.client.caps).failure(failure);
        let sent = self.client.write(&out).await;
        buffers::give_back(out);
        Ok(sent?)
    }

    #[cold]
    async fn other(&mut self, command: Command<'_>, turn: Turn) -> Served {
        match command {
            Command::Ping => self.answer_ok(turn).await,
            Command::InitDb(name) => self.use_schema(name, turn).await,
            Command::StmtPrepare(text) => self.prepare(text, turn).await,
            Command::StmtClose(id) => self.close_statement(self.meant(id), turn).await,
            Command::StmtReset(id) => self.reset_statement(self.meant(id), turn).await,
            Command::StmtSendLongData { id, param, data } => {
                Box::pin(self.long_data(self.meant(id), param, data, turn)).await
            }
            Command::ResetConnection => {
                // What FOUND_ROWS() gives outlives it.
                self.settle_debts().await;
                self.reset();
                self.answer_ok(turn).await
            }
            Command::ChangeUser(payload) => self.change_user(payload, turn).await,
            Command::Statistics => self.answer_statistics(turn).await,
            Command::SetOption(option) => {
                let multi = usher_wire::caps::Caps::MULTI_STATEMENTS;
                self.client.caps = match option {
                    0 => self.client.caps | multi,
                    1 => self.client.caps.without(multi),
                    _ => return Err(unsupported_command(0x1b)),
                };
                self.answer_end(turn).await
            }
            Command::Unknown(byte) => Err(unsupported_command(byte)),
            Command::FieldList { table, wildcard } => self.field_list(table, wildcard, turn).await,
            Command::Refresh(what) => self.refresh(what, turn).await,
            Command::ProcessInfo => self.show_processlist(true, turn).await,
            Command::ProcessKill(id) => self.kill(id.into(), false, turn).await,
            Command::StmtFetch { id, rows } => self.fetch(self.meant(id), rows, turn).await,
            Command::Quit | Command::Query(_) | Command::StmtExecute { .. } => {
                Err(Failure::new(ErrorId::Bug).note("a command came the wrong way").into())
            }
        }
    }

    /// Back to the state after login: what COM_RESET_CONNECTION does on a server.
    fn reset(&mut self) {
        let mut settings = self.settings.edit();
        // MariaDB goes back to the character set of the login, MySQL to its own.
        let is_mariadb = self.shared.server_version.contains("MariaDB");
        settings.unset_all().names(if is_mariadb { &self.names_at_login } else { "utf8mb4" });
        login::put_defaults(&self.shared, &mut settings);
        self.begin_with(settings.build());
        self.abandon();
        self.statements.clear();
        self.named.clear();
        self.counts = Counts::default();
        self.last_insert_id = 0;
        self.row_count = 0;
        self.found_rows_on = None;
        (self.failure, self.told, self.ran_on) = (None, None, None);
        self.notices.clear();
    }

    /// As after a login.
    fn begin_with(&mut self, settings: Arc<Settings>) {
        self.mode = mode_of(&settings);
        self.autocommit = settings.variable("autocommit").is_none();
        self.tracking = None;
        self.settings = settings;
    }

    /// Gives up transaction and pinned connections: what was begun is rolled back by closing them.
    pub(crate) fn abandon(&mut self) {
        self.let_go_of_kept();
        self.owed = None;
        self.next_transaction.clear();
        for mut bound in self.bound.drain(..).chain(self.cursors.drain(..)) {
            bound.lent.dirty = true;
        }
        self.end_transaction();
    }

    /// Puts a connection where it belongs after a statement, or gives it back. `keep`: it may be asked of the statement.
    pub(crate) fn put(&mut self, bound: Bound, keep: bool) {
        if bound.lent.is_discarded() {
            return;
        }
        if self.is_of_transaction(&bound) || bound.pins.bind() {
            self.ran_on = keep.then_some(bound.shard).or(self.ran_on);
            self.bound.push(bound);
        } else if keep {
            self.kept = Some(bound);
        } else if !bound.pins.is_empty() {
            self.cursors.push(bound);
        }
    }

    /// Whether the client's transaction is open on this connection.
    pub(crate) fn is_of_transaction(&self, bound: &Bound) -> bool {
        matches!(self.transaction, Transaction::Open(shard) if shard == bound.shard)
            && !bound.lent.is_discarded()
            && bound.lent.status.has(Status::IN_TRANS)
    }

    /// Nobody can ask of the statement before any more. What its connection has of ids and variables, and was not asked
    /// for yet, must not become the next session's.
    pub(crate) fn let_go_of_kept(&mut self) {
        if let Some(kept) = self.kept.as_mut().filter(|kept| !kept.lent.is_discarded()) {
            kept.lent.dirty |= self.owed.as_ref().is_some_and(|owed| owed.shard == kept.shard);
        }
        if let Some(kept) = self.kept.take_if(|kept| !kept.pins.is_empty()) {
            self.cursors.push(kept);
        }
        self.kept = None;
    }

    /// What keeps connections with this session, as bits.
    fn pins(&self) -> u8 {
        let held = self.bound.iter().chain(&self.cursors).chain(&self.kept);
        held.fold(0, |bits, bound| bits | bound.pins.bits())
    }

    /// The transaction is over, whatever became of it.
    pub(crate) fn end_transaction(&mut self) {
        self.transaction = Transaction::None;
        self.branch = None;
        self.read_only = false;
        self.savepoints.clear();
        self.written.clear();
        self.cleared.clear();
        self.entered = false;
        self.shared.in_flight.leave(&self.slot);
    }

    async fn change_user(&mut self, payload: &[u8], turn: Turn) -> Served {
        let change = ChangeUser::parse(payload, self.client.caps)?;
        self.reset();
        let closed = Channel::new(Stream::Plain(login::unconnected()?));
        let channel = std::mem::replace(&mut self.client.channel, closed);
        let (salt, from) = (self.client.salt, self.client.from);
        let (channel, seq, account) =
            login::change_user(&self.shared, channel, turn.seq, salt, from, &change).await?;
        self.client.channel = channel;
        if let Err(failure) = self.become_user(account, &change) {
            // As a server does: nobody is left logged in.
            self.send_failure(seq, &failure).await?;
            return Err(End::Refused(failure.id()).into());
        }
        self.answer_ok(Turn { seq, ..turn }).await
    }

    fn become_user(&mut self, account: Arc<Account>, change: &ChangeUser<'_>) -> Result<(), Failure> {
        let schema = change.database.filter(|name| !name.is_empty());
        let caps = self.client.caps;
        let settings = login::settings(&self.shared, &account, schema, change.collation, caps)?;
        if account.name != self.account.name {
            self.seat = account.seat()?;
            self.handle.becomes(&account.name);
        }
        self.names_at_login = settings.names().into();
        self.schema_hash = self.shared.plans.schema_hash(settings.schema());
        self.begin_with(settings);
        self.account = account;
        Ok(())
    }

    /// Status flags of an answer made here.
    pub(crate) fn status(&self) -> Status {
        let mut status = Status(0);
        if self.autocommit {
            status = status.with(Status::AUTOCOMMIT);
        }
        if !matches!(self.transaction, Transaction::None | Transaction::Pending { begun: false, .. }) {
            status = status.with(Status::IN_TRANS);
        }
        if self.mode.no_backslash_escapes {
            status = status.with(Status::NO_BACKSLASH_ESCAPES);
        }
        if self.mode.ansi_quotes && self.shared.server_version.contains("MariaDB") {
            status = status.with(Status::ANSI_QUOTES);
        }
        if self.is_read_only() {
            status = status.with(Status::IN_TRANS_READONLY);
        }
        status
    }

    /// The form in which this client takes answers.
    pub(crate) fn form(&self) -> ClientForm {
        ClientForm::new(self.client.caps, self.track_set(), self.status())
    }

    /// `halfway`: the client has sent a part of a command.
    async fn say_goodbye(&mut self, end: &End, halfway: bool) {
        let last_words = match end {
            End::Refused(id @ ErrorId::Draining) => Some(Failure::new(*id)),
            End::Refused(id @ (ErrorId::IdleTimeout | ErrorId::IdleInTransaction)) => {
                Some(Failure::new(*id).field("idle_s", self.idle_max().0.as_secs()))
            }
            End::Wire(usher_wire::Error::Uncompress) => Some(ErrorId::Uncompress.into()),
            End::Wire(error) => Some((*error).into()),
            _ => None,
        };
        let unasked = last_words.is_some();
        if let Some(failure) = last_words {
            // It may be gone already.
            let _ = self.send_failure(halfway.into(), &failure).await;
        }
        self.abandon();
        match end {
            // It reads once it has sent the rest.
            _ if unasked && halfway => self.client.channel.dismiss(LAST_WORD).await,
            End::Wire(_) => self.client.channel.dismiss(LAST_WORD).await,
            // It may be sending still, and reads only then.
            End::Refused(ErrorId::PacketTooBig | ErrorId::PacketOrder) => {
                self.client.channel.dismiss(Duration::from_millis(self.shared.limits.login_ms)).await;
            }
            _ => self.client.channel.close().await,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.let_go_of_kept();
        for bound in self.bound.iter_mut().chain(&mut self.cursors) {
            bound.lent.dirty = true;
        }
        for slot in [Some(&self.slot), self.parked.as_ref()].into_iter().flatten() {
            self.shared.in_flight.unregister(slot);
        }
        self.shared.sessions.leave(self.client.id);
    }
}

/// How long a session waits for its client: not beyond `limits.idle_client_s`, nor once the proxy's time is up or
/// somebody has killed it.
struct Patience {
    interrupt: Pin<Box<dyn Future<Output = ErrorId> + Send>>,
    idle: Pin<Box<tokio::time::Sleep>>,
    idle_max: Duration,
    idle_why: ErrorId,
    /// What the timer was set for.
    timed: Duration,
}

impl Patience {
    fn new(shared: &Shared, handle: &Arc<Handle>) -> Self {
        let idle_max = Duration::from_secs(shared.limits.idle_client_s);
        Self {
            interrupt: Box::pin(interrupted(shared.stopping.subscribe(), Arc::clone(handle))),
            idle: Box::pin(tokio::time::sleep(idle_max)),
            idle_max,
            idle_why: ErrorId::IdleTimeout,
            timed: idle_max,
        }
    }

    /// The timer is only set anew when it goes off: most sessions have been active meanwhile.
    async fn wait_for<T>(
        &mut self,
        client: impl Future<Output = std::io::Result<T>>,
        last_active: Instant,
    ) -> Result<T, End> {
        let mut client = std::pin::pin!(client);
        if self.timed != self.idle_max {
            self.timed = self.idle_max;
            let rest = self.idle_max.saturating_sub(last_active.elapsed());
            self.idle.as_mut().reset(tokio::time::Instant::now() + rest);
        }
        loop {
            tokio::select! {
                biased;
                done = &mut client => return Ok(done?),
                why = &mut self.interrupt => return Err(End::Refused(why)),
                () = &mut self.idle => {
                    let rest = self.idle_max.saturating_sub(last_active.elapsed());
                    if rest.is_zero() {
                        return Err(End::Refused(self.idle_why));
                    }
                    self.idle.as_mut().reset(tokio::time::Instant::now() + rest);
                }
            }
        }
    }
}

/// Completes when the proxy's time is up or the session has been killed. A statement under way is not interrupted: this is
/// looked at between commands.
async fn interrupted(mut stopping: watch::Receiver<Stopping>, handle: Arc<Handle>) -> ErrorId {
    tokio::select! {
        () = handle.ended() => ErrorId::Killed,
        // The sender lives as long as the sessions do.
        _ = stopping.wait_for(|stop| *stop == Stopping::Now) => ErrorId::Draining,
    }
}

/// The command in a packet as it came.
fn head_byte(raw: &[u8]) -> u8 {
    raw.get(4).copied().unwrap_or_default()
}

fn unsupported_command(byte: u8) -> Stop {
    use usher_wire::command as com;
    let name = com::name(byte);
    if matches!(
        byte,
        com::COM_BINLOG_DUMP
            | com::COM_BINLOG_DUMP_GTID
            | com::COM_TABLE_DUMP
            | com::COM_REGISTER_SLAVE
            | com::COM_CLONE
            | com::COM_SUBSCRIBE_GROUP_REPLICATION_STREAM
    ) {
        let failure = Failure::new(ErrorId::CommandRefused).field("command", name);
        return failure.executed(usher_wire::sqlerr::Executed::No).into();
    }
    Failure::new(ErrorId::UnknownCommand).field("command", name).into()
}
