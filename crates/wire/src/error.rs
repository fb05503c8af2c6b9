//! What can be wrong with bytes that a peer sent.

/// A fault in the bytes of a peer. The connection they came from cannot be trusted to be in step any more
/// unless the caller knows better (a malformed statement parameter, for one, leaves the framing intact).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The packet does not have the form that the protocol gives it; the text names the part.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A packet announces more bytes than the limit allows.
    #[error("packet of {len} bytes is over the limit of {max} bytes")]
    Oversized {
        /// Announced length in bytes, of the parts known so far.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A packet's sequence id does not follow the one before it.
    #[error("packet out of order: expected sequence id {expected}, got {got}")]
    OutOfOrder {
        /// The id that had to come.
        expected: u8,
        /// The id that came.
        got: u8,
    },
    /// The body of a compressed frame does not hold what its header says.
    #[error("a compressed packet cannot be unpacked")]
    Uncompress,
    /// The peer needs or lacks something without which we cannot go on; the text names it.
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
    /// A call that the state of this machine does not allow: a fault of ours, not of the peer.
    #[error("misuse: {0}")]
    Misuse(&'static str),
}

/// Bytes that make no sense, for code that reads a socket.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}
