//! MariaDB's own types, whose bytes in the log are not those that a statement takes.
//!
//! Source: <https://mariadb.com/kb/en/uuid-data-type/>; the layout was read off the server.

use std::net::{Ipv4Addr, Ipv6Addr};

use mysql_async::Value;

/// A `UUID` as text. Those of versions 1 to 5 are stored with their parts in reverse order, so that they sort by time.
pub(crate) fn uuid_text(value: Value) -> Value {
    let Value::Bytes(bytes) = value else { return value };
    let stored = padded::<16>(&bytes);
    let reversed = stored[6] & 0x80 != 0 && (0x01..0x60).contains(&stored[8]);
    let mut plain = stored;
    if reversed {
        plain[..4].copy_from_slice(&stored[12..]);
        plain[4..6].copy_from_slice(&stored[10..12]);
        plain[6..8].copy_from_slice(&stored[8..10]);
        plain[8..10].copy_from_slice(&stored[6..8]);
        plain[10..].copy_from_slice(&stored[..6]);
    }
    let hex: String = plain.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Value::Bytes(parts.join("-").into_bytes())
}

/// An `INET6` as text.
pub(crate) fn inet6_text(value: Value) -> Value {
    let Value::Bytes(bytes) = value else { return value };
    Value::Bytes(Ipv6Addr::from(padded::<16>(&bytes)).to_string().into_bytes())
}

/// An `INET4` as text.
pub(crate) fn inet4_text(value: Value) -> Value {
    let Value::Bytes(bytes) = value else { return value };
    Value::Bytes(Ipv4Addr::from(padded::<4>(&bytes)).to_string().into_bytes())
}

/// The log leaves zero bytes at the end of a fixed-length value away.
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut whole = [0; N];
    let n = bytes.len().min(N);
    whole[..n].copy_from_slice(&bytes[..n]);
    whole
}
