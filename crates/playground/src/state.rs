//! `state.json`: what the playground is made of; written before anything is started, so that a
//! half-finished `up` can be taken up again and a crashed process be told from one that never was.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};

use crate::error::{AtPath, Error, Result};
use crate::ports::Ports;
use crate::process::Process;
use crate::{Options, Server, files};

/// How many backend accounts for proxies each server has: `usher_px1` to `usher_px4`.
pub(crate) const PROXY_ACCOUNTS: usize = 4;
/// Length of generated passwords; letters and digits only, so they need no quoting anywhere.
const PASSWORD_CHARS: usize = 24;
/// The pair that holds the directory.
pub(crate) const GLOBAL: &str = "global";
/// GTID domain of the global pair; shard number n has domain `GLOBAL_DOMAIN + n`.
const GLOBAL_DOMAIN: u32 = 1;
/// Server ids of shard number n start here times n.
const IDS_PER_PAIR: u32 = 100;

/// Everything that is remembered about a playground.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) server: Server,
    pub(crate) semi_sync_timeout_ms: u64,
    pub(crate) secrets: Secrets,
    pub(crate) servers: Vec<Node>,
    pub(crate) memcached: Vec<Service>,
    pub(crate) proxy_port: u16,
    pub(crate) http_port: u16,
    pub(crate) admin_port: u16,
    pub(crate) controller_port: u16,
    /// Writer of each pair, as last known here; the topology in the global master is the truth once it exists.
    pub(crate) writers: BTreeMap<String, String>,
    /// Pairs whose replication has been set up completely once.
    pub(crate) ready_pairs: Vec<String>,
    /// What was started, by name.
    pub(crate) processes: BTreeMap<String, Process>,
}

/// Generated passwords.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Secrets {
    pub(crate) admin: String,
    pub(crate) replication: String,
    pub(crate) proxies: Vec<String>,
    pub(crate) app: String,

    pub(crate) http_token: String,
}

/// A process that only has a name and a port.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// One database server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// The pair that it is a member of or a replica behind: `global`, `s1`, ...
    pub(crate) pair: String,
    pub(crate) is_replica: bool,
    pub(crate) port: u16,
    pub(crate) server_id: u32,
    /// MariaDB's GTID domain, the same for all servers of a pair.
    pub(crate) domain: u32,
    /// 1 or 2: which of the two interleaved AUTO_INCREMENT series this server would use.
    pub(crate) offset: u32,
}

/// The servers of one pair.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) members: [Node; 2],
    pub(crate) replicas: Vec<Node>,
    pub(crate) writer: Node,
}

impl Pair {
    /// The member that is not the writer.
    pub(crate) fn standby(&self) -> &Node {
        let [a, b] = &self.members;
        if a.name == self.writer.name { b } else { a }
    }

    /// The standby and the replicas.
    pub(crate) fn followers(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(self.standby()).chain(&self.replicas)
    }
}

impl State {
    /// The folder's state; `None` if it holds no playground.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>> {
        let path = file(dir);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|e| Error::State { path, detail: e.to_string() }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).at(path),
        }
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        files::write_json(&file(dir), self)
    }

    /// A new playground's state, or the folder's with what the options ask for in addition.
    pub(crate) fn plan(found: Option<Self>, options: &Options) -> Result<Self> {
        let (mut state, is_new) = match found {
            Some(state) => (state, false),
            None => (Self::empty(options), true),
        };
        state.refuse_change(options)?;
        let mut ports = Ports::new(options.port_base, state.promised_ports());
        state.add_pair(&mut ports, GLOBAL, 0, 0)?;
        for number in 1..=u32::from(options.shards) {
            state.add_pair(&mut ports, &format!("s{number}"), number, u32::from(options.replicas))?;
        }
        if is_new {
            for name in ["mc1", "mc2"] {
                state.memcached.push(Service { name: name.to_owned(), port: ports.take(name)? });
            }
            state.proxy_port = ports.take("proxy")?;
            state.http_port = ports.take("proxy http")?;
            state.admin_port = ports.take("proxy admin")?;
            state.controller_port = ports.take("controller")?;
        }
        Ok(state)
    }

    fn empty(options: &Options) -> Self {
        Self {
            server: options.server,
            semi_sync_timeout_ms: options.semi_sync_timeout_ms,
            secrets: Secrets::generate(),
            servers: Vec::new(),
            memcached: Vec::new(),
            proxy_port: 0,
            http_port: 0,
            admin_port: 0,
            controller_port: 0,
            writers: BTreeMap::new(),
            ready_pairs: Vec::new(),
            processes: BTreeMap::new(),
        }
    }

    /// A playground may grow; it does not shrink or change its kind.
    fn refuse_change(&self, options: &Options) -> Result<()> {
        if self.server != options.server {
            return Err(Error::Option(format!(
                "this folder's servers are {}; choose another --dir for {}",
                self.server, options.server
            )));
        }
        let (shards, replicas) = self.size();
        if usize::from(options.shards) < shards {
            return Err(Error::Option(format!("this folder has {shards} shards; it cannot shrink to fewer")));
        }
        if usize::from(options.replicas) < replicas {
            return Err(Error::Option(format!(
                "this folder has {replicas} replicas a shard; it cannot shrink to fewer"
            )));
        }
        Ok(())
    }

    /// Shards, and replicas of each.
    pub(crate) fn size(&self) -> (usize, usize) {
        let replicas = self.servers.iter().filter(|n| n.pair == "s1" && n.is_replica).count();
        (self.pair_names().len().saturating_sub(1), replicas)
    }

    fn add_pair(&mut self, ports: &mut Ports, pair: &str, number: u32, replicas: u32) -> Result<()> {
        let prefix = if pair == GLOBAL { "g" } else { pair };
        let members = if pair == GLOBAL { ["1", "2"] } else { ["a", "b"] };
        let names = members
            .iter()
            .map(|m| (format!("{prefix}{m}"), false))
            .chain((1..=replicas).map(|r| (format!("{prefix}r{r}"), true)));
        for (position, (name, is_replica)) in (1u32..).zip(names) {
            if self.servers.iter().any(|n| n.name == name) {
                continue;
            }
            let port = ports.take(&name)?;
            self.servers.push(Node {
                name,
                pair: pair.to_owned(),
                is_replica,
                port,
                server_id: number * IDS_PER_PAIR + position,
                domain: GLOBAL_DOMAIN + number,
                offset: if position == 2 { 2 } else { 1 },
            });
        }
        let first = format!("{prefix}{}", members[0]);
        self.writers.entry(pair.to_owned()).or_insert(first);
        Ok(())
    }

    fn promised_ports(&self) -> HashSet<u16> {
        let services = [self.proxy_port, self.http_port, self.admin_port, self.controller_port];
        let servers = self.servers.iter().map(|n| n.port);
        servers.chain(self.memcached.iter().map(|m| m.port)).chain(services).filter(|p| *p != 0).collect()
    }

    /// The pairs' names: `global`, then the shards in the order of their numbers.
    pub(crate) fn pair_names(&self) -> Vec<&str> {
        let mut names: Vec<(u32, &str)> = self.servers.iter().map(|n| (n.domain, n.pair.as_str())).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(|(_, name)| name).collect()
    }

    /// All pairs with their servers and present writers.
    pub(crate) fn pairs(&self) -> Result<Vec<Pair>> {
        self.pair_names().into_iter().map(|name| self.pair(name)).collect()
    }

    fn pair(&self, name: &str) -> Result<Pair> {
        let broken =
            || Error::State { path: PathBuf::from("state.json"), detail: format!("pair {name} is broken") };
        let of_pair = || self.servers.iter().filter(|n| n.pair == name);
        let members: Vec<Node> = of_pair().filter(|n| !n.is_replica).cloned().collect();
        let writer = self.writers.get(name).ok_or_else(broken)?;
        let writer = members.iter().find(|m| m.name == *writer).ok_or_else(broken)?.clone();
        Ok(Pair {
            name: name.to_owned(),
            members: members.try_into().map_err(|_| broken())?,
            replicas: of_pair().filter(|n| n.is_replica).cloned().collect(),
            writer,
        })
    }
}

impl Secrets {
    fn generate() -> Self {
        let password =
            || rand::rng().sample_iter(Alphanumeric).take(PASSWORD_CHARS).map(char::from).collect::<String>();
        Self {
            admin: password(),
            replication: password(),
            proxies: (0..PROXY_ACCOUNTS).map(|_| password()).collect(),
            app: password(),

            http_token: password(),
        }
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("state.json")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options() -> Options {
        Options::new("unused")
    }

    #[test]
    fn layout_of_the_default() {
        let state = State::plan(None, &options()).unwrap();
        let names: Vec<&str> = state.servers.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["g1", "g2", "s1a", "s1b", "s1r1", "s2a", "s2b", "s2r1"]);
        let ids: HashSet<u32> = state.servers.iter().map(|n| n.server_id).collect();
        assert_eq!(ids.len(), 8);
        let pairs = state.pairs().unwrap();
        assert_eq!(pairs.len(), 3);
        assert_eq!((pairs[1].writer.name.as_str(), pairs[1].standby().name.as_str()), ("s1a", "s1b"));
        assert!(pairs.iter().all(|p| p.followers().all(|f| f.domain == p.writer.domain)));
    }

    #[test]
    fn grows_but_neither_shrinks_nor_changes_kind() {
        let state = State::plan(None, &options()).unwrap();
        let grown = State::plan(Some(state.clone()), &Options { shards: 3, ..options() }).unwrap();
        assert_eq!(grown.servers.len(), 11);
        assert_eq!(grown.servers[..8].iter().map(|n| n.port).collect::<Vec<_>>(), {
            state.servers.iter().map(|n| n.port).collect::<Vec<_>>()
        });
        for other in [Options { shards: 1, ..options() }, Options { server: Server::Mysql, ..options() }] {
            let refused = State::plan(Some(state.clone()), &other).unwrap_err();
            assert_eq!(refused.id(), "playground-option");
        }
    }

    #[test]
    fn a_folder_is_completed_as_what_it_is() {
        let folder = std::env::temp_dir().join(format!("usher-found-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let empty = Options::found(&folder).unwrap();
        assert_eq!((empty.shards, empty.replicas, empty.server), (2, 1, Server::Mariadb));
        let made = Options { shards: 3, replicas: 0, server: Server::Mysql, ..empty };
        State::plan(None, &made).unwrap().save(&folder).unwrap();
        let found = Options::found(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((found.shards, found.replicas, found.server), (3, 0, Server::Mysql));
    }

    #[test]
    fn ten_shards_stay_in_order() {
        let state = State::plan(None, &Options { shards: 11, ..options() }).unwrap();
        assert_eq!(state.pair_names()[9..], ["s9", "s10", "s11"]);
    }
}
