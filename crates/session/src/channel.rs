//! The client's end of a connection: the stream and, where both sides have agreed on it, compression.
//!
//! A compressed connection keeps no state of zlib or zstd: each frame stands for itself, and what the algorithms work
//! in belongs to the thread. Idle, it owns forty bytes more than another.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use usher_backend::Stream;
use usher_wire::compress::{Algorithm, HEADER_LEN, Header, PIECE, Press};

use crate::buffers;

thread_local! {
    static PRESS: RefCell<Press> = RefCell::default();
}

/// What a frame may hold beyond the largest packet: the packet's headers and others that were sent with it.
const SLACK: usize = 64 << 10;

/// The client's end of a connection.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: Stream,
    packed: Option<Box<Packed>>,
}

/// The state of a compressed connection.
#[derive(Debug)]
struct Packed {
    algorithm: Algorithm,
    /// The next frame's sequence id, of either side.
    seq: u8,
    /// The longest frame that is taken.
    frame_max: usize,
    /// Frames that have come and not been opened, the last one perhaps in part. Without room while there are none.
    raw: Vec<u8>,
}

impl Channel {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, packed: None }
    }

    pub(crate) fn into_stream(self) -> Stream {
        self.stream
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// From now on both sides compress.
    pub(crate) fn compress(&mut self, algorithm: Algorithm, packet_max: usize) {
        let frame_max = packet_max.saturating_add(SLACK);
        self.packed = Some(Box::new(Packed { algorithm, seq: 0, frame_max, raw: Vec::new() }));
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.packed.is_some()
    }

    /// The sequence id of the next frame, with which packets go on behind each result; `None` without compression.
    pub(crate) fn next_seq(&self) -> Option<u8> {
        self.packed.as_ref().map(|packed| packed.seq)
    }

    /// The next frame begins a command.
    pub(crate) fn expect_command(&mut self) {
        if let Some(packed) = &mut self.packed {
            packed.seq = 0;
        }
    }

    /// Waits until something has come to be read, without holding a buffer; it may be a part only of what a read waits
    /// for.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match &self.packed {
            Some(packed) if packed.has_frame() => Ok(()),
            _ => self.stream.readable().await,
        }
    }

    /// Appends what has arrived to `buf`, waiting for at least one byte; 0 means the peer has closed.
    ///
    /// # Errors
    /// The socket's; `InvalidData` with an [`usher_wire::Error`] where a frame makes no sense.
    pub(crate) async fn read(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        match &mut self.packed {
            None => self.stream.read(buf).await,
            Some(packed) => packed.read(&mut self.stream, buf, false).await,
        }
    }

    /// As [`Channel::read`], of at most `max` bytes, unless they come compressed.
    pub(crate) async fn read_at_most(&mut self, buf: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        match &mut self.packed {
            None => self.stream.read_at_most(buf, max).await,
            Some(packed) => packed.read(&mut self.stream, buf, false).await,
        }
    }

    /// Appends what has arrived to `buf` without waiting.
    ///
    /// # Errors
    /// As [`Channel::read`]; `WouldBlock` if nothing has.
    pub(crate) async fn read_arrived(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        match &mut self.packed {
            None => self.stream.read_arrived(buf).await,
            Some(packed) => packed.read(&mut self.stream, buf, true).await,
        }
    }

    /// Writes all of `bytes`; fails as timed out if the client takes none for `limit`.
    pub(crate) async fn write_within(&mut self, bytes: &[u8], limit: Duration) -> io::Result<()> {
        match &mut self.packed {
            None => self.stream.write_within(bytes, limit).await,
            Some(packed) => packed.write(&mut self.stream, bytes, limit).await,
        }
    }

    /// See [`Stream::close`].
    pub(crate) async fn close(&mut self) {
        self.stream.close().await;
    }

    /// See [`Stream::dismiss`].
    pub(crate) async fn dismiss(&mut self, limit: Duration) {
        self.stream.dismiss(limit).await;
    }
}

impl Packed {
    #[cold]
    async fn read(&mut self, stream: &mut Stream, buf: &mut Vec<u8>, arrived: bool) -> io::Result<usize> {
        loop {
            while let Some(opened) = self.open(buf)? {
                if opened > 0 {
                    return Ok(opened);
                }
            }
            if self.raw.capacity() == 0 {
                self.raw = buffers::take();
            }
            let read = match arrived {
                true => stream.read_arrived(&mut self.raw).await,
                false => stream.read(&mut self.raw).await,
            };
            if self.raw.is_empty() {
                self.rest();
            }
            if read? == 0 {
                return Ok(0);
            }
        }
    }

    /// Opens the first frame, if it has come as a whole, and appends what is in it.
    fn open(&mut self, buf: &mut Vec<u8>) -> Result<Option<usize>, usher_wire::Error> {
        let Some(header) = Header::peek(&self.raw) else { return Ok(None) };
        let expected = self.seq;
        let len = header.packed.max(header.plain);
        let wrong = if header.seq != expected {
            Some(usher_wire::Error::OutOfOrder { expected, got: header.seq })
        } else if len > self.frame_max {
            Some(usher_wire::Error::Oversized { len, max: self.frame_max })
        } else {
            None
        };
        if let Some(error) = wrong {
            // What the client is told goes on from its own frame.
            self.seq = header.seq.wrapping_add(1);
            return Err(error);
        }
        let end = HEADER_LEN + header.packed;
        let Some(body) = self.raw.get(HEADER_LEN..end) else { return Ok(None) };
        let before = buf.len();
        self.seq = header.seq.wrapping_add(1);
        PRESS.with_borrow_mut(|press| press.unpack(self.algorithm, header, body, buf))?;
        if end == self.raw.len() {
            self.rest();
        } else {
            self.raw.drain(..end);
        }
        Ok(Some(buf.len() - before))
    }

    fn has_frame(&self) -> bool {
        Header::peek(&self.raw).is_some_and(|header| self.raw.len() >= HEADER_LEN + header.packed)
    }

    /// Owns no buffer while nothing has come.
    fn rest(&mut self) {
        buffers::give_back(std::mem::take(&mut self.raw));
    }

    #[cold]
    async fn write(&mut self, stream: &mut Stream, bytes: &[u8], limit: Duration) -> io::Result<()> {
        let mut out = buffers::take();
        let mut written = Ok(());
        for piece in bytes.chunks(PIECE) {
            out.clear();
            PRESS.with_borrow_mut(|press| press.pack(self.algorithm, self.seq, piece, &mut out))?;
            self.seq = self.seq.wrapping_add(1);
            written = stream.write_within(&out, limit).await;
            if written.is_err() {
                break;
            }
            // Packing takes its time: other clients of this thread get theirs.
            if bytes.len() > PIECE {
                tokio::task::yield_now().await;
            }
        }
        buffers::give_back(out);
        written
    }
}
