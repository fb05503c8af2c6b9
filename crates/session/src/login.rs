//! The connection phase of a client: greeting, TLS, authentication. Its futures are boxed: they are large and gone
//! before the first statement.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{timeout, timeout_at};
use usher_backend::{BackendError, Settings, SettingsBuilder, Stream};
use usher_topology::ShardId;
use usher_wire::auth::{AuthTerms, CACHING_SHA2, Secret, ServerAuth, Step};
use usher_wire::caps::Caps;
use usher_wire::collation;
use usher_wire::compress::Algorithm;
use usher_wire::frame::write_packet;
use usher_wire::handshake::{ClientHello, Greeting, HandshakeResponse, Salt};
use usher_wire::packet::OkPacket;
use usher_wire::sqlerr::{ErrorId, Failure};
use usher_wire::status::Status;

use crate::account::Account;
use crate::channel::Channel;
use crate::gate::Pass;
use crate::session::{Client, End, Session};
use crate::set::mode_of;
use crate::shared::{HeaderRule, Shared};
use crate::talk::Talk;

/// Serves one client from greeting to goodbye.
pub(crate) async fn run(caller: Caller, shared: &Arc<Shared>) {
    let from = caller.peer;
    shared.metrics.logins.inc();
    let logged_in = Box::pin(log_in(caller, shared)).await;
    shared.metrics.logins.dec();
    match logged_in {
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

/// A client at the door.
pub(crate) struct Caller {
    pub(crate) socket: TcpStream,
    /// Where its connection comes from: the client's address, or a load balancer's.
    pub(crate) peer: SocketAddr,
    /// Its place among the logins under way.
    pub(crate) permit: OwnedSemaphorePermit,
}

async fn log_in(caller: Caller, shared: &Arc<Shared>) -> Result<Box<Session>, End> {
    let mut talk = Talk::new(Channel::new(Stream::Plain(caller.socket)), 0, shared);
    talk.permit = Some(caller.permit);
    let (id, salt) = (shared.connection_id(), Salt::random()?);
    let (from, pass) = greet(&mut talk, caller.peer, (id, salt), shared).await?;
    let (mut talk, payload) = hello(talk, shared).await?;
    let hello = match HandshakeResponse::parse(&payload, shared.offered) {
        Ok(hello) => hello,
        Err(error) => return Err(talk.fail(&error.into()).await),
    };
    let caps = hello.caps & shared.offered;
    if !caps.has(Caps::CLIENT_NEEDED) {
        return Err(talk.fail(&Failure::new(ErrorId::ClientTooOld)).await);
    }
    let account = authenticate(&mut talk, shared, salt, hello.user, hello.plugin, hello.auth, from).await?;
    let seat = match account.seat() {
        Ok(seat) => seat,
        Err(failure) => return Err(talk.fail(&failure).await),
    };
    let schema = hello.database.filter(|name| !name.is_empty());
    if shared.monitor.defaults().is_none() && shared.started.elapsed() < DEFAULTS_WAIT {
        // A proxy that has only just started.
        let _ = timeout(DEFAULTS_WAIT, shared.monitor.defaults_known()).await;
    }
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
        talk.channel.close().await;
        return Err(End::Refused(ErrorId::UnknownDatabase));
    }
    let ok = OkPacket { status: status(shared, &settings), ..OkPacket::default() };
    talk.send(|out| ok.encode(out, caps.has(Caps::SESSION_TRACK))).await?;
    if let Some(algorithm) = Algorithm::agreed(caps, hello.zstd_level) {
        shared.metrics.compressed.inc();
        talk.channel.compress(algorithm, shared.limits.packet_bytes_max);
    }
    let write_max = Duration::from_millis(shared.limits.client_write_ms);
    let client = Client { channel: talk.channel, caps, id, salt, from, write_max, _pass: pass };
    Ok(Box::new(Session::start(Arc::clone(shared), client, (account, seat), settings)))
}

/// Lets the client in and greets it. A load balancer's word of where it comes from counts; where the balancer need not
/// give it, the greeting must not wait for it: a client says nothing before.
async fn greet(
    talk: &mut Talk,
    peer: SocketAddr,
    (id, salt): (u32, Salt),
    shared: &Shared,
) -> Result<(SocketAddr, Pass), End> {
    let rule = shared.header_rule(peer.ip());
    let mut from = peer;
    if rule == Some(HeaderRule::Required) {
        from = talk.introduction(HeaderRule::Required).await?.unwrap_or(peer);
        shared.metrics.proxy_headers.inc();
    }
    let early = match rule {
        Some(HeaderRule::Optional) => None,
        _ => Some(enter(talk, from, shared).await?),
    };
    let greeting = Greeting {
        server_version: shared.server_version.as_bytes(),
        thread_id: id,
        salt,
        caps: shared.offered,
        // utf8mb4_general_ci, 45, fits the one byte there is.
        collation: collation::UTF8MB4_GENERAL_CI.to_le_bytes()[0],
        status: Status::AUTOCOMMIT,
        plugin: CACHING_SHA2,
    };
    talk.send(|out| greeting.encode(out)).await?;
    if let Some(pass) = early {
        return Ok((from, pass));
    }
    if let Some(client) = talk.introduction(HeaderRule::Optional).await? {
        shared.metrics.proxy_headers.inc();
        from = client;
    }
    Ok((from, enter(talk, from, shared).await?))
}

async fn enter(talk: &mut Talk, from: SocketAddr, shared: &Shared) -> Result<Pass, End> {
    match shared.gate.enter(from.ip()) {
        Ok(pass) => Ok(pass),
        Err(failure) => Err(talk.fail_unasked(&failure).await),
    }
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
async fn hello(mut talk: Talk, shared: &Shared) -> Result<(Talk, Vec<u8>), End> {
    let payload = talk.receive().await?;
    match (ClientHello::parse(&payload, shared.offered), &shared.tls) {
        (Ok(ClientHello::Ssl(_)), Some(tls)) => {
            let mut talk = talk.encrypt(tls, shared).await?;
            let payload = talk.receive().await?;
            Ok((talk, payload))
        }
        (Err(error), _) => Err(talk.fail(&error.into()).await),
        _ => Ok((talk, payload)),
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
        secure: talk.channel.stream().is_tls(),
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
            (Step::Accept(_), Some(account)) if account.locked => {
                let name = String::from_utf8_lossy(user);
                let note = format!("Access denied for user '{name}'@'{}'. Account is locked.", from.ip());
                return Err(talk.fail(&Failure::new(ErrorId::AccountLocked).as_server(note)).await);
            }
            (Step::Accept(accepted), Some(account)) => {
                if let Some(lacking) = account.lacks(talk.channel.stream()) {
                    let words = format!("{}; the account requires {lacking}", denied(user, answer, from));
                    let failure = Failure::new(ErrorId::AccessDenied).as_server(words);
                    return Err(talk.fail(&failure).await);
                }
                if let Some(payload) = accepted.first {
                    // Goes out with what follows.
                    talk.put(|out| out.extend_from_slice(&payload));
                }
                return Ok(Arc::clone(account));
            }
            (Step::Accept(_) | Step::Deny, _) => {
                // Its place is free again when the client has its answer.
                if let Some(delay) = shared.gate.failed(from.ip()) {
                    talk.permit = None;
                    tokio::time::sleep(delay.time).await;
                }
                let failure = Failure::new(ErrorId::AccessDenied).as_server(denied(user, answer, from));
                return Err(talk.fail(&failure).await);
            }
        };
    }
}

/// A server's words for a wrong name or password.
fn denied(user: &[u8], answer: &[u8], from: SocketAddr) -> String {
    let using = if answer.is_empty() { "NO" } else { "YES" };
    let (name, host) = (String::from_utf8_lossy(user), from.ip().to_canonical());
    format!("Access denied for user '{name}'@'{host}' (using password: {using})")
}

/// The most that a login waits to learn what sessions begin with.
const DEFAULTS_WAIT: Duration = Duration::from_secs(2);

/// What a session begins with as the servers have it, said to each connection: servers may differ, or be changed while the
/// session lasts.
pub(crate) fn put_defaults(shared: &Shared, settings: &mut SettingsBuilder) {
    let Some(defaults) = shared.monitor.defaults() else { return };
    if let Some(sql_mode) = defaults.sql_mode() {
        settings.variable("sql_mode", &format!("'{sql_mode}'"));
    }
    if !defaults.autocommit() {
        settings.variable("autocommit", "0");
    }
}

/// What a server's status flags would be right behind the login.
fn status(shared: &Shared, settings: &Settings) -> Status {
    let mode = mode_of(settings);
    let flags = [
        (settings.variable("autocommit").is_none(), Status::AUTOCOMMIT),
        (mode.no_backslash_escapes, Status::NO_BACKSLASH_ESCAPES),
        (mode.ansi_quotes && shared.server_version.contains("MariaDB"), Status::ANSI_QUOTES),
    ];
    flags.into_iter().filter(|(on, _)| *on).fold(Status(0), |status, (_, flag)| status.with(flag))
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
    put_defaults(shared, &mut settings);
    Ok(shared.once(settings.build()))
}

/// Runs the authentication of COM_CHANGE_USER on a session's own stream.
pub(crate) async fn change_user(
    shared: &Shared,
    channel: Channel,
    seq: u8,
    salt: Salt,
    from: SocketAddr,
    change: &usher_wire::handshake::ChangeUser<'_>,
) -> Result<(Channel, u8, Arc<Account>), End> {
    let mut talk = Talk::new(channel, seq, shared);
    let account =
        authenticate(&mut talk, shared, salt, change.user, change.plugin, change.auth, from).await?;
    // What is still to be said goes out before the answer.
    talk.flush().await?;
    Ok((talk.channel, talk.seq, account))
}
