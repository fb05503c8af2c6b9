//! A playground that is gone when its test ends.

use std::path::{Path, PathBuf};

use usher_config::Config;
use usher_playground::{Endpoints, Options, Playground, Server, ShardEndpoints, TestFolder};

use crate::proxy::Proxy;
use crate::usher_binary;

/// Servers in a folder of their own.
#[derive(Debug)]
pub struct Bed {
    folder: TestFolder,
    /// Where everything listens.
    pub endpoints: Endpoints,
    options: (u16, u16, Server),
}

impl Bed {
    /// Starts the servers, without any proxy.
    pub async fn up(name: &str, shards: u16, replicas: u16) -> Self {
        Self::up_with(name, shards, replicas, Server::Mariadb, false).await
    }

    /// Starts the servers and, if asked, proxy and controller as `usher playground up` does.
    pub async fn up_with(name: &str, shards: u16, replicas: u16, server: Server, proxy: bool) -> Self {
        let parent = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp");
        std::fs::create_dir_all(&parent).unwrap();
        let folder = TestFolder::new(&parent.canonicalize().unwrap(), name);
        let options = (shards, replicas, server);
        let endpoints = Playground::up(with(folder.path(), options, proxy)).await.unwrap();
        Self { folder, endpoints, options }
    }

    /// Starts what has ended again.
    pub async fn up_again(&mut self) {
        self.endpoints = Playground::up(with(self.dir(), self.options, false)).await.unwrap();
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration that the playground has written.
    pub fn config_file(&self) -> PathBuf {
        self.dir().join("usher.toml")
    }

    /// The same as values.
    pub fn config(&self) -> Config {
        usher_config::load(&self.config_file()).unwrap()
    }

    /// The password of the servers' account for proxy number `number`, from 1.
    pub fn proxy_password(&self, number: u8) -> String {
        let state = std::fs::read(self.dir().join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        state["secrets"]["proxies"][usize::from(number) - 1].as_str().unwrap().to_owned()
    }

    /// A shard by its name.
    pub fn shard(&self, name: &str) -> &ShardEndpoints {
        self.endpoints.shards.iter().find(|shard| shard.name == name).unwrap()
    }

    /// Process ids of a shard's members and replicas or of the global pair, by the server's name.
    pub fn pid(&self, server: &str) -> u32 {
        self.endpoints.servers().find(|found| found.name == server).unwrap().pid
    }

    /// Process ids of both memcached.
    pub fn memcached_pids(&self) -> Vec<u32> {
        let state = std::fs::read(self.dir().join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        let pid = |name: &str| u32::try_from(state["processes"][name]["pid"].as_u64().unwrap()).unwrap();
        vec![pid("mc1"), pid("mc2")]
    }

    /// Starts proxy number `number`, from 1, with its own ports and account, and a changed configuration.
    pub async fn proxy(&self, number: u8, change: impl FnOnce(&mut Config)) -> Proxy {
        Proxy::start(self, number, change).await
    }
}

fn with(dir: &Path, (shards, replicas, server): (u16, u16, Server), proxy: bool) -> Options {
    let usher_binary = proxy.then(|| usher_binary().to_owned());
    Options { shards, replicas, server, proxy, usher_binary, ..Options::new(dir) }
}
