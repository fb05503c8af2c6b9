//! The front door: a permit first, then a socket, then a task for it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use usher_backend::prepare_socket;
use usher_wire::sqlerr::{ErrorId, Failure};

use crate::login::{self, Caller};
use crate::shared::{Shared, Stopping};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How long statements that still run when all is over have to end by themselves.
const LAST_STATEMENTS: Duration = Duration::from_secs(1);
/// Pause after the process has run out of descriptors: accepting again at once would fail again.
const DESCRIPTORS_PAUSE: Duration = Duration::from_millis(100);

/// A bound address.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Binds. Must be called on a runtime.
    ///
    /// # Errors
    /// The system's, with the address in front: it is in use, or not ours.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let bound = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        };
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen for clients on {address}: {error}"))
        };
        bound().map(Self).map_err(named)
    }

    /// One that somebody else has bound. Must be called on a runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn inherit(bound: std::net::TcpListener) -> io::Result<Self> {
        bound.set_nonblocking(true)?;
        TcpListener::from_std(bound).map(Self)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Serves clients until `stop` turns true. Those that are connected are then told so at their next command, outside of
/// transactions; after `limits.stop_ms` what is left of them ends. False if some were busy even then.
pub async fn serve(listener: Listener, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) -> bool {
    let clients_max = shared.limits.clients_max;
    let permits = Arc::new(Semaphore::new(clients_max));
    let logins = Arc::new(Semaphore::new(shared.limits.logins_max));
    // What is set here, accepted sockets have from the start.
    if let Err(error) = prepare_socket(&listener.0, &shared.limits) {
        tracing::warn!(%error, "clients' sockets get the system's settings");
    }
    loop {
        let accepted = tokio::select! {
            accepted = listener.0.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((socket, from)) => welcome(socket, from, &shared, (&permits, &logins)),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(DESCRIPTORS_PAUSE).await;
            }
        }
    }
    if !shared.is_handed_over() {
        refuse_queued(&listener, &shared);
    }
    drop(listener);
    drain(&shared, &permits).await
}

/// Those who have connected and were not accepted yet are told why, instead of being cut off.
fn refuse_queued(listener: &Listener, shared: &Arc<Shared>) {
    for _ in 0..BACKLOG {
        let Some(Ok((socket, _))) = listener.0.accept().now_or_never() else { return };
        let limit_ms = shared.limits.login_ms;
        tokio::spawn(async move { login::refuse(socket, &ErrorId::Draining.into(), limit_ms).await });
    }
}

async fn drain(shared: &Shared, permits: &Semaphore) -> bool {
    let all = u32::try_from(shared.limits.clients_max).unwrap_or(u32::MAX);
    shared.stop(Stopping::Gently);
    let limit = Duration::from_millis(shared.limits.stop_ms);
    if timeout(limit, permits.acquire_many(all)).await.is_ok() {
        return true;
    }
    shared.stop(Stopping::Now);
    let gone = timeout(LAST_STATEMENTS, permits.acquire_many(all)).await.is_ok();
    if !gone {
        tracing::warn!("clients were still busy when the time to stop was over");
    }
    gone
}

fn welcome(
    socket: TcpStream,
    peer: SocketAddr,
    shared: &Arc<Shared>,
    (permits, logins): (&Arc<Semaphore>, &Arc<Semaphore>),
) {
    let limits = &shared.limits;
    if cfg!(not(target_os = "linux")) {
        // A socket that fails says so again when it is used.
        let _ = prepare_socket(&socket, limits);
    }
    let Ok(place) = Arc::clone(permits).try_acquire_owned() else {
        return turn_away(socket, shared, ("limits.clients_max", limits.clients_max));
    };
    let Ok(permit) = Arc::clone(logins).try_acquire_owned() else {
        return turn_away(socket, shared, ("limits.logins_max", limits.logins_max));
    };
    let shared = Arc::clone(shared);
    shared.metrics.accepted.inc();
    shared.metrics.clients.inc();
    tokio::spawn(async move {
        login::run(Caller { socket, peer, permit }, &shared).await;
        shared.metrics.clients.dec();
        drop(place);
    });
}

fn turn_away(socket: TcpStream, shared: &Shared, (limit, value): (&'static str, usize)) {
    shared.metrics.refused.inc();
    let login_ms = shared.limits.login_ms;
    tokio::spawn(async move {
        let failure = Failure::new(ErrorId::TooManyClients).field(limit, value);
        login::refuse(socket, &failure, login_ms).await;
    });
}
