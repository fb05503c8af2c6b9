//! Handing the listening sockets over to a successor, so that an upgrade refuses and resets no connection attempt.
//!
//! The proxy that runs listens on a UNIX socket in `proxy.run_dir`. The process that is started beside it connects there
//! and is sent the id of the one that runs and copies of its listening sockets (SCM_RIGHTS). It takes the other of the two
//! identities of the configuration, registers, and says `take` once it accepts. Only then does the old one stop to accept,
//! and ends its sessions as at SIGTERM. The system's queues of connections belong to the sockets, which stay open
//! throughout: nothing that waits in them is lost. Whoever dies on the way leaves the other as it was.
//!
//! A process never works under an identity that another one still has: a third one waits until the first is gone, which
//! shows in the end of its connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;
use usher_config::{Limits, Proxy};

use crate::service;

/// Sockets of one proxy: clients, HTTP, console.
const SOCKETS_MAX: usize = 3;
/// A line of the two processes' talk; an id has 64 characters at most.
const LINE_MAX: usize = 512;
/// How long a successor may take from being given the sockets till it accepts.
const START: Duration = Duration::from_secs(120);
/// How long the other one may take for a line that needs no work.
const LINE: Duration = Duration::from_secs(5);
const TAKE: &[u8] = b"take\n";
const YOURS: &[u8] = b"yours\n";

/// Listening sockets that somebody else has bound: the predecessor, or systemd (`LISTEN_FDS`).
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<TcpListener>);

impl Inherited {
    /// Those of systemd.
    pub(crate) fn of_the_system() -> Self {
        let mut given = listenfd::ListenFd::from_env();
        let sockets = (0..given.len()).filter_map(|at| given.take_tcp_listener(at).ok().flatten());
        Self(sockets.collect())
    }

    /// The one that listens at this address.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.0.iter().position(|socket| socket.local_addr().is_ok_and(|bound| bound == address))?;
        Some(self.0.swap_remove(at))
    }
}

/// Where the two meet.
#[derive(Debug, Clone)]
pub(crate) struct Path(PathBuf);

impl Path {
    /// None where no folder is set. The folder is made if it is not there.
    pub(crate) fn of(proxy: &Proxy) -> anyhow::Result<Option<Self>> {
        let Some(folder) = &proxy.run_dir else { return Ok(None) };
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("proxy.run_dir {}", folder.display()))?;
        Ok(Some(Self(folder.join(format!("{}.sock", proxy.id)))))
    }

    /// Listens there, instead of whoever did before.
    fn bind(&self) -> io::Result<UnixListener> {
        let beside = self.0.with_extension("new");
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, &self.0)?;
        Ok(listener)
    }
}

/// The proxy that runs when this one is started.
#[derive(Debug)]
pub(crate) struct Predecessor {
    id: String,
    stream: UnixStream,
}

impl Predecessor {
    /// Asks whoever listens there for its sockets. None if nobody does.
    ///
    /// # Errors
    /// Somebody does, and would not give them: two proxies must not be one.
    pub(crate) async fn find(
        path: &Path,
        inherited: &mut Inherited,
        limits: &Limits,
    ) -> anyhow::Result<Option<Self>> {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        let stream = match UnixStream::connect(&path.0).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.0.display().to_string()),
        };
        // Its own predecessor may still have sessions.
        let limit = LINE + Duration::from_millis(limits.stop_ms) * 2;
        let asked = timeout(limit, receive(&stream)).await;
        let received = asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).flatten();
        let (line, sockets) =
            received.with_context(|| format!("the proxy behind {} does not hand over", path.0.display()))?;
        let id = line.trim_end().to_owned();
        tracing::info!(predecessor = id, sockets = sockets.len(), "taking over");
        inherited.0.extend(sockets.into_iter().map(TcpListener::from));
        Ok(Some(Self { id, stream }))
    }

    /// The settings of one who works beside it: under the other identity.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn successor_of(&self, proxy: Proxy) -> anyhow::Result<Proxy> {
        if self.id != proxy.id {
            return Ok(proxy);
        }
        let Some(other) = proxy.successor.clone() else {
            bail!(
                "a proxy runs here as {}; to take over from it, a second identity is needed: [proxy.successor]",
                self.id
            );
        };
        Ok(Proxy {
            id: other.id,
            backend_user: other.backend_user,
            backend_password: other.backend_password,
            number: other.number,
            ..proxy
        })
    }

    /// Says that it may stop to accept.
    async fn relieve(&mut self) -> io::Result<()> {
        self.stream.write_all(TAKE).await?;
        let mut answer = [0; YOURS.len()];
        timeout(LINE, self.stream.read_exact(&mut answer)).await??;
        Ok(())
    }

    /// Ends once its process has.
    async fn gone(&mut self) {
        let mut rest = [0; 64];
        while !matches!(self.stream.read(&mut rest).await, Ok(0) | Err(_)) {}
    }
}

/// What a successor is given.
#[derive(Debug)]
pub(crate) struct Offer {
    id: String,
    sockets: Vec<OwnedFd>,
}

impl Offer {
    pub(crate) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), sockets: Vec::new() }
    }

    /// Adds a listening socket.
    pub(crate) fn add(&mut self, socket: &impl AsFd) -> io::Result<()> {
        self.sockets.push(socket.as_fd().try_clone_to_owned()?);
        Ok(())
    }
}

/// Takes over from the predecessor, if there is one, and waits for a successor; `handed_over` is called once that accepts.
pub(crate) async fn keep(
    path: Path,
    predecessor: Option<Predecessor>,
    offer: Offer,
    stop: watch::Receiver<bool>,
    handed_over: impl FnOnce(),
) {
    let mut predecessor = predecessor;
    if let Some(predecessor) = &mut predecessor
        && let Err(error) = predecessor.relieve().await
    {
        tracing::warn!(%error, predecessor = predecessor.id, "the predecessor does not say that it has stopped to accept");
    }
    let listener = match path.bind() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, path = %path.0.display(), "no successor will be able to take over");
            return;
        }
    };
    if let Some(mut predecessor) = predecessor {
        tokio::select! {
            () = predecessor.gone() => tracing::info!(predecessor = predecessor.id, "the predecessor has ended"),
            () = service::stopped(stop.clone()) => return,
        }
    }
    tokio::select! {
        stream = await_successor(&listener, &offer) => {
            tracing::info!("a successor has taken over");
            drop(offer);
            handed_over();
            // Open as long as this process lives: its end tells the successor.
            let _stream = stream;
            std::future::pending::<()>().await;
        }
        () = service::stopped(stop) => {}
    }
}

/// Offers to one after the other, until one accepts.
async fn await_successor(listener: &UnixListener, offer: &Offer) -> UnixStream {
    loop {
        let offered = async {
            let (stream, _) = listener.accept().await?;
            timeout(START, hand_over(stream, offer)).await?
        };
        match offered.await {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::warn!(%error, "a successor came and did not take over; going on");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn hand_over(mut stream: UnixStream, offer: &Offer) -> io::Result<UnixStream> {
    let uid = stream.peer_cred()?.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!("user {uid} is not the one that runs this proxy")));
    }
    let line = format!("{}\n", offer.id);
    stream.writable().await?;
    stream.try_io(Interest::WRITABLE, || send(&stream, line.as_bytes(), &offer.sockets))?;
    let mut said = [0; TAKE.len()];
    stream.read_exact(&mut said).await?;
    if said != TAKE {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    stream.write_all(YOURS).await?;
    Ok(stream)
}

fn send(stream: &UnixStream, line: &[u8], sockets: &[OwnedFd]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("too many sockets"));
    }
    let sent = sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == line.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
}

async fn receive(stream: &UnixStream) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut line = [0; LINE_MAX];
    let (len, sockets) = stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let parts = &mut [IoSliceMut::new(&mut line)];
            let received = recvmsg(stream, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let mut sockets = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(given) = message {
                    sockets.extend(given);
                }
            }
            Ok((received.bytes, sockets))
        })
        .await?;
    let said = String::from_utf8_lossy(line.get(..len).unwrap_or_default()).into_owned();
    if said.ends_with('\n') {
        Ok((said, sockets))
    } else {
        Err(io::Error::from(io::ErrorKind::UnexpectedEof))
    }
}
