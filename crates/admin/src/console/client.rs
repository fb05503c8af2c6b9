//! One client of the console: login, then a command at a time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use usher_config::Admin;
use usher_directory::Error as DirectoryError;
use usher_session::{HeaderRule, Introduced, KillOrder, Killed};
use usher_wire::auth::{AuthTerms, CACHING_SHA2, Secret, ServerAuth, Step};
use usher_wire::caps::Caps;
use usher_wire::collation;
use usher_wire::command::Command;
use usher_wire::frame::{message, write_packet};
use usher_wire::handshake::{Greeting, HandshakeResponse, Salt};
use usher_wire::packet::OkPacket;
use usher_wire::result::Answer;
use usher_wire::sqlerr::{ErrorId, Executed, Failure};
use usher_wire::status::Status;

use super::Room;
use super::accounts::{self, AccountStatement};
use super::courtesy::{Asked, Item, VERSION, variables};
use super::statement::{Statement, parse};
use super::table::{Cell, Table};
use super::views;

/// The largest packet taken: no statement of the console is near it.
const PACKET_MAX: usize = 64 << 10;
/// The longest a login may take.
const LOGIN: Duration = Duration::from_secs(10);
/// The longest a client may idle.
const IDLE: Duration = Duration::from_secs(3600);
/// The longest one statement may take.
const STATEMENT: Duration = Duration::from_secs(30);
/// The longest a client may take to read an answer.
const WRITE: Duration = Duration::from_secs(30);

/// Why a client is served no more.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client is gone")]
    Gone,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Wire(#[from] usher_wire::Error),
    #[error("refused: {}", .0.summary())]
    Refused(ErrorId),
    #[error("{0} took too long")]
    TooLong(&'static str),
}

/// Serves one client from greeting to goodbye.
pub(super) async fn run(socket: TcpStream, from: SocketAddr, id: u32, room: Arc<Room>) {
    let line = Line { tcp: socket, buf: Vec::new(), seq: 0, caps: Caps::default() };
    let mut client = Client { line, from, id, room };
    let end = match timeout(LOGIN, client.log_in()).await {
        Ok(Ok(())) => client.serve().await,
        Ok(Err(end)) => {
            tracing::warn!(client = %from, reason = %end, "login to the admin console failed");
            return;
        }
        Err(_) => End::TooLong("the login"),
    };
    tracing::debug!(client = %from, reason = %end, "client of the admin console has ended");
}

/// The socket with what is read ahead, the next sequence id and the negotiated flags.
struct Line {
    tcp: TcpStream,
    buf: Vec<u8>,
    seq: u8,
    caps: Caps,
}

impl Line {
    async fn write(&mut self, out: &[u8]) -> Result<(), End> {
        match timeout(WRITE, self.tcp.write_all(out)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(End::TooLong("reading an answer")),
        }
    }

    async fn send(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), End> {
        let mut out = Vec::new();
        write_packet(&mut out, &mut self.seq, fill);
        self.write(&out).await
    }

    async fn fail(&mut self, failure: &Failure) -> End {
        // The client is served no more either way.
        let _ = self.send(|out| failure.encode(out)).await;
        let _ = timeout(WRITE, self.tcp.shutdown()).await;
        End::Refused(failure.id())
    }

    /// What a load balancer says of the client before the client says anything.
    async fn introduction(&mut self, rule: HeaderRule) -> Result<Option<SocketAddr>, End> {
        loop {
            match rule.read(&self.buf) {
                Introduced::Missing(_) => {
                    if self.tcp.read_buf(&mut self.buf).await? == 0 {
                        return Err(End::Gone);
                    }
                }
                Introduced::Client { len, client } => {
                    self.buf.drain(..len);
                    return Ok(client);
                }
                Introduced::Refused(failure) => return Err(self.fail(&failure).await),
            }
        }
    }

    /// The next message and its first sequence id.
    async fn receive(&mut self) -> Result<(Vec<u8>, u8), End> {
        loop {
            if let Some(found) = message(&self.buf, PACKET_MAX)? {
                let (payload, seq, len) = (found.payload.to_vec(), found.seq, found.wire_len);
                self.seq = found.next_seq;
                self.buf.drain(..len);
                return Ok((payload, seq));
            }
            if self.tcp.read_buf(&mut self.buf).await? == 0 {
                return Err(End::Gone);
            }
        }
    }

    /// Builds an answer and sends it.
    async fn answer(
        &mut self,
        build: impl FnOnce(Answer<'_>) -> Result<(), usher_wire::Error>,
    ) -> Result<(), End> {
        let mut out = Vec::new();
        build(Answer::new(&mut out, self.seq, self.caps))?;
        self.write(&out).await
    }

    async fn ok(&mut self) -> Result<(), End> {
        self.answer(|mut answer| {
            answer.ok(&OkPacket { status: Status::AUTOCOMMIT, ..OkPacket::default() });
            Ok(())
        })
        .await
    }

    async fn failure(&mut self, failure: &Failure) -> Result<(), End> {
        self.answer(|mut answer| {
            answer.failure(failure);
            Ok(())
        })
        .await
    }
}

struct Client {
    line: Line,
    from: SocketAddr,
    id: u32,
    room: Arc<Room>,
}

impl Client {
    async fn log_in(&mut self) -> Result<(), End> {
        self.line.tcp.set_nodelay(true)?;
        let rule = self.room.desk.shared.header_rule(self.from.ip());
        if rule == Some(HeaderRule::Required) {
            self.from = self.line.introduction(HeaderRule::Required).await?.unwrap_or(self.from);
        }
        let salt = Salt::random()?;
        let offered = Caps::offer(false).without(Caps::MULTI_STATEMENTS);
        let greeting = Greeting {
            server_version: VERSION.as_bytes(),
            thread_id: self.id,
            salt,
            caps: offered,
            // utf8mb4_general_ci, 45, fits the one byte there is.
            collation: collation::UTF8MB4_GENERAL_CI.to_le_bytes()[0],
            status: Status::AUTOCOMMIT,
            plugin: CACHING_SHA2,
        };
        self.line.send(|out| greeting.encode(out)).await?;
        if rule == Some(HeaderRule::Optional) {
            self.from = self.line.introduction(HeaderRule::Optional).await?.unwrap_or(self.from);
        }
        let (payload, _) = self.line.receive().await?;
        let hello = match HandshakeResponse::parse(&payload, offered) {
            Ok(hello) => hello,
            Err(error) => return Err(self.line.fail(&error.into()).await),
        };
        self.line.caps = hello.caps;
        self.authenticate(salt, hello.user, hello.plugin, hello.auth).await?;
        tracing::info!(client = %self.from, "login to the admin console");
        self.line.ok().await
    }

    async fn authenticate(
        &mut self,
        salt: Salt,
        user: &[u8],
        plugin: Option<&[u8]>,
        answer: &[u8],
    ) -> Result<(), End> {
        let is_admin = user == Admin::USER.as_bytes();
        let secret = match self.room.desk.token.as_bytes() {
            // An empty password would let everybody in.
            [] => Secret::decoy()?,
            _ if !is_admin => Secret::decoy()?,
            token => Secret::from_password(token),
        };
        // The password is at hand, so the fast way always works and no key is needed for a slower one.
        let terms = AuthTerms { salt, secure: false, key: None, fast: true, allow_native: false };
        let mut step = ServerAuth::start(terms, secret, plugin, answer);
        loop {
            step = match step {
                Step::Send(payload, auth) => {
                    self.line.send(|out| out.extend_from_slice(&payload)).await?;
                    auth.handle(&self.line.receive().await?.0)
                }
                Step::Accept(accepted) if is_admin => {
                    if let Some(payload) = accepted.first {
                        self.line.send(|out| out.extend_from_slice(&payload)).await?;
                    }
                    return Ok(());
                }
                Step::Accept(_) | Step::Deny => {
                    let failure = Failure::new(ErrorId::AccessDenied)
                        .note(format!("Access denied to the admin console from {}", self.from.ip()))
                        .advice(format!("log in as {} with http.token as password", Admin::USER));
                    return Err(self.line.fail(&failure).await);
                }
            };
        }
    }

    /// Serves commands until the client goes.
    async fn serve(&mut self) -> End {
        loop {
            let Ok(received) = timeout(IDLE, self.line.receive()).await else {
                self.line.seq = 0;
                return self.line.fail(&ErrorId::IdleTimeout.into()).await;
            };
            let (payload, seq) = match received {
                Ok(received) => received,
                Err(End::Wire(error)) => return self.line.fail(&error.into()).await,
                Err(end) => return end,
            };
            if seq != 0 {
                return self.line.fail(&ErrorId::PacketOrder.into()).await;
            }
            let command = match Command::parse(&payload, self.line.caps) {
                Ok(command) => command,
                Err(error) => return self.line.fail(&error.into()).await,
            };
            if let Err(end) = self.command(command).await {
                return end;
            }
        }
    }

    async fn command(&mut self, command: Command<'_>) -> Result<(), End> {
        match command {
            Command::Quit => Err(End::Gone),
            Command::Query(query) => self.query(query.text).await,
            Command::Ping | Command::InitDb(_) | Command::ResetConnection => self.line.ok().await,
            Command::Statistics => self.statistics().await,
            Command::SetOption(_) => {
                let end = |mut answer: Answer<'_>| {
                    answer.end(Status::AUTOCOMMIT, 0);
                    Ok(())
                };
                self.line.answer(end).await
            }
            // These have no answer.
            Command::StmtClose(_) | Command::StmtSendLongData { .. } => Ok(()),
            Command::StmtPrepare(_) => {
                let failure = Failure::new(ErrorId::UnsupportedInPrepare)
                    .note("the admin console does not prepare statements")
                    .advice("send it as plain text");
                self.line.failure(&failure).await
            }
            _ => self.line.failure(&ErrorId::UnknownCommand.into()).await,
        }
    }

    async fn statistics(&mut self) -> Result<(), End> {
        let uptime = self.room.began.elapsed().as_secs();
        let statements = self.room.statements.load(Ordering::Relaxed);
        let text = format!("Uptime: {uptime}  Questions: {statements}");
        self.line.send(|out| out.extend_from_slice(text.as_bytes())).await
    }

    async fn query(&mut self, text: &[u8]) -> Result<(), End> {
        self.room.statements.fetch_add(1, Ordering::Relaxed);
        let statement = match parse(&String::from_utf8_lossy(text)) {
            Ok(statement) => statement,
            Err(failure) => return self.line.failure(&failure).await,
        };
        let statement = match statement {
            Statement::Courtesy => return self.line.ok().await,
            Statement::Kill { query, id } => return self.kill(id, query).await,
            Statement::Account(change) => return self.account(change).await,
            other => other,
        };
        let result = match timeout(STATEMENT, self.table(statement)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(ErrorId::DirectoryUnavailable)
                .note(format!("no answer within {} s; what was started goes on", STATEMENT.as_secs()))),
        };
        match result {
            Ok(table) => self.line.answer(|answer| table.write(answer, Status::AUTOCOMMIT)).await,
            Err(failure) => self.line.failure(&failure).await,
        }
    }

    async fn account(&mut self, change: AccountStatement) -> Result<(), End> {
        let desk = &self.room.desk;
        let by = format!("{} console from {}", desk.name, self.from.ip());
        match accounts::run(desk.directory.global(), change, by).await {
            Ok(()) => self.line.ok().await,
            Err(failure) => self.line.failure(&failure).await,
        }
    }

    async fn kill(&mut self, id: u64, query: bool) -> Result<(), End> {
        let failure = match self.room.desk.shared.kill_anywhere(&KillOrder { id, query, owner: None }).await {
            Killed::Done => return self.line.ok().await,
            Killed::Failed { why } => Failure::new(ErrorId::KillFailed).note(why).executed(Executed::Unknown),
            Killed::Unknown | Killed::Denied => {
                Failure::new(ErrorId::KillUnknown).as_server(format!("Unknown thread id: {id}"))
            }
        };
        self.line.failure(&failure).await
    }

    async fn table(&self, statement: Statement) -> Result<Table, Failure> {
        let desk = &*self.room.desk;
        let asked = match statement {
            Statement::Help => return Ok(views::help()),
            Statement::Shards => return Ok(views::shards(desk)),
            Statement::Servers => return Ok(views::servers(desk)),
            Statement::Tables => return Ok(views::tables(desk)),
            Statement::Accounts { name } => return Ok(accounts::table(desk, name.as_deref())),
            Statement::Metrics { like } => return Ok(views::metrics(desk, like.as_deref())),
            Statement::Limits { like } => return Ok(views::limits(desk, like.as_deref())),
            Statement::SetWriter { shard, writer, epoch, force } => {
                return self.set_writer(shard, writer, epoch, force).await;
            }
            Statement::Databases => return Ok(one_column("Database", &["usher"])),
            Statement::Warnings => return Ok(Table::new(&["Level", "Code", "Message"])),
            Statement::Variables { like } => return Ok(variables_like(like.as_deref())),
            Statement::Select(items) => return Ok(self.select(items)),
            Statement::Sessions { full } => return Ok(views::sessions(desk, full).await),
            Statement::Courtesy | Statement::Account(_) | Statement::Kill { .. } => {
                return Ok(Table::new(&["ok"]));
            }
            Statement::Moves { all, limit } => views::moves(desk, all, limit).await,
            Statement::Proxies => views::proxies(desk).await,
            Statement::User(key) => views::user(desk, &key).await,
            Statement::Route(key) => views::route(desk, &key).await,
            Statement::Sequences => views::sequences(desk).await,
            Statement::History { subject, limit } => views::history(desk, subject.as_deref(), limit).await,
        };
        asked.map_err(|error| not_read(&error))
    }

    fn select(&self, items: Vec<Item>) -> Table {
        let value = |asked| match asked {
            Asked::Is(cell) => cell,
            Asked::User => format!("{}@{}", Admin::USER, self.from.ip()).into(),
            Asked::ConnectionId => u64::from(self.id).into(),
        };
        Table::of_one(items.into_iter().map(|item| (item.name, value(item.value))).collect())
    }

    async fn set_writer(
        &self,
        shard: String,
        writer: String,
        epoch: u64,
        force: bool,
    ) -> Result<Table, Failure> {
        let by = format!("{} console from {}", self.room.desk.name, self.from.ip());
        tracing::info!(shard, writer, epoch, force, by, "SET SHARD");
        let row = vec![shard.as_str().into(), writer.as_str().into(), epoch.into()];
        // A task of its own: a client that hangs up must not stop it between the change and its history row.
        let work = tokio::spawn({
            let room = Arc::clone(&self.room);
            async move { room.flips.set_writer(&shard, &writer, epoch, force, &by).await }
        });
        let changed = match work.await {
            Ok(Ok(changed)) => changed,
            Ok(Err(error)) => return Err(not_set(&error)),
            Err(_) => return Err(Failure::new(ErrorId::Bug).executed(Executed::Unknown)),
        };
        let mut table = Table::new(&["shard", "writer", "epoch", "changed"]);
        table.push(row.into_iter().chain([Cell::yes(changed)]).collect());
        Ok(table)
    }
}

fn not_read(error: &DirectoryError) -> Failure {
    let id = match error {
        DirectoryError::Busy { .. } => ErrorId::DirectoryBusy,
        _ => ErrorId::DirectoryUnavailable,
    };
    Failure::new(id).note(error.to_string())
}

fn not_set(error: &usher_failover::Error) -> Failure {
    use usher_failover::Error::Directory;
    match error {
        Directory(DirectoryError::GlobalUnavailable(_) | DirectoryError::Timeout { .. }) => {
            Failure::new(ErrorId::DirectoryUnavailable)
                .note(error.to_string())
                .executed(Executed::Unknown)
                .advice("say it again: repeating it is harmless")
        }
        _ => Failure::new(ErrorId::AdminRefused).note(error.to_string()).executed(Executed::No),
    }
}

fn one_column(name: &str, values: &[&str]) -> Table {
    let mut table = Table::new(&[name]);
    for value in values {
        table.push(vec![(*value).into()]);
    }
    table
}

fn variables_like(like: Option<&str>) -> Table {
    let mut table = Table::new(&["Variable_name", "Value"]);
    for (name, value) in variables(like) {
        table.push(vec![(*name).into(), (*value).into()]);
    }
    table
}
