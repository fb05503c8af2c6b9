//! AuthSwitchRequest and AuthMoreData.

use super::greeting::Salt;
use crate::Error;
use crate::codec::{Reader, put_nul_bytes};

/// Asks the client to authenticate by another plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthSwitch<'a> {
    /// The plugin.
    pub plugin: &'a [u8],
    /// Its data: a challenge and a NUL, for all plugins that we know.
    pub data: &'a [u8],
}

impl<'a> AuthSwitch<'a> {
    /// First byte of the payload.
    pub const HEADER: u8 = 0xfe;

    /// The payload for a plugin that takes a challenge.
    pub fn payload(plugin: &[u8], salt: &Salt) -> Vec<u8> {
        let mut out = vec![Self::HEADER];
        put_nul_bytes(&mut out, plugin);
        out.extend_from_slice(&salt.0);
        out.push(0);
        out
    }

    /// Parses a payload, header byte included.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader::new(payload, "AuthSwitchRequest");
        if r.u8()? != Self::HEADER {
            return Err(r.malformed());
        }
        if r.is_empty() {
            return Err(Error::Unsupported("the password hash of MySQL before 4.1"));
        }
        Ok(Self { plugin: r.nul_bytes()?, data: r.take_rest() })
    }
}

/// A plugin's further question or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthMoreData;

impl AuthMoreData {
    /// First byte of the payload.
    pub const HEADER: u8 = 0x01;

    /// The payload with this data.
    pub fn payload(data: &[u8]) -> Vec<u8> {
        let mut out = vec![Self::HEADER];
        out.extend_from_slice(data);
        out
    }
}
