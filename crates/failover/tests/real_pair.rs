//! Flips on a real pair while somebody writes all the time: no acknowledged write may be lost, whatever step a flip
//! is stopped at.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, params};
use tokio::task::JoinHandle;
use usher_config::{Config, Limits};
use usher_directory::server::{self, Family};
use usher_directory::{Global, State, rows, schema};
use usher_failover::{Error, Flips, Outcome, Progress, Refusal, Step};
use usher_playground::{Endpoints, Options, Playground, Server as Kind, ServerEndpoint, TestFolder};
use usher_topology::{Epoch, Role, Server, ServerId, Shard, ShardId, ShardState};

struct Pair {
    _folder: TestFolder,
    endpoints: Endpoints,
    config: Config,
    global: Global,
    flips: Flips,
}

impl Pair {
    async fn up(kind: Kind) -> Self {
        let folder = TestFolder::new(env!("CARGO_TARGET_TMPDIR").as_ref(), &format!("flip-{kind}"));
        let mut options = Options::new(folder.path());
        (options.shards, options.replicas, options.server, options.proxy) = (1, 1, kind, false);
        let endpoints = Playground::up(options).await.unwrap();
        let config = usher_config::load(&folder.path().join("usher.toml")).unwrap();
        let global = Global::new(&config.global, &config.backend_tls, &config.limits);
        schema::apply(&global).await.unwrap();
        register(&global, &endpoints).await;
        schema::apply(&global).await.unwrap();
        let flips = Flips::new(global.clone(), Limits::default());
        Self { _folder: folder, endpoints, config, global, flips }
    }

    async fn shard(&self) -> Shard {
        State::load(&self.global).await.unwrap().topology.shard_named("s1").unwrap().clone()
    }

    async fn control(&self, name: &str) -> (Conn, Family) {
        let shard = self.shard().await;
        let mut conn = self.global.server_conn(shard.server_named(name).unwrap()).await.unwrap();
        let family = server::family(&mut conn).await.unwrap();
        (conn, family)
    }

    /// One writable member, the one that the row names; both channels run; the replica reads from the writer.
    async fn check_roles(&self) {
        let shard = self.shard().await;
        assert_eq!(shard.state, ShardState::Rw);
        for member in shard.members() {
            let (mut conn, family) = self.control(&member.name).await;
            let writable = server::is_writable(&mut conn).await.unwrap();
            assert_eq!(writable, member.id == shard.writer, "{}", member.name);
            let other = shard.members().find(|other| other.id != member.id).unwrap();
            let channels = server::channels(&mut conn, family).await.unwrap();
            assert!(channels.iter().any(|c| c.source_port == other.port && c.runs()), "{channels:?}");
        }
    }

    async fn check_replica(&self) {
        let shard = self.shard().await;
        let replica = shard.replicas().next().unwrap();
        let (mut conn, family) = self.control(&replica.name).await;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let channels = server::channels(&mut conn, family).await.unwrap();
            if channels.len() == 1
                && channels[0].runs()
                && channels[0].source_port == shard.writer().unwrap().port
            {
                return;
            }
            assert!(Instant::now() < deadline, "the replica does not follow: {channels:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What the playground may have done already.
async fn register(global: &Global, endpoints: &Endpoints) {
    let state = State::load(global).await.unwrap();
    if state.topology.shard_named("s1").is_some() {
        return;
    }
    let server = |id: u32, endpoint: &ServerEndpoint, role| Server {
        id: ServerId(id),
        name: endpoint.name.clone(),
        host: endpoint.host.clone(),
        port: endpoint.port,
        role,
    };
    let shard = |id: u16, name: &str, servers| Shard {
        id: ShardId(id),
        name: name.to_owned(),
        state: ShardState::Rw,
        epoch: Epoch(1),
        writer: ServerId(u32::from(id) * 10 + 1),
        weight: 100,
        servers,
    };
    let [g1, g2] = &endpoints.global.members;
    let global_shard = shard(0, "global", vec![server(1, g1, Role::Member), server(2, g2, Role::Member)]);
    schema::register_shard(global, &global_shard).await.unwrap();
    let first = &endpoints.shards[0];
    let mut servers =
        vec![server(11, &first.members[0], Role::Member), server(12, &first.members[1], Role::Member)];
    servers.extend(first.replicas.iter().map(|replica| server(13, replica, Role::Replica)));
    schema::register_shard(global, &shard(1, "s1", servers)).await.unwrap();
}

/// Writes one row after the other through a proxy's account, wherever the row says. Returns what was acknowledged.
struct Writing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<u64>>,
}

impl Writing {
    async fn begin(pair: &Pair) -> Self {
        let (mut conn, _) = pair.control(&pair.shard().await.writer().unwrap().name.clone()).await;
        conn.query_drop("CREATE TABLE IF NOT EXISTS app.written (id BIGINT PRIMARY KEY)").await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write(
            pair.global.clone(),
            pair.config.proxy.as_ref().map(|p| (p.backend_user.clone(), p.backend_password.clone())).unwrap(),
            pair.shard().await,
            Arc::clone(&stop),
        ));
        Self { stop, task }
    }

    async fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn write(global: Global, account: (String, String), shard: Shard, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let mut conn: Option<(ServerId, Conn)> = None;
    let mut next = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let row = rows::flip_row(&global, shard.id).await.unwrap().unwrap();
        if row.state != ShardState::Rw {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        if conn.as_ref().is_none_or(|(id, _)| *id != row.writer) {
            let server = shard.server(row.writer).unwrap();
            let opts = OptsBuilder::default()
                .ip_or_hostname(&server.host)
                .tcp_port(server.port)
                .user(Some(&account.0))
                .pass(Some(&account.1))
                .prefer_socket(false);
            conn = Conn::new(opts).await.ok().map(|conn| (row.writer, conn));
        }
        let Some((_, open)) = conn.as_mut() else { continue };
        next += 1;
        match open.exec_drop("INSERT INTO app.written VALUES (?)", (next,)).await {
            Ok(()) => acknowledged.push(next),
            Err(_) => conn = None,
        }
    }
    acknowledged
}

async fn prove(pair: &Pair, acknowledged: &[u64]) {
    assert!(acknowledged.len() > 20, "only {} writes", acknowledged.len());
    let shard = pair.shard().await;
    let (mut writer, family) = pair.control(&shard.writer().unwrap().name).await;
    let target = server::position(&mut writer, family).await.unwrap();
    for copy in &shard.servers {
        let (mut conn, family) = pair.control(&copy.name).await;
        assert!(
            server::reached(&mut conn, family, &target, Duration::from_secs(10)).await.unwrap(),
            "{}",
            copy.name
        );
        let ids: Vec<u64> = conn.query("SELECT id FROM app.written ORDER BY id").await.unwrap();
        let lost: Vec<_> = acknowledged.iter().filter(|id| ids.binary_search(id).is_err()).collect();
        assert!(lost.is_empty(), "{} lacks {lost:?}", copy.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb() {
    live(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    let home = std::env::var_os("USHER_MYSQL_ROOT")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/usher/mysql-9.7")));
    if !home.is_some_and(|root| root.join("usr/sbin/mysqld").exists()) {
        eprintln!("SKIPPED: MySQL is not cached");
        return;
    }
    live(Kind::Mysql).await;
}

async fn live(kind: Kind) {
    let pair = Pair::up(kind).await;
    let writing = Writing::begin(&pair).await;
    there_and_back(&pair).await;
    stopped_at_each_step(&pair).await;
    open_transactions_end(&pair).await;
    claims_are_recorded(&pair).await;
    let acknowledged = writing.end().await;
    prove(&pair, &acknowledged).await;
    an_unreachable_writer_is_replaced_behind_a_barrier(&pair).await;
    refusals(&pair).await;
}

async fn there_and_back(pair: &Pair) {
    let mut begun = Vec::new();
    let report = pair
        .flips
        .flip("s1", None, "test", &mut |progress| {
            if let Progress::Begins(step) = progress {
                begun.push(*step);
            }
        })
        .await
        .unwrap();
    eprintln!("{report:?}");
    assert_eq!((report.outcome, report.from.as_str(), report.to.as_str()), (Outcome::Flipped, "s1a", "s1b"));
    assert_eq!(begun.first(), Some(&Step::Announce));
    assert!(report.hold_ms < 3_000, "{report:?}");
    assert_eq!(report.warnings, Vec::<String>::new());
    pair.check_roles().await;
    pair.check_replica().await;
    let again = pair.flips.flip("s1", Some("s1b"), "test", &mut |_| ()).await.unwrap();
    assert_eq!((again.outcome, again.epoch), (Outcome::Already, report.epoch));
    // Nothing may have been written in between: the new writer's last transaction may then be its own.
    let back = pair.flips.flip("s1", Some("s1a"), "test", &mut |_| ()).await.unwrap();
    assert_eq!((back.outcome, back.epoch), (Outcome::Flipped, report.epoch + 1));
    pair.check_roles().await;
    pair.check_replica().await;
}

/// Drops the flip while a step is on its way, as if its process had died there.
async fn stop_at(pair: &Pair, step: Step) -> bool {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut on_progress = |progress: &Progress| {
        if *progress == Progress::Begins(step) {
            tell.send(()).unwrap();
        }
    };
    tokio::select! {
        biased;
        report = pair.flips.flip("s1", None, "doomed", &mut on_progress) => panic!("it ended: {report:?}"),
        stopped = told.recv() => stopped.is_some(),
    }
}

async fn stopped_at_each_step(pair: &Pair) {
    use Step::{Announce, CatchUp, Close, Commit, Drain, EndSessions, Open, Position, Release};
    for step in [Announce, Drain, Close, EndSessions, Position, CatchUp, Commit, Open, Release] {
        let before = pair.shard().await.writer;
        assert!(stop_at(pair, step).await);
        // A statement on its way when its sender dies may still be executed.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let outcomes = pair.flips.resume("resumer").await.unwrap();
            let busy = outcomes.iter().any(|outcome| matches!(outcome, Err(Error::Taken { .. })));
            if !busy && pair.shard().await.state == ShardState::Rw {
                break;
            }
            assert!(Instant::now() < deadline, "{step}: {outcomes:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let after = pair.shard().await.writer;
        eprintln!("stopped at {step}: {before} -> {after}");
        if matches!(step, Drain | Close | EndSessions | Position | CatchUp) {
            assert_eq!(before, after, "undone");
        }
        if matches!(step, Open | Release) {
            assert_ne!(before, after, "finished");
        }
        pair.check_roles().await;
        pair.check_replica().await;
    }
}

/// A transaction of an account that may write in spite of read-only is ended, and nothing of it is there afterwards.
async fn open_transactions_end(pair: &Pair) {
    let shard = pair.shard().await;
    let (mut conn, _) = pair.control(&shard.writer().unwrap().name).await;
    conn.query_drop("START TRANSACTION").await.unwrap();
    conn.query_drop("INSERT INTO app.written VALUES (4000000000)").await.unwrap();
    let report = pair.flips.flip("s1", None, "test", &mut |_| ()).await.unwrap();
    assert!(report.sessions_ended >= 1, "{report:?}");
    assert!(conn.query_drop("COMMIT").await.is_err());
    let (mut conn, _) = pair.control(&report.to).await;
    let found: Option<u8> =
        conn.query_first("SELECT 1 FROM app.written WHERE id = 4000000000").await.unwrap();
    assert_eq!(found, None);
    pair.check_roles().await;
}

async fn claims_are_recorded(pair: &Pair) {
    let shard = pair.shard().await;
    let (writer, standby) = (shard.writer().unwrap().name.clone(), shard.standby().unwrap().name.clone());
    let epoch = shard.epoch.0;
    let claim = async |name: &str, epoch: u64, force: bool| {
        pair.flips.set_writer("s1", name, epoch, force, "orc").await
    };
    assert!(!claim(&writer, epoch, false).await.unwrap(), "it is so already");
    assert!(matches!(claim(&writer, epoch - 1, true).await, Err(Error::Claim { .. })));
    assert!(matches!(claim(&standby, epoch, true).await, Err(Error::Claim { .. })));
    assert!(matches!(claim(&standby, epoch + 1, true).await, Err(Error::Claim { .. })), "the writer is open");
    assert!(matches!(claim("s1r1", epoch + 1, true).await, Err(Error::Claim { .. })), "a replica");
    assert!(matches!(pair.flips.set_writer("s9", "x", 1, false, "orc").await, Err(Error::NoShard(_))));
    // What an external controller does: close, catch up, open, tell.
    let (mut old, family) = pair.control(&writer).await;
    let (mut new, _) = pair.control(&standby).await;
    server::close(&mut old, family, Duration::from_secs(2)).await.unwrap();
    let last = server::position(&mut old, family).await.unwrap();
    assert!(server::reached(&mut new, family, &last, Duration::from_secs(5)).await.unwrap());
    assert!(
        matches!(claim(&standby, epoch + 1, false).await, Err(Error::Claim { .. })),
        "it is not open yet"
    );
    server::open(&mut new, family).await.unwrap();
    server::acknowledged(&mut old, family, false).await.unwrap();
    assert!(claim(&standby, epoch + 4, false).await.unwrap());
    assert!(!claim(&standby, epoch + 4, false).await.unwrap());
    pair.check_roles().await;
    assert_eq!(pair.shard().await.epoch.0, epoch + 4);
}

fn signal(pair: &Pair, server: &str, signal: &str) {
    let members = &pair.endpoints.shards[0].members;
    let pid = members.iter().find(|member| member.name == server).unwrap().pid.to_string();
    assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

/// The other member only does not answer here; proxies may reach it. One that lives has to acknowledge first, one that
/// is silent is revoked.
async fn an_unreachable_writer_is_replaced_behind_a_barrier(pair: &Pair) {
    let shard = pair.shard().await;
    let (old, new) = (shard.writer().unwrap().name.clone(), shard.standby().unwrap().name.clone());
    let (mut conn, family) = pair.control(&new).await;
    signal(pair, &old, "-STOP");
    server::open(&mut conn, family).await.unwrap();
    let epoch = shard.epoch.0 + 1;
    let unforced = pair.flips.set_writer("s1", &new, epoch, false, "orc").await.unwrap_err();
    assert!(unforced.to_string().contains("may still take writes"), "{unforced}");
    assert_eq!(pair.shard().await, shard, "nothing has changed");

    let mut global = pair.global.conn().await.unwrap();
    let version: Option<u64> = global.query_first("SELECT version FROM usher.control").await.unwrap();
    global
        .exec_drop(
            "INSERT INTO usher.proxies (proxy_id, boot_id, account, drained_version, seen_version, alive_at) \
             VALUES ('silent', 1, 'px_silent', :v, :v, NOW(3) - INTERVAL 1 HOUR), \
             ('living', 2, 'px_living', :v, :v, NOW(3) + INTERVAL 1 HOUR)",
            params! { "v" => version },
        )
        .await
        .unwrap();
    let flips = pair.flips.clone();
    let claim = tokio::spawn({
        let new = new.clone();
        async move { flips.set_writer("s1", &new, epoch, true, "orc").await }
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    let revoked = "SELECT revoked FROM usher.proxies WHERE proxy_id = 'silent'";
    while global.query_first(revoked).await.unwrap() != Some(1) {
        assert!(Instant::now() < deadline && !claim.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let meanwhile = pair.shard().await;
    assert_eq!((meanwhile.state, meanwhile.writer), (ShardState::Down, shard.writer), "not before all know");
    let drained = "UPDATE usher.proxies JOIN usher.control SET seen_version = version, drained_version = version \
                   WHERE proxy_id = 'living'";
    global.query_drop(drained).await.unwrap();
    assert!(claim.await.unwrap().unwrap());
    let after = pair.shard().await;
    assert_eq!((after.state, after.writer().unwrap().name.as_str()), (ShardState::Rw, new.as_str()));
    assert_eq!(after.epoch.0, epoch);
    global.query_drop("DELETE FROM usher.proxies WHERE proxy_id IN ('silent', 'living')").await.unwrap();

    signal(pair, &old, "-CONT");
    let (mut conn, family) = pair.control(&old).await;
    server::close(&mut conn, family, Duration::from_secs(2)).await.unwrap();
    server::acknowledged(&mut conn, family, false).await.unwrap();
    pair.check_roles().await;
}

async fn refusals(pair: &Pair) {
    let refusal = async |to: Option<&str>| match pair.flips.flip("s1", to, "test", &mut |_| ()).await {
        Err(Error::Refused { refusal, .. }) => refusal,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refusal(Some("s1r1")).await, Refusal::NotAMember("s1r1".into()));
    let global = pair.flips.flip("global", None, "test", &mut |_| ()).await;
    assert!(matches!(global, Err(Error::Refused { refusal: Refusal::Global, .. })), "{global:?}");
    let shard = pair.shard().await;
    let standby = shard.standby().unwrap().name.clone();
    let (mut conn, family) = pair.control(&standby).await;
    let (stop, start) = match family {
        Family::MariaDb => ("STOP SLAVE", "START SLAVE"),
        Family::MySql => ("STOP REPLICA", "START REPLICA"),
    };
    conn.query_drop(stop).await.unwrap();
    assert!(matches!(refusal(None).await, Refusal::Channel { .. }));
    conn.query_drop(start).await.unwrap();
    let writer = shard.writer().unwrap().name.clone();
    let members = &pair.endpoints.shards[0].members;
    let pid = members.iter().find(|member| member.name == writer).unwrap().pid;
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let refused = refusal(None).await;
        if let Refusal::WriterDown { name, .. } = &refused {
            assert_eq!(name, &writer);
            assert!(refused.to_string().contains("planned flip needs it"));
            break;
        }
        assert!(Instant::now() < deadline, "{refused}");
    }
}
