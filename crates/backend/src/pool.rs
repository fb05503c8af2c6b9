//! One pool a server: connections are lent for a statement or a transaction and come back clean.

use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use usher_config::Limits;
use usher_topology::{Server, ServerId, Topology};
use usher_wire::status::Status;

use crate::conn::Conn;
use crate::cut::Cut;
use crate::{BackendError, BackendMetrics, Settings};

/// The account of this proxy on every server, and how it speaks to them.
#[derive(Debug, Clone)]
pub struct Account {
    /// Login name.
    pub user: String,
    /// Password.
    pub password: String,
    /// TLS, if wanted.
    pub tls: Option<Arc<ClientConfig>>,
    /// A server without TLS is spoken to without.
    pub tls_optional: bool,
}

/// The pools of all servers.
#[derive(Debug)]
pub struct Pools {
    pools: Arc<ArcSwap<HashMap<ServerId, Arc<Pool>>>>,
    account: Account,
    limits: Limits,
    metrics: BackendMetrics,
    /// While this proxy is shut out no connection may be opened: it could act on what it knew before.
    shut: Arc<AtomicBool>,
    /// Servers to which none may be opened yet although it is let in again.
    barred: Arc<Mutex<HashSet<ServerId>>>,
}

impl Pools {
    /// Pools without servers; [`Pools::install`] gives them some.
    #[must_use]
    pub fn new(account: Account, limits: Limits, metrics: BackendMetrics) -> Self {
        Self { pools: Arc::default(), account, limits, metrics, shut: Arc::default(), barred: Arc::default() }
    }

    /// Makes the pools those of this topology's servers. A server that stays keeps its connections; one whose
    /// address changed starts anew.
    pub fn install(&self, topology: &Topology) {
        let old = self.pools.load();
        let servers = topology.shards.iter().flat_map(|shard| &shard.servers);
        let new = servers.map(|server| {
            let kept = old.get(&server.id).filter(|pool| pool.server == *server);
            (server.id, kept.map_or_else(|| Arc::new(self.pool(server)), Arc::clone))
        });
        self.pools.store(Arc::new(new.collect()));
    }

    fn pool(&self, server: &Server) -> Pool {
        Pool {
            server: server.clone(),
            account: self.account.clone(),
            idle: Mutex::new(Vec::new()),
            cuts: Mutex::default(),
            permits: Semaphore::new(self.limits.backends_per_server_max),
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
            era: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            limits: self.limits.clone(),
            metrics: self.metrics.clone(),
            shut: Arc::clone(&self.shut),
            barred: Arc::clone(&self.barred),
        }
    }

    /// The pool of a server.
    ///
    /// # Errors
    /// [`BackendError::Unknown`] if the topology has no such server.
    pub fn of(&self, server: ServerId) -> Result<Arc<Pool>, BackendError> {
        self.pools.load().get(&server).cloned().ok_or(BackendError::Unknown(server))
    }

    /// This proxy has been shut out: closes every idle connection, and every lent one when it comes back, and opens
    /// none until [`Pools::reopen`].
    pub fn shut_out(&self) {
        self.shut.store(true, Ordering::SeqCst);
        for pool in self.pools.load().values() {
            pool.era.fetch_add(1, Ordering::AcqRel);
            pool.drop_idle();
        }
    }

    /// Settings of the servers have changed: connections made before are lent no more. Sessions keep those that they
    /// hold, with the old settings, as on one server.
    pub fn renew(&self) {
        for pool in self.pools.load().values() {
            pool.renew();
        }
    }

    /// This proxy is let in, at first or again, and knows the present state; not yet to the servers `barred`.
    pub fn reopen(&self, barred: &[ServerId]) {
        *self.barred.lock() = barred.iter().copied().collect();
        self.shut.store(false, Ordering::SeqCst);
    }

    /// It is let in to this one too.
    pub fn unbar(&self, server: ServerId) {
        self.barred.lock().remove(&server);
    }

    /// What cuts the connections to a server that is gone.
    #[must_use]
    pub fn cutter(&self) -> Cutter {
        Cutter(Arc::clone(&self.pools))
    }

    /// Open and idle connections of each server.
    #[must_use]
    pub fn census(&self) -> Vec<(String, usize, usize)> {
        let pools = self.pools.load();
        let mut census: Vec<_> = pools
            .values()
            .map(|pool| {
                let lent = pool.limits.backends_per_server_max - pool.permits.available_permits();
                (pool.server.name.clone(), lent, pool.idle.lock().len())
            })
            .collect();
        census.sort();
        census
    }
}

/// Cuts the connections to servers that are gone.
#[derive(Debug, Clone)]
pub struct Cutter(Arc<ArcSwap<HashMap<ServerId, Arc<Pool>>>>);

impl Cutter {
    /// Ends every connection to this server: what waits for an answer gets [`crate::Fault::Lost`]. Returns how many there
    /// were.
    pub fn cut(&self, server: ServerId) -> usize {
        self.0.load().get(&server).map_or(0, |pool| pool.cut())
    }
}

impl Cutter {
    /// Settings of this server have changed: connections made before are lent no more.
    pub(crate) fn renew(&self, server: ServerId) {
        if let Some(pool) = self.0.load().get(&server) {
            pool.renew();
        }
    }
}

/// The connections to one server.
#[derive(Debug)]
pub struct Pool {
    server: Server,
    account: Account,
    /// The one used last comes last and is lent first: what is not needed ages at the front.
    // Boxed: moving one under the lock moves a pointer.
    #[allow(clippy::vec_box)]
    idle: Mutex<Vec<Box<Conn>>>,
    /// Of the connections opened and not cut, some of them gone by now.
    cuts: Mutex<Vec<Weak<Cut>>>,
    permits: Semaphore,
    /// How many wait for a connection, and a call to those who could do without theirs.
    waiting: AtomicUsize,
    wanted: Notify,
    era: AtomicU64,
    renewals: AtomicU64,
    limits: Limits,
    metrics: BackendMetrics,
    shut: Arc<AtomicBool>,
    barred: Arc<Mutex<HashSet<ServerId>>>,
}

impl Pool {
    /// The server.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Lends a connection with these settings without waiting, if one is idle.
    #[must_use]
    pub fn try_checkout(self: &Arc<Self>, settings: &Settings) -> Option<Lent> {
        let permit = self.permits.try_acquire().ok()?;
        let conn = self.take_idle(|conn| conn.settings.same(settings))?;
        permit.forget();
        self.metrics.lent.inc();
        Some(Lent { conn: Some(conn), pool: Arc::clone(self) })
    }

    /// Lends a connection with these settings: an idle one that has them, one that can be brought to them, or a new
    /// one.
    ///
    /// # Errors
    /// See [`BackendError`]: pool used up for too long, no connection, login refused, settings refused.
    pub async fn checkout(self: &Arc<Self>, settings: &Arc<Settings>) -> Result<Lent, BackendError> {
        match self.try_checkout(settings) {
            Some(lent) => Ok(lent),
            None => Box::pin(self.checkout_slowly(settings)).await,
        }
    }

    #[cold]
    async fn checkout_slowly(self: &Arc<Self>, settings: &Arc<Settings>) -> Result<Lent, BackendError> {
        self.wait_for_permit().await?;
        // From here the permit is the lent connection's, also when it fails.
        let mut lent = Lent { conn: None, pool: Arc::clone(self) };
        self.metrics.lent.inc();
        lent.conn = self
            .take_idle(|conn| conn.settings.same(settings))
            .or_else(|| self.take_idle(|conn| conn.settings.can_become(settings)));
        let fresh = lent.conn.is_none();
        if fresh {
            lent.conn = Some(self.open(settings).await?);
        }
        match self.bring_to(&mut lent, settings).await {
            Err(BackendError::Connect { .. }) if !fresh => {
                // It had died while idle: what it was to do has not been sent.
                lent.discard();
                lent.conn = Some(self.open(settings).await?);
                self.bring_to(&mut lent, settings).await?;
            }
            other => other?,
        }
        Ok(lent)
    }

    async fn wait_for_permit(&self) -> Result<(), BackendError> {
        if let Ok(permit) = self.permits.try_acquire() {
            permit.forget();
            return Ok(());
        }
        let _waiting = Waiting::begin(self);
        let waited_ms = self.limits.checkout_wait_ms;
        // Those who wait are served in the order in which they came.
        match timeout(Duration::from_millis(waited_ms), self.permits.acquire()).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(())
            }
            _ => {
                self.metrics.exhausted.inc();
                let max = self.limits.backends_per_server_max;
                Err(BackendError::Exhausted { server: self.name(), waited_ms, max })
            }
        }
    }

    async fn bring_to(&self, lent: &mut Lent, settings: &Arc<Settings>) -> Result<(), BackendError> {
        let Some(conn) = lent.conn.as_mut() else { return Ok(()) };
        if conn.settings.same(settings) {
            return Ok(());
        }
        self.metrics.settings_applied.inc();
        match conn.apply(settings).await {
            Ok(None) => Ok(()),
            Ok(Some((code, payload))) => {
                // A SET of several variables may have changed some of them.
                conn.dirty = true;
                let message = usher_wire::packet::ErrPacket::parse(&payload)
                    .map(|error| error.text().into_owned())
                    .unwrap_or_default();
                Err(BackendError::Settings { server: self.name(), code, payload, message })
            }
            Err(fault) => Err(BackendError::Connect { server: self.name(), fault }),
        }
    }

    /// One statement on a connection of its own, beyond `limits.backends_per_server_max`: KILL has to get through while
    /// all others are in use. What the server says to it is not told.
    ///
    /// # Errors
    /// No connection, login refused, or the connection is lost.
    pub async fn query_apart(&self, statement: &[u8]) -> Result<(), BackendError> {
        self.check_open()?;
        let settings = Settings::at_login(false);
        let mut conn = Conn::open(&self.server, &self.account, &settings, &self.limits).await?;
        let said = conn.query(statement).await;
        said.map(drop).map_err(|fault| BackendError::Connect { server: self.name(), fault })
    }

    fn check_open(&self) -> Result<(), BackendError> {
        match self.shut.load(Ordering::SeqCst) || self.barred.lock().contains(&self.server.id) {
            true => Err(BackendError::ShutOut { server: self.name() }),
            false => Ok(()),
        }
    }

    async fn open(&self, settings: &Arc<Settings>) -> Result<Box<Conn>, BackendError> {
        let era = self.era.load(Ordering::Acquire);
        let renewals = self.renewals.load(Ordering::Acquire);
        self.check_open()?;
        match Conn::open(&self.server, &self.account, settings, &self.limits).await {
            Ok(mut conn) => {
                (conn.era, conn.renewals) = (era, renewals);
                self.note(&conn.cut);
                self.metrics.opened.inc();
                self.metrics.open.inc();
                Ok(Box::new(conn))
            }
            Err(error) => {
                self.metrics.connect_errors.inc();
                Err(error)
            }
        }
    }

    fn note(&self, cut: &Arc<Cut>) {
        let mut cuts = self.cuts.lock();
        if cuts.len() == cuts.capacity() {
            cuts.retain(|cut| cut.strong_count() > 0);
        }
        cuts.push(Arc::downgrade(cut));
    }

    fn cut(&self) -> usize {
        let idle = std::mem::take(&mut *self.idle.lock());
        self.count_closed(idle.len());
        drop(idle);
        let cuts = std::mem::take(&mut *self.cuts.lock());
        cuts.iter().filter_map(Weak::upgrade).map(|cut| cut.cut()).count()
    }

    fn renew(&self) {
        self.renewals.fetch_add(1, Ordering::AcqRel);
        self.drop_idle();
    }

    fn drop_idle(&self) {
        let dropped: Vec<_> = std::mem::take(&mut *self.idle.lock());
        self.count_closed(dropped.len());
    }

    /// Takes the idle connection used last that fits. Those that have died meanwhile are dropped on the way.
    fn take_idle(&self, fits: impl Fn(&Conn) -> bool) -> Option<Box<Conn>> {
        let mut dead = 0;
        let mut idle = self.idle.lock();
        let found = loop {
            let Some(at) = idle.iter().rposition(|conn| fits(conn)) else { break None };
            let conn = idle.remove(at);
            if !conn.is_stale() {
                break Some(conn);
            }
            dead += 1;
        };
        drop(idle);
        self.count_closed(dead);
        found
    }

    fn give_back(&self, conn: Box<Conn>) {
        let in_transaction = conn.status.has(Status::IN_TRANS);
        let reusable =
            !conn.cut.is_cut() && !conn.busy && !conn.dirty && !in_transaction && conn.buf.is_empty();
        let current = conn.era == self.era.load(Ordering::Acquire)
            && conn.renewals == self.renewals.load(Ordering::Acquire);
        if reusable && current {
            let mut idle = self.idle.lock();
            let aged = (idle.len() >= self.limits.backends_per_server_idle_max).then(|| idle.remove(0));
            idle.push(conn);
            drop(idle);
            if let Some(aged) = aged {
                self.close(aged);
            }
        } else {
            self.close(conn);
        }
    }

    fn close(&self, conn: Box<Conn>) {
        self.count_closed(1);
        // In good order if it is at rest, so that the server need not count an aborted client; in the background,
        // as nobody should wait for it.
        if !conn.busy
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let limit = Duration::from_millis(self.limits.connect_ms);
            runtime.spawn(async move {
                let _ = timeout(limit, conn.close()).await;
            });
        }
    }

    fn count_closed(&self, n: usize) {
        self.metrics.closed.inc_by(n as u64);
        self.metrics.open.dec_by(i64::try_from(n).unwrap_or(i64::MAX));
    }

    fn name(&self) -> String {
        format!("{} ({})", self.server.name, self.server.address())
    }
}

/// One who waits for a connection, till this is dropped.
struct Waiting<'p> {
    pool: &'p Pool,
    since: Instant,
}

impl<'p> Waiting<'p> {
    fn begin(pool: &'p Pool) -> Self {
        pool.metrics.waits.inc();
        pool.metrics.waiting.inc();
        pool.waiting.fetch_add(1, Ordering::SeqCst);
        pool.wanted.notify_waiters();
        Self { pool, since: Instant::now() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pool.waiting.fetch_sub(1, Ordering::SeqCst);
        self.pool.metrics.waiting.dec();
        self.pool.metrics.wait_seconds.0.observe(self.since.elapsed().as_secs_f64());
    }
}

/// A connection on loan. Dropped, it goes back to its pool if it is at rest, else it is closed.
#[derive(Debug)]
pub struct Lent {
    /// `None` only inside this module, while one is being made.
    conn: Option<Box<Conn>>,
    pool: Arc<Pool>,
}

impl Lent {
    /// The server it leads to.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.pool.server
    }

    /// Closes the connection now, in the middle of whatever it does.
    pub fn discard(&mut self) {
        if self.conn.take().is_some() {
            self.pool.count_closed(1);
        }
    }

    /// Brings the connection to other settings while it is lent.
    ///
    /// # Errors
    /// As [`Pool::checkout`].
    pub async fn bring_to(&mut self, settings: &Arc<Settings>) -> Result<(), BackendError> {
        if self.settings.same(settings) {
            return Ok(());
        }
        let pool = Arc::clone(&self.pool);
        Box::pin(pool.bring_to(self, settings)).await
    }

    /// Completes once somebody waits for a connection to this server.
    pub async fn wanted(&self) {
        let mut wanted = pin!(self.pool.wanted.notified());
        // From here on no call is missed.
        wanted.as_mut().enable();
        if self.pool.waiting.load(Ordering::SeqCst) == 0 {
            wanted.await;
        }
    }

    /// Whether this proxy has been shut out since the connection was opened.
    #[must_use]
    pub fn is_shut_out(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.era != self.pool.era.load(Ordering::Acquire))
    }

    /// Whether [`Lent::discard`] was called.
    #[must_use]
    pub fn is_discarded(&self) -> bool {
        self.conn.is_none()
    }
}

impl Deref for Lent {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        // A `Lent` leaves this module with its connection, and only `discard`, its user's last call, takes it out.
        #[allow(clippy::expect_used)]
        self.conn.as_deref().expect("a lent connection is used after it was discarded")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Conn {
        // As above.
        #[allow(clippy::expect_used)]
        self.conn.as_deref_mut().expect("a lent connection is used after it was discarded")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.give_back(conn);
        }
        self.pool.metrics.lent.dec();
        self.pool.permits.add_permits(1);
    }
}
