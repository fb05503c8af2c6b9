//! The server's greeting (HandshakeV10).

use rand::TryRngCore;
use rand::rngs::OsRng;

use crate::Error;
use crate::caps::Caps;
use crate::codec::{Reader, put_nul_bytes};
use crate::status::Status;

/// Bytes of a challenge.
pub const SALT_LEN: usize = 20;
const PROTOCOL_VERSION: u8 = 10;

/// The challenge that a password is scrambled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; SALT_LEN]);

impl Salt {
    /// A fresh challenge. Like MySQL's it is ASCII, without NUL (clients take it for a string) and without `$`.
    pub fn random() -> Result<Self, Error> {
        let mut salt = [0; SALT_LEN];
        OsRng.try_fill_bytes(&mut salt).map_err(|_| Error::Unsupported("no randomness from the system"))?;
        for byte in &mut salt {
            *byte &= 0x7f;
            if matches!(*byte, 0 | b'$') {
                *byte += 1;
            }
        }
        Ok(Self(salt))
    }

    /// The first twenty bytes of a server's data.
    pub fn from_slice(data: &[u8]) -> Result<Self, Error> {
        data.first_chunk::<SALT_LEN>().map(|salt| Self(*salt)).ok_or(Error::Malformed("challenge"))
    }
}

/// The first packet of a server, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting<'a> {
    /// Such as `10.11.6-MariaDB` or `8.4.0`.
    pub server_version: &'a [u8],
    /// What CONNECTION_ID() gives.
    pub thread_id: u32,
    /// The challenge.
    pub salt: Salt,
    /// What the server can do.
    pub caps: Caps,
    /// Low byte of the server's default collation.
    pub collation: u8,
    /// Status flags.
    pub status: Status,
    /// The server's default authentication plugin.
    pub plugin: &'a [u8],
}

impl<'a> Greeting<'a> {
    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let [c0, c1, c2, c3] = self.caps.low();
        let [s0, s1] = self.status.0.to_le_bytes();
        let (salt_head, salt_tail) = self.salt.0.split_at(8);
        out.push(PROTOCOL_VERSION);
        put_nul_bytes(out, self.server_version);
        out.extend_from_slice(&self.thread_id.to_le_bytes());
        out.extend_from_slice(salt_head);
        out.push(0);
        out.extend_from_slice(&[c0, c1, self.collation, s0, s1, c2, c3, 21]);
        out.extend_from_slice(&[0; 6]);
        // MariaDB's place for its extended flags; a MySQL server leaves it zero.
        out.extend_from_slice(&if self.caps.has(Caps::LONG_PASSWORD) { [0; 4] } else { self.caps.high() });
        out.extend_from_slice(salt_tail);
        out.push(0);
        put_nul_bytes(out, self.plugin);
    }

    /// Parses a payload. A server that refuses at once sends an ERR packet (first byte 0xFF) instead.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader::new(payload, "greeting");
        if r.u8()? != PROTOCOL_VERSION {
            return Err(Error::Unsupported("handshake protocol other than 10"));
        }
        let server_version = r.nul_bytes()?;
        let thread_id = r.u32()?;
        let salt_head: [u8; 8] = r.array()?;
        r.u8()?;
        let [c0, c1] = r.array()?;
        let (collation, status) = (r.u8()?, Status(r.u16()?));
        let [c2, c3] = r.array()?;
        r.u8()?;
        r.take(6)?;
        let extended = r.u32()?;
        let mut caps = Caps(u64::from(u32::from_le_bytes([c0, c1, c2, c3])));
        if !caps.has(Caps::LONG_PASSWORD) {
            caps = caps | Caps(u64::from(extended) << 32);
        }
        let salt_tail: [u8; 12] = r.array()?;
        let mut salt = [0; SALT_LEN];
        for (to, from) in salt.iter_mut().zip(salt_head.iter().chain(&salt_tail)) {
            *to = *from;
        }
        // The NUL behind the challenge.
        if !r.is_empty() {
            r.u8()?;
        }
        let plugin = r.nul_or_eof_bytes();
        Ok(Self { server_version, thread_id, salt: Salt(salt), caps, collation, status, plugin })
    }
}
