//! The server's side of a login: judges the client's answer, asks further where the plugin or the account needs it.

use std::sync::Arc;

use super::key::ServerKey;
use super::scramble::{native_matches, sha2_digest, sha2_matches};
use super::secret::Secret;
use super::{CACHING_SHA2, CLEAR, NATIVE};
use crate::handshake::{AuthMoreData, AuthSwitch, Salt};

const FAST_AUTH_OK: u8 = 3;
const FULL_AUTH: u8 = 4;
const KEY_REQUEST: u8 = 2;

/// Under which terms a client logs in.
#[derive(Debug, Clone)]
pub struct AuthTerms {
    /// The challenge of the greeting.
    pub salt: Salt,
    /// True on TLS and on Unix sockets: a password may be sent as it is.
    pub secure: bool,
    /// Key for passwords on other connections; without one these clients need the fast way.
    pub key: Option<Arc<ServerKey>>,
    /// False makes every caching_sha2 client send its password, as a server does whose cache is cold.
    pub fast: bool,
    /// Whether mysql_native_password may be used at all.
    pub allow_native: bool,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Send this payload, then give the client's next payload to the machine.
    Send(Vec<u8>, ServerAuth),
    /// The client is who it says.
    Accept(Accepted),
    /// It is not. Send an ERR packet (1045) and close.
    Deny,
}

/// A login that succeeded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// A payload to send before the OK packet.
    pub first: Option<Vec<u8>>,
    /// SHA256(SHA256(password)), if the client sent its password: worth keeping for fast logins.
    pub digest: Option<[u8; 32]>,
}

/// A login that waits for the client's next packet.
#[derive(Debug)]
pub struct ServerAuth {
    terms: AuthTerms,
    secret: Secret,
    state: State,
}

#[derive(Debug)]
enum State {
    /// An AuthSwitchRequest to this plugin is out.
    Switched(Plugin),
    /// The password is asked for.
    AskedPassword,
    /// Our public key is out.
    SentKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plugin {
    Sha2,
    Native,
    Clear,
}

impl ServerAuth {
    /// Judges the answer that came with the handshake response or COM_CHANGE_USER. `plugin` is `None` for a client
    /// that knows no plugins; an empty name means mysql_native_password too (JDBC sends it).
    pub fn start(terms: AuthTerms, secret: Secret, plugin: Option<&[u8]>, answer: &[u8]) -> Step {
        let auth = Self { terms, secret, state: State::AskedPassword };
        let announced = match plugin {
            None | Some(b"") => Some(Plugin::Native),
            Some(name) if name == NATIVE => Some(Plugin::Native),
            Some(name) if name == CACHING_SHA2 => Some(Plugin::Sha2),
            Some(name) if name == CLEAR => Some(Plugin::Clear),
            Some(_) => None,
        };
        match announced {
            Some(known) if auth.serves(known) => auth.judge(known, answer),
            _ if plugin.is_none() => Step::Deny,
            _ => auth.switch(),
        }
    }

    /// Takes the client's next payload.
    pub fn handle(self, payload: &[u8]) -> Step {
        match self.state {
            State::Switched(plugin) => self.judge(plugin, payload),
            State::AskedPassword if self.terms.secure => self.judge_clear(payload),
            State::AskedPassword if payload == [KEY_REQUEST] => self.send_key(),
            State::AskedPassword | State::SentKey => self.judge_encrypted(payload),
        }
    }

    fn serves(&self, plugin: Plugin) -> bool {
        match plugin {
            Plugin::Sha2 => self.preferred() == Plugin::Sha2 || self.secret.is_empty(),
            Plugin::Native => {
                self.terms.allow_native && (self.secret.native.is_some() || self.secret.is_empty())
            }
            Plugin::Clear => self.terms.secure,
        }
    }

    /// An account with a native hash only is still served by caching_sha2 where native is not allowed: by full
    /// authentication.
    fn preferred(&self) -> Plugin {
        let native_only = self.secret.sha256_sha256.is_none() && self.secret.native.is_some();
        if native_only && self.terms.allow_native { Plugin::Native } else { Plugin::Sha2 }
    }

    fn switch(mut self) -> Step {
        let plugin = self.preferred();
        let name = if plugin == Plugin::Native { NATIVE } else { CACHING_SHA2 };
        let payload = AuthSwitch::payload(name, &self.terms.salt);
        self.state = State::Switched(plugin);
        Step::Send(payload, self)
    }

    fn judge(self, plugin: Plugin, answer: &[u8]) -> Step {
        match plugin {
            Plugin::Clear => self.judge_clear(answer),
            // An empty password is an empty answer; caching_sha2 clients send its NUL.
            _ if matches!(answer, [] | [0]) => accept_if(self.secret.is_empty(), Accepted::default()),
            _ if self.secret.is_empty() => Step::Deny,
            Plugin::Native => {
                let matches = |stored| native_matches(answer, &self.terms.salt, stored);
                accept_if(self.secret.native.as_ref().is_some_and(matches), Accepted::default())
            }
            Plugin::Sha2 => self.judge_sha2(answer),
        }
    }

    fn judge_sha2(mut self, answer: &[u8]) -> Step {
        match &self.secret.sha256_sha256 {
            Some(stored) if self.terms.fast => {
                let first = Some(AuthMoreData::payload(&[FAST_AUTH_OK]));
                accept_if(sha2_matches(answer, &self.terms.salt, stored), Accepted { first, digest: None })
            }
            _ => {
                self.state = State::AskedPassword;
                Step::Send(AuthMoreData::payload(&[FULL_AUTH]), self)
            }
        }
    }

    fn judge_clear(self, payload: &[u8]) -> Step {
        self.judge_password(payload.strip_suffix(&[0]).unwrap_or(payload))
    }

    fn send_key(mut self) -> Step {
        let Some(key) = &self.terms.key else { return Step::Deny };
        let payload = AuthMoreData::payload(key.public_pem().as_bytes());
        self.state = State::SentKey;
        Step::Send(payload, self)
    }

    fn judge_encrypted(self, payload: &[u8]) -> Step {
        let Some(key) = &self.terms.key else { return Step::Deny };
        match key.decrypt_password(payload, &self.terms.salt) {
            Some(password) => self.judge_password(&password),
            None => Step::Deny,
        }
    }

    fn judge_password(self, password: &[u8]) -> Step {
        let digest = Some(sha2_digest(password)).filter(|_| !password.is_empty());
        accept_if(self.secret.is_password(password), Accepted { first: None, digest })
    }
}

fn accept_if(matches: bool, accepted: Accepted) -> Step {
    if matches { Step::Accept(accepted) } else { Step::Deny }
}
