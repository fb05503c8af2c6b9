//! One TCP stream, plain or inside TLS, for servers and clients alike.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// A peer that has been told to go is not listened to any longer once it is silent for this long.
const SILENCE: Duration = Duration::from_secs(1);

/// A TCP stream, plain or inside TLS.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// Inside TLS; boxed, as its state is large and few connections have one.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether bytes are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Waits until a read would not block, without holding a buffer. Inside TLS it returns at once: there the
    /// library holds buffers anyway.
    ///
    /// # Errors
    /// As the socket says.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.readable().await,
            Self::Tls(_) => Ok(()),
        }
    }

    /// Appends what has arrived to `buf`, waiting for at least one byte; 0 means the peer has closed.
    ///
    /// # Errors
    /// As the socket or TLS says.
    pub async fn read(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read_buf(buf).await,
            Self::Tls(tls) => tls.read_buf(buf).await,
        }
    }

    /// As [`Stream::read`], of at most `max` bytes: what is behind them stays in the socket.
    ///
    /// # Errors
    /// As the socket or TLS says.
    pub async fn read_at_most(&mut self, buf: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        let max = max as u64;
        match self {
            Self::Plain(tcp) => tcp.take(max).read_buf(buf).await,
            Self::Tls(tls) => tls.take(max).read_buf(buf).await,
        }
    }

    /// Reads what is there without waiting; `WouldBlock` if nothing is.
    ///
    /// # Errors
    /// As the socket says; a TLS stream always answers `WouldBlock`.
    pub fn try_read(&self, buf: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_read_buf(buf),
            Self::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes all of `bytes` and pushes them out.
    ///
    /// # Errors
    /// As the socket or TLS says.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write_all(bytes).await,
            Self::Tls(tls) => {
                tls.write_all(bytes).await?;
                tls.flush().await
            }
        }
    }

    /// Ends the stream in good order.
    pub async fn close(&mut self) {
        // Nothing is left to do if the peer is gone already.
        let _ = match self {
            Self::Plain(tcp) => tcp.shutdown().await,
            Self::Tls(tls) => tls.shutdown().await,
        };
    }

    /// Ends the stream in good order with a peer that may still be sending: its bytes are read and thrown away for
    /// at most `limit`. Closed with bytes unread, the socket would be reset, and the peer might never see what it
    /// was told last.
    pub async fn dismiss(&mut self, limit: Duration) {
        self.close().await;
        let mut waste = Vec::new();
        let drained = async {
            while let Ok(Ok(1..)) = tokio::time::timeout(SILENCE, self.read(&mut waste)).await {
                waste.clear();
            }
        };
        // Whoever sends for longer is cut off.
        let _ = tokio::time::timeout(limit, drained).await;
    }

    /// Whether the peer has closed or sent something out of turn, without a system call in the usual case: the
    /// runtime knows a socket that has become readable.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let mut byte = [0];
        match self {
            Self::Plain(tcp) => !is_would_block(&tcp.try_read(&mut byte)),
            Self::Tls(tls) => !is_would_block(&tls.get_ref().0.try_read(&mut byte)),
        }
    }
}

fn is_would_block(result: &io::Result<usize>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
