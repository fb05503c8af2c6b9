//! What can go wrong, by what the caller can do about it.

use thiserror::Error;

/// An error of this crate. Cheap to clone, as one look-up may fail for many waiters.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// No writer of the global master answers. Known users are served on; what needs the directory itself (new users,
    /// moves, flips, new blocks of ids) is not done. Nothing was changed, except where the message says otherwise.
    #[error("the global master is unavailable: {0}")]
    GlobalUnavailable(String),
    /// A server other than the global master's does not answer, or has refused the control account.
    #[error("server {server} is unavailable: {reason}")]
    ServerUnavailable {
        /// Its name or address.
        server: String,
        /// The first reason seen.
        reason: String,
    },
    /// An exchange took longer than its limit. A statement that writes may or may not have been executed: read again.
    #[error("{what} took longer than {after_ms} ms")]
    Timeout {
        /// The exchange.
        what: &'static str,
        /// Its limit.
        after_ms: u64,
    },
    /// Too many look-ups wait already; nothing was asked.
    #[error("more than {limit} directory look-ups are under way (limits.directory_lookups_max), try again")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// A row was not in the state that the change needs: somebody else changed it first. Nothing was changed.
    #[error("{0}")]
    Conflict(String),
    /// Sharded tables are being changed; nothing else that concerns them may begin.
    #[error("a schema change of sharded tables is under way ({statement}); try again when it is over")]
    SchemaChange {
        /// How it begins.
        statement: String,
    },
    /// A proxy is alive but work it began under an older version has not ended in time.
    #[error("proxy {proxy} has not drained version {version} within {after_ms} ms")]
    NotDrained {
        /// The proxy.
        proxy: String,
        /// The version waited for.
        version: u64,
        /// How long.
        after_ms: u64,
    },
    /// A proxy lives, but has not reached a server since it began anew, on which its earlier life may have left
    /// something running.
    #[error(
        "proxy {proxy} could not end its earlier connections on {server} within {after_ms} ms; it goes on trying: \
         bring {server} back, or let the proxy reach it"
    )]
    LeftOver {
        /// The proxy.
        proxy: String,
        /// The server.
        server: String,
        /// How long was waited.
        after_ms: u64,
    },
    /// A silent proxy could not be shut out of a server, so nothing may rely on its silence.
    #[error("proxy {proxy} is silent and could not be revoked on {server}: {reason}")]
    NotRevoked {
        /// The proxy.
        proxy: String,
        /// The server on which its account could still act.
        server: String,
        /// Why.
        reason: String,
    },
    /// Another process has registered under the same proxy id; this one must stop.
    #[error("another process has registered as proxy {proxy}; give each proxy its own proxy.id")]
    Replaced {
        /// The id.
        proxy: String,
    },
    /// No shard takes new users.
    #[error("no shard takes new users: every weight is 0 or no shard is writable")]
    NoShard,
    /// A server answered with an error packet that is not one of the cases above.
    #[error("{server}: error {code}: {message}")]
    Server {
        /// Its name or address.
        server: String,
        /// MySQL's error number.
        code: u16,
        /// Its text.
        message: String,
    },
    /// Rows or arguments contradict what they must be. Nothing was changed.
    #[error("{0}")]
    Data(String),
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn data(message: impl Into<String>) -> Self {
        Self::Data(message.into())
    }

    /// Whether the global master, and not the request, is the trouble.
    #[must_use]
    pub fn is_global_unavailable(&self) -> bool {
        matches!(self, Self::GlobalUnavailable(_))
    }

    /// From the driver's error, while speaking to `server`.
    pub(crate) fn of_server(server: &str, error: &mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(inner) => {
                Self::Server { server: server.to_owned(), code: inner.code, message: inner.message.clone() }
            }
            other => Self::ServerUnavailable { server: server.to_owned(), reason: other.to_string() },
        }
    }
}
