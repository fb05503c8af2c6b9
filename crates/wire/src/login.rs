//! The client's side of a login: the proxy's own, to a server.

use crate::Error;
use crate::auth::{CACHING_SHA2, CLEAR, NATIVE, SHA256, encrypt_password, native_scramble, sha2_scramble};
use crate::caps::Caps;
use crate::handshake::{
    AuthMoreData, AuthSwitch, ConnectAttributes, Greeting, HandshakeResponse, Salt, SslRequest,
};
use crate::packet::{ErrPacket, OkPacket};
use crate::status::Status;

/// Who logs in, and how.
#[derive(Debug, Clone)]
pub struct Login<'a> {
    /// Account.
    pub user: &'a [u8],
    /// Password; may be empty.
    pub password: &'a [u8],
    /// Schema to start in.
    pub database: Option<&'a [u8]>,
    /// Connection attributes, made by [`ConnectAttributes::put`].
    pub attributes: ConnectAttributes<'a>,
    /// Low byte of the collation's id; ids over 255 need a SET NAMES after the login.
    pub collation: u8,
    /// Flags to ask for beyond those always asked for: FOUND_ROWS, INTERACTIVE, IGNORE_SPACE.
    pub options: Caps,
    /// Whether TLS is to be used.
    pub tls: bool,
    /// True where nobody can listen (a Unix socket): the password may be sent without TLS.
    pub secure: bool,
    /// Whether to encrypt the password with a key that the server sends on a connection without TLS. Somebody in
    /// between could send his own key.
    pub trust_key: bool,
}

/// What to do next.
#[derive(Debug)]
pub enum LoginStep {
    /// Send this payload (under the next sequence id), then give the server's next payload to the machine.
    Send(Vec<u8>, ClientAuth),
    /// Send this payload, start TLS, then call [`ClientAuth::tls_started`].
    StartTls(Vec<u8>, ClientAuth),
    /// Give the server's next payload to the machine.
    Wait(ClientAuth),
    /// Logged in.
    Done(LoggedIn),
    /// The server says no.
    Refused(Refusal),
}

/// A login that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedIn {
    /// The flags in force on this connection.
    pub caps: Caps,
    /// Status flags.
    pub status: Status,
}

/// A server's ERR packet during login, owned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// Error code: 1045 for a wrong password, 1040 for too many connections and so on.
    pub code: u16,
    /// The server's words.
    pub message: String,
}

impl Refusal {
    fn parse(payload: &[u8]) -> Result<Self, Error> {
        let err = ErrPacket::parse(payload)?;
        Ok(Self { code: err.code, message: err.text().into_owned() })
    }
}

/// A login that waits for the server's next packet.
#[derive(Debug)]
pub struct ClientAuth {
    caps: Caps,
    salt: Salt,
    secure: bool,
    plugin: Plugin,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plugin {
    Native,
    Sha2,
    Sha256,
    Clear,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    StartingTls,
    Answered,
    AskedKey,
}

impl Plugin {
    fn named(name: &[u8]) -> Option<Self> {
        Some(match name {
            _ if name == NATIVE || name.is_empty() => Plugin::Native,
            _ if name == CACHING_SHA2 => Plugin::Sha2,
            _ if name == SHA256 => Plugin::Sha256,
            _ if name == CLEAR => Plugin::Clear,
            _ => return None,
        })
    }

    fn name(self) -> &'static [u8] {
        match self {
            Plugin::Native => NATIVE,
            Plugin::Sha2 => CACHING_SHA2,
            Plugin::Sha256 => SHA256,
            Plugin::Clear => CLEAR,
        }
    }
}

impl ClientAuth {
    /// Takes the server's first payload. The caller may parse it too, for the version and the thread id.
    pub fn start(payload: &[u8], login: &Login<'_>) -> Result<LoginStep, Error> {
        if payload.first() == Some(&ErrPacket::HEADER) {
            return Refusal::parse(payload).map(LoginStep::Refused);
        }
        let greeting = Greeting::parse(payload)?;
        let mut caps = Caps::ask(login.options.without(Caps::SSL | Caps::CONNECT_WITH_DB));
        if login.database.is_some() {
            caps = caps | Caps::CONNECT_WITH_DB;
        }
        if login.tls {
            caps = caps | Caps::SSL;
        }
        // A MariaDB server leaves LONG_PASSWORD out of its flags, to say that it has extended ones.
        caps = caps & (greeting.caps | Caps::LONG_PASSWORD);
        if !caps.has(Caps::SERVER_NEEDED) {
            return Err(Error::Unsupported("server older than MySQL 5.7 or MariaDB 10.2"));
        }
        if login.tls && !caps.has(Caps::SSL) {
            return Err(Error::Unsupported("server without TLS"));
        }
        // Only these two answer at once; any other default is left to an AuthSwitchRequest.
        let plugin = Plugin::named(greeting.plugin).filter(|p| matches!(p, Plugin::Native | Plugin::Sha2));
        let auth = Self {
            caps,
            salt: greeting.salt,
            secure: login.secure,
            plugin: plugin.unwrap_or(Plugin::Native),
            state: State::StartingTls,
        };
        if !login.tls {
            return Ok(auth.respond(login));
        }
        let mut out = Vec::new();
        SslRequest { caps, max_packet: MAX_PACKET, collation: login.collation.into() }.encode(&mut out);
        Ok(LoginStep::StartTls(out, auth))
    }

    /// TLS stands: goes on with the login inside it.
    pub fn tls_started(mut self, login: &Login<'_>) -> LoginStep {
        self.secure = true;
        self.respond(login)
    }

    /// Takes the server's next payload.
    pub fn handle(mut self, payload: &[u8], login: &Login<'_>) -> Result<LoginStep, Error> {
        match payload.split_first() {
            Some((&OkPacket::HEADER, _)) => {
                let status = OkPacket::parse(payload)?.status;
                Ok(LoginStep::Done(LoggedIn { caps: self.caps, status }))
            }
            Some((&ErrPacket::HEADER, _)) => Refusal::parse(payload).map(LoginStep::Refused),
            Some((&AuthSwitch::HEADER, _)) => {
                let switch = AuthSwitch::parse(payload)?;
                self.plugin = Plugin::named(switch.plugin)
                    .ok_or(Error::Unsupported("authentication plugin that the server asks for"))?;
                if self.plugin != Plugin::Clear {
                    self.salt = Salt::from_slice(switch.data)?;
                }
                let answer = self.answer(login)?;
                Ok(self.send(State::Answered, answer))
            }
            Some((&AuthMoreData::HEADER, data)) => self.more(data, login),
            _ => Err(Error::Malformed("packet during login")),
        }
    }

    fn send(mut self, state: State, payload: Vec<u8>) -> LoginStep {
        // sha256_password's first answer without TLS is the wish for the key.
        let asked = self.plugin == Plugin::Sha256 && payload == [SHA256_KEY_REQUEST];
        self.state = if asked { State::AskedKey } else { state };
        LoginStep::Send(payload, self)
    }

    fn respond(self, login: &Login<'_>) -> LoginStep {
        let auth = match self.plugin {
            _ if login.password.is_empty() => Vec::new(),
            Plugin::Sha2 => sha2_scramble(login.password, &self.salt).to_vec(),
            _ => native_scramble(login.password, &self.salt).to_vec(),
        };
        let mut out = Vec::new();
        HandshakeResponse {
            caps: self.caps,
            max_packet: MAX_PACKET,
            collation: login.collation.into(),
            user: login.user,
            auth: &auth,
            database: login.database,
            plugin: Some(self.plugin.name()),
            attributes: login.attributes,
            zstd_level: 0,
        }
        .encode(&mut out);
        self.send(State::Answered, out)
    }

    /// The answer to an AuthSwitchRequest.
    fn answer(&self, login: &Login<'_>) -> Result<Vec<u8>, Error> {
        Ok(match self.plugin {
            Plugin::Clear | Plugin::Sha256 if self.secure => with_nul(login.password),
            Plugin::Clear => return Err(Error::Unsupported("a clear password without TLS")),
            _ if login.password.is_empty() => Vec::new(),
            Plugin::Native => native_scramble(login.password, &self.salt).to_vec(),
            Plugin::Sha2 => sha2_scramble(login.password, &self.salt).to_vec(),
            Plugin::Sha256 if login.trust_key => vec![SHA256_KEY_REQUEST],
            Plugin::Sha256 => return Err(NO_SECURE_WAY),
        })
    }

    fn more(self, data: &[u8], login: &Login<'_>) -> Result<LoginStep, Error> {
        match (self.plugin, self.state, data) {
            (Plugin::Sha2, State::Answered, [FAST_AUTH_OK]) => Ok(LoginStep::Wait(self)),
            (Plugin::Sha2, State::Answered, [FULL_AUTH]) if self.secure => {
                Ok(self.send(State::Answered, with_nul(login.password)))
            }
            (Plugin::Sha2, State::Answered, [FULL_AUTH]) if login.trust_key => {
                Ok(self.send(State::AskedKey, vec![SHA2_KEY_REQUEST]))
            }
            (Plugin::Sha2, State::Answered, [FULL_AUTH]) => Err(NO_SECURE_WAY),
            (Plugin::Sha2 | Plugin::Sha256, State::AskedKey, key) => {
                let encrypted = encrypt_password(login.password, &self.salt, key)?;
                Ok(self.send(State::Answered, encrypted))
            }
            _ => Err(Error::Malformed("AuthMoreData")),
        }
    }
}

fn with_nul(password: &[u8]) -> Vec<u8> {
    let mut out = password.to_vec();
    out.push(0);
    out
}

const FAST_AUTH_OK: u8 = 3;
const FULL_AUTH: u8 = 4;
const SHA2_KEY_REQUEST: u8 = 2;
const SHA256_KEY_REQUEST: u8 = 1;
const NO_SECURE_WAY: Error = Error::Unsupported("no secure way to send the password: use TLS");
/// The longest packet we take: the protocol's own limit for a value.
const MAX_PACKET: u32 = 1 << 30;
