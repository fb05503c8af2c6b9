//! What runs, what has crashed, and which server takes writes.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::replication::{self, Channel};
use crate::state::{Node, State};
use crate::{Server, dir_of};

/// The answer of [`crate::Playground::status`]; its `Display` is a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// MariaDB or MySQL.
    pub server: Server,
    /// Every process, in the order in which they are started.
    pub processes: Vec<ProcessStatus>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessStatus {
    /// `g1`, `s1a`, `mc1`, `proxy`, ...
    pub name: String,
    /// `writer`, `standby`, `replica`, `memcached`, `proxy` or `controller`; a member that does not answer is a
    /// `member`.
    pub role: String,
    /// The process id, if it runs.
    pub pid: Option<u32>,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Whether it runs.
    pub state: ProcessState,
    /// Of a database server: how its replication does.
    pub detail: String,
}

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It was started and is gone without `down`.
    Crashed,
    /// It was not started, or stopped by `down`.
    Stopped,
}

impl Status {
    /// Whether every process that was started runs, and at least one does.
    #[must_use]
    pub fn all_running(&self) -> bool {
        let any = self.processes.iter().any(|p| p.state == ProcessState::Running);
        any && self.processes.iter().all(|p| p.state != ProcessState::Crashed)
    }
}

impl ProcessState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Crashed => "CRASHED",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<12} {:<11} {:>8} {:>6} {:<8} detail", "name", "role", "pid", "port", "state")?;
        for p in &self.processes {
            let pid = p.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let line = format!(
                "{:<12} {:<11} {:>8} {:>6} {:<8} {}",
                p.name,
                p.role,
                pid,
                p.port,
                p.state.as_str(),
                p.detail
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Looks at every process of the folder.
pub(crate) async fn status(dir: &Path) -> Result<Status> {
    let dir = dir_of(dir)?;
    let state = State::load(&dir)?.ok_or_else(|| Error::None { dir: dir.clone() })?;
    let servers = state.servers.iter().map(|node| server_status(&state, node));
    let mut processes = futures_util::future::join_all(servers).await;
    for service in &state.memcached {
        processes.push(plain(&state, &service.name, "memcached", service.port));
    }
    for (name, port) in [("proxy", state.proxy_port), ("controller", state.controller_port)] {
        processes.push(plain(&state, name, name, port));
    }
    Ok(Status { server: state.server, processes })
}

fn plain(state: &State, name: &str, role: &str, port: u16) -> ProcessStatus {
    let started = state.processes.get(name);
    let pid = started.filter(|p| p.runs()).map(|p| p.pid);
    let process_state = match (started, pid) {
        (_, Some(_)) => ProcessState::Running,
        (Some(_), None) => ProcessState::Crashed,
        (None, None) => ProcessState::Stopped,
    };
    ProcessStatus {
        name: name.into(),
        role: role.into(),
        pid,
        port,
        state: process_state,
        detail: String::new(),
    }
}

async fn server_status(state: &State, node: &Node) -> ProcessStatus {
    let role = if node.is_replica { "replica" } else { "member" };
    let mut status = plain(state, &node.name, role, node.port);
    if status.state == ProcessState::Running {
        match ask(state, node).await {
            Ok((is_read_only, detail)) => {
                if !node.is_replica {
                    status.role = if is_read_only { "standby" } else { "writer" }.to_owned();
                }
                status.detail = detail;
            }
            Err(e) => status.detail = e.to_string(),
        }
    }
    status
}

async fn ask(state: &State, node: &Node) -> Result<(bool, String)> {
    let mut conn = Connection::open(node, &state.secrets.admin).await?;
    let is_read_only = replication::is_read_only(&mut conn).await?;
    let detail = match replication::channel(state.server, &mut conn).await? {
        Channel::Runs => "replicates".to_owned(),
        Channel::None => "replication not set up".to_owned(),
        Channel::Connecting(error) => format!("replication connecting {error}"),
        Channel::Stopped(error) => format!("replication stopped {error}"),
    };
    conn.close().await;
    Ok((is_read_only, detail.trim_end().to_owned()))
}
