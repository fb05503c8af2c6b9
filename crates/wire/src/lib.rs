//! Bytes to MySQL protocol and back: framing, commands, the response relay, logins of both sides, statement
//! parameters, result encoding and error codes.
//!
//! Nothing here does I/O, reads a clock or knows about shards. Callers own the buffers and the sockets; what a
//! peer sent is checked before it is used and ends in an [`Error`], never in a panic.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

pub mod auth;
pub mod caps;
pub mod codec;
pub mod collation;
pub mod command;
pub mod compress;
mod error;
pub mod frame;
pub mod handshake;
pub mod login;
pub mod packet;
pub mod proxy_header;
pub mod relay;
pub mod result;
pub mod rows;
pub mod sqlerr;
pub mod status;
pub mod stmt;

pub use caps::Caps;
pub use error::Error;
