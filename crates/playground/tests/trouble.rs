//! What may go wrong on the way: an `up` cut short, ports taken, a server that diverged, wrong use.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::Db;
use usher_playground::{Options, Playground, ProcessState, Progress, Server, TestFolder};

fn small(folder: &TestFolder) -> Options {
    Options { shards: 1, ..Options::new(folder.path()) }
}

/// Options that collect the warnings.
fn warned(folder: &TestFolder) -> (Options, Arc<Mutex<Vec<String>>>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let kept = warnings.clone();
    let mut options = small(folder);
    options.on_progress = Some(Arc::new(move |p: Progress| {
        if p.is_warning {
            kept.lock().unwrap().push(p.text);
        }
    }));
    (options, warnings)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_in_a_flip_is_left_to_the_controller() {
    let folder = TestFolder::new(env!("CARGO_TARGET_TMPDIR").as_ref(), "in-a-flip");
    let (options, warnings) = warned(&folder);
    let made = Playground::up(options.clone()).await.unwrap();
    let mut global = Db::open(Server::Mariadb, &made.global.members[0]).await;
    global.run("UPDATE usher.shards SET state = 'switching' WHERE name = 's1'").await;
    support::kill_9(made.shards[0].members[0].pid).await;
    Playground::up(options).await.unwrap();
    let warnings = warnings.lock().unwrap().join("\n");
    assert!(warnings.contains("a flip of s1 is under way"), "{warnings}");
    let status = Playground::status(folder.path()).await.unwrap();
    let s1a = status.processes.iter().find(|p| p.name == "s1a").unwrap();
    assert_eq!((s1a.role.as_str(), s1a.detail.as_str()), ("standby", "replicates"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_up_cut_short_is_taken_up_again() {
    // The space has to survive every command line and settings file.
    let folder = TestFolder::new(env!("CARGO_TARGET_TMPDIR").as_ref(), "cut short");
    for after_ms in [5, 200, 500, 700, 900, 1100] {
        let cut = tokio::time::timeout(Duration::from_millis(after_ms), Playground::up(small(&folder))).await;
        eprintln!("cut after {after_ms} ms: {}", cut.is_err());
    }
    let made = Playground::up(small(&folder)).await.unwrap();
    let status = Playground::status(folder.path()).await.unwrap();
    assert!(status.all_running(), "{status}");
    assert_eq!(status.processes.iter().filter(|p| p.role == "writer").count(), 2, "{status}");
    Playground::down(folder.path()).await.unwrap();
    for server in made.servers() {
        assert!(!support::runs(server.pid));
        std::net::TcpListener::bind(("127.0.0.1", server.port)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time() {
    let folder = TestFolder::new(env!("CARGO_TARGET_TMPDIR").as_ref(), "one-at-a-time");
    let (one, other) = tokio::join!(Playground::up(small(&folder)), Playground::up(small(&folder)));
    assert!(one.is_ok() || other.is_ok());
    for error in [one, other].into_iter().filter_map(Result::err) {
        assert_eq!(error.id(), "playground-busy");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let folder = TestFolder::new(env!("CARGO_TARGET_TMPDIR").as_ref(), "port-taken");
    let made = Playground::up(small(&folder)).await.unwrap();
    Playground::down(folder.path()).await.unwrap();
    let port = made.shards[0].members[1].port;
    let taker = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = Playground::up(small(&folder)).await.unwrap_err();
    assert_eq!(error.id(), "playground-port");
    assert!(error.to_string().contains(&format!("port {port} for s1b")), "{error}");
    drop(taker);
    Playground::up(small(&folder)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diverged_replica_is_left_out_with_a_warning() {
    let folder = TestFolder::new(env!("CARGO_TARGET_TMPDIR").as_ref(), "diverged");
    let (options, warnings) = warned(&folder);
    let made = Playground::up(options.clone()).await.unwrap();
    let replica = &made.shards[0].replicas[0];
    let mut db = Db::open(Server::Mariadb, replica).await;
    // The account with all privileges may write even here.
    db.run("CREATE TABLE app.errant (id INT PRIMARY KEY)").await;
    support::kill_9(replica.pid).await;
    Playground::up(options).await.unwrap();
    let warnings = warnings.lock().unwrap().join("\n");
    assert!(
        warnings.starts_with("playground-diverged: s1r1 holds transactions that the writer s1a lacks"),
        "{warnings}"
    );
    let status = Playground::status(folder.path()).await.unwrap();
    let replica = status.processes.iter().find(|p| p.name == "s1r1").unwrap();
    assert_eq!(replica.detail, "replication stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_start_is_named_with_its_last_words() {
    let folder = TestFolder::new(env!("CARGO_TARGET_TMPDIR").as_ref(), "no-proxy");
    let mut options = small(&folder);
    options.usher_binary = Some("/bin/ls".into());
    let error = Playground::up(options).await.unwrap_err().to_string();
    assert!(error.starts_with("playground-start: ") && error.contains("'--config'"), "{error}");
    let status = Playground::status(folder.path()).await.unwrap();
    let crashed: Vec<_> = status.processes.iter().filter(|p| p.state == ProcessState::Crashed).collect();
    assert_eq!(crashed.len(), 2, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_use_is_refused() {
    let nowhere = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-playground-here");
    assert_eq!(Playground::down(&nowhere).await.unwrap_err().id(), "playground-none");
    assert_eq!(Playground::status(&nowhere).await.unwrap_err().id(), "playground-none");
    for options in [
        Options { shards: 0, ..Options::new(&nowhere) },
        Options { replicas: 51, ..Options::new(&nowhere) },
        Options { port_base: Some(80), ..Options::new(&nowhere) },
    ] {
        assert_eq!(Playground::up(options).await.unwrap_err().id(), "playground-option");
    }
    assert!(!nowhere.exists());
    assert!("postgres".parse::<Server>().is_err());
}
