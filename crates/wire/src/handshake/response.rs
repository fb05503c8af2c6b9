//! The client's answer to the greeting: SSLRequest or HandshakeResponse41.

use crate::Error;
use crate::caps::Caps;
use crate::codec::{Reader, put_lenenc_bytes, put_nul_bytes};

const SSL_REQUEST_LEN: usize = 32;

/// What a client answers the greeting with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientHello<'a> {
    /// TLS first; the response follows inside it.
    Ssl(SslRequest),
    /// The login.
    Login(HandshakeResponse<'a>),
}

impl<'a> ClientHello<'a> {
    /// Parses the client's first payload. `offered` are the flags of our greeting: the client's others are dropped.
    pub fn parse(payload: &'a [u8], offered: Caps) -> Result<Self, Error> {
        let caps = Reader::new(payload, "handshake response").u32()?;
        let ssl = Caps(caps.into()).has(Caps::SSL) && payload.len() == SSL_REQUEST_LEN;
        if !ssl {
            return HandshakeResponse::parse(payload, offered).map(ClientHello::Login);
        }
        if !offered.has(Caps::SSL) {
            return Err(Error::Unsupported("TLS was not offered"));
        }
        let head = Head::parse(&mut Reader::new(payload, "SSLRequest"), offered)?;
        Ok(ClientHello::Ssl(SslRequest {
            caps: head.caps,
            max_packet: head.max_packet,
            collation: head.collation,
        }))
    }
}

/// The head of a handshake response, sent alone to ask for TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SslRequest {
    /// The client's flags.
    pub caps: Caps,
    /// The longest packet the client takes, in bytes.
    pub max_packet: u32,
    /// Id of the client's collation.
    pub collation: u16,
}

impl SslRequest {
    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_head(out, self.caps, self.max_packet, self.collation);
    }
}

/// The login of a client, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeResponse<'a> {
    /// The client's flags, of those offered.
    pub caps: Caps,
    /// The longest packet the client takes, in bytes.
    pub max_packet: u32,
    /// Id of the client's collation; 0 if it leaves the choice to the server.
    pub collation: u16,
    /// Account.
    pub user: &'a [u8],
    /// Answer to the challenge, or what `plugin` makes of it.
    pub auth: &'a [u8],
    /// Schema, if the client named one.
    pub database: Option<&'a [u8]>,
    /// The plugin that made `auth`; `None` if the client knows no plugins, which means mysql_native_password.
    pub plugin: Option<&'a [u8]>,
    /// Connection attributes.
    pub attributes: ConnectAttributes<'a>,
    /// zstd level; 0 without zstd.
    pub zstd_level: u8,
}

struct Head {
    caps: Caps,
    max_packet: u32,
    collation: u16,
}

impl Head {
    fn parse(r: &mut Reader<'_>, offered: Caps) -> Result<Self, Error> {
        let mut caps = Caps(r.u32()?.into());
        let max_packet = r.u32()?;
        // One byte by the book; clients with a 16-bit id put its high byte into the filler behind it.
        let collation = r.u16()?;
        r.take(18)?;
        let extended = r.u32()?;
        if !caps.has(Caps::LONG_PASSWORD) {
            caps = caps | Caps(u64::from(extended) << 32);
        }
        if !caps.has(Caps::CLIENT_NEEDED) {
            return Err(Error::Unsupported("client without the 4.1 protocol"));
        }
        Ok(Self { caps: caps & offered, max_packet, collation })
    }
}

fn put_head(out: &mut Vec<u8>, caps: Caps, max_packet: u32, collation: u16) {
    out.extend_from_slice(&caps.low());
    out.extend_from_slice(&max_packet.to_le_bytes());
    out.extend_from_slice(&collation.to_le_bytes());
    out.extend_from_slice(&[0; 18]);
    out.extend_from_slice(&if caps.has(Caps::LONG_PASSWORD) { [0; 4] } else { caps.high() });
}

impl<'a> HandshakeResponse<'a> {
    /// Parses a payload. `offered` are the flags of our greeting.
    pub fn parse(payload: &'a [u8], offered: Caps) -> Result<Self, Error> {
        let mut r = Reader::new(payload, "handshake response");
        let Head { caps, max_packet, collation } = Head::parse(&mut r, offered)?;
        let user = r.nul_bytes()?;
        let auth = match caps.has(Caps::PLUGIN_AUTH_LENENC) {
            true => r.lenenc_bytes()?,
            false => {
                let len = r.u8()?;
                r.take(len.into())?
            }
        };
        // Some drivers set a flag and leave its field out if it is empty and the last.
        let database =
            caps.has(Caps::CONNECT_WITH_DB).then(|| r.nul_or_eof_bytes()).filter(|db| !db.is_empty());
        let plugin = caps.has(Caps::PLUGIN_AUTH).then(|| r.nul_or_eof_bytes());
        let attributes = match caps.has(Caps::CONNECT_ATTRS) && !r.is_empty() {
            true => ConnectAttributes::new(r.lenenc_bytes()?),
            false => ConnectAttributes::default(),
        };
        let zstd_level = if caps.has(Caps::ZSTD) { r.u8()? } else { 0 };
        Ok(Self { caps, max_packet, collation, user, auth, database, plugin, attributes, zstd_level })
    }

    /// Appends the payload, in the form that its `caps` ask for.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_head(out, self.caps, self.max_packet, self.collation);
        put_nul_bytes(out, self.user);
        if self.caps.has(Caps::PLUGIN_AUTH_LENENC) {
            put_lenenc_bytes(out, self.auth);
        } else {
            // Without LENENC a longer answer cannot be said; no plugin of ours makes one before it is asked.
            let auth = self.auth.get(..self.auth.len().min(0xfa)).unwrap_or_default();
            put_lenenc_bytes(out, auth);
        }
        if self.caps.has(Caps::CONNECT_WITH_DB) {
            put_nul_bytes(out, self.database.unwrap_or_default());
        }
        if self.caps.has(Caps::PLUGIN_AUTH) {
            put_nul_bytes(out, self.plugin.unwrap_or_default());
        }
        if self.caps.has(Caps::CONNECT_ATTRS) {
            put_lenenc_bytes(out, self.attributes.raw);
        }
        if self.caps.has(Caps::ZSTD) {
            out.push(self.zstd_level);
        }
    }
}

/// Connection attributes: `program_name`, `_os` and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectAttributes<'a> {
    raw: &'a [u8],
}

impl<'a> ConnectAttributes<'a> {
    /// Over the pairs as the wire has them, without their total length.
    pub fn new(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// Appends a pair to a block that [`ConnectAttributes::new`] takes.
    pub fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        put_lenenc_bytes(out, name);
        put_lenenc_bytes(out, value);
    }

    /// The pairs in order, up to the first that is malformed.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut r = Reader::new(self.raw, "connection attributes");
        std::iter::from_fn(move || Some((r.lenenc_bytes().ok()?, r.lenenc_bytes().ok()?)))
    }

    /// The value of an attribute.
    pub fn value(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}
