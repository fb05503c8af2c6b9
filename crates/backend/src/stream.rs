//! One TCP stream, plain or inside TLS, for servers and clients alike.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;
use usher_config::Limits;

/// A peer that has been told to go is not listened to any longer once it is silent for this long.
const SILENCE: Duration = Duration::from_secs(1);

/// Signs of life asked for before a silent peer is given up.
const KEEPALIVE_TRIES: u32 = 3;

/// Sends small packets at once, and notices within `limits.peer_silent_ms` that the peer's host is gone. On a socket that
/// listens it is for those that are accepted there, on Linux.
///
/// # Errors
/// As the system says.
pub fn prepare_socket(tcp: &impl AsFd, limits: &Limits) -> io::Result<()> {
    let silent = Duration::from_millis(limits.peer_silent_ms);
    // The system counts these in whole seconds.
    let idle = (silent / 2).max(Duration::from_secs(1));
    let between = (silent / 2 / KEEPALIVE_TRIES).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(between).with_retries(KEEPALIVE_TRIES);
    let socket = SockRef::from(tcp);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(silent))?;
    Ok(())
}

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

    /// Version and cipher of TLS, as servers name them.
    #[must_use]
    pub fn tls_names(&self) -> Option<(&'static str, String)> {
        let Self::Tls(tls) = self else { return None };
        let (_, connection) = tls.get_ref();
        let version = match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let suite = connection.negotiated_cipher_suite()?.suite();
        Some((version, cipher_name(suite.as_str().unwrap_or_default())))
    }

    /// Whether the peer has shown a certificate of its own, which was checked.
    #[must_use]
    pub fn has_peer_certificate(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.get_ref().1.peer_certificates().is_some(),
        }
    }

    /// Waits until something has come to be read, without holding a buffer. Inside TLS it may be a part only of what a
    /// read waits for.
    ///
    /// # Errors
    /// As the socket or TLS says.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.readable().await,
            Self::Tls(tls) => {
                let (tcp, state) = tls.get_ref();
                // It does not want more while it holds bytes for us, or once the peer has closed.
                if state.wants_read() { tcp.readable().await } else { Ok(()) }
            }
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

    /// Appends what has arrived to `buf` without waiting. A short read tells the runtime that nothing is left, so that
    /// [`Stream::readable`] waits: no system call is spent on finding that out.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has; as the socket or TLS says.
    pub async fn read_arrived(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let mut read = pin!(self.read(buf));
        poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(read) => Poll::Ready(read),
            Poll::Pending => Poll::Ready(Err(io::ErrorKind::WouldBlock.into())),
        })
        .await
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

    /// As [`Stream::write`], for a peer that may not read: it fails as timed out if not a byte could be written for
    /// `limit`. No timer is set where the bytes can be written at once.
    ///
    /// # Errors
    /// As the socket or TLS says.
    pub async fn write_within(&mut self, bytes: &[u8], limit: Duration) -> io::Result<()> {
        let written = match self {
            Self::Plain(tcp) => match tcp.try_write(bytes) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            },
            Self::Tls(_) => 0,
        };
        match bytes.get(written..) {
            Some([]) | None => Ok(()),
            Some(rest) => self.write_slowly(rest, limit).await,
        }
    }

    #[cold]
    async fn write_slowly(&mut self, mut rest: &[u8], limit: Duration) -> io::Result<()> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the peer does not read");
        while !rest.is_empty() {
            let written = match self {
                Self::Plain(tcp) => timeout(limit, tcp.write(rest)).await,
                Self::Tls(tls) => timeout(limit, tls.write(rest)).await,
            };
            match written.map_err(late)?? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => rest = rest.get(written..).unwrap_or_default(),
            }
        }
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => timeout(limit, tls.flush()).await.map_err(late)?,
        }
    }

    /// Ends the stream in good order, as far as the peer lets it.
    pub async fn close(&mut self) {
        // Nothing is left to do if the peer is gone already, or takes no more.
        let _ = match self {
            Self::Plain(tcp) => tcp.shutdown().await,
            Self::Tls(tls) => timeout(SILENCE, tls.shutdown()).await.unwrap_or(Ok(())),
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

/// OpenSSL's name of a cipher suite, which servers show, from that of the standard.
fn cipher_name(suite: &str) -> String {
    if let Some(name) = suite.strip_prefix("TLS13_") {
        return format!("TLS_{name}");
    }
    let name = suite.trim_start_matches("TLS_").replace("_WITH_", "_").replace("AES_", "AES");
    name.replace("POLY1305_SHA256", "POLY1305").replace('_', "-")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (here, there) = tokio::join!(connecting, listener.accept());
        (here.unwrap(), there.unwrap().0)
    }

    #[tokio::test]
    async fn a_host_that_is_gone_is_noticed() {
        let (tcp, _peer) = pair().await;
        prepare_socket(&tcp, &Limits { peer_silent_ms: 12_000, ..Limits::default() }).unwrap();
        let socket = SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(6));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(2));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_TRIES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(12)));
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (tcp, _unread) = pair().await;
        let mut stream = Stream::Plain(tcp);
        let much = vec![b'x'; 64 << 20];
        let limit = Duration::from_millis(200);
        let error = stream.write_within(&much, limit).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // One that reads, slowly, may take longer than that in all.
        let (tcp, mut peer) = pair().await;
        let mut stream = Stream::Plain(tcp);
        let reading = tokio::spawn(async move {
            let (mut read, mut buf) = (0, vec![0; 4 << 20]);
            while read < 64 << 20 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                read += peer.read(&mut buf).await.unwrap();
            }
        });
        stream.write_within(&much, limit).await.unwrap();
        reading.await.unwrap();
    }
}
