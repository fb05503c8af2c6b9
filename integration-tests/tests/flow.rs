//! An application lives on while its users are moved and a writer is flipped: no error but the lock message for those
//! who are being moved, and every acknowledged write there exactly once.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use photos::{LoadOptions, RunOptions, Target, apply_schema, load, start, verify};
use usher_integration_tests::{Bed, directory_home, usher};
use usher_playground::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_on_mariadb() {
    lives_on("flow", Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_on_mysql() {
    if let Some(reason) = usher_playground::why_no_mysql() {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    lives_on("flow-mysql", Server::Mysql).await;
}

async fn lives_on(name: &str, server: Server) {
    let bed = Bed::up_with(name, 2, 1, server, true).await;
    let proxy = &bed.endpoints.proxy;
    let target = Target::new(&proxy.host, proxy.port, &proxy.user, &proxy.password, &proxy.database);
    apply_schema(&target).await.unwrap();
    let people = LoadOptions { users: 30, largest: 150, ..LoadOptions::new(target.clone()) };
    let loaded = load(people).await.unwrap();
    let journal = bed.dir().join("journal");
    let options = RunOptions {
        duration: Duration::from_secs(300),
        connections: 8,
        rate: Some(150.0),
        ..RunOptions::new(target.clone(), &journal)
    };
    let running = start(options).await.unwrap();
    let live = running.live();
    let busy = async |more: u64| {
        let before = live.statements.load(Relaxed);
        while live.statements.load(Relaxed) < before + more {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    busy(300).await;
    for (user, _) in &loaded.largest[..3] {
        move_to_the_other(&bed, *user).await;
        busy(100).await;
    }
    run(&bed, &["shard", "flip", "s1"]).await;
    busy(300).await;
    run(&bed, &["shard", "flip", "s1"]).await;
    busy(300).await;
    running.stop();
    let report = running.finish().await.unwrap();
    eprintln!("{report}");
    assert_eq!(report.errors, 0, "{:#?}", report.error_samples);
    assert_eq!(report.unknown, 0);
    let moved: Vec<i64> = loaded.largest[..3].iter().map(|(user, _)| *user).collect();
    assert!(report.locked_users.iter().all(|(user, _)| moved.contains(user)), "{:?}", report.locked_users);
    let proof = verify(&target, &journal).await.unwrap();
    assert!(proof.holds(), "{proof}");
}

async fn move_to_the_other(bed: &Bed, user: i64) {
    let user = u64::try_from(user).unwrap();
    let to = if directory_home(bed, user).await == "s1" { "s2" } else { "s1" };
    run(bed, &["move", "start", "--user", &user.to_string(), "--to", to, "--locked"]).await;
    assert_eq!(directory_home(bed, user).await, to);
}

async fn run(bed: &Bed, arguments: &[&str]) {
    let output = usher(&bed.config_file(), arguments).await;
    assert_eq!(output.code, Some(0), "usher {arguments:?}:\n{}{}", output.stdout, output.stderr);
    eprintln!("  {}", output.stdout.trim());
}
