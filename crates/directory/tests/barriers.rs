//! Proxies that acknowledge, drain late, fall silent and come back, with real accounts on real servers.
#![allow(clippy::unwrap_used, missing_docs, clippy::await_holding_lock)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use support::{Deployment, InUse, PROXY_ACCOUNT, limits, until};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio::time::timeout;
use usher_directory::barrier::{self, Patience, Progress, Scope, Undrained};
use usher_directory::rows::{self, AccountRow, DirectoryChange};
use usher_directory::{BoxFuture, Directory, EntityState, Error, Hooks, Participant, Registration, State};
use usher_topology::{Generation, Key, ServerId, ShardId};

#[derive(Default)]
struct Watched {
    installed: AtomicUsize,
    revoked: AtomicUsize,
    registered: AtomicUsize,
    barred: Mutex<Vec<ServerId>>,
    stuck: Arc<AtomicBool>,
}

impl Hooks for Watched {
    fn installed(&self, old: &Arc<State>, new: &Arc<State>) {
        assert!(new.version >= old.version);
        self.installed.fetch_add(1, Ordering::SeqCst);
    }

    fn drain(&self, _: Arc<State>, _: Arc<State>) -> BoxFuture<'static, ()> {
        let stuck = Arc::clone(&self.stuck);
        Box::pin(async move {
            while stuck.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    fn revoked(&self) {
        self.revoked.fetch_add(1, Ordering::SeqCst);
    }

    fn registered(&self, _: &Arc<State>, barred: &[ServerId]) {
        *self.barred.lock().unwrap() = barred.to_vec();
        self.registered.fetch_add(1, Ordering::SeqCst);
    }

    fn unbarred(&self, server: ServerId) {
        self.barred.lock().unwrap().retain(|barred| *barred != server);
    }

    fn numbered(&self, _: u8) {}

    fn accounts(&self, _: Vec<AccountRow>) {}
}

struct Proxy {
    directory: Arc<Directory>,
    hooks: Arc<Watched>,
    participant: Arc<Participant>,
}

impl Proxy {
    async fn register(deployment: &InUse, boot_id: u64) -> Self {
        let (directory, hooks) = (deployment.directory(&[]).await, Arc::new(Watched::default()));
        let who = Registration {
            proxy_id: "p1".to_owned(),
            boot_id,
            account: PROXY_ACCOUNT.0.to_owned(),
            http_address: None,
            number: 0,
        };
        let participant =
            Participant::register(Arc::clone(&directory), who, Arc::clone(&hooks) as _).await.unwrap();
        Self { directory, hooks, participant: Arc::new(participant) }
    }

    /// Runs until the sender is dropped or used.
    fn run(&self) -> (oneshot::Sender<()>, tokio::task::JoinHandle<usher_directory::Result<()>>) {
        let (stop, stopped) = oneshot::channel();
        let participant = Arc::clone(&self.participant);
        let task = tokio::spawn(async move {
            participant
                .run(async {
                    let _ = stopped.await;
                })
                .await
        });
        (stop, task)
    }
}

/// A change that proxies must learn of; returns the version.
async fn change(deployment: &InUse, key: &Key) -> u64 {
    let global = deployment.access();
    let row = rows::directory_row(&global, key).await.unwrap().unwrap();
    let change = DirectoryChange { state: Some(EntityState::Moving), ..DirectoryChange::default() };
    let changed =
        rows::cas_directory(&global, key, row.located.generation, &change, None).await.unwrap().unwrap();
    changed.version
}

async fn pass(deployment: &InUse, version: u64) -> usher_directory::Result<Vec<String>> {
    let scope = Scope { shards: vec![ShardId(1), ShardId(2)], dead: vec![] };
    barrier::pass(&deployment.access(), version, Patience::of(&limits()), &scope, &mut |_: &Progress| {})
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_passes_when_all_have_acknowledged() {
    let deployment = Deployment::fresh().await;
    let key = Key::Int(1);
    deployment.directory(&[]).await.place(&key).await.unwrap();
    let version = change(&deployment, &key).await;
    assert_eq!(pass(&deployment, version).await.unwrap(), [""; 0], "nobody to wait for");
    let proxy = Proxy::register(&deployment, 1).await;
    let (stop, task) = proxy.run();
    for _ in 0..5 {
        let version = change(&deployment, &key).await;
        assert_eq!(pass(&deployment, version).await.unwrap(), [""; 0]);
        assert_eq!(proxy.directory.state().version, version);
    }
    let row = rows::proxies(&deployment.access()).await.unwrap().remove(0);
    assert_eq!((row.seen_version, row.revoked), (proxy.directory.state().version, false));
    drop(stop);
    task.await.unwrap().unwrap();
    proxy.participant.leave(true).await.unwrap();
    assert_eq!(rows::proxies(&deployment.access()).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_proxy_that_does_not_drain_is_not_revoked() {
    let deployment = Deployment::fresh().await;
    let key = Key::Int(1);
    deployment.directory(&[]).await.place(&key).await.unwrap();
    let proxy = Proxy::register(&deployment, 1).await;
    let (_stop, _task) = proxy.run();
    proxy.hooks.stuck.store(true, Ordering::SeqCst);
    let version = change(&deployment, &key).await;
    let error = pass(&deployment, version).await.unwrap_err();
    assert!(matches!(error, Error::NotDrained { ref proxy, .. } if proxy == "p1"), "{error}");
    let later = change(&deployment, &key).await;
    until("the later version to be seen", async || proxy.directory.state().version == later).await;
    proxy.hooks.stuck.store(false, Ordering::SeqCst);
    assert_eq!(pass(&deployment, later).await.unwrap(), [""; 0]);
    assert_eq!(proxy.hooks.revoked.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_proxy_is_shut_out_and_comes_back_by_registering() {
    let deployment = Deployment::fresh().await;
    let key = Key::Int(1);
    deployment.directory(&[]).await.place(&key).await.unwrap();
    let proxy = Proxy::register(&deployment, 1).await;
    // It does not run: as if it was paused. Its connections are open.
    let mut held = deployment.shards[0].conn(PROXY_ACCOUNT).await.unwrap();
    held.query_drop("SELECT 1").await.unwrap();
    let version = change(&deployment, &key).await;
    assert_eq!(pass(&deployment, version).await.unwrap(), ["p1"]);
    assert!(held.query_drop("SELECT 1").await.is_err(), "the connection was killed");
    for server in &deployment.shards {
        let refused = server.conn(PROXY_ACCOUNT).await.unwrap_err();
        assert!(refused.to_string().contains("locked"), "{refused}");
    }
    assert!(deployment.global.conn(PROXY_ACCOUNT).await.is_ok(), "the global master was not concerned");
    assert_eq!(pass(&deployment, version).await.unwrap(), [""; 0], "out already");
    let history = rows::history(&deployment.access(), Some("p1"), 10).await.unwrap();
    assert_eq!((history.len(), history[0].what.as_str()), (1, "revoke"));

    let era = proxy.directory.era();
    let (_stop, _task) = proxy.run();
    until("it to register again", async || proxy.hooks.registered.load(Ordering::SeqCst) == 2).await;
    assert_eq!(proxy.hooks.revoked.load(Ordering::SeqCst), 1);
    assert_eq!(proxy.directory.era(), era + 1);
    assert_eq!(proxy.directory.state().version, version);
    for server in &deployment.shards {
        assert!(server.conn(PROXY_ACCOUNT).await.is_ok(), "unlocked");
    }
    let version = change(&deployment, &key).await;
    assert_eq!(pass(&deployment, version).await.unwrap(), [""; 0]);
}

/// A process may be paused in the middle of a login. The server would wait ten seconds for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_under_way_is_ended_with_the_connections() {
    let deployment = Deployment::fresh().await;
    let key = Key::Int(1);
    deployment.directory(&[]).await.place(&key).await.unwrap();
    let _proxy = Proxy::register(&deployment, 1).await;
    let address = ("127.0.0.1", deployment.shards[0].server().port);
    let mut login = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_ne!(login.read(&mut [0; 1024]).await.unwrap(), 0, "the greeting");
    let version = change(&deployment, &key).await;
    assert_eq!(pass(&deployment, version).await.unwrap(), ["p1"]);
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(1), login.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the login was ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_proxy_that_cannot_be_shut_out_stops_the_barrier() {
    let deployment = Deployment::fresh().await;
    let key = Key::Int(1);
    deployment.directory(&[]).await.place(&key).await.unwrap();
    let _proxy = Proxy::register(&deployment, 1).await;
    let version = change(&deployment, &key).await;
    deployment.shards[1].crash();
    let error = pass(&deployment, version).await.unwrap_err();
    assert!(matches!(error, Error::NotRevoked { ref server, .. } if server == "b1"), "{error}");
    let dead = vec![deployment.shards[1].server().id];
    let scope = Scope { shards: vec![ShardId(1), ShardId(2)], dead };
    let passed =
        barrier::pass(&deployment.access(), version, Patience::of(&limits()), &scope, &mut |_: &Progress| {})
            .await;
    assert_eq!(passed.unwrap(), [""; 0], "revoked before, and the dead member is left out");
    deployment.shards[1].start();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_of_the_same_name_replaces_the_first_and_ends_its_connections() {
    let deployment = Deployment::fresh().await;
    let first = Proxy::register(&deployment, 1).await;
    let (_stop, task) = first.run();
    let mut left_over = deployment.shards[0].conn(PROXY_ACCOUNT).await.unwrap();
    let _second = Proxy::register(&deployment, 2).await;
    assert!(left_over.query_drop("SELECT 1").await.is_err());
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Replaced { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_lives_through_an_outage_of_the_global_master() {
    let deployment = Deployment::fresh().await;
    let key = Key::Int(1);
    deployment.directory(&[]).await.place(&key).await.unwrap();
    let proxy = Proxy::register(&deployment, 1).await;
    let (_stop, task) = proxy.run();
    until("the first poll", async || proxy.directory.metrics().global_up.get() == 1).await;
    let located = proxy.directory.locate(&key).await.unwrap();
    deployment.global.crash();
    until("the outage to be seen", async || proxy.directory.metrics().global_up.get() == 0).await;
    assert_eq!(proxy.directory.locate(&key).await.unwrap(), located);
    deployment.global.start();
    until("the return to be seen", async || proxy.directory.metrics().global_up.get() == 1).await;
    let version = change(&deployment, &key).await;
    until("the new version", async || proxy.directory.state().version == version).await;
    assert!(!task.is_finished());
    assert_eq!(located.unwrap().generation, Generation(1));
}

/// What an earlier process left on a server that does not answer may go on there once it does.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_could_not_be_ended_are_not_counted_as_gone() {
    let deployment = Deployment::fresh().await;
    let key = Key::Int(1);
    deployment.directory(&[]).await.place(&key).await.unwrap();
    let mut left_over = deployment.shards[1].conn(PROXY_ACCOUNT).await.unwrap();
    let frozen = deployment.shards[1].server().id;
    deployment.shards[1].freeze();
    let proxy = Proxy::register(&deployment, 1).await;
    assert_eq!(*proxy.hooks.barred.lock().unwrap(), [frozen]);
    let (_stop, _task) = proxy.run();
    let version = change(&deployment, &key).await;
    let first = Scope { shards: vec![ShardId(1)], dead: vec![] };
    let patience = Patience::of(&limits());
    let passed = barrier::pass(&deployment.access(), version, patience, &first, &mut |_: &Progress| {}).await;
    assert_eq!(passed.unwrap(), [""; 0], "another shard is none of its business");
    let error = pass(&deployment, version).await.unwrap_err();
    assert!(matches!(error, Error::LeftOver { ref server, .. } if server == "b1"), "{error}");
    proxy.participant.leave(true).await.unwrap();
    assert_eq!(rows::proxies(&deployment.access()).await.unwrap().len(), 1, "it may not leave unseen either");
    deployment.shards[1].thaw();
    until("the barrier to pass", async || pass(&deployment, version).await.is_ok()).await;
    assert!(left_over.query_drop("SELECT 1").await.is_err());
    until("the server to be used", async || proxy.hooks.barred.lock().unwrap().is_empty()).await;
    assert_eq!(proxy.hooks.revoked.load(Ordering::SeqCst), 0);
    assert!(deployment.shards[1].conn(PROXY_ACCOUNT).await.is_ok());
}

/// Where a member is dead, nobody but the proxy itself can end what it has open there.
#[tokio::test(flavor = "multi_thread")]
async fn a_living_proxy_can_be_made_to_begin_anew() {
    let deployment = Deployment::fresh().await;
    let key = Key::Int(1);
    deployment.directory(&[]).await.place(&key).await.unwrap();
    let proxy = Proxy::register(&deployment, 1).await;
    let (_stop, _task) = proxy.run();
    proxy.hooks.stuck.store(true, Ordering::SeqCst);
    let version = change(&deployment, &key).await;
    let dead = vec![deployment.shards[1].server().id];
    let scope = Scope { shards: vec![ShardId(1), ShardId(2)], dead };
    let patience = Patience { undrained: Undrained::Revoke, ..Patience::of(&limits()) };
    let passed = barrier::pass(&deployment.access(), version, patience, &scope, &mut |_: &Progress| {}).await;
    assert_eq!(passed.unwrap(), ["p1"]);
    assert_eq!(proxy.hooks.revoked.load(Ordering::SeqCst), 1, "it has let its connections go by now");
    proxy.hooks.stuck.store(false, Ordering::SeqCst);
}
