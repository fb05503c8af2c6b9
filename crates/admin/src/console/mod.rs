//! The admin console: a MySQL-protocol listener whose statements show what the proxy knows, for people with a
//! `mysql` client at hand and for tools that speak SQL only. It serves `SHOW ...` and what drivers ask when they
//! connect; the changes it takes are those of accounts and an external controller's `SET SHARD`, which it hands on. It
//! never runs a statement on a server.

mod accounts;
mod client;
mod courtesy;
mod statement;
mod table;
mod views;
mod words;

use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use usher_config::Limits;
use usher_directory::Directory;
use usher_failover::Flips;
use usher_session::Shared;
use usher_wire::frame::write_packet;
use usher_wire::sqlerr::{ErrorId, Failure};

/// Clients of the console at once, those that have not logged in yet included.
const CLIENTS_MAX: usize = 16;
/// Pause after accepting has failed: trying at once would fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the console shows, and who may see it.
pub struct Desk {
    /// Pools and health of servers, as this proxy's sessions see them.
    pub shared: Arc<Shared>,
    /// State, caches and the global master.
    pub directory: Arc<Directory>,
    /// The limits in force.
    pub limits: Limits,
    /// What `SHOW METRICS` shows.
    pub registry: Arc<Registry>,
    /// The one password. Empty lets nobody in.
    pub token: String,
    /// The proxy's name, as history rows give it.
    pub name: String,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What all clients of a console share.
struct Room {
    desk: Arc<Desk>,
    flips: Flips,
    began: Instant,
    statements: AtomicU32,
}

/// A bound console.
#[derive(Debug)]
pub struct Console(TcpListener);

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Console {
    /// A socket that somebody else has bound. Must be called on a runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn inherit(bound: std::net::TcpListener) -> io::Result<Self> {
        bound.set_nonblocking(true)?;
        TcpListener::from_std(bound).map(Self)
    }

    /// Binds.
    ///
    /// # Errors
    /// The system's, with the address in front: it is in use, or not ours.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen for the admin console on {address}: {error}"))
        };
        TcpListener::bind(address).await.map(Self).map_err(named)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves until `stop` ends; then clients are disconnected. A change that has begun goes on.
    pub async fn serve(self, desk: Arc<Desk>, stop: impl Future<Output = ()>) {
        let flips = Flips::new(desk.directory.global().clone(), desk.limits.clone());
        let room = Arc::new(Room { desk, flips, began: Instant::now(), statements: AtomicU32::new(0) });
        let ids = AtomicU32::new(1);
        let mut clients = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                Some(_) = clients.join_next() => continue,
                accepted = self.0.accept() => accepted,
            };
            match accepted {
                Ok((socket, _)) if clients.len() >= CLIENTS_MAX => refuse(socket),
                Ok((socket, from)) => {
                    let id = ids.fetch_add(1, Ordering::Relaxed);
                    clients.spawn(client::run(socket, from, id, Arc::clone(&room)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client of the admin console");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        clients.shutdown().await;
    }
}

/// Tells a client that there are too many, without waiting: a new socket has room for one packet.
fn refuse(socket: TcpStream) {
    let note = format!("the admin console has its {CLIENTS_MAX} clients");
    let failure = Failure::new(ErrorId::TooManyClients).note(note).advice("close one of them");
    let mut out = Vec::new();
    write_packet(&mut out, &mut 0, |out| failure.encode(out));
    // The client is sent away either way.
    let _ = socket.into_std().and_then(|mut socket| socket.write(&out));
}
