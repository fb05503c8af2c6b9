//! Finding the global master's writer, and reaching it: pairs that disagree, floods, TLS.
#![allow(clippy::unwrap_used, missing_docs, clippy::await_holding_lock)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use support::{CONTROL, Deployment, InUse, MariaDb, Memcache, limits, shard, until};
use usher_config::{BackendTls, Endpoint, GlobalMaster, Limits, Memcached, TlsMode};
use usher_directory::rows;
use usher_directory::{Directory, Error, Global, Metrics, Result, schema};
use usher_topology::{Epoch, Key, ServerId, Shard, ShardId, ShardState};

/// The deployment's first shard server plays the second member of the global pair; nothing is replicated, so each
/// member's rows can be made to say what a test wants.
struct Pair<'d> {
    g1: &'d MariaDb,
    g2: &'d MariaDb,
}

impl<'d> Pair<'d> {
    async fn of(deployment: &'d InUse) -> Self {
        let pair = Self { g1: &deployment.global, g2: &deployment.shards[0] };
        let mut second = pair.g2.server();
        second.name = "g2".to_owned();
        let mut row = shard(0, pair.g1);
        row.servers.push(second);
        for server in [pair.g1, pair.g2] {
            server.run("DROP DATABASE IF EXISTS usher").await;
            let alone = Global::new(&config(&[("x", server)]), &BackendTls::default(), &limits());
            schema::apply(&alone).await.unwrap();
            schema::register_shard(&alone, &row).await.unwrap();
        }
        pair.g2.run("SET GLOBAL read_only = 1").await;
        pair
    }

    fn access(&self) -> Global {
        Global::new(&config(&[("g1", self.g1), ("g2", self.g2)]), &BackendTls::default(), &limits())
    }

    /// Commits a flip to `g2` on `g2`, as the one who runs it would.
    async fn flip(&self) {
        let mut conn = self.g2.control().await;
        let writer = self.g2.server().id;
        let done =
            rows::cas_shard_writer_on(&mut conn, ShardId::GLOBAL, Epoch(1), writer, ShardState::Rw).await;
        assert!(done.unwrap().is_some());
    }
}

fn config(members: &[(&str, &MariaDb)]) -> GlobalMaster {
    let member = |(name, server): &(&str, &MariaDb)| Endpoint {
        name: (*name).to_owned(),
        host: "127.0.0.1".to_owned(),
        port: server.port,
    };
    GlobalMaster {
        writer_hint: None,
        user: CONTROL.0.to_owned(),
        password: CONTROL.1.to_owned(),
        members: members.iter().map(member).collect(),
    }
}

async fn writer(global: &Global) -> Result<String> {
    global.conn().await?;
    Ok(global.writer().unwrap().name)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_is_who_is_writable_and_named_by_the_newest_epoch() {
    let deployment = Deployment::fresh().await;
    let pair = Pair::of(&deployment).await;
    let global = pair.access();
    assert_eq!(writer(&global).await.unwrap(), "g1");

    pair.g1.run("SET GLOBAL read_only = 1").await;
    pair.g2.run("SET GLOBAL read_only = 0").await;
    let error = writer(&global).await.unwrap_err();
    assert!(error.is_global_unavailable(), "g2 is open, but no row names it yet: {error}");
    pair.flip().await;
    until("the flip to be found", async || writer(&global).await.is_ok_and(|name| name == "g2")).await;

    // The former writer comes back writable, by somebody's mistake, and still believes in itself.
    pair.g1.run("SET GLOBAL read_only = 0").await;
    assert_eq!(writer(&pair.access()).await.unwrap(), "g2", "the newer epoch counts");
    pair.g2.crash();
    let error = writer(&global).await.unwrap_err();
    assert!(error.is_global_unavailable(), "an older epoch is never believed again: {error}");
    pair.g2.start();
    until("g2 to be found again", async || writer(&global).await.is_ok_and(|name| name == "g2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_does_not_hold_up_the_search() {
    let deployment = Deployment::fresh().await;
    let pair = Pair::of(&deployment).await;
    // Takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&[("g1", pair.g1), ("g2", pair.g2)]);
    config.members[1].port = silent.local_addr().unwrap().port();
    let global = Global::new(&config, &BackendTls::default(), &limits());
    let began = Instant::now();
    assert_eq!(writer(&global).await.unwrap(), "g1");
    assert!(began.elapsed() < Duration::from_millis(limits().connect_ms / 2), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_misses_waits_its_turn_and_no_longer() {
    let deployment = Deployment::fresh().await;
    let limits = Limits { directory_lookups_max: 2, directory_lookup_ms: 300, ..limits() };
    let directory = deployment.directory_with(&[], &limits).await;
    let tasks: Vec<_> = (0..100)
        .map(|id| {
            let directory = Arc::clone(&directory);
            tokio::spawn(async move { directory.locate(&Key::Int(id)).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), None);
    }
    let mut lock = deployment.global.control().await;
    lock.query_drop("LOCK TABLES usher.directory WRITE").await.unwrap();
    let tasks: Vec<_> = (100..110)
        .map(|id| {
            let directory = Arc::clone(&directory);
            tokio::spawn(async move { directory.locate_fresh(&Key::Int(id)).await })
        })
        .collect();
    let mut busy = 0;
    for task in tasks {
        match task.await.unwrap() {
            Err(Error::Busy { limit }) => {
                assert_eq!(limit, 2);
                busy += 1;
            }
            other => assert_eq!(other.unwrap(), None, "the shards were asked"),
        }
    }
    assert!(busy >= 4, "{busy}");
    assert!(directory.metrics().lookups_busy.get() >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_anew_refuses_what_moved_before_it_was_there() {
    let deployment = Deployment::fresh().await;
    let (global, m1) = (deployment.access(), Memcache::start());
    let setup = deployment.directory(&[]).await;
    let key = Key::Int(9);
    let placed = setup.place(&key).await.unwrap();
    let (id, _) = rows::insert_move(
        &global,
        &rows::NewMove {
            key: key.clone(),
            src: placed.shard,
            dst: ShardId(3 - placed.shard.0),
            mode: rows::MoveMode::Locked,
            phase: "done".to_owned(),
            started_by: "test".to_owned(),
            reason: String::new(),
        },
    )
    .await
    .unwrap();
    let epoch = rows::take_mover_lease(&global, id, "c1", Duration::from_secs(5)).await.unwrap().unwrap();
    let change = rows::DirectoryChange { shard: Some(ShardId(3 - placed.shard.0)), ..Default::default() };
    let update = rows::MoveUpdate::default();
    let changed =
        rows::cas_directory(&global, &key, placed.generation, &change, Some((id, epoch, &update))).await;
    changed.unwrap().unwrap();
    rows::finish_move(&global, id, epoch, &update).await.unwrap().unwrap();

    let stale = format!("1 {} 1 1 {key}", placed.shard);
    m1.raw(&format!("set usher:user:{key} 0 60 {}\r\n{stale}\r\n", stale.len()));
    let memcached = Memcached { servers: vec![m1.address()] };
    let directory = Directory::new(deployment.access(), &memcached, &limits(), Metrics::default());
    let who = usher_directory::Registration {
        proxy_id: "p9".to_owned(),
        boot_id: 1,
        account: support::PROXY_ACCOUNT.0.to_owned(),
        http_address: None,
        number: 0,
    };
    let registered =
        usher_directory::Participant::register(Arc::clone(&directory), who, Arc::new(Quiet) as _).await;
    registered.unwrap();
    assert_eq!(directory.locate(&key).await.unwrap().unwrap().shard, change.shard.unwrap());
}

struct Quiet;

impl usher_directory::Hooks for Quiet {
    fn installed(&self, _: &Arc<usher_directory::State>, _: &Arc<usher_directory::State>) {}
    fn drain(
        &self,
        _: Arc<usher_directory::State>,
        _: Arc<usher_directory::State>,
    ) -> usher_directory::BoxFuture<'static, ()> {
        Box::pin(async {})
    }
    fn revoked(&self) {}
    fn registered(&self, _: &Arc<usher_directory::State>, _: &[ServerId]) {}
    fn unbarred(&self, _: ServerId) {}
    fn numbered(&self, _: u8) {}
    fn accounts(&self, _: Vec<rows::AccountRow>) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_cannot_take_each_others_servers() {
    let deployment = Deployment::fresh().await;
    let global = deployment.access();
    let mut third = shard(3, &deployment.shards[0]);
    let error = schema::register_shard(&global, &third).await.unwrap_err();
    assert!(error.to_string().contains("clashes with server 11"), "{error}");
    third.servers[0].id = ServerId(31);
    third.writer = ServerId(31);
    let error = schema::register_shard(&global, &third).await.unwrap_err();
    assert!(error.to_string().contains("(a1)"), "the name is taken too: {error}");
    let mut first: Shard = shard(1, &deployment.shards[0]);
    first.servers[0].id = ServerId(12);
    first.servers[0].name = "a2".to_owned();
    first.writer = ServerId(12);
    let error = schema::register_shard(&global, &first).await.unwrap_err();
    assert!(error.to_string().contains("present writer must stay"), "{error}");
    let before = rows::sequences(&global).await.unwrap();
    assert_eq!(before, []);
    rows::ensure_sequence(&global, "a.b", 10).await.unwrap();
    let version = usher_directory::State::load(&global).await.unwrap().version;
    assert_eq!(rows::jump_after_loss(&global, 1000, 50).await.unwrap(), version + 50);
    assert_eq!(rows::sequences(&global).await.unwrap()[0].next, 1010);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_used_as_configured() {
    let deployment = Deployment::fresh().await;
    let server = &deployment.global;
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (cert, secret) = (deployment.folder().join("cert.pem"), deployment.folder().join("key.pem"));
    std::fs::write(&cert, key.cert.pem()).unwrap();
    std::fs::write(&secret, key.signing_key.serialize_pem()).unwrap();
    server.crash();
    server.start_with(&[format!("--ssl-cert={}", cert.display()), format!("--ssl-key={}", secret.display())]);

    let cipher = async |mode, ca| {
        let tls = BackendTls { mode, ca };
        let global = Global::new(&config(&[("g1", server)]), &tls, &limits());
        let mut conn = global.conn().await?;
        let row: Option<(String, String)> =
            conn.query_first("SHOW SESSION STATUS LIKE 'Ssl_cipher'").await.unwrap();
        Ok::<_, Error>(row.unwrap().1)
    };
    assert_eq!(cipher(TlsMode::Off, None).await.unwrap(), "");
    assert_ne!(cipher(TlsMode::Preferred, None).await.unwrap(), "");
    assert_ne!(cipher(TlsMode::Required, Some(cert.clone())).await.unwrap(), "");
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let stranger = deployment.folder().join("stranger.pem");
    std::fs::write(&stranger, other.cert.pem()).unwrap();
    assert!(cipher(TlsMode::Required, Some(stranger)).await.unwrap_err().is_global_unavailable());

    server.crash();
    server.start_with(&["--skip-ssl".to_owned()]);
    assert_eq!(cipher(TlsMode::Preferred, None).await.unwrap(), "", "the server offers none");
    assert!(cipher(TlsMode::Required, Some(cert)).await.unwrap_err().is_global_unavailable());
    server.crash();
    server.start();
}
