//! One TCP stream, plain or inside TLS, for servers and clients alike.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

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
