//! What can go wrong, each with a stable id and the way out.

use std::path::PathBuf;

/// A failed `up`, `down` or `status`. [`Error::id`] is stable; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another `up` or `down` works in the folder.
    #[error("playground-busy: another command works on {}; wait for it to end", dir.display())]
    Busy {
        /// The playground's folder.
        dir: PathBuf,
    },
    /// The folder holds no playground.
    #[error("playground-none: {} holds no playground; `usher playground up --dir` makes one", dir.display())]
    None {
        /// The folder looked at.
        dir: PathBuf,
    },
    /// An option is out of its range or contradicts the playground that the folder already holds.
    #[error("playground-option: {0}")]
    Option(String),
    /// A program that is needed is not installed.
    #[error("playground-tool: {tool} not found; install it with: {install}")]
    Tool {
        /// The program's name.
        tool: String,
        /// A command that installs it.
        install: String,
    },
    /// A port is in use by somebody else.
    #[error(
        "playground-port: port {port} for {name} is in use by another process; \
         stop that process, or choose other ports with --port-base in a new folder"
    )]
    Port {
        /// The process that was to listen there.
        name: String,
        /// The port on 127.0.0.1.
        port: u16,
    },
    /// No free ports were found.
    #[error("playground-ports: found no {wanted} free ports below 32768; choose a range with --port-base")]
    Ports {
        /// How many were looked for.
        wanted: usize,
    },
    /// A process ended instead of starting, or did not answer in time.
    #[error("playground-start: {name} {what}; its log is {}, which ends:\n{tail}", log.display())]
    Start {
        /// The process.
        name: String,
        /// "ended at once", "did not answer within 60 s", ...
        what: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A helper program failed.
    #[error("playground-command: {what} failed: {detail}")]
    Command {
        /// What was being done.
        what: String,
        /// The program's last words.
        detail: String,
    },
    /// A server refused a statement or a connection.
    #[error("playground-sql: {server}: {what}: {source}")]
    Sql {
        /// The server's name.
        server: String,
        /// What was being done.
        what: String,
        /// The driver's error.
        source: mysql_async::Error,
    },
    /// A server holds transactions that its pair's writer never had: it cannot follow.
    #[error(
        "playground-diverged: {server} holds transactions that the writer {writer} lacks ({detail}); \
         it stays read-only and does not replicate; start afresh in a new folder, or rebuild it from {writer}"
    )]
    Diverged {
        /// The server left out.
        server: String,
        /// The writer of its pair.
        writer: String,
        /// Both positions.
        detail: String,
    },
    /// A replication channel did not come up.
    #[error("playground-replication: {server}: {detail}")]
    Replication {
        /// The following server.
        server: String,
        /// The channel's state.
        detail: String,
    },
    /// The global master's schema or topology could not be set up.
    #[error("playground-directory: {0}")]
    Directory(String),
    /// Reading or writing a file failed.
    #[error("playground-file: {}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file of the playground has unexpected content.
    #[error("playground-state: {}: {detail}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The stable id, also the first word of the text.
    #[must_use]
    pub fn id(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "playground-busy",
            Self::None { .. } => "playground-none",
            Self::Option(_) => "playground-option",
            Self::Tool { .. } => "playground-tool",
            Self::Port { .. } => "playground-port",
            Self::Ports { .. } => "playground-ports",
            Self::Start { .. } => "playground-start",
            Self::Command { .. } => "playground-command",
            Self::Sql { .. } => "playground-sql",
            Self::Diverged { .. } => "playground-diverged",
            Self::Replication { .. } => "playground-replication",
            Self::Directory(_) => "playground-directory",
            Self::File { .. } => "playground-file",
            Self::State { .. } => "playground-state",
        }
    }
}

/// Names the path in an I/O error.
pub(crate) trait AtPath<T> {
    /// Turns the error into [`Error::File`].
    fn at(self, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> AtPath<T> for std::io::Result<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::File { path: path.into(), source })
    }
}

/// Names the server and the deed in a driver's error.
pub(crate) trait OnServer<T> {
    /// Turns the error into [`Error::Sql`].
    fn on(self, server: &str, what: &str) -> Result<T>;
}

impl<T> OnServer<T> for std::result::Result<T, mysql_async::Error> {
    fn on(self, server: &str, what: &str) -> Result<T> {
        self.map_err(|source| Error::Sql { server: server.to_owned(), what: what.to_owned(), source })
    }
}
