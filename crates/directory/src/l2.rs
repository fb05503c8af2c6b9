//! The second-level cache: memcached, each entry on two servers. Nothing outside this file knows the client library.
//!
//! A value is written only under the token of the miss that led to it: a deletion in between voids the token, so an
//! answer read before a move's commit is never stored after the mover has deleted the entry. A server that fails or
//! is late is left alone, and a task of its own finds out when it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use memcache::exp::{AsyncMetaClient, GetResult, Ttl};
use tokio::sync::OnceCell;
use usher_config::{Limits, Memcached};
use usher_topology::{Generation, Key, ShardId};

use crate::{EntityState, Located, Metrics};

/// Servers that hold each entry.
const COPIES: usize = 2;
/// How long the token of a miss may be used, in seconds: longer than any look-up takes.
const TOKEN_S: u32 = 5;
/// Idle connections kept to one server.
const IDLE_MAX: usize = 32;
/// First and largest wait before a server that failed is tried again.
const PROBE_FIRST: Duration = Duration::from_millis(100);
const PROBE_LAST: Duration = Duration::from_secs(5);

/// All memcached servers; none configured makes every look-up a miss without tokens.
#[derive(Debug)]
pub(crate) struct L2 {
    nodes: Vec<Arc<Node>>,
    ttl_s: u32,
    metrics: Metrics,
}

struct Node {
    address: String,
    client: OnceCell<AsyncMetaClient>,
    down: AtomicBool,
    patience: Duration,
    metrics: Metrics,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("address", &self.address)
            .field("down", &self.down)
            .finish_non_exhaustive()
    }
}

/// Which servers a value may be written to, and the token of each.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Vec<(Arc<Node>, u64)>);

impl L2 {
    pub(crate) fn new(config: &Memcached, limits: &Limits, metrics: Metrics) -> Self {
        let nodes = config.servers.iter().map(|address| {
            Arc::new(Node {
                address: address.clone(),
                client: OnceCell::new(),
                down: AtomicBool::new(false),
                patience: Duration::from_millis(limits.memcached_ms),
                metrics: metrics.clone(),
            })
        });
        Self { nodes: nodes.collect(), ttl_s: limits.memcached_ttl_s, metrics }
    }

    /// The entry, from the first of its servers that has one which `allow` believes; else the tokens to fill it.
    pub(crate) async fn find(
        &self,
        key: &Key,
        allow: impl Fn(Generation) -> bool,
    ) -> Result<Located, Tokens> {
        let mut tokens = Tokens::default();
        if self.nodes.is_empty() {
            return Err(tokens);
        }
        let (text, name) = (key.to_string(), entry_name(key));
        for node in self.nodes_of(&name) {
            let Some(result) = node.get(&name).await else { continue };
            if result.won_lease() && result.value.is_none() {
                tokens.0.extend(result.item.cas.map(|cas| (Arc::clone(node), cas)));
                continue;
            }
            let Some(value) = result.value else { continue };
            match decode(&value, &text) {
                // A copy found on the second server is not written to the first: between the two reads a deletion may
                // have passed the first server and not yet the second.
                Some(located) if allow(located.generation) => {
                    self.metrics.l2_hits.inc();
                    return Ok(located);
                }
                _ => {
                    self.metrics.l2_stale.inc();
                    node.delete(&name).await;
                }
            }
        }
        self.metrics.l2_misses.inc();
        Err(tokens)
    }

    /// Stores what the global master's writer has said, where the miss's tokens still hold. Users in a move are not
    /// stored.
    pub(crate) async fn fill(&self, key: &Key, located: &Located, tokens: Tokens) {
        if located.state != EntityState::Active || located.generation.0 == 0 {
            return;
        }
        let (name, value) = (entry_name(key), encode(key, located));
        join_all(tokens.0.iter().map(|(node, cas)| node.set(&name, &value, *cas, self.ttl_s))).await;
    }

    /// Deletes the entry; returns the servers that could not be told, whose copies then live until they expire.
    pub(crate) async fn forget(&self, key: &Key) -> Vec<String> {
        let name = entry_name(key);
        let nodes: Vec<_> = self.nodes_of(&name).collect();
        let done = join_all(nodes.iter().map(|node| node.delete(&name))).await;
        nodes.iter().zip(done).filter(|(_, done)| !done).map(|(node, _)| node.address.clone()).collect()
    }

    /// The servers of an entry by rendezvous hashing: as servers come and go only their own entries change places.
    fn nodes_of(&self, name: &str) -> impl Iterator<Item = &Arc<Node>> {
        let mut ranked: Vec<(u64, &Arc<Node>)> =
            self.nodes.iter().map(|node| (rank(&node.address, name), node)).collect();
        ranked.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.address.cmp(&b.1.address)));
        ranked.into_iter().take(COPIES).map(|(_, node)| node)
    }
}

impl Node {
    async fn get(self: &Arc<Self>, name: &str) -> Option<GetResult> {
        self.exchange(async |client| client.get(name).lease_ttl(TOKEN_S).send().await).await
    }

    async fn set(self: &Arc<Self>, name: &str, value: &str, cas: u64, ttl_s: u32) {
        let ttl = Ttl::from(Duration::from_secs(u64::from(ttl_s.max(1))));
        self.exchange(async |client| client.set(name, value).ttl(ttl).compare_cas(cas).send().await).await;
    }

    async fn delete(self: &Arc<Self>, name: &str) -> bool {
        self.exchange(async |client| client.delete(name).send().await).await.is_some()
    }

    /// One exchange within the limit, unless the server is down; a failure makes it so.
    async fn exchange<T>(
        self: &Arc<Self>,
        ask: impl AsyncFnOnce(&AsyncMetaClient) -> memcache::exp::Result<T>,
    ) -> Option<T> {
        if self.down.load(Ordering::Acquire) {
            return None;
        }
        let whole = async {
            let client = self.client.get_or_try_init(|| self.connect()).await?;
            ask(client).await
        };
        match tokio::time::timeout(self.patience, whole).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => self.fail(&error.to_string()),
            Err(_) => self.fail("no answer in time"),
        }
        None
    }

    async fn connect(&self) -> memcache::exp::Result<AsyncMetaClient> {
        AsyncMetaClient::builder()
            .max_idle(IDLE_MAX)
            .connect_timeout(Some(self.patience))
            .io_timeout(Some(self.patience))
            .connect_async(self.address.clone())
            .await
    }

    fn fail(self: &Arc<Self>, reason: &str) {
        self.metrics.l2_failures.inc();
        if self.down.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(server = %self.address, reason, "memcached server left alone");
        self.metrics.l2_servers_down.inc();
        let node = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut wait = PROBE_FIRST;
            loop {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(PROBE_LAST);
                let Some(node) = node.upgrade() else { return };
                if node.probe().await {
                    node.down.store(false, Ordering::Release);
                    node.metrics.l2_servers_down.dec();
                    tracing::info!(server = %node.address, "memcached server is back");
                    return;
                }
            }
        });
    }

    async fn probe(&self) -> bool {
        let whole = async {
            let client = self.client.get_or_try_init(|| self.connect()).await?;
            client.get("usher:probe").send().await
        };
        matches!(tokio::time::timeout(self.patience, whole).await, Ok(Ok(_)))
    }
}

/// Names that memcached would not take, for their bytes, are replaced by a hash; the value holds the key itself.
fn entry_name(key: &Key) -> String {
    let text = key.to_string();
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return format!("usher:user:{text}");
    }
    format!("usher:user#{:016x}{:016x}", hash(1, text.as_bytes()), hash(2, text.as_bytes()))
}

fn encode(key: &Key, located: &Located) -> String {
    format!("1 {} {} {} {key}", located.shard, located.generation, located.own_gen)
}

fn decode(value: &[u8], key: &str) -> Option<Located> {
    let mut parts = std::str::from_utf8(value).ok()?.splitn(5, ' ');
    if parts.next()? != "1" {
        return None;
    }
    let located = Located {
        shard: ShardId(parts.next()?.parse().ok()?),
        generation: Generation(parts.next()?.parse().ok()?),
        own_gen: Generation(parts.next()?.parse().ok()?),
        state: EntityState::Active,
    };
    (parts.next()? == key).then_some(located)
}

fn rank(address: &str, name: &str) -> u64 {
    hash(hash(0, address.as_bytes()), name.as_bytes())
}

/// FNV-1a with a last mix, written out: all proxies of a deployment must agree on it, whatever they were built with.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = bytes.iter().fold(start, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;

    fn cache(servers: &[&str]) -> L2 {
        let config = Memcached { servers: servers.iter().map(|s| (*s).to_owned()).collect() };
        L2::new(&config, &Limits::default(), Metrics::default())
    }

    #[test]
    fn values_read_back_for_their_own_key_only() {
        let located = Located {
            shard: ShardId(3),
            generation: Generation(17),
            own_gen: Generation(4),
            state: EntityState::Active,
        };
        for key in [Key::Int(-5), Key::Text("two words".into()), Key::Text("Jürgen".into())] {
            let value = encode(&key, &located);
            assert_eq!(decode(value.as_bytes(), &key.to_string()), Some(located));
            assert_eq!(decode(value.as_bytes(), "another"), None);
            assert!(entry_name(&key).bytes().all(|byte| byte.is_ascii_graphic()));
        }
        assert_eq!(decode(b"2 3 17 4 -5", "-5"), None, "another format is no value");
        assert_eq!(decode(b"", "-5"), None);
    }

    #[test]
    fn entries_spread_evenly_and_stay_when_a_server_leaves() {
        let (all, fewer) = (cache(&["a:1", "b:1", "c:1"]), cache(&["a:1", "b:1"]));
        let mut counts: HashMap<String, u32> = HashMap::new();
        for id in 0..3000 {
            let name = entry_name(&Key::Int(id));
            let before: Vec<_> = all.nodes_of(&name).map(|node| node.address.clone()).collect();
            assert_eq!(before.len(), 2);
            assert_ne!(before[0], before[1]);
            *counts.entry(before[0].clone()).or_default() += 1;
            if !before.contains(&"c:1".to_owned()) {
                let after: Vec<_> = fewer.nodes_of(&name).map(|node| node.address.clone()).collect();
                assert_eq!(before, after);
            }
        }
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hash(0, b"usher"), hash(0, b"usher"));
        assert_eq!(hash(0, b""), 0xf52a_15e9_a9b5_e89b);
    }
}
