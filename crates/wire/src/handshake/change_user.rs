//! COM_CHANGE_USER.

use super::response::ConnectAttributes;
use crate::Error;
use crate::caps::Caps;
use crate::codec::Reader;

/// A login on a connection that has one already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeUser<'a> {
    /// Account.
    pub user: &'a [u8],
    /// Answer to the challenge of the greeting.
    pub auth: &'a [u8],
    /// Schema, if the client named one.
    pub database: Option<&'a [u8]>,
    /// Id of the collation, if the client sent one.
    pub collation: Option<u16>,
    /// The plugin that made `auth`; `None` if the client knows no plugins.
    pub plugin: Option<&'a [u8]>,
    /// Connection attributes.
    pub attributes: ConnectAttributes<'a>,
}

impl<'a> ChangeUser<'a> {
    /// Parses a payload, command byte included; `caps` are those of the login.
    pub fn parse(payload: &'a [u8], caps: Caps) -> Result<Self, Error> {
        let mut r = Reader::new(payload, "COM_CHANGE_USER");
        r.u8()?;
        let user = r.nul_bytes()?;
        let len = r.u8()?;
        let auth = r.take(len.into())?;
        let database = Some(r.nul_or_eof_bytes()).filter(|db| !db.is_empty());
        let collation = if r.is_empty() { None } else { Some(r.u16()?) };
        let plugin = (caps.has(Caps::PLUGIN_AUTH) && !r.is_empty()).then(|| r.nul_or_eof_bytes());
        let attributes = match caps.has(Caps::CONNECT_ATTRS) && !r.is_empty() {
            true => ConnectAttributes::new(r.lenenc_bytes()?),
            false => ConnectAttributes::default(),
        };
        Ok(Self { user, auth, database, collation, plugin, attributes })
    }
}
