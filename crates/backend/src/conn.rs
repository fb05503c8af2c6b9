//! One connection to a server, logged in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use usher_config::Limits;
use usher_topology::Server;
use usher_wire::caps::Caps;
use usher_wire::command::{COM_INIT_DB, COM_QUERY, COM_QUIT, COM_STATISTICS};
use usher_wire::frame::{HEADER_LEN, Header, MAX_PAYLOAD, frame, write_packet};
use usher_wire::handshake::{ConnectAttributes, Greeting};
use usher_wire::login::{ClientAuth, Login, LoginStep};
use usher_wire::packet::{Change, ErrPacket};
use usher_wire::relay::{ClientForm, Kind, Progress, Relay};
use usher_wire::result::Column;
use usher_wire::rows::TextRow;
use usher_wire::status::Status;

use crate::cut::Cut;
use crate::pool::Account;
use crate::stream::prepare_socket;
use crate::{BackendError, Defaults, Fault, Settings, Stream};

/// A connection's read buffer, in bytes: a short answer arrives in one read.
const BUFFER: usize = 16 << 10;
/// What the buffer grows to while a long answer passes.
const BUFFER_LONG: usize = 64 << 10;

/// What MySQL is to report of. With `*` it would tell of `statement_id` after each statement.
const MYSQL_TRACKED: &str = "autocommit,big_tables,character_set_client,character_set_connection,\
    character_set_results,collation_connection,cte_max_recursion_depth,default_storage_engine,\
    default_tmp_storage_engine,default_week_format,div_precision_increment,eq_range_index_dive_limit,\
    explicit_defaults_for_timestamp,foreign_key_checks,group_concat_max_len,information_schema_stats_expiry,\
    innodb_lock_wait_timeout,innodb_strict_mode,interactive_timeout,join_buffer_size,lc_messages,lc_time_names,\
    lock_wait_timeout,low_priority_updates,max_error_count,max_execution_time,max_heap_table_size,max_join_size,\
    max_length_for_sort_data,max_sort_length,min_examined_row_limit,net_read_timeout,net_write_timeout,\
    optimizer_prune_level,optimizer_search_depth,optimizer_switch,range_optimizer_max_mem_size,\
    read_buffer_size,read_rnd_buffer_size,sort_buffer_size,sql_auto_is_null,sql_big_selects,\
    sql_buffer_result,sql_mode,sql_notes,sql_quote_show_create,sql_require_primary_key,sql_safe_updates,\
    sql_select_limit,sql_warnings,time_zone,tmp_table_size,transaction_isolation,transaction_read_only,\
    unique_checks,updatable_views_with_limit,wait_timeout,windowing_use_high_precision";

/// The answer to a statement of our own.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// Code and payload of the ERR packet, if it failed.
    pub error: Option<(u16, Vec<u8>)>,
    /// Rows of the (last) result set as text; `None` is NULL.
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
    /// Type and flags of each column of these rows.
    pub columns: Vec<(u8, u16)>,
    /// Rows changed.
    pub affected_rows: u64,
    /// Generated id.
    pub last_insert_id: u64,
    /// Warnings of the statement.
    pub warnings: u16,
    /// The connection's status after it.
    pub status: Status,
    /// Where the statement's writes stand in the server's history, if the server told.
    pub gtid: Option<String>,
    /// What `last_insert_id` was set to, if the server told: MariaDB does.
    pub id_set: Option<u64>,
    /// The server's id of a statement just prepared.
    pub statement_id: Option<u32>,
}

/// The position of the writes that an OK packet reports: MariaDB's `last_gtid`, MySQL's own GTIDs.
#[must_use]
pub fn gtid_of(change: &Change<'_>) -> Option<String> {
    match change {
        Change::Variable { name: b"last_gtid", value } | Change::Gtids(value) if !value.is_empty() => {
            Some(String::from_utf8_lossy(value).into_owned())
        }
        _ => None,
    }
}

impl Reply {
    /// The server's words, if it failed.
    #[must_use]
    pub fn error_text(&self) -> Option<String> {
        let (_, payload) = self.error.as_ref()?;
        ErrPacket::parse(payload).ok().map(|error| error.text().into_owned())
    }

    /// The first cell of the first row as text.
    #[must_use]
    pub fn cell(&self) -> Option<String> {
        let bytes = self.rows.first()?.first()?.as_ref()?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// A connection to a server. What is said on it must be listened to before it is given back: a connection dropped in
/// the middle of an exchange is closed.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
    /// What has arrived and is not relayed yet.
    pub buf: Vec<u8>,
    /// The settings in force.
    pub settings: Arc<Settings>,
    /// Status flags of the last answer.
    pub status: Status,
    /// What LAST_INSERT_ID() would give here, if known.
    pub last_insert_id: Option<u64>,
    /// Something was left on it that settings cannot take away (temporary tables, locks): not to be reused.
    pub dirty: bool,
    /// An exchange is under way or broke off: not to be reused.
    pub busy: bool,
    /// Sequence id that the answer to what was sent last starts with: more than 1 behind a command of several packets.
    pub answer_seq: u8,
    /// Prepared statements by the hash of their text and settings: the server's id and the turn of their last use.
    statements: HashMap<u128, (u32, u64)>,
    /// Statements prepared in text, by name: the hash of what the name stands for.
    names: HashMap<Box<str>, u128>,
    turn: u64,
    /// The last read filled the buffer: a long answer is under way.
    filled: bool,
    thread_id: u32,
    version: Box<str>,
    scratch: Vec<u8>,
    pub(crate) era: u64,
    /// How often its pool had been renewed when it was opened.
    pub(crate) renewals: u64,
    pub(crate) cut: Arc<Cut>,
}

impl Conn {
    /// Connects and logs in, within `limit_ms`.
    pub(crate) async fn open(
        server: &Server,
        account: &Account,
        settings: &Arc<Settings>,
        limits: &Limits,
    ) -> Result<Self, BackendError> {
        let name = || format!("{} ({})", server.name, server.address());
        let login = Self::connect_and_login(server, account, settings, limits);
        let result = match timeout(Duration::from_millis(limits.connect_ms), login).await {
            Ok(result) => result,
            Err(_) => Err(Fault::Timeout(limits.connect_ms)),
        };
        match result {
            Ok(conn) => Ok(conn),
            Err(Fault::Server { code, message }) => {
                Err(BackendError::Refused { server: name(), code, message })
            }
            Err(fault) => Err(BackendError::Connect { server: name(), fault }),
        }
    }

    async fn connect_and_login(
        server: &Server,
        account: &Account,
        settings: &Arc<Settings>,
        limits: &Limits,
    ) -> Result<Self, Fault> {
        let tcp = TcpStream::connect((server.host.as_str(), server.port)).await?;
        prepare_socket(&tcp, limits)?;
        let base = Settings::at_login(settings.found_rows());
        let mut conn = Self {
            stream: Stream::Plain(tcp),
            buf: Vec::with_capacity(BUFFER),
            settings: base,
            status: Status::AUTOCOMMIT,
            last_insert_id: Some(0),
            dirty: false,
            busy: true,
            statements: HashMap::new(),
            names: HashMap::new(),
            turn: 0,
            answer_seq: 1,
            filled: false,
            thread_id: 0,
            version: "".into(),
            scratch: Vec::new(),
            era: 0,
            renewals: 0,
            cut: Arc::default(),
        };
        conn.login(server, account, settings.found_rows()).await?;
        conn.prepare_session().await?;
        Ok(conn)
    }

    async fn login(&mut self, server: &Server, account: &Account, found_rows: bool) -> Result<(), Fault> {
        let (payload, mut seq) = self.packet().await?;
        let mut tls = account.tls.clone();
        if let Ok(greeting) = Greeting::parse(&payload) {
            self.thread_id = greeting.thread_id;
            self.version = String::from_utf8_lossy(greeting.server_version).into();
            if account.tls_optional && !greeting.caps.has(Caps::SSL) {
                tls = None;
            }
        }
        let mut attributes = Vec::new();
        ConnectAttributes::put(&mut attributes, b"program_name", b"usher");
        let login = Login {
            user: account.user.as_bytes(),
            password: account.password.as_bytes(),
            database: None,
            attributes: ConnectAttributes::new(&attributes),
            // utf8mb4_general_ci, which every server has.
            collation: 45,
            options: if found_rows { Caps::FOUND_ROWS } else { Caps(0) },
            tls: tls.is_some(),
            secure: false,
            trust_key: true,
        };
        let mut step = ClientAuth::start(&payload, &login)?;
        loop {
            step = match step {
                LoginStep::Send(payload, auth) => {
                    self.send_packet(&payload, seq.wrapping_add(1)).await?;
                    let (answer, answer_seq) = self.packet().await?;
                    seq = answer_seq;
                    auth.handle(&answer, &login)?
                }
                LoginStep::StartTls(payload, auth) => {
                    self.send_packet(&payload, seq.wrapping_add(1)).await?;
                    seq = seq.wrapping_add(1);
                    let config = tls.take().ok_or(Fault::Closed)?;
                    self.start_tls(config, server).await?;
                    auth.tls_started(&login)
                }
                LoginStep::Wait(auth) => {
                    let (answer, answer_seq) = self.packet().await?;
                    seq = answer_seq;
                    auth.handle(&answer, &login)?
                }
                LoginStep::Done(done) => {
                    self.status = done.status;
                    self.busy = false;
                    return Ok(());
                }
                LoginStep::Refused(refusal) => {
                    return Err(Fault::Server { code: refusal.code, message: refusal.message });
                }
            };
        }
    }

    async fn start_tls(&mut self, config: Arc<ClientConfig>, server: &Server) -> Result<(), Fault> {
        let name = ServerName::try_from(server.host.clone()).map_err(std::io::Error::other)?;
        let Stream::Plain(tcp) = &mut self.stream else { return Err(Fault::Closed) };
        // The plain stream moves into the TLS one; what stands in its place meanwhile is never used.
        let tcp = std::mem::replace(tcp, unconnected()?);
        let tls = TlsConnector::from(config).connect(name, tcp).await?;
        self.stream = Stream::Tls(Box::new(tls.into()));
        Ok(())
    }

    /// Has the server report what sessions change, so that it need not be guessed from statements.
    async fn prepare_session(&mut self) -> Result<(), Fault> {
        let (variables, gtids) = match self.is_mariadb() {
            true => ("*", ""),
            false => (MYSQL_TRACKED, ", session_track_gtids=OWN_GTID"),
        };
        let statement = format!(
            "SET session_track_schema=ON, session_track_state_change=OFF, \
             session_track_transaction_info=OFF, session_track_system_variables='{variables}'{gtids}, \
             autocommit=1"
        );
        let reply = self.query(statement.as_bytes()).await?;
        match &reply.error {
            None => Ok(()),
            Some((code, _)) => {
                Err(Fault::Server { code: *code, message: reply.error_text().unwrap_or_default() })
            }
        }
    }

    /// The server's version as it greeted.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The server's id of this connection, for KILL.
    #[must_use]
    pub fn thread_id(&self) -> u32 {
        self.thread_id
    }

    /// Whether the server is MariaDB.
    #[must_use]
    pub fn is_mariadb(&self) -> bool {
        self.version.contains("MariaDB")
    }

    /// Whether the server has closed it, or said something unasked.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        !self.buf.is_empty() || self.stream.is_stale()
    }

    /// Sends bytes as they are: whole packets, headers included. The answer must be read.
    ///
    /// # Errors
    /// As the socket says; part of the bytes may have left.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.busy = true;
        // Only the last byte of the count shows in sequence ids.
        let [low, ..] = (bytes.len() / (MAX_PAYLOAD + HEADER_LEN) + 1).to_le_bytes();
        self.answer_seq = low;
        match self.cut.unless_cut(self.stream.write(bytes)).await {
            Some(sent) => Ok(sent?),
            None => Err(Fault::Lost),
        }
    }

    /// Sends a payload as one command.
    ///
    /// # Errors
    /// As [`Conn::send`].
    pub async fn send_command(&mut self, command: u8, body: &[u8]) -> Result<(), Fault> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        put_command(&mut scratch, command, body);
        let result = self.send(&scratch).await;
        scratch.shrink_to(BUFFER);
        self.scratch = scratch;
        result
    }

    /// Reads at least one byte into `buf`.
    ///
    /// # Errors
    /// The socket's, or [`Fault::Closed`].
    pub async fn read(&mut self) -> Result<(), Fault> {
        if self.filled || self.buf.len() == self.buf.capacity() {
            self.buf.reserve(BUFFER_LONG.max(self.buf.len()));
        }
        let read = self.cut.unless_cut(self.stream.read(&mut self.buf)).await;
        let n = read.ok_or(Fault::Lost)??;
        self.filled = self.buf.len() == self.buf.capacity();
        if n == 0 { Err(Fault::Closed) } else { Ok(()) }
    }

    /// Takes relayed bytes off the front of the buffer, and gives back room that a long answer took.
    pub fn consume(&mut self, n: usize) {
        if n >= self.buf.len() {
            self.buf.clear();
        } else {
            self.buf.drain(..n);
        }
    }

    /// An exchange has ended: the connection can be lent again.
    pub fn rest(&mut self) {
        self.busy = false;
        self.filled = false;
        if self.buf.is_empty() && self.buf.capacity() > BUFFER_LONG * 2 {
            self.buf = Vec::with_capacity(BUFFER);
        }
    }

    /// Runs a statement of our own and reads its whole answer, which must be small.
    ///
    /// # Errors
    /// A fault of the connection; the server's own error is part of the reply.
    pub async fn query(&mut self, statement: &[u8]) -> Result<Reply, Fault> {
        self.send_command(COM_QUERY, statement).await?;
        self.reply(Kind::Query).await
    }

    /// Runs a command without a result set.
    ///
    /// # Errors
    /// As [`Conn::query`].
    pub async fn command(&mut self, command: u8, body: &[u8]) -> Result<Reply, Fault> {
        self.send_command(command, body).await?;
        self.reply(Kind::Simple).await
    }

    /// Reads the whole answer to what was sent.
    ///
    /// # Errors
    /// As [`Conn::query`].
    pub async fn reply(&mut self, kind: Kind) -> Result<Reply, Fault> {
        let mut relay = Relay::with_seq(kind, ClientForm::SAME, self.answer_seq, 1);
        let mut reply = Reply::default();
        let mut packets = Vec::new();
        loop {
            match relay.advance(&mut self.buf)? {
                Progress::More => self.read().await?,
                Progress::Ok(end) => {
                    reply.affected_rows = end.affected_rows;
                    reply.last_insert_id = end.last_insert_id;
                    reply.warnings = end.warnings;
                    reply.status = end.status;
                    for change in end.changes(&self.buf) {
                        reply.gtid = gtid_of(&change).or(reply.gtid);
                        if let Change::Variable { name: b"last_insert_id", value } = change {
                            reply.id_set =
                                std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                        }
                    }
                    if end.rows_end {
                        packets.extend_from_slice(self.buf.get(..relay.ready()).unwrap_or_default());
                        (reply.columns, reply.rows) = rows(&packets)?;
                    }
                    self.status = end.status;
                    relay.pass(&mut self.buf)?;
                }
                Progress::Err(at) => {
                    let payload = self.buf.get(at).unwrap_or_default().to_vec();
                    reply.error = Some((ErrPacket::parse(&payload)?.code, payload));
                    relay.pass(&mut self.buf)?;
                }
                Progress::Prepared(prepared) => {
                    reply.statement_id = Some(prepared.statement_id);
                    relay.pass(&mut self.buf)?;
                }
                Progress::LocalInfile(_) => {
                    return Err(Fault::Protocol(usher_wire::Error::Malformed(
                        "LOCAL INFILE was not asked for",
                    )));
                }
                Progress::Done => {
                    self.consume(relay.ready());
                    self.rest();
                    return Ok(reply);
                }
            }
        }
    }

    /// What the server's new sessions begin with; `None` if it does not tell.
    ///
    /// # Errors
    /// As [`Conn::query`].
    pub async fn defaults(&mut self) -> Result<Option<Defaults>, Fault> {
        let question = Defaults::question(self.is_mariadb());
        Ok(Defaults::read(self.query(question.as_bytes()).await?))
    }

    /// COM_STATISTICS: the server's line about itself.
    ///
    /// # Errors
    /// As [`Conn::query`].
    pub async fn statistics(&mut self) -> Result<Vec<u8>, Fault> {
        self.send_command(COM_STATISTICS, &[]).await?;
        let (text, _) = self.packet().await?;
        self.rest();
        Ok(text)
    }

    /// Brings the connection to `target`: a SET and a change of schema, sent together.
    pub(crate) async fn apply(&mut self, target: &Arc<Settings>) -> Result<Option<(u16, Vec<u8>)>, Fault> {
        let statement = self.settings.set_statement(target, self.is_mariadb());
        let schema = target.schema().filter(|schema| self.settings.schema() != Some(schema));
        let mut out = Vec::new();
        if !statement.is_empty() {
            put_command(&mut out, COM_QUERY, statement.as_bytes());
        }
        if let Some(schema) = schema {
            put_command(&mut out, COM_INIT_DB, schema.as_bytes());
        }
        if !out.is_empty() {
            self.send(&out).await?;
        }
        let mut refused = None;
        for _ in 0..usize::from(!statement.is_empty()) + usize::from(schema.is_some()) {
            let reply = self.reply(Kind::Simple).await?;
            refused = refused.or(reply.error);
        }
        if refused.is_none() {
            self.settings = Arc::clone(target);
        }
        Ok(refused)
    }

    /// The server's id of a statement prepared here before.
    pub fn statement(&mut self, hash: u128) -> Option<u32> {
        self.turn += 1;
        let turn = self.turn;
        let entry = self.statements.get_mut(&hash)?;
        entry.1 = turn;
        Some(entry.0)
    }

    /// Remembers a prepared statement. Returned for closing: the one that was prepared of the same text before, or the
    /// one unused for longest, if there are more than `max`.
    pub fn remember_statement(&mut self, hash: u128, id: u32, max: usize) -> Option<u32> {
        self.turn += 1;
        if let Some((before, _)) = self.statements.insert(hash, (id, self.turn)) {
            return Some(before);
        }
        if self.statements.len() <= max {
            return None;
        }
        let oldest = self.statements.iter().min_by_key(|(_, (_, turn))| *turn).map(|(hash, _)| *hash)?;
        self.statements.remove(&oldest).map(|(id, _)| id)
    }

    /// Whether this name stands for this statement here.
    #[must_use]
    pub fn knows_name(&self, name: &str, hash: u128) -> bool {
        self.names.get(name) == Some(&hash)
    }

    /// Remembers what a name stands for. A connection with more than `max` of them is not reused.
    pub fn remember_name(&mut self, name: &str, hash: u128, max: usize) {
        self.names.insert(name.into(), hash);
        self.dirty |= self.names.len() > max;
    }

    /// A name stands for nothing any more.
    pub fn forget_name(&mut self, name: &str) {
        self.names.remove(name);
    }

    /// Forgets a prepared statement that the server no longer knows.
    pub fn forget_statement(&mut self, hash: u128) {
        self.statements.remove(&hash);
    }

    /// Ends the connection in good order.
    pub(crate) async fn close(mut self) {
        if self.send_command(COM_QUIT, &[]).await.is_ok() {
            self.stream.close().await;
        }
    }

    async fn packet(&mut self) -> Result<(Vec<u8>, u8), Fault> {
        loop {
            if let Some(found) = frame(&self.buf) {
                let (payload, seq, len) = (found.payload.to_vec(), found.seq, found.wire_len());
                self.consume(len);
                return Ok((payload, seq));
            }
            if Header::peek(&self.buf).is_some_and(|header| header.len == MAX_PAYLOAD) {
                return Err(Fault::Protocol(usher_wire::Error::Malformed("oversized packet during login")));
            }
            self.read().await?;
        }
    }

    async fn send_packet(&mut self, payload: &[u8], mut seq: u8) -> Result<(), Fault> {
        let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
        write_packet(&mut out, &mut seq, |out| out.extend_from_slice(payload));
        self.send(&out).await
    }
}

fn put_command(out: &mut Vec<u8>, command: u8, body: &[u8]) {
    let mut seq = 0;
    write_packet(out, &mut seq, |out| {
        out.push(command);
        out.extend_from_slice(body);
    });
}

type Rows = (Vec<(u8, u16)>, Vec<Vec<Option<Vec<u8>>>>);

/// The columns and rows of one text result set, from its packets up to the last row.
fn rows(mut packets: &[u8]) -> Result<Rows, Fault> {
    let mut rows = Vec::new();
    let mut types = Vec::new();
    let mut columns = None;
    while let Some(found) = frame(packets) {
        match &mut columns {
            None => columns = found.payload.first().copied().map(usize::from),
            Some(0) => {
                let cells: Result<Vec<_>, _> = TextRow::new(found.payload)
                    .map(|cell| cell.map(|bytes| bytes.map(<[u8]>::to_vec)))
                    .collect();
                rows.push(cells?);
            }
            Some(left) => {
                let column = Column::parse(found.payload)?;
                types.push((column.ty, column.flags));
                *left -= 1;
            }
        }
        packets = packets.get(found.wire_len()..).unwrap_or_default();
    }
    Ok((types, rows))
}

/// A socket that is connected to nothing.
fn unconnected() -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket.into())
}
