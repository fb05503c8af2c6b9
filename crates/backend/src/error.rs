//! What can go wrong between the proxy and a server.

use thiserror::Error;

/// What happened to an exchange with a server.
#[derive(Debug, Error)]
pub enum Fault {
    /// The socket failed or was closed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The monitor has heard nothing of the server for too long: `limits.server_lost_ms`.
    #[error("nothing has been heard of the server for too long")]
    Lost,
    /// The server's bytes make no sense.
    #[error("{0}")]
    Protocol(#[from] usher_wire::Error),
    /// The server answered with an error where none can be passed on.
    #[error("error {code}: {message}")]
    Server {
        /// MySQL error code.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// It took longer than the limit.
    #[error("no answer within {0} ms")]
    Timeout(u64),
}

/// A fault and the server it came from.
#[derive(Debug, Error)]
pub enum BackendError {
    /// The connection could not be made.
    #[error("cannot connect to {server}: {fault}")]
    Connect {
        /// Name and address.
        server: String,
        /// Why.
        fault: Fault,
    },
    /// The server refuses the proxy's account.
    #[error("{server} refuses the login of the proxy: error {code}: {message}")]
    Refused {
        /// Name and address.
        server: String,
        /// MySQL error code: 4151 (MariaDB) and 3118 (MySQL) say that the account is locked.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// This proxy is revoked and has not registered again yet.
    #[error("this proxy is revoked; it opens no connection to {server} until it is registered again")]
    ShutOut {
        /// Name and address.
        server: String,
    },
    /// All connections are lent out and none came back in time.
    #[error(
        "no free connection to {server} within {waited_ms} ms (limits.checkout_wait_ms), all {max} are in use \
             (limits.backends_per_server_max)"
    )]
    Exhausted {
        /// Name and address.
        server: String,
        /// How long was waited.
        waited_ms: u64,
        /// The pool's size.
        max: usize,
    },
    /// The server would not take the session's settings: its own error, for the client.
    #[error("{server} refuses the session's settings: {code}: {message}")]
    Settings {
        /// Name and address.
        server: String,
        /// MySQL error code.
        code: u16,
        /// The payload of the ERR packet.
        payload: Vec<u8>,
        /// The server's words.
        message: String,
    },
    /// The server is not part of the topology.
    #[error("server {0} is not known")]
    Unknown(usher_topology::ServerId),
}

impl BackendError {
    /// Whether the server says that the proxy's account is locked, as a revoked proxy finds.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        matches!(self, Self::Refused { code: 4151 | 3118 | 4150, .. })
    }
}
