//! COM_STMT_PREPARE_OK, for answers made in the proxy.

use crate::Error;
use crate::codec::Reader;

/// The first packet of a COM_STMT_PREPARE answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrepareOk {
    /// Statement id.
    pub id: u32,
    /// Number of result columns.
    pub columns: u16,
    /// Number of parameters.
    pub params: u16,
    /// Number of warnings.
    pub warnings: u16,
}

impl PrepareOk {
    /// Parses a payload, header byte included.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(payload, "COM_STMT_PREPARE_OK");
        if r.u8()? != 0 {
            return Err(r.malformed());
        }
        let (id, columns, params) = (r.u32()?, r.u16()?, r.u16()?);
        r.u8()?;
        Ok(Self { id, columns, params, warnings: if r.is_empty() { 0 } else { r.u16()? } })
    }

    /// Appends the payload, header byte included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(0);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.columns.to_le_bytes());
        out.extend_from_slice(&self.params.to_le_bytes());
        out.push(0);
        out.extend_from_slice(&self.warnings.to_le_bytes());
    }
}
