//! A whole life of a playground on real servers: made, used, flipped, crashed, repaired, stopped, taken up again.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use mysql_async::prelude::Queryable;
use support::Db;
use usher_playground::{Endpoints, Options, Playground, ProcessState, Server, ServerEndpoint, TestFolder};

#[tokio::test(flavor = "multi_thread")]
async fn mariadb() {
    live(Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    if let Some(reason) = usher_playground::why_no_mysql() {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    live(Server::Mysql).await;
}

async fn live(kind: Server) {
    let folder = TestFolder::new(env!("CARGO_TARGET_TMPDIR").as_ref(), &format!("life-{kind}"));
    let options = Options { server: kind, ..Options::new(folder.path()) };
    let made = support::timed("up", Playground::up(options.clone())).await.unwrap();
    assert_eq!(Endpoints::load(folder.path()).unwrap(), made);
    assert_eq!((made.global.writer.as_str(), made.shards.len(), made.memcached.len()), ("g1", 2, 2));

    let again = support::timed("up, nothing to do", Playground::up(options.clone())).await.unwrap();
    assert_eq!(again, made, "nothing was started again");

    for pair in support::pairs(&made) {
        check_roles(kind, &pair).await;
        check_flow(kind, &pair, 1).await;
    }
    tls_is_offered(&folder, &made).await;
    stale_proxy_is_stopped(kind, &made).await;
    flip_and_back(kind, &support::pairs(&made)[1]).await;
    crash_and_repair(kind, &folder, &options, &made).await;
    no_acknowledgement_no_commit(kind, &folder, &options).await;
    stop_and_continue(kind, &folder, &options, &made).await;
}

/// Writer first, then standby and replicas.
type Pair = Vec<ServerEndpoint>;

async fn check_roles(kind: Server, pair: &Pair) {
    let followers = (pair.len() - 1).to_string();
    for (position, server) in pair.iter().enumerate() {
        let mut db = Db::open(kind, server).await;
        let is_writer = position == 0;
        assert_eq!(db.one::<bool>("SELECT @@global.read_only").await, !is_writer, "{}", server.name);
        if is_writer {
            assert_eq!(db.semi_sync("status").await, "ON", "{}", server.name);
            assert_eq!(db.semi_sync("clients").await, followers, "{}", server.name);
        }
        for (setting, value) in [("binlog_row_image", "FULL"), ("binlog_row_metadata", "FULL")] {
            assert_eq!(db.one::<String>(&format!("SELECT @@global.{setting}")).await, value);
        }
        assert_eq!(db.one::<u32>("SELECT @@global.auto_increment_increment").await, 2);
        assert!(db.one::<bool>("SELECT @@ssl_cert LIKE '%server-cert.pem'").await);
    }
}

/// A row written on the writer is awaited by GTID and read everywhere else.
async fn check_flow(kind: Server, pair: &Pair, id: u32) {
    let mut writer = Db::open(kind, &pair[0]).await;
    writer.run("CREATE TABLE IF NOT EXISTS app.flow (id INT PRIMARY KEY, origin TEXT)").await;
    writer.run(&format!("INSERT INTO app.flow VALUES ({id}, '{}')", pair[0].name)).await;
    let position = writer.position().await;
    for server in &pair[1..] {
        let mut follower = Db::open(kind, server).await;
        follower.reach(&position).await;
        let origin: String = follower.one(&format!("SELECT origin FROM app.flow WHERE id = {id}")).await;
        assert_eq!(origin, pair[0].name, "on {}", server.name);
    }
}

/// A proxy's account cannot write on a standby, nor make it writable.
async fn stale_proxy_is_stopped(kind: Server, made: &Endpoints) {
    let config = std::fs::read_to_string(support::folder_of(made).join("usher.toml")).unwrap();
    let config = usher_config::parse(&config, "usher.toml".as_ref(), std::iter::empty()).unwrap();
    let proxy = config.proxy.unwrap();
    let standby = &made.shards[0].members[1];
    let mut login = standby.clone();
    (login.user, login.password) = (proxy.backend_user, proxy.backend_password);
    let mut db = Db::open(kind, &login).await;
    for sql in
        ["INSERT INTO app.flow VALUES (999, 'stale')", "SET GLOBAL read_only = OFF", "SET sql_log_bin = 0"]
    {
        let refused = db.conn.query_drop(sql).await.unwrap_err();
        let mysql_async::Error::Server(refused) = refused else { panic!("{sql}: {refused}") };
        assert!([1290, 1227].contains(&refused.code), "{sql}: {refused}");
    }
    login.port = made.shards[0].members[0].port;
    let mut db = Db::open(kind, &login).await;
    db.run("INSERT INTO app.flow VALUES (998, 'current')").await;
}

/// The other direction of the ring: the standby becomes the writer, the writer follows it.
async fn flip_and_back(kind: Server, pair: &Pair) {
    let mut flipped = pair.clone();
    flipped.swap(0, 1);
    support::flip(kind, &pair[0], &pair[1]).await;
    check_flow(kind, &flipped, 2).await;
    support::flip(kind, &pair[1], &pair[0]).await;
    check_flow(kind, pair, 3).await;
    check_roles(kind, pair).await;
}

async fn crash_and_repair(kind: Server, folder: &TestFolder, options: &Options, made: &Endpoints) {
    // A writer, a standby and a replica of different pairs.
    for (id, name) in [(10, "s1a"), (11, "s2b"), (12, "s1r1"), (13, "g2")] {
        let server = made.servers().find(|s| s.name == name).unwrap();
        support::kill_9(server.pid).await;
        let status = Playground::status(folder.path()).await.unwrap();
        let crashed = status.processes.iter().filter(|p| p.state == ProcessState::Crashed);
        assert_eq!(crashed.map(|p| p.name.as_str()).collect::<Vec<_>>(), [name]);
        assert!(!status.all_running());

        let repaired =
            support::timed(&format!("repair of {name}"), Playground::up(options.clone())).await.unwrap();
        for (before, after) in made.servers().zip(repaired.servers()) {
            assert_eq!((&before.name, before.port), (&after.name, after.port));
        }
        assert!(Playground::status(folder.path()).await.unwrap().all_running());
        for pair in support::pairs(&repaired) {
            check_flow(kind, &pair, id).await;
            check_roles(kind, &pair).await;
        }
    }
}

/// While the only follower is dead, a commit waits; it ends when `up` has brought the follower back.
async fn no_acknowledgement_no_commit(kind: Server, folder: &TestFolder, options: &Options) {
    let running = Endpoints::load(folder.path()).unwrap();
    let [writer, standby] = &running.global.members;
    support::kill_9(standby.pid).await;
    let mut db = Db::open(kind, writer).await;
    let mut commit = tokio::spawn(async move { db.run("INSERT INTO app.flow VALUES (15, 'waited')").await });
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut commit).await.is_err(), "it did not wait");
    Playground::up(options.clone()).await.unwrap();
    commit.await.unwrap();
    check_flow(kind, &vec![writer.clone(), standby.clone()], 16).await;
}

/// A flip as the controller would do it: the topology row says so too, and the next `up` has to keep to it.
async fn move_writer(kind: Server, running: &Endpoints) {
    let [old, new] = &running.shards[1].members;
    support::flip(kind, old, new).await;
    let mut global = Db::open(kind, &running.global.members[0]).await;
    let rows: u32 = global.one("SELECT COUNT(*) FROM usher.servers").await;
    assert_eq!(rows, 8);
    let set = "SET s.writer_id = w.server_id, s.epoch = s.epoch + 1";
    let join = "usher.shards s JOIN usher.servers w ON w.shard_id = s.shard_id";
    global.run(&format!("UPDATE {join} {set} WHERE s.name = 's2' AND w.name = 's2b'")).await;
}

async fn tls_is_offered(folder: &TestFolder, made: &Endpoints) {
    for server in [&made.global.members[0], &made.shards[1].replicas[0]] {
        let ca = folder.path().join("tls/ca.pem");
        let mut db = Db::open_tls(server, &ca).await;
        let (_, cipher): (String, String) = db.one("SHOW STATUS LIKE 'Ssl_cipher'").await;
        assert!(!cipher.is_empty());
    }
}

async fn stop_and_continue(kind: Server, folder: &TestFolder, options: &Options, made: &Endpoints) {
    let running = Endpoints::load(folder.path()).unwrap();
    move_writer(kind, &running).await;
    support::timed("down", Playground::down(folder.path())).await.unwrap();
    let status = Playground::status(folder.path()).await.unwrap();
    assert!(status.processes.iter().all(|p| p.state == ProcessState::Stopped), "{status}");
    for server in running.servers() {
        assert!(!support::runs(server.pid), "{} still runs", server.name);
        std::net::TcpListener::bind(("127.0.0.1", server.port)).unwrap();
    }
    Playground::down(folder.path()).await.unwrap();

    let grown = Options { shards: 3, ..options.clone() };
    let after = support::timed("up with old data and one more shard", Playground::up(grown)).await.unwrap();
    assert_eq!(after.shards.len(), 3);
    assert_eq!((after.shards[0].writer.as_str(), after.shards[1].writer.as_str()), ("s1a", "s2b"));
    assert_eq!(after.shards[0].members[0].port, made.shards[0].members[0].port);
    for pair in support::pairs(&after) {
        check_flow(kind, &pair, 20).await;
        check_roles(kind, &pair).await;
    }
    let mut writer = Db::open(kind, &after.shards[0].members[0]).await;
    assert_eq!(writer.one::<u32>("SELECT COUNT(*) FROM app.flow WHERE id IN (1, 2, 3, 13)").await, 4);
}
