//! LOAD DATA LOCAL: the server asks for the client's file, whose packets go past in the other direction.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::time::timeout;
use usher_backend::Lent;
use usher_wire::frame::{HEADER_LEN, Header};
use usher_wire::packet::ErrPacket;
use usher_wire::relay::Relay;

use crate::buffers;
use crate::relay::{Broken, server};
use crate::session::Session;

impl Session {
    /// Passes the held request to the client and its file to the server.
    pub(crate) async fn local_file(&mut self, lent: &mut Lent, relay: &mut Relay) -> Result<(), Broken> {
        let mut seq = relay.server_seq().wrapping_add(1);
        relay.pass(&mut lent.buf).map_err(|error| server(error.into(), false, relay))?;
        let ready = relay.ready();
        let request = lent.buf.get(..ready).unwrap_or_default();
        self.client.write(request).await.map_err(Broken::Client)?;
        lent.consume(ready);
        relay.sent(ready);
        let mut buf = buffers::take();
        let sent = self.send_file(lent, relay, &mut buf, &mut seq).await;
        buffers::give_back(buf);
        relay.after_local_infile(seq);
        if let Some(seq) = self.client.channel.next_seq() {
            relay.renumber(seq);
        }
        sent
    }

    /// The client's packets up to the empty one, with the server's sequence ids.
    async fn send_file(
        &mut self,
        lent: &mut Lent,
        relay: &Relay,
        buf: &mut Vec<u8>,
        seq: &mut u8,
    ) -> Result<(), Broken> {
        let patience = Duration::from_millis(self.shared.limits.client_write_ms);
        // Bytes of the packet under way that have not come yet.
        let mut left = 0;
        loop {
            let mut at = 0;
            let mut ended = false;
            while !ended && at < buf.len() {
                if left > 0 {
                    let here = left.min(buf.len() - at);
                    (at, left) = (at + here, left - here);
                    continue;
                }
                let Some(place) = buf.get_mut(at..) else { break };
                let Some(header) = Header::peek(place) else { break };
                let own = Header { len: header.len, seq: *seq }.bytes();
                if let Some(bytes) = place.get_mut(..HEADER_LEN) {
                    bytes.copy_from_slice(&own);
                }
                *seq = seq.wrapping_add(1);
                at += HEADER_LEN;
                left = header.len;
                ended = header.len == 0;
            }
            if at > 0 {
                lent.send(buf.get(..at).unwrap_or_default())
                    .await
                    .map_err(|fault| server(fault, true, relay))?;
                buf.drain(..at);
            }
            if ended {
                return Ok(());
            }
            // A client that stops half-way would hold the server's connection for ever.
            let more = timeout(patience, self.client.channel.read(buf)).await;
            match more.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
                Ok(0) => return Err(Broken::Client(ErrorKind::UnexpectedEof.into())),
                read => drop(read.map_err(Broken::Client)?),
            }
        }
    }

    /// The error of a server that does not let this client load its files.
    pub(crate) fn local_files_refused(&self) -> Vec<u8> {
        let (code, message): (u16, &[u8]) = match self.shared.server_version.contains("MariaDB") {
            true => (
                4166,
                b"The used command is not allowed because the MariaDB server or client has disabled the local \
                  infile capability",
            ),
            false => (
                3948,
                b"Loading local data is disabled; this must be enabled on both the client and server sides",
            ),
        };
        let sqlstate = if code == 4166 { *b"HY000" } else { *b"42000" };
        let mut payload = Vec::new();
        ErrPacket { code, sqlstate, message }.encode(&mut payload);
        payload
    }
}
