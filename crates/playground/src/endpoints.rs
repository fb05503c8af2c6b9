//! `endpoints.json`: where everything listens. Tests and people's scripts rely on its keys.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{AtPath, Error, Result};
use crate::files;

/// The content of `endpoints.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Where an application connects.
    pub proxy: ProxyEndpoint,
    /// The administration console's login.
    pub admin: AdminEndpoint,
    /// The HTTP interface.
    pub http: HttpEndpoint,
    /// The pair that holds the directory.
    pub global: GlobalEndpoints,
    /// The shards, in the order of their names' numbers.
    pub shards: Vec<ShardEndpoints>,
    /// `host:port` of each memcached.
    pub memcached: Vec<String>,
}

/// An application's way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyEndpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name of the application.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The database to use.
    pub database: String,
}

/// An administrator's way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminEndpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

/// The HTTP interface and the token that it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpEndpoint {
    /// `http://host:port`, without a slash at the end.
    pub url: String,
    /// Bearer token.
    pub token: String,
}

/// The global master pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalEndpoints {
    /// Both members.
    pub members: [ServerEndpoint; 2],
    /// Name of the member that was the writer when the file was written.
    pub writer: String,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEndpoints {
    /// The shard's name.
    pub name: String,
    /// Both members.
    pub members: [ServerEndpoint; 2],
    /// Its replicas.
    pub replicas: Vec<ServerEndpoint>,
    /// Name of the member that was the writer when the file was written.
    pub writer: String,
}

/// One database server, with an account that may do everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerEndpoint {
    /// The server's name, unique in the playground.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// An account with all privileges.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Process id when the file was written.
    pub pid: u32,
}

impl Endpoints {
    /// Reads `dir/endpoints.json`; [`Error::None`] if there is none.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("endpoints.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::None { dir: dir.to_owned() });
            }
            Err(e) => return Err(e).at(path),
        };
        serde_json::from_slice(&text).map_err(|e| Error::State { path, detail: e.to_string() })
    }

    /// Writes `dir/endpoints.json` in one step, readable by its owner only.
    pub fn save(&self, dir: &Path) -> Result<()> {
        files::write_json(&dir.join("endpoints.json"), self)
    }

    /// All database servers: the global pair, then each shard's members and replicas.
    pub fn servers(&self) -> impl Iterator<Item = &ServerEndpoint> {
        self.global.members.iter().chain(self.shards.iter().flat_map(|s| s.members.iter().chain(&s.replicas)))
    }
}
