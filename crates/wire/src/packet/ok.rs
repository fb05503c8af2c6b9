//! The OK packet, in both its headers, and the EOF packet it replaced.

use super::track::Changes;
use crate::Error;
use crate::codec::{Reader, put_lenenc_bytes, put_lenenc_int};
use crate::status::Status;

/// Bytes of an EOF packet's payload.
pub const EOF_LEN: usize = 5;

/// An OK packet of a peer that negotiated SESSION_TRACK, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OkPacket<'a> {
    /// 0x00, or 0xFE where it ends rows.
    pub header: u8,
    /// Rows changed, deleted or inserted (or found, by FOUND_ROWS).
    pub affected_rows: u64,
    /// The statement's first generated id, or what LAST_INSERT_ID(expr) set.
    pub last_insert_id: u64,
    /// Status flags.
    pub status: Status,
    /// Number of warnings.
    pub warnings: u16,
    /// Human-readable text, such as `Rows matched: 1  Changed: 1  Warnings: 0`.
    pub info: &'a [u8],
    /// Session state changes as they came; see [`OkPacket::changes`].
    pub state: &'a [u8],
}

impl Default for OkPacket<'_> {
    fn default() -> Self {
        Self {
            header: Self::HEADER,
            affected_rows: 0,
            last_insert_id: 0,
            status: Status::AUTOCOMMIT,
            warnings: 0,
            info: &[],
            state: &[],
        }
    }
}

impl<'a> OkPacket<'a> {
    /// First byte of an OK packet that is an answer by itself.
    pub const HEADER: u8 = 0x00;
    /// First byte of an OK packet that ends rows (DEPRECATE_EOF).
    pub const ROWS_END: u8 = 0xfe;

    /// Parses a payload, header byte included.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader::new(payload, "OK packet");
        let header = r.u8()?;
        if header != Self::HEADER && header != Self::ROWS_END {
            return Err(r.malformed());
        }
        let (affected_rows, last_insert_id) = (r.lenenc_int()?, r.lenenc_int()?);
        let (status, warnings) = (Status(r.u16()?), r.u16()?);
        let info = if r.is_empty() { &[] } else { r.lenenc_bytes()? };
        let state = match status.has(Status::SESSION_STATE_CHANGED) && !r.is_empty() {
            true => r.lenenc_bytes()?,
            false => &[],
        };
        Ok(Self { header, affected_rows, last_insert_id, status, warnings, info, state })
    }

    /// The session state changes, one by one.
    pub fn changes(&self) -> Changes<'a> {
        Changes::new(self.state)
    }

    /// Appends the payload, header byte included. SESSION_STATE_CHANGED is set as `state` asks; without
    /// `session_track` the state is left out.
    pub fn encode(&self, out: &mut Vec<u8>, session_track: bool) {
        let with_state = session_track && !self.state.is_empty();
        let status = match with_state {
            true => self.status.with(Status::SESSION_STATE_CHANGED),
            false => self.status.without(Status::SESSION_STATE_CHANGED),
        };
        out.push(self.header);
        put_lenenc_int(out, self.affected_rows);
        put_lenenc_int(out, self.last_insert_id);
        out.extend_from_slice(&status.0.to_le_bytes());
        out.extend_from_slice(&self.warnings.to_le_bytes());
        if with_state || !self.info.is_empty() {
            put_lenenc_bytes(out, self.info);
        }
        if with_state {
            put_lenenc_bytes(out, self.state);
        }
    }

    /// What a client without DEPRECATE_EOF gets in place of this packet at the end of rows.
    pub fn to_eof(&self) -> EofPacket {
        EofPacket { warnings: self.warnings, status: self.status.without(Status::SESSION_STATE_CHANGED) }
    }
}

/// An EOF packet, for clients without DEPRECATE_EOF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EofPacket {
    /// Number of warnings.
    pub warnings: u16,
    /// Status flags.
    pub status: Status,
}

impl EofPacket {
    /// The payload's five bytes.
    pub fn bytes(&self) -> [u8; EOF_LEN] {
        let ([w0, w1], [s0, s1]) = (self.warnings.to_le_bytes(), self.status.0.to_le_bytes());
        [0xfe, w0, w1, s0, s1]
    }

    /// Parses a payload, header byte included.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        match *payload {
            [0xfe, w0, w1, s0, s1] => Ok(Self {
                warnings: u16::from_le_bytes([w0, w1]),
                status: Status(u16::from_le_bytes([s0, s1])),
            }),
            _ => Err(Error::Malformed("EOF packet")),
        }
    }
}
