//! The conversation of a login: packets with their sequence ids, and the time by which all must be over.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use usher_backend::Stream;
use usher_wire::frame::{Header, message, missing, write_packet};
use usher_wire::sqlerr::{ErrorId, Failure};

use crate::channel::Channel;
use crate::session::End;
use crate::shared::{HeaderRule, Introduced, Shared};
use crate::tls::ClientTls;

/// The largest packet before login: names, attributes, an encrypted password.
const PACKET_MAX: usize = 64 << 10;
const LATE: &str = "the login took longer than limits.login_ms";
/// The longest a refused client is listened to, so that it reads why.
const DISMISS: Duration = Duration::from_secs(2);

/// A client's channel during a login.
pub(crate) struct Talk {
    pub(crate) channel: Channel,
    buf: Vec<u8>,
    out: Vec<u8>,
    pub(crate) seq: u8,
    pub(crate) deadline: Instant,
    /// Its place among the logins under way.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Talk {
    pub(crate) fn new(channel: Channel, seq: u8, shared: &Shared) -> Self {
        let deadline = Instant::now() + Duration::from_millis(shared.limits.login_ms);
        Self { channel, buf: Vec::new(), out: Vec::new(), seq, deadline, permit: None }
    }

    /// Puts a packet behind those that wait to be sent.
    pub(crate) fn put(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        write_packet(&mut self.out, &mut self.seq, fill);
    }

    /// Sends what waits.
    pub(crate) async fn flush(&mut self) -> Result<(), End> {
        let rest = self.deadline.saturating_duration_since(Instant::now());
        let sent = self.channel.write_within(&self.out, rest).await;
        self.out.clear();
        match sent {
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                Err(End::Refused(ErrorId::LoginTimeout))
            }
            sent => Ok(sent?),
        }
    }

    pub(crate) async fn send(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), End> {
        self.put(fill);
        self.flush().await
    }

    /// The client's next packet, and not a byte more: behind the request for TLS the handshake of TLS may have come
    /// already.
    pub(crate) async fn receive(&mut self) -> Result<Vec<u8>, End> {
        loop {
            match self.packet() {
                Ok(Some(payload)) => return Ok(payload),
                Ok(None) => self.read(missing(&self.buf)).await?,
                Err(failure) => return Err(self.fail_unasked(&failure).await),
            }
        }
    }

    async fn read(&mut self, lacking: usize) -> Result<(), End> {
        match timeout_at(self.deadline, self.channel.read_at_most(&mut self.buf, lacking)).await {
            Ok(Ok(0)) => Err(End::Gone),
            Ok(read) => Ok(read.map(drop)?),
            Err(_) => Err(self.fail_unasked(&Failure::new(ErrorId::LoginTimeout).note(LATE)).await),
        }
    }

    /// Takes the packet out of the buffer, if it is all there.
    fn packet(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        if let Some(Header { seq, .. }) = Header::peek(&self.buf)
            && seq != self.seq
        {
            if !self.channel.is_compressed() {
                return Err(Failure::new(ErrorId::PacketOrder).field("got", seq).field("expected", self.seq));
            }
            // Here the frames have been counted; some clients number packets as their frames, others do not.
            self.seq = seq;
        }
        let Some(found) = message(&self.buf, PACKET_MAX)? else { return Ok(None) };
        let (payload, next_seq) = (found.payload.into_owned(), found.next_seq);
        self.seq = next_seq;
        self.buf.clear();
        Ok(Some(payload))
    }

    /// What a load balancer says of the client before the client says anything.
    pub(crate) async fn introduction(&mut self, rule: HeaderRule) -> Result<Option<SocketAddr>, End> {
        loop {
            match rule.read(&self.buf) {
                Introduced::Missing(lacking) => self.read(lacking).await?,
                Introduced::Client { len, client } => {
                    self.buf.drain(..len);
                    return Ok(client);
                }
                Introduced::Refused(failure) => return Err(self.fail_unasked(&failure).await),
            }
        }
    }

    /// Goes on inside TLS, which the client has asked for.
    pub(crate) async fn encrypt(self, tls: &ClientTls, shared: &Shared) -> Result<Self, End> {
        let Self { channel, buf, out, seq, deadline, permit } = self;
        let Stream::Plain(tcp) = channel.into_stream() else {
            return Err(End::Refused(ErrorId::PacketOrder));
        };
        let handshake = async {
            // Never closed.
            let _turn = shared.handshakes.acquire().await;
            tls.acceptor().accept(tcp).await
        };
        let accepted = timeout_at(deadline, handshake).await;
        let stream = accepted.map_err(|_| End::Refused(ErrorId::LoginTimeout))??;
        shared.metrics.tls_handshakes.inc();
        if stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            shared.metrics.tls_resumed.inc();
        }
        let channel = Channel::new(Stream::Tls(Box::new(stream.into())));
        Ok(Self { channel, buf, out, seq, deadline, permit })
    }

    /// As [`Talk::fail`], before the client's packet is there: the sequence ids go on as if it were.
    pub(crate) async fn fail_unasked(&mut self, failure: &Failure) -> End {
        // The greeting is the first packet, also where it has not been sent.
        self.seq = if self.seq == 0 { 0 } else { self.seq.wrapping_add(1) };
        self.fail(failure).await
    }

    pub(crate) async fn fail(&mut self, failure: &Failure) -> End {
        // The login fails either way.
        let _ = self.send(|out| failure.encode(out)).await;
        self.channel.dismiss(DISMISS).await;
        End::Refused(failure.id())
    }
}
