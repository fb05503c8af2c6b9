//! Starts and stops real local servers in a folder: a first try of usher, its tests, its benchmarks.
//!
//! A playground is a folder with a global-master pair (`g1`, `g2`), shards (`s1`, `s2`, ...) that are each a
//! master-master pair (`s1a`, `s1b`) with replicas (`s1r1`, ...), two memcached, a proxy and a controller. All of
//! them are ordinary processes that outlive the one that started them. [`Playground::up`] makes or completes it,
//! [`Playground::down`] ends every process and keeps the data.
//!
//! Never on a production path: it holds all passwords in the folder and trusts the machine it runs on.
//!
//! # Roles of a database server
//! Every server starts read-only and not replicating. A member becomes the writer by two settings, in this order:
//! semi-synchronous source on, `read_only` off. To give the role up it is the reverse: `read_only` on, and the
//! source side off once the other member has caught up. The acknowledging side is always on, everywhere. A standby
//! must not have the source side on: it would wait for acknowledgements of what it applies, for ever once the
//! writer is dead.
//!
//! A commit on the writer waits for one follower's acknowledgement, practically without a limit
//! ([`Options::semi_sync_timeout_ms`]): an acknowledged write is never on one server only, and a writer without
//! any follower stalls instead of risking that. A shard has its standby and its replicas to acknowledge, the
//! global pair only its standby: while that is down, changes of the directory wait until `up` brings it back.

#![forbid(unsafe_code)]

mod accounts;
mod config_file;
mod connection;
mod down;
mod endpoints;
mod error;
mod files;
mod mysql_root;
mod pairs;
mod ports;
mod process;
mod registration;
mod replication;
mod service;
mod settings;
mod state;
mod status;
mod template;
mod test_folder;
mod tls;
mod topology;
mod up;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use endpoints::{
    AdminEndpoint, Endpoints, GlobalEndpoints, HttpEndpoint, ProxyEndpoint, ServerEndpoint, ShardEndpoints,
};
pub use error::{Error, Result};
pub use mysql_root::{mysql_client, why_no_mysql};
pub use ports::free_port;
pub use status::{ProcessState, ProcessStatus, Status};
pub use test_folder::TestFolder;

/// The largest number of shards or of replicas a shard: more would not fit a machine, nor the port range.
const COUNT_MAX: u16 = 50;
/// The default of [`Options::semi_sync_timeout_ms`]: 24 days, the most that every server version takes.
pub const SEMI_SYNC_FOR_EVER_MS: u64 = 0x7fff_ffff;

/// Which database server to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// The system's MariaDB.
    #[default]
    Mariadb,
    /// MySQL 9.7, fetched once from Debian sid into `~/.cache/usher/mysql-9.7` or `$USHER_MYSQL_ROOT`.
    Mysql,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mariadb => "mariadb",
            Self::Mysql => "mysql",
        })
    }
}

impl std::str::FromStr for Server {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "mariadb" => Ok(Self::Mariadb),
            "mysql" => Ok(Self::Mysql),
            _ => Err(Error::Option(format!("--server is mariadb or mysql, not {text:?}"))),
        }
    }
}

/// One step of `up` has ended, or something worth a line has happened in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// What is being done now.
    pub text: String,
    /// Whether the text is a warning that should stay on the screen.
    pub is_warning: bool,
}

/// Takes [`Progress`] as it happens; must not block.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// What [`Playground::up`] is to make. Start from [`Options::new`].
#[derive(Clone)]
pub struct Options {
    /// The folder; made if it does not exist.
    pub dir: PathBuf,
    /// Number of shards, 1 to 50.
    pub shards: u16,
    /// Replicas of each shard, 0 to 50.
    pub replicas: u16,
    /// Which database server to run.
    pub server: Server,
    /// Take consecutive ports from here on instead of random free ones. Only for processes not yet in the folder.
    pub port_base: Option<u16>,
    /// How many users of the example application the caller is going to load; `up` itself loads nothing.
    pub load: Option<u64>,
    /// Whether to start the proxy and the controller.
    pub proxy: bool,
    /// The `usher` program for the proxy and the controller; without it neither is started.
    pub usher_binary: Option<PathBuf>,
    /// How long a commit waits for a follower's acknowledgement before it goes on without one, in milliseconds.
    /// Anything but the default gives up the guarantee that no acknowledged write is lost. Only for a new folder.
    pub semi_sync_timeout_ms: u64,
    /// Told of each step.
    pub on_progress: Option<OnProgress>,
}

impl Options {
    /// The defaults: two shards with one replica each, MariaDB, random ports, no `usher` program.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            shards: 2,
            replicas: 1,
            server: Server::Mariadb,
            port_base: None,
            load: None,
            proxy: true,
            usher_binary: None,
            semi_sync_timeout_ms: SEMI_SYNC_FOR_EVER_MS,
            on_progress: None,
        }
    }

    /// What the folder holds already, so that `up` completes it; the defaults for a folder that holds nothing.
    ///
    /// # Errors
    /// The folder's state cannot be read.
    pub fn found(dir: impl Into<PathBuf>) -> Result<Self> {
        let mut options = Self::new(dir);
        if let Some(state) = state::State::load(&options.dir)? {
            let (shards, replicas) = state.size();
            // A folder has never more than `COUNT_MAX` of either.
            options.shards = shards.try_into().unwrap_or(COUNT_MAX);
            options.replicas = replicas.try_into().unwrap_or(COUNT_MAX);
            options.server = state.server;
        }
        Ok(options)
    }

    fn check(&self) -> Result<()> {
        let bad = |text: String| Err(Error::Option(text));
        if self.shards == 0 || self.shards > COUNT_MAX {
            return bad(format!("--shards is 1 to {COUNT_MAX}, not {}", self.shards));
        }
        if self.replicas > COUNT_MAX {
            return bad(format!("--replicas is 0 to {COUNT_MAX}, not {}", self.replicas));
        }
        if self.port_base.is_some_and(|base| base < 1024) {
            return bad("--port-base is 1024 or more".to_owned());
        }
        Ok(())
    }
}

/// The playground of a folder.
#[derive(Debug)]
pub struct Playground;

impl Playground {
    /// Makes the playground, or completes it: what runs is left alone, what has crashed is started again on its
    /// old port with its old data, what is missing is made. Returns once all of it answers. Cancelled or killed
    /// half-way, it is taken up by the next call.
    ///
    /// # Errors
    /// See [`Error`]; what was started keeps running, for a second try or for [`Playground::down`].
    pub async fn up(options: Options) -> Result<Endpoints> {
        up::up(options).await
    }

    /// Ends every process of the folder; the data stays for the next [`Playground::up`].
    ///
    /// # Errors
    /// [`Error::None`] for a folder without a playground, [`Error::Busy`] during an `up`.
    pub async fn down(dir: &Path) -> Result<()> {
        down::down(dir).await
    }

    /// Looks at every process of the folder.
    ///
    /// # Errors
    /// [`Error::None`] for a folder without a playground.
    pub async fn status(dir: &Path) -> Result<Status> {
        status::status(dir).await
    }
}

/// The folder's one true name, since processes are recognised by it.
fn dir_of(dir: &Path) -> Result<PathBuf> {
    match dir.canonicalize() {
        Ok(dir) => Ok(dir),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::None { dir: dir.to_owned() }),
        Err(source) => Err(Error::File { path: dir.to_owned(), source }),
    }
}

/// How long the folder's lock is tried for.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Held while a command changes the folder; the system drops it with the process. Tried for a moment: a program
/// that the last holder was just starting shares the lock until it is loaded.
async fn lock(dir: &Path) -> Result<std::fs::File> {
    let path = dir.join("lock");
    let file = std::fs::File::create(&path).map_err(|source| Error::File { path: path.clone(), source })?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::Error(source)) => return Err(Error::File { path, source }),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(Error::Busy { dir: dir.to_owned() });
            }
            Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
        }
    }
}
