//! What others can see and reach of a session: whoever asks what runs, or ends it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use usher_backend::{Lent, Settings};
use usher_topology::ServerId;

/// Bytes of a statement that are kept to be shown.
const SHOWN_MAX: usize = 4096;

/// One session, for others.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) from: SocketAddr,
    /// Server and thread that run its statement: two halves; 0 is none.
    running: AtomicU64,
    /// Somebody is about to kill what runs: the connection must not be lent to anybody else.
    killing: AtomicUsize,
    ended: AtomicBool,
    waits: AtomicU8,
    /// What keeps connections with it: bits of [`crate::pins::Pins::bits`].
    pins: AtomicU8,
    /// The thread of the global master's writer that has, or may have, its named locks; 0 is none.
    locks_on: AtomicU32,
    wake: Notify,
    doing: Mutex<Doing>,
}

/// What a statement may wait for in the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Wait {
    Nothing = 0,
    /// The end of a move or a flip.
    Flip = 1,
    /// A connection to a server.
    Connection = 2,
}

/// What a session does.
#[derive(Debug)]
struct Doing {
    account: Arc<str>,
    /// The command's first byte; `None` while it waits for one.
    command: Option<u8>,
    since: Instant,
    settings: Arc<Settings>,
    text: Vec<u8>,
}

/// What a session did when it was asked.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) id: u32,
    pub(crate) account: Arc<str>,
    pub(crate) handle: Arc<Handle>,
    pub(crate) command: Option<u8>,
    pub(crate) for_so_long: Duration,
    pub(crate) schema: Option<String>,
    pub(crate) text: Vec<u8>,
}

impl Handle {
    /// Whose session it is.
    pub(crate) fn account(&self) -> Arc<str> {
        Arc::clone(&self.doing.lock().account)
    }

    /// It is another account's from now on.
    pub(crate) fn becomes(&self, account: &str) {
        self.doing.lock().account = account.into();
    }

    /// A command has come.
    pub(crate) fn begins(&self, command: u8, text: &[u8], settings: &Arc<Settings>) {
        let mut doing = self.doing.lock();
        doing.command = Some(command);
        doing.since = Instant::now();
        if !Arc::ptr_eq(&doing.settings, settings) {
            doing.settings = Arc::clone(settings);
        }
        doing.says(text);
    }

    /// What the command is about, if it does not say so itself.
    pub(crate) fn says(&self, text: &[u8]) {
        self.doing.lock().says(text);
    }

    /// The command has been served.
    pub(crate) fn sleeps(&self, settings: &Arc<Settings>, now: Instant) {
        let mut doing = self.doing.lock();
        doing.command = None;
        doing.since = now;
        if !Arc::ptr_eq(&doing.settings, settings) {
            doing.settings = Arc::clone(settings);
        }
    }

    /// What its statement waits for from now on.
    pub(crate) fn wait_for(&self, what: Wait) {
        self.waits.store(what as u8, Ordering::Relaxed);
    }

    pub(crate) fn waits(&self) -> Wait {
        match self.waits.load(Ordering::Relaxed) {
            1 => Wait::Flip,
            2 => Wait::Connection,
            _ => Wait::Nothing,
        }
    }

    /// What keeps connections with it after its statement.
    pub(crate) fn holds(&self, pins: u8) {
        self.pins.store(pins, Ordering::Relaxed);
    }

    pub(crate) fn pins(&self) -> u8 {
        self.pins.load(Ordering::Relaxed)
    }

    /// The thread of the global master's writer that has its named locks; 0 is none.
    pub(crate) fn has_locks_on(&self, thread: u32) {
        self.locks_on.store(thread, Ordering::SeqCst);
    }

    /// A statement is sent to this connection.
    pub(crate) fn runs_on(&self, lent: &Lent) {
        let place = u64::from(lent.server().id.0) << 32 | u64::from(lent.thread_id());
        self.running.store(place, Ordering::SeqCst);
    }

    /// It has been answered. A kill that has been sent meanwhile may still arrive there.
    pub(crate) fn rests(&self, lent: &mut Lent) {
        self.running.store(0, Ordering::SeqCst);
        if self.killing.load(Ordering::SeqCst) > 0 && !lent.is_discarded() {
            lent.dirty = true;
        }
    }

    /// The server and its thread that run the statement.
    pub(crate) fn runs_at(&self) -> Option<(ServerId, u32)> {
        let place = self.running.load(Ordering::SeqCst);
        let [.., a, b, c, d] = place.to_be_bytes();
        let server = ServerId(u32::try_from(place >> 32).unwrap_or_default());
        (place != 0).then_some((server, u32::from_be_bytes([a, b, c, d])))
    }

    /// Before [`Handle::runs_at`] is asked in order to kill.
    pub(crate) fn begin_kill(&self) {
        self.killing.fetch_add(1, Ordering::SeqCst);
    }

    /// The kill has been carried out.
    pub(crate) fn end_kill(&self) {
        self.killing.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether the session has been killed.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Completes once it has been killed.
    pub(crate) async fn ended(&self) {
        while !self.is_ended() {
            self.wake.notified().await;
        }
    }

    /// Kills it.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

impl Doing {
    fn says(&mut self, text: &[u8]) {
        self.text.clear();
        self.text.extend_from_slice(text.get(..SHOWN_MAX).unwrap_or(text));
    }
}

/// The sessions of this proxy by their connection ids.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<u32, Arc<Handle>>>);

impl Sessions {
    pub(crate) fn enter(
        &self,
        id: u32,
        account: &str,
        from: SocketAddr,
        settings: &Arc<Settings>,
    ) -> Arc<Handle> {
        let doing = Doing {
            account: account.into(),
            command: None,
            since: Instant::now(),
            settings: Arc::clone(settings),
            text: Vec::new(),
        };
        let handle = Arc::new(Handle {
            from,
            running: AtomicU64::default(),
            killing: AtomicUsize::default(),
            ended: AtomicBool::default(),
            waits: AtomicU8::default(),
            pins: AtomicU8::default(),
            locks_on: AtomicU32::default(),
            wake: Notify::default(),
            doing: Mutex::new(doing),
        });
        self.0.lock().insert(id, Arc::clone(&handle));
        handle
    }

    pub(crate) fn leave(&self, id: u32) {
        self.0.lock().remove(&id);
    }

    pub(crate) fn named(&self, id: u64) -> Option<Arc<Handle>> {
        self.0.lock().get(&u32::try_from(id).ok()?).cloned()
    }

    /// Threads of the global master's writer that have named locks, and whose they are: some of them, if there are more
    /// than `max`.
    pub(crate) fn lock_holders(&self, max: usize) -> Vec<(u32, u32)> {
        let sessions = self.0.lock();
        let threads = sessions.iter().map(|(id, handle)| (handle.locks_on.load(Ordering::SeqCst), *id));
        threads.filter(|(thread, _)| *thread != 0).take(max).collect()
    }

    /// Kills those of such accounts, each between two commands.
    pub(crate) fn end_where(&self, is_meant: impl Fn(&str) -> bool) {
        let meant: Vec<_> =
            self.0.lock().values().filter(|handle| is_meant(&handle.account())).cloned().collect();
        for handle in meant {
            handle.end();
        }
    }

    /// All of them, or those of one account, by id.
    pub(crate) fn seen(&self, account: Option<&str>) -> Vec<Seen> {
        let handles: Vec<_> = self.0.lock().iter().map(|(id, handle)| (*id, Arc::clone(handle))).collect();
        let mut seen: Vec<_> = handles
            .into_iter()
            .map(|(id, handle)| {
                let doing = handle.doing.lock();
                let text = if doing.command.is_some() { doing.text.clone() } else { Vec::new() };
                let schema = doing.settings.schema().map(str::to_owned);
                let (command, for_so_long) = (doing.command, doing.since.elapsed());
                let account = Arc::clone(&doing.account);
                drop(doing);
                Seen { id, account, handle, command, for_so_long, schema, text }
            })
            .collect();
        seen.retain(|seen| account.is_none_or(|account| *seen.account == *account));
        seen.sort_by_key(|seen| seen.id);
        seen
    }
}
