//! Locked moves between real servers: exact to the byte, refused by name, undone at every stage, killed at every
//! point.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use support::{Ground, limits, start};
use usher_directory::rows;
use usher_directory::{EntityState, State};
use usher_mover::{FAIL_POINTS, MoveError, Mover, Outcome, Phase, Refusal, StartMove};
use usher_playground::Server as Kind;
use usher_topology::{Key, MoveId, ShardState};

#[test]
#[ignore = "run by the other tests in a process of its own"]
fn child_that_runs_one_move() {
    support::run_child();
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb() {
    all(Ground::up("move-mariadb", Kind::Mariadb).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    if let Some(reason) = usher_playground::why_no_mysql() {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    all(Ground::up("move-mysql", Kind::Mysql).await).await;
}

async fn all(ground: Ground) {
    there_and_back(&ground).await;
    text_keys_are_moved(&ground).await;
    a_delayed_purge_waits(&ground).await;
    a_flip_before_the_commit_is_noticed(&ground).await;
    a_copy_that_is_away_keeps_the_user_settling(&ground).await;
    requests_are_checked(&ground).await;
    preflight_refuses_by_name(&ground).await;
    an_open_transaction_is_waited_for(&ground).await;
    what_is_prepared_late_undoes_the_move(&ground).await;
    differences_undo_the_move(&ground).await;
    an_old_mover_places_nothing(&ground).await;
    an_old_movers_transaction_is_ended(&ground).await;
    a_dead_movers_lease_runs_out(&ground).await;
    killed_anywhere_and_resumed(&ground).await;
    killed_anywhere_and_aborted(&ground).await;
    killed_while_undoing(&ground).await;
    the_controller_runs_what_waits(&ground).await;
}

async fn there_and_back(ground: &Ground) {
    let (key, home) = ground.user(1).await;
    let rows = ground.rows_of(&home, &key).await;
    assert!(rows.iter().all(|(table, rows)| table == "letters" || !rows.is_empty()));
    let mut at = home.clone();
    for _ in 0..2 {
        let to = ground.other(&at);
        let id = ground.request(&key, to).await;
        let outcome = ground.mover("m1").drive(id).await.unwrap();
        assert_eq!(outcome, Outcome::Finished, "{:?}", ground.row(id).await.error);
        ground.assert_whole(&key, to, &rows, "moved").await;
        let left = ground.ownership(&at, &key).await;
        assert_eq!(
            left.map(|(state, _)| state).as_deref(),
            Some("gone"),
            "{at} remembers that the user left"
        );
        let row = ground.row(id).await;
        let count = rows.values().map(|rows| rows.len() as u64).sum::<u64>();
        assert_eq!((row.rows_total, row.rows_done), (count, count));
        assert!(row.bytes_done > 40_000, "{row:?}");
        assert!(row.finished_at_ms.is_some() && row.error.is_none(), "{row:?}");
        to.clone_into(&mut at);
    }
}

/// Users with names: beside a user that a number would take for the same.
async fn text_keys_are_moved(ground: &Ground) {
    for name in ["an'na-\u{fc}", "77x"] {
        let key = Key::Text(name.into());
        let located = ground.directory.place(&key).await.unwrap();
        let home = ground.shard_name(located.shard);
        let mut conn = ground.writer(&home).await;
        for n in 0..20 {
            conn.exec_drop("INSERT INTO app.letters VALUES (?, ?, 'x')", (name, n)).await.unwrap();
        }
        let count = async |shard: &str| -> u64 {
            let mut conn = ground.writer(shard).await;
            let count = "SELECT COUNT(*) FROM app.letters WHERE user_id = ?";
            conn.exec_first(count, (name,)).await.unwrap().unwrap()
        };
        let (before, to) = (count(&home).await, ground.other(&home));
        assert!(before > 0);
        let id = ground.request(&key, to).await;
        assert_eq!(
            ground.mover("m1").drive(id).await.unwrap(),
            Outcome::Finished,
            "{:?}",
            ground.row(id).await
        );
        assert_eq!((count(to).await, count(&home).await), (before, 0));
    }
}

/// A writer flips after the target was closed: the stages since the drain are gone through again.
async fn a_flip_before_the_commit_is_noticed(ground: &Ground) {
    for (user, point) in [(10, "cut.before_commit"), (11, "chunk.after_commit"), (12, "cut.own_locked")] {
        let (key, home) = ground.user(user).await;
        let rows = ground.rows_of(&home, &key).await;
        let to = ground.other(&home);
        let id = ground.request(&key, to).await;
        ground.killed_at(id, point).await;
        for shard in ["s1", "s2"] {
            let state = State::load(ground.global()).await.unwrap();
            let shard = state.topology.shard_named(shard).unwrap();
            rows::cas_shard_writer(ground.global(), shard.id, shard.epoch, shard.writer, ShardState::Rw)
                .await
                .unwrap()
                .expect("the epoch is as just read");
        }
        let before = ground.row(id).await.src_epoch;
        assert_eq!(ground.mover("child").drive(id).await.unwrap(), Outcome::Finished, "{point}");
        assert!(ground.row(id).await.src_epoch > before, "{point}");
        ground.assert_whole(&key, to, &rows, point).await;
    }
}

async fn a_delayed_purge_waits(ground: &Ground) {
    let (key, home) = ground.user(2).await;
    let rows = ground.rows_of(&home, &key).await;
    let to = ground.other(&home);
    let mut late = limits();
    late.purge_delay_s = 3600;
    let mover = Mover::new(ground.directory.clone(), late, "m1");
    let id = mover.request(&start(&key, to)).await.unwrap();
    assert_eq!(mover.drive(id).await.unwrap(), Outcome::PurgePending);
    assert_eq!(ground.rows_of(to, &key).await, rows);
    assert_eq!(ground.rows_of(&home, &key).await, rows, "left for the time being");
    assert_eq!(ground.ownership(&home, &key).await.unwrap().0, "gone");
    assert!(matches!(mover.abort(id).await, Err(MoveError::Committed { .. })));

    let back = mover.request(&start(&key, &home)).await.unwrap();
    assert_eq!(mover.drive(back).await.unwrap(), Outcome::Aborted);
    let error = ground.row(back).await.error.unwrap();
    assert!(error.contains("usher move purge"), "{error}");

    assert_eq!(mover.purge_now(id).await.unwrap(), Outcome::Finished);
    ground.assert_whole(&key, to, &rows, "purged").await;
}

/// It may answer proxies all the same, without the user's rows: nobody may read from it until it is seen to have them.
async fn a_copy_that_is_away_keeps_the_user_settling(ground: &Ground) {
    let (key, home) = ground.user(13).await;
    let before = ground.rows_of(&home, &key).await;
    let to = ground.other(&home).to_owned();
    let id = ground.request(&key, &to).await;
    ground.killed_at(id, "announced").await;
    ground.signal_standby(&to, "-STOP");
    let mover = ground.mover("m1");
    let drive = tokio::spawn(async move { mover.drive(id).await });
    // Longer than a connection is waited for and a copy may lag.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let state = rows::directory_row(ground.global(), &key).await.unwrap().unwrap().located.state;
    let running = !drive.is_finished();
    ground.signal_standby(&to, "-CONT");
    assert_eq!((state, running), (EntityState::Settling, true));
    assert_eq!(drive.await.unwrap().unwrap(), Outcome::Finished);
    ground.assert_whole(&key, &to, &before, "settled").await;
}

async fn requests_are_checked(ground: &Ground) {
    let (key, home) = ground.user(3).await;
    let mover = ground.mover("m1");
    let to = ground.other(&home);
    let ask = async |start: StartMove| mover.request(&start).await.unwrap_err();
    assert_eq!(ask(start(&Key::Int(999_999), to)).await.id(), "unknown_user");
    assert_eq!(ask(start(&key, "s9")).await.id(), "unknown_shard");
    assert_eq!(ask(start(&key, &home)).await.id(), "already_there");
    rows::set_pinned(ground.global(), &key, Some("vip")).await.unwrap();
    assert_eq!(ask(start(&key, to)).await.id(), "pinned");
    rows::set_pinned(ground.global(), &key, None).await.unwrap();
    let id = ground.request(&key, to).await;
    assert_eq!(ask(start(&key, to)).await.id(), "already_moving");
    assert_eq!(mover.status(MoveId(987_654)).await.unwrap_err().id(), "no_such_move");
    assert_eq!(mover.purge_now(id).await.unwrap_err().id(), "not_purgeable");
    mover.pause(id).await.unwrap();
    assert_eq!(mover.drive(id).await.unwrap(), Outcome::Paused);
    mover.abort(id).await.unwrap();
    assert_eq!(mover.drive(id).await.unwrap(), Outcome::Aborted);
    assert_eq!(mover.resume(id).await.unwrap_err().id(), "move_over");
}

/// Makes something wrong, sees the move refused, makes it right again.
async fn preflight_refuses_by_name(ground: &Ground) {
    let (key, home) = ground.user(4).await;
    let rows = ground.rows_of(&home, &key).await;
    let to = ground.other(&home);
    let cases = [
        ("ALTER TABLE app.profile ADD extra INT", "ALTER TABLE app.profile DROP extra", "not defined alike"),
        (
            "CREATE TRIGGER app.twice AFTER INSERT ON app.profile FOR EACH ROW SET @x = 1",
            "DROP TRIGGER app.twice",
            "trigger twice",
        ),
        (
            "INSERT INTO app.profile VALUES (4, 'left')",
            "DELETE FROM app.profile WHERE user_id = 4",
            "still holds",
        ),
        (
            "INSERT INTO usher.ownership (entity_key, own_gen, state) VALUES ('4', 9, 'owned')",
            "DELETE FROM usher.ownership WHERE entity_key = '4'",
            "ownership row",
        ),
        ("RENAME TABLE app.profile TO app.elsewhere", "RENAME TABLE app.elsewhere TO app.profile", "not on"),
    ];
    let mut conn = ground.writer(to).await;
    for (wrong, right, expected) in cases {
        conn.query_drop(wrong).await.unwrap();
        let id = ground.request(&key, to).await;
        assert_eq!(ground.mover("m1").drive(id).await.unwrap(), Outcome::Aborted, "{wrong}");
        let error = ground.row(id).await.error.unwrap();
        assert!(error.contains(expected) && error.starts_with("move_refused"), "{wrong}: {error}");
        conn.query_drop(right).await.unwrap();
        ground.assert_whole(&key, &home, &rows, wrong).await;
    }
    let refusal = MoveError::from(Refusal::NoPrimaryKey { table: "app.x".into() });
    assert_eq!(refusal.to_string(), "the move is refused: table app.x has no primary key");
}

/// A transaction that holds the fence when the move begins commits, and its row is moved.
async fn an_open_transaction_is_waited_for(ground: &Ground) {
    let (key, home) = ground.user(5).await;
    let to = ground.other(&home);
    let mut app = ground.writer(&home).await;
    app.query_drop("BEGIN").await.unwrap();
    let fence =
        "SELECT own_gen FROM usher.ownership WHERE entity_key = '5' AND state = 'owned' LOCK IN SHARE MODE";
    let held: Option<u64> = app.query_first(fence).await.unwrap();
    assert!(held.is_some());
    app.query_drop("UPDATE app.profile SET bio = 'the last write' WHERE user_id = 5").await.unwrap();
    let id = ground.request(&key, to).await;
    let mover = ground.mover("m1");
    let run = tokio::spawn(async move { mover.drive(id).await });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while ground.row(id).await.phase != Phase::Locked.as_str() {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", ground.row(id).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ground.ownership(&home, &key).await.unwrap().0, "owned", "the drain waits");
    app.query_drop("COMMIT").await.unwrap();
    let rows = ground.rows_of(&home, &key).await;
    assert_eq!(run.await.unwrap().unwrap(), Outcome::Finished);
    ground.assert_whole(&key, to, &rows, "drained").await;
    let mut there = ground.writer(to).await;
    let bio: Option<String> =
        there.query_first("SELECT bio FROM app.profile WHERE user_id = 5").await.unwrap();
    assert_eq!(bio.as_deref(), Some("the last write"));
    assert!(ground.row(id).await.locked_ms.is_some());
}

/// A transaction that is prepared after the mover has looked for such keeps no lock on the ownership row.
async fn what_is_prepared_late_undoes_the_move(ground: &Ground) {
    let (key, home) = ground.user(15).await;
    let rows = ground.rows_of(&home, &key).await;
    let id = ground.request(&key, ground.other(&home)).await;
    ground.killed_at(id, "cut.own_locked").await;
    let mut app = ground.writer(&home).await;
    let update = "UPDATE app.profile SET bio = 'prepared' WHERE user_id = 15";
    for text in ["XA START 'late'", update, "XA END 'late'", "XA PREPARE 'late'"] {
        app.query_drop(text).await.unwrap();
    }
    // MySQL lets another session end it only then.
    app.disconnect().await.unwrap();
    assert_eq!(ground.mover("child").drive(id).await.unwrap(), Outcome::Aborted);
    let error = ground.row(id).await.error.unwrap();
    assert!(error.contains("prepared") && error.contains("late"), "{error}");
    ground.writer(&home).await.query_drop("XA ROLLBACK 'late'").await.unwrap();
    ground.assert_whole(&key, &home, &rows, "prepared").await;
}

/// Something else writes to the target between the copy and the comparison.
async fn differences_undo_the_move(ground: &Ground) {
    let (key, home) = ground.user(6).await;
    let rows = ground.rows_of(&home, &key).await;
    let to = ground.other(&home);
    let id = ground.request(&key, to).await;
    ground.killed_at(id, "copied").await;
    let mut conn = ground.writer(to).await;
    conn.query_drop("UPDATE app.kinds SET f = 0.10000001 WHERE user_id = 6 AND d > 1e308").await.unwrap();
    assert_eq!(conn.affected_rows(), 1, "the last bit of a FLOAT");
    assert_eq!(ground.mover("child").drive(id).await.unwrap(), Outcome::Aborted);
    let error = ground.row(id).await.error.unwrap();
    assert!(error.contains("rows_differ") && error.contains("app.kinds"), "{error}");
    ground.assert_whole(&key, &home, &rows, "different").await;
}

/// A mover stands still before it places a batch; meanwhile another undoes the move; then it goes on.
async fn an_old_mover_places_nothing(ground: &Ground) {
    let told = outlived(ground, 7, "chunk.selected").await;
    assert!(told.contains("LostLease"), "{told}");
}

/// As above, but its transaction is open and holds locks: the server ends it.
async fn an_old_movers_transaction_is_ended(ground: &Ground) {
    let told = outlived(ground, 9, "chunk.before_commit").await;
    assert!(told.contains("LostLease") || told.contains("Aborted"), "{told}");
}

async fn outlived(ground: &Ground, user: i64, point: &str) -> String {
    let (key, home) = ground.user(user).await;
    let rows = ground.rows_of(&home, &key).await;
    let id = ground.request(&key, ground.other(&home)).await;
    let go = ground.dir().join(format!("go-{user}"));
    let mut child = ground.child(id, &format!("{point}=pause:{}", go.display()));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.as_ref().unwrap().contains("paused at")), "{point} was not met");
    let mover = ground.mover("m2");
    mover.abort(id).await.unwrap();
    assert_eq!(mover.drive(id).await.unwrap(), Outcome::Aborted);
    // It must find out on the target, not from the operator's wish.
    let mut global = ground.global().conn().await.unwrap();
    global.exec_drop("UPDATE usher.moves SET want = 'run' WHERE move_id = ?", (id.0,)).await.unwrap();
    std::fs::write(&go, "").unwrap();
    let told = lines.find(|line| line.as_ref().unwrap().contains("outcome:")).unwrap().unwrap();
    child.wait().unwrap();
    ground.assert_whole(&key, &home, &rows, point).await;
    told
}

async fn a_dead_movers_lease_runs_out(ground: &Ground) {
    let (key, home) = ground.user(8).await;
    let rows = ground.rows_of(&home, &key).await;
    let to = ground.other(&home);
    let id = ground.request(&key, to).await;
    ground.killed_at(id, "chunk.after_commit").await;
    assert_eq!(ground.mover("another").drive(id).await.unwrap(), Outcome::Finished);
    ground.assert_whole(&key, to, &rows, "taken over").await;
}

async fn killed_anywhere_and_resumed(ground: &Ground) {
    for (at, point) in FAIL_POINTS.iter().enumerate().filter(|(_, point)| !point.starts_with("abort.")) {
        let (key, home) = ground.user(100 + at as i64).await;
        let rows = ground.rows_of(&home, &key).await;
        let to = ground.other(&home);
        let id = ground.request(&key, to).await;
        ground.killed_at(id, point).await;
        let outcome = ground.mover("child").drive(id).await.unwrap();
        assert_eq!(outcome, Outcome::Finished, "{point}: {:?}", ground.row(id).await);
        ground.assert_whole(&key, to, &rows, point).await;
    }
}

async fn killed_anywhere_and_aborted(ground: &Ground) {
    for (at, point) in FAIL_POINTS.iter().enumerate().filter(|(_, point)| !point.starts_with("abort.")) {
        let (key, home) = ground.user(200 + at as i64).await;
        let rows = ground.rows_of(&home, &key).await;
        let to = ground.other(&home);
        let id = ground.request(&key, to).await;
        ground.killed_at(id, point).await;
        let mover = ground.mover("child");
        let committed = Phase::parse(&ground.row(id).await.phase).unwrap().is_committed();
        match mover.abort(id).await {
            Ok(()) => assert!(!committed, "{point}"),
            Err(MoveError::Committed { .. }) => assert!(committed, "{point}"),
            Err(error) => panic!("{point}: {error}"),
        }
        let outcome = mover.drive(id).await.unwrap();
        let (expected, shard) =
            if committed { (Outcome::Finished, to) } else { (Outcome::Aborted, home.as_str()) };
        assert_eq!(outcome, expected, "{point}: {:?}", ground.row(id).await);
        ground.assert_whole(&key, shard, &rows, point).await;
    }
}

async fn killed_while_undoing(ground: &Ground) {
    for (at, point) in FAIL_POINTS.iter().enumerate().filter(|(_, point)| point.starts_with("abort.")) {
        let (key, home) = ground.user(300 + at as i64).await;
        let rows = ground.rows_of(&home, &key).await;
        let id = ground.request(&key, ground.other(&home)).await;
        ground.killed_at(id, "cut.before_commit").await;
        let mover = ground.mover("child");
        mover.abort(id).await.unwrap();
        ground.killed_at(id, point).await;
        assert_eq!(mover.drive(id).await.unwrap(), Outcome::Aborted, "{point}");
        ground.assert_whole(&key, &home, &rows, point).await;
    }
}

async fn the_controller_runs_what_waits(ground: &Ground) {
    let mut waiting = Vec::new();
    for number in 400..406 {
        let (key, home) = ground.user(number).await;
        let rows = ground.rows_of(&home, &key).await;
        let to = ground.other(&home);
        let id = ground.request(&key, to).await;
        waiting.push((id, key, to, rows));
    }
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let controller = ground.mover("controller");
    let running = tokio::spawn(async move {
        controller
            .run(async {
                let _ = stopped.await;
            })
            .await;
    });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    for (id, key, to, rows) in &waiting {
        while ground.row(*id).await.finished_at_ms.is_none() {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", ground.row(*id).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ground.assert_whole(key, to, rows, "by the controller").await;
    }
    stop.send(()).unwrap();
    running.await.unwrap();
}
