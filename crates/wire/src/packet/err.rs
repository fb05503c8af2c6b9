//! The ERR packet.

use crate::Error;
use crate::codec::Reader;

/// An ERR packet, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrPacket<'a> {
    /// Error code.
    pub code: u16,
    /// SQLSTATE; `HY000` where the server sent none (errors before login).
    pub sqlstate: [u8; 5],
    /// The message, in the character set of the session's results.
    pub message: &'a [u8],
}

impl<'a> ErrPacket<'a> {
    /// First byte of the payload.
    pub const HEADER: u8 = 0xff;

    /// Parses a payload, header byte included.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader::new(payload, "ERR packet");
        if r.u8()? != Self::HEADER {
            return Err(r.malformed());
        }
        let code = r.u16()?;
        let sqlstate = match r.rest().first() {
            Some(b'#') => {
                r.u8()?;
                r.array()?
            }
            _ => *b"HY000",
        };
        Ok(Self { code, sqlstate, message: r.take_rest() })
    }

    /// Appends the payload, header byte included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(Self::HEADER);
        out.extend_from_slice(&self.code.to_le_bytes());
        out.push(b'#');
        out.extend_from_slice(&self.sqlstate);
        out.extend_from_slice(self.message);
    }

    /// The message for logs and errors of our own; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> std::borrow::Cow<'a, str> {
        String::from_utf8_lossy(self.message)
    }
}

impl std::fmt::Display for ErrPacket<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.code, String::from_utf8_lossy(&self.sqlstate), self.text())
    }
}
