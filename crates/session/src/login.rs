//! The connection phase of a client: greeting, TLS, authentication. Its futures are boxed: they are large and gone
//! before the first statement.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use usher_backend::{Settings, Stream};
use usher_wire::auth::{AuthTerms, CACHING_SHA2, Secret, ServerAuth, Step};
use usher_wire::caps::Caps;
use usher_wire::collation;
use usher_wire::frame::{message, write_packet};
use usher_wire::handshake::{ClientHello, Greeting, HandshakeResponse, Salt};
use usher_wire::packet::OkPacket;
use usher_wire::sqlerr::{ErrorId, Failure};
use usher_wire::status::Status;

use crate::account::Account;
use crate::session::{Client, End, Session, Started};
use crate::shared::Shared;

/// The largest packet before login: names, attributes, an encrypted password.
const PACKET_MAX: usize = 64 << 10;

/// Serves one client from greeting to goodbye.
pub(crate) async fn run(socket: TcpStream, from: SocketAddr, shared: &Arc<Shared>) {
    let limit = Duration::from_millis(shared.limits.login_ms);
    let session = match timeout(limit, Box::pin(log_in(socket, from, shared))).await {
        Ok(Ok(session)) => session,
        Ok(Err(end)) => {
            shared.metrics.refused.inc();
            tracing::debug!(client = %from, reason = %end, "login failed");
            return;
        }
        Err(_) => {
            shared.metrics.refused.inc();
            tracing::debug!(client = %from, "login took too long");
            return;
        }
    };
    session.run().await;
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

/// The stream during login, with its sequence ids.
struct Talk {
    stream: Stream,
    buf: Vec<u8>,
    seq: u8,
}

impl Talk {
    async fn send(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), End> {
        let mut out = Vec::new();
        write_packet(&mut out, &mut self.seq, fill);
        Ok(self.stream.write(&out).await?)
    }

    async fn receive(&mut self) -> Result<Vec<u8>, End> {
        loop {
            if let Some(found) = message(&self.buf, PACKET_MAX)? {
                let (payload, len) = (found.payload.to_vec(), found.wire_len);
                self.seq = found.next_seq;
                self.buf.drain(..len);
                return Ok(payload);
            }
            if self.stream.read(&mut self.buf).await? == 0 {
                return Err(End::Gone);
            }
        }
    }

    async fn fail(&mut self, failure: &Failure) -> End {
        // The login fails either way.
        let _ = self.send(|out| failure.encode(out)).await;
        self.stream.close().await;
        End::Refused(failure.id())
    }
}

async fn log_in(socket: TcpStream, from: SocketAddr, shared: &Arc<Shared>) -> Result<Started, End> {
    socket.set_nodelay(true)?;
    let mut talk = Talk { stream: Stream::Plain(socket), buf: Vec::new(), seq: 0 };
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
        Err(error) => {
            let failure = Failure::new(ErrorId::MalformedPacket).note(error.to_string());
            return Err(talk.fail(&failure).await);
        }
    };
    let caps = hello.caps & offered;
    if !caps.has(Caps::CLIENT_NEEDED) {
        return Err(talk.fail(&Failure::new(ErrorId::ClientTooOld)).await);
    }
    let account = authenticate(&mut talk, shared, salt, hello.user, hello.plugin, hello.auth, from).await?;
    let schema = hello.database.filter(|name| !name.is_empty());
    let settings = match settings(shared, &account, schema, Some(hello.collation), caps) {
        Ok(settings) => settings,
        Err(failure) => return Err(talk.fail(&failure).await),
    };
    talk.send(|out| OkPacket::default().encode(out, caps.has(Caps::SESSION_TRACK))).await?;
    let (stream, buf) = (talk.stream, talk.buf);
    let client = Client { stream, caps, id, salt, from };
    Ok(Session::start(Arc::clone(shared), client, buf, account, settings))
}

/// The handshake response, after TLS if the client asks for it.
async fn hello(talk: &mut Talk, offered: Caps, shared: &Shared) -> Result<Vec<u8>, End> {
    let payload = talk.receive().await?;
    match (ClientHello::parse(&payload, offered), &shared.tls) {
        (Ok(ClientHello::Ssl(_)), Some(acceptor)) => {
            // Bytes behind the request, sent before TLS, would be taken for bytes inside it.
            if !talk.buf.is_empty() {
                return Err(End::Refused(ErrorId::PacketOrder));
            }
            let Stream::Plain(_) = talk.stream else { return Err(End::Refused(ErrorId::PacketOrder)) };
            let placeholder = Stream::Plain(unconnected()?);
            let Stream::Plain(tcp) = std::mem::replace(&mut talk.stream, placeholder) else {
                return Err(End::Refused(ErrorId::PacketOrder));
            };
            let tls = acceptor.accept(tcp).await?;
            talk.stream = Stream::Tls(Box::new(tls.into()));
            talk.receive().await
        }
        (Err(error), _) => {
            let failure = Failure::new(ErrorId::MalformedPacket).note(error.to_string());
            Err(talk.fail(&failure).await)
        }
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
                let failure = Failure::new(ErrorId::AccessDenied).note(note);
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
        if !account.may_use(&name) {
            let note = format!("Access denied for user '{}' to database '{name}'", account.name);
            return Err(Failure::new(ErrorId::DatabaseDenied).note(note));
        }
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
    let mut talk = Talk { stream, buf: Vec::new(), seq };
    let account =
        authenticate(&mut talk, shared, salt, change.user, change.plugin, change.auth, from).await?;
    Ok((talk.stream, talk.seq, account))
}
