//! The socket: bound with a clear error, connections limited in number.

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::serve::Listener;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Admin, router};

/// Connections served at once; the next one waits in the system's queue.
const CONNECTIONS_MAX: usize = 256;

/// Why the HTTP API can't listen.
#[derive(Debug, Error)]
#[error("cannot listen for HTTP on {address}: {source}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// The system's reason.
    pub source: std::io::Error,
}

/// A bound socket, not served yet: so a port in use shows before anything else begins.
#[derive(Debug)]
pub struct Served {
    listener: TcpListener,
    address: SocketAddr,
}

/// Binds the address.
///
/// # Errors
/// [`BindError`] names the address.
pub async fn bind(address: SocketAddr) -> Result<Served, BindError> {
    let listener = TcpListener::bind(address).await.map_err(|source| BindError { address, source })?;
    let address = listener.local_addr().map_err(|source| BindError { address, source })?;
    Ok(Served { listener, address })
}

impl AsFd for Served {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Served {
    /// A socket that somebody else has bound. Must be called on a runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn inherit(bound: std::net::TcpListener) -> std::io::Result<Self> {
        bound.set_nonblocking(true)?;
        let address = bound.local_addr()?;
        Ok(Self { listener: TcpListener::from_std(bound)?, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready; requests under way are finished.
    ///
    /// # Errors
    /// None at present: trouble with one connection ends that one.
    pub async fn serve(
        self,
        admin: Arc<Admin>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let listener = Limited { inner: self.listener, permits };
        axum::serve(listener, router(admin)).with_graceful_shutdown(stop).await
    }
}

struct Limited {
    inner: TcpListener,
    permits: Arc<Semaphore>,
}

impl Listener for Limited {
    type Io = Permitted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed, so a permit always comes.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.inner).await;
        (Permitted { stream, _permit: permit }, address)
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

struct Permitted {
    stream: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Permitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Permitted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
