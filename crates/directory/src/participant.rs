//! A proxy's part in barriers: it registers, learns of versions, acknowledges them, and starts anew when revoked.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Value, params};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use usher_topology::{Generation, Key, Role, Server, ServerId};

use crate::columns::key_text;
use crate::global::is_on;
use crate::rows::{self, AccountRow};
use crate::{Directory, Error, Global, Result, State, accounts, numbers};

/// A boxed future, for traits that are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Drains under way at once; further versions are drained together.
const DRAINS_MAX: usize = 32;
/// How often the global master is polled, at least, while a cutover may come at any moment: writes wait for the last
/// proxy to hear of it.
const CUTOVER_POLL: Duration = Duration::from_millis(10);
const DRAIN_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How often a proxy says that it lives, at most; also how often it retries what a server was away for.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// Registrations that may be overtaken by a revocation before it is an error.
const ENROL_ATTEMPTS: usize = 5;
/// Users whose moves ended lately, as loaded at registration.
const RECENT_MAX: u32 = 100_000;

/// What the data path does as versions come. A proxy's statements run all the while.
pub trait Hooks: Send + Sync + 'static {
    /// `new` is the state from now on: [`Directory::state`] shows it already. Must not wait.
    fn installed(&self, old: &Arc<State>, new: &Arc<State>);

    /// Ends once everything has ended that was begun by a state older than `new` and that the difference concerns:
    /// transactions of users who entered the moving set or changed their state in it, and what goes to a shard whose
    /// writer, epoch or state changed. It may also end early when a later state has made the wait pointless. It runs
    /// in the background; later versions are seen meanwhile.
    fn drain(&self, old: Arc<State>, new: Arc<State>) -> BoxFuture<'static, ()>;

    /// This proxy has been shut out: its account is locked and its connections are killed. Drop every pooled
    /// connection and open none until [`Hooks::registered`]; statements wait or fail. A statement routed before must be
    /// routed anew ([`Directory::era`]).
    fn revoked(&self);

    /// The proxy is registered, at first or again, and may open connections, except to the servers `barred`: what an
    /// earlier life of this proxy left there could not be ended yet.
    fn registered(&self, state: &Arc<State>, barred: &[ServerId]);

    /// Connections to this server may be opened from now on.
    fn unbarred(&self, server: ServerId);

    /// The proxy's connection ids begin with this from now on.
    fn numbered(&self, number: u8);

    /// These are the accounts that may log in, beside those of the proxy's own file. Must not wait.
    fn accounts(&self, accounts: Vec<AccountRow>);
}

/// Who this proxy is.
#[derive(Debug, Clone)]
pub struct Registration {
    /// `proxy.id`, unique in the deployment.
    pub proxy_id: String,
    /// Random at each start.
    pub boot_id: u64,
    /// This proxy's own account on every server.
    pub account: String,
    /// Where its HTTP API is.
    pub http_address: Option<String>,
    /// What its connection ids begin with; 0 takes any that is free.
    pub number: u8,
}

/// The registered proxy.
pub struct Participant {
    directory: Arc<Directory>,
    who: Registration,
    hooks: Arc<dyn Hooks>,
    unreached: Arc<Unreached>,
    /// Version of the accounts that the hooks were told.
    accounts_version: AtomicU64,
}

/// Servers on which the account still has to be looked after.
#[derive(Debug, Default)]
struct Unreached {
    servers: Mutex<Vec<ServerId>>,
    /// Those of them where connections of an earlier life have to be ended first; barriers wait for that.
    left_over: Mutex<HashSet<ServerId>>,
    busy: AtomicBool,
}

impl std::fmt::Debug for Participant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Participant").field("who", &self.who).finish_non_exhaustive()
    }
}

/// What one poll shows.
struct Seen {
    version: u64,
    accounts_version: u64,
    read_only: bool,
    /// Boot id and whether revoked; none if the row is gone.
    row: Option<(u64, bool)>,
}

/// What a running participant remembers between polls.
struct Running {
    conn: Option<Conn>,
    drains: VecDeque<Drain>,
    /// The newest state whose drain has begun.
    draining: Arc<State>,
    drained: u64,
    /// What the row shows.
    told: (u64, u64),
    told_at: Instant,
}

struct Drain {
    version: u64,
    task: JoinHandle<()>,
}

impl Participant {
    /// Loads the state, writes the proxy's row as having acknowledged it, ends what an earlier process of the same
    /// account may have left running (on a server that does not answer, once it does), and unlocks the account where it was revoked. Only then may clients be served.
    ///
    /// # Errors
    /// [`Error::GlobalUnavailable`]: a proxy can't begin without the global master; call again.
    pub async fn register(
        directory: Arc<Directory>,
        who: Registration,
        hooks: Arc<dyn Hooks>,
    ) -> Result<Self> {
        let this =
            Self { directory, who, hooks, unreached: Arc::default(), accounts_version: AtomicU64::default() };
        this.load_accounts().await?;
        this.enrol().await?;
        Ok(this)
    }

    /// Polls, installs, drains and acknowledges until `stop` ends. While the global master is away the proxy works on
    /// by what it knows.
    ///
    /// # Errors
    /// [`Error::Replaced`] when another process has registered as the same proxy: stop serving.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Result<()> {
        let state = self.directory.state();
        let mut running = Running {
            conn: None,
            drains: VecDeque::new(),
            drained: state.version,
            draining: state,
            told: (0, 0),
            told_at: Instant::now(),
        };
        let mut ticks = tokio::time::interval(Duration::from_millis(self.directory.limits.poll_ms));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            let soon = self.directory.state().moving.has_cutovers();
            tokio::select! {
                () = &mut stop => return Ok(()),
                _ = ticks.tick() => {}
                () = tokio::time::sleep(CUTOVER_POLL), if soon => {}
                () = first_drain(&mut running.drains) => {}
            }
            match self.step(&mut running).await {
                Ok(()) => {
                    self.directory.metrics.global_up.set(1);
                }
                Err(error @ Error::Replaced { .. }) => return Err(error),
                Err(error) => {
                    running.conn = None;
                    if self.directory.metrics.global_up.set(0) == 1 {
                        tracing::warn!(%error, "the global master can't be polled; serving on by what is known");
                    }
                }
            }
        }
    }

    /// Takes the proxy's row away, so that no barrier waits for it. `ended`: all that it ran on servers has ended; else it
    /// is ended first, and the row stays where that cannot be done. It stays, too, if there is a server on which
    /// connections of an earlier life could not be ended.
    ///
    /// # Errors
    /// As [`crate::Global::bounded`]; barriers then revoke this proxy once it is silent.
    pub async fn leave(&self, ended: bool) -> Result<()> {
        let global = &self.directory.global;
        if !ended {
            let (state, account) = (self.directory.state(), &self.who.account);
            let left = on_servers(global, account, servers_of(&state), Work::EndConnections).await;
            if let Some(server) = left.first() {
                return Err(Error::data(format!("its statements on server {} may still run", server.0)));
            }
        }
        let mut conn = global.conn().await?;
        let statement = "DELETE FROM usher.proxies WHERE proxy_id = ? AND boot_id = ? AND NOT EXISTS \
                         (SELECT 1 FROM usher.proxy_left_over l WHERE l.proxy_id = proxies.proxy_id)";
        global.bounded("leaving", conn.exec_drop(statement, (&self.who.proxy_id, self.who.boot_id))).await
    }

    async fn step(&self, running: &mut Running) -> Result<()> {
        self.reap(running);
        let seen = self.poll(running).await?;
        if seen.read_only {
            self.directory.global.suspect(&Error::data("the member polled has become read-only"));
            running.conn = None;
            return Ok(());
        }
        match seen.row {
            Some((boot_id, _)) if boot_id != self.who.boot_id => {
                return Err(Error::Replaced { proxy: self.who.proxy_id.clone() });
            }
            Some((_, false)) => {}
            // Revoked, or the row was deleted by hand: nothing was acknowledged under it.
            Some((_, true)) | None => return self.start_anew(running).await,
        }
        let held = self.directory.state().version;
        if seen.version < held {
            tracing::error!(seen = seen.version, held, "the global master has lost versions; starting anew");
            return self.start_anew(running).await;
        }
        if seen.version > held {
            let new = Arc::new(State::load(&self.directory.global).await?);
            let old = self.directory.install(Arc::clone(&new));
            self.unreached.add_new(&old, &new);
            self.hooks.installed(&old, &new);
        }
        self.begin_drains(running);
        self.tell(running).await?;
        // Last, as no barrier waits for it.
        if seen.accounts_version != self.accounts_version.load(Ordering::Relaxed) {
            self.load_accounts().await?;
        }
        Ok(())
    }

    async fn load_accounts(&self) -> Result<()> {
        let (version, accounts) = rows::accounts(&self.directory.global).await?;
        self.hooks.accounts(accounts);
        self.accounts_version.store(version, Ordering::Relaxed);
        Ok(())
    }

    async fn poll(&self, running: &mut Running) -> Result<Seen> {
        let global = &self.directory.global;
        let mut conn = match running.conn.take() {
            Some(conn) => conn,
            None => global.conn().await?,
        };
        let query = "SELECT @@global.read_only, c.version, a.version, p.boot_id, p.revoked FROM usher.control c \
                     LEFT JOIN usher.accounts_version a ON a.id = 1 \
                     LEFT JOIN usher.proxies p ON p.proxy_id = ? WHERE c.id = 1";
        type Row = (Value, u64, Option<u64>, Option<u64>, Option<bool>);
        let row: Option<Row> =
            global.bounded("polling the version", conn.exec_first(query, (&self.who.proxy_id,))).await?;
        running.conn = Some(conn);
        let (read_only, version, accounts_version, boot_id, revoked) =
            row.ok_or_else(|| Error::data("usher.control has no row"))?;
        Ok(Seen {
            version,
            accounts_version: accounts_version.unwrap_or(0),
            read_only: is_on(&read_only),
            row: boot_id.zip(revoked),
        })
    }

    /// Takes finished drains off in order: a version counts as drained only when all before it do.
    fn reap(&self, running: &mut Running) {
        while let Some(drain) = running.drains.front_mut() {
            if !drain.task.is_finished() {
                return;
            }
            let Some(drain) = running.drains.pop_front() else { return };
            running.drained = drain.version;
            self.directory.metrics.drained_version.set(i64::try_from(running.drained).unwrap_or(i64::MAX));
        }
    }

    fn begin_drains(&self, running: &mut Running) {
        let new = self.directory.state();
        if new.version <= running.draining.version || running.drains.len() >= DRAINS_MAX {
            return;
        }
        let old = std::mem::replace(&mut running.draining, Arc::clone(&new));
        let (hooks, version) = (Arc::clone(&self.hooks), new.version);
        let task = tokio::spawn(async move {
            // A drain that panicked has proven nothing: the version is never acknowledged on its word.
            let drain = || AssertUnwindSafe(hooks.drain(Arc::clone(&old), Arc::clone(&new))).catch_unwind();
            while drain().await.is_err() {
                tracing::error!(version, "a drain panicked; it is begun again");
                tokio::time::sleep(DRAIN_AGAIN_AFTER).await;
            }
        });
        running.drains.push_back(Drain { version, task });
        self.reap(running);
    }

    /// Writes what has changed, or once in a while that this proxy lives.
    async fn tell(&self, running: &mut Running) -> Result<()> {
        let now = (self.directory.state().version, running.drained);
        if now == running.told && running.told_at.elapsed() < self.alive_every() {
            return Ok(());
        }
        let Some(conn) = running.conn.as_mut() else { return Ok(()) };
        let statement = "UPDATE usher.proxies SET seen_version = :seen, drained_version = :drained, \
                         alive_at = NOW(3) WHERE proxy_id = :id AND boot_id = :boot AND revoked = 0";
        let values = params! {
            "seen" => now.0, "drained" => now.1, "id" => &self.who.proxy_id, "boot" => self.who.boot_id,
        };
        self.directory.global.bounded("acknowledging", conn.exec_drop(statement, values)).await?;
        running.told = now;
        running.told_at = Instant::now();
        self.directory.pins.expire();
        self.reach();
        Ok(())
    }

    fn alive_every(&self) -> Duration {
        ALIVE_EVERY.min(Duration::from_millis(self.directory.limits.patience_ms / 3))
    }

    /// Looks after the account on servers that did not answer before, in the background: they may still not.
    fn reach(&self) {
        let unreached = Arc::clone(&self.unreached);
        if unreached.servers.lock().is_empty() || unreached.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let (directory, who) = (Arc::clone(&self.directory), self.who.clone());
        let hooks = Arc::clone(&self.hooks);
        tokio::spawn(async move {
            let waiting = std::mem::take(&mut *unreached.servers.lock());
            let state = directory.state();
            let known = waiting.iter().filter_map(|id| state.topology.server(*id).map(|(_, server)| server));
            let work = known.map(|server| unreached.reach(&directory.global, &who, server, &*hooks));
            let left = join_all(work).await.into_iter().flatten();
            unreached.servers.lock().extend(left);
            unreached.busy.store(false, Ordering::Release);
        });
    }

    async fn start_anew(&self, running: &mut Running) -> Result<()> {
        tracing::warn!(proxy = %self.who.proxy_id, "this proxy was revoked; registering again");
        self.directory.metrics.revoked.inc();
        running.drains.drain(..).for_each(|drain| drain.task.abort());
        self.directory.begin_era();
        self.hooks.revoked();
        self.enrol().await?;
        running.draining = self.directory.state();
        running.drained = running.draining.version;
        running.told = (running.drained, running.drained);
        running.told_at = Instant::now();
        Ok(())
    }

    async fn enrol(&self) -> Result<()> {
        let (global, account) = (&self.directory.global, &self.who.account);
        let before = State::load(global).await?;
        // A statement that an earlier process had sent may still be running: the row below says where none is.
        let mut unended = on_servers(global, account, servers_of(&before), Work::EndConnections).await;
        for _ in 0..ENROL_ATTEMPTS {
            let (state, number) = self.write_row(&before, &mut unended).await?;
            let state = Arc::new(state);
            self.hooks.numbered(number);
            let old = self.directory.state();
            self.directory.install_any(Arc::clone(&state));
            self.hooks.installed(&old, &state);
            *self.unreached.left_over.lock() = unended.iter().copied().collect();
            // A server that is slow now is looked after later: this proxy must not seem silent meanwhile.
            let patience = Duration::from_millis(self.directory.limits.patience_ms / 2);
            let ended = servers_of(&state).filter(|server| !unended.contains(&server.id));
            let let_in = ended.map(|server| async move {
                let work = on_servers(global, account, std::iter::once(server), Work::LetIn);
                tokio::time::timeout(patience, work).await.unwrap_or_else(|_| vec![server.id])
            });
            let late = join_all(let_in).await.concat();
            *self.unreached.servers.lock() = late.into_iter().chain(unended.iter().copied()).collect();
            // Revoked again while unlocking, perhaps before the unlocking: then the lock may be lost, so once more.
            if self.still_registered().await? {
                self.hooks.registered(&state, &unended);
                return Ok(());
            }
        }
        Err(Error::Conflict(format!("proxy {} is revoked as often as it registers", self.who.proxy_id)))
    }

    /// State and row in one transaction. Servers that are new since `before` join the unended.
    async fn write_row(&self, before: &State, unended: &mut Vec<ServerId>) -> Result<(State, u8)> {
        let global = &self.directory.global;
        let mut conn = global.conn().await?;
        let written = self.write_row_on(&mut conn, before, unended).await;
        let end = if written.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = global.bounded("registering", conn.query_drop(end)).await;
        let (state, recent, number) = written?;
        ended?;
        global.learn(&state.topology);
        self.directory.pin_recent(recent);
        Ok((state, number))
    }

    /// The version is locked meanwhile: a barrier for a later version is sure to see this row, and one for an earlier
    /// version is sure to be satisfied by it.
    async fn write_row_on(
        &self,
        conn: &mut Conn,
        before: &State,
        unended: &mut Vec<ServerId>,
    ) -> Result<(State, Vec<(Key, Generation)>, u8)> {
        let global = &self.directory.global;
        let begin = async {
            conn.query_drop("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
            conn.query_drop("START TRANSACTION").await?;
            numbers::lock(conn).await?;
            conn.query_drop("SELECT version FROM usher.control WHERE id = 1 LOCK IN SHARE MODE").await
        };
        global.bounded("registering", begin).await?;
        let state = State::read(global, conn).await?;
        let taken = numbers::take(conn, &self.who.proxy_id, self.who.number);
        let number = global.bounded("taking a number", taken).await??;
        unended.extend(added(before, &state));
        // A replica takes no writes, whatever may be left there.
        let may_write =
            |id: &ServerId| state.topology.server(*id).is_some_and(|(_, server)| server.role == Role::Member);
        unended.retain(may_write);
        unended.sort_unstable();
        unended.dedup();
        let pins_s = 2 * u64::from(self.directory.limits.memcached_ttl_s);
        let finish = async {
            let query = format!(
                "SELECT entity_key, gen FROM usher.moves WHERE updated_at > NOW(3) - INTERVAL ? SECOND \
                 ORDER BY move_id DESC LIMIT {RECENT_MAX}"
            );
            let recent: Vec<(Vec<u8>, u64)> = conn.exec(query, (pins_s,)).await?;
            conn.exec_drop(
                "REPLACE INTO usher.proxies (proxy_id, boot_id, account, http_address, revoked, seen_version, \
                 drained_version, alive_at) VALUES (:id, :boot, :account, :http, 0, :version, :version, NOW(3))",
                params! {
                    "id" => &self.who.proxy_id, "boot" => self.who.boot_id, "account" => &self.who.account,
                    "http" => &self.who.http_address, "version" => state.version,
                },
            )
            .await?;
            let forget = "DELETE FROM usher.proxy_left_over WHERE proxy_id = ?";
            conn.exec_drop(forget, (&self.who.proxy_id,)).await?;
            for server in unended.iter() {
                let insert =
                    "INSERT INTO usher.proxy_left_over (proxy_id, server_id, boot_id) VALUES (?, ?, ?)";
                conn.exec_drop(insert, (&self.who.proxy_id, server.0, self.who.boot_id)).await?;
            }
            Ok(recent)
        };
        let recent = global.bounded("registering", finish).await?;
        let recent: Result<Vec<_>> = recent
            .into_iter()
            .map(|(key, generation)| Ok((Key::from_stored(&key_text(key)?), Generation(generation))))
            .collect();
        Ok((state, recent?, number))
    }

    async fn still_registered(&self) -> Result<bool> {
        let global = &self.directory.global;
        let mut conn = global.conn().await?;
        let query = "SELECT 1 FROM usher.proxies WHERE proxy_id = ? AND boot_id = ? AND revoked = 0";
        let values = (&self.who.proxy_id, self.who.boot_id);
        let row: Option<u8> = global.bounded("registering", conn.exec_first(query, values)).await?;
        Ok(row.is_some())
    }
}

impl Unreached {
    /// Servers that a new state has brought: a copy of a member may have come with a locked account.
    fn add_new(&self, old: &State, new: &State) {
        self.servers.lock().extend(added(old, new));
    }

    /// Looks after the account on one server; gives it back if there is something left to do.
    async fn reach(
        &self,
        global: &Global,
        who: &Registration,
        server: &Server,
        hooks: &dyn Hooks,
    ) -> Option<ServerId> {
        let one = || std::iter::once(server);
        if !self.left_over.lock().contains(&server.id) {
            return on_servers(global, &who.account, one(), Work::LetIn).await.pop();
        }
        if !on_servers(global, &who.account, one(), Work::EndConnections).await.is_empty()
            || !on_servers(global, &who.account, one(), Work::LetIn).await.is_empty()
        {
            return Some(server.id);
        }
        // None has been opened in between: this proxy is barred until now.
        if let Err(error) = forget_left_over(global, who, server.id).await {
            tracing::warn!(server = %server.name, %error, "barriers still wait for this server");
            return Some(server.id);
        }
        self.left_over.lock().remove(&server.id);
        hooks.unbarred(server.id);
        None
    }
}

async fn forget_left_over(global: &Global, who: &Registration, server: ServerId) -> Result<()> {
    let mut conn = global.conn().await?;
    let statement = "DELETE FROM usher.proxy_left_over WHERE proxy_id = ? AND server_id = ? AND boot_id = ?";
    let values = (&who.proxy_id, server.0, who.boot_id);
    global.bounded("telling what has ended", conn.exec_drop(statement, values)).await
}

/// Servers of `new` that `old` has not.
fn added(old: &State, new: &State) -> impl Iterator<Item = ServerId> {
    servers_of(new).map(|server| server.id).filter(|id| old.topology.server(*id).is_none())
}

fn servers_of(state: &State) -> impl Iterator<Item = &Server> {
    state.topology.shards.iter().flat_map(|shard| &shard.servers)
}

#[derive(Debug, Clone, Copy)]
enum Work {
    EndConnections,
    LetIn,
}

/// Ends the account's connections on each server, or unlocks it there; returns those that did not answer.
async fn on_servers<'s>(
    global: &Global,
    account: &str,
    servers: impl Iterator<Item = &'s Server>,
    work: Work,
) -> Vec<ServerId> {
    let one = |server: &'s Server| async move {
        let mut conn = global.server_conn(server).await?;
        match work {
            Work::EndConnections => {
                global.server_bounded(&server.name, accounts::end_all(&mut conn, account)).await??
            }
            Work::LetIn => global.server_bounded(&server.name, accounts::let_in(&mut conn, account)).await?,
        };
        Ok::<_, Error>(())
    };
    let all = servers.map(|server| async move { (server, one(server).await) });
    let mut unreached = Vec::new();
    for (server, result) in join_all(all).await {
        if let Err(error) = result {
            tracing::warn!(server = %server.name, %error, "the proxy's account could not be looked after");
            unreached.push(server.id);
        }
    }
    unreached
}

/// Ends when the oldest drain does, so that it is acknowledged at once.
async fn first_drain(drains: &mut VecDeque<Drain>) {
    match drains.front_mut() {
        Some(drain) if !drain.task.is_finished() => {
            let _ = (&mut drain.task).await;
        }
        _ => std::future::pending().await,
    }
}
