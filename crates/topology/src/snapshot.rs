//! The topology as one immutable value, read once per statement.

use serde::{Deserialize, Serialize};

use crate::{Epoch, ServerId, ShardId};

/// A server's part in its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// One of the two masters of the pair; the shard says which one is the writer.
    Member,
    /// A read-only copy behind the pair.
    Replica,
}

/// One MySQL or MariaDB server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Unique in the deployment.
    pub id: ServerId,
    /// What people call it.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Member or replica.
    pub role: Role,
}

impl Server {
    /// `host:port`, as messages name a server.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// What a shard may be asked to do at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// Reads and writes.
    Rw,
    /// A flip is under way: new writes are held.
    Switching,
    /// Reads only, by an operator's wish.
    Ro,
    /// The writer is gone and no other has been promoted yet: new writes are held.
    Down,
}

/// One master-master pair and its replicas; the global master is [`ShardId::GLOBAL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its number.
    pub id: ShardId,
    /// What people call it.
    pub name: String,
    /// What it may be asked to do.
    pub state: ShardState,
    /// Grows by one with each flip.
    pub epoch: Epoch,
    /// The member that takes writes.
    pub writer: ServerId,
    /// Share of new users; 0 takes none.
    pub weight: u32,
    /// Members first, then replicas.
    pub servers: Vec<Server>,
}

impl Shard {
    /// The server of that number, if it belongs to this shard.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        self.servers.iter().find(|server| server.id == id)
    }

    /// The server of that name, if it belongs to this shard.
    #[must_use]
    pub fn server_named(&self, name: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.name == name)
    }

    /// The writer's row; `None` only while the rows contradict each other.
    #[must_use]
    pub fn writer(&self) -> Option<&Server> {
        self.server(self.writer)
    }

    /// The member that is not the writer.
    #[must_use]
    pub fn standby(&self) -> Option<&Server> {
        self.members().find(|server| server.id != self.writer)
    }

    /// Both masters.
    pub fn members(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.role == Role::Member)
    }

    /// The read-only copies.
    pub fn replicas(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.role == Role::Replica)
    }
}

/// All shards and the global master at one version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Topology {
    /// Ordered by id, the global master first.
    pub shards: Vec<Shard>,
}

impl Topology {
    /// The shard of that number.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        // Ids are dense in practice; the search is for deployments that have dropped a shard.
        match self.shards.get(usize::from(id.0)) {
            Some(shard) if shard.id == id => Some(shard),
            _ => self.shards.iter().find(|shard| shard.id == id),
        }
    }

    /// The shard of that name.
    #[must_use]
    pub fn shard_named(&self, name: &str) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.name == name)
    }

    /// The shards that hold users: all but the global master.
    pub fn user_shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter(|shard| !shard.id.is_global())
    }

    /// The server of that number and its shard.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<(&Shard, &Server)> {
        self.shards.iter().find_map(|shard| shard.server(id).map(|server| (shard, server)))
    }
}
