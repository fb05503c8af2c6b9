//! Command lines of all processes, and how to tell that each of them answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::mysql_root::MysqlRoot;
use crate::process::Process;
use crate::state::{Node, Service};
use crate::{files, template};

/// How long a started process may take until it answers; a server that recovers after a crash needs seconds.
const READY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(25);
/// How long one try to reach a process may take.
const TRY: Duration = Duration::from_secs(2);
/// First byte of a MySQL server's greeting: protocol version 10.
const HANDSHAKE_V10: u8 = 10;

/// The folder of one database server.
pub(crate) fn server_dir(dir: &Path, name: &str) -> PathBuf {
    dir.join("servers").join(name)
}

/// The log of one process.
pub(crate) fn log(dir: &Path, name: &str) -> PathBuf {
    dir.join("logs").join(format!("{name}.log"))
}

/// A database server's command line.
pub(crate) fn server_argv(dir: &Path, node: &Node, mysql: Option<&MysqlRoot>) -> Result<Vec<String>> {
    let mut argv = match mysql {
        Some(root) => root.command(),
        None => vec![template::mariadbd()?],
    };
    argv.push(format!("--defaults-file={}", server_dir(dir, &node.name).join("my.cnf").display()));
    Ok(argv)
}

/// A memcached's command line.
pub(crate) fn memcached_argv(dir: &Path, service: &Service) -> Result<Vec<String>> {
    let mut argv = vec![template::memcached()?];
    // The pid file makes the command line this playground's own.
    let pid_file = dir.join("run").join(format!("{}.pid", service.name)).display().to_string();
    let port = service.port.to_string();
    argv.extend(["-l", "127.0.0.1", "-U", "0", "-m", "64", "-c", "4096", "-t", "1"].map(str::to_owned));
    argv.extend(["-p".to_owned(), port, "-P".to_owned(), pid_file]);
    if rustix::process::geteuid().is_root() {
        argv.extend(["-u", "root"].map(str::to_owned));
    }
    Ok(argv)
}

/// The proxy's or the controller's command line.
pub(crate) fn usher_argv(dir: &Path, binary: &Path, command: &str) -> Vec<String> {
    let config = dir.join("usher.toml").display().to_string();
    vec![binary.display().to_string(), command.to_owned(), "--config".to_owned(), config]
}

/// What shows that a process is ready.
pub(crate) enum Probe<'a> {
    /// The admin account can log in.
    Login(&'a Node, &'a str),
    /// memcached answers `version`.
    Memcached(u16),
    /// The proxy greets on the first port and is healthy on the second.
    Proxy(u16, u16),
    /// `GET /healthz` answers 200.
    Health(u16),
}

impl Probe<'_> {
    async fn answers(&self) -> bool {
        let tried = async {
            match self {
                Self::Login(node, password) => match Connection::open(node, password).await {
                    Ok(conn) => {
                        conn.close().await;
                        true
                    }
                    Err(_) => false,
                },
                Self::Memcached(port) => {
                    talk(*port, b"version\r\n", 8).await.is_ok_and(|a| a.starts_with(b"VERSION"))
                }
                Self::Proxy(port, http) => greets(*port).await && healthy(*http).await,
                Self::Health(http) => healthy(*http).await,
            }
        };
        timeout(TRY, tried).await.unwrap_or(false)
    }
}

/// Waits until the process answers; fails early if it has ended.
pub(crate) async fn await_ready(dir: &Path, name: &str, process: &Process, probe: Probe<'_>) -> Result<()> {
    let deadline = Instant::now() + READY;
    let failed = |what: String| {
        let log = log(dir, name);
        let tail = files::log_tail(&log);
        Error::Start { name: name.to_owned(), what, log, tail }
    };
    while !probe.answers().await {
        if !process.runs() {
            return Err(failed("ended instead of starting".to_owned()));
        }
        if Instant::now() >= deadline {
            return Err(failed(format!("did not answer within {} s", READY.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Sends a request and reads the first `bytes` of the answer.
async fn talk(port: u16, request: &[u8], bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(request).await?;
    let mut answer = vec![0; bytes];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

async fn greets(port: u16) -> bool {
    talk(port, b"", 5).await.is_ok_and(|a| a.last() == Some(&HANDSHAKE_V10))
}

async fn healthy(port: u16) -> bool {
    let request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    talk(port, request, 12).await.is_ok_and(|a| a.ends_with(b" 200"))
}
