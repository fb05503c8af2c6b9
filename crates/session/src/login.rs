//! The connection phase of a client: greeting, TLS, authentication. Its futures are boxed: they are large and gone
//! before the first statement.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use usher_backend::{BackendError, Settings, Stream, prepare_socket};
use usher_topology::ShardId;
use usher_wire::auth::{AuthTerms, CACHING_SHA2, Secret, ServerAuth, Step};
use usher_wire::caps::Caps;
use usher_wire::collation;
use usher_wire::frame::{Header, message, missing, write_packet};
use usher_wire::handshake::{ClientHello, Greeting, HandshakeResponse, Salt};
use usher_wire::packet::OkPacket;
use usher_wire::sqlerr::{ErrorId, Failure};
use usher_wire::status::Status;

use crate::account::Account;
use crate::session::{Client, End, Session};
use crate::shared::Shared;

/// The largest packet before login: names, attributes, an encrypted password.
const PACKET_MAX: usize = 64 << 10;

const LATE: &str = "the login took longer than limits.login_ms";
/// The longest a refused client is listened to, so that it reads why.
const DISMISS: Duration = Duration::from_secs(2);

/// Serves one client from greeting to goodbye.
pub(crate) async fn run(socket: TcpStream, from: SocketAddr, shared: &Arc<Shared>) {
    match Box::pin(log_in(socket, from, shared)).await {
        Ok(session) => session.serve().await,
        Err(end) => {
            shared.metrics.refused.inc();
            tracing::debug!(client = %from, reason = %end, "login failed");
        }
    }
}

/// Tells a client that it cannot be served, before it has said anything.
pub(crate) async fn refuse(socket: TcpStream, failure: &Failure, limit_ms: u64) {
    let mut out = Vec::new();
    write_packet(&mut out, &mut 0, |out| failure.encode(out));
    let mut stream = Stream::Plain(socket);
    let goodbye = async {
        let _ = stream.write(&out).await;
        stream.close().await;
    };
    let _ = timeout(Duration::from_millis(limit_ms), goodbye).await;
}

/// The stream during login, with its sequence ids and the time by which all must be over.
struct Talk {
    stream: Stream,
    buf: Vec<u8>,
    seq: u8,
    deadline: Instant,
}

impl Talk {
    fn new(stream: Stream, seq: u8, shared: &Shared) -> Self {
        let deadline = Instant::now() + Duration::from_millis(shared.limits.login_ms);
        Self { stream, buf: Vec::new(), seq, deadline }
    }

    async fn send(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), End> {
        let mut out = Vec::new();
        write_packet(&mut out, &mut self.seq, fill);
        match timeout_at(self.deadline, self.stream.write(&out)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(End::Refused(ErrorId::LoginTimeout)),
        }
    }

    /// The client's next packet, and not a byte more: behind the request for TLS the handshake of TLS may have come
    /// already.
    async fn receive(&mut self) -> Result<Vec<u8>, End> {
        loop {
            match self.packet() {
                Ok(Some(payload)) => return Ok(payload),
                Ok(None) => {}
                Err(failure) => return Err(self.fail_unasked(&failure).await),
            }
            let lacking = missing(&self.buf);
            match timeout_at(self.deadline, self.stream.read_at_most(&mut self.buf, lacking)).await {
                Ok(Ok(0)) => return Err(End::Gone),
                Ok(read) => read?,
                Err(_) => {
                    return Err(self.fail_unasked(&Failure::new(ErrorId::LoginTimeout).note(LATE)).await);
                }
            };
        }
    }

    /// Takes the packet out of the buffer, if it is all there.
    fn packet(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        if let Some(Header { seq, .. }) = Header::peek(&self.buf)
            && seq != self.seq
        {
            return Err(Failure::new(ErrorId::PacketOrder).field("got", seq).field("expected", self.seq));
        }
        let Some(found) = message(&self.buf, PACKET_MAX)? else { return Ok(None) };
        let (payload, next_seq) = (found.payload.into_owned(), found.next_seq);
        self.seq = next_seq;
        self.buf.clear();
        Ok(Some(payload))
    }

    /// As [`Talk::fail`], before the client's packet is there: the sequence ids go on as if it were.
    async fn fail_unasked(&mut self, failure: &Failure) -> End {
        self.seq = self.seq.wrapping_add(1);
        self.fail(failure).await
    }

    async fn fail(&mut self, failure: &Failure) -> End {
        // The login fails either way.
        let _ = self.send(|out| failure.encode(out)).await;
        self.stream.dismiss(DISMISS).await;
        End::Refused(failure.id())
    }
}

async fn log_in(socket: TcpStream, from: SocketAddr, shared: &Arc<Shared>) -> Result<Box<Session>, End> {
    prepare_socket(&socket, &shared.limits)?;
    let mut talk = Talk::new(Stream::Plain(socket), 0, shared);
    let (id, salt) = (shared.connection_id(), Salt::random()?);
    let offered = Caps::offer(shared.tls.is_some());
    let greeting = Greeting {
        server_version: shared.server_version.as_bytes(),
        thread_id: id,
        salt,
        caps: offered,
        // utf8mb4_general_ci, 45, fits the one byte there is.
        collation: collation::UTF8MB4_GENERAL_CI.to_le_bytes()[0],
        status: Status::AUTOCOMMIT,
        plugin: CACHING_SHA2,
    };
    talk.send(|out| greeting.encode(out)).await?;
    let payload = hello(&mut talk, offered, shared).await?;
    let hello = match HandshakeResponse::parse(&payload, offered) {
        Ok(hello) => hello,
        Err(error) => return Err(talk.fail(&error.into()).await),
    };
    let caps = hello.caps & offered;
    if !caps.has(Caps::CLIENT_NEEDED) {
        return Err(talk.fail(&Failure::new(ErrorId::ClientTooOld)).await);
    }
    let account = authenticate(&mut talk, shared, salt, hello.user, hello.plugin, hello.auth, from).await?;
    let seat = match account.seat() {
        Ok(seat) => seat,
        Err(failure) => return Err(talk.fail(&failure).await),
    };
    let schema = hello.database.filter(|name| !name.is_empty());
    let settings = match settings(shared, &account, schema, Some(hello.collation), caps) {
        Ok(settings) => settings,
        Err(failure) => return Err(talk.fail(&failure).await),
    };
    if account.restricted {
        // Its first statement needs it.
        let _ = timeout_at(talk.deadline, shared.schemas.known()).await;
    }
    if schema.is_some()
        && let Err(payload) = check_schema(shared, &settings).await
    {
        // The login fails either way.
        let _ = talk.send(|out| out.extend_from_slice(&payload)).await;
        talk.stream.close().await;
        return Err(End::Refused(ErrorId::UnknownDatabase));
    }
    talk.send(|out| OkPacket::default().encode(out, caps.has(Caps::SESSION_TRACK))).await?;
    let write_max = Duration::from_millis(shared.limits.client_write_ms);
    let client = Client { stream: talk.stream, caps, id, salt, from, write_max };
    Ok(Box::new(Session::start(Arc::clone(shared), client, (account, seat), settings)))
}

/// Whether the schema exists, as far as a server can be asked: an idle connection that has it says so too. Fails with
/// the server's words.
async fn check_schema(shared: &Shared, settings: &Arc<Settings>) -> Result<(), Vec<u8>> {
    let state = shared.directory.state();
    let Some(global) = state.topology.shard(ShardId::GLOBAL) else { return Ok(()) };
    let Ok(pool) = shared.pools.of(global.writer) else { return Ok(()) };
    match pool.checkout(settings).await {
        Err(BackendError::Settings { payload, .. }) => Err(payload),
        // Whoever logs in while the global master is down may find another server up.
        _ => Ok(()),
    }
}

/// The handshake response, after TLS if the client asks for it.
async fn hello(talk: &mut Talk, offered: Caps, shared: &Shared) -> Result<Vec<u8>, End> {
    let payload = talk.receive().await?;
    match (ClientHello::parse(&payload, offered), &shared.tls) {
        (Ok(ClientHello::Ssl(_)), Some(acceptor)) => {
            let placeholder = Stream::Plain(unconnected()?);
            let Stream::Plain(tcp) = std::mem::replace(&mut talk.stream, placeholder) else {
                return Err(End::Refused(ErrorId::PacketOrder));
            };
            let accepted = timeout_at(talk.deadline, acceptor.accept(tcp)).await;
            let tls = accepted.map_err(|_| End::Refused(ErrorId::LoginTimeout))??;
            talk.stream = Stream::Tls(Box::new(tls.into()));
            talk.receive().await
        }
        (Err(error), _) => Err(talk.fail(&error.into()).await),
        _ => Ok(payload),
    }
}

pub(crate) fn unconnected() -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket.into())
}

async fn authenticate(
    talk: &mut Talk,
    shared: &Shared,
    salt: Salt,
    user: &[u8],
    plugin: Option<&[u8]>,
    answer: &[u8],
    from: SocketAddr,
) -> Result<Arc<Account>, End> {
    let account = shared.accounts.named(user);
    let terms = AuthTerms {
        salt,
        secure: talk.stream.is_tls(),
        key: Some(Arc::clone(&shared.key)),
        fast: true,
        allow_native: account.as_ref().is_some_and(|account| account.native),
    };
    let secret = match &account {
        Some(account) => account.secret.clone(),
        None => Secret::decoy()?,
    };
    let mut step = ServerAuth::start(terms, secret, plugin, answer);
    loop {
        step = match (step, &account) {
            (Step::Send(payload, auth), _) => {
                talk.send(|out| out.extend_from_slice(&payload)).await?;
                auth.handle(&talk.receive().await?)
            }
            (Step::Accept(accepted), Some(account)) => {
                if let Some(payload) = accepted.first {
                    talk.send(|out| out.extend_from_slice(&payload)).await?;
                }
                return Ok(Arc::clone(account));
            }
            (Step::Accept(_) | Step::Deny, _) => {
                let name = String::from_utf8_lossy(user);
                let using = if answer.is_empty() { "NO" } else { "YES" };
                let note =
                    format!("Access denied for user '{name}'@'{}' (using password: {using})", from.ip());
                let failure = Failure::new(ErrorId::AccessDenied).as_server(note);
                return Err(talk.fail(&failure).await);
            }
        };
    }
}

/// The session's first settings: schema and character set, as the client asked in its handshake.
pub(crate) fn settings(
    shared: &Shared,
    account: &Account,
    schema: Option<&[u8]>,
    collation_id: Option<u16>,
    caps: Caps,
) -> Result<Arc<Settings>, Failure> {
    let mut settings = Settings::at_login(caps.has(Caps::FOUND_ROWS)).edit();
    let named = match schema {
        Some(name) => {
            Some(std::str::from_utf8(name).map_err(|_| Failure::new(ErrorId::UnknownDatabase))?.to_owned())
        }
        None => account.default_schema.clone(),
    };
    if let Some(name) = named {
        account.may_use(&name)?;
        settings.schema(&name);
    }
    if let Some((charset, id)) = collation_id.and_then(|id| Some((collation::charset(id)?, id))) {
        if !collation::is_safe_to_scan(charset) {
            return Err(Failure::new(ErrorId::UnsafeCharset).field("charset", charset));
        }
        // A collation of the other family's servers falls back to the character set's default, as it does in a
        // handshake with the server itself.
        let known = |name: &&str| !(shared.server_version.contains("MariaDB") && name.contains("_0900_"));
        settings.names(&match collation::name(id).filter(known) {
            Some(name) => format!("{charset} COLLATE {name}"),
            None => charset.to_owned(),
        });
    }
    Ok(settings.build())
}

/// Runs the authentication of COM_CHANGE_USER on a session's own stream.
pub(crate) async fn change_user(
    shared: &Shared,
    stream: Stream,
    seq: u8,
    salt: Salt,
    from: SocketAddr,
    change: &usher_wire::handshake::ChangeUser<'_>,
) -> Result<(Stream, u8, Arc<Account>), End> {
    let mut talk = Talk::new(stream, seq, shared);
    let account =
        authenticate(&mut talk, shared, salt, change.user, change.plugin, change.auth, from).await?;
    Ok((talk.stream, talk.seq, account))
}
