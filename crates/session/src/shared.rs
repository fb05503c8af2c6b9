//! What all sessions of a proxy share, and what a new state of the deployment changes in it.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use usher_backend::{Account, BackendMetrics, Monitor, Pools, Settings};
use usher_config::{Compression, Limits, Network};
use usher_directory::rows::{AccountRow, KeyType, TableKind, TableRow, TableState};
use usher_directory::{BoxFuture, Directory, EntityState, Hooks, State};
use usher_sql::{Catalog, KeyType as SqlKeyType, Sharded, Table, TextRule};
use usher_topology::{ServerId, ShardState};
use usher_wire::Caps;
use usher_wire::auth::ServerKey;
use usher_wire::proxy_header::{self, Front};
use usher_wire::sqlerr::{ErrorId, Failure};

use crate::account::Accounts;
use crate::gate::Gate;
use crate::in_flight::{InFlight, Scope};
use crate::metrics::SessionMetrics;
use crate::peers::Peers;
use crate::plans::Plans;
use crate::programs::{self, Programs};
use crate::schemas::{self, Schemas};
use crate::sessions::Sessions;
use crate::tls::ClientTls;
use crate::watermark::Watermarks;
use crate::xa::Branches;

/// What a proxy is set up with.
#[derive(Debug)]
pub struct Setup {
    /// Limits.
    pub limits: Limits,
    /// Who may log in.
    pub accounts: Accounts,
    /// This proxy's account on every server.
    pub backend: Account,
    /// TLS towards clients.
    pub tls: Option<Arc<ClientTls>>,
    /// What clients may compress with.
    pub compression: Compression,
    /// Whose PROXY protocol headers are believed.
    pub balancers: Balancers,
    /// For passwords of clients without TLS.
    pub key: Arc<ServerKey>,
    /// The version told to clients.
    pub server_version: String,
    /// The machine's name and the port, as clients see them in `@@hostname` and `@@port`.
    pub address: (String, u16),
    /// The proxy's name.
    pub proxy_id: String,
    /// By which proxies trust each other's calls; empty trusts none.
    pub token: String,
    /// Counters of sessions.
    pub metrics: SessionMetrics,
    /// Counters of pools.
    pub backend_metrics: BackendMetrics,
}

/// Whether the proxy goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopping {
    /// It does.
    No,
    /// Sessions are told at their next command outside of a transaction.
    Gently,
    /// The time is up: sessions that wait for their client end.
    Now,
}

/// So many settings with which sessions begin are kept once: databases and character sets of different clients.
const BEGUN_WITH_MAX: usize = 16;

/// What all sessions of a proxy share.
pub struct Shared {
    pub(crate) limits: Limits,
    /// Who may log in.
    pub accounts: Accounts,
    pub(crate) tls: Option<Arc<ClientTls>>,
    /// Flags of the greeting.
    pub(crate) offered: Caps,
    pub(crate) balancers: Balancers,
    pub(crate) gate: Arc<Gate>,
    /// TLS handshakes that may be under way.
    pub(crate) handshakes: Semaphore,
    pub(crate) key: Arc<ServerKey>,
    pub(crate) server_version: String,
    /// What sessions have begun with lately.
    begun_with: Mutex<VecDeque<Arc<Settings>>>,
    pub(crate) hostname: String,
    pub(crate) port: u16,
    pub(crate) directory: Arc<Directory>,
    /// This proxy's account on every server.
    pub(crate) account: String,
    /// Connections to servers.
    pub pools: Pools,
    /// Health of servers.
    pub monitor: Monitor,
    pub(crate) plans: Plans,
    pub(crate) schemas: Schemas,
    pub(crate) programs: Programs,
    pub(crate) catalog: ArcSwap<Catalog>,
    pub(crate) in_flight: InFlight,
    pub(crate) sessions: Sessions,
    pub(crate) watermarks: Watermarks,
    pub(crate) branches: Arc<Branches>,
    pub(crate) held: Semaphore,
    pub(crate) metrics: SessionMetrics,
    pub(crate) stopping: watch::Sender<Stopping>,
    /// The same in a form that costs nothing to look at.
    is_stopping: AtomicBool,
    handed_over: AtomicBool,
    pub(crate) started: Instant,
    pub(crate) proxy_id: String,
    /// The other proxies.
    pub peers: Arc<Peers>,
    number: AtomicU8,
    next_id: AtomicU32,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// For a proxy whose directory has its first state; installs that state. Must be called on a runtime.
    #[must_use]
    pub fn new(setup: Setup, directory: Arc<Directory>) -> Arc<Self> {
        let limits = setup.limits;
        let (hostname, port) = setup.address;
        let pools = Pools::new(setup.backend.clone(), limits.clone(), setup.backend_metrics);
        let shared = Arc::new(Self {
            accounts: setup.accounts,
            offered: offered(setup.tls.is_some(), setup.compression),
            tls: setup.tls,
            balancers: setup.balancers,
            gate: Gate::new(&limits, setup.metrics.clone()),
            handshakes: Semaphore::new(limits.tls_handshakes_max),
            key: setup.key,
            server_version: setup.server_version,
            begun_with: Mutex::default(),
            hostname,
            port,
            account: setup.backend.user.clone(),
            monitor: Monitor::new(setup.backend, limits.clone(), pools.cutter()),
            pools,
            plans: Plans::new(limits.plans_max),
            schemas: Schemas::default(),
            programs: Programs::default(),
            catalog: ArcSwap::default(),
            in_flight: InFlight::default(),
            sessions: Sessions::default(),
            watermarks: Watermarks::new(limits.watermarks_max, limits.lag_ms_max, limits.probe_ms),
            branches: Arc::default(),
            held: Semaphore::new(limits.held_max),
            metrics: setup.metrics,
            stopping: watch::channel(Stopping::No).0,
            is_stopping: AtomicBool::default(),
            handed_over: AtomicBool::default(),
            started: Instant::now(),
            peers: Arc::new(Peers::new(
                directory.global().clone(),
                &setup.token,
                Some(&setup.proxy_id),
                limits.peer_ms,
            )),
            proxy_id: setup.proxy_id,
            number: AtomicU8::default(),
            next_id: AtomicU32::new(1),
            directory,
            limits,
        });
        shared.install(&shared.directory.state());
        tokio::spawn(sweep(Arc::downgrade(&shared)));
        tokio::spawn(programs::watch(Arc::downgrade(&shared)));
        tokio::spawn(schemas::watch(Arc::downgrade(&shared), shared.limits.probe_ms));
        shared
    }

    fn install(&self, state: &State) {
        self.pools.install(&state.topology);
        self.monitor.install(&state.topology);
        self.catalog.store(Arc::new(catalog(state.version, &state.tables)));
    }

    /// A connection id that no other session of the deployment has: eight bits of the proxy, the rest counted.
    pub(crate) fn connection_id(&self) -> u32 {
        let count = self.next_id.fetch_add(1, Ordering::Relaxed) & 0x00ff_ffff;
        u32::from(self.number.load(Ordering::Relaxed)) << 24 | count.max(1)
    }

    /// The same settings, kept once for all sessions that begin with them.
    pub(crate) fn once(&self, settings: Arc<Settings>) -> Arc<Settings> {
        let mut begun_with = self.begun_with.lock();
        if let Some(same) = begun_with.iter().find(|other| other.same(&settings)) {
            return Arc::clone(same);
        }
        begun_with.truncate(BEGUN_WITH_MAX - 1);
        begun_with.push_front(Arc::clone(&settings));
        settings
    }

    pub(crate) fn stop(&self, how: Stopping) {
        self.is_stopping.store(how != Stopping::No, Ordering::Release);
        self.stopping.send_replace(how);
    }

    #[inline]
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// A successor accepts the clients from now on.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Release);
    }

    /// Whether a successor accepts the clients.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// Whether the PROXY protocol header of a connection from there is believed, and whether there must be one.
    #[must_use]
    pub fn header_rule(&self, peer: IpAddr) -> Option<HeaderRule> {
        self.balancers.rule(peer)
    }

    /// TLS towards clients, if there is any.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<ClientTls>> {
        self.tls.as_ref()
    }

    /// Reads the files of TLS anew.
    ///
    /// # Errors
    /// As [`ClientTls::reload`].
    pub fn reload_tls(&self) -> std::io::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        self.metrics.tls_reloads.inc();
        tls.reload().inspect_err(|_| {
            self.metrics.tls_reloads_failed.inc();
        })
    }

    /// Whether new clients can be served: the directory has a state.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.directory.state().version > 0
    }
}

/// Flags of the greeting.
fn offered(tls: bool, compression: Compression) -> Caps {
    let packed = match compression {
        Compression::All => Caps::COMPRESS | Caps::ZSTD,
        Compression::Zlib => Caps::COMPRESS,
        Compression::Zstd => Caps::ZSTD,
        Compression::Off => Caps::default(),
    };
    Caps::offer(tls) | packed
}

/// Whose PROXY protocol headers are believed.
#[derive(Debug, Clone, Default)]
pub struct Balancers {
    /// Their addresses.
    pub networks: Vec<Network>,
    /// Whether they must send one.
    pub required: bool,
}

impl Balancers {
    /// Whether a header from there is believed, and whether there must be one.
    pub(crate) fn rule(&self, peer: IpAddr) -> Option<HeaderRule> {
        let believed = self.networks.iter().any(|network| network.contains(peer));
        believed.then_some(if self.required { HeaderRule::Required } else { HeaderRule::Optional })
    }
}

/// Whether a balancer must send a PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderRule {
    /// It may.
    Optional,
    /// It must.
    Required,
}

/// What stands at the front of a balancer's connection, by the rule for it.
#[derive(Debug)]
pub enum Introduced {
    /// At least so many more bytes are needed to tell.
    Missing(usize),
    /// Who the client is, if that is said, and how many bytes say it.
    Client {
        /// Of the header; 0 without one.
        len: usize,
        /// The client's address.
        client: Option<SocketAddr>,
    },
    /// The connection is not to be served.
    Refused(Failure),
}

impl HeaderRule {
    /// Reads what has come of a connection so far.
    #[must_use]
    pub fn read(self, buf: &[u8]) -> Introduced {
        let refused = |why: String| Introduced::Refused(Failure::new(ErrorId::ProxyHeader).note(why));
        match proxy_header::read(buf) {
            Ok(Front::Missing(lacking)) => Introduced::Missing(lacking),
            Ok(Front::Header { len, client }) => Introduced::Client { len, client },
            Ok(Front::Absent) if self == Self::Optional => Introduced::Client { len: 0, client: None },
            Ok(Front::Absent) => refused("proxy.proxy_protocol_required asks for one".to_owned()),
            Err(error) => refused(error.to_string()),
        }
    }
}

/// Forgets watermarks that all copies have reached.
async fn sweep(shared: std::sync::Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        shared.watermarks.sweep(&shared.directory.state().topology, &shared.monitor.health());
        let pause = Duration::from_millis(shared.limits.probe_ms * 2);
        drop(shared);
        tokio::time::sleep(pause).await;
    }
}

/// What sessions do when the deployment changes.
#[derive(Debug, Clone)]
pub struct SessionHooks(pub Arc<Shared>);

impl Hooks for SessionHooks {
    fn installed(&self, old: &Arc<State>, new: &Arc<State>) {
        let shared = &self.0;
        shared.pools.install(&new.topology);
        shared.monitor.install(&new.topology);
        if old.tables != new.tables {
            shared.catalog.store(Arc::new(catalog(new.version, &new.tables)));
        }
    }

    fn drain(&self, old: Arc<State>, new: Arc<State>) -> BoxFuture<'static, ()> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let mut scope = scope(&old, &new);
            // The newest rather than the new state's: writes planned from now on have it, so the wait ends.
            scope.catalog = (old.tables != new.tables).then(|| shared.catalog.load().version());
            if !scope.is_empty() {
                shared.in_flight.drained(new.version, &scope).await;
            }
        })
    }

    fn revoked(&self) {
        self.0.pools.shut_out();
    }

    fn registered(&self, state: &Arc<State>, barred: &[ServerId]) {
        self.0.install(state);
        self.0.pools.reopen(barred);
    }

    fn unbarred(&self, server: ServerId) {
        self.0.pools.unbar(server);
    }

    fn numbered(&self, number: u8) {
        self.0.number.store(number, Ordering::Relaxed);
    }

    fn accounts(&self, accounts: Vec<AccountRow>) {
        let shared = &self.0;
        shared.accounts.install(&accounts);
        // Those that are at work see it before their next command.
        shared.sessions.end_where(|account| shared.accounts.named(account.as_bytes()).is_none());
    }
}

/// What began under the old state and must end before the new one counts as seen: writes of users whose state became
/// another, and of shards that no longer take writes or take them elsewhere.
fn scope(old: &State, new: &State) -> Scope {
    let mut keys = HashSet::new();
    for (key, moving) in new.moving.iter() {
        if moving.located.state != EntityState::Active
            && old.moving.get(key).is_none_or(|before| before.located != moving.located)
        {
            keys.insert(key.clone());
        }
    }
    let changed = new.topology.shards.iter().filter(|shard| {
        let before = old.topology.shard(shard.id);
        shard.state != ShardState::Rw
            || before.is_some_and(|before| (before.writer, before.epoch) != (shard.writer, shard.epoch))
    });
    Scope { keys, shards: changed.map(|shard| shard.id).collect(), catalog: None }
}

fn catalog(version: u64, rows: &[TableRow]) -> Catalog {
    let mut catalog = Catalog::new(version, false);
    for row in rows {
        let entry = match (row.kind, &row.key_column, row.key_type) {
            (TableKind::Sharded, Some(key_column), Some(key_type)) => Table::Sharded(Sharded {
                key_column: key_column.clone(),
                key_type: sql_key_type(key_type),
                sequence: row.sequence_column.clone(),
                columns: row.columns.clone(),
            }),
            (TableKind::Reference, ..) => Table::Reference { columns: row.columns.clone() },
            _ => Table::Unsharded,
        };
        match row.state {
            TableState::Ready => catalog.insert(&row.schema, &row.name, entry),
            TableState::Creating => catalog.insert_creating(&row.schema, &row.name, entry),
        }
    }
    catalog
}

fn sql_key_type(key_type: KeyType) -> SqlKeyType {
    match key_type {
        KeyType::Int => SqlKeyType::BIGINT,
        KeyType::Text => SqlKeyType::Text(TextRule::BINARY),
        // The catalog keeps what matters of a collation: case and trailing spaces do not count.
        KeyType::TextCi => SqlKeyType::Text(TextRule { fold_case: true, pad: true, ascii_only: true }),
    }
}
